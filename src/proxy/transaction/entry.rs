//! One transaction: its server side, the attempts on its client side, and what a response or the time does to them.
//! The machines of RFC 3261 17 as they are over reliable transports, where Timers A, E and G do not exist and D, I, J and
//! K are zero, with the Accepted state of RFC 6026 and the rules of RFC 4320. Pure: it sends nothing.
//! Invariant: the last attempt is the present one; those before it were given up and are only cleaned up after.

use smallvec::SmallVec;

use crate::base::machine::ConnId;
use crate::base::time::{Duration, Instant};
use crate::sip::Method;
use crate::telemetry::counter::Refused;

use super::super::connection::Source;
use super::super::token::{FlowId, PeerId};

/// How often one request is sent at most: enough to pass two dead backends and one that refuses, few enough that a pool
/// in distress is not asked by everybody in turn (RFC 7339 5.10.2 has the reason).
pub const ATTEMPTS_MAX: usize = 4;

/// 64*T1: Timers B, F, H, L and M (RFC 3261 17.1.1.2, 17.1.2.2, RFC 6026 8.4, 8.7), and how long a cancelled call may take
/// (RFC 3261 9.1).
pub const TIMEOUT: Duration = Duration::from_secs(32);
/// Timer C: more than three minutes (RFC 3261 16.6 step 11).
pub const TIMER_C: Duration = Duration::from_secs(181);
/// When Timer E of a client would have grown to T2: then a request that is no INVITE is told that it is under way, and
/// no earlier (RFC 4320 4.1).
pub const TRYING_AFTER: Duration = Duration::from_millis(3500);

/// What the branch of a request and of its responses says of their transaction (RFC 3261 17.1.3, 17.2.3): the unique
/// part covers the client's branch and sent-by; the flow is the connection that the request came on. ACK and CANCEL
/// are looked up as INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub unique: u64,
    pub flow: FlowId,
    pub method: Method,
}

/// The server side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Trying or Proceeding: no final response has gone back.
    Open,
    /// A 2xx to an INVITE has gone back; more may follow (RFC 6026 7.1).
    Accepted,
    /// Another final response to an INVITE has gone back; its ACK is awaited.
    Completed,
}

/// One client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Calling or Trying: nothing has come back.
    Sent,
    /// Proceeding.
    Provisional,
    /// A 2xx to an INVITE has come (RFC 6026 7.2).
    Accepted,
    /// Completed or Terminated: nothing that comes belongs to it any more.
    Over,
}

#[derive(Clone, Debug)]
pub struct Attempt {
    pub peer: PeerId,
    /// Where it went: its ACK and CANCEL go there, too.
    pub conn: ConnId,
    pub stage: Stage,
    /// Its CANCEL has gone out.
    pub cancelled: bool,
    /// The list of what is out on `conn`; the table's.
    pub listed: bool,
    pub previous: u32,
    pub next: u32,
    /// When it was sent, or what began its timer anew.
    pub since: Instant,
}

impl Attempt {
    pub fn new(peer: PeerId, conn: ConnId, now: Instant) -> Self {
        Attempt {
            peer,
            conn,
            stage: Stage::Sent,
            cancelled: false,
            listed: false,
            previous: 0,
            next: 0,
            since: now,
        }
    }

    /// A response to it may still come.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Provisional)
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub state: State,
    /// Where the request came from.
    pub source: Source,
    /// The request as it came; empty when nothing will be made of it any more.
    pub kept: Vec<u8>,
    pub attempts: SmallVec<[Attempt; ATTEMPTS_MAX]>,
    /// When the request came; in Accepted and Completed, when that began.
    pub since: Instant,
    /// It has a To tag.
    pub in_dialog: bool,
    /// The client has taken the INVITE back.
    pub cancelled: bool,
    /// A provisional has come to the INVITE: it is never sent again.
    pub rang: bool,
    /// A backend has answered 503: the next one that does is the last that is asked.
    pub refused: bool,
    /// `response_timeout` has passed and nobody else is there to ask.
    pub waits_on: bool,
    /// A request that is no INVITE was told that it is under way.
    pub told: bool,
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub pass: Pass,
    /// A CANCEL is due to the attempt that it belongs to.
    pub cancel: bool,
    /// An ACK is due to it.
    pub acknowledge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// To the client.
    Forward,
    /// To the client, and the server side is done with.
    Last,
    /// 503: another backend may be asked.
    Elsewhere,
    /// To nobody, for this reason.
    Drop(Refused),
    /// To nobody, and the transaction ends without an answer.
    End(Refused),
}

