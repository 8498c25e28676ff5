//! Accepting: which listeners are armed, when to pause and when to try again.
//! Owns the state of each multishot accept. Never sees a connection.
//! Invariant: a listener has at most one accept under way.

use std::collections::VecDeque;

use crate::base::limits;
use crate::base::ring::Submission;
use crate::base::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Armed,
    Cancelling,
    /// The kernel had no descriptor or memory left; not armed before this instant.
    Pausing(Instant),
}

/// The multishot accepts of one worker, by listener.
#[derive(Debug)]
pub(super) struct Accepting {
    listeners: Vec<State>,
    /// What the Machine wants.
    open: bool,
}

impl Accepting {
    pub fn new(listeners: u32) -> Self {
        Accepting { listeners: vec![State::Idle; listeners as usize], open: true }
    }

    pub fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// The accept of `listener` is over. A single lost connection is tried again at once, want of
    /// descriptors or memory after a pause: an accept armed at once would fail at once. True when
    /// it pauses.
    pub fn ended(&mut self, now: Instant, listener: u32, errno: i32) -> bool {
        let state = &mut self.listeners[listener as usize];
        let asked = *state == State::Cancelling;
        let pauses = !asked && errno != 0 && !is_of_one_connection(errno);
        *state = if pauses { State::Pausing(now + limits::ACCEPT_BACKOFF) } else { State::Idle };
        pauses
    }

    /// Arms and cancels as wanted. `room` false: no connection more, whatever the Machine wants.
    pub fn adjust(&mut self, now: Instant, room: bool, submissions: &mut VecDeque<Submission>) {
        let wanted = self.open && room;
        for (listener, state) in self.listeners.iter_mut().enumerate() {
            let listener = listener as u32;
            match *state {
                State::Pausing(until) if until <= now => *state = State::Idle,
                _ => {}
            }
            match *state {
                State::Idle if wanted => {
                    *state = State::Armed;
                    submissions.push_back(Submission::Accept { listener });
                }
                State::Armed if !wanted => {
                    *state = State::Cancelling;
                    submissions.push_back(Submission::CancelAccept { listener });
                }
                _ => {}
            }
        }
    }

    /// When `adjust` is wanted next.
    pub fn next_deadline(&self) -> Instant {
        let pauses = self.listeners.iter().filter_map(|state| match state {
            State::Pausing(until) if self.open => Some(*until),
            _ => None,
        });
        pauses.min().unwrap_or(Instant::FAR)
    }

    /// True when no accept is under way.
    pub fn is_quiet(&self) -> bool {
        !self.listeners.iter().any(|state| matches!(state, State::Armed | State::Cancelling))
    }
}

/// Errors of accept(2) that concern the connection that was lost and not the listener.
fn is_of_one_connection(errno: i32) -> bool {
    const ECONNABORTED: i32 = 103;
    const EPROTO: i32 = 71;
    const EINTR: i32 = 4;
    const ECANCELED: i32 = 125;
    matches!(errno, ECONNABORTED | EPROTO | EINTR | ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adjusted(accepting: &mut Accepting, now: u64, room: bool) -> usize {
        let mut submissions = VecDeque::new();
        accepting.adjust(Instant(now), room, &mut submissions);
        submissions.len()
    }

    #[test]
    fn want_of_descriptors_pauses_and_a_lost_connection_does_not() {
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        let pause = limits::ACCEPT_BACKOFF.as_nanos() as u64;
        let mut accepting = Accepting::new(1);
        assert_eq!(adjusted(&mut accepting, 0, true), 1);
        for errno in [EMFILE, ENFILE] {
            accepting.ended(Instant(0), 0, errno);
            assert_eq!(adjusted(&mut accepting, 1, true), 0);
            assert_eq!(accepting.next_deadline(), Instant(pause));
            assert_eq!(adjusted(&mut accepting, pause, true), 1);
        }
        accepting.ended(Instant(0), 0, 103);
        assert_eq!(adjusted(&mut accepting, 0, true), 1);
    }

    /// A pause that is over is no reason to wake: else a worker without room would never sleep.
    #[test]
    fn a_pause_ends_without_room_too() {
        let pause = limits::ACCEPT_BACKOFF.as_nanos() as u64;
        let mut accepting = Accepting::new(1);
        adjusted(&mut accepting, 0, true);
        accepting.ended(Instant(0), 0, 24);
        assert_eq!(adjusted(&mut accepting, pause, false), 0);
        assert_eq!(accepting.next_deadline(), Instant::FAR);
        assert_eq!(adjusted(&mut accepting, pause + 1, true), 1);
    }

    #[test]
    fn a_full_table_cancels_and_room_arms_again() {
        let mut accepting = Accepting::new(2);
        assert_eq!(adjusted(&mut accepting, 0, true), 2);
        assert_eq!(adjusted(&mut accepting, 0, false), 2);
        assert_eq!(adjusted(&mut accepting, 0, true), 0, "not before the accept has ended");
        accepting.ended(Instant(0), 0, 125);
        assert_eq!(adjusted(&mut accepting, 0, true), 1);
        assert!(!accepting.is_quiet());
    }
}
