//! Pools, lanes and what an operator orders of a backend.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::random::Random;
use crate::telemetry::counter::{HealthEvent, Refused};
use settings::Order;

pub const B1: &str = "10.0.0.1:5080";
pub const B2: &str = "10.0.0.2:5080";

/// A pool of so many backends, each with weight and priority.
pub fn pool_of(backends: &[(u16, u16)]) -> Snapshot {
    let mut snapshot = snapshot();
    let first = snapshot.pools[0].backends[0].clone();
    snapshot.pools[0].backends = backends
        .iter()
        .enumerate()
        .map(|(index, (weight, priority))| Backend {
            name: format!("b{index}").into(),
            address: format!("10.0.0.{}:5080", index + 1).parse().unwrap(),
            weight: *weight,
            priority: *priority,
            ..first.clone()
        })
        .collect();
    snapshot
}

impl Bench {
    /// Gives all workers settings that differ from the present ones.
    pub fn reconfigure(&mut self, change: impl FnOnce(Settings) -> Settings) {
        let settings = Arc::new(change(Settings::clone(&self.workers[0].settings)));
        for worker in &mut self.workers {
            worker.configure(self.now, Arc::clone(&settings));
        }
        self.settle();
    }

    fn order(&mut self, backend: &str, order: Order) {
        self.reconfigure(|settings| {
            settings.with_orders(|_, name| if name == backend { order } else { Order::Up })
        });
    }

    /// What the pool chooses for a key, on one worker.
    fn chosen(&self, worker: usize, key: u64) -> Option<usize> {
        let proxy = &self.workers[worker];
        let chosen = proxy.core.upstream.choose(&proxy.settings, 0, (key, key), &[], self.now);
        chosen.map(|(backend, _)| backend)
    }

    pub fn gauge(&mut self, backend: usize) -> BackendGauge {
        self.workers[0].report(self.now, Report::new(2, 2)).gauges.backends[backend].clone()
    }
}

fn keys(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|call| upstream::affinity_hash(&call.to_be_bytes()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn workers_and_nodes_choose_alike_and_only_the_lost_share_moves(
        backends in proptest::collection::vec((1u16..300, 0u16..2), 1..6),
        lost in 0usize..6,
        seed in any::<u64>(),
    ) {
        let lost = lost % backends.len();
        let whole = Bench::with(2, pool_of(&backends));
        // The same backends in another order, as another node's file may have them.
        let mut shuffled = pool_of(&backends);
        let mut random = Random::new(seed);
        for at in (1..backends.len()).rev() {
            shuffled.pools[0].backends.swap(at, random.below(at as u64 + 1) as usize);
        }
        let names: Vec<Box<str>> =
            shuffled.pools[0].backends.iter().map(|backend| backend.name.clone()).collect();
        let other = Bench::with(1, shuffled);
        let mut fewer = Bench::with(1, pool_of(&backends));
        fewer.order(&format!("b{lost}"), Order::Down);
        for key in keys(300) {
            let chosen = whole.chosen(0, key);
            prop_assert_eq!(chosen, whole.chosen(1, key));
            prop_assert_eq!(
                chosen.map(|it| format!("b{it}")),
                other.chosen(0, key).map(|it| names[it].to_string())
            );
            let best = backends.iter().map(|(_, priority)| *priority).min();
            prop_assert_eq!(chosen.map(|it| backends[it].1), best);
            if chosen != Some(lost) {
                prop_assert_eq!(chosen, fewer.chosen(0, key), "a share moved that was not lost");
            }
        }
    }
}

#[test]
fn shares_follow_the_weights() {
    let bench = Bench::with(1, pool_of(&[(100, 0), (200, 0), (0, 0), (900, 1)]));
    let mut shares = BTreeMap::new();
    keys(30_000).for_each(|key| *shares.entry(bench.chosen(0, key).unwrap()).or_insert(0i32) += 1);
    assert!((shares[&0] - 10_000).abs() < 400 && (shares[&1] - 20_000).abs() < 400, "{shares:?}");
    assert!((1..20).contains(&shares.get(&2).copied().unwrap_or(0)), "{shares:?}");
    assert_eq!(shares.get(&3), None, "a later priority group is for when the first is gone");
}

#[test]
fn a_later_priority_group_serves_when_the_first_is_gone() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0), (100, 1)]));
    assert!(keys(50).all(|key| bench.chosen(0, key) == Some(0)));
    bench.dead.push(B1.parse().unwrap());
    bench.hang_up(bench.link(0, B1));
    assert!(keys(50).all(|key| bench.chosen(0, key) == Some(1)));
    bench.dead.clear();
    bench.pass(Duration::from_secs(1));
    assert!(keys(50).all(|key| bench.chosen(0, key) == Some(0)));
}

