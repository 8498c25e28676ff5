//! Probes, silence, the circuit breaker.

use super::pools::*;
use super::*;
use crate::telemetry::counter::{HealthEvent, Refused};

const HEALTH: Health = Health {
    method: ProbeMethod::Options,
    interval: Duration::from_secs(5),
    timeout: Duration::from_secs(2),
    rise: 2,
    fall: 3,
};

fn probed(backends: &[(u16, u16)], health: Health) -> Bench {
    let mut snapshot = pool_of(backends);
    snapshot.pools[0].health = Some(health);
    let mut bench = Bench::with(1, snapshot);
    bench.settle();
    bench
}

/// Lets time pass in steps that are finer than any deadline here.
fn pass(bench: &mut Bench, seconds: u64) {
    (0..seconds * 20).for_each(|_| bench.pass(Duration::from_millis(50)));
}

impl Bench {
    fn health(&self, event: HealthEvent) -> u64 {
        let all = self.workers.iter().flat_map(|worker| &worker.core.counters.health);
        all.map(|events| events[event as usize]).sum()
    }

    fn b1(&self) -> At {
        self.link(0, B1)
    }

    /// Whether the backend takes requests, and why.
    fn state(&mut self) -> (bool, &'static str) {
        let gauge = self.gauge(0);
        (gauge.up, gauge.reason)
    }

    /// What the peer of a connection hears next within so many seconds.
    fn heard(&mut self, at: At, seconds: u64) -> String {
        for _ in 0..seconds * 20 {
            self.pass(Duration::from_millis(50));
            if self.sent.contains_key(&at) {
                break;
            }
        }
        self.take(at)
    }

    /// Answers every probe that comes within so many seconds.
    fn answer_probes(&mut self, seconds: u64, status: &str) {
        for _ in 0..seconds * 20 {
            self.pass(Duration::from_millis(50));
            let Some(at) = self.links.get(&(0, B1.parse().unwrap())).map(|conn| (0, *conn)) else {
                continue;
            };
            let probe = self.take(at);
            if probe.starts_with("OPTIONS") {
                self.send(at, &response(&probe, status));
            }
        }
    }
}

#[test]
fn a_probe_is_a_whole_request_and_its_answer_goes_no_further() {
    let mut bench = probed(&[(100, 0)], HEALTH);
    let b1 = bench.b1();
    pass(&mut bench, 4);
    assert_eq!(bench.take(b1), "");
    pass(&mut bench, 2);
    let probe = bench.take(b1);
    assert!(probe.starts_with("OPTIONS sip:10.0.0.1:5080;transport=tcp SIP/2.0\r\n"), "{probe}");
    assert!(header(&probe, "Via")[0].starts_with("SIP/2.0/TCP 10.0.0.9:5070;branch=z9hG4bK"));
    assert_eq!(header(&probe, "To"), ["<sip:10.0.0.1:5080;transport=tcp>"]);
    assert!(header(&probe, "From")[0].starts_with("<sip:ringfront@10.0.0.9:5070"), "{probe}");
    // 100 says nothing yet; the final response does, once.
    bench.send(b1, &response(&probe, "100 Trying"));
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 0);
    bench.send(b1, &response(&probe, "405 Method Not Allowed"));
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 1);
    bench.send(b1, &response(&probe, "200 OK"));
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 1);
    assert_eq!(bench.refused(Refused::ResponseEndsHere), 1);
    bench.answer_probes(60, "200 OK");
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 13);
    assert_eq!(bench.state(), (true, "connected"));
}

/// An answer counts over the link that was asked and nowhere else.
#[test]
fn nobody_answers_a_probe_for_another() {
    let mut bench = probed(&[(100, 0), (100, 0)], HEALTH);
    let (b1, b2) = (bench.b1(), bench.link(0, B2));
    pass(&mut bench, 6);
    let probe = bench.take(b1);
    bench.send(b2, &response(&probe, "200 OK"));
    let client = bench.client();
    bench.send(client, &response(&probe, "200 OK"));
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 0);
    assert_eq!(bench.refused(Refused::ResponseForged), 2);
}

