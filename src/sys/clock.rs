//! The clock: CLOCK_MONOTONIC in nanoseconds, the same origin for every ring of the host.
//! Never the wall clock, never asked from the hot path but by a ring.

use crate::base::time::Instant;

/// Reads the clock.
pub fn monotonic() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // PROMISE: `tp` points to a timespec that the call may write (clock_gettime(2)).
    // WHO: `time` lives on this stack frame beyond the call.
    // TEST: sys::clock::tests::it_goes_forward
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC exists on every Linux");
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward() {
        let first = monotonic();
        std::thread::yield_now();
        let second = monotonic();
        assert!(second >= first && first.0 > 0);
    }
}
