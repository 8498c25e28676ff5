//! Latency of each stage, one set of histograms for each worker, merged by whoever reads them.
//! Owns the counts. Never allocates, locks or asks the clock while recording; the text forms are in `percentiles`.
//! Invariant: what `record_n` was given is in the histogram or, beyond its range, at its top and in `clamped`.

use hdrhistogram::Histogram;

/// The largest value told apart, in nanoseconds: 60 s, more than any answer is waited for at one stage.
pub const NANOS_MAX: u64 = 60_000_000_000;

/// 0.1 % at every value, which is what distinguishes two percentiles in a table of five columns.
const SIGNIFICANT_DIGITS: u8 = 3;

/// What is timed. Closed: the names are those of `ringfront_stage_latency_seconds{stage}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Accept to established.
    Handshake,
    /// The completion that brought a request's last byte, to the submission that sends it on.
    ProxyRequest,
    /// The same for a response.
    ProxyResponse,
    /// Request sent to a backend, to its response received.
    Backend,
    /// Request received, to its final response sent.
    Transaction,
    /// Envelope posted by one worker, to its delivery at another.
    Crossing,
}

impl Stage {
    pub const COUNT: usize = 6;

    pub const ALL: [Stage; Stage::COUNT] = [
        Stage::Handshake,
        Stage::ProxyRequest,
        Stage::ProxyResponse,
        Stage::Backend,
        Stage::Transaction,
        Stage::Crossing,
    ];

    /// The name in metrics, paths and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Handshake => "handshake",
            Stage::ProxyRequest => "proxy_request",
            Stage::ProxyResponse => "proxy_response",
            Stage::Backend => "backend",
            Stage::Transaction => "transaction",
            Stage::Crossing => "crossing",
        }
    }

    /// The stage of that name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// One histogram for each stage, in nanoseconds. About 220 KiB a stage, all of it allocated by `new`.
#[derive(Clone, Debug)]
pub struct Latency {
    histograms: [Histogram<u64>; Stage::COUNT],
    clamped: [u64; Stage::COUNT],
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

impl Latency {
    pub fn new() -> Self {
        // Told apart from 1 ns on: with 100 ns as the unit, 10 us would be known to 64 ns, which is two digits.
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS)
            .expect("bounds and digits are constants that the histogram accepts");
        Latency {
            histograms: std::array::from_fn(|_| histogram.clone()),
            clamped: [0; Stage::COUNT],
        }
    }

    pub fn record(&mut self, stage: Stage, nanos: u64) {
        self.record_n(stage, nanos, 1);
    }

    /// Records the same value `count` times: all messages that left in one turn.
    pub fn record_n(&mut self, stage: Stage, nanos: u64, count: u64) {
        let index = stage as usize;
        if nanos > NANOS_MAX {
            self.clamped[index] = self.clamped[index].saturating_add(count);
        }
        self.histograms[index].saturating_record_n(nanos.min(NANOS_MAX), count);
    }

    /// Adds what `other` has counted.
    pub fn merge(&mut self, other: &Latency) {
        for stage in Stage::ALL {
            let index = stage as usize;
            self.histograms[index]
                .add(&other.histograms[index])
                .expect("all histograms here have the same bounds");
            self.clamped[index] = self.clamped[index].saturating_add(other.clamped[index]);
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn reset(&mut self) {
        for histogram in &mut self.histograms {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
        self.clamped = [0; Stage::COUNT];
    }

    pub fn histogram(&self, stage: Stage) -> &Histogram<u64> {
        &self.histograms[stage as usize]
    }

    /// Values of the stage that were beyond `NANOS_MAX`; they are counted as `NANOS_MAX`.
    pub fn clamped(&self, stage: Stage) -> u64 {
        self.clamped[stage as usize]
    }

    /// Whether any stage has a value.
    pub fn is_empty(&self) -> bool {
        self.histograms.iter().all(|histogram| histogram.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_from_100_nanoseconds_to_60_seconds() {
        let mut value = 100;
        while value < NANOS_MAX {
            let mut latency = Latency::new();
            latency.record(Stage::Backend, value);
            let read = latency.histogram(Stage::Backend).value_at_quantile(0.5);
            assert!(read >= value && read - value <= value / 1000, "{value} read as {read}");
            value = value * 7 / 3;
        }
    }

    #[test]
    fn values_beyond_the_range_are_counted_at_its_top() {
        let mut latency = Latency::new();
        latency.record_n(Stage::Handshake, u64::MAX, 3);
        latency.record(Stage::Handshake, NANOS_MAX);
        latency.record(Stage::Handshake, 0);
        assert_eq!(latency.clamped(Stage::Handshake), 3);
        assert_eq!(latency.histogram(Stage::Handshake).len(), 5);
        assert_eq!(latency.histogram(Stage::Handshake).count_at(NANOS_MAX), 4);
    }

    #[test]
    fn a_merge_holds_both_and_a_reset_nothing() {
        let (mut one, mut other) = (Latency::new(), Latency::new());
        one.record_n(Stage::ProxyRequest, 5_000, 10);
        other.record_n(Stage::ProxyRequest, 50_000, 20);
        other.record_n(Stage::Crossing, u64::MAX, 1);
        one.merge(&other);
        one.merge(&Latency::new());
        assert_eq!(one.histogram(Stage::ProxyRequest).len(), 30);
        assert_eq!(one.histogram(Stage::ProxyRequest).count_at(50_000), 20);
        assert_eq!(one.clamped(Stage::Crossing), 1);
        one.reset();
        assert!(one.is_empty());
        assert_eq!(one.clamped(Stage::Crossing), 0);
        one.record(Stage::Crossing, 7);
        assert_eq!(one.histogram(Stage::Crossing).max(), 7);
    }

    #[test]
    fn the_memory_is_what_the_type_says() {
        let latency = Latency::new();
        let bytes = latency.histogram(Stage::Backend).distinct_values() * 8;
        assert!(bytes <= 224 * 1024, "{bytes}");
    }

    #[test]
    fn every_stage_has_its_own_name() {
        for stage in Stage::ALL {
            assert_eq!(Stage::named(stage.name()), Some(stage));
            assert_eq!(Stage::ALL[stage as usize], stage);
        }
        assert_eq!(Stage::named("Backend"), None);
    }
}
