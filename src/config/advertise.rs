//! Where we can be reached: settles `advertise` for each listener and for each zone, transport and family.
//! Owns the rules of the contract: the listener's own, else the zone's, else the bound address; a zone without a
//! listener: the first TCP listener of any zone in that family, else the first TLS one. Never binds anything.

use std::net::{IpAddr, SocketAddr};

use super::check::Check;
use super::file;
use super::read::{At, Many, Written};
use super::snapshot::{Advertised, Family, Listener, Transport, Zone, ZoneAdvertised};
use super::value::HostPort;
use crate::tls::identity::{self, Carries};

/// What one `advertise` says for each family.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    v4: Option<HostPort>,
    v6: Option<HostPort>,
}

impl Hosts {
    /// An address serves its own family, a name both; of two names the first is for IPv4, the second for IPv6.
    pub fn of(check: &mut Check<'_>, written: &Written<Many<HostPort>>) -> Hosts {
        let Some((Many(list), at)) = written.good() else { return Hosts::default() };
        let good: Vec<_> = list.iter().filter_map(Written::good).collect();
        if list.is_empty() || list.len() > 2 {
            check.fault(
                at,
                "an advertise list has one host for each family",
                "write one or two hosts",
            );
        }
        let mut hosts = Hosts::default();
        let names: Vec<_> = good.iter().filter(|(host, _)| family(host).is_none()).collect();
        if let Some((host, _)) = names.first() {
            hosts = Hosts { v4: Some((*host).clone()), v6: Some((*host).clone()) };
        }
        if let Some((host, _)) = names.get(1) {
            hosts.v6 = Some((*host).clone());
        }
        let mut seen = [false; 2];
        for (host, at) in good {
            let Some(family) = family(host) else { continue };
            let slot = &mut seen[usize::from(family == Family::V6)];
            if std::mem::replace(slot, true) {
                check.fault(at, "a second address of the same family", "leave one of them out");
            }
            *hosts.slot(family) = Some(host.clone());
        }
        hosts
    }

