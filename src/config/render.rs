//! Writes settled settings out again, in the words of the file, every default spelled out.
//! Owns the text forms of values on the way out. Never writes a key or a token.
//!
//! What is settled has no place in the file in two cases: `advertised` (what is told to each transport and family) and
//! the certificate of the embedded default, which is made in memory.

use std::fmt::{Display, Write};
use std::path::Path;
use std::time::Duration;

use super::snapshot::{
    AdminListen, Advertised, Affinity, Backend, ClientCertificate, ControlSettings, Family, Group,
    Health, IdentityFiles, Limits, Listener, LogLevel, NamedBackend, NamedPlace, PathPolicy, Pool,
    ProbeMethod, Rate, ResolverSettings, Route, Snapshot, TicketPolicy, TlsUri, Transport,
    Transports, WhenFull, Zone,
};

/// The settled configuration as TOML.
pub fn toml(snapshot: &Snapshot, control: &ControlSettings) -> String {
    let mut page = Page::default();
    node(&mut page, snapshot, control);
    for zone in &snapshot.zones {
        page.zone(zone);
    }
    for listener in &snapshot.listeners {
        page.listener(listener, snapshot);
    }
    page.table("[tls]");
    let tls = &snapshot.tls;
    let versions = [("1.3", tls.tls13), ("1.2", tls.tls12)];
    page.list("versions", versions.iter().filter(|(_, on)| *on).map(|(name, _)| *name));
    page.list("groups", tls.groups.iter().map(|group| group_name(*group)));
    page.list("cipher_suites", tls.suites.iter().map(|suite| suite.name()));
    page.text("alpn", if tls.require_alpn { "require" } else { "accept" });
    match &tls.tickets {
        TicketPolicy::Off => page.text("tickets", "off"),
        TicketPolicy::On { lifetime, rotate, keys } => {
            let (lifetime, rotate) = (quoted(duration(*lifetime)), quoted(duration(*rotate)));
            let shared = keys.is_some();
            page.bare(
                "tickets",
                format_args!("{{ lifetime = {lifetime}, rotate = {rotate}, shared = {shared} }}"),
            );
        }
    }
    page.bare("crl_lists", tls.crl.len());
    for pool in &snapshot.pools {
        page.pool(pool, snapshot, control);
    }
    for route in &snapshot.routes {
        page.route(route, snapshot);
    }
    page.resolver(&control.resolver);
    page.limits(&snapshot.limits);
    page.table("[drain]");
    page.text("deadline", duration(snapshot.drain.deadline));
    page.text("pace", duration(snapshot.drain.pace));
    process(&mut page, control);
    page.table("[policy]");
    page.bare("udp_answer", snapshot.udp_answer);
    page.text
}

/// The settled configuration as JSON, of the same shape.
pub fn json(snapshot: &Snapshot, control: &ControlSettings) -> serde_json::Value {
    // What is written above is TOML of strings, numbers, lists and tables, all of which JSON has.
    toml::from_str(&toml(snapshot, control)).unwrap_or(serde_json::Value::Null)
}

fn node(page: &mut Page, snapshot: &Snapshot, control: &ControlSettings) {
    page.table("[node]");
    page.text("name", &snapshot.node);
    page.path("state_dir", &control.state_dir);
    page.bare("cores", format_args!("{:?}", control.cores));
    match control.housekeeping_core {
        Some(core) => page.bare("housekeeping_core", core),
        None => page.text("housekeeping_core", "none"),
    }
    page.path("secret_file", &control.secret_file);
    page.bare("watch", control.watch);
    page.table("[engine]");
    page.text("mode", control.engine.mode.name());
    if !control.engine.sqpoll_cores.is_empty() {
        page.bare("sqpoll_cores", format_args!("{:?}", control.engine.sqpoll_cores));
    }
    page.text("zero_copy_send", if control.engine.zero_copy_send { "auto" } else { "off" });
    for key in ["zero_copy_receive", "ktls"] {
        page.text(key, "off");
    }
}

