//! A crowd and a registrar joined by bytes in memory: every scenario, both transports, both kinds of load, and what a
//! crowd counts when the other end fails it.

use std::time::Duration;

use ringfront::base::machine::{CloseCause, Input, Machine};
use ringfront::base::time::Instant;
use ringfront::peer::crowd::{Crowd, DIALS_DEFAULT, Load, Plan};
use ringfront::peer::scenario::{Scenario, Script, Theme};
use ringfront::peer::tally::{Fault, Measure, Phase, Tally};

use ringfront::tls::ServerSide;

use super::sides::sides;
use super::wire::Wire;

/// Runs until the crowd is done or `limit` has passed, and says what was counted since the last run.
fn run(wire: &mut Wire<Crowd>, limit: Duration) -> Tally {
    wire.run(limit, |_| false);
    wire.dialler.report(wire.now, Tally::new())
}

fn join(plan: Plan, server: Option<ServerSide>, piece: usize) -> Wire<Crowd> {
    let slots = plan.connections;
    Wire::new(|now| Crowd::new(plan, now), slots, server, piece)
}

fn plan(scenario: Scenario, load: Load, tls: Option<ringfront::tls::ClientSide>) -> Plan {
    let theme = Theme {
        scenario,
        uri: "sip:load@127.0.0.1:5070",
        transport: if tls.is_some() { "TLS" } else { "TCP" },
        message_bytes: 0,
        tag: 0x5eed,
    };
    Plan {
        target: "127.0.0.1:5070".parse().unwrap(),
        tls,
        scenario,
        script: Script::new(&theme).unwrap(),
        load,
        connections: 5,
        dials: DIALS_DEFAULT,
        warm_up: Duration::from_millis(10),
        duration: Duration::from_millis(100),
        timeout: Duration::from_secs(32),
    }
}

const CLOSED: Load = Load::Closed { outstanding: 3 };

