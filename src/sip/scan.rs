//! One pass over a head: where its lines end, what each line is, and how long the body is.
//! Owns the only reading of header lines in the program: whoever frames and whoever parses see the same headers. Never
//! decides what to do with bytes that are out of the ordinary: it says so and stops.
//! Invariant: header lines follow each other without a gap from the start line to the empty line.

use smallvec::SmallVec;
use wide::u8x16;

use super::error::{Fault, FaultKind};
use super::frame::FrameLimits;
use super::message::{Header, Index, StartLine};
use super::name::{Method, Name};
use super::text::{self, Range32, decimal};

/// What a scan found.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Up to and with the empty line.
    pub len: u32,
    pub start: StartLine,
    pub index: Index,
    /// The body's length, or the first fault of the head that is not a fault of single bytes.
    pub body: Result<u32, Fault>,
}

impl Head {
    pub fn new() -> Self {
        Head {
            len: 0,
            start: StartLine::default(),
            index: Index { headers: SmallVec::new(), first: [0; Name::COUNT] },
            body: Ok(0),
        }
    }

    /// Keeps the first fault.
    #[cold]
    pub fn blame(&mut self, kind: FaultKind, offset: u32) {
        if self.body.is_ok() {
            self.body = Err(Fault::new(kind, offset));
        }
    }
}

/// Indexes the head at the front of `bytes` into the new `head`. False when it does not end here or when anything in it
/// is out of the ordinary; what came before is indexed then, too. `searched`: a NUL has been found to be quoted.
pub(super) fn scan(bytes: &[u8], searched: bool, limits: &FrameLimits, head: &mut Head) -> bool {
    let bytes = &bytes[..bytes.len().min(limits.head_max())];
    // Line ends that are found but not indexed, and where the first of these lines begins.
    let mut ends = [0; ENDS];
    let mut count = 0;
    let mut first_line = 0;
    let mut line = 0;
    let mut base = 0;
    while base < bytes.len() {
        let padded;
        let (window, mut mask) = match bytes.get(base..base + WINDOW).and_then(<[u8]>::first_chunk)
        {
            Some(window) => (window, controls(window)),
            None => {
                padded = last_window(&bytes[base..]);
                (&padded, last_controls(&padded, bytes.len() - base))
            }
        };
        while mask != 0 {
            let bit = mask.trailing_zeros() as usize;
            let at = base + bit;
            mask &= mask - 1;
            let word = u32::from_le_bytes([
                window[bit],
                window[bit + 1],
                window[bit + 2],
                window[bit + 3],
            ]);
            match line_end(word, at == line, line == 0) {
                LineEnd::None if !is_odd(bytes, at, searched) => continue,
                LineEnd::None | LineEnd::Odd => {
                    index(bytes, first_line, &ends[..count], limits, head);
                    return false;
                }
                LineEnd::Folded => {}
                LineEnd::Text => {
                    ends[count] = at as u32;
                    count += 1;
                    line = at + 2;
                }
                LineEnd::Empty => {
                    let good = index(bytes, first_line, &ends[..count], limits, head);
                    return good && finish(bytes, at + 2, searched, limits, head);
                }
            }
            // Past the LF. Where the next block begins with it, `is_odd` knows it.
            mask &= mask.wrapping_sub(1);
        }
        if count > ENDS - BLOCK / 2 {
            if !index(bytes, first_line, &ends[..count], limits, head) {
                return false;
            }
            first_line = line;
            count = 0;
        }
        base += BLOCK;
    }
    index(bytes, first_line, &ends[..count], limits, head);
    false
}

/// The head is complete.
fn finish(bytes: &[u8], len: usize, searched: bool, limits: &FrameLimits, head: &mut Head) -> bool {
    head.len = len as u32;
    head.index.locate();
    if head.body.is_ok() {
        head.body = content_length(bytes, limits, head);
    }
    // Whatever is wrong with single bytes and lengths is told first, wherever it stands. A head within the limit of one
    // line has no longer line.
    let long = |header: &Header| header.line().len() - 2 > limits.header_line;
    let short = head.len <= limits.header_line || !head.index.headers.iter().any(long);
    searched || (head.body.is_ok() && short)
}

/// Line ends that are found before they are looked at: more than most messages have, and those of one block more.
const ENDS: usize = 64;

