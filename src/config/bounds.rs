//! Settles `[limits]` and `[drain]`. Owns the relations between the bounds and their ceilings.
//! Invariant: a message that the bounds admit fits, with what we add, into the buffers that are made for it.

use std::time::Duration;

use super::check::{Check, period};
use super::read::{At, Written};
use super::snapshot::{Drain, Limits, Rate, WhenFull};
use super::value::{Count, Off, Or, PerTime};
use super::{file, render};
use crate::base::limits::{
    ACCEPT_RESERVE, BODY_BYTES_CEILING, HEAD_BYTES_CEILING, OWN_SLOTS, TRANSACTIONS_CEILING,
};

/// Slots of a ring's table beside accepted connections.
const OTHER_SLOTS: u64 = OWN_SLOTS as u64 + ACCEPT_RESERVE as u64;
/// Largest table of direct descriptors that the kernel registers (IORING_MAX_FIXED_FILES).
const TABLE_SLOTS_MAX: u64 = 1 << 20;
/// Fewer connections than this are a mistake of the host's limits, not a wish.
const CONNECTIONS_MIN: u64 = 64;
/// Bytes that may wait for one connection: a slow reader must not take a worker's memory alone.
const OUTBOX_BYTES_CEILING: u32 = 16 * 1024 * 1024;

const _: () = assert!(OUTBOX_BYTES_CEILING >= 2 * (HEAD_BYTES_CEILING + BODY_BYTES_CEILING));

/// One side of a relation: key, what was settled, how it is written, and where.
struct Side<'a, T> {
    key: &'static str,
    value: T,
    text: String,
    at: Option<&'a At>,
}

fn bytes<'a, W>(key: &'static str, written: &'a Written<W>, value: u32) -> Side<'a, u32> {
    Side { key, value, text: render::size(value), at: written.at() }
}

fn things<'a, W>(key: &'static str, written: &'a Written<W>, value: u32) -> Side<'a, u32> {
    Side { key, value, text: value.to_string(), at: written.at() }
}

fn time<'a, W>(key: &'static str, written: &'a Written<W>, value: Duration) -> Side<'a, Duration> {
    Side { key, value, text: render::duration(value), at: written.at() }
}

