//! One thing that can be read and written: its address, its value as comparable text, and what stands in the way.
//! Owns reading, normalising and writing of single settings. Never decides what a value should be.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::catalogue::Form;
use super::guard::{self, Filter, Firewall, GuardFault};
use super::nic::{Key, Nic, NicFault};
use super::sizing::{cpu_list, cpu_list_text};
use super::sysroot::Sysroot;

/// The three ways to the host.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    pub root: &'a dyn Sysroot,
    pub nic: &'a dyn Nic,
    pub firewall: &'a dyn Firewall,
}

/// Where a setting is. Its text is what the catalogue and the journal hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    File(String),
    Nic { interface: String, key: Key },
    Nft(Filter),
    Service(String),
}

impl Address {
    pub fn parse(text: &str) -> Option<Address> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "file" => Address::File(rest.to_owned()),
            "nic" => {
                let (interface, key) = rest.split_once(':')?;
                Address::Nic { interface: interface.to_owned(), key: Key::parse(key)? }
            }
            "nft" => Address::Nft(Filter::of(rest)?),
            "service" => Address::Service(rest.to_owned()),
            _ => return None,
        })
    }

    /// The command that a person would type to write `value`.
    pub fn literal(&self, value: &str) -> String {
        match self {
            Address::File(path) => format!("echo '{value}' > {path}"),
            Address::Nic { interface, key } => key.command(interface, value),
            Address::Nft(filter) => guard::literal(*filter, value),
            Address::Service(_) => String::new(),
        }
    }

    /// `net.core.somaxconn` for a file under `/proc/sys`.
    pub fn sysctl_key(&self) -> Option<String> {
        match self {
            // A dot in a path component (an interface `eth0.5`) becomes a slash, as sysctl(8) has it.
            Address::File(path) => path.strip_prefix("/proc/sys/").map(|rest| {
                rest.chars()
                    .map(|c| match c {
                        '/' => '.',
                        '.' => '/',
                        other => other,
                    })
                    .collect()
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::File(path) => write!(f, "file:{path}"),
            Address::Nic { interface, key } => write!(f, "nic:{interface}:{key}"),
            Address::Nft(filter) => write!(f, "nft:{}", filter.name()),
            Address::Service(name) => write!(f, "service:{name}"),
        }
    }
}

/// What a setting says now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub value: String,
    pub limit: Option<u32>,
    pub fixed: bool,
}

/// What stands in the way of reading or writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It does not exist on this host.
    NotApplicable(String),
    /// It exists and does not let itself be read or written.
    Unchangeable(String),
}

impl Obstacle {
    pub fn reason(&self) -> &str {
        match self {
            Obstacle::NotApplicable(reason) | Obstacle::Unchangeable(reason) => reason,
        }
    }
}

impl Host<'_> {
    pub fn read(&self, address: &Address, form: Form) -> Result<Reading, Obstacle> {
        match address {
            Address::File(path) => {
                let text = self.root.read(path).map_err(|error| read_obstacle(&error))?;
                Ok(Reading { value: normal(&text, form), ..Reading::default() })
            }
            Address::Nic { interface, key } => {
                let reading =
                    self.nic.read(interface, key).map_err(|fault| nic_obstacle(&fault))?;
                Ok(Reading { value: reading.value, limit: reading.limit, fixed: reading.fixed })
            }
            Address::Nft(filter) => {
                let value = self.firewall.read(*filter).map_err(|fault| nft_obstacle(&fault))?;
                Ok(Reading { value, ..Reading::default() })
            }
            Address::Service(name) => match process(self.root, name) {
                Some(pid) => {
                    Ok(Reading { value: format!("running, process {pid}"), ..Reading::default() })
                }
                None => Err(Obstacle::NotApplicable("not running".into())),
            },
        }
    }

    /// Whether a write could be tried; changes nothing.
    pub fn writable(&self, address: &Address) -> Result<(), Obstacle> {
        match address {
            Address::File(path) => {
                self.root.writable(path).map_err(|error| write_obstacle(path, &error))
            }
            Address::Nic { .. } | Address::Nft(_) if !net_admin(self.root) => {
                Err(Obstacle::Unchangeable("needs root (CAP_NET_ADMIN)".into()))
            }
            Address::Nic { .. } | Address::Nft(_) => Ok(()),
            Address::Service(_) => Err(Obstacle::Unchangeable("never written".into())),
        }
    }

    pub fn write(&self, address: &Address, value: &str) -> Result<(), Obstacle> {
        match address {
            Address::File(path) => {
                self.root.write(path, value).map_err(|error| write_obstacle(path, &error))
            }
            Address::Nic { interface, key } => {
                self.nic.write(interface, key, value).map_err(|fault| match fault {
                    NicFault::OldKernel(_) => Obstacle::Unchangeable(format!(
                        "{fault}: {}",
                        key.command(interface, value)
                    )),
                    other => nic_obstacle(&other),
                })
            }
            Address::Nft(filter) => {
                self.firewall.write(*filter, value).map_err(|fault| nft_obstacle(&fault))
            }
            Address::Service(_) => Err(Obstacle::Unchangeable("never written".into())),
        }
    }
}

fn read_obstacle(error: &io::Error) -> Obstacle {
    match errno(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO) => Obstacle::NotApplicable(
            "the kernel or the device does not have it (no such file)".into(),
        ),
        Some(Errno::OPNOTSUPP) => {
            Obstacle::NotApplicable("the device does not support it (EOPNOTSUPP)".into())
        }
        Some(Errno::ACCESS | Errno::PERM) => Obstacle::Unchangeable("reading it needs root".into()),
        _ => Obstacle::Unchangeable(format!("reading it fails: {}", bare(error))),
    }
}

