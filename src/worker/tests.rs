//! The turn against a ring that does what the test says, also what the real kernel does rarely:
//! short sends, late completions, every order of cancel and target, a ring that is full.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Command;
use super::mailbox::{Mailboxes, mailboxes};
use super::turn::{Going, Turn, TurnPlan};
use crate::base::chunk::{Chunk, ChunkPool};
use crate::base::limits;
use crate::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use crate::base::ring::{Completion, ConnectFault, Full, ReceiveEnd, Ring, RingCounts, Submission};
use crate::base::slab::Slab;
use crate::base::time::Instant;

/// A completion that a test puts in; bytes are lent from here.
enum Script {
    Bytes { slot: u32, generation: u32, bytes: Vec<u8>, more: bool },
    Done(Completion<'static>),
}

#[derive(Default)]
struct ScriptRing {
    now: Instant,
    submitted: Vec<Submission>,
    completions: VecDeque<Script>,
    lent: Vec<u8>,
    /// Submissions that are still taken before the ring says `Full`.
    room: Option<usize>,
    slept_until: Instant,
}

impl Ring for ScriptRing {
    fn now(&self) -> Instant {
        self.now
    }

    fn read_clock(&mut self) -> Instant {
        self.now
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Full> {
        match &mut self.room {
            Some(0) => return Err(Full(submission)),
            Some(room) => *room -= 1,
            None => {}
        }
        self.submitted.push(submission);
        Ok(())
    }

    fn wait(&mut self, until: Instant) {
        self.slept_until = until;
    }

    fn next(&mut self) -> Option<Completion<'_>> {
        match self.completions.pop_front()? {
            Script::Done(completion) => Some(completion),
            Script::Bytes { slot, generation, bytes, more } => {
                self.lent = bytes;
                Some(Completion::Received { slot, generation, bytes: &mut self.lent, more })
            }
        }
    }

    fn counts(&self) -> RingCounts {
        RingCounts::default()
    }
}

/// Admits all, remembers what it is told, wants what the test puts in.
struct Puppet {
    connections: Slab<()>,
    pool: ChunkPool,
    wants: VecDeque<Output>,
    posts: VecDeque<(u16, u32)>,
    told: Vec<String>,
    deadline: Instant,
    refuse: bool,
}

impl Machine for Puppet {
    type Settings = u32;
    type Envelope = u32;
    type Report = ();

    fn configure(&mut self, _now: Instant, settings: Arc<u32>) {
        self.told.push(format!("configured {settings}"));
    }

    fn admit(&mut self, _now: Instant, arrival: Arrival) -> Option<ConnId> {
        if self.refuse { None } else { self.connections.insert_at(arrival.slot, ()) }
    }

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        self.told.push(match input {
            Input::Received { bytes, .. } => {
                format!("received {}", String::from_utf8_lossy(bytes))
            }
            Input::Finished { .. } => "finished".to_owned(),
            Input::Connected { .. } => "connected".to_owned(),
            Input::Sent { chunk, .. } => {
                let text = format!("sent, {} left", chunk.unsent().len());
                self.pool.give(chunk);
                text
            }
            Input::Closed { conn, cause } => {
                self.connections.remove(conn);
                format!("closed {}", cause.name())
            }
            Input::Tick => {
                self.deadline = Instant::FAR;
                "tick".to_owned()
            }
            Input::Drain { .. } => "drain".to_owned(),
        });
    }

    fn deliver(&mut self, _now: Instant, envelope: u32) {
        self.told.push(format!("delivered {envelope}"));
    }

    fn poll(&mut self) -> Option<Output> {
        self.wants.pop_front()
    }

    fn post(&mut self) -> Option<(u16, u32)> {
        self.posts.pop_front()
    }

    fn undelivered(&mut self, _now: Instant, envelope: u32) {
        self.told.push(format!("undelivered {envelope}"));
    }

    fn leaving(&mut self, _now: Instant) {}

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn report(&mut self, _now: Instant, (): ()) {}

    fn drained(&self) -> bool {
        true
    }
}

const PLAN: TurnPlan = TurnPlan { listeners: 1, accepted: 4, accept_limit: 3, own: 2 };

struct Stage {
    turn: Turn<ScriptRing, Puppet>,
}

impl Stage {
    /// A turn whose listener is armed.
    fn new() -> Stage {
        Stage::with(mailboxes(2, 4).remove(0))
    }

