//! The workers of the process: their rings, listeners and lives.
//! Owns their handles, and the listeners as long as any worker may accept from them. Never looks into what they do.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::fault;
use super::secret;
use crate::base::limits;
use crate::config::snapshot::{EngineMode, EngineSettings};
use crate::peer::registrar::{self, Registrar};
use crate::proxy::settings::Settings;
use crate::proxy::{Envelope, Proxy};
use crate::sys::socket::Listener;
use crate::sys::uring::{KernelRing, Mode, RingPlan};
use crate::sys::wake::RingDirectory;
use crate::sys::{StartUpFault, affinity};
use crate::worker::mailbox::{Mailboxes, mailboxes};
use crate::worker::turn::TurnPlan;
use crate::worker::{self, WorkerEvent, WorkerHandle, WorkerPlan};

/// Events that wait for the supervisor: a worker has a handful in each life, and few lives.
pub const EVENTS_WAITING_MAX: usize = 1024;

/// Connections of the embedded backend: those of the workers and of a few that dial it themselves.
const BACKEND_CONNECTIONS: u32 = 1024;

/// Who something is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Worker(usize),
    Backend,
}

/// The supervisor's ear for what workers tell.
pub type Events = mpsc::Sender<(Who, WorkerEvent)>;

/// Starts one proxy worker on each of `cores`. Listeners: for each bound address those of all workers.
pub fn start(
    cores: &[usize],
    engine: &EngineSettings,
    settings: &Arc<Settings>,
    listeners: Vec<Vec<Listener>>,
    events: &Events,
) -> Result<Vec<WorkerHandle<Proxy>>, StartUpFault> {
    let workers = cores.len() as u16;
    let directory = Arc::new(RingDirectory::new(workers));
    let limit = settings.snapshot.limits.connections_per_core;
    let mut by_worker = by_worker(listeners, cores.len());
    let mut handles = Vec::new();
    for (index, mailboxes) in
        mailboxes::<Envelope>(workers, limits::MAILBOX_DEPTH).into_iter().enumerate()
    {
        let place = format!("worker {index}, core {}", cores[index]);
        let accepted = limit + limits::ACCEPT_RESERVE;
        let ring = ring_plan(
            &place,
            index as u16,
            accepted,
            limits::OWN_SLOTS,
            std::mem::take(&mut by_worker[index]),
            &directory,
        )?;
        let ring =
            RingPlan { mode: mode(engine, index), zero_copy_from: zero_copy_from(engine), ..ring };
        let turn = TurnPlan {
            listeners: ring.listeners.len() as u32,
            accepted,
            accept_limit: limit,
            own: limits::OWN_SLOTS,
        };
        let settings = Arc::clone(settings);
        let build = move |now, incarnation| {
            let settings = Arc::clone(&settings);
            Proxy::new(index as u8, incarnation, accepted, random_word(), now, settings)
        };
        let names = Names { thread: format!("worker-{index}"), place, core: Some(cores[index]) };
        let listen = listen(events, Who::Worker(index));
        handles.push(spawn(names, ring, turn, mailboxes, build, listen)?);
    }
    Ok(handles)
}

fn mode(engine: &EngineSettings, worker: usize) -> Mode {
    match engine.mode {
        EngineMode::Deferred => Mode::Deferred,
        EngineMode::BusyPoll => Mode::BusyPoll,
        EngineMode::Sqpoll => Mode::PolledSubmission {
            core: engine.sqpoll_cores.get(worker).map(|core| *core as u32),
        },
    }
}

fn zero_copy_from(engine: &EngineSettings) -> Option<u32> {
    engine.zero_copy_send.then_some(limits::ZERO_COPY_BYTES_MIN)
}

