//! One message as it was received: the start line, an index of header lines, slots for the first header of each name,
//! and what a proxy asks of them. Never owns bytes, never changes one.
//! Invariant: every span lies inside `bytes`; header lines follow each other without a gap from the start line to the
//! empty line.

use smallvec::SmallVec;

use super::error::{Fault, FaultKind};
use super::frame::FrameLimits;
use super::name::{Method, Name};
use super::scan::Head;
use super::text::{self, Range32};
use super::uri::{NameAddr, Scheme, Uri};
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

    /// The value with the blanks around it and the final CRLF.
    pub(super) fn body(&self) -> Range32 {
        let start = u32::from(self.start) + u32::from(self.colon) + 1;
        Range32::new(start, self.end.into())
    }
}

fn trimmed_value(bytes: &[u8], header: &Header) -> Range32 {
    text::trimmed(bytes, header.body())
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
struct Counts {
    uri: u32,
    vias: u32,
    routes: u32,
    contacts: u32,
    parameters: u32,
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

    pub fn text(&self, range: Range32) -> &'a [u8] {
        range.of(self.bytes)
    }

    /// Where the value of a header line stands, without blanks at its ends, folds inside.
    pub fn value_span(&self, header: &Header) -> Range32 {
        trimmed_value(self.bytes, header)
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
        self.vias().next().unwrap_or(Err(self.missing()))
    }

    /// All Via values in order.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'a>, Fault>> {
        self.values(Name::Via).map(|value| Via::parse(self.bytes, value.span))
    }

    fn missing(&self) -> Fault {
        Fault::new(FaultKind::HeaderMissing, self.head.len)
    }

    /// The one header of this name.
    fn only(&self, name: Name) -> Result<Header, Fault> {
        let mut rows = self.rows(name);
        let (_, header) = rows.next().ok_or(self.missing())?;
        match rows.next() {
            Some((_, second)) => Err(Fault::new(FaultKind::HeaderRepeated, second.line().start)),
            None => Ok(*header),
        }
    }

    pub fn call_id(&self) -> Result<&'a [u8], Fault> {
        let header = &self.only(Name::CallId)?;
        let text = self.value(header);
        let good = !text.is_empty() && text.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        if good {
            Ok(text)
        } else {
            Err(Fault::new(FaultKind::CallIdBad, self.value_span(header).start))
        }
    }

    pub fn cseq(&self) -> Result<CSeq<'a>, Fault> {
        let header = &self.only(Name::CSeq)?;
        let fault = Fault::new(FaultKind::CSeqBad, self.value_span(header).start);
        let mut cursor = text::Cursor::new(self.bytes, self.value_span(header));
        let digits = cursor.take_while(|byte| byte.is_ascii_digit());
        let blanks = cursor.take_while(text::is_blank);
        let number = text::decimal(self.text(digits)).filter(|number| *number <= 0x7FFF_FFFF);
        let method = cursor.token().ok_or(fault)?;
        match number {
            Some(number) if !blanks.is_empty() && cursor.is_done() => {
                Ok(CSeq { number: number as u32, method: self.text(method) })
            }
            _ => Err(fault),
        }
    }

    /// `None`: the header is absent.
    pub fn max_forwards(&self) -> Result<Option<u32>, Fault> {
        if self.first_place(Name::MaxForwards).is_none() {
            return Ok(None);
        }
        let header = &self.only(Name::MaxForwards)?;
        match text::decimal(self.value(header)) {
            Some(hops) if hops <= 255 => Ok(Some(hops as u32)),
            _ => Err(Fault::new(FaultKind::MaxForwardsBad, self.value_span(header).start)),
        }
    }

    /// The one From or To value, read.
    fn party(&self, name: Name) -> Result<NameAddr<'a>, Fault> {
        let kind = if name == Name::From { FaultKind::FromBad } else { FaultKind::ToBad };
        let header = &self.only(name)?;
        NameAddr::parse(self.value(header))
            .map_err(|fault| Fault::new(kind, fault.offset).shifted(self.value_span(header).start))
    }

    fn tag(&self, name: Name) -> Result<Option<&'a [u8]>, Fault> {
        Ok(self.party(name)?.param("tag").flatten())
    }

    pub fn from(&self) -> Result<NameAddr<'a>, Fault> {
        self.party(Name::From)
    }

    pub fn to(&self) -> Result<NameAddr<'a>, Fault> {
        self.party(Name::To)
    }

    pub fn from_tag(&self) -> Result<Option<&'a [u8]>, Fault> {
        self.tag(Name::From)
    }

    pub fn to_tag(&self) -> Result<Option<&'a [u8]>, Fault> {
        self.tag(Name::To)
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

    /// What must hold before a request is acted on (sip.md 16; RFC 3261 16.3 item 1, 8.1.1). Only what a proxy reads is
    /// judged; everything else passes as it came.
    pub fn validate_request(&self) -> Result<(), Fault> {
        if !self.head.start.request {
            return Err(Fault::new(FaultKind::StartLineBad, 0));
        }
        self.validate_request_line()?;
        self.validate_counts()?;
        let cseq = self.validate_mandatory()?;
        self.max_forwards()?;
        if cseq.method != self.text(self.head.start.first) {
            let at = self.first(Name::CSeq).map_or(0, |header| self.value_span(header).start);
            return Err(Fault::new(FaultKind::CSeqMismatch, at));
        }
        for route in self.values(Name::Route) {
            check_route(route.bytes).map_err(|fault| fault.shifted(route.span.start))?;
        }
        Ok(())
    }

    fn validate_request_line(&self) -> Result<(), Fault> {
        let start = &self.head.start;
        let spaced = start.first.end + 1 == start.second.start
            && start.second.end + 1 == start.version.start
            && start.version.end == start.end;
        if !text::is_token(self.text(start.first)) || !spaced {
            return Err(Fault::new(FaultKind::StartLineBad, start.first.end));
        }
        self.validate_version()?;
        let uri = self.text(start.second);
        let shift =
            |fault: Fault| Fault::new(FaultKind::RequestUriBad, start.second.start + fault.offset);
        if let Ok(Uri { scheme: Scheme::Sip | Scheme::Sips, headers: Some(_), .. }) =
            Uri::parse(uri)
        {
            return Err(Fault::new(FaultKind::RequestUriBad, start.second.start));
        }
        Uri::parse(uri).map(|_| ()).map_err(shift)
    }

    fn validate_version(&self) -> Result<(), Fault> {
        let version = self.text(self.head.start.version);
        if version.eq_ignore_ascii_case(b"SIP/2.0") {
            return Ok(());
        }
        let number = version.get(4..).unwrap_or_default();
        let named = version.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"));
        let numbered =
            !number.is_empty() && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
        let kind =
            if named && numbered { FaultKind::VersionUnsupported } else { FaultKind::StartLineBad };
        Err(Fault::new(kind, self.head.start.version.start))
    }

    /// What the limits allow of things that are read one after another.
    fn validate_counts(&self) -> Result<(), Fault> {
        let counts = &self.counts;
        let uri = self.head.start.second;
        if self.head.start.request && uri.len() > counts.uri {
            return Err(Fault::new(FaultKind::UriLong, uri.start + counts.uri));
        }
        self.validate_count(Name::Via, counts.vias, FaultKind::ViasMany)?;
        self.validate_count(Name::Route, counts.routes, FaultKind::RoutesMany)?;
        self.validate_count(Name::RecordRoute, counts.routes, FaultKind::RoutesMany)?;
        // A registrar's 200 lists every binding: only requests are bounded.
        if self.head.start.request {
            self.validate_count(Name::Contact, counts.contacts, FaultKind::ContactsMany)?;
        }
        // A parameter takes two bytes at least: most lines are too short to hold too many.
        let long = |header: &&Header| {
            header.name.takes_parameters() && self.value_span(header).len() > 2 * counts.parameters
        };
        for header in self.head.index.headers.iter().filter(long) {
            let semicolons = memchr::memchr_iter(b';', self.value(header));
            if semicolons.count() > counts.parameters as usize {
                self.validate_parameters(header)?;
            }
        }
        Ok(())
    }

    fn validate_count(&self, name: Name, limit: u32, kind: FaultKind) -> Result<(), Fault> {
        let commas = |(_, header): (usize, &Header)| {
            1 + memchr::memchr_iter(b',', self.value(header)).count()
        };
        if self.rows(name).map(commas).sum::<usize>() <= limit as usize {
            return Ok(());
        }
        match self.values(name).nth(limit as usize) {
            Some(value) => Err(Fault::new(kind, value.span.start)),
            None => Ok(()),
        }
    }

    fn validate_parameters(&self, header: &Header) -> Result<(), Fault> {
        let mut rest = Some(self.value_span(header));
        while let Some(list) = rest {
            let (value, next) = text::split_comma(self.bytes, list);
            rest = next.map(|start| Range32::new(start, self.value_span(header).end));
            let semicolons = text::count_semicolons(value.of(self.bytes));
            if semicolons > self.counts.parameters {
                return Err(Fault::new(FaultKind::ParametersMany, value.start));
            }
        }
        Ok(())
    }

    /// Headers that every message has (RFC 3261 8.1.1), each readable.
    fn validate_mandatory(&self) -> Result<CSeq<'a>, Fault> {
        let via = self.top_via()?;
        if via.branch().is_some_and(|branch| branch.eq_ignore_ascii_case(b"z9hG4bK")) {
            return Err(Fault::new(FaultKind::ViaBad, via.span.start));
        }
        self.call_id()?;
        self.validate_party(Name::From, FaultKind::FromBad)?;
        self.validate_party(Name::To, FaultKind::ToBad)?;
        self.cseq()
    }

    fn validate_party(&self, name: Name, kind: FaultKind) -> Result<(), Fault> {
        let party = self.party(name)?;
        let header = &self.only(name)?;
        Uri::parse(party.uri).map(|_| ()).map_err(|fault| {
            Fault::new(kind, self.value_span(header).start + party.uri_span.start + fault.offset)
        })
    }

    /// What must hold before a response is passed on (sip.md 16).
    pub fn validate_response(&self) -> Result<(), Fault> {
        if self.head.start.request {
            return Err(Fault::new(FaultKind::StartLineBad, 0));
        }
        self.validate_version()?;
        if !(100..700).contains(&self.head.start.status) {
            return Err(Fault::new(FaultKind::StatusBad, self.head.start.first.start));
        }
        self.validate_counts()?;
        self.validate_mandatory().map(|_| ())
    }
}

fn check_route(value: &[u8]) -> Result<(), Fault> {
    let kind = |fault: Fault| Fault::new(FaultKind::RouteBad, fault.offset);
    let route = NameAddr::parse(value).map_err(kind)?;
    if !route.bracketed {
        return Err(Fault::new(FaultKind::RouteBad, 0));
    }
    Uri::parse(route.uri).map(|_| ()).map_err(|fault| kind(fault).shifted(route.uri_span.start))
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
            let all = trimmed_value(self.bytes, header);
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
