//! What a crowd says: the requests of each scenario, prepared once as texts with holes, and what follows an answer.
//! Owns the prepared texts. Never keeps the state of a call: whatever is needed later stands in the response.
//! Invariant: the branch of every request names its transaction, so a response is matched without a search.

use crate::sip::{Message, Name, NameAddr};

/// What each member of the crowd does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// OPTIONS, answered by 2xx.
    Options,
    /// REGISTER of one user for each connection, renewed.
    Register,
    /// MESSAGE outside a dialog.
    Message,
    /// INVITE, 180, 200, ACK, BYE, 200 as caller.
    Call,
    /// Dial, shake hands, one CRLF ping and its answer (RFC 5626 4.4.1), reset; no SIP message.
    Handshake,
    /// Connections that are held open and say nothing.
    Idle,
    /// Dial, shake hands, one OPTIONS, close.
    Churn,
    /// All dial at the same moment, shake hands and register, as phones do when power comes back; when the last has come
    /// through, all reset, and the next storm begins.
    Storm,
}

impl Scenario {
    pub const ALL: [Scenario; 8] = [
        Scenario::Options,
        Scenario::Register,
        Scenario::Message,
        Scenario::Call,
        Scenario::Handshake,
        Scenario::Idle,
        Scenario::Churn,
        Scenario::Storm,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Scenario::Options => "options",
            Scenario::Register => "register",
            Scenario::Message => "message",
            Scenario::Call => "call",
            Scenario::Handshake => "handshake",
            Scenario::Idle => "idle",
            Scenario::Churn => "churn",
            Scenario::Storm => "storm",
        }
    }

    pub fn named(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Whether each operation has a connection of its own.
    pub const fn dials_each_time(self) -> bool {
        matches!(self, Scenario::Handshake | Scenario::Churn | Scenario::Storm)
    }
}

/// One operation under way, as it stands in branch and Call-ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

/// Which request of an operation a branch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first request: OPTIONS, REGISTER, MESSAGE or INVITE.
    First,
    Bye,
}

/// Who sends, and how often before.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    pub client: u32,
    /// Counts requests of this client, for CSeq of REGISTER.
    pub serial: u32,
}

/// The texts of one scenario.
#[derive(Clone, Debug)]
pub struct Script {
    first: Template,
    /// Of this process and worker: no other has the same.
    tag: u32,
    via: Box<str>,
    uri: Box<str>,
}

/// What a script is made from.
#[derive(Clone, Debug)]
pub struct Theme<'a> {
    pub scenario: Scenario,
    /// Request-URI; REGISTER takes its host.
    pub uri: &'a str,
    /// `TCP` or `TLS`, as in Via.
    pub transport: &'a str,
    /// Size of the first request; 0: as small as it is.
    pub message_bytes: u32,
    pub tag: u32,
}

/// A size that cannot be reached: the texts alone are longer, or padding would pass what a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeFault {
    pub least: u32,
    pub most: u32,
}

/// Head and body bounds of contract `[limits]` stay clear of this.
const MESSAGE_BYTES_MAX: u32 = 12 * 1024;
/// A header line of padding; contract `header_line` is 4 KiB.
const PADDING_LINE: usize = 1024;
const COOKIE: &[u8] = b"z9hG4bKload";
/// Tag, index and generation in hexadecimal.
const KEY_DIGITS: usize = 24;
/// CSeq of REGISTER has ten digits from the start, so that its place never grows; RFC 3261 8.1.1.5 ends at 2^31.
const REGISTER_CSEQ: u32 = 1_000_000_000;
/// Where answers to the crowd's own address would go: nowhere, since they come back on the connection (RFC 7118 uses
/// such names for clients without an address).
const HOST: &str = "load.invalid";

impl Script {
    pub fn new(theme: &Theme<'_>) -> Result<Script, SizeFault> {
        let least = Template::new(&first_request(theme, 0)).text.len() as u32;
        let wanted = if theme.message_bytes == 0 { least } else { theme.message_bytes };
        let fault = SizeFault { least, most: MESSAGE_BYTES_MAX };
        let room =
            wanted.checked_sub(least).filter(|_| wanted <= MESSAGE_BYTES_MAX).ok_or(fault)?;
        let first = Template::new(&first_request(theme, room as usize));
        assert_eq!(first.text.len() as u32, wanted);
        Ok(Script {
            first,
            tag: theme.tag,
            via: format!("SIP/2.0/{} {HOST}", theme.transport).into(),
            uri: theme.uri.into(),
        })
    }

