//! SIP, SIPS and tel URIs (RFC 3261 19.1, 25.1) and name-addr values. Spans only, never a copy; a URI is never looked
//! for by searching bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{Fault, FaultKind};
use super::text::{Cursor, Parameter, Range32};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Other,
}

impl Scheme {
    fn of(name: &[u8]) -> Scheme {
        let known = [("sip", Scheme::Sip), ("sips", Scheme::Sips), ("tel", Scheme::Tel)];
        let found = known.into_iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes()));
        found.map_or(Scheme::Other, |(_, scheme)| scheme)
    }
}

/// A URI, read. For `Tel` and `Other` everything behind the scheme is `opaque` and `host` is empty.
#[derive(Clone, Copy, Debug)]
pub struct Uri<'a> {
    pub scheme: Scheme,
    /// The scheme as written.
    pub scheme_name: &'a [u8],
    /// What follows the scheme's colon.
    pub opaque: &'a [u8],
    /// User part with password, if there is an `@`.
    pub user: Option<&'a [u8]>,
    /// As written, brackets kept.
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// From the first semicolon behind the host, without it; empty if none.
    pub parameters: &'a [u8],
    /// Behind the question mark, if there is one.
    pub headers: Option<&'a [u8]>,
}

impl<'a> Uri<'a> {
    /// Reads a whole URI: characters, escapes, host, port and brackets as RFC 3261 25.1 has them, but for `_` in host
    /// names, which is common. The fault's offset counts from the front of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Uri<'a>, Fault> {
        let mut cursor = Cursor::new(bytes, Range32::all(bytes));
        let scheme_name = cursor.scheme().of(bytes);
        let named = scheme_name.first().is_some_and(u8::is_ascii_alphabetic);
        if !named || !cursor.eat(b':') || cursor.is_done() {
            return Err(cursor.fault(FaultKind::UriBad));
        }
        let mut uri = Uri {
            scheme: Scheme::of(scheme_name),
            scheme_name,
            opaque: cursor.rest(),
            user: None,
            host: b"",
            port: None,
            parameters: b"",
            headers: None,
        };
        let good = match uri.scheme {
            Scheme::Sip | Scheme::Sips => uri.parse_sip(&mut cursor),
            Scheme::Tel | Scheme::Other => cursor.escaped_opaque(),
        };
        if good && cursor.is_done() { Ok(uri) } else { Err(cursor.fault(FaultKind::UriBad)) }
    }

    /// Reads what stands behind `sip:`; false at the first byte that must not stand where it does.
    fn parse_sip(&mut self, cursor: &mut Cursor<'a>) -> bool {
        if let Some(len) = memchr::memchr(b'@', cursor.rest()) {
            let user = cursor.take(len);
            if !is_userinfo(user) {
                return false;
            }
            self.user = Some(user);
            cursor.bump();
        }
        let host = cursor.rest();
        let Some(span) = cursor.host() else { return false };
        self.host = &host[..span.len() as usize];
        if cursor.eat(b':') {
            self.port = cursor.port();
            if self.port.is_none() {
                return false;
            }
        }
        if cursor.eat(b';') {
            let parameters = cursor.rest();
            let good = cursor.escaped_uri_parameters();
            self.parameters = &parameters[..parameters.len() - cursor.rest().len()];
            if !good || !are_named(self.parameters) {
                return false;
            }
        }
        if cursor.eat(b'?') {
            self.headers = Some(cursor.rest());
            return cursor.escaped_uri_headers();
        }
        true
    }

    /// A URI parameter by its lower-case name: absent, bare, or with its value as written.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let mut params = self.params();
        let found = params.find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value)
    }

    /// All URI parameters in order.
    pub fn params(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let present = if self.parameters.is_empty() { None } else { Some(self.parameters) };
        let parameters = present.into_iter().flat_map(|all| all.split(|byte| *byte == b';'));
        parameters.map(|parameter| match parameter.iter().position(|byte| *byte == b'=') {
            Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
            None => (parameter, None),
        })
    }

    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param("transport").flatten()
    }

    pub fn maddr(&self) -> Option<&'a [u8]> {
        self.param("maddr").flatten()
    }

    /// Loose routing (RFC 3261 19.1.1).
    pub fn lr(&self) -> bool {
        self.param("lr").is_some()
    }

    /// Outbound (RFC 5626 5.1).
    pub fn ob(&self) -> bool {
        self.param("ob").is_some()
    }
}

