//! Calls between registered users, through a front-end and without: Request-URI, Route, Via, Max-Forwards, and that a
//! response reaches only the one who asked.

use std::time::Duration;

use super::house::{House, request, respond, through_edge};

const ALICE: &str = "sip:alice@10.0.0.8:4000";
const BOB: &str = "sip:bob@10.0.0.9:4000";

fn register(user: &str, contact: &str, path: &str) -> String {
    let path = if path.is_empty() { String::new() } else { format!("\nPath: {path}") };
    request(
        "REGISTER",
        "sip:example.com",
        user,
        &format!("To: <sip:{user}@example.com>\nCall-ID: r-{user}\nContact: <{contact}>{path}"),
    )
}

/// Bob behind a front-end with two connections, alice too.
fn house() -> House {
    let mut house = House::new();
    for name in ["edge-1", "edge-2"] {
        house.join(name);
    }
    house.say("edge-1", &through_edge(&register("bob", BOB, "<sip:flow-b@edge;lr;ob>")));
    house.say("edge-2", &through_edge(&register("alice", ALICE, "<sip:flow-a@edge;lr;ob>")));
    house.ladder();
    house
}

fn invite() -> String {
    let head = format!("Contact: <{ALICE}>\nRecord-Route: <sip:a@edge;lr>");
    through_edge(&request("INVITE", "sip:bob@example.com", "alice", &head))
}

#[test]
fn a_call_between_two_users_goes_along_the_path_and_comes_back_by_the_branch() {
    let mut house = house();
    house.say("edge-2", &invite());
    // On the connection of the registration: its own Via, one hop less, the Contact, the Path as Route.
    assert_eq!(house.ladder(), format!("-> edge-1 INVITE {BOB} hops=69 vias=3 routes=1\n"));
    assert_eq!(house.header("edge-1", "Route"), ["<sip:flow-b@edge;lr;ob>"]);
    assert_eq!(house.header("edge-1", "Record-Route"), ["<sip:a@edge;lr>"]);
    let received = house.last("edge-1").to_owned();
    for (status, seen) in [("100 Trying", ""), ("180 Ringing", "180"), ("200 OK", "200")] {
        house.say("edge-1", &respond(&received, status, &format!("Contact: <{BOB}>\n")));
        let expected = match seen {
            "" => String::new(),
            seen => format!("-> edge-2 {seen} INVITE vias=2\n"),
        };
        assert_eq!(house.ladder(), expected);
    }
    // In the dialog the Request-URI is the Contact; with the front-end's Route it goes along that.
    let ack = request("ACK", BOB, "alice", "To: <sip:bob@example.com>;tag=there");
    house.say("edge-2", &through_edge(&ack));
    assert_eq!(house.ladder(), format!("-> edge-1 ACK {BOB} hops=69 vias=3 routes=1\n"));
    let routed = "To: <sip:bob@example.com>;tag=there\nRoute: <sip:flow-b@edge;lr>\nCSeq: 2 BYE";
    house.say("edge-2", &through_edge(&request("BYE", BOB, "alice", routed)));
    assert_eq!(house.ladder(), format!("-> edge-2 BYE {BOB} hops=69 vias=3 routes=1\n"));
}

#[test]
fn cancel_and_the_ack_of_a_refusal_have_the_branch_of_the_invite() {
    let mut house = house();
    let mut branches = Vec::new();
    for method in ["INVITE", "CANCEL", "ACK"] {
        let text = request(method, "sip:bob@example.com", "alice", &format!("CSeq: 1 {method}"));
        house.say("edge-2", &through_edge(&text));
        branches.push(house.header("edge-1", "Via")[0].clone());
    }
    assert!(branches[0].contains(";branch=z9hG4bK"), "{branches:?}");
    assert!(branches.iter().all(|via| *via == branches[0]), "{branches:?}");
}

