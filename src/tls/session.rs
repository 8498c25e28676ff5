//! One TLS connection, client or server, over the caller's bytes. The only file that names rustls' connections.
//! Owns the keys and the state of the handshake. Never owns a byte of the stream: what is half is the caller's to keep.
//! Invariant: rustls sees whole records only, each once; after a fault nothing is opened or sealed any more.
//!
//! rustls 0.23 copies the plaintext of each record into a vector of its own before it hands it out, and builds each
//! sealed record in one; both are its allocations, not ours, and go with 0.24.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError};
use rustls::unbuffered::{UnbufferedConnectionCommon, UnbufferedStatus};
use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};

use super::client_auth::{CHAIN_BYTES_MAX, PeerIdentity};
use super::fault::{self, Fault, FaultKind};
use super::hello::{self, Alpn, RECORD_HEADER_BYTES};
use super::identity::{ALPN_SIP, ClientSide, ServerSide, now as wall_clock};
use super::summary::{KeyExchange, Suite, Summary, Version};
use crate::base::chunk::Chunk;
use crate::base::time::{Duration, Instant};
use crate::config::snapshot::ClientCertificate;

/// Plaintext in one record (RFC 8446 5.1).
pub const RECORD_PLAIN_MAX: usize = 16 * 1024;

/// What sealing adds to a record: header, and explicit nonce, tag and content type, the most of each that we use.
pub const RECORD_EXTRA: usize = RECORD_HEADER_BYTES + 8 + 16 + 1;

/// Records without payload that a peer may send within `IDLE_RECORDS_WINDOW`: a handshake takes about ten.
pub const IDLE_RECORDS_MAX: u32 = 64;
pub const IDLE_RECORDS_WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a handshake message that is under way, over all its records: a certificate chain at its limit, and the
/// heads and tags of records.
const HELD_BYTES_MAX: usize = CHAIN_BYTES_MAX + 2 * 1024;

/// The most that a caller must keep of a half record or message; the rest of a record comes on top.
pub const KEPT_BYTES_MAX: usize = HELD_BYTES_MAX + RECORD_HEADER_BYTES + RECORD_BODY_MAX;

/// The largest body of a record that rustls takes (RFC 5246 6.2.3; RFC 8446 allows less).
const RECORD_BODY_MAX: usize = RECORD_PLAIN_MAX + 2048;

/// What `Session::open` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes at the front that are used up. The caller keeps the others as they now are, and presents them again with
    /// more behind them.
    pub consumed: usize,
    /// The handshake ended in this call.
    pub established: bool,
    /// The peer has sent close_notify: no plaintext will follow. What we send may still arrive.
    pub peer_closed: bool,
    /// Expensive steps of the handshake taken in this call: key agreement and signatures.
    pub handshake_steps: u32,
}

/// What `Session::open` would have to do for some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreseen {
    /// Nothing of weight: records of an established session, or too few bytes for a step of the handshake.
    Light,
    /// A full handshake's step: about 70 us, with a client certificate about 200 us.
    Full,
    /// A step of a handshake that asks for resumption.
    Resumed,
}

enum Link {
    /// A server before its first whole ClientHello: rustls has allocated nothing yet.
    Waiting,
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    Failed(Fault),
    /// We have sent close_notify.
    Closed,
}

enum Side {
    Server(ServerSide),
    Client(ClientSide),
}

/// One TLS connection.
pub struct Session {
    link: Link,
    side: Side,
    summary: Option<Summary>,
    peer: Option<PeerIdentity>,
    /// Bytes of whole records at the front of what the caller keeps that rustls has seen already: a handshake message
    /// whose last record is still to come.
    held: usize,
    idle: IdleRecords,
    sni: bool,
    /// The peer has sent a whole record.
    heard: bool,
    peer_closed: bool,
    /// The alert that the last fault was answered with.
    said: Option<&'static str>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("summary", &self.summary).finish_non_exhaustive()
    }
}

