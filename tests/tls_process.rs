//! The real front-end against the `openssl` command, as an operator's clients meet it: who is let in, who is refused,
//! with which alert, and what is counted and shown of it. IPv4 and IPv6.

#[path = "tls/pki.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod pki;
#[expect(dead_code, reason = "the plain clients are for the other tests")]
mod process;
#[path = "tls_process/site.rs"]
mod site;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pki::{Authority, DAY, Leaf, Name, RSA};
use process::{alone, dial_tls, eventually, exchange};
use site::{SERVER, Site, now};

const PHONE: &str = "pbx.example.net";

/// A leaf that is good now.
fn leaf(names: &[Name]) -> Leaf {
    Leaf { from: now() - DAY, until: now() + 20 * DAY, ..Leaf::named(names) }
}

/// A zone that requires a certificate of `clients.pem` with the name `PHONE`.
const MUTUAL: &str = "client_certificate = \"required\"\nclient_ca = \"clients.pem\"\n\
                      client_names = [\"pbx.example.net\"]\n";

/// Every client that must not get in: what it shows, the alert as openssl says it, and the reason as it is counted.
fn refused(site: &Site, ca: &Authority) -> Vec<(&'static str, &'static str, &'static str)> {
    let phone = [Name::Dns(PHONE)];
    let stranger = Authority::new("another CA");
    site.identity("stranger", &stranger.issue(leaf(&phone)));
    site.identity("expired", &ca.issue(Leaf { until: now() - 60, ..leaf(&phone) }));
    site.identity("early", &ca.issue(Leaf { from: now() + 3600, ..leaf(&phone) }));
    site.identity("elsewhere", &ca.issue(leaf(&[Name::Dns("elsewhere.example.net")])));
    site.identity("wildcard", &ca.issue(leaf(&[Name::Dns("*.example.net")])));
    site.identity("common", &ca.issue(Leaf { common_name: PHONE, ..leaf(&[]) }));
    site.identity("sha1", &ca.issue(leaf(&phone)).sha1());
    let deep = ca.below("one").below("two").below("three").below("four");
    site.identity("deep", &deep.issue(leaf(&phone)));
    vec![
        ("stranger", "unknown ca", "certificate_unknown_issuer"),
        ("expired", "certificate expired", "certificate_expired"),
        ("early", "certificate expired", "certificate_not_yet_valid"),
        ("elsewhere", "access denied", "name_not_allowed"),
        ("wildcard", "certificate unknown", "name_wildcard"),
        ("common", "certificate unknown", "certificate_no_identity"),
        ("sha1", "certificate unknown", "certificate_algorithm"),
        ("deep", "certificate unknown", "certificate_chain_too_long"),
        ("revoked", "certificate revoked", "certificate_revoked"),
        ("", "certificate required", "certificate_missing"),
    ]
}

