//! DNS for the backends that are written as names: over TCP only, on the control thread (RFC 3263, RFC 2782).
//! Owns the look-ups under way and when the next is due. Never a datagram socket, never the resolver of libc, never a
//! name that a peer has said.

pub mod exchange;
pub mod locate;
pub mod names;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::config::snapshot::{ResolverSettings, Snapshot};
use exchange::{Asker, Fault};
use locate::{Found, Lost};
use names::{Job, Key, Names};

/// At the start the first answers are waited for so long; what is missing then follows when it comes.
pub const START_PATIENCE: Duration = Duration::from_secs(5);

/// The same for new names of a reload, during which the control plane answers nobody.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(2);

/// A look-up has so many times the bound of one question, however many it takes.
const QUESTIONS: u32 = 8;

/// Outcomes that wait to be taken: more than are ever under way, of this configuration and an earlier one.
const OUTCOMES_WAITING: usize = 64;

type Outcome = (Key, Result<Found, Lost>);

/// The names of the configuration, and the look-ups under way.
pub struct Resolver {
    names: Names,
    to: mpsc::Sender<Outcome>,
    from: mpsc::Receiver<Outcome>,
}

impl Resolver {
    /// Nothing is asked before `settle` or `changed`.
    pub fn new(settings: &ResolverSettings, configured: &Snapshot) -> Resolver {
        let (to, from) = mpsc::channel(OUTCOMES_WAITING);
        Resolver { names: Names::new(settings, configured, now()), to, from }
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The resolver of a new configuration, with what this one knows. This one goes on until it is dropped; then its
    /// look-ups are of no effect.
    pub fn beside(&self, settings: &ResolverSettings, configured: &Snapshot) -> Resolver {
        let (to, from) = mpsc::channel(OUTCOMES_WAITING);
        let mut names = self.names.clone();
        names.configure(settings, configured, now());
        Resolver { names, to, from }
    }

    /// Waits until every name was asked once, for `patience` at most.
    pub async fn settle(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.names.all_asked() {
            if timeout_at(until, self.step()).await.is_err() {
                tracing::warn!("not all names of backends are resolved yet; the rest follows");
                return;
            }
        }
    }

    /// Waits until the pools change by what a name leads to. May be dropped at any moment and called again.
    pub async fn changed(&mut self) {
        while !self.step().await {}
        self.names.counts.changes += 1;
    }

    /// The next thing that happens; whether the pools change by it.
    async fn step(&mut self) -> bool {
        let now = now();
        let expired = self.names.expire(now);
        for job in self.names.due(now) {
            self.start(job);
        }
        if expired {
            return true;
        }
        let next = self.names.next();
        tokio::select! {
            Some((key, outcome)) = self.from.recv() => self.names.take(key, outcome, self::now()),
            () = at(next) => false,
        }
    }

    fn start(&self, job: Job) {
        let settings = self.names.settings();
        let (servers, patience) = (settings.servers.clone(), settings.timeout);
        let to = self.to.clone();
        let key = job.key;
        let lookup = tokio::spawn(async move {
            let mut asker = Asker::new(&servers, patience);
            let lookup = locate::locate(&mut asker, &job.sought);
            let outcome = timeout(patience * QUESTIONS, lookup).await;
            outcome.unwrap_or(Err(Lost::Fault(Fault::Late)))
        });
        tokio::spawn(async move {
            // A panic over what a server has sent costs this look-up, not the name.
            let outcome = lookup.await.unwrap_or(Err(Lost::Fault(Fault::Garbage)));
            // Refused only when the process ends.
            let _ = to.send((key, outcome)).await;
        });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn at(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
