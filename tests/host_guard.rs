//! The UDP guard and the namespaced tunables on a real kernel: two network namespaces, one cable, raw frames.
//! Needs root, ip, nft and python3; says so and ends where one of them is missing. Changes nothing outside its
//! namespaces.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use ringfront::host::guard::{Filter, Firewall as _, GuardCounter, NftCommand, guard_counters};
use ringfront::host::netlink::KernelNic;
use ringfront::host::nic::{Key, Nic as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Frames of each shape.
const COUNT: u32 = 10;
const FRAMES: &str = "tests/data/host/frames.py";

/// Client and device under test, joined by c0 and d0. Removed when dropped.
struct Cable {
    client: String,
    device: String,
}

impl Cable {
    /// `None`, with the reason printed, where this host cannot lay one.
    fn lay() -> Option<Cable> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        for tool in [["nft", "--version"], ["ip", "-V"], ["python3", "--version"]] {
            if !succeeds(&tool) {
                return skip(&format!("{} is not installed", tool[0]));
            }
        }
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("rft-{}-{number}-{side}", std::process::id());
        let cable = Cable { client: name("c"), device: name("d") };
        for side in [&cable.client, &cable.device] {
            if !succeeds(&["ip", "netns", "add", side]) {
                eprintln!(
                    "SKIPPED: network namespaces cannot be made here (not root, or a container)"
                );
                return None;
            }
        }
        let (client, device) = (cable.client.as_str(), cable.device.as_str());
        run(&[
            "ip",
            "link",
            "add",
            "c0",
            "netns",
            client,
            "numrxqueues",
            "2",
            "numtxqueues",
            "2",
            "address",
            "02:00:00:00:0c:01",
            "type",
            "veth",
            "peer",
            "name",
            "d0",
            "netns",
            device,
            "numrxqueues",
            "2",
            "numtxqueues",
            "2",
            "address",
            "02:00:00:00:0d:01",
        ]);
        for (side, link, four, six) in [
            (client, "c0", "10.99.0.1/24", "fd99::1/64"),
            (device, "d0", "10.99.0.2/24", "fd99::2/64"),
        ] {
            run(&["ip", "-n", side, "link", "set", "lo", "up"]);
            run(&["ip", "-n", side, "addr", "add", four, "dev", link]);
            run(&["ip", "-n", side, "addr", "add", six, "dev", link, "nodad"]);
            run(&["ip", "-n", side, "link", "set", link, "up"]);
        }
        Some(cable)
    }

    fn on_device(&self, command: &[&str]) -> (String, i32) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.device])
            .args(command)
            .output()
            .expect("ip runs");
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (text.into_owned(), output.status.code().unwrap_or(-1))
    }

    /// `ringfront tune` in the device's namespace, its journal in `state`.
    fn tune(&self, state: &str, words: &[&str]) -> (String, i32) {
        let mut command = vec![env!("CARGO_BIN_EXE_ringfront"), "tune"];
        command.extend(words);
        command.extend(["--state-dir", state]);
        self.on_device(&command)
    }

    /// Sends every shape from the client; what arrived on the device, by shape.
    fn arrivals(&self) -> BTreeMap<String, u32> {
        let mut receiver = Command::new("ip")
            .args(["netns", "exec", &self.device, "python3", FRAMES, "receive"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut words = BufReader::new(receiver.stdout.take().expect("piped"));
        let mut line = String::new();
        words.read_line(&mut line).expect("the receiver speaks");
        assert_eq!(line.trim(), "ready");
        let count = COUNT.to_string();
        let sent = Command::new("ip")
            .args(["netns", "exec", &self.client, "python3", FRAMES, "send", "c0", &count])
            .output()
            .expect("python3 runs");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        drop(receiver.stdin.take());
        let mut rest = String::new();
        words.read_to_string(&mut rest).expect("the receiver speaks");
        assert!(receiver.wait().expect("it ends").success());
        let mut counts: BTreeMap<String, u32> = serde_json::from_str(&rest).expect("JSON");
        for shape in serde_json::from_slice::<Vec<String>>(&sent.stdout).expect("JSON") {
            counts.entry(shape).or_insert(0);
        }
        counts
    }

    /// Runs `work` with this thread in the device's namespace.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.device);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let place = std::fs::File::open(path).expect("the namespace is there");
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the namespace lets us in");
                work()
            });
            thread.join().expect("no panic")
        })
    }

    /// Dropped packets by `layer protocol family`, zeros left out.
    fn dropped(&self) -> BTreeMap<String, u64> {
        let counters = self.inside(guard_counters).expect("nft answers");
        let named = |one: GuardCounter| {
            (format!("{} {} {}", one.layer, one.protocol, one.family), one.packets)
        };
        counters.into_iter().map(named).filter(|(_, packets)| *packets > 0).collect()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for side in [&self.client, &self.device] {
            succeeds(&["ip", "netns", "del", side]);
        }
    }
}

