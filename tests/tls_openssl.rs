//! Both ends of `tls::session` against the `openssl` command, over loopback.
#![expect(clippy::disallowed_methods, reason = "another process is waited for")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use ringfront::config::snapshot::ClientCertificate as Mode;
use ringfront::tls::{FaultKind, ServerSide, Session};

#[path = "tls/pki.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod pki;
#[path = "tls/wire.rs"]
#[expect(dead_code, reason = "shared with tests/tls.rs, which uses all of it")]
mod wire;

use pki::{Authority, Issued, Leaf, NOW, SERVER, Setup};
use wire::End;

/// True, with a word about it, where the command is missing.
fn no_openssl(test: &str) -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        eprintln!("skipped {test}: the command openssl is missing (Debian package openssl)");
    }
    missing
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

/// `name`.pem with the chain and `name`.key.
fn write(folder: &Path, name: &str, issued: &Issued) {
    let chain: String = issued.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    fs::write(folder.join(format!("{name}.pem")), chain).unwrap();
    fs::write(folder.join(format!("{name}.key")), pem("PRIVATE KEY", &issued.key)).unwrap();
}

/// Carries bytes between a socket and a session until one of them ends; `answer` looks at what was opened so far.
fn carry(mut socket: TcpStream, mut end: End, mut answer: impl FnMut(&mut End)) -> End {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let _ = socket.write_all(&std::mem::take(&mut end.outbox));
        if end.fault.is_some() || end.peer_closed {
            return end;
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return end,
            Ok(length) => {
                let _ = end.receive(&buffer[..length]);
            }
        }
        if end.session.established() && end.fault.is_none() {
            answer(&mut end);
        }
    }
}

/// One connection of a server that gives back what it gets, in capitals.
fn serve(side: ServerSide) -> (SocketAddr, JoinHandle<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut answered = 0;
        carry(socket, End::server(&side), move |end| {
            let new = end.plain[answered..].to_ascii_uppercase();
            answered = end.plain.len();
            if !new.is_empty() {
                end.seal(&new);
            }
            if new.ends_with(b"BYE\n") {
                end.close();
            }
        })
    });
    (address, thread)
}

