//! A directory with certificates and a configuration, the front-end that runs on it, and `openssl s_client` before it.
#![expect(clippy::disallowed_methods, reason = "certificates are judged by the wall clock")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use crate::pki::{Authority, DAY, Issued, Leaf, Name};
use crate::process::{self, FrontEnd, PATIENCE};

/// The name in the server's own certificate.
pub const SERVER: &str = "sip.example.com";

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

/// True, and named in the list of skipped tests, where the command is missing.
pub fn no_openssl(test: &str) -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        process::skip(test, "the command openssl is missing (Debian package openssl)");
    }
    missing
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub struct Site {
    directory: tempfile::TempDir,
    pub authority: Authority,
}

impl Site {
    /// With `ca.pem`, and `server.pem` and `server.key` for `SERVER` and the loopback addresses.
    pub fn new() -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new("server CA");
        let site = Site { directory, authority };
        site.authority("ca", &site.authority);
        let names = [Name::Dns(SERVER), Name::Ip("127.0.0.1"), Name::Ip("::1")];
        site.identity("server", &site.authority.issue(leaf(&names)));
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// `name`.pem.
    pub fn authority(&self, name: &str, authority: &Authority) {
        self.write(&format!("{name}.pem"), &pem("CERTIFICATE", &authority.der()), 0o644);
    }

    /// `name`.pem with the chain and `name`.key.
    pub fn identity(&self, name: &str, issued: &Issued) {
        let chain: String = issued.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        self.write(&format!("{name}.pem"), &chain, 0o644);
        self.write(&format!("{name}.key"), &pem("PRIVATE KEY", &issued.key), 0o600);
    }

    /// Writes `ringfront.toml`: the embedded backend behind one TLS listener with the server's certificate; `zone` and
    /// `tls` are more keys of these tables.
    pub fn configure(&self, zone: &str, tls: &str) {
        self.configure_with("[{ chain = \"server.pem\", key = \"server.key\" }]", zone, tls);
    }

    pub fn configure_with(&self, certificates: &str, zone: &str, tls: &str) {
        let text = format!(
            "[zone.edge]\ntransports = [\"tls\"]\n{zone}\n\
             [zone.core]\ntransports = [\"tcp\"]\nadvertise = \"127.0.0.1:5060\"\n\
             allow_from = [\"127.0.0.1/32\"]\ntrusted = true\n\
             [[listener]]\nname = \"edge-tls\"\nzone = \"edge\"\ntransport = \"tls\"\n\
             bind = [\"127.0.0.1:5061\", \"[::1]:5061\"]\ncertificates = {certificates}\n\
             [tls]\n{tls}\n\
             [[pool]]\nname = \"embedded\"\nzone = \"core\"\nbackends = \"embedded\"\n\
             [[route]]\nfrom_zone = \"edge\"\npool = \"embedded\"\n\
             [limits]\nconnections_per_prefix = 20000\nrequests_per_prefix = \"200000/s\"\n\
             handshakes_per_prefix = 512\nhandshake_rate_per_prefix = \"20000/s\"\n"
        );
        self.write("ringfront.toml", &text, 0o644);
    }

    pub fn start(&self, zone: &str, tls: &str) -> FrontEnd {
        self.configure(zone, tls);
        self.run()
    }

    /// Starts the front-end on what is configured.
    pub fn run(&self) -> FrontEnd {
        FrontEnd::start(self.directory.path(), &["run", "--config", "ringfront.toml"])
    }

    pub fn ask(&self, request: &str) -> (u16, String) {
        let socket = self.path("ringfront-state/admin.sock");
        let (status, _, body) = process::admin(&socket, request);
        (status, body)
    }

    pub fn admin(&self, request: &str) -> serde_json::Value {
        let (status, body) = self.ask(request);
        assert_eq!(status, 200, "{request}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    pub fn metrics(&self) -> String {
        let (status, body) = self.ask("GET /metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The sum of all samples whose line holds `part`.
    pub fn metric(&self, part: &str) -> u64 {
        let text = self.metrics();
        let lines = text.lines().filter(|line| line.contains(part) && !line.starts_with('#'));
        let values = lines.filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number") as u64).sum()
    }

    /// `openssl s_client` that asks for `SERVER` and believes in `ca.pem` alone.
    pub fn client(&self, address: &str, arguments: &[&str]) -> Client {
        let mut child = Command::new("openssl")
            .current_dir(self.directory.path())
            .args(["s_client", "-connect", address, "-servername", SERVER, "-alpn", "sip/2"])
            .args(["-CAfile", "ca.pem", "-verify_return_error", "-verify_hostname", SERVER])
            // openssl itself would not send a SHA-1 certificate at its usual level.
            .args(["-cipher", "DEFAULT@SECLEVEL=0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        let (sender, said) = channel();
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("a pipe"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("a pipe"));
        for mut pipe in [stdout, stderr] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                    let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
                }
            });
        }
        let stdin = child.stdin.take();
        Client { child, stdin, said, text: String::new() }
    }
}

/// One that is good now.
fn leaf(names: &[Name]) -> Leaf {
    Leaf { from: now() - DAY, until: now() + 90 * DAY, ..Leaf::named(names) }
}

/// A running `openssl s_client`.
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<String>,
    text: String,
}

impl Client {
    /// Everything that it has said, once that holds `part` or it has ended.
    pub fn until(&mut self, part: &str) -> String {
        let until = std::time::Instant::now() + PATIENCE;
        while !self.text.contains(part) {
            match self.said.recv_timeout(Duration::from_millis(100)) {
                Ok(more) => self.text.push_str(&more),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => assert!(std::time::Instant::now() < until, "{}", self.text),
            }
        }
        self.text.clone()
    }

    /// Sends an OPTIONS to the front-end itself; what was said until its answer or the end.
    pub fn options(&mut self) -> String {
        let request = format!(
            "OPTIONS sip:{SERVER} SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.1:5061;branch=z9hG4bKo;rport\r\n\
             Max-Forwards: 0\r\nFrom: <sip:a@example.com>;tag=a\r\nTo: <sip:a@example.com>\r\n\
             Call-ID: o{}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
            self.child.id()
        );
        // One that is refused may have gone already.
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(request.as_bytes());
        }
        self.until("SIP/2.0 ")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
