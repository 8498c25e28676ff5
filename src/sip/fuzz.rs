//! Bodies of the fuzz targets (`tests/fuzz/` calls them) and the slow, obvious readings that they compare with.
//! Never shares code with what it judges. Each body takes any bytes and panics when a promise is broken.

use super::error::FaultKind;
use super::frame::{FrameLimits, FrameState, Framed, frame, salvage};
use super::message::Message;
use super::name::Name;
use super::patch::Patch;
use super::text::Range32;
use super::uri::{NameAddr, Uri};
use super::via::Via;
use crate::base::limits::HEAD_BYTES_CEILING;

/// Bytes given out one after the other; 0 when there are none left.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % bound.max(1)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// What a stream yields, as far as it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Ping,
    Blank,
    Message { bytes: Vec<u8>, headers: Vec<(Vec<u8>, Vec<u8>)> },
    Fault(FaultKind, u32),
}

fn small_limits(source: &mut Source<'_>) -> FrameLimits {
    if source.byte() & 1 == 0 {
        return FrameLimits::default();
    }
    FrameLimits {
        start_line: 1 + source.below(64) as u32,
        header_line: 1 + source.below(64) as u32,
        head: 1 + source.below(400) as u32,
        headers: source.below(12) as u32,
        body: source.below(64) as u32,
        ..FrameLimits::default()
    }
}

/// The framer yields the same however the stream is cut, and the same as the reference.
pub fn frame_any_split(data: &[u8]) {
    let mut source = Source(data);
    let limits = small_limits(&mut source);
    let cuts: Vec<usize> = (0..source.below(6)).map(|_| 1 + source.below(90)).collect();
    let stream = source.rest();
    let whole = framed(stream, &[], &limits);
    assert_eq!(whole, framed(stream, &cuts, &limits), "cut into {cuts:?}");
    assert_eq!(whole, framed(stream, &[1], &limits), "byte by byte");
    assert_eq!(whole, reference(stream, &limits), "differs from the reference");
}

/// Runs the framer over `stream`, of which `cuts` bytes more are at hand at each step, the last cut over and over.
fn framed(stream: &[u8], cuts: &[usize], limits: &FrameLimits) -> Vec<Event> {
    let mut events = Vec::new();
    let mut state = FrameState::default();
    let mut cuts = cuts.iter().copied();
    let mut step = None;
    let (mut front, mut end) = (0, 0);
    while end < stream.len() {
        step = cuts.next().or(step);
        end = (end + step.unwrap_or(stream.len())).min(stream.len());
        loop {
            let event = match frame(&stream[front..end], &mut state, limits) {
                Ok(Framed::Partial) => break,
                Ok(Framed::Ping) => {
                    front += 4;
                    Event::Ping
                }
                Ok(Framed::Blank { len }) => {
                    front += len as usize;
                    Event::Blank
                }
                Ok(Framed::Message(message)) => {
                    front += message.len();
                    check_view(&message, false);
                    seen(&message)
                }
                Err(fault) => {
                    assert!(fault.kind.stream_lost());
                    if let Some(message) = salvage(&stream[front..end], limits) {
                        check_view(&message, true);
                    }
                    events.push(Event::Fault(fault.kind, fault.offset));
                    return events;
                }
            };
            events.push(event);
        }
    }
    events
}

fn seen(message: &Message<'_>) -> Event {
    let header = |header: &super::message::Header| {
        let name = message.text(header.name_span()).to_vec();
        (name, message.value(header).to_vec())
    };
    let headers = message.headers().iter().map(header).collect();
    Event::Message { bytes: message.bytes().to_vec(), headers }
}

/// The reference: the same rules, read off the whole stream at once and with no thought of speed.
fn reference(stream: &[u8], limits: &FrameLimits) -> Vec<Event> {
    let mut events = Vec::new();
    let mut rest = stream;
    loop {
        let (event, taken) = match rest {
            [b'\r', b'\n', b'\r', b'\n', ..] => (Event::Ping, 4),
            [b'\r', b'\n', b'\r'] | [b'\r', b'\n'] | [b'\r'] | [] => return events,
            [b'\r', b'\n', b'\r', ..] => (Event::Fault(FaultKind::BareCarriageReturn, 2), 0),
            [b'\r', b'\n', ..] => (Event::Blank, 2),
            [b'\r', ..] => (Event::Fault(FaultKind::BareCarriageReturn, 0), 0),
            _ => match reference_message(rest, limits) {
                None => return events,
                Some(Ok((head, len))) => (head, len),
                Some(Err((kind, offset))) => (Event::Fault(kind, offset), 0),
            },
        };
        events.push(event);
        if taken == 0 {
            return events;
        }
        rest = &rest[taken..];
    }
}