fn process(page: &mut Page, control: &ControlSettings) {
    page.table("[admin]");
    match &control.admin {
        AdminListen::Unix(path) => page.text("listen", format_args!("unix:{}", path.display())),
        AdminListen::Tcp { address, token_file } => {
            page.text("listen", address);
            page.path("token_file", token_file);
        }
    }
    if let Some(address) = control.metrics_listen {
        page.text("metrics_listen", address);
    }
    page.table("[latency]");
    if let Some(path) = &control.latency_log {
        page.path("log", path);
    }
    page.text("interval", duration(control.latency_interval));
    page.table("[log]");
    let level = match control.log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    page.text("level", level);
    page.text("format", if control.log.json { "json" } else { "text" });
    match &control.log.file {
        Some(path) => page.path("target", path),
        None => page.text("target", "stderr"),
    }
}

/// TOML text under way.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn table(&mut self, heading: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}{heading}"));
    }

    fn bare(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.bare(key, quoted(value));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, path.display());
    }

    fn list<T: Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<String> = values.into_iter().map(quoted).collect();
        self.bare(key, format_args!("[{}]", values.join(", ")));
    }

    fn zone(&mut self, zone: &Zone) {
        self.table(&format!("[zone.{}]", zone.name));
        let spoken = [Transport::Tls, Transport::Tcp].into_iter();
        self.list(
            "transports",
            spoken.filter(|one| zone.transports.allows(*one)).map(Transport::name),
        );
        let slots = [
            ("tcp_v4", Transport::Tcp, Family::V4),
            ("tcp_v6", Transport::Tcp, Family::V6),
            ("tls_v4", Transport::Tls, Family::V4),
            ("tls_v6", Transport::Tls, Family::V6),
        ];
        let told = slots.iter().filter_map(|(key, transport, family)| {
            let advertised = zone.advertised.of(*transport, *family)?;
            Some(format!("{key} = {}", quoted(host_port(advertised))))
        });
        let told: Vec<String> = told.collect();
        self.bare("advertised", format_args!("{{ {} }}", told.join(", ")));
        let policy = match zone.client_certificate {
            ClientCertificate::None => "none",
            ClientCertificate::Optional => "optional",
            ClientCertificate::Report => "report",
            ClientCertificate::Required => "required",
        };
        self.text("client_certificate", policy);
        self.list("client_names", &zone.client_names);
        self.bare("client_ca_certificates", zone.client_ca.len());
        self.bare("server_ca_certificates", zone.server_ca.len());
        if let Some(identity) = &zone.certificate {
            self.bare("certificate", certificate(identity));
        }
        self.list(
            "allow_from",
            zone.allow_from.iter().map(|p| format!("{}/{}", p.address, p.bits)),
        );
        let path = match zone.path {
            PathPolicy::Always => "always",
            PathPolicy::Supported => "supported",
            PathPolicy::Off => "off",
        };
        self.text("path", path);
        self.text(
            "tls_uri",
            match zone.tls_uri {
                TlsUri::Sips => "sips",
                TlsUri::Transport => "transport",
            },
        );
        self.bare("trusted", zone.trusted);
        self.list("strip_headers", &zone.strip_headers);
    }

    fn listener(&mut self, listener: &Listener, snapshot: &Snapshot) {
        self.table("[[listener]]");
        self.text("name", &listener.name);
        self.text("zone", &snapshot.zones[usize::from(listener.zone)].name);
        self.text("transport", listener.transport.name());
        self.text("bind", listener.bind);
        self.text("advertise", host_port(&listener.advertised));
        if !listener.identities.is_empty() {
            let identities: Vec<String> = listener.identities.iter().map(certificate).collect();
            self.bare("certificates", format_args!("[{}]", identities.join(", ")));
        } else if listener.transport == Transport::Tls {
            self.line(format_args!("# certificates: one is made in memory at the start"));
        }
        let required = !listener.proxy_from.is_empty();
        self.text("proxy_protocol", if required { "required" } else { "off" });
        if required {
            let from = listener.proxy_from.iter().map(|p| format!("{}/{}", p.address, p.bits));
            self.list("proxy_protocol_from", from);
        }
    }

    fn pool(&mut self, pool: &Pool, snapshot: &Snapshot, control: &ControlSettings) {
        self.table("[[pool]]");
        self.text("name", &pool.name);
        self.text("zone", &snapshot.zones[usize::from(pool.zone)].name);
        let affinity = match pool.affinity {
            Affinity::CallId => "call-id",
            Affinity::From => "from",
            Affinity::To => "to",
            Affinity::Source => "source",
            Affinity::None => "none",
        };
        self.text("affinity", affinity);
        self.bare("lanes", pool.lanes);
        self.bare("failover", pool.failover);
        match pool.health {
            None => self.text("health", "off"),
            Some(health) => self.health(&health),
        }
        self.text("connect_timeout", duration(pool.connect_timeout));
        self.text("response_timeout", duration(pool.response_timeout));
        self.bare("shared_dialogs", pool.shared_dialogs);
        match pool.slow_start.is_zero() {
            true => self.text("slow_start", "off"),
            false => self.text("slow_start", duration(pool.slow_start)),
        }
        self.bare("allow_wildcard", pool.allow_wildcard);
        let embedded = |backend: &Backend| Some(backend.address) == control.embedded_backend;
        if pool.backends.iter().any(embedded) {
            self.text("backends", "embedded");
            return;
        }
        let number = snapshot.pools.iter().position(|other| std::ptr::eq(other, pool));
        let names = control.resolver.names.iter();
        let names = names.filter(|named| Some(usize::from(named.pool)) == number);
        self.line(format_args!("backends = ["));
        for backend in &pool.backends {
            self.line(format_args!(
                "  {{ name = {}, address = {}, transport = {}, server_name = {}, weight = {}, priority = {} }},",
                quoted(&backend.name),
                quoted(backend.address),
                quoted(backend.transport.name()),
                quoted(&backend.server_name),
                backend.weight,
                backend.priority
            ));
        }
        for named in names {
            self.named_backend(named);
        }
        self.line(format_args!("]"));
    }

    fn named_backend(&mut self, named: &NamedBackend) {
        let key = match &named.place {
            NamedPlace::Service { .. } => "srv",
            NamedPlace::Domain { .. } | NamedPlace::Host { .. } => "address",
        };
        let transport = match named.transports {
            Transports { tcp: true, tls: true } => String::new(),
            Transports { tls: true, .. } => "transport = \"tls\", ".to_owned(),
            Transports { .. } => "transport = \"tcp\", ".to_owned(),
        };
        self.line(format_args!(
            "  {{ name = {}, {key} = {}, {transport}server_name = {}, weight = {}, priority = {} }},",
            quoted(&named.name),
            quoted(named.place.text()),
            quoted(&named.server_name),
            named.weight,
            named.priority
        ));
    }

    fn resolver(&mut self, resolver: &ResolverSettings) {
        self.table("[resolver]");
        match resolver.servers.is_empty() {
            true => self.line(format_args!("# servers: those of /etc/resolv.conf")),
            false => self.list("servers", &resolver.servers),
        }
        self.text("timeout", duration(resolver.timeout));
        self.text("ttl_min", duration(resolver.ttl_min));
        self.text("ttl_max", duration(resolver.ttl_max));
        let allowed = resolver.allow_answers.iter();
        self.list("allow_answers", allowed.map(|p| format!("{}/{}", p.address, p.bits)));
    }

    fn route(&mut self, route: &Route, snapshot: &Snapshot) {
        self.table("[[route]]");
        self.text("from_zone", &snapshot.zones[usize::from(route.from_zone)].name);
        self.list("methods", &route.methods);
        self.list("host", &route.hosts);
        self.text("pool", &snapshot.pools[usize::from(route.pool)].name);
    }

    fn health(&mut self, health: &Health) {
        let method = match health.method {
            ProbeMethod::Options => "OPTIONS",
            ProbeMethod::Crlf => "CRLF",
        };
        self.line(format_args!(
            "health = {{ method = {}, interval = {}, timeout = {}, rise = {}, fall = {} }}",
            quoted(method),
            quoted(duration(health.interval)),
            quoted(duration(health.timeout)),
            health.rise,
            health.fall
        ));
    }

    fn limits(&mut self, limits: &Limits) {
        self.table("[limits]");
        self.bare("connections_per_core", limits.connections_per_core);
        self.bare("transactions_per_core", limits.transactions_per_core);
        let full = match limits.transactions_full {
            WhenFull::Refuse => "refuse",
            WhenFull::Stateless => "stateless",
        };
        self.text("transactions_full", full);
        self.bare("connections_per_prefix", limits.connections_per_prefix);
        self.text("requests_per_prefix", rate(limits.requests_per_prefix));
        self.text("handshake_deadline", duration(limits.handshake_deadline));
        self.bare("handshakes_per_core", limits.handshakes_per_core);
        self.bare("handshakes_per_prefix", limits.handshakes_per_prefix);
        let (whole, rest) = (limits.handshake_share / 1000, limits.handshake_share % 1000);
        self.bare("handshake_share", format_args!("{whole}.{rest:03}"));
        self.text("handshake_rate_per_prefix", rate(limits.handshake_rate_per_prefix));
        self.text("requests_per_connection", rate(limits.requests_per_connection));
        self.text("requests_per_aor", limits.requests_per_aor.map_or("off".into(), rate));
        match limits.failures_per_prefix {
            Some(count) => self.bare("failures_per_prefix", count),
            None => self.text("failures_per_prefix", "off"),
        }
        self.text("minimum_rate", format_args!("{}/s", size(limits.minimum_rate)));
        self.text("message_deadline", duration(limits.message_deadline));
        self.text("idle_timeout", duration(limits.idle_timeout));
        self.text("registered_idle_timeout", duration(limits.registered_idle_timeout));
        self.text("turn_time", limits.turn_time.map_or("off".into(), duration));
        self.text("keepalive", limits.keepalive.map_or("off".into(), duration));
        self.text("start_line", size(limits.start_line));
        self.text("uri", size(limits.uri));
        self.text("header_line", size(limits.header_line));
        self.text("head", size(limits.head));
        self.bare("headers", limits.headers);
        self.bare("vias", limits.vias);
        self.bare("routes", limits.routes);
        self.bare("contacts", limits.contacts);
        self.bare("parameters", limits.parameters);
        self.text("body", size(limits.body));
        self.text("outbox", size(limits.outbox));
    }
}

