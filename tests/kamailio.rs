//! Real Kamailio behind the real front-end as a registrar, TLS phones before it: registrations with Path, calls in both
//! directions, re-INVITE, BYE, CANCEL, a flow that has gone. Each test prints a table step -> result. Skipped by name
//! where Kamailio is missing; `bench/kamailio/run` installs it.

#[expect(dead_code, reason = "the other tests of the binary need more of it")]
mod process;
#[path = "process/talk.rs"]
mod talk;

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use process::{FrontEnd, alone, eventually, skip};
use ringfront::peer::uac::Step::{self, *};
use ringfront::peer::uac::{Outcome, Profile, Progress};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/kamailio");

/// What lies between ringfront and Kamailio.
struct Core {
    name: &'static str,
    transport: &'static str,
    listen: &'static str,
    backend: &'static str,
}

/// Kamailio in the foreground, in a process group of its own: it forks.
struct Kamailio(Child);

impl Kamailio {
    fn start(directory: &Path, core: &Core) -> Kamailio {
        let log = File::create(directory.join("kamailio.log")).expect("a log");
        let mut command = Command::new("kamailio");
        command.args(["-f", &format!("{HERE}/kamailio.cfg"), "-DD", "-E", "-m", "64", "-M", "8"]);
        command.args(["-w", ".", "-Y", ".", "-l", &format!("{}:{}", core.transport, core.backend)]);
        if core.transport == "tls" {
            command.args(["-A", "WITH_TLS"]);
        }
        command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut kamailio = Kamailio(command.spawn().expect("Kamailio starts"));
        let address = core.backend.parse().expect("an address");
        eventually("Kamailio listens", || {
            let log =
                || std::fs::read_to_string(directory.join("kamailio.log")).unwrap_or_default();
            assert!(kamailio.0.try_wait().expect("a child").is_none(), "{}", log());
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(|_| log())
        });
        kamailio
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

/// A step of one phone, and what it shows.
type Shown = (&'static str, Step);

fn silent(step: Step) -> Shown {
    ("", step)
}

fn alice(number: u32) -> Vec<Shown> {
    let bob = || Box::<str>::from("sip:bob@example.com");
    let meet = |point| silent(Meet { point: 10 * number + point });
    vec![
        ("REGISTER with Path, over TLS", Register { expires: 600 }),
        ("CRLF ping and pong", Ping),
        meet(1),
        ("call to the other phone: INVITE, 180, 200, ACK", Call { to: bob() }),
        ("re-INVITE by the caller: hold", Hold),
        ("re-INVITE by the caller: resume", Resume),
        ("BYE by the caller", HangUp),
        ("called by the other phone", AwaitCall),
        ("re-INVITE by the callee", Hold),
        ("BYE by the callee", HangUp),
        meet(2),
        ("call again", Call { to: bob() }),
        ("re-INVITE by the other side arrives", AwaitChange),
        ("BYE by the other side arrives", AwaitHangUp),
        ("CANCEL while it rings: 200, 487, ACK", CallAndCancel { to: bob() }),
        ("unknown user: 404", CallRefused { to: "sip:nobody@example.com".into(), status: 404 }),
        ("MESSAGE", Message { to: bob() }),
        meet(3),
        meet(4),
        (
            "the other phone dialled anew: 430 for the old flow",
            CallRefused { to: bob(), status: 430 },
        ),
        ("its binding was dropped for that: 404", CallRefused { to: bob(), status: 404 }),
        meet(5),
        meet(6),
        ("registered anew: reached on its new flow", Call { to: bob() }),
        ("BYE", HangUp),
        ("REGISTER, expires 0", Register { expires: 0 }),
        meet(7),
    ]
}

fn bob(number: u32) -> Vec<Shown> {
    let alice = || Box::<str>::from("sip:alice@example.com");
    let meet = |point| silent(Meet { point: 10 * number + point });
    vec![
        ("REGISTER of the second phone", Register { expires: 600 }),
        meet(1),
        silent(AwaitCall),
        silent(AwaitChange),
        silent(AwaitChange),
        silent(AwaitHangUp),
        ("call in the other direction", Call { to: alice() }),
        silent(AwaitChange),
        silent(AwaitHangUp),
        meet(2),
        silent(AwaitCall),
        ("re-INVITE by the callee of the second call", Hold),
        silent(HangUp),
        ("CANCEL arrives", AwaitCancel),
        ("MESSAGE arrives", AwaitMessage),
        meet(3),
        silent(Reconnect),
        meet(4),
        meet(5),
        silent(Register { expires: 600 }),
        meet(6),
        silent(AwaitCall),
        silent(AwaitHangUp),
        meet(7),
        ("who has left is not found: 404", CallRefused { to: alice(), status: 404 }),
    ]
}

/// The rows of one phone's steps that show something, and whether all went well.
fn rows(script: &[Shown], progress: &Progress) -> (String, bool) {
    let mut text = String::new();
    for (place, (label, _)) in script.iter().enumerate() {
        let result = match &progress.outcome {
            Outcome::Done => "ok".to_owned(),
            Outcome::Running { step } | Outcome::Failed { step, .. } if place < *step => {
                "ok".to_owned()
            }
            Outcome::Failed { step, why } if place == *step => format!("WRONG: {why}"),
            Outcome::Running { .. } | Outcome::Failed { .. } => "not reached".to_owned(),
        };
        if !label.is_empty() || result.starts_with("WRONG") {
            text.push_str(&format!("  {:<6} {label:<52} {result}\n", progress.user));
        }
    }
    (text, progress.outcome == Outcome::Done)
}

/// A CA, and certificates for both ends of a core over TLS.
fn certificates(directory: &Path) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    // Its own name: a certificate whose issuer is called like itself is taken for one that vouches for itself.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "core CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    std::fs::write(directory.join("core-ca.pem"), ca_pem).expect("written");
    for name in ["k1.test", "edge.test"] {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters =
            rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = parameters.signed_by(&key, &issuer).expect("a certificate").pem();
        std::fs::write(directory.join(format!("{name}.pem")), pem).expect("written");
        let path = directory.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).expect("written");
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, only_owner).expect("a mode");
    }
    std::fs::copy(format!("{HERE}/tls.cfg"), directory.join("tls.cfg")).expect("tls.cfg");
}

