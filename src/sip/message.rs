//! One message as it was received: the start line, an index of header lines, slots for the first header of each name,
//! and what a proxy asks of them. Never owns bytes, never changes one.
//! Invariant: every span lies inside `bytes`; header lines follow each other without a gap from the start line to the
//! empty line.

use smallvec::SmallVec;

use super::error::{Fault, FaultKind};
use super::frame::FrameLimits;
use super::name::{Method, Name};
use super::scan::Head;
use super::text::{self, Cursor, Range32, trimmed};
use super::uri::NameAddr;
use super::via::Via;
use crate::base::limits::HEAD_BYTES_CEILING;

/// Header lines that are indexed without allocating: twice the usual message.
pub const INLINE_HEADERS: usize = 40;

/// One header line. Sixteen bits hold every place in a head: HEAD_BYTES_CEILING sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: Name,
    pub(super) start: u16,
    pub(super) end: u16,
    pub(super) name_len: u16,
    /// Where the colon stands in the line.
    pub(super) colon: u16,
}

const _: () = assert!(HEAD_BYTES_CEILING <= u16::MAX as u32);

impl Header {
    /// The whole line with its folds and the final CRLF.
    pub fn line(&self) -> Range32 {
        Range32::new(self.start.into(), self.end.into())
    }

    /// The name as written, without blanks before the colon.
    pub fn name_span(&self) -> Range32 {
        Range32::new(self.start.into(), u32::from(self.start) + u32::from(self.name_len))
    }

    /// The value with the blanks around it, without the final CRLF.
    pub(super) fn body(&self) -> Range32 {
        let start = u32::from(self.start) + u32::from(self.colon) + 1;
        Range32::new(start, u32::from(self.end) - 2)
    }
}

/// The start line. Parts of a line that is not well formed are cut at the outermost spaces; `validate_request` and
/// `validate_response` say what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    Request {
        method: Method,
        method_name: &'a [u8],
        uri: &'a [u8],
    },
    /// `status` is 0 when the code is not three digits.
    Response {
        status: u16,
        reason: &'a [u8],
    },
}

/// Where the parts of the start line stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StartLine {
    pub request: bool,
    pub method: Method,
    pub status: u16,
    /// Method or status code.
    pub first: Range32,
    /// Request-URI or reason phrase.
    pub second: Range32,
    pub version: Range32,
    /// Without its CRLF.
    pub end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    pub number: u32,
    pub method: &'a [u8],
}

/// The highest CSeq number (RFC 3261 8.1.1.5).
const CSEQ_MAX: u32 = i32::MAX as u32;

/// Index of header lines as the scanner fills it.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub headers: SmallVec<[Header; INLINE_HEADERS]>,
    /// For each name the place of its first header plus one; 0: none.
    pub first: [u16; Name::COUNT],
}

impl Index {
    /// Fills `first`, which is empty.
    pub fn locate(&mut self) {
        let mut place = self.headers.len() as u16;
        for header in self.headers.iter().rev() {
            self.first[header.name as usize] = place;
            place -= 1;
        }
    }

    /// Forgets all headers but the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.headers.truncate(count);
        self.first = [0; Name::COUNT];
        self.locate();
    }

    /// The place of the first header of this name.
    pub fn first(&self, name: Name) -> Option<usize> {
        usize::from(self.first[name as usize]).checked_sub(1)
    }
}

/// A message: what `frame` yields.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    head: Head,
    counts: Counts,
}