/// Bytes whose places are found at once: the bits of a word.
const BLOCK: usize = 64;

const _: () = assert!(ENDS > BLOCK / 2);

/// What a byte below SP means.
enum LineEnd {
    /// The CRLF of a line with something in it.
    Text,
    /// A CRLF before a fold.
    Folded,
    /// The CRLF of the empty line.
    Empty,
    /// No CRLF.
    None,
    /// A CRLF with the end of all bytes or a fold behind it, where neither may be.
    Odd,
}

/// What a byte below SP and the three bytes behind it mean, the first one lowest. `empty`: the line begins here; `start`:
/// it is the start line.
#[inline(always)]
fn line_end(word: u32, empty: bool, start: bool) -> LineEnd {
    let behind = (word >> 16) as u8;
    match word & 0xFFFF {
        CRLF if empty => LineEnd::Empty,
        CRLF if behind > b' ' => LineEnd::Text,
        CRLF => match behind {
            b' ' | b'\t' if !start => LineEnd::Folded,
            // Where the bytes end nothing is known of what comes: 0 stands there.
            b' ' | b'\t' | 0 => LineEnd::Odd,
            _ => LineEnd::Text,
        },
        _ => LineEnd::None,
    }
}

/// Whether a byte below SP that does not begin a CRLF must not stand where it does.
#[cold]
#[inline(never)]
fn is_odd(bytes: &[u8], at: usize, searched: bool) -> bool {
    match bytes[at] {
        b'\r' => true,
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        0 => !searched,
        _ => false,
    }
}

const CRLF: u32 = u32::from_le_bytes(*b"\r\n\0\0");

/// A block, and as much as must be seen behind its last byte.
const WINDOW: usize = BLOCK + 3;

/// The bytes below SP of the block, as bits, the first byte lowest.
#[inline(always)]
fn controls(window: &[u8; WINDOW]) -> u64 {
    let highest = u8x16::splat(b' ' - 1);
    let (lanes, _) = window.as_chunks::<16>();
    let mut mask = 0;
    for (place, lane) in lanes.iter().enumerate() {
        let lane = u8x16::new(*lane);
        let below = lane.min(highest).simd_eq(lane).to_bitmask();
        mask |= u64::from(below) << (16 * place);
    }
    mask
}

