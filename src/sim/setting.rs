//! The scene of a run: zones, listeners, backends, and everything that a seed draws before the first event.
//! Owns addresses and sizes. Never decides during a run.
//!
//! Swarm testing (Groce et al. 2012): each class of faults is switched off for some seeds, since faults hide each
//! other. One seed in eight has none at all; there nothing is excused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::crypto::{BEGIN, Identity};
use super::reference::{Face, Facts};
use super::ring::Rough;
use super::wire::Weather;
use crate::base::random::Random;
use crate::config::snapshot::{
    Advertised, Affinity, Backend, ClientCertificate, Drain, Group, Health, Limits, Listener,
    PathPolicy, Pool, Prefix, ProbeMethod, Rate, Route, Snapshot, Tls, TlsUri, Transport,
    Transports, Zone, ZoneAdvertised,
};
use crate::proxy::admission::PrefixTable;
use crate::proxy::settings::Settings;
use crate::proxy::token::{BranchKey, TokenKeys};
use crate::tls::clock::{SetClock, TimeProvider};
use crate::tls::{ClientSide, ServerSide, Tickets};

/// Zones by index.
pub const EDGE: u16 = 0;
pub const CORE: u16 = 1;
pub const SECURE: u16 = 2;

/// Listeners by index.
pub const EDGE_TCP: u32 = 0;
pub const EDGE_TLS: u32 = 1;
pub const EDGE_TCP6: u32 = 2;
pub const CORE_IN: u32 = 3;
pub const SECURE_TLS: u32 = 4;
pub const LISTENERS: u32 = 5;

/// The last one is answered for by links alone: it comes and goes with the configuration.
pub const BACKENDS: usize = 4;
pub const GUEST: usize = 3;

/// Answered in every seed, at least.
pub const TRANSACTIONS: u32 = 200;

const EDGE_NAME: &str = "edge.example.com";
const SECURE_NAME: &str = "secure.example.com";
const STRIPPED: &str = "p-asserted-identity";

/// How often each thing strikes: one in so many chances; 0: never in this seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strikes {
    pub reset: u64,
    pub half_close: u64,
    pub slow_peer: u64,
    pub stall: u64,
    pub backend: u64,
    pub black_hole: u64,
    pub config: u64,
    pub panic: u64,
    pub jump: u64,
    pub flip: u64,
    pub handshake: u64,
    /// The run ends by a drain in the middle of everything.
    pub drain: bool,
}

impl Strikes {
    /// Whether anything here can cost a message.
    pub fn any(&self) -> bool {
        let rates = [
            self.reset,
            self.half_close,
            self.slow_peer,
            self.stall,
            self.backend,
            self.black_hole,
            self.config,
            self.panic,
            self.jump,
            self.flip,
            self.handshake,
        ];
        self.drain || rates.iter().any(|rate| *rate > 0)
    }
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub workers: u16,
    pub phones: usize,
    pub hostile: usize,
    /// Transactions answered before the run winds down.
    pub transactions: u32,
    /// Of so many phones one speaks TLS; 0: none.
    pub tls: u64,
    pub core_tls: bool,
    /// Backends that dial us show certificates.
    pub core_mutual: bool,
    /// TLS 1.2, and not 1.3.
    pub old_tls: bool,
    pub group: Group,
    pub lanes: u8,
    pub failover: bool,
    pub response_timeout: Duration,
    /// Transactions whose state a worker keeps.
    pub transactions_kept: u32,
    pub weather: Weather,
    pub rough: Rough,
    pub strikes: Strikes,
    pub accepted: u32,
    pub accept_limit: u32,
    pub buffers: usize,
    pub buffer_bytes: usize,
    pub submissions: usize,
    pub completions: usize,
    pub mailbox: usize,
    pub outbox: u32,
    pub tls_uri: TlsUri,
    pub affinity: Affinity,
    pub health: Option<Health>,
    /// Odd forms of headers, one message in so many.
    pub odd: u64,
    /// Agents do what they are told and nothing else; one backend alone.
    pub scripted: bool,
}

