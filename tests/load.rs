//! The load generator for real: `ringfront load` as a process of its own, over the kernel's rings, against the embedded
//! backend on a worker of this process; TCP and TLS, IPv4 and IPv6.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfront::base::machine::Machine;
use ringfront::config::snapshot::{
    Advertised, ClientCertificate, Group, Listener as ListenerSettings, PathPolicy, Tls, TlsUri,
    Transport, Transports, Zone, ZoneAdvertised,
};
use ringfront::peer::registrar::{Counts, Listening, Registrar, Settings};
use ringfront::sys::socket::listen;
use ringfront::sys::uring::{KernelRing, RingPlan};
use ringfront::sys::wake::RingDirectory;
use ringfront::tls::clock::{TimeProvider, UnixTime};
use ringfront::tls::identity::self_signed;
use ringfront::tls::{ServerSide, Tickets};
use ringfront::worker::mailbox::mailboxes;
use ringfront::worker::turn::TurnPlan;
use ringfront::worker::{self, WorkerHandle, WorkerPlan, spawn};
use rustls::time_provider::DefaultTimeProvider;
use serde_json::Value;

const ACCEPTED: u32 = 512;

/// One run at a time: two on the same cores would each measure the other.
static ALONE: Mutex<()> = Mutex::new(());

/// The embedded backend on its own worker, listening on TCP and TLS for each family.
struct Backend {
    worker: WorkerHandle<Registrar>,
    /// TCP v4, TLS v4, TCP v6, TLS v6; the last two only where the host has IPv6.
    addresses: Vec<SocketAddr>,
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

fn tls() -> Tls {
    let groups = vec![Group::X25519MlKem768, Group::X25519];
    Tls { groups, ..Tls::default() }
}

fn server_side(directory: &tempfile::TempDir) -> ServerSide {
    let clock: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
    let now = clock.current_time().unwrap();
    let made = self_signed(&["localhost", "127.0.0.1", "::1"], now, 2).unwrap();
    std::fs::write(directory.path().join("ca.pem"), &made.ca_pem).unwrap();
    let foreign = self_signed(
        &["localhost"],
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs())),
        2,
    );
    std::fs::write(directory.path().join("foreign.pem"), foreign.unwrap().ca_pem).unwrap();
    let listener = ListenerSettings {
        name: "backend".into(),
        zone: 0,
        transport: Transport::Tls,
        bind: "127.0.0.1:0".parse().unwrap(),
        advertised: Advertised { transport: Transport::Tls, host: "localhost".into(), port: 5061 },
        proxy_from: Vec::new(),
        identities: vec![made.identity()],
    };
    let zone = Zone {
        name: "core".into(),
        transports: Transports { tcp: true, tls: true },
        advertised: ZoneAdvertised { tcp_v4: None, tcp_v6: None, tls_v4: None, tls_v6: None },
        client_certificate: ClientCertificate::None,
        client_ca: Vec::new(),
        client_names: Vec::new(),
        server_ca: Vec::new(),
        certificate: None,
        allow_from: Vec::new(),
        path: PathPolicy::Off,
        tls_uri: TlsUri::Sips,
        trusted: false,
        strip_headers: Vec::new(),
    };
    let hour = Duration::from_secs(3600);
    let tickets = Tickets::random(clock.clone(), 12 * hour, hour);
    ServerSide::build(&listener, &zone, &tls(), clock, &tickets).unwrap()
}