/// `user [":" password]`, the user not empty.
fn is_userinfo(bytes: &[u8]) -> bool {
    let mut cursor = Cursor::new(bytes, Range32::all(bytes));
    let named = cursor.escaped_user() && cursor.at() > 0;
    // A password may hold less than a user; nobody here reads either.
    let good = named && (!cursor.eat(b':') || cursor.escaped_user());
    good && cursor.is_done()
}

/// Whether each parameter has a name.
fn are_named(parameters: &[u8]) -> bool {
    let mut parameters = parameters.split(|byte| *byte == b';');
    parameters.all(|parameter| parameter.first().is_some_and(|first| *first != b'='))
}

/// The address that a host as written is: IPv4, or IPv6 with or without brackets. IPv4-mapped counts as IPv4.
pub fn host_ip(host: &[u8]) -> Option<IpAddr> {
    match host {
        [b'[', inner @ .., b']'] => ipv6(inner),
        // No name ends in a digit but an address does (RFC 3261 25.1 `toplabel`).
        [.., last] if last.is_ascii_digit() && !host.contains(&b':') => {
            Some(IpAddr::V4(parsed::<Ipv4Addr>(host)?))
        }
        _ if host.contains(&b':') => ipv6(host),
        _ => None,
    }
}

/// An IPv6 address without brackets. The grammar of RFC 3261 lets a colon too many in before an IPv4 part: it is
/// overlooked (RFC 5118 4.10).
pub(super) fn ipv6(inner: &[u8]) -> Option<IpAddr> {
    /// The longest form: `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, and a colon too many.
    const LONGEST: usize = 46;
    if inner.len() > LONGEST {
        return None;
    }
    let address = match memchr::memmem::find(inner, b":::") {
        Some(at) if inner.contains(&b'.') => {
            let mut shorter = [0; LONGEST];
            shorter[..=at].copy_from_slice(&inner[..=at]);
            shorter[at + 1..inner.len() - 1].copy_from_slice(&inner[at + 2..]);
            parsed::<Ipv6Addr>(&shorter[..inner.len() - 1])
        }
        _ => parsed::<Ipv6Addr>(inner),
    };
    address.map(|address| IpAddr::V6(address).to_canonical())
}

fn parsed<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Whether two hosts as written are the same: names whatever the case and with or without the root's dot, addresses in
/// any form.
pub fn same_host(one: &[u8], other: &[u8]) -> bool {
    let bare = |host| <[u8]>::strip_suffix(host, b".").unwrap_or(host);
    if bare(one).eq_ignore_ascii_case(bare(other)) {
        return true;
    }
    matches!((host_ip(one), host_ip(other)), (Some(one), Some(other)) if one == other)
}

/// A `[display-name] <uri> ;parameters` or `uri ;parameters` value: From, To, Contact, Route, Record-Route, Path.
#[derive(Clone, Copy, Debug)]
pub struct NameAddr<'a> {
    text: &'a [u8],
    pub uri: &'a [u8],
    /// Where the URI stands in the value that was parsed.
    pub uri_span: Range32,
    /// Whether the URI stands in angle brackets.
    pub bracketed: bool,
    /// Where the header parameters stand in the value that was parsed, from the first semicolon.
    pub parameters: Range32,
    /// The first `tag` parameter with a value.
    tag: Option<Range32>,
}

