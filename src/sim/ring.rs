//! A Ring with no kernel: completions are made here, out of the made-up network, and never nicer than the kernel's.
//! Owns the descriptor table, the provided buffers and every chunk that is being sent. Never decides when.
//! Invariant: what the kernel forbids or punishes (two sends on one socket, a close with something under way, a slot
//! given away twice) is a violation, said once and by name.
//!
//! What the kernel does is written in the order of the house's list of pitfalls: each of those is a branch here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::rc::Rc;

use super::faults::Fault;
use super::wire::{Net, Side, WireId};
use crate::base::chunk::Chunk;
use crate::base::machine::ConnId;
use crate::base::random::Random;
use crate::base::ring::{Completion, ConnectFault, Full, ReceiveEnd, Ring, RingCounts, Submission};
use crate::base::time::Instant;

mod errno {
    pub const EINVAL: i32 = 22;
    pub const ENFILE: i32 = 23;
    pub const EMFILE: i32 = 24;
    pub const EPIPE: i32 = 32;
    pub const ECONNRESET: i32 = 104;
    pub const ECONNREFUSED: i32 = 111;
    pub const ECANCELED: i32 = 125;
}

/// What unwinds when a worker is made to panic: so that it is told from a real one.
pub struct MadePanic;

/// Sizes of one ring and how rough it is.
#[derive(Clone, Copy, Debug)]
pub struct RingPlan {
    pub worker: u16,
    pub accepted: u32,
    pub own: u32,
    pub listeners: u32,
    pub buffers: usize,
    pub buffer_bytes: usize,
    pub submissions: usize,
    pub completions: usize,
    pub rough: Rough,
}

/// One in so many, for each kind of fault; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rough {
    pub short_send: u64,
    pub receive_end: u64,
    pub shuffle: u64,
    pub stale: u64,
    pub full: u64,
    pub no_descriptor: u64,
    pub spurious_wake: u64,
    /// A cancelled operation ends a turn later, one in so many.
    pub slow_cancel: u64,
}

/// A send that the kernel holds.
#[derive(Debug)]
struct Sending {
    chunk: Chunk,
    /// Bytes taken so far (the kernel is asked for all of them).
    taken: usize,
    blocked: bool,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    wire: Option<WireId>,
    receiving: bool,
    sending: Option<Sending>,
    connecting: bool,
    /// How a connect has ended, to be told.
    dialled: Option<Result<WireId, ConnectFault>>,
    cancelled: bool,
    /// The last bytes of this life, for a completion that comes too late.
    last: Vec<u8>,
    taken: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Listener {
    armed: bool,
    cancelled: bool,
}

/// A completion in the queue.
#[derive(Debug)]
enum Done {
    Received { slot: u32, generation: u32, buffer: usize, len: usize, more: bool },
    Other { slot: Option<u32>, completion: Completion<'static> },
}

impl Done {
    /// Completions of the same slot keep their order.
    fn slot(&self) -> Option<u32> {
        match self {
            Done::Received { slot, .. } => Some(*slot),
            Done::Other { slot, .. } => *slot,
        }
    }
}

/// The made-up kernel under one worker.
pub struct SimRing {
    net: Rc<RefCell<Net>>,
    plan: RingPlan,
    random: Random,
    slots: Vec<Slot>,
    /// Slots with something in them.
    live: Vec<u32>,
    listeners: Vec<Listener>,
    submitted: VecDeque<Submission>,
    done: VecDeque<Done>,
    buffers: Vec<Vec<u8>>,
    free: Vec<usize>,
    lent: Option<usize>,
    /// Lives that are over, with the last bytes of each.
    graves: Vec<(ConnId, Vec<u8>)>,
    now: Instant,
    counts: RingCounts,
    /// Calls until the made panic.
    panic_in: Option<u32>,
    pub stale_made: u64,
}

impl SimRing {
    pub fn new(net: Rc<RefCell<Net>>, plan: RingPlan, random: Random) -> SimRing {
        let now = net.borrow().now();
        SimRing {
            net,
            plan,
            random,
            slots: (0..plan.accepted + plan.own).map(|_| Slot::default()).collect(),
            live: Vec::new(),
            listeners: vec![Listener::default(); plan.listeners as usize],
            submitted: VecDeque::new(),
            done: VecDeque::new(),
            buffers: vec![vec![POISON; plan.buffer_bytes]; plan.buffers],
            free: (0..plan.buffers).collect(),
            lent: None,
            graves: Vec::new(),
            now,
            counts: RingCounts::default(),
            panic_in: None,
            stale_made: 0,
        }
    }

