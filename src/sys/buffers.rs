//! The provided-buffer ring: receive buffers that the kernel picks from by itself
//! (io_uring_register_buf_ring(3)).
//! Owns the buffers and the ring that offers them. Never copies a byte.
//! Invariant: a buffer is either offered to the kernel, or lent to the caller, never both; an id that
//! a completion has brought is offered again exactly once.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Pages from the kernel, zeroed, given back when dropped.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    len: usize,
    leaked: bool,
}

impl Pages {
    fn new(len: usize) -> io::Result<Pages> {
        // PROMISE: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that is in use (mmap(2)).
        // WHO: the null address and the flags.
        // TEST: tests/ring.rs echoes_of_many_sizes_come_back_whole
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("mmap(2) does not map page 0");
        Ok(Pages { start, len, leaked: false })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // PROMISE: nobody refers to these pages any more (munmap(2)).
        // WHO: `ReceiveBuffers` lends by `&mut self`; `KernelRing` drops it after its ring has
        // nothing under way, and forgets it otherwise.
        // TEST: tests/ring.rs a_panic_costs_the_connections_and_the_worker_lives_on
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A group of receive buffers of one size.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    entries: Pages,
    memory: Pages,
    count: u16,
    bytes_each: u32,
    tail: u16,
}

impl ReceiveBuffers {
    /// `count` buffers (a power of two, at most 32768) of `bytes_each` bytes, all offered.
    pub fn new(count: u16, bytes_each: u32) -> io::Result<ReceiveBuffers> {
        assert!(count.is_power_of_two() && count <= 1 << 15 && bytes_each > 0);
        let entries = Pages::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Pages::new(usize::from(count) * bytes_each as usize)?;
        let mut buffers = ReceiveBuffers { entries, memory, count, bytes_each, tail: 0 };
        for id in 0..count {
            buffers.offer(id);
        }
        Ok(buffers)
    }

    /// Offers the buffers to the ring as its group `group`.
    pub fn register(&self, submitter: &Submitter<'_>, group: u16) -> io::Result<()> {
        let address = self.entries.start.as_ptr() as u64;
        // PROMISE: the ring of entries stays valid until the ring is gone (register_buf_ring).
        // WHO: `KernelRing` drops its queues before its buffers, and leaks these when the kernel may
        // still write.
        // TEST: tests/ring.rs echoes_of_many_sizes_come_back_whole
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, group, 0) }
    }

    /// Keeps the pages mapped for good: the kernel may still write into them.
    pub fn leak(&mut self) {
        self.entries.leaked = true;
        self.memory.leaked = true;
    }

    pub fn bytes(&self) -> usize {
        self.memory.len + self.entries.len
    }

    /// The first `len` bytes of the buffer that a completion has brought.
    pub fn lend(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(id < self.count && len <= self.bytes_each as usize);
        let offset = usize::from(id) * self.bytes_each as usize;
        // PROMISE: the offset lies within the mapping.
        // WHO: the assertion above and `new`, which mapped `count * bytes_each` bytes.
        // TEST: tests/ring.rs echoes_of_many_sizes_come_back_whole
        let start = unsafe { self.memory.start.as_ptr().add(offset) };
        // PROMISE: the bytes are initialised, and nobody else reads or writes them while lent.
        // WHO: mmap(2) zeroes them; the kernel has taken this id off its ring until `offer` puts it
        // back, which needs `&mut self` and so ends the loan.
        // TEST: tests/ring.rs echoes_of_many_sizes_come_back_whole
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Offers a buffer to the kernel (again).
    pub fn offer(&mut self, id: u16) {
        assert!(id < self.count);
        let base: *mut BufRingEntry = self.entries.start.as_ptr().cast();
        let index = usize::from(self.tail & (self.count - 1));
        let address = self.memory.start.as_ptr() as u64 + u64::from(id) * self.address_step();
        // PROMISE: the entry lies within the mapping.
        // WHO: the mask, and `new`, which mapped `count` entries.
        // TEST: tests/ring.rs a_starved_receive_is_armed_again_and_loses_nothing
        let entry = unsafe { base.add(index) };
        // PROMISE: the entry is valid, and nobody else accesses it now.
        // WHO: at most `count` ids exist, so the kernel has consumed the entry at the tail.
        // TEST: tests/ring.rs a_starved_receive_is_armed_again_and_loses_nothing
        let entry = unsafe { &mut *entry };
        // Field by field: the last field of entry 0 is the ring's tail and must not be overwritten.
        entry.set_addr(address);
        entry.set_len(self.bytes_each);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // PROMISE: `base` is the first entry of the ring.
        // WHO: `base` above.
        // TEST: sys::buffers::tests::the_tail_is_not_clobbered_by_entry_0
        let tail = unsafe { BufRingEntry::tail(base) };
        // PROMISE: the pointer is aligned, valid and only accessed atomically while shared.
        // WHO: the kernel reads it with acquire semantics; we alone write it, here.
        // TEST: sys::buffers::tests::the_tail_is_not_clobbered_by_entry_0
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn address_step(&self) -> u64 {
        u64::from(self.bytes_each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_not_clobbered_by_entry_0() {
        let mut buffers = ReceiveBuffers::new(4, 64).unwrap();
        assert_eq!(buffers.tail, 4);
        // Entry 0 is written again: the tail, which lives inside it, must go on by one.
        buffers.offer(0);
        let base: *const BufRingEntry = buffers.entries.start.as_ptr().cast();
        // PROMISE: `base` is the first entry of the ring.
        // WHO: `ReceiveBuffers::new`.
        // TEST: this one.
        let tail = unsafe { BufRingEntry::tail(base) };
        // PROMISE: the pointer is valid and nobody writes it now.
        // WHO: the ring is registered nowhere.
        // TEST: this one.
        assert_eq!(unsafe { tail.read() }, 5);
    }

    #[test]
    fn buffers_do_not_overlap() {
        let mut buffers = ReceiveBuffers::new(4, 64).unwrap();
        for id in 0..4 {
            buffers.lend(id, 64).fill(id as u8 + 1);
        }
        for id in 0..4 {
            assert!(buffers.lend(id, 64).iter().all(|&byte| byte == id as u8 + 1));
        }
    }
}