impl Session {
    /// The server's end. Allocates nothing in rustls until `open` has seen a whole ClientHello.
    pub fn server(side: &ServerSide) -> Session {
        Session::new(Link::Waiting, Side::Server(side.clone()), false)
    }

    /// The client's end. The first `open`, with no bytes, writes the ClientHello into `reply`.
    pub fn client(side: &ClientSide) -> Result<Session, Fault> {
        let client = &side.0;
        let named = matches!(client.name, ServerName::DnsName(_));
        UnbufferedClientConnection::new(client.config.clone(), client.name.clone())
            .map(|link| {
                Session::new(Link::Client(Box::new(link)), Side::Client(side.clone()), named)
            })
            .map_err(|error| Fault::from(&error))
    }

    fn new(link: Link, side: Side, sni: bool) -> Session {
        Session {
            link,
            side,
            summary: None,
            peer: None,
            held: 0,
            idle: IdleRecords::default(),
            sni,
            heard: false,
            peer_closed: false,
            said: None,
        }
    }

    /// Takes ciphertext from the front of `bytes`, changed in place. Appends plaintext to `plain`, without a gap from
    /// record to record, and what must be sent to the peer (handshake, alerts, key updates) to `reply`, also when it
    /// fails: then the caller sends that and closes. Once failed, it fails the same way for ever.
    pub fn open(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        let opened = self.advance(now, bytes, plain, reply);
        if let Err(fault) = opened {
            self.link = Link::Failed(fault);
        }
        opened
    }

    fn advance(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        let mut opened = Opened::default();
        if let Link::Failed(fault) = self.link {
            return Err(fault);
        }
        if self.peer_closed {
            // Nothing that follows close_notify counts (RFC 8446 6.1).
            opened.consumed = bytes.len();
            return Ok(opened);
        }
        if matches!(self.link, Link::Waiting) {
            let Some(connection) = self.begin(bytes, reply)? else { return Ok(opened) };
            self.link = Link::Server(connection);
            opened.handshake_steps += 1;
        }
        if !self.heard && !hello::may_be_record(bytes) {
            return Err(Fault::new(FaultKind::NotTls));
        }
        let (mut held, mut idle) = (self.held, self.idle);
        let mut pump =
            Pump { bytes, consumed: 0, end: held, plain, reply, peer_closed: false, said: None };
        let ran = match &mut self.link {
            Link::Server(connection) => pump.run(connection.as_mut(), now, &mut idle),
            Link::Client(connection) => pump.run(connection.as_mut(), now, &mut idle),
            Link::Waiting | Link::Closed | Link::Failed(_) => {
                pump.consumed = pump.bytes.len();
                Ok(())
            }
        };
        self.said = pump.said;
        ran?;
        held = pump.end.saturating_sub(pump.consumed);
        (opened.consumed, opened.peer_closed) = (pump.consumed, pump.peer_closed);
        if held > HELD_BYTES_MAX {
            return Err(Fault::new(match self.summary {
                None => FaultKind::CertificateChainTooLong,
                Some(_) => FaultKind::RecordTooLarge,
            }));
        }
        self.heard |= opened.consumed > 0 || held > 0;
        (self.held, self.idle, self.peer_closed) = (held, idle, opened.peer_closed);
        if self.summary.is_none() && self.handshake_over() {
            self.settle(reply, &mut opened)?;
        }
        Ok(opened)
    }

