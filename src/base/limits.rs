//! Every bound that is not an operator's to set, each with its sentence, and the relations between them.
//! Bounds that an operator sets live in `config::snapshot::Limits`; the ceilings here stand above those.
//! Never reads configuration.

use super::time::Duration;

/// Completions handled in one turn before the loop submits again, so that sends do not wait for a flood to end.
pub const COMPLETIONS_PER_TURN: u32 = 4096;

/// Envelopes that wait for one worker from one other; full means 503 for the request, never a wait.
pub const MAILBOX_DEPTH: usize = 4096;

/// Envelopes taken from one mailbox in one turn.
pub const ENVELOPES_PER_TURN: u32 = 256;

/// How long a closed connection still takes in what its peer sends, so that the peer reads our last
/// answer instead of a reset (RFC 1122 4.2.2.13: a close with unread bytes resets the connection).
pub const LINGER: Duration = Duration::from_secs(1);

/// Bytes thrown away while a connection lingers; a peer that sends more is reset.
pub const LINGER_BYTES: u32 = 256 * 1024;

/// Pause before accepting again when the kernel said that descriptors or memory have run out.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A worker that was told to stop waits so long for the kernel to close its connections.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Submission queue of a ring: a turn that queues more enters the kernel once more.
pub const RING_SUBMISSIONS: u32 = 4096;

/// Completion queue of a ring: each receive buffer, each send and each accept of a busy turn ends
/// there, twice over, since an overflow ends every multishot.
pub const RING_COMPLETIONS: u32 = 32 * 1024;

/// TCP keepalive on every connection: first probe, then each, and how many before the peer is gone.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub const KEEPALIVE_PROBES: u32 = 4;

/// TCP_USER_TIMEOUT: bytes that the peer has not acknowledged for so long end the connection; just
/// below Timer B and F (RFC 3261 17.1), so that the connection is gone before the transaction is.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Connections that wait in the kernel for accept(2); net.core.somaxconn may lower it.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Commands that wait for one worker; control sends one at a time and waits for most.
pub const COMMAND_DEPTH: usize = 64;

/// Panics of one worker within `PANIC_WINDOW` that end it: a fault that returns at once is not cured by a restart.
pub const PANICS_MAX: usize = 3;
pub const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// Descriptor slots kept for connections that we dial: backends x lanes, with room for those that are closing.
pub const OWN_SLOTS: u32 = 1024;

/// Backends times lanes: half of the slots, since every backend may be closing while its successor is dialled.
pub const DIALLED_MAX: usize = OWN_SLOTS as usize / 2;

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

/// Zero-copy sends have at least so many bytes: below, pinning pages and a second completion cost more than a copy.
pub const ZERO_COPY_BYTES_MIN: u32 = 16 * 1024;

/// Workers: the mailbox table is the square of it, and tokens have one byte for a worker.
pub const WORKERS_MAX: u16 = 255;

const _: () = assert!(RECEIVE_BUFFER_BYTES as usize >= 16 * 1024 + 256 + 5);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two());

/// Capacity of all send chunks of a worker that are not at home: when it is reached, peers wait and then refuse.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A link carries the requests of all clients of a worker: its outbox is so many times a client's.
pub const LINK_OUTBOX_FACTOR: usize = 16;

/// Expensive handshake steps of one turn (70 to 200 us each), so that established calls wait less than 1 ms.
pub const HANDSHAKE_STEPS_PER_TURN: u32 = 4;

/// Requests that a worker keeps to send them elsewhere, all together: 64 KiB of body each would else be gigabytes.
pub const KEPT_REQUEST_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Transactions whose state a worker may be told to keep: a queue of deadlines and a hash table hang on the number.
pub const TRANSACTIONS_CEILING: u32 = 4 * 1024 * 1024;
