//! An echo Machine and a worker around it, for the tests of the real ring.
//! Owns what a test asks for and the log of what the Machine was told.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ringfront::base::chunk::{Chunk, ChunkPool, LARGE_BYTES};
use ringfront::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use ringfront::base::slab::Slab;
use ringfront::base::time::Instant;
use ringfront::sys::socket::{Listener, listen};
use ringfront::sys::uring::{KernelRing, Mode, PeerNames, RingPlan};
use ringfront::sys::wake::{RingDirectory, Waker};
use ringfront::worker::mailbox::mailboxes;
use ringfront::worker::turn::{TurnPlan, WorkerReport};
use ringfront::worker::{Command, WorkerEvent, WorkerHandle, WorkerPlan, spawn};

/// What a test asks of the Machine, brought by `Command::Configure`.
#[derive(Clone, Debug)]
pub enum Wish {
    Connect {
        to: SocketAddr,
        deadline: Instant,
    },
    /// Send so many patterned bytes on a connection, then, with `close`, end it in order.
    Send {
        conn: ConnId,
        bytes: usize,
        close: bool,
    },
    Close {
        conn: ConnId,
        abort: bool,
    },
    Accept {
        open: bool,
    },
    Post {
        worker: u16,
        envelope: u64,
    },
    /// Panic when the next Machine of this worker is configured anew, too.
    Panic,
}

/// What the Machine was told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Arrived { conn: ConnId, peer: SocketAddr, listener: u32 },
    Connected { conn: ConnId },
    Finished { conn: ConnId },
    Closed { conn: ConnId, cause: CloseCause },
    Delivered { envelope: u64 },
    Undelivered { envelope: u64 },
    Ticked,
}

/// The Machine's log since the last report.
#[derive(Debug, Default)]
pub struct Log {
    pub told: Vec<Told>,
    pub bytes_received: u64,
    pub largest_receive: usize,
    /// Bytes of chunks that have not come home.
    pub bytes_out: usize,
}

#[derive(Debug, Default)]
struct Connection {
    outbox: VecDeque<u8>,
    sending: bool,
    close: bool,
}

pub struct Echo {
    connections: Slab<Connection>,
    pool: ChunkPool,
    outputs: VecDeque<Output>,
    dirty: Vec<ConnId>,
    posts: VecDeque<(u16, u64)>,
    log: Log,
    draining: bool,
}

impl Echo {
    pub fn new(accepted: u32, own: u32) -> Echo {
        Echo {
            connections: Slab::new(accepted, own),
            pool: ChunkPool::new(256 * 1024 * 1024),
            outputs: VecDeque::new(),
            dirty: Vec::new(),
            posts: VecDeque::new(),
            log: Log::default(),
            draining: false,
        }
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Connect { to, deadline } => {
                let conn = self.connections.insert(Connection::default()).expect("own slots");
                self.outputs.push_back(Output::Connect { conn, to, deadline });
            }
            Wish::Send { conn, bytes, close } => {
                let Some(connection) = self.connections.get_mut(conn) else { return };
                connection.outbox.extend((0..bytes).map(pattern));
                connection.close = close;
                self.dirty.push(conn);
            }
            Wish::Close { conn, abort } => {
                self.outputs.push_back(Output::Close { conn, abort });
            }
            Wish::Accept { open } => self.outputs.push_back(Output::Accept { open }),
            Wish::Post { worker, envelope } => self.posts.push_back((worker, envelope)),
            Wish::Panic => panic!("as the test wished"),
        }
    }

    fn receive(&mut self, conn: ConnId, bytes: &mut [u8]) {
        self.log.bytes_received += bytes.len() as u64;
        self.log.largest_receive = self.log.largest_receive.max(bytes.len());
        assert!(!bytes.starts_with(b"PANIC"), "as the peer wished");
        let connection = self.connections.get_mut(conn).expect("told of living ones only");
        if bytes.starts_with(b"CLOSE") {
            connection.outbox.extend(b"BYE");
            connection.close = true;
        } else if !connection.close && connection.outbox.len() < OUTBOX_MAX {
            connection.outbox.extend(bytes.iter());
        }
        self.dirty.push(conn);
    }

    fn chunk_home(&mut self, conn: ConnId, chunk: Chunk) {
        let whole = chunk.unsent().is_empty();
        self.pool.give(chunk);
        if let Some(connection) = self.connections.get_mut(conn) {
            if !whole {
                connection.outbox.clear();
            }
            connection.sending = false;
            self.dirty.push(conn);
        }
    }

    fn transmit(&mut self, conn: ConnId) -> Option<Output> {
        let connection = self.connections.get_mut(conn)?;
        if connection.sending {
            return None;
        }
        if connection.outbox.is_empty() {
            let close = std::mem::take(&mut connection.close);
            return close.then_some(Output::Close { conn, abort: false });
        }
        let len = connection.outbox.len().min(LARGE_BYTES);
        let mut chunk = self.pool.take(len).expect("the pool is large");
        let bytes: Vec<u8> = connection.outbox.drain(..len).collect();
        chunk.push(&bytes);
        connection.sending = true;
        Some(Output::Transmit { conn, chunk })
    }
}

