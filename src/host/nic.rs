//! The network card as tuning sees it: keys with text values behind one trait.
//! Owns the keys and the faults. Never talks to the kernel (`netlink` does), never decides.

use std::fmt;
use std::net::IpAddr;

/// What can be asked of a card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Combined channels; `max` in the reading is what the card offers.
    Channels,
    RingRx,
    RingTx,
    /// `on` or `off`.
    AdaptiveRx,
    RxUsecs,
    RxFrames,
    /// A feature by its kernel name, `on` or `off`; `fixed` when the driver does not let it be changed.
    Feature(String),
    /// The indirection table: `equal N`, or each entry.
    RssTable,
    /// Hash fields of TCP over IPv4, in the letters of ethtool(8): s, d, f, n and so on.
    RssTcp4,
    RssTcp6,
    PauseRx,
    PauseTx,
    Eee,
}

impl Key {
    /// The key that the catalogue names so.
    pub fn parse(name: &str) -> Option<Key> {
        Some(match name {
            "channels.combined" => Key::Channels,
            "rings.rx" => Key::RingRx,
            "rings.tx" => Key::RingTx,
            "coalesce.adaptive-rx" => Key::AdaptiveRx,
            "coalesce.rx-usecs" => Key::RxUsecs,
            "coalesce.rx-frames" => Key::RxFrames,
            "rss.table" => Key::RssTable,
            "rss.tcp4" => Key::RssTcp4,
            "rss.tcp6" => Key::RssTcp6,
            "pause.rx" => Key::PauseRx,
            "pause.tx" => Key::PauseTx,
            "eee.enabled" => Key::Eee,
            _ => Key::Feature(name.strip_prefix("feature.")?.to_owned()),
        })
    }

    /// The command of ethtool(8) that does the same, for scripts and for older kernels.
    pub fn command(&self, interface: &str, value: &str) -> String {
        match self {
            Key::Channels => format!("ethtool -L {interface} combined {value}"),
            Key::RingRx => format!("ethtool -G {interface} rx {value}"),
            Key::RingTx => format!("ethtool -G {interface} tx {value}"),
            Key::AdaptiveRx => format!("ethtool -C {interface} adaptive-rx {value}"),
            Key::RxUsecs => format!("ethtool -C {interface} rx-usecs {value}"),
            Key::RxFrames => format!("ethtool -C {interface} rx-frames {value}"),
            Key::Feature(name) => format!("ethtool -K {interface} {name} {value}"),
            Key::RssTable => format!("ethtool -X {interface} {value}"),
            Key::RssTcp4 => format!("ethtool -N {interface} rx-flow-hash tcp4 {value}"),
            Key::RssTcp6 => format!("ethtool -N {interface} rx-flow-hash tcp6 {value}"),
            Key::PauseRx => format!("ethtool -A {interface} rx {value}"),
            Key::PauseTx => format!("ethtool -A {interface} tx {value}"),
            Key::Eee => format!("ethtool --set-eee {interface} eee {value}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Key::Channels => "channels.combined",
            Key::RingRx => "rings.rx",
            Key::RingTx => "rings.tx",
            Key::AdaptiveRx => "coalesce.adaptive-rx",
            Key::RxUsecs => "coalesce.rx-usecs",
            Key::RxFrames => "coalesce.rx-frames",
            Key::RssTable => "rss.table",
            Key::RssTcp4 => "rss.tcp4",
            Key::RssTcp6 => "rss.tcp6",
            Key::PauseRx => "pause.rx",
            Key::PauseTx => "pause.tx",
            Key::Eee => "eee.enabled",
            Key::Feature(name) => return write!(f, "feature.{name}"),
        })
    }
}

/// What a card says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicReading {
    pub value: String,
    /// The most that the card offers, where it says so.
    pub limit: Option<u32>,
    /// The driver does not let it be changed.
    pub fixed: bool,
}