    /// The worker panics at the `calls`-th call from now.
    pub fn panic_in(&mut self, calls: u32) {
        self.panic_in = Some(calls);
    }

    /// From now on nothing goes wrong that need not.
    pub fn calm(&mut self) {
        self.panic_in = None;
        self.plan.rough = Rough::default();
    }

    /// The connection in a slot, if any.
    pub fn wire_in(&self, slot: u32) -> Option<WireId> {
        self.slots[slot as usize].wire
    }

    /// What is not at home: slots, operations, buffers. Empty when the ring is at rest.
    pub fn unsettled(&self) -> Vec<String> {
        let mut unsettled = Vec::new();
        for &slot in &self.live {
            let it = &self.slots[slot as usize];
            unsettled.push(format!(
                "slot {slot}: wire {:?}, receiving {}, sending {}, connecting {}",
                it.wire,
                it.receiving,
                it.sending.is_some(),
                it.connecting
            ));
        }
        let away = self.plan.buffers - self.free.len() - usize::from(self.lent.is_some());
        if away > 0 {
            unsettled.push(format!("{away} receive buffers not at home"));
        }
        if !self.submitted.is_empty() {
            unsettled.push(format!("{} submissions not taken", self.submitted.len()));
        }
        unsettled
    }

    fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.random.one_in(times)
    }

    fn maybe_panic(&mut self) {
        if let Some(calls) = &mut self.panic_in {
            if *calls == 0 {
                self.panic_in = None;
                self.net.borrow_mut().faults.count(Fault::Panic);
                resume_unwind(Box::new(MadePanic));
            }
            *calls -= 1;
        }
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.lent.take() {
            // Whoever still looks at it reads nonsense.
            self.buffers[buffer].fill(POISON);
            self.free.push(buffer);
        }
    }

    fn push(&mut self, slot: Option<u32>, completion: Completion<'static>) {
        self.done.push_back(Done::Other { slot, completion });
    }

    fn is_overflowing(&self) -> bool {
        self.done.len() >= self.plan.completions
    }

    // --- Submissions take effect -----------------------------------------------------------------

    /// The worker enters the kernel: everything submitted takes effect, in order.
    pub fn enter(&mut self) {
        self.counts.system_calls += 1;
        let net = Rc::clone(&self.net);
        let mut net = net.borrow_mut();
        while let Some(submission) = self.submitted.pop_front() {
            self.apply(&mut net, submission);
        }
        // What takes effect may be done already: the worker then finds it at its next turn.
        if self.has_work(&net) {
            net.rouse(self.plan.worker);
        }
    }

    fn apply(&mut self, net: &mut Net, submission: Submission) {
        match submission {
            Submission::Accept { listener } => {
                let it = &mut self.listeners[listener as usize];
                if it.armed {
                    net.violation("a listener was armed twice");
                }
                *it = Listener { armed: true, cancelled: false };
            }
            Submission::CancelAccept { listener } => {
                self.listeners[listener as usize].cancelled = true;
            }
            Submission::Receive { conn } => self.apply_receive(net, conn),
            Submission::Send { conn, chunk } => self.apply_send(net, conn, chunk),
            Submission::Connect { conn, to, deadline } => {
                let slot = &mut self.slots[conn.slot as usize];
                if slot.taken {
                    net.violation(format!("slot {} was dialled while it lives", conn.slot));
                }
                *slot = Slot {
                    generation: conn.short_generation(),
                    connecting: true,
                    taken: true,
                    ..Slot::default()
                };
                self.live.push(conn.slot);
                net.dial(self.plan.worker, conn, to, deadline);
            }
            Submission::Finish { conn } => {
                let slot = &self.slots[conn.slot as usize];
                if slot.sending.is_some() {
                    net.violation("a sending side was shut under a send");
                }
                if let Some(wire) = slot.wire {
                    net.finish(wire, Side::Peer);
                }
            }
            Submission::Cancel { conn } => {
                if self.check_life(net, conn, "cancel") {
                    self.slots[conn.slot as usize].cancelled = true;
                }
            }
            Submission::Close { conn, abort } => self.apply_close(net, conn, abort),
            Submission::Refuse { slot } => self.free_slot(net, slot, false),
            Submission::Wake { worker } => net.wake(worker),
        }
    }

