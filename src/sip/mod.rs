//! SIP as it is read and written: framing, spans, edits, local replies. Never transport, never owns a message.
//!
//! One way through: [`frame`](frame::frame) cuts a [`Message`] out of the bytes at hand and indexes its headers in the
//! same pass; [`Message`] answers what a proxy asks; a [`Patch`] lists the edits and yields the slices to send;
//! [`reply`](reply::reply) writes a local response.
#![forbid(unsafe_code)]

pub mod error;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod hop;
pub mod message;
pub mod name;
pub mod patch;
pub mod reply;
mod scan;
pub mod text;
pub mod uri;
mod validate;
pub mod via;

pub use error::{Fault, FaultKind};
pub use frame::{FrameLimits, FrameState, Framed, frame, salvage};
pub use message::{CSeq, Header, Message, Start, Value, Values};
pub use name::{Method, Name};
pub use patch::Patch;
pub use reply::{reason, reply};
pub use text::Range32;
pub use uri::{NameAddr, Scheme, Uri};
pub use validate::{Parts, RequestParts, ResponseParts};
pub use via::{Rport, Via};