fn configuration(directory: &Path, core: &Core) -> String {
    let text = std::fs::read_to_string(format!("{HERE}/ringfront.toml")).expect("the template");
    let text = text
        .replace("CORE_TRANSPORT", core.transport)
        .replace("CORE_LISTEN", core.listen)
        .replace("CORE_BACKEND", core.backend);
    let text = match core.transport {
        "tls" => text
            .replace(
                "# CORE_TRUST",
                "server_ca = \"core-ca.pem\"\n\
                 certificate = { chain = \"edge.test.pem\", key = \"edge.test.key\" }\n\
                 client_certificate = \"required\"\nclient_ca = \"core-ca.pem\"",
            )
            .replace(
                "# CORE_CERTIFICATE",
                "certificates = [{ names = [], chain = \"edge.test.pem\", key = \"edge.test.key\" }]",
            )
            .replace("transport = \"tls\" }]", "transport = \"tls\", server_name = \"k1.test\" }]"),
        _ => text.replace("# CORE_TRUST\n", "").replace("# CORE_CERTIFICATE\n", ""),
    };
    let path = directory.join("ringfront.toml");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

/// What Kamailio has kept for its users.
fn bindings(directory: &Path) -> String {
    let socket = format!("unix:{}", directory.join("kamailio.ctl").display());
    let output = Command::new("kamcmd").args(["-s", &socket, "ul.dump"]).output().expect("kamcmd");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(test: &str, core: &Core) {
    for tool in ["kamailio", "kamcmd"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        if !found.is_ok_and(|it| it.status.success()) {
            return skip(
                test,
                &format!("no {tool} on this machine: bench/kamailio/run installs it"),
            );
        }
    }
    let module = "ls /usr/lib/*/kamailio/modules/tls.so";
    let speaks_tls = Command::new("sh").args(["-c", module]).output();
    if core.transport == "tls" && !speaks_tls.is_ok_and(|it| it.status.success()) {
        return skip(test, "Kamailio here has no TLS: bench/kamailio/run installs it");
    }
    alone(test, || {
        let directory = tempfile::tempdir().expect("a directory");
        if core.transport == "tls" {
            certificates(directory.path());
        }
        let _kamailio = Kamailio::start(directory.path(), core);
        let file = configuration(directory.path(), core);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let side = talk::client_side(&directory.path().join("ringfront-state/ringfront-ca.pem"));
        let scripts = [alice(0), bob(0)];
        let profile = |user: &str, script: &[Shown]| Profile {
            user: user.into(),
            domain: "example.com".into(),
            target: "127.0.0.1:5061".parse().expect("an address"),
            tls: Some(side.clone()),
            script: script.iter().map(|(_, step)| step.clone()).collect(),
        };
        let profiles = vec![profile("alice", &scripts[0]), profile("bob", &scripts[1])];
        let seen = talk::talk(profiles);
        let mut table = format!("core {}\n", core.name);
        let mut good = true;
        for (script, progress) in scripts.iter().zip(&seen) {
            let (rows, done) = rows(script, progress);
            table.push_str(&rows);
            good &= done;
        }
        let kept = bindings(directory.path());
        let path = kept.lines().find(|line| line.contains("Path: <sip"));
        let path_kept = path.is_some_and(|line| line.contains(";lr"));
        let outcome = if path_kept { "ok" } else { "WRONG" };
        table.push_str(&format!(
            "  {:<6} {:<52} {outcome}\n",
            "", "Kamailio keeps our Path with the binding"
        ));
        let (_, _, metrics) =
            process::admin(&directory.path().join("ringfront-state/admin.sock"), "GET /metrics");
        let refused: Vec<&str> = metrics
            .lines()
            .filter(|line| line.starts_with("ringfront_refused_total") && !line.ends_with(" 0"))
            .collect();
        print!("{table}");
        let log =
            std::fs::read_to_string(directory.path().join("kamailio.log")).unwrap_or_default();
        assert!(good && path_kept, "{seen:#?}\n{kept}\n{}\n{log}\n{refused:#?}", front_end.log());
        // The call to the flow that had gone, its ACK, and 100s, which end at each hop.
        let known = ["flow_gone", "ack_dropped", "response_trying"];
        let unknown = |line: &&&str| !known.iter().any(|reason| line.contains(reason));
        assert_eq!(refused.iter().filter(unknown).collect::<Vec<_>>(), [&""; 0]);
    });
}

#[test]
fn tls_phones_on_ipv4_call_through_a_tcp_core_on_ipv6() {
    let core = Core {
        name: "over TCP on ::1",
        transport: "tcp",
        listen: "[::1]:5062",
        backend: "[::1]:5070",
    };
    run("tls_phones_on_ipv4_call_through_a_tcp_core_on_ipv6", &core);
}

#[test]
fn tls_phones_call_through_a_tcp_core_on_ipv4() {
    let core = Core {
        name: "over TCP on 127.0.0.1",
        transport: "tcp",
        listen: "127.0.0.1:5062",
        backend: "127.0.0.1:5070",
    };
    run("tls_phones_call_through_a_tcp_core_on_ipv4", &core);
}

#[test]
fn tls_phones_call_through_a_tls_core() {
    let core = Core {
        name: "over mutual TLS on 127.0.0.1",
        transport: "tls",
        listen: "127.0.0.1:5062",
        backend: "127.0.0.1:5071",
    };
    run("tls_phones_call_through_a_tls_core", &core);
}
