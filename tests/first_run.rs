//! The README's first command: `ringfront` in an empty directory, without a configuration, as a stranger would meet it.

mod process;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use process::{FrontEnd, admin, alone, dial, dial_tls, exchange, http, metrics};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// 3261-18.2.1-b, 3261-26-a
#[test]
fn ringfront_alone_answers_over_tcp_and_tls_in_both_families() {
    alone("ringfront_alone_answers_over_tcp_and_tls_in_both_families", || {
        let directory = tempfile::tempdir().expect("a directory");
        let mut front_end = FrontEnd::start(directory.path(), &[]);
        let state = directory.path().join("ringfront-state");
        let ca = state.join("ringfront-ca.pem");
        for (index, host) in ["127.0.0.1", "[::1]"].into_iter().enumerate() {
            let uri = format!("sip:{host}");
            let response = exchange(
                &mut dial(&format!("{host}:5060")),
                "TCP",
                "OPTIONS",
                &uri,
                &format!("t{index}"),
            );
            assert!(response.starts_with("SIP/2.0 200 "), "{response}");
            let mut tls = dial_tls(&format!("{host}:5061"), &ca);
            let response = exchange(&mut tls, "TLS", "OPTIONS", &uri, &format!("s{index}"));
            assert!(response.starts_with("SIP/2.0 200 "), "{response}");
        }
        // Through the proxy to the embedded backend and back, by both transports.
        let mut tcp = dial("127.0.0.1:5060");
        let mut tls = dial_tls("127.0.0.1:5061", &ca);
        let register = exchange(&mut tcp, "TCP", "REGISTER", "sip:example.com", "r1");
        assert!(register.starts_with("SIP/2.0 200 "), "{register}");
        let options = exchange(&mut tls, "TLS", "OPTIONS", "sip:nobody@example.com", "o1");
        assert!(options.starts_with("SIP/2.0 200 "), "{options}");

        if process::has_own_network() {
            assert_eq!(process::datagram_sockets(), Vec::<String>::new());
        }
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("secret")), 0o600);
        assert_eq!(mode(&state.join("admin.sock")), 0o600);
        assert!(front_end.printed().iter().any(|line| line.contains("openssl s_client")));

        front_end.signal("TERM");
        drop((tcp, tls));
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
        let log = front_end.log();
        for stage in ["latency, us", "handshake ", "proxy_request ", "proxy_response ", "backend "]
        {
            assert!(log.contains(stage), "{stage} in {log}");
        }
        assert!(!state.join("admin.sock").exists());
    });
}

#[test]
fn the_admin_interface_of_the_first_run_answers() {
    alone("the_admin_interface_of_the_first_run_answers", || {
        let directory = tempfile::tempdir().expect("a directory");
        let mut front_end = FrontEnd::start(directory.path(), &["run"]);
        let socket = directory.path().join("ringfront-state/admin.sock");
        let mut tcp = dial("127.0.0.1:5060");
        let options = exchange(&mut tcp, "TCP", "OPTIONS", "sip:nobody@example.com", "o1");
        assert!(options.starts_with("SIP/2.0 200 "), "{options}");

        process::eventually("ready", || match metrics("GET /readyz") {
            (200, ..) => Ok(()),
            (_, _, body) => Err(body),
        });
        for path in
            ["/healthz", "/", "/v1/openapi.json", "/v1/status", "/v1/workers", "/v1/latency"]
        {
            let (status, head, _) = metrics(&format!("GET {path}"));
            assert_eq!(status, 200, "{path}: {head}");
        }
        let (_, _, status) = metrics("GET /v1/status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["state"], "running");
        assert_eq!(status["connections"], 1);
        assert_eq!(status["backends"][0]["up"], true);
        assert_eq!(status["pid"], front_end.id());

        let (_, head, text) = metrics("GET /metrics");
        assert!(head.contains("application/openmetrics-text"), "{head}");
        assert!(text.ends_with("# EOF\n"));
        for line in [
            "ringfront_messages_received_total{zone=\"edge\",kind=\"request\",method=\"OPTIONS\"} 1",
            "ringfront_messages_forwarded_total{zone=\"core\",kind=\"request\"} 1",
            "ringfront_backend_requests_total{pool=\"embedded\",backend=\"embedded\",outcome=\"sent\"} 1",
            "ringfront_backend_up{pool=\"embedded\",backend=\"embedded\"} 1",
            "ringfront_stage_latency_seconds_count{stage=\"proxy_request\"} 1",
        ] {
            assert!(text.lines().any(|of_text| of_text == line), "{line} in\n{text}");
        }
        let (_, _, latency) = metrics("GET /v1/latency");
        let latency: serde_json::Value = serde_json::from_str(&latency).expect("JSON");
        assert_eq!(latency["stages"]["backend"]["count"], 1);
        let (_, _, text) = metrics("GET /v1/latency/proxy_request.hgrm");
        assert!(text.contains("Total count    =            1]"), "{text}");

        assert_eq!(metrics("POST /v1/drain").0, 404, "the metrics listener only shows");
        assert_eq!(metrics("GET /v1/config").0, 404);
        let elsewhere = http(dial("127.0.0.1:9060"), "GET /v1/status", "Host: evil.example\r\n");
        assert_eq!(elsewhere.0, 421);
        let (status, _, config) = admin(&socket, "GET /v1/config");
        assert_eq!(status, 200);
        let secret =
            std::fs::read(directory.path().join("ringfront-state/secret")).expect("a secret");
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!config.contains(&secret) && config.contains("\"edge-tls\""), "{config}");
        assert_eq!(admin(&socket, "GET /v1/drain").0, 405);

        drop(tcp);
        front_end.signal("INT");
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
    });
}

