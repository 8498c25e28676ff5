//! The state of the process as JSON: `/v1/status`, `/v1/workers`, `/v1/latency`, `/readyz`.
//! Owns the documents' members. Never a secret, never a peer's bytes.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::resolve::names::{NameStatus, Names};
use super::totals::Totals;
use crate::config::snapshot::Snapshot;
use crate::proxy::settings::Order;
use crate::telemetry::counter::Refused;
use crate::telemetry::percentiles;

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// No new work; what there is comes to its end.
    Draining,
    Stopping,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Draining => "draining",
            Phase::Stopping => "stopping",
        }
    }
}

/// Everything that the documents are made of.
pub struct View<'a> {
    pub totals: &'a Totals,
    pub snapshot: &'a Snapshot,
    /// For each backend: what the operator wants of it.
    pub orders: &'a [Order],
    pub names: &'a Names,
    pub now: Instant,
    pub phase: Phase,
    pub uptime_seconds: u64,
    pub last_reload: &'a Value,
}

impl View<'_> {
    /// Why new calls are not welcome; empty: they are.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.phase != Phase::Running {
            reasons.push("draining");
        }
        let backends = self.backend_places().count();
        let usable =
            |backend: usize| self.totals.backend_up(backend) && self.orders[backend] == Order::Up;
        let wanted = backends > 0 || !self.names.is_empty();
        if wanted && !(0..backends).any(usable) {
            reasons.push("no usable backend");
            if self.names.any_unresolved() {
                reasons.push("a backend's name is not resolved");
            }
        }
        reasons
    }

    pub fn readiness(&self) -> Value {
        let not_ready = self.not_ready();
        json!({"ready": not_ready.is_empty(), "not_ready": not_ready})
    }

    pub fn status(&self) -> Value {
        let counters = &self.totals.counters;
        let not_ready = self.not_ready();
        let received: u64 = counters
            .zones
            .iter()
            .map(|zone| zone.requests.iter().sum::<u64>() + zone.responses)
            .sum();
        let forwarded: u64 = counters
            .zones
            .iter()
            .map(|zone| zone.requests_forwarded + zone.responses_forwarded)
            .sum();
        let refused: u64 = Refused::ALL.iter().map(|&reason| counters.refused(reason)).sum();
        json!({
            "node": self.snapshot.node,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "state": self.phase.name(),
            "ready": not_ready.is_empty(),
            "not_ready": not_ready,
            "uptime_seconds": self.uptime_seconds,
            "config_generation": self.snapshot.generation,
            "last_reload": self.last_reload,
            "workers": self.totals.workers.len(),
            "worker_panics": self.totals.workers.iter().map(|worker| worker.panics).sum::<u32>(),
            "connections": self.totals.connections(),
            "messages_received": received,
            "messages_forwarded": forwarded,
            "refused": refused,
            "backends": self.backends(),
            "names": self.named(),
        })
    }

    fn backend_places(&self) -> impl Iterator<Item = (&str, &crate::config::snapshot::Backend)> {
        let pools = self.snapshot.pools.iter();
        pools.flat_map(|pool| pool.backends.iter().map(|backend| (&*pool.name, backend)))
    }

    /// Backends that are written as names, and what DNS says of them.
    fn named(&self) -> Vec<Value> {
        let of = |name: NameStatus<'_>| {
            json!({
                "pool": name.pool,
                "backend": name.backend,
                "name": name.name,
                "state": name.state,
                "addresses": name.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "answer_age_seconds": name.age.map(|age| age.as_secs()),
                "failures": name.failures,
                "fault": name.fault,
            })
        };
        self.names.status(self.now).map(of).collect()
    }

    fn backends(&self) -> Vec<Value> {
        let place =
            |(index, (pool, backend)): (usize, (&str, &crate::config::snapshot::Backend))| {
                json!({
                    "pool": pool,
                    "name": backend.name,
                    "address": backend.address.to_string(),
                    "transport": backend.transport.name(),
                    "weight": backend.weight,
                    "priority": backend.priority,
                    "retired": backend.retired,
                    "up": self.totals.backend_up(index),
                })
            };
        self.backend_places().enumerate().map(place).collect()
    }

    pub fn workers(&self) -> Value {
        let workers: Vec<Value> = self
            .totals
            .workers
            .iter()
            .enumerate()
            .map(|(index, worker)| {
                let mut of = Map::new();
                of.insert("worker".to_owned(), json!(index));
                of.insert("core".to_owned(), json!(worker.core));
                of.insert("state".to_owned(), json!(worker.state.name()));
                of.insert("panics".to_owned(), json!(worker.panics));
                of.insert("connections".to_owned(), json!(worker.connections));
                of.insert("dialled".to_owned(), json!(worker.dialled));
                of.insert("handshakes_open".to_owned(), json!(worker.gauges.handshakes_open));
                for (word, count) in worker.words() {
                    of.insert(word.to_owned(), json!(count));
                }
                Value::Object(of)
            })
            .collect();
        json!({"workers": workers})
    }

    pub fn latency(&self) -> Value {
        json!({"unit": "nanoseconds", "stages": percentiles::summaries(&self.totals.latency)})
    }
}
