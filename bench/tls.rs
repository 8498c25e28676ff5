//! What TLS costs in memory, on one thread, without a socket: handshakes of every kind, and one record of 500 bytes.
//!
//! `cargo bench --bench tls`. Each figure is the thread's CPU time, as median and range of rounds; beside the session
//! stands the same handshake in bare rustls, measured in turn in the same run. With `bare` as its argument it measures
//! bare rustls alone and prints two numbers: nanoseconds of a server's full handshake, and of a resumed one.

use std::sync::Arc;

use ringfront::base::chunk::ChunkPool;
use ringfront::base::time::Instant;
use ringfront::config::snapshot::{ClientCertificate as Mode, Group};
use ringfront::tls::{ClientSide, ServerSide, Session};
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use rustls::{ServerConfig, ServerConnection};

#[path = "../tests/tls/pki.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod pki;

use pki::{Authority, Leaf, SERVER, Setup};

const ROUNDS: usize = 9;
const HANDSHAKES: u32 = 200;
const RECORDS: u32 = 20_000;

/// CPU time of this thread in nanoseconds.
fn cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Median, lowest and highest of the rounds, in units of `per` nanoseconds.
fn row(name: &str, mut rounds: Vec<f64>, per: f64, unit: &str) -> f64 {
    rounds.sort_by(f64::total_cmp);
    let (low, middle, high) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    println!("{name:<44} {:>8.1} {unit}  ({:.1} .. {:.1})", middle / per, low / per, high / per);
    middle
}

/// One end of a connection.
struct End {
    session: Session,
    kept: Vec<u8>,
    plain: Vec<u8>,
    out: Vec<u8>,
}

impl End {
    fn new(session: Session) -> End {
        End {
            session,
            kept: Vec::with_capacity(8192),
            plain: Vec::with_capacity(8192),
            out: Vec::with_capacity(8192),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let opened = self
            .session
            .open(Instant(1), &mut self.kept, &mut self.plain, &mut self.out)
            .expect("a good peer");
        self.kept.drain(..opened.consumed);
    }
}

/// Time of the flights of one end.
#[derive(Default)]
struct Clock(u64);

impl Clock {
    fn run<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let from = cpu();
        let result = work();
        self.0 += cpu() - from;
        result
    }

    fn each(&self, count: usize) -> f64 {
        self.0 as f64 / count as f64
    }
}

/// One handshake of each of `sides` at once, flight by flight, so that the clock is read once for a flight of all of
/// them. Nanoseconds of one handshake: server, client.
fn handshakes(sides: &[ClientSide], server: &ServerSide, resumed: bool) -> (f64, f64) {
    let (mut up, mut down) = (Clock::default(), Clock::default());
    let mut clients: Vec<End> = down.run(|| {
        let start = |side| {
            let mut end = End::new(Session::client(side).expect("a good name"));
            end.receive(&[]);
            end
        };
        sides.iter().map(start).collect()
    });
    let mut servers: Vec<End> =
        up.run(|| sides.iter().map(|_| End::new(Session::server(server))).collect());
    while clients.iter().any(|end| !end.out.is_empty()) {
        up.run(|| {
            for (client, server) in clients.iter_mut().zip(&mut servers) {
                server.receive(&client.out);
                client.out.clear();
            }
        });
        down.run(|| {
            for (client, server) in clients.iter_mut().zip(&mut servers) {
                client.receive(&server.out);
                server.out.clear();
            }
        });
    }
    let want = |end: &End| end.session.summary().is_some_and(|it| it.resumed == resumed);
    assert!(clients.iter().chain(&servers).all(want));
    (up.each(sides.len()), down.each(sides.len()))
}

/// The same in bare rustls, by its buffered connections. Nanoseconds of one handshake at the server.
fn bare(clients: &[Arc<ClientConfig>], server: &Arc<ServerConfig>, resumed: bool) -> f64 {
    let name = ServerName::try_from(SERVER).expect("a name");
    let mut up = Clock::default();
    let mut clients: Vec<ClientConnection> = clients
        .iter()
        .map(|client| ClientConnection::new(client.clone(), name.clone()).expect("a client"))
        .collect();
    let mut servers: Vec<ServerConnection> = up.run(|| {
        (0..HANDSHAKES).map(|_| ServerConnection::new(server.clone()).expect("a server")).collect()
    });
    while clients.iter().any(|end| end.wants_write()) {
        let mut wires: Vec<Vec<u8>> = clients
            .iter_mut()
            .map(|end| {
                let mut wire = Vec::with_capacity(8192);
                while end.wants_write() {
                    end.write_tls(&mut wire).expect("a vector takes all");
                }
                wire
            })
            .collect();
        up.run(|| {
            for (wire, server) in wires.iter_mut().zip(&mut servers) {
                server.read_tls(&mut wire.as_slice()).expect("a slice gives all");
                server.process_new_packets().expect("a good client");
                wire.clear();
                while server.wants_write() {
                    server.write_tls(wire).expect("a vector takes all");
                }
            }
        });
        for (wire, client) in wires.iter().zip(&mut clients) {
            client.read_tls(&mut wire.as_slice()).expect("a slice gives all");
            client.process_new_packets().expect("a good server");
        }
    }
    let kind = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
    assert!(servers.iter().all(|end| end.handshake_kind() == Some(kind)));
    up.each(servers.len())
}

/// Bare rustls alone: what `bench/handshake/run` compares the front-end with.
fn bare_alone() {
    let rounds = |resumed: bool| {
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let (clients, server) = bare_sides(&Setup::new());
                let first = bare(&clients, &server, false);
                if resumed { bare(&clients, &server, true) } else { first }
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    };
    println!("{:.0} {:.0}", rounds(false), rounds(true));
}

