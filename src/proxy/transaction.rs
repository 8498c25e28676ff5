//! Transactions whose state is kept, for pools with `failover`: what a request, a response, a lost connection or the
//! time does to them (RFC 3261 16 and 17 over reliable transports and without forking; RFC 4320, RFC 6026).
//! Owns nothing: the table is in `table`, the machines are in `entry`. Never picks a backend by itself: `route` does,
//! and leaves out those that were tried.
//! Invariant: a request that was taken ends in exactly one final response to its client, in silence where one is
//! forbidden (RFC 4320 4.2), or with its connection; no INVITE is sent again once a provisional has come.

mod entry;
mod table;

use smallvec::SmallVec;

use crate::base::machine::ConnId;
use crate::base::time::Duration;
use crate::config::snapshot::{Pool, WhenFull};
use crate::sip::hop::hop_by_hop;
use crate::sip::{Message, Method, Patch, ResponseParts, Start};
use crate::telemetry::counter::{Ended, Refused, Retry};

use super::connection::Source;
use super::forward::{self, Way};
use super::relay::{Keys, keys};
use super::route::{Answer, Routed, Router, Target};
use super::token::{Branch, FlowId, PeerId};
use super::upstream::affinity_hash;
use super::{Context, Core, Envelope, EnvelopeKind};
use entry::{ATTEMPTS_MAX, Due, Key, Pass, Stage, State};
use table::{Full, Id};
pub use table::{TRANSACTION_BYTES, Table};

type Peers = SmallVec<[PeerId; ATTEMPTS_MAX]>;

/// The request may be with the backend, and may not be sent twice.
const LOST: Answer =
    Answer::warned(503, Refused::BackendLost, "the backend was lost with the request");
const CANCELLED: Answer = Answer::new(487, Refused::Cancelled);

impl Core {
    // --- Requests --------------------------------------------------------------------------------

    /// Whether the state of this request is kept on its way to this backend. ACK and CANCEL are no transactions of
    /// their own here; what came over another worker's connection has its server side there.
    pub(super) fn keeps_state(
        &self,
        cx: Context<'_>,
        source: &Source,
        keys: &Keys<'_>,
        backend: usize,
    ) -> bool {
        let pool = cx.settings.backends()[backend].pool;
        cx.settings.snapshot.pools[usize::from(pool)].failover
            && !matches!(keys.request.method, Method::Ack | Method::Cancel)
            && source.flow.worker == self.worker
    }

