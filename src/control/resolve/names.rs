//! The names of backends: what each last led to, when it is asked again, and what follows for the pools.
//! Owns the last good answers. Never asks (`locate` does), never reads the clock: every call brings the time.
//! Invariant: an answer is dropped only by a later answer, never by a failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::secret;
use super::locate::{Found, Lost, Place, Sought};
use crate::base::limits::DIALLED_MAX;
use crate::config::snapshot::{
    Backend, Family, NamedBackend, Pool, ResolverSettings, Snapshot, Transport,
};

/// Look-ups under way: the name server is shared with others.
const AT_ONCE: usize = 8;

/// After a failure the name is asked again after this, doubled for each further one,
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// up to this; half of it at random.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An address that an answer no longer holds keeps its dialogs for so long: new ones go elsewhere at once.
const RETIRED_FOR: Duration = Duration::from_secs(3600);
/// The oldest go first: a name that changes with every answer must not take up all connections.
const RETIRED_MAX: usize = 8;

/// What a share of 1 is worth as a weight: finer than any SRV weight in use, and far from the end of 16 bits.
const WEIGHT_WHOLE: f64 = 10_000.0;

/// Which look-up an outcome belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Counted up by each change of the configuration.
    epoch: u32,
    index: usize,
}

/// A look-up that is due.
#[derive(Debug)]
pub struct Job {
    pub key: Key,
    pub sought: Sought,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub answered: u64,
    /// By the reason's label.
    pub failed: BTreeMap<&'static str, u64>,
    pub udp_discarded: u64,
    pub addresses_refused: u64,
    /// Settings handed to the workers because names led elsewhere.
    pub changes: u64,
}

/// One name and what is known of it.
struct Entry {
    named: NamedBackend,
    pool: Box<str>,
    sought: Sought,
    good: Option<(Found, Instant)>,
    retired: Vec<(Place, Instant)>,
    under_way: bool,
    due: Instant,
    /// Failures since the last answer, and the last one's text.
    failures: u32,
    fault: Option<String>,
    asked: bool,
}

/// How things stand with one name, for people.
#[derive(Debug)]
pub struct NameStatus<'a> {
    pub pool: &'a str,
    pub backend: &'a str,
    pub name: String,
    pub state: &'static str,
    pub addresses: Vec<SocketAddr>,
    pub age: Option<Duration>,
    pub failures: u32,
    pub fault: Option<&'a str>,
}

/// All names of the configuration.
pub struct Names {
    settings: ResolverSettings,
    epoch: u32,
    entries: Vec<Entry>,
    pub counts: Counts,
}

impl Names {
    /// Everything is due now; nothing is known.
    pub fn new(settings: &ResolverSettings, configured: &Snapshot, now: Instant) -> Names {
        let entry = |named: &NamedBackend| {
            let pool = &configured.pools[usize::from(named.pool)];
            Entry {
                named: named.clone(),
                pool: pool.name.clone(),
                sought: sought(named, pool, settings, configured),
                good: None,
                retired: Vec::new(),
                under_way: false,
                due: now,
                failures: 0,
                fault: None,
                asked: false,
            }
        };
        Names {
            settings: settings.clone(),
            epoch: 0,
            entries: settings.names.iter().map(entry).collect(),
            counts: Counts::default(),
        }
    }

    /// The names of a new configuration; what is known of those that stay is kept, and asked again at once.
    pub fn configure(&mut self, settings: &ResolverSettings, configured: &Snapshot, now: Instant) {
        let fresh = Names::new(settings, configured, now);
        let old = std::mem::replace(self, fresh);
        self.epoch = old.epoch.wrapping_add(1);
        self.counts = old.counts;
        for known in old.entries {
            let same = |entry: &&mut Entry| {
                (&entry.pool, &entry.named.place) == (&known.pool, &known.named.place)
                    && entry.named.transports == known.named.transports
                    && entry.sought.families == known.sought.families
            };
            if let Some(entry) = self.entries.iter_mut().find(same) {
                entry.good = known.good;
                entry.retired = known.retired;
                entry.asked = known.asked;
            }
        }
    }

