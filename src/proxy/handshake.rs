//! Which handshake goes on next: how much of the core's time they may take, and whose turn it is.
//! Owns the order of those that wait. Never touches a session.
//! Invariant: every source prefix that waits has its turn before any has its second, and nobody waits who has gone.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::admission::{Keyed, PrefixKey};
use crate::base::limits;
use crate::base::machine::ConnId;
use crate::base::time::{Duration, Instant};

/// What one expensive handshake step is charged with (measured: 57 to 206 us with the key types in use).
const STEP_NANOS: u64 = 100_000;
/// Resumed handshakes that go before one full one when both wait.
const RESUMED_AHEAD: u32 = 3;

/// Connections that wait, each source prefix in turn. Holds no more than there are handshakes under way.
struct FairQueue {
    /// Those of each prefix in their order; no entry is empty.
    waiting: HashMap<PrefixKey, VecDeque<ConnId>, Keyed>,
    /// The prefixes of `waiting`, the next one first.
    turns: VecDeque<PrefixKey>,
}

impl FairQueue {
    fn new(seed: u64) -> Self {
        FairQueue {
            waiting: HashMap::with_capacity_and_hasher(64, Keyed(seed)),
            turns: VecDeque::with_capacity(64),
        }
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn push(&mut self, conn: ConnId, prefix: PrefixKey) {
        let own = self.waiting.entry(prefix).or_default();
        if own.is_empty() {
            self.turns.push_back(prefix);
        }
        own.push_back(conn);
    }

    fn pop(&mut self) -> Option<ConnId> {
        let prefix = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&prefix)?;
        let conn = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&prefix);
        } else {
            self.turns.push_back(prefix);
        }
        conn
    }

    /// Takes out one that waits, if it does.
    fn remove(&mut self, conn: ConnId, prefix: PrefixKey) {
        let Some(own) = self.waiting.get_mut(&prefix) else { return };
        own.retain(|waiting| *waiting != conn);
        if own.is_empty() {
            self.waiting.remove(&prefix);
            self.turns.retain(|turn| *turn != prefix);
        }
    }
}

/// How much of the core's time handshakes may take: a few steps in one turn, and a share over time.
pub struct HandshakeBudget {
    /// Those that ask to resume a session, and those to backends: light, and they go first.
    light: FairQueue,
    full: FairQueue,
    /// Light ones since the last full one, so that a flood of them does not keep all others out.
    ahead: u32,
    open: u32,
    steps_this_turn: u32,
    /// Time that may be spent, in nanoseconds; at most one turn's worth is saved up.
    credit: u64,
    refilled: Instant,
    share: u64,
}

impl HandshakeBudget {
    /// `seed` keys the hash of prefixes, so that nobody can choose addresses that meet.
    pub fn new(now: Instant, seed: u64) -> Self {
        HandshakeBudget {
            light: FairQueue::new(seed),
            full: FairQueue::new(seed),
            ahead: 0,
            open: 0,
            steps_this_turn: 0,
            credit: Self::CREDIT_MAX,
            refilled: now,
            share: 500,
        }
    }

    const CREDIT_MAX: u64 = limits::HANDSHAKE_STEPS_PER_TURN as u64 * STEP_NANOS * 4;

    /// Handshakes under way.
    pub fn open(&self) -> u32 {
        self.open
    }

    pub fn opened(&mut self) {
        self.open += 1;
    }

