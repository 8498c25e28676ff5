//! One Via value (RFC 3261 20.42): sent-protocol, sent-by and the parameters that a proxy reads or writes.
//! Never a copy: everything is a span of the message. Never judges a transport.

use std::net::IpAddr;

use super::error::{Fault, FaultKind};
use super::text::{Cursor, Parameter, Range32, decimal, is_blank};
use super::uri::host_ip;

/// The `rport` parameter (RFC 3581 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rport {
    Absent,
    /// The sender asks for its port.
    Bare,
    Value(u16),
}

/// Parameters that have a slot of their own in [`Via`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Slot {
    Alias,
    Branch,
    Keep,
    Maddr,
    Oc,
    OcAlgo,
    OcSeq,
    OcValidity,
    Received,
    Rport,
}

const SLOTS: usize = Slot::Rport as usize + 1;

impl Slot {
    fn of(name: &[u8]) -> Option<Slot> {
        // Length and first letter leave one that it can be.
        let (slot, text) = match (name.len(), name.first()? | 0x20) {
            (5, b'a') => (Slot::Alias, "alias"),
            (6, b'b') => (Slot::Branch, "branch"),
            (4, b'k') => (Slot::Keep, "keep"),
            (5, b'm') => (Slot::Maddr, "maddr"),
            (2, b'o') => (Slot::Oc, "oc"),
            (7, b'o') => (Slot::OcAlgo, "oc-algo"),
            (6, b'o') => (Slot::OcSeq, "oc-seq"),
            (11, b'o') => (Slot::OcValidity, "oc-validity"),
            (8, b'r') => (Slot::Received, "received"),
            (5, b'r') => (Slot::Rport, "rport"),
            _ => return None,
        };
        name.eq_ignore_ascii_case(text.as_bytes()).then_some(slot)
    }
}

/// Where a parameter stands: small, since most Vias lack most of them.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u16,
    name_start: u16,
    /// 0: the parameter is absent.
    name_end: u16,
    /// 0: it is bare.
    value_start: u16,
    end: u16,
}

impl Place {
    /// `None` beyond sixteen bits, which no message reaches.
    fn of(parameter: Parameter) -> Option<Place> {
        let value = parameter.value.map_or(0, |value| value.start);
        Some(Place {
            start: parameter.whole.start.try_into().ok()?,
            name_start: parameter.name.start.try_into().ok()?,
            name_end: parameter.name.end.try_into().ok()?,
            value_start: value.try_into().ok()?,
            end: parameter.whole.end.try_into().ok()?,
        })
    }

    fn parameter(self) -> Option<Parameter> {
        let span = |start: u16, end: u16| Range32::new(start.into(), end.into());
        if self.name_end == 0 {
            return None;
        }
        let value =
            if self.value_start == 0 { None } else { Some(span(self.value_start, self.end)) };
        let name = span(self.name_start, self.name_end);
        Some(Parameter { whole: span(self.start, self.end), name, value })
    }
}

/// One Via value. Spans are absolute in the text that it was parsed from, the message as a rule.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    text: &'a [u8],
    /// The whole value, without blanks at its ends.
    pub span: Range32,
    pub transport: &'a [u8],
    /// As written, brackets kept.
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// From the first semicolon, or the end, to the end of the value.
    pub parameters: Range32,
    slots: [Place; SLOTS],
}

impl<'a> Via<'a> {
    /// Reads the value at `range` of `text`. Every parameter must be well formed and a known one may come once only, so
    /// that nobody behind us can read another branch.
    pub fn parse(text: &'a [u8], range: Range32) -> Result<Via<'a>, Fault> {
        let mut cursor = Cursor::new(text, range);
        let via = Via::parse_front(text, &mut cursor)?;
        if cursor.is_done() { Ok(via) } else { Err(cursor.fault(FaultKind::ViaBad)) }
    }

    /// Reads the value that `cursor` stands before, up to a comma or the end.
    pub(super) fn parse_front(text: &'a [u8], cursor: &mut Cursor<'a>) -> Result<Via<'a>, Fault> {
        cursor.skip_blanks();
        let start = cursor.at();
        let transport = sent_protocol(text, cursor)?;
        if !cursor.peek().is_some_and(is_blank) {
            return Err(cursor.fault(FaultKind::ViaBad));
        }
        cursor.skip_blanks();
        let host = cursor.host().ok_or(cursor.fault(FaultKind::ViaBad))?;
        let mut end = host.end;
        let port = port(cursor, &mut end)?;
        cursor.skip_blanks();
        let parameters = cursor.at();
        let mut slots = [Place::default(); SLOTS];
        while let Some(parameter) = cursor.parameter(FaultKind::ViaBad)? {
            end = parameter.whole.end;
            if let Some(slot) = Slot::of(parameter.name.of(text)) {
                let place = &mut slots[slot as usize];
                let fault = Fault::new(FaultKind::ViaBad, parameter.whole.start);
                if place.name_end > 0 {
                    return Err(fault);
                }
                *place = Place::of(parameter).ok_or(fault)?;
            }
        }
        let via = Via {
            text,
            span: Range32::new(start, end),
            transport: transport.of(text),
            host: host.of(text),
            port,
            parameters: Range32::new(parameters.min(end), end),
            slots,
        };
        via.check()
    }

