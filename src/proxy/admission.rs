//! Who may come in and how often: source prefixes, connections and handshakes for each, token buckets, bans.
//! Owns the buckets of one worker and the table of connections that all workers share. Never forwards, never answers.
//! Invariant: tables are bounded; what does not fit shares one bucket, it never escapes the limit.
//!
//! A prefix is an IPv4 /32 or an IPv6 /64; IPv6 counts a second time at /48 with 16 times the limit. Rates are GCRA
//! (ITU-T I.371): exact, one word for each bucket. Each worker enforces its share of a rate (limit / workers).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::base::time::Instant;
use crate::config::snapshot::Rate;

/// Prefixes that one worker keeps buckets for; beyond that, newcomers share one bucket until old ones are idle.
pub const PREFIXES_MAX: usize = 65_536;
/// Buckets for addresses-of-record, by hash: two that meet share one.
const AOR_BUCKETS: usize = 16_384;
const SHARDS: usize = 64;
/// How many times the limit of a /64 a whole /48 may use.
const WIDE_FACTOR: u32 = 16;
/// The first ban lasts so long, each further one twice as long as the last, up to `BAN_DOUBLINGS` times.
const BAN_NANOS: u64 = 60_000_000_000;
const BAN_DOUBLINGS: u32 = 6;

/// A source prefix, as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey(u64, u8);

impl PrefixKey {
    /// IPv4 /32 or IPv6 /64.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => PrefixKey(u64::from(u32::from(address)), 4),
            IpAddr::V6(address) => PrefixKey((u128::from(address) >> 64) as u64, 6),
        }
    }

    /// The /48 around an IPv6 /64.
    fn wide(self) -> Option<Self> {
        (self.1 == 6).then_some(PrefixKey(self.0 >> 16, 48))
    }
}

/// Connections of one prefix: which worker holds how many. No entry is 0.
type Holders = SmallVec<[(u8, u32); 2]>;

/// Connections for each source prefix over all workers; touched at accept, close and the death of a worker only.
pub struct PrefixTable {
    shards: Vec<Mutex<HashMap<PrefixKey, Holders>>>,
    hasher: RandomState,
}

impl Default for PrefixTable {
    fn default() -> Self {
        Self::new()
    }
}

