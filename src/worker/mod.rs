//! The turn: one Machine on one Ring; mailboxes; the life of a worker.
//! Owns the worker's thread. Never names the kernel or a protocol: what runs is a `Machine`, what it
//! runs on is a `Ring`, and control hands in the closures that build both on the worker's thread.
//! Invariant: a panic costs this worker's connections and nothing else.
#![forbid(unsafe_code)]

mod accept;
pub mod mailbox;
mod table;
pub mod turn;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use crate::base::limits;
use crate::base::machine::Machine;
use crate::base::ring::Ring;
use crate::base::time::Instant;
use mailbox::Mailboxes;
use turn::{Going, Turn, TurnPlan, WorkerReport};

/// What the ring's builder may fail with; control knows the real type.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Where a `Command::Report` is answered.
pub type Reply<M> = Box<dyn FnOnce(WorkerReport<<M as Machine>::Report>) + Send>;

/// Looks at a Machine on its own thread and sends on what it saw.
pub type Look<M> = Box<dyn FnOnce(&M, Instant) + Send>;

/// What control may ask of a running worker; obeyed between two turns' sleeps.
pub enum Command<M: Machine> {
    Configure(Arc<M::Settings>),
    /// Take no new work; `deadline` is when the process means to stop.
    Drain {
        deadline: Instant,
    },
    /// Hand out what was counted; `spare` takes its place.
    Report {
        spare: M::Report,
        reply: Reply<M>,
    },
    /// Show the Machine as it is between two turns. What looks must be quick: the worker waits for it.
    Look {
        look: Look<M>,
    },
    /// Reset every connection and end.
    Stop,
}

/// What a worker tells its supervisor, from its own thread.
#[derive(Debug)]
pub enum WorkerEvent {
    /// A life has begun: ring and Machine are built, the listeners are being armed.
    Started { incarnation: u32 },
    /// The Machine has nothing left to wait for.
    Drained,
    /// A life has ended by a panic; the next begins at once, unless `GaveUp` follows.
    Panicked { message: String, leaked_bytes: u64 },
    /// Too many panics, or the ring could not be built again. The thread has ended.
    GaveUp { reason: String },
    /// Ended by `Command::Stop`.
    Stopped,
}

/// Everything that a worker needs for its lives. The closures run on the worker's thread.
pub struct WorkerPlan<R: Ring, M: Machine> {
    /// The thread's name.
    pub name: String,
    pub turn: TurnPlan,
    pub mailboxes: Mailboxes<M::Envelope>,
    /// Called once, before anything else: pins the thread.
    pub prepare: Box<dyn FnOnce() + Send>,
    /// Builds the ring of one life; the listeners it accepts from outlive it.
    pub build_ring: Box<dyn FnMut() -> Result<R, Fault> + Send>,
    /// Builds the Machine of one life. The incarnation tells this life from all earlier ones.
    pub build_machine: Box<dyn FnMut(Instant, u32) -> M + Send>,
    /// A random number for each life.
    pub incarnation: Box<dyn FnMut() -> u32 + Send>,
    /// Ends the sleep of the worker's ring from any thread, also across restarts.
    pub wake: Arc<dyn Fn() + Send + Sync>,
    /// Told of each event, on the worker's thread.
    pub notify: Box<dyn FnMut(WorkerEvent) + Send>,
}

/// Why a command did not reach its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFault {
    #[error("the worker has ended")]
    Ended,
    #[error("the worker has {} commands waiting", limits::COMMAND_DEPTH)]
    Busy,
}

/// A way to give a worker commands, for tasks beside its handle.
pub struct Orders<M: Machine> {
    commands: SyncSender<Command<M>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl<M: Machine> Orders<M> {
    /// Hands a command over and wakes the worker; never waits.
    pub fn send(&self, command: Command<M>) -> Result<(), SendFault> {
        self.commands.try_send(command).map_err(|fault| match fault {
            TrySendError::Full(_) => SendFault::Busy,
            TrySendError::Disconnected(_) => SendFault::Ended,
        })?;
        (self.wake)();
        Ok(())
    }
}

/// Control's end of a worker.
pub struct WorkerHandle<M: Machine> {
    pub name: String,
    orders: Orders<M>,
    thread: thread::JoinHandle<()>,
}

impl<M: Machine> WorkerHandle<M> {
    /// Hands a command over and wakes the worker; never waits.
    pub fn send(&self, command: Command<M>) -> Result<(), SendFault> {
        self.orders.send(command)
    }

