//! Time as it is handed down: nanoseconds since an origin that only the ring knows, and the queue of deadlines.
//! Never asks the clock.

use std::ops::{Add, Sub};
pub use std::time::Duration;

/// A point in time: nanoseconds since the ring's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// Later than anything that will happen.
    pub const FAR: Instant = Instant(u64::MAX);

    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Nanoseconds since `earlier`, 0 when it lies ahead.
    pub fn nanos_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// One tick of the queue: about 4.2 ms, well below the shortest SIP timer (T1, 500 ms).
const TICK_SHIFT: u32 = 22;
const LEVEL_BITS: u32 = 6;
const LEVEL_SLOTS: usize = 1 << LEVEL_BITS;
/// 64^5 ticks are about 52 days; later deadlines wait in the last level and are looked at again there.
const LEVELS: usize = 5;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    deadline: u64,
    previous: u32,
    next: u32,
    /// Which list holds this key; `NONE` when it is not queued.
    list: u32,
}

/// Deadlines of keys `0..capacity`, one for each key, in a hierarchical wheel: setting, moving and clearing one are
/// O(1) and allocate nothing. A deadline is never reported early, and at most one tick (4.2 ms) late.
#[derive(Debug)]
pub struct DeadlineQueue {
    links: Vec<Link>,
    heads: Vec<u32>,
    occupied: [u64; LEVELS],
    tick: u64,
    queued: u32,
}

impl DeadlineQueue {
    pub fn new(capacity: u32, now: Instant) -> Self {
        let idle = Link { deadline: 0, previous: NONE, next: NONE, list: NONE };
        DeadlineQueue {
            links: vec![idle; capacity as usize],
            heads: vec![NONE; LEVELS * LEVEL_SLOTS],
            occupied: [0; LEVELS],
            tick: now.0 >> TICK_SHIFT,
            queued: 0,
        }
    }

    /// What one key takes.
    pub const BYTES_PER_KEY: usize = size_of::<Link>();

