//! Cores: which ones this process may use, and pinning the calling thread to one.
//! Never starts threads.

/// The cores that this process may run on, as the inherited affinity mask says.
pub fn cores() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().map(|core| core.id).collect()
}

/// A core set holds so many; `core_affinity` does not look before it writes one.
const CORES_MAX: usize = libc::CPU_SETSIZE as usize;

/// Pins the calling thread to `core`. False when the kernel refuses (no such core, or not allowed).
pub fn pin(core: usize) -> bool {
    core < CORES_MAX && core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_is_pinned_to_an_allowed_core_and_to_no_other() {
        let cores = super::cores();
        assert!(!cores.is_empty());
        let wanted = cores[cores.len() - 1];
        std::thread::spawn(move || {
            assert!(super::pin(wanted));
            assert_eq!(super::cores(), [wanted]);
            assert!(!super::pin(1023) && !super::pin(9999));
        })
        .join()
        .unwrap();
    }
}
