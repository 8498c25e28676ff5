//! Workers without a ring beneath them, for tests and fuzz targets: a configuration, connections, messages.
//! Owns proxies and what they have sent. Never part of the program.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::base::machine::{Arrival, Machine};
use crate::base::time::Duration;
use crate::config::snapshot::*;
use admission::PrefixTable;
use token::{BranchKey, TokenKeys};

pub(super) fn advertised(host: &str, port: u16, transport: Transport) -> Option<Advertised> {
    Some(Advertised { host: host.into(), port, transport })
}

pub(super) fn zone(name: &str, trusted: bool, at: ZoneAdvertised) -> Zone {
    Zone {
        name: name.into(),
        transports: Transports { tcp: true, tls: true },
        advertised: at,
        client_certificate: ClientCertificate::None,
        client_ca: Vec::new(),
        client_names: Vec::new(),
        server_ca: Vec::new(),
        certificate: None,
        allow_from: Vec::new(),
        path: PathPolicy::Always,
        tls_uri: TlsUri::Sips,
        trusted,
        strip_headers: vec!["p-asserted-identity".into()],
    }
}

pub(super) fn snapshot() -> Snapshot {
    let edge = ZoneAdvertised {
        tcp_v4: advertised("edge.example.com", 5060, Transport::Tcp),
        tcp_v6: advertised("[2001:db8::1]", 5060, Transport::Tcp),
        tls_v4: advertised("edge.example.com", 5061, Transport::Tls),
        tls_v6: advertised("[2001:db8::1]", 5061, Transport::Tls),
    };
    let core = ZoneAdvertised {
        tcp_v4: advertised("10.0.0.9", 5070, Transport::Tcp),
        tcp_v6: None,
        tls_v4: None,
        tls_v6: None,
    };
    let listener = |zone, bind: &str, host: &str, port| Listener {
        name: "l".into(),
        zone,
        transport: Transport::Tcp,
        bind: bind.parse().unwrap(),
        advertised: advertised(host, port, Transport::Tcp).unwrap(),
        proxy_from: Vec::new(),
        identities: Vec::new(),
    };
    let backend = |name: &str, address: &str| Backend {
        name: name.into(),
        transport: Transport::Tcp,
        address: address.parse().unwrap(),
        server_name: name.into(),
        weight: 100,
        priority: 0,
        retired: false,
    };
    Snapshot {
        node: "edge-1".into(),
        zones: vec![zone("edge", false, edge), zone("core", true, core)],
        listeners: vec![
            listener(0, "192.0.2.1:5060", "edge.example.com", 5060),
            listener(1, "10.0.0.9:5070", "10.0.0.9", 5070),
        ],
        pools: vec![Pool {
            name: "registrars".into(),
            zone: 1,
            affinity: Affinity::CallId,
            lanes: 1,
            failover: false,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(5),
            health: None,
            shared_dialogs: false,
            slow_start: Duration::ZERO,
            allow_wildcard: false,
            udp_only: false,
            backends: vec![backend("b1", "10.0.0.1:5080"), backend("b2", "10.0.0.2:5080")],
        }],
        routes: vec![Route { from_zone: 0, methods: Vec::new(), hosts: Vec::new(), pool: 0 }],
        tls: Tls { tls12: true, tls13: true, groups: vec![Group::X25519], ..Tls::default() },
        limits: Limits::default(),
        drain: crate::config::snapshot::Drain {
            deadline: Duration::from_secs(60),
            pace: Duration::from_secs(30),
        },
        udp_answer: 480,
        generation: 1,
    }
}

pub(super) fn settings_of(snapshot: Snapshot, workers: u8) -> Arc<Settings> {
    let sides = snapshot.listeners.iter().map(|_| None).collect();
    let clients =
        snapshot.pools.iter().map(|pool| pool.backends.iter().map(|_| None).collect()).collect();
    Arc::new(Settings::new(
        snapshot,
        sides,
        clients,
        BranchKey::new([7; 16]),
        TokenKeys::new("edge-1", &[9; 32], None),
        workers,
        Arc::new(PrefixTable::new()),
    ))
}

/// A connection of one of the workers.
pub(super) type At = (usize, ConnId);

/// Workers without a ring: what they transmit is kept by connection, envelopes cross at once.
pub(super) struct Bench {
    pub(super) workers: Vec<Proxy>,
    pub(super) now: Instant,
    pub(super) sent: HashMap<At, Vec<u8>>,
    pub(super) closed: Vec<At>,
    /// Links by worker and address.
    pub(super) links: HashMap<(usize, SocketAddr), ConnId>,
    /// Addresses that refuse.
    pub(super) dead: Vec<SocketAddr>,
    /// Addresses that neither take a connection nor refuse it.
    pub(super) silent: Vec<SocketAddr>,
    /// Dialled and not yet answered for.
    pub(super) dialled: Vec<(usize, ConnId, SocketAddr)>,
    pub(super) next_slot: u32,
}

impl Bench {
    pub(super) fn new(workers: usize) -> Self {
        Self::with(workers, snapshot())
    }

