//! Transactions whose state is kept: failover, CANCEL by context, ACK hop by hop, and the timers.

use super::pools::{B1, B2, pool_of};
use super::*;
use crate::telemetry::counter::{Ended, Refused, Retry};

const B3: &str = "10.0.0.3:5080";

/// A pool of so many backends that keeps state.
fn stateful(backends: usize) -> Snapshot {
    let mut snapshot = pool_of(&vec![(100, 0); backends]);
    snapshot.pools[0].failover = true;
    snapshot
}

fn bench(backends: usize) -> (Bench, At) {
    let mut bench = Bench::with(1, stateful(backends));
    bench.pass(Duration::from_secs(2));
    let client = bench.client();
    (bench, client)
}

impl Bench {
    fn live(&self) -> u32 {
        self.workers[0].core.transactions.len()
    }

    fn retries(&self, why: Retry) -> u64 {
        self.workers[0].core.counters.retries[why as usize]
    }

    fn ended(&self, how: Ended) -> u64 {
        self.workers[0].core.counters.ended[how as usize]
    }

    /// An INVITE that has reached a backend; the client has its 100.
    fn invite(&mut self, client: At, call: &str) -> (At, String) {
        self.send(client, &request("INVITE", "sip:bob@example.com", call, ""));
        let trying = self.take(client);
        assert!(trying.starts_with("SIP/2.0 100 Trying\r\n"), "{trying}");
        assert_eq!(trying.matches("SIP/2.0").count(), 2, "{trying}");
        self.at_backend()
    }

    fn silence(&mut self, backends: &[&str]) {
        self.silent.extend(backends.iter().map(|it| it.parse::<SocketAddr>().unwrap()));
    }

    fn nothing_at(&self, at: At) -> bool {
        !self.sent.contains_key(&at)
    }
}

fn hop(method: &str, call: &str) -> String {
    request(method, "sip:bob@example.com", call, "")
}

fn branch(text: &str) -> String {
    header(text, "Via")[0].split("branch=").nth(1).unwrap().to_owned()
}

fn starts(text: &str) -> Vec<String> {
    let lines = text.split("\r\n");
    lines.filter(|it| it.contains("SIP/2.0") && !it.contains(": ")).map(str::to_owned).collect()
}

/// 3261-16.7-a, 3261-17.2.3-a, 6026-7.1-a, 6026-7.2-a
#[test]
fn an_invite_is_answered_100_at_once_and_every_2xx_passes() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t1");
    // Nobody hears the backend's 100; the INVITE sent again is absorbed.
    bench.send(backend, &response(&arrived, "100 Trying"));
    bench.send(client, &hop("INVITE", "t1"));
    assert!(bench.nothing_at(client) && bench.nothing_at(backend));
    assert_eq!(bench.refused(Refused::Retransmission), 1);
    bench.send(backend, &response(&arrived, "180 Ringing"));
    assert!(bench.take(client).starts_with("SIP/2.0 180"));
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    // Accepted: another 2xx passes, the INVITE is absorbed, a failure is nobody's any more.
    bench.pass(Duration::from_secs(31));
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    bench.send(client, &hop("INVITE", "t1"));
    bench.send(backend, &response(&arrived, "486 Busy Here"));
    assert!(bench.nothing_at(client) && bench.nothing_at(backend));
    assert_eq!((bench.refused(Refused::ResponseStray), bench.live()), (1, 1));
    // Timers L and M: what comes then is stray (RFC 6026 8).
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.live(), 0);
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.nothing_at(client));
    assert_eq!((bench.refused(Refused::ResponseStray), bench.ended(Ended::Answered)), (2, 1));
}