    /// Whether the known parameters mean something.
    fn check(self) -> Result<Via<'a>, Fault> {
        let bad = |slot: Slot| {
            let at = self.slot(slot).map_or(self.span.start, |found| found.whole.start);
            Err(Fault::new(FaultKind::ViaBad, at))
        };
        if self.slot(Slot::Branch).is_some_and(|branch| branch.value.is_none()) {
            return bad(Slot::Branch);
        }
        if let Some(value) = self.value(Slot::Rport)
            && decimal(value).is_none_or(|port| port > 65_535)
        {
            return bad(Slot::Rport);
        }
        Ok(self)
    }

    fn slot(&self, slot: Slot) -> Option<Parameter> {
        self.slots[slot as usize].parameter()
    }

    fn value(&self, slot: Slot) -> Option<&'a [u8]> {
        Some(self.slot(slot)?.value?.of(self.text))
    }

    /// Presence of a parameter that may be bare, and its value.
    fn presence(&self, slot: Slot) -> Option<Option<&'a [u8]>> {
        self.slot(slot).map(|found| found.value.map(|value| value.of(self.text)))
    }

    pub fn branch(&self) -> Option<&'a [u8]> {
        self.value(Slot::Branch)
    }

    pub fn branch_span(&self) -> Option<Range32> {
        self.slot(Slot::Branch)?.value
    }

    /// As written; some write IPv6 in brackets here (RFC 5118 4.5).
    pub fn received(&self) -> Option<&'a [u8]> {
        self.value(Slot::Received)
    }

    pub fn received_parameter(&self) -> Option<Parameter> {
        self.slot(Slot::Received)
    }

    pub fn rport(&self) -> Rport {
        match self.presence(Slot::Rport) {
            None => Rport::Absent,
            Some(None) => Rport::Bare,
            Some(Some(value)) => Rport::Value(decimal(value).unwrap_or(0) as u16),
        }
    }

    pub fn rport_parameter(&self) -> Option<Parameter> {
        self.slot(Slot::Rport)
    }

    pub fn maddr(&self) -> Option<&'a [u8]> {
        self.value(Slot::Maddr)
    }

    /// `keep` (RFC 6223 4): absent, bare, or with a value.
    pub fn keep(&self) -> Option<Option<&'a [u8]>> {
        self.presence(Slot::Keep)
    }

    pub fn keep_parameter(&self) -> Option<Parameter> {
        self.slot(Slot::Keep)
    }

    /// `oc` (RFC 7339 4.1): absent, bare, or with a value.
    pub fn oc(&self) -> Option<Option<&'a [u8]>> {
        self.presence(Slot::Oc)
    }

    /// `oc-algo` (RFC 7339 4.2), quotes included.
    pub fn oc_algo(&self) -> Option<&'a [u8]> {
        self.value(Slot::OcAlgo)
    }

    /// `oc-validity` in milliseconds (RFC 7339 4.3).
    pub fn oc_validity(&self) -> Option<&'a [u8]> {
        self.value(Slot::OcValidity)
    }

    /// `oc-seq` (RFC 7339 4.4).
    pub fn oc_seq(&self) -> Option<&'a [u8]> {
        self.value(Slot::OcSeq)
    }

    /// The overload parameters that are there, in no certain order.
    pub fn oc_parameters(&self) -> impl Iterator<Item = Parameter> + use<> {
        let slots = self.slots;
        [Slot::Oc, Slot::OcAlgo, Slot::OcSeq, Slot::OcValidity]
            .into_iter()
            .filter_map(move |slot| slots[slot as usize].parameter())
    }

    /// `alias` (RFC 5923 5).
    pub fn alias(&self) -> bool {
        self.slot(Slot::Alias).is_some()
    }

    /// Where a parameter can be appended.
    pub fn end(&self) -> u32 {
        self.span.end
    }

    /// Whether sent-by is the address `ip` (RFC 3261 18.2.1: if not, `received` is owed).
    pub fn sent_by_is(&self, ip: IpAddr) -> bool {
        host_ip(self.host) == Some(ip.to_canonical())
    }
}

