//! The life of a configured process: reload, drain, latency log. The binary is the real one.

#[expect(dead_code, reason = "TLS and the metrics listener are for first_run")]
mod process;

use std::io::Write as _;
use std::path::Path;

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use process::{FrontEnd, admin, alone, dial, eventually, exchange};

/// The embedded default as a file, with `more` in place of what it says.
fn configuration(directory: &Path, replace: &[(&str, &str)]) -> String {
    let mut text = ringfront::config::DEFAULT.to_owned();
    for (from, to) in replace {
        assert!(text.contains(from), "{from} is not in the default file");
        text = text.replacen(from, to, 1);
    }
    let path = directory.join("ringfront.toml");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

const LOG: (&str, &str) = ("# log = \"latency.hlog\"", "log = \"latency.hlog\"");
const OFTEN: (&str, &str) = ("interval = \"10s\"", "interval = \"1s\"");

/// A pace and a deadline far beyond the patience of a test.
const SLOW_DRAIN: [(&str, &str); 2] =
    [("deadline = \"60s\"", "deadline = \"90m\""), ("pace = \"30s\"", "pace = \"80m\"")];

#[test]
fn a_reload_is_taken_over_whole_or_not_at_all() {
    alone("a_reload_is_taken_over_whole_or_not_at_all", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &[]);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let socket = directory.path().join("ringfront-state/admin.sock");
        let generation = || {
            let (_, _, body) = admin(&socket, "GET /v1/status");
            let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            status["config_generation"].as_u64().expect("a number")
        };
        assert_eq!(generation(), 0);
        let mut early = dial("127.0.0.1:5060");
        let uri = "sip:nobody@example.com";
        assert!(exchange(&mut early, "TCP", "OPTIONS", uri, "a").starts_with("SIP/2.0 200 "));

        // No route is left: what was forwarded is now a 404, on old connections too.
        configuration(directory.path(), &[("host = []", "host = [\"other.example\"]")]);
        front_end.signal("HUP");
        eventually("the second generation", || match generation() {
            1 => Ok(()),
            other => Err(format!("generation {other}: {}", front_end.log())),
        });
        let response = exchange(&mut early, "TCP", "OPTIONS", uri, "b");
        assert!(response.starts_with("SIP/2.0 404 "), "{response}");

        // A fault and a change that needs a restart leave everything as it is, and say so.
        std::fs::write(&file, "[node]\nnmae = \"x\"\n").expect("a file");
        let (status, head, body) = admin(&socket, "POST /v1/reload");
        assert_eq!(status, 422, "{body}");
        assert!(head.contains("application/problem+json"), "{head}");
        assert!(body.contains("nmae"), "{body}");
        configuration(directory.path(), &[("name = \"ringfront\"", "name = \"other\"")]);
        let (status, _, body) = admin(&socket, "POST /v1/reload");
        assert_eq!(status, 422, "{body}");
        assert!(body.contains("node.name changed: that needs a restart"), "{body}");
        assert_eq!(generation(), 1);

        configuration(directory.path(), &[]);
        assert_eq!(admin(&socket, "POST /v1/reload").0, 200);
        assert_eq!(generation(), 2);
        let response = exchange(&mut early, "TCP", "OPTIONS", uri, "c");
        assert!(response.starts_with("SIP/2.0 200 "), "{response}");
    });
}

#[test]
fn an_operator_takes_a_backend_out_and_in_again() {
    alone("an_operator_takes_a_backend_out_and_in_again", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &[]);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let socket = directory.path().join("ringfront-state/admin.sock");
        let backend = || {
            let (status, _, body) = admin(&socket, "GET /v1/pools");
            assert_eq!(status, 200, "{body}");
            let document: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            document["pools"][0]["backends"][0].clone()
        };
        let ask = |call: &str| {
            let mut tcp = dial("127.0.0.1:5060");
            exchange(&mut tcp, "TCP", "OPTIONS", "sip:nobody@example.com", call)
        };
        assert!(ask("a").starts_with("SIP/2.0 200 "));
        assert_eq!(
            (&backend()["order"], &backend()["workers"][0]["reason"]),
            (&"up".into(), &"connected".into())
        );
        let path = "POST /v1/pools/embedded/backends/embedded";
        assert_eq!(admin(&socket, &format!("{path}/drain")).0, 200);
        assert!(ask("b").starts_with("SIP/2.0 503 "));
        assert_eq!(backend()["workers"][0]["state"], "up");
        assert_eq!(admin(&socket, "GET /readyz").0, 503);
        assert_eq!(admin(&socket, &format!("{path}/down")).0, 200);
        eventually("no connection", || match backend()["workers"][0]["reason"].as_str() {
            Some("operator") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // An order outlives a reload.
        assert_eq!(admin(&socket, "POST /v1/reload").0, 200);
        assert_eq!(backend()["order"], "down");
        assert!(ask("c").starts_with("SIP/2.0 503 "));
        assert_eq!(admin(&socket, &format!("{path}/up")).0, 200);
        eventually("a connection", || match backend()["up"] == true {
            true => Ok(()),
            false => Err(front_end.log()),
        });
        assert!(ask("d").starts_with("SIP/2.0 200 "));
        assert_eq!(admin(&socket, "POST /v1/pools/embedded/backends/other/up").0, 404);
        assert_eq!(admin(&socket, &path.replace("POST", "GET")).0, 404);
        let log = front_end.log();
        assert!(log.contains("reason=\"operator\""), "{log}");
    });
}

