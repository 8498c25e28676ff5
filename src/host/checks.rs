//! `ringfront doctor`: what stands between this host and its best, each finding with why and cure.
//! Owns the judgement, over facts that others have read. Never reads, never writes.

use serde::Serialize;

use crate::base::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};

use super::catalogue::{Catalogue, Profile};
use super::facts::{Facts, RingFacts};
use super::plan::{Row, State};
use super::sizing::{Sizing, cpu_list_text};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// ringfront does not start, or not for long.
    Must,
    /// It works, and not as well or as safely as it could.
    Should,
    /// Worth knowing.
    Note,
    /// As it should be.
    Ok,
}

impl Severity {
    pub const ALL: [Severity; 4] = [Severity::Must, Severity::Should, Severity::Note, Severity::Ok];

    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Must => "must",
            Severity::Should => "should",
            Severity::Note => "note",
            Severity::Ok => "ok",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub id: String,
    pub severity: Severity,
    pub what: String,
    /// Why it matters here; absent where all is well.
    pub why: Option<String>,
    pub cure: Option<String>,
}

/// Everything that is judged.
pub struct Examination<'a> {
    pub facts: &'a Facts,
    pub ring: &'a RingFacts,
    pub sizing: &'a Sizing,
    /// Rows of the profile `throughput`, which contains `baseline`.
    pub rows: &'a [Row],
    /// False without a configuration: then what depends on it is only noted.
    pub configured: bool,
}

/// All findings, most severe first, in a fixed order within a severity.
pub fn examine(examination: &Examination<'_>) -> Vec<Finding> {
    let mut report = Report::default();
    ring(examination, &mut report);
    limits(examination, &mut report);
    processors(examination, &mut report);
    surroundings(examination.facts, &mut report);
    network(examination, &mut report);
    exposure(examination, &mut report);
    certificates(examination.facts, &mut report);
    clock(examination.facts, &mut report);
    capacity(examination, &mut report);
    tunables(examination, &mut report);
    let mut findings = report.findings;
    findings.sort_by_key(|finding| finding.severity);
    findings
}

#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn ok(&mut self, id: &str, what: impl Into<String>) {
        let (id, what) = (id.to_owned(), what.into());
        self.findings.push(Finding { id, severity: Severity::Ok, what, why: None, cure: None });
    }

    fn add(
        &mut self,
        severity: Severity,
        id: &str,
        what: impl Into<String>,
        why: &str,
        cure: &str,
    ) {
        self.findings.push(Finding {
            id: id.to_owned(),
            severity,
            what: what.into(),
            why: Some(why.to_owned()),
            cure: (!cure.is_empty()).then(|| cure.to_owned()),
        });
    }
}

fn ring(examination: &Examination<'_>, report: &mut Report) {
    let (facts, ring) = (examination.facts, examination.ring);
    let kernel = &facts.kernel;
    if let Some(refused) = &ring.refused {
        let cure = match facts.io_uring_disabled {
            _ if !refused.cure.is_empty() => refused.cure.as_str(),
            Some(1 | 2) => {
                "sysctl -w kernel.io_uring_disabled=0, or 1 with this user's group in kernel.io_uring_group"
            }
            _ if facts.container => "allow io_uring_setup in the container's seccomp profile",
            _ => "run on Linux 6.8 or later with io_uring built in",
        };
        let what = format!("Linux {kernel}: {}", refused.what);
        report.add(
            Severity::Must,
            "kernel.io_uring",
            what,
            "the whole data plane runs on io_uring",
            cure,
        );
        return;
    }
    let of = |needed: bool, present: bool| -> Vec<String> {
        let some =
            ring.abilities.iter().filter(|one| one.needed == needed && one.present == present);
        some.map(|one| format!("{} ({})", one.name, one.since)).collect()
    };
    let missing = of(true, false);
    if missing.is_empty() {
        let here = ring.abilities.iter().filter(|one| one.present).count();
        report.ok(
            "kernel.io_uring",
            format!("Linux {kernel}: {here} abilities of its ring were tried and found"),
        );
    } else {
        report.add(
            Severity::Must,
            "kernel.io_uring",
            format!("Linux {kernel} lacks {}", missing.join(", ")),
            "the data plane is built on these operations",
            "run on Linux 6.8 or later",
        );
    }
    let optional = of(false, false);
    if !optional.is_empty() {
        report.add(
            Severity::Note,
            "kernel.abilities",
            format!("not here: {}", optional.join(", ")),
            "ringfront works without, a little less fast",
            "a newer kernel",
        );
    }
}

