//! The classes of faults that a seed may draw, and how often each one struck.
//! Owns names and counts. Never decides when.

/// What can go wrong. Closed: each class must strike somewhere in a hundred seeds, or the run fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Bytes of one send arrived in parts.
    Split,
    /// Every byte of a stream came alone.
    Dribble,
    /// Several messages came in one receive.
    Coalesced,
    /// The kernel took only a part of a send and said so.
    ShortSend,
    /// A send had to wait for the peer to read.
    SendBlocked,
    /// Completions of different connections changed places.
    Shuffled,
    /// A completion of an earlier life of a slot came late.
    Stale,
    /// A multishot receive ended with data and without more.
    ReceiveEnded,
    /// No receive buffer was free.
    Starved,
    /// The completion queue overflowed.
    Overflow,
    /// The submission queue took no more.
    RingFull,
    /// accept(2) had no descriptor left.
    AcceptNoDescriptor,
    /// The descriptor table was full.
    AcceptTableFull,
    /// A client was gone before its connection was accepted.
    AcceptGone,
    ConnectRefused,
    ConnectTimeout,
    Reset,
    HalfClose,
    /// A peer stopped reading.
    SlowPeer,
    /// The network stood still.
    Stall,
    BackendDied,
    BackendReturned,
    /// A backend answered a probe by 503.
    ProbeRefused,
    /// A probe had no answer in time.
    ProbeTimeout,
    /// A request went to another backend: it had not left, its connection was lost, it was refused, or nobody answered.
    Unsent,
    LostInFlight,
    Unavailable,
    Unanswered,
    /// A bit of ciphertext was flipped.
    FlippedBit,
    /// A handshake was left unfinished.
    HandshakeStalled,
    MailboxFull,
    SpuriousWake,
    ConfigSwapped,
    Drain,
    ClockJump,
    Panic,
    /// A peer answered what another one was asked.
    AnswerForAnother,
    /// A branch of an older call, or with another number, was sent again.
    BranchReplayed,
    /// A branch of a worker's earlier life was answered.
    BranchOfOldLife,
    TokenForged,
    /// A client sent the Path token of another one.
    TokenStolen,
    /// A client sent the route token of another call.
    TokenOfOtherCall,
    /// A backend sent a Path token of a worker's earlier life.
    TokenOfOldLife,
    /// Bytes that cannot be cut into messages.
    Garbage,
    /// Plain text to a TLS listener.
    PlainOnTls,
}

impl Fault {
    pub const ALL: [Fault; 45] = {
        use Fault as F;
        [
            F::Split,
            F::Dribble,
            F::Coalesced,
            F::ShortSend,
            F::SendBlocked,
            F::Shuffled,
            F::Stale,
            F::ReceiveEnded,
            F::Starved,
            F::Overflow,
            F::RingFull,
            F::AcceptNoDescriptor,
            F::AcceptTableFull,
            F::AcceptGone,
            F::ConnectRefused,
            F::ConnectTimeout,
            F::Reset,
            F::HalfClose,
            F::SlowPeer,
            F::Stall,
            F::BackendDied,
            F::BackendReturned,
            F::ProbeRefused,
            F::ProbeTimeout,
            F::Unsent,
            F::LostInFlight,
            F::Unavailable,
            F::Unanswered,
            F::FlippedBit,
            F::HandshakeStalled,
            F::MailboxFull,
            F::SpuriousWake,
            F::ConfigSwapped,
            F::Drain,
            F::ClockJump,
            F::Panic,
            F::AnswerForAnother,
            F::BranchReplayed,
            F::BranchOfOldLife,
            F::TokenForged,
            F::TokenStolen,
            F::TokenOfOtherCall,
            F::TokenOfOldLife,
            F::Garbage,
            F::PlainOnTls,
        ]
    };

    pub const fn name(self) -> &'static str {
        match self {
            Fault::Split => "split",
            Fault::Dribble => "dribble",
            Fault::Coalesced => "coalesced",
            Fault::ShortSend => "short send",
            Fault::SendBlocked => "send blocked",
            Fault::Shuffled => "shuffled",
            Fault::Stale => "stale completion",
            Fault::ReceiveEnded => "receive ended",
            Fault::Starved => "starved",
            Fault::Overflow => "overflow",
            Fault::RingFull => "ring full",
            Fault::AcceptNoDescriptor => "accept: no descriptor",
            Fault::AcceptTableFull => "accept: table full",
            Fault::AcceptGone => "accept: client gone",
            Fault::ConnectRefused => "connect refused",
            Fault::ConnectTimeout => "connect timeout",
            Fault::Reset => "reset",
            Fault::HalfClose => "half-close",
            Fault::SlowPeer => "slow peer",
            Fault::Stall => "stall",
            Fault::BackendDied => "backend died",
            Fault::BackendReturned => "backend returned",
            Fault::ProbeRefused => "probe refused",
            Fault::ProbeTimeout => "probe timeout",
            Fault::Unsent => "elsewhere: unsent",
            Fault::LostInFlight => "elsewhere: lost",
            Fault::Unavailable => "elsewhere: refused",
            Fault::Unanswered => "elsewhere: unanswered",
            Fault::FlippedBit => "flipped bit",
            Fault::HandshakeStalled => "handshake stalled",
            Fault::MailboxFull => "mailbox full",
            Fault::SpuriousWake => "spurious wake",
            Fault::ConfigSwapped => "config swapped",
            Fault::Drain => "drain",
            Fault::ClockJump => "clock jump",
            Fault::Panic => "panic",
            Fault::AnswerForAnother => "answer for another",
            Fault::BranchReplayed => "branch replayed",
            Fault::BranchOfOldLife => "branch of old life",
            Fault::TokenForged => "token forged",
            Fault::TokenStolen => "token stolen",
            Fault::TokenOfOtherCall => "token of other call",
            Fault::TokenOfOldLife => "token of old life",
            Fault::Garbage => "garbage",
            Fault::PlainOnTls => "plain text on TLS",
        }
    }
}

/// How often each class struck.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: [u64; Fault::ALL.len()],
}

impl Default for Tally {
    fn default() -> Self {
        Tally { counts: [0; Fault::ALL.len()] }
    }
}

impl Tally {
    pub fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    pub fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }
}
