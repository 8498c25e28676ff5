//! The deterministic simulator: the real loop and the real Machines in a made-up world.
#![forbid(unsafe_code)]
