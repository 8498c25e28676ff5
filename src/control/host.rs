//! The host's tuning as the daemon sees it: drift at the start and now and then, the counters of the UDP guard.
//! Owns one thread that does the reading, since it opens files and runs nft. Never writes to the host; nobody waits for
//! it: whoever asks gets what was read last and sets off the next reading.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::host::guard::{GuardCounter, GuardFault, NftCommand, guard_counters};
use crate::host::journal;
use crate::host::netlink::KernelNic;
use crate::host::setting::Host;
use crate::host::sizing::Inputs;
use crate::host::sysroot::LiveRoot;
use crate::host::tune::drift;

/// Between two readings of the guard, so that scrapes cannot press the host: nft takes about 10 ms.
const GUARD_EVERY: Duration = Duration::from_secs(5);

/// Readings of the guard to one of the tuning: it changes seldom.
const GUARD_READINGS_PER_DRIFT: u32 = 12;

/// What is known of the UDP guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    Loaded(Vec<GuardCounter>),
    Absent,
    /// This process may not ask (no CAP_NET_ADMIN, no nft), or has not asked yet.
    #[default]
    Unreadable,
}

impl Guard {
    /// The label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Guard::Loaded(_) => "loaded",
            Guard::Absent => "absent",
            Guard::Unreadable => "unreadable",
        }
    }
}

/// What was read last.
#[derive(Clone, Debug, Default)]
pub struct HostReport {
    /// Tunables of the catalogue that are not as the applied profile (else `baseline`) wants them.
    pub drift: Vec<String>,
    pub guard: Guard,
}

/// What the two ends share.
#[derive(Debug)]
struct Shared {
    latest: HostReport,
    inputs: Inputs,
}

/// The reading thread's other end.
#[derive(Debug)]
pub struct HostWatch {
    shared: Arc<Mutex<Shared>>,
    /// One waiting wish is enough.
    wish: SyncSender<()>,
}

impl HostWatch {
    /// Starts the thread, which logs each drift once. Without a thread the report stays empty.
    pub fn start(inputs: Inputs) -> HostWatch {
        let shared = Arc::new(Mutex::new(Shared { latest: HostReport::default(), inputs }));
        let (wish, wishes) = sync_channel(1);
        let other = Arc::clone(&shared);
        let started =
            std::thread::Builder::new().name("host".into()).spawn(move || watch(&other, &wishes));
        if let Err(error) = started {
            tracing::warn!(%error, "the host's tuning is not watched");
        }
        HostWatch { shared, wish }
    }

    /// The configuration was read again; the next look at the tuning is by the new one.
    pub fn configure(&self, inputs: Inputs) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).inputs = inputs;
    }

    /// What was read last; the next reading is set off.
    pub fn latest(&self) -> HostReport {
        // Full: one is under way. Closed: the thread could not be started.
        let _ = self.wish.try_send(());
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).latest.clone()
    }
}

fn watch(shared: &Mutex<Shared>, wishes: &Receiver<()>) {
    let host = Host { root: &LiveRoot, nic: &KernelNic, firewall: &NftCommand };
    let mut logged = BTreeSet::new();
    let mut readings = 0;
    let mut report = HostReport::default();
    loop {
        if readings % GUARD_READINGS_PER_DRIFT == 0 {
            // Never held while reading: the supervisor takes the same lock.
            let inputs = shared.lock().unwrap_or_else(PoisonError::into_inner).inputs.clone();
            let drifts = drift(&inputs, host, journal::FOLDER);
            for one in &drifts {
                if logged.insert(one.line.clone()) {
                    tracing::info!(id = one.id, "tuning drift: {}", one.line);
                }
            }
            report.drift = drifts.into_iter().map(|one| one.id).collect();
            report.drift.dedup();
        }
        readings += 1;
        report.guard = guard();
        shared.lock().unwrap_or_else(PoisonError::into_inner).latest = report.clone();
        #[expect(clippy::disallowed_methods, reason = "a thread that has nothing else to do")]
        std::thread::sleep(GUARD_EVERY);
        // The supervisor is gone: so are we.
        if wishes.recv().is_err() {
            return;
        }
    }
}

fn guard() -> Guard {
    match guard_counters() {
        Ok(counters) if counters.is_empty() => Guard::Absent,
        Ok(counters) => Guard::Loaded(counters),
        Err(GuardFault::NotOffered) => Guard::Absent,
        Err(_) => Guard::Unreadable,
    }
}
