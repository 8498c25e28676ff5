//! The loop that joins any Machine to any Ring. One turn: wait, completions, mail, commands, the
//! clock's due, what the Machine wants, and then everything leaves at once.
//! Owns the order of things. Never names the kernel, never says a SIP word, never looks at a byte.
//! Invariant: after each `handle` the Machine is polled until it has nothing more, before the turn
//! ends; no received byte is lent beyond the `handle` that was told of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Command;
use super::accept::Accepting;
use super::mailbox::Mailboxes;
use super::table::Table;
use crate::base::limits;
use crate::base::machine::{Arrival, CloseCause, Input, Machine, Output};
use crate::base::ring::{Completion, Full, Ring, RingCounts, Submission};
use crate::base::time::Instant;

/// The sizes of one turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnPlan {
    /// Listeners of this worker; the Machine and the Ring count them alike.
    pub listeners: u32,
    /// Slots that the Ring gives to accepted connections; the Machine's slab has as many.
    pub accepted: u32,
    /// Accepting pauses at so many accepted connections. The slots above are for those that the
    /// kernel accepts before the pause takes effect (`limits::ACCEPT_RESERVE` in a real worker).
    pub accept_limit: u32,
    /// Slots above the accepted ones, for connections that the Machine dials.
    pub own: u32,
}

/// What a turn counts; plain words since the turn was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnCounts {
    pub turns: u64,
    pub accepts: u64,
    /// Accepted, but not admitted by the Machine.
    pub accepts_refused: u64,
    /// Gone before the peer's address was known, or no slot was free.
    pub accepts_lost: u64,
    /// Ends of a multishot accept, asked for or not.
    pub accepts_ended: u64,
    /// Those among them for want of descriptors, slots or memory; tried again after a pause.
    pub accepts_starved: u64,
    pub connects: u64,
    pub closes: u64,
    pub receives: u64,
    pub bytes_received: u64,
    pub sends: u64,
    /// Sends that the kernel took in part; the rest followed.
    pub short_sends: u64,
    /// Multishot receives that ended for want of a buffer.
    pub starved: u64,
    /// Multishot receives that the kernel ended for another reason.
    pub receive_ends: u64,
    /// Multishot receives armed again.
    pub rearms: u64,
    /// Completions for a life that was over; stays 0 while the closing order is right.
    pub stale_completions: u64,
    /// Bytes thrown away after a connection's close was asked.
    pub bytes_discarded: u64,
    /// Envelopes posted to and taken from other workers.
    pub crossings_out: u64,
    pub crossings_in: u64,
    /// Envelopes that came back because the mailbox was full.
    pub undelivered: u64,
    /// Wakes sent to sleeping workers.
    pub wakes: u64,
    /// Turns in which the ring took no more submissions.
    pub ring_full: u64,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    On,
    /// Every connection is closed and nothing is under way.
    Stopped,
}

/// What `Command::Report` brings.
#[derive(Debug)]
pub struct WorkerReport<T> {
    pub machine: T,
    pub turn: TurnCounts,
    pub ring: RingCounts,
    pub live_accepted: u32,
    pub live_own: u32,
}

/// One Machine on one Ring.
pub struct Turn<R: Ring, M: Machine> {
    ring: R,
    machine: M,
    mailboxes: Mailboxes<M::Envelope>,
    table: Table,
    accepting: Accepting,
    commands: VecDeque<Command<M>>,
    may_sleep: bool,
    draining: bool,
    /// Set by `Command::Stop`: when the kernel's patience is over.
    stopping: Option<Instant>,
}

