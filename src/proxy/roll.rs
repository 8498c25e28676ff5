//! The roll of connections: who is there, for `/v1/connections`.
//! Owns nothing; looks at a part of the slab between two turns. Never changes a connection.

use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Proxy;
use super::connection::{Connection, Phase, Role};
use crate::base::machine::ConnId;
use crate::base::time::{Duration, Instant};
use crate::config::snapshot::{Prefix, Transport};
use crate::tls::Summary;

/// Slots that one look goes through: some 20 us of the worker's time.
pub const SLOTS_PER_LOOK: u32 = 2048;

/// Which connections are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Peers in this prefix; `None`: all.
    pub prefix: Option<Prefix>,
}

/// At which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Index into `Snapshot::listeners`.
    Accepted { listener: u16 },
    /// Number of the backend over all pools.
    Dialled { backend: u16 },
}

/// One connection as it is now.
#[derive(Clone, Debug)]
pub struct Entry {
    pub conn: ConnId,
    pub end: End,
    /// Index into `Snapshot::zones`.
    pub zone: u16,
    pub transport: Transport,
    pub peer: SocketAddr,
    /// The proxy that has named `peer` (PROXY protocol).
    pub came_by: Option<SocketAddr>,
    pub phase: &'static str,
    pub age: Duration,
    /// Since the last byte of the peer.
    pub quiet: Duration,
    pub registered: bool,
    pub tls: Option<Summary>,
    /// Verified identities of the peer (RFC 5922 7.1).
    pub identities: SmallVec<[Box<str>; 1]>,
}

/// What one look has found.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub entries: Vec<Entry>,
    /// Where the next look begins; `None`: this was the last.
    pub next: Option<u32>,
}

impl Proxy {
    /// The wanted connections of `SLOTS_PER_LOOK` slots from `first` on, in order of their slots.
    pub fn roll(&self, now: Instant, first: u32, wanted: &Wanted) -> Part {
        let connections = &self.core.connections;
        let entries = connections
            .part(first, SLOTS_PER_LOOK)
            .filter(|(_, connection)| {
                wanted.prefix.is_none_or(|prefix| prefix.contains(connection.peer.ip()))
            })
            .filter_map(|(conn, connection)| self.entry(now, conn, connection))
            .collect();
        let next = first.saturating_add(SLOTS_PER_LOOK);
        Part { entries, next: (next < connections.capacity()).then_some(next) }
    }

    fn entry(&self, now: Instant, conn: ConnId, connection: &Connection) -> Option<Entry> {
        let end = match connection.role {
            Role::Accepted { listener } => End::Accepted { listener },
            // A link that a reload has taken away is closing.
            Role::Link { link } if link >= self.core.upstream.len() => return None,
            Role::Link { link } => {
                End::Dialled { backend: self.core.upstream.backend(link) as u16 }
            }
        };
        let session = connection.session.as_ref();
        let identities = session
            .and_then(|session| session.peer())
            .map(|peer| peer.domains().iter().cloned().collect())
            .unwrap_or_default();
        Some(Entry {
            conn,
            end,
            zone: connection.zone,
            transport: connection.transport,
            peer: connection.peer,
            came_by: connection.came_by,
            phase: name(connection.phase),
            age: now.since(connection.accepted_at),
            quiet: now.since(connection.last_received),
            registered: connection.registered,
            tls: session.and_then(|session| session.summary()),
            identities,
        })
    }
}

const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Dialling => "dialling",
        Phase::Preface => "preface",
        Phase::Handshaking => "handshaking",
        Phase::Open => "open",
        Phase::Lingering => "lingering",
        Phase::Closing => "closing",
    }
}
