//! Call flows through the front-end, as ladders: two workers, one backend `b0` with a link to each worker (`b0/0`,
//! `b0/1`), phones whose connections come to the worker that the test says. Every message is also judged by the
//! simulator's naive reference proxy and its other judges.
#![cfg(feature = "sim")]

use ringfront::sim::stage::Stage;

#[track_caller]
fn expect(stage: &mut Stage, ladder: &str) {
    let found = stage.ladder();
    let expected: String = ladder.trim().lines().map(|line| format!("{}\n", line.trim())).collect();
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

#[test]
fn options_to_ourselves_and_to_a_backend() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).ask("alice", "OPTIONS", "sip:edge.example.com");
    expect(
        &mut stage,
        r"
        alice  -> edge   OPTIONS
        edge   -> alice  200 to OPTIONS
        ",
    );
    stage.ask("alice", "OPTIONS", "sip:service@edge.example.com");
    expect(
        &mut stage,
        r"
        alice  -> edge   OPTIONS
        edge   -> b0/0   OPTIONS  +Via  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   200
        edge   -> alice  200      -Via
        ",
    );
}

#[test]
fn a_registration_gets_a_path_with_a_flow_token() {
    let mut stage = Stage::new();
    stage.connect("alice", 1).register("alice");
    expect(
        &mut stage,
        r"
        alice  -> edge   REGISTER
        edge   -> b0/1   REGISTER +Via  +Path  +Max-Breadth  Max-Forwards 70>69
        b0/1   -> edge   200
        edge   -> alice  200      -Via
        ",
    );
    assert_eq!(stage.path_of("alice"), "<sip:TOKEN@10.0.0.1:5070;transport=tcp;lr>");
}

#[test]
fn a_call_from_a_phone_goes_on_in_both_directions() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).ask("alice", "INVITE", "sip:service@edge.example.com").pick_up();
    expect(
        &mut stage,
        r"
        alice  -> edge   INVITE
        edge   -> b0/0   INVITE   +Via  +2 Record-Route  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   180
        edge   -> alice  180      -Via
        b0/0   -> edge   200
        edge   -> alice  200      -Via
        alice  -> edge   ACK
        edge   -> b0/0   ACK      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        ",
    );
    // The backend's own re-INVITE may come on any of its connections: it crosses to the worker of the flow.
    stage.within("alice", "INVITE").backend_within(1, "INVITE");
    expect(
        &mut stage,
        r"
        alice  -> edge   INVITE
        edge   -> b0/0   INVITE   +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   200
        edge   -> alice  200      -Via
        alice  -> edge   ACK
        edge   -> b0/0   ACK      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        b0/1   -> edge   INVITE
        edge   -> alice  INVITE   +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        alice  -> edge   200
        edge   -> b0/1   200      -Via
        b0/1   -> edge   ACK
        edge   -> alice  ACK      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        ",
    );
    stage.within("alice", "BYE");
    expect(
        &mut stage,
        r"
        alice  -> edge   BYE
        edge   -> b0/0   BYE      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   200
        edge   -> alice  200      -Via
        ",
    );
}

#[test]
fn a_call_to_a_phone_crosses_to_its_worker_and_back() {
    let mut stage = Stage::new();
    stage.connect("bob", 1).register("bob").ladder();
    stage.backend_asks(0, "INVITE", "bob").pick_up().within("bob", "BYE");
    expect(
        &mut stage,
        r"
        b0/0   -> edge   INVITE
        edge   -> bob    INVITE   +Via  +2 Record-Route  -Route  +Max-Breadth  Max-Forwards 70>69
        bob    -> edge   180
        edge   -> b0/0   180      -Via
        bob    -> edge   200
        edge   -> b0/0   200      -Via
        b0/0   -> edge   ACK
        edge   -> bob    ACK      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        bob    -> edge   BYE
        edge   -> b0/1   BYE      +Via  -2 Route  +Max-Breadth  Max-Forwards 70>69
        b0/1   -> edge   200
        edge   -> bob    200      -Via
        ",
    );
}

