//! Whether this worker keeps up with its work, and what it refuses when it does not.
//! Owns the measure (how long turns take) and the share that is shed. Never counts, never answers.
//! Invariant: requests of dialogs, ACK, CANCEL and what trusted zones send are never shed (RFC 7339 5.10.1).
//!
//! A turn handles everything that has come since the last one, so a turn's length is the time that a request waits. One
//! long turn is a burst; a worker is overloaded when even the shortest of several turns in a row is longer than the limit
//! (as CoDel judges a queue by its least delay, Nichols and Jacobson 2012). Then a share of new requests is answered
//! 503, more of them as long as it lasts, and fewer step by step when it is over.

use crate::base::random::Random;
use crate::base::time::Duration;
use crate::sip::{Message, Method};

/// Turns that are judged together: the shortest of fewer may be long by chance.
const TURNS: u32 = 8;
/// Per mille: up fast, down slowly, and never everything, since what passes tells when it is over.
const STEP_UP: u32 = 100;
const STEP_DOWN: u32 = 20;
const SHARE_MAX: u32 = 950;

/// The measure of one worker.
#[derive(Debug)]
pub struct Overload {
    turns: u32,
    /// The shortest of them, in nanoseconds.
    least: u64,
    /// Of new requests, in per mille.
    share: u32,
}

impl Default for Overload {
    fn default() -> Self {
        Overload { turns: 0, least: u64::MAX, share: 0 }
    }
}

impl Overload {
    /// A turn has taken so long. `limit` is how long each may take; `None`: never overloaded.
    pub fn turn_ended(&mut self, nanos: u64, limit: Option<Duration>) {
        let Some(limit) = limit else { return *self = Overload::default() };
        self.turns += 1;
        self.least = self.least.min(nanos);
        let over = u128::from(self.least) > limit.as_nanos();
        if self.turns < TURNS {
            return;
        }
        self.share = match over {
            true => (self.share + STEP_UP).min(SHARE_MAX),
            false => self.share.saturating_sub(STEP_DOWN),
        };
        (self.turns, self.least) = (0, u64::MAX);
    }

    /// The share of new requests that is shed now, in per mille.
    pub fn share(&self) -> u32 {
        self.share
    }

    /// Whether this request is one of those that are shed.
    pub fn sheds(&self, message: &Message<'_>, random: &mut Random) -> bool {
        self.share > 0 && is_new(message) && random.below(1000) < u64::from(self.share)
    }
}

/// Whether the request begins something. A To that cannot be read is judged elsewhere.
fn is_new(message: &Message<'_>) -> bool {
    !matches!(message.method(), Method::Ack | Method::Cancel)
        && matches!(message.to_tag(), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_millis(20));
    const LONG: u64 = 25_000_000;

    #[test]
    fn one_long_turn_is_no_overload_and_many_are() {
        let mut overload = Overload::default();
        for turn in 0..1000 {
            overload.turn_ended(if turn % 4 == 0 { 1_000 } else { 10 * LONG }, LIMIT);
        }
        assert_eq!(overload.share(), 0);
        (0..TURNS - 1).for_each(|_| overload.turn_ended(LONG, LIMIT));
        assert_eq!(overload.share(), 0);
        overload.turn_ended(LONG, LIMIT);
        assert_eq!(overload.share(), STEP_UP);
        (0..100 * TURNS).for_each(|_| overload.turn_ended(LONG, LIMIT));
        assert_eq!(overload.share(), SHARE_MAX);
    }

    #[test]
    fn what_is_over_ends_step_by_step_and_off_ends_it_at_once() {
        let mut overload = Overload::default();
        (0..5 * TURNS).for_each(|_| overload.turn_ended(LONG, LIMIT));
        let before = overload.share();
        (0..TURNS).for_each(|_| overload.turn_ended(1_000, LIMIT));
        assert_eq!(overload.share(), before - STEP_DOWN);
        (0..100 * TURNS).for_each(|_| overload.turn_ended(1_000, LIMIT));
        assert_eq!(overload.share(), 0);
        (0..5 * TURNS).for_each(|_| overload.turn_ended(LONG, LIMIT));
        overload.turn_ended(LONG, None);
        assert_eq!(overload.share(), 0);
    }
}
