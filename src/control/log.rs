//! What the process says while it runs: lines of text or JSON, to stderr or a file.
//! Owns the choice of form and place. Never makes a speaker wait for the disk. Bytes of peers are escaped before they are
//! put into a line.

use std::fmt;
use std::io;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::fault;
use super::files::{self, Appender};
use crate::config::snapshot::{LogLevel, LogSettings, Snapshot};
use crate::proxy::refusal::Refusals;
use crate::sys::StartUpFault;

/// Bytes of a peer, as they may stand in a log line or on a terminal: printable ASCII as it is, the rest escaped.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The log of the process, as long as it runs.
pub struct Log {
    /// `None`: stderr, which needs no one to write it.
    file: Option<Appender>,
}

impl Log {
    /// Starts logging for the whole process. A second start in one process leaves the first one in force.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub async fn start(settings: &LogSettings) -> Result<Log, StartUpFault> {
        let Some(path) = &settings.file else {
            subscribe(settings, io::stderr);
            return Ok(Log { file: None });
        };
        let appender = Appender::open(path, files::PRIVATE).await;
        let appender = appender.map_err(|error| fault::file("open the log", path, &error))?;
        let lines = Lines(appender.clone());
        subscribe(settings, move || lines.clone());
        Ok(Log { file: Some(appender) })
    }

    /// Opens the file anew, after it was moved away.
    pub async fn reopen(&self) {
        if let Some(file) = &self.file {
            file.reopen().await;
        }
    }

    /// Returns when all that was said before is in the file.
    pub async fn finish(self) {
        if let Some(file) = self.file {
            file.finish().await;
        }
    }
}

/// Has panics told in the log, their texts escaped: they may quote what a peer has sent.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("a panic without a text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, place, "panic: {}", Escaped(text.as_bytes()));
    }));
}

/// Tells, at debug level, which messages a worker has refused since its last report.
pub fn tell_refusals(snapshot: &Snapshot, worker: usize, refusals: &Refusals) {
    for refusal in &refusals.told {
        let zone = snapshot.zones.get(usize::from(refusal.zone)).map_or("", |zone| &zone.name);
        let (peer, reason) = (refusal.peer, refusal.reason.name());
        match refusal.fault {
            Some(fault) => tracing::debug!(
                worker,
                %peer,
                zone,
                reason,
                fault = fault.kind.name(),
                offset = fault.offset,
                "refused"
            ),
            None => tracing::debug!(worker, %peer, zone, reason, "refused"),
        }
    }
    if refusals.untold > 0 {
        tracing::debug!(worker, more = refusals.untold, "refused, and not told one by one");
    }
}

fn subscribe<W>(settings: &LogSettings, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let ansi = settings.file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(writer);
    let _ = if settings.json {
        subscriber.json().flatten_event(true).try_init()
    } else {
        subscriber.with_ansi(ansi).try_init()
    };
}

/// Where speakers leave their lines.
#[derive(Clone)]
struct Lines(Appender);

impl io::Write for Lines {
    /// One call is one line: the formatter writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.append(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_peers_cannot_forge_a_line() {
        let hostile = b"x\r\n2026 INFO all is well\x1b[2J\xff";
        assert_eq!(Escaped(hostile).to_string(), "x\\r\\n2026 INFO all is well\\x1b[2J\\xff");
    }
}
