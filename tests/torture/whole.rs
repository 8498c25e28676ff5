//! The torture messages through the whole proxy: requests as they are from a client, responses from a backend, as they
//! stand and with a valid Via of ours on top. Owns a proxy without a ring. Never judges: it says what came of a message.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use ringfront::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use ringfront::base::time::{Duration, Instant};
use ringfront::config::{HostFacts, load};
use ringfront::proxy::admission::PrefixTable;
use ringfront::proxy::settings::Settings;
use ringfront::proxy::token::{BranchKey, TokenKeys};
use ringfront::proxy::{Proxy, Report, fault_names};
use ringfront::sip::{FrameLimits, FrameState, Framed, Message, Name, NameAddr, Start, frame};
use ringfront::telemetry::counter::Refused;

const CONFIGURATION: &str = r#"
[node]
name = "torture"
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
requests_per_prefix = "1000000/s"
requests_per_connection = "1000000/s"
"#;

/// A request that is forwarded.
const PLAIN: &str = "OPTIONS sip:a@example.com SIP/2.0\r\n\
    Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKplain\r\n\
    Max-Forwards: 70\r\nFrom: <sip:b@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\n\
    Call-ID: plain@192.0.2.1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// Header lines that a forward may change or add; all others leave as they came.
const EDITED: [&str; 12] = [
    "via",
    "v",
    "max-forwards",
    "max-breadth",
    "record-route",
    "path",
    "route",
    "content-length",
    "l",
    "p-asserted-identity",
    "p-preferred-identity",
    "remote-party-id",
];

/// One worker's proxy, a backend that is up, and what each peer was sent.
pub struct House {
    proxy: Proxy,
    now: Instant,
    /// The link to the backend.
    pub backend: ConnId,
    sent: HashMap<ConnId, Vec<u8>>,
    closed: Vec<ConnId>,
    /// Counts that the proxy is lent.
    spare: Option<Report>,
}

fn settings() -> Settings {
    let path = std::env::temp_dir().join(format!("ringfront-torture-{}.toml", std::process::id()));
    std::fs::write(&path, CONFIGURATION).expect("a file in the temporary directory");
    let host = HostFacts {
        cores: vec![0],
        descriptors: 20_000,
        user: 0,
        unix_time: 1_800_000_000,
        ipv6_loopback: true,
    };
    let settled = load(Some(&path), &host).unwrap_or_else(|faults| panic!("{}", faults.text()));
    Settings::new(
        settled.snapshot,
        vec![None],
        vec![vec![None]],
        BranchKey::new([7; 16]),
        TokenKeys::new("torture", &[9; 32], None),
        1,
        Arc::new(PrefixTable::new()),
    )
}

/// How a message comes: up to the cut, and the rest; or byte by byte.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Whole,
    At(usize),
    Dribbled,
}

impl House {
    pub fn new() -> Self {
        static SETTINGS: std::sync::OnceLock<Arc<Settings>> = std::sync::OnceLock::new();
        let settings = Arc::clone(SETTINGS.get_or_init(|| Arc::new(settings())));
        let now = Instant(1_000_000_000);
        let proxy = Proxy::new(0, 1, 64, 42, now, settings);
        let nobody = ConnId { slot: u32::MAX, generation: 0 };
        let mut house = House {
            proxy,
            now,
            backend: nobody,
            sent: HashMap::new(),
            closed: Vec::new(),
            spare: Some(Report::new(2, 1)),
        };
        house.settle();
        assert_ne!(house.backend, nobody, "the backend is dialled");
        house
    }

    fn settle(&mut self) {
        while let Some(output) = self.proxy.poll() {
            let input = match output {
                Output::Transmit { conn, chunk } => {
                    self.sent.entry(conn).or_default().extend_from_slice(chunk.bytes());
                    Input::Sent { conn, chunk }
                }
                Output::Connect { conn, .. } => {
                    self.backend = conn;
                    Input::Connected { conn }
                }
                Output::Close { conn, .. } => {
                    self.closed.push(conn);
                    Input::Closed { conn, cause: CloseCause::Asked }
                }
                Output::Accept { .. } => continue,
            };
            self.proxy.handle(self.now, input);
        }
        self.proxy.leaving(self.now);
    }

    pub fn client(&mut self) -> ConnId {
        let peer = "127.0.0.1:40000".parse().expect("an address");
        let arrival = Arrival { slot: 0, listener: 0, peer };
        self.proxy.admit(self.now, arrival).expect("admitted")
    }

    pub fn hang_up(&mut self, conn: ConnId) {
        if !self.closed.contains(&conn) {
            self.proxy.handle(self.now, Input::Closed { conn, cause: CloseCause::Reset });
            self.settle();
        }
    }

    fn give(&mut self, conn: ConnId, bytes: &[u8]) {
        if bytes.is_empty() || self.closed.contains(&conn) {
            return;
        }
        let mut bytes = bytes.to_vec();
        self.proxy.handle(self.now, Input::Received { conn, bytes: &mut bytes });
        self.settle();
    }

    fn give_cut(&mut self, conn: ConnId, text: &[u8], cut: Cut) {
        match cut {
            Cut::Whole => self.give(conn, text),
            Cut::At(place) => {
                self.give(conn, &text[..place]);
                self.give(conn, &text[place..]);
            }
            Cut::Dribbled => text.chunks(1).for_each(|byte| self.give(conn, byte)),
        }
    }

    fn take(&mut self, conn: ConnId) -> Vec<u8> {
        self.sent.remove(&conn).unwrap_or_default()
    }

