//! The end of a run: who owes whom an answer, whether the counts agree, whether everything is at home.
//! Owns the sums over all lives of all workers. Never excuses a loss without a reason that it can name.

use super::cast::Cast;
use super::faults::Fault;
use super::oracle::{Judge, Kind, Target};
use super::ring::SimRing;
use super::wire::WireId;
use super::world::World;
use crate::base::time::Instant;
use crate::config::snapshot::ProbeMethod;
use crate::proxy::{Proxy, Report};
use crate::telemetry::counter::{Counters, Ended, HealthEvent, Refused, Retry};
use crate::worker::turn::{Turn, TurnCounts};

/// Sums over all lives.
pub struct Books {
    pub counters: Counters,
    pub turns: Vec<TurnCounts>,
    pub chunk_bytes_out: u64,
    pub panics: u64,
    pub stale_made: u64,
}

impl Default for Books {
    fn default() -> Self {
        Books {
            counters: Counters::new(0, 0),
            turns: Vec::new(),
            chunk_bytes_out: 0,
            panics: 0,
            stale_made: 0,
        }
    }
}

/// Adds what a life has counted since the last time.
pub fn close_books(books: &mut Books, turn: &mut Turn<SimRing, Proxy>, now: Instant) {
    let report = turn.report(now, Report::new(0, 0));
    books.counters.merge(&report.machine.counters);
    books.chunk_bytes_out += report.machine.gauges.chunk_bytes_out;
    books.turns.push(report.turn);
    books.stale_made += turn.ring().stale_made;
}

/// After the world has calmed down: every transaction is settled, the counts agree.
pub fn settled(world: &mut World) {
    full_mailboxes(world);
    let open: Vec<usize> = (0..world.cast.oracle.sents.len())
        .filter(|id| world.cast.wants_answer(*id) && !world.cast.oracle.sents[*id].hostile)
        .collect();
    let mut unexcused: Vec<usize> = Vec::new();
    for id in open {
        world.cast.oracle.count(Judge::Settled);
        if world.cast.is_answered(id) || is_excused(&world.cast, id) {
            continue;
        }
        // One loss takes the answer from all that was passed on of one request.
        let root = world.cast.oracle.sents[id].root;
        if unexcused.iter().all(|other| world.cast.oracle.sents[*other].root != root) {
            unexcused.push(id);
        }
    }
    for id in 0..world.cast.oracle.sents.len() {
        let sent = &world.cast.oracle.sents[id];
        if sent.hostile {
            let (heard, line) = (sent.heard, sent.heard_at);
            world.cast.oracle.judge(Judge::Forgery, heard == 0, || {
                format!("m{id} was passed on to line {line:?}")
            });
        }
    }
    world.cast.check_ended();
    world.close_all_books();
    count_faults(world);
    check_buffers(world);
    for line in &world.cast.lines {
        let whole = line.open && line.ended_at.is_none() && line.heard > 0;
        let (pings, pongs) = (line.pings, line.pongs);
        if whole && pings > 0 {
            world.cast.oracle.judge(Judge::Pong, pings == pongs, || {
                format!("line {}: {pings} pings, {pongs} answers", line.wire)
            });
        }
    }
    for (id, flow) in std::mem::take(&mut world.cast.oracle.doubtful) {
        let ended = world.net.borrow().wires[flow].over_at.is_some();
        world.cast.oracle.judge(Judge::Answer, ended, || {
            format!("430 to m{id} was not due: line {flow} lives on")
        });
    }
    let named = named_losses(&world.books.counters);
    if unexcused.len() as u64 > named {
        let id = unexcused[0];
        let sent = &world.cast.oracle.sents[id];
        let text = format!(
            "m{id} was never answered, and no loss has a name ({} like it, {named} named): {:?}, heard at {:?}; line {}: {}",
            unexcused.len(),
            sent.kind,
            sent.heard_at,
            sent.line,
            world.net.borrow().wires[sent.line].brief()
        );
        world.cast.oracle.judge(Judge::Settled, false, || text);
    }
    ledger(world);
}

