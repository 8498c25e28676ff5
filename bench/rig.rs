//! What the bench programs share: one worker pinned to a core, measured for a while, and an outbox
//! that gathers what a turn produced into one send.
//! Owns the worker. Never knows what the Machine does.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use ringfront::base::chunk::{Chunk, ChunkPool, LARGE_BYTES};
use ringfront::base::limits;
use ringfront::base::machine::Machine;
use ringfront::sys::affinity;
use ringfront::sys::process::raise_descriptor_limit;
use ringfront::sys::socket::listen;
use ringfront::sys::uring::{KernelRing, RingPlan};
use ringfront::sys::wake::RingDirectory;
use ringfront::worker::mailbox::mailboxes;
use ringfront::worker::turn::{TurnPlan, WorkerReport};
use ringfront::worker::{Command, WorkerHandle, WorkerPlan, spawn};

/// Accepted connections of a bench worker: as many as a descriptor table of 20,000 leaves room for.
pub const ACCEPTED: u32 = 16_384 + limits::ACCEPT_RESERVE;

/// The name of the worker's thread.
const WORKER: &str = "bench-worker";

/// What ran during the measured time.
pub struct Measured {
    pub seconds: f64,
    /// Processor time of the worker's thread.
    pub cpu_seconds: f64,
    pub messages: u64,
    pub system_calls: u64,
    pub turns: u64,
    pub completions: u64,
    pub sends: u64,
    pub receives: u64,
}

impl Measured {
    /// One line of figures per message.
    pub fn print(&self, name: &str) {
        let per = |count: u64| count as f64 / self.messages.max(1) as f64;
        println!(
            "{name}: {:.0} msg/s, cpu {:.2} us/msg ({:.0} % busy), system calls {:.3}/msg, \
             sends {:.3}/msg, receives {:.3}/msg, completions {:.1}/turn",
            self.messages as f64 / self.seconds,
            self.cpu_seconds * 1e6 / self.messages.max(1) as f64,
            100.0 * self.cpu_seconds / self.seconds,
            per(self.system_calls),
            per(self.sends),
            per(self.receives),
            self.completions as f64 / self.turns.max(1) as f64,
        );
    }
}

/// Runs one Machine, whose report is its count of messages, pinned to `core`: a second to warm up,
/// then `seconds` measured.
pub fn run<M>(
    core: usize,
    listener: Option<SocketAddr>,
    own: u32,
    build: impl FnMut() -> M + Send + 'static,
    seconds: u64,
) -> Measured
where
    M: Machine<Report = u64> + 'static,
{
    let worker = start(core, listener, own, build);
    std::thread::sleep(Duration::from_secs(1));
    let (before, cpu_before) = (report(&worker), cpu_seconds());
    let begun = std::time::Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, cpu_after) = (report(&worker), cpu_seconds());
    let seconds = begun.elapsed().as_secs_f64();
    worker.send(Command::Stop).expect("the worker lives");
    worker.join();
    Measured {
        seconds,
        cpu_seconds: cpu_after - cpu_before,
        messages: after.machine - before.machine,
        system_calls: after.ring.system_calls - before.ring.system_calls,
        turns: after.turn.turns - before.turn.turns,
        completions: after.ring.completions - before.ring.completions,
        sends: after.turn.sends - before.turn.sends,
        receives: after.turn.receives - before.turn.receives,
    }
}

fn start<M>(
    core: usize,
    listener: Option<SocketAddr>,
    own: u32,
    mut build: impl FnMut() -> M + Send + 'static,
) -> WorkerHandle<M>
where
    M: Machine + 'static,
{
    raise_descriptor_limit().expect("the limit can be raised");
    let directory = Arc::new(RingDirectory::new(1));
    let mut ring = RingPlan::new(0, ACCEPTED, own, directory).expect("a waker");
    if let Some(address) = listener {
        ring.listeners = listen(address, 1).unwrap_or_else(|fault| panic!("{fault}")).into();
    }
    let waker = Arc::clone(&ring.waker);
    let turn = TurnPlan {
        listeners: ring.listeners.len() as u32,
        accepted: ACCEPTED,
        accept_limit: ACCEPTED - limits::ACCEPT_RESERVE,
        own,
    };
    let plan = WorkerPlan {
        name: WORKER.to_owned(),
        turn,
        mailboxes: mailboxes(1, 1).remove(0),
        prepare: Box::new(move || assert!(affinity::pin(core), "no core {core}")),
        build_ring: Box::new(move || Ok(KernelRing::new(ring.clone())?)),
        build_machine: Box::new(move |_, _| build()),
        incarnation: Box::new(|| 1),
        wake: Arc::new(move || waker.wake()),
        notify: Box::new(|_| {}),
    };
    spawn(plan).unwrap_or_else(|fault| panic!("{fault}"))
}

fn report<M: Machine<Report = u64>>(worker: &WorkerHandle<M>) -> WorkerReport<u64> {
    let (answer, answered) = channel();
    let reply = Box::new(move |report| answer.send(report).expect("somebody waits"));
    worker.send(Command::Report { spare: 0, reply }).expect("the worker lives");
    answered.recv().expect("the worker answers")
}

/// Processor time of the worker's thread, user and system, by its /proc stat file (proc(5),
/// in ticks of 10 ms, scaled to what the scheduler has really given it).
fn cpu_seconds() -> f64 {
    for task in std::fs::read_dir("/proc/self/task").expect("procfs").flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == WORKER {
            let stat = read("stat");
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
            return ticks.sum::<f64>() / 100.0;
        }
    }
    panic!("no thread {WORKER}");
}

/// Bytes waiting to be sent on one connection: one chunk out, one filling, full ones between.
#[derive(Debug, Default)]
pub struct Outbox {
    full: VecDeque<Chunk>,
    filling: Option<Chunk>,
    out: bool,
}

impl Outbox {
    /// Appends, in as many chunks as it takes.
    pub fn push(&mut self, pool: &mut ChunkPool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let chunk = self.filling.get_or_insert_with(|| {
                pool.take(LARGE_BYTES).expect("the pool of a bench has no end")
            });
            let len = bytes.len().min(chunk.room());
            chunk.push(&bytes[..len]);
            bytes = &bytes[len..];
            if chunk.room() == 0 {
                self.full.extend(self.filling.take());
            }
        }
    }

    /// The next chunk, unless one is out.
    pub fn next(&mut self) -> Option<Chunk> {
        if self.out {
            return None;
        }
        let chunk = self.full.pop_front().or_else(|| self.filling.take())?;
        self.out = true;
        Some(chunk)
    }

    /// A chunk that the caller has filled itself is out; none was.
    pub fn take_out(&mut self) {
        assert!(!self.out);
        self.out = true;
    }

    pub fn is_out(&self) -> bool {
        self.out
    }

    /// The chunk that was out is home.
    pub fn home(&mut self, pool: &mut ChunkPool, chunk: Chunk) {
        pool.give(chunk);
        self.out = false;
    }
}

/// The value behind `--name` on the command line.
pub fn option(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.next()?;
    words.next()
}

/// The value behind `--name`, parsed, or `default`.
pub fn parsed<T: std::str::FromStr>(name: &str, default: T) -> T {
    match option(name) {
        Some(text) => text.parse().unwrap_or_else(|_| panic!("{name} {text}: not understood")),
        None => default,
    }
}
