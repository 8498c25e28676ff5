//! What was changed, by whom it can be undone: one JSON line before each write, durable before the write happens.
//! Owns the journal's form and its reading. Never reads or writes a setting.
//! Invariant: a setting that was written has a line with its old value on disk, whenever the process dies.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::setting::Address;
use super::sysroot::Sysroot;

/// Where the journal lies: gone at reboot, as the settings are. Not below the daemon's own folder: who can write the
/// journal decides what `revert` writes as root. Everybody may read it, so that the daemon knows the profile.
pub const FOLDER: &str = "/run/ringfront-tune";

const SCHEMA: u32 = 1;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum JournalFault {
    #[error("the journal {path} cannot be written: {error}")]
    Unwritable { path: String, error: io::Error },
    #[error("the journal {path} cannot be read: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error("the journal {path} was written by a newer ringfront (schema {schema})")]
    Newer { path: String, schema: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: u32,
    boot: String,
    namespace: String,
    /// Seconds since 1970.
    time: u64,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    /// About to write.
    Write { sequence: u64, id: String, at: String, old: String, new: String },
    /// The host made another value of it.
    Seen { sequence: u64, value: String },
    /// Put back, found put back, or never written.
    Undone { sequence: u64 },
    /// A run of `apply` began.
    Profile { name: String },
}

/// A write that has not been undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub sequence: u64,
    pub id: String,
    pub at: String,
    pub old: String,
    pub new: String,
    /// What the host made of `new`, where that is something else.
    pub seen: Option<String>,
    /// Written in another network namespace than this one, and bound to it.
    pub elsewhere: bool,
    pub time: u64,
}

/// The journal of this boot.
pub struct Journal<'a> {
    root: &'a dyn Sysroot,
    path: String,
    boot: String,
    namespace: String,
    held: Vec<Held>,
    profile: Option<String>,
    next: u64,
    /// The last line was cut short; a new one must not be glued to it.
    torn: bool,
    /// Lines that were not understood.
    pub damaged: Vec<usize>,
}

impl<'a> Journal<'a> {
    /// Reads what is there. Lines of another boot do not count: their settings went with it.
    pub fn open(root: &'a dyn Sysroot, folder: &str) -> Result<Journal<'a>, JournalFault> {
        let path = format!("{folder}/journal.jsonl");
        let boot = root.read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut journal = Journal {
            root,
            boot: boot.trim().to_owned(),
            namespace: root.link("/proc/self/ns/net").unwrap_or_default(),
            held: Vec::new(),
            profile: None,
            next: 1,
            torn: false,
            damaged: Vec::new(),
            path,
        };
        let text = match root.read(&journal.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(journal),
            Err(error) => {
                return Err(JournalFault::Unreadable { path: journal.path, error });
            }
        };
        journal.torn = !text.is_empty() && !text.ends_with('\n');
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_str::<Record>(line) {
                Ok(record) if record.schema > SCHEMA => {
                    return Err(JournalFault::Newer { path: journal.path, schema: record.schema });
                }
                Ok(record) => journal.take(record),
                Err(_) => journal.damaged.push(index + 1),
            }
        }
        Ok(journal)
    }

    fn take(&mut self, record: Record) {
        if record.boot != self.boot {
            return;
        }
        match record.event {
            Event::Write { sequence, id, at, old, new } => {
                self.next = self.next.max(sequence + 1);
                let elsewhere = record.namespace != self.namespace && namespaced(&at);
                let time = record.time;
                self.held.push(Held { sequence, id, at, old, new, seen: None, elsewhere, time });
            }
            Event::Seen { sequence, value } => {
                if let Some(held) = self.held.iter_mut().find(|held| held.sequence == sequence) {
                    held.seen = Some(value);
                }
            }
            Event::Undone { sequence } => self.held.retain(|held| held.sequence != sequence),
            Event::Profile { name } => self.profile = Some(name),
        }
    }

    /// Writes that stand, oldest first.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// The profile that was applied last since boot.
    pub fn profile(&self) -> Option<&str> {
        self.profile.as_deref()
    }

    pub fn begin(&mut self, profile: &str) -> Result<(), JournalFault> {
        self.append(Event::Profile { name: profile.to_owned() })
    }

    /// To be called before the write. Returns the sequence number.
    pub fn before(
        &mut self,
        id: &str,
        at: &str,
        old: &str,
        new: &str,
    ) -> Result<u64, JournalFault> {
        let sequence = self.next;
        self.next += 1;
        self.append(Event::Write {
            sequence,
            id: id.to_owned(),
            at: at.to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
        })?;
        Ok(sequence)
    }

    /// The host made `value` of what was written.
    pub fn seen(&mut self, sequence: u64, value: &str) -> Result<(), JournalFault> {
        self.append(Event::Seen { sequence, value: value.to_owned() })
    }

    pub fn undone(&mut self, sequence: u64) -> Result<(), JournalFault> {
        self.append(Event::Undone { sequence })
    }

    /// Removes the file once nothing is held.
    pub fn finish(&self) {
        if self.held.is_empty() {
            // If it stays, its lines say that everything is undone.
            let _ = self.root.remove(&self.path);
        }
    }

    fn append(&mut self, event: Event) -> Result<(), JournalFault> {
        #[expect(clippy::disallowed_methods, reason = "the journal's times are for people")]
        let now = SystemTime::now();
        let time = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let record = Record {
            schema: SCHEMA,
            boot: self.boot.clone(),
            namespace: self.namespace.clone(),
            time,
            event,
        };
        let unwritable = |error| JournalFault::Unwritable { path: self.path.clone(), error };
        let line = serde_json::to_string(&record).map_err(|fault| unwritable(fault.into()))?;
        let line = if self.torn { format!("\n{line}") } else { line };
        self.root.append(&self.path, &line).map_err(unwritable)?;
        self.torn = false;
        self.take(record);
        Ok(())
    }
}

/// Whether a setting belongs to a network namespace and not to the whole host.
fn namespaced(at: &str) -> bool {
    match Address::parse(at) {
        Some(Address::File(path)) => {
            path.starts_with("/proc/sys/net/") || path.starts_with("/sys/class/net/")
        }
        Some(Address::Nic { .. } | Address::Nft(_)) => true,
        Some(Address::Service(_)) | None => false,
    }
}