    /// Size of the first request.
    pub fn message_bytes(&self) -> u32 {
        self.first.text.len() as u32
    }

    /// Appends the first request of an operation.
    pub fn first(&self, key: Key, sender: Sender, out: &mut Vec<u8>) {
        self.first.render(out, |hole, place| match hole {
            Hole::Key => self.write_key(key, place),
            Hole::Client => hexadecimal(sender.client, place),
            Hole::Sequence => {
                decimal(REGISTER_CSEQ + sender.serial % REGISTER_CSEQ, place);
            }
        });
    }

    /// Which operation and request a response answers, by its topmost Via; `None`: nothing of ours.
    pub fn transaction(&self, response: &Message<'_>) -> Option<(Key, Step)> {
        let branch = response.top_via().ok()?.branch()?.strip_prefix(COOKIE)?;
        let (digits, step) = branch.split_at_checked(KEY_DIGITS)?;
        let step = match step {
            b"f" => Step::First,
            b"b" => Step::Bye,
            _ => return None,
        };
        let number = |at: usize| {
            let text = std::str::from_utf8(&digits[at..at + 8]).ok()?;
            u32::from_str_radix(text, 16).ok()
        };
        let key = Key { index: number(8)?, generation: number(16)? };
        (number(0)? == self.tag).then_some((key, step))
    }

    /// Appends the ACK of a final response to INVITE and, after a 2xx, the BYE that follows at once. False: the response
    /// does not say where they must go.
    pub fn acknowledge(
        &self,
        key: Key,
        response: &Message<'_>,
        good: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        if !good {
            // Hop by hop: the INVITE's own branch and target (RFC 3261 17.1.1.3).
            self.within(key, response, "ACK", b"f", self.uri.as_bytes(), false, out);
            return true;
        }
        let contact = response.values(Name::Contact).next();
        let Some(contact) = contact.and_then(|value| NameAddr::parse(value.bytes).ok()) else {
            return false;
        };
        self.within(key, response, "ACK", b"a", contact.uri, true, out);
        self.within(key, response, "BYE", b"b", contact.uri, true, out);
        true
    }

