//! The names in the catalogue's formulas for one host and one configuration: how many workers, on which cores, behind
//! which interfaces. Owns the arithmetic of placement. Never writes, never judges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::base::limits::OWN_SLOTS;
use crate::config::snapshot::{ControlSettings, Limits, Snapshot};

use super::nic::{Key, Nic};
use super::sysroot::Sysroot;

/// What the operator's configuration and command line say.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Bound addresses of all SIP listeners; empty without a configuration.
    pub listeners: Vec<SocketAddr>,
    /// SIP ports to guard.
    pub ports: BTreeSet<u16>,
    pub connections_per_core: u32,
    /// Cores of the workers; `None`: one for each physical core.
    pub cores: Option<Vec<u32>>,
    /// Named with `--interface`; then listen addresses do not count.
    pub interfaces: Vec<String>,
    /// `--assume NAME=NUMBER`.
    pub assume: BTreeMap<String, f64>,
}

impl Default for Inputs {
    /// No configuration: the default ports and limits, no interface.
    fn default() -> Self {
        Inputs {
            listeners: Vec::new(),
            ports: [5060, 5061].into(),
            connections_per_core: Limits::default().connections_per_core,
            cores: None,
            interfaces: Vec::new(),
            assume: BTreeMap::new(),
        }
    }
}

impl Inputs {
    /// From a settled configuration. The default ports are guarded too: scanners try those whatever we listen on.
    pub fn of(snapshot: &Snapshot, control: &ControlSettings) -> Inputs {
        let listeners: Vec<SocketAddr> = snapshot.listeners.iter().map(|one| one.bind).collect();
        let mut ports: BTreeSet<u16> = [5060, 5061].into();
        ports.extend(listeners.iter().map(|address| address.port()).filter(|port| *port != 0));
        Inputs {
            listeners,
            ports,
            connections_per_core: snapshot.limits.connections_per_core,
            cores: Some(control.cores.iter().map(|core| *core as u32).collect()),
            ..Inputs::default()
        }
    }
}

/// The numbers and texts of one host, ready for formulas.
#[derive(Clone, Debug, Default)]
pub struct Sizing {
    pub numbers: BTreeMap<&'static str, f64>,
    pub workers: Vec<u32>,
    pub housekeeping: Vec<u32>,
    /// Where a listen address lives, bonds and VLANs taken apart; sorted.
    pub interfaces: Vec<String>,
    pub ports: BTreeSet<u16>,
}

/// New connections per second and worker unless `--assume R=` says otherwise: ten times what the handshake budget of one
/// core allows in TLS, so that a burst after an outage is covered.
const CONNECTS_PER_WORKER: f64 = 2000.0;
/// Packets per second and queue: 100,000 SIP messages, each acknowledged.
const PACKETS_PER_QUEUE: f64 = 200_000.0;
/// Longest stall of a worker, in seconds.
const STALL_SECONDS: f64 = 0.5;

