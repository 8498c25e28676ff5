//! Every bound that is not an operator's to set, each with its sentence, and the relations between them.
//! Bounds that an operator sets live in `config::snapshot::Limits`; the ceilings here stand above those.
//! Never reads configuration.

/// Completions handled in one turn before the loop submits again, so that sends do not wait for a flood to end.
pub const COMPLETIONS_PER_TURN: u32 = 4096;

/// Envelopes that wait for one worker from one other; full means 503 for the request, never a wait.
pub const MAILBOX_DEPTH: usize = 4096;

/// Envelopes taken from one mailbox in one turn.
pub const ENVELOPES_PER_TURN: u32 = 256;

/// Descriptor slots kept for connections that we dial: backends x lanes, with room for those that are closing.
pub const OWN_SLOTS: u32 = 1024;

/// Slots above the operator's limit, so that a burst accepted before the stop takes effect can be closed by us.
pub const ACCEPT_RESERVE: u32 = 256;

/// Receive buffers of a worker: a turn hands each back before the next wait.
pub const RECEIVE_BUFFERS: u16 = 512;

/// One receive buffer: a whole TLS record of 16 KiB with its overhead fits.
pub const RECEIVE_BUFFER_BYTES: u32 = 17 * 1024;

/// Largest head that can be configured.
pub const HEAD_BYTES_CEILING: u32 = 32 * 1024;

/// Largest body that can be configured; a message must fit one outbox twice.
pub const BODY_BYTES_CEILING: u32 = 1024 * 1024;

/// What our own edits can add to a message: Via, two Record-Routes, Path, Max-Forwards, Max-Breadth, Content-Length.
pub const EDIT_BYTES_MAX: u32 = 2048;

/// Workers: the mailbox table is the square of it.
pub const WORKERS_MAX: u16 = 256;

const _: () = assert!(RECEIVE_BUFFER_BYTES as usize >= 16 * 1024 + 256 + 5);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());