impl Options {
    /// A quiet world: no faults, plain sizes.
    pub fn quiet(seed: u64) -> Options {
        Options {
            seed,
            workers: 2,
            phones: 8,
            hostile: 0,
            transactions: TRANSACTIONS,
            tls: 0,
            core_tls: false,
            core_mutual: false,
            old_tls: false,
            group: Group::X25519,
            lanes: 1,
            failover: false,
            response_timeout: Duration::from_secs(5),
            transactions_kept: 10_000,
            weather: Weather { latency: (20_000, 200_000), split: 0, dribble: 0, window: WIDE },
            rough: Rough::default(),
            strikes: Strikes::default(),
            accepted: 64,
            accept_limit: 48,
            buffers: 64,
            buffer_bytes: 17 * 1024,
            submissions: 256,
            completions: 1024,
            mailbox: 64,
            outbox: 256 * 1024,
            tls_uri: TlsUri::Sips,
            affinity: Affinity::CallId,
            health: None,
            odd: 0,
            scripted: false,
        }
    }

    /// What `seed` draws.
    pub fn drawn(seed: u64) -> Options {
        let mut random = Random::new(seed ^ 0x5eed_0f0f);
        let mut options = Options::quiet(seed);
        options.phones = 8 + random.below(6) as usize;
        options.transactions = TRANSACTIONS + random.below(60) as u32;
        options.tls = [0, 3, 3, 2][random.below(4) as usize];
        options.core_tls = options.tls > 0 && random.one_in(3);
        options.core_mutual = options.core_tls && random.one_in(2);
        options.old_tls = random.one_in(4);
        options.group = [Group::X25519, Group::X25519, Group::P256][random.below(3) as usize];
        if !options.old_tls && random.one_in(4) {
            options.group = Group::X25519MlKem768;
        }
        options.lanes = 1 + random.below(2) as u8;
        options.odd = [0, 2, 3][random.below(3) as usize];
        options.affinity =
            [Affinity::CallId, Affinity::CallId, Affinity::Source][random.below(3) as usize];
        options.health = drawn_health(seed);
        options.draw_failover();
        options.tls_uri = if random.one_in(3) { TlsUri::Transport } else { TlsUri::Sips };
        if seed.is_multiple_of(8) {
            return options;
        }
        options.roughen(&mut random);
        options.cramp(&mut random);
        options
    }

    /// Half of the seeds keep the state of transactions; from dice of their own, and not those that are named after
    /// older faults.
    fn draw_failover(&mut self) {
        let mut random = Random::new(self.seed ^ 0x0fa1_10e5);
        self.failover = self.seed >= 64 && random.one_in(2);
        if !self.failover {
            return;
        }
        self.response_timeout = Duration::from_millis(1500 + random.below(3000));
        if !self.seed.is_multiple_of(8) && random.one_in(5) {
            self.transactions_kept = 1 + random.below(12) as u32;
        }
    }

    /// A network, a kernel and a world that are not kind, each in some ways.
    fn roughen(&mut self, random: &mut Random) {
        let on = |random: &mut Random, rate: u64| if random.one_in(2) { rate } else { 0 };
        self.hostile = random.below(3) as usize;
        self.workers = if random.one_in(5) { 3 } else { 2 };
        self.weather = Weather {
            latency: [(20_000, 200_000), (1_000, 5_000_000)][random.below(2) as usize],
            split: on(random, 2),
            dribble: on(random, 11),
            window: if random.one_in(2) { (2_000, 9_000) } else { WIDE },
        };
        self.rough = Rough {
            short_send: on(random, 3),
            receive_end: on(random, 5),
            shuffle: on(random, 2),
            stale: on(random, 4),
            full: on(random, 10),
            no_descriptor: on(random, 4),
            spurious_wake: on(random, 20),
            slow_cancel: on(random, 2),
        };
        self.strikes = Strikes {
            reset: on(random, 12),
            half_close: on(random, 12),
            slow_peer: on(random, 12),
            stall: on(random, 12),
            backend: on(random, 6),
            black_hole: on(random, 2),
            config: on(random, 12),
            panic: if random.one_in(3) { 20 } else { 0 },
            jump: if random.one_in(4) { 30 } else { 0 },
            flip: on(random, 20),
            handshake: on(random, 6),
            drain: random.one_in(6),
        };
    }