/// Starts the embedded backend on a worker of its own, which the scheduler places.
pub fn start_backend(
    listener: Vec<Listener>,
    events: &Events,
) -> Result<WorkerHandle<Registrar>, StartUpFault> {
    let place = "embedded backend".to_owned();
    let accepted = BACKEND_CONNECTIONS + limits::ACCEPT_RESERVE;
    let advertised = listener.first().map(|first| first.address().to_string()).unwrap_or_default();
    let settings = Arc::new(registrar::Settings {
        listeners: vec![registrar::Listening { tls: None, advertised: advertised.into() }],
    });
    let directory = Arc::new(RingDirectory::new(1));
    let ring = ring_plan(&place, 0, accepted, 0, listener, &directory)?;
    let turn = TurnPlan { listeners: 1, accepted, accept_limit: BACKEND_CONNECTIONS, own: 0 };
    let build = move |now, _incarnation| {
        Registrar::new(Arc::clone(&settings), accepted, random_word(), now)
    };
    let names = Names { thread: "backend".to_owned(), place, core: None };
    let mailboxes = mailboxes(1, 1).remove(0);
    spawn(names, ring, turn, mailboxes, build, listen(events, Who::Backend))
}

struct Names {
    thread: String,
    place: String,
    core: Option<usize>,
}

fn spawn<M: crate::base::machine::Machine + 'static>(
    names: Names,
    ring: RingPlan,
    turn: TurnPlan,
    mailboxes: Mailboxes<M::Envelope>,
    build_machine: impl FnMut(crate::base::time::Instant, u32) -> M + Send + 'static,
    notify: impl FnMut(WorkerEvent) + Send + 'static,
) -> Result<WorkerHandle<M>, StartUpFault> {
    let waker = Arc::clone(&ring.waker);
    let Names { thread, place, core } = names;
    let plan = WorkerPlan {
        name: thread,
        turn,
        mailboxes,
        prepare: Box::new(move || {
            if let Some(core) = core
                && !affinity::pin(core)
            {
                tracing::warn!(core, "the worker is not pinned: the kernel refused the core");
            }
        }),
        build_ring: Box::new(move || KernelRing::new(ring.clone()).map_err(Into::into)),
        build_machine: Box::new(build_machine),
        incarnation: Box::new(|| random_word() as u32),
        wake: Arc::new(move || waker.wake()),
        notify: Box::new(notify),
    };
    worker::spawn(plan).map_err(|fault| match fault.downcast::<StartUpFault>() {
        Ok(fault) => StartUpFault { place, ..*fault },
        Err(fault) => fault::start_up(
            format!("cannot start a worker: {fault}"),
            place,
            "the process may not have more threads or memory",
            "see: ulimit -u, TasksMax= of the unit, and free memory: free -m",
        ),
    })
}

fn listen(events: &Events, who: Who) -> impl FnMut(WorkerEvent) + Send + 'static {
    let events = events.clone();
    move |event| {
        // Full only when the supervisor hangs, and then nobody would read it.
        let _ = events.try_send((who, event));
    }
}

fn ring_plan(
    place: &str,
    worker: u16,
    accepted: u32,
    own: u32,
    listeners: Vec<Listener>,
    directory: &Arc<RingDirectory>,
) -> Result<RingPlan, StartUpFault> {
    let plan = RingPlan::new(worker, accepted, own, Arc::clone(directory)).map_err(|error| {
        fault::start_up(
            format!("cannot make a waker: {}", crate::sys::probe::text(&error)),
            place,
            "the process has no descriptor left",
            "raise LimitNOFILE= (systemd) or ulimit -n",
        )
    })?;
    Ok(RingPlan { listeners: listeners.into(), ..plan })
}

/// From one list for each address to one list for each worker.
fn by_worker(listeners: Vec<Vec<Listener>>, workers: usize) -> Vec<Vec<Listener>> {
    let mut by_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    for of_address in listeners {
        assert_eq!(of_address.len(), workers);
        for (worker, listener) in of_address.into_iter().enumerate() {
            by_worker[worker].push(listener);
        }
    }
    by_worker
}

fn random_word() -> u64 {
    let mut bytes = [0; 8];
    secret::random(&mut bytes);
    u64::from_ne_bytes(bytes)
}