/// A peer that sends and does not read loses what is beyond; no test that compares bytes gets there.
const OUTBOX_MAX: usize = 32 * 1024 * 1024;

/// The byte at `index` of what `Wish::Send` sends.
pub fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

impl Machine for Echo {
    type Settings = Vec<Wish>;
    type Envelope = u64;
    type Report = Log;

    fn configure(&mut self, _now: Instant, settings: Arc<Vec<Wish>>) {
        for wish in settings.iter() {
            self.wish(wish.clone());
        }
    }

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        let Arrival { slot, listener, peer } = arrival;
        let conn = self.connections.insert_at(slot, Connection::default())?;
        self.log.told.push(Told::Arrived { conn, peer, listener });
        Some(conn)
    }

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Received { conn, bytes } => self.receive(conn, bytes),
            Input::Sent { conn, chunk } => self.chunk_home(conn, chunk),
            Input::Finished { conn } => {
                self.log.told.push(Told::Finished { conn });
                self.connections.get_mut(conn).expect("a living one").close = true;
                self.dirty.push(conn);
            }
            Input::Connected { conn } => self.log.told.push(Told::Connected { conn }),
            Input::Closed { conn, cause } => {
                self.log.told.push(Told::Closed { conn, cause });
                let connection = self.connections.remove(conn).expect("closed once");
                assert!(!connection.sending, "the chunk comes home before Closed");
            }
            Input::Tick => self.log.told.push(Told::Ticked),
            Input::Drain { .. } => self.draining = true,
        }
    }

    fn deliver(&mut self, _now: Instant, envelope: u64) {
        self.log.told.push(Told::Delivered { envelope });
    }

    fn poll(&mut self) -> Option<Output> {
        while let Some(conn) = self.dirty.pop() {
            if let Some(output) = self.transmit(conn) {
                return Some(output);
            }
        }
        self.outputs.pop_front()
    }

    fn post(&mut self) -> Option<(u16, u64)> {
        self.posts.pop_front()
    }

    fn undelivered(&mut self, _now: Instant, envelope: u64) {
        self.log.told.push(Told::Undelivered { envelope });
    }

    fn leaving(&mut self, _now: Instant) {}

    fn deadline(&self) -> Instant {
        Instant::FAR
    }

    fn report(&mut self, _now: Instant, spare: Log) -> Log {
        let mut log = std::mem::replace(&mut self.log, spare);
        log.bytes_out = self.pool.bytes_out();
        log
    }

    fn drained(&self) -> bool {
        self.draining && self.connections.live_accepted() == 0
    }
}

/// The sizes of a test's worker; small, so that their ends are met.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub accepted: u32,
    pub accept_limit: u32,
    pub own: u32,
    pub buffers: u16,
    pub buffer_bytes: u32,
    pub submissions: u32,
    pub completions: u32,
    pub mailbox: usize,
    pub peer_names: PeerNames,
    pub mode: Mode,
    pub zero_copy_from: Option<u32>,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            accepted: 64,
            accept_limit: 48,
            own: 8,
            buffers: 64,
            buffer_bytes: 4096,
            submissions: 256,
            completions: 1024,
            mailbox: 64,
            peer_names: PeerNames::ByCommand,
            mode: Mode::Deferred,
            zero_copy_from: None,
        }
    }
}

/// Workers with an Echo each, all listening on the same two loopback addresses.
pub struct Bench {
    pub v4: SocketAddr,
    pub v6: SocketAddr,
    pub workers: Vec<WorkerHandle<Echo>>,
    pub events: Receiver<(u16, WorkerEvent)>,
}

pub type Report = WorkerReport<Log>;

/// How long anything may take before a test calls it lost.
pub const PATIENCE: Duration = Duration::from_secs(10);

impl Bench {
    pub fn start(sizes: Sizes) -> Bench {
        Bench::with_workers(1, sizes)
    }

    pub fn with_workers(count: u16, sizes: Sizes) -> Bench {
        let mut v4 = listen("127.0.0.1:0".parse().unwrap(), count).unwrap();
        let mut v6 = listen("[::1]:0".parse().unwrap(), count).unwrap();
        let (four, six) = (v4[0].address(), v6[0].address());
        let directory = Arc::new(RingDirectory::new(count));
        let (events, inbox) = channel();
        let boxes = mailboxes(count, sizes.mailbox);
        let mut workers = Vec::new();
        for (index, mailboxes) in (0..count).zip(boxes) {
            let listeners: Arc<[Listener]> = Arc::new([v4.remove(0), v6.remove(0)]);
            let directory = directory.clone();
            let plan = plan(index, sizes, listeners, directory, mailboxes, events.clone());
            workers.push(spawn(plan).unwrap());
        }
        Bench { v4: four, v6: six, workers, events: inbox }
    }

