//! The other Machines: scripted user agents, the embedded registrar, the crowd that makes load.
#![forbid(unsafe_code)]

pub mod expect;
pub mod location;
pub mod scenario;
pub mod stream;
pub mod tally;
