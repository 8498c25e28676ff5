//! Pools, backends and the persistent connections to them (links): choice by hash, lanes, reconnection with back-off.
//! Owns the state of this worker's links and what it knows of each backend. Never resolves a name, never knows dialogs.
//! Invariant: a link names at most one connection, and that connection names the link.
//!
//! The choice is weighted rendezvous hashing (Thaler, Ravishankar 1998) with a fixed key: the same on every worker and
//! node, and a backend that comes or goes moves only its own share.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::base::machine::ConnId;
use crate::base::random::Random;
use crate::base::time::{Duration, Instant};
use crate::telemetry::counter::HealthEvent;

use super::BackendGauge;
use super::health::{PROBE_REFUSED, PROBES_ANSWERED, Probes};
use super::settings::{Order, Settings};
use super::token::PeerId;

/// The first wait after a failed connect; doubled for each further one up to `BACKOFF_MAX`, half of it at random.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A link that was up for so long is dialled again at once when it is lost; one that does not hold backs off.
const STEADY: Duration = Duration::from_secs(1);
/// A backend that comes back takes on its share in so many steps, so that workers differ at the edges of a step only.
const RAMP_STEPS: u64 = 10;
/// Changes of state kept between two reports; what is beyond is counted and not told one by one.
const CHANGES_MAX: usize = 64;
/// Reasons of a standing that are no cause of a closed connection.
const STARTING: &str = "starting";
pub const OPERATOR: &str = "operator";
pub const CONNECTED: &str = "connected";
/// Connected, and answers are still wanted.
const PROVING: &str = "proving";
/// What a weight of 0 counts as: a very small chance beside others (RFC 2782).
const WEIGHT_NONE: f64 = 0.01;

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
    /// Times in a row that it was up and did not hold: who refuses our certificate does so after TLS 1.3 has let us in.
    short_lives: u32,
    up_since: Instant,
    pub probes: Probes,
    /// It was given up though its connection stood: it has to prove itself.
    suspect: bool,
}

/// How a backend stands with this worker.
#[derive(Clone, Debug)]
pub struct Standing {
    peer: PeerId,
    /// Whether it takes requests.
    pub up: bool,
    /// When that changed last, and why: words from closed sets.
    pub since: Instant,
    pub reason: &'static str,
    /// It has come back at that time and takes on its share bit by bit; `None`: it had it from the start.
    ramp_from: Option<Instant>,
    /// It was away: when it comes up, it ramps.
    away: bool,
}

/// A backend that has come up or gone down, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub backend: usize,
    pub up: bool,
    pub reason: &'static str,
}

/// The links of one worker, `lanes` for each backend, in order of the backends.
#[derive(Default)]
pub struct Upstream {
    links: Vec<Link>,
    /// First link of each backend; one more at the end.
    first: Vec<u32>,
    standings: Vec<Standing>,
    changes: Vec<Change>,
    /// Backends that are new from now on come into a running set.
    running: bool,
}

