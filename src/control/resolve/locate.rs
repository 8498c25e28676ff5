//! From a backend's name to addresses: NAPTR, SRV, A and AAAA (RFC 3263 4, RFC 2782), for TCP and TLS only.
//! Owns the steps and their order. Never keeps an answer, never a service of UDP or SCTP.
//! Invariant: what is found is spoken by the pool's zone, and no address is one that answers must not hold.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::rdata::{NAPTR, SRV};
use hickory_proto::rr::{Name, RData, RecordType};

use super::exchange::{Asker, Fault};
use crate::config::snapshot::{NamedPlace, Prefix, Transport, Transports};

/// SRV records of one name that are followed: each costs questions of its own.
const TARGETS_MAX: usize = 16;

/// Addresses of one name: each is a connection of every worker and lane.
pub const PLACES_MAX: usize = 32;

/// RFC 1035 4.1.1.
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;

/// What a weight of 0 counts as: a very small chance beside others (RFC 2782).
const WEIGHT_NONE: f64 = 0.01;

/// What is looked up, and what may come of it.
#[derive(Clone, Debug)]
pub struct Sought {
    pub place: NamedPlace,
    /// What may be spoken; never neither.
    pub transports: Transports,
    /// Where the zone can be reached from, for TCP and TLS: IPv4, IPv6. Other families are not asked for.
    pub families: [[bool; 2]; 2],
    /// What loopback and link-local addresses may lie in.
    pub allow_answers: Vec<Prefix>,
    /// Our own listeners: requests to them would go round.
    pub own: Vec<SocketAddr>,
}

/// One address that a name leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub address: SocketAddr,
    pub transport: Transport,
    /// SRV priority; 0 without SRV.
    pub priority: u16,
    /// Its part of what its priority gets; sums to 1 for each priority.
    pub share: f64,
}

/// What a name leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// In the order of address. Empty with `udp_only`.
    pub places: Vec<Place>,
    /// DNS offers UDP and nothing that we speak.
    pub udp_only: bool,
    /// The least of all records; seconds.
    pub ttl: u32,
    /// Services passed over because they are UDP's.
    pub udp_discarded: u32,
    /// Addresses passed over because no backend can be there.
    pub refused: u32,
    /// Some question had no answer: there may be more than this.
    pub missing: Option<Fault>,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    Fault(Fault),
    /// Neither name nor service exists, or no address of a family that the zone speaks.
    Nothing,
    /// SRV with the target ".": decidedly not available (RFC 2782).
    Denied,
    /// Services, but none that we speak; not UDP alone.
    NothingSpoken,
    /// Only addresses that answers must not hold.
    Forbidden,
    /// What is configured is no name for DNS.
    BadName,
}

impl Lost {
    /// The label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Lost::Fault(fault) => fault.name(),
            Lost::Nothing => "nothing",
            Lost::Denied => "denied",
            Lost::NothingSpoken => "nothing_spoken",
            Lost::Forbidden => "forbidden",
            Lost::BadName => "bad_name",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Fault(fault) => fault.fmt(f),
            Lost::Nothing => f.write_str("it has no record that leads to an address"),
            Lost::Denied => f.write_str("its SRV record says that the service is not offered"),
            Lost::NothingSpoken => f.write_str("it offers no service that is spoken here"),
            Lost::Forbidden => f.write_str(
                "all its addresses are loopback, link-local or our own: see resolver.allow_answers",
            ),
            Lost::BadName => f.write_str("it is no name that DNS can carry"),
        }
    }
}

/// A lookup under way.
struct Search<'a> {
    asker: &'a mut Asker,
    sought: &'a Sought,
    found: Found,
    /// Some address was passed over.
    forbidden: bool,
}

/// Looks `sought` up.
///
/// # Errors
/// Nothing was found; the reason.
pub async fn locate(asker: &mut Asker, sought: &Sought) -> Result<Found, Lost> {
    let found = Found {
        places: Vec::new(),
        udp_only: false,
        ttl: u32::MAX,
        udp_discarded: 0,
        refused: 0,
        missing: None,
    };
    let mut search = Search { asker, sought, found, forbidden: false };
    match &sought.place {
        NamedPlace::Host { name, port } => {
            let transport = only(sought.transports);
            search.host(&absolute(name)?, *port, transport).await?;
        }
        NamedPlace::Service { name } => {
            let transport = only(sought.transports);
            search.service(&absolute(name)?, transport).await?;
        }
        NamedPlace::Domain { name, transport_written } => {
            search.domain(name, *transport_written).await?;
        }
    }
    let Search { mut found, forbidden, .. } = search;
    if found.places.is_empty() && !found.udp_only {
        return Err(match found.missing {
            Some(fault) => Lost::Fault(fault),
            None if forbidden => Lost::Forbidden,
            None => Lost::Nothing,
        });
    }
    found.places.sort_by_key(|place| (place.priority, place.address));
    Ok(found)
}