    /// A request that begins a transaction.
    pub(super) fn begin<'a>(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'a>,
        keys: &Keys<'a>,
        routed: &Routed<'a>,
    ) {
        let method = keys.request.method;
        let key = Key { unique: keys.unique, flow: source.flow, method };
        let in_dialog = keys.request.parts.to.tag().is_some();
        let opened = self.transactions.open(key, source, message.bytes(), in_dialog, cx.now);
        let id = match opened {
            Ok(id) => id,
            Err(Full) => return self.table_full(cx, source, message, keys, routed),
        };
        if let Some(connection) =
            self.conn_of(source.flow).and_then(|conn| self.connections.get_mut(conn))
        {
            connection.transactions += 1;
        }
        match self.send_out(cx, id, source, message, keys, routed) {
            // RFC 3261 16.2: at once, since nobody knows how long the callee rings.
            Ok(()) if method == Method::Invite => self.reply(cx, source, message, 100, &[]),
            Ok(()) => {}
            Err(answer) => {
                self.answer(cx, source, message, answer);
                self.finish(cx, id, State::Completed);
            }
        }
    }

    /// As many transactions as may be: refused, or forwarded without state and marked so in the branch.
    fn table_full(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        routed: &Routed<'_>,
    ) {
        let full = Answer::new(503, Refused::TransactionsFull);
        let Target::Backend { backend, conn } = routed.target else { return };
        if cx.settings.snapshot.limits.transactions_full == WhenFull::Refuse {
            return self.answer(cx, source, message, full);
        }
        match self.forward_to_backend(cx, source, message, keys, routed, (backend, conn)) {
            Ok(()) => self.counters.stateless += 1,
            Err(answer) => self.answer(cx, source, message, answer),
        }
    }

    /// Sends the request of a transaction out, to others where the first has no room; or how it is to be answered.
    fn send_out<'a>(
        &mut self,
        cx: Context<'_>,
        id: Id,
        source: &Source,
        message: &Message<'a>,
        keys: &Keys<'a>,
        routed: &Routed<'a>,
    ) -> Result<(), Answer> {
        let mut outcome = self.send_to(cx, id, source, message, keys, routed);
        while let Err(Answer { reason: Refused::LinkFull, .. }) = outcome {
            let Some(tried) = self.may_move(cx, id) else { break };
            let Ok(other) = self.judge(cx, source, message, keys, &tried) else { break };
            outcome = self.send_to(cx, id, source, message, keys, &other);
            self.counters.retries[Retry::LinkFull as usize] += u64::from(outcome.is_ok());
        }
        outcome
    }

    fn send_to(
        &mut self,
        cx: Context<'_>,
        id: Id,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        routed: &Routed<'_>,
    ) -> Result<(), Answer> {
        let Target::Backend { backend, conn } = routed.target else { return Err(LOST) };
        let peer = cx.settings.backends()[backend].peer;
        let Some(number) = self.transactions.attach(id, peer, conn, cx.now) else {
            return Err(LOST);
        };
        let keys = Keys { attempt: Some(number as u8), ..*keys };
        let sent = self.forward_to_backend(cx, source, message, &keys, routed, (backend, conn));
        match sent {
            Ok(()) => self.watch(cx, id),
            Err(_) => self.transactions.end_attempt(id, number),
        }
        sent
    }

    /// A request that belongs to a transaction already: repeated, taken back, or the ACK of a failure. False: it is to
    /// be judged like any other.
    pub(super) fn under_way(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
    ) -> bool {
        let method = keys.request.method;
        let hop = matches!(method, Method::Ack | Method::Cancel);
        let of = if hop { Method::Invite } else { method };
        let key = Key { unique: keys.unique, flow: source.flow, method: of };
        // A client that has reconnected takes back and acknowledges over its new connection.
        let found = match hop {
            true => self.transactions.find_anywhere(&key),
            false => self.transactions.find(&key),
        };
        let Some(id) = found else { return false };
        match method {
            Method::Cancel => {
                self.reply(cx, source, message, 200, &[]);
                let due = self.transactions.get_mut(id).cancel(cx.now);
                due.into_iter().for_each(|number| self.hop(cx, id, number, Method::Cancel, None));
                self.watch(cx, id);
            }
            // With the branch of its INVITE though that was accepted: who writes it so means the callee (RFC 6026 7.1).
            Method::Ack if self.transactions.get(id).state == State::Accepted => return false,
            Method::Ack => {
                self.counters.refuse(Refused::AckAbsorbed);
                let entry = self.transactions.get(id);
                if entry.state == State::Completed && !entry.has_open_attempts() {
                    self.end(id);
                }
            }
            _ => self.counters.refuse(Refused::Retransmission),
        }
        true
    }

    // --- Responses -------------------------------------------------------------------------------

    /// A response whose branch says that its transaction is kept: here, or it is nobody's (RFC 6026 8).
    pub(super) fn stateful_response(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        parts: &ResponseParts<'_>,
        branch: &Branch,
        last: bool,
    ) {
        let flow = branch.flow;
        if flow.worker != self.worker && flow.worker < cx.settings.workers {
            return self.cross_unjudged(cx, source, message, flow);
        }
        let method = Method::from_bytes(parts.cseq.method);
        let hop = matches!(method, Method::Ack | Method::Cancel);
        let of = if hop { Method::Invite } else { method };
        let found = self.transactions.find(&Key { unique: branch.unique, flow, method: of });
        let (Some(id), Start::Response { status, .. }) = (found, message.start()) else {
            return self.counters.refuse(Refused::ResponseStray);
        };
        if hop {
            return self.counters.refuse(Refused::ResponseEndsHere);
        }
        let number = usize::from(branch.attempt);
        let entry = self.transactions.get_mut(id);
        let verdict = entry.receive(number, status, cx.now);
        let quiet = entry.attempts.get(number).is_none_or(|attempt| !attempt.is_open());
        if quiet && number < entry.attempts.len() {
            self.transactions.detach(id, number);
        }
        if verdict.acknowledge {
            self.hop(cx, id, number, Method::Ack, Some(message));
        }
        if verdict.cancel {
            self.hop(cx, id, number, Method::Cancel, None);
        }
        match verdict.pass {
            Pass::Drop(reason) => self.counters.refuse(reason),
            Pass::Forward => return self.pass_back(cx, source, message, parts, branch, last),
            Pass::End(reason) => {
                self.counters.refuse(reason);
                return self.end(id);
            }
            Pass::Elsewhere | Pass::Last => {
                let elsewhere = verdict.pass == Pass::Elsewhere;
                if status == 503 && self.takes_refusal(cx, id, elsewhere) {
                    return self.counters.refuse(Refused::ResponseUnavailable);
                }
                self.pass_back(cx, source, message, parts, branch, last);
                self.counters.ended[Ended::Answered as usize] += 1;
                let state = if status < 300 { State::Accepted } else { State::Completed };
                return self.finish(cx, id, state);
            }
        }
        self.watch(cx, id);
    }

    /// A backend refuses the request by 503. It is asked of one other, or answered 500 while others take requests, since
    /// our own 503 would send the client away from them all (RFC 3261 16.7 step 6). False: nobody else is there, and
    /// the 503 says how things are.
    fn takes_refusal(&mut self, cx: Context<'_>, id: Id, elsewhere: bool) -> bool {
        let again = std::mem::replace(&mut self.transactions.get_mut(id).refused, true);
        let (_, shared) = self.patience(cx, id);
        let entry = self.transactions.get(id);
        let may = elsewhere && !again && !entry.cancelled && entry.is_repeatable(shared);
        if may && self.retry(cx, id, Retry::Unavailable).is_ok() {
            return true;
        }
        let peers = self.peers(id);
        let pool = self.pool_of(cx, id).map(|(pool, _)| pool);
        let others = pool.is_some_and(|pool| {
            self.upstream.choose(cx.settings, pool, (0, 0), &peers, cx.now).is_some()
        });
        if others {
            self.conclude(cx, id, Answer::new(500, Refused::BackendRefused));
        }
        others
    }

    /// The worker that keeps the state judges it, by the same rules.
    fn cross_unjudged(
        &mut self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        flow: FlowId,
    ) {
        let mut bytes = self.take_buffer();
        bytes.extend_from_slice(message.bytes());
        let kind = EnvelopeKind::Unjudged { source: Box::new(source.clone()) };
        self.counters.crossings += 1;
        let envelope = Envelope { kind, posted: cx.now, bytes };
        self.posts.push_back((u16::from(flow.worker), envelope));
    }

    // --- Failures --------------------------------------------------------------------------------

    /// A request that waited for a connection and never left, as it would have been sent.
    pub(super) fn attempt_unsent(
        &mut self,
        cx: Context<'_>,
        message: &Message<'_>,
        branch: &Branch,
    ) {
        let key = Key { unique: branch.unique, flow: branch.flow, method: message.method() };
        // An ACK or CANCEL of our own has no entry: who asked is told of its INVITE.
        let Some(id) = self.transactions.find(&key) else { return };
        let number = usize::from(branch.attempt);
        let Some(attempt) = self.transactions.get(id).attempts.get(number) else { return };
        if attempt.stage == Stage::Sent {
            self.attempt_failed(cx, id, number, Retry::Unsent);
        }
    }

    /// A connection has ended: what was out on it will not be answered over it.
    pub(super) fn attempts_lost(&mut self, cx: Context<'_>, conn: ConnId) {
        while let Some((id, number)) = self.transactions.first_out(conn) {
            self.attempt_failed(cx, id, number, Retry::ConnectionLost);
        }
    }

    /// RFC 3261 16.9: asked of another backend where that may be, answered where not.
    fn attempt_failed(&mut self, cx: Context<'_>, id: Id, number: usize, why: Retry) {
        let stage = self.transactions.get(id).attempts[number].stage;
        self.transactions.end_attempt(id, number);
        let (_, shared) = self.patience(cx, id);
        let entry = self.transactions.get(id);
        if entry.state != State::Open || !entry.is_present(number) {
            return;
        }
        let unsent = why == Retry::Unsent;
        let may = stage == Stage::Sent && (unsent || entry.is_repeatable(shared));
        let answer = match may && !entry.cancelled {
            true => match self.retry(cx, id, why) {
                Ok(()) => return,
                Err(answer) => answer,
            },
            false if entry.cancelled => CANCELLED,
            false => LOST,
        };
        self.conclude(cx, id, answer);
    }

    /// Sends the request to a backend that was not tried; or how it is to be answered.
    fn retry(&mut self, cx: Context<'_>, id: Id, why: Retry) -> Result<(), Answer> {
        let tried = match self.may_move(cx, id) {
            Some(tried) => tried,
            // No byte of it has left: the backend of its dialog may have another lane.
            None if why == Retry::Unsent && !self.transactions.get(id).rang => Peers::new(),
            None => return Err(LOST),
        };
        let mut outcome = Err(LOST);
        self.with_request(cx, id, |core, source, message| {
            let Ok(request) = message.read_request() else { return };
            let keys = keys(cx, source, message, request);
            outcome = core
                .judge(cx, source, message, &keys, &tried)
                .and_then(|routed| core.send_out(cx, id, source, message, &keys, &routed));
        });
        self.counters.retries[why as usize] += u64::from(outcome.is_ok());
        outcome
    }

    /// Those that a request was sent to, if it may go to another: it is in no dialog, or backends share dialogs; and
    /// nobody has rung.
    fn may_move(&self, cx: Context<'_>, id: Id) -> Option<Peers> {
        let (_, shared) = self.patience(cx, id);
        let entry = self.transactions.get(id);
        let may = (shared || !entry.in_dialog) && !entry.rang;
        may.then(|| self.peers(id))
    }

    fn peers(&self, id: Id) -> Peers {
        self.transactions.get(id).attempts.iter().map(|attempt| attempt.peer).collect()
    }

    /// A deadline of the transaction has passed.
    pub(super) fn transaction_due(&mut self, cx: Context<'_>, id: Id) {
        let (timeout, shared) = self.patience(cx, id);
        let entry = self.transactions.get(id);
        match entry.due(timeout, shared, cx.now) {
            Due::Nothing => {}
            Due::Over => return self.end(id),
            Due::Unanswered => {
                let unanswered = Answer::new(408, Refused::Unanswered);
                let answer = if entry.cancelled { CANCELLED } else { unanswered };
                return self.conclude(cx, id, answer);
            }
            Due::Late => {
                self.counters.refuse(Refused::TimedOut);
                return self.end(id);
            }
            Due::Silent => {
                if self.retry(cx, id, Retry::ResponseTimeout).is_err() {
                    self.transactions.get_mut(id).waits_on = true;
                }
            }
            Due::Tell => {
                self.transactions.get_mut(id).told = true;
                self.with_request(cx, id, |core, source, message| {
                    core.reply(cx, source, message, 100, &[]);
                });
            }
        }
        self.watch(cx, id);
    }

    // --- Ends ------------------------------------------------------------------------------------

    /// Answers the request ourselves, after it has gone out.
    fn conclude(&mut self, cx: Context<'_>, id: Id, answer: Answer) {
        self.with_request(cx, id, |core, source, message| core.answer(cx, source, message, answer));
        self.counters.ended[Ended::Concluded as usize] += 1;
        self.finish(cx, id, State::Completed);
    }

    /// The client has its final response. Of an INVITE the state stays for what may still come: an ACK, another 2xx,
    /// and attempts that ring though nobody wants them (RFC 3261 16.7 step 10).
    fn finish(&mut self, cx: Context<'_>, id: Id, state: State) {
        if !self.transactions.get(id).is_invite() {
            return self.end(id);
        }
        self.release(id);
        let entry = self.transactions.get_mut(id);
        entry.finish(state, cx.now);
        let due = entry.cancel_ringing(cx.now);
        due.into_iter().for_each(|number| self.hop(cx, id, number, Method::Cancel, None));
        if !self.transactions.get(id).has_open_attempts() {
            self.transactions.forget_request(id);
        }
        self.watch(cx, id);
    }

    fn end(&mut self, id: Id) {
        self.release(id);
        self.transactions.close(id);
    }

    /// Its connection waits for one answer less.
    fn release(&mut self, id: Id) {
        let entry = self.transactions.get(id);
        if entry.state != State::Open {
            return;
        }
        let conn = self.conn_of(entry.key.flow);
        if let Some(connection) = conn.and_then(|conn| self.connections.get_mut(conn)) {
            connection.transactions -= 1;
        }
    }

    // --- Tools -----------------------------------------------------------------------------------

    /// Sees to it that the transaction is looked at when something is due.
    fn watch(&mut self, cx: Context<'_>, id: Id) {
        let (timeout, shared) = self.patience(cx, id);
        let at = self.transactions.get(id).deadline(timeout, shared);
        self.transactions.set_deadline(id, at);
    }

    /// The pool that a transaction's request went to.
    fn pool_of<'s>(&self, cx: Context<'s>, id: Id) -> Option<(u16, &'s Pool)> {
        let peer = self.transactions.get(id).present()?.peer;
        let pool = cx.settings.backends()[cx.settings.backend_of(peer)?].pool;
        Some((pool, &cx.settings.snapshot.pools[usize::from(pool)]))
    }

    /// How long its pool waits for a first response, and whether dialogs are shared there. A pool that is no longer
    /// configured waits for nothing.
    fn patience(&self, cx: Context<'_>, id: Id) -> (Duration, bool) {
        let pool = self.pool_of(cx, id);
        pool.map_or((Duration::ZERO, false), |(_, pool)| {
            (pool.response_timeout, pool.shared_dialogs)
        })
    }

    /// Calls `each` with the kept request and where it came from.
    fn with_request(
        &mut self,
        cx: Context<'_>,
        id: Id,
        mut each: impl FnMut(&mut Core, &Source, &Message<'_>),
    ) {
        let entry = self.transactions.get_mut(id);
        let (source, kept) = (entry.source.clone(), std::mem::take(&mut entry.kept));
        self.reread(cx, &kept, |core, message| each(core, &source, message));
        self.transactions.get_mut(id).kept = kept;
    }

    /// An ACK or a CANCEL to an attempt: over the connection that its request went by, with the branch of that
    /// (RFC 3261 9.1, 17.1.1.3). Where the connection is gone, over another of the same backend.
    fn hop(
        &mut self,
        cx: Context<'_>,
        id: Id,
        number: usize,
        method: Method,
        response: Option<&Message<'_>>,
    ) {
        let attempt = &self.transactions.get(id).attempts[number];
        let (peer, conn) = (attempt.peer, attempt.conn);
        let Some(backend) = cx.settings.backend_of(peer) else { return };
        self.with_request(cx, id, |core, source, message| {
            let Ok(request) = message.read_request() else { return };
            let keys = Keys { attempt: Some(number as u8), ..keys(cx, source, message, request) };
            let stands = core.connections.get(conn).is_some_and(|it| it.takes_messages());
            let lane = affinity_hash(keys.request.parts.call_id);
            let other = || core.upstream.usable(backend, lane);
            let Some(conn) = Some(conn).filter(|_| stands).or_else(other) else { return };
            let mut sent = core.take_buffer();
            core.write_sent(cx, source, message, &keys, (backend, conn), &mut sent);
            let mut text = core.take_buffer();
            core.reread(cx, &sent, |_, sent| hop_by_hop(sent, method, response, &mut text));
            // A link that has no room for it loses it; the backend ends its transaction by its own timers.
            let _ = core.queue(cx, conn, text.len(), std::iter::once(&text[..]));
            core.give_buffer(text);
            core.give_buffer(sent);
        });
    }

    /// The request as it went out with this attempt.
    fn write_sent(
        &self,
        cx: Context<'_>,
        source: &Source,
        message: &Message<'_>,
        keys: &Keys<'_>,
        (backend, conn): (usize, ConnId),
        out: &mut Vec<u8>,
    ) {
        let Some(connection) = self.connections.get(conn) else { return };
        let router = Router {
            settings: cx.settings,
            upstream: &self.upstream,
            pending: &self.pending,
            source,
            unique: keys.unique,
            draining: false,
            tried: &[],
            decided: Some(Target::Backend { backend, conn }),
            now: cx.now,
        };
        let Ok(routed) = router.route(message, &keys.request) else { return };
        let peer = cx.settings.backends()[backend].peer;
        let text = keys.write_branch(cx, source.flow, peer);
        let way = Way {
            zone: connection.zone,
            transport: connection.transport,
            family: connection.family(),
            branch: &text,
            dialog_flow: source.flow,
            dialog_backend: peer,
        };
        let parts = &keys.request.parts;
        let mut patch = Patch::new(message);
        forward::request(cx.settings, parts, source, &routed, &way, &mut patch);
        patch.pieces().for_each(|piece| out.extend_from_slice(piece));
    }
}