    fn slot(&mut self, family: Family) -> &mut Option<HostPort> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    pub fn get(&self, family: Family) -> Option<&HostPort> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

/// The family of a literal; a name has none.
fn family(host: &HostPort) -> Option<Family> {
    let text: &str = &host.host.0;
    if text.starts_with('[') {
        return Some(Family::V6);
    }
    text.parse::<IpAddr>().ok().map(Family::of)
}

/// What a listener advertises at `bind`, which stands at `at`.
pub(super) fn listener(
    check: &mut Check<'_>,
    (bind, at): (SocketAddr, &At),
    transport: Transport,
    own: &Hosts,
    zone: &Hosts,
) -> Advertised {
    let family = Family::of(bind.ip());
    if let Some(host) = own.get(family).or(zone.get(family)) {
        let port = host.port.unwrap_or(bind.port());
        return Advertised { host: host.host.0.clone(), port, transport };
    }
    if bind.ip().is_unspecified() {
        let why = format!("{bind} is every address, and nothing says which one stands in Via");
        check.fault(at, why, "write advertise = \"sip.example.com\" in the zone or the listener");
    }
    Advertised { host: literal(bind.ip()), port: bind.port(), transport }
}

/// What we write into Record-Route, Path and Via must be a name of our certificates: a peer that dials it looks for
/// it there (RFC 5922 7.5).
pub(super) fn carried(check: &mut Check<'_>, listeners: &[Listener], at: &At) {
    let mut said: Vec<&str> = Vec::new();
    for Listener { advertised, identities, .. } in listeners {
        let host: &str = &advertised.host;
        if identities.is_empty() || said.contains(&host) {
            continue;
        }
        said.push(host);
        let why = match identity::carries(identities, host) {
            Carries::Yes => continue,
            Carries::ByWildcard => {
                "stands in the certificates as a wildcard only: strict SIP peers refuse that (RFC 5922 7.2)"
            }
            Carries::No => {
                "stands in none of the certificates: who dials it refuses them (RFC 5922 7.5)"
            }
        };
        let cure = format!(
            "request a certificate with the subject alternative name {host}, or advertise a name that it has"
        );
        check.note(at, format!("{host}, which is advertised, {why}"), cure);
    }
}

/// An address as it stands in a URI.
pub(super) fn literal(address: IpAddr) -> Box<str> {
    match address {
        IpAddr::V4(address) => address.to_string().into(),
        IpAddr::V6(address) => format!("[{address}]").into(),
    }
}

/// A transport and family that a pool dials in a zone; at the backend's place.
pub(super) struct Dialled {
    pub zone: usize,
    pub transport: Transport,
    pub family: Family,
    /// A fault when we have no name there; a name that DNS leads elsewhere can do without one family.
    pub needed: bool,
    pub at: At,
}

/// Fills in what each zone advertises, and says so where another zone's listener stands in.
pub(super) fn zones(
    check: &mut Check<'_>,
    zones: &mut [Zone],
    hosts: &[Hosts],
    listeners: &[Listener],
    dialled: &[Dialled],
) {
    for (index, zone) in zones.iter_mut().enumerate() {
        let mut said = Vec::new();
        for transport in [Transport::Tcp, Transport::Tls] {
            for family in [Family::V4, Family::V6] {
                if !zone.transports.allows(transport) {
                    continue;
                }
                let (found, standing_in) =
                    zone_slot(index, &hosts[index], transport, family, listeners);
                let dial = dialled.iter().find(|dial| {
                    (dial.zone, dial.transport, dial.family) == (index, transport, family)
                });
                match (&found, standing_in, dial) {
                    (None, _, Some(dial)) if dial.needed => {
                        let why = format!(
                            "nothing says where {} backends of zone {} reach us: no listener has an {} address",
                            name(family),
                            zone.name,
                            name(family)
                        );
                        check.fault(
                            &dial.at,
                            why,
                            format!("write advertise in [zone.{}]", zone.name),
                        );
                    }
                    (Some(found), Some(listener), Some(dial)) if !said.contains(&found.clone()) => {
                        let why = format!(
                            "zone {} has no {} listener on {}: its backends are told {}:{}, of listener {}",
                            zone.name,
                            transport.name(),
                            name(family),
                            found.host,
                            found.port,
                            listener.name
                        );
                        check.note(
                            &dial.at,
                            why,
                            format!(
                                "to choose it yourself, write advertise in [zone.{}]",
                                zone.name
                            ),
                        );
                        said.push(found.clone());
                    }
                    _ => {}
                }
                *slot(&mut zone.advertised, transport, family) = found;
            }
        }
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn slot(all: &mut ZoneAdvertised, transport: Transport, family: Family) -> &mut Option<Advertised> {
    match (transport, family) {
        (Transport::Tcp, Family::V4) => &mut all.tcp_v4,
        (Transport::Tcp, Family::V6) => &mut all.tcp_v6,
        (Transport::Tls, Family::V4) => &mut all.tls_v4,
        (Transport::Tls, Family::V6) => &mut all.tls_v6,
    }
}

/// What a zone advertises for one transport and family, and the listener of another zone that stands in.
fn zone_slot<'l>(
    zone: usize,
    hosts: &Hosts,
    transport: Transport,
    family: Family,
    listeners: &'l [Listener],
) -> (Option<Advertised>, Option<&'l Listener>) {
    let in_family = |listener: &&Listener| Family::of(listener.bind.ip()) == family;
    let own = listeners
        .iter()
        .filter(in_family)
        .find(|listener| usize::from(listener.zone) == zone && listener.transport == transport);
    if let Some(listener) = own {
        return (Some(listener.advertised.clone()), None);
    }
    if let Some(host) = hosts.get(family) {
        let port = host.port.unwrap_or(transport.port());
        return (Some(Advertised { host: host.host.0.clone(), port, transport }), None);
    }
    let any =
        |transport| listeners.iter().filter(in_family).find(move |l| l.transport == transport);
    let stand_in = any(Transport::Tcp).or_else(|| any(Transport::Tls));
    (stand_in.map(|listener| listener.advertised.clone()), stand_in)
}

/// A port in a zone's `advertise` fits one transport only.
pub(super) fn ports_fit(check: &mut Check<'_>, zone: &file::Zone, both: bool) {
    let Some(Many(list)) = zone.advertise.value() else { return };
    for (host, at) in list.iter().filter_map(Written::good) {
        if let (Some(port), true) = (host.port, both) {
            let why = format!("port {port} fits one transport, and this zone speaks two");
            check.fault(at, why, "leave the port out, or write advertise in each listener");
        }
    }
}
