//! Mailboxes: one bounded queue for each ordered pair of workers, and the flag that says who sleeps.
//! Owns the envelopes on their way. Never blocks, never wakes by itself: the turn submits the wake.
//! Invariant: an envelope posted to a worker that sleeps is followed by a wake of that worker, because
//! a worker publishes that it sleeps before it looks into its mailboxes for the last time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::base::limits;

/// A flag on a cache line of its own: every sender reads it once for each batch.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Sleeping(AtomicBool);

/// One worker's ends of the mailboxes: a sender to and a receiver from every other worker.
#[derive(Debug)]
pub struct Mailboxes<E> {
    own: u16,
    outgoing: Vec<Option<Producer<E>>>,
    incoming: Vec<Option<Consumer<E>>>,
    sleeping: Arc<[Sleeping]>,
    posted: Vec<bool>,
    /// Workers posted to since the last wake, each once.
    to_wake: Vec<u16>,
    /// The mailbox that is emptied first in the next turn, so that none is always last.
    first: usize,
}

/// Mailboxes of `depth` envelopes between `workers` workers, one set for each.
pub fn mailboxes<E>(workers: u16, depth: usize) -> Vec<Mailboxes<E>> {
    assert!(workers > 0 && workers <= limits::WORKERS_MAX);
    let count = usize::from(workers);
    let sleeping: Arc<[Sleeping]> = (0..count).map(|_| Sleeping::default()).collect();
    let mut sets: Vec<Mailboxes<E>> = (0..workers)
        .map(|own| Mailboxes {
            own,
            outgoing: (0..count).map(|_| None).collect(),
            incoming: (0..count).map(|_| None).collect(),
            sleeping: sleeping.clone(),
            posted: vec![false; count],
            to_wake: Vec::with_capacity(count),
            first: 0,
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(depth);
            sets[from].outgoing[to] = Some(producer);
            sets[to].incoming[from] = Some(consumer);
        }
    }
    sets
}

impl<E> Mailboxes<E> {
    /// The worker that these ends belong to.
    pub fn own(&self) -> u16 {
        self.own
    }

    pub fn workers(&self) -> u16 {
        self.sleeping.len() as u16
    }

    /// Puts an envelope into another worker's mailbox; it comes back when that mailbox is full.
    pub fn post(&mut self, worker: u16, envelope: E) -> Result<(), E> {
        let index = usize::from(worker);
        let producer = self.outgoing[index].as_mut().expect("no mailbox to oneself");
        if let Err(PushError::Full(envelope)) = producer.push(envelope) {
            return Err(envelope);
        }
        if !self.posted[index] {
            self.posted[index] = true;
            self.to_wake.push(worker);
        }
        Ok(())
    }

    /// The next worker that was posted to and says that it sleeps. Call until `None` after a batch
    /// of posts: one wake for each batch.
    pub fn next_to_wake(&mut self) -> Option<u16> {
        if self.to_wake.is_empty() {
            return None;
        }
        // Pairs with the fence in `prepare_sleep`: either the sleeper sees the envelope or we see
        // the sleeper.
        fence(Ordering::SeqCst);
        while let Some(worker) = self.to_wake.pop() {
            let index = usize::from(worker);
            self.posted[index] = false;
            if self.sleeping[index].0.load(Ordering::Relaxed) {
                return Some(worker);
            }
        }
        None
    }

    /// Hands `deliver` what has arrived, at most `per_mailbox` envelopes of each sender.
    pub fn take(&mut self, per_mailbox: u32, mut deliver: impl FnMut(E)) {
        let count = self.incoming.len();
        for step in 0..count {
            let Some(consumer) = self.incoming[(self.first + step) % count].as_mut() else {
                continue;
            };
            for _ in 0..per_mailbox {
                let Ok(envelope) = consumer.pop() else { break };
                deliver(envelope);
            }
        }
        self.first = (self.first + 1) % count;
    }

    /// Publishes that this worker is about to sleep. False when mail is there already: then it must
    /// not sleep. (glommio's protocol: publish, full fence, look again, sleep.)
    pub fn prepare_sleep(&self) -> bool {
        let sleeping = &self.sleeping[usize::from(self.own)].0;
        sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.is_empty()
    }

    /// This worker is awake: nobody needs to wake it.
    pub fn awake(&self) {
        self.sleeping[usize::from(self.own)].0.store(false, Ordering::Relaxed);
    }

    /// True when no mailbox of this worker holds an envelope.
    pub fn is_empty(&self) -> bool {
        self.incoming.iter().flatten().all(Consumer::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_envelope_back() {
        let mut sets = mailboxes::<u32>(2, 2);
        assert_eq!(sets[0].post(1, 10), Ok(()));
        assert_eq!(sets[0].post(1, 11), Ok(()));
        assert_eq!(sets[0].post(1, 12), Err(12));
        let mut seen = Vec::new();
        sets[1].take(1, |envelope| seen.push(envelope));
        assert_eq!(seen, [10]);
        assert_eq!(sets[0].post(1, 12), Ok(()));
        sets[1].take(8, |envelope| seen.push(envelope));
        assert_eq!(seen, [10, 11, 12]);
    }

    #[test]
    fn only_a_sleeper_is_woken_and_once_for_each_batch() {
        let mut sets = mailboxes::<u32>(3, 8);
        assert!(sets[1].prepare_sleep());
        sets[0].post(1, 1).unwrap();
        sets[0].post(1, 2).unwrap();
        sets[0].post(2, 3).unwrap();
        assert_eq!(sets[0].next_to_wake(), Some(1));
        assert_eq!(sets[0].next_to_wake(), None);
        assert!(!sets[1].prepare_sleep());
        sets[1].awake();
        sets[0].post(1, 4).unwrap();
        assert_eq!(sets[0].next_to_wake(), None);
    }

    /// Two threads, a sleeper that really blocks: a lost wake would hang the test.
    #[test]
    fn no_wake_is_lost() {
        const ENVELOPES: u32 = 20_000;
        let mut sets = mailboxes::<u32>(2, 4);
        let mut receiver = sets.pop().unwrap();
        let mut sender = sets.pop().unwrap();
        let (wake, woken) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut expected = 0;
            while expected < ENVELOPES {
                if receiver.prepare_sleep() {
                    woken.recv().unwrap();
                }
                receiver.awake();
                receiver.take(256, |envelope| {
                    assert_eq!(envelope, expected);
                    expected += 1;
                });
            }
        });
        for envelope in 0..ENVELOPES {
            let mut waiting = envelope;
            while let Err(back) = sender.post(1, waiting) {
                waiting = back;
                std::thread::yield_now();
            }
            while sender.next_to_wake().is_some() {
                wake.send(()).ok();
            }
        }
        thread.join().unwrap();
    }
}
