//! What `doctor` looks at, read once into one value.
//! Owns the reading. Never judges (`checks` does), never writes.

use std::collections::BTreeMap;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::snapshot::Snapshot;

use super::setting::{net_admin, processes};
use super::sizing::memory_bytes;
use super::sysroot::Sysroot;

/// What the kernel's ring can do, found by trying: handed in, since this floor does not know the ring.
#[derive(Clone, Debug, Default)]
pub struct RingFacts {
    /// Why no ring could be made.
    pub refused: Option<Refusal>,
    /// Abilities by name, and whether they are there.
    pub abilities: Vec<Ability>,
}

/// Why no ring could be made, and what helps.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    pub what: String,
    pub cure: String,
}

/// One ability of the kernel's ring.
#[derive(Clone, Debug)]
pub struct Ability {
    pub name: &'static str,
    /// The kernel that brought it.
    pub since: &'static str,
    pub present: bool,
    /// ringfront does not start without it.
    pub needed: bool,
}

/// One certificate that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFact {
    pub file: String,
    pub subject: String,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

/// A datagram socket that is bound to a SIP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramSocket {
    pub protocol: &'static str,
    pub port: u16,
}

/// One host at one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub kernel: String,
    /// Soft and hard; `None` where /proc does not tell.
    pub descriptors: Option<(u64, u64)>,
    pub locked_bytes: Option<(u64, u64)>,
    pub memory_bytes: f64,
    pub hypervisor: bool,
    pub container: bool,
    pub net_admin: bool,
    pub clock_source: String,
    /// Who keeps the clock; `None`: nobody was found.
    pub clock_keeper: Option<String>,
    pub io_uring_disabled: Option<u32>,
    pub io_uring_group: Option<i64>,
    pub idle_driver: Option<String>,
    pub smt_active: bool,
    pub nodes: usize,
    pub listen_overflows: u64,
    pub listen_drops: u64,
    pub backlog_drops: u64,
    pub conntrack_count: Option<u64>,
    pub conntrack_max: Option<u64>,
    /// Modules of connection tracking's SIP helper.
    pub sip_helper: Vec<String>,
    pub sip_helper_automatic: bool,
    pub datagram_sockets: Vec<DatagramSocket>,
    /// By name of the vulnerability: what the kernel does about it, where that costs something.
    pub mitigations: BTreeMap<String, String>,
    pub certificates: Vec<CertificateFact>,
    pub now: i64,
}

impl Facts {
    /// `ports` are the SIP ports; `snapshot` is the configuration if there is one; `now` in seconds since 1970.
    pub fn read(
        root: &dyn Sysroot,
        ports: &std::collections::BTreeSet<u16>,
        snapshot: Option<&Snapshot>,
        now: i64,
    ) -> Facts {
        let read = |path: &str| root.read(path).unwrap_or_default();
        let number = |path: &str| root.read(path).ok()?.trim().parse::<i64>().ok();
        let count = |path: &str| number(path).and_then(|value| u64::try_from(value).ok());
        let limits = read("/proc/self/limits");
        let cpu = read("/proc/cpuinfo");
        let modules = read("/proc/modules");
        let netstat = read("/proc/net/netstat");
        let helpers = ["nf_conntrack_sip", "nf_nat_sip"];
        let loaded =
            |name: &&str| modules.lines().any(|line| line.split(' ').next() == Some(*name));
        Facts {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            descriptors: limit(&limits, "Max open files"),
            locked_bytes: limit(&limits, "Max locked memory"),
            memory_bytes: memory_bytes(root),
            hypervisor: cpu.lines().any(|line| {
                line.starts_with("flags")
                    && line.split_whitespace().any(|flag| flag == "hypervisor")
            }),
            container: container(root),
            net_admin: net_admin(root),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .trim()
                .to_owned(),
            clock_keeper: clock_keeper(root),
            io_uring_disabled: count("/proc/sys/kernel/io_uring_disabled")
                .map(|value| value as u32),
            io_uring_group: number("/proc/sys/kernel/io_uring_group"),
            idle_driver: root
                .read("/sys/devices/system/cpu/cpuidle/current_driver")
                .ok()
                .map(|name| name.trim().to_owned())
                .filter(|name| name != "none"),
            smt_active: read("/sys/devices/system/cpu/smt/active").trim() == "1",
            nodes: super::sizing::nodes(root).len().max(1),
            listen_overflows: tcp_extension(&netstat, "ListenOverflows"),
            listen_drops: tcp_extension(&netstat, "ListenDrops"),
            backlog_drops: backlog_drops(&read("/proc/net/softnet_stat")),
            conntrack_count: count("/proc/sys/net/netfilter/nf_conntrack_count"),
            conntrack_max: count("/proc/sys/net/netfilter/nf_conntrack_max"),
            sip_helper: helpers.iter().filter(|name| loaded(name)).map(|s| s.to_string()).collect(),
            sip_helper_automatic: number("/proc/sys/net/netfilter/nf_conntrack_helper") == Some(1),
            datagram_sockets: datagram_sockets(root, ports),
            mitigations: mitigations(root),
            certificates: snapshot.map(certificates).unwrap_or_default(),
            now,
        }
    }
}