    /// Sizes that are too small, each for some seeds.
    fn cramp(&mut self, random: &mut Random) {
        if random.one_in(2) {
            self.buffers = 1 + random.below(4) as usize;
            self.buffer_bytes = [200, 700, 4096][random.below(3) as usize];
        }
        if random.one_in(3) {
            self.submissions = 2 + random.below(6) as usize;
        }
        if random.one_in(3) {
            self.completions = 3 + random.below(8) as usize;
        }
        if random.one_in(3) {
            self.mailbox = 1 + random.below(2) as usize;
        }
        if random.one_in(4) {
            self.accepted = 6 + random.below(4) as u32;
            self.accept_limit = self.accepted - random.below(3) as u32;
        }
        if random.one_in(3) {
            self.outbox = 12 * 1024;
        }
    }

    /// Whether a message may be lost or refused for want of anything.
    pub fn is_calm(&self) -> bool {
        let roomy = self.mailbox >= 64
            && self.accept_limit >= 48
            && self.outbox > 64 * 1024
            && self.transactions_kept >= 10_000;
        let rough = &self.rough;
        !self.strikes.any() && roomy && rough.no_descriptor == 0 && self.hostile == 0
    }
}

/// Probes for half of the seeds; from dice of their own, and not for the seeds that are named after older faults.
fn drawn_health(seed: u64) -> Option<Health> {
    let mut random = Random::new(seed ^ 0x0a0b_0e5e);
    if seed < 64 || random.one_in(2) {
        return None;
    }
    Some(Health {
        method: if random.one_in(4) { ProbeMethod::Crlf } else { ProbeMethod::Options },
        interval: Duration::from_millis(2000 + random.below(2000)),
        timeout: Duration::from_millis(700 + random.below(700)),
        rise: 1 + random.below(2) as u8,
        fall: 1 + random.below(3) as u8,
    })
}

/// A window that nothing fills.
const WIDE: (u64, u64) = (262_144, 262_144);

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Where backend `index` listens.
pub fn backend_address(index: usize) -> SocketAddr {
    SocketAddr::new(v4(10, 0, 1, 1 + index as u8), 5060)
}

/// Where phone `index` calls from; `life` counts its connections.
pub fn phone_address(index: usize, life: u32, v6: bool) -> SocketAddr {
    let port = 20_000 + (life % 40_000) as u16;
    let ip = if v6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, index as u16 + 0x100, 0, 0, 0, 0, 1))
    } else {
        v4(198, 51, 100, 1 + index as u8)
    };
    SocketAddr::new(ip, port)
}

/// The address that a listener is reached at.
pub fn listener_address(listener: u32, core_tls: bool) -> SocketAddr {
    match listener {
        EDGE_TCP => SocketAddr::new(v4(192, 0, 2, 1), 5060),
        EDGE_TLS => SocketAddr::new(v4(192, 0, 2, 1), 5061),
        EDGE_TCP6 => SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(), 5060),
        CORE_IN => SocketAddr::new(v4(10, 0, 0, 1), if core_tls { 5071 } else { 5070 }),
        _ => SocketAddr::new(v4(192, 0, 2, 2), 5061),
    }
}

/// The zone and transport of a listener.
pub fn listener_zone(listener: u32, core_tls: bool) -> (u16, Transport) {
    match listener {
        EDGE_TCP | EDGE_TCP6 => (EDGE, Transport::Tcp),
        EDGE_TLS => (EDGE, Transport::Tls),
        CORE_IN => (CORE, core_transport(core_tls)),
        _ => (SECURE, Transport::Tls),
    }
}

