//! One TLS connection over the caller's bytes, and what it shows and trusts.
//! Owns sessions, identities, verification of peers by RFC 5922 and session tickets. Never opens a socket or a file,
//! never asks the clock, never says a SIP word.
//! Invariant: rustls' connection types are named in `session` alone.
#![forbid(unsafe_code)]

pub mod client_auth;
pub mod clock;
pub mod fault;
pub mod hello;
pub mod identity;
mod load_sessions;
pub mod session;
pub mod summary;
pub mod ticket;

pub use client_auth::PeerIdentity;
pub use fault::{Fault, FaultKind};
pub use identity::{ClientSide, ServerSide};
pub use session::{Opened, Session};
pub use summary::Summary;
pub use ticket::Tickets;