/// A fault and where it is.
type Blame = (FaultKind, u32);

/// `None`: more bytes must come.
type Outcome<T> = Option<Result<T, Blame>>;

fn reference_message(bytes: &[u8], limits: &FrameLimits) -> Outcome<(Event, usize)> {
    let head_len = match reference_head(bytes, limits)? {
        Ok(head_len) => head_len,
        Err(fault) => return Some(Err(fault)),
    };
    let body = match reference_body(&bytes[..head_len], limits) {
        Ok(body) => body,
        Err(fault) => return Some(Err(fault)),
    };
    let message = bytes.get(..head_len + body)?;
    let headers = reference_headers(&bytes[..head_len])
        .into_iter()
        .map(|(_, name, value)| (name.expect("checked"), value))
        .collect();
    Some(Ok((Event::Message { bytes: message.to_vec(), headers }, head_len + body)))
}

/// The head's length, or the fault of single bytes or lengths that shows first; what shows at the same byte counts in
/// the order of the list.
fn reference_head(bytes: &[u8], limits: &FrameLimits) -> Outcome<usize> {
    let at = |wanted: &[u8], from: usize| {
        bytes[from..].windows(wanted.len()).position(|it| it == wanted).map(|place| from + place)
    };
    // (byte at which it shows, rank, outcome)
    let mut found: Vec<(usize, u8, Result<usize, Blame>)> = Vec::new();
    let head = limits.head.min(HEAD_BYTES_CEILING) as usize;
    // Shows when the limit is full, before any byte behind it is looked at.
    if bytes.len() >= head {
        found.push((head, 0, Err((FaultKind::HeadLong, head as u32))));
    }
    if let Some(end) = at(b"\r\n\r\n", 0) {
        found.push((end + 3, 1, Ok(end + 4)));
    }
    for (place, byte) in bytes.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| bytes[before]);
        if *byte == b'\n' && before != Some(b'\r') {
            found.push((place, 1, Err((FaultKind::BareLineFeed, place as u32))));
        }
        if *byte != b'\n' && before == Some(b'\r') {
            found.push((place, 1, Err((FaultKind::BareCarriageReturn, place as u32 - 1))));
        }
    }
    let start_end = at(b"\r\n", 0);
    if let Some(end) = start_end
        && matches!(bytes.get(end + 2), Some(b' ' | b'\t'))
    {
        found.push((end + 2, 1, Err((FaultKind::StartLineFolded, end as u32 + 2))));
    }
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == 0) {
        let slashes = bytes[..place].iter().rev().take_while(|byte| **byte == b'\\').count();
        let in_headers = start_end.is_some_and(|end| place > end);
        if slashes % 2 == 0 || !in_headers {
            found.push((place, 2, Err((FaultKind::Nul, place as u32))));
        }
    }
    let mut line = 0;
    while line < bytes.len() {
        let (limit, kind) = match line {
            0 => (limits.start_line as usize, FaultKind::StartLineLong),
            _ => (limits.header_line as usize, FaultKind::HeaderLineLong),
        };
        let mut end = at(b"\r\n", line);
        while let Some(fold) = end.filter(|end| matches!(bytes.get(end + 2), Some(b' ' | b'\t'))) {
            end = at(b"\r\n", fold + 2);
        }
        let text = end.unwrap_or(bytes.len());
        // A CR or LF of a fold does not show it, the next other byte does.
        let shows = (line + limit..text).find(|place| !matches!(bytes[*place], b'\r' | b'\n'));
        if let Some(shows) = shows {
            found.push((shows, 3, Err((kind, (line + limit) as u32))));
        }
        line = text + 2;
    }
    let (_, _, outcome) = found.into_iter().min_by_key(|(place, rank, _)| (*place, *rank))?;
    Some(outcome)
}

