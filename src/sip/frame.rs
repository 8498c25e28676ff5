//! Frames SIP messages out of a byte stream (RFC 3261 7.5, 18.3) and indexes their headers in the same pass, so that
//! framer and parser cannot disagree. Owns nothing: the caller keeps the bytes. Never guesses: a stream whose next
//! message cannot be found for certain is lost.
//! Invariant: `line_start <= searched <= bytes.len()` for the bytes that the state was made with and all later ones.

use memchr::memchr;
use smallvec::SmallVec;

use super::error::{Fault, FaultKind};
use super::message::{Header, Index, Message, StartLine};
use super::name::{Method, Name};
use super::text::{self, Range32, decimal};

/// Bounds on one message (contract `[limits]`), in bytes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Without its CRLF.
    pub start_line: u32,
    pub uri: u32,
    /// One header with its folds, without the final CRLF.
    pub header_line: u32,
    /// Start line, headers and empty line.
    pub head: u32,
    pub headers: u32,
    pub vias: u32,
    pub routes: u32,
    pub contacts: u32,
    pub parameters: u32,
    pub body: u32,
}

impl Default for FrameLimits {
    /// The values of contract.md.
    fn default() -> Self {
        FrameLimits {
            start_line: 2 * 1024,
            uri: 1024,
            header_line: 4 * 1024,
            head: 16 * 1024,
            headers: 128,
            vias: 32,
            routes: 16,
            contacts: 10,
            parameters: 32,
            body: 64 * 1024,
        }
    }
}

/// How far the bytes at hand have been searched, so that a message that comes byte by byte costs linear time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameState {
    /// Bytes known to hold no head end and no fault.
    searched: u32,
    /// Where the header line under way begins.
    line_start: u32,
    /// Length of the whole message once its head is complete; 0 before.
    needed: u32,
}

impl FrameState {
    /// For the next message; `frame` does it whenever it yields something that is taken.
    pub fn reset(&mut self) {
        *self = FrameState::default();
    }
}

/// What stands at the front of the bytes at hand.
#[derive(Clone, Debug)]
pub enum Framed<'a> {
    /// Nothing whole yet. A lone CRLF is half a ping or a pong: see `is_pong`.
    Partial,
    /// CRLFCRLF: 4 bytes, a CRLF is owed (RFC 5626 4.4.1).
    Ping,
    /// CRLF before something else: `len` bytes to skip (RFC 3261 7.5).
    Blank {
        len: u32,
    },
    Message(Message<'a>),
}

/// Whether all that is at hand is the CRLF that answers our own ping (RFC 5626 4.4.1).
pub fn is_pong(bytes: &[u8]) -> bool {
    bytes == b"\r\n"
}

/// Takes what stands at the front of `bytes`. Call again with the same front and more bytes after `Partial`; with the
/// same `state`. A fault ends the stream: `salvage` may still find the request to answer.
pub fn frame<'a>(
    bytes: &'a [u8],
    state: &mut FrameState,
    limits: &FrameLimits,
) -> Result<Framed<'a>, Fault> {
    if state.searched == 0
        && let Some(framed) = before_message(bytes)?
    {
        return Ok(framed);
    }
    if (bytes.len() as u64) < u64::from(state.needed) {
        return Ok(Framed::Partial);
    }
    let Some(head_len) = head_end(bytes, limits)? else { return Ok(Framed::Partial) };
    let head = index(bytes, head_len, limits)?;
    let whole = head_len + head.body;
    if bytes.len() < whole as usize {
        state.searched = head_len;
        state.needed = whole;
        return Ok(Framed::Partial);
    }
    state.reset();
    let bytes = &bytes[..whole as usize];
    Ok(Framed::Message(Message::new(bytes, head_len, head.start, head.index, head.excess)))
}

fn before_message(bytes: &[u8]) -> Result<Option<Framed<'_>>, Fault> {
    Ok(match bytes {
        [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => Some(Framed::Partial),
        [b'\r', b'\n', b'\r', b'\n', ..] => Some(Framed::Ping),
        [b'\r', b'\n', b'\r', ..] => return Err(Fault::new(FaultKind::BareCarriageReturn, 2)),
        [b'\r', b'\n', ..] => Some(Framed::Blank { len: 2 }),
        _ => None,
    })
}

/// Bytes up to and with the empty line; faults of single bytes and of lengths on the way.
fn head_end(bytes: &[u8], limits: &FrameLimits) -> Result<Option<u32>, Fault> {
    let mut line_start = 0;
    let mut started = false;
    for (place, byte) in bytes.iter().enumerate() {
        let at = place as u32;
        let next = bytes.get(place + 1);
        if at >= limits.head {
            return Err(Fault::new(FaultKind::HeadLong, at));
        }
        match byte {
            0 => return Err(Fault::new(FaultKind::Nul, at)),
            b'\n' if at == 0 || bytes[place - 1] != b'\r' => {
                return Err(Fault::new(FaultKind::BareLineFeed, at));
            }
            b'\r' if next.is_some_and(|next| *next != b'\n') => {
                return Err(Fault::new(FaultKind::BareCarriageReturn, at));
            }
            b'\n' if at == line_start + 1 => return Ok(Some(at + 1)),
            b'\n' => match next {
                Some(b' ' | b'\t') if !started => {
                    return Err(Fault::new(FaultKind::StartLineFolded, at + 1));
                }
                Some(b' ' | b'\t') => {}
                Some(_) => {
                    started = true;
                    line_start = at + 1;
                }
                None => {}
            },
            b'\r' => {}
            _ => {
                let (limit, kind) = match started {
                    true => (limits.header_line, FaultKind::HeaderLineLong),
                    false => (limits.start_line, FaultKind::StartLineLong),
                };
                if at - line_start >= limit {
                    return Err(Fault::new(kind, at));
                }
            }
        }
    }
    if bytes.len() >= limits.head as usize {
        return Err(Fault::new(FaultKind::HeadLong, limits.head));
    }
    Ok(None)
}

