//! Latency as people and tools read it: summaries, a table, HdrHistogram's percentile distribution (`.hgrm`) and its
//! interval log (`.hlog`, V2 compressed).
//! Owns the formats. Never opens a file, never asks the clock.
//! Invariant: every number comes out of the histogram as it is; nothing is smoothed or estimated.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;

use super::latency::{Latency, Stage};

/// Lines of a percentile distribution for each halving of the distance to 100 %; HdrHistogram's own default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// One stage in numbers, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub count: u64,
    /// Values beyond the range of the histogram, counted as 60 s.
    pub clamped: u64,
    pub min: u64,
    pub mean: f64,
    pub standard_deviation: f64,
    pub p50: u64,
    pub p75: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub p99_999: u64,
    pub max: u64,
}

impl Summary {
    /// All zero when the stage has no value.
    pub fn of(latency: &Latency, stage: Stage) -> Summary {
        Summary {
            clamped: latency.clamped(stage),
            ..Summary::of_histogram(latency.histogram(stage))
        }
    }

    /// All zero when the histogram is empty; `clamped` is not known.
    pub fn of_histogram(histogram: &Histogram<u64>) -> Summary {
        Summary {
            count: histogram.len(),
            clamped: 0,
            min: histogram.min(),
            mean: histogram.mean(),
            standard_deviation: histogram.stdev(),
            p50: histogram.value_at_quantile(0.5),
            p75: histogram.value_at_quantile(0.75),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            p99_99: histogram.value_at_quantile(0.9999),
            p99_999: histogram.value_at_quantile(0.99999),
            max: histogram.max(),
        }
    }
}

/// Every stage by its name, also those without a value.
pub fn summaries(latency: &Latency) -> BTreeMap<&'static str, Summary> {
    Stage::ALL.into_iter().map(|stage| (stage.name(), Summary::of(latency, stage))).collect()
}

/// The table printed at exit: one line for each stage that has a value, in microseconds.
pub fn table(latency: &Latency) -> String {
    table_of(Stage::ALL.into_iter().map(|stage| (stage.name(), latency.histogram(stage))))
}

/// A table of histograms by name, in microseconds; those without a value are left out.
pub fn table_of<'h>(histograms: impl Iterator<Item = (&'h str, &'h Histogram<u64>)>) -> String {
    let mut text = format!(
        "{:<15} {:>12} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}\n",
        "latency, us", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    let head = text.len();
    for (name, histogram) in histograms.filter(|(_, histogram)| !histogram.is_empty()) {
        let of = Summary::of_histogram(histogram);
        let _ = write!(text, "{name:<15} {:>12}", of.count);
        for nanos in [of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max] {
            let _ = write!(text, " {:>11.1}", microseconds(nanos));
        }
        text.push('\n');
    }
    if text.len() == head {
        text.push_str("(nothing was measured)\n");
    }
    text
}

/// HdrHistogram's percentile distribution, values in microseconds: what its plotters and `hdr-plot` read. The layout
/// is that of `outputPercentileDistribution` of the Java implementation, three lines of comment at the end included.
pub fn distribution(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value = microseconds(step.value_iterated_to());
        let quantile = step.quantile_iterated_to();
        let _ = if quantile < 1.0 {
            writeln!(
                text,
                "{value:>12.3} {quantile:>2.12} {total:>10} {:>14.2}",
                1.0 / (1.0 - quantile)
            )
        } else {
            writeln!(text, "{value:>12.3} {quantile:>2.12} {total:>10}")
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.mean() / 1e3,
        histogram.stdev() / 1e3,
        microseconds(histogram.max()),
        histogram.len(),
        histogram.buckets(),
        sub_buckets(histogram.sigfig()),
    );
    text
}

/// Twice the values that `digits` digits tell apart, as a power of two (HdrHistogram's own rule).
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10_u64.pow(u32::from(digits))).next_power_of_two()
}

