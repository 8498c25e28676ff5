//! A worker that does not keep up.

use super::*;
use crate::telemetry::counter::Refused;

/// So many turns that take so long each.
fn turns(bench: &mut Bench, count: u32, millis: u64) {
    for _ in 0..count {
        bench.workers[0].handle(bench.now, Input::Tick);
        bench.now = bench.now + Duration::from_millis(millis);
        bench.workers[0].leaving(bench.now);
    }
}

/// 7339-5.10.1-a, 7339-5.10.2-a
#[test]
fn an_overloaded_worker_sheds_what_is_new_and_nothing_that_is_under_way() {
    let mut bench = Bench::new(1);
    let client = bench.client();
    bench.send(client, &request("INVITE", "sip:bob@example.com", "ol0", ""));
    let (backend, invite) = bench.at_backend();
    bench.send(backend, &response(&invite, "200 OK"));
    bench.take(client);
    turns(&mut bench, 400, 60);
    assert_eq!(bench.workers[0].core.overload.share(), 950);
    let mut shed = 0;
    for call in 0..100 {
        turns(&mut bench, 16, 60);
        bench.send(client, &request("INVITE", "sip:bob@example.com", &format!("ol{call}x"), ""));
        let answer = bench.take(client);
        if answer.starts_with("SIP/2.0 503") {
            assert!(header(&answer, "Retry-After").is_empty(), "{answer}");
            shed += 1;
        }
    }
    assert!((80..100).contains(&shed), "{shed}");
    assert_eq!(bench.refused(Refused::Overload), shed);
    // The rest of the call, its CANCEL, and what the backends ask pass.
    let routes = header(&invite, "Record-Route");
    let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
    let tagged = |text: String| text.replace("bob@example.com>\r\n", "bob@example.com>;tag=b\r\n");
    bench.take(backend);
    for method in ["ACK", "INFO", "BYE"] {
        bench.send(client, &tagged(request(method, "sip:bob@10.0.0.1", "ol0", &route)));
        assert!(bench.take(backend).starts_with(method), "{method}");
    }
    bench.send(client, &request("CANCEL", "sip:bob@example.com", "ol0", ""));
    assert!(bench.take(backend).starts_with("CANCEL"));
    for call in 0..20 {
        let text = request("OPTIONS", "sip:10.0.0.9:5070", &format!("olb{call}"), "");
        bench.send(backend, &text);
        assert!(bench.take(backend).starts_with("SIP/2.0 200"));
    }
    // It recovers by itself.
    turns(&mut bench, 400, 1);
    bench.send(client, &request("INVITE", "sip:bob@example.com", "ol9", ""));
    assert_eq!(bench.take(client), "");
}

/// A turn in which nothing came, such as one that answers the control plane, says nothing of the load.
#[test]
fn idle_turns_are_not_long_ones() {
    let mut bench = Bench::new(1);
    turns(&mut bench, 1, 1);
    for _ in 0..100 {
        bench.now = bench.now + Duration::from_millis(200);
        bench.workers[0].leaving(bench.now);
    }
    assert_eq!(bench.workers[0].core.overload.share(), 0);
}