#[test]
fn a_backend_that_comes_back_takes_on_its_share_bit_by_bit() {
    let mut snapshot = pool_of(&[(100, 0), (100, 0)]);
    snapshot.pools[0].slow_start = Duration::from_secs(10);
    let mut bench = Bench::with(1, snapshot);
    let share = |bench: &Bench| keys(4000).filter(|key| bench.chosen(0, *key) == Some(1)).count();
    assert!(share(&bench).abs_diff(2000) < 150, "nobody has come back yet");
    bench.pass(Duration::from_secs(2));
    bench.hang_up(bench.link(0, B2));
    assert!(bench.workers[0].core.upstream.is_up(1), "a link that held is dialled again at once");
    assert!(share(&bench).abs_diff(2000) < 150, "and goes on as it was");
    bench.dead.push(B2.parse().unwrap());
    bench.hang_up(bench.link(0, B2));
    assert_eq!(share(&bench), 0);
    bench.pass(Duration::from_millis(150));
    bench.dead.clear();
    bench.pass(Duration::from_millis(300));
    let mut before = 0;
    let whole: Vec<u64> = keys(4000).collect();
    let mut moved: Vec<u64> = Vec::new();
    for second in 0..10 {
        let now = share(&bench);
        // 1/(1 + 10/steps) of all.
        let expected = 4000 * (second + 1) / (second + 11);
        assert!(now > before && now.abs_diff(expected) < 150, "second {second}: {now}");
        assert!(moved.iter().all(|key| bench.chosen(0, *key) == Some(1)), "a key moved back");
        moved = whole.iter().copied().filter(|key| bench.chosen(0, *key) == Some(1)).collect();
        before = now;
        assert_eq!(bench.gauge(1).ramp as usize, (second + 1) * 10);
        bench.pass(Duration::from_secs(1));
    }
}

#[test]
fn a_drained_backend_keeps_its_dialogs_and_gets_nothing_new() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0), (100, 0)]));
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "pd1", ""));
    let (backend, invite) = bench.at_backend();
    let name = if backend == bench.link(0, B1) { "b0" } else { "b1" };
    bench.order(name, Order::Drain);
    assert!(bench.closed.is_empty());
    for call in 0..20 {
        bench.send(client, &request("OPTIONS", "sip:bob@example.com", &format!("pd2{call}"), ""));
    }
    assert_eq!(bench.take(backend), "");
    bench.send(client, &request("CANCEL", "sip:bob@example.com", "pd1", ""));
    assert!(bench.take(backend).starts_with("CANCEL"));
    let routes = header(&invite, "Record-Route");
    let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
    bench.send(client, &request("BYE", "sip:bob@10.0.0.1", "pd1", &route));
    assert!(bench.take(backend).starts_with("BYE"));

    // Both drained: nobody is left, and the probe of a load balancer hears it.
    bench.reconfigure(|settings| settings.with_orders(|_, _| Order::Drain));
    bench.take(client);
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "pd3", ""));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    bench.send(client, &request("OPTIONS", "sip:edge.example.com", "pd4", ""));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
}

#[test]
fn a_backend_taken_down_loses_its_connections_and_comes_back_by_order() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0)]));
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "pe1", ""));
    let (backend, invite) = bench.at_backend();
    bench.order("b0", Order::Down);
    assert_eq!(bench.closed, [backend]);
    assert_eq!((bench.gauge(0).up, bench.gauge(0).reason), (false, "operator"));
    let routes = header(&invite, "Record-Route");
    let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
    bench.send(client, &request("BYE", "sip:bob@10.0.0.1", "pe1", &route));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    assert_eq!(bench.refused(Refused::BackendGone), 1);
    bench.pass(Duration::from_secs(60));
    assert!(bench.gauge(0).lanes == 0);
    bench.order("b0", Order::Up);
    assert_eq!((bench.gauge(0).up, bench.gauge(0).reason), (true, "connected"));
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "pe2", ""));
    assert!(bench.take(bench.link(0, B1)).starts_with("OPTIONS"));
}

