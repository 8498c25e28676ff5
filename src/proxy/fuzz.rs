//! Bodies of the fuzz targets of this floor (`tests/fuzz/` calls them). Each takes any bytes and panics when a promise is
//! broken. Never shares code with what it judges but the scanner.

use super::stand::{At, Bench, request, response, snapshot};
use super::token::{BEGINNING, BranchKey, FlowId, PeerId, Reading, TokenKeys, TokenKind};
use super::*;
use crate::base::time::Duration;
use crate::sip::{FrameLimits, FrameState, Framed, Message, Name, NameAddr, Uri, frame};

/// Bytes given out one after the other; 0 when there are none left.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u32 {
        (0..4).fold(0, |number, _| number << 8 | u32::from(self.byte()))
    }
}

/// A header of the PROXY protocol is read within its bounds, and the same however it was cut.
pub fn preface(data: &[u8]) {
    super::preface::fuzz(data);
}

/// A word that we wrote reads as what was written; any other text of its length, and the same word for another call or
/// under another key, is forged or no word of ours.
pub fn flow_token(data: &[u8]) {
    let mut source = Source(data);
    let keys = TokenKeys::new("edge-1", &[7; 32], None);
    let others = TokenKeys::new("edge-1", &[8; 32], None);
    let flow = FlowId {
        worker: source.byte(),
        incarnation: source.number(),
        slot: source.number(),
        generation: source.number(),
    };
    let backend = PeerId(u64::from(source.number()) << 32 | u64::from(source.number()));
    let call_len = usize::from(source.byte() % 40);
    let call_id = source.bytes(call_len);
    for kind in [TokenKind::Flow, TokenKind::Route] {
        let text = match kind {
            TokenKind::Flow => keys.write_flow(flow),
            TokenKind::Route => keys.write_route(flow, backend, call_id),
        };
        let Reading::Good(token) = keys.read(&text, call_id) else { panic!("our own token") };
        assert_eq!((token.kind, token.flow, token.this_node), (kind, flow, true));
        let carried = if kind == TokenKind::Route { backend } else { PeerId::NONE };
        assert_eq!(token.backend, carried);
        assert_eq!(others.read(&text, call_id), Reading::Forged);
        let another_call = [call_id, b"x"].concat();
        let for_another = keys.read(&text, &another_call);
        assert_eq!(for_another == Reading::Forged, kind == TokenKind::Route);
        let mut changed = text.clone();
        for _ in 0..=source.byte() % 3 {
            let place = usize::from(source.byte()) % changed.len();
            changed[place] = source.byte();
        }
        if changed != text {
            assert!(!matches!(keys.read(&changed, call_id), Reading::Good(_)), "changed and good");
        }
    }
    // Nobody can write a token; a fuzzer that watches comparisons can copy one.
    let rest = source.0;
    if let Reading::Good(token) = keys.read(rest, call_id) {
        let copied = match token.kind {
            TokenKind::Flow => keys.write_flow(token.flow),
            TokenKind::Route => keys.write_route(token.flow, token.backend, call_id),
        };
        assert_eq!(&copied[..], rest, "two texts for one token");
    }
    if let Some(read) = BranchKey::read(rest) {
        assert!(read.verify(&BranchKey::new([1; 16]), backend, call_id, 1).is_none());
    }
}

/// Steps of a script at most: more of them find nothing that fewer do not.
const STEPS_MAX: usize = 48;
const PARTIES_MAX: usize = 12;