pub fn core_transport(core_tls: bool) -> Transport {
    if core_tls { Transport::Tls } else { Transport::Tcp }
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let backends: Vec<String> = (0..BACKENDS).map(backend_name).collect();
        let mut names = vec![EDGE_NAME, SECURE_NAME, "core.example.com"];
        names.extend(backends.iter().map(String::as_str));
        Identity::new(&names)
    })
}

/// What backend `index` shows: its own name alone.
fn backend_identity(index: usize) -> &'static Identity {
    static IDENTITIES: OnceLock<Vec<Identity>> = OnceLock::new();
    let all = IDENTITIES.get_or_init(|| {
        (0..BACKENDS).map(|index| Identity::new(&[&backend_name(index)])).collect()
    });
    &all[index]
}

fn backend_name(index: usize) -> String {
    format!("b{index}.example.com")
}

/// Everything that all lives and all configurations of one run share.
pub struct Setting {
    pub options: Options,
    pub clock: Arc<SetClock>,
    branch_key: BranchKey,
    token_secret: [u8; 32],
    prefixes: Arc<PrefixTable>,
    server_sides: Vec<Option<ServerSide>>,
    client_sides: Vec<Option<ClientSide>>,
    /// How phones shake hands with edge and secure.
    pub phone_sides: Vec<ClientSide>,
    /// How each backend does: when it dials us, and when we dial it.
    pub backend_sides: Vec<(ClientSide, ServerSide)>,
}

impl Setting {
    pub fn new(options: Options) -> Setting {
        let mut random = Random::new(options.seed ^ 0xfeed_beef);
        let clock = Arc::new(SetClock::new(BEGIN));
        let mut secret = [0; 32];
        secret.iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
        let mut key = [0; 16];
        key.iter_mut().for_each(|byte| *byte = random.next_u64() as u8);
        let mut setting = Setting {
            options,
            clock,
            branch_key: BranchKey::new(key),
            token_secret: secret,
            prefixes: Arc::new(PrefixTable::new()),
            server_sides: Vec::new(),
            client_sides: Vec::new(),
            phone_sides: Vec::new(),
            backend_sides: Vec::new(),
        };
        setting.build_sides();
        setting
    }

    /// The TLS of everybody; nothing where the seed speaks none.
    fn build_sides(&mut self) {
        let snapshot = self.snapshot(0);
        let none = || vec![None; snapshot.listeners.len()];
        (self.server_sides, self.client_sides) = (none(), vec![None; BACKENDS]);
        if self.options.tls == 0 {
            return;
        }
        let clock: Arc<dyn TimeProvider> = Arc::clone(&self.clock) as Arc<dyn TimeProvider>;
        let day = Duration::from_secs(86_400);
        let tickets = Tickets::random(Arc::clone(&clock), day, day);
        let server = |listener: &Listener, zone: &Zone| {
            ServerSide::build(listener, zone, &snapshot.tls, Arc::clone(&clock), &tickets)
                .expect("the scene's identities are good")
        };
        let client = |name: &str, zone: &Zone| {
            ClientSide::build(zone, name, false, &snapshot.tls, Arc::clone(&clock))
                .expect("the scene's names are good")
        };
        let tls = |listener: &&Listener| listener.transport == Transport::Tls;
        let zone_of = |listener: &Listener| &snapshot.zones[usize::from(listener.zone)];
        self.server_sides = snapshot
            .listeners
            .iter()
            .map(|it| Some(it).filter(tls).map(|it| server(it, zone_of(it))))
            .collect();
        let core = &snapshot.zones[usize::from(CORE)];
        self.phone_sides = vec![client(EDGE_NAME, core), client(SECURE_NAME, core)];
        if !self.options.core_tls {
            return;
        }
        for index in 0..BACKENDS {
            self.client_sides[index] = Some(client(&backend_name(index), core));
            let own = backend_identity(index).files.clone();
            let mut zone = core.clone();
            zone.client_certificate = ClientCertificate::None;
            zone.certificate = Some(own.clone());
            // Half of them show a certificate with the names of all, as a pool behind one name does.
            let mut listener = snapshot.listeners[CORE_IN as usize].clone();
            if index.is_multiple_of(2) {
                listener.identities = vec![own];
            }
            self.backend_sides.push((client("core.example.com", &zone), server(&listener, &zone)));
        }
    }