impl<R: Ring, M: Machine> Turn<R, M> {
    /// A turn whose first step arms the listeners.
    pub fn new(
        plan: &TurnPlan,
        ring: R,
        machine: M,
        mailboxes: Mailboxes<M::Envelope>,
    ) -> Turn<R, M> {
        Turn {
            ring,
            machine,
            mailboxes,
            table: Table::new(plan),
            accepting: Accepting::new(plan.listeners),
            commands: VecDeque::new(),
            may_sleep: false,
            draining: false,
            stopping: None,
        }
    }

    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// For the simulator, which makes the ring's completions.
    pub fn ring_mut(&mut self) -> &mut R {
        &mut self.ring
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    pub fn counts(&self) -> TurnCounts {
        self.table.counts
    }

    /// Live accepted and dialled connections.
    pub fn live(&self) -> (u32, u32) {
        (self.table.live_accepted(), self.table.live_own())
    }

    /// True when a drain was asked and the Machine has nothing left to wait for.
    pub fn drained(&self) -> bool {
        self.draining && self.machine.drained()
    }

    /// After a panic: lets go of the ring and hands the mailboxes on to the next life. Returns the
    /// bytes that had to be leaked.
    pub fn abandon(self) -> (Mailboxes<M::Envelope>, u64) {
        let Turn { mut ring, machine, mailboxes, .. } = self;
        ring.abandon();
        let leaked = ring.counts().leaked_bytes;
        // A Machine that has panicked may panic again while it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(machine)));
        (mailboxes, leaked)
    }

    /// Queues a command for the next `work`.
    pub fn command(&mut self, command: Command<M>) {
        self.commands.push_back(command);
    }

    /// One whole turn.
    pub fn step(&mut self) -> Going {
        self.sleep();
        self.work()
    }

    /// How long this turn may sleep; a past instant when there is work. A scheduler that steps
    /// several turns in one thread steps this one at that time, or when its ring has a completion.
    pub fn sleeps_until(&self) -> Instant {
        if !self.may_sleep || !self.table.submissions.is_empty() || !self.commands.is_empty() {
            return Instant::default();
        }
        let stop = self.stopping.unwrap_or(Instant::FAR);
        let own = self.table.next_deadline().min(self.accepting.next_deadline()).min(stop);
        self.machine.deadline().min(own)
    }

    /// Hands what the last turn left to the ring and sleeps until there is something to do.
    pub fn sleep(&mut self) {
        let until = self.sleeps_until();
        self.ring.wait(until);
        self.mailboxes.awake();
    }

    /// Everything that a turn does once it is awake.
    pub fn work(&mut self) -> Going {
        let now = self.ring.now();
        self.table.counts.turns += 1;
        self.take_completions(now);
        self.take_mail(now);
        self.obey_commands(now);
        self.table.end_lingering(now);
        if self.machine.deadline() <= now {
            self.machine.handle(now, Input::Tick);
        }
        self.ask_machine(now);
        self.adjust_accepting(now);
        self.wake_others();
        self.submit();
        let leaving = self.ring.read_clock();
        self.machine.leaving(leaving);
        // Published before the last look into the mailboxes; a scheduler that does not sleep finds
        // the flag set between its steps, as a real sender would.
        self.may_sleep = self.mailboxes.prepare_sleep();
        self.going(now)
    }

    fn take_completions(&mut self, now: Instant) {
        for _ in 0..limits::COMPLETIONS_PER_TURN {
            let Some(completion) = self.ring.next() else { break };
            let (table, machine) = (&mut self.table, &mut self.machine);
            match completion {
                Completion::Received { slot, generation, bytes, more } => {
                    table.counts.receives += 1;
                    table.counts.bytes_received += bytes.len() as u64;
                    table.received(machine, now, (slot, generation), bytes, more);
                }
                Completion::Sent { slot, generation, chunk, result } => {
                    table.sent(machine, now, (slot, generation), chunk, result);
                }
                Completion::ReceiveEnded { slot, generation, end } => {
                    table.receive_ended(machine, now, (slot, generation), end);
                }
                Completion::Accepted { slot, .. } if self.stopping.is_some() => table.refuse(slot),
                Completion::Accepted { listener, slot, peer } => {
                    table.accepted(machine, now, Arrival { slot, listener, peer });
                }
                Completion::AcceptEnded { listener, errno } => {
                    table.counts.accepts_ended += 1;
                    let starved = self.accepting.ended(now, listener, errno);
                    table.counts.accepts_starved += u64::from(starved);
                }
                Completion::AcceptLost { .. } => table.counts.accepts_lost += 1,
                Completion::Connected { slot, generation, result } => {
                    table.connected(machine, now, (slot, generation), result);
                }
                Completion::Closed { slot, generation } => {
                    table.closed(machine, now, (slot, generation));
                }
                Completion::Woken => {}
            }
        }
    }

    fn take_mail(&mut self, now: Instant) {
        let (machine, counts) = (&mut self.machine, &mut self.table.counts);
        self.mailboxes.take(limits::ENVELOPES_PER_TURN, |envelope| {
            counts.crossings_in += 1;
            machine.deliver(now, envelope);
        });
    }

    fn obey_commands(&mut self, now: Instant) {
        while let Some(command) = self.commands.pop_front() {
            match command {
                Command::Configure(settings) => self.machine.configure(now, settings),
                Command::Drain { deadline } => {
                    self.draining = true;
                    self.machine.handle(now, Input::Drain { deadline });
                }
                Command::Report { spare, reply } => reply(self.report(now, spare)),
                Command::Look { look } => look(&self.machine, now),
                Command::Stop => {
                    self.stopping.get_or_insert(now + limits::STOP_PATIENCE);
                    self.table.abort_all(now);
                }
            }
        }
    }

    /// Counts since the turn began, and the Machine's since its last report.
    pub fn report(&mut self, now: Instant, spare: M::Report) -> WorkerReport<M::Report> {
        WorkerReport {
            machine: self.machine.report(now, spare),
            turn: self.table.counts,
            ring: self.ring.counts(),
            live_accepted: self.table.live_accepted(),
            live_own: self.table.live_own(),
        }
    }

    /// Polls until the Machine wants nothing and posts what it has for others. An envelope that
    /// comes back may make it want something again.
    fn ask_machine(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.machine.poll() {
                self.obey_machine(now, output);
            }
            let Some((worker, envelope)) = self.machine.post() else { break };
            if worker == self.mailboxes.own() {
                self.machine.deliver(now, envelope);
            } else if let Err(envelope) = self.mailboxes.post(worker, envelope) {
                self.table.counts.undelivered += 1;
                self.machine.undelivered(now, envelope);
            } else {
                self.table.counts.crossings_out += 1;
            }
        }
    }