    pub(super) fn with(workers: usize, snapshot: Snapshot) -> Self {
        let settings = settings_of(snapshot, workers as u8);
        let now = Instant(1_000_000_000);
        let mut bench = Bench {
            workers: (0..workers)
                .map(|index| {
                    let incarnation = 0x1000 + index as u32;
                    Proxy::new(index as u8, incarnation, 64, 42, now, settings.clone())
                })
                .collect(),
            now,
            sent: HashMap::new(),
            closed: Vec::new(),
            links: HashMap::new(),
            dead: Vec::new(),
            silent: Vec::new(),
            dialled: Vec::new(),
            next_slot: 0,
        };
        bench.settle();
        bench
    }

    /// Does all that the workers ask for, until they ask for nothing.
    pub(super) fn settle(&mut self) {
        loop {
            let mut busy = false;
            for index in 0..self.workers.len() {
                while let Some(output) = self.workers[index].poll() {
                    busy = true;
                    self.obey(index, output);
                }
                while let Some((worker, envelope)) = self.workers[index].post() {
                    busy = true;
                    self.workers[usize::from(worker)].deliver(self.now, envelope);
                }
                self.workers[index].leaving(self.now);
            }
            if !busy {
                return;
            }
        }
    }

    pub(super) fn obey(&mut self, index: usize, output: Output) {
        let worker = &mut self.workers[index];
        match output {
            Output::Transmit { conn, chunk } => {
                self.sent.entry((index, conn)).or_default().extend_from_slice(chunk.bytes());
                worker.handle(self.now, Input::Sent { conn, chunk });
            }
            Output::Connect { conn, to, .. } if self.dead.contains(&to) => {
                worker.handle(self.now, Input::Closed { conn, cause: CloseCause::ConnectFailed });
            }
            Output::Connect { conn, to, .. } if self.silent.contains(&to) => {
                self.dialled.push((index, conn, to));
            }
            Output::Connect { conn, to, .. } => {
                self.links.insert((index, to), conn);
                worker.handle(self.now, Input::Connected { conn });
            }
            Output::Close { conn, .. } => {
                self.closed.push((index, conn));
                worker.handle(self.now, Input::Closed { conn, cause: CloseCause::Asked });
            }
            Output::Accept { .. } => {}
        }
    }

    pub(super) fn accept(&mut self, worker: usize, listener: u32, peer: &str) -> At {
        let slot = self.next_slot;
        self.next_slot += 1;
        let arrival = Arrival { slot, listener, peer: peer.parse().unwrap() };
        let conn = self.workers[worker].admit(self.now, arrival).expect("admitted");
        (worker, conn)
    }

    pub(super) fn client(&mut self) -> At {
        self.accept(0, 0, "198.51.100.7:40000")
    }

    pub(super) fn link(&self, worker: usize, backend: &str) -> At {
        (worker, self.links[&(worker, backend.parse().unwrap())])
    }

    pub(super) fn send(&mut self, at: At, text: &str) {
        self.give(at, text.as_bytes());
    }

    pub(super) fn give(&mut self, (worker, conn): At, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.workers[worker].handle(self.now, Input::Received { conn, bytes: &mut bytes });
        self.settle();
    }

    /// What the peer of a connection has been sent since it was asked last.
    pub(super) fn take(&mut self, at: At) -> String {
        String::from_utf8(self.sent.remove(&at).unwrap_or_default()).unwrap()
    }

    pub(super) fn hang_up(&mut self, (worker, conn): At) {
        self.workers[worker].handle(self.now, Input::Closed { conn, cause: CloseCause::Reset });
        self.settle();
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for index in 0..self.workers.len() {
            self.workers[index].handle(self.now, Input::Tick);
        }
        self.settle();
    }

    /// The link that the last request went to, and the request.
    pub(super) fn at_backend(&mut self) -> (At, String) {
        let links: Vec<At> =
            self.links.iter().map(|((worker, _), conn)| (*worker, *conn)).collect();
        let found =
            links.into_iter().find(|at| self.sent.contains_key(at)).expect("a request arrived");
        (found, self.take(found))
    }

    pub(super) fn refused(&self, reason: crate::telemetry::counter::Refused) -> u64 {
        self.workers.iter().map(|worker| worker.core.counters.refused(reason)).sum()
    }
}

pub(super) fn request(method: &str, uri: &str, call: &str, extra: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/TCP client.invalid:5060;rport;branch=z9hG4bK{call}\r\n\
         {extra}\
         From: <sip:alice@example.com>;tag=a\r\n\
         To: <sip:bob@example.com>\r\n\
         Call-ID: {call}\r\n\
         CSeq: 1 {method}\r\n\
         Max-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// A response to what arrived, as a UAS makes it.
pub(super) fn response(arrived: &str, status: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in arrived.split("\r\n").skip(1) {
        let name = line.split(':').next().unwrap_or_default();
        if matches!(name, "Via" | "Record-Route" | "From" | "Call-ID" | "CSeq") {
            text.push_str(line);
            text.push_str("\r\n");
        }
        if name == "To" {
            text.push_str(line);
            text.push_str(if line.contains(";tag=") { "\r\n" } else { ";tag=b\r\n" });
        }
    }
    text + "Content-Length: 0\r\n\r\n"
}

pub(super) fn header<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let lines = text.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.filter(|(it, _)| *it == name).map(|(_, value)| value).collect()
}