    fn check_life(&self, net: &mut Net, conn: ConnId, what: &str) -> bool {
        let slot = &self.slots[conn.slot as usize];
        let alive = slot.taken && slot.generation == conn.short_generation();
        if !alive {
            net.violation(format!("{what} for a life of slot {} that is over", conn.slot));
        }
        alive
    }

    fn apply_receive(&mut self, net: &mut Net, conn: ConnId) {
        if conn.slot < self.plan.accepted {
            // The kernel does not know generations: the first receive names the life.
            let slot = &mut self.slots[conn.slot as usize];
            if slot.generation == UNNAMED {
                slot.generation = conn.short_generation();
            }
        }
        if !self.check_life(net, conn, "receive") {
            return;
        }
        if self.slots[conn.slot as usize].receiving {
            net.violation(format!("two receives on slot {}", conn.slot));
        }
        if self.free.is_empty() {
            // Armed while no buffer is there: ended at once, data or not.
            net.faults.count(Fault::Starved);
            return self.receive_over(conn.slot, ReceiveEnd::Starved);
        }
        self.slots[conn.slot as usize].receiving = true;
    }

    fn apply_send(&mut self, net: &mut Net, conn: ConnId, chunk: Chunk) {
        self.check_life(net, conn, "send");
        let slot = &mut self.slots[conn.slot as usize];
        if slot.sending.is_some() {
            // The kernel would take both, in any order; here the second one goes first.
            net.violation(format!("two sends under way in slot {}", conn.slot));
            if let Some(wire) = slot.wire {
                let taken = net.send(wire, Side::Peer, chunk.unsent()) as u32;
                let (slot, generation) = (conn.slot, conn.short_generation());
                let done = Completion::Sent { slot, generation, chunk, result: Ok(taken) };
                self.push(Some(slot), done);
            }
            return;
        }
        slot.sending = Some(Sending { chunk, taken: 0, blocked: false });
    }

    fn apply_close(&mut self, net: &mut Net, conn: ConnId, abort: bool) {
        if !self.check_life(net, conn, "close") {
            return;
        }
        let slot = &mut self.slots[conn.slot as usize];
        if slot.receiving || slot.sending.is_some() || slot.connecting {
            net.violation(format!("slot {} closed with something under way", conn.slot));
        }
        let last = std::mem::take(&mut slot.last);
        self.graves.push((conn, last));
        self.free_slot(net, conn.slot, abort);
        let (slot, generation) = (conn.slot, conn.short_generation());
        self.push(Some(slot), Completion::Closed { slot, generation });
    }

    /// The descriptor is given back: the next accept takes the lowest free slot at once.
    fn free_slot(&mut self, net: &mut Net, slot: u32, abort: bool) {
        if let Some(wire) = self.slots[slot as usize].wire {
            net.close(wire, Side::Proxy, abort);
        }
        self.slots[slot as usize] = Slot::default();
        self.live.retain(|live| *live != slot);
    }

    // --- Completions are made --------------------------------------------------------------------

    /// Whether a wait would find something.
    fn has_work(&self, net: &Net) -> bool {
        !self.done.is_empty()
            || net.woken[usize::from(self.plan.worker)]
            || self.listeners.iter().any(|it| it.armed && it.cancelled)
            || (0..self.listeners.len()).any(|it| {
                let waiting = &net.backlog[usize::from(self.plan.worker)][it];
                self.listeners[it].armed && !waiting.is_empty()
            })
            || self.live.iter().any(|slot| self.slot_has_work(net, *slot))
    }

    fn slot_has_work(&self, net: &Net, slot: u32) -> bool {
        let it = &self.slots[slot as usize];
        if it.dialled.is_some() || it.cancelled {
            return true;
        }
        let Some(wire) = it.wire else { return false };
        let wire = &net.wires[wire];
        let readable = wire.to_proxy.arrived() > 0 || wire.to_proxy.is_over() || wire.reset;
        let writable = wire.to_peer.room() > 0 || wire.reset;
        (it.receiving && readable) || (it.sending.is_some() && writable)
    }

    fn collect(&mut self, net: &mut Net) {
        if std::mem::take(&mut net.woken[usize::from(self.plan.worker)]) {
            self.push(None, Completion::Woken);
        } else if self.one_in(self.plan.rough.spurious_wake) {
            net.faults.count(Fault::SpuriousWake);
            self.push(None, Completion::Woken);
        }
        let mut order = self.live.clone();
        for place in (1..order.len()).rev() {
            order.swap(place, self.random.below(place as u64 + 1) as usize);
        }
        let first = self.done.len();
        for slot in order {
            self.collect_slot(net, slot);
        }
        for listener in 0..self.listeners.len() as u32 {
            self.collect_accepts(net, listener);
        }
        self.bury_late(net);
        if self.one_in(self.plan.rough.shuffle) {
            self.shuffle(net, first);
        }
    }