    pub fn wish(&self, worker: usize, wishes: Vec<Wish>) {
        self.workers[worker].send(Command::Configure(Arc::new(wishes))).unwrap();
    }

    /// What has been counted and told since the last report.
    pub fn report(&self, worker: usize) -> Report {
        let (answer, answered) = channel();
        let reply = Box::new(move |report| answer.send(report).unwrap());
        let spare = Log::default();
        self.workers[worker].send(Command::Report { spare, reply }).unwrap();
        answered.recv_timeout(PATIENCE).expect("the worker answers")
    }

    /// Asks for reports until what they tell together satisfies `enough`.
    pub fn report_when(&self, worker: usize, mut enough: impl FnMut(&Report) -> bool) -> Report {
        let start = std::time::Instant::now();
        let mut told = Vec::new();
        loop {
            let mut report = self.report(worker);
            told.append(&mut report.machine.told);
            report.machine.told.clone_from(&told);
            if enough(&report) {
                return report;
            }
            assert!(start.elapsed() < PATIENCE, "not told in time: {report:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops every worker in order; nothing may be under way afterwards.
    pub fn stop(self) {
        for worker in self.workers {
            let _ = worker.send(Command::Stop);
            worker.join();
        }
    }

    pub fn dial(&self) -> TcpStream {
        dial(self.v4)
    }
}

pub fn dial(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn plan(
    worker: u16,
    sizes: Sizes,
    listeners: Arc<[Listener]>,
    directory: Arc<RingDirectory>,
    mailboxes: ringfront::worker::mailbox::Mailboxes<u64>,
    events: Sender<(u16, WorkerEvent)>,
) -> WorkerPlan<KernelRing, Echo> {
    let turn = TurnPlan {
        listeners: listeners.len() as u32,
        accepted: sizes.accepted,
        accept_limit: sizes.accept_limit,
        own: sizes.own,
    };
    let mut ring = RingPlan::new(worker, sizes.accepted, sizes.own, directory).unwrap();
    ring.listeners = listeners;
    ring.buffers = sizes.buffers;
    ring.buffer_bytes = sizes.buffer_bytes;
    ring.submissions = sizes.submissions;
    ring.completions = sizes.completions;
    ring.peer_names = sizes.peer_names;
    ring.mode = sizes.mode;
    ring.zero_copy_from = sizes.zero_copy_from;
    let waker: Arc<Waker> = ring.waker.clone();
    let mut lives = 0;
    WorkerPlan {
        name: format!("echo-{worker}"),
        turn,
        mailboxes,
        prepare: Box::new(|| {}),
        build_ring: Box::new(move || Ok(KernelRing::new(ring.clone())?)),
        build_machine: Box::new(move |_, _| Echo::new(sizes.accepted, sizes.own)),
        incarnation: Box::new(move || {
            lives += 1;
            lives
        }),
        wake: Arc::new(move || waker.wake()),
        notify: Box::new(move |event| {
            let _ = events.send((worker, event));
        }),
    }
}

/// True when the peer has reset the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

pub fn echoed(stream: &mut TcpStream, bytes: &[u8]) {
    let mut back = vec![0; bytes.len()];
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).unwrap());
        stream.read_exact(&mut back).unwrap();
    });
    assert!(back == bytes, "{} bytes came back changed", bytes.len());
}

pub fn conn_of(told: &[Told]) -> ConnId {
    let arrived = told.iter().find_map(|told| match told {
        Told::Arrived { conn, .. } | Told::Connected { conn } => Some(*conn),
        _ => None,
    });
    arrived.expect("a connection was told of")
}

pub fn closed(told: &[Told]) -> Vec<CloseCause> {
    told.iter()
        .filter_map(|told| match told {
            Told::Closed { cause, .. } => Some(*cause),
            _ => None,
        })
        .collect()
}

/// Every chunk is home, no life was mistaken for another, nothing overflowed.
pub fn assert_clean(bench: &Bench) {
    let report = bench.report_when(0, |report| report.machine.bytes_out == 0);
    assert_eq!(report.turn.stale_completions, 0);
    assert_eq!(report.ring.overflows, 0);
}

/// Waits until a send is under way and nothing goes on any more.
pub fn wait_until_stuck(bench: &Bench) {
    let mut sends = 0;
    bench.report_when(0, |report| {
        let stuck = report.machine.bytes_out > 0 && report.turn.sends == sends;
        sends = report.turn.sends;
        std::thread::sleep(Duration::from_millis(50));
        stuck
    });
}