impl Sizing {
    pub fn of(inputs: &Inputs, root: &dyn Sysroot, nic: &dyn Nic) -> Sizing {
        let interfaces = interfaces(inputs, root, nic);
        // With settled cores it is the host that counts: the daemon asks this from a pinned thread.
        let allowed = match &inputs.cores {
            Some(_) => online_cpus(root).unwrap_or_else(|| allowed_cpus(root)),
            None => allowed_cpus(root),
        };
        let on_node = cpus_near(root, &interfaces, &allowed);
        let physical = physical_cores(root, &on_node);
        let housekeepers = match allowed.len() {
            0..=4 => 0,
            5..=16 => 1,
            many => many.div_ceil(16),
        };
        let (workers, housekeeping) = match &inputs.cores {
            Some(cores) => {
                let rest = allowed.iter().copied().filter(|cpu| !cores.contains(cpu)).collect();
                (cores.clone(), rest)
            }
            None => {
                let workers = physical.iter().copied().skip(housekeepers).collect();
                (workers, physical.iter().copied().take(housekeepers).collect::<Vec<u32>>())
            }
        };
        let workers: Vec<u32> = if workers.is_empty() { vec![0] } else { workers };
        let queues_max = interfaces
            .iter()
            .filter_map(|interface| nic.read(interface, &Key::Channels).ok()?.limit)
            .filter(|limit| *limit > 0)
            .min();
        let worker_count = workers.len() as f64;
        let queues = queues_max.map_or(worker_count, |most| worker_count.min(f64::from(most)));
        let connections = f64::from(inputs.connections_per_core + OWN_SLOTS) * worker_count;
        let softnet = softnet(root);
        let mut numbers: BTreeMap<&'static str, f64> = [
            ("N", allowed.len() as f64),
            ("Nn", on_node.len() as f64),
            ("H", housekeeping.len() as f64),
            ("W", worker_count),
            ("Q", queues),
            ("C", connections),
            ("R", CONNECTS_PER_WORKER * worker_count),
            ("P", PACKETS_PER_QUEUE),
            ("S", STALL_SECONDS),
            ("D", 0.0),
            ("M", memory_bytes(root)),
            ("nodes", nodes(root).len().max(1) as f64),
            ("rps", f64::from(u8::from(queues < worker_count))),
            ("squeeze", softnet.squeezed),
            ("backlog_drops", softnet.dropped),
            ("conntrack", f64::from(u8::from(tracked(root) > 0.0))),
        ]
        .into();
        for (name, value) in &mut numbers {
            if let Some(assumed) = inputs.assume.get(*name) {
                *value = *assumed;
            }
        }
        Sizing { numbers, workers, housekeeping, interfaces, ports: inputs.ports.clone() }
    }

    /// A name of the legend; 0 when it is none.
    pub fn number(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or_default()
    }
}

/// Names that `--assume` takes.
pub const ASSUMABLE: [&str; 5] = ["R", "P", "S", "D", "C"];

fn interfaces(inputs: &Inputs, root: &dyn Sysroot, nic: &dyn Nic) -> Vec<String> {
    let mut found = BTreeSet::new();
    let upper: Vec<String> = if inputs.interfaces.is_empty() {
        let addresses = nic.addresses().unwrap_or_default();
        let listens = |address: IpAddr| {
            inputs.listeners.iter().any(|listener| {
                let same_family = listener.is_ipv4() == address.is_ipv4();
                // A listener on [::] takes IPv6 only; 0.0.0.0 takes IPv4 only.
                (listener.ip().is_unspecified() && same_family) || listener.ip() == address
            })
        };
        let away = addresses.into_iter().filter(|one| !one.address.is_loopback());
        away.filter(|one| listens(one.address)).map(|one| one.interface).collect()
    } else {
        inputs.interfaces.clone()
    };
    for interface in upper.into_iter().filter(|one| one != "lo") {
        members(root, &interface, 0, &mut found);
    }
    found.into_iter().collect()
}

/// Bonds on VLANs on bonds: nobody stacks deeper.
const STACK_MAX: u32 = 4;

/// The interfaces under a bond, bridge or VLAN; the interface itself when there are none.
fn members(root: &dyn Sysroot, interface: &str, depth: u32, found: &mut BTreeSet<String>) {
    let names = root.list(&format!("/sys/class/net/{interface}")).unwrap_or_default();
    let lower: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("lower_")).collect();
    if lower.is_empty() || depth == STACK_MAX {
        found.insert(interface.to_owned());
        return;
    }
    for one in lower {
        members(root, one, depth + 1, found);
    }
}

fn online_cpus(root: &dyn Sysroot) -> Option<Vec<u32>> {
    let online = cpu_list(&root.read("/sys/devices/system/cpu/online").ok()?);
    (!online.is_empty()).then_some(online)
}