/// The limits that `validate_*` checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub uri: u32,
    pub vias: u32,
    pub routes: u32,
    pub contacts: u32,
    pub parameters: u32,
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8], head: Head, limits: &FrameLimits) -> Self {
        assert!(head.len as usize <= bytes.len());
        let counts = Counts {
            uri: limits.uri,
            vias: limits.vias,
            routes: limits.routes,
            contacts: limits.contacts,
            parameters: limits.parameters,
        };
        Message { bytes, head, counts }
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a message has a start line.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes up to and with the empty line.
    pub fn head_len(&self) -> usize {
        self.head.len as usize
    }

    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.head.len as usize..]
    }

    pub fn start(&self) -> Start<'a> {
        let start = &self.head.start;
        let (first, second) = (self.text(start.first), self.text(start.second));
        if start.request {
            Start::Request { method: start.method, method_name: first, uri: second }
        } else {
            Start::Response { status: start.status, reason: second }
        }
    }

    pub fn is_request(&self) -> bool {
        self.head.start.request
    }

    /// The method of a request, the method of CSeq for a response.
    pub fn method(&self) -> Method {
        match self.head.start.request {
            true => self.head.start.method,
            false => self.cseq().map_or(Method::Other, |cseq| Method::from_bytes(cseq.method)),
        }
    }

    /// Where the Request-URI stands; `None` in a response.
    pub fn request_uri_span(&self) -> Option<Range32> {
        self.head.start.request.then_some(self.head.start.second)
    }

    /// The start line without its CRLF.
    pub fn start_line(&self) -> Range32 {
        Range32::new(0, self.head.start.end)
    }

    pub fn headers(&self) -> &[Header] {
        &self.head.index.headers
    }

    pub(super) fn index(&self) -> &Index {
        &self.head.index
    }

    pub(super) fn start_parts(&self) -> &StartLine {
        &self.head.start
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn text(&self, range: Range32) -> &'a [u8] {
        range.of(self.bytes)
    }

    /// Where the value of a header line stands, without blanks at its ends, folds inside; at the end of its line when
    /// there is none.
    pub fn value_span(&self, header: &Header) -> Range32 {
        trimmed(self.bytes, header.body())
    }

    /// The value of a header line, without blanks at its ends, folds inside.
    pub fn value(&self, header: &Header) -> &'a [u8] {
        self.text(self.value_span(header))
    }

    pub fn first(&self, name: Name) -> Option<&Header> {
        Some(&self.head.index.headers[self.first_place(name)?])
    }

    fn first_place(&self, name: Name) -> Option<usize> {
        self.head.index.first(name)
    }

    /// The headers from the first one of this name on; none if there is none.
    pub(super) fn rows_from(&self, name: Name) -> &[Header] {
        let headers = &self.head.index.headers;
        &headers[self.first_place(name).unwrap_or(headers.len())..]
    }

    /// Where the last header line ends.
    pub(super) fn headers_end(&self) -> u32 {
        let last = self.head.index.headers.last();
        last.map_or(self.head.start.end + 2, |header| header.line().end)
    }

    /// Header lines of this name.
    pub fn count(&self, name: Name) -> usize {
        self.rows(name).count()
    }

    /// Header lines of this name in order, each with its place in `headers`.
    pub fn rows(&self, name: Name) -> impl Iterator<Item = (usize, &Header)> {
        let from = self.first_place(name).unwrap_or(self.head.index.headers.len());
        self.head.index.headers[from..]
            .iter()
            .enumerate()
            .filter(move |(_, header)| header.name == name)
            .map(move |(place, header)| (from + place, header))
    }

    /// The comma-separated values of all lines of this name, in order (RFC 3261 7.3.1). Not for the four headers with
    /// credentials and challenges.
    pub fn values(&self, name: Name) -> Values<'a, '_> {
        let row = self.first_place(name).unwrap_or(self.head.index.headers.len());
        Values { bytes: self.bytes, headers: &self.head.index.headers, name, row, at: None }
    }

    /// The topmost Via value.
    pub fn top_via(&self) -> Result<Via<'a>, Fault> {
        self.read_top_via(self.first(Name::Via).ok_or(self.missing())?)
    }

    pub(super) fn read_top_via(&self, header: &Header) -> Result<Via<'a>, Fault> {
        let mut cursor = Cursor::new(self.bytes, header.body());
        let via = Via::parse_front(self.bytes, &mut cursor)?;
        match cursor.peek() {
            None | Some(b',') => Ok(via),
            Some(_) => Err(cursor.fault(FaultKind::ViaBad)),
        }
    }

    /// All Via values in order.
    pub fn vias(&self) -> Vias<'a, '_> {
        let row = self.first_place(Name::Via).unwrap_or(self.index().headers.len());
        Vias { bytes: self.bytes, headers: &self.index().headers, row, at: None }
    }

    /// What stands below the topmost Via, which ends at `top`, as it is written: the rest of its line, and every line
    /// after it.
    pub fn below_top_via(&self, top: u32) -> impl Iterator<Item = &'a [u8]> {
        let mut from = top;
        let rows = self.rows_from(Name::Via).iter().filter(|row| row.name == Name::Via);
        rows.map(move |row| {
            let body = row.body();
            // The first line is the one that the topmost stands in.
            let start = std::mem::take(&mut from).clamp(body.start, body.end);
            self.text(Range32::new(start, body.end))
        })
    }

    /// Whether nothing stands below the topmost Via, which ends at `top`.
    pub fn is_only_via(&self, top: u32) -> bool {
        self.below_top_via(top).all(|text| trimmed(text, Range32::all(text)).is_empty())
    }

    pub(super) fn missing(&self) -> Fault {
        Fault::new(FaultKind::HeaderMissing, self.head.len)
    }

    /// The one header of this name.
    fn only(&self, name: Name) -> Result<&Header, Fault> {
        let place = self.first_place(name).ok_or(self.missing())?;
        let (header, behind) = match &self.index().headers[place..] {
            [header, behind @ ..] => (header, behind),
            [] => return Err(self.missing()),
        };
        match behind.iter().find(|header| header.name == name) {
            Some(second) => Err(Fault::new(FaultKind::HeaderRepeated, second.line().start)),
            None => Ok(header),
        }
    }

    pub fn call_id(&self) -> Result<&'a [u8], Fault> {
        self.read_call_id(self.only(Name::CallId)?)
    }

    pub(super) fn read_call_id(&self, header: &Header) -> Result<&'a [u8], Fault> {
        let value = self.value_span(header);
        let text = self.text(value);
        let fault = Fault::new(FaultKind::CallIdBad, value.start);
        if text::is_visible(text) { Ok(text) } else { Err(fault) }
    }

    pub fn cseq(&self) -> Result<CSeq<'a>, Fault> {
        self.read_cseq(self.only(Name::CSeq)?)
    }

    pub(super) fn read_cseq(&self, header: &Header) -> Result<CSeq<'a>, Fault> {
        let value = self.value_span(header);
        let text = self.text(value);
        let fault = Fault::new(FaultKind::CSeqBad, value.start);
        let digits = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
        let (digits, rest) = text.split_at(digits);
        // 31 bits hold every number that may be (RFC 3261 8.1.1.5).
        let number = text::decimal(digits).filter(|number| *number <= CSEQ_MAX.into());
        let number = number.ok_or(fault)? as u32;
        let blanks = rest.iter().position(|byte| !text::is_blank(*byte)).unwrap_or(0);
        let method = &rest[blanks..];
        if blanks > 0 && is_method(method) { Ok(CSeq { number, method }) } else { Err(fault) }
    }

    /// `None`: the header is absent.
    pub fn max_forwards(&self) -> Result<Option<u32>, Fault> {
        match self.first_place(Name::MaxForwards) {
            Some(_) => self.read_max_forwards(self.only(Name::MaxForwards)?).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn read_max_forwards(&self, header: &Header) -> Result<u32, Fault> {
        let value = self.value_span(header);
        match text::decimal(self.text(value)) {
            Some(hops) if hops <= 255 => Ok(hops as u32),
            _ => Err(Fault::new(FaultKind::MaxForwardsBad, value.start)),
        }
    }

    /// The one From or To value, read.
    fn party(&self, name: Name) -> Result<NameAddr<'a>, Fault> {
        self.read_party(self.only(name)?)
    }

    pub(super) fn read_party(&self, header: &Header) -> Result<NameAddr<'a>, Fault> {
        let value = self.value_span(header);
        NameAddr::parse(self.text(value)).map_err(|fault| {
            let from = header.name == Name::From;
            let kind = if from { FaultKind::FromBad } else { FaultKind::ToBad };
            Fault::new(kind, fault.offset).shifted(value.start)
        })
    }

    pub fn from(&self) -> Result<NameAddr<'a>, Fault> {
        self.party(Name::From)
    }

    pub fn to(&self) -> Result<NameAddr<'a>, Fault> {
        self.party(Name::To)
    }

    pub fn from_tag(&self) -> Result<Option<&'a [u8]>, Fault> {
        Ok(self.from()?.tag())
    }

    pub fn to_tag(&self) -> Result<Option<&'a [u8]>, Fault> {
        Ok(self.to()?.tag())
    }

    /// The bytes of From's URI.
    pub fn from_uri(&self) -> Result<&'a [u8], Fault> {
        Ok(self.from()?.uri)
    }

    /// The bytes of To's URI.
    pub fn to_uri(&self) -> Result<&'a [u8], Fault> {
        Ok(self.to()?.uri)
    }

    /// Whether an option tag stands in a list header such as Supported, Require, Proxy-Require.
    pub fn has_option(&self, name: Name, option: &[u8]) -> bool {
        self.values(name).any(|value| value.bytes.eq_ignore_ascii_case(option))
    }
}

