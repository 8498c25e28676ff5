//! The file system as tuning sees it: reads, the few kinds of write, and nothing else.
//! Owns [`Sysroot`] and its live form. Never decides what to write; a recorded host (`recorded`) stands in for tests.
//! Invariant: every byte that host tuning changes outside netlink and nft passes through one of these five calls.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

/// Most that is read of one file: `/proc/net/udp` of a busy resolver is the largest that is looked at.
pub const READ_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Files of one host. Paths are absolute, as on the live host.
pub trait Sysroot {
    /// The whole text, lossily decoded. At most [`READ_BYTES_MAX`] bytes.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Names in a folder, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Where a symbolic link points.
    fn link(&self, path: &str) -> io::Result<String>;
    /// Whether a write could be tried; changes nothing.
    fn writable(&self, path: &str) -> io::Result<()>;
    /// Writes an existing kernel file in one call; never creates one.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;
    /// Appends one line to a journal and makes it durable before it returns; creates file (0644) and folder (0755).
    fn append(&self, path: &str, line: &str) -> io::Result<()>;
    /// Puts an ordinary file in place whole or not at all (temporary file, fsync, rename).
    fn replace(&self, path: &str, text: &str) -> io::Result<()>;
    /// Removes an ordinary file.
    fn remove(&self, path: &str) -> io::Result<()>;
}

/// The host that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LiveRoot;

impl LiveRoot {
    /// Keeps a second `tune` out while this one writes: an advisory lock that ends with the process.
    pub fn lock(folder: &str) -> io::Result<File> {
        make_folder(Path::new(folder))?;
        // Who can write the journal decides what `revert` writes.
        let own = fs::symlink_metadata(folder)?;
        let strange = !own.is_dir()
            || own.uid() != rustix::process::geteuid().as_raw()
            || own.mode() & 0o022 != 0;
        if strange {
            return Err(io::Error::other(
                "the folder belongs to, or may be written by, somebody else",
            ));
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(Path::new(folder).join("lock"))?;
        file.try_lock().map_err(|fault| match fault {
            fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another `ringfront tune` is at work")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(file)
    }
}

impl Sysroot for LiveRoot {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn link(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_link(path)?.to_string_lossy().into_owned())
    }

    fn writable(&self, path: &str) -> io::Result<()> {
        // The effective user counts, and a read-only mount answers EROFS to root too (access(2)).
        rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?;
        Ok(())
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // One write(2): sysctl and sysfs handlers take a value whole from a single call.
        let mut file = OpenOptions::new().write(true).open(path)?;
        let wanted = format!("{text}\n");
        let written = file.write(wanted.as_bytes())?;
        if written < text.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took only part"));
        }
        Ok(())
    }

    fn append(&self, path: &str, line: &str) -> io::Result<()> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
        make_folder(folder)?;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    }

    fn replace(&self, path: &str, text: &str) -> io::Result<()> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let temporary = format!("{path}.ringfront-new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_never_creates_and_an_append_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let root = LiveRoot;
        assert_eq!(root.write(&path("absent"), "1").unwrap_err().kind(), io::ErrorKind::NotFound);
        root.append(&path("deep/journal"), "one").unwrap();
        root.append(&path("deep/journal"), "two").unwrap();
        assert_eq!(root.read(&path("deep/journal")).unwrap(), "one\ntwo\n");
        root.replace(&path("file"), "x").unwrap();
        root.writable(&path("file")).unwrap();
        assert!(root.writable(&path("absent")).is_err());
        assert_eq!(root.list(&path("")).unwrap(), ["deep", "file"]);
        root.remove(&path("file")).unwrap();
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_string_lossy();
        let first = LiveRoot::lock(&place).unwrap();
        assert_eq!(LiveRoot::lock(&place).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        LiveRoot::lock(&place).unwrap();
    }

    #[test]
    fn a_journal_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(LiveRoot::lock(&folder.path().to_string_lossy()).is_err());
        let link = folder.path().join("link");
        let target = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        assert!(LiveRoot::lock(&link.to_string_lossy()).is_err());
    }
}