fn write_obstacle(path: &str, error: &io::Error) -> Obstacle {
    let interrupt = path.starts_with("/proc/irq/");
    Obstacle::Unchangeable(match errno(error) {
        Some(Errno::NOENT) => return Obstacle::NotApplicable("it has gone away".into()),
        Some(Errno::ROFS) => "the file system is read-only here (a container?)".into(),
        Some(Errno::IO | Errno::PERM | Errno::INVAL) if interrupt => {
            format!("this interrupt cannot be moved, the kernel manages it ({})", bare(error))
        }
        Some(Errno::ACCESS | Errno::PERM) => "needs root".into(),
        Some(Errno::INVAL) => "the kernel refuses the value (EINVAL)".into(),
        Some(Errno::BUSY) => "busy: another user of the device holds it (EBUSY)".into(),
        _ => format!("writing it fails: {}", bare(error)),
    })
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// `I/O error (os error 5)` without the tail that says nothing more.
fn bare(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn nic_obstacle(fault: &NicFault) -> Obstacle {
    match fault {
        NicFault::NotOffered | NicFault::NoInterface => Obstacle::NotApplicable(fault.to_string()),
        NicFault::OldKernel(_) | NicFault::NoPrivilege | NicFault::Refused(_) => {
            Obstacle::Unchangeable(fault.to_string())
        }
    }
}

fn nft_obstacle(fault: &GuardFault) -> Obstacle {
    match fault {
        GuardFault::NoCommand | GuardFault::NotOffered => {
            Obstacle::NotApplicable(fault.to_string())
        }
        GuardFault::NoPrivilege | GuardFault::Refused(_) => {
            Obstacle::Unchangeable(fault.to_string())
        }
    }
}

/// CAP_NET_ADMIN is bit 12 (linux/capability.h).
pub fn net_admin(root: &dyn Sysroot) -> bool {
    let status = root.read("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|word| u64::from_str_radix(word.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 12) != 0)
}

/// The first process of that name.
pub fn process(root: &dyn Sysroot, name: &str) -> Option<u32> {
    processes(root).into_iter().find(|(_, own)| own == name).map(|(pid, _)| pid)
}

/// Every process with its short name (at most 15 bytes, proc(5)).
pub fn processes(root: &dyn Sysroot) -> Vec<(u32, String)> {
    let names = root.list("/proc").unwrap_or_default();
    let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let name = root.read(&format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim().to_owned()))
    })
    .collect()
}

/// The text of a file as a value that can be compared and written back.
pub fn normal(text: &str, form: Form) -> String {
    match form {
        Form::Words => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Form::Choice => {
            let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            chosen.map_or_else(|| normal(text, Form::Words), |(word, _)| word.to_owned())
        }
        Form::Mask => {
            let digits = text.trim().trim_start_matches(['0', ',']);
            if digits.is_empty() { "0".into() } else { digits.to_lowercase() }
        }
        Form::List => cpu_list_text(&cpu_list(text)),
    }
}

/// `now` raised to `want`, word by word; `want` where the words do not pair up.
pub fn raised(now: &str, want: &str) -> String {
    let present: Vec<&str> = now.split(' ').collect();
    let wanted: Vec<&str> = want.split(' ').collect();
    if present.len() != wanted.len() {
        return want.to_owned();
    }
    let words: Vec<&str> = present
        .iter()
        .zip(&wanted)
        .map(|(present, wanted)| match (present.parse::<u64>(), wanted.parse::<u64>()) {
            (Ok(have), Ok(need)) if have >= need => *present,
            _ => *wanted,
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in [
            "file:/proc/sys/net/core/somaxconn",
            "nic:eth0:rings.rx",
            "nic:eth0.5:feature.rx-gro",
            "nft:guard",
            "service:irqbalance",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "file", "nft:other", "nic:eth0", "nic:eth0:other", "tcp:1"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn values_compare_whatever_their_spacing() {
        assert_eq!(normal("4096\t131072\t6291456\n", Form::Words), "4096 131072 6291456");
        assert_eq!(normal("always [madvise] never\n", Form::Choice), "madvise");
        assert_eq!(normal("00000000,00000003\n", Form::Mask), "3");
        assert_eq!(normal("0\n", Form::Mask), "0");
        assert_eq!(normal("0,1,2\n", Form::List), "0-2");
        assert_eq!(normal("\n", Form::List), "");
    }

    #[test]
    fn raising_never_lowers() {
        assert_eq!(raised("4096", "1024"), "4096");
        assert_eq!(raised("4096", "65535"), "65535");
        assert_eq!(raised("10 20 30", "20 10 40"), "20 20 40");
        assert_eq!(raised("9223372036854775807", "1"), "9223372036854775807");
    }

    #[test]
    fn sysctl_keys_swap_dots_and_slashes() {
        let key = |path: &str| Address::File(path.into()).sysctl_key();
        assert_eq!(key("/proc/sys/net/core/somaxconn").unwrap(), "net.core.somaxconn");
        assert_eq!(
            key("/proc/sys/net/ipv4/conf/eth0.5/rp_filter").unwrap(),
            "net.ipv4.conf.eth0/5.rp_filter"
        );
        assert_eq!(key("/sys/x"), None);
    }
}