    fn with(mailboxes: Mailboxes<u32>) -> Stage {
        let puppet = Puppet {
            connections: Slab::new(PLAN.accepted, PLAN.own),
            pool: ChunkPool::new(1 << 20),
            wants: VecDeque::new(),
            posts: VecDeque::new(),
            told: Vec::new(),
            deadline: Instant::FAR,
            refuse: false,
        };
        let turn = Turn::new(&PLAN, ScriptRing::default(), puppet, mailboxes);
        let mut stage = Stage { turn };
        assert_eq!(stage.step(), ["Accept"]);
        stage
    }

    /// One turn; the names of what was submitted.
    fn step(&mut self) -> Vec<String> {
        self.turn.step();
        let submitted = std::mem::take(&mut self.turn.ring_mut().submitted);
        let name = |submission: &Submission| {
            let text = format!("{submission:?}");
            text.split(' ').next().expect("a name").to_owned()
        };
        submitted.iter().map(name).collect()
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.turn.machine_mut().told)
    }

    fn done(&mut self, completion: Completion<'static>) {
        self.turn.ring_mut().completions.push_back(Script::Done(completion));
    }

    fn bytes(&mut self, conn: ConnId, text: &str, more: bool) {
        let ConnId { slot, generation } = conn;
        let bytes = text.as_bytes().to_vec();
        self.turn.ring_mut().completions.push_back(Script::Bytes { slot, generation, bytes, more });
    }

    fn want(&mut self, output: Output) {
        self.turn.machine_mut().wants.push_back(output);
    }

    /// An accepted connection with its receive armed.
    fn accepted(&mut self, slot: u32) -> ConnId {
        let peer = "192.0.2.7:5060".parse().unwrap();
        self.done(Completion::Accepted { listener: 0, slot, peer });
        assert_eq!(self.step()[0], "Receive");
        self.turn.machine().connections.life(slot).unwrap()
    }

    fn chunk(&mut self, text: &str) -> Chunk {
        let mut chunk = self.turn.machine_mut().pool.take(text.len()).unwrap();
        chunk.push(text.as_bytes());
        chunk
    }

    /// A connection with a send under way; the chunk is the ring's.
    fn sending(&mut self, slot: u32, text: &str) -> (ConnId, Chunk) {
        let conn = self.accepted(slot);
        let chunk = self.chunk(text);
        self.want(Output::Transmit { conn, chunk });
        self.turn.step();
        (conn, self.chunk_in_ring())
    }

    fn chunk_in_ring(&mut self) -> Chunk {
        let sent =
            self.turn.ring_mut().submitted.drain(..).find_map(|submission| match submission {
                Submission::Send { chunk, .. } => Some(chunk),
                _ => None,
            });
        sent.expect("a send was submitted")
    }

    fn sent(&mut self, conn: ConnId, chunk: Chunk, result: Result<u32, i32>) {
        let ConnId { slot, generation } = conn;
        self.done(Completion::Sent { slot, generation, chunk, result });
    }

    fn receive_ended(&mut self, conn: ConnId, end: ReceiveEnd) {
        let ConnId { slot, generation } = conn;
        self.done(Completion::ReceiveEnded { slot, generation, end });
    }

    fn closed(&mut self, conn: ConnId) {
        let ConnId { slot, generation } = conn;
        self.done(Completion::Closed { slot, generation });
    }
}

#[test]
fn the_rest_of_a_short_send_follows() {
    let mut stage = Stage::new();
    let (conn, chunk) = stage.sending(0, "hello");
    stage.sent(conn, chunk, Ok(2));
    stage.turn.step();
    assert_eq!(stage.told(), [""; 0]);
    let chunk = stage.chunk_in_ring();
    assert_eq!(chunk.unsent(), b"llo");
    stage.sent(conn, chunk, Ok(3));
    stage.step();
    assert_eq!(stage.told(), ["sent, 0 left"]);
    assert_eq!(stage.turn.counts().short_sends, 1);
}

#[test]
fn a_send_that_takes_nothing_closes() {
    let mut stage = Stage::new();
    for (slot, result) in [(0, Ok(0)), (1, Err(32))] {
        let (conn, chunk) = stage.sending(slot, "hello");
        stage.sent(conn, chunk, result);
        assert_eq!(stage.step(), ["Cancel"]);
        stage.receive_ended(conn, ReceiveEnd::Cancelled);
        assert_eq!(stage.step(), ["Close"]);
        stage.closed(conn);
        stage.step();
        assert_eq!(stage.told(), ["sent, 5 left", "closed send_failed"]);
    }
}

