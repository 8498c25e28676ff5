//! What the process says while it runs: lines of text or JSON, to stderr or a file.
//! Owns the queue between those who speak and the file. Never makes a speaker wait: a full queue drops the line and
//! counts it. Bytes of peers are escaped before they are put into a line.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::fault::StartFault;
use super::files::{self, Appender};
use crate::config::snapshot::{LogLevel, LogSettings};

/// Lines that wait for the disk: a second of a talkative process.
const LINES_WAITING_MAX: usize = 1024;

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
    file: Option<mpsc::Sender<Entry>>,
}

/// What the task that owns the file is told.
enum Entry {
    Line(Vec<u8>),
    Reopen,
    Finish(oneshot::Sender<()>),
}

impl Log {
    /// Starts logging for the whole process. A second start in one process leaves the first one in force.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub async fn start(settings: &LogSettings) -> Result<Log, StartFault> {
        let Some(path) = &settings.file else {
            subscribe(settings, io::stderr);
            return Ok(Log { file: None });
        };
        let appender = open(path).await?;
        let (sender, entries) = mpsc::channel(LINES_WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        subscribe(settings, Lines { sender: sender.clone(), dropped: dropped.clone() });
        tokio_uring::spawn(write(appender, entries, dropped));
        Ok(Log { file: Some(sender) })
    }

    /// Opens the file anew, after it was moved away.
    pub async fn reopen(&self) {
        if let Some(file) = &self.file {
            let _ = file.send(Entry::Reopen).await;
        }
    }

    /// Returns when all that was said before is in the file.
    pub async fn finish(self) {
        if let Some(file) = self.file {
            let (done, finished) = oneshot::channel();
            let _ = file.send(Entry::Finish(done)).await;
            let _ = finished.await;
        }
    }
}

/// Owns the file until `Finish`.
async fn write(
    mut appender: Appender,
    mut entries: mpsc::Receiver<Entry>,
    dropped: Arc<AtomicU64>,
) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, LINES_WAITING_MAX).await > 0 {
        let mut bytes = Vec::new();
        let mut reopen = false;
        let mut finish = None;
        for entry in batch.drain(..) {
            match entry {
                Entry::Line(line) => bytes.extend_from_slice(&line),
                Entry::Reopen => reopen = true,
                Entry::Finish(done) => finish = Some(done),
            }
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            bytes.extend_from_slice(format!("({dropped} lines dropped here)\n").as_bytes());
        }
        let mut outcome = appender.write(bytes).await;
        if reopen {
            outcome = outcome.and(appender.reopen().await);
        }
        if let Err(error) = outcome {
            // The log cannot be told that the log is broken; stderr is what is left.
            eprintln!("cannot write {}: {error}", appender.path().display());
        }
        if let Some(done) = finish {
            let _ = appender.close().await;
            let _ = done.send(());
            return;
        }
    }
}

async fn open(path: &Path) -> Result<Appender, StartFault> {
    Appender::open(path, files::PRIVATE)
        .await
        .map_err(|error| StartFault::file("open the log", path, &error))
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
struct Lines {
    sender: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl io::Write for Lines {
    /// One call is one line: the formatter writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Lines;

    fn make_writer(&'w self) -> Lines {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn bytes_of_peers_cannot_forge_a_line() {
        let hostile = b"x\r\n2026 INFO all is well\x1b[2J\xff";
        assert_eq!(Escaped(hostile).to_string(), "x\\r\\n2026 INFO all is well\\x1b[2J\\xff");
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        tokio_uring::start(async {
            let (sender, entries) = mpsc::channel(2);
            let dropped = Arc::new(AtomicU64::new(0));
            let mut speaker = Lines { sender: sender.clone(), dropped: dropped.clone() };
            for line in ["one\n", "two\n", "three\n", "four\n"] {
                speaker.write_all(line.as_bytes()).unwrap();
            }
            let appender = open(&path).await.unwrap();
            tokio_uring::spawn(write(appender, entries, dropped));
            Log { file: Some(sender) }.finish().await;
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one\ntwo\n(2 lines dropped here)\n");
    }
}