#[test]
fn phones_talk_through_us_alone_when_the_backend_stays_out() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).connect("bob", 1).register("bob").ladder();
    stage.ask("alice", "INVITE", "sip:u1@edge.example.com").pick_up();
    expect(
        &mut stage,
        r"
        alice  -> edge   INVITE
        edge   -> b0/0   INVITE   +Via  +2 Record-Route  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   INVITE
        edge   -> bob    INVITE   +Via  +2 Record-Route  -Route  Max-Forwards 68>67
        bob    -> edge   180
        edge   -> b0/0   180      -Via
        b0/0   -> edge   180
        edge   -> alice  180      -Via
        bob    -> edge   200
        edge   -> b0/0   200      -Via
        b0/0   -> edge   200
        edge   -> alice  200      -Via
        alice  -> edge   ACK
        edge   -> bob    ACK      +Via  -4 Route  +Max-Breadth  Max-Forwards 70>69
        ",
    );
    stage.within("alice", "INVITE").within("bob", "BYE");
    expect(
        &mut stage,
        r"
        alice  -> edge   INVITE
        edge   -> bob    INVITE   +Via  -4 Route  +Max-Breadth  Max-Forwards 70>69
        bob    -> edge   200
        edge   -> alice  200      -Via
        alice  -> edge   ACK
        edge   -> bob    ACK      +Via  -4 Route  +Max-Breadth  Max-Forwards 70>69
        bob    -> edge   BYE
        edge   -> alice  BYE      +Via  -4 Route  +Max-Breadth  Max-Forwards 70>69
        alice  -> edge   200
        edge   -> bob    200      -Via
        ",
    );
}

#[test]
fn a_cancel_follows_its_invite() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).ask("alice", "INVITE", "sip:service@edge.example.com");
    stage.cancel("alice");
    expect(
        &mut stage,
        r"
        alice  -> edge   INVITE
        edge   -> b0/0   INVITE   +Via  +2 Record-Route  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   180
        edge   -> alice  180      -Via
        alice  -> edge   CANCEL
        edge   -> b0/0   CANCEL   +Via  +Max-Breadth  Max-Forwards 70>69
        b0/0   -> edge   200
        b0/0   -> edge   487
        edge   -> alice  200      -Via
        edge   -> alice  487      -Via
        alice  -> edge   ACK
        edge   -> b0/0   ACK      +Via  +Max-Breadth  Max-Forwards 70>69
        ",
    );
}

#[test]
fn a_dead_flow_is_430_here_and_on_the_other_worker() {
    let mut stage = Stage::new();
    stage.connect("bob", 1).register("bob").hang_up("bob").ladder();
    stage.backend_asks(1, "INVITE", "bob").backend_asks(0, "MESSAGE", "bob");
    expect(
        &mut stage,
        r"
        b0/1   -> edge   INVITE
        edge   -> b0/1   430 to INVITE
        b0/1   -> edge   ACK
        b0/0   -> edge   MESSAGE
        edge   -> b0/0   430 to MESSAGE
        ",
    );
}

#[test]
fn a_flow_of_a_workers_earlier_life_is_430() {
    let mut stage = Stage::new();
    stage.connect("bob", 1).register("bob").panic(1);
    // Carol's connection is in the slot that Bob's was in.
    stage.connect("carol", 1).ladder();
    stage.backend_asks(0, "MESSAGE", "bob");
    expect(
        &mut stage,
        r"
        b0/0   -> edge   MESSAGE
        edge   -> b0/0   430 to MESSAGE
        ",
    );
}

#[test]
fn a_token_of_another_flow_and_a_forged_one_are_403() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).connect("bob", 1).register("bob").ladder();
    stage.ask_by_path_of("alice", "bob", false).ask_by_path_of("alice", "bob", true);
    expect(
        &mut stage,
        r"
        alice  -> edge   MESSAGE
        edge   -> alice  403 to MESSAGE
        alice  -> edge   MESSAGE
        edge   -> alice  403 to MESSAGE
        ",
    );
}

#[test]
fn a_response_counts_only_from_the_peer_and_for_the_call_that_was_asked() {
    let mut stage = Stage::new();
    stage.connect("alice", 0).connect("carol", 0);
    stage.ask("alice", "OPTIONS", "sip:service@edge.example.com").ladder();
    stage.answers_for_backend("carol").backend_answers_other_call(0);
    expect(
        &mut stage,
        r"
        carol  -> edge   200
        b0/0   -> edge   200
        ",
    );
    // An answer to a request of a worker's earlier life finds nobody, though its branch is ours.
    stage.panic(0).connect("bob", 0).ladder();
    stage.backend_answers_again(1);
    expect(&mut stage, "b0/1   -> edge   200");
}