/// Soft and hard limit of a line of `/proc/self/limits`; `unlimited` is the largest number.
fn limit(limits: &str, name: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some((words.next()??, words.next()??))
}

/// A counter of `TcpExt` in `/proc/net/netstat`: names in one line, values in the next.
fn tcp_extension(netstat: &str, name: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let place = names.split(' ').position(|one| one == name);
    place.and_then(|place| values.split(' ').nth(place)?.parse().ok()).unwrap_or_default()
}

fn backlog_drops(softnet: &str) -> u64 {
    let drops = softnet.lines().filter_map(|line| line.split_whitespace().nth(1));
    drops.filter_map(|word| u64::from_str_radix(word, 16).ok()).sum()
}

/// Several signs, since none is reliable alone.
fn container(root: &dyn Sysroot) -> bool {
    root.read("/.dockerenv").is_ok()
        || root.read("/run/.containerenv").is_ok()
        || root.read("/run/systemd/container").is_ok()
        || root.read("/proc/1/environ").is_ok_and(|text| text.contains("container="))
}

fn clock_keeper(root: &dyn Sysroot) -> Option<String> {
    if root.read("/run/systemd/timesync/synchronized").is_ok() {
        return Some("systemd-timesyncd".into());
    }
    const KEEPERS: [&str; 5] = ["chronyd", "ntpd", "ntpd-rs", "ptp4l", "phc2sys"];
    processes(root).into_iter().map(|(_, name)| name).find(|name| KEEPERS.contains(&name.as_str()))
}

/// Sockets of `/proc/net/udp` and its kin whose local port is a SIP port (proc(5): the second column is hexadecimal).
fn datagram_sockets(
    root: &dyn Sysroot,
    ports: &std::collections::BTreeSet<u16>,
) -> Vec<DatagramSocket> {
    let mut found = Vec::new();
    for (file, protocol) in
        [("udp", "udp"), ("udp6", "udp"), ("udplite", "udplite"), ("udplite6", "udplite")]
    {
        let text = root.read(&format!("/proc/net/{file}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let local = line.split_whitespace().nth(1);
            let port = local.and_then(|local| local.rsplit_once(':'));
            let port = port.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if let Some(port) = port.filter(|port| ports.contains(port)) {
                found.push(DatagramSocket { protocol, port });
            }
        }
    }
    found
}

fn mitigations(root: &dyn Sysroot) -> BTreeMap<String, String> {
    let folder = "/sys/devices/system/cpu/vulnerabilities";
    let names = root.list(folder).unwrap_or_default();
    let read = |name: String| {
        let text = root.read(&format!("{folder}/{name}")).ok()?;
        Some((name, text.trim().to_owned()))
    };
    names.into_iter().filter_map(read).filter(|(_, text)| text != "Not affected").collect()
}

fn certificates(snapshot: &Snapshot) -> Vec<CertificateFact> {
    let listeners = snapshot.listeners.iter().flat_map(|listener| &listener.identities);
    let zones = snapshot.zones.iter().filter_map(|zone| zone.certificate.as_ref());
    let mut found = Vec::new();
    for identity in listeners.chain(zones) {
        for der in &identity.chain {
            if let Ok((_, certificate)) = X509Certificate::from_der(der) {
                found.push(CertificateFact {
                    file: identity.chain_path.display().to_string(),
                    subject: certificate.subject().to_string(),
                    not_before: certificate.validity().not_before.timestamp(),
                    not_after: certificate.validity().not_after.timestamp(),
                });
            }
        }
    }
    found.sort_by(|left, right| (&left.file, left.not_after).cmp(&(&right.file, right.not_after)));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_kernel_writes_them() {
        let limits =
            "Max open files            1024                 unlimited            files     \n";
        assert_eq!(limit(limits, "Max open files"), Some((1024, u64::MAX)));
        assert_eq!(limit(limits, "Max locked memory"), None);
        let netstat = "TcpExt: A ListenDrops B\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(tcp_extension(netstat, "ListenDrops"), 22);
        assert_eq!(tcp_extension(netstat, "Absent"), 0);
        assert_eq!(tcp_extension("", "ListenDrops"), 0);
        assert_eq!(backlog_drops("00 0a 00\n00 01 00\n"), 11);
    }
}