impl Backend {
    fn start() -> Backend {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let side = server_side(&directory);
        let mut families: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap()];
        match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
            Ok(_) => families.push(Ipv6Addr::LOCALHOST.into()),
            Err(error) => eprintln!("SKIPPED: no runs over IPv6, the host has none: {error}"),
        }
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for family in families {
            for tls in [None, Some(side.clone())] {
                let socket = listen(SocketAddr::new(family, 0), 1).unwrap().remove(0);
                let advertised = socket.address().to_string().into();
                listeners.push(Listening { tls, advertised });
                sockets.push(socket);
            }
        }
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.address()).collect();
        let directory_of_rings = Arc::new(RingDirectory::new(1));
        let mut ring = RingPlan::new(0, ACCEPTED, 0, directory_of_rings).unwrap();
        ring.listeners = sockets.into();
        let waker = ring.waker.clone();
        let settings = Arc::new(Settings { listeners });
        let worker = spawn(WorkerPlan {
            name: "backend".into(),
            turn: TurnPlan {
                listeners: addresses.len() as u32,
                accepted: ACCEPTED,
                accept_limit: ACCEPTED - 64,
                own: 0,
            },
            mailboxes: mailboxes(1, 1).remove(0),
            prepare: Box::new(|| {}),
            build_ring: Box::new(move || Ok(KernelRing::new(ring.clone())?)),
            build_machine: Box::new(move |now, _| {
                Registrar::new(settings.clone(), ACCEPTED, 1, now)
            }),
            incarnation: Box::new(|| 1),
            wake: Arc::new(move || waker.wake()),
            notify: Box::new(|event| {
                assert!(!matches!(event, worker::WorkerEvent::Panicked { .. }), "{event:?}");
            }),
        })
        .unwrap();
        Backend { worker, addresses, directory, _alone: alone }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn target(&self, place: usize) -> String {
        let transport = if place.is_multiple_of(2) { "tcp" } else { "tls" };
        format!("{transport}:{}", self.addresses[place])
    }

    /// Runs `ringfront load`, with a short run unless `more` says otherwise.
    fn load(&self, place: usize, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfront"));
        command.args(["load", &self.target(place), "--warmup", "50ms", "--connections", "8"]);
        if !more.contains(&"--duration") {
            command.args(["--duration", "250ms"]);
        }
        if place % 2 == 1 && !more.contains(&"--ca") && !more.contains(&"--insecure") {
            command.arg("--ca").arg(self.file("ca.pem"));
        }
        command.args(more).output().unwrap()
    }

    /// The same, and the JSON that it prints; the run must have met `errors=0`.
    fn json(&self, place: usize, more: &[&str]) -> Value {
        let output = self.load(place, &[more, &["--json", "--expect", "errors=0"]].concat());
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} {more:?}: {shown}", self.target(place));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn counts(&self) -> Counts {
        let (reply, answer) = std::sync::mpsc::channel();
        let spare = <Registrar as Machine>::Report::default();
        let reply = Box::new(move |report| reply.send(report).unwrap());
        assert!(self.worker.send(worker::Command::Report { spare, reply }).is_ok());
        answer.recv_timeout(Duration::from_secs(10)).unwrap().machine
    }

    fn stop(self) {
        assert!(self.worker.send(worker::Command::Stop).is_ok());
        self.worker.join();
    }
}

#[test]
fn each_transport_and_family_carries_each_kind_of_transaction() {
    let backend = Backend::start();
    for place in 0..backend.addresses.len() {
        for scenario in ["options", "register", "message", "call"] {
            let run = backend.json(place, &["--scenario", scenario, "--outstanding", "3"]);
            let what = format!("{} {scenario}: {run}", backend.target(place));
            assert!(run["operations"].as_u64().unwrap() > 20, "{what}");
            assert_eq!(run["latency_nanoseconds"]["operation"]["clamped"], 0, "{what}");
            assert!(run["responses"]["200"].as_u64().unwrap() > 20, "{what}");
            assert_eq!(run["handshakes"]["full"], if place % 2 == 1 { 8 } else { 0 }, "{what}");
        }
    }
    let counts = backend.counts();
    assert_eq!((counts.streams_lost, counts.undeliverable), (0, 0), "{counts:?}");
    assert!(counts.registers > 100 && counts.users == 8, "{counts:?}");
    backend.stop();
}

#[test]
fn connections_are_what_handshake_churn_and_idle_are_about() {
    let backend = Backend::start();
    for place in [0, 1] {
        for scenario in ["handshake", "churn", "storm"] {
            let run = backend.json(place, &["--scenario", scenario, "--duration", "1s"]);
            assert!(run["operations"].as_u64().unwrap() > 8, "{scenario}: {run}");
        }
        let idle = backend.json(place, &["--scenario", "idle"]);
        assert_eq!(idle["operations"], 0, "{idle}");
    }
    for (resume, most) in [(false, "full"), (true, "resumed")] {
        let more: &[&str] = if resume { &["--resume"] } else { &[] };
        let run =
            backend.json(1, &[&["--scenario", "handshake", "--duration", "1s"], more].concat());
        let count = |kind: &str| run["handshakes"][kind].as_u64().unwrap();
        assert!(count(most) * 2 > count("full") + count("resumed"), "{run}");
        assert_eq!(count("resumed") > 0, resume, "{run}");
    }
    backend.stop();
}

#[test]
fn an_open_loop_keeps_its_rate_over_two_workers() {
    let backend = Backend::start();
    let run = backend.json(1, &["--rate", "1000", "--workers", "2", "--duration", "1s"]);
    let operations = run["operations"].as_u64().unwrap();
    assert!((990..=1010).contains(&operations), "{run}");
    assert_eq!(run["latency_nanoseconds"]["lag"]["count"], 1000, "{run}");
    backend.stop();
}

fn ringfront(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfront")).args(arguments).output().unwrap()
}