struct Head {
    start: StartLine,
    index: Index,
    body: u32,
    excess: Option<Fault>,
}

fn index(bytes: &[u8], head_len: u32, limits: &FrameLimits) -> Result<Head, Fault> {
    let head = &bytes[..head_len as usize];
    let start_end = memchr(b'\r', head).unwrap_or(0) as u32;
    let start = start_line(head, start_end)?;
    let mut index = Index { headers: SmallVec::new(), first: [0; Name::COUNT] };
    let mut at = start_end + 2;
    while at + 2 < head_len {
        let mut end = at;
        loop {
            end += memchr(b'\n', &head[end as usize..]).unwrap_or(0) as u32 + 1;
            if !matches!(head.get(end as usize), Some(b' ' | b'\t')) {
                break;
            }
        }
        if index.headers.len() >= limits.headers as usize {
            return Err(Fault::new(FaultKind::HeadersMany, at));
        }
        push_header(head, Range32::new(at, end), &mut index)?;
        at = end;
    }
    let mut body = None;
    for header in index.headers.iter().filter(|header| header.name == Name::ContentLength) {
        if body.is_some() {
            return Err(Fault::new(FaultKind::ContentLengthRepeated, header.line.start));
        }
        let length = decimal(header.value.of(head))
            .ok_or(Fault::new(FaultKind::ContentLengthBad, header.value.start))?;
        if length > u64::from(limits.body) {
            return Err(Fault::new(FaultKind::BodyLong, header.value.start));
        }
        body = Some(length as u32);
    }
    let body = body.ok_or(Fault::new(FaultKind::ContentLengthMissing, head_len))?;
    let long = start.request && start.second.len() > limits.uri;
    let excess = long.then_some(Fault::new(FaultKind::UriLong, start.second.start));
    Ok(Head { start, index, body, excess })
}

fn push_header(head: &[u8], line: Range32, index: &mut Index) -> Result<(), Fault> {
    let text = line.of(head);
    let fault = Fault::new(FaultKind::HeaderNameBad, line.start);
    let colon = memchr(b':', text).ok_or(fault)? as u32;
    let mut name_end = colon;
    while name_end > 0 && matches!(text[name_end as usize - 1], b' ' | b'\t') {
        name_end -= 1;
    }
    let name_span = Range32::new(line.start, line.start + name_end);
    if !text::is_token(name_span.of(head)) {
        return Err(fault);
    }
    let name = Name::of(name_span.of(head));
    let value = text::trimmed(head, Range32::new(line.start + colon + 1, line.end));
    index.headers.push(Header { name, line, name_span, value });
    if index.first[name as usize] == 0 {
        index.first[name as usize] = index.headers.len() as u16;
    }
    Ok(())
}

fn start_line(head: &[u8], end: u32) -> Result<StartLine, Fault> {
    let line = &head[..end as usize];
    let fault = Fault::new(FaultKind::StartLineBad, 0);
    let space = memchr(b' ', line).ok_or(fault)? as u32;
    let first = Range32::new(0, space);
    if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
        let rest = &line[space as usize + 1..];
        let code = memchr(b' ', rest).unwrap_or(rest.len()) as u32;
        let status_span = Range32::new(space + 1, space + 1 + code);
        let status = match status_span.of(line) {
            digits @ [_, _, _] => decimal(digits).unwrap_or(0) as u16,
            _ => 0,
        };
        let reason = Range32::new((status_span.end + 1).min(end), end);
        return Ok(StartLine {
            request: false,
            method: Method::Other,
            status,
            first: status_span,
            second: reason,
            version: first,
            end,
        });
    }
    let trimmed_end = text::trimmed(line, Range32::new(0, end)).end;
    let last = memchr::memrchr(b' ', &line[..trimmed_end as usize]).ok_or(fault)? as u32;
    if last <= space {
        return Err(fault);
    }
    Ok(StartLine {
        request: true,
        method: Method::from_bytes(first.of(line)),
        status: 0,
        first,
        second: Range32::new(space + 1, last),
        version: Range32::new(last + 1, trimmed_end),
        end,
    })
}

/// A request whose framing is at fault but whose head can be read, with an empty body, so that it can be answered
/// before the stream is closed.
pub fn salvage<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Option<Message<'a>> {
    let head_len = head_end(bytes, limits).ok()??;
    let head = index(bytes, head_len, limits).ok()?;
    Some(Message::new(&bytes[..head_len as usize], head_len, head.start, head.index, head.excess))
}