pub(super) fn is_method(name: &[u8]) -> bool {
    Method::from_bytes(name) != Method::Other || text::is_token(name)
}

/// One value of a list header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Without blanks at its ends; empty when nothing stands between two commas.
    pub bytes: &'a [u8],
    /// Place of its line in `headers`.
    pub header: usize,
    pub span: Range32,
    pub first_in_row: bool,
    pub last_in_row: bool,
}

/// Values of a list header, over all its lines. A line without any value yields nothing.
#[derive(Clone, Debug)]
pub struct Values<'a, 'm> {
    bytes: &'a [u8],
    headers: &'m [Header],
    name: Name,
    row: usize,
    /// Where the next value of the row begins; `None`: a row has not been begun.
    at: Option<u32>,
}

impl<'a> Iterator for Values<'a, '_> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        loop {
            let header = self.headers.get(self.row)?;
            if header.name != self.name {
                self.row += 1;
                continue;
            }
            let all = trimmed(self.bytes, header.body());
            if all.is_empty() {
                self.row += 1;
                continue;
            }
            let rest = Range32::new(self.at.unwrap_or(all.start), all.end);
            let (value, next) = text::split_comma(self.bytes, rest);
            let span = text::trimmed(self.bytes, value);
            let value = Value {
                bytes: span.of(self.bytes),
                header: self.row,
                span,
                first_in_row: self.at.is_none(),
                last_in_row: next.is_none(),
            };
            self.at = next;
            self.row += usize::from(next.is_none());
            return Some(value);
        }
    }
}

