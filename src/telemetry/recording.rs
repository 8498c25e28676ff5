//! Recorded latency read back: HdrHistogram's interval logs (`.hlog`), ours and anybody's in V2 form.
//! Owns what a log says, by tag: the sum of all intervals, and the percentiles of each. Never opens a file.
//! Invariant: all values are nanoseconds; a log that is damaged anywhere is refused as a whole, with the place.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use thiserror::Error;

/// The tag of intervals that have none.
pub const UNTAGGED: &str = "latency";

/// Most intervals of one log: a year of one each half minute. More is refused rather than held.
pub const INTERVALS_MAX: usize = 1 << 20;

/// Why a log cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadFault {
    #[error("line {line} is none of an interval log")]
    Line { line: usize },
    #[error("interval {number} ({tag}) is no HdrHistogram in V2 form")]
    Interval { number: usize, tag: String },
    #[error("interval {number} ({tag}) holds values of more than 584 years")]
    Range { number: usize, tag: String },
    #[error("it has more than {INTERVALS_MAX} intervals")]
    TooMany,
    #[error("it holds no interval")]
    Empty,
}

/// One log.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub series: BTreeMap<String, Series>,
}

/// All that a log says of one tag.
#[derive(Clone, Debug)]
pub struct Series {
    pub total: Histogram<u64>,
    /// In the order of the log.
    pub intervals: Vec<Interval>,
}

/// One interval: when, and its percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Since the first interval of the log.
    pub start: Duration,
    pub length: Duration,
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

impl Recording {
    /// Reads a log. `nanos` is the length of the unit that it counts in.
    pub fn read(log: &[u8], nanos: u64) -> Result<Recording, ReadFault> {
        let mut recording = Recording::default();
        let mut deserializer = Deserializer::new();
        let (mut number, mut first) = (0, None);
        for entry in IntervalLogIterator::new(log) {
            let entry = entry.map_err(|fault| {
                use hdrhistogram::serialization::interval_log::LogIteratorError::ParseError;
                let ParseError { offset } = fault;
                ReadFault::Line { line: 1 + memchr::memchr_iter(b'\n', &log[..offset]).count() }
            })?;
            let LogEntry::Interval(interval) = entry else { continue };
            number += 1;
            if number > INTERVALS_MAX {
                return Err(ReadFault::TooMany);
            }
            let tag = interval.tag().map_or(UNTAGGED, |tag| tag.as_str()).to_owned();
            let histogram = STANDARD
                .decode(interval.encoded_histogram())
                .ok()
                .and_then(|bytes| deserializer.deserialize(&mut bytes.as_slice()).ok())
                .ok_or_else(|| ReadFault::Interval { number, tag: tag.clone() })?;
            let histogram = in_nanoseconds(histogram, nanos)
                .ok_or_else(|| ReadFault::Range { number, tag: tag.clone() })?;
            let start = *first.get_or_insert(interval.start_timestamp());
            let start = interval.start_timestamp().saturating_sub(start);
            recording.add(&tag, &histogram, start, interval.duration());
        }
        if recording.series.is_empty() { Err(ReadFault::Empty) } else { Ok(recording) }
    }

    /// One more interval of a tag, its values in nanoseconds, `start` since the first one.
    pub fn add(&mut self, tag: &str, of: &Histogram<u64>, start: Duration, length: Duration) {
        if !self.series.contains_key(tag) {
            self.series.insert(tag.to_owned(), Series::new(of.sigfig()));
        }
        let series = self.series.get_mut(tag).expect("it was put there");
        series.add(of, start, length);
    }

    /// The tag with the most values, the first by name of several.
    pub fn busiest(&self) -> &str {
        let most = self.series.iter().rev().max_by_key(|(_, series)| series.total.len());
        most.map_or(UNTAGGED, |(tag, _)| tag)
    }
}

impl Series {
    fn new(digits: u8) -> Series {
        let mut total = Histogram::new(digits).expect("digits of a histogram that exists");
        total.auto(true);
        Series { total, intervals: Vec::new() }
    }