/// Where each header line begins, its name if it has one, and its value.
fn reference_headers(head: &[u8]) -> Vec<(u32, Option<Vec<u8>>, Vec<u8>)> {
    let mut lines: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut place = 0;
    for line in head[..head.len() - 4].split(|byte| *byte == b'\n') {
        match lines.last_mut() {
            Some((_, text)) if matches!(line.first(), Some(b' ' | b'\t')) => {
                text.push(b'\n');
                text.extend_from_slice(line);
            }
            _ => lines.push((place, line.to_vec())),
        }
        place += line.len() as u32 + 1;
    }
    let blank = |byte: &u8| b" \t\r\n".contains(byte);
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    let header = |(place, line): (u32, Vec<u8>)| {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return (place, None, Vec::new());
        };
        let name_end = line[..colon].iter().rposition(|byte| !b" \t".contains(byte));
        let name = &line[..name_end.map_or(0, |last| last + 1)];
        let named = !name.is_empty() && name.iter().all(token);
        let value = &line[colon + 1..];
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        (place, named.then(|| name.to_vec()), value[start..end].to_vec())
    };
    lines.into_iter().skip(1).map(header).collect()
}

fn reference_body(head: &[u8], limits: &FrameLimits) -> Result<usize, Blame> {
    let start = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words = start.split(|byte| *byte == b' ').count();
    let response = start.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"));
    let trimmed = start.trim_ascii_end();
    let spaces = trimmed.iter().filter(|byte| **byte == b' ').count();
    let last = trimmed.iter().rposition(|byte| *byte == b' ');
    let first = start.iter().position(|byte| *byte == b' ');
    let request = spaces >= 2 && last != first;
    if (response && words < 2) || (!response && !request) {
        return Err((FaultKind::StartLineBad, 0));
    }
    let headers = reference_headers(head);
    for (index, (place, name, _)) in headers.iter().enumerate() {
        if name.is_none() {
            return Err((FaultKind::HeaderNameBad, *place));
        }
        if index as u32 == limits.headers {
            return Err((FaultKind::HeadersMany, *place));
        }
    }
    let quoted_nuls = |(place, _, _): &(u32, Option<Vec<u8>>, Vec<u8>)| {
        let next = headers.iter().map(|(next, ..)| *next).find(|next| next > place);
        let line = &head[*place as usize..next.unwrap_or(head.len() as u32) as usize];
        let mut quoted = false;
        let mut escaped = false;
        for (offset, byte) in line.iter().enumerate() {
            match byte {
                0 if !(quoted && escaped) => return Some(place + offset as u32),
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
        }
        None
    };
    let mut lengths = headers.iter().filter(|(_, name, _)| {
        let name = name.as_deref().unwrap_or_default().to_ascii_lowercase();
        name == b"content-length" || name == b"l"
    });
    let value_place = |place: u32, value: &[u8]| {
        let line = &head[place as usize..];
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let blanks = line[colon + 1..].iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
        // An empty value stands where its line ends.
        let end = line_end(&line[colon + 1..]) - 2;
        let blanks = if value.is_empty() { end } else { blanks };
        place + (colon + 1 + blanks) as u32
    };
    let first = lengths.next().ok_or((FaultKind::ContentLengthMissing, head.len() as u32));
    let outcome = first.and_then(|(place, _, value)| {
        if let Some((second, ..)) = lengths.next() {
            return Err((FaultKind::ContentLengthRepeated, *second));
        }
        let text = String::from_utf8_lossy(value);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(length) if digits && length <= u64::from(limits.body) => Ok(length as usize),
            Ok(_) if digits => Err((FaultKind::BodyLong, value_place(*place, value))),
            _ => Err((FaultKind::ContentLengthBad, value_place(*place, value))),
        }
    });
    match (outcome, headers.iter().find_map(quoted_nuls)) {
        (Ok(_), Some(nul)) => Err((FaultKind::Nul, nul)),
        (outcome, _) => outcome,
    }
}

/// Bytes up to and with the CRLF that no blank follows.
fn line_end(bytes: &[u8]) -> usize {
    let mut end = 0;
    loop {
        let Some(next) = bytes[end..].windows(2).position(|it| it == b"\r\n") else {
            return bytes.len();
        };
        end += next + 2;
        if !matches!(bytes.get(end), Some(b' ' | b'\t')) {
            return end;
        }
    }
}

