//! Floor 0: the two seams and the few things that every floor counts on.
//! Owns the traits [`Machine`](machine::Machine) and [`Ring`](ring::Ring), identifiers, limits, time, slab,
//! chunks and random numbers. Never does I/O, never asks the clock, never says a SIP word.

pub mod chunk;
pub mod limits;
pub mod machine;
pub mod random;
pub mod ring;
pub mod slab;
pub mod time;
