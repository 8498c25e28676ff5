//! Calls to users whom nobody has registered: answered, cancelled, given up; and what is not offered.

use std::time::Duration;

use super::house::{House, request};

const ECHO: &str = "sip:echo@127.0.0.1:5070";

fn invite(uri: &str) -> String {
    let offer =
        "v=0\no=a 1 1 IN IP4 10.0.0.1\ns=-\nc=IN IP4 10.0.0.1\nt=0 0\nm=audio 4000 RTP/AVP 8\n";
    let head = "Contact: <sip:alice@10.0.0.1:5000>\nRecord-Route: <sip:two;lr>,<sip:one;lr>";
    request("INVITE", uri, "alice", &format!("{head}\nContent-Type: application/sdp\n\n{offer}"))
}

/// A later request of the dialog that the last response to alice belongs to.
fn within(house: &House, method: &str, cseq: u32) -> String {
    let to = house.header("alice", "To").join("");
    request(method, ECHO, "alice", &format!("To: {to}\nCSeq: {cseq} {method}"))
}

#[test]
fn a_call_is_answered_with_route_contact_and_session() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", &invite(ECHO));
    assert_eq!(house.ladder(), "-> alice  180 INVITE vias=1\n-> alice  200 INVITE vias=1\n");
    assert_eq!(house.header("alice", "Record-Route"), ["<sip:two;lr>,<sip:one;lr>"]);
    assert_eq!(house.header("alice", "Contact"), ["<sip:echo@127.0.0.1:5070;transport=tcp>"]);
    assert!(house.last("alice").ends_with("m=audio 9 RTP/AVP 8\r\na=inactive\r\n"));
    house.say("alice", &within(&house, "ACK", 1));
    house.pass(Duration::from_secs(60));
    assert_eq!(house.ladder(), "");
    house.say("alice", &within(&house, "BYE", 2));
    assert_eq!(house.ladder(), "-> alice  200 BYE vias=1\n");
    assert_eq!(house.counts().calls_waiting, 0);
}

#[test]
fn without_ack_the_answer_comes_again_and_then_a_bye_along_the_route_set() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", &invite(ECHO));
    house.ladder();
    house.pass(Duration::from_secs(10));
    // After 0.5, 1.5, 3.5 and 7.5 seconds.
    assert_eq!(house.ladder(), "-> alice  200 INVITE vias=1\n".repeat(4));
    house.pass(Duration::from_secs(30));
    let ladder = house.ladder();
    assert!(
        ladder.ends_with("-> alice  BYE sip:alice@10.0.0.1:5000 hops=70 vias=1 routes=2\n"),
        "{ladder}"
    );
    assert_eq!(house.header("alice", "Route"), ["<sip:two;lr>", "<sip:one;lr>"]);
    assert!(house.header("alice", "From")[0].contains("sip:echo@127.0.0.1:5070>;tag="));
    assert_eq!(house.header("alice", "To"), ["<sip:alice@example.com>;tag=alice"]);
    house.pass(Duration::from_secs(60));
    assert_eq!(house.ladder(), "");
}

#[test]
fn one_who_rings_can_be_cancelled() {
    let mut house = House::new();
    house.join("alice");
    let uri = "sip:ringer@127.0.0.1:5070";
    house.say("alice", &invite(uri));
    assert_eq!(house.ladder(), "-> alice  180 INVITE vias=1\n");
    house.say("alice", &request("CANCEL", uri, "alice", ""));
    assert_eq!(house.ladder(), "-> alice  200 CANCEL vias=1\n-> alice  487 INVITE vias=1\n");
    house.pass(Duration::from_secs(60));
    assert_eq!(house.ladder(), "");
    house.say("alice", &request("CANCEL", uri, "alice", ""));
    assert_eq!(house.ladder(), "-> alice  481 CANCEL vias=1\n");
}

#[test]
fn one_who_rings_answers_after_ten_seconds() {
    let mut house = House::new();
    house.join("alice");
    let uri = "sip:ringer@127.0.0.1:5070";
    house.say("alice", &invite(uri));
    house.ladder();
    house.pass(Duration::from_secs(9));
    assert_eq!(house.ladder(), "");
    house.pass(Duration::from_millis(1_400));
    assert_eq!(house.ladder(), "-> alice  200 INVITE vias=1\n");
    house.say("alice", &request("CANCEL", uri, "alice", ""));
    // Too late: the CANCEL is answered and changes nothing (RFC 3261 9.2).
    assert_eq!(house.ladder(), "-> alice  200 CANCEL vias=1\n");
}

#[test]
fn a_dialog_is_renewed_and_a_foreign_one_is_not_known() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", &invite(ECHO));
    house.say("alice", &within(&house, "ACK", 1));
    house.ladder();
    house.say("alice", &within(&house, "INVITE", 2));
    assert_eq!(house.ladder(), "-> alice  200 INVITE vias=1\n");
    for method in ["INVITE", "BYE", "MESSAGE"] {
        let foreign = "To: <sip:echo@127.0.0.1:5070>;tag=other";
        house.say("alice", &request(method, ECHO, "alice", &format!("{foreign}\nCall-ID: x")));
        assert_eq!(house.ladder(), format!("-> alice  481 {method} vias=1\n"));
    }
}

#[test]
fn what_is_offered_and_what_is_not() {
    let mut house = House::new();
    house.join("alice");
    for (method, uri, extra, status) in [
        ("OPTIONS", "sip:127.0.0.1:5070", "", 200),
        ("OPTIONS", ECHO, "", 200),
        ("MESSAGE", ECHO, "", 200),
        ("MESSAGE", "sip:nobody@127.0.0.1:5070", "", 404),
        ("MESSAGE", "sip:127.0.0.1:5070", "", 404),
        ("INVITE", ECHO, "Require: 100rel", 420),
        ("INVITE", ECHO, "Content-Type: text/plain\n\nhello", 415),
        ("INVITE", ECHO, "Content-Type: application/sdp\n\nm=video 1 RTP/AVP 31\n", 488),
        ("BYE", ECHO, "", 481),
        ("SUBSCRIBE", ECHO, "", 405),
        ("UPDATE", ECHO, "", 405),
        ("JUMP", ECHO, "", 501),
        ("OPTIONS", "https:x", "", 416),
        ("ACK", ECHO, "", 0),
    ] {
        house.say("alice", &request(method, uri, "alice", &format!("Call-ID: {method}\n{extra}")));
        let expected = match status {
            0 => String::new(),
            status => format!("-> alice  {status} {method} vias=1\n"),
        };
        assert_eq!(house.ladder(), expected, "{method} {uri} {extra}");
    }
    house.say("alice", &request("OPTIONS", ECHO, "alice", ""));
    assert_eq!(house.header("alice", "Accept"), ["application/sdp, text/plain"]);
    assert_eq!(house.header("alice", "Supported"), ["path, outbound"]);
    // RFC 3261 18.2.1: sent-by is not where it came from, had it been another.
    house.join("bob");
    house.say("bob", &request("OPTIONS", ECHO, "alice", ""));
    assert!(house.header("bob", "Via")[0].ends_with(";received=10.0.0.2"));
}
