//! SIP, SIPS and tel URIs (RFC 3261 19.1, 25.1) and name-addr values. Spans only, never a copy; a URI is never looked
//! for by searching bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{Fault, FaultKind};
use super::text::{self, Cursor, Parameter, Range32, decimal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Other,
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
    /// names, which is common.
    pub fn parse(bytes: &'a [u8]) -> Result<Uri<'a>, Fault> {
        let mut cursor = Cursor::new(bytes, Range32::new(0, bytes.len() as u32));
        let name = scheme_name(&mut cursor)?;
        let scheme = match name {
            _ if name.eq_ignore_ascii_case(b"sip") => Scheme::Sip,
            _ if name.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
            _ if name.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
            _ => Scheme::Other,
        };
        let opaque = &bytes[cursor.at as usize..];
        let mut uri = Uri {
            scheme,
            scheme_name: name,
            opaque,
            user: None,
            host: b"",
            port: None,
            parameters: b"",
            headers: None,
        };
        if matches!(scheme, Scheme::Tel | Scheme::Other) {
            escaped(&mut cursor, |byte| {
                matches!(byte, 0x21..=0x7e) && !b"\"<>\\^`{|}".contains(&byte)
            })?;
            return done(&cursor, uri);
        }
        uri.user = user(&mut cursor)?;
        uri.host = host(&mut cursor)?;
        uri.port = port(&mut cursor)?;
        if cursor.eat(b';') {
            let start = cursor.at;
            escaped(&mut cursor, |byte| {
                text::is_uri_parameter_byte(byte) || matches!(byte, b';' | b'=')
            })?;
            uri.parameters = &bytes[start as usize..cursor.at as usize];
            check_parameters(uri.parameters, start)?;
        }
        if cursor.eat(b'?') {
            let start = cursor.at;
            escaped(&mut cursor, |byte| text::is_user_byte(byte) || b"[]:".contains(&byte))?;
            uri.headers = Some(&bytes[start as usize..cursor.at as usize]);
        }
        done(&cursor, uri)
    }

    /// A URI parameter by its lower-case name: absent, bare, or with its value as written.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        self.params()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// All URI parameters in order.
    pub fn params(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let present = if self.parameters.is_empty() { None } else { Some(self.parameters) };
        present.into_iter().flat_map(|parameters| parameters.split(|byte| *byte == b';')).map(
            |parameter| match memchr::memchr(b'=', parameter) {
                Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
                None => (parameter, None),
            },
        )
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

fn done<'a>(cursor: &Cursor<'_>, uri: Uri<'a>) -> Result<Uri<'a>, Fault> {
    if cursor.is_done() && !uri.opaque.is_empty() {
        Ok(uri)
    } else {
        Err(cursor.fault(FaultKind::UriBad))
    }
}

fn scheme_name<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let name = cursor.take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let name = name.of(cursor.bytes);
    if !name.first().is_some_and(u8::is_ascii_alphabetic) || !cursor.eat(b':') {
        return Err(cursor.fault(FaultKind::UriBad));
    }
    Ok(name)
}

/// Takes wanted bytes and `%HH`.
fn escaped(cursor: &mut Cursor<'_>, wanted: impl Fn(u8) -> bool) -> Result<(), Fault> {
    while let Some(byte) = cursor.peek() {
        if byte == b'%' {
            let hex = cursor.bytes.get(cursor.at as usize + 1..cursor.at as usize + 3);
            if cursor.at + 3 > cursor.end
                || !hex.is_some_and(|hex| hex.iter().all(|byte| text::is_hex_byte(*byte)))
            {
                return Err(cursor.fault(FaultKind::UriBad));
            }
            cursor.at += 3;
        } else if wanted(byte) {
            cursor.at += 1;
        } else {
            break;
        }
    }
    Ok(())
}

fn user<'a>(cursor: &mut Cursor<'a>) -> Result<Option<&'a [u8]>, Fault> {
    let rest = &cursor.bytes[cursor.at as usize..cursor.end as usize];
    let Some(length) = memchr::memchr(b'@', rest) else { return Ok(None) };
    let start = cursor.at;
    let at_sign = start + length as u32;
    let mut part = Cursor { bytes: cursor.bytes, at: start, end: at_sign };
    escaped(&mut part, text::is_user_byte)?;
    let named = part.at > start;
    if part.eat(b':') {
        escaped(&mut part, |byte| text::is_user_byte(byte) && !b";?/".contains(&byte))?;
    }
    if !named || !part.is_done() {
        return Err(part.fault(FaultKind::UriBad));
    }
    cursor.at = at_sign + 1;
    Ok(Some(&cursor.bytes[start as usize..at_sign as usize]))
}