/// Cancel and its targets end in any order; Close leaves after the last of them.
#[test]
fn close_waits_for_every_operation_in_any_order() {
    for receive_first in [true, false] {
        let mut stage = Stage::new();
        let (conn, chunk) = stage.sending(0, "hello");
        stage.want(Output::Close { conn, abort: true });
        assert_eq!(stage.step(), ["Cancel"]);
        let mut chunk = Some(chunk);
        for step in 0..2 {
            if (step == 0) == receive_first {
                stage.receive_ended(conn, ReceiveEnd::Cancelled);
            } else {
                stage.sent(conn, chunk.take().unwrap(), Err(125));
            }
            assert_eq!(stage.step(), if step == 0 { vec![] } else { vec!["Close"] });
        }
        assert_eq!(stage.turn.live(), (1, 0), "the slot is not free before Close has ended");
        stage.closed(conn);
        stage.step();
        assert_eq!(stage.told(), ["sent, 5 left", "closed asked"]);
        assert_eq!(stage.turn.live(), (0, 0));
    }
}

#[test]
fn an_orderly_close_sends_first_then_lingers_until_the_peer_has_finished() {
    let mut stage = Stage::new();
    let (conn, chunk) = stage.sending(0, "bye");
    stage.want(Output::Close { conn, abort: false });
    assert_eq!(stage.step(), [""; 0]);
    stage.bytes(conn, "late", true);
    stage.sent(conn, chunk, Ok(3));
    assert_eq!(stage.step(), ["Finish"]);
    stage.bytes(conn, "later", true);
    stage.step();
    assert_eq!(stage.turn.counts().bytes_discarded, 9);
    stage.receive_ended(conn, ReceiveEnd::Finished);
    assert_eq!(stage.step(), ["Close"]);
    stage.closed(conn);
    stage.step();
    assert_eq!(stage.told(), ["sent, 0 left", "closed asked"]);
}

#[test]
fn lingering_ends_at_its_deadline_and_a_full_table_does_not_linger() {
    let mut stage = Stage::new();
    let (conn, chunk) = stage.sending(0, "bye");
    stage.sent(conn, chunk, Ok(3));
    stage.want(Output::Close { conn, abort: false });
    assert_eq!(stage.step(), ["Finish"]);
    let end = Instant::default() + limits::LINGER;
    assert_eq!(stage.turn.sleeps_until(), end);
    stage.turn.ring_mut().now = end;
    assert_eq!(stage.step(), ["Cancel"]);

    let (conn, chunk) = stage.sending(1, "bye");
    stage.accepted(2);
    stage.sent(conn, chunk, Ok(3));
    stage.want(Output::Close { conn, abort: false });
    assert_eq!(stage.step(), ["Cancel"]);
}

/// A completion of an earlier life of the slot touches nothing but the count, and its chunk comes
/// home all the same.
#[test]
fn a_completion_of_an_earlier_life_is_counted_and_ignored() {
    let mut stage = Stage::new();
    let (old, chunk) = stage.sending(0, "old");
    stage.sent(old, chunk, Ok(3));
    stage.receive_ended(old, ReceiveEnd::Failed(104));
    assert_eq!(stage.step(), ["Close"]);
    stage.closed(old);
    stage.step();
    stage.told();
    let new = stage.accepted(0);
    assert_ne!(old.generation, new.generation);
    let chunk = stage.chunk("lost");
    stage.bytes(old, "ghost", true);
    stage.receive_ended(old, ReceiveEnd::Failed(104));
    stage.sent(old, chunk, Ok(4));
    stage.closed(old);
    stage.done(Completion::Connected { slot: 0, generation: old.generation, result: Ok(()) });
    stage.bytes(ConnId { slot: 77, generation: 0 }, "nowhere", true);
    assert_eq!(stage.step(), [""; 0]);
    assert_eq!(stage.told(), ["sent, 4 left"]);
    assert_eq!(stage.turn.counts().stale_completions, 6);
    assert_eq!(stage.turn.machine().pool.bytes_out(), 0);
    stage.bytes(new, "alive", true);
    stage.step();
    assert_eq!(stage.told(), ["received alive"]);
}