    /// Judges the first bytes of a client; the connection once its ClientHello is whole.
    fn begin(
        &mut self,
        bytes: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<Option<Box<UnbufferedServerConnection>>, Fault> {
        let Side::Server(side) = &self.side else { return Err(Fault::new(FaultKind::Internal)) };
        let said = &mut self.said;
        let mut refuse = |reply: &mut Vec<u8>, kind| {
            let before = reply.len();
            hello::alert(kind, reply);
            *said = fault::plain_alert(&reply[before..]);
            Err(Fault::new(kind))
        };
        let hello = match hello::read(bytes) {
            Ok(Some(hello)) => hello,
            Ok(None) => return Ok(None),
            Err(kind) => return refuse(reply, kind),
        };
        if side.0.require_alpn && hello.alpn == Alpn::None {
            return refuse(reply, FaultKind::NoApplicationProtocol);
        }
        self.sni = hello.sni;
        UnbufferedServerConnection::new(side.0.config.clone())
            .map(|connection| Some(Box::new(connection)))
            .map_err(|error| Fault::from(&error))
    }

    fn state(&self) -> Option<&CommonState> {
        match &self.link {
            Link::Server(connection) => Some(connection),
            Link::Client(connection) => Some(connection),
            Link::Waiting | Link::Failed(_) | Link::Closed => None,
        }
    }

    fn handshake_over(&self) -> bool {
        self.state().is_some_and(|state| !state.is_handshaking())
    }

    /// The handshake has ended: reads what was agreed, and who the peer is, under today's policy.
    fn settle(&mut self, reply: &mut Vec<u8>, opened: &mut Opened) -> Result<(), Fault> {
        let Some(state) = self.state() else { return Err(Fault::new(FaultKind::Internal)) };
        let mut summary = summary(state, self.sni);
        let verdict = judge(&self.side, state, &mut summary);
        let required = match &self.side {
            Side::Server(side) => side.0.require_alpn,
            Side::Client(side) => side.0.require_alpn,
        };
        let verdict = match verdict {
            Ok(_) if required && !summary.alpn => Err(Fault::new(FaultKind::NoApplicationProtocol)),
            other => other,
        };
        match verdict {
            Ok(peer) => {
                let costly = peer.is_some() || matches!(self.side, Side::Client(_));
                opened.handshake_steps += u32::from(costly && !summary.resumed);
                opened.established = true;
                (self.peer, self.summary) = (peer, Some(summary));
                Ok(())
            }
            Err(fault) => {
                // rustls has no door for an alert of ours; close_notify says at least that it was us.
                self.close(reply);
                self.said = Some(fault::CLOSE_NOTIFY);
                Err(fault)
            }
        }
    }

    /// What `open` would have to do for `bytes`, so that the caller can put it off: costs at most a look through the
    /// ClientHello.
    pub fn foresee(&self, bytes: &[u8]) -> Foreseen {
        if self.summary.is_some() {
            return Foreseen::Light;
        }
        let whole = || matches!(record(bytes.get(self.held..).unwrap_or(&[])), Record::Whole(_));
        match (&self.link, &self.side) {
            (Link::Waiting, _) => match hello::read(bytes) {
                Ok(Some(hello)) if hello.resumption => Foreseen::Resumed,
                Ok(Some(_)) => Foreseen::Full,
                _ => Foreseen::Light,
            },
            // A client's second flight costs something only where it holds a certificate.
            (Link::Server(_), Side::Server(side)) if side.0.clients.is_none() => Foreseen::Light,
            (Link::Server(_) | Link::Client(_), _) if whole() => Foreseen::Full,
            _ => Foreseen::Light,
        }
    }

    /// Room that sealing `plain_len` bytes takes at most, a key update before them included.
    pub const fn sealed_len(plain_len: usize) -> usize {
        plain_len + (plain_len.div_ceil(RECORD_PLAIN_MAX) + 1) * RECORD_EXTRA
    }

    /// Seals `plain` into records of at most 16 KiB behind what `out` holds. `out` has room for `sealed_len`.
    pub fn seal(&mut self, plain: &[u8], out: &mut Chunk) -> Result<(), Fault> {
        let most = Session::sealed_len(plain.len());
        assert!(most <= out.room());
        if self.summary.is_none() {
            return Err(Fault::new(FaultKind::NotEstablished));
        }
        let mut result = Ok(());
        let mut held = stand_in(self.held);
        out.push_with(most, |room| {
            let written = match &mut self.link {
                Link::Server(connection) => seal(connection.as_mut(), &mut held, plain, room),
                Link::Client(connection) => seal(connection.as_mut(), &mut held, plain, room),
                Link::Failed(fault) => Err(*fault),
                Link::Waiting | Link::Closed => Err(Fault::new(FaultKind::NotEstablished)),
            };
            written.unwrap_or_else(|fault| {
                result = Err(fault);
                0
            })
        });
        if let Err(fault) = result {
            self.link = Link::Failed(fault);
        }
        result
    }

    /// Appends close_notify to `out` (RFC 8446 6.1) and ends the session: nothing is opened or sealed any more.
    /// Before the handshake has ended there is nothing to say.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        let mut held = stand_in(self.held);
        match &mut self.link {
            Link::Server(connection) => close(connection.as_mut(), &mut held, out),
            Link::Client(connection) => close(connection.as_mut(), &mut held, out),
            Link::Waiting | Link::Closed => {}
            Link::Failed(_) => return,
        }
        self.link = Link::Closed;
    }

