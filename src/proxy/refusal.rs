//! What the log tells, at debug level, of messages that were refused: whose, why, and where the fault stands.
//! Owns the few of each report that are kept. Never keeps a byte of a message, never counts: the counters do.
//! Invariant: at most `REFUSALS_MAX` wait for the next report; the others are told as a number.

use std::net::SocketAddr;

use crate::sip::Fault;
use crate::telemetry::counter::Refused;

/// Refusals told in one report, which is a second as a rule: enough to find a fault by, too few to fill a disk with.
const REFUSALS_MAX: usize = 64;

/// A message that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub peer: SocketAddr,
    pub zone: u16,
    pub reason: Refused,
    /// What is wrong with the message, and at which byte of it; `None`: it is well formed.
    pub fault: Option<Fault>,
}

/// Refusals since the last report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The first of them, in order.
    pub told: Vec<Refusal>,
    /// How many more there were.
    pub untold: u64,
}

impl Refusals {
    /// The same memory with nothing in it.
    pub fn emptied(mut self) -> Self {
        self.told.clear();
        Refusals { told: self.told, untold: 0 }
    }

    pub fn note(&mut self, refusal: Refusal) {
        if self.told.len() < REFUSALS_MAX {
            self.told.push(refusal);
        } else {
            self.untold += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_as_a_number() {
        let mut refusals = Refusals::default();
        let refusal = Refusal {
            peer: "192.0.2.1:5060".parse().unwrap(),
            zone: 0,
            reason: Refused::Malformed,
            fault: None,
        };
        (0..1000).for_each(|_| refusals.note(refusal));
        assert_eq!((refusals.told.len(), refusals.untold), (REFUSALS_MAX, 1000 - 64));
    }
}