#[test]
fn a_connection_that_is_open_but_dead_is_found_and_given_up() {
    let mut bench = probed(&[(100, 0), (100, 0)], HEALTH);
    let (b1, b2) = (bench.b1(), bench.link(0, B2));
    let client = bench.client();
    let mut answered = 0;
    // b1 reads and says nothing. Within interval + fall * timeout it is out.
    for step in 0..230 {
        bench.pass(Duration::from_millis(50));
        let probe = bench.take(b2);
        if probe.starts_with("OPTIONS") {
            answered += 1;
            bench.send(b2, &response(&probe, "200 OK"));
        }
        if step == 229 {
            assert!(answered >= 2);
        }
    }
    assert_eq!(bench.closed, [b1]);
    assert_eq!(bench.health(HealthEvent::ProbeTimeout), 3);
    // It is dialled again and connects, but that is no proof: what is new goes to the other.
    pass(&mut bench, 1);
    assert_eq!(bench.state(), (false, "proving"));
    let again = bench.b1();
    assert_ne!(again, b1);
    bench.take(again);
    for call in 0..20 {
        bench.send(client, &request("MESSAGE", "sip:bob@example.com", &format!("ha{call}"), ""));
    }
    assert_eq!(bench.take(b2).matches("MESSAGE sip:").count(), 20);
    // One failure is enough while it has to prove itself; the pauses grow.
    let mut dials = Vec::new();
    let mut last = again;
    for step in 0..1200 {
        bench.pass(Duration::from_millis(50));
        let probe = bench.take(b2);
        if probe.starts_with("OPTIONS") {
            bench.send(b2, &response(&probe, "200 OK"));
        }
        if bench.b1() != last {
            last = bench.b1();
            dials.push(step);
        }
    }
    let pauses: Vec<i32> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 4 && pauses.last() > pauses.first(), "{pauses:?}");
    // It comes back to life: two answers, and it takes its share again.
    bench.answer_probes(20, "200 OK");
    assert_eq!(bench.state(), (true, "probes_answered"));
}

/// Silence after a request is looked into at once, not at the next interval.
#[test]
fn silence_brings_the_probe_forward() {
    let slow = Health { interval: Duration::from_secs(600), ..HEALTH };
    let mut bench = probed(&[(100, 0)], slow);
    let b1 = bench.b1();
    let client = bench.client();
    pass(&mut bench, 10);
    bench.send(client, &request("INVITE", "sip:bob@example.com", "hs1", ""));
    assert!(bench.take(b1).starts_with("INVITE"));
    let probe = bench.heard(b1, 5);
    assert!(probe.starts_with("OPTIONS"), "{probe}");
    assert_eq!(bench.health(HealthEvent::Silent), 1);
    // It rings somewhere: the backend lives.
    bench.send(b1, &response(&probe, "200 OK"));
    pass(&mut bench, 60);
    assert_eq!(bench.health(HealthEvent::ProbeSent), 1);
    // The next silence lasts.
    bench.send(client, &request("INVITE", "sip:bob@example.com", "hs2", ""));
    pass(&mut bench, 12);
    assert_eq!(bench.closed, [b1]);
}

#[test]
fn a_backend_that_refuses_its_probes_keeps_its_dialogs() {
    let mut bench = probed(&[(100, 0)], HEALTH);
    let b1 = bench.b1();
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "hr1", ""));
    let invite = bench.take(b1);
    bench.send(b1, &response(&invite, "200 OK"));
    bench.take(client);
    bench.answer_probes(9, "503 Service Unavailable");
    assert_eq!(bench.state(), (false, "probe_refused"));
    assert!(bench.closed.is_empty());
    bench.send(client, &request("INVITE", "sip:bob@example.com", "hr2", ""));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    let routes = header(&invite, "Record-Route");
    let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
    bench.send(client, &request("BYE", "sip:bob@10.0.0.1", "hr1", &route));
    assert!(bench.take(b1).starts_with("BYE"));
    bench.answer_probes(6, "200 OK");
    assert_eq!(bench.state(), (true, "probes_answered"));
}

