//! Spans, character classes, blanks with folds, comma lists and parameters: the lexical ground of SIP (RFC 3261 25.1).
//! Owns nothing. Never knows what a header means.

use wide::u8x16;

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

    /// All of `bytes`.
    pub const fn all(bytes: &[u8]) -> Self {
        Range32 { start: 0, end: bytes.len() as u32 }
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

/// Character classes of RFC 3261 25.1, one bit each.
const TOKEN: u16 = 1;
/// What a host name or an IPv4 address is made of; `_` is common, though no grammar has it.
const HOST: u16 = 1 << 1;
const HEX: u16 = 1 << 2;
/// `user-unreserved` and `unreserved`.
const USER: u16 = 1 << 3;
/// `param-unreserved` and `unreserved`, with the `;` and `=` between them.
const URI_PARAMETERS: u16 = 1 << 4;
/// `hnv-unreserved` and `unreserved`, with the `&` and `=` between them.
const URI_HEADERS: u16 = 1 << 5;
/// What may stand in a URI of a scheme that is not looked into.
const OPAQUE: u16 = 1 << 6;
/// What may stand in a value of a header parameter that is not quoted: a token, or a host with brackets.
const VALUE: u16 = 1 << 7;
const SCHEME: u16 = 1 << 8;

static CLASSES: [u16; 256] = classes();

const fn mark(mut table: [u16; 256], bytes: &[u8], classes: u16) -> [u16; 256] {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] |= classes;
        at += 1;
    }
    table
}

const fn clear(mut table: [u16; 256], bytes: &[u8], classes: u16) -> [u16; 256] {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] &= !classes;
        at += 1;
    }
    table
}

const fn classes() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte > b' ' as usize && byte < 0x7f {
            table[byte] = OPAQUE;
        }
        if byte < 128 && (byte as u8).is_ascii_alphanumeric() {
            table[byte] |= TOKEN | HOST | USER | URI_PARAMETERS | URI_HEADERS | VALUE | SCHEME;
        }
        if byte < 128 && (byte as u8).is_ascii_hexdigit() {
            table[byte] |= HEX;
        }
        byte += 1;
    }
    table = mark(table, b"-.!%*_+`'~", TOKEN | VALUE);
    table = mark(table, b"[]:", VALUE);
    table = mark(table, b"-._", HOST);
    table = mark(table, b"-_.!~*'()", USER | URI_PARAMETERS | URI_HEADERS);
    table = mark(table, b"&=+$,;?/", USER);
    table = mark(table, b"[]/:&+$;=", URI_PARAMETERS);
    table = mark(table, b"[]/?:+$&=", URI_HEADERS);
    table = mark(table, b"+-.", SCHEME);
    clear(table, b"\"<>\\^`{|}%", OPAQUE)
}

#[inline(always)]
const fn is(byte: u8, class: u16) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// Blanks as they may stand between parts of a value: SP, HT and the CRLF of a fold. The scanner has seen to it that a
/// CRLF inside a value is always followed by SP or HT.
#[inline(always)]
pub const fn is_blank(byte: u8) -> bool {
    byte <= b' ' && matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is(*byte, TOKEN))
}

/// Neither blanks nor control bytes, and something.
pub fn is_visible(bytes: &[u8]) -> bool {
    !bytes.is_empty() && until(bytes, hidden) == bytes.len()
}

/// `range` without blanks at both ends.
#[inline]
pub fn trimmed(bytes: &[u8], range: Range32) -> Range32 {
    let mut text = range.of(bytes);
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    let start = range.end - text.len() as u32;
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    Range32::new(start, start + text.len() as u32)
}

/// Digits alone, checked; `None` for anything else, also for nothing.
pub fn decimal(bytes: &[u8]) -> Option<u64> {
    /// As many digits as always fit.
    const FITTING: usize = 19;
    if bytes.len() > FITTING {
        return long_decimal(bytes);
    }
    let mut sum = 0;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum = sum * 10 + u64::from(digit);
    }
    if bytes.is_empty() { None } else { Some(sum) }
}