#[test]
fn the_files_are_those_of_hdrhistogram() {
    use base64::Engine;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let backend = Backend::start();
    let (hlog, hgrm) = (backend.file("run.hlog"), backend.file("run.hgrm"));
    let svg = backend.file("run.svg");
    let path = |file: &std::path::Path| file.to_str().unwrap().to_owned();
    let (log_path, table_path, svg_path) = (path(&hlog), path(&hgrm), path(&svg));
    let files = ["--hlog", &log_path, "--hgrm", &table_path, "--svg", &svg_path];
    let run = backend.json(0, &files);
    let log = std::fs::read(&hlog).unwrap();
    let mut sum = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
    for entry in IntervalLogIterator::new(&log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram()).unwrap();
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        if interval.tag().unwrap().as_str() == "operation" {
            sum.add(histogram).unwrap();
        }
    }
    assert_eq!(run["latency_nanoseconds"]["operation"]["count"], sum.len());
    assert_eq!(run["latency_nanoseconds"]["operation"]["max"], sum.max());
    let table = std::fs::read_to_string(&hgrm).unwrap();
    assert!(table.contains(&format!("Total count    = {:>12}]", sum.len())), "{table}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("operation"), "{drawn}");

    // What was written is read back, and drawn, by the program itself.
    let again = backend.file("again.svg");
    let arguments = ["histogram", &log_path, "--json", "--tag", "operation", "--svg"];
    let read = ringfront(&[&arguments[..], &[&path(&again)]].concat());
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(read[&log_path]["operation"]["summary"]["count"], sum.len());
    assert!(std::fs::read_to_string(&again).unwrap().contains("operation over time"));
    let text = ringfront(&["histogram", &log_path, &log_path, "--hgrm", &table_path]);
    assert_eq!(text.status.code(), Some(1), "--hgrm is of one log");
    let missing = ringfront(&["histogram", &log_path, "--tag", "nonsense"]);
    let told = String::from_utf8(missing.stderr).unwrap();
    assert!(told.contains("it has") && told.contains("operation"), "{told}");
    let no_log = ringfront(&["histogram", &table_path]);
    assert_eq!(no_log.status.code(), Some(1), "a table is no log");
    backend.stop();
}

#[test]
fn expectations_and_trust_decide_the_exit_code() {
    let backend = Backend::start();
    let missed = backend.load(0, &["--expect", "p50<1ns,rate>1"]);
    assert_eq!(missed.status.code(), Some(1));
    let told = String::from_utf8(missed.stderr).unwrap();
    assert!(told.starts_with("expected p50<1ns, found "), "{told}");
    let text = String::from_utf8(missed.stdout).unwrap();
    assert!(text.starts_with("measured 0.25 s: ") && text.contains("\noperation "), "{text}");

    let foreign = backend.file("foreign.pem");
    let refused = backend.load(1, &["--ca", foreign.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(text.contains("handshake_failed"), "{text}");
    assert!(backend.load(1, &["--insecure"]).status.success());

    // Nobody there: nothing completed.
    let unused = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap()[0].address();
    let command = ["load", &format!("tcp:{unused}"), "--duration", "100ms", "--warmup", "0s"];
    let nobody = Command::new(env!("CARGO_BIN_EXE_ringfront")).args(command).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8(nobody.stdout).unwrap().contains("connect_failed"));
    backend.stop();
}

#[test]
fn wrong_words_are_answered_with_the_right_ones() {
    for (arguments, word) in [
        (&["udp:127.0.0.1:5060"][..], "no UDP"),
        (&["tcp:sip.invalid:5060"], "/etc/hosts"),
        (&["tls:127.0.0.1:5061"], "--insecure"),
        (&["tcp:127.0.0.1:1", "--scenario", "jump"], "options, register"),
        (&["tcp:127.0.0.1:1", "--scenario", "churn", "--outstanding", "2"], "--connections"),
        (
            &["tcp:127.0.0.1:1", "--scenario", "storm", "--rate", "2"],
            "--rate does not go with storm",
        ),
        (&["tcp:127.0.0.1:1", "--message-bytes", "10"], "from "),
        (&["tcp:127.0.0.1:1", "--uri", "tel:1"], "no SIP URI"),
        (&["tcp:127.0.0.1:1", "--rate", "0"], "above 0"),
        (&["tcp:127.0.0.1:1", "--expect", "speed>1"], "none of"),
        (&["tcp:127.0.0.1:1", "--core", "0,1"], "2 cores for 1 workers"),
        (&["tcp:127.0.0.1:1", "--core", "9999"], "cannot pin"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfront"));
        let output = command.arg("load").args(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(word), "{arguments:?}: {told}");
    }
}