    fn collect_slot(&mut self, net: &mut Net, slot: u32) {
        let sends_first = self.random.one_in(2);
        if sends_first {
            self.progress_send(net, slot);
        }
        self.collect_dialled(net, slot);
        self.collect_received(net, slot);
        if !sends_first {
            self.progress_send(net, slot);
        }
        if self.slots[slot as usize].cancelled && !self.one_in(self.plan.rough.slow_cancel) {
            self.end_cancelled(slot);
        }
    }

    fn collect_dialled(&mut self, net: &mut Net, slot: u32) {
        let it = &mut self.slots[slot as usize];
        let Some(result) = it.dialled.take() else { return };
        it.connecting = false;
        let generation = it.generation;
        let result = match result {
            Ok(wire) => {
                it.wire = Some(wire);
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        net.faults.count(match result {
            Ok(()) => return self.push(Some(slot), connected(slot, generation, Ok(()))),
            Err(ConnectFault::Timeout) => Fault::ConnectTimeout,
            Err(ConnectFault::Failed(_)) => Fault::ConnectRefused,
        });
        self.push(Some(slot), connected(slot, generation, result));
    }

    /// A connect that the network has brought to an end.
    pub fn dialled(
        &mut self,
        slot: u32,
        generation: u32,
        result: Result<WireId, ConnectFault>,
    ) -> bool {
        let it = &mut self.slots[slot as usize];
        if it.connecting && it.generation == generation && it.dialled.is_none() {
            it.dialled = Some(result);
            return true;
        }
        false
    }

    /// Multishot receive: buffer by buffer until nothing is left, no buffer is, or the multishot ends.
    fn collect_received(&mut self, net: &mut Net, slot: u32) {
        let Some(wire) = self.slots[slot as usize].wire else { return };
        while self.slots[slot as usize].receiving && net.wires[wire].to_proxy.arrived() > 0 {
            let Some(buffer) = self.free.pop() else {
                net.faults.count(Fault::Starved);
                return self.receive_over(slot, ReceiveEnd::Starved);
            };
            let len = net.wires[wire].to_proxy.take(&mut self.buffers[buffer]);
            net.proxy_has_read(wire);
            let overflow = self.is_overflowing();
            if overflow {
                self.counts.overflows += 1;
                net.faults.count(Fault::Overflow);
            }
            let ended = !overflow && self.one_in(self.plan.rough.receive_end);
            if ended {
                net.faults.count(Fault::ReceiveEnded);
            }
            let bytes = &self.buffers[buffer][..len];
            if count_heads(bytes) > 1 {
                net.faults.count(Fault::Coalesced);
            }
            let it = &mut self.slots[slot as usize];
            it.last.clear();
            it.last.extend_from_slice(bytes);
            it.receiving = !(overflow || ended);
            let (generation, more) = (it.generation, it.receiving);
            self.done.push_back(Done::Received { slot, generation, buffer, len, more });
        }
        if !self.slots[slot as usize].receiving {
            return;
        }
        if net.wires[wire].reset {
            let failed = ReceiveEnd::Failed(errno::ECONNRESET);
            self.receive_over(slot, failed);
        } else if net.wires[wire].to_proxy.is_over() {
            self.receive_over(slot, ReceiveEnd::Finished);
        }
    }

    fn receive_over(&mut self, slot: u32, end: ReceiveEnd) {
        let it = &mut self.slots[slot as usize];
        it.receiving = false;
        let generation = it.generation;
        self.push(Some(slot), Completion::ReceiveEnded { slot, generation, end });
    }

    /// The kernel takes what has room. It was asked for all; now and then it stops before.
    fn progress_send(&mut self, net: &mut Net, slot: u32) {
        let short = self.one_in(self.plan.rough.short_send);
        let share = self.random.next_u64();
        let it = &mut self.slots[slot as usize];
        let (Some(wire), Some(sending)) = (it.wire, it.sending.as_mut()) else { return };
        if net.wires[wire].reset {
            // What was taken before the error is told first; the error comes with the next send.
            let (taken, first) = (sending.taken as u32, sending.taken == 0);
            let errno = if share.is_multiple_of(2) { errno::ECONNRESET } else { errno::EPIPE };
            return self.send_over(slot, if first { Err(errno) } else { Ok(taken) });
        }
        let rest = &sending.chunk.unsent()[sending.taken..];
        let wanted = if short { 1 + share as usize % rest.len() } else { rest.len() };
        let taken = net.send(wire, Side::Peer, &rest[..wanted]);
        sending.taken += taken;
        let all = sending.taken == sending.chunk.unsent().len();
        if !all && taken < wanted {
            net.wires[wire].proxy_waits = true;
            if !std::mem::replace(&mut sending.blocked, true) {
                net.faults.count(Fault::SendBlocked);
            }
        }
        let (total, stopped) = (sending.taken as u32, short && taken > 0);
        if all || stopped {
            if !all {
                net.faults.count(Fault::ShortSend);
            }
            self.send_over(slot, Ok(total));
        }
    }

    fn send_over(&mut self, slot: u32, result: Result<u32, i32>) {
        let it = &mut self.slots[slot as usize];
        let Some(sending) = it.sending.take() else { return };
        let (generation, chunk) = (it.generation, sending.chunk);
        self.push(Some(slot), Completion::Sent { slot, generation, chunk, result });
    }

    /// Each cancelled operation ends with its own completion, in any order.
    fn end_cancelled(&mut self, slot: u32) {
        self.slots[slot as usize].cancelled = false;
        let turn = self.random.below(2);
        for step in 0..2 {
            let it = &mut self.slots[slot as usize];
            if (step + turn).is_multiple_of(2) {
                if it.receiving {
                    self.receive_over(slot, ReceiveEnd::Cancelled);
                }
            } else if let Some(sending) = &it.sending {
                let taken = sending.taken as u32;
                self.send_over(slot, if taken > 0 { Ok(taken) } else { Err(errno::ECANCELED) });
            }
        }
        let it = &mut self.slots[slot as usize];
        if it.connecting {
            it.connecting = false;
            it.dialled = None;
            let fault = ConnectFault::Failed(errno::ECANCELED);
            let generation = it.generation;
            self.push(Some(slot), connected(slot, generation, Err(fault)));
        }
    }

    fn collect_accepts(&mut self, net: &mut Net, listener: u32) {
        while self.listeners[listener as usize].armed {
            if self.listeners[listener as usize].cancelled && self.random.one_in(2) {
                break;
            }
            let queue = &mut net.backlog[usize::from(self.plan.worker)][listener as usize];
            let Some(&wire) = queue.front() else { break };
            if self.one_in(self.plan.rough.no_descriptor) {
                net.faults.count(Fault::AcceptNoDescriptor);
                return self.accept_over(listener, errno::EMFILE);
            }
            queue.pop_front();
            let free = (0..self.plan.accepted).find(|slot| !self.slots[*slot as usize].taken);
            let Some(slot) = free else {
                // The connection is accepted and lost: there is no place for it in the table.
                net.faults.count(Fault::AcceptTableFull);
                net.wires[wire].proxy_open = true;
                net.close(wire, Side::Proxy, false);
                return self.accept_over(listener, errno::ENFILE);
            };
            if net.wires[wire].reset {
                net.faults.count(Fault::AcceptGone);
                let errno = errno::EINVAL;
                self.push(None, Completion::AcceptLost { listener, errno });
                continue;
            }
            self.accept(net, listener, slot, wire);
            if self.is_overflowing() {
                self.counts.overflows += 1;
                net.faults.count(Fault::Overflow);
                return self.accept_over(listener, 0);
            }
        }
        let it = &self.listeners[listener as usize];
        if it.armed && it.cancelled {
            self.accept_over(listener, errno::ECANCELED);
        }
    }

    fn accept(&mut self, net: &mut Net, listener: u32, slot: u32, wire: WireId) {
        self.slots[slot as usize] =
            Slot { generation: UNNAMED, wire: Some(wire), taken: true, ..Slot::default() };
        self.live.push(slot);
        net.accepted(wire, self.plan.worker);
        let peer = net.wires[wire].peer;
        self.push(Some(slot), Completion::Accepted { listener, slot, peer });
    }

    fn accept_over(&mut self, listener: u32, errno: i32) {
        self.listeners[listener as usize] = Listener::default();
        self.push(None, Completion::AcceptEnded { listener, errno });
    }

    /// A completion of a life that is over, behind the beginning of the next one in the same slot.
    fn bury_late(&mut self, net: &mut Net) {
        if self.graves.is_empty() || !self.one_in(self.plan.rough.stale) {
            return;
        }
        let at = self.random.below(self.graves.len() as u64) as usize;
        let (conn, last) = &self.graves[at];
        let it = &self.slots[conn.slot as usize];
        let (slot, generation) = (conn.slot, conn.short_generation());
        if !it.taken || it.generation == generation || it.generation == UNNAMED {
            return;
        }
        let last = last.clone();
        self.graves.swap_remove(at);
        self.stale_made += 1;
        net.faults.count(Fault::Stale);
        match (self.random.below(4), self.free.pop()) {
            (0, buffer) => {
                self.free.extend(buffer);
                let end = ReceiveEnd::Failed(errno::ECONNRESET);
                self.push(Some(slot), Completion::ReceiveEnded { slot, generation, end });
            }
            (1, buffer) => {
                self.free.extend(buffer);
                self.push(Some(slot), Completion::Closed { slot, generation });
            }
            (_, Some(buffer)) if !last.is_empty() => {
                self.buffers[buffer][..last.len()].copy_from_slice(&last);
                let len = last.len();
                self.done.push_back(Done::Received { slot, generation, buffer, len, more: true });
            }
            (_, buffer) => {
                self.free.extend(buffer);
                let end = ReceiveEnd::Finished;
                self.push(Some(slot), Completion::ReceiveEnded { slot, generation, end });
            }
        }
    }

    /// Completions of different connections change places; those of one keep their order.
    fn shuffle(&mut self, net: &mut Net, first: usize) {
        let mut moved = false;
        for place in first + 1..self.done.len() {
            let (one, two) = (self.done[place - 1].slot(), self.done[place].slot());
            if one.is_some() && two.is_some() && one != two && self.random.one_in(2) {
                self.done.swap(place - 1, place);
                moved = true;
            }
        }
        if moved {
            net.faults.count(Fault::Shuffled);
        }
    }
}

/// What stands in a buffer that nobody holds.
const POISON: u8 = 0xDD;
/// The generation of an accepted slot before its first receive.
const UNNAMED: u32 = u32::MAX;

fn connected(slot: u32, generation: u32, result: Result<(), ConnectFault>) -> Completion<'static> {
    Completion::Connected { slot, generation, result }
}

fn count_heads(bytes: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, b"\r\n\r\n").count()
}

impl Ring for SimRing {
    fn now(&self) -> Instant {
        self.now
    }