    fn obey_machine(&mut self, now: Instant, output: Output) {
        match output {
            Output::Transmit { conn, chunk } => {
                self.table.transmit(&mut self.machine, now, conn, chunk);
            }
            Output::Connect { conn, .. } if self.stopping.is_some() => {
                let cause = CloseCause::ConnectFailed;
                self.machine.handle(now, Input::Closed { conn, cause });
            }
            Output::Connect { conn, to, deadline } => self.table.connect(conn, to, deadline),
            Output::Close { conn, abort } => self.table.close(now, conn, CloseCause::Asked, abort),
            Output::Accept { open } => self.accepting.set_open(open),
        }
    }

    fn adjust_accepting(&mut self, now: Instant) {
        let room = !self.table.is_crowded() && self.stopping.is_none();
        self.accepting.adjust(now, room, &mut self.table.submissions);
    }

    fn wake_others(&mut self) {
        while let Some(worker) = self.mailboxes.next_to_wake() {
            self.table.counts.wakes += 1;
            self.table.submissions.push_back(Submission::Wake { worker });
        }
    }

    /// Everything leaves together: after the buffers of this turn's completions have gone back, and
    /// once for all that was queued for a connection. What the ring has no room for keeps its place.
    fn submit(&mut self) {
        while let Some(submission) = self.table.submissions.pop_front() {
            if let Err(Full(submission)) = self.ring.submit(submission) {
                self.table.counts.ring_full += 1;
                self.table.submissions.push_front(submission);
                break;
            }
        }
    }

    fn going(&self, now: Instant) -> Going {
        let Some(patience) = self.stopping else { return Going::On };
        let quiet = self.table.is_empty() && self.accepting.is_quiet();
        let sent = self.table.submissions.is_empty();
        if (quiet && sent) || now >= patience { Going::Stopped } else { Going::On }
    }
}
