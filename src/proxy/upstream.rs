//! Pools, backends and the persistent connections to them (links): choice by hash, reconnection with back-off.
//! Owns the state of this worker's links. Never resolves a name, never knows dialogs.
//! Invariant: a link names at most one connection, and that connection names the link.
//!
//! The choice is weighted rendezvous hashing (Thaler, Ravishankar 1998) with a fixed key: the same on every worker and
//! node, and a backend that comes or goes moves only its own share.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::base::machine::ConnId;
use crate::base::random::Random;
use crate::base::time::{Duration, Instant};

use super::settings::Settings;
use super::token::PeerId;

/// The first wait after a failed connect; doubled for each further one up to `BACKOFF_MAX`, half of it at random.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Dialled again at this time.
    Down {
        retry_at: Instant,
    },
    Dialling {
        conn: ConnId,
    },
    Up {
        conn: ConnId,
    },
}

#[derive(Clone, Debug)]
pub struct Link {
    pub peer: PeerId,
    pub state: LinkState,
    /// Failures since it was last up.
    pub failures: u32,
}

/// The links of one worker, `lanes` for each backend, in order of the backends.
#[derive(Default)]
pub struct Upstream {
    links: Vec<Link>,
    /// First link of each backend; one more at the end.
    first: Vec<u32>,
}

impl Upstream {
    /// The links for these settings. Links of backends that stay keep their state; connections of those that went are
    /// returned to be closed.
    pub fn configure(&mut self, settings: &Settings) -> Vec<ConnId> {
        let mut old = std::mem::take(&mut self.links);
        self.first.clear();
        for place in settings.backends() {
            self.first.push(self.links.len() as u32);
            for _ in 0..settings.snapshot.pools[usize::from(place.pool)].lanes.max(1) {
                let link = match old.iter().position(|link| link.peer == place.peer) {
                    Some(at) => old.remove(at),
                    None => {
                        let state = LinkState::Down { retry_at: Instant(0) };
                        Link { peer: place.peer, state, failures: 0 }
                    }
                };
                self.links.push(link);
            }
        }
        self.first.push(self.links.len() as u32);
        old.iter().filter_map(|link| link.conn()).collect()
    }

    pub fn len(&self) -> u32 {
        self.links.len() as u32
    }

    pub fn link(&self, link: u32) -> &Link {
        &self.links[link as usize]
    }

    pub fn link_mut(&mut self, link: u32) -> Option<&mut Link> {
        self.links.get_mut(link as usize)
    }

    /// The backend that a link belongs to.
    pub fn backend(&self, link: u32) -> usize {
        self.first.partition_point(|first| *first <= link) - 1
    }

    /// A connection that takes requests for this backend: an established one before one that is still being made for
    /// the first time. `hash` picks the lane, so that a dialog stays on it.
    pub fn usable(&self, backend: usize, hash: u64) -> Option<ConnId> {
        let lanes = &self.links[self.first[backend] as usize..self.first[backend + 1] as usize];
        let start = hash as usize % lanes.len();
        let in_order = || lanes[start..].iter().chain(&lanes[..start]);
        in_order().find_map(Link::up).or_else(|| in_order().find_map(Link::hopeful))
    }

    /// Whether any lane of the backend is established.
    pub fn is_up(&self, backend: usize) -> bool {
        let range = self.first[backend] as usize..self.first[backend + 1] as usize;
        self.links[range].iter().any(|link| link.up().is_some())
    }

    /// The backend of a pool for this key, among those that have a usable link: the best priority group first.
    pub fn choose(&self, settings: &Settings, pool: u16, key: u64) -> Option<(usize, ConnId)> {
        let first = settings.first_backend(pool);
        let backends = &settings.snapshot.pools[usize::from(pool)].backends;
        let mut best: Option<(u16, f64, usize, ConnId)> = None;
        for (index, backend) in backends.iter().enumerate() {
            if backend.weight == 0 {
                continue;
            }
            let number = first + index;
            let Some(conn) = self.usable(number, key) else { continue };
            let score = score(key, settings.backends()[number].peer, backend.weight);
            let better = best
                .is_none_or(|(priority, least, ..)| (backend.priority, score) < (priority, least));
            if better {
                best = Some((backend.priority, score, number, conn));
            }
        }
        best.map(|(_, _, number, conn)| (number, conn))
    }

    /// A connect has failed or a link was lost: when to try again.
    pub fn back_off(&mut self, link: u32, now: Instant, random: &mut Random) -> Instant {
        let link = &mut self.links[link as usize];
        let full = BACKOFF_FIRST.saturating_mul(1 << link.failures.min(10)).min(BACKOFF_MAX);
        let half = full.as_nanos() as u64 / 2;
        let retry_at = now + Duration::from_nanos(half + random.below(half + 1));
        link.failures = link.failures.saturating_add(1);
        link.state = LinkState::Down { retry_at };
        retry_at
    }
}

impl Link {
    fn up(&self) -> Option<ConnId> {
        match self.state {
            LinkState::Up { conn } => Some(conn),
            _ => None,
        }
    }

    /// Being made for the first time: requests may wait in its outbox.
    fn hopeful(&self) -> Option<ConnId> {
        match self.state {
            LinkState::Dialling { conn } if self.failures == 0 => Some(conn),
            _ => None,
        }
    }

    pub fn conn(&self) -> Option<ConnId> {
        match self.state {
            LinkState::Up { conn } | LinkState::Dialling { conn } => Some(conn),
            LinkState::Down { .. } => None,
        }
    }
}

/// The hash that a pool chooses by: keyed by a constant, so that every node of a fleet chooses alike.
pub fn affinity_hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7269_6e67_6672_6f6e, 0x6166_6669_6e69_7479);
    hasher.write(bytes);
    hasher.finish()
}

/// Weighted rendezvous: the least of -ln(uniform)/weight wins with probability weight/sum.
fn score(key: u64, peer: PeerId, weight: u16) -> f64 {
    let mut mixed = Random::new(key ^ peer.0.rotate_left(32));
    // 53 bits make a uniform number in (0, 1].
    let uniform = ((mixed.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3263-4.4-a
    #[test]
    fn shares_follow_the_weights_and_only_the_lost_share_moves() {
        let peers = [PeerId(11), PeerId(23), PeerId(37)];
        let weights = [100, 200, 100];
        let choose = |key: u64, without: Option<usize>| {
            (0..3)
                .filter(|index| Some(*index) != without)
                .min_by(|a, b| {
                    score(key, peers[*a], weights[*a]).total_cmp(&score(
                        key,
                        peers[*b],
                        weights[*b],
                    ))
                })
                .unwrap()
        };
        let mut shares = [0; 3];
        for call in 0..40_000u64 {
            let key = affinity_hash(&call.to_be_bytes());
            let all = choose(key, None);
            shares[all] += 1;
            let fewer = choose(key, Some(1));
            assert!(all == 1 || all == fewer);
        }
        for (share, expected) in shares.into_iter().zip([10_000i32, 20_000, 10_000]) {
            let share: i32 = share;
            assert!((share - expected).abs() < 400, "{shares:?}");
        }
    }
}