    /// Configuration number `generation`: backends come and go with it.
    pub fn settings(&self, generation: u64) -> Arc<Settings> {
        let snapshot = self.snapshot(generation);
        let sides = snapshot.pools[0].backends.iter().map(|backend| {
            let index = (0..BACKENDS).find(|it| backend_address(*it) == backend.address);
            index.and_then(|index| self.client_sides[index].clone())
        });
        let sides = vec![sides.collect()];
        Arc::new(Settings::new(
            snapshot,
            self.server_sides.clone(),
            sides,
            self.branch_key,
            TokenKeys::new("edge-1", &self.token_secret, None),
            self.options.workers as u8,
            Arc::clone(&self.prefixes),
        ))
    }

    /// The backends that configuration `generation` knows.
    pub fn configured(&self, generation: u64) -> Vec<usize> {
        if self.options.scripted {
            return vec![0];
        }
        match generation % 4 {
            1 => vec![0, 1, 2],
            3 => vec![2, GUEST, 0, 1],
            _ => (0..BACKENDS).collect(),
        }
    }

    fn snapshot(&self, generation: u64) -> Snapshot {
        let options = &self.options;
        let backends = self.configured(generation).into_iter().map(|index| Backend {
            name: format!("b{index}").into(),
            transport: core_transport(options.core_tls),
            address: backend_address(index),
            server_name: backend_name(index).into(),
            weight: 100,
            priority: 0,
            retired: false,
        });
        let pool = Pool {
            name: "registrars".into(),
            zone: CORE,
            affinity: options.affinity,
            lanes: options.lanes,
            failover: options.failover,
            connect_timeout: Duration::from_secs(1),
            response_timeout: options.response_timeout,
            health: options.health,
            shared_dialogs: false,
            slow_start: Duration::ZERO,
            allow_wildcard: false,
            udp_only: false,
            backends: backends.collect(),
        };
        let route = |from_zone| Route { from_zone, methods: vec![], hosts: vec![], pool: 0 };
        Snapshot {
            node: "edge-1".into(),
            zones: self.zones(),
            listeners: self.listeners(),
            pools: vec![pool],
            routes: vec![route(EDGE), route(SECURE), route(CORE)],
            tls: Tls {
                tls12: true,
                tls13: !options.old_tls,
                groups: vec![options.group],
                ..Tls::default()
            },
            limits: self.limits(),
            drain: Drain { deadline: Duration::from_secs(10), pace: Duration::from_secs(4) },
            udp_answer: 480,
            generation,
        }
    }

    fn limits(&self) -> Limits {
        let second = Duration::from_secs(1);
        Limits {
            connections_per_core: self.options.accepted,
            requests_per_prefix: Rate { count: 100_000, per: second },
            handshake_rate_per_prefix: Rate { count: 100_000, per: second },
            outbox: self.options.outbox,
            transactions_per_core: self.options.transactions_kept,
            // Who waits for Timer C is not hung up on meanwhile.
            idle_timeout: if self.options.failover { 30 * 60 } else { 120 } * second,
            head: 8 * 1024,
            body: 8 * 1024,
            ..Limits::default()
        }
    }

    fn listeners(&self) -> Vec<Listener> {
        let tls = self.options.core_tls;
        let names = ["edge-tcp", "edge-tls", "edge-tcp6", "core-in", "secure-tls"];
        (0..LISTENERS)
            .map(|index| {
                let (zone, transport) = listener_zone(index, tls);
                let bind = listener_address(index, tls);
                let host = host_towards(zone);
                Listener {
                    name: names[index as usize].into(),
                    zone,
                    transport,
                    bind,
                    advertised: Advertised { host: host.into(), port: bind.port(), transport },
                    proxy_from: Vec::new(),
                    identities: match transport {
                        Transport::Tls => vec![identity().files.clone()],
                        Transport::Tcp => vec![],
                    },
                }
            })
            .collect()
    }

