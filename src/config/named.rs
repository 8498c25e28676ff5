//! Backends that are written as names, and how names are looked up: `address = "pbx.example.com"`, `srv = "..."`,
//! `[resolver]`. Owns their rules (RFC 3263, RFC 2782). Never asks DNS: the control plane does.

use std::time::Duration;

use super::advertise::Dialled;
use super::check::{Check, or, period};
use super::file;
use super::read::{At, Many, Written};
use super::settle::{list, transport};
use super::snapshot::{
    Family, NamedBackend, NamedPlace, Pool, ResolverSettings, Transport, Transports, Zone,
};
use super::value::{BackendAddress, NameServer, Or, ServiceName, SourcePrefix};

/// Name servers that are asked one after the other: each may cost a whole timeout.
const SERVERS_MAX: usize = 8;

/// Names of all pools: each is looked up on its own, by the control thread.
const NAMES_MAX: usize = 256;

/// A question that waits longer would hold up the start and every reload.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Whether a backend is written as a name.
pub(super) fn is_name(table: &file::Backend) -> bool {
    !table.srv.is_absent() || matches!(table.address.value(), Some(BackendAddress::Name { .. }))
}

impl Check<'_> {
    /// The names of one pool, whose number is `number`.
    pub(super) fn named_backends(
        &mut self,
        pool: &mut Pool,
        table: &file::Pool,
        (number, zones): (usize, &[Zone]),
        dialled: &mut Vec<Dialled>,
        names: &mut Vec<NamedBackend>,
    ) {
        let Some((Or::Is(tables), list_at)) = table.backends.good() else { return };
        let zone = usize::from(pool.zone);
        let Some(settings) = zones.get(zone) else { return };
        for (table, at) in tables.iter().filter_map(Written::good).filter(|it| is_name(it.0)) {
            let Some(named) = self.named_backend((table, at), number, settings) else { continue };
            let place_at = table.srv.at().or(table.address.at()).unwrap_or(at);
            let same = |other: &&NamedBackend| {
                (other.pool, &other.place) == (named.pool, &named.place)
                    && other.transports == named.transports
            };
            if let Some(other) = names.iter().find(same) {
                let why =
                    format!("{} is already the name of backend {}", named.place.text(), other.name);
                self.fault(place_at, why, "leave one of them out, or give it more weight");
            }
            for (transport, spoken) in
                [(Transport::Tcp, named.transports.tcp), (Transport::Tls, named.transports.tls)]
            {
                for family in [Family::V4, Family::V6] {
                    let at = place_at.clone();
                    if spoken {
                        dialled.push(Dialled { zone, transport, family, needed: false, at });
                    }
                }
            }
            names.push(named);
        }
        self.at_most("names of backends", list_at, names.len(), NAMES_MAX);
    }

    fn named_backend(
        &mut self,
        (table, at): (&file::Backend, &At),
        pool: usize,
        zone: &Zone,
    ) -> Option<NamedBackend> {
        let name = self.required(&table.name, at, "name", "\"r1\"");
        if let (Some(at), false) = (table.srv.at(), table.address.is_absent()) {
            let why = "a backend has an address or SRV records, not both";
            self.fault(at, why, "take one of them out");
        }
        let written = table.transport.good().map(|(written, at)| (transport(*written), at));
        if written.is_none() && !table.transport.is_absent() {
            return None;
        }
        let (place, domain, spoken) = match (table.srv.good(), table.address.value()) {
            (Some((service, at)), _) => {
                let spoken = self.spoken_by_service(service, at, written, zone)?;
                let place = NamedPlace::Service { name: service.whole.clone() };
                (place, service.domain.clone(), spoken)
            }
            (None, Some(BackendAddress::Name { host, port: Some(port) })) => {
                // A port says nothing of the transport.
                let spoken = one(self.backend_transport(table, at, Some(zone))?);
                let place = NamedPlace::Host { name: host.clone(), port: *port };
                (place, host.clone(), spoken)
            }
            (None, Some(BackendAddress::Name { host, port: None })) => {
                let spoken = self.spoken_in(zone, written, table.address.at().unwrap_or(at));
                let transport_written = written.is_some();
                (NamedPlace::Domain { name: host.clone(), transport_written }, host.clone(), spoken)
            }
            _ => return None,
        };
        let only_tcp = (spoken == one(Transport::Tcp)).then_some(Transport::Tcp);
        self.server_name_and_weight(table, only_tcp);
        let server_name = table.server_name.value();
        Some(NamedBackend {
            pool: pool as u16,
            name: name?.0.0.clone(),
            place,
            transports: spoken,
            server_name: server_name.map_or(domain, |name| name.0.trim_matches(['[', ']']).into()),
            weight: or(&table.weight, 100),
            priority: or(&table.priority, 0),
        })
    }

    /// SRV records say host and port; their own name says what is spoken there.
    fn spoken_by_service(
        &mut self,
        service: &ServiceName,
        at: &At,
        written: Option<(Transport, &At)>,
        zone: &Zone,
    ) -> Option<Transports> {
        let by_name = service.tls.map(|tls| if tls { Transport::Tls } else { Transport::Tcp });
        let (chosen, at) = match (by_name, written) {
            (Some(Transport::Tls), Some((Transport::Tcp, at))) => {
                let why = format!("{} is the name of a TLS service", service.whole);
                self.fault(at, why, "write transport = \"tls\", or another srv");
                return None;
            }
            (_, Some(written)) => written,
            (Some(by_name), None) => (by_name, at),
            (None, None) => {
                let why = format!(
                    "nothing says what is spoken there: {} is no service of SIP",
                    service.service
                );
                self.fault(at, why, "write transport = \"tls\" beside it");
                return None;
            }
        };
        self.allowed(zone, chosen, at);
        self.vouched(zone, chosen, at);
        Some(one(chosen))
    }

    /// What DNS may choose from: what the zone speaks, and we can verify.
    fn spoken_in(&mut self, zone: &Zone, written: Option<(Transport, &At)>, at: &At) -> Transports {
        if let Some((written, at)) = written {
            self.allowed(zone, written, at);
            self.vouched(zone, written, at);
            return one(written);
        }
        let mut spoken = zone.transports;
        if spoken.tls && zone.server_ca.is_empty() {
            if !spoken.tcp {
                self.vouched(zone, Transport::Tls, at);
            } else {
                let why = format!(
                    "[zone.{}] has no server_ca: only TCP services of this name are used",
                    zone.name
                );
                self.note(at, why, format!("write server_ca = \"ca.pem\" in [zone.{}]", zone.name));
                spoken.tls = false;
            }
        }
        spoken
    }

    /// A backend that reaches us nowhere cannot be spoken to; of what DNS leads to, one family is enough.
    pub(super) fn names_reach_us(
        &mut self,
        names: &[NamedBackend],
        pools: &[Pool],
        zones: &[Zone],
    ) {
        for named in names {
            let zone = &zones[usize::from(pools[usize::from(named.pool)].zone)];
            let told = [Transport::Tcp, Transport::Tls].into_iter().any(|transport| {
                let families = [Family::V4, Family::V6].into_iter();
                named.transports.allows(transport)
                    && families.into_iter().any(|it| zone.advertised.of(transport, it).is_some())
            });
            if !told {
                let why = format!("nothing says where backends of zone {} reach us", zone.name);
                let cure = format!("write advertise in [zone.{}]", zone.name);
                self.fault(&At::nowhere(&format!("zone.{}.advertise", zone.name)), why, cure);
            }
        }
    }

    pub(super) fn resolver(
        &mut self,
        table: file::Resolver,
        names: Vec<NamedBackend>,
    ) -> ResolverSettings {
        if let Some((Many(servers), at)) = table.servers.good() {
            if servers.is_empty() {
                let cure = "write servers = [\"10.0.0.53\"], or take the key out";
                self.fault(at, "no name server: names could not be looked up", cure);
            }
            self.at_most("name servers", at, servers.len(), SERVERS_MAX);
        }
        let timeout = period(&table.timeout, Duration::from_secs(2));
        if let (true, Some(at)) = (timeout > TIMEOUT_MAX, table.timeout.at()) {
            self.fault(at, "one question may not wait longer than 30 s", "write timeout = \"2s\"");
        }
        let ttl_min = period(&table.ttl_min, Duration::from_secs(5));
        let ttl_max = period(&table.ttl_max, Duration::from_secs(3600));
        if let (true, Some(at)) = (ttl_min < Duration::from_secs(1), table.ttl_min.at()) {
            self.fault(at, "answers run out in whole seconds", "write ttl_min = \"1s\" or more");
        }
        if let (true, Some(at)) = (ttl_min > ttl_max, table.ttl_max.at().or(table.ttl_min.at())) {
            self.fault(at, "ttl_max is less than ttl_min", "write a ttl_max of at least ttl_min");
        }
        let servers: Vec<NameServer> = list(&table.servers);
        let allowed: Vec<SourcePrefix> = list(&table.allow_answers);
        ResolverSettings {
            servers: servers.into_iter().map(|server| server.0).collect(),
            timeout,
            ttl_min,
            ttl_max,
            allow_answers: allowed.into_iter().map(|prefix| prefix.0).collect(),
            names,
        }
    }
}

const fn one(transport: Transport) -> Transports {
    match transport {
        Transport::Tcp => Transports { tcp: true, tls: false },
        Transport::Tls => Transports { tcp: false, tls: true },
    }
}