/// Faults that only the front-end's own counts tell of.
fn count_faults(world: &World) {
    let late = HealthEvent::ProbeTimeout as usize;
    let late: u64 = world.books.counters.health.iter().map(|events| events[late]).sum();
    (0..late).for_each(|_| world.net.borrow_mut().faults.count(Fault::ProbeTimeout));
    for (fault, why) in [
        (Fault::Unsent, Retry::Unsent),
        (Fault::LostInFlight, Retry::ConnectionLost),
        (Fault::Unavailable, Retry::Unavailable),
        (Fault::Unanswered, Retry::ResponseTimeout),
    ] {
        let struck = world.books.counters.retries[why as usize];
        (0..struck).for_each(|_| world.net.borrow_mut().faults.count(fault));
    }
}

fn full_mailboxes(world: &mut World) {
    let full: u64 = world
        .workers
        .iter()
        .filter_map(|worker| worker.turn.as_ref())
        .map(|turn| turn.counts().undelivered)
        .sum();
    let mut net = world.net.borrow_mut();
    (0..full).for_each(|_| net.faults.count(Fault::MailboxFull));
}

/// Buffers are made for connections and envelopes at once, never for messages: they come back and are used again.
fn check_buffers(world: &mut World) {
    let made = world.books.counters.buffers_allocated;
    let connections = world.cast.lines.len() as u64 + 2 * world.setting.options.mailbox as u64;
    let messages = world.cast.oracle.sents.len();
    world.cast.oracle.judge(Judge::Allocation, made <= 2 * connections, || {
        format!("{made} buffers made for {connections} connections and {messages} messages")
    });
}

/// Losses that the front-end has counted by name.
fn named_losses(counters: &Counters) -> u64 {
    let names = [
        Refused::OutboxFull,
        Refused::ResponseFlowGone,
        Refused::ResponseForged,
        Refused::ResponseUnsent,
        Refused::AnswerUnsent,
        Refused::TimedOut,
    ];
    names.iter().map(|name| counters.refused(*name)).sum()
}

/// Whether the loss of a transaction lies outside of the front-end: a connection that it needed has ended since.
fn is_excused(cast: &Cast, id: usize) -> bool {
    let sent = &cast.oracle.sents[id];
    // What is sent to a peer that is gone is lost until the front-end can know of it.
    let ended = |line: WireId| {
        let over_at = cast.net.borrow().wires[line].over_at;
        let times = [cast.lines[line].ended_at, over_at];
        times.into_iter().flatten().any(|at| at >= sent.at)
    };
    // Whoever was never accepted waits in the kernel, as long as the worker has no room.
    if ended(sent.line) || cast.net.borrow().wires[sent.line].worker.is_none() {
        return true;
    }
    let backends = || {
        (0..cast.lines.len()).any(|line| cast.lines[line].holder.backend().is_some() && ended(line))
    };
    let Kind::Request { target, .. } = &sent.kind else { return true };
    let Some(heard_at) = sent.heard_at else {
        return match target {
            Target::Line(flow) => ended(*flow) || backends(),
            Target::Pool | Target::Backend(_) => backends(),
            Target::Local | Target::Nobody(_) => false,
        };
    };
    if ended(heard_at) {
        return true;
    }
    // Answered on another line, which has ended; or passed on, and lost further along.
    let later = cast.oracle.sents.iter().enumerate().skip(id + 1);
    let mut after = later.filter(|(_, it)| it.root == sent.root);
    after.any(|(other, it)| match &it.kind {
        Kind::Response { to, .. } => *to == id && ended(it.line),
        Kind::Request { method, .. } => {
            let passed_on = cast.lines[it.line].holder.backend().is_some()
                && cast.lines[it.line].holder.backend() == cast.lines[heard_at].holder.backend();
            passed_on
                && method != "ACK"
                && cast.oracle.sents[other].answers.is_empty()
                && is_excused(cast, other)
        }
        Kind::Garbage { .. } => false,
    })
}