#[test]
fn a_drain_refuses_new_work_and_a_signal_ends_it_at_once() {
    alone("a_drain_refuses_new_work_and_a_signal_ends_it_at_once", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &SLOW_DRAIN);
        let mut front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let socket = directory.path().join("ringfront-state/admin.sock");
        eventually("ready", || match admin(&socket, "GET /readyz") {
            (200, ..) => Ok(()),
            (_, _, body) => Err(body),
        });
        let mut held = dial("127.0.0.1:5060");
        exchange(&mut held, "TCP", "OPTIONS", "sip:127.0.0.1", "a");
        let (status, _, body) = admin(&socket, "POST /v1/drain");
        assert_eq!(status, 202, "{body}");
        let (status, _, body) = admin(&socket, "GET /readyz");
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("draining"), "{body}");
        front_end.signal("TERM");
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
        drop(held);
    });
}

#[test]
fn a_drain_ends_when_the_last_connection_has_gone() {
    alone("a_drain_ends_when_the_last_connection_has_gone", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &SLOW_DRAIN);
        let mut front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut held = dial("127.0.0.1:5060");
        exchange(&mut held, "TCP", "OPTIONS", "sip:127.0.0.1", "a");
        front_end.signal("TERM");
        eventually("draining", || match front_end.log().contains("draining: no new work") {
            true => Ok(()),
            false => Err(front_end.log()),
        });
        drop(held);
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
    });
}

#[test]
fn a_drain_ends_at_its_deadline() {
    alone("a_drain_ends_at_its_deadline", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(
            directory.path(),
            &[("deadline = \"60s\"", "deadline = \"1s\""), ("pace = \"30s\"", "pace = \"1s\"")],
        );
        let mut front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let _held = dial("127.0.0.1:5060");
        front_end.signal("TERM");
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
    });
}

#[test]
fn a_refused_message_is_told_with_the_place_of_its_fault() {
    alone("a_refused_message_is_told_with_the_place_of_its_fault", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &[("level = \"info\"", "level = \"debug\"")]);
        let front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut phone = dial("127.0.0.1:5060");
        let request = "OPTIONS sip:example.com SIP/2.0\r\n\
            Via: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKx\r\n\
            From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\n\
            Call-ID: told\r\nCSeq: one OPTIONS\r\nContent-Length: 0\r\n\r\n";
        let offset = request.find("one OPTIONS").expect("it stands there");
        phone.write_all(request.as_bytes()).expect("sent");
        eventually("the line", || {
            let log = front_end.log();
            let line = log.lines().find(|line| line.contains("refused")).ok_or(log.clone())?;
            let said = ["malformed", "cseq_bad", &format!("offset={offset}"), "127.0.0.1"];
            match said.iter().all(|word| line.contains(word)) {
                true => Ok(()),
                false => Err(line.to_owned()),
            }
        });
    });
}

#[test]
fn the_latency_log_is_an_interval_log_with_a_tag_for_each_stage() {
    alone("the_latency_log_is_an_interval_log_with_a_tag_for_each_stage", || {
        let directory = tempfile::tempdir().expect("a directory");
        let file = configuration(directory.path(), &[LOG, OFTEN]);
        let mut front_end = FrontEnd::start(directory.path(), &["run", "--config", &file]);
        let mut tcp = dial("127.0.0.1:5060");
        exchange(&mut tcp, "TCP", "OPTIONS", "sip:nobody@example.com", "a");
        let path = directory.path().join("latency.hlog");
        let old = directory.path().join("old.hlog");
        eventually("an interval", || match std::fs::read_to_string(&path) {
            Ok(text) if text.contains("Tag=proxy_response,") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // After logrotate has moved the file away, the next intervals go to a new one.
        std::fs::rename(&path, &old).expect("the log is there");
        front_end.signal("HUP");
        eventually("a new log", || path.exists().then_some(()).ok_or(front_end.log()));
        exchange(&mut tcp, "TCP", "OPTIONS", "sip:nobody@example.com", "b");
        drop(tcp);
        front_end.signal("TERM");
        assert_eq!(front_end.wait().code(), Some(0), "{}", front_end.log());
        for log in [old, path] {
            let text = std::fs::read(&log).expect("a log");
            let mut tags = Vec::new();
            for entry in IntervalLogIterator::new(&text) {
                if let LogEntry::Interval(interval) = entry.expect("a line of the format") {
                    tags.extend(interval.tag().map(|tag| tag.as_str().to_owned()));
                }
            }
            for stage in ["proxy_request", "proxy_response", "backend"] {
                assert!(
                    tags.iter().any(|tag| tag == stage),
                    "{stage} in {tags:?} of {}",
                    log.display()
                );
            }
        }
    });
}
