//! Files of the control plane, read and written through its own io_uring.
//! Owns open log files. Never blocks the thread, never leaves a private file readable by others, not even for a moment.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

/// A file that grows at its end. Open again (`reopen`) after somebody has moved it away.
pub struct Appender {
    path: PathBuf,
    mode: u32,
    file: File,
}

impl Appender {
    pub async fn open(path: &Path, mode: u32) -> io::Result<Appender> {
        let file = Appender::open_file(path, mode).await?;
        Ok(Appender { path: path.to_owned(), mode, file })
    }

    async fn open_file(path: &Path, mode: u32) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(mode).open(path).await
    }

    /// Whether nothing has been written to it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(std::fs::metadata(&self.path)?.len() == 0)
    }

    /// Appends all of `bytes`. The file was opened with O_APPEND, so the kernel takes its end, not the offset.
    pub async fn write(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(bytes, 0).await.0
    }

    pub async fn reopen(&mut self) -> io::Result<()> {
        let file = Appender::open_file(&self.path, self.mode).await?;
        std::mem::replace(&mut self.file, file).close().await
    }

    /// Everything on the disk, then closed.
    pub async fn close(self) -> io::Result<()> {
        self.file.sync_all().await?;
        self.file.close().await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
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
    fn a_log_grows_and_is_opened_anew_after_it_was_moved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("latency.hlog");
        tokio_uring::start(async {
            let mut log = Appender::open(&path, PUBLIC).await.unwrap();
            assert!(log.is_empty().unwrap());
            log.write(b"one\n".to_vec()).await.unwrap();
            log.write(b"two\n".to_vec()).await.unwrap();
            assert!(!log.is_empty().unwrap());
            std::fs::rename(&path, directory.path().join("old")).unwrap();
            log.reopen().await.unwrap();
            log.write(b"three\n".to_vec()).await.unwrap();
            log.close().await.unwrap();
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(std::fs::read(directory.path().join("old")).unwrap(), b"one\ntwo\n");
    }
}
