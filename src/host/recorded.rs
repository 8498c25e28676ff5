//! A host out of a text file: for tests of everything that reads or writes a host, without one.
//! Owns the text form and the faults that can be asked for (errors by file, death between any two writes).
//! Never touches the real host.
//!
//! One setting a line: `PATH = TEXT`, `PATH = !EIO` (reading fails), `PATH = TEXT !EROFS` (writing fails),
//! `PATH -> TARGET` (a link), `PATH <<` and lines up to `>>`; `nic IFACE KEY = VALUE [limit N] [fixed]`,
//! `nic IFACE KEY = !OPNOTSUPP`, `interrupt IFACE QUEUE IRQ`, `address IFACE IP`, `nft NAME = VALUE`,
//! `stateful = TABLE`. `#` begins a comment.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;

use super::guard::{ABSENT, Filter, Firewall, GuardFault};
use super::nic::{InterfaceAddress, Key, Nic, NicFault, NicReading, QueueInterrupt};
use super::setting::Host;
use super::sysroot::Sysroot;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Recording {
    text: String,
    read_fault: Option<Errno>,
    write_fault: Option<Errno>,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    files: BTreeMap<String, Recording>,
    links: BTreeMap<String, String>,
    cards: BTreeMap<(String, Key), Result<NicReading, NicFault>>,
    interrupts: Vec<(String, QueueInterrupt)>,
    addresses: Vec<InterfaceAddress>,
    tables: BTreeMap<Filter, String>,
    stateful: Option<String>,
    no_nft: bool,
    /// Mutations that still succeed; `None`: all.
    life: Option<u32>,
    /// Everything that was mutated, by address: `file:...`, `nic:...`, `nft:...`, `append:...`, `replace:...`.
    mutated: Vec<String>,
}

/// A recorded host.
#[derive(Debug, Default)]
pub struct Recorded {
    contents: RefCell<Contents>,
}

/// Everything that a test compares before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    files: BTreeMap<String, String>,
    cards: BTreeMap<String, String>,
    tables: BTreeMap<Filter, String>,
}

impl Snapshot {
    /// What differs, as `address: here, there`.
    pub fn differences(&self, other: &Snapshot) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |mine: BTreeMap<String, String>, theirs: BTreeMap<String, String>| {
            let keys: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
            for key in keys.into_iter().filter(|key| mine.get(*key) != theirs.get(*key)) {
                all.push(format!("{key}: {:?}, {:?}", mine.get(key), theirs.get(key)));
            }
        };
        let named = |tables: &BTreeMap<Filter, String>| -> BTreeMap<String, String> {
            tables
                .iter()
                .map(|(filter, value)| (format!("nft:{}", filter.name()), value.clone()))
                .collect()
        };
        compare(self.files.clone(), other.files.clone());
        compare(self.cards.clone(), other.cards.clone());
        compare(named(&self.tables), named(&other.tables));
        all
    }
}

impl Recorded {
    /// Reads the text form; the error names the line.
    pub fn parse(text: &str) -> Result<Recorded, String> {
        let mut contents = Contents::default();
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(path) = line.strip_suffix(" <<") {
                let mut whole = String::new();
                for (_, line) in lines.by_ref() {
                    if line == ">>" {
                        break;
                    }
                    whole.push_str(line);
                    whole.push('\n');
                }
                let recording = Recording { text: whole, ..Recording::default() };
                contents.files.insert(path.to_owned(), recording);
                continue;
            }
            contents.line(line).ok_or_else(|| format!("line {}: {line}", index + 1))?;
        }
        Ok(Recorded { contents: RefCell::new(contents) })
    }

    pub fn host(&self) -> Host<'_> {
        Host { root: self, nic: self, firewall: self }
    }

    /// Dies after `mutations` more: from then on nothing changes any more, as after kill -9. `None`: lives again.
    pub fn dies_after(&self, mutations: Option<u32>) {
        self.contents.borrow_mut().life = mutations;
    }

    /// Sets a setting behind tune's back; a file, a card's key or a table by its address.
    pub fn set(&self, at: &str, value: &str) {
        let mut contents = self.contents.borrow_mut();
        match super::setting::Address::parse(at) {
            Some(super::setting::Address::File(path)) => {
                let file = contents.files.entry(path).or_default();
                file.text = rewritten(&file.text, value);
            }
            Some(super::setting::Address::Nic { interface, key }) => {
                if let Some(Ok(reading)) = contents.cards.get_mut(&(interface, key)) {
                    value.clone_into(&mut reading.value);
                }
            }
            Some(super::setting::Address::Nft(filter)) => {
                contents.tables.insert(filter, value.to_owned());
            }
            _ => {}
        }
    }

    /// Addresses of all mutations so far.
    pub fn mutated(&self) -> Vec<String> {
        self.contents.borrow().mutated.clone()
    }

    /// The settings as they are; journals and other files that tune itself makes are left out.
    pub fn snapshot(&self) -> Snapshot {
        let contents = self.contents.borrow();
        let files = contents.files.iter().filter(|(path, _)| {
            path.starts_with("/proc/") || path.starts_with("/sys/") || path.starts_with("/etc/")
        });
        Snapshot {
            files: files
                .map(|(path, file)| (path.clone(), file.text.trim_end().to_owned()))
                .collect(),
            cards: contents
                .cards
                .iter()
                .map(|((interface, key), reading)| {
                    (format!("{interface} {key}"), format!("{reading:?}"))
                })
                .collect(),
            tables: contents.tables.clone(),
        }
    }

    fn mutate<T>(&self, what: String, change: impl FnOnce(&mut Contents) -> T) -> Result<T, ()> {
        let mut contents = self.contents.borrow_mut();
        match &mut contents.life {
            Some(0) => return Err(()),
            Some(left) => *left -= 1,
            None => {}
        }
        contents.mutated.push(what);
        Ok(change(&mut contents))
    }
}