#[expect(clippy::cast_precision_loss, reason = "60 s in nanoseconds is far below 2^53")]
fn microseconds(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// Text of HdrHistogram's interval log, format 1.3: histograms in V2 compressed form, one line for each stage and
/// interval, tagged with the stage. The caller writes it wherever the log lives.
pub struct IntervalLog {
    serializer: V2DeflateSerializer,
    base: SystemTime,
}

impl IntervalLog {
    /// A log whose intervals are counted from `base`.
    pub fn new(base: SystemTime) -> Self {
        IntervalLog { serializer: V2DeflateSerializer::new(), base }
    }

    /// What stands before the first interval; a log that is appended to may have it again.
    pub fn header(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        IntervalLogWriterBuilder::new()
            .add_comment(concat!("[Logged with ringfront ", env!("CARGO_PKG_VERSION"), "]"))
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Values in nanoseconds, Interval_Max too]")
            .with_start_time(self.base)
            .with_base_time(self.base)
            .begin_log_with(&mut text, &mut self.serializer)
            .expect("a vector takes all that is written");
        text.extend_from_slice(
            b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        );
        text
    }

    /// The lines of one interval, for stages that have a value. `start` before `base` counts as `base`.
    pub fn interval(&mut self, latency: &Latency, start: SystemTime, length: Duration) -> Vec<u8> {
        let histograms =
            Stage::ALL.into_iter().map(|stage| (stage.name(), latency.histogram(stage)));
        self.lines(histograms, start, length)
    }

    /// The lines of one interval, for histograms that have a value, each tagged with its name.
    pub fn lines<'h>(
        &mut self,
        histograms: impl Iterator<Item = (&'h str, &'h Histogram<u64>)>,
        start: SystemTime,
        length: Duration,
    ) -> Vec<u8> {
        let since_base = start.duration_since(self.base).unwrap_or_default();
        let mut text = Vec::new();
        let mut writer = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut text, &mut self.serializer)
            .expect("a vector takes all that is written");
        for (name, histogram) in histograms.filter(|(_, histogram)| !histogram.is_empty()) {
            writer
                .write_histogram(histogram, since_base, length, Tag::new(name))
                .expect("counts are below 2^63 and a vector takes all that is written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use std::time::UNIX_EPOCH;

    use super::*;

    fn sample() -> Latency {
        let mut latency = Latency::new();
        for value in 1..=10_000 {
            latency.record(Stage::ProxyRequest, value * 100);
        }
        latency.record_n(Stage::Backend, 2_000_000, 7);
        latency
    }

    #[test]
    fn a_distribution_has_the_layout_of_the_java_implementation() {
        let mut latency = Latency::new();
        latency.record_n(Stage::Backend, 1_000, 3);
        latency.record(Stage::Backend, 2_000);
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)\n\
             \n\
             \x20      1.000 0.000000000000          3           1.00\n\
             \x20      1.000 0.100000000000          3           1.11\n\
             \x20      1.000 0.200000000000          3           1.25\n\
             \x20      1.000 0.300000000000          3           1.43\n\
             \x20      1.000 0.400000000000          3           1.67\n\
             \x20      1.000 0.500000000000          3           2.00\n\
             \x20      1.000 0.550000000000          3           2.22\n\
             \x20      1.000 0.600000000000          3           2.50\n\
             \x20      1.000 0.650000000000          3           2.86\n\
             \x20      1.000 0.700000000000          3           3.33\n\
             \x20      2.000 0.750000000000          4           4.00\n\
             \x20      2.000 1.000000000000          4\n\
             #[Mean    =        1.250, StdDeviation   =        0.433]\n\
             #[Max     =        2.000, Total count    =            4]\n\
             #[Buckets =           26, SubBuckets     =         2048]\n";
        assert_eq!(distribution(latency.histogram(Stage::Backend)), expected);
    }

    #[test]
    fn a_summary_tells_the_percentiles_within_a_thousandth() {
        let of = Summary::of(&sample(), Stage::ProxyRequest);
        assert_eq!(of.count, 10_000);
        for (read, true_value) in
            [(of.min, 100), (of.p50, 500_000), (of.p99, 990_000), (of.max, 1_000_000)]
        {
            assert!(read.abs_diff(true_value) <= true_value / 1000, "{read} for {true_value}");
        }
        assert_eq!(summaries(&sample()).len(), Stage::COUNT);
    }

    #[test]
    fn the_table_has_the_stages_that_were_measured() {
        let text = table(&sample());
        assert!(text.contains("\nproxy_request          10000"), "{text}");
        assert!(text.contains("2000"), "{text}");
        assert!(!text.contains("handshake"), "{text}");
        assert!(table(&Latency::new()).contains("nothing was measured"));
    }

    #[test]
    fn the_interval_log_is_read_back_as_it_was_written() {
        let base = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = IntervalLog::new(base);
        let mut text = log.header();
        let second = Duration::from_secs(1);
        text.extend(log.interval(&sample(), base + second * 10, second * 10));
        text.extend(log.interval(&Latency::new(), base + second * 20, second * 10));

        let mut seen = Vec::new();
        let mut base_seen = None;
        for entry in IntervalLogIterator::new(&text) {
            match entry.unwrap() {
                LogEntry::Interval(interval) => {
                    use base64::Engine;
                    let bytes = base64::engine::general_purpose::STANDARD
                        .decode(interval.encoded_histogram())
                        .unwrap();
                    let histogram: Histogram<u64> =
                        Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                    assert_eq!(interval.start_timestamp(), second * 10);
                    seen.push((interval.tag().unwrap().as_str().to_owned(), histogram));
                }
                LogEntry::BaseTime(time) => base_seen = Some(time),
                LogEntry::StartTime(_) => {}
            }
        }
        assert_eq!(base_seen, Some(Duration::from_secs(1_700_000_000)));
        let sample = sample();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].0, "proxy_request");
        assert_eq!(&seen[0].1, sample.histogram(Stage::ProxyRequest));
        assert_eq!(&seen[1].1, sample.histogram(Stage::Backend));
    }
}
