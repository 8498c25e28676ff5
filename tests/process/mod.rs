//! The real binary in a directory of its own, and clients that speak to it as strangers would.
//! Owns the child process. Never shares ports with another test: each test has a network namespace to itself where the
//! host allows it, and takes its turn where it does not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Set in the copy of the test binary that has a network namespace to itself.
const ALONE: &str = "RINGFRONT_TEST_ALONE";

/// How long anything here may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `body` where nobody else has the ports: in a copy of this test binary within a network namespace, or, where
/// namespaces are not allowed, here and under a lock. `test` is the test's own name.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let own = std::env::current_exe().expect("the path of the test binary");
    for unshare in [&["--net"][..], &["--user", "--map-root-user", "--net"]] {
        let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
        let mut command = Command::new("unshare");
        command.args(unshare).args(["sh", "-c", script]).arg(&own).arg(test);
        if Command::new("unshare")
            .args(unshare)
            .args(["ip", "link", "set", "lo", "up"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            let status = command.env(ALONE, "1").status().expect("unshare ran a moment ago");
            assert!(status.success(), "{test} failed in its network namespace");
            return;
        }
    }
    let lock =
        File::create(std::env::temp_dir().join("ringfront-ports.lock")).expect("a lock file");
    lock.lock().expect("a turn");
    body();
}

/// Names a test that cannot run here, and why, for the list that `tests/run` prints.
pub fn skip(test: &str, why: &str) {
    eprintln!("{test}: skipped, {why}");
    if let Some(path) = std::env::var_os("RINGFRONT_SKIPS") {
        let mut list = File::options().append(true).create(true).open(path).expect("the list");
        writeln!(list, "{test}: {why}").expect("written");
    }
}

/// Whether this process has its network namespace to itself.
pub fn has_own_network() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// A running front-end.
pub struct FrontEnd {
    child: Child,
    directory: PathBuf,
    lines: Receiver<String>,
}

impl FrontEnd {
    /// Starts the binary in `directory` and waits until it says that it is ready.
    pub fn start(directory: &Path, arguments: &[&str]) -> FrontEnd {
        let mut front_end = FrontEnd::spawn(directory, arguments);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match front_end.lines.recv_timeout(left) {
                Ok(line) if line.starts_with("ringfront is ready") => return front_end,
                Ok(_) => {}
                Err(_) => {
                    let _ = front_end.child.kill();
                    let _ = front_end.child.wait();
                    panic!("it never became ready: {}", front_end.log());
                }
            }
        }
    }

    /// Starts the binary and waits for nothing.
    pub fn spawn(directory: &Path, arguments: &[&str]) -> FrontEnd {
        let log = File::create(directory.join("stderr")).expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringfront"))
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        FrontEnd { child, directory: directory.to_owned(), lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    /// Sends a signal by its name, by the command that an operator would use.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for the end; a process that does not end is a failure.
    pub fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The lines printed to stdout that nobody has read.
    pub fn printed(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until `answer` says what is wanted.
pub fn eventually<T>(what: &str, mut answer: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match answer() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < until, "{what}: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A byte stream to the front-end.
pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub fn dial(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an address");
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// A TLS client that trusts the CA in `ca` and nothing else, and checks the address as a name.
pub fn dial_tls(address: &str, ca: &Path) -> impl Stream + use<> {
    let ip = address.parse::<SocketAddr>().expect("an address").ip();
    tls_over(dial(address), ip, ca)
}

/// A TLS client over what is connected already.
pub fn tls_over(stream: TcpStream, server: IpAddr, ca: &Path) -> impl Stream + use<> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("a PEM file") {
        roots.add(certificate.expect("a certificate")).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection =
        ClientConnection::new(Arc::new(config), ServerName::from(server)).expect("a client");
    StreamOwned::new(connection, stream)
}

/// Sends a request of this method to `uri` and returns the response's head. `via` is `TCP` or `TLS`.
pub fn exchange(
    stream: &mut impl Stream,
    via: &str,
    method: &str,
    uri: &str,
    call: &str,
) -> String {
    let contact = match method {
        "REGISTER" => "Contact: <sip:alice@192.0.2.1:5060;transport=tcp>\r\n",
        _ => "",
    };
    let request = format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/{via} 192.0.2.1:5060;branch=z9hG4bK{call};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@example.com>;tag=a{call}\r\n\
         To: <sip:alice@example.com>\r\n\
         Call-ID: {call}\r\n\
         CSeq: 1 {method}\r\n\
         {contact}Content-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("written");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut byte).expect("a response");
        assert_ne!(count, 0, "closed after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// An HTTP exchange on `stream`: status, head and body.
pub fn http(mut stream: impl Stream, request: &str, headers: &str) -> (u16, String, String) {
    let text = format!("{request} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).expect("written");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), head.to_owned(), body.to_owned())
}

/// The same to the metrics listener of the embedded default.
pub fn metrics(request: &str) -> (u16, String, String) {
    http(dial("127.0.0.1:9060"), request, "Host: 127.0.0.1:9060\r\n")
}

/// The same to the admin socket.
pub fn admin(socket: &Path, request: &str) -> (u16, String, String) {
    let stream = UnixStream::connect(socket).expect("the admin socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    http(stream, request, "Host: ringfront\r\n")
}

/// Sockets of the whole network namespace that are no TCP and no UNIX sockets.
pub fn datagram_sockets() -> Vec<String> {
    let mut found = Vec::new();
    for table in ["udp", "udp6", "udplite", "udplite6", "raw", "raw6", "packet", "icmp", "icmp6"] {
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        found.extend(text.lines().skip(1).map(|line| format!("{table}: {line}")));
    }
    found
}
