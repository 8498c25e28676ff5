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
pub const RETIRED_MAX: usize = 8;

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
#[derive(Clone)]
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
#[derive(Clone)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::{NamedPlace, Transports};
    use crate::config::{self, HostFacts};
    use crate::control::resolve::exchange::Fault;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pool of one backend with an address and of these names.
    fn configured(names: &[(&str, u16, u16)]) -> (Snapshot, ResolverSettings) {
        let host = HostFacts {
            cores: vec![0],
            descriptors: 20_000,
            user: 0,
            unix_time: 1_800_000_000,
            ipv6_loopback: true,
        };
        let settled = config::load(None, &host).unwrap();
        let (mut snapshot, mut resolver) = (settled.snapshot, settled.control.resolver);
        let fixed = &mut snapshot.pools[0].backends[0];
        (fixed.name, fixed.address) = ("fixed".into(), "192.0.2.100:5060".parse().unwrap());
        let named = |(name, weight, priority): &(&str, u16, u16)| NamedBackend {
            pool: 0,
            name: (*name).into(),
            place: NamedPlace::Service { name: format!("_sip._tcp.{name}.example").into() },
            transports: Transports { tcp: true, tls: false },
            server_name: "pbx.example".into(),
            weight: *weight,
            priority: *priority,
        };
        resolver.names = names.iter().map(named).collect();
        (snapshot, resolver)
    }

    fn found(places: &[(&str, u16, f64)], ttl: u32) -> Result<Found, Lost> {
        let place = |(address, priority, share): &(&str, u16, f64)| Place {
            address: address.parse().unwrap(),
            transport: Transport::Tcp,
            priority: *priority,
            share: *share,
        };
        Ok(Found {
            places: places.iter().map(place).collect(),
            udp_only: places.is_empty(),
            ttl,
            udp_discarded: 0,
            refused: 0,
            missing: None,
        })
    }

    fn timed_out() -> Result<Found, Lost> {
        Err(Lost::Fault(Fault::Late))
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// `name address p0 w10000`, and `retired` where it is.
    fn listed(snapshot: &Snapshot) -> Vec<String> {
        let line = |it: &Backend| match it.retired {
            true => format!("{} retired", it.name),
            false => format!("{} p{} w{}", it.name, it.priority, it.weight),
        };
        snapshot.pools[0].backends.iter().map(line).collect()
    }

    #[test]
    fn answers_are_asked_again_when_they_run_out_within_bounds() {
        let (snapshot, settings) = configured(&[("r", 100, 0)]);
        let start = now();
        let mut names = Names::new(&settings, &snapshot, start);
        for (ttl, until) in [(0, 5), (60, 60), (86_400, 3600)] {
            let at = names.next().unwrap();
            let job = names.due(at).pop().unwrap();
            assert!(names.due(at).is_empty(), "one look-up at a time");
            assert_eq!(names.next(), None);
            names.take(job.key, found(&[("192.0.2.1:5060", 0, 1.0)], ttl), at);
            assert_eq!(names.next(), Some(at + until * SECOND));
        }
        assert_eq!(names.counts.answered, 3);
    }

    #[test]
    fn failures_back_off_and_keep_the_last_answer() {
        let (snapshot, settings) = configured(&[("r", 100, 0)]);
        let mut names = Names::new(&settings, &snapshot, now());
        let mut at = names.next().unwrap();
        let job = names.due(at).pop().unwrap();
        assert!(names.take(job.key, found(&[("192.0.2.1:5060", 0, 1.0)], 60), at));
        let before = listed(&names.expand(&snapshot));
        for failures in 1..=8u32 {
            at = names.next().unwrap();
            let job = names.due(at).pop().unwrap();
            assert!(!names.take(job.key, timed_out(), at), "nothing changes");
            let wait = names.next().unwrap() - at;
            let full = SECOND.saturating_mul(1 << (failures - 1)).min(30 * SECOND);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
            assert_eq!(listed(&names.expand(&snapshot)), before);
        }
        let status = names.status(at).next().unwrap();
        assert_eq!((status.state, status.failures), ("stale", 8));
        assert!(status.age.unwrap() >= 60 * SECOND);
        assert_eq!(names.counts.failed["timeout"], 8);
    }

    #[test]
    fn priorities_and_weights_of_names_and_addresses_are_one_order() {
        let (snapshot, settings) = configured(&[("r", 300, 0), ("s", 100, 1)]);
        let at = now();
        let mut names = Names::new(&settings, &snapshot, at);
        assert!(!names.all_asked() && names.any_unresolved());
        let jobs = names.due(at);
        let r = [
            ("192.0.2.1:5060", 10, 0.75),
            ("192.0.2.2:5060", 10, 0.25),
            ("192.0.2.3:5060", 20, 1.0),
        ];
        names.take(jobs[0].key, found(&r, 60), at);
        // An address that the pool has already is not dialled twice.
        let s = [("192.0.2.1:5060", 0, 0.5), ("192.0.2.4:5060", 0, 0.5)];
        names.take(jobs[1].key, found(&s, 60), at);
        assert!(names.all_asked() && !names.any_unresolved());
        assert_eq!(
            listed(&names.expand(&snapshot)),
            [
                // (priority, SRV priority): (0, 0), (0, 10), (0, 20), (1, 0).
                "fixed p0 w100",
                "r@192.0.2.1:5060 p1 w10000",
                "r@192.0.2.2:5060 p1 w3333",
                "r@192.0.2.3:5060 p2 w10000",
                "s@192.0.2.4:5060 p3 w10000",
            ]
        );
    }

    #[test]
    fn what_an_answer_leaves_out_is_retired_for_a_while_and_may_come_back() {
        let (snapshot, settings) = configured(&[("r", 100, 0)]);
        let mut at = now();
        let mut names = Names::new(&settings, &snapshot, at);
        let mut answer = |names: &mut Names, places: &[(&str, u16, f64)]| {
            at = names.next().unwrap().max(at);
            let job = names.due(at).pop().unwrap();
            (names.take(job.key, found(places, 60), at), at)
        };
        let (one, two) = (("192.0.2.1:5060", 0, 1.0), ("192.0.2.2:5060", 0, 1.0));
        assert!(answer(&mut names, &[one]).0);
        assert!(!answer(&mut names, &[one]).0, "the same answer changes nothing");
        assert!(answer(&mut names, &[two]).0);
        let kept = |names: &Names| listed(&names.expand(&snapshot))[1..].join(", ");
        assert_eq!(kept(&names), "r@192.0.2.2:5060 p0 w10000, r@192.0.2.1:5060 retired");
        assert!(answer(&mut names, &[one]).0);
        assert_eq!(kept(&names), "r@192.0.2.1:5060 p0 w10000, r@192.0.2.2:5060 retired");
        let (_, gone_at) = answer(&mut names, &[one]);
        assert!(!names.expire(gone_at));
        assert!(names.expire(gone_at + RETIRED_FOR));
        assert_eq!(kept(&names), "r@192.0.2.1:5060 p0 w10000");
        // UDP only: that is an answer, and nothing live is left of the name.
        let (changed, _) = answer(&mut names, &[]);
        assert!(changed);
        assert_eq!(kept(&names), "r@192.0.2.1:5060 retired");
        assert!(!names.expand(&snapshot).pools[0].udp_only, "a backend with an address is left");
        for number in 0..30 {
            let address = format!("198.51.100.{number}:5060");
            answer(&mut names, &[(&address, 0, 1.0)]);
        }
        assert_eq!(listed(&names.expand(&snapshot)).len(), 1 + 1 + RETIRED_MAX);
    }

    #[test]
    fn names_never_take_more_connections_than_there_are() {
        let many: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
        let many: Vec<(&str, u16, u16)> = many.iter().map(|name| (name.as_str(), 1, 0)).collect();
        let (mut snapshot, settings) = configured(&many);
        snapshot.pools[0].lanes = 3;
        let at = now();
        let mut names = Names::new(&settings, &snapshot, at);
        let mut number = 0;
        while let Some(job) = names.due(at).pop() {
            // Each of those that were under way.
            let addresses: Vec<String> =
                (0..32).map(|host| format!("10.0.{number}.{host}:5060")).collect();
            let places: Vec<_> = addresses.iter().map(|it| (it.as_str(), 0, 1.0 / 32.0)).collect();
            number += 1;
            names.take(job.key, found(&places, 60), at);
        }
        let backends = names.expand(&snapshot).pools[0].backends.len();
        assert!(backends * 3 <= DIALLED_MAX && (backends + 1) * 3 > DIALLED_MAX, "{backends}");
    }

    #[test]
    fn a_reload_keeps_what_is_known_and_forgets_look_ups_under_way() {
        let (snapshot, settings) = configured(&[("r", 100, 0), ("s", 100, 0)]);
        let at = now();
        let mut names = Names::new(&settings, &snapshot, at);
        let jobs = names.due(at);
        names.take(jobs[0].key, found(&[("192.0.2.1:5060", 0, 1.0)], 60), at);
        let (_, fewer) = configured(&[("t", 100, 0), ("r", 100, 0)]);
        names.configure(&fewer, &snapshot, at);
        assert!(!names.take(jobs[1].key, found(&[("192.0.2.9:5060", 0, 1.0)], 60), at));
        assert_eq!(
            listed(&names.expand(&snapshot)),
            ["fixed p0 w10000", "r@192.0.2.1:5060 p0 w10000"]
        );
        let asked: Vec<bool> = names.entries.iter().map(|entry| entry.asked).collect();
        assert_eq!(asked, [false, true], "only the new name is waited for");
    }
}