/// 3261-17-b, 6026-8.4-a
#[test]
fn the_ack_of_a_failure_goes_hop_by_hop() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t2");
    bench.send(backend, &response(&arrived, "486 Busy Here"));
    assert!(bench.take(client).starts_with("SIP/2.0 486"));
    let ack = bench.take(backend);
    assert!(ack.starts_with("ACK sip:bob@example.com SIP/2.0\r\n"), "{ack}");
    assert_eq!((header(&ack, "Via").len(), branch(&ack)), (1, branch(&arrived)));
    assert_eq!(header(&ack, "To"), ["<sip:bob@example.com>;tag=b"]);
    assert_eq!(header(&ack, "CSeq"), ["1 ACK"]);
    // Ours was the ACK; the client's ends here, and with it the transaction.
    assert_eq!(bench.live(), 1);
    bench.send(client, &hop("ACK", "t2"));
    assert!(bench.nothing_at(backend));
    assert_eq!((bench.refused(Refused::AckAbsorbed), bench.live()), (1, 0));
    // Timer H ends one that is never acknowledged.
    let (backend, arrived) = bench.invite(client, "t2b");
    bench.send(backend, &response(&arrived, "486 Busy Here"));
    bench.pass(Duration::from_secs(33));
    assert_eq!(bench.live(), 0);
}

/// 3261-16.10-a, 3261-9.1-a
#[test]
fn a_cancel_is_answered_here_and_follows_the_first_provisional() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t3");
    bench.send(client, &hop("CANCEL", "t3"));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 200 OK") && answer.contains("CSeq: 1 CANCEL"), "{answer}");
    assert!(bench.nothing_at(backend), "no CANCEL before a provisional");
    bench.send(backend, &response(&arrived, "100 Trying"));
    let cancel = bench.take(backend);
    assert!(cancel.starts_with("CANCEL sip:bob@example.com SIP/2.0\r\n"), "{cancel}");
    assert_eq!((header(&cancel, "Via").len(), branch(&cancel)), (1, branch(&arrived)));
    assert_eq!(header(&cancel, "To"), ["<sip:bob@example.com>"]);
    bench.send(backend, &response(&arrived, "180 Ringing"));
    assert!(bench.nothing_at(backend), "one CANCEL is enough");
    bench.send(backend, &response(&cancel, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 180"));
    bench.send(backend, &response(&arrived, "487 Request Terminated"));
    assert!(bench.take(client).starts_with("SIP/2.0 487"));
    assert!(bench.take(backend).starts_with("ACK "));
    bench.send(client, &hop("ACK", "t3"));
    assert_eq!(bench.live(), 0);
    // A second CANCEL finds nothing: it goes its way without state.
    bench.send(client, &hop("CANCEL", "t3"));
    assert!(bench.take(backend).starts_with("CANCEL"));
}

#[test]
fn a_cancelled_call_that_nobody_answers_ends_by_487() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t4");
    bench.send(backend, &response(&arrived, "180 Ringing"));
    bench.send(client, &hop("CANCEL", "t4"));
    assert!(bench.take(backend).starts_with("CANCEL"));
    bench.take(client);
    bench.pass(Duration::from_secs(33));
    assert!(bench.take(client).starts_with("SIP/2.0 487"));
    // And one whose backend is lost ends at once, with nobody else asked.
    let (backend, _) = bench.invite(client, "t4b");
    bench.send(client, &hop("CANCEL", "t4b"));
    bench.take(client);
    bench.hang_up(backend);
    assert!(bench.take(client).starts_with("SIP/2.0 487"));
    assert_eq!(bench.retries(Retry::ConnectionLost), 0);
}

/// 3261-16.6-h
#[test]
fn timer_c_ends_what_rings_for_ever() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t5");
    bench.send(backend, &response(&arrived, "180 Ringing"));
    bench.pass(Duration::from_secs(170));
    bench.send(backend, &response(&arrived, "180 Ringing"));
    bench.take(client);
    bench.pass(Duration::from_secs(170));
    assert!(bench.nothing_at(client), "it begins anew with each provisional");
    bench.pass(Duration::from_secs(12));
    assert!(bench.take(backend).starts_with("CANCEL"));
    assert!(bench.take(client).starts_with("SIP/2.0 408"));
    assert!(bench.closed.is_empty(), "who waits for an answer is not idle");
    bench.send(client, &hop("ACK", "t5"));
    bench.send(backend, &response(&arrived, "487 Request Terminated"));
    assert!(bench.take(backend).starts_with("ACK "));
    assert!(bench.nothing_at(client));
}

