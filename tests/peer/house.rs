//! A registrar with its connections: what is said to it, and what it says, as lines of a ladder.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use ringfront::base::machine::{Arrival, CloseCause, ConnId, Input, Machine, Output};
use ringfront::base::time::Instant;
use ringfront::peer::registrar::{Counts, Listening, Registrar, Settings};
use ringfront::sip::{FrameLimits, FrameState, Framed, Message, Name, Start, frame};

/// One connection to the registrar.
struct Party {
    name: &'static str,
    conn: ConnId,
    /// Messages that it was sent, oldest first.
    heard: Vec<String>,
    open: bool,
}

pub struct House {
    registrar: Registrar,
    now: Instant,
    parties: Vec<Party>,
    ladder: String,
}

impl House {
    pub fn new() -> House {
        let settings = Settings {
            listeners: vec![Listening { tls: None, advertised: "127.0.0.1:5070".into() }],
        };
        let now = Instant(1_000_000_000);
        House {
            registrar: Registrar::new(Arc::new(settings), 16, 42, now),
            now,
            parties: Vec::new(),
            ladder: String::new(),
        }
    }

    /// A new connection, from 10.0.0.N:5000 for the N-th.
    pub fn join(&mut self, name: &'static str) {
        let slot = self.parties.len() as u32;
        let peer = format!("10.0.0.{}:5000", slot + 1).parse().unwrap();
        let arrival = Arrival { slot, listener: 0, peer };
        let conn = self.registrar.admit(self.now, arrival).unwrap();
        self.parties.push(Party { name, conn, heard: Vec::new(), open: true });
    }

    fn party(&mut self, name: &str) -> &mut Party {
        self.parties.iter_mut().find(|party| party.name == name).unwrap()
    }

    /// Bytes from a connection; `\n` stands for CRLF.
    pub fn say(&mut self, name: &str, text: &str) {
        let conn = self.party(name).conn;
        let mut bytes = text.replace('\n', "\r\n").into_bytes();
        self.registrar.handle(self.now, Input::Received { conn, bytes: &mut bytes });
        self.settle();
    }

    /// The connection is gone.
    pub fn lose(&mut self, name: &str) {
        let conn = self.party(name).conn;
        self.party(name).open = false;
        self.registrar.handle(self.now, Input::Closed { conn, cause: CloseCause::Reset });
        self.settle();
    }

    /// Time passes, with every tick that the machine asks for.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.registrar.deadline() < end {
            self.now = self.now.max(self.registrar.deadline());
            self.registrar.handle(self.now, Input::Tick);
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        while let Some(output) = self.registrar.poll() {
            match output {
                Output::Transmit { conn, chunk } => {
                    self.hear(conn, chunk.bytes());
                    self.registrar.handle(self.now, Input::Sent { conn, chunk });
                }
                Output::Close { conn, .. } => {
                    let party = self.parties.iter_mut().find(|party| party.conn == conn).unwrap();
                    party.open = false;
                    writeln!(self.ladder, "-> {:<6} closed", party.name).unwrap();
                    let cause = CloseCause::Asked;
                    self.registrar.handle(self.now, Input::Closed { conn, cause });
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn hear(&mut self, conn: ConnId, bytes: &[u8]) {
        let party = self.parties.iter_mut().find(|party| party.conn == conn).unwrap();
        let mut rest = bytes;
        while !rest.is_empty() {
            if rest == b"\r\n" {
                writeln!(self.ladder, "-> {:<6} CRLF", party.name).unwrap();
                return;
            }
            let framed = frame(rest, &mut FrameState::default(), &FrameLimits::default());
            let Ok(Framed::Message(message)) = framed else {
                panic!("{framed:?}: {}", String::from_utf8_lossy(rest))
            };
            writeln!(self.ladder, "-> {:<6} {}", party.name, line(&message)).unwrap();
            party.heard.push(String::from_utf8(message.bytes().to_vec()).unwrap());
            rest = &rest[message.len()..];
        }
    }

    /// What was said since the last call, one line for each message.
    pub fn ladder(&mut self) -> String {
        std::mem::take(&mut self.ladder)
    }

    /// The last message that a connection was sent.
    pub fn last(&self, name: &str) -> &str {
        let party = self.parties.iter().find(|party| party.name == name).unwrap();
        party.heard.last().map_or("", String::as_str)
    }

    /// All values of a header in the last message of a connection.
    pub fn header(&self, name: &str, header: &str) -> Vec<String> {
        let prefix = format!("{header}: ");
        let lines = self.last(name).lines();
        lines.filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    pub fn counts(&mut self) -> Counts {
        self.registrar.report(self.now, Counts::default())
    }
}

/// What a reader wants to know of a message.
fn line(message: &Message<'_>) -> String {
    let vias = message.vias().count();
    match message.start() {
        Start::Request { method_name, uri, .. } => {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let routes = message.values(Name::Route).count();
            format!(
                "{} {} hops={} vias={vias} routes={routes}",
                text(method_name),
                text(uri),
                message.max_forwards().unwrap().unwrap_or(0)
            )
        }
        Start::Response { status, .. } => {
            message.validate_response().unwrap();
            let method = String::from_utf8_lossy(message.cseq().unwrap().method).into_owned();
            format!("{status} {method} vias={vias}")
        }
    }
}

/// A request from `user` at the far side of a front-end, or of its own when `edge` is empty.
pub fn request(method: &str, uri: &str, from: &str, extra: &str) -> String {
    let body = extra.split_once("\n\n").map_or("", |(_, body)| body);
    let extra = extra.split_once("\n\n").map_or(extra, |(head, _)| head).trim_end();
    let to = if extra.contains("To: ") { String::new() } else { format!("To: <{uri}>\n") };
    let cseq = if extra.contains("CSeq: ") { String::new() } else { format!("CSeq: 1 {method}\n") };
    let call = if extra.contains("Call-ID: ") { "" } else { "Call-ID: call-1\n" };
    let length = body.replace('\n', "\r\n").len();
    let lines = if extra.is_empty() { String::new() } else { format!("{extra}\n") };
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1:5000;branch=z9hG4bK-{method}\n\
         Max-Forwards: 70\nFrom: <sip:{from}@example.com>;tag={from}\n{to}{call}{cseq}{lines}\
         Content-Length: {length}\n\n{body}"
    )
}

/// The same, as it arrives from a front-end: with its Via on top.
pub fn through_edge(request: &str) -> String {
    request.replacen("\nVia: ", "\nVia: SIP/2.0/TCP 10.0.0.1:5000;branch=z9hG4bK-edge\nVia: ", 1)
}

/// A response to a request that was received, with lines added to its head.
pub fn respond(request: &str, status: &str, extra: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\n");
    for line in request.lines() {
        let name = line.split(':').next().unwrap_or("");
        if ["Via", "From", "To", "Call-ID", "CSeq", "Record-Route"].contains(&name) {
            text.push_str(line);
            if name == "To" && !line.contains("tag=") {
                text.push_str(";tag=there");
            }
            text.push('\n');
        }
    }
    format!("{text}{extra}Content-Length: 0\n\n")
}