#[test]
fn a_receive_is_armed_again_once_whatever_ended_it() {
    let mut stage = Stage::new();
    let conn = stage.accepted(0);
    for end in [ReceiveEnd::Starved, ReceiveEnd::Ended, ReceiveEnd::Cancelled] {
        stage.receive_ended(conn, end);
        assert_eq!(stage.step(), ["Receive"]);
    }
    stage.bytes(conn, "last", false);
    assert_eq!(stage.step(), ["Receive"]);
    stage.receive_ended(conn, ReceiveEnd::Finished);
    assert_eq!(stage.step(), [""; 0]);
    assert_eq!(stage.told(), ["received last", "finished"]);
    let counts = stage.turn.counts();
    assert_eq!((counts.starved, counts.rearms), (1, 4));
}

/// What the ring has no room for keeps its place, and the loop does not sleep meanwhile.
#[test]
fn a_full_ring_keeps_the_order() {
    let mut stage = Stage::new();
    let (one, two) = (stage.accepted(0), stage.accepted(1));
    stage.turn.ring_mut().room = Some(1);
    for conn in [one, two] {
        let chunk = stage.chunk("x");
        stage.want(Output::Transmit { conn, chunk });
    }
    stage.want(Output::Close { conn: two, abort: true });
    assert_eq!(stage.step(), ["Send"]);
    assert_eq!(stage.turn.sleeps_until(), Instant::default());
    stage.turn.ring_mut().room = None;
    assert_eq!(stage.step(), ["Send", "Cancel"]);
    assert_eq!(stage.turn.counts().ring_full, 1);
}

#[test]
fn a_chunk_for_a_connection_that_is_gone_comes_home() {
    let mut stage = Stage::new();
    let (conn, chunk) = stage.sending(0, "one");
    stage.receive_ended(conn, ReceiveEnd::Failed(104));
    assert_eq!(stage.step(), ["Cancel"]);
    stage.sent(conn, chunk, Err(104));
    let late = stage.chunk("two");
    stage.want(Output::Transmit { conn, chunk: late });
    assert_eq!(stage.step(), ["Close"]);
    stage.closed(conn);
    let later = stage.chunk("three");
    stage.want(Output::Transmit { conn, chunk: later });
    stage.step();
    let told = stage.told();
    assert_eq!(told, ["sent, 3 left", "sent, 3 left", "closed reset", "sent, 5 left"]);
    assert_eq!(stage.turn.machine().pool.bytes_out(), 0);
}

#[test]
fn a_connection_that_is_not_admitted_is_refused() {
    let mut stage = Stage::new();
    stage.turn.machine_mut().refuse = true;
    let peer = "[2001:db8::1]:5061".parse().unwrap();
    stage.done(Completion::Accepted { listener: 0, slot: 3, peer });
    assert_eq!(stage.step(), ["Refuse"]);
    assert_eq!(stage.turn.live(), (0, 0));
}

#[test]
fn accepting_pauses_when_the_accepted_range_is_nearly_full() {
    let mut stage = Stage::new();
    let conn = stage.accepted(0);
    stage.accepted(1);
    let peer = "192.0.2.7:5060".parse().unwrap();
    stage.done(Completion::Accepted { listener: 0, slot: 2, peer });
    assert_eq!(stage.step(), ["Receive", "CancelAccept"]);
    // One more had been accepted by then: the reserve takes it in.
    stage.accepted(3);
    stage.done(Completion::AcceptEnded { listener: 0, errno: 125 });
    assert_eq!(stage.step(), [""; 0]);
    for conn in [conn, stage.turn.machine().connections.life(1).unwrap()] {
        stage.receive_ended(conn, ReceiveEnd::Failed(104));
        assert_eq!(stage.step(), ["Close"]);
        stage.closed(conn);
    }
    assert_eq!(stage.step(), ["Accept"]);
}

