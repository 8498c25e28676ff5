//! What the operator wrote (`file`), what is wrong with it (`check`), and what is settled (`snapshot`).

pub mod fault;
pub mod snapshot;

use std::path::Path;

pub use fault::{Faults, Finding};
use snapshot::{ControlSettings, Snapshot};

/// What the check must know of the host. Handed in, so that a check of the same file always says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Ids of the cores that this process may run on, ascending; never empty.
    pub cores: Vec<usize>,
    /// Hard limit of open descriptors (`RLIMIT_NOFILE`); it bounds a ring's table of direct descriptors too.
    pub descriptors: u64,
    /// Effective user id.
    pub user: u32,
    /// Seconds since 1970, to judge certificates.
    pub unix_time: i64,
    /// Whether `::1` can be bound.
    pub ipv6_loopback: bool,
}

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Settled {
    pub snapshot: Snapshot,
    pub control: ControlSettings,
    /// What is not wrong but worth saying.
    pub notes: Vec<Finding>,
}

/// Reads and settles `path`, or the embedded default when there is none.
///
/// # Errors
/// Every fault of the file at once.
pub fn load(path: Option<&Path>, host: &HostFacts) -> Result<Settled, Faults> {
    match path {
        None => Ok(embedded(host)),
        Some(path) => Err(Faults::one(
            path,
            "a configuration file cannot be read yet",
            "run without --config: the embedded default starts",
        )),
    }
}

fn embedded(host: &HostFacts) -> Settled {
    use snapshot::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::time::Duration;
    let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let advertised = |address: IpAddr, transport: Transport| Advertised {
        host: match address {
            IpAddr::V4(address) => address.to_string().into(),
            IpAddr::V6(address) => format!("[{address}]").into(),
        },
        port: transport.port(),
        transport,
    };
    let addresses: &[IpAddr] = if host.ipv6_loopback { &[v4, v6] } else { &[v4] };
    let zone = |name: &str, tls: bool| Zone {
        name: name.into(),
        transports: Transports { tcp: true, tls },
        advertised: ZoneAdvertised {
            tcp_v4: Some(advertised(v4, Transport::Tcp)),
            tcp_v6: host.ipv6_loopback.then(|| advertised(v6, Transport::Tcp)),
            tls_v4: tls.then(|| advertised(v4, Transport::Tls)),
            tls_v6: (tls && host.ipv6_loopback).then(|| advertised(v6, Transport::Tls)),
        },
        client_certificate: ClientCertificate::None,
        client_ca: Vec::new(),
        client_names: Vec::new(),
        server_ca: Vec::new(),
        certificate: None,
        allow_from: if tls { Vec::new() } else { vec![Prefix { address: v4, bits: 32 }] },
        path: PathPolicy::Always,
        tls_uri: TlsUri::Sips,
        trusted: !tls,
        strip_headers: vec!["p-asserted-identity".into()],
    };
    let mut listeners = Vec::new();
    for (name, transport) in [("edge-tls", Transport::Tls), ("edge-tcp", Transport::Tcp)] {
        for &address in addresses {
            listeners.push(Listener {
                name: name.into(),
                zone: 0,
                transport,
                bind: SocketAddr::new(address, transport.port()),
                advertised: advertised(address, transport),
                identities: Vec::new(),
            });
        }
    }
    let embedded_backend = SocketAddr::new(v4, 0);
    let snapshot = Snapshot {
        node: "ringfront".into(),
        zones: vec![zone("edge", true), zone("core", false)],
        listeners,
        pools: vec![Pool {
            name: "embedded".into(),
            zone: 1,
            affinity: Affinity::CallId,
            lanes: 1,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(5),
            shared_dialogs: false,
            allow_wildcard: false,
            backends: vec![Backend {
                name: "embedded".into(),
                transport: Transport::Tcp,
                address: embedded_backend,
                server_name: "127.0.0.1".into(),
                weight: 100,
                priority: 0,
            }],
        }],
        routes: vec![Route { from_zone: 0, methods: Vec::new(), hosts: Vec::new(), pool: 0 }],
        tls: Tls {
            tls12: true,
            tls13: true,
            groups: vec![Group::X25519MlKem768, Group::X25519, Group::P256],
            require_alpn: false,
            crl: Vec::new(),
        },
        limits: Limits::default(),
        drain: Drain { deadline: Duration::from_secs(60), pace: Duration::from_secs(30) },
        udp_answer: 480,
        generation: 0,
    };
    let control = ControlSettings {
        state_dir: "ringfront-state".into(),
        cores: host.cores.clone(),
        housekeeping_core: None,
        secret_file: "ringfront-state/secret".into(),
        admin: AdminListen::Unix("ringfront-state/admin.sock".into()),
        metrics_listen: Some(SocketAddr::new(v4, 9060)),
        latency_log: None,
        latency_interval: Duration::from_secs(10),
        log: LogSettings { level: LogLevel::Info, json: false, file: None },
        embedded_backend: Some(embedded_backend),
    };
    Settled { snapshot, control, notes: Vec::new() }
}