    /// The name of the alert that a fault was answered with; `None`: none was sent.
    pub fn said(&self) -> Option<&'static str> {
        self.said
    }

    pub fn established(&self) -> bool {
        self.summary.is_some()
    }

    /// What the handshake agreed on; `None` before it has ended.
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// Who the peer is; `None` before the handshake has ended, and where it has shown no certificate that counts.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }
}

/// Bytes in the place of `held` ones, which only the caller has: rustls skips over them, but they must be there.
fn stand_in(held: usize) -> Vec<u8> {
    vec![0; held]
}

/// Records without payload since the last payload, or within the window.
#[derive(Clone, Copy, Debug, Default)]
struct IdleRecords {
    count: u32,
    since: Instant,
}

impl IdleRecords {
    fn count(&mut self, now: Instant, payload: bool) -> Result<(), Fault> {
        if payload {
            self.count = 0;
            return Ok(());
        }
        if self.count == 0 || now.since(self.since) > IDLE_RECORDS_WINDOW {
            *self = IdleRecords { count: 0, since: now };
        }
        self.count += 1;
        if self.count >= IDLE_RECORDS_MAX {
            return Err(Fault::new(FaultKind::RecordFlood));
        }
        Ok(())
    }
}

/// The two connections of rustls, which differ in type only.
trait Connection: std::ops::DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

/// What stands at the front of some bytes.
enum Record {
    /// A record of so many bytes, its header included.
    Whole(usize),
    Partial,
    /// No record of TLS 1.2 or 1.3.
    Odd,
}

fn record(bytes: &[u8]) -> Record {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Record::Partial;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || length > RECORD_BODY_MAX {
        return Record::Odd;
    }
    let whole = RECORD_HEADER_BYTES + length;
    if whole <= bytes.len() { Record::Whole(whole) } else { Record::Partial }
}

/// One call of `open` under way.
struct Pump<'a> {
    bytes: &'a mut [u8],
    /// Bytes at the front that rustls needs no more.
    consumed: usize,
    /// End of the last record that rustls has been shown.
    end: usize,
    plain: &'a mut Vec<u8>,
    reply: &'a mut Vec<u8>,
    peer_closed: bool,
    /// The name of the alert that `last_words` has found.
    said: Option<&'static str>,
}