impl<'a> NameAddr<'a> {
    /// Reads one value. The URI itself is cut out, not read: `Uri::parse` does that. Header parameters are well formed.
    pub fn parse(value: &'a [u8]) -> Result<NameAddr<'a>, Fault> {
        let mut cursor = Cursor::new(value, Range32::all(value));
        let name_addr = NameAddr::parse_front(value, &mut cursor)?;
        if cursor.is_done() { Ok(name_addr) } else { Err(cursor.fault(FaultKind::UriBad)) }
    }

    /// Reads the value of `text` that `cursor` stands before, up to a comma or the end. Spans count in `text`.
    pub(super) fn parse_front(
        text: &'a [u8],
        cursor: &mut Cursor<'a>,
    ) -> Result<NameAddr<'a>, Fault> {
        cursor.skip_blanks();
        let bracketed = bracket(cursor)?;
        let uri_span = match bracketed {
            true => cursor.bracketed_uri(),
            false => cursor.bare_uri(),
        };
        if uri_span.is_empty() || (bracketed && !cursor.eat(b'>')) {
            return Err(cursor.fault(FaultKind::UriBad));
        }
        cursor.skip_blanks();
        let parameters = cursor.at();
        let mut tag = None;
        while let Some(parameter) = cursor.parameter(FaultKind::UriBad)? {
            if parameter.name.of(text).eq_ignore_ascii_case(b"tag") {
                tag = tag.or(parameter.value);
            }
        }
        let parameters = Range32::new(parameters, cursor.at());
        Ok(NameAddr { text, uri: uri_span.of(text), uri_span, bracketed, parameters, tag })
    }

    /// The tag of From and To (RFC 3261 19.3).
    pub fn tag(&self) -> Option<&'a [u8]> {
        Some(self.tag?.of(self.text))
    }

    /// The header parameters in order.
    pub fn params(&self) -> impl Iterator<Item = Parameter> + use<'a> {
        let mut cursor = Cursor::new(self.text, self.parameters);
        std::iter::from_fn(move || cursor.parameter(FaultKind::UriBad).ok().flatten())
    }

    /// A header parameter by its lower-case name: absent, bare, or with its value as written.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let text = self.text;
        self.params()
            .find(|parameter| parameter.name.of(text).eq_ignore_ascii_case(name.as_bytes()))
            .map(|parameter| parameter.value.map(|span| span.of(text)))
    }
}

