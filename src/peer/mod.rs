//! The other Machines: scripted user agents, the embedded registrar, the crowd that makes load.
#![forbid(unsafe_code)]

mod callee;
pub mod crowd;
pub mod expect;
pub mod location;
pub mod registrar;
pub mod scenario;
mod sdp;
pub mod stream;
pub mod tally;
pub mod uac;
