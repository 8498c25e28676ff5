//! What names lead to, as the proxy is told of it: several addresses under one name, retired ones, UDP only.

use super::*;
use crate::telemetry::counter::{Refused, TransportRefused};

/// Both backends under one name and one port, as a name with two addresses is.
fn one_name(change: impl FnOnce(&mut Vec<Backend>)) -> Snapshot {
    let mut snapshot = snapshot();
    let backends = &mut snapshot.pools[0].backends;
    for backend in backends.iter_mut() {
        backend.name = format!("r@{}", backend.address).into();
        backend.server_name = "pbx.example.com".into();
    }
    change(backends);
    snapshot
}

const ROUTE: &str = "Route: <sip:PBX.example.com:5080;lr>\r\n";

#[test]
fn a_route_that_names_a_backend_reaches_any_address_of_it_that_is_up() {
    let mut bench = Bench::with(1, one_name(|_| {}));
    let client = bench.client();
    let mut seen = Vec::new();
    for call in 0..16 {
        bench.send(client, &request("OPTIONS", "sip:bob@example.com", &format!("a{call}"), ROUTE));
        let (at, _) = bench.at_backend();
        if !seen.contains(&at) {
            seen.push(at);
        }
    }
    assert_eq!(seen.len(), 2, "calls spread over both");
    let lost = bench.link(0, "10.0.0.1:5080");
    bench.dead.push("10.0.0.1:5080".parse().unwrap());
    bench.hang_up(lost);
    for call in 0..16 {
        bench.send(client, &request("OPTIONS", "sip:bob@example.com", &format!("b{call}"), ROUTE));
        assert_eq!(bench.at_backend().0, bench.link(0, "10.0.0.2:5080"));
    }
}

#[test]
fn a_retired_address_gets_nothing_new_and_keeps_what_it_has() {
    let mut bench = Bench::with(1, one_name(|_| {}));
    let client = bench.client();
    let mut held = None;
    for call in 0..64 {
        bench.send(client, &request("INVITE", "sip:bob@example.com", &format!("c{call}"), ""));
        let (at, arrived) = bench.at_backend();
        if at == bench.link(0, "10.0.0.1:5080") {
            held = Some((format!("c{call}"), arrived));
        }
    }
    let (call, arrived) = held.expect("some call goes there");
    let routes: String = header(&arrived, "Record-Route")
        .iter()
        .rev()
        .map(|it| format!("Route: {it}\r\n"))
        .collect();
    let settings = settings_of(one_name(|backends| backends[0].retired = true), 1);
    bench.workers[0].configure(bench.now, settings);
    bench.settle();
    for call in 0..64 {
        bench.send(client, &request("INVITE", "sip:bob@example.com", &format!("d{call}"), ""));
        assert_eq!(bench.at_backend().0, bench.link(0, "10.0.0.2:5080"));
    }
    bench.send(client, &request("BYE", "sip:bob@192.0.2.9", &call, &routes));
    assert_eq!(bench.at_backend().0, bench.link(0, "10.0.0.1:5080"), "its dialog goes on");
}

#[test]
fn a_pool_whose_names_lead_to_udp_only_refuses_as_such() {
    let mut snapshot = one_name(Vec::clear);
    snapshot.pools[0].udp_only = true;
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "e1", ""));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 480 "), "{answer}");
    assert!(header(&answer, "Warning")[0].starts_with("399 "), "{answer}");
    let counters = &bench.workers[0].core.counters;
    assert_eq!(counters.transport_refused(TransportRefused::Dns), 1);
    assert_eq!(counters.refused(Refused::TransportPolicy), 1);
}