/// The default transport: TCP where both are spoken, TLS where only that is (RFC 3263 4.1, without UDP).
fn only(transports: Transports) -> Transport {
    if transports.tcp { Transport::Tcp } else { Transport::Tls }
}

fn absolute(name: &str) -> Result<Name, Lost> {
    Name::from_ascii(format!("{name}.")).map_err(|_| Lost::BadName)
}

/// A NAPTR service of SIP (RFC 3263 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Spoken(Transport),
    Udp,
    /// SIP over something else, or TCP where only TLS is spoken.
    Unspoken,
    /// Nothing of SIP.
    Foreign,
}

fn service_of(record: &NAPTR, transports: Transports) -> Service {
    let is = |name: &str| record.services.eq_ignore_ascii_case(name.as_bytes());
    let to_udp = record.replacement.iter().any(|label| label.eq_ignore_ascii_case(b"_udp"));
    let usable = |transport| {
        let leads_to_srv = record.flags.eq_ignore_ascii_case(b"s") && record.regexp.is_empty();
        match leads_to_srv && transports.allows(transport) && !record.replacement.is_root() {
            true => Service::Spoken(transport),
            false => Service::Unspoken,
        }
    };
    match () {
        () if is("SIP+D2U") || is("SIPS+D2U") => Service::Udp,
        () if (is("SIP+D2T") || is("SIPS+D2T")) && to_udp => Service::Udp,
        () if is("SIPS+D2T") => usable(Transport::Tls),
        () if is("SIP+D2T") => usable(Transport::Tcp),
        () if record.services.get(..3).is_some_and(|it| it.eq_ignore_ascii_case(b"sip")) => {
            Service::Unspoken
        }
        () => Service::Foreign,
    }
}

