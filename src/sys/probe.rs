//! The start-up probe: what this kernel can do for a ring, found by doing it, and four lines of words
//! for what it cannot.
//! Owns a ring for a moment. Never judges by the kernel's version alone, never changes the host.

use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{Probe, cqueue, opcode};

use super::StartUpFault;
use super::address::RawAddress;
use super::buffers::ReceiveBuffers;
use super::process::{self, ResourceLimit};
use super::queues::{Mode, Queues};
use crate::base::ring::RingCounts;
use crate::base::time::Duration;

/// The kernel that has everything we need.
const FLOOR: &str = "6.8";

/// Steps of building a ring whose failures are explained in detail.
pub(super) const SETUP: &str = "create an io_uring";
pub(super) const FILES: &str = "make a ring's descriptor table";
pub(super) const POLLED: &str = "create an io_uring whose submissions a kernel thread takes";
pub(super) const BUSY_POLL: &str = "let a ring poll the network cards";

/// One thing that a kernel may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ability {
    /// The name in io_uring's manual pages.
    pub name: &'static str,
    /// The kernel that brought it.
    pub since: &'static str,
    /// Without it ringfront does not start; otherwise it is used where found.
    pub needed: bool,
    pub found: bool,
}

/// What the probe found.
#[derive(Clone, Debug)]
pub struct ProbeReport {
    /// The kernel's release, as uname(2) says.
    pub kernel: String,
    pub abilities: Vec<Ability>,
    pub descriptors: ResourceLimit,
    pub memory_lock: ResourceLimit,
}

