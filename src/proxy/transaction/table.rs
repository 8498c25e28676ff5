//! The live transactions of one worker: a slab that grows by pages up to a bound, found by what a branch carries.
//! Owns the entries, their kept requests, the lists of what is out on each link, and the queue of their deadlines. Never
//! reads a message, never asks the clock.
//! Invariant: an attempt stands in the list of its connection exactly as long as that connection may still bring a
//! response to it.

use crate::base::limits;
use crate::base::machine::ConnId;
use crate::base::time::{DeadlineQueue, Instant};

use super::super::connection::Source;
use super::super::token::PeerId;
use super::entry::{ATTEMPTS_MAX, Attempt, Entry, Key, Stage};

/// Entries that the slab grows by at once; they never move.
const PAGE: usize = 512;
/// Buffers for kept requests that wait to be used again, and how long one may have grown to be kept.
const SPARE_MAX: usize = 1024;
const SPARE_BYTES_MAX: usize = 8 * 1024;
const NONE: u32 = u32::MAX;

/// A live entry, as long as nobody has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

/// The table holds all that it may; nothing was added.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// A place in the slab.
struct Place {
    live: bool,
    /// The next one in the bucket, or the next free one.
    next: u32,
    entry: Entry,
}

pub struct Table {
    pages: Vec<Vec<Place>>,
    free: u32,
    /// First place of each bucket, by the low bits of the unique part, which is a keyed hash already.
    buckets: Vec<u32>,
    /// First attempt that is out on each of our own connections, by slot: place * ATTEMPTS_MAX + number.
    out: Vec<u32>,
    /// Slots below this one are accepted connections.
    first_own: u32,
    deadlines: DeadlineQueue,
    spare: Vec<Vec<u8>>,
    capacity: u32,
    len: u32,
    kept_bytes: usize,
}

/// What one live transaction takes beside its kept request: place, two buckets at most, deadline.
pub const TRANSACTION_BYTES: usize =
    size_of::<Place>() + 2 * size_of::<u32>() + DeadlineQueue::BYTES_PER_KEY;
// What docs/backends.md says.
const _: () = assert!(TRANSACTION_BYTES <= 448);

impl Table {
    /// A table that takes nothing until `allow` lets it.
    pub fn new(first_own: u32, now: Instant) -> Self {
        Table {
            pages: Vec::new(),
            free: NONE,
            buckets: Vec::new(),
            out: vec![NONE; limits::OWN_SLOTS as usize],
            first_own,
            deadlines: DeadlineQueue::new(0, now),
            spare: Vec::new(),
            capacity: 0,
            len: 0,
            kept_bytes: 0,
        }
    }

