//! The life of the process: start, supervision, admin, export. Off the data cores; never per-message work.
//! Owns the control thread and its runtime (tokio-uring), and through it all others. The steps of a start are in `start`,
//! what happens afterwards in `supervisor`.
//! Invariant: the data plane never waits for anything here.

pub mod admin;
pub mod door;
pub mod expiry;
pub mod export;
pub mod fault;
pub mod files;
pub mod fleet;
pub mod host;
pub mod load;
pub mod log;
pub mod memory;
pub mod pools;
mod problem;
pub mod reload;
pub mod resolve;
pub mod roll;
pub mod secret;
pub mod settings;
pub mod start;
pub mod status;
pub mod supervisor;
pub mod totals;
pub mod watch;

use crate::config::Settled;
use crate::sys::{StartUpFault, affinity};
use log::Log;
use reload::Reload;
use supervisor::{Lost, Supervisor};
use watch::Watch;

/// Runs the front-end on this thread until it is asked to end. `Some`: it ended because a worker could not go on.
///
/// # Errors
/// It cannot start; nothing was left running.
pub fn run(settled: Settled, user: u32, reload: Reload) -> Result<Lost, StartUpFault> {
    start::probe()?;
    tokio_uring::start(async {
        let Settled { snapshot, control, notes, files, .. } = settled;
        let watch = Watch::new(reload.files(&files));
        let log = Log::start(&control.log).await?;
        log::tell_panics();
        for note in &notes {
            tracing::warn!("{}", note.line());
        }
        let (events_to, events) = supervisor::events();
        let (questions_to, questions) = start::questions();
        let running = start::start(snapshot, &control, user, &events_to, &questions_to).await?;
        if let Some(core) = control.housekeeping_core
            && !affinity::pin(core)
        {
            tracing::warn!(core, "the control plane is not pinned: the kernel refused the core");
        }
        let supervisor =
            Supervisor::new(running, control, (reload, watch), log, events, questions).await?;
        Ok(supervisor.run().await)
    })
}