    /// Keys up to `capacity` from now on; never fewer than before.
    pub fn grow(&mut self, capacity: u32) {
        let idle = Link { deadline: 0, previous: NONE, next: NONE, list: NONE };
        self.links.resize(self.links.len().max(capacity as usize), idle);
    }

    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: u32, deadline: Instant) {
        self.clear(key);
        // Rounded up, so that nothing is reported early.
        let due = (deadline.0 >> TICK_SHIFT).saturating_add(1).max(self.tick + 1);
        self.push(key, deadline.0, due);
        self.queued += 1;
    }

    pub fn clear(&mut self, key: u32) {
        let link = self.links[key as usize];
        if link.list == NONE {
            return;
        }
        self.unlink(key, link);
        self.queued -= 1;
    }

    pub fn is_set(&self, key: u32) -> bool {
        self.links[key as usize].list != NONE
    }

    /// Takes one key whose deadline has passed. Call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<u32> {
        let target = now.0 >> TICK_SHIFT;
        loop {
            let slot = (self.tick as usize) & (LEVEL_SLOTS - 1);
            if self.heads[slot] != NONE {
                let key = self.heads[slot];
                let link = self.links[key as usize];
                self.unlink(key, link);
                self.queued -= 1;
                return Some(key);
            }
            if self.tick >= target {
                return None;
            }
            if self.queued == 0 {
                self.tick = target;
                return None;
            }
            self.advance(target);
        }
    }

    /// When something may be due: never later than the first deadline's tick, `FAR` when nothing is queued. May be
    /// early (a far deadline is then moved down and looked at again).
    pub fn next(&self) -> Instant {
        if self.queued == 0 {
            return Instant::FAR;
        }
        let mut first = u64::MAX;
        for level in 0..LEVELS {
            let shift = LEVEL_BITS * level as u32;
            let position = (self.tick >> shift) as u32 & (LEVEL_SLOTS as u32 - 1);
            let ahead = self.occupied[level].rotate_right(position);
            if ahead != 0 {
                // Above level 0 the list at our own position is one whole turn of the wheel away.
                let steps = match u64::from(ahead.trailing_zeros()) {
                    0 if level > 0 && ahead == 1 => LEVEL_SLOTS as u64,
                    0 if level > 0 => u64::from((ahead & !1).trailing_zeros()),
                    steps => steps,
                };
                first = first.min(((self.tick >> shift) + steps) << shift);
            }
        }
        Instant(first.max(self.tick) << TICK_SHIFT)
    }

    /// Moves on to the next tick that has something to do, at most to `target`.
    fn advance(&mut self, target: u64) {
        let next = (self.next().0 >> TICK_SHIFT).max(self.tick + 1).min(target);
        // Lists of higher levels whose span begins between here and there are spread out over the lower ones.
        self.tick = next;
        for level in (1..LEVELS).rev() {
            let shift = LEVEL_BITS * level as u32;
            if next & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = (next >> shift) as usize & (LEVEL_SLOTS - 1);
            let mut key = self.heads[level * LEVEL_SLOTS + slot];
            while key != NONE {
                let link = self.links[key as usize];
                self.unlink(key, link);
                let due = (link.deadline >> TICK_SHIFT).saturating_add(1).max(next);
                self.push(key, link.deadline, due);
                key = link.next;
            }
        }
    }

    fn push(&mut self, key: u32, deadline: u64, due: u64) {
        let distance = due - self.tick;
        let mut level = 0;
        while level + 1 < LEVELS && distance >> (LEVEL_BITS * (level as u32 + 1)) != 0 {
            level += 1;
        }
        let shift = LEVEL_BITS * level as u32;
        let farthest = (1u64 << (LEVEL_BITS * LEVELS as u32)) - (1 << shift);
        let due = self.tick + distance.min(farthest);
        let slot = (due >> shift) as usize & (LEVEL_SLOTS - 1);
        let list = level * LEVEL_SLOTS + slot;
        let head = self.heads[list];
        self.links[key as usize] = Link { deadline, previous: NONE, next: head, list: list as u32 };
        if head != NONE {
            self.links[head as usize].previous = key;
        }
        self.heads[list] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32, link: Link) {
        let list = link.list as usize;
        if link.previous == NONE {
            self.heads[list] = link.next;
            if link.next == NONE {
                self.occupied[list / LEVEL_SLOTS] &= !(1 << (list % LEVEL_SLOTS));
            }
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        self.links[key as usize].list = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    const TICK: u64 = 1 << TICK_SHIFT;

    /// Against the obvious reference: random sets, clears and jumps of the clock.
    #[test]
    fn every_deadline_fires_once_in_its_tick() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut now = Instant(random.below(1 << 50));
            let mut queue = DeadlineQueue::new(32, now);
            let mut reference: Vec<Option<u64>> = vec![None; 32];
            for _ in 0..400 {
                let key = random.below(32) as u32;
                match random.below(3) {
                    0 => {
                        let span = 1 << random.below(44);
                        let deadline = now.0 + random.below(span);
                        queue.set(key, Instant(deadline));
                        reference[key as usize] = Some(deadline);
                    }
                    1 => {
                        queue.clear(key);
                        reference[key as usize] = None;
                    }
                    _ => {
                        let first = reference.iter().flatten().min().copied();
                        if let Some(first) = first {
                            assert!(queue.next().0 <= first + TICK, "seed {seed}");
                        }
                        let span = 1 << random.below(46);
                        now = Instant(now.0 + random.below(span));
                        while let Some(key) = queue.expired(now) {
                            let deadline = reference[key as usize].take().expect("fired once");
                            assert!(deadline <= now.0, "seed {seed}: early");
                        }
                        for deadline in reference.iter().flatten() {
                            assert!(deadline + TICK > now.0, "seed {seed}: late");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_queue_has_no_deadline() {
        let mut queue = DeadlineQueue::new(4, Instant(5));
        assert_eq!(queue.next(), Instant::FAR);
        queue.set(2, Instant(7));
        assert!(queue.next() < Instant::FAR);
        queue.clear(2);
        assert_eq!(queue.next(), Instant::FAR);
        assert_eq!(queue.expired(Instant(1 << 60)), None);
    }
}
