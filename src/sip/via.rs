//! One Via value (RFC 3261 20.42): sent-protocol, sent-by and the parameters that a proxy reads or writes.
//! Never a copy: everything is a span of the message. Never judges a transport.

use std::net::IpAddr;

use super::error::{Fault, FaultKind};
use super::text::{Cursor, Parameter, Range32, decimal};
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
        const NAMES: [(Slot, &str); SLOTS] = [
            (Slot::Alias, "alias"),
            (Slot::Branch, "branch"),
            (Slot::Keep, "keep"),
            (Slot::Maddr, "maddr"),
            (Slot::Oc, "oc"),
            (Slot::OcAlgo, "oc-algo"),
            (Slot::OcSeq, "oc-seq"),
            (Slot::OcValidity, "oc-validity"),
            (Slot::Received, "received"),
            (Slot::Rport, "rport"),
        ];
        NAMES
            .iter()
            .find(|(_, text)| name.eq_ignore_ascii_case(text.as_bytes()))
            .map(|(slot, _)| *slot)
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
    slots: [Option<Parameter>; SLOTS],
}

impl<'a> Via<'a> {
    /// Reads the value at `range` of `text`. Every parameter must be well formed and a known one may come once only, so
    /// that nobody behind us can read another branch.
    pub fn parse(text: &'a [u8], range: Range32) -> Result<Via<'a>, Fault> {
        let span = super::text::trimmed(text, range);
        let mut cursor = Cursor::new(text, span);
        let transport = sent_protocol(&mut cursor)?;
        let blanks = cursor.at;
        cursor.skip_blanks();
        if cursor.at == blanks {
            return Err(cursor.fault(FaultKind::ViaBad));
        }
        let host = host(&mut cursor)?;
        let port = port(&mut cursor)?;
        cursor.skip_blanks();
        let parameters = Range32::new(cursor.at, span.end);
        let mut slots = [None; SLOTS];
        while let Some(parameter) = cursor.parameter(FaultKind::ViaBad)? {
            if let Some(slot) = Slot::of(parameter.name.of(text)) {
                let place = &mut slots[slot as usize];
                if place.is_some() {
                    return Err(Fault::new(FaultKind::ViaBad, parameter.whole.start));
                }
                *place = Some(parameter);
            }
        }
        let via = Via {
            text,
            span,
            transport: transport.of(text),
            host: host.of(text),
            port,
            parameters,
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
        self.slots[slot as usize]
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
            .filter_map(move |slot| slots[slot as usize])
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
fn sent_protocol(cursor: &mut Cursor<'_>) -> Result<Range32, Fault> {
    let fault = |cursor: &Cursor<'_>| cursor.fault(FaultKind::ViaBad);
    let name = cursor.token().ok_or(fault(cursor))?;
    slash(cursor)?;
    let version = cursor.token().ok_or(fault(cursor))?;
    slash(cursor)?;
    let transport = cursor.token().ok_or(fault(cursor))?;
    if !name.of(cursor.bytes).eq_ignore_ascii_case(b"SIP") || version.of(cursor.bytes) != b"2.0" {
        return Err(Fault::new(FaultKind::ViaBad, name.start));
    }
    Ok(transport)
}

fn slash(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    cursor.skip_blanks();
    if !cursor.eat(b'/') {
        return Err(cursor.fault(FaultKind::ViaBad));
    }
    cursor.skip_blanks();
    Ok(())
}

fn host(cursor: &mut Cursor<'_>) -> Result<Range32, Fault> {
    let start = cursor.at;
    if cursor.eat(b'[') {
        cursor.take_while(|byte| byte != b']');
        if !cursor.eat(b']') || host_ip(&cursor.bytes[start as usize..cursor.at as usize]).is_none()
        {
            return Err(Fault::new(FaultKind::ViaBad, start));
        }
        return Ok(Range32::new(start, cursor.at));
    }
    let host = cursor.take_while(super::text::is_host_byte);
    if host.is_empty() { Err(cursor.fault(FaultKind::ViaBad)) } else { Ok(host) }
}

fn port(cursor: &mut Cursor<'_>) -> Result<Option<u16>, Fault> {
    let before = *cursor;
    cursor.skip_blanks();
    if !cursor.eat(b':') {
        *cursor = before;
        return Ok(None);
    }
    cursor.skip_blanks();
    let digits = cursor.take_while(|byte| byte.is_ascii_digit());
    match decimal(digits.of(cursor.bytes)).and_then(|port| u16::try_from(port).ok()) {
        Some(port) => Ok(Some(port)),
        None => Err(Fault::new(FaultKind::ViaBad, digits.start)),
    }
}