    /// A request inside the dialog that `response` made (RFC 3261 12.2.1.1): the remote target, and the route set from
    /// Record-Route in reverse.
    #[expect(clippy::too_many_arguments, reason = "one message, each part said once")]
    fn within(
        &self,
        key: Key,
        response: &Message<'_>,
        method: &str,
        step: &[u8],
        target: &[u8],
        routed: bool,
        out: &mut Vec<u8>,
    ) {
        for part in [method.as_bytes(), b" ", target, b" SIP/2.0\r\nVia: "] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(self.via.as_bytes());
        out.extend_from_slice(b";branch=");
        out.extend_from_slice(COOKIE);
        let at = out.len();
        out.resize(at + KEY_DIGITS, b'0');
        self.write_key(key, &mut out[at..]);
        out.extend_from_slice(step);
        out.extend_from_slice(b";rport\r\nMax-Forwards: 70\r\n");
        if routed {
            let routes: smallvec::SmallVec<[&[u8]; 8]> =
                response.values(Name::RecordRoute).map(|value| value.bytes).collect();
            for route in routes.iter().rev() {
                for part in [&b"Route: "[..], *route, b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
        for name in [Name::From, Name::To, Name::CallId] {
            if let Some(header) = response.first(name) {
                out.extend_from_slice(response.text(header.line()));
            }
        }
        let number = if method == "BYE" { "2" } else { "1" };
        let end = ["CSeq: ", number, " ", method, "\r\nContent-Length: 0\r\n\r\n"];
        end.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    }

    fn write_key(&self, key: Key, place: &mut [u8]) {
        hexadecimal(self.tag, &mut place[..8]);
        hexadecimal(key.index, &mut place[8..16]);
        hexadecimal(key.generation, &mut place[16..24]);
    }
}

/// The text of the first request; `{k}`, `{c}` and `{s}` are holes. It is `room` bytes longer than
/// with a room of 0.
fn first_request(theme: &Theme<'_>, room: usize) -> String {
    let Theme { uri, transport, .. } = theme;
    let (method, contact) = match theme.scenario {
        Scenario::Register | Scenario::Storm => ("REGISTER", true),
        Scenario::Message => ("MESSAGE", false),
        Scenario::Call => ("INVITE", true),
        _ => ("OPTIONS", false),
    };
    let host = uri
        .rsplit_once('@')
        .map_or_else(|| uri.split_once(':').map_or(*uri, |(_, host)| host), |(_, host)| host);
    let own = format!("sip:load-{{c}}@{host}");
    let register = matches!(theme.scenario, Scenario::Register | Scenario::Storm);
    let target = if register { format!("sip:{host}") } else { (*uri).to_owned() };
    let to = if register { own.as_str() } else { uri };
    let (call_id, cseq) = if register { ("r{c}", "{s}") } else { ("{k}", "1") };
    let cookie = String::from_utf8_lossy(COOKIE);
    let mut text = format!(
        "{method} {target} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {HOST};branch={cookie}{{k}}f;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <{own}>;tag={{k}}\r\n\
         To: <{to}>\r\n\
         Call-ID: {call_id}-{:08x}@{HOST}\r\n\
         CSeq: {cseq} {method}\r\n",
        theme.tag
    );
    if contact {
        text.push_str(&format!("Contact: <sip:load-{{c}}@{HOST};transport=tcp>\r\n"));
    }
    if register {
        text.push_str("Expires: 3600\r\nSupported: path\r\n");
    }
    let body = match theme.scenario {
        Scenario::Call => {
            text.push_str("Content-Type: application/sdp\r\n");
            OFFER.to_owned()
        }
        Scenario::Message => {
            text.push_str("Content-Type: text/plain\r\n");
            "hello".to_owned()
        }
        _ => String::new(),
    };
    // The first padding line is always there; each further one costs what stands around its value.
    let lines = 1 + room / PADDING_LINE;
    let padding = room - (lines - 1) * "X-Padding: \r\n".len();
    for line in 0..lines {
        let length = (padding + line) / lines;
        text.push_str(&format!("X-Padding: {}\r\n", "x".repeat(length)));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text
}

const OFFER: &str = "v=0\r\no=load 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                     m=audio 9 RTP/AVP 0 8\r\na=sendrecv\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Key,
    Client,
    Sequence,
}

impl Hole {
    const fn len(self) -> usize {
        match self {
            Hole::Key => KEY_DIGITS,
            Hole::Client => 8,
            Hole::Sequence => 10,
        }
    }
}

/// A text with places that are filled each time; its length never changes.
#[derive(Clone, Debug, Default)]
struct Template {
    text: Vec<u8>,
    holes: Vec<(u32, Hole)>,
}

impl Template {
    fn new(text: &str) -> Template {
        let mut template = Template::default();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            template.text.extend_from_slice(&rest.as_bytes()[..at]);
            let hole = match &rest[at..at + 3] {
                "{k}" => Hole::Key,
                "{c}" => Hole::Client,
                "{s}" => Hole::Sequence,
                other => panic!("{other} is no hole of a template"),
            };
            template.holes.push((template.text.len() as u32, hole));
            template.text.resize(template.text.len() + hole.len(), b'0');
            rest = &rest[at + 3..];
        }
        template.text.extend_from_slice(rest.as_bytes());
        template
    }

    fn render(&self, out: &mut Vec<u8>, mut fill: impl FnMut(Hole, &mut [u8])) {
        let start = out.len();
        out.extend_from_slice(&self.text);
        for (at, hole) in &self.holes {
            let at = start + *at as usize;
            fill(*hole, &mut out[at..at + hole.len()]);
        }
    }
}

fn hexadecimal(number: u32, place: &mut [u8]) {
    for (at, digit) in place.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (28 - 4 * at) & 15) as usize];
    }
}

