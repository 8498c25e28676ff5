//! The deterministic simulator: the real loop and the real proxy in a made-up world, out of one seed.
//! Owns the world: kernel, network, clock, phones, backends and those who mean no good. Never a socket, never a thread,
//! never wall time. docs/sim.md says what strikes and what is judged.
#![forbid(unsafe_code)]

mod agent;
mod backend;
mod balance;
mod cast;
mod compose;
mod crypto;
mod failover;
pub mod faults;
mod hostile;
mod ladder;
mod line;
pub mod oracle;
mod phone;
mod reference;
mod ring;
pub mod setting;
pub mod stage;
mod text;
mod wire;
mod world;

pub use ladder::RUNGS;
pub use world::{Outcome, World};

/// What a failing seed is a failure of.
pub const VERSION: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));

/// Runs one seed. A failure comes with its last `rungs` events.
pub fn run(seed: u64, rungs: usize) -> Outcome {
    let mut world = World::new(setting::Options::drawn(seed));
    world.cast.ladder.keep(rungs);
    world.run()
}
