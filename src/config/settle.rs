//! From the file as written to the settled settings of the data plane: zones, listeners, pools, routes, TLS.
//! Owns the defaults of their keys, and every rule between two of them. Never starts anything, never changes the host.
//! Invariant: what it settles needs no further check: names refer, transports fit zones, keys fit certificates.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::advertise::{self, Dialled, Hosts};
use super::check::{Check, or, period};
use super::file::{self, File};
use super::named;
use super::read::{self, At, Many, Named, Written};
use super::snapshot::{
    Affinity, Backend, CipherSuite, ClientCertificate, Family, Group, IdentityFiles, Listener,
    NamedBackend, PathPolicy, Pool, Prefix, Route, Snapshot, TicketPolicy, Tls, TlsUri, Transport,
    Transports, Zone, ZoneAdvertised,
};
use super::value::{BackendAddress, Count, Name, Off, Or};
use super::{Faults, HostFacts, Settled};
use crate::base::limits::DIALLED_MAX;
use crate::tls::ticket;

/// Each zone is a label value of many metrics.
const ZONES_MAX: usize = 64;
/// Bound addresses: each is a socket of every worker.
const BINDS_MAX: usize = 256;
/// A pool has a hash table of its own in every worker.
const POOLS_MAX: usize = 256;
/// Routes are tried one after the other for each request.
const ROUTES_MAX: usize = 1024;
/// Ticket keys that are looked through for each ticket.
const TICKET_KEYS_MAX: u32 = 1024;

type ZoneTable = (Written<Name>, Written<file::Zone>);

/// Settles `text`, which was read from `path`. `embedded`: it is the embedded default, which goes on without IPv6.
pub(super) fn settle(
    path: &Path,
    text: &str,
    host: &HostFacts,
    embedded: bool,
) -> Result<Settled, Faults> {
    let (file, misread) = read::read::<File>(text);
    let mut check = Check::new(path, text, host, misread);
    let Some(file) = file else { return Err(check.refuse()) };
    let (node, node_at) = file.node.table("node");
    let (Named(zone_tables), zones_at) = file.zone.table("zone");
    let (mut listener_tables, listeners_at) = file.listener.table("listener");
    let (pool_tables, pools_at) = file.pool.table("pool");
    let (route_tables, routes_at) = file.route.table("route");
    if embedded && !host.ipv6_loopback {
        without_ipv6_loopback(&mut check, &mut listener_tables, &listeners_at);
    }
    check.at_most("zones", &zones_at, zone_tables.len(), ZONES_MAX);
    check.at_most("pools", &pools_at, pool_tables.len(), POOLS_MAX);
    check.at_most("routes", &routes_at, route_tables.len(), ROUTES_MAX);

    let zones: Vec<(Zone, Hosts)> =
        zone_tables.iter().map(|(name, zone)| check.zone(name, zone)).collect();
    let (mut zones, hosts): (Vec<Zone>, Vec<Hosts>) = zones.into_iter().unzip();
    let listeners = check.listeners(&listener_tables, &listeners_at, &zones, &hosts);
    let (mut dialled, mut names) = (Vec::new(), Vec::new());
    let pools = check.pools(&pool_tables, (&zones, &listeners), &mut dialled, &mut names);
    let routes = check.routes(&route_tables, &zones, &pools);
    // What has a fault is not there: what would be said of its absence would be false.
    if check.faults() == 0 {
        advertise::zones(&mut check, &mut zones, &hosts, &listeners, &dialled);
        check.names_reach_us(&names, &pools, &zones);
        check.unused((&zones, &zone_tables), &listeners, (&pools, &pool_tables), &routes);
    }

    let tls = check.tls(file.tls.table("tls").0);
    let limits = check.limits(file.limits.table("limits"));
    let drain = check.drain(file.drain.table("drain").0);
    let resolver = check.resolver(file.resolver.table("resolver").0, names);
    let udp_answer = check.udp_answer(file.policy.table("policy").0);
    let mut backends = pools.iter().flat_map(|pool| &pool.backends);
    let embedded_backend = backends.any(|backend| backend.address == EMBEDDED_BACKEND);
    let binds: Vec<SocketAddr> = listeners.iter().map(|listener| listener.bind).collect();
    let control = check.control(
        (&node, &node_at, &file.engine.table("engine").0),
        file.admin.table("admin"),
        file.latency.table("latency").0,
        file.log.table("log").0,
        (&binds, embedded_backend.then_some(EMBEDDED_BACKEND)),
        resolver,
    );
    let name = node.name.value().map_or("ringfront".into(), |name| name.0.clone());
    check.finish(|| {
        let snapshot = Snapshot {
            node: name,
            zones,
            listeners,
            pools,
            routes,
            tls,
            limits,
            drain,
            udp_answer,
            generation: 0,
        };
        (snapshot, control)
    })
}