fn s_client(folder: &Path, address: SocketAddr, arguments: &[&str], input: &str) -> String {
    let time = NOW.to_string();
    let mut child = Command::new("openssl")
        .current_dir(folder)
        .args(["s_client", "-connect", &address.to_string(), "-servername", SERVER])
        .args(["-CAfile", "ca.pem", "-attime", &time, "-verify_return_error"])
        .args(["-verify_hostname", SERVER])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for (index, line) in input.split_inclusive('\n').enumerate() {
        // A line that is a command must come in a read of its own.
        if index > 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        stdin.write_all(line.as_bytes()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

fn folder(setup: &Setup) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca.pem"), pem("CERTIFICATE", &setup.authority.der())).unwrap();
    folder
}

#[test]
fn s_client_is_served_verified_and_closed_in_order() {
    if no_openssl("s_client_is_served_verified_and_closed_in_order") {
        return;
    }
    let setup = Setup::new();
    let folder = folder(&setup);
    for (version, cipher) in [
        ("-tls1_3", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let suites = if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" };
        let (address, server) = serve(setup.server());
        let arguments = [version, suites, cipher, "-alpn", "sip/2", "-ign_eof"];
        let said = s_client(folder.path(), address, &arguments, "options\nbye\n");
        let server = server.join().unwrap();
        assert_eq!(server.fault, None);
        assert!(said.contains("OPTIONS\nBYE"), "{said}");
        assert!(said.contains("Verification: OK"), "{said}");
        assert!(said.contains("ALPN protocol: sip/2"), "{said}");
        assert!(said.contains(cipher), "{said}");
        // Our close_notify was understood: openssl says `closed`, not an error about a truncated stream.
        assert!(said.contains("closed") && !said.contains("unexpected eof"), "{said}");
        let summary = server.session.summary().unwrap();
        assert!(summary.alpn && summary.sni && !summary.resumed);
    }
}

#[test]
fn s_client_resumes() {
    if no_openssl("s_client_resumes") {
        return;
    }
    let setup = Setup::new();
    let folder = folder(&setup);
    for version in ["-tls1_3", "-tls1_2"] {
        let (address, server) = serve(setup.server());
        let arguments = [version, "-sess_out", "session.pem", "-ign_eof"];
        let said = s_client(folder.path(), address, &arguments, "bye\n");
        assert!(said.contains("New, TLS"), "{said}");
        assert!(!server.join().unwrap().session.summary().unwrap().resumed);
        let (address, server) = serve(setup.server());
        let arguments = [version, "-sess_in", "session.pem", "-ign_eof"];
        let said = s_client(folder.path(), address, &arguments, "bye\n");
        assert!(said.contains("Reused, TLS"), "{said}");
        assert!(server.join().unwrap().session.summary().unwrap().resumed);
    }
}

#[test]
fn s_client_updates_keys() {
    if no_openssl("s_client_updates_keys") {
        return;
    }
    let setup = Setup::new();
    let folder = folder(&setup);
    let (address, server) = serve(setup.server());
    // `K` alone on a line: new keys in both directions.
    let said = s_client(folder.path(), address, &["-tls1_3"], "one\nK\ntwo\nK\nbye\n");
    let server = server.join().unwrap();
    assert_eq!(server.fault, None, "{said}");
    assert_eq!(server.plain, b"one\ntwo\nbye\n", "{said}");
}

#[test]
fn s_client_shows_a_certificate_or_is_told_why_not() {
    if no_openssl("s_client_shows_a_certificate_or_is_told_why_not") {
        return;
    }
    let ca = Authority::new("client CA");
    let mut setup = Setup::new();
    setup.ask(Mode::Required, &ca);
    let folder = folder(&setup);
    write(folder.path(), "good", &ca.issue(Leaf::dns("pbx.example.net")));
    write(folder.path(), "other", &Authority::new("other").issue(Leaf::dns("pbx.example.net")));
    for version in ["-tls1_3", "-tls1_2"] {
        let shows = |arguments: &[&str]| {
            let (address, server) = serve(setup.server());
            let arguments = [&[version, "-ign_eof"], arguments].concat();
            let said = s_client(folder.path(), address, &arguments, "bye\n");
            (said, server.join().unwrap())
        };
        let (said, server) = shows(&["-cert", "good.pem", "-key", "good.key"]);
        assert!(said.contains("BYE"), "{said}");
        assert!(server.session.peer().unwrap().is("pbx.example.net"));
        let (said, server) = shows(&["-cert", "other.pem", "-key", "other.key"]);
        assert_eq!(server.fault.unwrap().kind, FaultKind::CertificateUnknownIssuer);
        assert!(said.contains("alert unknown ca"), "{said}");
        let (said, server) = shows(&[]);
        assert_eq!(server.fault.unwrap().kind, FaultKind::CertificateMissing);
        assert!(
            said.contains("alert certificate required") || said.contains("number 116"),
            "{said}"
        );
    }
}

#[test]
fn s_client_of_another_protocol_or_version_is_told() {
    if no_openssl("s_client_of_another_protocol_or_version_is_told") {
        return;
    }
    let mut setup = Setup::new();
    setup.tls.require_alpn = true;
    setup.versions(false, true);
    let folder = folder(&setup);
    let fault = |arguments: &[&str], alert: &str| {
        let (address, server) = serve(setup.server());
        let said = s_client(folder.path(), address, arguments, "");
        assert!(said.contains(alert), "{said}");
        server.join().unwrap().fault.unwrap().kind
    };
    let none = "alert no application protocol";
    assert_eq!(fault(&[], none), FaultKind::NoApplicationProtocol);
    assert_eq!(fault(&["-alpn", "h2"], none), FaultKind::NoApplicationProtocol);
    let version = "alert protocol version";
    let old = ["-tls1_2", "-alpn", "sip/2"];
    assert_eq!(fault(&old, version), FaultKind::NoSharedVersion);
}

/// `openssl s_server`, which sends each line back turned round.
fn s_server(folder: &Path, arguments: &[&str]) -> (SocketAddr, Child) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let child = Command::new("openssl")
        .current_dir(folder)
        .args(["s_server", "-accept", &address.to_string(), "-rev", "-alpn", "sip/2"])
        .args(["-cert", "server.pem", "-key", "server.key"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (address, child)
}

fn dial(address: SocketAddr) -> TcpStream {
    for _ in 0..200 {
        if let Ok(socket) = TcpStream::connect(address) {
            return socket;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("openssl s_server does not listen on {address}");
}

#[test]
fn s_server_is_dialled_verified_and_resumed() {
    if no_openssl("s_server_is_dialled_verified_and_resumed") {
        return;
    }
    let setup = Setup::new();
    let folder = folder(&setup);
    write(folder.path(), "server", &setup.authority.issue(Leaf::dns(SERVER)));
    for version in ["-tls1_3", "-tls1_2"] {
        let (address, mut child) = s_server(folder.path(), &[version]);
        let side = setup.client();
        for round in 0..2 {
            let mut said = false;
            let end = carry(dial(address), End::client(&side), |end| {
                if !std::mem::replace(&mut said, true) {
                    end.seal(b"options\n");
                }
                if end.plain.ends_with(b"\n") {
                    end.close();
                    // The socket is read until the peer has closed too; ours is the last word.
                    end.peer_closed = true;
                }
            });
            assert_eq!(end.fault, None);
            assert_eq!(end.plain, b"snoitpo\n");
            let summary = end.session.summary().unwrap();
            assert!(summary.alpn && summary.resumed == (round == 1), "{summary:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn s_server_with_the_wrong_name_is_left() {
    if no_openssl("s_server_with_the_wrong_name_is_left") {
        return;
    }
    let setup = Setup::new();
    let folder = folder(&setup);
    write(folder.path(), "server", &setup.authority.issue(Leaf::dns("other.example.com")));
    let (address, mut child) = s_server(folder.path(), &[]);
    let session = Session::client(&setup.client()).unwrap();
    let mut end = End::new(session);
    end.receive(&[]).unwrap();
    let end = carry(dial(address), end, |_| panic!("established"));
    assert_eq!(end.fault.unwrap().kind, FaultKind::NameMismatch);
    child.kill().unwrap();
    child.wait().unwrap();
}
