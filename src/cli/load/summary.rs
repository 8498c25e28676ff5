//! What a load run is reported as: text for people, JSON for scripts, HdrHistogram's files for plotters.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::control::load::{Sample, Usage, process_usage};
use crate::peer::tally::{Fault, Measure, Tally};
use crate::telemetry::percentiles::{Summary, table_of};

/// A worker that had its core, or waited for it, for this share of the time could not have made more load.
const BUSY_PER_MILLE: u64 = 950;
/// In an open loop: arrivals that left later than this were late by our own fault.
const LAG_NANOS_MAX: u64 = 1_000_000;

/// The sums of a run.
#[derive(Debug)]
pub struct Sums {
    pub tally: Tally,
    workers: u32,
    /// The server's processes; none: nothing is said of it.
    server: Vec<u32>,
    costs: Option<Costs>,
}

/// What the run cost between the first and the last sample that lay wholly in the measured window.
#[derive(Clone, Debug)]
struct Costs {
    from: Reading,
    to: Reading,
    operations: u64,
    system_calls: u64,
}

#[derive(Clone, Debug)]
struct Reading {
    nanos: u64,
    workers: Vec<Usage>,
    server: Option<u64>,
}

impl Sums {
    pub fn new(workers: u32, server: &[u32]) -> Sums {
        Sums { tally: Tally::new(), workers, server: server.to_vec(), costs: None }
    }

    /// Adds a sample. `measuring`: it was taken within the measured window.
    pub fn add(&mut self, sample: &Sample, measuring: bool) {
        self.tally.add_interval(&sample.tally);
        if !measuring {
            return;
        }
        let reading = Reading {
            nanos: sample.at.0,
            workers: sample.workers.clone(),
            server: self.server_usage(),
        };
        match &mut self.costs {
            None => {
                let from = reading.clone();
                self.costs = Some(Costs { from, to: reading, operations: 0, system_calls: 0 });
            }
            Some(costs) => {
                costs.to = reading;
                costs.operations += sample.tally.completed_ever;
                costs.system_calls += sample.system_calls;
            }
        }
    }

    /// Time of all the server's processes; `None` when none is named, or one is gone.
    fn server_usage(&self) -> Option<u64> {
        let usage: Option<u64> = self.server.iter().map(|pid| process_usage(*pid)).sum();
        usage.filter(|_| !self.server.is_empty())
    }

    /// Length of the measured window; all workers measure at the same time.
    pub fn seconds(&self) -> f64 {
        self.tally.measured.as_secs_f64() / f64::from(self.workers)
    }

    fn rate(&self) -> f64 {
        let seconds = self.seconds();
        if seconds > 0.0 { self.tally.completed as f64 / seconds } else { 0.0 }
    }

    /// Whether the generator was itself the limit: CPU per operation then stands, latency and throughput do not.
    pub fn is_generator_bound(&self) -> bool {
        let busy = self.costs.as_ref().is_some_and(|costs| costs.busiest() >= BUSY_PER_MILLE);
        let lag = self.tally.histogram(Measure::Lag);
        busy || !lag.is_empty() && lag.value_at_quantile(0.99) >= LAG_NANOS_MAX
    }

    pub fn text(&self) -> String {
        let tally = &self.tally;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "measured {:.2} s: {} operations, {:.0}/s, {} errors",
            self.seconds(),
            tally.completed,
            self.rate(),
            tally.errors_total()
        );
        for fault in Fault::ALL {
            if tally.faults(fault) > 0 {
                let _ = writeln!(text, "  {:<18} {:>10}", fault.name(), tally.faults(fault));
            }
        }
        let responses: Vec<_> =
            tally.responses().map(|(status, count)| format!("{status} x {count}")).collect();
        if !responses.is_empty() {
            let _ = writeln!(text, "responses: {}", responses.join(", "));
        }
        let [full, resumed] = tally.handshakes;
        if full + resumed > 0 {
            let _ = writeln!(text, "TLS handshakes: {full} full, {resumed} resumed");
        }
        text.push('\n');
        text.push_str(&table_of(histograms(tally)));
        self.write_costs(&mut text);
        text
    }

    fn write_costs(&self, text: &mut String) {
        let Some(costs) = self.costs.as_ref().filter(|costs| costs.operations > 0) else { return };
        let _ = writeln!(
            text,
            "\ngenerator: {:.2} us CPU per operation, busiest worker {:.0} % of a core, {:.3} system calls \
             per operation",
            costs.per_operation(costs.generator()),
            costs.busiest() as f64 / 10.0,
            costs.system_calls as f64 / costs.operations as f64
        );
        if let Some(server) = costs.server() {
            let _ = writeln!(
                text,
                "server (process {}): {:.2} us CPU per operation, {:.0} % of a core",
                self.server.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
                costs.per_operation(server),
                100.0 * server as f64 / costs.nanos() as f64
            );
        }
        if self.is_generator_bound() {
            text.push_str(
                "generator-bound: the generator was the limit; CPU per operation stands, latency and throughput \
                 do not\n",
            );
        }
    }

    pub fn json(&self) -> Value {
        let tally = &self.tally;
        let faults = Fault::ALL.into_iter().map(|fault| (fault.name(), tally.faults(fault)));
        let faults: serde_json::Map<String, Value> = faults
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.into(), count.into()))
            .collect();
        let responses: serde_json::Map<String, Value> =
            tally.responses().map(|(status, count)| (status.to_string(), count.into())).collect();
        let latency: serde_json::Map<String, Value> = histograms(tally)
            .filter(|(_, histogram)| !histogram.is_empty())
            .map(|(name, histogram)| (name.into(), json!(Summary::of_histogram(histogram))))
            .collect();
        let costs = self.costs.as_ref().filter(|costs| costs.operations > 0);
        json!({
            "seconds": self.seconds(),
            "operations": tally.completed,
            "rate": self.rate(),
            "errors": tally.errors_total(),
            "faults": faults,
            "responses": responses,
            "handshakes": { "full": tally.handshakes[0], "resumed": tally.handshakes[1] },
            "latency_nanoseconds": latency,
            "generator": costs.map(|costs| json!({
                "cpu_microseconds_per_operation": costs.per_operation(costs.generator()),
                "busiest_worker": costs.busiest() as f64 / 1000.0,
                "system_calls_per_operation": costs.system_calls as f64 / costs.operations as f64,
                "bound": self.is_generator_bound(),
            })),
            "server": costs.and_then(|costs| costs.server().map(|server| json!({
                "cpu_microseconds_per_operation": costs.per_operation(server),
                "cores": server as f64 / costs.nanos() as f64,
            }))),
        })
    }
}

