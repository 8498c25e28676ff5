//! The texts that agents say: plain ones, and odd but legal ones.
//! Owns nothing. Never looks at a connection.
//! Invariant: every message carries its marker in a header, in its branch and in its body.

use super::text::{Text, name_of, parameter, uri_in, value_of};
use crate::base::random::Random;

/// A request before it is written.
#[derive(Clone, Debug)]
pub struct Draft<'d> {
    pub marker: usize,
    pub method: &'d str,
    pub uri: &'d str,
    /// `TCP host:port`
    pub via: &'d str,
    /// `None`: a new one.
    pub branch: Option<&'d str>,
    pub from: &'d str,
    pub to: &'d str,
    pub call_id: &'d str,
    pub cseq: u32,
    pub contact: Option<&'d str>,
    pub routes: &'d [String],
    /// Whole lines.
    pub extra: &'d [String],
    pub hops: Option<u32>,
    pub body: usize,
}

/// The branch of a new transaction.
pub fn branch(marker: usize) -> String {
    format!("z9hG4bKm{marker}.")
}

pub fn request(draft: &Draft<'_>, odd: bool, random: &mut Random) -> String {
    let new = branch(draft.marker);
    let branch = draft.branch.unwrap_or(&new);
    let rport = if random.one_in(2) { ";rport" } else { "" };
    let mut lines = vec![format!("Via: SIP/2.0/{};branch={branch}{rport}\r\n", draft.via)];
    if let Some(hops) = draft.hops {
        lines.push(format!("Max-Forwards: {hops}\r\n"));
    }
    lines.extend(draft.routes.iter().map(|route| format!("Route: {route}\r\n")));
    lines.push(format!("From: {}\r\n", draft.from));
    lines.push(format!("To: {}\r\n", draft.to));
    lines.push(format!("Call-ID: {}\r\n", draft.call_id));
    lines.push(format!("CSeq: {} {}\r\n", draft.cseq, draft.method));
    lines.extend(draft.contact.map(|contact| format!("Contact: {contact}\r\n")));
    lines.extend(draft.extra.iter().cloned());
    lines.push(format!("X-Marker: m{}.\r\n", draft.marker));
    let body = body(draft.marker, draft.body);
    lines.push(format!("Content-Length: {}\r\n", body.len()));
    let mut text = Text { start: format!("{} {} SIP/2.0", draft.method, draft.uri), lines, body };
    if odd {
        make_odd(&mut text, random);
    }
    text.to_string()
}

fn body(marker: usize, len: usize) -> String {
    if len == 0 {
        return String::new();
    }
    let mut body = format!("v=0 m{marker}.\r\n");
    while body.len() < len {
        body.push_str("a=filler of no meaning \r\n\r\n");
    }
    body
}

/// Odd but legal: what RFC 4475 teaches that others send.
fn make_odd(text: &mut Text, random: &mut Random) {
    for line in &mut text.lines {
        if random.one_in(3) {
            *line = odd_line(line, random);
        }
    }
    if random.one_in(3) {
        text.lines.retain(|line| name_of(line) != "max-forwards");
    }
    if random.one_in(4) {
        let breadth = ["100", "30", "60"][random.below(3) as usize];
        text.lines.push(format!("Max-Breadth: {breadth}\r\n"));
    }
    if random.one_in(3) {
        text.lines.push("P-Asserted-Identity: <sip:somebody@example.com>\r\n".to_owned());
    }
    if random.one_in(4) {
        text.lines.push("s: \t folded,\r\n  twice\r\n \t over\r\n".to_owned());
    }
    odd_vias(text, random);
    // Headers of different names may stand in any order (RFC 3261 7.3.1).
    if random.one_in(3) {
        let at = random.below(text.lines.len() as u64) as usize;
        let name = name_of(&text.lines[at]);
        if !matches!(name.as_str(), "route" | "via" | "record-route" | "path") {
            let line = text.lines.remove(at);
            text.lines.insert(0, line);
        }
    }
    if random.one_in(3) {
        join_routes(text);
    }
}