#[cold]
fn long_decimal(bytes: &[u8]) -> Option<u64> {
    bytes.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// Splits the next value off a comma list that starts at `range.start`: the value (not trimmed) and where the next one
/// begins, `None` when this was the last. Commas in quotes and angle brackets do not count (RFC 3261 7.3.1); a quote or
/// bracket that never ends hides all that follows.
pub fn split_comma(bytes: &[u8], range: Range32) -> (Range32, Option<u32>) {
    let mut cursor = Cursor::new(bytes, range);
    loop {
        cursor.take(until_list(cursor.rest()));
        let at = cursor.at();
        match cursor.bump() {
            Some(b',') => return (Range32::new(range.start, at), Some(at + 1)),
            Some(b'"') => {
                cursor.skip_quoted();
            }
            Some(_) => {
                cursor.take(memchr::memchr(b'>', cursor.rest()).unwrap_or(cursor.rest().len()));
            }
            None => return (range, None),
        }
    }
}

/// Bytes before the first that `wanted` finds, sixteen at a time; it says which of sixteen, all bits of a lane set.
#[inline(always)]
fn until(bytes: &[u8], wanted: impl Fn(u8x16) -> u8x16) -> usize {
    let (blocks, rest) = bytes.as_chunks::<16>();
    for (place, block) in blocks.iter().enumerate() {
        let found = wanted(u8x16::new(*block)).to_bitmask();
        if found != 0 {
            return 16 * place + found.trailing_zeros() as usize;
        }
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let found = wanted(u8x16::new(last)).to_bitmask() | 1 << rest.len();
    16 * blocks.len() + found.trailing_zeros() as usize
}

#[inline(always)]
fn lanes(block: u8x16, byte: u8) -> u8x16 {
    block.simd_eq(u8x16::splat(byte))
}

/// Blanks, control bytes, DEL.
#[inline(always)]
fn hidden(block: u8x16) -> u8x16 {
    block.min(u8x16::splat(b' ')).simd_eq(block) | lanes(block, 0x7f)
}

/// What can stand in no URI that a header value holds.
#[inline(always)]
fn not_in_brackets(block: u8x16) -> u8x16 {
    hidden(block) | lanes(block, b'"') | lanes(block, b'<') | lanes(block, b'>')
}

/// Letters and digits alone, and something.
pub fn is_alphanumeric(bytes: &[u8]) -> bool {
    let upto = |block: u8x16, last: u8| block.min(u8x16::splat(last)).simd_eq(block);
    let strange = |block: u8x16| {
        let letter = upto((block | u8x16::splat(0x20)) - u8x16::splat(b'a'), b'z' - b'a');
        let digit = upto(block - u8x16::splat(b'0'), 9);
        !(letter | digit)
    };
    !bytes.is_empty() && until(bytes, strange) == bytes.len()
}

/// Bytes before the first comma, quote or `<`.
fn until_list(bytes: &[u8]) -> usize {
    until(bytes, |block| lanes(block, b',') | lanes(block, b'"') | lanes(block, b'<'))
}

/// Whether `wanted` may stand in `bytes`, all bytes compared with the bits of `blind` set: a quick no, sixteen places at a
/// time. A yes wants a closer look where `blind` is not 0.
pub fn may_hold(bytes: &[u8], wanted: &[u8; 4], blind: u8) -> bool {
    const WINDOW: usize = 16 + 3;
    let found = |window: &[u8; WINDOW]| {
        let place = |at: usize| {
            let lane = window[at..].first_chunk().map_or(u8x16::ZERO, |lane| u8x16::new(*lane));
            (lane | u8x16::splat(blind)).simd_eq(u8x16::splat(wanted[at]))
        };
        (place(0) & place(1) & place(2) & place(3)).to_bitmask() != 0
    };
    let Some(last) = bytes.last_chunk() else {
        let mut places = bytes.windows(4);
        return places
            .any(|place| place.iter().zip(wanted).all(|(one, other)| one | blind == *other));
    };
    let mut rest = bytes;
    while let Some(window) = rest.first_chunk() {
        if found(window) {
            return true;
        }
        rest = &rest[16..];
    }
    found(last)
}

/// How often `byte` is there.
pub fn count(bytes: &[u8], byte: u8) -> usize {
    let (blocks, rest) = bytes.as_chunks::<16>();
    let mut count = rest.iter().filter(|other| **other == byte).count();
    // A lane holds as many as one byte can count.
    for blocks in blocks.chunks(255) {
        let mut lanes = u8x16::ZERO;
        for block in blocks {
            lanes -= u8x16::new(*block).simd_eq(u8x16::splat(byte));
        }
        count += lanes.to_array().iter().map(|lane| usize::from(*lane)).sum::<usize>();
    }
    count
}

/// Semicolons outside quotes: parameters of one value and of the URI in it, as an upper bound.
pub fn count_semicolons(value: &[u8]) -> u32 {
    let mut cursor = Cursor::new(value, Range32::all(value));
    let mut count = 0;
    while let Some(byte) = cursor.bump() {
        match byte {
            b'"' => {
                cursor.skip_quoted();
            }
            b';' => count += 1,
            _ => {}
        }
    }
    count
}

/// A place in a text that moves forward.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Where the rest ends in the text.
    end: u32,
}

impl<'a> Cursor<'a> {
    /// At the front of `range` of `text`.
    #[inline]
    pub fn new(text: &'a [u8], range: Range32) -> Self {
        Cursor { rest: range.of(text), end: range.end }
    }

    /// Where it stands in the text.
    #[inline]
    pub fn at(&self) -> u32 {
        self.end - self.rest.len() as u32
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a byte.
    #[inline]
    pub fn bump(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    pub fn skip_blanks(&mut self) {
        while let [first, rest @ ..] = self.rest
            && is_blank(*first)
        {
            self.rest = rest;
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes bytes as long as `wanted` says so.
    #[inline]
    pub fn skip(&mut self, wanted: impl Fn(u8) -> bool) {
        let unwanted = self.rest.iter().position(|byte| !wanted(*byte));
        self.rest = &self.rest[unwanted.unwrap_or(self.rest.len())..];
    }

    /// Takes bytes as long as `wanted` says so and says which; may be empty.
    #[inline]
    pub fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> Range32 {
        let start = self.at();
        self.skip(wanted);
        Range32::new(start, self.at())
    }

    /// Takes the next `count` bytes, or all that are left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub fn token(&mut self) -> Option<Range32> {
        let token = self.take_while(|byte| is(byte, TOKEN));
        if token.is_empty() { None } else { Some(token) }
    }

    pub fn digits(&mut self) -> Range32 {
        self.take_while(|byte| byte.is_ascii_digit())
    }

    /// A host as written, brackets and all; what stands in brackets is an IPv6 address.
    pub fn host(&mut self) -> Option<Range32> {
        let start = self.at();
        if self.eat(b'[') {
            let text = self.rest;
            self.skip(|byte| byte != b']');
            let inner = &text[..text.len() - self.rest.len()];
            let good = self.eat(b']') && super::uri::ipv6(inner).is_some();
            return good.then(|| Range32::new(start, self.at()));
        }
        self.skip(|byte| is(byte, HOST));
        let host = Range32::new(start, self.at());
        if host.is_empty() { None } else { Some(host) }
    }

    /// A port number behind its colon.
    pub fn port(&mut self) -> Option<u16> {
        let text = self.rest;
        let digits = self.digits();
        decimal(&text[..digits.len() as usize]).and_then(|port| u16::try_from(port).ok())
    }

    /// Takes a quoted string with its quotes; `None` when no quote is next or it never ends.
    pub fn quoted(&mut self) -> Option<Range32> {
        let start = self.at();
        if !self.eat(b'"') {
            return None;
        }
        self.skip_quoted().then(|| Range32::new(start, self.at()))
    }

    /// Moves behind the end of a quoted string whose first quote has been taken; false if it never ends.
    fn skip_quoted(&mut self) -> bool {
        loop {
            self.take(until(self.rest, |block| lanes(block, b'"') | lanes(block, b'\\')));
            match self.bump() {
                Some(b'"') => return true,
                Some(_) => {
                    self.bump();
                }
                None => return false,
            }
        }
    }

    /// Takes bytes of a class and `%HH`; false when a percent sign stands before anything else.
    fn escaped(&mut self, class: u16) -> bool {
        loop {
            self.skip(|byte| is(byte, class));
            match self.rest {
                [b'%', high, low, rest @ ..] if is(*high, HEX) && is(*low, HEX) => self.rest = rest,
                [b'%', ..] => return false,
                _ => return true,
            }
        }
    }

    pub fn escaped_user(&mut self) -> bool {
        self.escaped(USER)
    }

    pub fn escaped_uri_parameters(&mut self) -> bool {
        self.escaped(URI_PARAMETERS)
    }

    pub fn escaped_uri_headers(&mut self) -> bool {
        self.escaped(URI_HEADERS)
    }

    pub fn escaped_opaque(&mut self) -> bool {
        self.escaped(OPAQUE)
    }

    pub fn scheme(&mut self) -> Range32 {
        self.take_while(|byte| is(byte, SCHEME))
    }

    /// A URI without angle brackets, as it can stand in a header value (RFC 3261 20.10).
    pub fn bare_uri(&mut self) -> Range32 {
        let start = self.at();
        self.take(until(self.rest, |block| {
            let ends = lanes(block, b';') | lanes(block, b',') | lanes(block, b'?');
            ends | not_in_brackets(block)
        }));
        Range32::new(start, self.at())
    }

    /// A URI in angle brackets, up to its end.
    pub fn bracketed_uri(&mut self) -> Range32 {
        let start = self.at();
        self.take(until(self.rest, not_in_brackets));
        Range32::new(start, self.at())
    }

    /// Tokens and blanks: a display name without quotes.
    pub fn skip_words(&mut self) {
        self.skip(|byte| is(byte, TOKEN) || is_blank(byte));
    }

    pub fn fault(&self, kind: FaultKind) -> Fault {
        Fault::new(kind, self.at())
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
    /// The next parameter of a header value (RFC 3261 25.1 `generic-param`); `None` when the value ends or a comma comes.
    /// Anything else is a fault of `kind`.
    pub fn parameter(&mut self, kind: FaultKind) -> Result<Option<Parameter>, Fault> {
        self.skip_blanks();
        let start = self.at();
        match self.peek() {
            Some(b';') => self.bump(),
            None | Some(b',') => return Ok(None),
            Some(_) => return Err(self.fault(kind)),
        };
        self.skip_blanks();
        let Some(name) = self.token() else { return Err(self.fault(kind)) };
        let behind_name = *self;
        self.skip_blanks();
        if !self.eat(b'=') {
            *self = behind_name;
            let whole = Range32::new(start, name.end);
            return Ok(Some(Parameter { whole, name, value: None }));
        }
        self.skip_blanks();
        let value = match self.peek() {
            Some(b'"') => self.quoted(),
            _ => Some(self.take_while(|byte| is(byte, VALUE))),
        };
        match value {
            Some(value) if !value.is_empty() => {
                let whole = Range32::new(start, value.end);
                Ok(Some(Parameter { whole, name, value: Some(value) }))
            }
            _ => Err(self.fault(kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_that_fit() {
        let good = [
            ("0", 0),
            ("0068", 68),
            ("9999999999999999999", 9_999_999_999_999_999_999),
            ("18446744073709551615", u64::MAX),
            ("0000000000000000000000005", 5),
        ];
        for (text, number) in good {
            assert_eq!(decimal(text.as_bytes()), Some(number), "{text}");
        }
        let bad = [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "1,2",
            "1a",
            "18446744073709551616",
            "99999999999999999999",
        ];
        for text in bad {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn lists_split_at_their_own_commas_only() {
        let lists: [(&str, &[&str]); 8] = [
            ("a", &["a"]),
            ("a,b", &["a", "b"]),
            ("a,,b,", &["a", "", "b", ""]),
            ("\"a,b\",c", &["\"a,b\"", "c"]),
            ("\"a\\\",b\",c", &["\"a\\\",b\"", "c"]),
            ("<a,b>,<c>", &["<a,b>", "<c>"]),
            ("\"never, ends", &["\"never, ends"]),
            ("<never, ends", &["<never, ends"]),
        ];
        for (text, expected) in lists {
            let mut values = Vec::new();
            let mut start = Some(0);
            while let Some(at) = start {
                let rest = Range32::new(at, text.len() as u32);
                let (value, next) = split_comma(text.as_bytes(), rest);
                values.push(std::str::from_utf8(value.of(text.as_bytes())).expect("text"));
                start = next;
            }
            assert_eq!(values, expected, "{text}");
        }
    }

    #[test]
    fn bytes_are_found_and_counted_at_every_place() {
        for len in 0..70 {
            let mut text = vec![b'x'; len];
            assert_eq!((until_list(&text), count(&text, b';')), (len, 0));
            for place in 0..len {
                for byte in *b",\"<" {
                    text[place] = byte;
                    assert_eq!((until_list(&text), count(&text, byte)), (place, 1));
                }
                text[place] = b'x';
            }
            assert_eq!(count(&text, b'x'), len);
        }
    }

    #[test]
    fn blanks_go_from_both_ends() {
        for (text, expected) in [(" \t\r\n a b \r\n ", "a b"), ("", ""), (" \r\n ", ""), ("x", "x")]
        {
            let span = trimmed(text.as_bytes(), Range32::all(text.as_bytes()));
            assert_eq!(span.of(text.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn visible_is_neither_blank_nor_control() {
        assert!(is_visible(b"a84b4c76e66710@pc33.atlanta.example.com") && is_visible(b"\xc3\xa4"));
        for hidden in [0, 9, 10, 13, 31, 32, 127] {
            for place in 0..40 {
                let mut text = [b'x'; 40];
                text[place] = hidden;
                assert!(!is_visible(&text), "{hidden} at {place}");
            }
        }
        assert!(!is_visible(b""));
    }
}