/// Moves to the URI behind `<`, past a display name, and says whether there is one; if not, nothing has moved.
fn bracket(cursor: &mut Cursor<'_>) -> Result<bool, Fault> {
    match cursor.peek() {
        Some(b'<') => {
            cursor.bump();
            return Ok(true);
        }
        Some(b'"') => {
            if cursor.quoted().is_some() {
                cursor.skip_blanks();
                if cursor.eat(b'<') {
                    return Ok(true);
                }
            }
            return Err(cursor.fault(FaultKind::UriBad));
        }
        _ => {}
    }
    let before = *cursor;
    cursor.skip_words();
    if cursor.eat(b'<') {
        return Ok(true);
    }
    *cursor = before;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_fall_into_their_parts() {
        let uri =
            Uri::parse(b"sips:al%69ce;x:pw@[2001:db8::1]:5061;transport=tcp;lr;ob?subject=a%20b")
                .expect("a URI");
        assert_eq!(uri.scheme, Scheme::Sips);
        assert_eq!(uri.user, Some(b"al%69ce;x:pw".as_slice()));
        assert_eq!((uri.host, uri.port), (b"[2001:db8::1]".as_slice(), Some(5061)));
        assert_eq!(uri.transport(), Some(b"tcp".as_slice()));
        assert!(uri.lr() && uri.ob() && uri.maddr().is_none());
        assert_eq!(uri.headers, Some(b"subject=a%20b".as_slice()));
        let uri = Uri::parse(b"TEL:+1-201-555-0123;phone-context=example.com").expect("a URI");
        assert_eq!((uri.scheme, uri.host), (Scheme::Tel, b"".as_slice()));
        let uri = Uri::parse(b"urn:service:sos").expect("a URI");
        assert_eq!((uri.scheme, uri.opaque), (Scheme::Other, b"service:sos".as_slice()));
        assert_eq!(
            Uri::parse(b"sip:h;lr=on;maddr=x").expect("a URI").maddr(),
            Some(b"x".as_slice())
        );
    }

    #[test]
    fn what_is_no_uri_is_refused_where_it_goes_wrong() {
        let bad = [
            "",
            "sip",
            "sip:",
            ":a",
            "1sip:a",
            "<sip:a>",
            "sip:@b",
            "sip:a b@c",
            "sip:a@b c",
            "sip:a%4@b",
            "sip:a%zz@b",
            "sip:a@b@c",
            "sip:2001:db8::10",
            "sip:[2001:db8::10",
            "sip:[1.2.3.4]",
            "sip:a:",
            "sip:a:65536",
            "sip:a:5060x",
            "sip:a;",
            "sip:a;;lr",
            "sip:a;=x",
            "isbn:29 83",
        ];
        for text in bad {
            let fault = Uri::parse(text.as_bytes()).map(|_| ()).expect_err(text);
            assert_eq!(fault.kind, FaultKind::UriBad);
            assert!(fault.offset as usize <= text.len());
        }
        assert_eq!(Uri::parse(b"sip:a@b c").map(|_| ()).expect_err("a blank").offset, 7);
    }

    #[test]
    fn hosts_are_the_same_in_every_form() {
        let same: [(&str, &str); 7] = [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("[::ffff:192.0.2.1]", "192.0.2.1"),
            ("[2001:db8:::192.0.2.1]", "[2001:db8::c000:201]"),
            ("10.0.0.1", "10.0.0.1"),
        ];
        for (one, other) in same {
            assert!(same_host(one.as_bytes(), other.as_bytes()), "{one} {other}");
        }
        let different: [(&str, &str); 5] = [
            ("example.com", "example.org"),
            ("a.example.com", "example.com"),
            ("192.0.2.1", "192.0.2.10"),
            ("[::1]", "127.0.0.1"),
            ("", "a"),
        ];
        for (one, other) in different {
            assert!(!same_host(one.as_bytes(), other.as_bytes()), "{one} {other}");
        }
        for name in [
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "a",
            "[1.2.3.4]",
            "[]",
            "::::1",
            "[:::1]",
        ] {
            assert_eq!(host_ip(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn name_addrs_fall_into_their_parts() {
        let good: [(&str, &str, bool, Option<&str>); 9] = [
            ("sip:a@b", "sip:a@b", false, None),
            ("sip:a@b;tag=1", "sip:a@b", false, Some("1")),
            ("<sip:a@b;x>;tag=1", "sip:a@b;x", true, Some("1")),
            ("\"A, \\\"B\\\" <x>\" <sip:a@b> ; tag = 2", "sip:a@b", true, Some("2")),
            ("Bell<sip:a@b>;TAG=3", "sip:a@b", true, Some("3")),
            ("A. G. Bell <sip:a@b>;tag=\"q;,\"", "sip:a@b", true, Some("\"q;,\"")),
            ("<sip:a@b?h=%3C>;x;tag=4", "sip:a@b?h=%3C", true, Some("4")),
            ("\r\n sip:a@b\r\n\t;tag\r\n =\r\n 5", "sip:a@b", false, Some("5")),
            ("*", "*", false, None),
        ];
        for (text, uri, bracketed, tag) in good {
            let read = NameAddr::parse(text.as_bytes()).expect(text);
            assert_eq!((read.uri, read.bracketed), (uri.as_bytes(), bracketed), "{text}");
            assert_eq!(read.param("tag").flatten(), tag.map(str::as_bytes), "{text}");
        }
        let bad = [
            "",
            " ",
            "<>",
            "<sip:a@b",
            "< sip:a@b>",
            "<sip:a@b >",
            "\"A <sip:a@b>",
            "\"A\" sip:a@b",
            "Bell, A <sip:a@b>",
            "sip:a@b?x=y",
            "sip:a@b;",
            "sip:a@b;;tag=1",
            "sip:a@b;tag=",
            "<sip:a@b>x",
            "<sip:a@b>;a b",
            "sip:a@b, sip:c@d",
            "<<sip:a@b>>",
        ];
        for text in bad {
            assert!(NameAddr::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
