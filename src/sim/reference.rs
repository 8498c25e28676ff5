//! A naive proxy: what a message must look like when it leaves, worked out on strings, line by line.
//! Owns nothing. Never shares code with `proxy/` or `sip/`; signed words, which it cannot make, it leaves open.
//! Invariant: all but the open places must be equal byte for byte.
//!
//! Written after RFC 3261 16.4, 16.6, 16.7 and 18.2.1, RFC 3327, 3581, 5393, 5626, 5658 and the contract.

use std::net::{IpAddr, SocketAddr};

use super::text::{Text, name_of, parameter, parts_of, split, uri_in, value_of, value_span};

/// What the front-end calls itself, by zone.
#[derive(Clone, Debug)]
pub struct Facts {
    pub own: Vec<(String, u16)>,
    /// By zone: over TCP, over TLS.
    pub faces: Vec<[Face; 2]>,
    pub tls_by_parameter: bool,
    pub stripped: String,
    pub trusted: Vec<bool>,
    /// The way to the pool is TLS.
    pub core_tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    pub host: String,
    pub port: u16,
}

/// One connection as the front-end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub zone: u16,
    pub tls: bool,
    pub peer: SocketAddr,
}

/// A part of an expected message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// A branch of ours.
    Branch,
    /// A flow token, a route token.
    Flow,
    Route,
    /// A To tag of ours.
    Tag,
    /// Any header lines with one of the names that our own answers may carry.
    Extras,
}

/// The signed words that stood in the open places.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pub branch: Option<String>,
    pub flow: Option<String>,
    pub routes: Vec<String>,
}

/// A token as it may stand in the user part of a URI of ours.
pub fn is_token(user: &str) -> bool {
    let digits = |rest: &str| rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    (user.starts_with('f') && user.len() == FLOW_CHARS
        || user.starts_with('r') && user.len() == ROUTE_CHARS)
        && digits(&user[1..])
}

const BRANCH_CHARS: usize = 7 + 56;
const FLOW_CHARS: usize = 1 + 56;
const ROUTE_CHARS: usize = 1 + 69;

impl Facts {
    pub fn is_own(&self, uri: &str) -> bool {
        let (_, host, port) = parts_of(uri);
        (uri.starts_with("sip:") || uri.starts_with("sips:"))
            && self
                .own
                .iter()
                .any(|(own, own_port)| *own == host && port.is_none_or(|port| port == *own_port))
    }

    fn face(&self, place: &Place) -> &Face {
        &self.faces[usize::from(place.zone)][usize::from(place.tls)]
    }

    /// `<sip:` token `@host:port;...;lr`
    fn uri(&self, place: &Place, token: Piece, end: &str) -> Vec<Piece> {
        let Face { host, port } = self.face(place);
        let (scheme, transport) = match (place.tls, self.tls_by_parameter) {
            (false, _) => ("sip", ";transport=tcp"),
            (true, false) => ("sips", ""),
            (true, true) => ("sip", ";transport=tls"),
        };
        vec![
            Piece::Text(format!("<{scheme}:")),
            token,
            Piece::Text(format!("@{host}:{port}{transport};lr{end}>\r\n")),
        ]
    }

    /// Own values at the top of Route, and the tokens in them, each once. The third different one, or one of another
    /// kind, begins another pass.
    pub fn own_routes(&self, routes: &[String]) -> (usize, Vec<String>) {
        let (mut count, mut tokens) = (0, Vec::<String>::new());
        for route in routes {
            let uri = uri_in(route);
            if !self.is_own(uri) {
                break;
            }
            if let (Some(user), _, _) = parts_of(uri)
                && is_token(user)
                && !tokens.iter().any(|token| token == user)
            {
                if tokens.len() == 2 || tokens.iter().any(|token| token[..1] != user[..1]) {
                    break;
                }
                tokens.push(user.to_owned());
            }
            count += 1;
        }
        (count, tokens)
    }
}