fn odd_line(line: &str, random: &mut Random) -> String {
    let (name, rest) = line.split_once(':').unwrap_or((line, ""));
    let long = name_of(line);
    let value = rest.trim_start();
    let compact = match long.as_str() {
        "via" => "v",
        "from" => "f",
        "to" => "t",
        "call-id" => "i",
        "contact" => "m",
        "content-length" => "l",
        _ => name,
    };
    match random.below(5) {
        0 => format!("{compact}: {value}"),
        1 => format!("{}:{value}", name.to_uppercase()),
        2 => format!("{compact} \t: {value}"),
        3 => format!("{name}:\r\n  {value}"),
        _ if long == "content-length" => format!("{name}: 00{value}"),
        _ => format!("{name}:   {value}"),
    }
}

fn odd_vias(text: &mut Text, random: &mut Random) {
    let Some(at) = text.lines.iter().position(|line| name_of(line) == "via") else { return };
    let lower = "SIP/2.0/UDP pbx.example.org:5070;branch=z9hG4bKlower;received=203.0.113.9";
    match random.below(5) {
        0 => text.lines.insert(at + 1, format!("Via: {lower}\r\n")),
        1 => {
            let line = text.lines[at].trim_end().to_owned();
            text.lines[at] = format!("{line} , {lower}\r\n");
        }
        2 => {
            let line = text.lines[at].trim_end().to_owned();
            text.lines[at] = format!("{line};received=192.0.2.200\r\n");
        }
        3 => text.lines.push(format!("Via: {lower}\r\n")),
        _ => {}
    }
}

/// All Route values in one line.
fn join_routes(text: &mut Text) {
    let routes = text.values("route");
    let Some(at) = text.lines.iter().position(|line| name_of(line) == "route") else { return };
    text.remove("route");
    text.lines.insert(at, format!("Route: {}\r\n", routes.join(" ,\r\n ")));
}

/// A response of a user agent to a request as it was received.
pub fn response(
    marker: usize,
    request: &Text,
    status: u16,
    tag: &str,
    contact: Option<&str>,
    body_len: usize,
) -> String {
    let lines_of = |name: &'static str| {
        request.lines.iter().filter(move |line| name_of(line) == name).cloned()
    };
    let mut lines: Vec<String> = lines_of("via").collect();
    lines.extend(lines_of("from"));
    let to = request.first("to").unwrap_or_default();
    let tagged = parameter(&to, "tag").is_some() || status == 100;
    lines.push(if tagged { format!("To: {to}\r\n") } else { format!("To: {to};tag={tag}\r\n") });
    lines.extend(lines_of("call-id"));
    lines.extend(lines_of("cseq"));
    if (101..300).contains(&status) {
        lines.extend(lines_of("record-route"));
        lines.extend(contact.map(|contact| format!("Contact: {contact}\r\n")));
        if request.method() == "REGISTER" {
            lines.extend(lines_of("path"));
        }
    }
    lines.push(format!("X-Marker: m{marker}.\r\n"));
    let body = body(marker, body_len);
    lines.push(format!("Content-Length: {}\r\n", body.len()));
    Text { start: format!("SIP/2.0 {status} Whatever"), lines, body }.to_string()
}

/// The ACK or CANCEL of an INVITE, hop by hop: the same branch, Call-ID, From and CSeq number (RFC 3261 9.1, 17.1.1.3).
pub fn hop_by_hop(marker: usize, method: &str, invite: &Text, to: &str) -> String {
    let vias = invite.lines.iter().filter(|line| name_of(line) == "via");
    let top = vias.map(|line| value_of(line)).next().unwrap_or_default();
    let top = top.split(" ,").next().unwrap_or(&top).trim_end().to_owned();
    let mut lines = vec![format!("Via: {top}\r\n"), "Max-Forwards: 70\r\n".to_owned()];
    lines.extend(invite.values("route").iter().map(|route| format!("Route: {route}\r\n")));
    lines.push(format!("From: {}\r\n", invite.first("from").unwrap_or_default()));
    lines.push(format!("To: {to}\r\n"));
    lines.push(format!("Call-ID: {}\r\n", invite.call_id()));
    lines.push(format!("CSeq: {} {method}\r\n", invite.cseq().0));
    lines.push(format!("X-Marker: m{marker}.\r\nContent-Length: 0\r\n"));
    let start = format!("{method} {} SIP/2.0", invite.uri());
    Text { start, lines, body: String::new() }.to_string()
}

/// The URI of a Contact.
pub fn contact_uri(text: &Text) -> Option<String> {
    text.values("contact").first().map(|contact| uri_in(contact).to_owned())
}