    /// Gives a message of `from` and says in words what came of it.
    pub fn verdict(&mut self, client: ConnId, from: ConnId, text: &[u8], cut: Cut) -> String {
        self.counted();
        self.give_cut(from, text, cut);
        let mut words = self.words(client, text);
        if words.is_empty() {
            // Half a message: what happens when its time is up?
            self.now = self.now + Duration::from_secs(11);
            self.proxy.handle(self.now, Input::Tick);
            self.settle();
            words = format!("waits; {}", self.words(client, text));
        }
        if self.closed.contains(&from) {
            words.push_str(", closed");
        }
        words
    }

    fn words(&mut self, client: ConnId, text: &[u8]) -> String {
        let mut words = String::new();
        let mut say = |word: &str| {
            let _ = write!(words, "{}{word}", if words.is_empty() { "" } else { "; " });
        };
        let forwarded = self.take(self.backend);
        let mut origin = text;
        for request in messages(&forwarded) {
            while origin.starts_with(b"\r\n") {
                origin = &origin[2..];
            }
            let (len, how) = passed_on(origin, &request);
            origin = &origin[len..];
            say(how);
        }
        let reasons = self.counted();
        for response in messages(&self.take(client)) {
            // The line behind the start line was ours and is gone.
            let start = start_line(&read(&response)).len();
            if text.starts_with(&response[..start]) && text.ends_with(&response[start..]) {
                say("passed on, byte for byte");
            } else {
                say(std::str::from_utf8(&response[8..11]).expect("a status code"));
            }
        }
        reasons.iter().for_each(|reason| say(reason));
        words
    }

    /// What was counted as a fault, or where there was none as refused, since the last call.
    fn counted(&mut self) -> Vec<&'static str> {
        let spare = self.spare.take().expect("it comes back below");
        let mut report = self.proxy.report(self.now, spare);
        let refused = Refused::ALL.iter().map(|it| (it.name(), report.counters.refused(*it)));
        let faults = fault_names().zip(report.counters.faults().iter().copied());
        let general = ["malformed", "unframeable", "too_large", "response_malformed"];
        let refused = refused.filter(|(name, _)| !general.contains(name));
        let found = faults.chain(refused).filter(|(_, count)| *count > 0);
        let names = found.map(|(name, _)| name).collect();
        report.counters.reset();
        self.spare = Some(report);
        names
    }

    /// A valid request on this connection, or on a new one if it is closed, finds its way and its response, too.
    pub fn still_serves(&mut self, mut client: ConnId) {
        if self.closed.contains(&client) {
            client = self.client();
        }
        self.take(client);
        self.take(self.backend);
        self.give(client, PLAIN.as_bytes());
        let request = self.take(self.backend);
        assert_eq!(messages(&request).len(), 1, "{}", String::from_utf8_lossy(&request));
        self.give(self.backend, &response(&request));
        let answer = self.take(client);
        assert!(answer.starts_with(b"SIP/2.0 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
        self.hang_up(client);
    }

    /// A Via of ours for a response with this Call-ID and CSeq number: the one that its request would have been given.
    pub fn own_via(&mut self, client: ConnId, call_id: &str, cseq: u32) -> Vec<u8> {
        let request = PLAIN
            .replace("plain@192.0.2.1", call_id)
            .replace("CSeq: 1 ", &format!("CSeq: {cseq} "));
        self.give(client, request.as_bytes());
        let sent = self.take(self.backend);
        let text = String::from_utf8(sent).expect("as it was written");
        let via =
            text.split_inclusive("\r\n").find(|line| line.starts_with("Via: ")).expect("ours");
        via.as_bytes().to_vec()
    }
}

/// Whole messages, one after the other, and nothing else.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let message = read(bytes);
        found.push(message.bytes().to_vec());
        bytes = &bytes[message.len()..];
    }
    found
}

fn response(request: &[u8]) -> Vec<u8> {
    let end = request.windows(2).position(|pair| pair == b"\r\n").expect("a start line");
    [b"SIP/2.0 200 OK", &request[end..]].concat()
}

fn read(bytes: &[u8]) -> Message<'_> {
    let limits = FrameLimits { head: 20_000, ..FrameLimits::default() };
    match frame(bytes, &mut FrameState::default(), &limits) {
        Ok(Framed::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// What leaves is what came, in order, but for the lines that a proxy edits. Says how long the message was that came, and
/// how it was passed on.
fn passed_on(origin: &[u8], forwarded: &[u8]) -> (usize, &'static str) {
    let (came, left) = (read(origin), read(forwarded));
    assert!(untouched(&came) == untouched(&left), "{}", String::from_utf8_lossy(forwarded));
    if start_line(&came) == start_line(&left) {
        return (came.len(), "forwarded");
    }
    // A next hop without lr wants its own name in the start line, and the old one at the end of Route (RFC 3261 16.6).
    let Start::Request { uri, .. } = left.start() else { panic!("a request") };
    let route = came.values(Name::Route).next().expect("a Route");
    assert_eq!(NameAddr::parse(route.bytes).map(|route| route.uri), Ok(uri));
    (came.len(), "forwarded to a strict router")
}

fn start_line<'m>(message: &'m Message<'_>) -> &'m [u8] {
    message.bytes().split(|byte| *byte == b'\r').next().expect("a start line")
}

/// The header lines that no rule names, and the body.
fn untouched<'m>(message: &'m Message<'_>) -> Vec<&'m [u8]> {
    let kept = message.headers().iter().filter(|header| {
        let name = String::from_utf8_lossy(message.text(header.name_span())).to_lowercase();
        !EDITED.contains(&&name[..])
    });
    kept.map(|header| message.text(header.line())).chain([message.body()]).collect()
}