impl PrefixTable {
    pub fn new() -> Self {
        PrefixTable {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Counts a connection of this worker in, unless its prefix is full.
    pub fn enter(&self, address: IpAddr, limit: u32, worker: u8) -> bool {
        let key = PrefixKey::of(address);
        if !self.add(key, limit, worker) {
            return false;
        }
        if let Some(wide) = key.wide()
            && !self.add(wide, limit.saturating_mul(WIDE_FACTOR), worker)
        {
            self.remove(key, worker);
            return false;
        }
        true
    }

    /// Counts out a connection that was counted in.
    pub fn leave(&self, address: IpAddr, worker: u8) {
        let key = PrefixKey::of(address);
        self.remove(key, worker);
        if let Some(wide) = key.wide() {
            self.remove(wide, worker);
        }
    }

    /// A life of this worker has ended without counting its connections out.
    pub fn forget(&self, worker: u8) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, holders| {
                holders.retain(|(holder, _)| *holder != worker);
                !holders.is_empty()
            });
        }
    }

    /// Connections counted now for the prefix of this address.
    pub fn connections(&self, address: IpAddr) -> u32 {
        let key = PrefixKey::of(address);
        self.with(key, |shard| shard.get(&key).map_or(0, total))
    }

    fn add(&self, key: PrefixKey, limit: u32, worker: u8) -> bool {
        self.with(key, |shard| {
            let holders = shard.entry(key).or_default();
            if total(holders) >= limit {
                return false;
            }
            match holders.iter_mut().find(|(holder, _)| *holder == worker) {
                Some((_, count)) => *count += 1,
                None => holders.push((worker, 1)),
            }
            true
        })
    }

    fn remove(&self, key: PrefixKey, worker: u8) {
        self.with(key, |shard| {
            let Some(holders) = shard.get_mut(&key) else { return };
            if let Some(place) = holders.iter().position(|(holder, _)| *holder == worker) {
                holders[place].1 -= 1;
                if holders[place].1 == 0 {
                    holders.swap_remove(place);
                }
            }
            if holders.is_empty() {
                shard.remove(&key);
            }
        });
    }

    fn with<T>(
        &self,
        key: PrefixKey,
        act: impl FnOnce(&mut HashMap<PrefixKey, Holders>) -> T,
    ) -> T {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        // A worker that panicked while it held the lock left a count at most one off: go on with it.
        act(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn total(holders: &Holders) -> u32 {
    holders.iter().map(|(_, count)| count).sum()
}

/// One event of a bucket: true when it is within the rate. `interval` and `burst` in nanoseconds.
fn conforms(tat: &mut u64, now: Instant, interval: u64, burst: u64) -> bool {
    if *tat > now.0.saturating_add(burst) {
        return false;
    }
    *tat = (*tat).max(now.0) + interval;
    true
}

/// A rate settled for one worker.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    interval: u64,
    burst: u64,
}

impl Bucket {
    /// The share of one of `workers`.
    pub fn share(rate: Rate, workers: u8) -> Self {
        let per = rate.per.as_nanos() as u64;
        let interval = (per / u64::from(rate.count.max(1))).max(1) * u64::from(workers.max(1));
        Bucket { interval, burst: per.saturating_sub(interval) }
    }

    /// The whole rate: what one connection may do, since it lives on one worker.
    pub fn whole(rate: Rate) -> Self {
        Bucket::share(rate, 1)
    }

    pub fn take(&self, tat: &mut u64, now: Instant) -> bool {
        conforms(tat, now, self.interval, self.burst)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct PrefixState {
    requests: u64,
    handshakes: u64,
    resumptions: u64,
    handshakes_open: u32,
    failures: u32,
    bans: u32,
    banned_until: u64,
}

impl PrefixState {
    fn idle(&self, now: Instant) -> bool {
        self.handshakes_open == 0
            && self.requests <= now.0
            && self.handshakes <= now.0
            && self.resumptions <= now.0
            && self.banned_until <= now.0
    }
}

/// Hashes under a key, so that nobody can choose what meets.
#[derive(Clone)]
pub(super) struct Keyed(pub(super) u64);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}

/// The buckets of one worker.
pub struct Buckets {
    prefixes: HashMap<PrefixKey, PrefixState, Keyed>,
    overflow: PrefixState,
    aors: Vec<u64>,
}

impl Buckets {
    /// `seed` keys the hash, so that nobody can choose addresses that meet.
    pub fn new(seed: u64) -> Self {
        Buckets {
            prefixes: HashMap::with_capacity_and_hasher(1024, Keyed(seed)),
            overflow: PrefixState::default(),
            aors: Vec::new(),
        }
    }

    fn state(&mut self, address: IpAddr, now: Instant) -> &mut PrefixState {
        let key = PrefixKey::of(address);
        if self.prefixes.len() >= PREFIXES_MAX && !self.prefixes.contains_key(&key) {
            self.prefixes.retain(|_, state| !state.idle(now));
            if self.prefixes.len() >= PREFIXES_MAX {
                return &mut self.overflow;
            }
        }
        self.prefixes.entry(key).or_default()
    }

    /// One request of this source.
    pub fn request(&mut self, address: IpAddr, now: Instant, bucket: &Bucket) -> bool {
        let state = self.state(address, now);
        bucket.take(&mut state.requests, now)
    }

    /// A source says what it wants of a handshake: new sessions and resumed ones have the same rate, each its own.
    pub fn handshake_rate(
        &mut self,
        address: IpAddr,
        now: Instant,
        bucket: &Bucket,
        resumed: bool,
    ) -> bool {
        let state = self.state(address, now);
        bucket.take(if resumed { &mut state.resumptions } else { &mut state.handshakes }, now)
    }

    /// A handshake begins, with fewer than `limit` open ones.
    pub fn handshake(&mut self, address: IpAddr, now: Instant, limit: u32) -> bool {
        let state = self.state(address, now);
        if state.handshakes_open >= limit {
            return false;
        }
        state.handshakes_open += 1;
        true
    }

    /// A handshake that was let in has ended, well or not.
    pub fn handshake_ended(&mut self, address: IpAddr) {
        let state = match self.prefixes.get_mut(&PrefixKey::of(address)) {
            Some(state) => state,
            None => &mut self.overflow,
        };
        state.handshakes_open = state.handshakes_open.saturating_sub(1);
    }

    /// One request for an address-of-record, by its hash.
    pub fn aor(&mut self, hash: u64, now: Instant, bucket: &Bucket) -> bool {
        if self.aors.is_empty() {
            self.aors = vec![0; AOR_BUCKETS];
        }
        bucket.take(&mut self.aors[hash as usize % AOR_BUCKETS], now)
    }

    /// A 401, 403 or 404 went to this source; after `limit` of them without a success it is banned for a while.
    pub fn failed(&mut self, address: IpAddr, now: Instant, limit: u32) {
        let state = self.state(address, now);
        state.failures += 1;
        if state.failures >= limit {
            state.failures = 0;
            state.banned_until = now.0 + (BAN_NANOS << state.bans.min(BAN_DOUBLINGS));
            state.bans += 1;
        }
    }

    /// A success of this source: earlier failures are forgotten.
    pub fn succeeded(&mut self, address: IpAddr) {
        if let Some(state) = self.prefixes.get_mut(&PrefixKey::of(address)) {
            state.failures = 0;
        }
    }

    pub fn banned(&self, address: IpAddr, now: Instant) -> bool {
        self.prefixes.get(&PrefixKey::of(address)).is_some_and(|state| state.banned_until > now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn exactly_the_limit_is_held_for_each_prefix() {
        let table = PrefixTable::new();
        let held = (0..30_000u32)
            .filter(|host| {
                table.enter(
                    address(&format!("2001:db8::{:x}", host % 60_000)),
                    256,
                    (host % 2) as u8,
                )
            })
            .count();
        assert_eq!(held, 256);
        assert!(table.enter(address("2001:db8:0:1::1"), 256, 0));
        let held = (0..300).filter(|_| table.enter(address("192.0.2.1"), 256, 0)).count();
        assert_eq!(held, 256);
        assert!(table.enter(address("192.0.2.2"), 256, 0));
        table.leave(address("192.0.2.1"), 0);
        assert!(table.enter(address("::ffff:192.0.2.1"), 256, 0));
        assert!(!table.enter(address("192.0.2.1"), 256, 0));
    }

    /// A worker that panicked counts nothing out: its next life does it for it.
    #[test]
    fn a_life_that_ended_is_forgotten() {
        let table = PrefixTable::new();
        let one = address("2001:db8::1");
        assert!(table.enter(one, 3, 0) && table.enter(one, 3, 1) && table.enter(one, 3, 1));
        assert!(!table.enter(one, 3, 0));
        table.forget(1);
        assert_eq!(table.connections(one), 1);
        assert!(table.enter(one, 3, 1));
        table.leave(one, 1);
        table.leave(one, 1);
        assert_eq!(table.connections(one), 1);
    }

    #[test]
    fn a_wide_prefix_holds_sixteen_times_as_much() {
        let table = PrefixTable::new();
        let held = (0..1000u32)
            .filter(|net| table.enter(address(&format!("2001:db8:0:{net:x}::1")), 2, 0))
            .count();
        assert_eq!(held, 32);
        assert_eq!(table.connections(address("2001:db8:0:3e7::1")), 0);
    }

    #[test]
    fn a_bucket_gives_its_rate_within_one_percent() {
        for workers in [1u8, 2, 8] {
            let bucket = Bucket::share(Rate { count: 200, per: Duration::from_secs(1) }, workers);
            let mut buckets = Buckets::new(1);
            let source = address("192.0.2.1");
            let mut passed = 0u32;
            for step in 0..100_000u64 {
                let now = Instant(10 * SECOND + step * SECOND / 10_000);
                passed += u32::from(buckets.request(source, now, &bucket));
            }
            // Ten seconds and the burst of the first one.
            let expected = 11 * 200 / u32::from(workers);
            assert!(passed.abs_diff(expected) * 100 <= expected, "{passed} of {expected}");
        }
    }

    #[test]
    fn handshakes_are_bounded_at_once_and_come_free() {
        let mut buckets = Buckets::new(1);
        let source = address("192.0.2.1");
        let now = Instant(SECOND);
        let open = (0..100).filter(|_| buckets.handshake(source, now, 64)).count();
        assert_eq!(open, 64);
        buckets.handshake_ended(source);
        assert!(buckets.handshake(source, now, 64));
    }

    #[test]
    fn new_and_resumed_handshakes_have_a_rate_each() {
        let bucket = Bucket::whole(Rate { count: 10, per: Duration::from_secs(1) });
        let mut buckets = Buckets::new(1);
        let (one, other) = (address("2001:db8::1"), address("2001:db8:0:1::1"));
        let now = Instant(SECOND);
        let passed = |buckets: &mut Buckets, from, resumed| {
            (0..100).filter(|_| buckets.handshake_rate(from, now, &bucket, resumed)).count()
        };
        assert_eq!(passed(&mut buckets, one, false), 10);
        assert_eq!(passed(&mut buckets, address("2001:db8::2"), false), 0, "the same /64");
        assert_eq!(passed(&mut buckets, one, true), 10);
        assert_eq!(passed(&mut buckets, other, false), 10);
    }

    #[test]
    fn bans_come_after_the_failures_and_grow() {
        let mut buckets = Buckets::new(1);
        let source = address("192.0.2.1");
        let mut now = Instant(SECOND);
        for _ in 0..50 {
            assert!(!buckets.banned(source, now));
            buckets.failed(source, now, 50);
        }
        assert!(buckets.banned(source, now));
        now = Instant(now.0 + BAN_NANOS);
        assert!(!buckets.banned(source, now));
        (0..50).for_each(|_| buckets.failed(source, now, 50));
        assert!(buckets.banned(source, Instant(now.0 + BAN_NANOS)));
    }

    #[test]
    fn newcomers_share_a_bucket_when_the_table_is_full() {
        let bucket = Bucket::whole(Rate { count: 1, per: Duration::from_secs(1) });
        let mut buckets = Buckets::new(1);
        let now = Instant(SECOND);
        for host in 0..PREFIXES_MAX as u32 {
            assert!(buckets.request(IpAddr::V4(host.into()), now, &bucket));
        }
        let passed = (0..100u32)
            .filter(|host| buckets.request(IpAddr::V4((0xF000_0000 + host).into()), now, &bucket))
            .count();
        assert_eq!(passed, 1);
    }
}
