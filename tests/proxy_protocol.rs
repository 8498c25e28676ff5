//! The PROXY protocol before the real front-end: whom it names is the peer everywhere, and nobody else comes in.

#[expect(dead_code, reason = "shared with the other tests of the process")]
mod process;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use process::{FrontEnd, admin, alone, dial, eventually, exchange, tls_over};

/// TLS on 5061 and TCP on 5060, both behind a proxy at 127.0.0.1 or ::1; 5070 behind one that is never there.
const CONFIGURATION: &str = r#"
[zone.edge]
transports = ["tls", "tcp"]
allow_from = ["192.0.2.0/24", "2001:db8::/32", "127.0.0.1/32", "::1/128"]

[zone.core]
transports = ["tcp"]
advertise = "127.0.0.1:5060"
allow_from = ["127.0.0.1/32"]
trusted = true

[[listener]]
name = "edge-tls"
zone = "edge"
transport = "tls"
bind = ["127.0.0.1:5061", "[::1]:5061"]
proxy_protocol = "required"
proxy_protocol_from = ["127.0.0.1/32", "::1/128"]

[[listener]]
name = "edge-tcp"
zone = "edge"
transport = "tcp"
bind = ["127.0.0.1:5060", "[::1]:5060"]
proxy_protocol = "required"
proxy_protocol_from = ["127.0.0.1/32", "::1/128"]

[[listener]]
name = "unlisted"
zone = "edge"
transport = "tcp"
bind = "127.0.0.1:5070"
proxy_protocol = "required"
proxy_protocol_from = ["10.0.0.0/8"]

[[pool]]
name = "embedded"
zone = "core"
backends = "embedded"

[[route]]
from_zone = "edge"
pool = "embedded"

[limits]
connections_per_prefix = 3
"#;

const URI: &str = "sip:nobody@example.com";

/// Version 2 for 192.0.2.9:41000, with a TLV behind the addresses.
fn version2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12".to_vec();
    header.extend([192, 0, 2, 9, 203, 0, 113, 1, 0xA0, 0x28, 0x13, 0xC5]);
    header.extend([0x04, 0, 3, 1, 2, 3]);
    header
}

fn closed(directory: &Path, cause: &str) -> u64 {
    let (_, _, text) = admin(&directory.join("ringfront-state/admin.sock"), "GET /metrics");
    let line = format!("ringfront_connections_closed_total{{zone=\"edge\",cause=\"{cause}\"}} ");
    let value = text.lines().find_map(|of| of.strip_prefix(&line));
    value.expect("every cause has a line").parse().expect("a number")
}

/// Sends `bytes` and waits for the end; true when nothing came back.
fn refused(address: &str, bytes: &[u8]) -> bool {
    let mut stream = dial(address);
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer);
    answer.is_empty()
}