/// Every question that can be asked of a message has an answer, and all spans lie inside it.
pub fn message_view(data: &[u8]) {
    let mut state = FrameState::default();
    if let Ok(Framed::Message(message)) = frame(data, &mut state, &FrameLimits::default()) {
        check_view(&message, false);
    }
    if let Some(message) = salvage(data, &FrameLimits::default()) {
        check_view(&message, true);
    }
}

fn check_view(message: &Message<'_>, salvaged: bool) {
    let mut at = message.start_line().end + 2;
    for header in message.headers() {
        // `salvage` leaves out the lines that it cannot read.
        assert!(header.line().start == at || salvaged, "a gap between header lines");
        at = header.line().end;
        assert!(message.text(header.line()).ends_with(b"\r\n"));
        let _ = message.value(header);
        let name = message.text(header.name_span());
        assert_eq!(Name::of(name), header.name);
    }
    assert!(at as usize <= message.len());
    let _ = message.start();
    let _ = message.validate_request();
    let _ = message.validate_response();
    for name in Name::ALL {
        let rows = message.rows(name).count();
        assert_eq!(rows, message.headers().iter().filter(|it| it.name == name).count());
        assert_eq!(message.first(name).is_some(), rows > 0);
        for value in message.values(name) {
            assert_eq!(message.text(value.span), value.bytes);
            let line = message.headers()[value.header].line();
            assert!(line.start <= value.span.start && value.span.end <= line.end);
        }
        let _ = message.has_option(name, b"path");
    }
    for via in message.vias().flatten() {
        check_via(message.bytes(), &via);
    }
    let _ = (message.call_id(), message.cseq(), message.max_forwards(), message.method());
    let _ = (message.from_tag(), message.to_tag(), message.from_uri(), message.to_uri());
    let same: Vec<u8> = Patch::new(message).pieces().flatten().copied().collect();
    assert_eq!(same, message.bytes());
}

fn check_via(text: &[u8], via: &Via<'_>) {
    assert!(via.span.start <= via.span.end && via.span.end as usize <= text.len());
    assert!(!via.host.is_empty() && !via.transport.is_empty());
    for parameter in
        via.oc_parameters().chain(via.received_parameter()).chain(via.rport_parameter())
    {
        assert!(via.parameters.start <= parameter.whole.start);
        assert!(parameter.whole.end <= via.span.end);
        assert_eq!(text[parameter.whole.start as usize], b';');
    }
    // What was read is read again from its own bytes.
    let again =
        Via::parse(via.span.of(text), Range32::new(0, via.span.len())).expect("read before");
    assert_eq!((again.host, again.port, again.branch()), (via.host, via.port, via.branch()));
}

/// A URI that is read is read the same again when its parts are put together.
pub fn uri(data: &[u8]) {
    if let Ok(uri) = Uri::parse(data) {
        assert!(data.starts_with(uri.scheme_name));
        let _ = (uri.transport(), uri.maddr(), uri.lr(), uri.ob(), super::uri::host_ip(uri.host));
        assert!(super::uri::same_host(uri.host, uri.host));
        assert_eq!(uri.opaque.len(), data.len() - uri.scheme_name.len() - 1);
        for (name, _) in uri.params() {
            assert!(!name.is_empty());
        }
    }
    if let Ok(name_addr) = NameAddr::parse(data) {
        assert_eq!(name_addr.uri_span.of(data), name_addr.uri);
        let _ = name_addr.param("tag");
        for parameter in name_addr.params() {
            assert!(parameter.whole.end as usize <= data.len());
        }
    }
}

/// A Via value that is read lies in its bytes.
pub fn via(data: &[u8]) {
    if let Ok(via) = Via::parse(data, Range32::new(0, data.len() as u32)) {
        check_via(data, &via);
    }
}

