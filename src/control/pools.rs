//! Pools as an operator sees and drives them: what he has ordered of each backend, `/v1/pools`, changes of state in
//! the log. Owns the orders. Never asks a worker; an order reaches them with their settings.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::totals::Totals;
use crate::config::snapshot::{Affinity, Backend, Snapshot};
use crate::proxy::settings::{Order, Settings};
use crate::proxy::{BackendGauge, Gauges};

/// Orders that differ from "up", by the names of pool and backend. They outlive reloads, also those in which the
/// backend is missing, and end with the process.
#[derive(Clone, Debug, Default)]
pub struct Orders(BTreeMap<(Box<str>, Box<str>), Order>);

/// More than this many backends that are not configured are not remembered: a script that counts up would fill us.
const ABSENT_MAX: usize = 256;

impl Orders {
    pub fn set(&mut self, pool: &str, backend: &str, order: Order) {
        let key = (pool.into(), backend.into());
        if order == Order::Up {
            self.0.remove(&key);
        } else {
            self.0.insert(key, order);
        }
    }

    /// Puts the orders into what the workers are told, and forgets some of backends that are gone if there are many.
    pub fn apply(&mut self, settings: Settings) -> Settings {
        if self.0.len() > settings.backends().len() + ABSENT_MAX {
            self.0.retain(|(pool, backend), _| find(&settings.snapshot, pool, backend).is_some());
        }
        // An order for a name is one for every address that it leads to.
        let order = |pool: &str, backend: &str| self.0.get(&(pool.into(), backend.into())).copied();
        settings.with_orders(|pool, backend| {
            let of_name = || order(pool, configured_name(backend));
            order(pool, backend).or_else(of_name).unwrap_or_default()
        })
    }
}

/// The backend of these names, if it is configured; of a name that DNS knows, one of its addresses.
pub fn find<'s>(snapshot: &'s Snapshot, pool: &str, backend: &str) -> Option<&'s Backend> {
    let pool = snapshot.pools.iter().find(|it| &*it.name == pool)?;
    let named = |it: &&Backend| &*it.name == backend || configured_name(&it.name) == backend;
    pool.backends.iter().find(named)
}

/// The name that is written for what is called `name@address` (`resolve::names`).
fn configured_name(backend: &str) -> &str {
    backend.split_once('@').map_or(backend, |(name, _)| name)
}

/// Names of pool and backend, in order of the backends' numbers.
pub fn names(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str)> {
    snapshot
        .pools
        .iter()
        .flat_map(|pool| pool.backends.iter().map(|backend| (&*pool.name, &*backend.name)))
}

/// `/v1/pools`.
pub fn document(settings: &Settings, totals: &Totals) -> Value {
    let mut number = 0;
    let pools: Vec<Value> = settings
        .snapshot
        .pools
        .iter()
        .map(|pool| {
            let backends: Vec<Value> = pool
                .backends
                .iter()
                .map(|backend| {
                    let document = one(settings, totals, number, backend);
                    number += 1;
                    document
                })
                .collect();
            json!({
                "name": pool.name,
                "zone": settings.snapshot.zones[usize::from(pool.zone)].name,
                "affinity": affinity(pool.affinity),
                "shared_dialogs": pool.shared_dialogs,
                "backends": backends,
            })
        })
        .collect();
    json!({"pools": pools})
}

fn one(settings: &Settings, totals: &Totals, number: usize, backend: &Backend) -> Value {
    let gauges = totals.workers.iter().map(|worker| worker.gauges.backends.get(number));
    let workers: Vec<Value> =
        gauges.enumerate().filter_map(|(index, it)| Some(of_worker(index, it?))).collect();
    json!({
        "name": backend.name,
        "address": backend.address.to_string(),
        "transport": backend.transport.name(),
        "weight": backend.weight,
        "priority": backend.priority,
        "order": settings.orders[number].name(),
        "up": totals.backend_up(number),
        "workers": workers,
    })
}

fn of_worker(index: usize, gauge: &BackendGauge) -> Value {
    json!({
        "worker": index,
        "state": state(gauge.up),
        "reason": gauge.reason,
        "since_seconds": gauge.since.as_secs(),
        "lanes_up": gauge.lanes_up,
        "lanes": gauge.lanes,
        "share_percent": gauge.ramp,
    })
}

const fn state(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

const fn affinity(affinity: Affinity) -> &'static str {
    match affinity {
        Affinity::CallId => "call-id",
        Affinity::From => "from",
        Affinity::To => "to",
        Affinity::Source => "source",
        Affinity::None => "none",
    }
}

/// Writes what has changed since the worker's last report into the log.
pub fn log_changes(snapshot: &Snapshot, worker: usize, gauges: &Gauges) {
    for change in &gauges.changes {
        let Some((pool, backend)) = names(snapshot).nth(change.backend) else { continue };
        let (state, reason) = (state(change.up), change.reason);
        if change.up {
            tracing::info!(pool, backend, worker, state, reason, "backend");
        } else {
            tracing::warn!(pool, backend, worker, state, reason, "backend");
        }
    }
}