/// Why a card did not answer, or did not obey.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicFault {
    #[error("the driver does not offer it (EOPNOTSUPP)")]
    NotOffered,
    #[error("no such interface here")]
    NoInterface,
    #[error("needs CAP_NET_ADMIN")]
    NoPrivilege,
    #[error("this kernel's netlink cannot do it: {0}")]
    OldKernel(&'static str),
    #[error("{0}")]
    Refused(String),
}

/// The interrupt of one receive or transmit queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueInterrupt {
    pub queue: u32,
    pub irq: u32,
}

/// One address of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub interface: String,
    pub address: IpAddr,
}

/// The cards of one host.
pub trait Nic {
    fn read(&self, interface: &str, key: &Key) -> Result<NicReading, NicFault>;
    fn write(&self, interface: &str, key: &Key, value: &str) -> Result<(), NicFault>;
    /// From the netlink family `netdev` (6.8 and later); empty where the driver does not say.
    fn queue_interrupts(&self, interface: &str) -> Result<Vec<QueueInterrupt>, NicFault>;
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NicFault>;
}

/// `equal N` when the table is just that, else each entry.
pub fn table_text(table: &[u32]) -> String {
    let queues = table.iter().max().map_or(0, |most| most + 1);
    let even = queues > 0
        && table.iter().enumerate().all(|(place, queue)| place as u32 % queues == *queue);
    if even {
        return format!("equal {queues}");
    }
    let words: Vec<String> = table.iter().map(u32::to_string).collect();
    words.join(" ")
}

/// The table of `entries` that a text of [`table_text`] means.
pub fn table_of(text: &str, entries: usize) -> Option<Vec<u32>> {
    if let Some(queues) = text.strip_prefix("equal ") {
        let queues: u32 = queues.trim().parse().ok().filter(|queues| *queues > 0)?;
        return Some((0..entries as u32).map(|place| place % queues).collect());
    }
    let table: Option<Vec<u32>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    table.filter(|table| table.len() == entries)
}

/// Letters of ethtool(8) for the bits of `RXH_*` (linux/ethtool.h).
const HASH_LETTERS: [(u32, char); 7] =
    [(1, 'm'), (2, 'v'), (3, 't'), (4, 's'), (5, 'd'), (6, 'f'), (7, 'n')];

/// Hash fields as letters; an empty set is `-`.
pub fn hash_text(bits: u64) -> String {
    let letters: String = HASH_LETTERS
        .iter()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, letter)| *letter)
        .collect();
    if letters.is_empty() { "-".into() } else { letters }
}

/// The bits that a text of [`hash_text`] means.
pub fn hash_of(text: &str) -> Option<u64> {
    let mut bits = 0;
    for letter in text.chars().filter(|letter| *letter != '-') {
        let (bit, _) = HASH_LETTERS.iter().find(|(_, known)| *known == letter)?;
        bits |= 1 << bit;
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for name in ["channels.combined", "rings.tx", "feature.rx-gro", "rss.tcp6", "eee.enabled"] {
            assert_eq!(Key::parse(name).unwrap().to_string(), name);
        }
        assert_eq!(Key::parse("nonsense"), None);
    }

    #[test]
    fn tables_and_hash_fields_go_there_and_back() {
        assert_eq!(table_text(&[0, 1, 2, 0, 1, 2, 0]), "equal 3");
        assert_eq!(table_text(&[0, 0, 1, 1]), "0 0 1 1");
        assert_eq!(table_of("equal 3", 7).unwrap(), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(table_of("0 0 1 1", 4).unwrap(), [0, 0, 1, 1]);
        assert_eq!(table_of("0 0", 4), None);
        assert_eq!(table_of("equal 0", 4), None);
        assert_eq!(hash_text(hash_of("sdfn").unwrap()), "sdfn");
        assert_eq!(hash_of("sdfn"), Some(0xF0));
        assert_eq!(hash_of("-"), Some(0));
        assert_eq!(hash_of("q"), None);
    }
}