#[test]
fn clients_are_let_in_or_refused_by_their_certificates() {
    const TEST: &str = "clients_are_let_in_or_refused_by_their_certificates";
    if site::no_openssl(TEST) {
        return;
    }
    alone(TEST, || {
        let site = Site::new();
        let ca = Authority::of("client CA", RSA);
        site.authority("clients", &ca);
        let revoked = ca.issue(leaf(&[Name::Dns(PHONE)]));
        site.identity("revoked", &revoked);
        site.write(
            "clients.crl",
            &site::pem("X509 CRL", &ca.revoke(&[&revoked], now() + DAY)),
            0o644,
        );
        site.identity(
            "good",
            &ca.issue(leaf(&[Name::Uri("sip:pbx.example.net"), Name::Dns("x.example")])),
        );
        let wrong = refused(&site, &ca);
        let front_end = site.start(MUTUAL, "crl = \"clients.crl\"");

        for (address, version) in [
            ("127.0.0.1:5061", "-tls1_3"),
            ("[::1]:5061", "-tls1_3"),
            ("127.0.0.1:5061", "-tls1_2"),
        ] {
            let mut client =
                site.client(address, &["-cert", "good.pem", "-key", "good.key", version]);
            let response = client.options();
            assert!(response.contains("SIP/2.0 200 "), "{response}");
            let connections = site.admin("GET /v1/connections");
            let accepted = |of: &&serde_json::Value| of["listener"] == "edge-tls";
            let found = connections["connections"].as_array().into_iter().flatten().find(accepted);
            let found = found.expect("the client");
            assert_eq!(found["identities"][0], PHONE, "{connections}");
            assert_eq!(found["zone"], "edge", "{connections}");
            let shown = if version == "-tls1_3" { "1.3" } else { "1.2" };
            assert_eq!(found["tls"]["version"], shown, "{connections}");
            assert_eq!(found["tls"]["authenticated"], true, "{connections}");
            assert_eq!(connections["identities"][0]["connections"], 1, "{connections}");
            drop(client);
            for (shows, alert, reason) in &wrong {
                let before = site.metric(&format!("result=\"{reason}\""));
                let files = [format!("{shows}.pem"), format!("{shows}.key")];
                let mut arguments = vec![version];
                if !shows.is_empty() {
                    arguments.extend(["-cert_chain", &files[0]]);
                    arguments.extend(["-cert", &files[0], "-key", &files[1]]);
                }
                let answer = site.client(address, &arguments).options();
                assert!(!answer.contains("SIP/2.0"), "{shows}: {answer}");
                assert!(
                    answer.contains(&format!("alert {alert}")),
                    "{shows}: {answer}\n{}\n{}",
                    site.metrics(),
                    front_end.log()
                );
                let counted = site.metric(&format!("result=\"{reason}\""));
                assert_eq!(counted, before + 1, "{shows} {version}");
                let alert = format!("direction=\"sent\",alert=\"{}\"", alert.replace(' ', "_"));
                assert!(site.metric(&alert) > 0, "{alert}: {}", site.metrics());
            }
        }
        assert!(!front_end.log().contains("panicked"), "{}", front_end.log());
    });
}

/// The certificate that `openssl` prints of the server.
fn shown(site: &Site) -> String {
    let mut client = site.client("127.0.0.1:5061", &[]);
    let said = client.until("-----END CERTIFICATE-----");
    let begin = said.find("-----BEGIN").unwrap_or_else(|| panic!("no certificate: {said}"));
    said[begin..].split_inclusive("-----END CERTIFICATE-----").next().expect("its end").to_owned()
}

#[test]
fn files_are_watched_and_a_broken_one_changes_nothing() {
    const TEST: &str = "files_are_watched_and_a_broken_one_changes_nothing";
    if site::no_openssl(TEST) {
        return;
    }
    alone(TEST, || {
        let site = Site::new();
        let front_end = site.start("", "");
        let first = shown(&site);
        let mut early = site.client("127.0.0.1:5061", &[]);
        assert!(early.options().contains("SIP/2.0 200 "));

        // A renewal puts both files in place; nobody sends a signal.
        let names = [Name::Dns(SERVER), Name::Ip("127.0.0.1"), Name::Ip("::1")];
        site.identity("server", &site.authority.issue(leaf(&names)));
        eventually("the new certificate", || match shown(&site) != first {
            true => Ok(()),
            false => Err(front_end.log()),
        });
        let second = shown(&site);
        assert_eq!(site.metric("ringfront_reloads_total{result=\"taken_over\"}"), 1);
        assert_eq!(site.admin("GET /v1/status")["last_reload"]["asked_by"], "files");
        // A session from before goes on.
        assert!(early.options().contains("SIP/2.0 200 "));

        let good_key = std::fs::read_to_string(site.path("server.key")).expect("a key");
        let broken: [(&str, &str, u32, &str); 3] = [
            ("server.key", "rubbish\n", 0o600, "server.key holds no private key"),
            ("server.key", &good_key, 0o644, "server.key has mode 0644"),
            ("server.pem", "rubbish\n", 0o644, "server.pem holds no PEM block"),
        ];
        for (index, (file, text, mode, why)) in broken.into_iter().enumerate() {
            let good = std::fs::read_to_string(site.path(file)).expect("a file");
            site.write(file, text, mode);
            eventually("a refusal", || {
                let count = site.metric("ringfront_reloads_total{result=\"refused\"}");
                match count > 2 * index as u64 {
                    true => Ok(()),
                    false => Err(front_end.log()),
                }
            });
            let (status, answer) = site.ask("POST /v1/reload");
            assert_eq!(status, 422, "{answer}");
            for told in [answer, front_end.log(), site.admin("GET /v1/status").to_string()] {
                assert!(told.contains(why), "{why} in {told}");
            }
            assert_eq!(shown(&site), second);
            site.write(file, &good, if file.ends_with("key") { 0o600 } else { 0o644 });
            eventually("what is good again", || {
                let state = site.admin("GET /v1/status");
                match state["last_reload"]["taken_over"] == true {
                    true => Ok(()),
                    false => Err(state.to_string()),
                }
            });
        }
        // A key that belongs to another certificate.
        site.identity("other", &site.authority.issue(leaf(&names)));
        std::fs::rename(site.path("other.key"), site.path("server.key")).expect("renamed");
        eventually("a refusal", || match front_end.log().contains("does not belong") {
            true => Ok(()),
            false => Err(front_end.log()),
        });
        assert_eq!(shown(&site), second);
        assert!(early.options().contains("SIP/2.0 200 "));
    });
}