/// What the time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// The entry has served its time.
    Over,
    /// Timer B or C, or a cancelled call that nobody has answered.
    Unanswered,
    /// Timer F: nothing may be said any more (RFC 4320 4.2).
    Late,
    /// `response_timeout`.
    Silent,
    /// 100 is due to a request that is no INVITE.
    Tell,
}

impl Entry {
    pub fn new(key: Key, source: Source, kept: Vec<u8>, in_dialog: bool, now: Instant) -> Self {
        Entry {
            key,
            state: State::Open,
            source,
            kept,
            attempts: SmallVec::new(),
            since: now,
            in_dialog,
            cancelled: false,
            rang: false,
            refused: false,
            waits_on: false,
            told: false,
        }
    }

    pub fn is_invite(&self) -> bool {
        self.key.method == Method::Invite
    }

    /// Whether the request may be sent again though a byte of it was written: an INVITE, whose other branch the context
    /// cleans up after, and what does no harm twice; in a dialog only where backends share it (`shared`).
    pub fn is_repeatable(&self, shared: bool) -> bool {
        let harmless = matches!(
            self.key.method,
            Method::Invite
                | Method::Register
                | Method::Options
                | Method::Subscribe
                | Method::Publish
        );
        harmless && !self.rang && (shared || !self.in_dialog)
    }