/// Says why nothing is tested, where `tests/run` gathers it.
fn skip(reason: &str) -> Option<Cable> {
    eprintln!("SKIPPED: {reason}");
    if let Some(path) = std::env::var_os("RINGFRONT_SKIPS") {
        let line = format!("the UDP guard in network namespaces: {reason}\n");
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).ok()?;
        let _ = std::io::Write::write_all(&mut file, line.as_bytes());
    }
    None
}

fn succeeds(command: &[&str]) -> bool {
    let quiet = Command::new(command[0]).args(&command[1..]).output();
    quiet.is_ok_and(|output| output.status.success())
}

#[track_caller]
fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Shapes that a kernel without the guard delivers.
fn deliverable(shape: &str) -> bool {
    !["vlan5", "qinq", "later-alike", "later-other"].iter().any(|end| shape.ends_with(end))
}

#[test]
fn no_datagram_of_any_shape_reaches_a_sip_port() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();

    let before = cable.arrivals();
    assert!(before.len() >= 30, "{before:?}");
    for (shape, count) in &before {
        let expected = if deliverable(shape) { COUNT } else { 0 };
        assert_eq!(*count, expected, "{shape} without the guard");
    }

    let (text, code) = cable.tune(state, &["apply", "--only", "udp.guard", "--interface", "d0"]);
    assert_eq!(code, 0, "{text}");
    let after = cable.arrivals();
    for (shape, count) in &after {
        let expected = if shape.ends_with("elsewhere") { COUNT } else { 0 };
        assert_eq!(*count, expected, "{shape} with the guard");
    }
    // Two ports of each protocol; UDP also with options, VLAN 0 and 5, fragments and the fragment that looks alike.
    let n = u64::from(COUNT);
    let dropped = cable.dropped();
    for (counter, packets) in [
        ("ingress udp ipv4", (2 + 1 + 2 + 1 + 1) * n),
        ("ingress udp ipv6", (2 + 3 + 2 + 1) * n),
        ("ingress udplite ipv4", 2 * n),
        ("ingress udplite ipv6", 2 * n),
        ("ingress sctp ipv4", 2 * n),
        ("ingress sctp ipv6", 2 * n),
        ("ingress dccp ipv4", 2 * n),
        ("ingress dccp ipv6", 2 * n),
    ] {
        assert_eq!(dropped.get(counter), Some(&packets), "{counter} in {dropped:?}");
    }

    // On the way out, and TCP to the same port as ever.
    let (refused, _) = cable.on_device(&["python3", FRAMES, "emit", &COUNT.to_string()]);
    assert_eq!(refused.trim(), format!(r#"{{"4": {COUNT}, "6": {COUNT}}}"#));
    let dropped = cable.dropped();
    assert_eq!(dropped.get("output udp ipv4"), Some(&n), "{dropped:?}");
    assert_eq!(dropped.get("output udp ipv6"), Some(&n), "{dropped:?}");
    let connects = "import socket; l = socket.create_server(('10.99.0.2', 5060)); \
                    c = socket.create_connection(('10.99.0.2', 5060), 2); print('connected')";
    assert_eq!(cable.on_device(&["python3", "-c", connects]).0.trim(), "connected");

    let (text, code) = cable.tune(state, &["check", "--only", "udp.guard", "--interface", "d0"]);
    assert_eq!(code, 0, "{text}");
    let (text, code) = cable.tune(state, &["revert"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(cable.on_device(&["nft", "list", "ruleset"]).0.trim(), "");
    assert_eq!(cable.arrivals(), before, "as before");
}

#[test]
fn the_guard_without_an_interface_stops_everything_that_reaches_ip() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let (text, code) = cable.tune(state, &["apply", "--only", "udp.guard"]);
    assert_eq!(code, 0, "{text}");
    for (shape, count) in cable.arrivals() {
        let expected = if shape.ends_with("elsewhere") { COUNT } else { 0 };
        assert_eq!(count, expected, "{shape}");
    }
    let dropped = cable.dropped();
    assert!(dropped.keys().all(|name| name.starts_with("prerouting")), "{dropped:?}");
    assert_eq!(dropped.get("prerouting sctp ipv6"), Some(&(2 * u64::from(COUNT))));
}

#[test]
fn a_guard_that_somebody_altered_is_a_conflict_and_comes_back_as_it_was() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let apply = ["apply", "--only", "udp.guard", "--interface", "d0"];
    run(&["ip", "netns", "exec", &cable.device, "nft", "add", "table", "inet", "ringfront"]);
    run(&[
        "ip",
        "netns",
        "exec",
        &cable.device,
        "nft",
        "add",
        "chain",
        "inet",
        "ringfront",
        "mine",
        "{ type filter hook input priority 5 ; }",
    ]);
    let listing = cable.on_device(&["nft", "-s", "list", "ruleset"]).0;
    let (text, code) = cable.tune(state, &apply);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("conflict: a table `ringfront` exists that is not ours"), "{text}");
    assert_eq!(cable.on_device(&["nft", "-s", "list", "ruleset"]).0, listing);
    let forced: Vec<&str> = apply.iter().copied().chain(["--force"]).collect();
    let (text, code) = cable.tune(state, &forced);
    assert_eq!(code, 0, "{text}");

    // Now ours is altered: it is left alone by revert, until the alteration is gone.
    let rule = [
        "nft",
        "insert",
        "rule",
        "inet",
        "ringfront",
        "prerouting",
        "udp",
        "dport",
        "5060",
        "accept",
    ];
    cable.on_device(&rule);
    let (text, code) = cable.tune(state, &["revert"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("drift: somebody has changed"), "{text}");
    let (text, code) = cable.tune(state, &["status"]);
    assert_eq!(code, 1, "{text}");
    let handle =
        cable.on_device(&["nft", "-a", "list", "chain", "inet", "ringfront", "prerouting"]).0;
    let handle = handle.lines().find(|line| line.contains("accept #")).unwrap();
    let handle = handle.rsplit(' ').next().unwrap();
    cable.on_device(&[
        "nft",
        "delete",
        "rule",
        "inet",
        "ringfront",
        "prerouting",
        "handle",
        handle,
    ]);
    let (text, code) = cable.tune(state, &["revert"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(cable.on_device(&["nft", "-s", "list", "ruleset"]).0, listing, "as it was");
}

#[test]
fn what_plan_prints_is_what_apply_makes() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let script = folder.path().join("guard.sh");
    let script = script.to_str().unwrap();
    let only = ["--only", "udp.guard,tcp.migrate_req", "--interface", "d0"];
    let words: Vec<&str> = ["plan", "--script", script].into_iter().chain(only).collect();
    let (text, code) = cable.tune(state, &words);
    assert_eq!(code, 1, "{text}");
    assert_eq!(
        cable.inside(|| NftCommand.read(Filter::Guard)).unwrap(),
        "absent",
        "a plan writes nothing"
    );
    let (text, code) = cable.on_device(&["sh", script]);
    assert_eq!(code, 0, "{text}");
    let check: Vec<&str> = ["check"].into_iter().chain(only).collect();
    let (text, code) = cable.tune(state, &check);
    assert_eq!(code, 0, "{text}");
}

/// Tunables whose settings belong to a network namespace: applying them changes nothing outside.
const NAMESPACED: &str = "tcp.somaxconn,tcp.slow_start_after_idle,tcp.migrate_req,tcp.buffers,tcp.ports,tcp.fin_timeout,\
                          steer.rps,steer.xps,napi.defer,nic.channels,nic.rings,nic.rss_table,nic.coalesce,nic.offloads,\
                          irq.affinity,udp.guard";

/// What the namespaced tunables change, as text.
const EVERYTHING: &str = "grep -r . /proc/sys/net/ipv4/tcp_* /proc/sys/net/ipv4/ip_local_* /proc/sys/net/core/somaxconn \
                          /sys/class/net/d0/queues /sys/class/net/d0/napi_defer_hard_irqs \
                          /sys/class/net/d0/gro_flush_timeout 2>/dev/null | grep -v -e tcp_fastopen_key -e byte_queue \
                          -e tcp_child_ehash; nft list ruleset";

#[test]
fn killed_at_any_moment_it_comes_back_exactly() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let before = cable.on_device(&["sh", "-c", EVERYTHING]).0;
    let mut halfway = 0;
    // The first write comes after some milliseconds, later where other tests run beside this one.
    for milliseconds in (4..120).step_by(2) {
        if halfway == 8 {
            break;
        }
        let mut apply = Command::new("ip")
            .args([
                "netns",
                "exec",
                &cable.device,
                env!("CARGO_BIN_EXE_ringfront"),
                "tune",
                "apply",
            ])
            .args(["--only", NAMESPACED, "--interface", "d0", "--profile", "low-latency"])
            .args(["--state-dir", state])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        pause(milliseconds);
        let running = apply.try_wait().expect("it can be asked").is_none();
        // `ip` has become the program: this is SIGKILL in the middle of it.
        apply.kill().expect("it is ours");
        apply.wait().expect("it ends");
        // An nft that was under way is not killed with it.
        pause(30);
        let during = cable.on_device(&["sh", "-c", EVERYTHING]).0;
        let (text, code) = cable.tune(state, &["revert"]);
        assert_eq!(code, 0, "{text}");
        assert_eq!(
            cable.on_device(&["sh", "-c", EVERYTHING]).0,
            before,
            "{milliseconds} ms: {text}"
        );
        halfway += u32::from(running && during != before);
    }
    assert!(halfway > 0, "no kill came after the first write and before the end");
}

fn pause(milliseconds: u64) {
    #[expect(clippy::disallowed_methods, reason = "the moment of the kill is the test")]
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}

#[test]
fn a_namespace_is_tuned_and_comes_back_exactly() {
    let Some(cable) = Cable::lay() else { return };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let before = cable.on_device(&["sh", "-c", EVERYTHING]).0;
    assert!(before.lines().count() > 50, "{before}");
    let host = ["--only", NAMESPACED, "--interface", "d0", "--profile", "low-latency"];
    let apply: Vec<&str> = ["apply"].into_iter().chain(host).collect();
    let (text, _) = cable.tune(state, &apply);
    assert!(text.contains("written") && !text.contains("failed"), "{text}");
    let receive_merging = || {
        let key = Key::Feature("rx-gro".into());
        cable.inside(|| KernelNic.read("d0", &key)).expect("the kernel answers").value
    };
    // A veth comes with it off: written by netlink, and read back.
    assert_eq!(receive_merging(), "on");
    let during = cable.on_device(&["sh", "-c", EVERYTHING]).0;
    assert_ne!(during, before);
    assert!(
        during.contains("tcp_migrate_req:1") && during.contains("gro_flush_timeout:20000"),
        "{during}"
    );
    let plan: Vec<&str> = ["plan"].into_iter().chain(host).collect();
    let (text, _) = cable.tune(state, &plan);
    assert!(text.contains("0 to be written"), "{text}");
    assert!(
        text.contains("nic:d0:rings.rx  (the driver does not offer it (EOPNOTSUPP))"),
        "{text}"
    );
    let (text, code) = cable.tune(state, &["revert"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(cable.on_device(&["sh", "-c", EVERYTHING]).0, before);
    assert_eq!(receive_merging(), "off");
    assert_eq!(cable.tune(state, &["revert"]).0.trim(), "nothing is held");
}