impl ProbeReport {
    /// The first needed ability that is missing, in words.
    pub fn fault(&self) -> Option<StartUpFault> {
        let missing: Vec<&Ability> =
            self.abilities.iter().filter(|ability| ability.needed && !ability.found).collect();
        let first = missing.first()?;
        let names: Vec<&str> = missing.iter().map(|ability| ability.name).collect();
        Some(StartUpFault {
            what: format!("this kernel's io_uring lacks {}", names.join(", ")),
            place: format!("kernel {}", self.kernel),
            cause: format!("{} came with Linux {}", first.name, first.since),
            cure: format!("boot Linux {FLOOR} or newer"),
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.abilities.iter().any(|ability| ability.name == name && ability.found)
    }
}

/// Tries everything once. An error when there is no ring to try it with.
pub fn run() -> Result<ProbeReport, StartUpFault> {
    let place = "start-up probe";
    let fault = |error: io::Error| explain(SETUP, place, &error);
    let mut queues = Queues::new(32, 64, Mode::Deferred).map_err(fault)?;
    let abilities = try_everything(&mut queues);
    let limits = process::descriptor_limit().and_then(|descriptors| {
        let memory_lock = process::memory_lock_limit()?;
        Ok((descriptors, memory_lock))
    });
    let (descriptors, memory_lock) =
        limits.map_err(|error| explain("read resource limits", place, &error))?;
    Ok(ProbeReport { kernel: Host::read().kernel, abilities, descriptors, memory_lock })
}

/// An operation, its name, the kernel that brought it, and whether we can do without.
type Operation = (u8, &'static str, &'static str, bool);

pub const ZERO_COPY_SEND: &str = "zero-copy send";

const OPERATIONS: [Operation; 14] = [
    (opcode::PollAdd::CODE, "poll", "5.1", true),
    (opcode::Accept::CODE, "accept", "5.5", true),
    (opcode::AsyncCancel::CODE, "async cancel", "5.5", true),
    (opcode::LinkTimeout::CODE, "link timeout", "5.5", true),
    (opcode::Connect::CODE, "connect", "5.5", true),
    (opcode::Close::CODE, "close", "5.6", true),
    (opcode::Send::CODE, "send", "5.6", true),
    (opcode::Recv::CODE, "receive", "5.6", true),
    (opcode::MsgRingData::CODE, "message to another ring", "5.18", true),
    (opcode::Socket::CODE, "socket", "5.19", true),
    (opcode::SetSockOpt::CODE, "command", "5.19", true),
    (opcode::FixedFdInstall::CODE, "install of a direct descriptor", "6.8", true),
    (opcode::SendZc::CODE, ZERO_COPY_SEND, "6.0", false),
    (opcode::RecvZc::CODE, "zero-copy receive", "6.15", false),
];

fn try_everything(queues: &mut Queues) -> Vec<Ability> {
    let mut probe = Probe::new();
    let probed = queues.submitter.register_probe(&mut probe).is_ok();
    let mut abilities: Vec<Ability> = OPERATIONS
        .iter()
        .map(|&(code, name, since, needed)| {
            let found = probed && probe.is_supported(code);
            Ability { name, since, needed, found }
        })
        .collect();
    let mut found = |name, since, needed, found| {
        abilities.push(Ability { name, since, needed, found });
    };
    let files = queues.submitter.register_files_sparse(8).is_ok();
    found("sparse descriptor table", "5.19", true, files);
    let ranged = queues.register_file_alloc_range(4).is_ok();
    found("descriptor slots of our choice", "6.0", true, ranged);
    let workers = queues.submitter.register_iowq_max_workers(&mut [1, 1]).is_ok();
    found("limit of kernel threads", "5.15", true, workers);
    let registered = queues.submitter.register_ring_fd().is_ok();
    found("registered ring descriptor", "5.18", true, registered);
    let multishot = receives_by_multishot(queues).unwrap_or(false);
    found("multishot receive into provided buffers", "6.0", true, multishot);
    found("socket options by command", "6.7", true, sets_options(queues).unwrap_or(false));
    found("peer names by command", "6.7", false, names_peers(queues).unwrap_or(false));
    found("wait without iowait", "6.15", false, queues.no_iowait);
    // The ring's descriptor stays registered with this thread, and the ring with it, otherwise.
    let _ = queues.submitter.unregister_ring_fd();
    abilities
}

/// Submits one operation and waits for its first completion.
fn complete(queues: &mut Queues, entry: &Entry) -> Option<(i32, u32)> {
    queues.push(entry);
    queues.enter(Some(Duration::from_secs(1)), &mut RingCounts::default());
    queues.completion.next().map(|entry| (entry.result(), entry.flags()))
}

fn receives_by_multishot(queues: &mut Queues) -> io::Result<bool> {
    const GROUP: u16 = 0;
    let (receiver, mut sender) = UnixStream::pair()?;
    let buffers = ReceiveBuffers::new(2, 4096)?;
    buffers.register(&queues.submitter, GROUP)?;
    sender.write_all(b"x")?;
    let receive = opcode::RecvMulti::new(Fd(receiver.as_raw_fd()), GROUP).build();
    let first = complete(queues, &receive);
    let armed = first.is_some_and(|(result, flags)| result == 1 && cqueue::more(flags));
    // Its end, so that nothing refers to the buffers any more.
    drop(sender);
    if armed {
        queues.enter(Some(Duration::from_secs(1)), &mut RingCounts::default());
        let last = queues.completion.next();
        assert!(last.is_some_and(|last| !cqueue::more(last.flags())), "the end of the stream");
    }
    queues.submitter.unregister_buf_ring(GROUP)?;
    Ok(armed)
}

fn sets_options(queues: &mut Queues) -> io::Result<bool> {
    static ON: libc::c_int = 1;
    let (socket, _peer) = UnixStream::pair()?;
    let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_KEEPALIVE as u32);
    let value = &raw const ON;
    let socket = Fd(socket.as_raw_fd());
    let set = opcode::SetSockOpt::new(socket, level, name, value.cast(), 4).build();
    Ok(complete(queues, &set).is_some_and(|(result, _)| result == 0))
}

fn names_peers(queues: &mut Queues) -> io::Result<bool> {
    let (socket, _peer) = UnixStream::pair()?;
    let mut name = RawAddress::EMPTY;
    let (level, option) = (libc::SOL_SOCKET as u32, libc::SO_PEERNAME as u32);
    let (socket, room) = (Fd(socket.as_raw_fd()), RawAddress::BYTES);
    let place = name.as_mut_ptr().cast();
    let ask = opcode::GetSockOpt::new(socket, level, option, place, room).build();
    // An unnamed UNIX socket: the family and nothing else.
    Ok(complete(queues, &ask).is_some_and(|(result, _)| result >= 2))
}

/// What of the host explains a refusal.
#[derive(Clone, Debug, Default)]
struct Host {
    kernel: String,
    /// kernel.io_uring_disabled and kernel.io_uring_group, where the kernel has them.
    disabled: Option<String>,
    group: Option<String>,
    /// A seccomp filter stands between us and the kernel.
    filtered: bool,
    descriptors: u64,
}

impl Host {
    fn read() -> Host {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        let status = read("/proc/self/status").unwrap_or_default();
        Host {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned()),
            disabled: read("/proc/sys/kernel/io_uring_disabled").ok(),
            group: read("/proc/sys/kernel/io_uring_group").ok(),
            filtered: status.lines().any(|line| line == "Seccomp:\t2"),
            descriptors: process::descriptor_limit().map(|limit| limit.soft).unwrap_or(0),
        }
    }
}