#[test]
fn the_named_address_is_the_peer_everywhere() {
    alone("the_named_address_is_the_peer_everywhere", || {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        std::fs::write(directory.join("ringfront.toml"), CONFIGURATION).expect("a file");
        let front_end = FrontEnd::start(directory, &["run", "--config", "ringfront.toml"]);
        let socket = directory.join("ringfront-state/admin.sock");

        // Version 1 over TCP, cut at every byte, and the request in the same piece as the end.
        let mut tcp = dial("[::1]:5060");
        tcp.set_nodelay(true).expect("small pieces");
        for byte in b"PROXY TCP4 192.0.2.7 203.0.113.1 40000 5060\r\n" {
            tcp.write_all(&[*byte]).expect("written");
        }
        let answer = exchange(&mut tcp, "TCP", "OPTIONS", URI, "one");
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        assert!(answer.contains("received=192.0.2.7"), "{answer}");
        assert!(answer.contains("rport=40000"), "{answer}");

        // Version 2 before TLS.
        let ca = directory.join("ringfront-state/ringfront-ca.pem");
        let mut stream = dial("127.0.0.1:5061");
        stream.write_all(&version2()).expect("written");
        let mut tls = tls_over(stream, IpAddr::from([127, 0, 0, 1]), &ca);
        let answer = exchange(&mut tls, "TLS", "OPTIONS", URI, "two");
        assert!(answer.contains("received=192.0.2.9"), "{answer}");
        assert!(answer.contains("rport=41000"), "{answer}");

        let (_, _, text) = admin(&socket, "GET /v1/connections?prefix=192.0.2.0/24");
        let roll: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(roll["total"], 2, "{text}");
        assert!(text.contains("\"peer\": \"192.0.2.7:40000\""), "{text}");
        assert!(text.contains("\"peer\": \"192.0.2.9:41000\""), "{text}");
        assert!(text.contains("\"came_by\": \"127.0.0.1:"), "{text}");

        // A proxy that asks for itself is its own peer.
        let mut own = dial("127.0.0.1:5060");
        own.write_all(b"PROXY UNKNOWN\r\n").expect("written");
        let answer = exchange(&mut own, "TCP", "OPTIONS", URI, "three");
        assert!(answer.contains("received=127.0.0.1"), "{answer}");

        // Limits and sources are the named peer's.
        let header = |host: &str| format!("PROXY TCP4 {host} 203.0.113.1 40000 5060\r\n");
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = dial("127.0.0.1:5060");
            stream.write_all(header("192.0.2.7").as_bytes()).expect("written");
            exchange(&mut stream, "TCP", "OPTIONS", URI, "four");
            held.push(stream);
        }
        assert!(refused("127.0.0.1:5060", header("192.0.2.7").as_bytes()));
        assert_eq!(closed(directory, "prefix_full"), 1);
        assert!(refused("127.0.0.1:5060", header("198.51.100.1").as_bytes()));
        assert_eq!(closed(directory, "source_not_allowed"), 1);
        drop(held);
        eventually("the places come free", || {
            let mut stream = dial("127.0.0.1:5060");
            stream.write_all(header("192.0.2.7").as_bytes()).expect("written");
            match closed(directory, "prefix_full") {
                1 => Ok(()),
                other => Err(format!("{other} refused")),
            }
        });
        assert!(!front_end.log().contains("panicked"), "{}", front_end.log());
    });
}

/// PP-a
#[test]
fn nobody_comes_in_without_a_good_header_from_a_listed_proxy() {
    alone("nobody_comes_in_without_a_good_header_from_a_listed_proxy", || {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        std::fs::write(directory.join("ringfront.toml"), CONFIGURATION).expect("a file");
        let _front_end = FrontEnd::start(directory, &["run", "--config", "ringfront.toml"]);
        let header = b"PROXY TCP4 192.0.2.7 203.0.113.1 40000 5060\r\n";
        let unknown_version = [&version2()[..12], &[0x31, 0x11, 0, 0]].concat();
        let endless = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        let cases: [(&str, &[u8], &str); 7] = [
            ("127.0.0.1:5070", header, "proxy_source_not_listed"),
            ("127.0.0.1:5060", b"OPTIONS sip:x SIP/2.0\r\n\r\n", "proxy_header_missing"),
            ("127.0.0.1:5061", b"\x16\x03\x01\x00\x05", "proxy_header_missing"),
            ("[::1]:5060", b"\r\n\r\n\r\n\r\n\r\n\r\n", "proxy_header_missing"),
            ("127.0.0.1:5060", b"PROXY TCP4 192.0.2.7\r\n", "proxy_header_bad"),
            ("127.0.0.1:5061", &unknown_version, "proxy_header_bad"),
            ("[::1]:5060", &endless, "proxy_header_too_long"),
        ];
        for (address, bytes, cause) in cases {
            let before = closed(directory, cause);
            assert!(refused(address, bytes), "{cause}");
            assert_eq!(closed(directory, cause), before + 1, "{cause}");
        }
        // Half a header: the deadline is three seconds, whatever comes in between.
        let begun = Instant::now();
        assert!(refused("127.0.0.1:5060", &header[..20]));
        let lasted = begun.elapsed();
        assert!(lasted > Duration::from_millis(2_900), "{lasted:?}");
        assert_eq!(closed(directory, "proxy_header_deadline"), 1);
    });
}
