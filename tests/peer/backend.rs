//! REGISTER: contacts, expiry, Path, outbound; and what the registrar refuses.

use std::time::Duration;

use super::house::{House, request, through_edge};

const ALICE: &str = "sip:alice@10.0.0.9:4000;transport=tcp";

fn register(extra: &str) -> String {
    request(
        "REGISTER",
        "sip:example.com",
        "alice",
        &format!("To: <sip:alice@example.com>\n{extra}"),
    )
}

#[test]
fn a_registration_is_listed_renewed_and_removed() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", &register(&format!("Contact: <{ALICE}>;q=0.5;+x=\"y\"\nExpires: 60")));
    assert_eq!(house.ladder(), "-> alice  200 REGISTER vias=1\n");
    assert_eq!(house.header("alice", "Contact"), [format!("<{ALICE}>;+x=\"y\";expires=60")]);
    house.pass(Duration::from_secs(20));
    // No Contact: a question only.
    house.say("alice", &register("CSeq: 2 REGISTER"));
    assert_eq!(house.header("alice", "Contact"), [format!("<{ALICE}>;+x=\"y\";expires=40")]);
    house.say("alice", &register("CSeq: 3 REGISTER\nContact: *\nExpires: 0"));
    assert_eq!(house.header("alice", "Contact"), Vec::<String>::new());
    assert!(house.last("alice").starts_with("SIP/2.0 200 OK\r\n"));
}

#[test]
fn several_contacts_stand_in_one_list_each_with_its_time() {
    let mut house = House::new();
    house.join("alice");
    let list = format!("Contact: <{ALICE}>;expires=30, \"A, B\" <sip:a@h:1>\nExpires: 90");
    house.say("alice", &register(&list));
    let expected = format!("<{ALICE}>;expires=30, <sip:a@h:1>;expires=90");
    assert_eq!(house.header("alice", "Contact"), [expected]);
    house.pass(Duration::from_secs(31));
    house.say("alice", &register("CSeq: 2 REGISTER"));
    assert_eq!(house.header("alice", "Contact"), ["<sip:a@h:1>;expires=59"]);
}

#[test]
fn what_a_registrar_must_refuse() {
    let mut house = House::new();
    house.join("alice");
    let contact = format!("Contact: <{ALICE}>");
    for (extra, status) in [
        ("Contact: *".to_owned(), 400),
        (format!("Contact: *, <{ALICE}>\nExpires: 0"), 400),
        ("Contact: <tel:+1>".to_owned(), 400),
        (format!("{contact}\nRequire: path, magic"), 420),
        (contact.clone(), 200),
        // The same sequence number again, with something new.
        (format!("{contact}, <sip:a@h:1>"), 500),
        (
            format!(
                "CSeq: 9 REGISTER\nSupported: outbound\n{contact};reg-id=1;+sip.instance=\"<u>\", <sip:a@h:1>"
            ),
            400,
        ),
    ] {
        house.say("alice", &register(&extra));
        assert_eq!(house.ladder(), format!("-> alice  {status} REGISTER vias=1\n"), "{extra}");
    }
    // One contact is there already.
    let ten: Vec<_> = (1..=10).map(|port| format!("<sip:a@h:{port}>")).collect();
    house.say("alice", &register(&format!("Call-ID: other\nContact: {}", ten.join(","))));
    assert_eq!(house.ladder(), "-> alice  403 REGISTER vias=1\n");
    house.say("alice", &request("REGISTER", "sip:example.com", "alice", "To: <sip:example.com>"));
    assert_eq!(house.ladder(), "-> alice  404 REGISTER vias=1\n");
}

#[test]
fn path_comes_back_only_to_those_who_know_it() {
    let mut house = House::new();
    house.join("edge");
    let path = "Path: <sip:token@edge;lr>,<sip:inner;lr>";
    let contact = format!("Contact: <{ALICE}>");
    house.say("edge", &through_edge(&register(&format!("{contact}\n{path}"))));
    assert_eq!(house.header("edge", "Path"), Vec::<String>::new());
    house.say(
        "edge",
        &through_edge(&register(&format!("CSeq: 2 REGISTER\n{contact}\n{path}\nSupported: path"))),
    );
    assert_eq!(house.header("edge", "Path"), ["<sip:token@edge;lr>, <sip:inner;lr>"]);
}

#[test]
fn outbound_needs_a_first_hop_that_keeps_flows() {
    let mut house = House::new();
    house.join("edge");
    let contact = |port: u16| {
        format!("Contact: <sip:alice@h:{port}>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"")
    };
    let supported = "Supported: path, outbound";
    let bare = format!("{}\n{supported}\nPath: <sip:edge;lr>", contact(1));
    house.say("edge", &through_edge(&register(&bare)));
    assert_eq!(house.ladder(), "-> edge   439 REGISTER vias=2\n");
    for (cseq, port) in [(2, 1), (3, 2)] {
        let kept = format!(
            "CSeq: {cseq} REGISTER\n{}\n{supported}\nPath: <sip:token@edge;lr;ob>",
            contact(port)
        );
        house.say("edge", &through_edge(&register(&kept)));
        assert_eq!(house.header("edge", "Require"), ["outbound"]);
    }
    // The second contact has taken the place of the first: the same phone, the same flow.
    let list = house.header("edge", "Contact").join("");
    assert!(
        list.starts_with("<sip:alice@h:2>;reg-id=1;+sip.instance=\"<urn:uuid:1>\";expires="),
        "{list}"
    );
    assert!(!list.contains("sip:alice@h:1"), "{list}");
}

#[test]
fn a_ping_is_answered_and_a_lost_stream_is_told_so() {
    let mut house = House::new();
    house.join("alice");
    house.say("alice", "\n\n");
    assert_eq!(house.ladder(), "-> alice  CRLF\n");
    house.say("alice", &register("").replace("Content-Length: 0", "Content-Length: x"));
    assert_eq!(house.ladder(), "-> alice  400 REGISTER vias=1\n-> alice  closed\n");
    assert_eq!(house.counts().streams_lost, 1);
}
