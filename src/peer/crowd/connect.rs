//! The connections of a crowd: dialled a few at a time, made anew after a pause when they are lost.
//! Invariant: `dialling` counts the clients that are between dial and open; a client is in `open` exactly while its
//! connection stands.

use super::super::scenario::Scenario;
use super::super::tally::{Fault, Measure, Phase};
use super::{BACK_OFF, CONNECT_PATIENCE, ClientPhase, Crowd, NONE};
use crate::base::machine::{CloseCause, ConnId};
use crate::base::time::Instant;
use crate::tls::Session;

impl Crowd {
    pub(super) fn await_turn(&mut self, client: u32, now: Instant) {
        self.clients[client as usize].intended = now;
        self.to_dial.push_back(client);
    }

    pub(super) fn dial_waiting(&mut self, now: Instant) {
        let at_once = match self.plan.scenario {
            // Whether the listener's backlog holds is what a storm is about.
            Scenario::Storm => u32::MAX,
            _ => self.plan.dials,
        };
        while self.dialling < at_once
            && let Some(client) = self.to_dial.pop_front()
        {
            self.dial(client, now, now);
        }
    }

    pub(super) fn dial(&mut self, client: u32, now: Instant, intended: Instant) {
        let session = match &self.plan.tls {
            None => None,
            Some(side) => match Session::client(side) {
                Ok(session) => Some(session),
                Err(_) => return self.fail_to_connect(client, now, Fault::HandshakeFailed),
            },
        };
        let deadline = now + CONNECT_PATIENCE;
        let Some(conn) = self.streams.dial(self.plan.target, session, client, deadline) else {
            return self.fail_to_connect(client, now, Fault::ConnectFailed);
        };
        self.dialling += 1;
        self.deadlines.set(client, deadline + CONNECT_PATIENCE);
        let entry = &mut self.clients[client as usize];
        (entry.conn, entry.phase) = (Some(conn), ClientPhase::Dialling);
        (entry.since, entry.intended) = (now, intended);
    }

    fn fail_to_connect(&mut self, client: u32, now: Instant, fault: Fault) {
        self.tally.fault(fault);
        self.go_away(client, now);
    }

    /// The client has no connection; it will dial again if there is still work.
    fn go_away(&mut self, client: u32, now: Instant) {
        let entry = &mut self.clients[client as usize];
        (entry.conn, entry.phase) = (None, ClientPhase::Away);
        let pause = BACK_OFF[(entry.failures as usize).min(BACK_OFF.len() - 1)];
        entry.failures += 1;
        self.settle(client);
        self.deadlines.clear(client);
        if self.plan.scenario == Scenario::Storm {
            self.through_storm(client);
            return self.storm_again(now);
        }
        let by_arrival = self.plan.scenario.dials_each_time() && self.arrivals.is_some();
        if self.phase < Phase::Ending && !by_arrival {
            self.deadlines.set(client, now + pause);
        }
    }

    fn settle(&mut self, client: u32) {
        self.settled += u32::from(!self.clients[client as usize].settled);
        self.clients[client as usize].settled = true;
    }

    pub(super) fn connected(&mut self, now: Instant, conn: ConnId) {
        let Some(client) = self.client_of(conn) else { return };
        let since = self.clients[client as usize].since;
        if self.is_measured(now) {
            self.tally.record(Measure::Connect, now.nanos_since(since));
        }
        let entry = &mut self.clients[client as usize];
        (entry.phase, entry.since) = (ClientPhase::Shaking, now);
        self.deadlines.set(client, now + CONNECT_PATIENCE);
        match self.streams.connected(now, conn) {
            Ok(true) => self.opened(now, client, conn),
            Ok(false) => {}
            Err(_) => {
                self.tally.fault(Fault::HandshakeFailed);
                self.leave_badly(client, conn, true);
            }
        }
    }

    pub(super) fn established(&mut self, now: Instant, client: u32, conn: ConnId) {
        if self.is_measured(now) {
            let since = self.clients[client as usize].since;
            self.tally.record(Measure::Handshake, now.nanos_since(since));
        }
        let summary = self.streams.get(conn).and_then(|stream| stream.session()?.summary());
        if let Some(summary) = summary {
            self.tally.handshakes[usize::from(summary.resumed)] += 1;
        }
        self.opened(now, client, conn);
    }

    fn opened(&mut self, now: Instant, client: u32, conn: ConnId) {
        self.dialling -= 1;
        self.settle(client);
        let place = self.open.len() as u32;
        self.open.push(client);
        let entry = &mut self.clients[client as usize];
        (entry.phase, entry.since, entry.place, entry.failures) =
            (ClientPhase::Open, now, place, 0);
        self.deadlines.clear(client);
        match self.plan.scenario {
            Scenario::Handshake => {
                self.deadlines.set(client, now + self.plan.timeout);
                self.streams.send(conn, [&b"\r\n\r\n"[..]].into_iter());
            }
            Scenario::Churn | Scenario::Storm => {
                let intended = self.clients[client as usize].intended;
                self.begin(client, intended);
            }
            _ if self.is_working() && self.arrivals.is_none() => self.fill(client, now),
            _ => {}
        }
        self.dial_waiting(now);
    }