/// A request whose sender has put our own Record-Route value into the Request-URI (RFC 3261 16.4): what that value was,
/// and the request with the last Route back in its place.
pub fn unstrict(facts: &Facts, text: &Text) -> Option<(String, Text)> {
    let (user, ..) = parts_of(text.uri());
    let routes = text.values("route");
    let ours = facts.is_own(text.uri()) && user.is_some_and(is_token);
    let last = routes.last().filter(|_| ours)?;
    let mut plain = text.clone();
    plain.start = format!("{} {} SIP/2.0", text.method(), uri_in(last));
    let row = plain.lines.iter().rposition(|line| name_of(line) == "route")?;
    let line = &plain.lines[row];
    let (from, to) = value_span(line);
    let spans = split(&line[from..to]);
    match spans.len() {
        1 => {
            plain.lines.remove(row);
        }
        count => {
            let kept = line[..from + spans[count - 2].1].trim_end_matches([' ', '\t', '\r', '\n']);
            plain.lines[row] = format!("{kept}{}", &line[to..]);
        }
    }
    Some((text.uri().to_owned(), plain))
}

/// What a request must look like on its way out.
pub fn request(facts: &Facts, text: &Text, from: &Place, to: &Place) -> Vec<Piece> {
    match unstrict(facts, text) {
        Some((_, plain)) => loose_request(facts, &plain, from, to),
        None => loose_request(facts, text, from, to),
    }
}

fn loose_request(facts: &Facts, text: &Text, from: &Place, to: &Place) -> Vec<Piece> {
    let face = facts.face(to);
    let protocol = if to.tls { "TLS" } else { "TCP" };
    let mut out = vec![Piece::Text(format!("{}\r\n", text.start))];
    let (mut vias_done, mut stamped, mut hops_seen) = (false, false, false);
    let mut routes_left = facts.own_routes(&text.values("route")).0;
    let breadth = breadth(text);
    let mut breadth_seen = false;
    let mut inserted = inserts(facts, text, from, to);
    let late = [text.first("max-forwards").is_none(), breadth == Some(None)];
    for (at, line) in text.lines.iter().enumerate() {
        let name = name_of(line);
        if name == "via" && !stamped {
            stamped = true;
            out.push(Piece::Text(format!(
                "Via: SIP/2.0/{protocol} {}:{};branch=",
                face.host, face.port
            )));
            out.push(Piece::Branch);
            out.push(Piece::Text("\r\n".to_owned()));
            out.push(Piece::Text(stamp(line, from.peer)));
        } else if name == facts.stripped && !facts.trusted[usize::from(from.zone)] {
        } else {
            if let Some((_, pieces)) = inserted.take_if(|(above, _)| *above == name) {
                out.extend(pieces);
            }
            match name.as_str() {
                "max-forwards" if !std::mem::replace(&mut hops_seen, true) => {
                    let hops: u32 = value_of(line).parse().unwrap_or(0);
                    out.push(Piece::Text(with_value(line, &hops.saturating_sub(1).to_string())));
                }
                "max-breadth" => match breadth {
                    Some(Some(breadth)) if !std::mem::replace(&mut breadth_seen, true) => {
                        out.push(Piece::Text(with_value(line, &breadth.to_string())));
                    }
                    Some(_) => {}
                    None => out.push(Piece::Text(line.clone())),
                },
                "route" => out.extend(less(line, &mut routes_left).map(Piece::Text)),
                "content-length" => out.push(Piece::Text(plain_length(line, text))),
                _ => out.push(Piece::Text(line.clone())),
            }
        }
        let ends_vias = stamped && text.lines.get(at + 1).is_none_or(|next| name_of(next) != "via");
        if ends_vias && !std::mem::replace(&mut vias_done, true) {
            let texts = ["Max-Forwards: 70\r\n", "Max-Breadth: 60\r\n"];
            let wanted = texts.into_iter().zip(late).filter(|(_, late)| *late);
            out.extend(wanted.map(|(text, _)| Piece::Text(text.to_owned())));
            if let Some((_, pieces)) = inserted.take_if(|(above, _)| text.first(above).is_none()) {
                out.extend(pieces);
            }
        }
    }
    out.push(Piece::Text(format!("\r\n{}", text.body)));
    out
}

