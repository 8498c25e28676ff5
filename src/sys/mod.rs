//! The kernel: every unsafe block of the program, each with its promise, its keeper and its test
//! (`docs/unsafe.md` is the ledger). Owns rings, sockets, descriptors, limits and the clock.
//! Never says a SIP word, never decides when something happens.
#![allow(unsafe_code)]
#![warn(clippy::multiple_unsafe_ops_per_block)]

mod address;
pub mod affinity;
mod buffers;
pub mod clock;
pub mod probe;
pub mod process;
mod queues;
pub mod socket;
pub mod uring;
pub mod wake;

/// A start-up error as operators read it: one line each for what, where, likely cause and cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n{place}\n{cause}\n{cure}")]
pub struct StartUpFault {
    pub what: String,
    pub place: String,
    pub cause: String,
    pub cure: String,
}