impl Contents {
    fn line(&mut self, line: &str) -> Option<()> {
        if let Some((path, target)) = line.split_once(" -> ") {
            self.links.insert(path.to_owned(), target.to_owned());
            return Some(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["address", interface, address] => {
                let address = address.parse().ok()?;
                let interface = (*interface).to_owned();
                self.addresses.push(InterfaceAddress { interface, address });
                return Some(());
            }
            ["interrupt", interface, queue, irq] => {
                let one = QueueInterrupt { queue: queue.parse().ok()?, irq: irq.parse().ok()? };
                self.interrupts.push(((*interface).to_owned(), one));
                return Some(());
            }
            ["nft", "!absent"] => {
                self.no_nft = true;
                return Some(());
            }
            _ => {}
        }
        let (left, value) = line.split_once('=')?;
        let (left, value) = (left.trim(), value.trim());
        if let Some(name) = left.strip_prefix("nft ") {
            self.tables.insert(Filter::of(name)?, value.to_owned());
        } else if let Some(card) = left.strip_prefix("nic ") {
            let (interface, key) = card.split_once(' ')?;
            let reading = card_reading(value)?;
            self.cards.insert((interface.to_owned(), Key::parse(key)?), reading);
        } else if left == "stateful" {
            self.stateful = Some(value.to_owned());
        } else if left.starts_with('/') {
            self.files.insert(left.to_owned(), file_recording(value)?);
        } else {
            return None;
        }
        Some(())
    }
}

fn card_reading(value: &str) -> Option<Result<NicReading, NicFault>> {
    if let Some(fault) = value.strip_prefix('!') {
        return Some(Err(match fault {
            "OPNOTSUPP" => NicFault::NotOffered,
            "OLD" => NicFault::OldKernel("it is an old recording"),
            _ => return None,
        }));
    }
    let (value, fixed) = match value.strip_suffix(" fixed") {
        Some(value) => (value, true),
        None => (value, false),
    };
    let (value, limit) = match value.split_once(" limit ") {
        Some((value, limit)) => (value, Some(limit.parse().ok()?)),
        None => (value, None),
    };
    Some(Ok(NicReading { value: value.to_owned(), limit, fixed }))
}

fn file_recording(value: &str) -> Option<Recording> {
    if let Some(fault) = value.strip_prefix('!') {
        return Some(Recording { read_fault: Some(errno(fault)?), ..Recording::default() });
    }
    let (text, write_fault) = match value.rsplit_once('!') {
        Some((text, fault)) => (text.trim_end(), Some(errno(fault)?)),
        None => (value, None),
    };
    Some(Recording { text: text.to_owned(), read_fault: None, write_fault })
}

fn errno(name: &str) -> Option<Errno> {
    Some(match name {
        "EIO" => Errno::IO,
        "EROFS" => Errno::ROFS,
        "EACCES" => Errno::ACCESS,
        "EPERM" => Errno::PERM,
        "EINVAL" => Errno::INVAL,
        "EBUSY" => Errno::BUSY,
        "ENODEV" => Errno::NODEV,
        "EOPNOTSUPP" => Errno::OPNOTSUPP,
        _ => return None,
    })
}

/// What a kernel file shows after `value` was written: a choice moves its brackets.
fn rewritten(text: &str, value: &str) -> String {
    if !text.contains('[') {
        return value.to_owned();
    }
    let words = text.split_whitespace().map(|word| {
        let bare = word.trim_matches(['[', ']']);
        if bare == value { format!("[{bare}]") } else { bare.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn dead() -> io::Error {
    io::Error::other("dead")
}

impl Sysroot for Recorded {
    fn read(&self, path: &str) -> io::Result<String> {
        let contents = self.contents.borrow();
        let file = contents.files.get(path).ok_or(Errno::NOENT)?;
        match file.read_fault {
            Some(fault) => Err(fault.into()),
            None => Ok(file.text.clone()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let contents = self.contents.borrow();
        let folder = format!("{}/", path.trim_end_matches('/'));
        let paths = contents.files.keys().chain(contents.links.keys());
        let mut names: Vec<String> = paths
            .filter_map(|path| path.strip_prefix(&folder)?.split('/').next())
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() { Err(Errno::NOENT.into()) } else { Ok(names) }
    }

    fn link(&self, path: &str) -> io::Result<String> {
        Ok(self.contents.borrow().links.get(path).ok_or(Errno::NOENT)?.clone())
    }

    fn writable(&self, path: &str) -> io::Result<()> {
        let contents = self.contents.borrow();
        let file = contents.files.get(path).ok_or(Errno::NOENT)?;
        match file.write_fault {
            // What access(2) finds out; the rest shows only when the write is tried.
            Some(fault @ (Errno::ROFS | Errno::ACCESS)) => Err(fault.into()),
            _ => Ok(()),
        }
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        self.mutate(format!("file:{path}"), |contents| {
            let file = contents.files.get_mut(path).ok_or(Errno::NOENT)?;
            if let Some(fault) = file.write_fault {
                return Err(fault.into());
            }
            file.text = rewritten(&file.text, text);
            Ok(())
        })
        .unwrap_or_else(|()| Err(dead()))
    }

    fn append(&self, path: &str, line: &str) -> io::Result<()> {
        let done = self.mutate(format!("append:{path}"), |contents| {
            let file = contents.files.entry(path.to_owned()).or_default();
            file.text.push_str(line);
            // The last one before death is torn: its end did not reach the disk.
            if contents.life == Some(0) {
                let file = contents.files.entry(path.to_owned()).or_default();
                file.text.truncate(file.text.len() - line.len() / 2);
                return Err(dead());
            }
            contents.files.entry(path.to_owned()).or_default().text.push('\n');
            Ok(())
        });
        done.unwrap_or_else(|()| Err(dead()))
    }

    fn replace(&self, path: &str, text: &str) -> io::Result<()> {
        self.mutate(format!("replace:{path}"), |contents| {
            contents.files.entry(path.to_owned()).or_default().text = text.to_owned();
        })
        .map_err(|()| dead())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.mutate(format!("remove:{path}"), |contents| {
            contents.files.remove(path).map(|_| ()).ok_or_else(|| Errno::NOENT.into())
        })
        .unwrap_or_else(|()| Err(dead()))
    }
}

impl Nic for Recorded {
    fn read(&self, interface: &str, key: &Key) -> Result<NicReading, NicFault> {
        let contents = self.contents.borrow();
        let reading = contents.cards.get(&(interface.to_owned(), key.clone()));
        reading.cloned().unwrap_or(Err(NicFault::NotOffered))
    }

    fn write(&self, interface: &str, key: &Key, value: &str) -> Result<(), NicFault> {
        self.mutate(format!("nic:{interface}:{key}"), |contents| {
            match contents.cards.get_mut(&(interface.to_owned(), key.clone())) {
                Some(Ok(reading)) if !reading.fixed => {
                    value.clone_into(&mut reading.value);
                    Ok(())
                }
                _ => Err(NicFault::NotOffered),
            }
        })
        .unwrap_or_else(|()| Err(NicFault::Refused("dead".into())))
    }

    fn queue_interrupts(&self, interface: &str) -> Result<Vec<QueueInterrupt>, NicFault> {
        let contents = self.contents.borrow();
        let own = contents.interrupts.iter().filter(|(one, _)| one == interface);
        Ok(own.map(|(_, interrupt)| *interrupt).collect())
    }

    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NicFault> {
        Ok(self.contents.borrow().addresses.clone())
    }
}

impl Firewall for Recorded {
    fn read(&self, filter: Filter) -> Result<String, GuardFault> {
        let contents = self.contents.borrow();
        if contents.no_nft {
            return Err(GuardFault::NoCommand);
        }
        Ok(contents.tables.get(&filter).cloned().unwrap_or_else(|| ABSENT.into()))
    }

    fn write(&self, filter: Filter, value: &str) -> Result<(), GuardFault> {
        self.mutate(format!("nft:{}", filter.name()), |contents| {
            if value == ABSENT {
                contents.tables.remove(&filter);
            } else {
                contents.tables.insert(filter, value.to_owned());
            }
        })
        .map_err(|()| GuardFault::Refused("dead".into()))
    }

    fn stateful(&self) -> Result<Option<String>, GuardFault> {
        Ok(self.contents.borrow().stateful.clone())
    }
}