    /// Closes a client's connection; its end is awaited.
    pub(super) fn leave(&mut self, client: u32, conn: ConnId, abort: bool) {
        self.no_longer_open(client);
        let entry = &mut self.clients[client as usize];
        if entry.phase == ClientPhase::Leaving {
            return;
        }
        if matches!(entry.phase, ClientPhase::Dialling | ClientPhase::Shaking) {
            self.dialling -= 1;
        }
        entry.phase = ClientPhase::Leaving;
        self.deadlines.clear(client);
        self.streams.close(conn, abort);
    }

    /// Closes a connection that has gone wrong: it is dialled again after a pause, not at once.
    pub(super) fn leave_badly(&mut self, client: u32, conn: ConnId, abort: bool) {
        self.leave(client, conn, abort);
        self.clients[client as usize].failures += 1;
    }

    /// Everybody dials at this moment.
    pub(super) fn begin_storm(&mut self, now: Instant) {
        self.storming = self.clients.len() as u32;
        for client in 0..self.storming {
            self.clients[client as usize].storming = true;
            self.await_turn(client, now);
        }
        self.dial_waiting(now);
    }

    /// A client has come through the storm, or has failed in it; after the last of them all leave.
    pub(super) fn through_storm(&mut self, client: u32) {
        if !std::mem::take(&mut self.clients[client as usize].storming) {
            return;
        }
        self.storming -= 1;
        while self.storming == 0
            && let Some(last) = self.open.last().copied()
        {
            let conn = self.clients[last as usize].conn.expect("an open client has a connection");
            // A reset: thousands of ports would wait for a minute otherwise.
            self.leave(last, conn, true);
        }
    }

    /// The next storm begins when nobody is left of the one before.
    fn storm_again(&mut self, now: Instant) {
        let calm = self.storming == 0 && self.streams.live() == 0;
        if calm && self.to_dial.is_empty() && self.is_working() {
            self.begin_storm(now);
        }
    }

    fn no_longer_open(&mut self, client: u32) {
        let place = std::mem::replace(&mut self.clients[client as usize].place, NONE);
        if place == NONE {
            return;
        }
        self.open.swap_remove(place as usize);
        if let Some(moved) = self.open.get(place as usize) {
            self.clients[*moved as usize].place = place;
        }
    }

    pub(super) fn client_of(&self, conn: ConnId) -> Option<u32> {
        let client = self.streams.get(conn)?.owner;
        (self.clients[client as usize].conn == Some(conn)).then_some(client)
    }

    /// The connection is lost while it was wanted.
    pub(super) fn lost(&mut self, client: u32, conn: ConnId, fault: Fault) {
        if self.fail_operations(client, fault) == 0 {
            self.tally.fault(fault);
        }
        self.leave_badly(client, conn, true);
    }

    pub(super) fn closed(&mut self, now: Instant, conn: ConnId, cause: CloseCause) {
        let client = self.client_of(conn);
        self.streams.closed(conn);
        let Some(client) = client else { return };
        let phase = self.clients[client as usize].phase;
        if phase == ClientPhase::Leaving {
            return self.left(client, now);
        }
        let fault = match cause {
            CloseCause::ConnectFailed => Fault::ConnectFailed,
            CloseCause::ConnectTimeout => Fault::ConnectTimeout,
            CloseCause::SendFailed => Fault::SendFailed,
            CloseCause::Asked | CloseCause::Reset => Fault::Reset,
        };
        if matches!(phase, ClientPhase::Dialling | ClientPhase::Shaking) {
            self.dialling -= 1;
        }
        self.no_longer_open(client);
        if self.fail_operations(client, fault) == 0 {
            self.tally.fault(fault);
        }
        self.go_away(client, now);
        self.dial_waiting(now);
    }

    /// A connection that we closed is gone.
    fn left(&mut self, client: u32, now: Instant) {
        let entry = &mut self.clients[client as usize];
        let again = self.plan.scenario.dials_each_time() && entry.failures == 0;
        if !again {
            return self.go_away(client, now);
        }
        (entry.conn, entry.phase) = (None, ClientPhase::Away);
        if self.plan.scenario == Scenario::Storm {
            return self.storm_again(now);
        }
        if self.is_working() && self.arrivals.is_none() {
            self.await_turn(client, now);
            self.dial_waiting(now);
        }
    }
}