#[test]
fn a_dialled_connection_fails_by_its_cause_and_closes_first() {
    let mut stage = Stage::new();
    let faults = [
        (ConnectFault::Timeout, "closed connect_timeout"),
        (ConnectFault::Failed(111), "closed connect_failed"),
    ];
    for (fault, told) in faults {
        let conn = stage.turn.machine_mut().connections.insert(()).unwrap();
        let to = "192.0.2.9:5060".parse().unwrap();
        stage.want(Output::Connect { conn, to, deadline: Instant(7) });
        assert_eq!(stage.step(), ["Connect"]);
        let ConnId { slot, generation } = conn;
        stage.done(Completion::Connected { slot, generation, result: Err(fault) });
        assert_eq!(stage.step(), ["Close"]);
        stage.closed(conn);
        stage.step();
        assert_eq!(stage.told(), [told]);
    }
}

#[test]
fn the_tick_comes_at_the_deadline_and_the_loop_sleeps_until_then() {
    let mut stage = Stage::new();
    stage.turn.machine_mut().deadline = Instant(500);
    stage.step();
    assert_eq!(stage.turn.ring().slept_until, Instant(500));
    assert_eq!(stage.told(), [""; 0]);
    stage.turn.ring_mut().now = Instant(500);
    stage.step();
    assert_eq!(stage.told(), ["tick"]);
    stage.step();
    assert_eq!(stage.turn.ring().slept_until, Instant::FAR);
}

#[test]
fn envelopes_cross_and_a_full_mailbox_brings_them_back() {
    let mut stage = Stage::new();
    for envelope in 0..6 {
        stage.turn.machine_mut().posts.push_back((1, envelope));
    }
    stage.turn.machine_mut().posts.push_back((0, 6));
    stage.step();
    assert_eq!(stage.told(), ["undelivered 4", "undelivered 5", "delivered 6"]);
    let counts = stage.turn.counts();
    assert_eq!((counts.crossings_out, counts.undelivered), (4, 2));
}

/// Two turns stepped in one thread, as the simulator does: the flag of a sleeper stands between its
/// steps, so that a sender wakes it.
#[test]
fn a_turn_between_its_steps_counts_as_asleep() {
    let mut sets = mailboxes(2, 4);
    let mut other = sets.pop().unwrap();
    let mut stage = Stage::with(sets.pop().unwrap());
    stage.turn.step();
    other.post(0, 9).unwrap();
    assert_eq!(other.next_to_wake(), Some(0));
    stage.turn.step();
    assert_eq!(stage.told(), ["delivered 9"]);
}

#[test]
fn a_stop_resets_all_and_ends_when_all_is_closed() {
    let mut stage = Stage::new();
    let conn = stage.accepted(0);
    stage.turn.command(Command::Stop);
    assert_eq!(stage.step(), ["Cancel", "CancelAccept"]);
    stage.receive_ended(conn, ReceiveEnd::Cancelled);
    stage.done(Completion::AcceptEnded { listener: 0, errno: 125 });
    let peer = "192.0.2.7:5060".parse().unwrap();
    stage.done(Completion::Accepted { listener: 0, slot: 2, peer });
    assert_eq!(stage.step(), ["Close", "Refuse"]);
    stage.closed(conn);
    let dialled = stage.turn.machine_mut().connections.insert(()).unwrap();
    let to = "192.0.2.9:5060".parse().unwrap();
    stage.want(Output::Connect { conn: dialled, to, deadline: Instant(7) });
    assert_eq!(stage.turn.step(), Going::Stopped);
    assert_eq!(stage.told(), ["closed asked", "closed connect_failed"]);
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut stage = Stage::new();
    stage.accepted(0);
    stage.turn.command(Command::Stop);
    assert_eq!(stage.turn.step(), Going::On);
    stage.turn.ring_mut().now = Instant::default() + limits::STOP_PATIENCE;
    assert_eq!(stage.turn.step(), Going::Stopped);
}

#[test]
#[should_panic(expected = "two sends under way")]
fn a_second_send_on_one_socket_is_our_own_fault() {
    let mut stage = Stage::new();
    let (conn, _chunk) = stage.sending(0, "one");
    let chunk = stage.chunk("two");
    stage.want(Output::Transmit { conn, chunk });
    stage.step();
}

#[test]
fn the_first_cause_stands() {
    let mut stage = Stage::new();
    let conn = stage.accepted(0);
    stage.want(Output::Close { conn, abort: true });
    stage.step();
    stage.receive_ended(conn, ReceiveEnd::Failed(104));
    assert_eq!(stage.step(), ["Close"]);
    stage.closed(conn);
    stage.step();
    assert_eq!(stage.told(), [format!("closed {}", CloseCause::Asked.name())]);
}