/// All Via values over all lines. A value that cannot be read ends where its comma would be.
#[derive(Clone, Debug)]
pub struct Vias<'a, 'm> {
    bytes: &'a [u8],
    headers: &'m [Header],
    row: usize,
    /// Where the next value of the row begins; `None`: a row has not been begun.
    at: Option<u32>,
}

impl<'a> Iterator for Vias<'a, '_> {
    type Item = Result<Via<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let header = self.headers.get(self.row)?;
            let body = header.body();
            let rest = Range32::new(self.at.unwrap_or(body.start), body.end);
            if header.name != Name::Via
                || (self.at.is_none() && trimmed(self.bytes, rest).is_empty())
            {
                self.row += 1;
                continue;
            }
            let mut cursor = Cursor::new(self.bytes, rest);
            let mut via = Via::parse_front(self.bytes, &mut cursor);
            self.at = match cursor.peek() {
                None if via.is_ok() => None,
                Some(b',') if via.is_ok() => Some(cursor.at() + 1),
                _ => {
                    via = via.and(Err(cursor.fault(FaultKind::ViaBad)));
                    text::split_comma(self.bytes, rest).1
                }
            };
            self.row += usize::from(self.at.is_none());
            return Some(via);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::frame::{FrameState, Framed, frame};

    fn with<T>(text: &str, ask: impl FnOnce(&Message<'_>) -> T) -> T {
        match frame(text.as_bytes(), &mut FrameState::default(), &FrameLimits::default()) {
            Ok(Framed::Message(message)) => ask(&message),
            other => panic!("{other:?} of {text}"),
        }
    }

    #[test]
    fn a_message_falls_into_its_parts() {
        let text = "INVITE sip:b@c SIP/2.0\r\nZ : y\r\nl:3\r\n\r\nabc";
        with(text, |message| {
            assert_eq!((message.len(), message.head_len(), message.body()), (41, 38, &b"abc"[..]));
            let start =
                Start::Request { method: Method::Invite, method_name: b"INVITE", uri: b"sip:b@c" };
            assert_eq!((message.start(), message.method()), (start, Method::Invite));
            assert_eq!(message.request_uri_span(), Some(Range32::new(7, 14)));
            let header = message.headers()[0];
            assert_eq!(message.text(header.line()), b"Z : y\r\n");
            assert_eq!(message.text(header.name_span()), b"Z");
            assert_eq!((message.value(&header), header.name), (&b"y"[..], Name::Other));
        });
        with("SIP/2.0 404 Not Here\r\nCSeq: 2 BYE\r\nl:0\r\n\r\n", |message| {
            let start = Start::Response { status: 404, reason: b"Not Here" };
            assert_eq!((message.start(), message.method()), (start, Method::Bye));
            assert_eq!((message.is_request(), message.request_uri_span()), (false, None));
        });
        with("NEWMETHOD sip:b@c SIP/2.0\r\nl:0\r\n\r\n", |message| {
            assert_eq!(message.method(), Method::Other);
        });
    }

    /// RFC 3261 7.3.1: several lines and one list are the same.
    #[test]
    fn values_come_from_all_lines_in_order() {
        let text = "ACK sip:a SIP/2.0\r\nRoute: <sip:a,b> , \"x, y\" <sip:c>\r\nTo: z\r\nroute:\r\n\
            ROUTE :\r\n <sip:d>\r\n ,<sip:e>;p=\",\"\r\nl:0\r\n\r\n";
        with(text, |message| {
            let values: Vec<_> = message
                .values(Name::Route)
                .map(|value| {
                    assert_eq!(message.text(value.span), value.bytes);
                    let text = std::str::from_utf8(value.bytes).expect("text");
                    (text, value.header, value.first_in_row, value.last_in_row)
                })
                .collect();
            let expected = [
                ("<sip:a,b>", 0, true, false),
                ("\"x, y\" <sip:c>", 0, false, true),
                ("<sip:d>", 3, true, false),
                ("<sip:e>;p=\",\"", 3, false, true),
            ];
            assert_eq!(values, expected);
            assert_eq!((message.count(Name::Route), message.count(Name::To)), (3, 1));
            assert_eq!(message.count(Name::Via), 0);
            assert_eq!(message.values(Name::Via).next(), None);
        });
    }

    #[test]
    fn a_via_that_cannot_be_read_does_not_hide_the_next() {
        let text = "ACK sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a, nonsense \"x, y\" <,>, SIP/2.0/TLS b\r\n\
            v:\r\nVia: SIP/2.0/TCP c x, SIP/2.0/TCP d\r\nl:0\r\n\r\n";
        with(text, |message| {
            let hosts: Vec<Option<&[u8]>> =
                message.vias().map(|via| via.ok().map(|via| via.host)).collect();
            assert_eq!(hosts, [Some(&b"a"[..]), None, Some(b"b"), None, Some(b"d")]);
            assert_eq!(message.top_via().map(|via| via.host), Ok(&b"a"[..]));
        });
    }

    #[test]
    fn option_tags_are_whole_words_in_any_case() {
        let text = "ACK sip:a SIP/2.0\r\nk: 100rel , PATH\r\nSupported: outbound\r\nl:0\r\n\r\n";
        with(text, |message| {
            for tag in ["100REL", "path", "outbound"] {
                assert!(message.has_option(Name::Supported, tag.as_bytes()), "{tag}");
            }
            for tag in ["100", "pat", "paths", "", "100rel , PATH"] {
                assert!(!message.has_option(Name::Supported, tag.as_bytes()), "{tag}");
            }
            assert!(!message.has_option(Name::Require, b"path"));
        });
    }
}