#[test]
fn a_second_front_end_says_in_four_lines_why_it_cannot_start() {
    alone("a_second_front_end_says_in_four_lines_why_it_cannot_start", || {
        let directory = tempfile::tempdir().expect("a directory");
        let first = FrontEnd::start(directory.path(), &[]);
        let elsewhere = tempfile::tempdir().expect("a directory");
        let mut second = FrontEnd::spawn(elsewhere.path(), &[]);
        assert_eq!(second.wait().code(), Some(1));
        let log = second.log();
        let fault: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!(fault.len(), 4, "{log}");
        assert_eq!(fault[0], "cannot listen: Address already in use");
        assert_eq!(fault[1], "listener edge-tls, 127.0.0.1:5061");
        assert!(fault[3].contains("ss -ltnp"), "{log}");

        let stderr = std::fs::read(directory.path().join("stderr")).expect("a log");
        let mut third = FrontEnd::spawn(directory.path(), &[]);
        assert_eq!(third.wait().code(), Some(1));
        assert!(third.log().starts_with("the state directory is in use\n"), "{}", third.log());
        assert!(!stderr.is_empty());
        drop(first);
    });
}

/// Puts a seccomp filter on itself that answers `errno` to io_uring_setup (425), then becomes the program given.
const WITHOUT_IO_URING: &str = "
import ctypes, os, struct, sys
answer = 0x00050000 | int(sys.argv[1])
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, answer), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
program = Program(4, ctypes.addressof(code))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(program)) == 0
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn a_host_without_io_uring_is_told_in_four_lines() {
    let test = "a_host_without_io_uring_is_told_in_four_lines";
    if !std::process::Command::new("python3")
        .arg("-c")
        .arg("")
        .status()
        .is_ok_and(|ran| ran.success())
    {
        return process::skip(test, "python3 is not installed");
    }
    alone(test, || {
        for (errno, first) in [
            (libc::EPERM, "cannot create an io_uring: Operation not permitted"),
            (libc::ENOSYS, "cannot create an io_uring: Function not implemented"),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let output = std::process::Command::new("python3")
                .args(["-c", WITHOUT_IO_URING, &errno.to_string()])
                .arg(env!("CARGO_BIN_EXE_ringfront"))
                .current_dir(directory.path())
                .output()
                .expect("python3 ran a moment ago");
            let text = String::from_utf8(output.stderr).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(
                (output.status.code(), lines.len(), lines[0]),
                (Some(1), 4, first),
                "{text}"
            );
            assert!(lines[3].contains("seccomp"), "{text}");
            assert!(!directory.path().join("ringfront-state").exists(), "nothing was started");
        }
    });
}
