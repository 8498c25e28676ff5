//! What a crowd has counted: operations, responses by status, faults by class, latency.
//! Owns plain words and histograms, one set for each worker, handed out whole and merged by the reader. Never asks
//! the clock, never allocates while recording.
//! Invariant: latency and `completed` hold the measured window alone; faults are counted from the first dial on, so
//! that nothing that went wrong stays unseen.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart: an operation is given up after 32 s (64 * T1, RFC 3261 17.1.2.2).
pub const NANOS_MAX: u64 = 60_000_000_000;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The scenario's operation from its start (in an open loop: its intended start) to its end.
    Operation,
    /// Dial to connected.
    Connect,
    /// Connected to TLS established.
    Handshake,
    /// INVITE to its first 18x.
    Ringing,
    /// INVITE to its 2xx.
    Answer,
    /// Intended start to the send, in an open loop: the generator's own part in the latency.
    Lag,
}

impl Measure {
    pub const COUNT: usize = 6;

    pub const ALL: [Measure; Measure::COUNT] = [
        Measure::Operation,
        Measure::Connect,
        Measure::Handshake,
        Measure::Ringing,
        Measure::Answer,
        Measure::Lag,
    ];

    /// The name in tables, logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Measure::Operation => "operation",
            Measure::Connect => "connect",
            Measure::Handshake => "handshake",
            Measure::Ringing => "ringing",
            Measure::Answer => "answer",
            Measure::Lag => "lag",
        }
    }
}

/// What can go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    ConnectFailed,
    ConnectTimeout,
    /// TLS: the certificate was refused, or the peer does not speak it.
    HandshakeFailed,
    HandshakeTimeout,
    /// The peer ended a connection that we had not finished with.
    PeerClosed,
    Reset,
    SendFailed,
    /// A TLS record that does not decrypt, or the peer's alert.
    RecordBad,
    /// Bytes that are no SIP stream.
    Unframeable,
    /// A message that is no response to anything we have sent.
    Stray,
    /// No final response in time.
    Timeout,
    /// A final response other than 2xx.
    Status,
    /// An arrival of the open loop found all transactions taken or no connection open, and was given up.
    Shed,
}

impl Fault {
    pub const COUNT: usize = 13;

    pub const ALL: [Fault; Fault::COUNT] = [
        Fault::ConnectFailed,
        Fault::ConnectTimeout,
        Fault::HandshakeFailed,
        Fault::HandshakeTimeout,
        Fault::PeerClosed,
        Fault::Reset,
        Fault::SendFailed,
        Fault::RecordBad,
        Fault::Unframeable,
        Fault::Stray,
        Fault::Timeout,
        Fault::Status,
        Fault::Shed,
    ];

    /// The name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::ConnectFailed => "connect_failed",
            Fault::ConnectTimeout => "connect_timeout",
            Fault::HandshakeFailed => "handshake_failed",
            Fault::HandshakeTimeout => "handshake_timeout",
            Fault::PeerClosed => "peer_closed",
            Fault::Reset => "reset",
            Fault::SendFailed => "send_failed",
            Fault::RecordBad => "record_bad",
            Fault::Unframeable => "unframeable",
            Fault::Stray => "stray",
            Fault::Timeout => "timeout",
            Fault::Status => "status",
            Fault::Shed => "shed",
        }
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are being made.
    #[default]
    Connecting,
    /// Work is done and not measured.
    WarmUp,
    Measuring,
    /// Nothing new is begun; what is under way may end.
    Ending,
    Done,
}

impl Phase {
    /// The word in the progress line.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::WarmUp => "warm-up",
            Phase::Measuring => "measuring",
            Phase::Ending => "ending",
            Phase::Done => "done",
        }
    }
}

/// The counts of one worker, of one interval or of a whole run.
#[derive(Clone)]
pub struct Tally {
    histograms: [Histogram<u64>; Measure::COUNT],
    faults: [u64; Fault::COUNT],
    /// Responses by status code less 100, the measured window alone.
    statuses: Vec<u64>,
    /// Operations that ended well within the measured window, whenever they began.
    pub completed: u64,
    /// Operations that ended well in any phase.
    pub completed_ever: u64,
    /// TLS handshakes by resumption: full, resumed; in any phase.
    pub handshakes: [u64; 2],
    /// Plaintext bytes, in any phase.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// How much of the measured window lies in these counts.
    pub measured: Duration,
    /// As it was when the counts were handed out.
    pub phase: Phase,
    pub connections_open: u32,
    pub operations_open: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

/// In short: what occurred.
impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults = Fault::ALL.map(|fault| (fault.name(), self.faults(fault)));
        let faults: Vec<_> = faults.into_iter().filter(|(_, count)| *count > 0).collect();
        f.debug_struct("Tally")
            .field("phase", &self.phase)
            .field("measured", &self.measured)
            .field("completed", &self.completed)
            .field("completed_ever", &self.completed_ever)
            .field("faults", &faults)
            .field("responses", &self.responses().collect::<Vec<_>>())
            .field("handshakes", &self.handshakes)
            .field("connections_open", &self.connections_open)
            .field("operations_open", &self.operations_open)
            .finish_non_exhaustive()
    }
}

