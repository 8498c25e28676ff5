//! Which files the configuration was read from, and whether any of them has changed since.
//! Owns what each looked like when it was last read. Looks at them once a second instead of asking the kernel to tell:
//! that also sees through symbolic links that are turned to another target, and through file systems of other hosts.
//! Never reads a file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// Changes are taken up when nothing has changed for so long: a certificate and its key are two files.
const QUIET: Duration = Duration::from_secs(1);
/// Somebody who writes without a pause is not waited for longer.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// What a file looks like from outside: device, inode, size, when its content and its inode changed (seconds and
/// nanoseconds); `None`: it is not there.
type Print = Option<[i64; 7]>;

fn print(path: &Path) -> Print {
    let of = fs::metadata(path).ok()?;
    #[expect(clippy::cast_possible_wrap, reason = "compared for equality only")]
    let numbers = [of.dev() as i64, of.ino() as i64, of.size() as i64];
    let [device, inode, size] = numbers;
    Some([device, inode, size, of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()])
}

/// The files of the configuration as they were when they were read.
pub struct Watch {
    read: BTreeMap<PathBuf, Print>,
    /// Changes under way: what the files look like now, when they first and last changed.
    under_way: Option<(BTreeMap<PathBuf, Print>, Instant, Instant)>,
}

impl Watch {
    pub fn new(files: Vec<PathBuf>) -> Watch {
        Watch { read: prints(files), under_way: None }
    }

    /// The files are about to be read: what they look like now has been seen.
    pub fn begin(&mut self) {
        self.read = prints(self.read.keys().cloned());
        self.under_way = None;
    }

    /// These are the files from now on. One that was there before keeps what it looked like at `begin`, so that what
    /// has changed while it was read is seen.
    pub fn replace(&mut self, files: Vec<PathBuf>) {
        let read = std::mem::take(&mut self.read);
        let kept = |path: PathBuf| {
            let print = read.get(&path).copied().unwrap_or_else(|| print(&path));
            (path, print)
        };
        self.read = files.into_iter().map(kept).collect();
    }

    /// These are watched too, beside those that already are: the files of a configuration that was refused.
    pub fn add(&mut self, files: Vec<PathBuf>) {
        let known = self.read.keys().cloned().collect::<Vec<_>>();
        self.replace(known.into_iter().chain(files).collect());
    }

    /// Whether something has changed since `begin`, and nothing does any more.
    pub fn look(&mut self, now: Instant) -> bool {
        let seen = prints(self.read.keys().cloned());
        if seen == self.read {
            self.under_way = None;
            return false;
        }
        let (first, last) = match &self.under_way {
            Some((before, first, last)) if *before == seen => (*first, *last),
            Some((_, first, _)) => (*first, now),
            None => (now, now),
        };
        self.under_way = Some((seen, first, last));
        now - last >= QUIET || now - first >= QUIET_MAX
    }
}

fn prints(files: impl IntoIterator<Item = PathBuf>) -> BTreeMap<PathBuf, Print> {
    let pairs = files.into_iter().map(|path| {
        let print = print(&path);
        (path, print)
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    #[test]
    fn a_change_is_due_when_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        fs::write(&one, "1").unwrap();
        let mut watch = Watch::new(vec![one.clone(), two.clone()]);
        let mut now = Instant::now();
        let mut look = |watch: &mut Watch| {
            now += STEP;
            watch.look(now)
        };
        assert!(!look(&mut watch) && !look(&mut watch));
        fs::write(&one, "22").unwrap();
        assert!(!look(&mut watch) && !look(&mut watch));
        // The second file of the pair: the pause begins anew.
        fs::write(&two, "key").unwrap();
        assert!(!look(&mut watch) && !look(&mut watch));
        assert!(look(&mut watch));
        watch.begin();
        assert!(!look(&mut watch));
        // As a renewal turns a link to another file, and as a file is put in place by its name.
        let (new, link) = (directory.path().join("new"), directory.path().join("link"));
        fs::write(&new, "1").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        watch.replace(vec![link.clone()]);
        assert!(!look(&mut watch));
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&new, &link).unwrap();
        assert!(!look(&mut watch) && !look(&mut watch) && look(&mut watch));
        watch.begin();
        watch.add(vec![two.clone()]);
        fs::remove_file(&two).unwrap();
        assert!(!look(&mut watch) && !look(&mut watch) && look(&mut watch));
        // What changes back was nothing.
        fs::write(&two, "key").unwrap();
        watch.begin();
        assert!(!look(&mut watch));
    }

    #[test]
    fn who_writes_without_a_pause_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one");
        let mut watch = Watch::new(vec![path.clone()]);
        let mut now = Instant::now();
        let mut steps = 0;
        while !watch.look(now) {
            steps += 1;
            fs::write(&path, "x".repeat(steps)).unwrap();
            now += STEP;
        }
        assert!((20..=22).contains(&steps), "{steps}");
    }
}