/// `None`: it stays as it is. `Some(None)`: one is added. `Some(Some(n))`: it becomes n.
fn breadth(text: &Text) -> Option<Option<u32>> {
    let rows: Vec<_> = text.lines.iter().filter(|line| name_of(line) == "max-breadth").collect();
    let Some(first) = rows.first() else { return Some(None) };
    match value_of(first).parse::<u64>() {
        Ok(breadth) if breadth <= 60 && rows.len() == 1 => None,
        Ok(breadth) => Some(Some(breadth.min(60) as u32)),
        Err(_) => Some(Some(60)),
    }
}

/// Path or Record-Route: the name that they stand above, and the lines.
fn inserts(facts: &Facts, text: &Text, from: &Place, to: &Place) -> Option<(String, Vec<Piece>)> {
    let head = |name: &str| Piece::Text(format!("{name}: "));
    match text.method() {
        "REGISTER" if !facts.trusted[usize::from(from.zone)] => {
            let contacts = text.values("contact");
            let first_hop = text.values("via").len() == 1;
            let outbound = first_hop && contacts.iter().any(|it| parameter(it, "reg-id").is_some());
            let mut pieces = vec![head("Path")];
            pieces.extend(facts.uri(to, Piece::Flow, if outbound { ";ob" } else { "" }));
            Some(("path".to_owned(), pieces))
        }
        "INVITE" | "SUBSCRIBE" | "REFER" if text.to_tag().is_none() => {
            let mut pieces = vec![head("Record-Route")];
            pieces.extend(facts.uri(to, Piece::Route, ""));
            let (out, incoming) =
                (facts.uri(to, Piece::Route, ""), facts.uri(from, Piece::Route, ""));
            if out != incoming {
                pieces.push(head("Record-Route"));
                pieces.extend(incoming);
            }
            Some(("record-route".to_owned(), pieces))
        }
        _ => None,
    }
}

/// The line with another value in the same place.
fn with_value(line: &str, value: &str) -> String {
    let (from, to) = value_span(line);
    format!("{}{value}{}", &line[..from], &line[to..])
}

/// A list header's line without its first values; counts down what is still to go.
fn less(line: &str, left: &mut usize) -> Option<String> {
    if *left == 0 {
        return Some(line.to_owned());
    }
    let (from, to) = value_span(line);
    let spans = split(&line[from..to]);
    if spans.len() <= *left {
        *left -= spans.len();
        return None;
    }
    let rest = line[from + spans[*left].0..].trim_start_matches([' ', '\t', '\r', '\n']);
    *left = 0;
    Some(format!("{}{rest}", &line[..from]))
}

/// What the sender is owed on its topmost Via.
fn stamp(line: &str, peer: SocketAddr) -> String {
    let (from, to) = value_span(line);
    let (start, end) = split(&line[from..to])[0];
    let value = &line[from + start..from + end];
    let value = value.trim_end();
    let rest = &line[from + start + value.len()..];
    let ip = peer.ip().to_canonical();
    let (mut bare, mut received) = (false, false);
    let mut parts = value.split(';');
    let mut stamped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, text) = part.split_once('=').unwrap_or((part, ""));
        stamped.push(';');
        if name.eq_ignore_ascii_case("rport") && text.is_empty() {
            bare = true;
            stamped.push_str(&format!("{name}={}", peer.port()));
        } else if name.eq_ignore_ascii_case("received") {
            received = true;
            stamped.push_str(&format!("received={ip}"));
        } else {
            stamped.push_str(part);
        }
    }
    if !received && (bare || !is_at(value, ip)) {
        stamped.push_str(&format!(";received={ip}"));
    }
    format!("{}{stamped}{rest}", &line[..from + start])
}