/// 3263-4.3-a, 3261-18.4-a, 3261-16.6-f
#[test]
fn a_lost_connection_costs_no_call_that_has_had_no_answer() {
    for method in ["INVITE", "REGISTER", "OPTIONS", "SUBSCRIBE", "PUBLISH"] {
        let (mut bench, client) = bench(3);
        bench.send(client, &hop(method, "t6"));
        let (first, before) = bench.at_backend();
        bench.hang_up(first);
        let (second, after) = bench.at_backend();
        assert_ne!(first, second);
        assert!(after.starts_with(method), "{after}");
        assert_ne!(branch(&before), branch(&after));
        bench.send(second, &response(&after, "200 OK"));
        let answers = bench.take(client);
        assert!(answers.contains("SIP/2.0 200 OK"), "{answers}");
        assert_eq!(bench.retries(Retry::ConnectionLost), 1);
    }
}

/// 3261-16.9-a
#[test]
fn what_may_not_be_sent_twice_is_answered() {
    for method in ["MESSAGE", "INFO", "NOTIFY", "UPDATE"] {
        let (mut bench, client) = bench(2);
        bench.send(client, &hop(method, "t7"));
        let (backend, _) = bench.at_backend();
        bench.hang_up(backend);
        let answer = bench.take(client);
        assert!(answer.starts_with("SIP/2.0 503") && answer.contains("Warning: 399"), "{answer}");
        assert!(header(&answer, "Retry-After").is_empty());
        assert_eq!((bench.refused(Refused::BackendLost), bench.live()), (1, 0));
    }
    // Nor an INVITE that rings.
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t8");
    bench.send(backend, &response(&arrived, "100 Trying"));
    bench.hang_up(backend);
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    assert_eq!(bench.retries(Retry::ConnectionLost), 0);
}

/// A request that waits for a connection that comes to nothing has not left: it goes elsewhere whatever it is.
#[test]
fn a_refused_connection_costs_nothing() {
    let mut snapshot = stateful(2);
    snapshot.pools[0].backends[1].priority = 1;
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.pass(Duration::from_secs(2));
    bench.silence(&[B1, B2]);
    bench.hang_up(bench.link(0, B1));
    bench.hang_up(bench.link(0, B2));
    bench.send(client, &hop("MESSAGE", "t9"));
    assert!(bench.nothing_at(client));
    bench.silent.clear();
    let dialled = std::mem::take(&mut bench.dialled);
    assert_eq!(dialled.len(), 2);
    for (_, conn, to) in dialled {
        let input = if to.to_string() == B1 {
            Input::Closed { conn, cause: CloseCause::ConnectFailed }
        } else {
            bench.links.insert((0, to), conn);
            Input::Connected { conn }
        };
        bench.workers[0].handle(bench.now, input);
        bench.settle();
    }
    let (backend, arrived) = bench.at_backend();
    assert_eq!(backend, bench.link(0, B2));
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    assert_eq!((bench.retries(Retry::Unsent), bench.live()), (1, 0));
}