#[test]
fn every_scenario_runs_without_an_error_over_tcp_and_tls_in_pieces_of_any_size() {
    for scenario in Scenario::ALL {
        for (secure, piece) in [(false, usize::MAX), (false, 7), (true, usize::MAX), (true, 11)] {
            let (server, client) = sides(false);
            let (server, client) = if secure { (Some(server), Some(client)) } else { (None, None) };
            let mut plan = plan(scenario, CLOSED, client);
            // Byte by byte costs the reader more than it teaches: then a few operations are enough.
            plan.warm_up = Duration::from_millis(1);
            plan.duration = Duration::from_millis(if piece < 100 { 5 } else { 20 });
            let duration = plan.duration;
            let mut wire = join(plan, server, piece);
            let tally = run(&mut wire, Duration::from_secs(5));
            let what = format!("{} {secure} {piece}: {tally:?}", scenario.name());
            assert_eq!((tally.phase, tally.errors_total()), (Phase::Done, 0), "{what}");
            assert_eq!(tally.measured, duration, "{what}");
            if scenario == Scenario::Idle {
                assert_eq!(tally.completed_ever, 0, "{what}");
                continue;
            }
            assert!(tally.completed > 20, "{what}");
            assert!(tally.completed_ever > tally.completed, "{what}");
            // Nothing is faster than there and back; a call is two of them, with TLS a connection three.
            let rounds = match (scenario, secure) {
                (Scenario::Call, _) => 4,
                (scenario, secure) if scenario.dials_each_time() => 4 + 2 * u64::from(secure),
                _ => 2,
            };
            let fastest = tally.histogram(Measure::Operation).min();
            let expected = 100_000 * rounds;
            assert!(fastest.abs_diff(expected) <= expected / 4 + 1000, "{what}: {fastest}");
            assert_eq!(wire.backend_counts().calls_waiting, 0, "{what}");
        }
    }
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_from_the_intended_start() {
    let mut wire =
        join(plan(Scenario::Options, Load::Open { per_second: 10_000.0 }, None), None, 4096);
    let tally = run(&mut wire, Duration::from_secs(5));
    assert_eq!(tally.errors_total(), 0, "{tally:?}");
    // 100 ms at 10,000 a second.
    assert_eq!(tally.histogram(Measure::Operation).len(), 1000);
    assert_eq!(tally.histogram(Measure::Lag).len(), 1000);
    assert_eq!(tally.responses().map(|(status, _)| status).collect::<Vec<_>>(), [200]);
}

#[test]
fn a_stall_of_the_server_is_in_the_latency_of_all_who_came_meanwhile() {
    let mut wire =
        join(plan(Scenario::Options, Load::Open { per_second: 10_000.0 }, None), None, 4096);
    let mut tally = run(&mut wire, Duration::from_millis(50));
    // Nothing reaches anybody for 20 ms.
    let stall = Duration::from_millis(20);
    for (at, _) in &mut wire.events {
        *at = *at + stall;
    }
    wire.now = wire.now + stall;
    tally.add_interval(&run(&mut wire, Duration::from_secs(5)));
    let operations = tally.histogram(Measure::Operation);
    assert_eq!(operations.len(), 1000);
    let slow = operations.count_between(1_000_000, 25_000_000);
    assert!((150..=210).contains(&slow), "{slow} of the 200 that were due in the stall");
}

#[test]
fn a_storm_brings_everybody_back_before_the_next_begins() {
    let (server, client) = sides(true);
    let load = Load::Closed { outstanding: 1 };
    let mut wire = join(plan(Scenario::Storm, load, Some(client)), Some(server), 4096);
    let tally = run(&mut wire, Duration::from_secs(5));
    assert_eq!((tally.phase, tally.errors_total()), (Phase::Done, 0), "{tally:?}");
    // Five clients: whole storms alone, each of which took three times there and back.
    assert_eq!(tally.completed_ever % 5, 0, "{tally:?}");
    assert!(tally.completed_ever >= 10 * 5, "{tally:?}");
    let [full, resumed] = tally.handshakes;
    assert_eq!((full + resumed, full <= 5), (tally.completed_ever, true), "{full} {resumed}");
}

#[test]
fn a_churn_by_arrivals_dials_for_each() {
    let (server, client) = sides(true);
    let load = Load::Open { per_second: 500.0 };
    let mut wire = join(plan(Scenario::Churn, load, Some(client)), Some(server), 4096);
    let tally = run(&mut wire, Duration::from_secs(5));
    assert_eq!(tally.errors_total(), 0, "{tally:?}");
    assert_eq!(tally.histogram(Measure::Operation).len(), 50);
    // The very first have no ticket yet.
    let [full, resumed] = tally.handshakes;
    assert!(full <= 2 && resumed >= 48, "{full} full, {resumed} resumed");
}

#[test]
fn handshakes_are_full_unless_resumption_is_asked_for() {
    for resume in [false, true] {
        let (server, client) = sides(resume);
        let load = Load::Closed { outstanding: 1 };
        let mut plan = plan(Scenario::Handshake, load, Some(client));
        plan.connections = 12;
        let mut wire = join(plan, Some(server), 4096);
        let tally = run(&mut wire, Duration::from_secs(5));
        let [full, resumed] = tally.handshakes;
        assert_eq!(tally.errors_total(), 0, "{tally:?}");
        // The first of each of the twelve clients has nothing to resume.
        assert_eq!(resumed > 100, resume, "{full} full, {resumed} resumed");
        assert_eq!(full > 12, !resume, "{full} full, {resumed} resumed");
    }
}

#[test]
fn a_server_that_falls_silent_costs_each_operation_a_timeout() {
    let mut plan = plan(Scenario::Options, CLOSED, None);
    plan.timeout = Duration::from_secs(1);
    let mut wire = join(plan, None, 4096);
    run(&mut wire, Duration::from_millis(20));
    wire.dead = true;
    let tally = run(&mut wire, Duration::from_secs(10));
    assert_eq!(tally.phase, Phase::Done);
    // Three on each of five connections; those begun after the first timeouts belong to no phase of work.
    assert_eq!(tally.faults(Fault::Timeout), 15);
    assert_eq!(tally.errors_total(), 15);
}

#[test]
fn a_server_that_is_not_there_is_dialled_again_with_pauses() {
    let mut plan = plan(Scenario::Options, CLOSED, None);
    plan.duration = Duration::from_secs(10);
    let mut wire = join(plan, None, 4096);
    wire.dead = true;
    let tally = run(&mut wire, Duration::from_secs(60));
    assert_eq!(tally.phase, Phase::Done);
    let failed = tally.faults(Fault::ConnectFailed);
    // Each: at once, after 0.05, 0.25, 1.25, 3.25, 5.25, 7.25 and 9.25 s.
    assert_eq!(failed, 5 * 8, "{tally:?}");
}

#[test]
fn a_connection_lost_under_way_fails_what_was_on_it_and_is_made_anew() {
    let mut wire = join(plan(Scenario::Options, CLOSED, None), None, 4096);
    run(&mut wire, Duration::from_millis(20));
    let (conn, other) = wire.links[0].take().unwrap();
    wire.dialler.handle(wire.now, Input::Closed { conn, cause: CloseCause::Reset });
    wire.backend.handle(wire.now, Input::Closed { conn: other, cause: CloseCause::Reset });
    let tally = run(&mut wire, Duration::from_secs(5));
    assert_eq!(tally.faults(Fault::Reset), 3);
    assert_eq!(tally.errors_total(), 3);
    assert_eq!(tally.phase, Phase::Done);
}

#[test]
fn a_foreign_certificate_is_an_error_of_its_own() {
    let (server, _) = sides(false);
    let (_, client) = sides(false);
    let mut wire = join(plan(Scenario::Options, CLOSED, Some(client)), Some(server), 4096);
    let tally = run(&mut wire, Duration::from_secs(5));
    assert!(tally.faults(Fault::HandshakeFailed) >= 5, "{tally:?}");
    assert_eq!(tally.completed_ever, 0);
    assert_eq!(tally.errors_total(), tally.faults(Fault::HandshakeFailed));
}

#[test]
fn a_refusal_is_an_error_and_is_counted_by_status() {
    let mut plan = plan(Scenario::Message, CLOSED, None);
    let theme = Theme {
        scenario: Scenario::Message,
        uri: "sip:nobody@127.0.0.1:5070",
        transport: "TCP",
        message_bytes: 0,
        tag: 1,
    };
    plan.script = Script::new(&theme).unwrap();
    let mut wire = join(plan, None, 4096);
    let tally = run(&mut wire, Duration::from_secs(5));
    assert_eq!(tally.errors_total(), tally.faults(Fault::Status));
    assert!(tally.faults(Fault::Status) > 100);
    assert_eq!(tally.responses().map(|(status, _)| status).collect::<Vec<_>>(), [404]);
    assert_eq!(tally.completed, 0);
}

#[test]
fn a_drain_ends_the_run_early_and_in_order() {
    let mut wire = join(plan(Scenario::Call, CLOSED, None), None, 4096);
    run(&mut wire, Duration::from_millis(60));
    wire.dialler.handle(wire.now, Input::Drain { deadline: Instant::FAR });
    let tally = run(&mut wire, Duration::from_millis(10));
    assert_eq!((tally.phase, tally.errors_total()), (Phase::Done, 0));
    assert!(tally.measured.is_zero(), "all of it was in the report before");
}