    pub fn ended(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// What they may take of the core's time from now on, in per mille.
    pub fn allow(&mut self, share: u16) {
        self.share = u64::from(share).max(1);
    }

    pub fn turn_ended(&mut self, now: Instant) {
        self.steps_this_turn = 0;
        let earned = now.nanos_since(self.refilled) / 1000 * self.share;
        self.credit = (self.credit + earned).min(Self::CREDIT_MAX);
        self.refilled = now;
    }

    /// The handshake of this connection waits for its turn from now on.
    pub fn wait(&mut self, conn: ConnId, address: IpAddr, light: bool) {
        let queue = if light { &mut self.light } else { &mut self.full };
        queue.push(conn, PrefixKey::of(address));
    }

    /// A connection that waited is gone.
    pub fn forget(&mut self, conn: ConnId, address: IpAddr) {
        let prefix = PrefixKey::of(address);
        self.light.remove(conn, prefix);
        self.full.remove(conn, prefix);
    }

    /// The handshake whose turn it is; it waits no longer.
    pub fn next(&mut self) -> Option<ConnId> {
        let turn_of_full = self.ahead >= RESUMED_AHEAD || self.light.is_empty();
        if turn_of_full && let Some(conn) = self.full.pop() {
            self.ahead = 0;
            return Some(conn);
        }
        self.ahead += 1;
        self.light.pop()
    }

    pub fn may_step(&self) -> bool {
        self.steps_this_turn < limits::HANDSHAKE_STEPS_PER_TURN && self.credit >= STEP_NANOS
    }

    pub fn stepped(&mut self, steps: u32) {
        self.steps_this_turn += steps;
        self.credit = self.credit.saturating_sub(u64::from(steps) * STEP_NANOS);
    }

    /// When the next handshake in the queue may go on: at once, unless the share is used up.
    pub fn ready_at(&self) -> Instant {
        if self.light.is_empty() && self.full.is_empty() {
            Instant::FAR
        } else if self.credit >= STEP_NANOS {
            Instant(0)
        } else {
            let missing = (STEP_NANOS - self.credit) * 1000 / self.share.max(1);
            self.refilled + Duration::from_nanos(missing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn order(budget: &mut HandshakeBudget) -> Vec<u32> {
        std::iter::from_fn(|| budget.next()).map(|conn| conn.slot).collect()
    }

    #[test]
    fn resumed_handshakes_go_first_and_full_ones_are_not_kept_out() {
        let mut budget = HandshakeBudget::new(Instant(0), 1);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        (0..3).for_each(|slot| budget.wait(conn(slot), address, false));
        (10..17).for_each(|slot| budget.wait(conn(slot), address, true));
        assert_eq!(order(&mut budget), [10, 11, 12, 0, 13, 14, 15, 1, 16, 2]);
        assert_eq!(budget.ready_at(), Instant::FAR);
    }

    #[test]
    fn a_prefix_with_many_keeps_no_other_waiting() {
        let mut budget = HandshakeBudget::new(Instant(0), 1);
        let flood = |host: u32| format!("2001:db8::{host:x}").parse().unwrap();
        (0..1000).for_each(|slot| budget.wait(conn(slot), flood(slot), false));
        for (slot, address) in [(2000, "192.0.2.1"), (2001, "2001:db8:0:1::1")] {
            budget.wait(conn(slot), address.parse().unwrap(), false);
        }
        // One more of a prefix that waits already comes after everybody's first.
        budget.wait(conn(2002), "192.0.2.1".parse().unwrap(), false);
        let order = order(&mut budget);
        assert_eq!(order[..6], [0, 2000, 2001, 1, 2002, 2]);
        assert_eq!(order.len(), 1003);
    }

    #[test]
    fn who_has_gone_does_not_wait() {
        let mut budget = HandshakeBudget::new(Instant(0), 1);
        let of = |slot: u32| IpAddr::from([192, 0, 2, (slot / 2) as u8]);
        (0..8).for_each(|slot| budget.wait(conn(slot), of(slot), slot % 4 == 0));
        [1, 4, 5].into_iter().for_each(|slot| budget.forget(conn(slot), of(slot)));
        assert_eq!(order(&mut budget), [0, 2, 6, 3, 7]);
        (0..4).for_each(|slot| budget.wait(conn(slot), of(0), false));
        (0..4).for_each(|slot| budget.forget(conn(slot), of(0)));
        assert_eq!(budget.ready_at(), Instant::FAR);
        assert!(budget.full.waiting.is_empty() && budget.full.turns.is_empty());
    }
}