/// Whether sent-by is this very address.
fn is_at(via: &str, ip: IpAddr) -> bool {
    let sent_by = via.split(' ').nth(1).unwrap_or_default().split(';').next().unwrap_or_default();
    let (_, host, _) = parts_of(&format!("sip:{sent_by}"));
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|it| it.to_canonical() == ip)
}

/// Content-Length as it leaves: plain, or made plain.
fn plain_length(line: &str, text: &Text) -> String {
    let digits = value_of(line);
    let name = line.split(':').next().unwrap_or_default();
    let plain = !name.ends_with([' ', '\t']) && (digits.len() == 1 || !digits.starts_with('0'));
    let forms = [format!("{name}:{digits}\r\n"), format!("{name}: {digits}\r\n")];
    if plain && forms.contains(&line.to_owned()) {
        return line.to_owned();
    }
    format!("Content-Length: {}\r\n", text.body.len())
}

/// What a response must look like on its way out.
pub fn response(text: &Text) -> Vec<Piece> {
    let mut out = format!("{}\r\n", text.start);
    let mut vias_left = 1;
    for line in &text.lines {
        match name_of(line).as_str() {
            "via" => out.push_str(&less(line, &mut vias_left).unwrap_or_default()),
            "content-length" => out.push_str(&plain_length(line, text)),
            _ => out.push_str(line),
        }
    }
    out.push_str(&format!("\r\n{}", text.body));
    vec![Piece::Text(out)]
}

/// What an answer of our own must look like (RFC 3261 8.2.6).
pub fn answer(text: &Text, from: &Place, status: u16, reason: &str) -> Vec<Piece> {
    let mut out = vec![Piece::Text(format!("SIP/2.0 {status} {reason}\r\n"))];
    let mut stamped = false;
    for line in text.lines.iter().filter(|line| name_of(line) == "via") {
        let first = !std::mem::replace(&mut stamped, true);
        out.push(Piece::Text(if first { stamp(line, from.peer) } else { line.clone() }));
    }
    for name in ["from", "to", "call-id", "cseq"] {
        let Some(line) = text.lines.iter().find(|line| name_of(line) == name) else { continue };
        if name == "to" && text.to_tag().is_none() && status != 100 {
            let (_, end) = value_span(line);
            out.push(Piece::Text(format!("{};tag=", &line[..end])));
            out.push(Piece::Tag);
            out.push(Piece::Text(line[end..].to_owned()));
        } else {
            out.push(Piece::Text(line.clone()));
        }
    }
    out.push(Piece::Extras);
    out.push(Piece::Text("Content-Length: 0\r\n\r\n".to_owned()));
    out
}

/// Compares a message with what was expected. The error says where they part.
pub fn compare(pieces: &[Piece], message: &str) -> Result<Words, String> {
    let mut words = Words::default();
    let mut rest = message;
    for piece in pieces {
        let taken = match piece {
            Piece::Text(text) => match rest.strip_prefix(text.as_str()) {
                Some(_) => text.len(),
                None => return Err(difference(text, rest)),
            },
            Piece::Branch => word(rest, BRANCH_CHARS, "z9hG4bK")?,
            Piece::Flow => word(rest, FLOW_CHARS, "f")?,
            Piece::Route => word(rest, ROUTE_CHARS, "r")?,
            Piece::Tag => 16,
            Piece::Extras => extras(rest),
        };
        let Some((text, after)) = rest.split_at_checked(taken) else {
            return Err(format!("{piece:?} expected, the message ends: {rest:?}"));
        };
        match piece {
            Piece::Branch => words.branch = Some(text.to_owned()),
            Piece::Flow => words.flow = Some(text.to_owned()),
            Piece::Route => words.routes.push(text.to_owned()),
            _ => {}
        }
        rest = after;
    }
    if rest.is_empty() { Ok(words) } else { Err(format!("too much at the end: {rest:?}")) }
}

