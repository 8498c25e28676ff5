//! Files of the control plane, read and written through its own io_uring.
//! Owns files that grow, each with its task and queue. Never blocks the thread, never leaves a private file readable by others, not even for a moment.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_uring::fs::{self, File, OpenOptions};

/// A file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// A file that everybody may read.
pub const PUBLIC: u32 = 0o644;
/// A directory that only its owner may enter.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// One read; most files here end within it.
const READ_BYTES: usize = 16 * 1024;

/// Makes the directory and its parents, mode 0700, unless it is there.
pub async fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(_) => fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(path).await,
    }
}

/// The whole file, of at most `bytes_max` bytes.
pub async fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path).await?;
    let mut whole = Vec::new();
    let outcome = loop {
        let (result, chunk) =
            file.read_at(Vec::with_capacity(READ_BYTES), whole.len() as u64).await;
        match result {
            Ok(0) => break Ok(()),
            Ok(_) if whole.len() + chunk.len() > bytes_max => {
                break Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than it can be"));
            }
            Ok(_) => whole.extend_from_slice(&chunk),
            Err(error) => break Err(error),
        }
    };
    file.close().await?;
    outcome.map(|()| whole)
}

/// Writes the whole file in one step: a reader sees the old one or the new one. A crash leaves one of them.
pub async fn replace(path: &Path, bytes: Vec<u8>, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match fs::remove_file(&fresh).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).await?;
    let (written, _) = file.write_all_at(bytes, 0).await;
    let outcome = match written {
        Ok(()) => file.sync_all().await,
        Err(error) => Err(error),
    };
    file.close().await?;
    match outcome {
        Ok(()) => fs::rename(&fresh, path).await,
        Err(error) => {
            let _ = fs::remove_file(&fresh).await;
            Err(error)
        }
    }
}

/// Pieces that wait for one file: a second of a talkative process.
const PIECES_WAITING_MAX: usize = 1024;

/// A file that grows at its end, written by a task of its own: nobody who appends ever waits for the disk.
#[derive(Clone)]
pub struct Appender {
    entries: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

enum Entry {
    Bytes(Vec<u8>),
    Reopen,
    Finish(oneshot::Sender<()>),
}

impl Appender {
    /// Opens or makes the file, and starts its task; needs the runtime of this thread.
    pub async fn open(path: &Path, mode: u32) -> io::Result<Appender> {
        let file = open_end(path, mode).await?;
        let (appender, waiting) = Appender::queue(PIECES_WAITING_MAX);
        let dropped = appender.dropped.clone();
        let growing = Growing { path: path.to_owned(), mode, file, dropped };
        tokio_uring::spawn(growing.write(waiting));
        Ok(appender)
    }

    fn queue(depth: usize) -> (Appender, mpsc::Receiver<Entry>) {
        let (entries, waiting) = mpsc::channel(depth);
        (Appender { entries, dropped: Arc::default() }, waiting)
    }

    /// Puts `bytes` into the queue; when it is full they are dropped, and a line in the file says so.
    pub fn append(&self, bytes: Vec<u8>) {
        if self.entries.try_send(Entry::Bytes(bytes)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file anew, after somebody has moved it away.
    pub async fn reopen(&self) {
        let _ = self.entries.send(Entry::Reopen).await;
    }

    /// Returns when everything appended before is on the disk. What is appended afterwards is lost.
    pub async fn finish(self) {
        let (done, finished) = oneshot::channel();
        if self.entries.send(Entry::Finish(done)).await.is_ok() {
            let _ = finished.await;
        }
    }
}

/// The file behind an `Appender`, owned by its task.
struct Growing {
    path: PathBuf,
    mode: u32,
    file: File,
    dropped: Arc<AtomicU64>,
}

impl Growing {
    async fn write(mut self, mut waiting: mpsc::Receiver<Entry>) {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, PIECES_WAITING_MAX).await > 0 {
            let mut bytes = Vec::new();
            let mut reopen = false;
            let mut finish = None;
            for entry in batch.drain(..) {
                match entry {
                    Entry::Bytes(piece) => bytes.extend_from_slice(&piece),
                    Entry::Reopen => reopen = true,
                    Entry::Finish(done) => finish = Some(done),
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                bytes.extend_from_slice(format!("#({dropped} pieces dropped here)\n").as_bytes());
            }
            if let Err(error) = self.put(bytes, reopen).await {
                // This may be the log itself, so stderr is what is left to complain to.
                eprintln!("cannot write {}: {error}", self.path.display());
            }
            if let Some(done) = finish {
                let _ = self.file.sync_all().await;
                let _ = self.file.close().await;
                let _ = done.send(());
                return;
            }
        }
    }

    /// The file was opened with O_APPEND: the kernel takes its end, whatever the offset.
    async fn put(&mut self, bytes: Vec<u8>, reopen: bool) -> io::Result<()> {
        if !bytes.is_empty() {
            self.file.write_all_at(bytes, 0).await.0?;
        }
        if reopen {
            let file = open_end(&self.path, self.mode).await?;
            std::mem::replace(&mut self.file, file).close().await?;
        }
        Ok(())
    }
}

async fn open_end(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(mode).open(path).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_private_file_is_replaced_whole_and_stays_private() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/state");
        let path = state.join("secret");
        tokio_uring::start(async {
            make_directory(&state).await.unwrap();
            make_directory(&state).await.unwrap();
            replace(&path, vec![7; 40_000], PRIVATE).await.unwrap();
            assert_eq!(read(&path, 40_000).await.unwrap(), vec![7; 40_000]);
            replace(&path, b"short".to_vec(), PRIVATE).await.unwrap();
            assert_eq!(read(&path, 5).await.unwrap(), b"short");
            let error = read(&path, 4).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(make_directory(&path).await.is_err());
        });
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(mode_of(&state), 0o700);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_file_grows_and_is_opened_anew_after_it_was_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("latency.hlog"), directory.path().join("old"));
        std::fs::write(&path, "zero\n").unwrap();
        tokio_uring::start(async {
            let file = Appender::open(&path, PUBLIC).await.unwrap();
            file.append(b"one\n".to_vec());
            file.append(b"two\n".to_vec());
            std::fs::rename(&path, &old).unwrap();
            file.reopen().await;
            // A batch is written before its reopen takes effect, so the next batch must wait for it.
            while !path.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            file.append(b"three\n".to_vec());
            file.finish().await;
        });
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "zero\none\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_full_queue_drops_pieces_and_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        tokio_uring::start(async {
            let (appender, waiting) = Appender::queue(2);
            for piece in ["one\n", "two\n", "three\n", "four\n"] {
                appender.append(piece.into());
            }
            let file = open_end(&path, PRIVATE).await.unwrap();
            let dropped = appender.dropped.clone();
            let growing = Growing { path: path.clone(), mode: PRIVATE, file, dropped };
            tokio_uring::spawn(growing.write(waiting));
            appender.finish().await;
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one\ntwo\n#(2 pieces dropped here)\n");
        assert_eq!(mode_of(&path), 0o600);
    }
}