/// What came in went out, was answered, or was lost with a name.
fn ledger(world: &mut World) {
    let counters = &world.books.counters;
    let sum = |reasons: &[Refused]| -> u64 {
        reasons.iter().map(|reason| counters.refused(*reason)).sum()
    };
    let probes = |event: HealthEvent| -> u64 {
        counters.health.iter().map(|events| events[event as usize]).sum()
    };
    // A pong is no message.
    let pings = world.setting.options.health.is_some_and(|it| it.method == ProbeMethod::Crlf);
    let probed = match pings {
        true => 0,
        false => probes(HealthEvent::ProbeAnswered) + probes(HealthEvent::ProbeRefused),
    };
    let answers: u64 = counters.answers().map(|(_, count)| count).sum();
    let requests: u64 = counters.zones.iter().flat_map(|zone| zone.requests).sum();
    let forwarded: u64 = counters.zones.iter().map(|zone| zone.requests_forwarded).sum();
    let responses: u64 = counters.zones.iter().map(|zone| zone.responses).sum();
    let passed: u64 = counters.zones.iter().map(|zone| zone.responses_forwarded).sum();
    let unsent = sum(&[Refused::Unsent]);
    // A transaction whose state is kept goes out again, says that it is under way, and is answered after it went out.
    let again: u64 =
        counters.retries.iter().sum::<u64>() - counters.retries[Retry::LinkFull as usize];
    let trying = counters.answers().find(|it| it.0 == 100).map_or(0, |it| it.1);
    let kept = again + trying + counters.ended[Ended::Concluded as usize];
    let came = requests + unsent + kept;
    let went = forwarded
        + answers
        + sum(&[Refused::AckDropped, Refused::AckAbsorbed, Refused::Retransmission]);
    let lost = sum(&[
        Refused::ResponseMalformed,
        Refused::ResponseNotOurs,
        Refused::ResponseBroadcast,
        Refused::ResponseForged,
        Refused::ResponseFlowGone,
        Refused::ResponseTrying,
        Refused::ResponseEndsHere,
        Refused::ResponseUnsent,
        Refused::ResponseStray,
        Refused::ResponseLate,
        Refused::ResponseProvisional,
        Refused::ResponseUnavailable,
    ]);
    // What a panic interrupts has no other name than the panic.
    if world.books.panics > 0 {
        return;
    }
    let oracle = &mut world.cast.oracle;
    oracle.judge(Judge::Ledger, came == went, || {
        format!(
            "{requests} requests, {unsent} came back, {kept} by state; {forwarded} forwarded, {answers} answered"
        )
    });
    oracle.judge(Judge::Ledger, responses == passed + lost + probed, || {
        format!(
            "{responses} responses; {passed} passed on, {lost} lost by name, {probed} of probes"
        )
    });
}

/// After everybody has hung up: no connection is left but the links, nothing waits.
pub fn parted(world: &mut World) {
    let draining = world.is_draining();
    for worker in 0..world.workers.len() {
        let Some(turn) = &world.workers[worker].turn else {
            world.cast.oracle.judge(Judge::Home, false, || format!("worker {worker} is dead"));
            continue;
        };
        let (accepted, _) = turn.live();
        let (drained, stale) = (turn.drained(), turn.counts().stale_completions);
        let made = turn.ring().stale_made;
        let oracle = &mut world.cast.oracle;
        oracle.judge(Judge::Home, accepted == 0, || {
            format!("worker {worker} still has {accepted} accepted connections")
        });
        oracle.judge(Judge::Stale, stale == made, || {
            format!("worker {worker}: {made} late completions, {stale} counted")
        });
        oracle
            .judge(Judge::Home, !draining || drained, || format!("worker {worker} is not drained"));
    }
    let places = world.cast.lines.iter().map(|line| line.place.peer);
    let counted: u32 = places.map(|peer| world.setting.counted(peer)).sum();
    world.cast.oracle.judge(Judge::Home, counted == 0, || {
        format!("{counted} connections are still counted for their prefixes")
    });
    world.books.chunk_bytes_out = 0;
    world.close_all_books();
    let out = world.books.chunk_bytes_out;
    world.cast.oracle.judge(Judge::Home, out == 0, || format!("{out} bytes of chunks are out"));
}

/// After the stop: slots zero, operations zero, buffers at home.
pub fn stopped(world: &mut World) {
    for worker in 0..world.workers.len() {
        let stopped = world.is_stopped(worker);
        let Some(turn) = &world.workers[worker].turn else { continue };
        let unsettled = turn.ring().unsettled();
        let live = turn.live();
        let oracle = &mut world.cast.oracle;
        oracle.judge(Judge::Home, stopped && live == (0, 0) && unsettled.is_empty(), || {
            format!("worker {worker}: stopped {stopped}, live {live:?}, {unsettled:?}")
        });
    }
}