/// `SIP / 2.0 / transport`, with blanks around the slashes.
fn sent_protocol(text: &[u8], cursor: &mut Cursor<'_>) -> Result<Range32, Fault> {
    // The usual form.
    if cursor.rest().starts_with(b"SIP/2.0/") {
        cursor.take(8);
        return cursor.token().ok_or(cursor.fault(FaultKind::ViaBad));
    }
    let fault = cursor.fault(FaultKind::ViaBad);
    let name = cursor.token().ok_or(fault)?;
    slash(cursor)?;
    let version = cursor.token().ok_or(cursor.fault(FaultKind::ViaBad))?;
    slash(cursor)?;
    let transport = cursor.token().ok_or(cursor.fault(FaultKind::ViaBad))?;
    let good = name.of(text).eq_ignore_ascii_case(b"SIP") && version.of(text) == b"2.0";
    if good { Ok(transport) } else { Err(fault) }
}

fn slash(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    cursor.skip_blanks();
    if !cursor.eat(b'/') {
        return Err(cursor.fault(FaultKind::ViaBad));
    }
    cursor.skip_blanks();
    Ok(())
}

/// The port, if there is one, and then its end.
fn port(cursor: &mut Cursor<'_>, end: &mut u32) -> Result<Option<u16>, Fault> {
    let before = *cursor;
    cursor.skip_blanks();
    if !cursor.eat(b':') {
        *cursor = before;
        return Ok(None);
    }
    cursor.skip_blanks();
    let port = cursor.port().ok_or(cursor.fault(FaultKind::ViaBad))?;
    *end = cursor.at();
    Ok(Some(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Via<'_>, Fault> {
        Via::parse(text.as_bytes(), Range32::all(text.as_bytes()))
    }

    #[test]
    fn values_fall_into_their_parts() {
        let via =
            parse("SIP/2.0/TLS [2001:DB8::1]:5061;branch=z9hG4bKx;rport;received=::1;ALIAS;keep")
                .expect("a Via");
        assert_eq!((via.transport, via.host), (b"TLS".as_slice(), b"[2001:DB8::1]".as_slice()));
        assert_eq!((via.port, via.branch()), (Some(5061), Some(b"z9hG4bKx".as_slice())));
        assert_eq!((via.rport(), via.received()), (Rport::Bare, Some(b"::1".as_slice())));
        assert!(via.alias() && via.keep() == Some(None) && via.oc().is_none());
        let via = parse(" sip / 2.0 / udp \r\n host.example.com : 7 ; rport = 9 ; x=\"a,;\" ")
            .expect("a Via");
        assert_eq!((via.transport, via.host), (b"udp".as_slice(), b"host.example.com".as_slice()));
        assert_eq!((via.port, via.rport()), (Some(7), Rport::Value(9)));
        let via = parse("SIP/2.0/TCP h;oc=20;oc-algo=\"loss\";oc-validity=500;oc-seq=1.2")
            .expect("a Via");
        assert_eq!(via.oc(), Some(Some(b"20".as_slice())));
        assert_eq!(via.oc_algo(), Some(b"\"loss\"".as_slice()));
        assert_eq!(via.oc_validity(), Some(b"500".as_slice()));
        assert_eq!(via.oc_seq(), Some(b"1.2".as_slice()));
        assert_eq!(via.oc_parameters().count(), 4);
    }

    /// 3261-7.3-b: a parameter comes once.
    #[test]
    fn what_is_no_via_is_refused() {
        let bad = [
            "",
            "SIP/2.0/TCP",
            "SIP/2.0/TCP ",
            "SIP/2.0 host",
            "SIP/3.0/TCP host",
            "HTTP/2.0/TCP host",
            "SIP/2.0/TCP host:",
            "SIP/2.0/TCP host:65536",
            "SIP/2.0/TCP 2001:db8::1",
            "SIP/2.0/TCP [2001:db8::1",
            "SIP/2.0/TCP [host]",
            "SIP/2.0/TCP host;",
            "SIP/2.0/TCP host;;branch=x",
            "SIP/2.0/TCP host;branch",
            "SIP/2.0/TCP host;branch=",
            "SIP/2.0/TCP host;branch=a;Branch=b",
            "SIP/2.0/TCP host;rport;rport",
            "SIP/2.0/TCP host;rport=70000",
            "SIP/2.0/TCP host;x=\"never ends",
            "SIP/2.0/TCP host branch=x",
            "SIP/2.0/TCP host, SIP/2.0/TCP other",
            "SIP/2.0/TCP host;branch=<x>",
        ];
        for text in bad {
            let fault = parse(text).map(|_| ()).expect_err(text);
            assert_eq!(fault.kind, FaultKind::ViaBad);
            assert!(fault.offset as usize <= text.len(), "{text}");
        }
    }

    /// 3261-18.2.1-a, RFC 5118 4.9.
    #[test]
    fn sent_by_is_compared_as_an_address() {
        let same = |host: &str, ip: &str| {
            parse(&format!("SIP/2.0/TCP {host}")).expect(host).sent_by_is(ip.parse().expect(ip))
        };
        assert!(same("192.0.2.1", "192.0.2.1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(same("[::ffff:192.0.2.1]", "192.0.2.1"));
        assert!(same("[2001:DB8:0::1]", "2001:db8::1"));
        assert!(!same("localhost", "127.0.0.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