/// Values of a route set: nothing is lost between them but commas and blanks, and taking some away leaves the others.
pub fn route_set(data: &[u8]) {
    let mut source = Source(data);
    let taken = source.below(6);
    let mut text = b"ACK sip:a@b SIP/2.0\r\nRoute:".to_vec();
    text.extend(source.rest().iter().filter(|byte| !b"\r\n\0".contains(byte)));
    text.extend_from_slice(b"\r\nl:0\r\nRoute: <sip:last;lr>\r\n\r\n");
    let before = parsed(&text, |message| {
        let values: Vec<Vec<u8>> =
            message.values(Name::Route).map(|value| value.bytes.to_vec()).collect();
        let mut patch = Patch::new(message);
        patch.remove_values(Name::Route, taken);
        (values, patch.pieces().flatten().copied().collect::<Vec<u8>>())
    });
    let Some((values, edited)) = before else { return };
    let after = parsed(&edited, |message| {
        message.values(Name::Route).map(|value| value.bytes.to_vec()).collect::<Vec<_>>()
    });
    // An empty value is a fault of the peer; alone on its line it is no value at all.
    let filled = |values: &[Vec<u8>]| {
        values.iter().filter(|value| !value.is_empty()).cloned().collect::<Vec<_>>()
    };
    let after = after.expect("still a message");
    assert_eq!(filled(&after), filled(&values[taken.min(values.len())..]), "from {values:?}");
}

fn parsed<T>(bytes: &[u8], ask: impl FnOnce(&Message<'_>) -> T) -> Option<T> {
    match frame(bytes, &mut FrameState::default(), &FrameLimits::default()) {
        Ok(Framed::Message(message)) => Some(ask(&message)),
        _ => None,
    }
}

/// Whatever stands as a Content-Length value, a message comes out only if it is digits that fit, and the plain form that
/// goes out says the same.
pub fn content_length(data: &[u8]) {
    let mut text = b"ACK sip:a@b SIP/2.0\r\nContent-Length:".to_vec();
    text.extend_from_slice(data);
    text.extend_from_slice(b"\r\n\r\n");
    let head = text.len();
    text.extend_from_slice(&[b'x'; 300]);
    let Some((len, edited)) = parsed(&text, |message| {
        let mut patch = Patch::new(message);
        patch.plain_content_length();
        (message.len(), patch.pieces().flatten().copied().collect::<Vec<u8>>())
    }) else {
        return;
    };
    // More lines than one may have come with the data.
    if !data.contains(&b'\n') {
        let digits = data.trim_ascii();
        assert!(digits.iter().all(u8::is_ascii_digit) && !digits.is_empty());
        let number: usize = String::from_utf8_lossy(digits).parse().expect("digits");
        assert_eq!(number, len - head);
    }
    let again = parsed(&edited, |message| (message.len(), message.body().len()));
    assert_eq!(again, Some((edited.len(), len - head_len(&text))));
}

fn head_len(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|it| it == b"\r\n\r\n").map_or(0, |place| place + 4)
}

/// A patch yields what a splice byte by byte yields.
pub fn patch(data: &[u8]) {
    let mut source = Source(data);
    let text = b"OPTIONS sip:a@b SIP/2.0\r\nl: 3\r\n\r\nabc".as_slice();
    let edits: Vec<(Range32, Vec<u8>)> = (0..source.below(40))
        .map(|_| {
            let start = source.below(text.len() + 1);
            let end = start + source.below(text.len() + 1 - start).min(source.below(8));
            let len = source.below(5);
            (Range32::new(start as u32, end as u32), (0..len).map(|_| source.byte()).collect())
        })
        .collect();
    let expected = splice(text, &edits);
    let edited = parsed(text, |message| {
        let mut patch = Patch::new(message);
        for (range, text) in &edits {
            patch.replace(*range, text);
        }
        assert_eq!(patch.len(), expected.len());
        assert!(patch.len_max() >= expected.len());
        assert!(patch.pieces().all(|piece| !piece.is_empty()));
        let mut folded = Vec::new();
        patch.write_into(&mut |piece| folded.extend_from_slice(piece));
        let stepped: Vec<u8> = patch.pieces().flat_map(|piece| piece.iter().copied()).collect();
        assert_eq!(folded, stepped, "one by one and in one loop");
        patch.pieces().flatten().copied().collect::<Vec<u8>>()
    });
    assert_eq!(edited, Some(expected));
}