    fn read_clock(&mut self) -> Instant {
        let mut net = self.net.borrow_mut();
        let nanos = self.random.below(20_000);
        net.pass(nanos);
        self.now = net.now();
        self.now
    }

    fn submit(&mut self, submission: Submission) -> Result<(), Full> {
        self.maybe_panic();
        if self.submitted.len() >= self.plan.submissions {
            self.enter();
        }
        if self.one_in(self.plan.rough.full) {
            self.net.borrow_mut().faults.count(Fault::RingFull);
            return Err(Full(submission));
        }
        self.submitted.push_back(submission);
        Ok(())
    }

    fn wait(&mut self, _until: Instant) {
        self.give_back();
        self.enter();
        let net = Rc::clone(&self.net);
        let mut net = net.borrow_mut();
        self.collect(&mut net);
        self.now = net.now();
    }

    fn next(&mut self) -> Option<Completion<'_>> {
        self.give_back();
        self.maybe_panic();
        let done = self.done.pop_front()?;
        self.counts.completions += 1;
        Some(match done {
            Done::Other { completion, .. } => completion,
            Done::Received { slot, generation, buffer, len, more } => {
                self.lent = Some(buffer);
                let bytes = &mut self.buffers[buffer][..len];
                Completion::Received { slot, generation, bytes, more }
            }
        })
    }

    fn counts(&self) -> RingCounts {
        self.counts
    }

    /// The process keeps its listeners; every connection of this ring is cut.
    fn abandon(&mut self) {
        let mut net = self.net.borrow_mut();
        for slot in std::mem::take(&mut self.live) {
            if let Some(wire) = self.slots[slot as usize].wire {
                net.close(wire, Side::Proxy, true);
            }
        }
        let chunks = self.slots.iter().filter_map(|slot| slot.sending.as_ref());
        let chunks: usize = chunks.map(|sending| sending.chunk.capacity()).sum();
        self.counts.leaked_bytes = (chunks + self.plan.buffers * self.plan.buffer_bytes) as u64;
    }
}

/// What a dial that nobody answers ends with, and one to a closed port.
pub const REFUSED: ConnectFault = ConnectFault::Failed(errno::ECONNREFUSED);