    /// Bounds the table. What lives beyond a smaller bound lives on to its end.
    pub fn allow(&mut self, capacity: u32) {
        self.capacity = capacity;
        self.deadlines.grow(capacity);
        let buckets = (capacity as usize).next_power_of_two();
        if capacity == 0 || buckets <= self.buckets.len() {
            return;
        }
        for first in std::mem::replace(&mut self.buckets, vec![NONE; buckets]) {
            let mut at = first;
            while at != NONE {
                let next = self.place(at).next;
                self.chain(at);
                at = next;
            }
        }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, at: u32) -> &Place {
        &self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    fn place_mut(&mut self, at: u32) -> &mut Place {
        &mut self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    fn bucket(&self, unique: u64) -> usize {
        unique as usize & (self.buckets.len() - 1)
    }

    fn chain(&mut self, at: u32) {
        let bucket = self.bucket(self.place(at).entry.key.unique);
        self.place_mut(at).next = std::mem::replace(&mut self.buckets[bucket], at);
    }

    /// A new transaction; `request` is kept as it came.
    pub fn open(
        &mut self,
        key: Key,
        source: &Source,
        request: &[u8],
        in_dialog: bool,
        now: Instant,
    ) -> Result<Id, Full> {
        let room = self.kept_bytes + request.len() <= limits::KEPT_REQUEST_BYTES_MAX;
        if self.len >= self.capacity || !room {
            return Err(Full);
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(request);
        self.kept_bytes += request.len();
        self.len += 1;
        let entry = Entry::new(key, source.clone(), kept, in_dialog, now);
        let at = self.free;
        let place = Place { live: true, next: NONE, entry };
        let at = if at == NONE {
            self.push(place)
        } else {
            self.free = self.place(at).next;
            *self.place_mut(at) = place;
            at
        };
        self.chain(at);
        Ok(Id(at))
    }

    fn push(&mut self, place: Place) -> u32 {
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let page = self.pages.len() - 1;
        self.pages[page].push(place);
        (page * PAGE + self.pages[page].len() - 1) as u32
    }

    /// Ends a transaction: nothing of it is known any more.
    pub fn close(&mut self, id: Id) {
        for number in 0..self.get(id).attempts.len() {
            self.detach(id, number);
        }
        self.forget_request(id);
        self.deadlines.clear(id.0);
        let bucket = self.bucket(self.get(id).key.unique);
        let next = self.place(id.0).next;
        if self.buckets[bucket] == id.0 {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while self.place(at).next != id.0 {
                at = self.place(at).next;
            }
            self.place_mut(at).next = next;
        }
        let free = self.free;
        let place = self.place_mut(id.0);
        assert!(place.live);
        place.live = false;
        place.next = free;
        self.free = id.0;
        self.len -= 1;
    }

    /// Nothing will be made of the request any more.
    pub fn forget_request(&mut self, id: Id) {
        let mut kept = std::mem::take(&mut self.get_mut(id).kept);
        self.kept_bytes -= kept.len();
        if self.spare.len() < SPARE_MAX && kept.capacity() <= SPARE_BYTES_MAX {
            kept.clear();
            self.spare.push(kept);
        }
    }

    /// The transaction with this key.
    pub fn find(&self, key: &Key) -> Option<Id> {
        self.search(key.unique, |it| it == key)
    }

    /// One with this unique part and method, whatever connection its request came on.
    pub fn find_anywhere(&self, key: &Key) -> Option<Id> {
        self.find(key).or_else(|| self.search(key.unique, |it| it.method == key.method))
    }

    fn search(&self, unique: u64, good: impl Fn(&Key) -> bool) -> Option<Id> {
        if self.is_empty() {
            return None;
        }
        let mut at = self.buckets[self.bucket(unique)];
        while at != NONE {
            let place = self.place(at);
            if place.entry.key.unique == unique && good(&place.entry.key) {
                return Some(Id(at));
            }
            at = place.next;
        }
        None
    }

    pub fn get(&self, id: Id) -> &Entry {
        &self.place(id.0).entry
    }

    pub fn get_mut(&mut self, id: Id) -> &mut Entry {
        &mut self.place_mut(id.0).entry
    }

    /// The request goes out on this connection; which attempt that is. `None`: it has gone out often enough.
    pub fn attach(&mut self, id: Id, peer: PeerId, conn: ConnId, now: Instant) -> Option<usize> {
        let entry = self.get_mut(id);
        let number = entry.attempts.len();
        if number == ATTEMPTS_MAX {
            return None;
        }
        entry.attempts.push(Attempt::new(peer, conn, now));
        let node = id.0 * ATTEMPTS_MAX as u32 + number as u32;
        let slot = (conn.slot - self.first_own) as usize;
        let next = std::mem::replace(&mut self.out[slot], node);
        let attempt = self.attempt_mut(node);
        (attempt.previous, attempt.next, attempt.listed) = (NONE, next, true);
        if next != NONE {
            self.attempt_mut(next).previous = node;
        }
        Some(number)
    }

    fn attempt_mut(&mut self, node: u32) -> &mut Attempt {
        let place = self.place_mut(node / ATTEMPTS_MAX as u32);
        &mut place.entry.attempts[node as usize % ATTEMPTS_MAX]
    }

    /// Nothing more will come from this attempt's connection.
    pub fn detach(&mut self, id: Id, number: usize) {
        let node = id.0 * ATTEMPTS_MAX as u32 + number as u32;
        let attempt = self.attempt_mut(node);
        if !std::mem::take(&mut attempt.listed) {
            return;
        }
        let (conn, previous, next) = (attempt.conn, attempt.previous, attempt.next);
        if previous == NONE {
            self.out[(conn.slot - self.first_own) as usize] = next;
        } else {
            self.attempt_mut(previous).next = next;
        }
        if next != NONE {
            self.attempt_mut(next).previous = previous;
        }
    }

    /// An attempt that is out on this connection.
    pub fn first_out(&self, conn: ConnId) -> Option<(Id, usize)> {
        let node = self.out[conn.slot.checked_sub(self.first_own)? as usize];
        let number = node as usize % ATTEMPTS_MAX;
        (node != NONE).then_some((Id(node / ATTEMPTS_MAX as u32), number))
    }

    /// An attempt has had its last response, or will have none.
    pub fn end_attempt(&mut self, id: Id, number: usize) {
        self.detach(id, number);
        self.get_mut(id).attempts[number].stage = Stage::Over;
    }

    pub fn set_deadline(&mut self, id: Id, at: Instant) {
        self.deadlines.set(id.0, at);
    }

    /// One whose deadline has passed. Call until `None`.
    pub fn expired(&mut self, now: Instant) -> Option<Id> {
        self.deadlines.expired(now).map(Id)
    }

    pub fn deadline(&self) -> Instant {
        self.deadlines.next()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use smallvec::SmallVec;

    use super::*;
    use crate::base::random::Random;
    use crate::config::snapshot::Transport;
    use crate::proxy::token::FlowId;
    use crate::sip::Method;

    fn source(slot: u32) -> Source {
        Source {
            flow: FlowId { worker: 0, incarnation: 1, slot, generation: 0 },
            zone: 0,
            transport: Transport::Tcp,
            peer: "198.51.100.7:40000".parse().unwrap(),
            trusted: false,
            backends: SmallVec::new(),
        }
    }

    fn key(unique: u64, slot: u32) -> Key {
        Key { unique, flow: source(slot).flow, method: Method::Invite }
    }

    /// Against the obvious reference: transactions come, go out, lose their connections and end in any order.
    #[test]
    fn what_is_live_is_found_and_nothing_else() {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let mut table = Table::new(8, Instant(0));
            table.allow(40);
            let mut live: HashMap<(u64, u32), (Id, Vec<(usize, u32)>)> = HashMap::new();
            for _ in 0..800 {
                // Few buckets and few uniques: chains are long.
                let (unique, slot) = (random.below(12) * 64, random.below(5) as u32);
                let found = table.find(&key(unique, slot));
                assert_eq!(found, live.get(&(unique, slot)).map(|it| it.0));
                let anywhere = table.find_anywhere(&key(unique, 99)).is_some();
                assert_eq!(anywhere, live.keys().any(|it| it.0 == unique));
                match (random.below(5), found) {
                    (0..2, None) => {
                        let opened =
                            table.open(key(unique, slot), &source(slot), b"x", false, Instant(0));
                        match opened {
                            Ok(id) => drop(live.insert((unique, slot), (id, Vec::new()))),
                            Err(Full) => assert_eq!(live.len(), 40),
                        }
                    }
                    (0..3, Some(id)) => {
                        let out = 8 + random.below(3) as u32;
                        let conn = ConnId { slot: out, generation: 0 };
                        let before = table.get(id).attempts.len();
                        let number = table.attach(id, PeerId(u64::from(out)), conn, Instant(0));
                        let attempts = &mut live.get_mut(&(unique, slot)).unwrap().1;
                        let all = table.get(id).attempts.len();
                        assert_eq!(number, (before < ATTEMPTS_MAX).then_some(before));
                        assert_eq!(all, (before + 1).min(ATTEMPTS_MAX));
                        attempts.extend(number.map(|number| (number, out)));
                    }
                    (3, Some(id)) => {
                        table.close(id);
                        live.remove(&(unique, slot));
                    }
                    (4, _) => {
                        let conn = ConnId { slot: 8 + random.below(3) as u32, generation: 0 };
                        while let Some((id, number)) = table.first_out(conn) {
                            table.end_attempt(id, number);
                            let (_, attempts) = live.values_mut().find(|it| it.0 == id).unwrap();
                            let before = attempts.len();
                            attempts.retain(|it| *it != (number, conn.slot));
                            assert_eq!(attempts.len() + 1, before);
                        }
                        assert!(live.values().all(|it| it.1.iter().all(|it| it.1 != conn.slot)));
                    }
                    _ => {}
                }
                assert_eq!(table.len() as usize, live.len());
                if random.one_in(100) {
                    table.allow(40 + random.below(2) as u32 * 200);
                    table.allow(40);
                }
            }
            let kept: usize = live.values().map(|(id, _)| table.get(*id).kept.len()).sum();
            assert_eq!(table.kept_bytes, kept);
            live.values().for_each(|(id, _)| table.close(*id));
            assert!(table.is_empty() && table.kept_bytes == 0);
            assert!(table.out.iter().all(|first| *first == NONE));
            assert!(table.buckets.iter().all(|first| *first == NONE));
        }
    }

    #[test]
    fn kept_requests_are_bounded_and_their_buffers_come_back() {
        let mut table = Table::new(8, Instant(0));
        table.allow(10_000);
        let big = vec![b'x'; 1024 * 1024];
        let opened: Vec<Id> = (0..)
            .map_while(|n| table.open(key(n, 0), &source(0), &big, false, Instant(0)).ok())
            .collect();
        assert_eq!(opened.len() * big.len(), limits::KEPT_REQUEST_BYTES_MAX);
        opened.into_iter().for_each(|id| table.close(id));
        assert!(table.spare.is_empty(), "large buffers are not hoarded");
        let id = table.open(key(1, 0), &source(0), b"small", false, Instant(0)).unwrap();
        table.forget_request(id);
        assert_eq!((table.spare.len(), table.kept_bytes), (1, 0));
        table.close(id);
    }
}