/// Registered memory of one worker: receive buffers and rings.
const WORKER_LOCKED_BYTES: u64 =
    RECEIVE_BUFFERS as u64 * RECEIVE_BUFFER_BYTES as u64 + 4 * 1024 * 1024;

fn limits(examination: &Examination<'_>, report: &mut Report) {
    let (facts, sizing) = (examination.facts, examination.sizing);
    let needed = sizing.number("C") + 64.0 * sizing.number("W") + 1024.0;
    match facts.descriptors {
        Some((_, hard)) if (hard as f64) < needed => report.add(
            Severity::Should,
            "limits.descriptors",
            format!("at most {hard} descriptors, {needed:.0} for all connections"),
            "each connection is a descriptor; `auto` lowers connections_per_core to what fits, a number in the configuration does not start",
            "LimitNOFILE in tuning/systemd/ringfront.service, or `ulimit -Hn`",
        ),
        Some((soft, hard)) => report.ok(
            "limits.descriptors",
            format!("{soft}, raised to {hard} at start; {needed:.0} wanted"),
        ),
        None => report.add(
            Severity::Note,
            "limits.descriptors",
            "not readable",
            "/proc/self/limits is absent",
            "mount /proc",
        ),
    }
    let locked = (1.25 * sizing.number("W") * WORKER_LOCKED_BYTES as f64) as u64;
    match facts.locked_bytes {
        Some((_, hard)) if hard < locked => report.add(
            Severity::Note,
            "limits.locked_memory",
            format!("at most {} MiB may be locked here, {} MiB may be wanted", hard >> 20, locked >> 20),
            "kernels that count ring memory against this limit refuse the registration (ENOMEM); this is the limit of this shell, the unit has its own",
            "LimitMEMLOCK in tuning/systemd/ringfront.service",
        ),
        Some(_) => report.ok("limits.locked_memory", format!("enough for {} MiB", locked >> 20)),
        None => {}
    }
}

fn processors(examination: &Examination<'_>, report: &mut Report) {
    let (facts, sizing) = (examination.facts, examination.sizing);
    let workers = cpu_list_text(&sizing.workers);
    report.ok(
        "cpu.cores",
        format!(
            "{} CPUs, {} of them near the card; workers on {workers}, housekeeping on {}",
            sizing.number("N"),
            sizing.number("Nn"),
            if sizing.housekeeping.is_empty() {
                "the same".into()
            } else {
                cpu_list_text(&sizing.housekeeping)
            },
        ),
    );
    if facts.smt_active {
        report.add(
            Severity::Note,
            "cpu.smt",
            "two threads on each physical core",
            "two workers on one physical core are slower than their sum; one worker for each is chosen here",
            "leave the siblings idle or to housekeeping: [node] cores",
        );
    }
    if facts.nodes > 1 {
        report.add(
            Severity::Note,
            "cpu.numa",
            format!("{} memory nodes", facts.nodes),
            "memory of the other node costs 60 to 100 ns for each cache line that the card wrote",
            "workers on the card's node ([node] cores), NUMAPolicy=bind in the unit",
        );
    }
    match &facts.idle_driver {
        Some(driver) => report.add(
            Severity::Note,
            "cpu.idle",
            format!("idle states by {driver}"),
            "waking from a deep one takes 50 to 200 us",
            "ringfront tune apply --only cpu.cstate --profile low-latency",
        ),
        None => report.ok("cpu.idle", "no idle driver: the hypervisor or the firmware decides"),
    }
}

fn surroundings(facts: &Facts, report: &mut Report) {
    if facts.hypervisor {
        report.add(
            Severity::Note,
            "host.virtual",
            "a virtual machine",
            "clock rate, interrupts and stolen time are the hypervisor's; measure before you believe a figure",
            "",
        );
    }
    if facts.container {
        report.add(
            Severity::Note,
            "host.container",
            "signs of a container",
            "settings of the host may be read-only or absent here",
            "run `ringfront tune` on the host",
        );
    }
    if !facts.mitigations.is_empty() {
        let names: Vec<&str> = facts.mitigations.keys().map(String::as_str).collect();
        report.add(
            Severity::Note,
            "cpu.mitigations",
            names.join(", "),
            "they make system calls dearer; io_uring batches them. Never switch them off for this",
            "",
        );
    }
}