/// Why `step` failed at `place` (a worker and its core), in four lines.
pub(super) fn explain(step: &str, place: &str, error: &io::Error) -> StartUpFault {
    let (cause, cure) = diagnose(step, error.raw_os_error().unwrap_or(0), &Host::read());
    let what = format!("cannot {step}: {}", text(error));
    StartUpFault { what, place: place.to_owned(), cause, cure }
}

fn diagnose(step: &str, errno: i32, host: &Host) -> (String, String) {
    let kernel = &host.kernel;
    let newer = format!("boot Linux {FLOOR} or newer, built with CONFIG_IO_URING");
    let (cause, cure) = match errno {
        libc::EPERM | libc::EACCES => return diagnose_permission(host),
        libc::ENOSYS if host.filtered => (
            "a seccomp filter, usually a container's, hides io_uring".to_owned(),
            FILTER_CURE.to_owned(),
        ),
        libc::ENOSYS => (format!("Linux {kernel} has no io_uring"), newer),
        libc::EINVAL if step == SETUP => {
            (format!("Linux {kernel} lacks DEFER_TASKRUN or NO_SQARRAY"), newer)
        }
        libc::EINVAL | libc::EOPNOTSUPP if step == BUSY_POLL => (
            format!("Linux {kernel} has no NAPI for rings (6.9, CONFIG_NET_RX_BUSY_POLL)"),
            DEFERRED_CURE.to_owned(),
        ),
        libc::EINVAL if step == POLLED => (
            format!("Linux {kernel} cannot, or has no such core for the thread"),
            DEFERRED_CURE.to_owned(),
        ),
        libc::EINVAL | libc::EOPNOTSUPP => (format!("Linux {kernel} cannot do this"), newer),
        libc::EMFILE if step == FILES => (
            format!("RLIMIT_NOFILE is {}, less than the table", host.descriptors),
            "raise LimitNOFILE= (systemd) or ulimit -Hn, or lower limits.connections_per_core"
                .to_owned(),
        ),
        libc::EMFILE | libc::ENFILE => (
            format!("RLIMIT_NOFILE is {}, or fs.file-max is reached", host.descriptors),
            "raise LimitNOFILE= (systemd), ulimit -Hn, or fs.file-max".to_owned(),
        ),
        libc::ENOMEM => (
            "too little memory, or RLIMIT_MEMLOCK where the kernel counts rings".to_owned(),
            "free memory, raise LimitMEMLOCK= (systemd) or the container's memory limit".to_owned(),
        ),
        _ => (format!("unknown, on Linux {kernel}"), "see io_uring_setup(2)".to_owned()),
    };
    (cause, cure)
}

const DEFERRED_CURE: &str =
    "write engine.mode = \"deferred\", which is what wins on ordinary hosts";

