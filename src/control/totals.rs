//! What all workers have counted since the start, and how things stand with each.
//! Owns the sums. Never asks a worker; the supervisor brings the reports. Counts of a life that ended are kept, except
//! those since its last report: they died with it.

use crate::config::snapshot::Snapshot;
use crate::proxy::{Gauges, Report};
use crate::telemetry::counter::Counters;
use crate::telemetry::latency::Latency;
use crate::worker::turn::WorkerReport;

/// What a worker's loop and ring count since the life began, by name: the words of `/v1/workers`.
const WORDS: [&str; 22] = [
    "system_calls",
    "completions",
    "turns",
    "accepts",
    "accepts_refused",
    "accepts_lost",
    "accepts_ended",
    "connects",
    "closes",
    "receives",
    "bytes_received",
    "sends",
    "short_sends",
    "buffers_starved",
    "receives_ended",
    "stale_completions",
    "overflows",
    "crossings_out",
    "crossings_in",
    "undelivered",
    "wakes",
    "ring_full",
];

type Words = [u64; WORDS.len()];

fn words(report: &WorkerReport<Report>) -> Words {
    let (turn, ring) = (&report.turn, &report.ring);
    [
        ring.system_calls,
        ring.completions,
        turn.turns,
        turn.accepts,
        turn.accepts_refused,
        turn.accepts_lost,
        turn.accepts_ended,
        turn.connects,
        turn.closes,
        turn.receives,
        turn.bytes_received,
        turn.sends,
        turn.short_sends,
        turn.starved,
        turn.receive_ends,
        turn.stale_completions,
        ring.overflows,
        turn.crossings_out,
        turn.crossings_in,
        turn.undelivered,
        turn.wakes,
        turn.ring_full,
    ]
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    Running,
    Drained,
    /// A panic ended the last life; the next begins.
    Restarting,
    Ended,
}

impl WorkerState {
    pub const fn name(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Running => "running",
            WorkerState::Drained => "drained",
            WorkerState::Restarting => "restarting",
            WorkerState::Ended => "ended",
        }
    }
}

/// Reloads since the start, by how they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    pub taken_over: u64,
    pub refused: u64,
}

/// One worker over all its lives.
#[derive(Debug)]
pub struct WorkerTotals {
    pub core: usize,
    pub state: WorkerState,
    pub panics: u32,
    pub leaked_bytes: u64,
    pub connections: u32,
    pub dialled: u32,
    pub gauges: Gauges,
    earlier: Words,
    this_life: Words,
}

impl WorkerTotals {
    fn new(core: usize) -> Self {
        WorkerTotals {
            core,
            state: WorkerState::Starting,
            panics: 0,
            leaked_bytes: 0,
            connections: 0,
            dialled: 0,
            gauges: Gauges::default(),
            earlier: [0; WORDS.len()],
            this_life: [0; WORDS.len()],
        }
    }

    /// Names and sums over all lives.
    pub fn words(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WORDS.into_iter().zip(self.earlier.iter().zip(&self.this_life).map(|(a, b)| a + b))
    }

    /// One of `words` by its name.
    pub fn word(&self, name: &str) -> u64 {
        let found = self.words().find(|(word, _)| *word == name);
        found.expect("a name that stands in WORDS").1
    }

    /// A panic has ended this life: its connections are gone.
    pub fn life_ended(&mut self, leaked_bytes: u64) {
        self.state = WorkerState::Restarting;
        self.panics += 1;
        self.leaked_bytes += leaked_bytes;
        for (earlier, this_life) in self.earlier.iter_mut().zip(&mut self.this_life) {
            *earlier += std::mem::take(this_life);
        }
        self.connections = 0;
        self.dialled = 0;
        self.gauges = Gauges::default();
    }
}

/// Everything counted.
#[derive(Debug)]
pub struct Totals {
    pub counters: Counters,
    /// Since the start.
    pub latency: Latency,
    /// Since `take_interval`.
    interval: Latency,
    pub workers: Vec<WorkerTotals>,
}

impl Totals {
    pub fn new(cores: &[usize], zones: usize, backends: usize) -> Self {
        Totals {
            counters: Counters::new(zones, backends),
            latency: Latency::new(),
            interval: Latency::new(),
            workers: cores.iter().map(|&core| WorkerTotals::new(core)).collect(),
        }
    }

    /// Adds what a worker reports, and gives its counts back empty, to be lent again.
    pub fn take(&mut self, worker: usize, report: WorkerReport<Report>) -> Report {
        let totals = &mut self.workers[worker];
        totals.this_life = words(&report);
        totals.connections = report.live_accepted;
        totals.dialled = report.live_own;
        let Report { mut counters, mut latency, gauges } = report.machine;
        totals.gauges = gauges;
        self.counters.merge(&counters);
        self.latency.merge(&latency);
        self.interval.merge(&latency);
        counters.reset();
        latency.reset();
        Report { counters, latency, gauges: Gauges::default() }
    }

