//! What must hold before a message is acted on: the verdicts of RFC 3261 16.3 item 1, 8.1.1 and of the torture messages.
//! Only what a proxy reads is judged; everything else passes as it came. Never policy.

use super::error::{Fault, FaultKind};
use super::message::{CSeq, Header, Message, is_method};
use super::name::{Method, Name};
use super::text::{self, Cursor, Range32};
use super::uri::{NameAddr, Scheme, Uri};
use super::via::Via;

const fn bit(name: Name) -> u64 {
    1 << name as u64
}

const _: () = assert!(Name::COUNT <= 64);

/// Headers that are read here and may come once.
const SINGLE: u64 =
    bit(Name::From) | bit(Name::To) | bit(Name::CallId) | bit(Name::CSeq) | bit(Name::MaxForwards);

/// Bytes of the shortest value, comma and all: lines shorter than the limit times this hold no more values than the
/// limit, or some that are none and cost no more than their bytes.
const VIA_BYTES: u32 = "SIP/2.0/TCP h,".len() as u32;
const URI_BYTES: u32 = "sip:h,".len() as u32;
const PARAMETER_BYTES: u32 = ";p".len() as u32;

/// What a valid request says of itself, read once.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    pub method: Method,
    pub method_name: &'a [u8],
    pub uri: Uri<'a>,
    pub parts: Parts<'a>,
}

/// What a response that can be passed on says of itself, read once.
#[derive(Clone, Copy, Debug)]
pub struct ResponseParts<'a> {
    /// The topmost Via's branch.
    pub branch: Option<&'a [u8]>,
    /// The topmost Via's host, as written, and port; `None`: it is ours, byte for byte.
    pub sent_by: Option<(&'a [u8], Option<u16>)>,
    /// Where the topmost Via ends.
    pub via_end: u32,
    pub call_id: &'a [u8],
    pub cseq: CSeq<'a>,
}

/// What a valid request says of itself in its headers, read once.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub via: Via<'a>,
    pub call_id: &'a [u8],
    pub from: NameAddr<'a>,
    pub to: NameAddr<'a>,
    pub cseq: CSeq<'a>,
    /// `None`: the header is absent.
    pub max_forwards: Option<u32>,
}

impl<'a> Message<'a> {
    /// Whether a request can be acted on.
    pub fn validate_request(&self) -> Result<(), Fault> {
        self.read_request().map(|_| ())
    }