impl Check<'_> {
    pub(super) fn limits(&mut self, (table, at): (file::Limits, At)) -> Limits {
        let default = Limits::default();
        let connections = self.connections(&table.connections_per_core, &at, &default);
        let limits = Limits {
            connections_per_core: connections,
            transactions_per_core: self.transactions(&table.transactions_per_core, &default),
            transactions_full: match table.transactions_full.value() {
                Some(file::WhenFull::Stateless) => WhenFull::Stateless,
                Some(file::WhenFull::Refuse) | None => default.transactions_full,
            },
            connections_per_prefix: count(
                &table.connections_per_prefix,
                default.connections_per_prefix,
            ),
            requests_per_prefix: rate(&table.requests_per_prefix, default.requests_per_prefix),
            handshake_deadline: period(&table.handshake_deadline, default.handshake_deadline),
            // A handshake is a connection: more than there may be connections would say nothing.
            handshakes_per_core: count(&table.handshakes_per_core, default.handshakes_per_core)
                .min(connections),
            handshakes_per_prefix: count(
                &table.handshakes_per_prefix,
                default.handshakes_per_prefix,
            ),
            handshake_share: table
                .handshake_share
                .value()
                .map_or(default.handshake_share, |share| share.0),
            handshake_rate_per_prefix: table
                .handshake_rate_per_prefix
                .value()
                .map_or(default.handshake_rate_per_prefix, |rate| rate.0),
            requests_per_connection: rate(
                &table.requests_per_connection,
                default.requests_per_connection,
            ),
            requests_per_aor: off_or(&table.requests_per_aor, default.requests_per_aor, |rate| {
                rate.0
            }),
            failures_per_prefix: off_or(
                &table.failures_per_prefix,
                default.failures_per_prefix,
                |count| count.0,
            ),
            minimum_rate: table.minimum_rate.value().map_or(default.minimum_rate, |rate| rate.0),
            message_deadline: period(&table.message_deadline, default.message_deadline),
            idle_timeout: period(&table.idle_timeout, default.idle_timeout),
            registered_idle_timeout: period(
                &table.registered_idle_timeout,
                default.registered_idle_timeout,
            ),
            turn_time: off_or(&table.turn_time, default.turn_time, |period| period.0),
            keepalive: off_or(&table.keepalive, default.keepalive, |period| period.0),
            start_line: size(&table.start_line, default.start_line),
            uri: size(&table.uri, default.uri),
            header_line: size(&table.header_line, default.header_line),
            head: size(&table.head, default.head),
            headers: count(&table.headers, default.headers),
            vias: count(&table.vias, default.vias),
            routes: count(&table.routes, default.routes),
            contacts: count(&table.contacts, default.contacts),
            parameters: count(&table.parameters, default.parameters),
            body: size(&table.body, default.body),
            outbox: size(&table.outbox, default.outbox),
        };
        self.sizes(&table, &limits);
        self.times(&table, &limits);
        limits
    }

    /// Connections of one worker: what was written, or what the descriptor limit leaves.
    fn connections(
        &mut self,
        written: &Written<Or<super::value::Auto, super::value::Count>>,
        limits: &At,
        default: &Limits,
    ) -> u32 {
        let table = self.host.descriptors.min(TABLE_SLOTS_MAX);
        let room = table.saturating_sub(OTHER_SLOTS);
        let at = written.at().cloned().unwrap_or_else(|| limits.below("connections_per_core"));
        let raise = |slots: u64| {
            format!(
                "raise it: LimitNOFILE={slots} in the unit of systemd, or ulimit -Hn {slots} in a shell of root"
            )
        };
        if room < CONNECTIONS_MIN {
            let why = format!(
                "the descriptor limit of this process is {}: {OTHER_SLOTS} are needed beside connections",
                self.host.descriptors
            );
            let cure = raise(u64::from(default.connections_per_core) + OTHER_SLOTS);
            self.fault(&at, why, cure);
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX).max(1);
        match written.value() {
            Some(Or::Is(count)) if count.0 > room => {
                let slots = u64::from(count.0) + OTHER_SLOTS;
                let (why, cure) = if slots > TABLE_SLOTS_MAX {
                    let most = TABLE_SLOTS_MAX - OTHER_SLOTS;
                    (
                        format!("{}: the kernel holds {most} for each ring", count.0),
                        format!("write at most {most}"),
                    )
                } else {
                    let why = format!(
                        "{} and {OTHER_SLOTS} of our own are beyond the descriptor limit of {}",
                        count.0, self.host.descriptors
                    );
                    (why, format!("{}; or write at most {room}", raise(slots)))
                };
                self.fault(&at, why, cure);
                count.0
            }
            Some(Or::Is(count)) => count.0,
            _ => default.connections_per_core.min(room),
        }
    }

    fn sizes(&mut self, table: &file::Limits, limits: &Limits) {
        let head = || bytes("head", &table.head, limits.head);
        self.ordered(bytes("start_line", &table.start_line, limits.start_line), head());
        self.ordered(bytes("header_line", &table.header_line, limits.header_line), head());
        self.ordered(
            bytes("uri", &table.uri, limits.uri),
            bytes("start_line", &table.start_line, limits.start_line),
        );
        let (prefix, core) = (limits.handshakes_per_prefix, limits.handshakes_per_core);
        self.ordered(
            things("handshakes_per_prefix", &table.handshakes_per_prefix, prefix),
            things("handshakes_per_core", &table.handshakes_per_core, core),
        );
        self.ceiling(&table.head, limits.head, HEAD_BYTES_CEILING);
        self.ceiling(&table.body, limits.body, BODY_BYTES_CEILING);
        self.ceiling(&table.outbox, limits.outbox, OUTBOX_BYTES_CEILING);
        let needed = 2 * (u64::from(limits.head) + u64::from(limits.body));
        let at = table.outbox.at().or(table.body.at()).or(table.head.at());
        if let (true, Some(at)) = (u64::from(limits.outbox) < needed, at) {
            let why = format!(
                "an outbox of {} bytes does not hold two messages of head ({}) and body ({})",
                limits.outbox, limits.head, limits.body
            );
            self.fault(at, why, format!("write outbox = \"{}KiB\" or more", needed.div_ceil(1024)));
        }
    }

    fn times(&mut self, table: &file::Limits, limits: &Limits) {
        let registered = || {
            let value = limits.registered_idle_timeout;
            time("registered_idle_timeout", &table.registered_idle_timeout, value)
        };
        self.ordered(time("idle_timeout", &table.idle_timeout, limits.idle_timeout), registered());
        if let Some(keepalive) = limits.keepalive {
            self.ordered(time("keepalive", &table.keepalive, keepalive), registered());
        }
    }

    /// `low` may not be above `high`. The one that was written is blamed.
    fn ordered<T: PartialOrd>(&mut self, low: Side<'_, T>, high: Side<'_, T>) {
        let Some(at) = low.at.or(high.at) else { return };
        if low.value > high.value {
            let why =
                format!("{} ({}) is more than {} ({})", low.key, low.text, high.key, high.text);
            self.fault(at, why, format!("lower {} or raise {}", low.key, high.key));
        }
    }

    fn ceiling(&mut self, written: &Written<super::value::Size>, value: u32, most: u32) {
        if let (true, Some(at)) = (value > most, written.at()) {
            let why = format!("{} is more than this version holds", render::size(value));
            self.fault(at, why, format!("write at most \"{}\"", render::size(most)));
        }
    }

    fn transactions(&mut self, written: &Written<Count>, default: &Limits) -> u32 {
        let transactions = count(written, default.transactions_per_core);
        if let (true, Some(at)) = (transactions > TRANSACTIONS_CEILING, written.at()) {
            let why = format!("{transactions} is more than this version holds");
            self.fault(at, why, format!("write at most {TRANSACTIONS_CEILING}"));
        }
        transactions
    }

    pub(super) fn drain(&mut self, table: file::Drain) -> Drain {
        let deadline = period(&table.deadline, Duration::from_secs(60));
        // Half of the deadline, so that the connections closed last still have their time.
        let pace = period(&table.pace, Duration::from_secs(30).min(deadline / 2));
        self.ordered(time("pace", &table.pace, pace), time("deadline", &table.deadline, deadline));
        Drain { deadline, pace }
    }
}

fn count(written: &Written<super::value::Count>, default: u32) -> u32 {
    written.value().map_or(default, |count| count.0)
}

fn size(written: &Written<super::value::Size>, default: u32) -> u32 {
    written.value().map_or(default, |size| size.0)
}

fn rate(written: &Written<Or<Off, PerTime>>, default: Rate) -> Rate {
    match written.value() {
        None => default,
        Some(Or::Word(_)) => Rate::UNLIMITED,
        Some(Or::Is(rate)) => rate.0,
    }
}

fn off_or<T, U>(
    written: &Written<Or<Off, T>>,
    default: Option<U>,
    inner: impl Fn(&T) -> U,
) -> Option<U> {
    match written.value() {
        None => default,
        Some(Or::Word(_)) => None,
        Some(Or::Is(value)) => Some(inner(value)),
    }
}