    fn add(&mut self, histogram: &Histogram<u64>, start: Duration, length: Duration) {
        self.total.add(histogram).expect("it grows as needed");
        self.intervals.push(Interval {
            start,
            length,
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        });
    }
}

/// The histogram with its values in nanoseconds; none when they are too long.
fn in_nanoseconds(histogram: Histogram<u64>, nanos: u64) -> Option<Histogram<u64>> {
    if nanos == 1 {
        return Some(histogram);
    }
    let mut scaled = Histogram::new(histogram.sigfig()).ok()?;
    scaled.auto(true);
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to().checked_mul(nanos)?;
        scaled.record_n(value, step.count_at_value()).ok()?;
    }
    Some(scaled)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::telemetry::latency::{Latency, Stage};
    use crate::telemetry::percentiles::IntervalLog;

    fn log() -> Vec<u8> {
        let base = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = IntervalLog::new(base);
        let mut text = log.header();
        for (second, value) in [(5, 1_000), (6, 3_000)] {
            let mut latency = Latency::new();
            latency.record_n(Stage::Backend, value, 10);
            latency.record(Stage::Transaction, 7 * value);
            let at = base + Duration::from_secs(second);
            text.extend(log.interval(&latency, at, Duration::from_secs(1)));
        }
        text
    }

    #[test]
    fn a_log_of_ours_is_read_by_tag_and_interval() {
        let read = Recording::read(&log(), 1).unwrap();
        assert_eq!(read.series.keys().collect::<Vec<_>>(), ["backend", "transaction"]);
        assert_eq!(read.busiest(), "backend");
        let backend = &read.series["backend"];
        assert_eq!((backend.total.len(), backend.total.min()), (20, 1_000));
        let starts: Vec<_> = backend.intervals.iter().map(|it| it.start.as_secs()).collect();
        assert_eq!(starts, [0, 1]);
        assert!(backend.intervals[1].p50.abs_diff(3_000) <= 3);
        let of = &read.series["transaction"].total;
        assert!(of.max().abs_diff(21_000) <= 21);
    }

    #[test]
    fn the_unit_scales_the_values() {
        let read = Recording::read(&log(), 1_000).unwrap();
        let of = &read.series["backend"].total;
        assert_eq!(of.len(), 20);
        assert!(of.max().abs_diff(3_000_000) <= 3_000, "{}", of.max());
    }

    /// What Java's HistogramLogWriter writes: no tag, no base time.
    #[test]
    fn a_log_of_others_is_read_too() {
        let text = String::from_utf8(log()).unwrap();
        let bare: String = text
            .lines()
            .filter(|line| !line.starts_with("#[BaseTime") && !line.contains("Tag=transaction"))
            .map(|line| format!("{}\n", line.trim_start_matches("Tag=backend,")))
            .collect();
        let read = Recording::read(bare.as_bytes(), 1).unwrap();
        assert_eq!(read.series[UNTAGGED].total.len(), 20);
    }

    #[test]
    fn damage_is_named() {
        let text = String::from_utf8(log()).unwrap();
        let broken = text.replacen("Tag=backend,", "Tag=backend;", 1);
        let line = 1 + text.lines().take_while(|line| !line.starts_with("Tag=backend")).count();
        assert_eq!(Recording::read(broken.as_bytes(), 1).unwrap_err(), ReadFault::Line { line });
        let at = text.find("HISTF").expect("a compressed histogram begins so");
        let mut broken = text.clone().into_bytes();
        broken[at + 8..at + 16].fill(b'A');
        let fault = Recording::read(&broken, 1).unwrap_err();
        assert!(matches!(fault, ReadFault::Interval { number: 1, .. }), "{fault}");
        assert_eq!(Recording::read(b"", 1).unwrap_err(), ReadFault::Empty);
        assert!(Recording::read(b"\xff\xfe\x00 what", 1).is_err());
    }
}