/// A backend that was not there takes requests after `rise` answers; one that only lost a connection goes on at once.
#[test]
fn a_backend_proves_itself_after_a_failure_and_not_after_a_new_connection() {
    let mut bench = probed(&[(100, 0)], HEALTH);
    bench.pass(Duration::from_secs(2));
    bench.hang_up(bench.b1());
    assert_eq!(bench.state(), (true, "connected"));
    bench.pass(Duration::from_secs(2));
    bench.dead.push(B1.parse().unwrap());
    bench.hang_up(bench.b1());
    assert_eq!(bench.state(), (false, "connect_failed"));
    bench.dead.clear();
    pass(&mut bench, 1);
    assert_eq!(bench.gauge(0).lanes_up, 0);
    bench.answer_probes(1, "200 OK");
    assert!(!bench.state().0);
    bench.answer_probes(3, "200 OK");
    assert_eq!(bench.state(), (true, "probes_answered"));
}

/// 5626-4.4.1-a
#[test]
fn pings_are_probes_where_the_pool_says_so() {
    let pings = Health { method: ProbeMethod::Crlf, ..HEALTH };
    let mut bench = probed(&[(100, 0)], pings);
    let b1 = bench.b1();
    for round in 1..5 {
        assert_eq!(bench.heard(b1, 6), "\r\n\r\n");
        // The pong comes alone, in two pieces, or before a message.
        match round {
            1 => bench.send(b1, "\r\n"),
            2 => ["\r", "\n"].into_iter().for_each(|piece| bench.send(b1, piece)),
            _ => {
                let text = request("OPTIONS", "sip:edge.example.com", &format!("hp{round}"), "");
                bench.send(b1, &format!("\r\n{text}"));
                assert!(bench.take(b1).starts_with("SIP/2.0 200"));
            }
        }
        assert_eq!(bench.health(HealthEvent::ProbeAnswered), round);
    }
    // A ping of the backend's own is no pong.
    assert_eq!(bench.heard(b1, 6), "\r\n\r\n");
    bench.send(b1, "\r\n\r\n");
    assert_eq!(bench.take(b1), "\r\n");
    assert_eq!(bench.health(HealthEvent::ProbeAnswered), 4);
    pass(&mut bench, 7);
    assert_eq!(bench.closed, [b1]);
}

/// Each lane is probed, since each may be dead for itself; the others carry on.
#[test]
fn a_dead_lane_is_given_up_alone() {
    let mut snapshot = pool_of(&[(100, 0)]);
    snapshot.pools[0].health = Some(HEALTH);
    snapshot.pools[0].lanes = 2;
    let mut bench = Bench::with(1, snapshot);
    let lane = |bench: &Bench, link: u32| bench.workers[0].core.upstream.link(link).conn().unwrap();
    let (dead, alive) = (lane(&bench, 0), lane(&bench, 1));
    for _ in 0..230 {
        bench.pass(Duration::from_millis(50));
        let probe = bench.take((0, alive));
        if probe.starts_with("OPTIONS") {
            bench.send((0, alive), &response(&probe, "200 OK"));
        }
    }
    assert_eq!(bench.closed, [(0, dead)]);
    let gauge = bench.gauge(0);
    assert_eq!((gauge.up, gauge.reason, gauge.lanes_up), (true, "connected", 1));
    let client = bench.client();
    for call in 0..10 {
        bench.send(client, &request("MESSAGE", "sip:bob@example.com", &format!("hl{call}"), ""));
    }
    assert_eq!(bench.take((0, alive)).matches("MESSAGE sip:").count(), 10);
}

/// A reload that takes the probes away lets everything be used that is connected.
#[test]
fn without_probes_a_connection_is_enough() {
    let mut bench = probed(&[(100, 0)], HEALTH);
    bench.answer_probes(10, "503 Service Unavailable");
    bench.answer_probes(10, "503 Service Unavailable");
    assert_eq!(bench.state(), (false, "probe_refused"));
    let mut snapshot = pool_of(&[(100, 0)]);
    snapshot.generation = 2;
    bench.reconfigure(|_| Arc::into_inner(settings_of(snapshot, 1)).unwrap());
    assert!(bench.state().0);
    pass(&mut bench, 60);
    assert!(bench.closed.is_empty());
}
