//! ringfront: a SIP front-end for TCP and TLS on per-core io_uring loops.
//!
//! Two seams, two traits: a [`base::machine::Machine`] (bytes and time in, bytes and deadlines out) is what the proxy,
//! the embedded backend and the load generator all are; a [`base::ring::Ring`] (submissions in, completions out) is
//! what the kernel and the simulator both are. One loop, [`worker::turn`], joins any Machine to any Ring.
//!
//! The floors, top to bottom; a file imports its own folder and lower floors only (`tests/tidy.rs` checks it):
//!
//! ```text
//!  6  cli                        words on the command line; the only exit()
//!  5  control  host              process life, admin, export; host facts, doctor and tune
//!  4  worker   sim               the turn: one Machine on one Ring  |  the same turn in a made-up world
//!  3  proxy    peer              the Machines: SIP proxy core | user agents, registrar
//!  2  tls      sys               one TLS connection over caller's bytes | the kernel: all unsafe code
//!  1  sip      config::snapshot  telemetry      bytes to meaning | settled settings | counting
//!  0  base                       Machine, Ring, ids, limits, time, slab, random
//! ```

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod host;
pub mod peer;
pub mod proxy;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sip;
pub mod sys;
pub mod telemetry;
pub mod tls;
pub mod worker;