#[test]
fn changes_of_state_are_told_and_counted_with_their_reason() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0)]));
    let changes = |bench: &mut Bench| {
        let report = bench.workers[0].report(bench.now, Report::new(2, 1));
        let changes = report.gauges.changes.iter().map(|it| (it.up, it.reason)).collect::<Vec<_>>();
        let counts = report.counters.health[0];
        (changes, counts[HealthEvent::WentUp as usize], counts[HealthEvent::WentDown as usize])
    };
    assert_eq!(changes(&mut bench), (vec![(true, "connected")], 1, 0));
    bench.dead.push(B1.parse().unwrap());
    bench.hang_up(bench.link(0, B1));
    assert_eq!(changes(&mut bench), (vec![(false, "reset")], 0, 1));
    bench.pass(Duration::from_secs(30));
    bench.dead.clear();
    bench.pass(Duration::from_secs(30));
    assert_eq!(changes(&mut bench), (vec![(true, "connected")], 1, 0));
}

/// A dialog stays on its lane whatever the pool chooses its backends by; other lanes carry on when one is lost.
#[test]
fn a_dialog_keeps_its_lane() {
    for affinity in [Affinity::CallId, Affinity::From, Affinity::Source, Affinity::None] {
        let mut snapshot = pool_of(&[(100, 0)]);
        snapshot.pools[0].lanes = 4;
        snapshot.pools[0].affinity = affinity;
        let mut bench = Bench::with(1, snapshot);
        let lanes: Vec<ConnId> = {
            let upstream = &bench.workers[0].core.upstream;
            (0..4).map(|link| upstream.link(link).conn().unwrap()).collect()
        };
        let client = bench.client();
        let mut used = std::collections::HashSet::new();
        for call in 0..24 {
            let name = format!("lane{call}");
            bench.send(client, &request("INVITE", "sip:bob@example.com", &name, ""));
            let lane = lanes.iter().find(|lane| bench.sent.contains_key(&(0, **lane))).unwrap();
            let invite = bench.take((0, *lane));
            let routes = header(&invite, "Record-Route");
            let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
            bench.send(client, &request("BYE", "sip:bob@10.0.0.1", &name, &route));
            assert!(bench.take((0, *lane)).starts_with("BYE"), "{affinity:?}, {name}");
            used.insert(*lane);
        }
        assert_eq!(used.len(), 4, "{affinity:?}");
    }
}

/// Requests wait for a backend that is being dialled again, and are answered when that comes to nothing.
#[test]
fn requests_wait_for_the_only_backend_as_long_as_it_is_dialled() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0)]));
    let client = bench.client();
    bench.pass(Duration::from_secs(2));
    let b1: SocketAddr = B1.parse().unwrap();
    bench.silent.push(b1);
    bench.hang_up(bench.link(0, B1));
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "pw1", ""));
    assert_eq!(bench.take(client), "");
    let (_, conn, _) = bench.dialled.pop().unwrap();
    bench.workers[0].handle(bench.now, Input::Connected { conn });
    bench.settle();
    assert!(bench.take((0, conn)).contains("Call-ID: pw1"));

    bench.hang_up((0, conn));
    bench.pass(Duration::from_millis(110));
    bench.send(client, &request("OPTIONS", "sip:bob@example.com", "pw2", ""));
    let (_, conn, _) = bench.dialled.pop().unwrap();
    bench.workers[0].handle(bench.now, Input::Closed { conn, cause: CloseCause::ConnectTimeout });
    bench.settle();
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 503") && answer.contains("Call-ID: pw2"), "{answer}");
}

/// As a backend does that refuses our certificate, which TLS 1.3 lets it do after the connection stands.
#[test]
fn a_link_that_never_holds_is_dialled_ever_less_often() {
    let mut bench = Bench::new(1);
    let address = "10.0.0.1:5080".parse().unwrap();
    let mut dialled = 0;
    for _ in 0..600 {
        if let Some(conn) = bench.links.remove(&(0, address)) {
            dialled += 1;
            bench.hang_up((0, conn));
        }
        bench.pass(Duration::from_millis(100));
    }
    // Ten waits to 10 s, then one each 10 s; half of each at random.
    assert!((8..=24).contains(&dialled), "{dialled} times in a minute");
    // One that has held is not held to account for what was before.
    bench.pass(Duration::from_secs(20));
    let conn = bench.links.remove(&(0, address)).expect("dialled again");
    bench.pass(Duration::from_secs(2));
    bench.hang_up((0, conn));
    bench.pass(Duration::from_millis(100));
    assert!(bench.links.contains_key(&(0, address)), "at once");
}