/// Resident memory of a process, in bytes (proc_pid_status(5)).
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// RINGFRONT_RELOADS says how many; the record under `bench/record/` has ten thousand.
#[test]
fn reloads_under_load_fail_no_handshake_and_keep_no_memory() {
    alone("reloads_under_load_fail_no_handshake_and_keep_no_memory", || {
        let site = Site::new();
        let front_end = site.start("", "");
        let ca = site.path("ca.pem");
        let stop = AtomicBool::new(false);
        let handshakes = AtomicU64::new(0);
        let asked = std::env::var("RINGFRONT_RELOADS").ok().and_then(|count| count.parse().ok());
        let (warm_up, measured) = (800, asked.unwrap_or(1200));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Fails the test when the handshake or the answer does.
                    let mut tls = dial_tls("127.0.0.1:5061", &ca);
                    let call = format!("r{}", handshakes.fetch_add(1, Ordering::Relaxed));
                    let answer = exchange(&mut tls, "TLS", "OPTIONS", "sip:127.0.0.1", &call);
                    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
                }
            });
            let reload = |times: u64| {
                for _ in 0..times {
                    assert_eq!(site.ask("POST /v1/reload").0, 200);
                }
                resident(front_end.id())
            };
            // The allocator's arenas fill first.
            let before = reload(warm_up);
            let after = reload(measured);
            stop.store(true, Ordering::Relaxed);
            let handshakes = handshakes.load(Ordering::Relaxed);
            eprintln!("{measured} reloads, {handshakes} handshakes: {before}, then {after} bytes");
            // A generation that stayed would be some 20 KiB.
            assert!(after < before + (2 << 20), "{before}, then {after} bytes");
        });
        assert!(handshakes.load(Ordering::Relaxed) > 50);
        assert_eq!(site.metric("result=\"taken_over\""), warm_up + measured);
        let failed = site.metrics();
        let failed = failed.lines().filter(|line| {
            line.starts_with("ringfront_handshakes_total") && !line.contains("result=\"ok\"")
        });
        assert_eq!(failed.collect::<Vec<_>>(), Vec::<&str>::new());
    });
}

/// The part of a scanner's report that does not change from run to run.
#[test]
fn a_scanner_finds_nothing_but_what_is_meant() {
    const TEST: &str = "a_scanner_finds_nothing_but_what_is_meant";
    if Command::new("sslscan").arg("--version").output().is_err() {
        return process::skip(TEST, "the command sslscan is missing (Debian package sslscan)");
    }
    alone(TEST, || {
        let site = Site::new();
        let _front_end = site.start("", "");
        for address in ["127.0.0.1:5061", "[::1]:5061"] {
            let output = Command::new("sslscan")
                .args(["--no-colour", "--show-sigs", address])
                .output()
                .expect("sslscan ran a moment ago");
            let report = String::from_utf8_lossy(&output.stdout).into_owned();
            // What the scanner says of itself is not ours.
            let ours = ["SSLv", "TLSv", "Preferred", "Accepted", "Session reneg", "Server does"];
            let kept = |line: &&str| ours.iter().any(|begin| line.starts_with(begin));
            let kept: Vec<&str> = report.lines().filter(kept).collect();
            insta::assert_snapshot!("sslscan", kept.join("\n"));
        }
    });
}
