//! Scripted phones against the real front-end, from end to end: TLS on IPv4 and TCP on IPv6 at the edge, the embedded
//! backend behind it. Requests to a phone come along its Path by the flow token, also on another worker's connection.

#[expect(dead_code, reason = "the other tests of the binary need more of it")]
mod process;
#[path = "process/talk.rs"]
mod talk;

use std::path::Path;
use std::time::Duration;

use process::{FrontEnd, alone};
use ringfront::peer::uac::Step::{self, *};
use ringfront::peer::uac::{Outcome, Profile, Progress};

/// Alice on TLS and IPv4, bob on TCP and IPv6, each with its script; what they saw.
fn talk(directory: &Path, alice: Vec<Step>, bob: Vec<Step>) -> [Progress; 2] {
    let side = talk::client_side(&directory.join("ringfront-state/ringfront-ca.pem"));
    let profile = |user: &str, target: &str, tls, script| Profile {
        user: user.into(),
        domain: "example.com".into(),
        target: target.parse().expect("an address"),
        tls,
        script,
    };
    let profiles = vec![
        profile("alice", "127.0.0.1:5061", Some(side), alice),
        profile("bob", "[::1]:5060", None, bob),
    ];
    talk::talk(profiles).try_into().expect("two phones")
}

fn assert_done(phones: &[Progress; 2]) {
    for phone in phones {
        assert_eq!(phone.outcome, Outcome::Done, "{phones:#?}");
    }
}

fn to(uri: &str) -> Box<str> {
    uri.into()
}

#[test]
fn a_call_from_tls_to_tcp_is_held_resumed_and_ended_by_either_side() {
    alone("a_call_from_tls_to_tcp_is_held_resumed_and_ended_by_either_side", || {
        let directory = tempfile::tempdir().expect("a directory");
        let _front_end = FrontEnd::start(directory.path(), &[]);
        let register = Register { expires: 600 };
        let phones = talk(
            directory.path(),
            vec![
                register.clone(),
                Ping,
                Meet { point: 1 },
                Call { to: to("sip:bob@example.com") },
                Hold,
                Resume,
                AwaitHangUp,
                AwaitCall,
                HangUp,
                Register { expires: 0 },
            ],
            vec![
                register,
                Meet { point: 1 },
                AwaitCall,
                AwaitChange,
                AwaitChange,
                HangUp,
                Call { to: to("sip:alice@example.com") },
                AwaitHangUp,
            ],
        );
        assert_done(&phones);
        let [alice, bob] = &phones;
        // The request reached bob at the address that he has registered.
        let invite = "< INVITE sip:bob@bob.invalid;transport=tcp".to_owned();
        assert!(bob.ladder.contains(&invite), "{:#?}", bob.ladder);
        let bye = "< BYE sip:alice@alice.invalid;transport=tcp";
        assert!(alice.ladder.iter().any(|line| line.starts_with(bye)), "{:#?}", alice.ladder);
    });
}

#[test]
fn calls_are_cancelled_refused_and_answered_by_the_backend_itself() {
    alone("calls_are_cancelled_refused_and_answered_by_the_backend_itself", || {
        let directory = tempfile::tempdir().expect("a directory");
        let _front_end = FrontEnd::start(directory.path(), &[]);
        let register = Register { expires: 600 };
        let phones = talk(
            directory.path(),
            vec![
                register.clone(),
                Meet { point: 1 },
                CallAndCancel { to: to("sip:bob@example.com") },
                CallAndCancel { to: to("sip:ringer@example.com") },
                CallRefused { to: to("sip:nobody@example.com"), status: 404 },
                Call { to: to("sip:echo@example.com") },
                Hold,
                HangUp,
                Message { to: to("sip:bob@example.com") },
            ],
            vec![register, Meet { point: 1 }, AwaitCancel, AwaitMessage],
        );
        assert_done(&phones);
    });
}

#[test]
fn a_phone_that_has_dialled_anew_is_found_on_its_new_connection() {
    alone("a_phone_that_has_dialled_anew_is_found_on_its_new_connection", || {
        let directory = tempfile::tempdir().expect("a directory");
        let _front_end = FrontEnd::start(directory.path(), &[]);
        let register = Register { expires: 600 };
        let phones = talk(
            directory.path(),
            vec![
                register.clone(),
                Reconnect,
                // Not registered anew yet: the flow of the token is gone (RFC 5626 5.3.1).
                Meet { point: 1 },
                Meet { point: 2 },
                register.clone(),
                Meet { point: 3 },
                AwaitCall,
                AwaitHangUp,
            ],
            vec![
                register,
                Pause { time: Duration::from_millis(100) },
                Meet { point: 1 },
                CallRefused { to: to("sip:alice@example.com"), status: 430 },
                Meet { point: 2 },
                Meet { point: 3 },
                Call { to: to("sip:alice@example.com") },
                HangUp,
            ],
        );
        assert_done(&phones);
    });
}