impl Pump<'_> {
    /// Shows rustls one record after the other, so that each that carries nothing is counted.
    fn run<C: Connection>(
        &mut self,
        connection: &mut C,
        now: Instant,
        idle: &mut IdleRecords,
    ) -> Result<(), Fault> {
        // The caller presents again what it kept; a shorter slice would break rustls' own account of it.
        assert!(self.end <= self.bytes.len());
        loop {
            match record(&self.bytes[self.end..]) {
                Record::Whole(length) => self.end += length,
                Record::Odd => {
                    // For the alert; rustls may still wait for the rest of what can become nothing.
                    self.end = self.bytes.len();
                    self.drive(connection)?;
                    return Err(Fault::new(FaultKind::BadRecord));
                }
                Record::Partial => break,
            }
            let before = self.plain.len();
            self.drive(connection)?;
            idle.count(now, self.plain.len() > before)?;
            if self.peer_closed {
                (self.consumed, self.end) = (self.bytes.len(), self.bytes.len());
                return Ok(());
            }
        }
        // A client's ClientHello, and what else waits to be sent though nothing came.
        self.drive(connection)
    }

    /// Lets rustls work until it wants more bytes (engine.md 2).
    fn drive<C: Connection>(&mut self, connection: &mut C) -> Result<(), Fault> {
        loop {
            let status = connection.process(&mut self.bytes[self.consumed..self.end]);
            let more = match status.state {
                Ok(state) => take(state, self.plain, self.reply, &mut self.peer_closed),
                Err(error) => {
                    self.consumed += status.discard;
                    let before = self.reply.len();
                    self.last_words(connection);
                    let words = &self.reply[before..];
                    self.said = (!words.is_empty()).then(|| fault::sent(words, &error));
                    return Err(Fault::from(&error));
                }
            };
            self.consumed += status.discard;
            if !more? {
                return Ok(());
            }
        }
    }

    /// The alert that rustls has queued for the fault it has just reported. Asked only while something is queued: one
    /// call more and it would look at the bad record again.
    fn last_words<C: Connection>(&mut self, connection: &mut C) {
        while connection.wants_write() {
            let status = connection.process(&mut self.bytes[self.consumed..self.end]);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else { return };
            encode(&mut data, self.reply);
        }
    }
}

/// Handles one state of rustls; false when it waits for bytes.
fn take<Data>(
    state: ConnectionState<'_, '_, Data>,
    plain: &mut Vec<u8>,
    reply: &mut Vec<u8>,
    peer_closed: &mut bool,
) -> Result<bool, Fault> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plain.extend_from_slice(record.map_err(|error| Fault::from(&error))?.payload);
            }
            Ok(true)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            encode(&mut data, reply);
            Ok(true)
        }
        ConnectionState::TransmitTlsData(data) => {
            // The bytes are in `reply`, which the caller sends or closes.
            data.done();
            Ok(true)
        }
        ConnectionState::PeerClosed => {
            *peer_closed = true;
            Ok(true)
        }
        ConnectionState::WriteTraffic(_)
        | ConnectionState::BlockedHandshake
        | ConnectionState::Closed => Ok(false),
        // Early data is off, and rustls has no other state today.
        _ => Err(Fault::new(FaultKind::Internal)),
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, reply: &mut Vec<u8>) {
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return };
    let start = reply.len();
    reply.resize(start + size.required_size, 0);
    let written = data.encode(&mut reply[start..]).unwrap_or(0);
    reply.truncate(start + written);
}

fn seal<C: Connection>(
    connection: &mut C,
    held: &mut [u8],
    plain: &[u8],
    room: &mut [u8],
) -> Result<usize, Fault> {
    let mut written = 0;
    loop {
        match connection.process(held).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                return match traffic.encrypt(plain, &mut room[written..]) {
                    Ok(more) => Ok(written + more),
                    Err(EncryptError::EncryptExhausted) => Err(Fault::new(FaultKind::Exhausted)),
                    Err(EncryptError::InsufficientSize(_)) => Err(Fault::new(FaultKind::Internal)),
                };
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                written += data
                    .encode(&mut room[written..])
                    .map_err(|_| Fault::new(FaultKind::Internal))?;
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(Fault::new(FaultKind::NotEstablished)),
            Err(error) => return Err(Fault::from(&error)),
        }
    }
}

