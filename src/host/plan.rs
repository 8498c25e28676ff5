//! What should change on this host: the catalogue against the present values, row by row.
//! Owns the judgement. Never writes.

use std::fmt;

use serde::Serialize;

use super::catalogue::{Catalogue, Class, Entry, Form, Mode, Profile, Setting};
use super::formula::{self, Names};
use super::guard::{self, Filter};
use super::managers::Managers;
use super::nic::QueueInterrupt;
use super::setting::{Address, Host, Obstacle, Reading, normal, raised};
use super::sizing::{Sizing, cpu_list, cpu_list_text, cpu_mask};

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As wanted.
    Ok,
    /// Differs, and could be written (or must be undone by hand: a forbidden value).
    Drift,
    /// Does not exist here, or is not called for here.
    NotApplicable,
    /// Exists and does not let itself be changed.
    Unchangeable,
    /// Somebody else sets it.
    Conflict,
    /// Shown only.
    Report,
}

impl State {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Drift => "drift",
            State::NotApplicable => "n/a",
            State::Unchangeable => "unchangeable",
            State::Conflict => "conflict",
            State::Report => "report",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One setting of one device, judged.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub id: String,
    /// The setting's address; the entry's own placeholder text where there is no device for it.
    pub at: String,
    pub state: State,
    pub now: Option<String>,
    pub want: Option<String>,
    /// Why it stands as it does, where that is not plain.
    pub reason: Option<String>,
    /// The literal write.
    pub write: Option<String>,
    pub resets_link: bool,
    #[serde(skip)]
    pub mode: Mode,
    #[serde(skip)]
    pub form: Form,
}

impl Row {
    /// Whether `value` is as good as what is wanted.
    pub fn satisfied(&self, value: &str) -> bool {
        match (&self.want, self.mode) {
            (Some(want), Mode::AtLeast) => raised(value, want) == value,
            (Some(want), _) => normal(want, self.form) == value,
            (None, _) => true,
        }
    }
}

/// What was asked of `tune`.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub profile: Profile,
    /// Identifiers; empty: all of the profile.
    pub only: Vec<String>,
}

impl Selection {
    /// Whether the entry is asked for.
    pub fn takes(&self, entry: &Entry) -> bool {
        if self.only.is_empty() {
            entry.profiles.contains(&self.profile)
        } else {
            self.only.contains(&entry.id)
        }
    }
}

/// Judges entries for one host. Facts are read anew for each entry, since one entry's write moves another's files
/// (the interrupts of queues, above all); the sizing stays what it was at the start.
pub struct Planner<'a> {
    pub host: Host<'a>,
    pub sizing: &'a Sizing,
    pub managers: &'a Managers,
    pub profile: Profile,
}