fn decimal(number: u32, place: &mut [u8]) {
    let mut rest = number;
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{FrameLimits, FrameState, Framed, Method, frame};

    fn theme(scenario: Scenario, message_bytes: u32) -> Theme<'static> {
        Theme {
            scenario,
            uri: "sip:load@127.0.0.1:5060",
            transport: "TCP",
            message_bytes,
            tag: 0xABCD_0123,
        }
    }

    fn message(bytes: &[u8]) -> Message<'_> {
        match frame(bytes, &mut FrameState::default(), &FrameLimits::default()) {
            Ok(Framed::Message(message)) if message.len() == bytes.len() => message,
            other => panic!("{other:?} in {}", String::from_utf8_lossy(bytes)),
        }
    }

    const KEY: Key = Key { index: 7, generation: 0x1234_5678 };
    const SENDER: Sender = Sender { client: 3, serial: 42 };

    #[test]
    fn every_first_request_is_valid_has_its_size_and_is_found_again() {
        for (scenario, method) in [
            (Scenario::Options, Method::Options),
            (Scenario::Register, Method::Register),
            (Scenario::Message, Method::Message),
            (Scenario::Call, Method::Invite),
        ] {
            for size in [0, 600, 601, 1999, 5000, MESSAGE_BYTES_MAX] {
                let script = Script::new(&theme(scenario, size)).unwrap();
                let mut out = Vec::new();
                script.first(KEY, SENDER, &mut out);
                assert!(size == 0 || out.len() == size as usize, "{} {size}", scenario.name());
                let request = message(&out);
                request.validate_request().unwrap();
                assert_eq!(request.method(), method);
                // The branch of a response is that of the request.
                assert_eq!(script.transaction(&request), Some((KEY, Step::First)));
            }
        }
    }

    #[test]
    fn a_size_that_cannot_be_had_names_the_bounds() {
        let fault = Script::new(&theme(Scenario::Options, 100)).unwrap_err();
        assert!(fault.least > 100 && fault.most == MESSAGE_BYTES_MAX);
        assert!(Script::new(&theme(Scenario::Options, MESSAGE_BYTES_MAX + 1)).is_err());
        assert!(Script::new(&theme(Scenario::Options, fault.least)).is_ok());
    }

    #[test]
    fn renewals_count_up_in_the_same_place() {
        let script = Script::new(&theme(Scenario::Register, 0)).unwrap();
        let mut numbers = Vec::new();
        for serial in [0, 9, 10] {
            let mut out = Vec::new();
            script.first(KEY, Sender { serial, ..SENDER }, &mut out);
            numbers.push(message(&out).cseq().unwrap().number);
        }
        assert_eq!(numbers, [1_000_000_000, 1_000_000_009, 1_000_000_010]);
    }

    #[test]
    fn ack_and_bye_follow_the_route_set_in_reverse() {
        let script = Script::new(&theme(Scenario::Call, 0)).unwrap();
        let ok = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP load.invalid;branch=z9hG4bKx\r\n\
            Record-Route: <sip:two;lr>, <sip:one;lr>\r\nFrom: <sip:a@h>;tag=1\r\n\
            To: <sip:b@h>;tag=2\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:b@t:9>\r\n\
            Content-Length: 0\r\n\r\n";
        let mut out = Vec::new();
        assert!(script.acknowledge(KEY, &message(ok), true, &mut out));
        let text = String::from_utf8(out).unwrap();
        let at = text.find("BYE ").unwrap();
        for (request, method) in [(&text[..at], "ACK"), (&text[at..], "BYE")] {
            message(request.as_bytes()).validate_request().unwrap();
            assert!(request.starts_with(&format!("{method} sip:b@t:9 SIP/2.0\r\n")), "{request}");
            let routes = "Route: <sip:one;lr>\r\nRoute: <sip:two;lr>\r\n";
            assert!(request.contains(routes), "{request}");
            assert!(request.contains("To: <sip:b@h>;tag=2\r\n"), "{request}");
        }
        assert_eq!(script.transaction(&message(&text.as_bytes()[at..])), Some((KEY, Step::Bye)));
    }

    #[test]
    fn the_ack_of_a_refusal_has_the_invites_branch_and_no_route() {
        let script = Script::new(&theme(Scenario::Call, 0)).unwrap();
        let busy = b"SIP/2.0 486 Busy\r\nVia: SIP/2.0/TCP load.invalid;branch=z9hG4bKx\r\n\
            Record-Route: <sip:one;lr>\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>;tag=2\r\n\
            Call-ID: c\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        let mut out = Vec::new();
        assert!(script.acknowledge(KEY, &message(busy), false, &mut out));
        let ack = message(&out);
        assert_eq!(script.transaction(&ack), Some((KEY, Step::First)));
        assert_eq!((ack.method(), ack.count(Name::Route)), (Method::Ack, 0));
    }

    #[test]
    fn what_is_not_ours_is_not_taken() {
        let script = Script::new(&theme(Scenario::Options, 0)).unwrap();
        let foreign = Script::new(&Theme { tag: 1, ..theme(Scenario::Options, 0) }).unwrap();
        let mut out = Vec::new();
        foreign.first(KEY, SENDER, &mut out);
        assert_eq!(script.transaction(&message(&out)), None);
    }
}