fn word(rest: &str, chars: usize, prefix: &str) -> Result<usize, String> {
    let text = rest.get(..chars).unwrap_or(rest);
    let digits = text.get(prefix.len()..).unwrap_or_default();
    let good = text.len() == chars
        && text.starts_with(prefix)
        && digits.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    if good { Ok(chars) } else { Err(format!("a signed word expected at {text:?}")) }
}

const EXTRA_NAMES: [&str; 6] =
    ["warning", "retry-after", "unsupported", "allow", "accept", "supported"];

fn extras(rest: &str) -> usize {
    let lines = rest.split_inclusive("\r\n");
    lines.take_while(|line| EXTRA_NAMES.contains(&name_of(line).as_str())).map(str::len).sum()
}

fn difference(expected: &str, found: &str) -> String {
    let same = expected.bytes().zip(found.bytes()).take_while(|(one, two)| one == two).count();
    let around = |text: &str| {
        let from = (0..=same.saturating_sub(30)).rev().find(|at| text.is_char_boundary(*at));
        let from = from.unwrap_or(0);
        text[from..].chars().take(90).collect::<String>()
    };
    format!("expected {:?}, found {:?}", around(expected), around(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let face = |host: &str, port| Face { host: host.to_owned(), port };
        Facts {
            own: vec![("edge.example.com".to_owned(), 5060), ("10.0.0.1".to_owned(), 5070)],
            faces: vec![
                [face("edge.example.com", 5060), face("edge.example.com", 5061)],
                [face("10.0.0.1", 5070), face("10.0.0.1", 5071)],
            ],
            tls_by_parameter: false,
            stripped: "p-asserted-identity".to_owned(),
            trusted: vec![false, true],
            core_tls: false,
        }
    }

    fn place(zone: u16) -> Place {
        Place { zone, tls: false, peer: "198.51.100.1:20000".parse().unwrap() }
    }

    #[test]
    fn a_request_by_hand() {
        let text = Text::parse(
            "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKq;rport\r\n\
             Route: <sip:edge.example.com;lr>,\r\n <sip:next;lr>\r\nP-Asserted-Identity: x\r\n\
             To: <sip:b@x>\r\nl : 04\r\n\r\nbody",
        )
        .unwrap();
        let branch = format!("z9hG4bK{}", "a".repeat(56));
        let token = format!("r{}", "b".repeat(69));
        let expected = format!(
            "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1:5070;branch={branch}\r\n\
             Via: SIP/2.0/TCP h;branch=z9hG4bKq;rport=20000;received=198.51.100.1\r\n\
             Max-Forwards: 70\r\nMax-Breadth: 60\r\n\
             Record-Route: <sip:{token}@10.0.0.1:5070;transport=tcp;lr>\r\n\
             Record-Route: <sip:{token}@edge.example.com:5060;transport=tcp;lr>\r\n\
             Route: <sip:next;lr>\r\nTo: <sip:b@x>\r\nContent-Length: 4\r\n\r\nbody"
        );
        let pieces = request(&facts(), &text, &place(0), &place(1));
        let words = compare(&pieces, &expected).unwrap();
        assert_eq!(words.branch, Some(branch));
        assert_eq!(words.routes, [token.clone(), token]);
        assert!(compare(&pieces, &expected.replace("70\r\n", "69\r\n")).is_err());
    }

    #[test]
    fn a_response_by_hand() {
        let text = Text::parse(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP us;branch=1 , SIP/2.0/TCP h;branch=2\r\n\
             Content-Length: 0\r\n\r\n",
        )
        .unwrap();
        let expected = "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP h;branch=2\r\nContent-Length: 0\r\n\r\n";
        compare(&response(&text), expected).unwrap();
    }
}