/// What is left when it is less than a window, and 0 behind it.
#[cold]
#[inline(never)]
fn last_window(rest: &[u8]) -> [u8; WINDOW] {
    let mut padded = [0; WINDOW];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// `controls` of the first `len` bytes.
#[cold]
#[inline(never)]
fn last_controls(padded: &[u8; WINDOW], len: usize) -> u64 {
    let there = if len < BLOCK { (1 << len) - 1 } else { u64::MAX };
    controls(padded) & there
}

/// Indexes the lines that follow each other from `start` on and whose CRLFs stand at `ends`; the first line of all is
/// the start line. False when that is too long.
fn index(bytes: &[u8], start: usize, ends: &[u32], limits: &FrameLimits, head: &mut Head) -> bool {
    if start > 0 {
        index_headers(bytes, start, ends, limits, head);
    } else if let Some((end, ends)) = ends.split_first() {
        if *end > limits.start_line {
            return false;
        }
        start_line(&bytes[..*end as usize], head);
        index_headers(bytes, *end as usize + 2, ends, limits, head);
    }
    true
}

fn index_headers(bytes: &[u8], start: usize, ends: &[u32], limits: &FrameLimits, head: &mut Head) {
    let mut nameless = None;
    head.index.headers.extend(Batch { bytes, start, ends: ends.iter(), nameless: &mut nameless });
    let many = head.index.headers.get(limits.headers as usize).map(|header| header.line().start);
    // The first fault in the order of the bytes.
    match (nameless, many) {
        (Some(at), many) if many.is_none_or(|many| at < many) => {
            head.blame(FaultKind::HeaderNameBad, at);
        }
        (_, Some(at)) => head.blame(FaultKind::HeadersMany, at),
        _ => {}
    }
    head.index.headers.truncate(limits.headers as usize);
}

/// Yields the headers of a batch of lines. Given away to the vector that it fills, so that the loop there keeps it in
/// registers.
struct Batch<'a, 'h> {
    bytes: &'a [u8],
    /// Where the next line begins.
    start: usize,
    ends: std::slice::Iter<'h, u32>,
    /// The first line without a name.
    nameless: &'h mut Option<u32>,
}

impl Iterator for Batch<'_, '_> {
    type Item = Header;

    #[inline(always)]
    fn next(&mut self) -> Option<Header> {
        loop {
            let end = *self.ends.next()? as usize;
            let start = std::mem::replace(&mut self.start, end + 2);
            let Some((name, name_len, colon)) = Name::before_colon(self.bytes, start, end) else {
                self.nameless.get_or_insert(start as u32);
                continue;
            };
            return Some(Header {
                name,
                start: start as u16,
                end: end as u16 + 2,
                name_len,
                colon: colon as u16,
            });
        }
    }
}

/// One Content-Length, digits alone, at most the limit (RFC 3261 20.14).
fn content_length(bytes: &[u8], limits: &FrameLimits, head: &Head) -> Result<u32, Fault> {
    let fault = |kind, offset| Err(Fault::new(kind, offset));
    let Some(first) = head.index.first(Name::ContentLength) else {
        return fault(FaultKind::ContentLengthMissing, head.len);
    };
    let headers = &head.index.headers[first..];
    if let Some(second) = headers[1..].iter().find(|header| header.name == Name::ContentLength) {
        return fault(FaultKind::ContentLengthRepeated, second.line().start);
    }
    let value = text::trimmed(bytes, headers[0].body());
    match decimal(value.of(bytes)) {
        Some(length) if length <= u64::from(limits.body) => Ok(length as u32),
        Some(_) => fault(FaultKind::BodyLong, value.start),
        None => fault(FaultKind::ContentLengthBad, value.start),
    }
}

/// Cuts the start line, without its CRLF, into its parts.
fn start_line(line: &[u8], head: &mut Head) {
    let end = line.len();
    let first = first_space(line);
    let span = |start: usize, end: usize| Range32::new(start as u32, end as u32);
    let start = &mut head.start;
    start.end = end as u32;
    start.first = span(0, first);
    let version = match line.last_chunk() {
        Some(b" SIP/2.0") => Some((end - 7, end)),
        _ => version(line),
    };
    match version {
        _ if line
            .first_chunk()
            .is_some_and(|name: &[u8; 4]| name.eq_ignore_ascii_case(b"SIP/")) =>
        {
            status_line(line, first, head);
        }
        Some((version, version_end)) if version > first + 1 => {
            start.request = true;
            start.method = Method::from_bytes(&line[..first]);
            start.second = span(first + 1, version - 1);
            start.version = span(version, version_end);
        }
        _ => {
            start.request = true;
            start.method = Method::from_bytes(&line[..first]);
            head.blame(FaultKind::StartLineBad, 0);
        }
    }
}

/// Where the first space stands, or the end.
#[inline(always)]
fn first_space(line: &[u8]) -> usize {
    if let Some(word) = line.first_chunk() {
        let spaces = u8x16::new(*word).simd_eq(u8x16::splat(b' ')).to_bitmask();
        if spaces != 0 {
            return spaces.trailing_zeros() as usize;
        }
    }
    line.iter().position(|byte| *byte == b' ').unwrap_or(line.len())
}

/// Where the last word of a request line stands, whatever blanks are behind it.
#[cold]
fn version(line: &[u8]) -> Option<(usize, usize)> {
    let end = line.iter().rposition(|byte| !text::is_blank(*byte))? + 1;
    let space = line[..end].iter().rposition(|byte| *byte == b' ')?;
    Some((space + 1, end))
}

/// `first` is the version's end.
fn status_line(line: &[u8], first: usize, head: &mut Head) {
    let end = line.len();
    if first == end {
        head.blame(FaultKind::StartLineBad, 0);
    }
    let start = &mut head.start;
    let code = (first + 1).min(end);
    let code_len = line[code..].iter().position(|byte| *byte == b' ').unwrap_or(end - code);
    let code_end = code + code_len;
    if let digits @ [_, _, _] = &line[code..code_end] {
        start.status = decimal(digits).unwrap_or(0) as u16;
    }
    start.version = start.first;
    start.first = Range32::new(code as u32, code_end as u32);
    start.second = Range32::new((code_end + 1).min(end) as u32, end as u32);
}
