//! The orderly end: no newcomers, no new dialogs, connections closed at a pace so that phones do not come back all at
//! once elsewhere. Owns the schedule. Never handles signals.

use crate::base::time::{Duration, Instant};
use crate::telemetry::counter::Closed;

use super::connection::Role;
use super::{Context, Core};

/// Connections whose requests have no answer yet are looked at again after this time.
const RECHECK: Duration = Duration::from_millis(100);

pub struct Drain {
    /// When everything is cut off.
    deadline: Instant,
    /// The next slot to look at, and when.
    next_slot: u32,
    next_at: Instant,
    interval: Duration,
    /// A connection was passed over in this round, since it waits for an answer.
    waits: bool,
}

impl Core {
    pub(super) fn start_drain(&mut self, cx: Context<'_>, deadline: Instant) {
        if self.drain.is_some() {
            return;
        }
        let pace = cx.settings.snapshot.drain.pace.min(deadline.since(cx.now));
        let live = self.connections.live_accepted().max(1);
        self.outputs.push_back(crate::base::machine::Output::Accept { open: false });
        self.drain = Some(Drain {
            deadline,
            next_slot: 0,
            next_at: cx.now,
            interval: pace / live,
            waits: false,
        });
        self.drain_due(cx);
    }

    /// When the next connection is to be closed.
    pub(super) fn drain_next(&self) -> Instant {
        self.drain.as_ref().map_or(Instant::FAR, |drain| drain.next_at)
    }

    pub(super) fn drain_due(&mut self, cx: Context<'_>) {
        let Some(mut drain) = self.drain.take() else { return };
        let at_once = cx.now >= drain.deadline;
        while drain.next_at <= cx.now || at_once {
            // Links stay until the last client is gone: they carry the answers.
            let next = (drain.next_slot..self.connections.capacity()).find_map(|slot| {
                let conn = self.connections.life(slot)?;
                let accepted = self
                    .connections
                    .get(conn)
                    .is_some_and(|connection| matches!(connection.role, Role::Accepted { .. }));
                accepted.then_some(conn)
            });
            let Some(conn) = next else {
                drain.next_at = Instant::FAR;
                if std::mem::take(&mut drain.waits) {
                    drain.next_slot = 0;
                    drain.next_at = (cx.now + RECHECK).min(drain.deadline);
                }
                break;
            };
            drain.next_slot = conn.slot + 1;
            // Transactions that are under way finish first, within the deadline.
            let waits = self.connections.get(conn).is_some_and(|it| it.transactions > 0);
            if waits && !at_once {
                drain.waits = true;
                continue;
            }
            drain.next_at = drain.next_at + drain.interval;
            self.close(cx, conn, Closed::Draining);
        }
        self.drain = Some(drain);
    }
}