const FILTER_CURE: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the \
                           seccomp profile (docker: --security-opt seccomp=FILE, systemd: \
                           SystemCallFilter=@aio)";

fn diagnose_permission(host: &Host) -> (String, String) {
    let group = host.group.as_deref().unwrap_or("-1");
    match host.disabled.as_deref() {
        Some("2") => (
            "kernel.io_uring_disabled is 2".to_owned(),
            "run: sysctl kernel.io_uring_disabled=0, or 1 with this user in kernel.io_uring_group"
                .to_owned(),
        ),
        Some("1") => (
            format!("kernel.io_uring_disabled is 1 and this user is not in group {group}"),
            "run: sysctl kernel.io_uring_group=GID of this user, or kernel.io_uring_disabled=0"
                .to_owned(),
        ),
        _ if host.filtered => (
            "a seccomp filter, usually a container's, forbids io_uring".to_owned(),
            FILTER_CURE.to_owned(),
        ),
        _ => (
            "a security module (SELinux, AppArmor) forbids io_uring".to_owned(),
            "look for io_uring in: journalctl -k, ausearch -m avc; then allow it".to_owned(),
        ),
    }
}

/// The error's text without Rust's "(os error N)".
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_is_needed() {
        let report = run().unwrap();
        assert_eq!(report.fault(), None, "{report:#?}");
        assert!(report.has("multishot receive into provided buffers"));
        assert!(report.descriptors.soft > 0 && !report.kernel.is_empty());
    }

    #[test]
    fn a_missing_ability_is_named_with_its_kernel() {
        let mut report = run().unwrap();
        for ability in &mut report.abilities {
            ability.found &= ability.since != "6.8" && ability.needed;
        }
        let fault = report.fault().unwrap();
        assert!(fault.what.ends_with("lacks install of a direct descriptor"), "{fault}");
        assert_eq!(fault.cause, "install of a direct descriptor came with Linux 6.8");
    }

    /// Each likely cause has its own words; the first is the contract's example.
    #[test]
    fn every_refusal_has_a_cause_and_a_cure() {
        let host = Host { kernel: "6.1.0".into(), descriptors: 1024, ..Host::default() };
        let disabled = |value: &str| Host {
            disabled: Some(value.into()),
            group: Some("113".into()),
            ..host.clone()
        };
        let filtered = Host { filtered: true, disabled: Some("0".into()), ..host.clone() };
        let cases = [
            (SETUP, libc::EPERM, disabled("2"), "kernel.io_uring_disabled is 2", "sysctl"),
            (SETUP, libc::EPERM, disabled("1"), "not in group 113", "io_uring_group"),
            (SETUP, libc::EPERM, filtered.clone(), "seccomp", "io_uring_setup"),
            (SETUP, libc::EPERM, disabled("0"), "SELinux", "ausearch"),
            (SETUP, libc::ENOSYS, filtered, "seccomp", "seccomp=FILE"),
            (SETUP, libc::ENOSYS, host.clone(), "6.1.0 has no io_uring", "CONFIG_IO_URING"),
            (SETUP, libc::EINVAL, host.clone(), "DEFER_TASKRUN", "6.8"),
            (SETUP, libc::ENOMEM, host.clone(), "RLIMIT_MEMLOCK", "LimitMEMLOCK"),
            (BUSY_POLL, libc::EINVAL, host.clone(), "no NAPI for rings", "deferred"),
            (POLLED, libc::EINVAL, host.clone(), "no such core", "deferred"),
            (POLLED, libc::EPERM, disabled("2"), "kernel.io_uring_disabled is 2", "sysctl"),
            (FILES, libc::EMFILE, host.clone(), "is 1024, less", "connections_per_core"),
            (SETUP, libc::EMFILE, host, "fs.file-max", "LimitNOFILE"),
        ];
        for (step, errno, host, cause, cure) in cases {
            let (said, advised) = diagnose(step, errno, &host);
            assert!(said.contains(cause), "{errno}: {said}");
            assert!(advised.contains(cure), "{errno}: {advised}");
        }
    }
}