impl Upstream {
    /// The links for these settings. Links of backends that stay keep their state; connections of those that went are
    /// returned to be closed. A backend that the operator has taken down has no link.
    pub fn configure(&mut self, settings: &Settings, now: Instant) -> Vec<ConnId> {
        let mut old = std::mem::take(&mut self.links);
        let mut known = std::mem::take(&mut self.standings);
        self.first.clear();
        for (place, order) in settings.backends().iter().zip(&settings.orders) {
            self.first.push(self.links.len() as u32);
            let lanes = match order {
                Order::Down => 0,
                Order::Up | Order::Drain => {
                    settings.snapshot.pools[usize::from(place.pool)].lanes.max(1)
                }
            };
            for _ in 0..lanes {
                let mut link = match old.iter().position(|link| link.peer == place.peer) {
                    Some(at) => old.remove(at),
                    None => Link::new(place.peer),
                };
                if settings.snapshot.pools[usize::from(place.pool)].health.is_none() {
                    (link.probes, link.suspect) = (Probes::NONE, false);
                }
                self.links.push(link);
            }
            self.standings.push(match known.iter().position(|it| it.peer == place.peer) {
                Some(at) => known.swap_remove(at),
                None => Standing {
                    peer: place.peer,
                    up: false,
                    since: now,
                    reason: STARTING,
                    ramp_from: None,
                    away: self.running,
                },
            });
        }
        self.first.push(self.links.len() as u32);
        self.running = true;
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

    fn lanes(&self, backend: usize) -> &[Link] {
        &self.links[self.first[backend] as usize..self.first[backend + 1] as usize]
    }

    /// A connection that takes requests for this backend: an established one before one that is being made. `lane`
    /// picks the lane, so that a dialog stays on it.
    pub fn usable(&self, backend: usize, lane: u64) -> Option<ConnId> {
        self.ready(backend, lane)
            .or_else(|| self.pick(backend, lane, Link::established))
            .or_else(|| self.pick(backend, lane, Link::returning))
    }

    /// One that is established, or being made for the first time.
    fn ready(&self, backend: usize, lane: u64) -> Option<ConnId> {
        self.pick(backend, lane, Link::up).or_else(|| self.pick(backend, lane, Link::hopeful))
    }

    fn pick(
        &self,
        backend: usize,
        lane: u64,
        of: impl Fn(&Link) -> Option<ConnId>,
    ) -> Option<ConnId> {
        let lanes = self.lanes(backend);
        let start = lane as usize % lanes.len().max(1);
        lanes[start..].iter().chain(&lanes[..start]).find_map(of)
    }

    /// Whether the backend takes requests: a lane of it is established.
    pub fn is_up(&self, backend: usize) -> bool {
        self.standings[backend].up
    }

    /// How the backend stands, for a report.
    pub fn gauge(&self, backend: usize, now: Instant, slow_start: Duration) -> BackendGauge {
        let lanes = self.lanes(backend);
        let standing = &self.standings[backend];
        BackendGauge {
            up: standing.up,
            reason: standing.reason,
            since: now.since(standing.since),
            lanes_up: lanes.iter().filter(|link| link.up().is_some()).count() as u32,
            lanes: lanes.len() as u32,
            ramp: (standing.ramp(now, slow_start) * 100.0) as u8,
        }
    }

    /// Changes of state since they were last taken.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The backend of a pool for this key: among those that have a ready link, the best priority group first; where
    /// there is none, among those that are being dialled again. `lane` picks the lane of the backend; those that were
    /// `tried` are left out.
    pub fn choose(
        &self,
        settings: &Settings,
        pool: u16,
        (key, lane): (u64, u64),
        tried: &[PeerId],
        now: Instant,
    ) -> Option<(usize, ConnId)> {
        let untried = |backend: usize| !tried.contains(&settings.backends()[backend].peer);
        let ready = |backend| self.ready(backend, lane).filter(|_| untried(backend));
        self.best(settings, pool, key, now, ready).or_else(|| {
            let returning = |backend| self.pick(backend, lane, Link::returning);
            self.best(settings, pool, key, now, |it| returning(it).filter(|_| untried(it)))
        })
    }

    fn best(
        &self,
        settings: &Settings,
        pool: u16,
        key: u64,
        now: Instant,
        usable: impl Fn(usize) -> Option<ConnId>,
    ) -> Option<(usize, ConnId)> {
        let first = settings.first_backend(pool);
        let settled = &settings.snapshot.pools[usize::from(pool)];
        let mut best: Option<(u16, f64, usize, ConnId)> = None;
        for (index, backend) in settled.backends.iter().enumerate() {
            let number = first + index;
            if settings.orders[number] != Order::Up {
                continue;
            }
            let Some(conn) = usable(number) else { continue };
            let ramp = self.standings[number].ramp(now, settled.slow_start);
            let score = score(key, settings.backends()[number].peer, backend.weight) / ramp;
            let better = best
                .is_none_or(|(priority, least, ..)| (backend.priority, score) < (priority, least));
            if better {
                best = Some((backend.priority, score, number, conn));
            }
        }
        best.map(|(_, _, number, conn)| (number, conn))
    }

    /// Looks again whether the backend takes requests. `reason` is why, if that has changed; the event is the caller's
    /// to count.
    pub fn judge(
        &mut self,
        backend: usize,
        now: Instant,
        reason: &'static str,
    ) -> Option<HealthEvent> {
        let lanes = self.lanes(backend);
        let up = lanes.iter().any(|link| link.up().is_some());
        let ordered = reason == OPERATOR && lanes.is_empty();
        let standing = &mut self.standings[backend];
        standing.away |= ordered || (!up && reason == PROBE_REFUSED);
        if standing.up == up {
            // Who is down says why it still is; every backend is looked at when the configuration changes.
            if !up && (ordered || reason != OPERATOR) {
                let good = matches!(reason, CONNECTED | PROBES_ANSWERED);
                standing.reason = if good { PROVING } else { reason };
            }
            return None;
        }
        if up && std::mem::take(&mut standing.away) {
            standing.ramp_from = Some(now);
        }
        (standing.up, standing.since, standing.reason) = (up, now, reason);
        if self.changes.len() < CHANGES_MAX {
            self.changes.push(Change { backend, up, reason });
        }
        Some(if up { HealthEvent::WentUp } else { HealthEvent::WentDown })
    }

    pub fn set_probes(&mut self, link: u32, probes: Probes) {
        let link = &mut self.links[link as usize];
        link.probes = probes;
        if probes.wanted == 0 {
            link.failures = 0;
            link.suspect = false;
        }
    }

    /// The link does not hold what its connection promises.
    pub fn suspect(&mut self, link: u32) {
        self.links[link as usize].suspect = true;
    }

    /// A connect has succeeded. A backend whose link was lost and made again at once goes on as it was; any other that
    /// comes up ramps.
    /// A link that has failed has to be answered for `rise` times first.
    pub fn came_up(&mut self, link: u32, conn: ConnId, now: Instant, rise: u8) {
        let backend = self.backend(link);
        let standing = &mut self.standings[backend];
        let link = &mut self.links[link as usize];
        let failed = link.suspect || link.failures > 1;
        standing.away |= failed;
        link.state = LinkState::Up { conn };
        link.up_since = now;
        let wanted = if failed { rise } else { 0 };
        link.probes = Probes::begun(wanted, now);
        if wanted == 0 {
            link.failures = 0;
        }
    }

    /// A connect has failed or a link was lost: when to try again.
    pub fn back_off(&mut self, link: u32, now: Instant, random: &mut Random) -> Instant {
        let link = &mut self.links[link as usize];
        let held = now.since(link.up_since) >= STEADY;
        let steady = link.up().is_some() && !link.suspect && held;
        let doublings = link.failures.saturating_add(link.short_lives).min(10);
        let full = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        let half = full.as_nanos() as u64 / 2;
        if link.established().is_some() {
            link.short_lives = if held { 0 } else { link.short_lives.saturating_add(1) };
        }
        let retry_at = match steady {
            true => now,
            false => now + Duration::from_nanos(half + random.below(half + 1)),
        };
        link.failures = link.failures.saturating_add(1);
        link.state = LinkState::Down { retry_at };
        retry_at
    }
}

impl Link {
    fn new(peer: PeerId) -> Self {
        let state = LinkState::Down { retry_at: Instant(0) };
        Link {
            peer,
            state,
            failures: 0,
            short_lives: 0,
            up_since: Instant(0),
            probes: Probes::NONE,
            suspect: false,
        }
    }

    /// Established, and it takes new requests.
    fn up(&self) -> Option<ConnId> {
        self.established().filter(|_| self.probes.wanted == 0)
    }

    fn established(&self) -> Option<ConnId> {
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

    /// Being made again, and nothing has failed since it was up.
    fn returning(&self) -> Option<ConnId> {
        match self.state {
            LinkState::Dialling { conn } if self.failures <= 1 && !self.suspect => Some(conn),
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

impl Standing {
    /// The part of its weight that it has by now, in (0, 1].
    pub fn ramp(&self, now: Instant, slow_start: Duration) -> f64 {
        match self.ramp_from {
            Some(from) if !slow_start.is_zero() => {
                let gone = u128::from(now.nanos_since(from)) * u128::from(RAMP_STEPS);
                let steps = (gone / slow_start.as_nanos()) as u64 + 1;
                steps.min(RAMP_STEPS) as f64 / RAMP_STEPS as f64
            }
            _ => 1.0,
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
    let weight = if weight == 0 { WEIGHT_NONE } else { f64::from(weight) };
    -uniform.ln() / weight
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