fn host<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let start = cursor.at;
    if cursor.eat(b'[') {
        cursor.take_while(|byte| byte != b']');
        cursor.eat(b']');
        let host = &cursor.bytes[start as usize..cursor.at as usize];
        return if host_ip(host).is_some() {
            Ok(host)
        } else {
            Err(Fault::new(FaultKind::UriBad, start))
        };
    }
    let host = cursor.take_while(text::is_host_byte).of(cursor.bytes);
    if host.is_empty() { Err(cursor.fault(FaultKind::UriBad)) } else { Ok(host) }
}

fn port(cursor: &mut Cursor<'_>) -> Result<Option<u16>, Fault> {
    if !cursor.eat(b':') {
        return Ok(None);
    }
    let digits = cursor.take_while(|byte| byte.is_ascii_digit());
    match decimal(digits.of(cursor.bytes)).and_then(|port| u16::try_from(port).ok()) {
        Some(port) => Ok(Some(port)),
        None => Err(Fault::new(FaultKind::UriBad, digits.start)),
    }
}

/// Names are there; none comes twice (RFC 3261 19.1.1).
fn check_parameters(parameters: &[u8], base: u32) -> Result<(), Fault> {
    let mut at = base;
    for parameter in parameters.split(|byte| *byte == b';') {
        if parameter.is_empty() || parameter[0] == b'=' {
            return Err(Fault::new(FaultKind::UriBad, at));
        }
        at += parameter.len() as u32 + 1;
    }
    Ok(())
}

/// The address that a host as written is: IPv4, or IPv6 with or without brackets. IPv4-mapped counts as IPv4.
pub fn host_ip(host: &[u8]) -> Option<IpAddr> {
    let inner = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    if inner.is_none()
        && let Some(address) = parsed::<Ipv4Addr>(host)
    {
        return Some(IpAddr::V4(address));
    }
    let address = parsed::<Ipv6Addr>(inner.unwrap_or(host))?;
    Some(IpAddr::V6(address).to_canonical())
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
    value: &'a [u8],
    pub uri: &'a [u8],
    /// Where the URI stands in the value that was parsed.
    pub uri_span: Range32,
    /// Whether the URI stands in angle brackets.
    pub bracketed: bool,
    /// Where the header parameters stand in the value that was parsed, from the first semicolon.
    pub parameters: Range32,
}

impl<'a> NameAddr<'a> {
    /// Reads one value. The URI itself is cut out, not read: `Uri::parse` does that. Header parameters are well formed.
    pub fn parse(value: &'a [u8]) -> Result<NameAddr<'a>, Fault> {
        let mut cursor = Cursor::new(value, Range32::new(0, value.len() as u32));
        cursor.skip_blanks();
        let (uri_span, bracketed) = match bracket(&mut cursor)? {
            true => (bracketed_uri(&mut cursor)?, true),
            false => (
                cursor.take_while(|byte| !text::is_blank(byte) && !b";,?<>\"".contains(&byte)),
                false,
            ),
        };
        if uri_span.is_empty() {
            return Err(cursor.fault(FaultKind::UriBad));
        }
        cursor.skip_blanks();
        let parameters = Range32::new(cursor.at, cursor.end);
        while cursor.parameter(FaultKind::UriBad)?.is_some() {}
        Ok(NameAddr { value, uri: uri_span.of(value), uri_span, bracketed, parameters })
    }

    /// The header parameters in order.
    pub fn params(&self) -> impl Iterator<Item = Parameter> + use<'a> {
        let mut cursor = Cursor::new(self.value, self.parameters);
        std::iter::from_fn(move || cursor.parameter(FaultKind::UriBad).ok().flatten())
    }

    /// A header parameter by its lower-case name: absent, bare, or with its value as written.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let value = self.value;
        self.params()
            .find(|parameter| parameter.name.of(value).eq_ignore_ascii_case(name.as_bytes()))
            .map(|parameter| parameter.value.map(|span| span.of(value)))
    }
}

/// Moves to the URI behind `<`, past a display name, and says whether there is one; if not, nothing has moved.
fn bracket(cursor: &mut Cursor<'_>) -> Result<bool, Fault> {
    let before = *cursor;
    if cursor.peek() == Some(b'"') {
        cursor.quoted().ok_or(cursor.fault(FaultKind::UriBad))?;
        cursor.skip_blanks();
        return if cursor.eat(b'<') { Ok(true) } else { Err(cursor.fault(FaultKind::UriBad)) };
    }
    cursor.take_while(|byte| text::is_token_byte(byte) || text::is_blank(byte));
    if cursor.eat(b'<') {
        return Ok(true);
    }
    *cursor = before;
    Ok(false)
}

fn bracketed_uri(cursor: &mut Cursor<'_>) -> Result<Range32, Fault> {
    let span = cursor.take_while(|byte| byte != b'>' && byte != b'<' && !text::is_blank(byte));
    if cursor.eat(b'>') { Ok(span) } else { Err(cursor.fault(FaultKind::UriBad)) }
}
