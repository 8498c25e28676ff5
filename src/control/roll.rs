//! `/v1/connections`: gathers the roll of all workers piece by piece, and makes the document of it.
//! Owns the bounds of an answer. Never keeps a worker for longer than a look at some slots, never waits for one that
//! does not answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::admin::Answer;
use super::problem::Problem;
use crate::config::snapshot::{Prefix, Snapshot};
use crate::proxy::Proxy;
use crate::proxy::roll::{End, Entry, Part, Wanted};
use crate::proxy::settings::Settings;
use crate::worker::{Command, Orders};

/// Connections in one answer, when nothing is said and at most.
pub const LIMIT: u16 = 100;
pub const LIMIT_MAX: u16 = 1000;

/// Identities that are counted apart in one answer; the connections of all others are counted together.
const IDENTITIES_MAX: usize = 1000;

/// One look at a worker; one that takes longer is stuck.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    pub prefix: Option<Prefix>,
    pub limit: u16,
    /// The connections behind this one: worker and slot.
    pub after: Option<(u16, u32)>,
}

impl Default for Query {
    fn default() -> Self {
        Query { prefix: None, limit: LIMIT, after: None }
    }
}

/// The answer, gathered from all workers one after the other.
pub async fn answer(workers: Vec<Orders<Proxy>>, settings: Arc<Settings>, query: Query) -> Answer {
    let mut roll = Roll::new(&settings, query);
    for (worker, orders) in workers.iter().enumerate() {
        let mut first = Some(0);
        while let Some(slot) = first {
            let Some(part) = look(orders, slot, Wanted { prefix: query.prefix }).await else {
                let detail = format!("worker {worker} does not answer");
                return Answer::Problem(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
            };
            first = part.next;
            part.entries.iter().for_each(|entry| roll.add(worker as u16, entry));
        }
    }
    Answer::Json(StatusCode::OK, roll.document())
}

async fn look(orders: &Orders<Proxy>, first: u32, wanted: Wanted) -> Option<Part> {
    let (seen, answered) = oneshot::channel();
    let look = move |proxy: &Proxy, now| {
        // Who asked may have gone.
        let _ = seen.send(proxy.roll(now, first, &wanted));
    };
    orders.send(Command::Look { look: Box::new(look) }).ok()?;
    timeout(PATIENCE, answered).await.ok()?.ok()
}

/// An answer under way.
struct Roll<'s> {
    snapshot: &'s Snapshot,
    backends: Vec<(&'s str, &'s str)>,
    query: Query,
    /// Of those that are wanted, whatever the page.
    total: u64,
    identities: BTreeMap<Box<str>, u64>,
    other_identities: u64,
    page: Vec<Value>,
    /// The last one on the page, and whether more follow.
    last: Option<(u16, u32)>,
    more: bool,
}

impl<'s> Roll<'s> {
    fn new(settings: &'s Settings, query: Query) -> Self {
        let snapshot = &settings.snapshot;
        let places = settings.backends().iter();
        let backends = places.map(|place| {
            let pool = &snapshot.pools[usize::from(place.pool)];
            (&*pool.name, &*pool.backends[usize::from(place.backend)].name)
        });
        Roll {
            snapshot,
            backends: backends.collect(),
            query,
            total: 0,
            identities: BTreeMap::new(),
            other_identities: 0,
            page: Vec::new(),
            last: None,
            more: false,
        }
    }

    fn add(&mut self, worker: u16, entry: &Entry) {
        self.total += 1;
        for identity in &entry.identities {
            let full = self.identities.len() >= IDENTITIES_MAX;
            match self.identities.get_mut(identity) {
                Some(count) => *count += 1,
                None if full => self.other_identities += 1,
                None => drop(self.identities.insert(identity.clone(), 1)),
            }
        }
        let place = (worker, entry.conn.slot);
        if self.query.after.is_some_and(|after| place <= after) {
            return;
        }
        if self.page.len() >= usize::from(self.query.limit) {
            self.more = true;
            return;
        }
        self.last = Some(place);
        let connection = self.connection(worker, entry);
        self.page.push(connection);
    }

    fn connection(&self, worker: u16, entry: &Entry) -> Value {
        let mut of = Map::new();
        let id = format!("{worker}-{}-{}", entry.conn.slot, entry.conn.generation);
        of.insert("id".into(), id.into());
        of.insert("peer".into(), entry.peer.to_string().into());
        if let Some(proxy) = entry.came_by {
            of.insert("came_by".into(), proxy.to_string().into());
        }
        let zone = self.snapshot.zones.get(usize::from(entry.zone));
        of.insert("zone".into(), zone.map_or("", |zone| &zone.name).into());
        match entry.end {
            End::Accepted { listener } => {
                let listener = self.snapshot.listeners.get(usize::from(listener));
                let name = listener.map_or("", |listener| &listener.name);
                of.insert("listener".into(), name.into());
            }
            End::Dialled { backend } => {
                let (pool, name) =
                    self.backends.get(usize::from(backend)).copied().unwrap_or_default();
                of.insert("pool".into(), pool.into());
                of.insert("backend".into(), name.into());
            }
        }
        of.insert("transport".into(), entry.transport.name().into());
        of.insert("state".into(), entry.phase.into());
        of.insert("age_seconds".into(), entry.age.as_secs().into());
        of.insert("quiet_seconds".into(), entry.quiet.as_secs().into());
        of.insert("registered".into(), entry.registered.into());
        if let Some(tls) = entry.tls {
            let reported = tls.would_refuse.map(|kind| kind.name());
            let summary = json!({
                "version": tls.version.name(),
                "cipher_suite": tls.suite.name(),
                "group": tls.key_exchange.name(),
                "resumed": tls.resumed,
                "alpn": tls.alpn,
                "authenticated": tls.authenticated,
                "would_refuse": reported,
            });
            of.insert("tls".into(), summary);
            of.insert("identities".into(), json!(entry.identities.as_slice()));
        }
        Value::Object(of)
    }

    fn document(self) -> Value {
        let next = self.last.filter(|_| self.more).map(|(worker, slot)| format!("{worker}-{slot}"));
        let identities = self.identities.into_iter();
        json!({
            "total": self.total,
            "connections": self.page,
            "next": next,
            "identities": identities
                .map(|(identity, connections)| {
                    json!({"identity": identity, "connections": connections})
                })
                .collect::<Vec<_>>(),
            "other_identities": self.other_identities,
        })
    }
}