    pub fn present(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Whether this is the attempt that the client's answer is expected of.
    pub fn is_present(&self, number: usize) -> bool {
        number + 1 == self.attempts.len()
    }

    /// Attempts that nothing final has come from.
    pub fn has_open_attempts(&self) -> bool {
        self.attempts.iter().any(Attempt::is_open)
    }

    /// A response with this status has come to an attempt (RFC 3261 16.7, 17.1; RFC 6026 7.2, 8.4).
    pub fn receive(&mut self, number: usize, status: u16, now: Instant) -> Verdict {
        let stray =
            Verdict { pass: Pass::Drop(Refused::ResponseStray), cancel: false, acknowledge: false };
        let (invite, present) = (self.is_invite(), self.is_present(number));
        let Some(attempt) = self.attempts.get_mut(number) else { return stray };
        let forwarded = Verdict { pass: Pass::Forward, ..stray };
        match (attempt.stage, status) {
            (Stage::Accepted, 200..300) => forwarded,
            (Stage::Accepted | Stage::Over, _) => stray,
            (_, ..200) => self.receive_provisional(number, status, now),
            (_, 200..300) if invite => {
                attempt.stage = Stage::Accepted;
                Verdict { pass: Pass::Last, ..stray }
            }
            (stage, _) => {
                attempt.stage = Stage::Over;
                let waits = self.state == State::Open;
                let pass = match status {
                    // RFC 4320 4.2: no 408 to a request that is no INVITE.
                    408 if !invite && present => Pass::End(Refused::ResponseLate),
                    503 if present && waits && stage == Stage::Sent => Pass::Elsewhere,
                    _ if waits && present => Pass::Last,
                    _ if waits && !invite && !matches!(status, 408 | 503) => Pass::Last,
                    _ => Pass::Drop(Refused::ResponseLate),
                };
                Verdict { pass, cancel: false, acknowledge: invite }
            }
        }
    }

    fn receive_provisional(&mut self, number: usize, status: u16, now: Instant) -> Verdict {
        let (invite, present) = (self.is_invite(), self.is_present(number));
        let wanted = present && self.state == State::Open;
        let cancel = invite && (self.cancelled || !wanted);
        self.rang |= invite;
        let attempt = &mut self.attempts[number];
        let first = attempt.stage == Stage::Sent;
        attempt.stage = Stage::Provisional;
        let cancel = cancel && !attempt.cancelled;
        attempt.cancelled |= cancel;
        // Timer C runs from the first one, and anew from each but 100 (16.7 step 2); a CANCEL has its own.
        if cancel || (!attempt.cancelled && (first || status > 100)) {
            attempt.since = now;
        }
        let pass = match status {
            100 => Pass::Drop(Refused::ResponseTrying),
            // RFC 4320 4.1: none but 100 to a request that is no INVITE.
            _ if !invite => Pass::Drop(Refused::ResponseProvisional),
            _ if wanted => Pass::Forward,
            _ => Pass::Drop(Refused::ResponseLate),
        };
        Verdict { pass, cancel, acknowledge: false }
    }

    /// The client's CANCEL has come: the attempts that a CANCEL is due to now. Others follow when they ring (9.1).
    pub fn cancel(&mut self, now: Instant) -> SmallVec<[usize; ATTEMPTS_MAX]> {
        if self.state != State::Open {
            return SmallVec::new();
        }
        self.cancelled = true;
        self.cancel_ringing(now)
    }

    /// The attempts that ring and are not wanted any more; each is marked (16.7 step 10).
    pub fn cancel_ringing(&mut self, now: Instant) -> SmallVec<[usize; ATTEMPTS_MAX]> {
        let mut due = SmallVec::new();
        for (number, attempt) in self.attempts.iter_mut().enumerate() {
            let rings = attempt.stage == Stage::Provisional && !attempt.cancelled;
            if self.key.method == Method::Invite && rings {
                (attempt.cancelled, attempt.since) = (true, now);
                due.push(number);
            }
        }
        due
    }

    /// When the server side has had its final response.
    pub fn finish(&mut self, state: State, now: Instant) {
        (self.state, self.since) = (state, now);
    }

    /// When B, C or F fires, or when what is left of it is dropped (H, L, M).
    fn end_at(&self) -> Instant {
        match (self.state, self.present()) {
            (State::Open, Some(attempt)) if self.is_invite() => {
                let ringing = attempt.stage == Stage::Provisional && !attempt.cancelled;
                attempt.since + if ringing { TIMER_C } else { TIMEOUT }
            }
            _ => self.since + TIMEOUT,
        }
    }

    /// When another backend is asked, if one may be.
    fn silent_at(&self, response_timeout: Duration, shared: bool) -> Instant {
        match self.present() {
            Some(attempt)
                if self.state == State::Open
                    && attempt.stage == Stage::Sent
                    && !self.waits_on
                    && !self.cancelled
                    && self.is_repeatable(shared) =>
            {
                attempt.since + response_timeout
            }
            _ => Instant::FAR,
        }
    }

    fn tell_at(&self) -> Instant {
        let tells = self.state == State::Open && !self.is_invite() && !self.told;
        if tells { self.since + TRYING_AFTER } else { Instant::FAR }
    }

    /// When to look at it again.
    pub fn deadline(&self, response_timeout: Duration, shared: bool) -> Instant {
        self.end_at().min(self.silent_at(response_timeout, shared)).min(self.tell_at())
    }

    /// What is due now; the end first.
    pub fn due(&self, response_timeout: Duration, shared: bool, now: Instant) -> Due {
        if now >= self.end_at() {
            match (self.state, self.is_invite()) {
                (State::Open, true) => Due::Unanswered,
                (State::Open, false) => Due::Late,
                (State::Accepted | State::Completed, _) => Due::Over,
            }
        } else if now >= self.silent_at(response_timeout, shared) {
            Due::Silent
        } else if now >= self.tell_at() {
            Due::Tell
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::Transport;

    const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn flow() -> FlowId {
        FlowId { worker: 0, incarnation: 1, slot: 2, generation: 3 }
    }

    fn entry(method: Method) -> Entry {
        let source = Source {
            flow: flow(),
            zone: 0,
            transport: Transport::Tcp,
            peer: "198.51.100.7:40000".parse().unwrap(),
            trusted: false,
            backends: SmallVec::new(),
        };
        let key = Key { unique: 7, flow: flow(), method };
        let mut entry = Entry::new(key, source, b"kept".to_vec(), false, at(0));
        attempt(&mut entry, at(0));
        entry
    }

    fn attempt(entry: &mut Entry, now: Instant) {
        let peer = PeerId(100 + entry.attempts.len() as u64);
        entry.attempts.push(Attempt::new(peer, ConnId { slot: 9, generation: 0 }, now));
    }

    fn due(entry: &Entry, seconds: u64) -> Due {
        entry.due(RESPONSE_TIMEOUT, false, at(seconds))
    }

    /// 3261-17-a
    #[test]
    fn timers_over_a_reliable_transport() {
        // Nothing is due between the sending and B: no A, no E.
        let mut invite = entry(Method::Invite);
        invite.waits_on = true;
        assert_eq!(invite.deadline(RESPONSE_TIMEOUT, false), at(32));
        assert_eq!((due(&invite, 31), due(&invite, 32)), (Due::Nothing, Due::Unanswered));
        let mut options = entry(Method::Options);
        (options.waits_on, options.told) = (true, true);
        assert_eq!((due(&options, 31), due(&options, 32)), (Due::Nothing, Due::Late));
        // H, L and M run from the final response; nothing is sent again meanwhile: no G.
        for (status, state) in [(486, State::Completed), (200, State::Accepted)] {
            let mut invite = entry(Method::Invite);
            assert_eq!(invite.receive(0, status, at(3)).pass, Pass::Last);
            invite.finish(state, at(3));
            assert_eq!(invite.deadline(RESPONSE_TIMEOUT, false), at(35));
            assert_eq!((due(&invite, 34), due(&invite, 35)), (Due::Nothing, Due::Over));
        }
    }

    /// What each status means at each stage of the present attempt and of one that was given up.
    #[test]
    fn responses_by_stage() {
        let drop = Pass::Drop;
        let cases = [
            // method, given up, before, status: pass, cancel, acknowledge
            (Method::Invite, false, 0, 100, drop(Refused::ResponseTrying), false, false),
            (Method::Invite, false, 0, 183, Pass::Forward, false, false),
            (Method::Invite, false, 0, 200, Pass::Last, false, false),
            (Method::Invite, false, 200, 200, Pass::Forward, false, false),
            (Method::Invite, false, 200, 180, drop(Refused::ResponseStray), false, false),
            (Method::Invite, false, 200, 486, drop(Refused::ResponseStray), false, false),
            (Method::Invite, false, 0, 486, Pass::Last, false, true),
            (Method::Invite, false, 486, 486, drop(Refused::ResponseStray), false, false),
            (Method::Invite, false, 486, 200, drop(Refused::ResponseStray), false, false),
            (Method::Invite, false, 0, 503, Pass::Elsewhere, false, true),
            (Method::Invite, false, 180, 503, Pass::Last, false, true),
            (Method::Invite, true, 0, 100, drop(Refused::ResponseTrying), true, false),
            (Method::Invite, true, 0, 180, drop(Refused::ResponseLate), true, false),
            (Method::Invite, true, 180, 180, drop(Refused::ResponseLate), false, false),
            (Method::Invite, true, 0, 200, Pass::Last, false, false),
            (Method::Invite, true, 0, 486, drop(Refused::ResponseLate), false, true),
            (Method::Invite, true, 0, 503, drop(Refused::ResponseLate), false, true),
            (Method::Message, false, 0, 100, drop(Refused::ResponseTrying), false, false),
            (Method::Message, false, 0, 180, drop(Refused::ResponseProvisional), false, false),
            (Method::Message, false, 0, 200, Pass::Last, false, false),
            (Method::Message, false, 0, 404, Pass::Last, false, false),
            (Method::Message, false, 0, 408, Pass::End(Refused::ResponseLate), false, false),
            (Method::Options, true, 0, 200, Pass::Last, false, false),
            (Method::Options, true, 0, 408, drop(Refused::ResponseLate), false, false),
            (Method::Options, true, 0, 503, drop(Refused::ResponseLate), false, false),
        ];
        for (method, given_up, before, status, pass, cancel, acknowledge) in cases {
            let mut entry = entry(method);
            if given_up {
                attempt(&mut entry, at(5));
            }
            if before > 0 {
                entry.receive(0, before, at(6));
            }
            let verdict = entry.receive(0, status, at(7));
            let expected = Verdict { pass, cancel, acknowledge };
            assert_eq!(verdict, expected, "{method:?} {given_up} {before} {status}");
        }
        let stray = entry(Method::Invite).receive(3, 200, at(1));
        assert_eq!(stray.pass, drop(Refused::ResponseStray), "an attempt that was never made");
    }

    #[test]
    fn an_invite_is_not_repeated_once_anybody_rang() {
        let mut invite = entry(Method::Invite);
        assert!(invite.is_repeatable(false));
        attempt(&mut invite, at(5));
        invite.receive(0, 100, at(6));
        assert!(!invite.is_repeatable(true));
        assert_eq!(due(&invite, 20), Due::Nothing, "and its silence is waited out");
        let mut within = entry(Method::Invite);
        within.in_dialog = true;
        assert!(!within.is_repeatable(false) && within.is_repeatable(true));
        let once = [Method::Message, Method::Bye, Method::Info, Method::Refer, Method::Other];
        assert!(once.into_iter().all(|method| !entry(method).is_repeatable(true)));
    }

    #[test]
    fn a_cancel_waits_for_a_provisional_and_goes_once() {
        let mut invite = entry(Method::Invite);
        assert!(invite.cancel(at(1)).is_empty());
        assert_eq!(due(&invite, 6), Due::Nothing, "nobody else is asked");
        assert!(invite.receive(0, 180, at(7)).cancel);
        assert!(!invite.receive(0, 180, at(8)).cancel && invite.cancel(at(9)).is_empty());
        // Its own 32 s, whatever else rings (RFC 3261 9.1).
        assert_eq!((due(&invite, 38), due(&invite, 39)), (Due::Nothing, Due::Unanswered));
        let mut answered = entry(Method::Invite);
        answered.receive(0, 200, at(1));
        answered.finish(State::Accepted, at(1));
        assert!(answered.cancel(at(2)).is_empty() && !answered.cancelled);
    }
}