fn network(examination: &Examination<'_>, report: &mut Report) {
    let facts = examination.facts;
    if examination.sizing.interfaces.is_empty() {
        report.add(
            Severity::Note,
            "nic.interfaces",
            "no network interface was looked at",
            "queues, interrupts and offloads are judged for interfaces with a configured listen address",
            "give --config FILE, or --interface NAME",
        );
    } else {
        report.ok("nic.interfaces", examination.sizing.interfaces.join(", "));
    }
    if facts.listen_overflows + facts.listen_drops > 0 {
        report.add(
            Severity::Should,
            "tcp.listen_queue",
            format!(
                "since boot {} connections overflowed a listen queue, {} were dropped",
                facts.listen_overflows, facts.listen_drops
            ),
            "each is a client whose SYN was ignored and who waits a second or more; any service of the host may have been the one",
            "ringfront tune apply --only tcp.somaxconn, and watch whether the counters still grow: nstat -az TcpExtListenOverflows TcpExtListenDrops",
        );
    } else {
        report.ok("tcp.listen_queue", "no listen queue has overflowed since boot");
    }
    if facts.backlog_drops > 0 {
        report.add(
            Severity::Note,
            "softirq.drops",
            format!("{} packets were dropped at a full CPU backlog", facts.backlog_drops),
            "steered packets and virtual devices pass through it",
            "ringfront tune explain softirq.backlog",
        );
    }
    match (facts.conntrack_count, facts.conntrack_max) {
        (Some(count), Some(max)) if count * 5 > max * 4 => report.add(
            Severity::Must,
            "conntrack.table",
            format!("{count} of {max} entries"),
            "when the table is full, packets of new connections are dropped",
            "ringfront tune explain conntrack.notrack, or raise net.netfilter.nf_conntrack_max",
        ),
        (Some(count), _) if count > 0 => report.add(
            Severity::Note,
            "conntrack.table",
            format!("connection tracking holds {count} entries"),
            "about 320 bytes and two hash operations for each SIP connection",
            "ringfront tune explain conntrack.notrack",
        ),
        _ => report.ok("conntrack.table", "no connections are tracked"),
    }
    if facts.sip_helper.is_empty() && !facts.sip_helper_automatic {
        report.ok("conntrack.sip_helper", "not loaded");
    } else {
        let names = if facts.sip_helper.is_empty() {
            "assigned automatically (nf_conntrack_helper=1)".to_owned()
        } else {
            facts.sip_helper.join(", ")
        };
        report.add(
            Severity::Should,
            "conntrack.sip_helper",
            names,
            "the kernel's SIP helper rewrites addresses inside SIP messages behind our back",
            "modprobe -r nf_nat_sip nf_conntrack_sip; blacklist both in /etc/modprobe.d",
        );
    }
}

fn exposure(examination: &Examination<'_>, report: &mut Report) {
    let sockets = &examination.facts.datagram_sockets;
    if sockets.is_empty() {
        report.ok("udp.sockets", "no datagram socket is bound to a SIP port");
    } else {
        let list: Vec<String> =
            sockets.iter().map(|one| format!("{} port {}", one.protocol, one.port)).collect();
        report.add(
            Severity::Should,
            "udp.sockets",
            format!("another program is bound to {}", list.join(", ")),
            "SIP over UDP is answered on this host, and not by ringfront",
            "ss -lunp 'sport = :5060'; stop that program, then ringfront tune apply --only udp.guard",
        );
    }
    let guard = examination.rows.iter().find(|row| row.id == "udp.guard");
    if let Some(row) = guard.filter(|row| row.state == State::NotApplicable) {
        report.add(
            Severity::Should,
            "udp.guard",
            format!(
                "SIP over UDP cannot be kept out: {}",
                row.reason.as_deref().unwrap_or_default()
            ),
            "scanners speak UDP, and another program could listen there unseen",
            "apt-get install nftables; ringfront tune apply --only udp.guard",
        );
    }
}

fn certificates(facts: &Facts, report: &mut Report) {
    const DAY: i64 = 86_400;
    /// Time enough to renew by hand: two weeks.
    const WARNING_DAYS: i64 = 14;
    for one in &facts.certificates {
        let days = (one.not_after - facts.now).div_euclid(DAY);
        let name = format!("{} ({})", one.subject, one.file);
        if facts.now > one.not_after {
            report.add(
                Severity::Must,
                "tls.certificate",
                format!("{name} expired {} days ago", -days),
                "clients refuse the handshake",
                "renew it, then POST /v1/reload or SIGHUP",
            );
        } else if facts.now < one.not_before {
            report.add(
                Severity::Must,
                "tls.certificate",
                format!("{name} is not valid yet"),
                "clients refuse the handshake; or this host's clock is behind",
                "look at the clock first: timedatectl",
            );
        } else if days < WARNING_DAYS {
            report.add(
                Severity::Should,
                "tls.certificate",
                format!("{name} expires in {days} days"),
                "clients refuse the handshake after that",
                "renew it, then POST /v1/reload or SIGHUP",
            );
        } else {
            report.ok("tls.certificate", format!("{name}: {days} days left"));
        }
    }
}

