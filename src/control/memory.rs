//! What the process may take at most, as sums over its bounds: one term for each kind of memory, with its reason.
//! Owns the formula. Never measures; the kernel's own memory (socket buffers, ring queues) is not in it.

use super::resolve::locate::PLACES_MAX;
use super::resolve::names::RETIRED_MAX;
use crate::base::limits;
use crate::config::snapshot::{ControlSettings, Limits, NamedBackend, Snapshot, Transport};
use crate::proxy;
use crate::telemetry::latency::Stage;
use crate::tls::session::{KEPT_BYTES_MAX, RECORD_PLAIN_MAX, Session};

/// `count` times `each` bytes of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    pub what: &'static str,
    pub count: u64,
    pub each: u64,
}

impl Sum {
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.each)
    }
}

/// Heap of one idle TLS session; tests/tls_memory.rs holds it there.
const TLS_SESSION_HEAP_BYTES: u64 = 2560;

/// Code, the control plane with its threads, configuration and certificates.
const PROCESS_BYTES: u64 = 48 * 1024 * 1024;

/// One histogram of a stage.
const HISTOGRAM_BYTES: u64 = 240 * 1024;

/// One source in the table of rates, with what a half-empty hash table adds.
const PREFIX_BYTES: u64 = 256;

/// What a connection costs beside the proxy's own state: slots of turn and ring, its deadline, its place in queues.
const SLOT_BYTES: u64 = 256;

/// The terms of this configuration.
pub fn sums(snapshot: &Snapshot, control: &ControlSettings) -> Vec<Sum> {
    let limits = &snapshot.limits;
    let workers = control.cores.len() as u64;
    let accepted = u64::from(limits.connections_per_core);
    let slots = accepted + u64::from(limits::ACCEPT_RESERVE) + u64::from(limits::OWN_SLOTS);
    let dialled: u64 = dialled(snapshot, &control.resolver.names);
    let each_worker = |what, count: u64, each| Sum { what, count: workers * count, each };
    let mut sums = vec![
        Sum {
            what: "the process: code, control plane, certificates",
            count: 1,
            each: PROCESS_BYTES,
        },
        each_worker(
            "receive buffers, taken at the start",
            u64::from(limits::RECEIVE_BUFFERS),
            u64::from(limits::RECEIVE_BUFFER_BYTES),
        ),
        each_worker(
            "latency histograms, recording and handed over",
            2 * Stage::COUNT as u64,
            HISTOGRAM_BYTES,
        ),
        each_worker(
            "connection slots, taken at the start",
            slots,
            proxy::CONNECTION_BYTES as u64 + SLOT_BYTES,
        ),
        each_worker(
            "sources in the table of rates",
            proxy::admission::PREFIXES_MAX as u64,
            PREFIX_BYTES,
        ),
        each_worker(
            "bytes that wait to be sent, over all connections",
            1,
            limits::CHUNK_BYTES_MAX as u64,
        ),
        // A buffer grows by doubling.
        each_worker(
            "half messages, one of each connection",
            accepted + dialled,
            2 * message(limits),
        ),
        each_worker("buffers at rest", proxy::SPARE_BUFFERS as u64, proxy::SPARE_BYTES_MAX as u64),
    ];
    sums.extend(transactions(snapshot, workers));
    if speaks_tls(snapshot, &control.resolver.names) {
        let session = size_of::<Session>() as u64 + TLS_SESSION_HEAP_BYTES;
        sums.push(each_worker("TLS sessions", accepted + dialled, session));
        sums.push(each_worker(
            "half records of connections",
            accepted + dialled,
            RECORD_PLAIN_MAX as u64,
        ));
        let handshakes = u64::from(limits.handshakes_per_core);
        sums.push(each_worker("half handshakes", handshakes, KEPT_BYTES_MAX as u64));
    }
    if workers > 1 {
        let envelope = message(limits) + size_of::<proxy::Envelope>() as u64;
        let boxes = workers * (workers - 1);
        let count = boxes * limits::MAILBOX_DEPTH as u64;
        sums.push(Sum { what: "messages on their way to another worker", count, each: envelope });
    }
    sums
}

/// What pools with failover may keep.
fn transactions(snapshot: &Snapshot, workers: u64) -> Vec<Sum> {
    if !snapshot.pools.iter().any(|pool| pool.failover) {
        return Vec::new();
    }
    let transactions = u64::from(snapshot.limits.transactions_per_core);
    let kept = limits::KEPT_REQUEST_BYTES_MAX as u64;
    vec![
        Sum {
            what: "transactions whose state is kept",
            count: workers * transactions,
            each: proxy::TRANSACTION_BYTES as u64,
        },
        Sum { what: "requests kept with them", count: workers, each: kept },
    ]
}

/// Head and body at their bounds.
fn message(limits: &Limits) -> u64 {
    u64::from(limits.head) + u64::from(limits.body)
}

/// Connections that one worker dials: what names lead to is bounded for each and for all.
fn dialled(snapshot: &Snapshot, names: &[NamedBackend]) -> u64 {
    let pools = snapshot.pools.iter();
    let fixed: u64 = pools.map(|pool| pool.backends.len() as u64 * u64::from(pool.lanes)).sum();
    let lanes = |named: &NamedBackend| u64::from(snapshot.pools[usize::from(named.pool)].lanes);
    let named = names.iter().map(|named| lanes(named) * (PLACES_MAX + RETIRED_MAX) as u64);
    (fixed + named.sum::<u64>()).min(fixed.max(limits::DIALLED_MAX as u64))
}

fn speaks_tls(snapshot: &Snapshot, names: &[NamedBackend]) -> bool {
    let accepts = snapshot.listeners.iter().any(|listener| listener.transport == Transport::Tls);
    let mut backends = snapshot.pools.iter().flat_map(|pool| &pool.backends);
    accepts
        || backends.any(|backend| backend.transport == Transport::Tls)
        || names.iter().any(|named| named.transports.tls)
}

/// Three digits and a unit.
pub fn human(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => (1u64 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit));
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1024), "1.0 KiB");
        assert_eq!(human(1025), "1.1 KiB");
        assert_eq!(human(80 * 1024 * 1024), "80.0 MiB");
        assert_eq!(human(3 << 30), "3.0 GiB");
    }
}
