//! Why the process cannot start, as far as files and the control plane's own listeners go: what, where, likely cause,
//! cure; one line each. Owns the table from errors of files to causes and cures. Never prints, never ends the process.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::sys::StartUpFault;
use crate::sys::probe::text;
use crate::sys::socket;

/// A start-up fault of four lines.
pub fn start_up(
    what: impl Into<String>,
    place: impl Into<String>,
    cause: impl Into<String>,
    cure: impl Into<String>,
) -> StartUpFault {
    StartUpFault { what: what.into(), place: place.into(), cause: cause.into(), cure: cure.into() }
}

/// An address that `key` of the configuration names and that cannot be listened on.
pub fn listen(key: &str, address: SocketAddr, error: &io::Error) -> StartUpFault {
    StartUpFault { place: format!("{key} {address}"), ..socket::explain(address, error) }
}

/// Something that cannot be done to a file or directory: `deed` is "write the secret" or the like.
pub fn file(deed: &str, path: &Path, error: &io::Error) -> StartUpFault {
    let what = format!("cannot {deed}: {}", text(error));
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
    StartUpFault { what, place: path.display().to_string(), cause, cure }
}

fn unusual() -> (String, String) {
    (
        "the kernel refused it for a reason that is not usual here".to_owned(),
        "run: ringfront doctor, or look at the kernel log: dmesg".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_four_lines() {
        let address: SocketAddr = "127.0.0.1:5060".parse().unwrap();
        let busy = io::Error::from_raw_os_error(libc::EADDRINUSE);
        assert_eq!(
            listen("admin.metrics_listen", address, &busy).to_string(),
            "cannot listen: Address already in use\n\
             admin.metrics_listen 127.0.0.1:5060\n\
             another process listens on port 5060\n\
             find it with: ss -ltnp 'sport = :5060'; stop it, or change bind"
        );
    }

    #[test]
    fn each_error_has_a_cause_and_a_cure_of_one_line() {
        let address: SocketAddr = "[::1]:443".parse().unwrap();
        for number in 1..134 {
            let error = io::Error::from_raw_os_error(number);
            for fault in [
                listen("admin.listen", address, &error),
                file("write the secret", Path::new("secret"), &error),
            ] {
                assert_eq!(fault.to_string().lines().filter(|line| !line.is_empty()).count(), 4);
                assert!(!fault.what.contains("os error"), "{fault}");
            }
        }
    }
}