impl Search<'_> {
    /// RFC 3263 4.1 and 4.2 for a name without a port.
    async fn domain(&mut self, text: &str, transport_written: bool) -> Result<(), Lost> {
        let name = absolute(text)?;
        let transports = self.sought.transports;
        if !transport_written && self.by_naptr(&name).await? {
            return Ok(());
        }
        // RFC 5630 5.3: TLS wherever it is offered.
        for transport in [Transport::Tls, Transport::Tcp] {
            let service = match transport {
                Transport::Tls => "_sips._tcp",
                Transport::Tcp => "_sip._tcp",
            };
            let owner = absolute(&format!("{service}.{text}"))?;
            if transports.allows(transport) && self.service(&owner, transport).await? {
                return Ok(());
            }
        }
        // A domain that names servers for UDP and for nothing else does not mean its bare address.
        let udp = self.ask(&absolute(&format!("_sip._udp.{text}"))?, RecordType::SRV).await?;
        if udp.iter().any(|data| matches!(data, RData::SRV(srv) if !srv.target.is_root())) {
            self.found.udp_discarded += 1;
            self.found.udp_only = true;
            return Ok(());
        }
        let transport = only(transports);
        self.host(&name, transport.port(), transport).await
    }

    /// Whether NAPTR has decided (RFC 3263 4.1): the most wanted service that we speak, whose SRV records exist.
    async fn by_naptr(&mut self, name: &Name) -> Result<bool, Lost> {
        let records = match self.ask(name, RecordType::NAPTR).await {
            // A server that does not know the type knows no record of it.
            Err(Lost::Fault(Fault::Refused(FORMERR | NOTIMP))) => Vec::new(),
            answer => answer?,
        };
        let mut records: Vec<NAPTR> = records
            .into_iter()
            .filter_map(|data| if let RData::NAPTR(record) = data { Some(record) } else { None })
            .collect();
        records.sort_by_key(|record| (record.order, record.preference));
        let services = |record: &NAPTR| service_of(record, self.sought.transports);
        let read: Vec<(Service, Name)> = records
            .iter()
            .map(|record| (services(record), record.replacement.clone()))
            .filter(|(service, _)| *service != Service::Foreign)
            .take(TARGETS_MAX)
            .collect();
        let udp = read.iter().filter(|(service, _)| *service == Service::Udp).count() as u32;
        self.found.udp_discarded += udp;
        let mut spoken = false;
        for (service, replacement) in &read {
            let Service::Spoken(transport) = service else { continue };
            spoken = true;
            if self.service(replacement, *transport).await? {
                return Ok(true);
            }
        }
        match (read.is_empty(), spoken) {
            (true, _) => Ok(false),
            (false, true) => Err(Lost::Nothing),
            (false, false) if udp > 0 => {
                self.found.udp_only = true;
                Ok(true)
            }
            (false, false) => Err(Lost::NothingSpoken),
        }
    }

    /// Follows the SRV records of `owner`; whether there are any.
    async fn service(&mut self, owner: &Name, transport: Transport) -> Result<bool, Lost> {
        let records = self.ask(owner, RecordType::SRV).await?;
        let mut records: Vec<SRV> = records
            .into_iter()
            .filter_map(|data| if let RData::SRV(record) = data { Some(record) } else { None })
            .collect();
        if let [one] = &records[..]
            && one.target.is_root()
        {
            return Err(Lost::Denied);
        }
        records.retain(|record| !record.target.is_root() && record.port != 0);
        records.sort_by_key(|record| (record.priority, std::cmp::Reverse(record.weight)));
        records.truncate(TARGETS_MAX);
        let mut weights: Vec<(usize, u16, u16)> = Vec::new();
        for record in &records {
            let before = self.found.places.len();
            match self.addresses(&record.target, record.port, transport, record.priority).await {
                Ok(()) => {}
                // One target without an answer: the others may do.
                Err(fault) => self.found.missing = Some(fault),
            }
            let added = self.found.places.len() - before;
            weights.extend((0..added).map(|_| (added, record.priority, record.weight)));
        }
        self.share_out(&weights);
        Ok(!records.is_empty())
    }

    /// Parts of each priority by weight (RFC 2782); the addresses of one target share what it gets.
    fn share_out(&mut self, weights: &[(usize, u16, u16)]) {
        let weight = |(addresses, _, weight): &(usize, u16, u16)| {
            #[expect(clippy::cast_precision_loss, reason = "32 addresses at most")]
            let addresses = *addresses as f64;
            let weight = if *weight == 0 { WEIGHT_NONE } else { f64::from(*weight) };
            weight / addresses
        };
        let first = self.found.places.len() - weights.len();
        for (place, own) in self.found.places[first..].iter_mut().zip(weights) {
            let group = weights.iter().filter(|other| other.1 == own.1);
            place.share = weight(own) / group.map(weight).sum::<f64>();
        }
    }

    /// The addresses of a host with a known port.
    async fn host(&mut self, name: &Name, port: u16, transport: Transport) -> Result<(), Lost> {
        if let Err(fault) = self.addresses(name, port, transport, 0).await {
            self.found.missing = Some(fault);
        }
        let weights = vec![(self.found.places.len(), 0, 1); self.found.places.len()];
        self.share_out(&weights);
        Ok(())
    }

    async fn addresses(
        &mut self,
        name: &Name,
        port: u16,
        transport: Transport,
        priority: u16,
    ) -> Result<(), Fault> {
        let families = self.sought.families[usize::from(transport == Transport::Tls)];
        let mut failed = None;
        for (wanted, kind) in families.into_iter().zip([RecordType::A, RecordType::AAAA]) {
            if !wanted {
                continue;
            }
            let answer = match self.asker.ask(name, kind).await {
                Ok(answer) => answer,
                Err(fault) => {
                    failed = Some(fault);
                    continue;
                }
            };
            self.note_ttl(answer.ttl, answer.records.is_empty());
            for data in answer.records {
                let address = match data {
                    RData::A(address) => IpAddr::V4(address.0),
                    RData::AAAA(address) => IpAddr::V6(address.0),
                    _ => continue,
                };
                self.add(SocketAddr::new(address, port), transport, priority);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn add(&mut self, address: SocketAddr, transport: Transport, priority: u16) {
        let places = &mut self.found.places;
        if !may_answer(address, &self.sought.allow_answers, &self.sought.own) {
            self.found.refused += 1;
            self.forbidden = true;
        } else if places.len() < PLACES_MAX && places.iter().all(|it| it.address != address) {
            places.push(Place { address, transport, priority, share: 1.0 });
        }
    }

    async fn ask(&mut self, name: &Name, kind: RecordType) -> Result<Vec<RData>, Lost> {
        let answer = self.asker.ask(name, kind).await.map_err(Lost::Fault)?;
        self.note_ttl(answer.ttl, answer.records.is_empty());
        Ok(answer.records)
    }

    /// That something does not exist has no lifetime of its own here: the records that do exist decide.
    fn note_ttl(&mut self, ttl: u32, empty: bool) {
        if !empty {
            self.found.ttl = self.found.ttl.min(ttl);
        }
    }
}

/// Whether an answer may hold this address. Whoever can forge one must not lead us to services of this host or to the
/// metadata of a cloud; our own listeners would be asked in circles.
fn may_answer(address: SocketAddr, allowed: &[Prefix], own: &[SocketAddr]) -> bool {
    let ip = address.ip().to_canonical();
    let nowhere = ip.is_unspecified()
        || ip.is_multicast()
        || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    let local = ip.is_loopback()
        || match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    let round = own.iter().any(|listener| {
        listener.port() == address.port()
            && (listener.ip().to_canonical() == ip
                || (listener.ip().is_unspecified() && ip.is_loopback()))
    });
    !nowhere && !round && (!local || allowed.iter().any(|prefix| prefix.contains(ip)))
}