    pub fn settings(&self) -> &ResolverSettings {
        &self.settings
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some name never had an answer.
    pub fn any_unresolved(&self) -> bool {
        self.entries.iter().any(|entry| entry.good.is_none())
    }

    /// The look-ups that are due; each is under way from now on.
    pub fn due(&mut self, now: Instant) -> Vec<Job> {
        let epoch = self.epoch;
        let running = self.entries.iter().filter(|entry| entry.under_way).count();
        let entries = self.entries.iter_mut().enumerate();
        let due = entries.filter(|(_, entry)| !entry.under_way && entry.due <= now);
        due.take(AT_ONCE.saturating_sub(running))
            .map(|(index, entry)| {
                entry.under_way = true;
                Job { key: Key { epoch, index }, sought: entry.sought.clone() }
            })
            .collect()
    }

    /// When something is due next: a look-up, or the end of a retired address.
    pub fn next(&self) -> Option<Instant> {
        let running = self.entries.iter().filter(|entry| entry.under_way).count();
        let waiting = self.entries.iter().filter(|entry| !entry.under_way && running < AT_ONCE);
        let lookups = waiting.map(|entry| entry.due);
        let ends = self.entries.iter().flat_map(|entry| &entry.retired).map(|(_, until)| *until);
        lookups.chain(ends).min()
    }

    /// Whether each name was asked at least once.
    pub fn all_asked(&self) -> bool {
        self.entries.iter().all(|entry| entry.asked)
    }

    /// Takes away what has been retired long enough; whether there was any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for entry in &mut self.entries {
            let before = entry.retired.len();
            entry.retired.retain(|(_, until)| *until > now);
            changed |= entry.retired.len() != before;
        }
        changed
    }

    /// Takes in what a look-up came to; whether the pools change.
    pub fn take(&mut self, key: Key, outcome: Result<Found, Lost>, now: Instant) -> bool {
        if key.epoch != self.epoch {
            return false;
        }
        let (settings, counts) = (&self.settings, &mut self.counts);
        let entry = &mut self.entries[key.index];
        (entry.under_way, entry.asked) = (false, true);
        match outcome {
            Ok(found) => {
                counts.udp_discarded += u64::from(found.udp_discarded);
                counts.addresses_refused += u64::from(found.refused);
                match &found.missing {
                    Some(fault) => {
                        *counts.failed.entry(fault.name()).or_default() += 1;
                        entry.failed(fault.to_string(), now);
                        // A part of it is better than nothing, and worse than all of it an hour ago.
                        entry.good.is_none() && entry.answered(found, now)
                    }
                    None => {
                        counts.answered += 1;
                        let ttl = Duration::from_secs(u64::from(found.ttl));
                        entry.due = now + ttl.clamp(settings.ttl_min, settings.ttl_max);
                        entry.recovered();
                        entry.answered(found, now)
                    }
                }
            }
            Err(lost) => {
                *counts.failed.entry(lost.name()).or_default() += 1;
                entry.failed(lost.to_string(), now);
                false
            }
        }
    }

    /// The configured snapshot with what the names lead to.
    pub fn expand(&self, configured: &Snapshot) -> Snapshot {
        let mut snapshot = configured.clone();
        let lanes = |pool: &Pool| usize::from(pool.lanes.max(1));
        let fixed: usize = snapshot.pools.iter().map(|it| it.backends.len() * lanes(it)).sum();
        let mut room = DIALLED_MAX.saturating_sub(fixed);
        let mut left_out = 0;
        // Live addresses of all pools before retired ones of any.
        for (index, pool) in snapshot.pools.iter_mut().enumerate() {
            let entries = || self.entries.iter().filter(|it| usize::from(it.named.pool) == index);
            if entries().next().is_none() {
                continue;
            }
            let live = entries().flat_map(|entry| {
                let found = entry.good.iter().flat_map(|(found, _)| &found.places);
                found.map(move |place| (entry, place))
            });
            left_out += put_live(pool, live, &mut room);
            let udp_only = |entry: &Entry| entry.good.as_ref().is_some_and(|it| it.0.udp_only);
            pool.udp_only = pool.backends.is_empty() && entries().any(udp_only);
        }
        for entry in &self.entries {
            let pool = &mut snapshot.pools[usize::from(entry.named.pool)];
            for (place, _) in &entry.retired {
                let known = pool.backends.iter().any(|it| it.address == place.address);
                if !known && room >= lanes(pool) {
                    room -= lanes(pool);
                    pool.backends
                        .push(Backend { retired: true, ..backend(entry, place, u16::MAX) });
                }
            }
        }
        if left_out > 0 {
            tracing::warn!(left_out, "names lead to more addresses than connections are held for");
        }
        snapshot
    }

    /// How things stand, for status and metrics.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = NameStatus<'_>> {
        self.entries.iter().map(move |entry| NameStatus {
            pool: &entry.pool,
            backend: &entry.named.name,
            name: entry.named.place.text(),
            state: entry.state(),
            addresses: entry.good.iter().flat_map(|it| &it.0.places).map(|it| it.address).collect(),
            age: entry.good.as_ref().map(|(_, at)| now.saturating_duration_since(*at)),
            failures: entry.failures,
            fault: entry.fault.as_deref(),
        })
    }
}