fn close<C: Connection>(connection: &mut C, held: &mut [u8], out: &mut Vec<u8>) {
    loop {
        match connection.process(held).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let start = out.len();
                let mut room = CLOSE_NOTIFY_BYTES;
                loop {
                    out.resize(start + room, 0);
                    match traffic.queue_close_notify(&mut out[start..]) {
                        Ok(written) => return out.truncate(start + written),
                        Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                            room = size.required_size;
                        }
                        Err(_) => return out.truncate(start),
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            _ => return,
        }
    }
}

/// An alert in its record, with what sealing adds.
const CLOSE_NOTIFY_BYTES: usize = 2 + RECORD_EXTRA;

/// Who the peer is. What rustls has verified in this very handshake is only read; a resumed session's certificates are
/// judged again, since policy, lists and time may have moved on.
fn judge(
    side: &Side,
    state: &CommonState,
    summary: &mut Summary,
) -> Result<Option<PeerIdentity>, Fault> {
    let chain = state.peer_certificates().unwrap_or(&[]);
    match side {
        Side::Client(side) => {
            let client = &side.0;
            let identity = match summary.resumed {
                true => client.policy.judge_again(chain, &client.name, wall_clock(&client.clock)?),
                false => PeerIdentity::of(chain),
            };
            summary.authenticated = !client.policy.believe_anybody;
            identity.map(Some).map_err(|error| Fault::from(&error))
        }
        Side::Server(side) => {
            let server = &side.0;
            let Some(policy) = &server.clients else { return Ok(None) };
            if chain.is_empty() && policy.mode == ClientCertificate::Optional {
                return Ok(None);
            }
            let report = policy.mode == ClientCertificate::Report;
            let identity = if report || chain.is_empty() {
                policy.judge(chain, wall_clock(&server.clock)?)
            } else if summary.resumed {
                policy.judge_again(chain, wall_clock(&server.clock)?)
            } else {
                PeerIdentity::of(chain)
            };
            match identity.map_err(|error| Fault::from(&error)) {
                Ok(identity) => {
                    summary.authenticated = true;
                    Ok(Some(identity))
                }
                Err(fault) if report => {
                    summary.would_refuse = Some(fault.kind);
                    Ok(None)
                }
                Err(fault) => Err(fault),
            }
        }
    }
}

fn summary(state: &CommonState, sni: bool) -> Summary {
    let suite = state.negotiated_cipher_suite().map(|suite| suite.suite());
    let group = state.negotiated_key_exchange_group().map(|group| group.name());
    Summary {
        version: match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => Version::Tls13,
        },
        key_exchange: match group {
            Some(NamedGroup::X25519MLKEM768) => KeyExchange::X25519MlKem768,
            Some(NamedGroup::X25519) => KeyExchange::X25519,
            Some(NamedGroup::secp256r1) => KeyExchange::P256,
            Some(NamedGroup::secp384r1) => KeyExchange::P384,
            Some(_) => KeyExchange::Other,
            None => KeyExchange::Resumed,
        },
        suite: match suite {
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => Suite::Aes128GcmSha256,
            Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => Suite::Aes256GcmSha384,
            Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => Suite::Chacha20Poly1305Sha256,
            Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) => {
                Suite::EcdheEcdsaAes128GcmSha256
            }
            Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384) => {
                Suite::EcdheEcdsaAes256GcmSha384
            }
            Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256) => {
                Suite::EcdheEcdsaChacha20Poly1305Sha256
            }
            Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) => {
                Suite::EcdheRsaAes128GcmSha256
            }
            Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) => {
                Suite::EcdheRsaAes256GcmSha384
            }
            Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) => {
                Suite::EcdheRsaChacha20Poly1305Sha256
            }
            _ => Suite::Other,
        },
        resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        alpn: state.alpn_protocol() == Some(ALPN_SIP),
        sni,
        authenticated: false,
        would_refuse: None,
    }
}