    /// Lets `use_it` see the latency since the last call, and begins anew.
    pub fn take_interval<T>(&mut self, use_it: impl FnOnce(&Latency) -> T) -> T {
        let outcome = use_it(&self.interval);
        self.interval.reset();
        outcome
    }

    /// A reload has changed the backends: their counts go to their new numbers, those of backends that are gone end.
    pub fn reshape(&mut self, old: &Snapshot, new: &Snapshot) {
        let names = |snapshot: &Snapshot| {
            let pools = snapshot.pools.iter();
            pools
                .flat_map(|pool| {
                    pool.backends.iter().map(|of| (pool.name.clone(), of.name.clone()))
                })
                .collect::<Vec<_>>()
        };
        let (old, new) = (names(old), names(new));
        if old == new {
            return;
        }
        let mut fresh = Counters::new(self.counters.zones.len(), new.len());
        for (number, name) in new.iter().enumerate() {
            let Some(before) = old.iter().position(|of| of == name) else { continue };
            if let Some(found) = self.counters.backends.get(before) {
                fresh.backends[number] = *found;
            }
            if let Some(found) = self.counters.health.get(before) {
                fresh.health[number] = *found;
            }
        }
        self.counters.backends = fresh.backends;
        self.counters.health = fresh.health;
        self.workers.iter_mut().for_each(|worker| worker.gauges.backends.clear());
    }

    /// Whether a worker has a connection to this backend.
    pub fn backend_up(&self, backend: usize) -> bool {
        let up = |worker: &WorkerTotals| {
            worker.gauges.backends.get(backend).is_some_and(|gauge| gauge.up)
        };
        self.workers.iter().any(up)
    }

    pub fn connections(&self) -> u64 {
        self.workers.iter().map(|worker| u64::from(worker.connections)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ring::RingCounts;
    use crate::telemetry::counter::Refused;
    use crate::telemetry::latency::Stage;
    use crate::worker::turn::TurnCounts;

    fn backend(up: bool) -> crate::proxy::BackendGauge {
        let since = std::time::Duration::from_secs(3);
        crate::proxy::BackendGauge {
            up,
            reason: "connected",
            since,
            lanes_up: 1,
            lanes: 1,
            ramp: 100,
        }
    }

    fn report(system_calls: u64) -> WorkerReport<Report> {
        let mut machine = Report::new(1, 2);
        machine.counters.refuse(Refused::Loop);
        machine.latency.record(Stage::Backend, 1_000);
        machine.gauges.backends = [false, true].map(backend).to_vec();
        WorkerReport {
            machine,
            turn: TurnCounts { turns: 7, ..TurnCounts::default() },
            ring: RingCounts { system_calls, ..RingCounts::default() },
            live_accepted: 3,
            live_own: 1,
        }
    }

    #[test]
    fn reports_are_summed_and_come_back_empty() {
        let mut totals = Totals::new(&[4, 5], 1, 2);
        let spare = totals.take(0, report(10));
        assert!(spare.latency.is_empty());
        assert_eq!(spare.counters.refused(Refused::Loop), 0);
        totals.take(0, report(25));
        totals.take(1, report(1));
        assert_eq!(totals.counters.refused(Refused::Loop), 3);
        assert_eq!(totals.latency.histogram(Stage::Backend).len(), 3);
        assert_eq!(
            totals.workers[0].word("system_calls"),
            25,
            "counts of a life are no increments"
        );
        assert_eq!(totals.connections(), 6);
        assert!(!totals.backend_up(0) && totals.backend_up(1) && !totals.backend_up(9));
    }

    #[test]
    fn an_interval_begins_when_the_last_was_taken() {
        let mut totals = Totals::new(&[0], 1, 2);
        totals.take(0, report(1));
        let count = |latency: &Latency| latency.histogram(Stage::Backend).len();
        assert_eq!(totals.take_interval(count), 1);
        assert_eq!(totals.take_interval(count), 0);
        assert_eq!(count(&totals.latency), 1);
    }

    #[test]
    fn a_panic_keeps_the_counts_and_loses_the_connections() {
        let mut totals = Totals::new(&[0], 1, 2);
        totals.take(0, report(10));
        totals.workers[0].life_ended(64);
        assert_eq!(totals.connections(), 0);
        assert!(!totals.backend_up(1));
        totals.take(0, report(5));
        assert_eq!(totals.workers[0].word("system_calls"), 15);
        assert_eq!(totals.workers[0].word("turns"), 14);
        assert_eq!((totals.workers[0].panics, totals.workers[0].leaked_bytes), (1, 64));
    }
}
