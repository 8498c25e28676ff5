//! The supervisor with everything real behind it, spoken to by its own queues.

use std::net::SocketAddr;
use std::path::Path;

use rustls::pki_types::UnixTime;

use super::super::admin::Questions;
use super::super::fleet::Events;
use super::super::reload::{Refused, Reload};
use super::*;
use crate::config::snapshot::{NamedBackend, NamedPlace, Transport, Transports};
use crate::config::{self, HostFacts, Settled};
use crate::tls::identity;

/// The embedded default on ports that the kernel chooses.
fn settled(directory: &Path) -> Settled {
    let host = HostFacts {
        cores: vec![crate::sys::affinity::cores()[0]],
        descriptors: 20_000,
        user: 0,
        unix_time: 1_800_000_000,
        ipv6_loopback: false,
    };
    let mut settled = config::load(None, &host).unwrap();
    settled.snapshot.limits.connections_per_core = 64;
    for listener in &mut settled.snapshot.listeners {
        listener.bind.set_port(0);
    }
    let control = &mut settled.control;
    control.metrics_listen = None;
    control.state_dir = directory.join("state");
    control.secret_file = directory.join("state/secret");
    control.admin = crate::config::snapshot::AdminListen::Unix(directory.join("state/admin.sock"));
    settled
}

/// Starts everything real, lets `act` speak to the supervisor, and returns how the process ended.
fn run(act: impl AsyncFnOnce(Events, Questions) + 'static) -> Lost {
    let refused = || Refused { faults: vec!["no file".to_owned()], files: Vec::new() };
    run_with(move |_| Box::new(move || Err(refused())), act)
}

/// The same with what a reload reads, made for the directory of the process.
fn run_with(
    reads: impl FnOnce(&Path) -> Box<dyn Fn() -> Result<Settled, Refused>>,
    act: impl AsyncFnOnce(Events, Questions) + 'static,
) -> Lost {
    let directory = tempfile::tempdir().unwrap();
    let Settled { snapshot, control, .. } = settled(directory.path());
    let read = reads(directory.path());
    tokio_uring::start(async {
        let log = Log::start(&control.log).await.unwrap();
        let (events_to, events) = events();
        let (questions_to, questions) = start::questions();
        let running = start::start(snapshot, &control, 0, &events_to, &questions_to).await.unwrap();
        let reload = (Reload::new(None, read), Watch::new(Vec::new()));
        let supervisor = Supervisor::new(running, control, reload, log, events, questions);
        let supervisor = supervisor.await.unwrap();
        let acting = tokio_uring::spawn(act(events_to, questions_to));
        let ended = tokio::time::timeout(Duration::from_secs(60), supervisor.run()).await;
        acting.await.expect("what was said to the supervisor");
        ended.expect("the process ends")
    })
}

async fn ask(to: &Questions, question: Question) -> serde_json::Value {
    let (answer, answered) = tokio::sync::oneshot::channel();
    to.send(Asked { question, answer }).await.unwrap();
    match answered.await.unwrap() {
        Answer::Json(_, value) => value,
        Answer::Problem(problem) => problem.document(),
        Answer::Text(_, text) => text.into(),
    }
}

#[test]
fn a_panic_of_a_worker_is_counted_and_the_loss_of_one_ends_the_process() {
    let lost = run(async |events, questions| {
        let message = "index\x1b[2J".to_owned();
        let panicked = WorkerEvent::Panicked { message, leaked_bytes: 64 };
        events.send((Who::Worker(0), panicked)).await.unwrap();
        let workers = ask(&questions, Question::Workers).await;
        assert_eq!(workers["workers"][0]["panics"], 1);
        let status = ask(&questions, Question::Status).await;
        assert_eq!((&status["worker_panics"], &status["state"]), (&json!(1), &json!("running")));
        let reason = "3 panics within a minute".to_owned();
        events.send((Who::Worker(0), WorkerEvent::GaveUp { reason })).await.unwrap();
    });
    assert_eq!(lost.as_deref(), Some("worker 0 cannot go on: 3 panics within a minute"));
}

#[test]
fn a_drain_by_the_admin_interface_ends_the_process_in_peace() {
    let lost = run(async |_events, questions| {
        assert_eq!(ask(&questions, Question::Health).await["healthy"], true);
        let refused = ask(&questions, Question::Reload).await;
        assert_eq!(refused["faults"], json!(["no file"]));
        assert_eq!(refused["status"], 422);
        assert_eq!(ask(&questions, Question::Drain).await["state"], "draining");
    });
    assert_eq!(lost, None);
}

/// A second configuration: another interval, and a name that nobody resolves at `server`, so that a reload takes two
/// seconds. With `seconds` the certificate of its TLS listeners ends after that time.
fn second(directory: &Path, server: SocketAddr, seconds: Option<u64>) -> Settled {
    let mut settled = settled(directory);
    settled.control.latency_interval = Duration::from_secs(77);
    let resolver = &mut settled.control.resolver;
    resolver.servers = vec![server];
    resolver.names.push(NamedBackend {
        pool: 0,
        name: "far".into(),
        place: NamedPlace::Host { name: "far.example.com".into(), port: 5061 },
        transports: Transports { tcp: true, tls: false },
        server_name: "far.example.com".into(),
        weight: 1,
        priority: 0,
    });
    if let Some(seconds) = seconds {
        let day = 24 * 60 * 60;
        let begin = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(unix_time()).unwrap() + seconds - day,
        ));
        let short = identity::self_signed(&["localhost"], begin, 1).unwrap();
        for listener in &mut settled.snapshot.listeners {
            if listener.transport == Transport::Tls {
                listener.identities = vec![short.identity()];
            }
        }
    }
    settled
}

/// What is found wrong only when names have been looked up: here a certificate that has ended meanwhile.
#[test]
fn a_reload_that_fails_at_its_last_step_leaves_nothing_of_it() {
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap();
    let reads = move |directory: &Path| -> Box<dyn Fn() -> Result<Settled, Refused>> {
        let directory = directory.to_owned();
        let first = std::cell::Cell::new(true);
        Box::new(move || Ok(second(&directory, server, first.replace(false).then_some(1))))
    };
    let lost = run_with(reads, async move |_events, questions| {
        let _silent = silent;
        let before = ask(&questions, Question::Configuration).await;
        let refused = ask(&questions, Question::Reload).await;
        assert_eq!(refused["status"], 422, "{refused}");
        assert!(refused["faults"][0].as_str().unwrap().contains("ended"), "{refused}");
        assert_eq!(ask(&questions, Question::Configuration).await, before);
        let status = ask(&questions, Question::Status).await;
        assert_eq!(status["names"], json!([]), "{status}");
        // The same without the fault is taken over whole.
        let taken = ask(&questions, Question::Reload).await;
        assert_eq!(taken["config_generation"], 1, "{taken}");
        let after = ask(&questions, Question::Configuration).await;
        assert_eq!(after["latency"]["interval"], "77s", "{after}");
        ask(&questions, Question::Drain).await;
    });
    assert_eq!(lost, None);
}