/// A side for each client, so that each has its own ticket.
fn bare_sides(setup: &Setup) -> (Vec<Arc<ClientConfig>>, Arc<ServerConfig>) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(setup.authority.der().into()).expect("a CA");
    let client = ClientConfig::builder_with_details(provider.clone(), setup.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let identity = &setup.listener.identities[0];
    let chain = identity.chain.iter().map(|der| der.clone().into()).collect();
    let key = PrivateKeyDer::Pkcs8(identity.key.to_vec().into());
    let mut server = ServerConfig::builder_with_details(provider, setup.clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a good pair");
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("random numbers");
    server.send_tls13_tickets = 1;
    let client = |_| {
        let mut own = client.clone();
        own.resumption = Resumption::in_memory_sessions(8);
        Arc::new(own)
    };
    ((0..HANDSHAKES).map(client).collect(), Arc::new(server))
}

struct Kind {
    name: &'static str,
    tls12: bool,
    group: Group,
    mutual: bool,
    resumed: bool,
}

fn sides(kind: &Kind) -> (Vec<ClientSide>, ServerSide) {
    let mut setup = Setup::new();
    setup.versions(kind.tls12, !kind.tls12);
    setup.tls.groups = vec![kind.group];
    setup.client_tls.groups = vec![kind.group];
    if kind.mutual {
        let ca = Authority::new("client CA");
        setup.ask(Mode::Required, &ca);
        setup.client_zone.certificate = Some(ca.issue(Leaf::dns("pbx.example.net")).files(&[]));
    }
    // A side for each client, so that each has its own ticket.
    ((0..HANDSHAKES).map(|_| setup.client()).collect(), setup.server())
}

/// Nanoseconds of one record: seal, open.
fn records(tls12: bool) -> (f64, f64) {
    let kind = Kind { name: "", tls12, group: Group::X25519, mutual: false, resumed: false };
    let (client_sides, server_side) = sides(&kind);
    let mut client = End::new(Session::client(&client_sides[0]).expect("a good name"));
    let mut server = End::new(Session::server(&server_side));
    client.receive(&[]);
    while !client.out.is_empty() {
        server.receive(&std::mem::take(&mut client.out));
        client.receive(&std::mem::take(&mut server.out));
    }
    let (mut sealing, mut opening) = (Clock::default(), Clock::default());
    let (message, batch) = ([b'x'; 500], 100);
    let mut pool = ChunkPool::new(1 << 20);
    for _ in 0..RECORDS / batch {
        let mut chunk = pool.take(60_000).expect("room");
        sealing.run(|| {
            for _ in 0..batch {
                client.session.seal(&message, &mut chunk).expect("sealed");
            }
        });
        server.kept.extend_from_slice(chunk.bytes());
        server.plain.clear();
        opening.run(|| server.receive(&[]));
        assert_eq!(server.plain.len(), message.len() * batch as usize);
        pool.give(chunk);
    }
    (sealing.each(RECORDS as usize), opening.each(RECORDS as usize))
}

fn main() {
    if std::env::args().any(|argument| argument == "bare") {
        return bare_alone();
    }
    let x25519 = Group::X25519;
    let kind = |name, tls12, group, mutual, resumed| Kind { name, tls12, group, mutual, resumed };
    let kinds = [
        kind("1.3 X25519", false, x25519, false, false),
        kind("1.3 X25519, client certificate", false, x25519, true, false),
        kind("1.3 X25519, resumed", false, x25519, false, true),
        kind("1.3 X25519, client certificate, resumed", false, x25519, true, true),
        kind("1.3 P-256", false, Group::P256, false, false),
        kind("1.3 X25519MLKEM768", false, Group::X25519MlKem768, false, false),
        kind("1.2 X25519", true, x25519, false, false),
        kind("1.2 X25519, resumed", true, x25519, false, true),
    ];
    println!("handshakes, ECDSA P-256 certificate, {ROUNDS} rounds of {HANDSHAKES}");
    let (clients, server) = bare_sides(&Setup::new());
    let (mut bare_rounds, mut own_rounds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare_rounds.push(bare(&clients, &server, false));
        let (sides, server) = sides(&kinds[0]);
        own_rounds.push(handshakes(&sides, &server, false).0);
    }
    let bare = row("1.3 X25519, server, bare rustls", bare_rounds, 1e3, "us");
    let own = row("1.3 X25519, server, session", own_rounds, 1e3, "us");
    println!("{:<44} {:>8.2}", "session / bare", own / bare);
    for kind in &kinds {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (sides, server) = sides(kind);
            if kind.resumed {
                handshakes(&sides, &server, false);
            }
            let (server, client) = handshakes(&sides, &server, kind.resumed);
            up.push(server);
            down.push(client);
        }
        row(&format!("{}, server", kind.name), up, 1e3, "us");
        row(&format!("{}, client", kind.name), down, 1e3, "us");
    }
    println!("records of 500 bytes, AES-256-GCM, {ROUNDS} rounds of {RECORDS}");
    for (tls12, version) in [(false, "1.3"), (true, "1.2")] {
        let (seals, opens): (Vec<f64>, Vec<f64>) = (0..ROUNDS).map(|_| records(tls12)).unzip();
        row(&format!("{version}, seal"), seals, 1.0, "ns");
        row(&format!("{version}, open"), opens, 1.0, "ns");
    }
}