const METHODS: [&str; 9] =
    ["INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "SUBSCRIBE", "MESSAGE", "ODD"];
const URIS: [&str; 9] = [
    "sip:bob@example.com",
    "sips:bob@example.com",
    "sip:edge.example.com",
    "sip:bob@example.com;transport=udp",
    "sip:bob@10.0.0.1:5080",
    "sip:bob@example.com;maddr=edge.example.com;transport=tcp",
    "tel:+4930123",
    "foo:bar",
    "sip:bob@[2001:db8::1]:5060",
];
const EXTRAS: [&str; 9] = [
    "",
    "Route: <sip:edge.example.com;lr>\r\n",
    "Route: <sip:edge.example.com:5060;lr>, <sip:10.0.0.1:5080>\r\n",
    "Route: <sip:10.0.0.2:5080;lr>\r\nRoute: <sip:x;transport=udp>\r\n",
    "Supported: path, outbound\r\nContact: <sip:a@b>;reg-id=1\r\n",
    "Proxy-Require: foo\r\n",
    "P-Asserted-Identity: <sip:mallory@example.com>\r\nMax-Breadth: 90\r\n",
    "Via: SIP/2.0/UDP lower;keep;branch=z9hG4bKlower\r\n",
    "Record-Route: <sip:other;lr>\r\nl : 0\r\n",
];
const STATUSES: [&str; 7] =
    ["100 Trying", "180 Ringing", "200 OK", "302 Moved", "404 Not Found", "503 Gone", "699 No"];

/// The proxy of two workers, and those who talk to it.
struct Play {
    bench: Bench,
    /// Connections of clients, of a backend that dials us, and our links.
    parties: Vec<At>,
    /// The last request and the last message that anybody was sent.
    asked: Option<(At, String)>,
    heard: Vec<u8>,
    /// Route values of ours that were heard.
    routes: Vec<String>,
    /// What is said comes byte by byte.
    dribbles: bool,
    calls: u32,
}

/// The whole proxy under a script: whatever is said to it, what it sends is whole messages with a Via of its own on
/// requests and none on responses, and afterwards it holds nothing back and serves.
pub fn whole(data: &[u8]) {
    let mut source = Source(data);
    let mut snapshot = snapshot();
    snapshot.pools[0].failover = source.byte() & 1 == 1;
    snapshot.limits.transactions_per_core = 1 + u32::from(source.byte());
    let mut play = Play {
        bench: Bench::with(2, snapshot),
        parties: Vec::new(),
        asked: None,
        heard: Vec::new(),
        routes: Vec::new(),
        dribbles: false,
        calls: 0,
    };
    let links = play.bench.links.iter().map(|((worker, _), conn)| (*worker, *conn));
    play.parties.extend(links);
    play.parties.sort_unstable();
    for _ in 0..STEPS_MAX {
        if source.0.is_empty() {
            break;
        }
        play.step(&mut source);
        play.listen();
    }
    play.end();
}

impl Play {
    fn step(&mut self, source: &mut Source<'_>) {
        let step = source.byte() % 14;
        let party = source.pick(&self.parties);
        match step {
            0 | 1 if self.parties.len() < PARTIES_MAX => {
                let worker = usize::from(source.byte() & 1);
                let inside = step == 1;
                let peer = if inside { "10.0.0.1:40000" } else { "198.51.100.7:40000" };
                let at = self.bench.accept(worker, u32::from(inside), peer);
                self.parties.push(at);
            }
            0..=4 => {
                let len = usize::from(source.byte());
                self.say(party, source.bytes(len));
            }
            5..=7 => {
                let text = self.compose(source);
                self.say(party, text.as_bytes());
            }
            8 | 9 => {
                if let Some((at, asked)) = self.asked.clone() {
                    let mut answer = response(&asked, source.pick(&STATUSES)).into_bytes();
                    if source.byte() > 200 {
                        let place = usize::from(source.byte()) % answer.len();
                        answer[place] = source.byte();
                    }
                    self.say(if step == 8 { at } else { party }, &answer);
                }
            }
            10 => self.say(party, &self.heard.clone()),
            11 => self.bench.pass(Duration::from_millis(u64::from(source.byte()) * 100)),
            12 if source.byte() & 1 == 0 => self.bench.hang_up(party),
            12 => {
                let (worker, conn) = party;
                let now = self.bench.now;
                self.bench.workers[worker].handle(now, Input::Finished { conn });
                self.bench.settle();
            }
            _ => self.dribbles ^= true,
        }
    }

    fn say(&mut self, at: At, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let step = if self.dribbles { 1 } else { bytes.len() };
        bytes.chunks(step).for_each(|piece| self.bench.give(at, piece));
    }

    /// A request that may well be forwarded, with a Route of ours that somebody has heard, or not.
    fn compose(&mut self, source: &mut Source<'_>) -> String {
        let method = source.pick(&METHODS);
        let uri = source.pick(&URIS);
        let mut extra = source.pick(&EXTRAS).to_owned();
        let choice = usize::from(source.byte());
        if choice > 100 && !self.routes.is_empty() {
            let route = &self.routes[choice % self.routes.len()];
            extra = format!("Route: {route}\r\n{extra}");
        }
        self.calls += u32::from(source.byte() & 1);
        request(method, uri, &format!("call{}", self.calls), &extra)
    }

    /// Judges and remembers all that was sent.
    fn listen(&mut self) {
        let mut sent: Vec<(At, Vec<u8>)> = self.bench.sent.drain().collect();
        sent.sort_unstable();
        for (at, bytes) in sent {
            let mut rest = &bytes[..];
            let limits = FrameLimits { head: 40_000, headers: 200, ..FrameLimits::default() };
            while !rest.is_empty() {
                match frame(rest, &mut FrameState::default(), &limits) {
                    Ok(Framed::Message(message)) => {
                        self.judge(at, &message);
                        rest = &rest[message.len()..];
                    }
                    Ok(Framed::Ping) => rest = &rest[4..],
                    Ok(Framed::Blank { len }) => rest = &rest[len as usize..],
                    _ if rest == b"\r\n" => break,
                    other => panic!("{other:?}: {}", String::from_utf8_lossy(rest)),
                }
            }
        }
    }

    fn judge(&mut self, at: At, message: &Message<'_>) {
        let via = message.top_via();
        let ours = via.as_ref().is_ok_and(|via| {
            via.branch().is_some_and(|branch| branch.starts_with(BEGINNING) && branch.len() == 63)
                && matches!(via.host, b"edge.example.com" | b"10.0.0.9" | b"[2001:db8::1]")
        });
        assert!(ours || !message.is_request(), "a request without our Via");
        self.heard = message.bytes().to_vec();
        if message.is_request() {
            assert!(message.validate_request().is_ok(), "what leaves could not come in");
            self.asked = Some((at, String::from_utf8_lossy(message.bytes()).into_owned()));
        }
        for name in [Name::Path, Name::RecordRoute] {
            for value in message.values(name) {
                let value = value.bytes;
                let uri = NameAddr::parse(value).ok().and_then(|it| Uri::parse(it.uri).ok());
                let token = uri.and_then(|uri| uri.user).is_some_and(|user| user.len() > 50);
                if token && self.routes.len() < 16 {
                    self.routes.push(String::from_utf8_lossy(value).into_owned());
                }
            }
        }
    }

    /// Everybody has gone: nothing is held back, and a newcomer is served.
    fn end(mut self) {
        for at in self.parties.clone() {
            self.bench.hang_up(at);
        }
        // Timer C, and what follows it, is past.
        for _ in 0..6 {
            self.bench.pass(Duration::from_secs(40));
        }
        self.listen();
        let bench = &mut self.bench;
        for worker in &bench.workers {
            assert_eq!(worker.core.connections.live_accepted(), 0, "a connection is left");
            assert_eq!(worker.core.chunks.bytes_out(), 0, "a chunk is not at home");
            assert!(worker.core.transactions.is_empty(), "a transaction is left");
        }
        let client = bench.client();
        bench.send(client, &request("OPTIONS", "sip:edge.example.com", "last", ""));
        let answer = bench.sent.remove(&client).unwrap_or_default();
        assert!(answer.starts_with(b"SIP/2.0 200 "), "{}", String::from_utf8_lossy(&answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rounds: u64, len: usize, body: fn(&[u8])) {
        for seed in 0..rounds {
            let mut random = Random::new(seed);
            let data: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
            let outcome = std::panic::catch_unwind(|| body(&data));
            assert!(outcome.is_ok(), "seed {seed}");
        }
    }

    #[test]
    fn tokens_are_good_as_written_and_no_other_way() {
        run(300, 120, flow_token);
    }

    #[test]
    fn scripts_leave_a_proxy_that_serves() {
        run(120, 600, whole);
    }
}