fn allowed_cpus(root: &dyn Sysroot) -> Vec<u32> {
    let status = root.read("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = cpu_list(list.unwrap_or("0"));
    if allowed.is_empty() { vec![0] } else { allowed }
}

fn cpus_near(root: &dyn Sysroot, interfaces: &[String], allowed: &[u32]) -> Vec<u32> {
    let node = interfaces.iter().find_map(|interface| {
        let text = root.read(&format!("/sys/class/net/{interface}/device/numa_node")).ok()?;
        // -1: the machine does not say (virtual machines).
        text.trim().parse::<u32>().ok()
    });
    let list = node
        .and_then(|node| root.read(&format!("/sys/devices/system/node/node{node}/cpulist")).ok());
    let near: Vec<u32> = match list {
        Some(list) => cpu_list(&list).into_iter().filter(|cpu| allowed.contains(cpu)).collect(),
        None => Vec::new(),
    };
    if near.is_empty() { allowed.to_vec() } else { near }
}

/// The first thread of each physical core.
fn physical_cores(root: &dyn Sysroot, cpus: &[u32]) -> Vec<u32> {
    cpus.iter()
        .copied()
        .filter(|cpu| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            let siblings = root.read(&path).map(|text| cpu_list(&text)).unwrap_or_default();
            siblings.iter().find(|one| cpus.contains(one)).is_none_or(|first| first == cpu)
        })
        .collect()
}

/// Memory nodes of the host.
pub fn nodes(root: &dyn Sysroot) -> Vec<u32> {
    let names = root.list("/sys/devices/system/node").unwrap_or_default();
    names.iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect()
}

/// `MemTotal` in bytes.
pub fn memory_bytes(root: &dyn Sysroot) -> f64 {
    let text = root.read("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or_default() * 1024.0
}

fn tracked(root: &dyn Sysroot) -> f64 {
    let text = root.read("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

struct Softnet {
    dropped: f64,
    squeezed: f64,
}

/// Columns 1 to 3 of `/proc/net/softnet_stat`: packets, drops, batches cut short.
fn softnet(root: &dyn Sysroot) -> Softnet {
    let text = root.read("/proc/net/softnet_stat").unwrap_or_default();
    let (mut packets, mut dropped, mut squeezed) = (0.0, 0.0, 0.0);
    for line in text.lines() {
        let mut columns = line.split_whitespace().map(|word| u64::from_str_radix(word, 16));
        let mut column = || columns.next().and_then(Result::ok).unwrap_or_default() as f64;
        packets += column();
        dropped += column();
        squeezed += column();
    }
    Softnet { dropped, squeezed: if packets > 0.0 { squeezed / packets } else { 0.0 } }
}

/// Numbers of a list as the kernel prints it, CPUs or ports: `0-3,8`. What is not understood is left out.
pub fn cpu_list(text: &str) -> Vec<u32> {
    /// Highest number that is believed: the last port.
    const NUMBER_MAX: u32 = 65_535;
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.trim().parse::<u32>(), to.trim().parse::<u32>()) {
            cpus.extend(from..=to.min(NUMBER_MAX));
        }
    }
    cpus.into_iter().collect()
}

/// The list as the kernel prints it.
pub fn cpu_list_text(cpus: &[u32]) -> String {
    let sorted: BTreeSet<u32> = cpus.iter().copied().collect();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in sorted {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == cpu => *end = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let words: Vec<String> = ranges
        .iter()
        .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
        .collect();
    words.join(",")
}

/// The mask as the kernel prints it: hexadecimal, a comma every 32 bits.
pub fn cpu_mask(cpus: &[u32]) -> String {
    let words = cpus.iter().max().map_or(1, |most| *most as usize / 32 + 1);
    let mut mask = vec![0u32; words];
    for cpu in cpus {
        mask[*cpu as usize / 32] |= 1 << (cpu % 32);
    }
    let mut text = format!("{:x}", mask[words - 1]);
    for word in mask[..words - 1].iter().rev() {
        text.push_str(&format!(",{word:08x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_are_the_kernels() {
        assert_eq!(cpu_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list(""), Vec::<u32>::new());
        assert_eq!(cpu_list("x,2"), [2]);
        assert_eq!(cpu_list_text(&[8, 0, 1, 2, 3]), "0-3,8");
        assert_eq!(cpu_mask(&[0, 1]), "3");
        assert_eq!(cpu_mask(&[33, 0]), "2,00000001");
        assert_eq!(cpu_mask(&[]), "0");
    }
}
