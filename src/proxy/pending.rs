//! What was sent and awaits an answer, as far as telemetry and CANCEL need it: a lossy table of fixed size.
//! Owns no message. Never needed to route a response: that is the branch's work.
//! Invariant: a lost entry loses a latency sample and the pin of a CANCEL, nothing else.

use crate::base::time::Instant;

use super::token::PeerId;

/// Entries: a power of two. At 10,000 transactions a second and 100 ms each, 1,000 are live.
const ENTRIES: usize = 16_384;

#[derive(Clone, Copy, Debug)]
struct Entry {
    unique: u64,
    /// Code of the request's method; two requests may share the unique part (CANCEL, PRACK).
    method: u8,
    answered: bool,
    received: Instant,
    sent: Instant,
    peer: PeerId,
}

const EMPTY: Entry = Entry {
    unique: 0,
    method: u8::MAX,
    answered: false,
    received: Instant(0),
    sent: Instant(0),
    peer: PeerId::NONE,
};

pub struct Pending {
    entries: Vec<Entry>,
}

/// What a response tells about its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Nanoseconds from sending the request to this response; only for the first one.
    pub backend: Option<u64>,
    /// When the request came; only with the final response.
    pub received: Option<Instant>,
}

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

impl Pending {
    pub fn new() -> Self {
        Pending { entries: vec![EMPTY; ENTRIES] }
    }

    fn place(unique: u64, method: u8) -> usize {
        (unique as usize).wrapping_add(usize::from(method)) % ENTRIES
    }

    pub fn sent(
        &mut self,
        unique: u64,
        method: u8,
        received: Instant,
        sent: Instant,
        peer: PeerId,
    ) {
        self.entries[Self::place(unique, method)] =
            Entry { unique, method, answered: false, received, sent, peer };
    }

    /// Where the request with this unique part and method went, if that is still known.
    pub fn pinned(&self, unique: u64, method: u8) -> Option<PeerId> {
        let entry = &self.entries[Self::place(unique, method)];
        (entry.unique == unique && entry.method == method).then_some(entry.peer)
    }

    /// A response came. The entry stays after a final one, so that an ACK still finds its way.
    pub fn answered(
        &mut self,
        unique: u64,
        method: u8,
        now: Instant,
        last: bool,
    ) -> Option<Answered> {
        let entry = &mut self.entries[Self::place(unique, method)];
        if entry.unique != unique || entry.method != method || entry.received == Instant::FAR {
            return None;
        }
        let backend = (!entry.answered).then(|| now.nanos_since(entry.sent));
        entry.answered = true;
        let received = last.then_some(entry.received);
        if last {
            entry.received = Instant::FAR;
        }
        Some(Answered { backend, received })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_measured_once_and_stays_pinned() {
        let mut pending = Pending::new();
        pending.sent(7, 0, Instant(100), Instant(150), PeerId(3));
        let first = pending.answered(7, 0, Instant(250), false).unwrap();
        assert_eq!(first, Answered { backend: Some(100), received: None });
        let last = pending.answered(7, 0, Instant(300), true).unwrap();
        assert_eq!(last, Answered { backend: None, received: Some(Instant(100)) });
        assert_eq!(pending.answered(7, 0, Instant(400), true), None);
        assert_eq!(pending.pinned(7, 0), Some(PeerId(3)));
        assert_eq!(pending.pinned(7, 1), None);
    }
}