fn clock(facts: &Facts, report: &mut Report) {
    match facts.clock_source.as_str() {
        "" => {}
        "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter" => {
            report.ok("clock.source", facts.clock_source.as_str());
        }
        slow => report.add(
            Severity::Should,
            "clock.source",
            format!("the clock is read from {slow}"),
            "each reading enters the kernel or a slow device, and a worker reads it each turn",
            "find out why the kernel gave up tsc: dmesg | grep -i clocksource",
        ),
    }
    match &facts.clock_keeper {
        Some(keeper) => report.ok("clock.kept", format!("by {keeper}")),
        None => report.add(
            Severity::Should,
            "clock.kept",
            "nothing was found that keeps the clock right",
            "certificates, tickets and the times in logs depend on it",
            "apt-get install systemd-timesyncd (or chrony)",
        ),
    }
}

fn capacity(examination: &Examination<'_>, report: &mut Report) {
    /// The kernel's share of an idle connection, and what TLS and our own state take (planned, docs/bench.md measures).
    const CONNECTION_BYTES: f64 = (4.0 + 40.0) * 1024.0;
    let sizing = examination.sizing;
    let (connections, memory) = (sizing.number("C"), examination.facts.memory_bytes);
    if memory == 0.0 {
        return;
    }
    let wanted = connections * CONNECTION_BYTES;
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    let what = format!(
        "{connections:.0} TLS connections may take {:.1} GiB of {:.1} GiB",
        gib(wanted),
        gib(memory)
    );
    if wanted <= 0.6 * memory {
        report.ok("capacity.memory", what);
        return;
    }
    let severity =
        if examination.configured && wanted > memory { Severity::Must } else { Severity::Should };
    report.add(
        severity,
        "capacity.memory",
        what,
        "beyond six tenths there is no room for bursts, caches and the rest of the host; the kernel ends the process when nothing is left",
        "lower [limits] connections_per_core, or add memory",
    );
}

/// One finding for each tunable that is not as `throughput` wants it.
fn tunables(examination: &Examination<'_>, report: &mut Report) {
    for entry in Catalogue::embedded().entries() {
        let rows: Vec<&Row> = examination.rows.iter().filter(|row| row.id == entry.id).collect();
        let differs = |row: &&&Row| matches!(row.state, State::Drift | State::Conflict);
        let off: Vec<&&Row> = rows.iter().filter(differs).collect();
        let stuck: Vec<&&Row> =
            rows.iter().filter(|row| row.state == State::Unchangeable).collect();
        let baseline = entry.profiles.contains(&Profile::Baseline);
        let by_hand = off.iter().all(|row| row.write.is_none());
        if let Some(first) = off.first() {
            let severity = if baseline { Severity::Should } else { Severity::Note };
            let severity = if entry.id == "limits.io_uring" { Severity::Must } else { severity };
            let cure = match (by_hand, baseline) {
                (true, _) => entry.write.clone(),
                (false, true) => format!("ringfront tune apply --only {}", entry.id),
                (false, false) => {
                    format!("ringfront tune apply --profile throughput --only {}", entry.id)
                }
            };
            report.add(severity, &entry.id, described(first, off.len()), &entry.why, &cure);
        } else if let Some(first) = stuck.first() {
            let reason = first.reason.as_deref().unwrap_or("cannot be changed here");
            let what = format!("{}: {reason}", short(&first.at));
            report.add(Severity::Note, &entry.id, what, &entry.why, &entry.write);
        } else if rows.iter().any(|row| row.state == State::Ok) {
            report.ok(&entry.id, entry.purpose.clone());
        }
    }
}

fn described(row: &Row, count: usize) -> String {
    let now = row.now.as_deref().unwrap_or_default();
    let now = now.lines().next().unwrap_or_default();
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let conflict = match (&row.state, &row.reason) {
        (State::Conflict, Some(reason)) => format!("; conflict: {reason}"),
        _ => String::new(),
    };
    match &row.want {
        Some(want) => format!("{} is `{now}`, wanted `{want}`{more}{conflict}", short(&row.at)),
        None => format!("{} is `{now}`{more}", short(&row.at)),
    }
}

fn short(at: &str) -> &str {
    at.strip_prefix("file:").unwrap_or(at)
}
