//! Scripted phones that call each other through the embedded backend, each on its own TLS connection.

use std::time::Duration;

use ringfront::base::machine::{Input, Machine};
use ringfront::base::time::Instant;
use ringfront::peer::uac::{Outcome, Phones, Profile, Progress, Step};

use super::sides::sides;
use super::wire::Wire;

fn call(scripts: [Vec<Step>; 2], secure: bool) -> Vec<Progress> {
    let (server, client) = sides(false);
    let (server, client) = if secure { (Some(server), Some(client)) } else { (None, None) };
    let names = ["alice", "bob"];
    let profiles = names.into_iter().zip(scripts).map(|(user, script)| Profile {
        user: user.into(),
        domain: "example.com".into(),
        target: "127.0.0.1:5070".parse().unwrap(),
        tls: client.clone(),
        script,
    });
    let profiles: Vec<_> = profiles.collect();
    let mut wire = Wire::new(|now| Phones::new(profiles, 9, now), 4, server, 100);
    wire.run(Duration::from_secs(120), Phones::is_over);
    let progress = wire.dialler.report(wire.now, Vec::new());
    wire.dialler.handle(wire.now, Input::Drain { deadline: Instant::FAR });
    wire.run(Duration::from_secs(1), |_| false);
    assert!(wire.dialler.drained());
    progress
}

fn bob() -> Box<str> {
    "sip:bob@example.com".into()
}

#[test]
fn a_call_is_held_resumed_and_hung_up_by_the_callee() {
    use Step::*;
    for secure in [false, true] {
        let [alice, bob]: [Progress; 2] = call(
            [
                vec![
                    Register { expires: 600 },
                    Meet { point: 1 },
                    Call { to: bob() },
                    Hold,
                    Resume,
                    AwaitHangUp,
                    Register { expires: 0 },
                ],
                vec![
                    Register { expires: 600 },
                    Meet { point: 1 },
                    AwaitCall,
                    AwaitChange,
                    AwaitChange,
                    HangUp,
                ],
            ],
            secure,
        )
        .try_into()
        .unwrap();
        assert_eq!(
            (&alice.outcome, &bob.outcome),
            (&Outcome::Done, &Outcome::Done),
            "{alice:#?} {bob:#?}"
        );
        let bob_uri = "sip:bob@bob.invalid;transport=tcp";
        assert_eq!(
            alice.ladder.join("\n"),
            format!(
                "> REGISTER sip:example.com\n< 200 REGISTER\n> INVITE sip:bob@example.com\n< 180 INVITE\n\
                 < 200 INVITE\n> ACK {bob_uri};ob\n> INVITE {bob_uri};ob\n< 200 INVITE\n> ACK {bob_uri};ob\n\
                 > INVITE {bob_uri};ob\n< 200 INVITE\n> ACK {bob_uri};ob\n\
                 < BYE sip:alice@alice.invalid;transport=tcp\n> 200 BYE\n\
                 > REGISTER sip:example.com\n< 200 REGISTER"
            )
        );
    }
}

#[test]
fn a_ringing_call_is_cancelled_and_messages_and_pings_go_through() {
    use Step::*;
    let outcomes: Vec<_> = call(
        [
            vec![
                Ping,
                Register { expires: 600 },
                Reconnect,
                Register { expires: 600 },
                Meet { point: 1 },
                CallAndCancel { to: bob() },
                Pause { time: Duration::from_secs(3) },
                Message { to: bob() },
                CallRefused { to: "sip:nobody@example.com".into(), status: 404 },
            ],
            vec![Register { expires: 600 }, Meet { point: 1 }, AwaitCancel, AwaitMessage],
        ],
        true,
    )
    .into_iter()
    .map(|progress| progress.outcome)
    .collect();
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);
}

#[test]
fn a_phone_that_waits_in_vain_or_is_refused_says_so() {
    use Step::*;
    let outcomes: Vec<_> =
        call([vec![AwaitCall], vec![Call { to: "sip:nobody@example.com".into() }]], false)
            .into_iter()
            .map(|progress| progress.outcome)
            .collect();
    let failed = |why: &str| Outcome::Failed { step: 0, why: why.into() };
    assert_eq!(outcomes, [failed("nothing came: Request"), failed("404 to INVITE")]);
}
