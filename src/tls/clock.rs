//! The wall clock as TLS needs it: certificates and tickets live by it. Handed in by control or the simulator.
//! Never asks the system.

use std::sync::atomic::{AtomicU64, Ordering};

pub use rustls::pki_types::UnixTime;
pub use rustls::time_provider::TimeProvider;
use std::time::Duration;

/// A wall clock that stands still until it is set: the simulator's, and that of tests.
#[derive(Debug)]
pub struct SetClock(AtomicU64);

impl SetClock {
    /// `seconds` since 1970.
    pub fn new(seconds: u64) -> Self {
        SetClock(AtomicU64::new(seconds))
    }

    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for SetClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}
