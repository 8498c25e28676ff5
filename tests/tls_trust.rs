//! Trust as an operator sees it, against the real front-end: backends that must not be believed, sessions that must not
//! be resumed elsewhere, and files that must not be started with. IPv4 and IPv6.

#[path = "tls/pki.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod pki;
#[expect(dead_code, reason = "the plain clients are for the other tests")]
mod process;
#[path = "tls_process/site.rs"]
#[expect(dead_code, reason = "shared with tests/tls_process.rs")]
mod site;

use std::process::{Child, Command, Stdio};

use pki::{Authority, DAY, Leaf, Name, RSA};
use process::{FrontEnd, alone, eventually};
use site::{SERVER, Site, now};

/// The name that the backends are dialled by.
const PBX: &str = "pbx.example.net";

fn leaf(names: &[Name]) -> Leaf {
    Leaf { from: now() - DAY, until: now() + 20 * DAY, ..Leaf::named(names) }
}

/// A running `openssl s_server`.
struct Backend {
    child: Child,
    log: std::path::PathBuf,
}

impl Backend {
    /// Listens at `address` and shows `shows`.pem; nothing at all where that is empty.
    fn start(site: &Site, address: &str, shows: &str, arguments: &[&str]) -> Backend {
        let log = site.path(&format!("{}.log", address.replace(['[', ']', ':'], "_")));
        let file = std::fs::File::create(&log).expect("a log");
        let (chain, key) = (format!("{shows}.pem"), format!("{shows}.key"));
        let mut command = Command::new("openssl");
        command.current_dir(site.path("")).args(["s_server", "-accept", address]);
        match shows {
            "" => command.arg("-nocert"),
            _ => command.args(["-cert", &chain, "-cert_chain", &chain, "-key", &key]),
        };
        let child = command
            .args(["-cipher", "DEFAULT@SECLEVEL=0"])
            .args(arguments)
            // It ends when its input does.
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("openssl");
        Backend { child, log }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every backend that must not be believed: what it shows, the alert that it gets as openssl says it, and the reason as
/// it is counted. The last one shows nothing, and says so itself.
fn unbelievable(site: &Site, ca: &Authority) -> Vec<(&'static str, &'static str, &'static str)> {
    let pbx = [Name::Dns(PBX)];
    site.identity("stranger", &Authority::new("another CA").issue(leaf(&pbx)));
    site.identity("expired", &ca.issue(Leaf { until: now() - 60, ..leaf(&pbx) }));
    site.identity("early", &ca.issue(Leaf { from: now() + 3600, ..leaf(&pbx) }));
    site.identity("elsewhere", &ca.issue(leaf(&[Name::Dns("elsewhere.example.net")])));
    site.identity("wildcard", &ca.issue(leaf(&[Name::Dns("*.example.net")])));
    site.identity("common", &ca.issue(Leaf { common_name: PBX, ..leaf(&[]) }));
    site.identity("sha1", &ca.issue(leaf(&pbx)).sha1());
    let deep = ca.below("one").below("two").below("three").below("four");
    site.identity("deep", &deep.issue(leaf(&pbx)));
    let revoked = ca.issue(leaf(&pbx));
    site.identity("revoked", &revoked);
    let list = ca.revoke(&[&revoked], now() + DAY);
    site.write("backends.crl", &site::pem("X509 CRL", &list), 0o644);
    vec![
        ("stranger", "unknown ca", "certificate_unknown_issuer"),
        ("expired", "certificate expired", "certificate_expired"),
        ("early", "certificate expired", "certificate_not_yet_valid"),
        ("elsewhere", "bad certificate", "name_mismatch"),
        ("wildcard", "certificate unknown", "name_wildcard"),
        ("common", "certificate unknown", "certificate_no_identity"),
        ("sha1", "certificate unknown", "certificate_algorithm"),
        ("deep", "certificate unknown", "certificate_chain_too_long"),
        ("revoked", "certificate revoked", "certificate_revoked"),
        ("", "", "alert_handshake_failure"),
    ]
}

/// One zone and pool for each backend, so that each has its own counts.
fn with_backends(site: &Site, backends: &[(String, String)]) {
    let mut text = String::from(
        "[zone.edge]\ntransports = [\"tls\"]\n[[listener]]\nname = \"edge-tls\"\nzone = \"edge\"\n\
         transport = \"tls\"\nbind = [\"127.0.0.1:5061\"]\n\
         certificates = [{ chain = \"server.pem\", key = \"server.key\" }]\n\
         [tls]\ncrl = \"backends.crl\"\n[[route]]\nfrom_zone = \"edge\"\npool = \"good-v4\"\n",
    );
    for (name, address) in backends {
        text.push_str(&format!(
            "[zone.{name}]\ntransports = [\"tls\"]\nadvertise = \"{SERVER}\"\nserver_ca = \"backends.pem\"\n\
             certificate = {{ chain = \"server.pem\", key = \"server.key\" }}\n\
             [[pool]]\nname = \"{name}\"\nzone = \"{name}\"\nbackends = [{{ name = \"b\", \
             address = \"{address}\", transport = \"tls\", server_name = \"{PBX}\" }}]\n"
        ));
    }
    site.write("ringfront.toml", &text, 0o644);
}

#[test]
fn backends_are_believed_or_refused_by_their_certificates() {
    const TEST: &str = "backends_are_believed_or_refused_by_their_certificates";
    if site::no_openssl(TEST) {
        return;
    }
    alone(TEST, || {
        let site = Site::new();
        let ca = Authority::of("backend CA", RSA);
        site.authority("backends", &ca);
        site.identity("good", &ca.issue(leaf(&[Name::Dns("PBX.example.net")])));
        let wrong = unbelievable(&site, &ca);
        let mut backends = Vec::new();
        let mut places = Vec::new();
        for (family, host) in [("v4", "127.0.0.1"), ("v6", "[::1]")] {
            for (index, (shows, ..)) in wrong.iter().chain([&("good", "", "")]).enumerate() {
                let address = format!("{host}:{}", 6001 + index);
                // The good one wants our certificate, too.
                let asks: &[&str] = match *shows {
                    "good" => &["-Verify", "3", "-verify_return_error", "-CAfile", "ca.pem"],
                    _ => &[],
                };
                backends.push(Backend::start(&site, &address, shows, asks));
                let name = if shows.is_empty() { "nothing" } else { shows };
                places.push((format!("{name}-{family}"), address));
            }
        }
        with_backends(&site, &places);
        let front_end = site.run();
        for (index, (zone, _)) in places.iter().enumerate() {
            let (_, alert, reason) =
                *wrong.get(index % (wrong.len() + 1)).unwrap_or(&("", "", "ok"));
            let sample = |result: &str| {
                let text = site.metrics();
                let line = text.lines().find(|line| {
                    line.starts_with("ringfront_handshakes_total")
                        && line.contains(&format!("zone=\"{zone}\""))
                        && line.contains(&format!("result=\"{result}\""))
                });
                line.map(ToOwned::to_owned)
            };
            eventually(zone, || sample(reason).ok_or_else(|| site.metrics() + &front_end.log()));
            let up = site.metric(&format!("ringfront_backend_up{{pool=\"{zone}\""));
            assert_eq!(up > 0, reason == "ok", "{zone}: {}", site.metrics());
            let said = backends[index].said();
            match alert {
                "" => assert!(!said.contains("alert certificate"), "{zone}: {said}"),
                // openssl tells of it when it reads on.
                alert => drop(eventually(zone, || {
                    let said = backends[index].said();
                    let told = said.contains(&format!("alert {alert}"));
                    if told { Ok(said) } else { Err(said) }
                })),
            }
            if reason != "ok" {
                assert_eq!(sample("ok"), None, "{zone}");
            }
        }
        assert!(!front_end.log().contains("panicked"), "{}", front_end.log());
    });
}

/// Two listeners of two zones with the same certificate; the first on two workers. `second` is more of zone `second`.
fn two_listeners(site: &Site, first: &str, second: &str) {
    let listener = |zone: &str, port: u16| {
        format!(
            "[[listener]]\nname = \"{zone}\"\nzone = \"{zone}\"\ntransport = \"tls\"\n\
             bind = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n\
             certificates = [{{ chain = \"server.pem\", key = \"server.key\" }}]\n\
             [[route]]\nfrom_zone = \"{zone}\"\npool = \"embedded\"\n"
        )
    };
    // A control plane that is pinned must not take its own core for all that there are.
    let core = ringfront::sys::affinity::cores()[0];
    let text = format!(
        "[node]\nwatch = false\nhousekeeping_core = {core}\n[zone.first]\ntransports = [\"tls\"]\n{first}\n\
         [zone.second]\ntransports = [\"tls\"]\n{second}\n\
         [zone.core]\ntransports = [\"tcp\"]\nadvertise = \"127.0.0.1:5060\"\n\
         allow_from = [\"127.0.0.1/32\"]\ntrusted = true\n{}{}\
         [[pool]]\nname = \"embedded\"\nzone = \"core\"\nbackends = \"embedded\"\n",
        listener("first", 5061),
        listener("second", 5062)
    );
    site.write("ringfront.toml", &text, 0o644);
}

/// Whether the client has resumed its session; it has been answered.
fn resumes(site: &Site, address: &str, arguments: &[&str]) -> bool {
    let said = site.client(address, arguments).options();
    assert!(said.contains("SIP/2.0 200 "), "{address} {arguments:?}: {said}");
    let (reused, new) = (said.contains("Reused, TLSv1."), said.contains("New, TLSv1."));
    assert!(reused != new, "{said}");
    reused
}

#[test]
fn a_session_is_resumed_at_its_own_listener_by_every_worker_and_nowhere_else() {
    const TEST: &str = "a_session_is_resumed_at_its_own_listener_by_every_worker_and_nowhere_else";
    if site::no_openssl(TEST) {
        return;
    }
    alone(TEST, || {
        let site = Site::new();
        for name in ["clients", "others"] {
            site.authority(name, &Authority::new(name));
        }
        let trust =
            |ca: &str| format!("client_certificate = \"optional\"\nclient_ca = \"{ca}.pem\"");
        two_listeners(&site, &trust("clients"), &trust("clients"));
        let front_end = site.run();
        for (version, file) in [("-tls1_3", "session13"), ("-tls1_2", "session12")] {
            assert!(!resumes(&site, "127.0.0.1:5061", &[version, "-sess_out", file]));
            let accepts = || {
                let workers = site.admin("GET /v1/workers");
                let workers = workers["workers"].as_array().expect("workers").clone();
                workers.iter().map(|worker| worker["accepts"].as_u64().unwrap()).collect::<Vec<_>>()
            };
            let (before, resumed) = (accepts(), site.metric("resumed=\"true\""));
            let mut count = 0;
            // By its own listener on either family, and by whichever worker the kernel gives it to.
            while count < 40 && (count < 8 || accepts().iter().zip(&before).any(|(a, b)| a == b)) {
                let address = ["127.0.0.1:5061", "[::1]:5061"][count as usize % 2];
                assert!(resumes(&site, address, &[version, "-sess_in", file]), "{version} {count}");
                count += 1;
            }
            assert!(accepts().iter().zip(&before).all(|(a, b)| a > b), "{:?}", accepts());
            assert_eq!(site.metric("resumed=\"true\""), resumed + count);
            // Another listener, another zone.
            assert!(!resumes(&site, "127.0.0.1:5062", &[version, "-sess_in", file]));
            // A reload that changes nothing of it.
            assert_eq!(site.ask("POST /v1/reload").0, 200);
            assert!(resumes(&site, "127.0.0.1:5061", &[version, "-sess_in", file]));
            // Another CA vouches for clients from now on; then the first one again.
            two_listeners(&site, &trust("others"), &trust("clients"));
            assert_eq!(site.ask("POST /v1/reload").0, 200);
            assert!(!resumes(&site, "127.0.0.1:5061", &[version, "-sess_in", file]));
            two_listeners(&site, &trust("clients"), &trust("clients"));
            assert_eq!(site.ask("POST /v1/reload").0, 200);
            assert!(resumes(&site, "127.0.0.1:5061", &[version, "-sess_in", file]));
            // Another policy of the same zone.
            let stricter = trust("clients") + "\nclient_names = [\"pbx.example.net\"]";
            two_listeners(&site, &stricter, &trust("clients"));
            assert_eq!(site.ask("POST /v1/reload").0, 200);
            assert!(!resumes(&site, "127.0.0.1:5061", &[version, "-sess_in", file]));
            two_listeners(&site, &trust("clients"), &trust("clients"));
            assert_eq!(site.ask("POST /v1/reload").0, 200);
        }
        assert!(!front_end.log().contains("panicked"), "{}", front_end.log());
    });
}

/// What is wrong with which file, the reason as it is told, and the beginning of the cure.
fn broken(site: &Site) -> Vec<(&'static str, String, u32, &'static str, &'static str)> {
    let read = |name: &str| std::fs::read_to_string(site.path(name)).expect("a file");
    let names = [Name::Dns(SERVER), Name::Ip("127.0.0.1"), Name::Ip("::1")];
    let ca = &site.authority;
    site.identity("other", &ca.issue(leaf(&names)));
    site.identity("expired", &ca.issue(Leaf { until: now() - 60, ..leaf(&names) }));
    site.identity("early", &ca.issue(Leaf { from: now() + 3600, ..leaf(&names) }));
    let unrelated = read("server.pem") + &site::pem("CERTIFICATE", &Authority::new("x").der());
    let not_pem = "DER is turned into PEM by";
    vec![
        ("server.pem", "rubbish\n".into(), 0o644, "holds no PEM block", not_pem),
        ("server.pem", unrelated, 0o644, "was not issued by the one after it", "order the file"),
        ("server.pem", read("expired.pem"), 0o644, "ended at", "renew the certificate"),
        ("server.pem", read("early.pem"), 0o644, "begins only at", "check the clock"),
        ("server.key", "rubbish\n".into(), 0o600, "holds no private key", "it must hold one PEM"),
        ("server.key", read("server.key"), 0o644, "has mode 0644", "run: chmod 600"),
        ("server.key", read("other.key"), 0o600, "does not belong to the", "give the key that"),
        ("clients.pem", "rubbish\n".into(), 0o644, "holds no PEM block", not_pem),
        ("clients.crl", read("ca.pem"), 0o644, "holds no PEM block", not_pem),
    ]
}

#[test]
fn broken_files_are_told_by_file_reason_and_cure_and_nothing_starts_or_changes() {
    const TEST: &str =
        "broken_files_are_told_by_file_reason_and_cure_and_nothing_starts_or_changes";
    if site::no_openssl(TEST) {
        return;
    }
    alone(TEST, || {
        let site = Site::new();
        let clients = Authority::new("client CA");
        site.authority("clients", &clients);
        let list = site::pem("X509 CRL", &clients.revoke(&[], now() + DAY));
        site.write("clients.crl", &list, 0o644);
        let wrong = broken(&site);
        let good: Vec<(String, u32)> = wrong
            .iter()
            .map(|(file, ..)| {
                let mode = if file.ends_with("key") { 0o600 } else { 0o644 };
                (std::fs::read_to_string(site.path(file)).expect("a file"), mode)
            })
            .collect();
        let zone = "client_certificate = \"optional\"\nclient_ca = \"clients.pem\"\n";
        site.configure(zone, "crl = \"clients.crl\"");
        let with_file = std::fs::read_to_string(site.path("ringfront.toml")).expect("a file");
        site.write("ringfront.toml", &format!("[node]\nwatch = false\n{with_file}"), 0o644);
        for ((file, text, mode, why, cure), (good, good_mode)) in wrong.iter().zip(&good) {
            site.write(file, text, *mode);
            let mut refused =
                FrontEnd::spawn(&site.path(""), &["run", "--config", "ringfront.toml"]);
            assert!(!refused.wait().success(), "{file}: {why}");
            assert_eq!(refused.printed(), Vec::<String>::new(), "{file}: {why}");
            // Lines are broken where the terminal ends.
            let said = flat(&refused.log());
            for part in [file, why, cure] {
                assert!(said.contains(&flat(part)), "{file}: no `{part}` in {}", refused.log());
            }
            site.write(file, good, *good_mode);
        }
        let front_end = site.run();
        for (index, ((file, text, mode, why, cure), (good, good_mode))) in
            wrong.iter().zip(&good).enumerate()
        {
            site.write(file, text, *mode);
            let (status, answer) = site.ask("POST /v1/reload");
            assert_eq!(status, 422, "{file}: {why}: {answer}");
            for part in [file, why, cure] {
                assert!(flat(&answer).contains(&flat(part)), "{file}: no `{part}` in {answer}");
                assert!(flat(&front_end.log()).contains(&flat(part)), "{}", front_end.log());
            }
            let refused = site.metric("ringfront_reloads_total{result=\"refused\"}");
            assert_eq!(refused, index as u64 + 1);
            let said = site.client("127.0.0.1:5061", &[]).options();
            assert!(said.contains("SIP/2.0 200 "), "{said}");
            site.write(file, good, *good_mode);
        }
        assert_eq!(site.ask("POST /v1/reload").0, 200);
    });
}

/// Words alone: a terminal breaks lines and draws beside them.
fn flat(text: &str) -> String {
    let plain = text.replace(['│', '╰', '─', '×', '\n'], " ");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