    fn zones(&self) -> Vec<Zone> {
        let core_tls = self.options.core_tls;
        let at =
            |host: &str, port, transport| Some(Advertised { host: host.into(), port, transport });
        let (tcp, tls) = (Transport::Tcp, Transport::Tls);
        let mutual = self.options.core_mutual;
        let asked = |trusted: bool| match trusted && mutual {
            true => ClientCertificate::Required,
            false => ClientCertificate::None,
        };
        let zone = |name: &str, transports, advertised, trusted: bool| Zone {
            name: name.into(),
            transports,
            advertised,
            client_certificate: asked(trusted),
            client_ca: vec![identity().authority.clone()],
            client_names: vec![],
            server_ca: vec![identity().authority.clone()],
            certificate: None,
            allow_from: match trusted {
                true => vec![Prefix { address: v4(10, 0, 1, 0), bits: 24 }],
                false => vec![],
            },
            path: PathPolicy::Always,
            tls_uri: self.options.tls_uri,
            trusted,
            strip_headers: vec![STRIPPED.into()],
        };
        let edge = ZoneAdvertised {
            tcp_v4: at(EDGE_NAME, 5060, tcp),
            tcp_v6: at(EDGE_NAME, 5060, tcp),
            tls_v4: at(EDGE_NAME, 5061, tls),
            tls_v6: at(EDGE_NAME, 5061, tls),
        };
        let core = host_towards(CORE);
        let core = ZoneAdvertised {
            tcp_v4: if core_tls { None } else { at(core, 5070, tcp) },
            tcp_v6: None,
            tls_v4: if core_tls { at(core, 5071, tls) } else { None },
            tls_v6: None,
        };
        let secure = ZoneAdvertised {
            tcp_v4: None,
            tcp_v6: None,
            tls_v4: at(SECURE_NAME, 5061, tls),
            tls_v6: None,
        };
        vec![
            zone("edge", Transports { tcp: true, tls: true }, edge, false),
            zone("core", Transports { tcp: !core_tls, tls: core_tls }, core, true),
            zone("secure", Transports { tcp: false, tls: true }, secure, false),
        ]
    }

    /// Connections that are still counted for a phone's prefix.
    pub fn counted(&self, peer: SocketAddr) -> u32 {
        self.prefixes.connections(peer.ip())
    }

    /// What the naive reference proxy knows of the scene.
    pub fn facts(&self) -> Facts {
        let core_tls = self.options.core_tls;
        let core_port = listener_address(CORE_IN, core_tls).port();
        let mut own: Vec<(String, u16)> = (0..LISTENERS)
            .map(|listener| listener_address(listener, core_tls))
            .map(|address| (bracketed(address.ip()), address.port()))
            .collect();
        for (name, port) in [
            (EDGE_NAME, 5060),
            (EDGE_NAME, 5061),
            (SECURE_NAME, 5061),
            (host_towards(CORE), core_port),
        ] {
            own.push((name.to_owned(), port));
        }
        let face = |host: &str, port| Face { host: host.to_owned(), port };
        Facts {
            own,
            faces: vec![
                [face(EDGE_NAME, 5060), face(EDGE_NAME, 5061)],
                [face(host_towards(CORE), core_port), face(host_towards(CORE), core_port)],
                [face(SECURE_NAME, 5061), face(SECURE_NAME, 5061)],
            ],
            tls_by_parameter: self.options.tls_uri == TlsUri::Transport,
            stripped: STRIPPED.to_owned(),
            trusted: vec![false, true, false],
            core_tls,
        }
    }
}

/// The name that we go by towards a zone.
pub fn host_towards(zone: u16) -> &'static str {
    match zone {
        EDGE => EDGE_NAME,
        CORE => "10.0.0.1",
        _ => SECURE_NAME,
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
