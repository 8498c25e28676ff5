//! The proxy core alone: a request in, its forward out, a response in, its forward out, with nothing beneath it.
//! For instruction counts (`valgrind --tool=callgrind --toggle-collect='*measured*'`) and allocations per transaction.
//! Usage: forward_icount [TRANSACTIONS] [failover] [invite]; with `failover` the state of each transaction is kept, with
//! `invite` each is an INVITE of its own instead of one OPTIONS again and again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringfront::base::machine::{Arrival, ConnId, Input, Machine, Output};
use ringfront::base::time::Instant;
use ringfront::config::{HostFacts, load};
use ringfront::proxy::Proxy;
use ringfront::proxy::admission::PrefixTable;
use ringfront::proxy::settings::Settings;
use ringfront::proxy::token::{BranchKey, TokenKeys};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIGURATION: &str = r#"
[node]
name = "bench"
[zone.edge]
transports = ["tcp"]
[zone.core]
transports = ["tcp"]
trusted = true
allow_from = ["127.0.0.0/8"]
[[listener]]
name = "edge"
zone = "edge"
transport = "tcp"
bind = ["127.0.0.1:5060"]
[[pool]]
name = "p"
zone = "core"
failover = false
health = "off"
backends = [{ name = "b", address = "127.0.0.1:5080", transport = "tcp" }]
[[route]]
from_zone = "edge"
pool = "p"
[limits]
requests_per_prefix = "100000000/s"
requests_per_connection = "100000000/s"
"#;

fn main() {
    let transactions: u64 =
        std::env::args().nth(1).map_or(1000, |text| text.parse().expect("a number"));
    let said = |wanted: &str| std::env::args().skip(2).any(|word| word == wanted);
    let (failover, invite) = (said("failover"), said("invite"));
    let mut proxy = proxy(failover);
    let mut now = Instant(1_000_000_000);
    let mut link = None;
    while let Some(output) = proxy.poll() {
        if let Output::Connect { conn, .. } = output {
            link = Some(conn);
            proxy.handle(now, Input::Connected { conn });
        }
    }
    let link = link.expect("one backend is dialled");
    let arrival =
        Arrival { slot: 0, listener: 0, peer: "127.0.0.1:40000".parse().expect("an address") };
    let client = proxy.admit(now, arrival).expect("admitted");
    let mut request = padded_options();
    if invite {
        let text = String::from_utf8(request).expect("ASCII").replace("OPTIONS", "INVITE");
        request = text.into_bytes();
    }
    // A branch of its own for each INVITE; that of OPTIONS is known again only while it is under way.
    let place = memchr::memmem::find(&request, b"abcdefgh").expect("the end of the branch");
    let mut number = 0u32;
    let mut next = |request: &mut [u8]| {
        number += u32::from(invite);
        let text = format!("{number:08}");
        request[place..][..8].copy_from_slice(text.as_bytes());
    };
    let mut answer = Vec::new();
    // Warm-up: pools and histograms are where they will be.
    for _ in 0..200 {
        next(&mut request);
        measured(&mut proxy, &mut now, client, link, &request, &mut answer);
    }
    let mut allocated = 0;
    for _ in 0..transactions {
        next(&mut request);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        measured(&mut proxy, &mut now, client, link, &request, &mut answer);
        allocated += ALLOCATIONS.load(Ordering::Relaxed) - before;
    }
    println!("{transactions} transactions of {} bytes, {allocated} allocations", request.len());
}

fn proxy(failover: bool) -> Proxy {
    let configuration =
        CONFIGURATION.replace("failover = false", &format!("failover = {failover}"));
    let path = std::env::temp_dir().join(format!("ringfront-bench-{}.toml", std::process::id()));
    std::fs::write(&path, configuration).expect("a file in the temporary directory");
    let host = HostFacts {
        cores: vec![0],
        descriptors: 20_000,
        user: 0,
        unix_time: 1_800_000_000,
        ipv6_loopback: true,
    };
    let settled = load(Some(&path), &host).unwrap_or_else(|faults| panic!("{}", faults.text()));
    let _ = std::fs::remove_file(&path);
    let settings = Settings::new(
        settled.snapshot,
        vec![None],
        vec![vec![None]],
        BranchKey::new([7; 16]),
        TokenKeys::new("bench", &[9; 32], None),
        1,
        Arc::new(PrefixTable::new()),
    );
    Proxy::new(0, 1, 64, 42, Instant(1_000_000_000), Arc::new(settings))
}

/// An OPTIONS of 500 bytes with the usual headers.
fn padded_options() -> Vec<u8> {
    let head = "OPTIONS sip:service@example.com SIP/2.0\r\n\
        Via: SIP/2.0/TCP 127.0.0.1:40000;branch=z9hG4bK-524287-1---abcdefgh;rport\r\n\
        Max-Forwards: 70\r\n\
        From: \"load\" <sip:load@example.com>;tag=1928301774\r\n\
        To: <sip:service@example.com>\r\n\
        Call-ID: a84b4c76e66710@pc33.example.com\r\n\
        CSeq: 63104 OPTIONS\r\n\
        Contact: <sip:load@127.0.0.1:40000;transport=tcp>\r\n\
        Accept: application/sdp\r\n\
        User-Agent: ";
    let tail = "\r\nContent-Length: 0\r\n\r\n";
    let filler = "x".repeat(500 - head.len() - tail.len());
    format!("{head}{filler}{tail}").into_bytes()
}

/// One transaction. Not inlined: the tool collects inside it.
#[inline(never)]
fn measured(
    proxy: &mut Proxy,
    now: &mut Instant,
    client: ConnId,
    link: ConnId,
    request: &[u8],
    answer: &mut Vec<u8>,
) {
    let mut buffer = [0u8; 2048];
    now.0 += 10_000;
    buffer[..request.len()].copy_from_slice(request);
    proxy.handle(*now, Input::Received { conn: client, bytes: &mut buffer[..request.len()] });
    transmit(proxy, *now, link, |bytes| response(bytes, answer));
    now.0 += 10_000;
    buffer[..answer.len()].copy_from_slice(answer);
    proxy.handle(*now, Input::Received { conn: link, bytes: &mut buffer[..answer.len()] });
    transmit(proxy, *now, client, |bytes| assert!(bytes.starts_with(b"SIP/2.0 200")));
}

/// Shows what goes to `to`; a 100 to the other one is none of our business.
fn transmit(proxy: &mut Proxy, now: Instant, to: ConnId, mut look: impl FnMut(&[u8])) {
    let mut left = false;
    while let Some(output) = proxy.poll() {
        if let Output::Transmit { conn, chunk } = output {
            if conn == to {
                look(chunk.bytes());
                left = true;
            }
            proxy.handle(now, Input::Sent { conn, chunk });
        }
    }
    proxy.leaving(now);
    assert!(left, "one message leaves");
}

/// The backend's answer: status line and the headers as they came.
#[inline(never)]
fn response(request: &[u8], answer: &mut Vec<u8>) {
    answer.clear();
    let end = memchr::memchr(b'\n', request).expect("a start line");
    answer.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    answer.extend_from_slice(&request[end + 1..]);
}
