//! Why the process cannot start: what, where, likely cause, cure; one line each.
//! Owns the table from system errors to causes and cures. Never prints, never ends the process.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// A start-up error as the operator reads it. Each part is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFault {
    pub what: String,
    pub place: String,
    pub cause: String,
    pub cure: String,
}

impl fmt::Display for StartFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n{}", self.what, self.place, self.cause, self.cure)
    }
}

impl std::error::Error for StartFault {}

impl StartFault {
    pub fn new(
        what: impl Into<String>,
        place: impl Into<String>,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        StartFault {
            what: what.into(),
            place: place.into(),
            cause: cause.into(),
            cure: cure.into(),
        }
    }

    /// An address that cannot be listened on. `place` names the listener.
    pub fn bind(address: SocketAddr, place: impl Into<String>, error: &io::Error) -> Self {
        let what = format!("cannot listen on {address}: {}", plain(error));
        let port = address.port();
        let (cause, cure) = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => (
                format!("another process listens on port {port}"),
                format!("find it: ss -ltnp 'sport = :{port}'; stop it, or bind another port"),
            ),
            Some(libc::EACCES) => (
                "ports below 1024 need a privilege".to_owned(),
                "run: setcap cap_net_bind_service=+ep on the binary, or bind a port from 1024 on"
                    .to_owned(),
            ),
            Some(libc::EADDRNOTAVAIL) => (
                format!("no interface of this host has the address {}", address.ip()),
                "see the addresses: ip -brief address; bind one of them".to_owned(),
            ),
            Some(libc::EAFNOSUPPORT) => (
                "the kernel runs without IPv6".to_owned(),
                "take the IPv6 addresses out of the configuration, or enable IPv6".to_owned(),
            ),
            Some(libc::EMFILE) => (
                "the process may not open more descriptors".to_owned(),
                "raise the hard limit: LimitNOFILE= of the unit, or ulimit -n".to_owned(),
            ),
            _ => unusual(),
        };
        StartFault { what, place: place.into(), cause, cure }
    }

    /// Something that cannot be done to a file or directory: `deed` is "write the secret" or the like.
    pub fn file(deed: &str, path: &Path, error: &io::Error) -> Self {
        let what = format!("cannot {deed}: {}", plain(error));
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).display();
        let (cause, cure) = match error.kind() {
            io::ErrorKind::PermissionDenied => (
                "the file or its directory belongs to another user".to_owned(),
                format!(
                    "see: ls -ld {directory} {}; give it to the user that runs ringfront",
                    path.display()
                ),
            ),
            io::ErrorKind::NotFound => {
                ("its directory does not exist".to_owned(), format!("run: mkdir -p {directory}"))
            }
            io::ErrorKind::ReadOnlyFilesystem => (
                "the file system is mounted read-only".to_owned(),
                "set node.state_dir to a place that can be written".to_owned(),
            ),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ("the file system is full".to_owned(), format!("see: df -h {directory}"))
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => (
                "something of another kind is in its place".to_owned(),
                format!("see: ls -ld {directory} {}; move it away", path.display()),
            ),
            _ => unusual(),
        };
        StartFault { what, place: path.display().to_string(), cause, cure }
    }
}

fn unusual() -> (String, String) {
    (
        "the kernel refused it for a reason that is not usual here".to_owned(),
        "run: ringfront doctor, or look at the kernel log: dmesg".to_owned(),
    )
}

/// The system's own words, without Rust's `(os error 98)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_four_lines() {
        let address: SocketAddr = "127.0.0.1:5060".parse().unwrap();
        let busy = io::Error::from_raw_os_error(libc::EADDRINUSE);
        assert_eq!(
            StartFault::bind(address, "listener edge-tcp", &busy).to_string(),
            "cannot listen on 127.0.0.1:5060: Address already in use\n\
             listener edge-tcp\n\
             another process listens on port 5060\n\
             find it: ss -ltnp 'sport = :5060'; stop it, or bind another port"
        );
    }

    #[test]
    fn each_error_has_a_cause_and_a_cure_of_one_line() {
        let address: SocketAddr = "[::1]:443".parse().unwrap();
        for number in 1..134 {
            let error = io::Error::from_raw_os_error(number);
            for fault in [
                StartFault::bind(address, "listener a", &error),
                StartFault::file("write the secret", Path::new("secret"), &error),
            ] {
                assert_eq!(fault.to_string().lines().filter(|line| !line.is_empty()).count(), 4);
                assert!(!fault.what.contains("os error"), "{fault}");
            }
        }
    }
}