impl Tally {
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, 3)
            .expect("bounds and digits are constants that the histogram accepts");
        Tally {
            histograms: std::array::from_fn(|_| histogram.clone()),
            faults: [0; Fault::COUNT],
            statuses: vec![0; 600],
            completed: 0,
            completed_ever: 0,
            handshakes: [0; 2],
            bytes_sent: 0,
            bytes_received: 0,
            measured: Duration::ZERO,
            phase: Phase::Connecting,
            connections_open: 0,
            operations_open: 0,
        }
    }

    pub fn record(&mut self, measure: Measure, nanos: u64) {
        self.histograms[measure as usize].saturating_record(nanos.min(NANOS_MAX));
    }

    pub fn histogram(&self, measure: Measure) -> &Histogram<u64> {
        &self.histograms[measure as usize]
    }

    pub fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub fn errors_total(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// A response; `status` is 100 to 699.
    pub fn response(&mut self, status: u16) {
        self.statuses[usize::from(status) - 100] += 1;
    }

    /// Responses as (status, count), those that occurred.
    pub fn responses(&self) -> impl Iterator<Item = (u16, u64)> {
        self.statuses
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (index as u16 + 100, *count))
    }

    /// Adds a later interval of the same worker: counts add up, what is a state is the later one's.
    pub fn add_interval(&mut self, later: &Tally) {
        self.add(later);
        self.phase = later.phase;
        self.connections_open = later.connections_open;
        self.operations_open = later.operations_open;
    }

    /// Adds another worker: counts and states add up, the phase is that of the slowest.
    pub fn add_worker(&mut self, other: &Tally) {
        self.add(other);
        self.phase = self.phase.min(other.phase);
        self.connections_open += other.connections_open;
        self.operations_open += other.operations_open;
    }

    fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            mine.add(theirs).expect("all histograms here have the same bounds");
        }
        for (mine, theirs) in self.faults.iter_mut().zip(&other.faults) {
            *mine += theirs;
        }
        for (mine, theirs) in self.statuses.iter_mut().zip(&other.statuses) {
            *mine += theirs;
        }
        self.completed += other.completed;
        self.completed_ever += other.completed_ever;
        self.handshakes[0] += other.handshakes[0];
        self.handshakes[1] += other.handshakes[1];
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.measured += other.measured;
    }

    /// Back to zero, allocations kept, so that the set can be lent to a worker again.
    pub fn reset(&mut self) {
        for histogram in &mut self.histograms {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
        self.faults.fill(0);
        self.statuses.fill(0);
        self.completed = 0;
        self.completed_ever = 0;
        self.handshakes = [0; 2];
        self.bytes_sent = 0;
        self.bytes_received = 0;
        self.measured = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_counts_and_keep_the_later_state() {
        let (mut sum, mut later) = (Tally::new(), Tally::new());
        sum.connections_open = 3;
        sum.fault(Fault::Reset);
        later.fault(Fault::Reset);
        later.record(Measure::Operation, 5_000);
        later.response(200);
        later.connections_open = 2;
        later.phase = Phase::Measuring;
        sum.add_interval(&later);
        assert_eq!((sum.faults(Fault::Reset), sum.connections_open), (2, 2));
        assert_eq!(sum.phase, Phase::Measuring);
        assert_eq!(sum.responses().collect::<Vec<_>>(), [(200, 1)]);
        assert_eq!(sum.histogram(Measure::Operation).len(), 1);
        later.reset();
        assert_eq!(later.errors_total(), 0);
        assert!(later.histogram(Measure::Operation).is_empty());
    }

    #[test]
    fn workers_add_states_and_the_slowest_names_the_phase() {
        let (mut sum, mut other) = (Tally::new(), Tally::new());
        (sum.phase, sum.connections_open) = (Phase::Done, 1);
        (other.phase, other.connections_open) = (Phase::Ending, 4);
        sum.add_worker(&other);
        assert_eq!((sum.phase, sum.connections_open), (Phase::Ending, 5));
    }

    #[test]
    fn every_kind_stands_at_its_index() {
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            assert_eq!(measure as usize, index);
        }
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, index);
        }
    }
}