    pub fn orders(&self) -> Orders<M> {
        Orders { commands: self.orders.commands.clone(), wake: Arc::clone(&self.orders.wake) }
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until the thread has ended; `Command::Stop` must have been sent.
    pub fn join(self) {
        drop(self.orders);
        // The thread catches every panic of its lives; one of `notify` itself was printed already.
        let _ = self.thread.join();
    }
}

/// Starts a worker and returns when its first ring is built, or with the reason why it could not be.
pub fn spawn<R, M>(plan: WorkerPlan<R, M>) -> Result<WorkerHandle<M>, Fault>
where
    R: Ring + 'static,
    M: Machine + 'static,
{
    let (commands, inbox) = sync_channel(limits::COMMAND_DEPTH);
    let (built, first) = sync_channel(1);
    let name = plan.name.clone();
    let wake = plan.wake.clone();
    let thread = thread::Builder::new().name(name.clone()).spawn(move || {
        live(plan, inbox, &built);
    })?;
    match first.recv() {
        Ok(Ok(())) => Ok(WorkerHandle { name, orders: Orders { commands, wake }, thread }),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err("the worker's thread ended before its ring was built".into()),
    }
}

/// The parts of a worker that outlive its lives.
struct Lives<R: Ring, M: Machine> {
    turn: TurnPlan,
    build_ring: Box<dyn FnMut() -> Result<R, Fault> + Send>,
    build_machine: Box<dyn FnMut(Instant, u32) -> M + Send>,
    incarnation: Box<dyn FnMut() -> u32 + Send>,
    notify: Box<dyn FnMut(WorkerEvent) + Send>,
    inbox: Receiver<Command<M>>,
    /// What the next life must be told again.
    settings: Option<Arc<M::Settings>>,
    drain: Option<Instant>,
    stop: bool,
    /// When the last lives panicked.
    panics: VecDeque<Instant>,
}

/// How one life ended.
enum End<E> {
    Stopped,
    Panicked { mailboxes: Mailboxes<E>, message: String, leaked_bytes: u64, at: Instant },
}

fn live<R: Ring, M: Machine>(
    plan: WorkerPlan<R, M>,
    inbox: Receiver<Command<M>>,
    built: &SyncSender<Result<(), Fault>>,
) {
    let mut mailboxes = plan.mailboxes;
    let mut lives = Lives {
        turn: plan.turn,
        build_ring: plan.build_ring,
        build_machine: plan.build_machine,
        incarnation: plan.incarnation,
        notify: plan.notify,
        inbox,
        settings: None,
        drain: None,
        stop: false,
        panics: VecDeque::with_capacity(limits::PANICS_MAX),
    };
    (plan.prepare)();
    let mut ring = match (lives.build_ring)() {
        Ok(ring) => ring,
        Err(fault) => {
            // The receiver is `spawn`, which waits.
            let _ = built.send(Err(fault));
            return;
        }
    };
    let _ = built.send(Ok(()));
    loop {
        match lives.one(ring, mailboxes) {
            End::Stopped => return (lives.notify)(WorkerEvent::Stopped),
            End::Panicked { mailboxes: kept, message, leaked_bytes, at } => {
                mailboxes = kept;
                (lives.notify)(WorkerEvent::Panicked { message, leaked_bytes });
                if lives.has_panicked_too_often(at) {
                    let reason = format!("{} panics within a minute", limits::PANICS_MAX);
                    return (lives.notify)(WorkerEvent::GaveUp { reason });
                }
            }
        }
        ring = match (lives.build_ring)() {
            Ok(ring) => ring,
            Err(fault) => {
                return (lives.notify)(WorkerEvent::GaveUp { reason: fault.to_string() });
            }
        };
    }
}

impl<R: Ring, M: Machine> Lives<R, M> {
    /// One Machine on one ring, until it is told to stop or panics.
    fn one(&mut self, ring: R, mailboxes: Mailboxes<M::Envelope>) -> End<M::Envelope> {
        let incarnation = (self.incarnation)();
        let at = ring.now();
        let built = catch_unwind(AssertUnwindSafe(|| (self.build_machine)(at, incarnation)));
        let machine = match built {
            Ok(machine) => machine,
            Err(panic) => {
                let message = text_of(panic.as_ref());
                return End::Panicked { mailboxes, message, leaked_bytes: 0, at };
            }
        };
        let mut turn = Turn::new(&self.turn, ring, machine, mailboxes);
        (self.notify)(WorkerEvent::Started { incarnation });
        match catch_unwind(AssertUnwindSafe(|| self.run(&mut turn))) {
            Ok(()) => End::Stopped,
            Err(panic) => {
                let at = turn.ring().now();
                let (mailboxes, leaked_bytes) = turn.abandon();
                End::Panicked { mailboxes, message: text_of(panic.as_ref()), leaked_bytes, at }
            }
        }
    }

    fn run(&mut self, turn: &mut Turn<R, M>) {
        if let Some(settings) = self.settings.clone() {
            turn.command(Command::Configure(settings));
        }
        if let Some(deadline) = self.drain {
            turn.command(Command::Drain { deadline });
        }
        if self.stop {
            turn.command(Command::Stop);
        }
        let mut told_drained = false;
        loop {
            turn.sleep();
            self.pass_commands(turn);
            if turn.work() == Going::Stopped {
                return;
            }
            if !told_drained && turn.drained() {
                told_drained = true;
                (self.notify)(WorkerEvent::Drained);
            }
        }
    }

    fn pass_commands(&mut self, turn: &mut Turn<R, M>) {
        loop {
            let command = match self.inbox.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return,
                // Control is gone: nobody is left who could ask for anything.
                Err(TryRecvError::Disconnected) if !self.stop => Command::Stop,
                Err(TryRecvError::Disconnected) => return,
            };
            match &command {
                Command::Configure(settings) => self.settings = Some(settings.clone()),
                Command::Drain { deadline } => self.drain = Some(*deadline),
                Command::Stop => self.stop = true,
                Command::Report { .. } | Command::Look { .. } => {}
            }
            turn.command(command);
        }
    }

    fn has_panicked_too_often(&mut self, at: Instant) -> bool {
        self.panics.push_back(at);
        while self.panics.front().is_some_and(|&first| at.since(first) > limits::PANIC_WINDOW) {
            self.panics.pop_front();
        }
        self.panics.len() >= limits::PANICS_MAX
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}