impl Planner<'_> {
    /// Every row of the selection, in the order in which they would be written.
    pub fn rows(&self, catalogue: &Catalogue, selection: &Selection) -> Vec<Row> {
        let asked = catalogue.ordered().into_iter().filter(|entry| selection.takes(entry));
        asked.flat_map(|entry| self.entry(entry)).collect()
    }

    /// The rows of one entry.
    pub fn entry(&self, entry: &Entry) -> Vec<Row> {
        let blank = |at: &str, state: State, reason: &str| Row {
            id: entry.id.clone(),
            at: at.to_owned(),
            state,
            now: None,
            want: None,
            reason: Some(reason.to_owned()),
            write: None,
            resets_link: entry.resets_link,
            mode: Mode::Report,
            form: Form::Words,
        };
        match entry.class {
            Class::Daemon => return vec![blank("the daemon", State::Report, &entry.formula)],
            Class::Unit => return vec![blank("the service unit", State::Report, &entry.formula)],
            _ if entry.setting.is_empty() => {
                return vec![blank("-", State::NotApplicable, &entry.formula)];
            }
            _ => {}
        }
        let names = View { planner: self, index: 0, reading: None };
        let due = entry.when.as_ref().map_or(Ok(1.0), |when| formula::evaluate(when, &names));
        match due {
            Ok(0.0) => return vec![blank("-", State::NotApplicable, &entry.not_applicable)],
            Ok(_) => {}
            Err(fault) => return vec![blank("-", State::Unchangeable, &fault)],
        }
        let mut rows = Vec::new();
        for setting in &entry.setting {
            let judged = matches!(setting.mode, Mode::Exact | Mode::AtLeast);
            if judged && setting.wanted(self.profile).is_none() {
                continue;
            }
            let places = self.places(&setting.at);
            if places.is_empty() {
                // Without any interface one row says it for the whole entry.
                if self.sizing.interfaces.is_empty() && !rows.is_empty() {
                    continue;
                }
                rows.push(blank(&setting.at, State::NotApplicable, self.nowhere(&setting.at)));
            }
            for (at, index) in places {
                match Address::parse(&at) {
                    Some(address) => rows.push(self.judge(entry, setting, &address, index)),
                    None => rows.push(blank(&at, State::Unchangeable, "not understood")),
                }
            }
        }
        rows
    }

    fn nowhere(&self, at: &str) -> &'static str {
        if self.sizing.interfaces.is_empty() {
            "no interface has a configured listen address: give --config FILE or --interface NAME"
        } else if at.contains("{irq}") {
            "the device has no interrupts of its own (virtual)"
        } else {
            "the device has no such queues"
        }
    }

    fn judge(&self, entry: &Entry, setting: &Setting, address: &Address, index: usize) -> Row {
        let mut row = Row {
            id: entry.id.clone(),
            at: address.to_string(),
            state: State::Report,
            now: None,
            want: None,
            reason: None,
            write: None,
            resets_link: entry.resets_link,
            mode: setting.mode,
            form: setting.form,
        };
        let reading = match self.host.read(address, setting.form) {
            Ok(reading) => reading,
            Err(obstacle) => {
                row.obstructed(&obstacle);
                return row;
            }
        };
        row.now = Some(reading.value.clone());
        let view = View { planner: self, index, reading: Some(&reading) };
        match self.wanted(entry, setting, &view, &reading) {
            Ok(Verdict::Shown) => return row,
            Ok(Verdict::NotDue) => {
                row.state = State::NotApplicable;
                row.reason = Some(entry.not_applicable.clone());
                return row;
            }
            Ok(Verdict::Forbidden(forbidden)) => {
                row.state = if forbidden { State::Drift } else { State::Ok };
                if forbidden {
                    row.reason = Some(format!("{}: never written, undo it by hand", entry.formula));
                }
                return row;
            }
            Ok(Verdict::Want(want)) => row.want = Some(want),
            Err(fault) => {
                row.state = State::Unchangeable;
                row.reason = Some(fault);
                return row;
            }
        }
        self.settle(entry, address, &reading, &mut row);
        row
    }

    /// Present and wanted value are known: how does the row stand?
    fn settle(&self, entry: &Entry, address: &Address, reading: &Reading, row: &mut Row) {
        let want = row.want.clone().unwrap_or_default();
        if row.satisfied(&reading.value) {
            row.state = State::Ok;
            return;
        }
        row.write = Some(address.literal(&want));
        if reading.fixed {
            row.obstructed(&Obstacle::Unchangeable("the driver fixes it ([fixed])".into()));
        } else if let Err(obstacle) = self.host.writable(address) {
            row.obstructed(&obstacle);
        } else if let Some(reason) = self.conflict(entry, address, row) {
            row.state = State::Conflict;
            row.reason = Some(reason);
        } else {
            row.state = State::Drift;
        }
    }

    fn conflict(&self, entry: &Entry, address: &Address, row: &Row) -> Option<String> {
        if let Some(reason) = self.managers.at_work(&entry.managers) {
            return Some(reason);
        }
        if let Some(key) = address.sysctl_key()
            && let Some(line) = self.managers.sysctl_line(&key)
            && !row.satisfied(&normal(&line.value, row.form))
        {
            return Some(format!("{}:{} sets {key} = {}", line.file, line.number, line.value));
        }
        match address {
            Address::Nft(Filter::Guard) if is_foreign(row) => {
                Some("a table `ringfront` exists that is not ours, or was altered".into())
            }
            Address::Nft(Filter::Notrack) => {
                if is_foreign(row) {
                    return Some("a table `ringfront_notrack` exists that is not ours".into());
                }
                let rule = self.host.firewall.stateful().ok().flatten()?;
                Some(format!("the chain `{rule}` uses connection tracking or NAT"))
            }
            _ => None,
        }
    }

    fn wanted(
        &self,
        entry: &Entry,
        setting: &Setting,
        view: &View<'_>,
        reading: &Reading,
    ) -> Result<Verdict, String> {
        if let Some(when) = &setting.when
            && formula::evaluate(when, view)? == 0.0
        {
            return Ok(Verdict::NotDue);
        }
        match setting.mode {
            Mode::Report => Ok(Verdict::Shown),
            Mode::Forbid => {
                let bad = setting.bad.as_ref().map(|bad| formula::evaluate(bad, view));
                let word = setting.bad_word.as_ref().is_some_and(|word| *word == reading.value);
                // A value that is no number cannot be a forbidden number.
                Ok(Verdict::Forbidden(word || matches!(bad, Some(Ok(value)) if value != 0.0)))
            }
            Mode::Exact | Mode::AtLeast => {
                let template = setting.wanted(self.profile).unwrap_or_default();
                let fault =
                    |fault| format!("the formula of {} has no value here: {fault}", entry.id);
                let want = formula::fill(template, view).map_err(fault)?;
                Ok(Verdict::Want(match setting.mode {
                    Mode::AtLeast => raised(&reading.value, &want),
                    _ => want,
                }))
            }
        }
    }

    /// Each place that a setting with placeholders means, with the number of its queue or worker.
    fn places(&self, at: &str) -> Vec<(String, usize)> {
        if at.contains("{worker}") {
            let workers = self.sizing.workers.iter().enumerate();
            return workers.map(|(i, cpu)| (at.replace("{worker}", &cpu.to_string()), i)).collect();
        }
        if !["{interface}", "{rx}", "{tx}", "{irq}"].iter().any(|name| at.contains(name)) {
            return vec![(at.to_owned(), 0)];
        }
        let mut places = Vec::new();
        for interface in &self.sizing.interfaces {
            let own = at.replace("{interface}", interface);
            if own.contains("{irq}") {
                for one in self.interrupts(interface) {
                    let place = own.replace("{irq}", &one.irq.to_string());
                    places.push((place, one.queue as usize));
                }
            } else if own.contains("{rx}") || own.contains("{tx}") {
                let (side, mark) =
                    if own.contains("{rx}") { ("rx-", "{rx}") } else { ("tx-", "{tx}") };
                for queue in self.queues(interface, side) {
                    places.push((own.replace(mark, &queue.to_string()), queue as usize));
                }
            } else {
                places.push((own, 0));
            }
        }
        places
    }

    fn queues(&self, interface: &str, side: &str) -> Vec<u32> {
        let names = self.host.root.list(&format!("/sys/class/net/{interface}/queues"));
        let names = names.unwrap_or_default();
        let mut queues: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(side)?.parse().ok()).collect();
        queues.sort_unstable();
        queues
    }

    /// The interrupts of an interface's queues: as netlink tells, else by the names in `/proc/interrupts`.
    pub fn interrupts(&self, interface: &str) -> Vec<QueueInterrupt> {
        let told = self.host.nic.queue_interrupts(interface).unwrap_or_default();
        if !told.is_empty() {
            return told;
        }
        let device = format!("/sys/class/net/{interface}/device");
        // A virtio card's vectors belong to the PCI device above it.
        let own: Vec<u32> = [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")]
            .iter()
            .filter_map(|folder| self.host.root.list(folder).ok())
            .flatten()
            .filter_map(|name| name.parse().ok())
            .collect();
        let table = self.host.root.read("/proc/interrupts").unwrap_or_default();
        let mut found: Vec<QueueInterrupt> = table
            .lines()
            .filter_map(|line| {
                let (number, rest) = line.trim_start().split_once(':')?;
                let irq: u32 = number.parse().ok().filter(|irq| own.contains(irq))?;
                let queue = queue_of(rest.split_whitespace().last()?)?;
                Some(QueueInterrupt { queue, irq })
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The queue that an interrupt's name tells: `virtio2-input.0`, `eth0-TxRx-3`, `mlx5_comp3@pci:...`, `ens5-Tx-Rx-2`.
fn queue_of(name: &str) -> Option<u32> {
    let name = name.split('@').next().unwrap_or(name);
    let lower = name.to_lowercase();
    const QUEUE_WORDS: [&str; 8] =
        ["input", "output", "txrx", "tx-rx", "-rx-", "-tx-", "comp", "ntfy"];
    if !QUEUE_WORDS.iter().any(|word| lower.contains(word)) {
        return None;
    }
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().ok()
}

fn is_foreign(row: &Row) -> bool {
    row.now.as_deref().is_some_and(|now| now.starts_with("foreign"))
}

enum Verdict {
    Want(String),
    Forbidden(bool),
    NotDue,
    Shown,
}

impl Row {
    fn obstructed(&mut self, obstacle: &Obstacle) {
        self.state = match obstacle {
            Obstacle::NotApplicable(_) => State::NotApplicable,
            Obstacle::Unchangeable(_) => State::Unchangeable,
        };
        self.reason = Some(obstacle.reason().to_owned());
    }
}

/// What the names in a formula mean for one setting.
struct View<'a> {
    planner: &'a Planner<'a>,
    index: usize,
    reading: Option<&'a Reading>,
}

impl Names for View<'_> {
    fn number(&self, name: &str) -> Option<f64> {
        if let Some(value) = self.planner.sizing.numbers.get(name) {
            return Some(*value);
        }
        let reading = self.reading?;
        if name == "limit" {
            return reading.limit.map(f64::from);
        }
        let place: usize = match name.strip_prefix('x')? {
            "" => 0,
            digits => digits.parse().ok()?,
        };
        reading.value.split(' ').nth(place)?.parse().ok()
    }

    fn text(&self, name: &str) -> Option<String> {
        let sizing = self.planner.sizing;
        let worker = || {
            let count = sizing.workers.len().max(1);
            sizing.workers.get(self.index % count).copied().unwrap_or_default()
        };
        let filter = |filter| {
            let interfaces = match filter {
                Filter::Guard => sizing.interfaces.iter().cloned().collect(),
                Filter::Notrack => Default::default(),
            };
            guard::Plan { filter, ports: sizing.ports.clone(), interfaces }.text()
        };
        Some(match name {
            "worker_cpu" => worker().to_string(),
            "worker_mask" => cpu_mask(&[worker()]),
            "workers" => cpu_list_text(&sizing.workers),
            "housekeeping" => cpu_list_text(&sizing.housekeeping),
            "housekeeping_mask" => cpu_mask(&sizing.housekeeping),
            "rps_mask" if sizing.number("rps") != 0.0 => cpu_mask(&sizing.workers),
            "rps_mask" => "0".into(),
            "guard" => filter(Filter::Guard),
            "notrack" => filter(Filter::Notrack),
            "reserved_ports" => {
                let mut ports = cpu_list(self.reading.map_or("", |reading| &reading.value));
                ports.extend(sizing.ports.iter().map(|port| u32::from(*port)));
                cpu_list_text(&ports)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_tell_their_queue_by_name() {
        for (name, queue) in [
            ("virtio2-input.0", Some(0)),
            ("virtio2-output.1", Some(1)),
            ("eth0-TxRx-3", Some(3)),
            ("i40e-eth0-TxRx-12", Some(12)),
            ("ens5-Tx-Rx-2", Some(2)),
            ("mlx5_comp3@pci:0000:01:00.0", Some(3)),
            ("gve-ntfy-blk4@pci:0000:00:04.0", Some(4)),
            ("virtio2-config", None),
            ("mlx5_async0@pci:0000:01:00.0", None),
            ("ttyS0", None),
        ] {
            assert_eq!(queue_of(name), queue, "{name}");
        }
    }
}