/// Each place in turn: the texts added there, in order, then the byte if nothing covers it.
pub(crate) fn splice(text: &[u8], edits: &[(Range32, Vec<u8>)]) -> Vec<u8> {
    let mut spliced = Vec::new();
    for place in 0..=text.len() as u32 {
        let here = edits.iter().filter(|(range, _)| range.start == place);
        here.for_each(|(_, text)| spliced.extend_from_slice(text));
        let covered = edits.iter().any(|(range, _)| (range.start..range.end).contains(&place));
        if !covered {
            spliced.extend(text.get(place as usize));
        }
    }
    spliced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    const WORDS: [&[u8]; 44] = [
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n ",
        b"\r",
        b"\n",
        b"\0",
        b"\\\0",
        b"\"",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"<",
        b">",
        b"INVITE sip:bob@example.com SIP/2.0\r\n",
        b"OPTIONS sip:a@[2001:db8::1]:5060;transport=tcp SIP/2.0\r\n",
        b"SIP/2.0 200 OK\r\n",
        b"Via: SIP/2.0/TCP host;branch=z9hG4bKx;rport\r\n",
        b"v : SIP / 2.0 / TLS [::1]:5061 ; branch = z9hG4bKy , SIP/2.0/UDP lower\r\n",
        b"Max-Forwards: 70\r\n",
        b"From: \"A\\\"\" <sip:a@b>;tag=1\r\n",
        b"To: sip:b@c;tag=2\r\n",
        b"Call-ID: a@b\r\n",
        b"CSeq: 1 INVITE\r\n",
        b"Route: <sip:a;lr>, \"x,\" <sip:b;lr>\r\n",
        b"Content-Length: 0\r\n",
        b"l: 3\r\n",
        b"Content-Length\t:\r\n  05\r\n",
        b"X: \"NUL \\\0\"\r\n",
        b"X: folded\r\n\there\r\n",
        b"P-Asserted-Identity: <sip:a@b>\r\n",
        b"No colon here\r\n",
        b"18446744073709551617",
        b"-1",
        b"0x10",
        b"abc",
        b"\x80\xff",
        b"SIP/2.0",
        b"sip:",
        b"=",
    ];

    /// Words put together, now and then with a byte changed.
    fn stream(random: &mut Random) -> Vec<u8> {
        let mut stream: Vec<u8> = Vec::new();
        for _ in 0..random.below(24) {
            stream.extend_from_slice(WORDS[random.below(WORDS.len() as u64) as usize]);
        }
        while !stream.is_empty() && random.one_in(3) {
            let place = random.below(stream.len() as u64) as usize;
            stream[place] = random.next_u64() as u8;
        }
        stream
    }

    /// Mostly whole requests and responses one after another.
    fn likely(random: &mut Random) -> Vec<u8> {
        let mut stream = Vec::new();
        for _ in 0..=random.below(3) {
            stream.extend_from_slice(WORDS[18 + random.below(3) as usize]);
            for _ in 0..random.below(9) {
                stream.extend_from_slice(WORDS[21 + random.below(15) as usize]);
            }
            stream.extend_from_slice(b"l: 3\r\n\r\nabc");
        }
        if random.one_in(2) {
            let place = random.below(stream.len() as u64) as usize;
            stream[place] = WORDS[random.below(18) as usize][0];
        }
        stream
    }

    fn run(rounds: u64, body: fn(&[u8]), prefix: u64) {
        for seed in 0..rounds {
            let mut random = Random::new(seed);
            let mut data: Vec<u8> = (0..prefix).map(|_| random.next_u64() as u8).collect();
            let rest = if seed % 2 == 0 { stream(&mut random) } else { likely(&mut random) };
            data.extend_from_slice(&rest);
            let outcome = std::panic::catch_unwind(|| body(&data));
            assert!(outcome.is_ok(), "seed {seed}: {:?}", String::from_utf8_lossy(&data));
        }
    }

    #[test]
    fn frames_are_the_same_at_any_split_and_as_in_the_reference() {
        run(20_000, frame_any_split, 24);
    }

    #[test]
    fn every_message_answers_every_question() {
        run(5_000, message_view, 0);
    }

    #[test]
    fn uris_are_read_or_refused() {
        run(5_000, uri, 0);
    }

    #[test]
    fn vias_are_read_or_refused() {
        run(5_000, via, 0);
    }

    #[test]
    fn routes_are_taken_away_one_by_one() {
        run(5_000, route_set, 2);
    }

    #[test]
    fn content_lengths_are_digits_or_refused() {
        run(5_000, content_length, 0);
    }

    #[test]
    fn a_patch_is_a_splice() {
        for seed in 0..5_000 {
            let mut random = Random::new(seed);
            let data: Vec<u8> = (0..400).map(|_| random.next_u64() as u8).collect();
            patch(&data);
        }
    }
}