    /// The parts of a request that can be acted on.
    pub fn read_request(&self) -> Result<RequestParts<'a>, Fault> {
        let start = self.start_parts();
        let method_name = self.text(start.first);
        let uri = self.validate_request_line()?;
        let parts = self.validate_headers()?;
        if parts.cseq.method != method_name {
            let at = self.first(Name::CSeq).map_or(0, |header| self.value_span(header).start);
            return Err(Fault::new(FaultKind::CSeqMismatch, at));
        }
        self.validate_list(Name::Route, FaultKind::RouteBad, check_route)?;
        // A registrar and an outbound edge read these; elsewhere Contact is the user agents' own matter.
        if start.method == Method::Register {
            self.validate_list(Name::Contact, FaultKind::ContactBad, |_| Ok(()))?;
        }
        Ok(RequestParts { method: start.method, method_name, uri, parts })
    }

    /// Whether a response can be passed on.
    pub fn validate_response(&self) -> Result<(), Fault> {
        self.read_response(b"").map(|_| ())
    }

    /// The parts of a response that can be passed on. `ours` is how our own Via values begin, all before the branch, or
    /// empty: what we wrote ourselves need not be read. Nor are From and To, which are the user agents' own matter.
    pub fn read_response(&self, ours: &[u8]) -> Result<ResponseParts<'a>, Fault> {
        let start = self.start_parts();
        let bad = Fault::new(FaultKind::StatusBad, start.first.start);
        if start.request || !(100..700).contains(&start.status) {
            return Err(bad);
        }
        match self.validate_version() {
            Ok(()) => {}
            Err(fault) if fault.kind == FaultKind::VersionUnsupported => return Err(fault),
            Err(_) => return Err(bad),
        }
        self.validate_counts()?;
        let first = |name| self.first(name).ok_or(self.missing());
        let top = first(Name::Via)?;
        let (branch, sent_by, via_end) = match self.our_branch(top, ours) {
            Some(branch) => (Some(self.text(branch)), None, branch.end),
            None => {
                let via = self.read_top_via(top)?;
                check_via(&via)?;
                (via.branch(), Some((via.host, via.port)), via.end())
            }
        };
        first(Name::From)?;
        first(Name::To)?;
        Ok(ResponseParts {
            branch,
            sent_by,
            via_end,
            call_id: self.read_call_id(first(Name::CallId)?)?,
            cseq: self.read_cseq(first(Name::CSeq)?)?,
        })
    }

    /// The branch, if the line holds one Via value that begins as `ours` and goes on with nothing but a branch.
    fn our_branch(&self, line: &Header, ours: &[u8]) -> Option<Range32> {
        let value = self.value_span(line);
        let branch = self.text(value).strip_prefix(ours)?;
        let known = !ours.is_empty() && text::is_alphanumeric(branch);
        known.then(|| Range32::new(value.end - branch.len() as u32, value.end))
    }

    fn validate_request_line(&self) -> Result<Uri<'a>, Fault> {
        let start = self.start_parts();
        let spaced = start.first.end + 1 == start.second.start
            && start.second.end + 1 == start.version.start
            && start.version.end == start.end;
        if !start.request || !spaced || !is_method(self.text(start.first)) {
            return Err(Fault::new(FaultKind::RequestLineBad, start.first.end));
        }
        self.validate_version()?;
        let limit = self.counts().uri;
        if start.second.len() > limit {
            return Err(Fault::new(FaultKind::UriLong, start.second.start + limit));
        }
        let bad = |offset| Fault::new(FaultKind::RequestUriBad, start.second.start + offset);
        match Uri::parse(self.text(start.second)) {
            // 19.1.1: no headers in a Request-URI.
            Ok(Uri { scheme: Scheme::Sip | Scheme::Sips, headers: Some(_), .. }) => Err(bad(0)),
            Ok(uri) => Ok(uri),
            Err(fault) => Err(bad(fault.offset)),
        }
    }

    fn validate_version(&self) -> Result<(), Fault> {
        let span = self.start_parts().version;
        let version = self.text(span);
        if version == b"SIP/2.0" || version.eq_ignore_ascii_case(b"SIP/2.0") {
            return Ok(());
        }
        let other = version.split_at_checked(4).is_some_and(|(name, number)| {
            name.eq_ignore_ascii_case(b"SIP/")
                && !number.is_empty()
                && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
        });
        let kind = if other { FaultKind::VersionUnsupported } else { FaultKind::RequestLineBad };
        Err(Fault::new(kind, span.start))
    }

    /// The headers that every request has, each once and readable.
    fn validate_headers(&self) -> Result<Parts<'a>, Fault> {
        self.validate_counts()?;
        let first = |name| self.first(name).ok_or(self.missing());
        let via = self.read_top_via(first(Name::Via)?)?;
        check_via(&via)?;
        Ok(Parts {
            via,
            call_id: self.read_call_id(first(Name::CallId)?)?,
            from: self.read_party(first(Name::From)?)?,
            to: self.read_party(first(Name::To)?)?,
            max_forwards: match self.first(Name::MaxForwards) {
                Some(header) => Some(self.read_max_forwards(header)?),
                None => None,
            },
            cseq: self.read_cseq(first(Name::CSeq)?)?,
        })
    }

    /// What must come once does, and nothing comes more often than the limits allow.
    fn validate_counts(&self) -> Result<(), Fault> {
        let (mut seen, mut repeated) = (0, 0);
        for header in self.headers() {
            let bit = bit(header.name);
            repeated |= seen & bit;
            seen |= bit;
        }
        if repeated & SINGLE != 0 {
            return Err(self.repeated());
        }
        let counts = self.counts();
        let routes = (counts.routes, FaultKind::RoutesMany);
        self.validate_lines(
            repeated,
            Name::Via,
            VIA_BYTES,
            Some((counts.vias, FaultKind::ViasMany)),
        )?;
        self.validate_lines(repeated, Name::Route, URI_BYTES, Some(routes))?;
        // A registrar's 200 lists every binding: only requests are bounded.
        let contacts = (counts.contacts, FaultKind::ContactsMany);
        self.validate_lines(
            repeated,
            Name::Contact,
            URI_BYTES,
            self.is_request().then_some(contacts),
        )?;
        self.validate_lines(repeated, Name::RecordRoute, URI_BYTES, Some(routes))?;
        for name in [Name::From, Name::To, Name::Path] {
            self.validate_lines(repeated, name, URI_BYTES, None)?;
        }
        Ok(())
    }

    /// The limits on values and parameters of all lines of one name, whose shortest value, comma and all, takes
    /// `value_bytes`. `repeated`: names that more than one line has.
    #[inline]
    fn validate_lines(
        &self,
        repeated: u64,
        name: Name,
        value_bytes: u32,
        values: Option<(u32, FaultKind)>,
    ) -> Result<(), Fault> {
        let Some(first) = self.first(name) else { return Ok(()) };
        let mut bytes = first.line().len();
        let mut longest = bytes;
        if repeated & bit(name) != 0 {
            for (_, header) in self.rows(name).skip(1) {
                bytes += header.line().len();
                longest = longest.max(header.line().len());
            }
        }
        // The shortest line that more parameters than may be can follow.
        let beyond = PARAMETER_BYTES.saturating_mul(self.counts().parameters);
        if longest > value_bytes.saturating_add(beyond) {
            self.validate_parameters(name)?;
        }
        match values {
            Some((limit, kind)) if bytes > value_bytes.saturating_mul(limit) => {
                match self.values(name).nth(limit as usize) {
                    Some(value) => Err(Fault::new(kind, value.span.start)),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// The first header that comes a second time and must not.
    #[cold]
    fn repeated(&self) -> Fault {
        let mut seen = 0;
        let second = self.headers().iter().find(|header| {
            let again = seen & bit(header.name) & SINGLE != 0;
            seen |= bit(header.name);
            again
        });
        Fault::new(FaultKind::HeaderRepeated, second.map_or(0, |header| header.line().start))
    }

    /// All values of a list of name-addrs.
    fn validate_list(
        &self,
        name: Name,
        kind: FaultKind,
        check: impl Fn(&NameAddr<'_>) -> Result<(), u32>,
    ) -> Result<(), Fault> {
        for (_, header) in self.rows(name) {
            let mut cursor = Cursor::new(self.bytes(), self.value_span(header));
            while !cursor.is_done() {
                let start = cursor.at();
                let value = NameAddr::parse_front(self.bytes(), &mut cursor);
                let value = value.map_err(|fault| Fault::new(kind, fault.offset))?;
                check(&value).map_err(|offset| Fault::new(kind, offset))?;
                // A comma with nothing behind it promises a value.
                if cursor.eat(b',') && cursor.is_done() {
                    return Err(Fault::new(kind, start));
                }
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn validate_parameters(&self, name: Name) -> Result<(), Fault> {
        let limit = self.counts().parameters;
        for (_, header) in self.rows(name) {
            let all = self.value_span(header);
            if text::count(self.text(all), b';') <= limit as usize {
                continue;
            }
            let mut rest = Some(all.start);
            while let Some(start) = rest {
                let (value, next) = text::split_comma(self.bytes(), Range32::new(start, all.end));
                rest = next;
                if text::count_semicolons(self.text(value)) > limit {
                    return Err(Fault::new(FaultKind::ParametersMany, value.start));
                }
            }
        }
        Ok(())
    }
}

/// RFC 4475 3.3.8 (badbranch): the cookie with nothing behind it.
fn check_via(via: &Via<'_>) -> Result<(), Fault> {
    match via.branch() {
        Some(branch) if branch.eq_ignore_ascii_case(b"z9hG4bK") => {
            Err(Fault::new(FaultKind::ViaBad, via.span.start))
        }
        _ => Ok(()),
    }
}

/// RFC 3261 20.34: a name-addr, whose URI can be read. Says where not.
fn check_route(route: &NameAddr<'_>) -> Result<(), u32> {
    match Uri::parse(route.uri) {
        Ok(_) if route.bracketed => Ok(()),
        Ok(_) => Err(route.uri_span.start),
        Err(fault) => Err(route.uri_span.start + fault.offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::frame::{FrameLimits, FrameState, Framed, frame};

    const HEADERS: [&str; 5] = [
        "Via: SIP/2.0/TCP h;branch=z9hG4bKa",
        "From: <sip:a@b>;tag=1",
        "To: <sip:b@c>",
        "Call-ID: a@b",
        "CSeq: 1 OPTIONS",
    ];

    fn validated(start: &str, headers: &[&str]) -> Result<(), Fault> {
        let text = format!("{start}\r\n{}\r\nl: 0\r\n\r\n", headers.join("\r\n"));
        let limits = FrameLimits { uri: 40, ..FrameLimits::default() };
        match frame(text.as_bytes(), &mut FrameState::default(), &limits) {
            Ok(Framed::Message(message)) if message.is_request() => message.validate_request(),
            Ok(Framed::Message(message)) => message.validate_response(),
            other => panic!("{other:?} of {text}"),
        }
    }

    fn kind(outcome: Result<(), Fault>) -> Option<FaultKind> {
        outcome.err().map(|fault| fault.kind)
    }

    const START: &str = "OPTIONS sip:b@c SIP/2.0";

    /// A header in the place of the usual one of its name, or behind all others.
    fn with(line: &str) -> Option<FaultKind> {
        let name = |line: &str| line.split(':').next().expect("a name").trim().to_owned();
        let mut headers = HEADERS.to_vec();
        match headers.iter().position(|header| name(header) == name(line)) {
            Some(place) => headers[place] = line,
            None => headers.push(line),
        }
        kind(validated(START, &headers))
    }

    #[test]
    fn request_lines_are_exact() {
        let lines = [
            ("OPTIONS sip:b@c SIP/2.0", None),
            ("OPTIONS sip:b@c sip/2.0", None),
            ("OPTIONS sips:b@[::1]:5061;lr SIP/2.0", None),
            ("OPTIONS tel:+1-201-555-0123 SIP/2.0", None),
            ("OPTIONS urn:service:sos SIP/2.0", None),
            ("OPTIONS sip:b@c SIP/2.0 ", Some(FaultKind::RequestLineBad)),
            ("OPTIONS sip:b@c\t SIP/2.0", Some(FaultKind::RequestUriBad)),
            ("OPTIONS  sip:b@c SIP/2.0", Some(FaultKind::RequestUriBad)),
            ("OPT(IONS sip:b@c SIP/2.0", Some(FaultKind::RequestLineBad)),
            ("OPTIONS sip:b@c HTTP/1.1", Some(FaultKind::RequestLineBad)),
            ("OPTIONS sip:b@c SIP/", Some(FaultKind::RequestLineBad)),
            ("OPTIONS sip:b@c SIP/2.1", Some(FaultKind::VersionUnsupported)),
            ("OPTIONS sip:b@c SIP/20", Some(FaultKind::VersionUnsupported)),
            ("OPTIONS sip:b@c?x=y SIP/2.0", Some(FaultKind::RequestUriBad)),
            ("OPTIONS b@c SIP/2.0", Some(FaultKind::RequestUriBad)),
        ];
        for (line, expected) in lines {
            assert_eq!(kind(validated(line, &HEADERS)), expected, "{line:?}");
        }
    }

    #[test]
    fn status_lines_are_exact() {
        let lines = [
            ("SIP/2.0 200 OK", None),
            ("sip/2.0 699 ", None),
            ("SIP/2.0 100", None),
            ("SIP/2.0 099 x", Some(FaultKind::StatusBad)),
            ("SIP/2.0 700 x", Some(FaultKind::StatusBad)),
            ("SIP/2.0 20 x", Some(FaultKind::StatusBad)),
            ("SIP/2.0 2000 x", Some(FaultKind::StatusBad)),
            ("SIP/2.0 2x0 x", Some(FaultKind::StatusBad)),
            ("SIP/2.0  200 x", Some(FaultKind::StatusBad)),
            ("SIP/x 200 x", Some(FaultKind::StatusBad)),
            ("SIP/3.0 200 x", Some(FaultKind::VersionUnsupported)),
        ];
        for (line, expected) in lines {
            assert_eq!(kind(validated(line, &HEADERS)), expected, "{line:?}");
        }
    }

    #[test]
    fn what_must_be_there_is_there_once() {
        for (place, header) in HEADERS.iter().enumerate() {
            let mut headers = HEADERS.to_vec();
            headers.remove(place);
            assert_eq!(
                kind(validated(START, &headers)),
                Some(FaultKind::HeaderMissing),
                "{header}"
            );
            headers.extend([*header, *header]);
            // Only Via may come more than once.
            let expected = if place == 0 { None } else { Some(FaultKind::HeaderRepeated) };
            assert_eq!(kind(validated(START, &headers)), expected, "{header}");
        }
        let twice = [&HEADERS[..], &["Max-Forwards: 1", "Max-Forwards: 1"]].concat();
        assert_eq!(kind(validated(START, &twice)), Some(FaultKind::HeaderRepeated));
        let compact = [&HEADERS[..], &["i: x"]].concat();
        assert_eq!(kind(validated(START, &compact)), Some(FaultKind::HeaderRepeated));
    }

    #[test]
    fn headers_that_are_read_can_be_read() {
        let lines = [
            ("CSeq: 0 OPTIONS", None),
            ("CSeq: 2147483647\r\n\tOPTIONS", None),
            ("CSeq: 2147483648 OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: 4294967297 OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: 36893488147419103232 OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: 1OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: 1", Some(FaultKind::CSeqBad)),
            ("CSeq: OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: -1 OPTIONS", Some(FaultKind::CSeqBad)),
            ("CSeq: 1 OPTIONS x", Some(FaultKind::CSeqBad)),
            ("CSeq:", Some(FaultKind::CSeqBad)),
            ("CSeq: 1 INVITE", Some(FaultKind::CSeqMismatch)),
            ("CSeq: 1 options", Some(FaultKind::CSeqMismatch)),
            ("Call-ID:", Some(FaultKind::CallIdBad)),
            ("Call-ID: a b", Some(FaultKind::CallIdBad)),
            ("Call-ID: a\x01", Some(FaultKind::CallIdBad)),
            ("From: \"", Some(FaultKind::FromBad)),
            ("To: <sip:a", Some(FaultKind::ToBad)),
            ("To: <sip:a>, <sip:b>", Some(FaultKind::ToBad)),
            ("Max-Forwards: 0", None),
            ("Max-Forwards: 255", None),
            ("Max-Forwards: 256", Some(FaultKind::MaxForwardsBad)),
            ("Max-Forwards: x", Some(FaultKind::MaxForwardsBad)),
            ("Max-Forwards:", Some(FaultKind::MaxForwardsBad)),
            ("Via: SIP/2.0/TCP h", None),
            ("Via: SIP/2.0/TCP h;branch=z9hG4bK", Some(FaultKind::ViaBad)),
            ("Via: SIP/2.0/TCP h;branch=Z9HG4BK", Some(FaultKind::ViaBad)),
            ("Via:", Some(FaultKind::ViaBad)),
            ("Via: SIP/2.0/TCP h, never read", None),
            ("Route: <sip:a;lr>, \"x\" <sip:b;lr>;y", None),
            ("Route: <sip:a;lr>,", Some(FaultKind::RouteBad)),
            ("Route: ,<sip:a;lr>", Some(FaultKind::RouteBad)),
            ("Route: sip:a;lr", Some(FaultKind::RouteBad)),
            ("Route: <sip:a b>", Some(FaultKind::RouteBad)),
            ("Route: <sip:a:b>", Some(FaultKind::RouteBad)),
            ("Route: <sip:a> <sip:b>", Some(FaultKind::RouteBad)),
            ("Route:", None),
            // Not read here.
            ("Contact: <<<", None),
            ("Record-Route: nonsense", None),
            ("Expires: never", None),
            ("Date: today", None),
        ];
        for (line, expected) in lines {
            assert_eq!(with(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_registrations_contacts_can_be_read() {
        let registered = |contact: &str| {
            let mut headers = HEADERS.to_vec();
            headers[4] = "CSeq: 1 REGISTER";
            headers.push(contact);
            kind(validated("REGISTER sip:c SIP/2.0", &headers))
        };
        assert_eq!(registered("Contact: *"), None);
        assert_eq!(registered("m: <sip:a@b>;expires=5, \"B\" <sip:b@c>;reg-id=1"), None);
        assert_eq!(registered("Contact: sip:a@b?x=y"), Some(FaultKind::ContactBad));
        assert_eq!(registered("Contact: <sip:a@b>,"), Some(FaultKind::ContactBad));
    }

    /// Threats, row 7: at the limit taken, one more refused, in one line or in several.
    #[test]
    fn counts_hold_to_the_last_value() {
        let lists = [
            ("Via", "SIP/2.0/TCP h", 70, FaultKind::ViasMany),
            ("Route", "<sip:h>", 16, FaultKind::RoutesMany),
            ("Record-Route", "<sip:h>", 16, FaultKind::RoutesMany),
            ("Contact", "sip:h", 10, FaultKind::ContactsMany),
        ];
        for (name, value, limit, expected) in lists {
            // One Via comes with the others.
            let limit = if name == "Via" { limit - 1 } else { limit };
            for (count, expected) in [(limit, None), (limit + 1, Some(expected))] {
                let line = format!("{name}: {value}");
                let apart: Vec<&str> = HEADERS.into_iter().chain(vec![&line[..]; count]).collect();
                assert_eq!(kind(validated(START, &apart)), expected, "{count} lines of {name}");
                let list = format!("{name}: {}", vec![value; count].join(","));
                let together: Vec<&str> = HEADERS.into_iter().chain([&list[..]]).collect();
                assert_eq!(kind(validated(START, &together)), expected, "{count} values of {name}");
            }
        }
        // A registrar lists as many bindings as it has.
        let list = format!("Contact: {}", ["sip:h"; 40].join(","));
        let many: Vec<&str> = HEADERS.into_iter().chain([&list[..]]).collect();
        assert_eq!(validated("SIP/2.0 200 OK", &many), Ok(()));
    }

    #[test]
    fn parameters_hold_to_the_last_one() {
        let lines = [
            ("Via: SIP/2.0/TCP h", ""),
            ("From: <sip:a@b>", ";tag=1"),
            ("To: sip:b@c", ""),
            ("Contact: <sip:a>", ""),
            ("Contact: sip:c,<sip:a>", ",sip:b;x;y"),
            ("Route: <sip:a", ">"),
            ("Path: <sip:a>", ""),
        ];
        for (line, rest) in lines {
            let own = rest.split(',').next().unwrap_or_default().matches(';').count();
            for (count, expected) in [(32 - own, None), (33 - own, Some(FaultKind::ParametersMany))]
            {
                let parameters: String = (0..count).map(|n| format!(";{}", n % 10)).collect();
                let line = format!("{line}{parameters}{rest}");
                assert_eq!(with(&line), expected, "{line}");
            }
        }
        // Those in quotes are none.
        let quoted = format!("To: \"{}\" <sip:a>", ";x".repeat(40));
        assert_eq!(with(&quoted), None);
        assert_eq!(with(&format!("Subject: {}", ";x".repeat(40))), None);
    }

    #[test]
    fn uris_hold_to_the_last_byte() {
        let start = |len: usize| format!("OPTIONS sip:{} SIP/2.0", "a".repeat(len - 4));
        assert_eq!(validated(&start(40), &HEADERS), Ok(()));
        let fault = Fault::new(FaultKind::UriLong, 8 + 40);
        assert_eq!(validated(&start(41), &HEADERS), Err(fault));
        assert_eq!(fault.kind.status(), 414);
    }

    #[test]
    fn the_parts_are_those_of_the_headers() {
        let text = format!("{START}\r\n{}\r\nl: 0\r\n\r\n", HEADERS.join("\r\n"));
        let mut state = FrameState::default();
        let Ok(Framed::Message(message)) =
            frame(text.as_bytes(), &mut state, &FrameLimits::default())
        else {
            panic!("a message")
        };
        let read = message.read_request().expect("valid");
        assert_eq!((read.method, read.method_name), (Method::Options, b"OPTIONS".as_slice()));
        assert_eq!((read.uri.host, read.parts.call_id), (b"c".as_slice(), b"a@b".as_slice()));
        assert_eq!(read.parts.via.branch(), Some(b"z9hG4bKa".as_slice()));
        assert_eq!(read.parts.from.tag(), Some(b"1".as_slice()));
        assert_eq!((read.parts.to.tag(), read.parts.max_forwards), (None, None));
        assert_eq!((read.parts.cseq.number, read.parts.cseq.method), (1, b"OPTIONS".as_slice()));
        // What is asked one by one is the same.
        assert_eq!(message.call_id(), Ok(read.parts.call_id));
        assert_eq!(message.cseq(), Ok(read.parts.cseq));
        assert_eq!(message.from_tag(), Ok(read.parts.from.tag()));
        assert_eq!(message.to_uri(), Ok(read.parts.to.uri));
        assert_eq!(message.max_forwards(), Ok(None));
    }
}
