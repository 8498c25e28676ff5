//! Real sipp through real ringfronts: `bench/sipp/run` with fewer calls. Skipped by name where sipp is missing.

use std::io::Write;
use std::process::Command;

/// Writes down why a test did not run; `tests/run` prints it at the end.
fn skip(why: &str) {
    eprintln!("skipped: {why}");
    if let Some(path) = std::env::var_os("RINGFRONT_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.expect("the list of skipped tests"), "tests/sipp.rs: {why}")
            .expect("written");
    }
}

fn found(command: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {command}")])
        .output()
        .is_ok_and(|it| it.status.success())
}

#[test]
fn calls_of_sipp_go_through_over_tcp_and_the_tls_chain() {
    for tool in ["sipp", "openssl", "curl", "python3"] {
        if !found(tool) {
            return skip(&format!("no {tool} on this machine"));
        }
    }
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/sipp/run"))
        .env("CALLS", "150")
        .env("RATE", "50")
        .env("RINGFRONT", env!("CARGO_BIN_EXE_ringfront"))
        .output()
        .expect("the script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches(" 0 failed").count(), 9, "{text}");
}