/// All histograms of a tally by name.
pub fn histograms(tally: &Tally) -> impl Iterator<Item = (&str, &Histogram<u64>)> {
    Measure::ALL.into_iter().map(|measure| (measure.name(), tally.histogram(measure)))
}

impl Costs {
    fn nanos(&self) -> u64 {
        (self.to.nanos - self.from.nanos).max(1)
    }

    /// CPU time of all workers.
    fn generator(&self) -> u64 {
        self.spent().map(|usage| usage.on_core).sum()
    }

    fn spent(&self) -> impl Iterator<Item = Usage> {
        self.from.workers.iter().zip(&self.to.workers).map(|(from, to)| Usage {
            on_core: to.on_core.saturating_sub(from.on_core),
            waiting: to.waiting.saturating_sub(from.waiting),
        })
    }

    /// Per mille of the time that the busiest worker had a core or waited for one.
    fn busiest(&self) -> u64 {
        self.spent()
            .map(|usage| (usage.on_core + usage.waiting) * 1000 / self.nanos())
            .max()
            .unwrap_or(0)
    }

    fn server(&self) -> Option<u64> {
        Some(self.to.server?.saturating_sub(self.from.server?))
    }

    fn per_operation(&self, nanos: u64) -> f64 {
        nanos as f64 / 1e3 / self.operations as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::time::Instant;

    fn sample(millis: u64, operations: u64, on_core: u64) -> Sample {
        let mut tally = Tally::new();
        for _ in 0..operations {
            tally.record(Measure::Operation, 100_000);
        }
        (tally.completed, tally.completed_ever) = (operations, operations);
        tally.measured = Duration::from_millis(500);
        Sample {
            at: Instant(millis * 1_000_000),
            tally,
            system_calls: operations / 10,
            workers: vec![Usage { on_core: on_core * 1_000_000, waiting: 0 }],
        }
    }

    #[test]
    fn costs_are_those_between_the_first_and_the_last_sample() {
        let mut sums = Sums::new(1, &[]);
        assert_eq!(sums.server_usage(), None);
        let own = std::process::id();
        assert!(Sums::new(1, &[own, own]).server_usage() > Sums::new(1, &[own]).server_usage());
        assert_eq!(Sums::new(1, &[own, u32::MAX]).server_usage(), None);
        for (millis, on_core) in [(0, 1000), (500, 1250), (1000, 1500)] {
            sums.add(&sample(millis, 100, on_core), true);
        }
        sums.add(&sample(5000, 100, 9000), false);
        let text = sums.text();
        assert!(text.starts_with("measured 2.00 s: 400 operations, 200/s, 0 errors\n"), "{text}");
        assert!(text.contains("2500.00 us CPU per operation, busiest worker 50 %"), "{text}");
        assert!(text.contains("0.100 system calls"), "{text}");
        assert!(!sums.is_generator_bound());
        let json = sums.json();
        assert_eq!(json["operations"], 400);
        assert_eq!(json["generator"]["busiest_worker"], 0.5);
        assert_eq!(json["latency_nanoseconds"]["operation"]["count"], 400);
        assert!(json["server"].is_null());
    }

    #[test]
    fn a_busy_or_late_generator_says_so() {
        let mut sums = Sums::new(1, &[]);
        sums.add(&sample(0, 10, 0), true);
        sums.add(&sample(1000, 10, 960), true);
        assert!(sums.is_generator_bound());
        assert!(sums.text().contains("generator-bound"));
        let mut late = Sums::new(1, &[]);
        late.tally.record(Measure::Lag, 2_000_000);
        assert!(late.is_generator_bound());
    }
}
