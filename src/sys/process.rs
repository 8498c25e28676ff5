//! What the process as a whole asks of the kernel: descriptor limits, and that its memory, which
//! holds private keys, is dumped to nobody.

use std::io;

/// RLIMIT_NOFILE or RLIMIT_MEMLOCK; `u64::MAX` means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    pub soft: u64,
    pub hard: u64,
}

/// Open descriptors that this process may have; a ring's descriptor table may not be larger either.
pub fn descriptor_limit() -> io::Result<ResourceLimit> {
    read(libc::RLIMIT_NOFILE)
}

/// Bytes that this process may lock; only registered buffers count, which we do not use.
pub fn memory_lock_limit() -> io::Result<ResourceLimit> {
    read(libc::RLIMIT_MEMLOCK)
}

/// Raises the soft descriptor limit to the hard one and returns what holds then.
pub fn raise_descriptor_limit() -> io::Result<ResourceLimit> {
    let limit = descriptor_limit()?;
    if limit.soft < limit.hard {
        let raised = libc::rlimit { rlim_cur: limit.hard, rlim_max: limit.hard };
        // PROMISE: `rlim` points to a readable rlimit (setrlimit(2)).
        // WHO: `raised` lives on this stack frame beyond the call.
        // TEST: sys::process::tests::the_descriptor_limit_is_raised
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    descriptor_limit()
}

/// PR_SET_DUMPABLE 0: no core dump and no ptrace by others; private keys stay in this process.
pub fn forbid_dumps() -> io::Result<()> {
    // PROMISE: PR_SET_DUMPABLE takes one integer and touches no memory (prctl(2)).
    // WHO: the constants.
    // TEST: sys::process::tests::dumps_are_forbidden
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read(resource: libc::__rlimit_resource_t) -> io::Result<ResourceLimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // PROMISE: `rlim` points to an rlimit that the call may write (getrlimit(2)).
    // WHO: `limit` lives on this stack frame beyond the call.
    // TEST: sys::process::tests::the_descriptor_limit_is_raised
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ResourceLimit { soft: limit.rlim_cur, hard: limit.rlim_max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_raised() {
        let before = descriptor_limit().unwrap();
        let after = raise_descriptor_limit().unwrap();
        assert_eq!(after.soft, before.hard);
        assert!(memory_lock_limit().unwrap().hard > 0);
    }

    #[test]
    fn dumps_are_forbidden() {
        forbid_dumps().unwrap();
        // The owner of /proc/self becomes root when a process is not dumpable; the flag itself is
        // what prctl(2) says.
        // PROMISE: PR_GET_DUMPABLE takes no argument and touches no memory (prctl(2)).
        // WHO: the constants.
        // TEST: this one.
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
        assert_eq!(dumpable, 0);
        // Other tests of this process read their own /proc files.
        // PROMISE: as in `forbid_dumps`.
        // WHO: the constants.
        // TEST: this one.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
}
