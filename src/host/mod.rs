//! Host facts, doctor and tune over the catalogue in `tuning/`.
//! Owns what is known of the host and every write to it. Never touches what the catalogue does not name.
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod checks;
pub mod facts;
pub mod formula;
pub mod guard;
pub mod journal;
pub mod managers;
pub mod netlink;
pub mod nic;
pub mod persist;
pub mod plan;
pub mod recorded;
pub mod setting;
pub mod sizing;
pub mod sysroot;
pub mod tune;