/// Where the embedded backend listens: the control plane has the kernel choose the port before any worker starts.
pub const EMBEDDED_BACKEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Takes `::1` out of the embedded default on a host without it.
fn without_ipv6_loopback(
    check: &mut Check<'_>,
    listeners: &mut [Written<file::Listener>],
    at: &At,
) {
    for listener in listeners {
        if let Written::Is(file::Listener { bind: Written::Is(Many(bind), _), .. }, _) = listener {
            bind.retain(|address| address.value().is_none_or(|address| address.0.is_ipv4()));
        }
    }
    let why = "this host has no ::1: the embedded default listens on 127.0.0.1 only";
    check.note(at, why, "to have it: sysctl net.ipv6.conf.lo.disable_ipv6=0");
}

pub(super) fn transport(written: file::Transport) -> Transport {
    match written {
        file::Transport::Tcp => Transport::Tcp,
        file::Transport::Tls => Transport::Tls,
    }
}

/// The good values of a list, and whether it was written at all.
pub(super) fn list<T: Clone>(written: &Written<Many<T>>) -> Vec<T> {
    let Some(Many(list)) = written.value() else { return Vec::new() };
    list.iter().filter_map(Written::value).cloned().collect()
}

impl Check<'_> {
    fn zone(&mut self, name: &Written<Name>, written: &Written<file::Zone>) -> (Zone, Hosts) {
        let empty = file::Zone::default();
        let table = written.value().unwrap_or(&empty);
        let nowhere = At::nowhere("zone");
        let at = written.at().unwrap_or(&nowhere);
        let spoken = list(&table.transports);
        let mut transports = Transports {
            tcp: spoken.contains(&file::Transport::Tcp),
            tls: spoken.contains(&file::Transport::Tls),
        };
        let both = Transports { tcp: true, tls: true };
        match self.required(&table.transports, at, "transports", "[\"tls\", \"tcp\"]") {
            Some((Many(list), at)) if list.is_empty() => {
                self.fault(at, "a zone that speaks nothing", "write transports = [\"tls\"]");
                transports = both;
            }
            Some((Many(list), _)) if list.iter().all(|one| one.value().is_some()) => {}
            // Its fault has been told: no other key is blamed for it.
            _ => transports = both,
        }
        advertise::ports_fit(self, table, transports == both);
        let hosts = Hosts::of(self, &table.advertise);
        let client_certificate = self.client_certificate(table, at, transports);
        self.trust(table, at, transports, client_certificate);
        let zone = Zone {
            name: name.value().map_or_else(|| at.key.as_ref().into(), |name| name.0.clone()),
            transports,
            advertised: ZoneAdvertised { tcp_v4: None, tcp_v6: None, tls_v4: None, tls_v6: None },
            client_certificate,
            client_ca: self.authorities(&table.client_ca),
            client_names: list(&table.client_names).into_iter().map(|name| name.0).collect(),
            server_ca: self.authorities(&table.server_ca),
            certificate: self.zone_certificate(&table.certificate),
            allow_from: list(&table.allow_from).into_iter().map(|prefix| prefix.0).collect(),
            path: match or(&table.path, file::PathPolicy::Always) {
                file::PathPolicy::Always => PathPolicy::Always,
                file::PathPolicy::Supported => PathPolicy::Supported,
                file::PathPolicy::Off => PathPolicy::Off,
            },
            tls_uri: match or(&table.tls_uri, file::TlsUri::Sips) {
                file::TlsUri::Sips => TlsUri::Sips,
                file::TlsUri::Transport => TlsUri::Transport,
            },
            trusted: or(&table.trusted, false),
            strip_headers: match &table.strip_headers {
                Written::Absent => vec!["p-asserted-identity".into()],
                written => list(written).into_iter().map(|name| name.0).collect(),
            },
        };
        (zone, hosts)
    }

    fn zone_certificate(&mut self, written: &Written<file::KeyPair>) -> Option<IdentityFiles> {
        let (pair, at) = written.good()?;
        self.identity(at, (Vec::new(), at), (&pair.chain, &pair.key, &Written::Absent))
    }

    fn client_certificate(
        &mut self,
        table: &file::Zone,
        at: &At,
        transports: Transports,
    ) -> ClientCertificate {
        let policy = match or(&table.client_certificate, file::ClientCertificate::None) {
            file::ClientCertificate::None => ClientCertificate::None,
            file::ClientCertificate::Optional => ClientCertificate::Optional,
            file::ClientCertificate::Report => ClientCertificate::Report,
            file::ClientCertificate::Required => ClientCertificate::Required,
        };
        if policy == ClientCertificate::None {
            let names = table.client_names.good().filter(|(Many(names), _)| !names.is_empty());
            if let Some(at) = table.client_ca.at().or(names.map(|(_, at)| at))
                && !matches!(table.client_certificate, Written::Bad(_))
            {
                let why = "no client is asked for a certificate, so this has no effect";
                self.fault(at, why, "write client_certificate = \"required\", or take the key out");
            }
            return policy;
        }
        self.required(&table.client_ca, at, "client_ca", "\"clients.pem\"");
        if let (false, Some(at)) = (transports.tls, table.client_certificate.at()) {
            let why = "only TLS shows certificates, and this zone does not speak it";
            self.fault(
                at,
                why,
                "add \"tls\" to transports, or write client_certificate = \"none\"",
            );
        }
        policy
    }

    /// A trusted zone must know its sources, on every transport that it speaks.
    fn trust(
        &mut self,
        table: &file::Zone,
        at: &At,
        transports: Transports,
        policy: ClientCertificate,
    ) {
        let Some((true, trusted)) = table.trusted.good() else { return };
        let by_certificate = policy == ClientCertificate::Required && !transports.tcp;
        let listed = match &table.allow_from {
            Written::Absent => false,
            Written::Bad(_) => true,
            Written::Is(Many(list), _) => !list.is_empty(),
        };
        if by_certificate || listed {
            return;
        }
        let trusted = At { key: at.below("allow_from").key, ..trusted.clone() };
        let why = match policy {
            ClientCertificate::Required => {
                "trusted: a certificate is required of TLS clients, but anybody may come over plain TCP"
            }
            _ => {
                "trusted, but anybody may come: neither allow_from nor client_certificate = \"required\""
            }
        };
        self.fault(
            &trusted,
            why,
            "write allow_from = [\"10.0.0.0/8\"] with the sources that are trusted",
        );
    }

    fn listeners(
        &mut self,
        tables: &[Written<file::Listener>],
        at: &At,
        zones: &[Zone],
        hosts: &[Hosts],
    ) -> Vec<Listener> {
        self.unique("listener", tables.iter().filter_map(Written::value).map(|table| &table.name));
        if tables.is_empty() && !at.is_somewhere() {
            let cure = "write a [[listener]] with name, zone, transport and bind";
            self.fault(at, "there is no listener: nobody could come in", cure);
        }
        let mut listeners = Vec::new();
        let mut bound: Vec<(SocketAddr, String)> = Vec::new();
        for (table, at) in tables.iter().filter_map(Written::good) {
            self.listener((table, at), (zones, hosts), &mut bound, &mut listeners);
        }
        self.at_most("bound addresses", at, bound.len(), BINDS_MAX);
        listeners
    }

    fn listener(
        &mut self,
        (table, at): (&file::Listener, &At),
        (zones, hosts): (&[Zone], &[Hosts]),
        bound: &mut Vec<(SocketAddr, String)>,
        listeners: &mut Vec<Listener>,
    ) {
        let names: Vec<Box<str>> = zones.iter().map(|zone| zone.name.clone()).collect();
        let name = self.required(&table.name, at, "name", "\"edge-tls\"");
        let zone = self
            .required(&table.zone, at, "zone", "\"edge\"")
            .and_then(|name| self.find_name("zone", name, &names));
        let spoken = self.required(&table.transport, at, "transport", "\"tls\"");
        let bind = self.required(&table.bind, at, "bind", "[\"0.0.0.0:5061\", \"[::]:5061\"]");
        let own = Hosts::of(self, &table.advertise);
        let spoken = spoken.map(|(written, at)| (transport(*written), at));
        if let (Some(zone), Some((transport, at))) = (zone, spoken) {
            self.allowed(&zones[zone], transport, at);
        }
        let Some((Many(addresses), bind_at)) = bind else { return };
        if addresses.is_empty() {
            self.fault(bind_at, "a listener without an address", "write bind = \"0.0.0.0:5061\"");
        }
        let addresses: Vec<(SocketAddr, &At)> = addresses
            .iter()
            .filter_map(Written::good)
            .map(|(address, at)| (address.0, at))
            .collect();
        for (address, at) in &addresses {
            if let Some((_, name)) = bound.iter().find(|(other, _)| other == address) {
                let why = format!("{address} is already bound by listener {name}");
                self.fault(at, why, "give each address and port to one listener");
            }
            bound.push((
                *address,
                table.name.value().map_or(String::new(), |name| name.0.to_string()),
            ));
        }
        let proxy_from = self.proxy_protocol(table, at);
        let identities = match spoken {
            Some((Transport::Tls, _)) => self.identities(table, at, &addresses),
            Some((Transport::Tcp, _)) if !table.certificates.is_absent() => {
                let at = table.certificates.at().unwrap_or(at);
                self.fault(
                    at,
                    "TCP shows no certificate",
                    "write transport = \"tls\", or take the key out",
                );
                Vec::new()
            }
            _ => Vec::new(),
        };
        let (Some((name, _)), Some(zone), Some((transport, _))) = (name, zone, spoken) else {
            return;
        };
        let first = listeners.len();
        for bind in addresses {
            listeners.push(Listener {
                name: name.0.clone(),
                zone: zone as u16,
                transport,
                bind: bind.0,
                advertised: advertise::listener(self, bind, transport, &own, &hosts[zone]),
                proxy_from: proxy_from.clone(),
                identities: identities.clone(),
            });
        }
        advertise::carried(self, &listeners[first..], table.certificates.at().unwrap_or(at));
    }

    /// The proxies whose header is required; none: it is off.
    fn proxy_protocol(&mut self, table: &file::Listener, at: &At) -> Vec<Prefix> {
        let required =
            or(&table.proxy_protocol, file::ProxyProtocol::Off) == file::ProxyProtocol::Required;
        let from: Vec<Prefix> =
            list(&table.proxy_protocol_from).into_iter().map(|prefix| prefix.0).collect();
        if !required {
            if let (Some(at), false) =
                (table.proxy_protocol_from.at(), matches!(table.proxy_protocol, Written::Bad(_)))
            {
                let cure = "write proxy_protocol = \"required\", or take the key out";
                self.fault(at, "no header is looked for, so this has no effect", cure);
            }
            return Vec::new();
        }
        let example = "[\"10.0.0.0/8\"]";
        let written = self.required(&table.proxy_protocol_from, at, "proxy_protocol_from", example);
        if let Some((Many(list), at)) = written
            && list.is_empty()
        {
            let why = "no proxy is listed: nobody could come in";
            self.fault(at, why, format!("write proxy_protocol_from = {example}"));
        }
        from
    }

    pub(super) fn allowed(&mut self, zone: &Zone, transport: Transport, at: &At) {
        if !zone.transports.allows(transport) {
            let word = transport.name();
            let why = format!("zone {} does not speak {word}", zone.name);
            self.fault(at, why, format!("add \"{word}\" to transports in [zone.{}]", zone.name));
        }
    }

    /// Certificates of a TLS listener, the default identity first.
    fn identities(
        &mut self,
        table: &file::Listener,
        at: &At,
        bind: &[(SocketAddr, &At)],
    ) -> Vec<IdentityFiles> {
        let Some((Many(certificates), list_at)) = table.certificates.good() else {
            let beyond = bind.iter().find(|(address, _)| !address.ip().is_loopback());
            if let (true, Some((address, _))) = (table.certificates.is_absent(), beyond) {
                let why = format!(
                    "`certificates` is missing: one is made in memory on loopback only, and {address} is not"
                );
                let cure =
                    "write certificates = [{ chain = \"fullchain.pem\", key = \"key.pem\" }]";
                self.fault(&at.below("certificates"), why, cure);
            }
            return Vec::new();
        };
        if certificates.is_empty() {
            let cure = "write certificates = [{ chain = \"fullchain.pem\", key = \"key.pem\" }]";
            self.fault(list_at, "a TLS listener without a certificate", cure);
        }
        let mut identities: Vec<IdentityFiles> = certificates
            .iter()
            .filter_map(Written::good)
            .filter_map(|(one, at)| {
                let names = list(&one.names).into_iter().map(|name| name.0).collect();
                let names_at = one.names.at().unwrap_or(at);
                self.identity(at, (names, names_at), (&one.chain, &one.key, &one.ocsp))
            })
            .collect();
        identities.sort_by_key(|identity| !identity.names.is_empty());
        identities
    }

    fn pools(
        &mut self,
        tables: &[Written<file::Pool>],
        (zones, listeners): (&[Zone], &[Listener]),
        dialled: &mut Vec<Dialled>,
        names: &mut Vec<NamedBackend>,
    ) -> Vec<Pool> {
        self.unique("pool", tables.iter().filter_map(Written::value).map(|table| &table.name));
        let mut pools = Vec::new();
        let mut connections = 0;
        let mut embedded = false;
        for (table, at) in tables.iter().filter_map(Written::good) {
            if let Some((Or::Word(_), at)) = table.backends.good()
                && std::mem::replace(&mut embedded, true)
            {
                let cure = "let both routes name one pool";
                self.fault(at, "a second pool of the embedded backend", cure);
            }
            let before = connections;
            let named_before = names.len();
            let mut pool = self.pool((table, at), zones, listeners, dialled);
            self.named_backends(&mut pool, table, (pools.len(), zones), dialled, names);
            let backends = pool.backends.len() + names.len() - named_before;
            connections += backends * usize::from(pool.lanes);
            if before <= DIALLED_MAX && connections > DIALLED_MAX {
                let why = format!(
                    "backends times lanes of all pools are {connections} connections of each core, {DIALLED_MAX} are the most"
                );
                self.fault(table.backends.at().unwrap_or(at), why, "use fewer backends or lanes");
            }
            pools.push(pool);
        }
        pools
    }

    fn pool(
        &mut self,
        (table, at): (&file::Pool, &At),
        zones: &[Zone],
        listeners: &[Listener],
        dialled: &mut Vec<Dialled>,
    ) -> Pool {
        let names: Vec<Box<str>> = zones.iter().map(|zone| zone.name.clone()).collect();
        let name = self.required(&table.name, at, "name", "\"registrars\"");
        let zone = self
            .required(&table.zone, at, "zone", "\"core\"")
            .and_then(|name| self.find_name("zone", name, &names));
        let lanes = match table.lanes.good() {
            Some((Count(lanes), at)) if *lanes > u32::from(u8::MAX) => {
                self.fault(at, format!("{lanes} lanes: 255 are the most"), "write at most 255");
                1
            }
            lanes => lanes.map_or(1, |(Count(lanes), _)| *lanes as u8),
        };
        let backends = match self.required(&table.backends, at, "backends", BACKENDS_EXAMPLE) {
            Some((Or::Word(_), at)) => {
                if let Some(zone) = zone {
                    self.allowed(&zones[zone], Transport::Tcp, at);
                    let (transport, family) = (Transport::Tcp, Family::V4);
                    let at = at.clone();
                    dialled.push(Dialled { zone, transport, family, needed: true, at });
                }
                vec![embedded_backend()]
            }
            Some((Or::Is(tables), at)) => {
                if tables.is_empty() {
                    let cure = format!("write backends = {BACKENDS_EXAMPLE}");
                    self.fault(at, "a pool without a backend", cure);
                }
                self.backends(tables, zone.map(|zone| (zone, &zones[zone])), listeners, dialled)
            }
            None => Vec::new(),
        };
        Pool {
            name: name.map_or("".into(), |(name, _)| name.0.clone()),
            zone: zone.unwrap_or(0) as u16,
            affinity: match or(&table.affinity, file::Affinity::CallId) {
                file::Affinity::CallId => Affinity::CallId,
                file::Affinity::From => Affinity::From,
                file::Affinity::To => Affinity::To,
                file::Affinity::Source => Affinity::Source,
                file::Affinity::None => Affinity::None,
            },
            lanes,
            failover: or(&table.failover, false),
            connect_timeout: period(&table.connect_timeout, Duration::from_secs(1)),
            response_timeout: period(&table.response_timeout, Duration::from_secs(5)),
            health: self.health(table),
            shared_dialogs: or(&table.shared_dialogs, false),
            slow_start: match table.slow_start.value() {
                Some(Or::Is(period)) => period.0,
                Some(Or::Word(_)) | None => Duration::ZERO,
            },
            allow_wildcard: or(&table.allow_wildcard, false),
            backends,
            udp_only: false,
        }
    }

    fn backends(
        &mut self,
        tables: &[Written<file::Backend>],
        zone: Option<(usize, &Zone)>,
        listeners: &[Listener],
        dialled: &mut Vec<Dialled>,
    ) -> Vec<Backend> {
        self.unique("backend", tables.iter().filter_map(Written::value).map(|table| &table.name));
        let mut backends: Vec<Backend> = Vec::new();
        for (table, at) in tables.iter().filter_map(Written::good) {
            if named::is_name(table) {
                continue;
            }
            let Some(backend) = self.backend((table, at), zone, listeners) else { continue };
            let address_at = table.address.at().unwrap_or(at);
            if let Some(other) = backends.iter().find(|other| other.address == backend.address) {
                let why =
                    format!("{} is already the address of backend {}", backend.address, other.name);
                self.fault(address_at, why, "leave one of them out, or give it more weight");
            }
            if let Some((zone, _)) = zone {
                let (transport, family) = (backend.transport, Family::of(backend.address.ip()));
                let at = address_at.clone();
                dialled.push(Dialled { zone, transport, family, needed: true, at });
            }
            backends.push(backend);
        }
        backends
    }

    fn backend(
        &mut self,
        (table, at): (&file::Backend, &At),
        zone: Option<(usize, &Zone)>,
        listeners: &[Listener],
    ) -> Option<Backend> {
        let name = self.required(&table.name, at, "name", "\"r1\"");
        let address = self.required(&table.address, at, "address", "\"192.0.2.11:5061\"");
        let address = match address {
            Some((BackendAddress::Address(address), at)) => Some((*address, at)),
            _ => None,
        };
        let transport = self.backend_transport(table, at, zone.map(|(_, zone)| zone));
        if let Some((address, at)) = address {
            self.reachable(address, at, listeners);
        }
        self.server_name_and_weight(table, transport);
        let (address, _) = address?;
        let server_name = match table.server_name.value() {
            // A certificate holds an IPv6 address without brackets.
            Some(name) => name.0.trim_matches(['[', ']']).into(),
            None => address.ip().to_string().into(),
        };
        Some(Backend {
            name: name?.0.0.clone(),
            transport: transport?,
            address,
            server_name,
            weight: or(&table.weight, 100),
            priority: or(&table.priority, 0),
            retired: false,
        })
    }

    pub(super) fn server_name_and_weight(
        &mut self,
        table: &file::Backend,
        transport: Option<Transport>,
    ) {
        if let (Some(Transport::Tcp), Some(at)) = (transport, table.server_name.at()) {
            self.note(at, "TCP checks no name, so this has no effect", "take it out");
        }
        if let Some((0, at)) = table.weight.good() {
            let cure = "write 1 or more; to keep a backend without using it, give it a higher priority number";
            self.fault(at, "a backend of weight 0 would never be used", cure);
        }
    }

    /// The transport of a backend whose port is known: it must be written where the zone speaks two.
    pub(super) fn backend_transport(
        &mut self,
        table: &file::Backend,
        at: &At,
        zone: Option<&Zone>,
    ) -> Option<Transport> {
        let written = table.transport.good().map(|(written, at)| (transport(*written), at));
        let zone = zone?;
        let (chosen, at) = match (written, zone.transports) {
            (Some(written), _) => written,
            (None, _) if !table.transport.is_absent() => return None,
            (None, Transports { tcp: true, tls: false }) => (Transport::Tcp, at),
            (None, Transports { tcp: false, tls: true }) => (Transport::Tls, at),
            (None, _) => {
                self.required(&table.transport, at, "transport", "\"tls\" (the zone speaks two)");
                return None;
            }
        };
        self.allowed(zone, chosen, at);
        self.vouched(zone, chosen, at);
        Some(chosen)
    }

    pub(super) fn vouched(&mut self, zone: &Zone, transport: Transport, at: &At) {
        if transport == Transport::Tls && zone.server_ca.is_empty() {
            let why = format!(
                "nobody may vouch for its certificate: [zone.{}] has no server_ca",
                zone.name
            );
            self.fault(at, why, format!("write server_ca = \"ca.pem\" in [zone.{}]", zone.name));
        }
    }

    /// A backend is some other process at one address.
    fn reachable(&mut self, address: SocketAddr, at: &At, listeners: &[Listener]) {
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            let why = format!("{} is no address of one host", address.ip());
            self.fault(at, why, "write the backend's own address");
            return;
        }
        let same_family = |bind: SocketAddr| bind.is_ipv4() == address.is_ipv4();
        let ours = listeners.iter().find(|listener| {
            let everywhere = listener.bind.ip().is_unspecified() && same_family(listener.bind);
            listener.bind == address
                || (everywhere
                    && address.ip().is_loopback()
                    && listener.bind.port() == address.port())
        });
        if let Some(listener) = ours {
            let why =
                format!("{address} is our own listener {}: requests would go round", listener.name);
            self.fault(at, why, "write the backend's own address");
        }
    }

    fn routes(
        &mut self,
        tables: &[Written<file::Route>],
        zones: &[Zone],
        pools: &[Pool],
    ) -> Vec<Route> {
        let pools: Vec<Box<str>> = pools.iter().map(|pool| pool.name.clone()).collect();
        let zones: Vec<Box<str>> = zones.iter().map(|zone| zone.name.clone()).collect();
        let mut routes: Vec<Route> = Vec::new();
        for (table, at) in tables.iter().filter_map(Written::good) {
            let zone = self
                .required(&table.from_zone, at, "from_zone", "\"edge\"")
                .and_then(|name| self.find_name("zone", name, &zones));
            let pool = self
                .required(&table.pool, at, "pool", "\"registrars\"")
                .and_then(|name| self.find_name("pool", name, &pools));
            if let Some((Many(methods), _)) = table.methods.good() {
                let follower = methods
                    .iter()
                    .filter_map(Written::good)
                    .find(|(method, _)| ["ACK", "CANCEL"].contains(&method.0.as_ref()));
                if let Some((method, at)) = follower {
                    let why =
                        format!("{} goes where its INVITE goes, whatever stands here", method.0);
                    self.note(at, why, "take it out");
                }
            }
            let (Some(zone), Some(pool)) = (zone, pool) else { continue };
            let route = Route {
                from_zone: zone as u16,
                methods: list(&table.methods).into_iter().map(|method| method.0).collect(),
                hosts: list(&table.host).into_iter().map(|host| host.0).collect(),
                pool: pool as u16,
            };
            if let Some(earlier) = routes.iter().position(|earlier| covers(earlier, &route)) {
                let why = format!("route[{earlier}] takes every request that this one would");
                self.note(at, why, "put this one before it, or take it out");
            }
            routes.push(route);
        }
        routes
    }

    /// What is there and does nothing; of tables that all are good.
    fn unused(
        &mut self,
        (zones, zone_tables): (&[Zone], &[ZoneTable]),
        listeners: &[Listener],
        (pools, pool_tables): (&[Pool], &[Written<file::Pool>]),
        routes: &[Route],
    ) {
        for (index, (zone, (_, table))) in zones.iter().zip(zone_tables).enumerate() {
            let Some(at) = table.at() else { continue };
            let listens = listeners.iter().any(|listener| usize::from(listener.zone) == index);
            let dials = pools.iter().any(|pool| usize::from(pool.zone) == index);
            let routed = routes.iter().any(|route| usize::from(route.from_zone) == index);
            if !listens && !dials {
                self.note(at, "no listener and no pool is in this zone", "take it out");
            } else if listens && !routed && !zone.trusted {
                let why = "no route begins in this zone: requests without a route of ours get 404";
                self.note(at, why, format!("write a [[route]] with from_zone = \"{}\"", zone.name));
            }
        }
        for (index, (pool, table)) in pools.iter().zip(pool_tables).enumerate() {
            let Some(at) = table.at() else { continue };
            if !routes.iter().any(|route| usize::from(route.pool) == index) {
                self.note(at, "no route leads to this pool", "write a [[route]], or take it out");
            }
            if !zones[usize::from(pool.zone)].trusted {
                let why = "its zone is not trusted, so its backends cannot reach registered users";
                self.note(at, why, "write trusted = true in the zone of backends that are yours");
            }
        }
    }

    fn tls(&mut self, table: file::Tls) -> Tls {
        let versions = match &table.versions {
            Written::Absent => vec![file::TlsVersion::Tls13, file::TlsVersion::Tls12],
            written => list(written),
        };
        let groups = match &table.groups {
            Written::Absent => {
                vec![file::Group::X25519MlKem768, file::Group::X25519, file::Group::P256]
            }
            written => list(written),
        };
        if let Some((Many(list), at)) = table.versions.good()
            && list.is_empty()
        {
            self.fault(at, "no version of TLS is left", "write versions = [\"1.3\", \"1.2\"]");
        }
        let tls13 = versions.contains(&file::TlsVersion::Tls13);
        if let Some((Many(list), at)) = table.groups.good() {
            if list.is_empty() {
                self.fault(
                    at,
                    "no group is left",
                    "write groups = [\"X25519MLKEM768\", \"X25519\", \"P-256\"]",
                );
            } else if !tls13 && groups.iter().all(|group| *group == file::Group::X25519MlKem768) {
                let cure = "add \"X25519\" to groups, or \"1.3\" to versions";
                self.fault(at, "TLS 1.2 knows none of these groups", cure);
            }
        }
        Tls {
            tls12: versions.contains(&file::TlsVersion::Tls12),
            tls13,
            groups: groups.into_iter().map(group).collect(),
            suites: self.cipher_suites(&table, &versions),
            require_alpn: or(&table.alpn, file::Alpn::Accept) == file::Alpn::Require,
            tickets: self.tickets(&table.tickets),
            crl: self.revocation_lists(&table.crl),
        }
    }

    fn cipher_suites(
        &mut self,
        table: &file::Tls,
        versions: &[file::TlsVersion],
    ) -> Vec<CipherSuite> {
        let Some((Many(written), at)) = table.cipher_suites.good() else {
            return CipherSuite::ALL.to_vec();
        };
        if written.iter().any(|one| one.value().is_none()) {
            // Their faults have been told: no version is blamed for what they leave.
            return CipherSuite::ALL.to_vec();
        }
        let suites: Vec<CipherSuite> =
            list(&table.cipher_suites).into_iter().map(cipher_suite).collect();
        let of_13 = |wanted: bool| suites.iter().filter(move |suite| suite.is_tls13() == wanted);
        for (version, name, tls13, example) in [
            (file::TlsVersion::Tls13, "1.3", true, "TLS_AES_128_GCM_SHA256"),
            (file::TlsVersion::Tls12, "1.2", false, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ] {
            match (versions.contains(&version), of_13(tls13).next()) {
                (true, None) => {
                    let why = format!("none of these belongs to TLS {name}, which is on");
                    let cure = format!("add \"{example}\", or take \"{name}\" out of versions");
                    self.fault(at, why, cure);
                }
                (false, Some(suite)) => {
                    let why = format!("{} belongs to TLS {name}, which is off", suite.name());
                    self.note(at, why, "take it out");
                }
                _ => {}
            }
        }
        suites
    }

    fn tickets(&mut self, written: &Written<Or<Off, file::Tickets>>) -> TicketPolicy {
        let standard = TicketPolicy::default();
        let TicketPolicy::On { lifetime, rotate, .. } = standard else { return standard };
        let table = match written.good() {
            Some((Or::Word(_), _)) => return TicketPolicy::Off,
            Some((Or::Is(table), _)) => table,
            None => return standard,
        };
        let (lifetime, rotate) =
            (period(&table.lifetime, lifetime), period(&table.rotate, rotate.min(lifetime)));
        if let (true, Some(at)) = (lifetime > ticket::LIFETIME_MAX, table.lifetime.at()) {
            let why = "a ticket may live for 7 days at most (RFC 8446 4.6.1)";
            self.fault(at, why, "write lifetime = \"7d\", or less");
        }
        for (written, span) in [(&table.lifetime, lifetime), (&table.rotate, rotate)] {
            if let (true, Some(at)) = (span.subsec_nanos() != 0, written.at()) {
                self.fault(at, "tickets are dated by the second", "write whole seconds");
            }
        }
        let at = table.rotate.at().or(table.lifetime.at());
        if let (true, Some(at)) = (rotate > lifetime, at) {
            let why =
                "a key that lives longer than its tickets protects none of them from its loss";
            self.fault(at, why, "write a rotate that is at most lifetime");
        } else if let (true, Some(at)) = (lifetime > rotate * TICKET_KEYS_MAX, at) {
            let why = format!("lifetime divided by rotate is more than {TICKET_KEYS_MAX} keys");
            self.fault(at, why, "write a longer rotate");
        }
        TicketPolicy::On { lifetime, rotate, keys: self.ticket_keys(&table.key_file).map(Arc::new) }
    }

    fn udp_answer(&mut self, table: file::Policy) -> u16 {
        let answer = or(&table.udp_answer, 480);
        if let (false, Some(at)) = ((400..700).contains(&answer), table.udp_answer.at()) {
            let why = format!("{answer} is no status that refuses a request");
            self.fault(at, why, "write one from 400 to 699, such as 480");
        }
        answer
    }
}