#[test]
fn a_silent_backend_costs_the_response_timeout() {
    let (mut bench, client) = bench(2);
    let (first, old) = bench.invite(client, "t10");
    bench.pass(Duration::from_millis(4900));
    assert!(bench.nothing_at(client));
    bench.pass(Duration::from_millis(200));
    let (second, new) = bench.at_backend();
    assert_ne!(first, second);
    // The first wakes up: its call is taken back, and its end is acknowledged; the client hears nothing of it.
    bench.send(first, &response(&old, "180 Ringing"));
    let cancel = bench.take(first);
    assert!(cancel.starts_with("CANCEL") && branch(&cancel) == branch(&old), "{cancel}");
    bench.send(first, &response(&old, "487 Request Terminated"));
    assert!(bench.take(first).starts_with("ACK "));
    assert!(bench.nothing_at(client) && bench.nothing_at(second));
    bench.send(second, &response(&new, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    assert_eq!(bench.retries(Retry::ResponseTimeout), 1);
}

/// 3261-16.7-g
#[test]
fn a_late_2xx_of_the_first_backend_is_the_answer_and_the_second_is_taken_back() {
    let (mut bench, client) = bench(2);
    let (first, old) = bench.invite(client, "t11");
    bench.pass(Duration::from_millis(5100));
    let (second, new) = bench.at_backend();
    bench.send(second, &response(&new, "180 Ringing"));
    assert!(bench.take(client).starts_with("SIP/2.0 180"));
    bench.send(first, &response(&old, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
    assert!(bench.take(second).starts_with("CANCEL"));
    bench.send(second, &response(&new, "487 Request Terminated"));
    assert!(bench.take(second).starts_with("ACK "));
    assert!(bench.nothing_at(client));
    // Had it been accepted as well, the client would have to know (RFC 6026 8.4): two calls stand.
    let (first, old) = bench.invite(client, "t11b");
    bench.pass(Duration::from_millis(5100));
    let (second, new) = bench.at_backend();
    bench.send(second, &response(&new, "200 OK"));
    bench.send(first, &response(&old, "200 OK"));
    assert_eq!(starts(&bench.take(client)), ["SIP/2.0 200 OK", "SIP/2.0 200 OK"]);
}

/// 4320-4.2-a, 4320-4.2-b, 4320-4.1-a
#[test]
fn a_request_that_is_no_invite_gets_no_408_and_a_100_when_it_takes_long() {
    let (mut bench, client) = bench(1);
    bench.send(client, &hop("MESSAGE", "t12"));
    let (backend, arrived) = bench.at_backend();
    bench.send(backend, &response(&arrived, "183 Soon"));
    assert_eq!(bench.refused(Refused::ResponseProvisional), 1);
    bench.pass(Duration::from_secs(3));
    assert!(bench.nothing_at(client));
    bench.pass(Duration::from_millis(600));
    assert!(bench.take(client).starts_with("SIP/2.0 100"));
    bench.pass(Duration::from_secs(29));
    assert_eq!((bench.live(), bench.refused(Refused::TimedOut)), (0, 1));
    bench.send(backend, &response(&arrived, "200 OK"));
    assert!(bench.nothing_at(client));
    assert_eq!(bench.refused(Refused::ResponseStray), 1);
    // Nor does a backend's 408 pass.
    bench.send(client, &hop("MESSAGE", "t12b"));
    let (backend, arrived) = bench.at_backend();
    bench.send(backend, &response(&arrived, "408 Request Timeout"));
    assert!(bench.nothing_at(client));
    assert_eq!(bench.live(), 0);
}

/// 3261-16.7-c
#[test]
fn an_invite_that_nobody_answers_gets_408() {
    let (mut bench, client) = bench(1);
    let (backend, arrived) = bench.invite(client, "t13");
    bench.pass(Duration::from_secs(33));
    assert!(bench.take(client).starts_with("SIP/2.0 408"));
    bench.send(client, &hop("ACK", "t13"));
    // It rings after all.
    bench.send(backend, &response(&arrived, "180 Ringing"));
    assert!(bench.take(backend).starts_with("CANCEL"));
    assert!(bench.nothing_at(client));
}

/// 3261-16.7-d
#[test]
fn one_other_backend_is_asked_after_a_503_and_no_more() {
    let (mut bench, client) = bench(3);
    let (first, arrived) = bench.invite(client, "t14");
    bench.send(first, &response(&arrived, "503 Service Unavailable"));
    assert!(bench.take(first).starts_with("ACK "));
    let (second, arrived) = bench.at_backend();
    bench.send(second, &response(&arrived, "503 Service Unavailable"));
    assert!(bench.take(second).starts_with("ACK "));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 500"), "{answer}");
    assert!(bench.sent.is_empty(), "the third is left alone");
    assert_eq!(bench.retries(Retry::Unavailable), 1);
    // The last one that there is says how things are.
    let (mut bench, client) = self::bench(1);
    bench.send(client, &hop("REGISTER", "t14b"));
    let (only, arrived) = bench.at_backend();
    bench.send(only, &response(&arrived, "503 Service Unavailable"));
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    // What is not sent twice is not sent on.
    let (mut bench, client) = self::bench(2);
    bench.send(client, &hop("MESSAGE", "t14c"));
    let (backend, arrived) = bench.at_backend();
    bench.send(backend, &response(&arrived, "503 Service Unavailable"));
    assert!(bench.take(client).starts_with("SIP/2.0 500"));
    assert!(bench.sent.is_empty());
}

#[test]
fn nobody_left_is_said_with_a_warning() {
    let (mut bench, client) = bench(2);
    let dead = [B1, B2].map(|it| it.parse::<SocketAddr>().unwrap());
    bench.dead.extend(dead);
    bench.send(client, &hop("REGISTER", "t15"));
    let (first, _) = bench.at_backend();
    bench.hang_up(first);
    let (second, _) = bench.at_backend();
    bench.hang_up(second);
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 503") && answer.contains("Warning: 399"), "{answer}");
    assert_eq!((bench.ended(Ended::Concluded), bench.live()), (1, 0));
}

/// RFC 3261 16.11: what is in a dialog stays with its backend, unless backends share it.
#[test]
fn a_dialog_moves_only_where_it_is_shared() {
    for shared in [false, true] {
        let mut snapshot = stateful(2);
        snapshot.pools[0].shared_dialogs = shared;
        let mut bench = Bench::with(1, snapshot);
        bench.pass(Duration::from_secs(2));
        let client = bench.client();
        let (backend, arrived) = bench.invite(client, "t16");
        bench.send(backend, &response(&arrived, "200 OK"));
        bench.take(client);
        let routes = header(&arrived, "Record-Route");
        let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
        let within = |method: &str, cseq: &str| {
            let text = request(method, "sip:bob@10.0.0.1", "t16", &route);
            let text = text.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b");
            text.replace("CSeq: 1", &format!("CSeq: {cseq}"))
                .replace("bKt16", &format!("bKt{cseq}"))
        };
        bench.send(client, &within("INVITE", "2"));
        assert!(bench.take(backend).starts_with("INVITE"));
        bench.take(client);
        let address = if backend == bench.link(0, B1) { B1 } else { B2 };
        bench.dead.push(address.parse().unwrap());
        bench.hang_up(backend);
        if shared {
            let (other, moved) = bench.at_backend();
            assert!(other != backend && moved.contains("CSeq: 2 INVITE"), "{moved}");
        } else {
            assert!(bench.take(client).starts_with("SIP/2.0 503"));
        }
        bench.take(client);
        bench.send(client, &within("BYE", "3"));
        if shared {
            let (other, moved) = bench.at_backend();
            assert!(other != backend && moved.starts_with("BYE"), "{moved}");
        } else {
            let answer = bench.take(client);
            assert!(answer.starts_with("SIP/2.0 503") && answer.contains("backend of the dialog"));
        }
    }
}

/// A request of a dialog that has not left goes by another lane of its backend.
#[test]
fn a_lane_that_is_lost_before_it_stood_costs_a_dialog_nothing() {
    let mut snapshot = stateful(1);
    snapshot.pools[0].lanes = 2;
    let mut bench = Bench::with(1, snapshot);
    let client = bench.client();
    bench.send(client, &hop("INVITE", "t17"));
    let lanes: Vec<ConnId> = {
        let upstream = &bench.workers[0].core.upstream;
        (0..2).map(|link| upstream.link(link).conn().unwrap()).collect()
    };
    let used = lanes.iter().position(|it| bench.sent.contains_key(&(0, *it))).unwrap();
    let arrived = bench.take((0, lanes[used]));
    bench.send((0, lanes[used]), &response(&arrived, "200 OK"));
    bench.take(client);
    let routes = header(&arrived, "Record-Route");
    let route = format!("Route: {}, {}\r\n", routes[1], routes[0]);
    let bye = request("BYE", "sip:bob@10.0.0.1", "t17", &route)
        .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=b")
        .replace("bKt17", "bKt17b");
    // Queued, and the connection ends before the loop could take it.
    let mut bytes = bye.into_bytes();
    bench.workers[0].handle(bench.now, Input::Received { conn: client.1, bytes: &mut bytes });
    let closed = Input::Closed { conn: lanes[used], cause: CloseCause::Reset };
    bench.workers[0].handle(bench.now, closed);
    bench.settle();
    assert!(bench.take((0, lanes[1 - used])).starts_with("BYE"));
    assert_eq!(bench.retries(Retry::Unsent), 1);
}

/// 6026-7.3-a
#[test]
fn what_a_backend_makes_up_reaches_nobody() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t18");
    let other = if backend == bench.link(0, B1) { bench.link(0, B2) } else { bench.link(0, B1) };
    // For somebody else: the other backend answers, or it is another call.
    bench.send(other, &response(&arrived, "200 OK"));
    bench.send(backend, &response(&arrived, "200 OK").replace("Call-ID: t18", "Call-ID: t81"));
    bench.send(backend, &response(&arrived, "200 OK").replace("CSeq: 1 I", "CSeq: 2 I"));
    assert_eq!(bench.refused(Refused::ResponseForged), 3);
    // To a method that was never asked.
    bench.send(backend, &response(&arrived, "200 OK").replace("CSeq: 1 INVITE", "CSeq: 1 BYE"));
    assert_eq!(bench.refused(Refused::ResponseStray), 1);
    assert!(bench.nothing_at(client));
    // Garbage ends the connection, half a message waits for its end; the call goes on elsewhere.
    let half = response(&arrived, "200 OK");
    bench.give(backend, &half.as_bytes()[..half.len() / 2]);
    assert!(bench.nothing_at(client));
    bench.hang_up(backend);
    let (second, arrived) = bench.at_backend();
    assert_eq!(second, other);
    bench.send(second, "SIP/2.0 200 OK\r\nContent-Length: x\r\n\r\n");
    bench.pass(Duration::from_secs(2));
    assert!(bench.closed.contains(&second));
    let answer = bench.take(client);
    assert!(answer.starts_with("SIP/2.0 503"), "{answer}");
    assert!(bench.nothing_at(client), "one answer: {arrived}");
}

/// A second answer to what is no INVITE is nobody's.
#[test]
fn two_answers_are_one() {
    let (mut bench, client) = bench(1);
    bench.send(client, &hop("OPTIONS", "t19"));
    let (backend, arrived) = bench.at_backend();
    bench.send(backend, &(response(&arrived, "200 OK") + &response(&arrived, "404 Not Found")));
    assert_eq!(starts(&bench.take(client)), ["SIP/2.0 200 OK"]);
    assert_eq!((bench.refused(Refused::ResponseStray), bench.live()), (1, 0));
}

#[test]
fn a_full_table_refuses_or_forwards_without_state() {
    for full in [WhenFull::Refuse, WhenFull::Stateless] {
        let mut snapshot = stateful(2);
        snapshot.limits.transactions_per_core = 1;
        snapshot.limits.transactions_full = full;
        let mut bench = Bench::with(1, snapshot);
        let client = bench.client();
        let (backend, arrived) = bench.invite(client, "t20");
        bench.send(client, &hop("OPTIONS", "t20b"));
        if full == WhenFull::Refuse {
            assert!(bench.take(client).starts_with("SIP/2.0 503"));
            assert_eq!(bench.refused(Refused::TransactionsFull), 1);
        } else {
            // Marked so in the branch: the answer finds its way without an entry.
            let (other, options) = bench.at_backend();
            bench.send(other, &response(&options, "200 OK"));
            assert!(bench.take(client).starts_with("SIP/2.0 200"));
            assert_eq!(bench.workers[0].core.counters.stateless, 1);
        }
        bench.send(backend, &response(&arrived, "200 OK"));
        assert!(bench.take(client).starts_with("SIP/2.0 200"));
        assert_eq!(bench.live(), 1);
    }
}

/// A backend that dials us anew to answer may reach another worker (RFC 3261 18.2.2).
#[test]
fn an_answer_that_comes_to_another_worker_crosses_over() {
    let mut bench = Bench::with(2, stateful(1));
    let client = bench.client();
    let (_, arrived) = bench.invite(client, "t21");
    let own = bench.accept(1, 1, "10.0.0.1:33333");
    bench.send(own, &response(&arrived, "180 Ringing"));
    assert!(bench.take(client).starts_with("SIP/2.0 180"));
    bench.send(own, &response(&arrived, "486 Busy Here"));
    assert!(bench.take(client).starts_with("SIP/2.0 486"));
    assert!(bench.take(bench.link(0, B1)).starts_with("ACK "));
}

/// 6026-7.1-b
#[test]
fn a_client_that_is_gone_holds_nothing() {
    let (mut bench, client) = bench(1);
    let (backend, arrived) = bench.invite(client, "t22");
    bench.hang_up(client);
    bench.send(backend, &response(&arrived, "486 Busy Here"));
    assert_eq!(bench.refused(Refused::ResponseFlowGone), 1);
    assert!(bench.take(backend).starts_with("ACK "));
    bench.pass(Duration::from_secs(33));
    assert_eq!(bench.live(), 0);
    // Another connection in the same slot is another client: an ACK of it is nobody's.
    let again = bench.client();
    bench.send(again, &hop("OPTIONS", "t22b"));
    assert_eq!(bench.live(), 1);
}

#[test]
fn a_drain_waits_for_what_is_under_way() {
    let (mut bench, client) = bench(2);
    let (backend, arrived) = bench.invite(client, "t23");
    let idle = bench.accept(0, 0, "198.51.100.8:40000");
    let deadline = bench.now + Duration::from_secs(60);
    bench.workers[0].handle(bench.now, Input::Drain { deadline });
    bench.settle();
    bench.pass(Duration::from_secs(31));
    assert_eq!(bench.closed, [idle]);
    // The failover of what was taken before goes on.
    bench.hang_up(backend);
    let (second, again) = bench.at_backend();
    assert_ne!(branch(&again), branch(&arrived));
    bench.send(second, &response(&again, "486 Busy Here"));
    assert!(bench.take(client).contains("SIP/2.0 486"));
    bench.pass(Duration::from_millis(200));
    bench.pass(Duration::from_millis(200));
    assert!(bench.closed.contains(&client) && bench.workers[0].drained());
}

#[test]
fn a_drain_ends_at_its_deadline_whatever_is_under_way() {
    let (mut bench, client) = bench(1);
    bench.invite(client, "t24");
    let deadline = bench.now + Duration::from_secs(20);
    bench.workers[0].handle(bench.now, Input::Drain { deadline });
    (0..21).for_each(|_| bench.pass(Duration::from_secs(1)));
    assert!(bench.closed.contains(&client));
}

/// What was learnt of a pool holds no longer than its configuration.
#[test]
fn a_backend_that_is_configured_away_is_left_for_another() {
    let (mut bench, client) = bench(2);
    let (backend, _) = bench.invite(client, "t25");
    let name = if backend == bench.link(0, B1) { "b0" } else { "b1" };
    bench.reconfigure(|settings| {
        settings.with_orders(
            |_, it| {
                if it == name { settings::Order::Down } else { settings::Order::Up }
            },
        )
    });
    let (other, arrived) = bench.at_backend();
    assert_ne!(other, backend);
    bench.send(other, &response(&arrived, "200 OK"));
    assert!(bench.take(client).starts_with("SIP/2.0 200"));
}

#[test]
fn four_attempts_are_the_most() {
    let (mut bench, client) = bench(6);
    bench.send(client, &hop("REGISTER", "t26"));
    let mut asked = Vec::new();
    for _ in 0..4 {
        let (backend, _) = bench.at_backend();
        asked.push(backend);
        bench.hang_up(backend);
    }
    asked.sort_unstable_by_key(|(_, conn)| conn.slot);
    asked.dedup();
    assert_eq!(asked.len(), 4);
    assert!(bench.take(client).starts_with("SIP/2.0 503"));
    assert!(!bench.sent.contains_key(&bench.link(0, B3)) && bench.live() == 0);
}

/// The pool that keeps no state is as it was.
#[test]
fn without_failover_nothing_is_kept() {
    let mut bench = Bench::with(1, pool_of(&[(100, 0), (100, 0)]));
    let client = bench.client();
    bench.send(client, &hop("INVITE", "t27"));
    assert!(bench.nothing_at(client) && bench.live() == 0);
    let (backend, arrived) = bench.at_backend();
    bench.send(client, &hop("CANCEL", "t27"));
    let cancel = bench.take(backend);
    assert_eq!(branch(&cancel), branch(&arrived));
    assert_eq!(header(&cancel, "Via").len(), 2);
}
