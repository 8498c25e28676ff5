//! A machine that dials and a registrar, joined by bytes in memory, in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ringfront::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use ringfront::base::time::Instant;
use ringfront::peer::registrar::{Counts, Listening, Registrar, Settings};

/// How long bytes are under way.
const DELAY: Duration = Duration::from_micros(100);

#[derive(Debug)]
pub enum Event {
    ToBackend(ConnId, Vec<u8>),
    ToDialler(ConnId, Vec<u8>),
    Dialled(ConnId),
    DiallerClosed(ConnId),
    BackendClosed(ConnId),
}

/// Two machines and the bytes between them. Slots are the same on both sides.
pub struct Wire<M> {
    pub dialler: M,
    pub backend: Registrar,
    pub now: Instant,
    pub events: VecDeque<(Instant, Event)>,
    /// Live connections: the crowd's end and the backend's.
    pub links: Vec<Option<(ConnId, ConnId)>>,
    /// Bytes are delivered in pieces of at most so many.
    piece: usize,
    /// The backend neither accepts nor answers any more.
    pub dead: bool,
}

impl<M: Machine> Wire<M> {
    /// `slots`: of the dialling machine.
    pub fn new(
        dialler: impl FnOnce(Instant) -> M,
        slots: u32,
        tls: Option<ringfront::tls::ServerSide>,
        piece: usize,
    ) -> Wire<M> {
        let now = Instant(5_000_000_000);
        let settings =
            Settings { listeners: vec![Listening { tls, advertised: "127.0.0.1:5070".into() }] };
        Wire {
            links: vec![None; slots as usize],
            backend: Registrar::new(Arc::new(settings), slots, 7, now),
            dialler: dialler(now),
            now,
            events: VecDeque::new(),
            piece,
            dead: false,
        }
    }

    fn later(&mut self, event: Event) {
        self.events.push_back((self.now + DELAY, event));
    }

    /// Runs until the dialling machine is drained or `over` it, or `limit` has passed.
    pub fn run(&mut self, limit: Duration, over: impl Fn(&M) -> bool) {
        let end = self.now + limit;
        self.settle();
        while self.now < end && !self.dialler.drained() && !over(&self.dialler) {
            let tick = self.dialler.deadline().min(self.backend.deadline());
            let event = self.events.front().map_or(Instant::FAR, |(at, _)| *at);
            self.now = self.now.max(tick.min(event)).min(end);
            while self.events.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, event) = self.events.pop_front().unwrap();
                self.happen(event);
            }
            if self.dialler.deadline() <= self.now {
                self.dialler.handle(self.now, Input::Tick);
            }
            if self.backend.deadline() <= self.now {
                self.backend.handle(self.now, Input::Tick);
            }
            self.settle();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToBackend(conn, bytes) => {
                if let Some((_, to)) = self.links[conn.slot as usize] {
                    for piece in bytes.chunks(self.piece) {
                        let bytes = &mut piece.to_vec();
                        self.backend.handle(self.now, Input::Received { conn: to, bytes });
                    }
                }
            }
            Event::ToDialler(conn, bytes) => {
                if let Some((to, _)) = self.links[conn.slot as usize].filter(|link| link.1 == conn)
                {
                    for piece in bytes.chunks(self.piece) {
                        let bytes = &mut piece.to_vec();
                        self.dialler.handle(self.now, Input::Received { conn: to, bytes });
                    }
                }
            }
            Event::Dialled(conn) if self.dead => {
                let cause = CloseCause::ConnectFailed;
                self.dialler.handle(self.now, Input::Closed { conn, cause });
            }
            Event::Dialled(conn) => {
                let peer = "127.0.0.1:4000".parse().unwrap();
                let arrival = Arrival { slot: conn.slot, listener: 0, peer };
                let accepted = self.backend.admit(self.now, arrival).unwrap();
                self.links[conn.slot as usize] = Some((conn, accepted));
                self.dialler.handle(self.now, Input::Connected { conn });
            }
            // The side that closes is told so, the other sees the end of the stream.
            Event::DiallerClosed(conn) => {
                if let Some((_, other)) = self.links[conn.slot as usize].take() {
                    let cause = CloseCause::Reset;
                    self.backend.handle(self.now, Input::Closed { conn: other, cause });
                }
                let cause = CloseCause::Asked;
                self.dialler.handle(self.now, Input::Closed { conn, cause });
            }
            Event::BackendClosed(conn) => {
                let link = self.links[conn.slot as usize].filter(|link| link.1 == conn);
                if let Some((other, _)) = link {
                    self.links[conn.slot as usize] = None;
                    let cause = CloseCause::Asked;
                    self.backend.handle(self.now, Input::Closed { conn, cause });
                    self.dialler
                        .handle(self.now, Input::Closed { conn: other, cause: CloseCause::Reset });
                }
            }
        }
    }

    fn settle(&mut self) {
        while let Some(output) = self.dialler.poll() {
            match output {
                Output::Transmit { conn, chunk } => {
                    let bytes = chunk.bytes().to_vec();
                    self.dialler.handle(self.now, Input::Sent { conn, chunk });
                    self.later(Event::ToBackend(conn, bytes));
                }
                Output::Connect { conn, .. } => self.later(Event::Dialled(conn)),
                Output::Close { conn, .. } => self.later(Event::DiallerClosed(conn)),
                Output::Accept { .. } => {}
            }
        }
        self.dialler.leaving(self.now);
        while let Some(output) = self.backend.poll() {
            match output {
                Output::Transmit { conn, chunk } => {
                    let bytes = chunk.bytes().to_vec();
                    self.backend.handle(self.now, Input::Sent { conn, chunk });
                    if !self.dead {
                        self.later(Event::ToDialler(conn, bytes));
                    }
                }
                Output::Close { conn, .. } => self.later(Event::BackendClosed(conn)),
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn backend_counts(&mut self) -> Counts {
        self.backend.report(self.now, Counts::default())
    }
}