impl Entry {
    fn state(&self) -> &'static str {
        match (&self.good, self.failures) {
            (None, 0) => "asking",
            (None, _) => "unresolved",
            (Some((found, _)), _) if found.udp_only => "udp_only",
            (Some(_), 0) => "resolved",
            (Some(_), _) => "stale",
        }
    }

    fn failed(&mut self, why: String, now: Instant) {
        let full = RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
        self.due = now + full / 2 + (full / 2).mul_f64(random_share());
        self.failures = self.failures.saturating_add(1);
        if self.fault.as_ref() != Some(&why) {
            let (pool, backend, name) = (&self.pool, &self.named.name, self.named.place.text());
            let keeps = self.good.is_some();
            tracing::warn!(%pool, %backend, name, why, keeps, "a backend's name is not resolved");
        }
        self.fault = Some(why);
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            let (pool, backend) = (&self.pool, &self.named.name);
            tracing::info!(%pool, %backend, "a backend's name is resolved again");
        }
        (self.failures, self.fault) = (0, None);
    }

    /// Puts `found` in place of what was known; whether that is something else.
    fn answered(&mut self, found: Found, now: Instant) -> bool {
        let before = self.good.take();
        let same = before
            .as_ref()
            .is_some_and(|(old, _)| old.places == found.places && old.udp_only == found.udp_only);
        if !same {
            let gone = before.into_iter().flat_map(|(old, _)| old.places);
            self.retired.extend(gone.map(|place| (place, now + RETIRED_FOR)));
            let live = |place: &Place| found.places.iter().any(|it| it.address == place.address);
            self.retired.retain(|(place, _)| !live(place));
            let surplus = self.retired.len().saturating_sub(RETIRED_MAX);
            self.retired.drain(..surplus);
            let (pool, backend, name) = (&self.pool, &self.named.name, self.named.place.text());
            match found.udp_only {
                true => tracing::warn!(
                    %pool, %backend, name,
                    "DNS offers this backend over UDP only, which is not spoken here"
                ),
                false => {
                    let addresses: Vec<_> = found.places.iter().map(|it| it.address).collect();
                    tracing::info!(%pool, %backend, name, ?addresses, "a backend's name leads to");
                }
            }
        }
        self.good = Some((found, now));
        !same
    }
}

/// Adds what is found to the pool, with priorities and weights of its own; how many had no room.
fn put_live<'e>(
    pool: &mut Pool,
    live: impl Iterator<Item = (&'e Entry, &'e Place)>,
    room: &mut usize,
) -> usize {
    let lanes = usize::from(pool.lanes.max(1));
    let mut left_out = 0;
    // Priority as written, then that of SRV; and the part of the group's requests.
    let written = pool.backends.iter().map(|it| (it.priority, 0));
    let mut parts: Vec<((u16, u16), f64)> =
        written.zip(pool.backends.iter().map(|it| f64::from(it.weight))).collect();
    let mut by_name = Vec::new();
    for (entry, place) in live {
        if pool.backends.iter().any(|it| it.address == place.address) {
            continue;
        }
        if *room < lanes {
            left_out += 1;
            continue;
        }
        *room -= lanes;
        let group = (entry.named.priority, place.priority);
        parts.push((group, f64::from(entry.named.weight) * place.share));
        by_name.push(group);
        pool.backends.push(backend(entry, place, 0));
    }
    let mut groups: Vec<(u16, u16)> = parts.iter().map(|(group, _)| *group).collect();
    groups.sort_unstable();
    groups.dedup();
    for (backend, (group, part)) in pool.backends.iter_mut().zip(&parts) {
        let rank = groups.binary_search(group).expect("every group is listed");
        backend.priority = rank as u16;
        if by_name.contains(group) {
            let of_group = parts.iter().filter(|(other, _)| other == group);
            let most = of_group.map(|(_, part)| *part).fold(0.0, f64::max);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it lies in 0..=10000"
            )]
            let weight = (part / most * WEIGHT_WHOLE).round() as u16;
            backend.weight = weight.max(1);
        }
    }
    left_out
}

/// The snapshot with one backend for each name: whether TLS can be spoken to it is known before where it is.
pub fn trial(configured: &Snapshot, settings: &ResolverSettings) -> Snapshot {
    let mut snapshot = configured.clone();
    for named in settings.names.iter().filter(|named| named.transports.tls) {
        snapshot.pools[usize::from(named.pool)].backends.push(Backend {
            name: named.name.clone(),
            transport: Transport::Tls,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            server_name: named.server_name.clone(),
            weight: 1,
            priority: 0,
            retired: false,
        });
    }
    snapshot
}

/// The label of an address in metrics and status is made of the configured name and the address.
fn backend(entry: &Entry, place: &Place, priority: u16) -> Backend {
    Backend {
        name: format!("{}@{}", entry.named.name, place.address).into(),
        transport: place.transport,
        address: place.address,
        server_name: entry.named.server_name.clone(),
        weight: 1,
        priority,
        retired: false,
    }
}

fn sought(
    named: &NamedBackend,
    pool: &Pool,
    settings: &ResolverSettings,
    configured: &Snapshot,
) -> Sought {
    let zone = &configured.zones[usize::from(pool.zone)];
    let families = [Transport::Tcp, Transport::Tls].map(|transport| {
        [Family::V4, Family::V6].map(|it| zone.advertised.of(transport, it).is_some())
    });
    Sought {
        place: named.place.clone(),
        transports: named.transports,
        families,
        allow_answers: settings.allow_answers.clone(),
        own: configured.listeners.iter().map(|listener| listener.bind).collect(),
    }
}

/// In 0..1.
fn random_share() -> f64 {
    let mut bytes = [0; 4];
    secret::random(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