/// A TOML basic string.
fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn host_port(advertised: &Advertised) -> String {
    format!("{}:{}", advertised.host, advertised.port)
}

fn certificate(identity: &IdentityFiles) -> String {
    let names: Vec<String> = identity.names.iter().map(quoted).collect();
    let chain = quoted(identity.chain_path.display());
    format!("{{ names = [{}], chain = {chain} }}", names.join(", "))
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::X25519MlKem768 => "X25519MLKEM768",
        Group::X25519 => "X25519",
        Group::P256 => "P-256",
        Group::P384 => "P-384",
    }
}

/// In the largest unit that holds it without a rest.
pub fn duration(duration: Duration) -> String {
    let units = [
        (24 * 3600 * 1_000_000_000, "d"),
        (3600 * 1_000_000_000, "h"),
        (60 * 1_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
    ];
    let nanos = duration.as_nanos();
    let whole = units.iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
    whole.map_or(format!("{}us", nanos / 1000), |(unit, name)| format!("{}{name}", nanos / unit))
}

/// In the largest unit that holds it without a rest.
pub fn size(bytes: u32) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    whole.map_or(format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

fn rate(rate: Rate) -> String {
    if rate == Rate::UNLIMITED {
        return "off".into();
    }
    let unit = match rate.per.as_secs() {
        1 => "s",
        60 => "m",
        _ => "h",
    };
    format!("{}/{unit}", rate.count)
}
