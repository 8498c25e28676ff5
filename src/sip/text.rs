//! Spans, character classes, blanks with folds, comma lists and parameters: the lexical ground of SIP (RFC 3261 25.1).
//! Owns nothing. Never knows what a header means.

use super::error::{Fault, FaultKind};

/// A span of a message's bytes, `start..end`, counted from the front of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Range32 {
    pub start: u32,
    pub end: u32,
}

impl Range32 {
    pub const fn new(start: u32, end: u32) -> Self {
        Range32 { start, end }
    }

    /// An empty span at `at`.
    pub const fn at(at: u32) -> Self {
        Range32 { start: at, end: at }
    }

    pub const fn len(self) -> u32 {
        self.end - self.start
    }

    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub const fn shifted(self, base: u32) -> Self {
        Range32 { start: self.start + base, end: self.end + base }
    }

    /// The bytes of this span.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

const TOKEN: u8 = 1;
/// Bytes of a host, an address with brackets and a port.
const HOST: u8 = 2;
/// `unreserved` of RFC 3261 25.1.
const UNRESERVED: u8 = 4;
const HEX: u8 = 8;
const USER: u8 = 16;
const URI_PARAMETER: u8 = 32;

static CLASSES: [u8; 256] = classes();

const fn mark(mut table: [u8; 256], bytes: &[u8], class: u8) -> [u8; 256] {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] |= class;
        i += 1;
    }
    table
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = TOKEN | HOST | UNRESERVED | USER | URI_PARAMETER;
        }
        if (byte as u8).is_ascii_hexdigit() {
            table[byte] |= HEX;
        }
        byte += 1;
    }
    table = mark(table, b"-.!%*_+`'~", TOKEN);
    table = mark(table, b"-._", HOST);
    table = mark(table, b"-_.!~*'()", UNRESERVED | USER | URI_PARAMETER);
    table = mark(table, b"&=+$,;?/", USER);
    mark(table, b"[]/:&+$", URI_PARAMETER)
}

pub const fn is_token_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

pub const fn is_host_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & HOST != 0
}

pub const fn is_hex_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & HEX != 0
}

pub const fn is_user_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & USER != 0
}

pub const fn is_uri_parameter_byte(byte: u8) -> bool {
    CLASSES[byte as usize] & URI_PARAMETER != 0
}

/// Blanks as they may stand between parts of a value: SP, HT and the CRLF of a fold. The scanner has seen to it that a
/// CRLF inside a value is always followed by SP or HT.
pub const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// `range` without blanks at both ends.
pub fn trimmed(bytes: &[u8], range: Range32) -> Range32 {
    let mut range = range;
    while range.start < range.end && is_blank(bytes[range.start as usize]) {
        range.start += 1;
    }
    while range.start < range.end && is_blank(bytes[range.end as usize - 1]) {
        range.end -= 1;
    }
    range
}

/// Digits alone, checked; `None` for anything else, also for nothing.
pub fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Splits the next value off a comma list that starts at `range.start`: the value (not trimmed) and where the next one
/// begins, `None` when this was the last. Commas in quotes and angle brackets do not count (RFC 3261 7.3.1).
pub fn split_comma(bytes: &[u8], range: Range32) -> (Range32, Option<u32>) {
    let mut quoted = false;
    let mut bracketed = false;
    let mut at = range.start;
    while at < range.end {
        match bytes[at as usize] {
            b'\\' if quoted => at += 1,
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b',' if !quoted && !bracketed => {
                return (Range32::new(range.start, at), Some(at + 1));
            }
            _ => {}
        }
        at += 1;
    }
    (range, None)
}

/// Semicolons outside quotes: parameters of one value and of the URI in it, as an upper bound.
pub fn count_semicolons(value: &[u8]) -> u32 {
    let mut count = 0;
    let mut quoted = false;
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if quoted => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            b';' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// A place in a text that moves forward. Invariant: `at <= end <= bytes.len()`.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: u32,
    pub end: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], range: Range32) -> Self {
        assert!(range.start <= range.end && range.end as usize <= bytes.len());
        Cursor { bytes, at: range.start, end: range.end }
    }

    pub fn peek(&self) -> Option<u8> {
        if self.at < self.end { Some(self.bytes[self.at as usize]) } else { None }
    }

    pub fn is_done(&self) -> bool {
        self.at == self.end
    }

    pub fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += u32::from(found);
        found
    }

    /// Takes bytes as long as `wanted` says so; may be empty.
    pub fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> Range32 {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        Range32::new(start, self.at)
    }

    pub fn token(&mut self) -> Option<Range32> {
        let token = self.take_while(is_token_byte);
        if token.is_empty() { None } else { Some(token) }
    }

    /// Takes a quoted string with its quotes; `None` when no quote is next or it never ends.
    pub fn quoted(&mut self) -> Option<Range32> {
        let start = self.at;
        if !self.eat(b'"') {
            return None;
        }
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Some(Range32::new(start, self.at)),
                b'\\' if self.at < self.end => self.at += 1,
                _ => {}
            }
        }
        None
    }

    pub fn fault(&self, kind: FaultKind) -> Fault {
        Fault::new(kind, self.at)
    }
}

/// One `;name` or `;name=value` of a header value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// From the semicolon to the end of the value.
    pub whole: Range32,
    pub name: Range32,
    /// Quotes included.
    pub value: Option<Range32>,
}

impl Cursor<'_> {
    /// The next parameter of a header value (RFC 3261 25.1 `generic-param`), `None` at the end. Anything that is not a
    /// parameter is a fault of `kind`.
    pub fn parameter(&mut self, kind: FaultKind) -> Result<Option<Parameter>, Fault> {
        self.skip_blanks();
        if self.is_done() {
            return Ok(None);
        }
        let start = self.at;
        if !self.eat(b';') {
            return Err(self.fault(kind));
        }
        self.skip_blanks();
        let name = self.token().ok_or(self.fault(kind))?;
        let before = *self;
        self.skip_blanks();
        if !self.eat(b'=') {
            *self = before;
            return Ok(Some(Parameter { whole: Range32::new(start, name.end), name, value: None }));
        }
        self.skip_blanks();
        let value = if self.peek() == Some(b'"') {
            self.quoted().ok_or(self.fault(kind))?
        } else {
            self.take_while(|byte| is_token_byte(byte) || matches!(byte, b'[' | b']' | b':'))
        };
        if value.is_empty() {
            return Err(self.fault(kind));
        }
        Ok(Some(Parameter { whole: Range32::new(start, value.end), name, value: Some(value) }))
    }
}