const BACKENDS_EXAMPLE: &str =
    "[{ name = \"r1\", address = \"192.0.2.11:5061\", transport = \"tls\" }]";

fn embedded_backend() -> Backend {
    Backend {
        name: "embedded".into(),
        transport: Transport::Tcp,
        address: EMBEDDED_BACKEND,
        server_name: EMBEDDED_BACKEND.ip().to_string().into(),
        weight: 100,
        priority: 0,
        retired: false,
    }
}

fn cipher_suite(written: file::CipherSuite) -> CipherSuite {
    match written {
        file::CipherSuite::Aes256GcmSha384 => CipherSuite::Aes256GcmSha384,
        file::CipherSuite::Aes128GcmSha256 => CipherSuite::Aes128GcmSha256,
        file::CipherSuite::Chacha20Poly1305Sha256 => CipherSuite::Chacha20Poly1305Sha256,
        file::CipherSuite::EcdheEcdsaAes256GcmSha384 => CipherSuite::EcdheEcdsaAes256GcmSha384,
        file::CipherSuite::EcdheEcdsaAes128GcmSha256 => CipherSuite::EcdheEcdsaAes128GcmSha256,
        file::CipherSuite::EcdheEcdsaChacha20Poly1305Sha256 => {
            CipherSuite::EcdheEcdsaChacha20Poly1305Sha256
        }
        file::CipherSuite::EcdheRsaAes256GcmSha384 => CipherSuite::EcdheRsaAes256GcmSha384,
        file::CipherSuite::EcdheRsaAes128GcmSha256 => CipherSuite::EcdheRsaAes128GcmSha256,
        file::CipherSuite::EcdheRsaChacha20Poly1305Sha256 => {
            CipherSuite::EcdheRsaChacha20Poly1305Sha256
        }
    }
}

fn group(written: file::Group) -> Group {
    match written {
        file::Group::X25519MlKem768 => Group::X25519MlKem768,
        file::Group::X25519 => Group::X25519,
        file::Group::P256 => Group::P256,
        file::Group::P384 => Group::P384,
    }
}

/// Whether `earlier` matches everything that `later` does.
fn covers(earlier: &Route, later: &Route) -> bool {
    fn holds(earlier: &[Box<str>], later: &[Box<str>]) -> bool {
        // Empty is everything.
        earlier.is_empty() || (!later.is_empty() && later.iter().all(|one| earlier.contains(one)))
    }
    earlier.from_zone == later.from_zone
        && holds(&earlier.methods, &later.methods)
        && holds(&earlier.hosts, &later.hosts)
}