#[test]
fn a_response_counts_only_from_the_connection_that_was_asked_and_for_that_call() {
    let mut house = house();
    house.say("edge-2", &invite());
    let received = house.last("edge-1").to_owned();
    house.ladder();
    let good = respond(&received, "200 OK", "");
    house.say("edge-2", &good);
    house.say("edge-1", &good.replace("Call-ID: call-1", "Call-ID: call-2"));
    house.say("edge-1", &good.replace("CSeq: 1 INVITE", "CSeq: 2 INVITE"));
    house.say("edge-1", &good.replacen("z9hG4bKrfrly0", "z9hG4bKrfrly1", 1));
    house.say("edge-1", &good.replacen("z9hG4bKrfrly", "z9hG4bKother", 1));
    assert_eq!(house.ladder(), "");
    assert_eq!(house.counts().responses_refused, 5);
    house.say("edge-1", &good);
    assert_eq!(house.ladder(), "-> edge-2 200 INVITE vias=2\n");
}

#[test]
fn a_lost_connection_is_replaced_by_another_of_the_front_end() {
    let mut house = house();
    house.lose("edge-1");
    house.say("edge-2", &invite());
    assert_eq!(house.ladder(), format!("-> edge-2 INVITE {BOB} hops=69 vias=3 routes=1\n"));
}

#[test]
fn a_phone_without_front_end_is_reached_on_its_own_connection_or_not_at_all() {
    let mut house = House::new();
    house.join("alice");
    house.join("bob");
    house.say("bob", &register("bob", BOB, ""));
    house.ladder();
    let message = request("MESSAGE", "sip:bob@anywhere", "alice", "Route: <sip:127.0.0.1:5070;lr>");
    house.say("alice", &message);
    assert_eq!(house.ladder(), format!("-> bob    MESSAGE {BOB} hops=69 vias=2 routes=0\n"));
    house.lose("bob");
    house.say("alice", &message);
    assert_eq!(house.ladder(), "-> alice  480 MESSAGE vias=1\n");
    // Gone, but not forgotten: nobody answers in bob's name.
    house.pass(Duration::from_secs(3700));
    house.say("alice", &message);
    assert_eq!(house.ladder(), "-> alice  480 MESSAGE vias=1\n");
    house.pass(Duration::from_secs(3700));
    house.say("alice", &message);
    assert_eq!(house.ladder(), "-> alice  200 MESSAGE vias=1\n");
}

#[test]
fn a_foreign_route_is_followed_only_for_a_front_end() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", &request("MESSAGE", "sip:bob@x", "alice", "Route: <sip:elsewhere;lr>"));
    assert_eq!(house.ladder(), "-> alice  480 MESSAGE vias=1\n");
}

#[test]
fn what_a_proxy_must_refuse() {
    let mut house = house();
    for (extra, status) in [("Proxy-Require: magic", 420), ("Max-Forwards: 0", 483)] {
        let text = request("MESSAGE", "sip:bob@example.com", "alice", extra);
        let text = match extra {
            "Max-Forwards: 0" => text.replacen("Max-Forwards: 70\n", "", 1),
            _ => text,
        };
        house.say("edge-2", &through_edge(&text));
        assert_eq!(house.ladder(), format!("-> edge-2 {status} MESSAGE vias=2\n"));
    }
}

#[test]
fn sips_ends_at_sips_and_the_scheme_asked_for_stays() {
    let mut house = house();
    house.say("edge-2", &through_edge(&request("MESSAGE", "sips:bob@example.com", "alice", "")));
    assert_eq!(house.ladder(), "-> edge-2 480 MESSAGE vias=2\n");
    let secure = "sips:bob@10.0.0.9:4001";
    house.say(
        "edge-1",
        &through_edge(
            &register("bob", secure, "<sip:flow-s@edge;lr;ob>").replace("r-bob", "s-bob"),
        ),
    );
    house.ladder();
    for (asked, sent) in
        [("sips:bob@example.com", secure), ("sip:bob@example.com", "sip:bob@10.0.0.9:4001")]
    {
        house.say("edge-2", &through_edge(&request("MESSAGE", asked, "alice", "")));
        assert_eq!(house.ladder(), format!("-> edge-1 MESSAGE {sent} hops=69 vias=3 routes=1\n"));
    }
}
