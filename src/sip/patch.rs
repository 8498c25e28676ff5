//! Edits over one message: an ordered list of deletions and insertions, and the slices that result, in order. Never
//! changes the message's bytes, never copies one of them. Generated texts stand in a scratch array of the patch.
//!
//! Meaning, whatever the order of adding: a byte of the message is kept if no deletion covers it; an inserted text
//! stands at its place, also when the bytes around it are deleted; texts at one place stand in the order of adding.
//! Invariant: edits are sorted by place; every place lies inside the message.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use arrayvec::ArrayVec;
use smallvec::SmallVec;

use super::message::{Header, Message};
use super::name::Name;
use super::text::{Parameter, Range32};
use super::via::{Rport, Via};
use crate::base::limits::EDIT_BYTES_MAX;

/// Edits kept without allocating: what a forwarded request needs, twice.
const INLINE_EDITS: usize = 24;

/// Generated text kept without allocating: what a forwarded request needs, with room for long names.
const INLINE_BYTES: usize = EDIT_BYTES_MAX as usize / 2;

#[derive(Clone, Copy, Debug)]
struct Edit {
    at: u32,
    /// The bytes `at..until` are deleted.
    until: u32,
    /// Of the message if `own`, else of the scratch array.
    text: Range32,
    own: bool,
}

/// Edits over `message`.
#[derive(Debug)]
pub struct Patch<'a> {
    message: &'a Message<'a>,
    edits: SmallVec<[Edit; INLINE_EDITS]>,
    scratch: Scratch,
    /// Bytes of the message that stand at a second place, too.
    own_bytes: usize,
}

/// Generated texts, one after the other. Invariant: they are all in `inline`, or all in `spilled`.
#[derive(Debug, Default)]
struct Scratch {
    inline: ArrayVec<u8, INLINE_BYTES>,
    spilled: Vec<u8>,
}

impl Scratch {
    #[inline]
    fn bytes(&self) -> &[u8] {
        if self.spilled.is_empty() { &self.inline } else { &self.spilled }
    }

    #[inline]
    fn len(&self) -> u32 {
        self.bytes().len() as u32
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        if !self.spilled.is_empty() || self.inline.try_extend_from_slice(bytes).is_err() {
            self.spill(bytes);
        }
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        self.spilled.extend_from_slice(&self.inline);
        self.inline.clear();
        self.spilled.extend_from_slice(bytes);
    }
}

/// Where a generated text is written.
#[derive(Debug)]
pub struct Writer<'p> {
    scratch: &'p mut Scratch,
}

impl Writer<'_> {
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.scratch.push(bytes);
    }

    /// A number in decimal digits.
    pub fn decimal(&mut self, number: u64) {
        decimal(number, &mut |text| self.push(text));
    }
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl<'a> Patch<'a> {
    pub fn new(message: &'a Message<'a>) -> Self {
        Patch { message, edits: SmallVec::new(), scratch: Scratch::default(), own_bytes: 0 }
    }

    pub fn message(&self) -> &'a Message<'a> {
        self.message
    }

    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    pub fn delete(&mut self, range: Range32) {
        self.add(range, Range32::at(range.start), true);
    }

    pub fn insert(&mut self, at: u32, text: &[u8]) {
        self.replace(Range32::at(at), text);
    }

    pub fn insert_with(&mut self, at: u32, write: impl FnOnce(&mut Writer<'_>)) {
        self.replace_with(Range32::at(at), write);
    }

    pub fn replace(&mut self, range: Range32, text: &[u8]) {
        self.replace_with(range, |writer| writer.push(text));
    }

    /// Replaces `range` by what `write` writes.
    pub fn replace_with(&mut self, range: Range32, write: impl FnOnce(&mut Writer<'_>)) {
        let start = self.scratch.len();
        write(&mut Writer { scratch: &mut self.scratch });
        self.add(range, Range32::new(start, self.scratch.len()), false);
    }

    /// Inserts a part of the message itself at `at`; nothing is copied.
    pub fn insert_own(&mut self, at: u32, part: Range32) {
        self.replace_own(Range32::at(at), part);
    }

    /// Replaces `range` by another part of the message; nothing is copied.
    pub fn replace_own(&mut self, range: Range32, part: Range32) {
        assert!(part.start <= part.end && part.end as usize <= self.message.len());
        self.own_bytes += part.len() as usize;
        self.add(range, part, true);
    }

    fn add(&mut self, range: Range32, text: Range32, own: bool) {
        assert!(range.start <= range.end && range.end as usize <= self.message.len());
        let edit = Edit { at: range.start, until: range.end, text, own };
        match self.edits.iter().rposition(|other| other.at <= edit.at) {
            Some(last) if last + 1 == self.edits.len() => self.edits.push(edit),
            None if self.edits.is_empty() => self.edits.push(edit),
            before => self.edits.insert(before.map_or(0, |before| before + 1), edit),
        }
    }

    /// The edited message, slice by slice; no slice is empty.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces {
            bytes: self.message.bytes(),
            scratch: self.scratch.bytes(),
            edits: &self.edits,
            at: 0,
            text: None,
        }
    }

    /// Bytes of the edited message.
    pub fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    /// At least as many bytes as the edited message has: what is deleted is not taken off.
    pub fn len_max(&self) -> usize {
        self.message.len() + self.scratch.bytes().len() + self.own_bytes
    }

    pub fn write_into(&self, sink: &mut impl FnMut(&[u8])) {
        self.pieces().for_each(sink);
    }
}

/// Slices of an edited message in order.
#[derive(Clone, Debug)]
pub struct Pieces<'p> {
    bytes: &'p [u8],
    scratch: &'p [u8],
    edits: &'p [Edit],
    /// Bytes of the message before this are done.
    at: u32,
    text: Option<&'p [u8]>,
}

impl<'p> Iterator for Pieces<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        loop {
            if let Some(text) = self.text.take()
                && !text.is_empty()
            {
                return Some(text);
            }
            let Some((edit, rest)) = self.edits.split_first() else {
                let kept = &self.bytes[self.at as usize..];
                self.at = self.bytes.len() as u32;
                return if kept.is_empty() { None } else { Some(kept) };
            };
            let kept = Range32::new(self.at, edit.at.max(self.at));
            self.text = Some(edit.text.of(if edit.own { self.bytes } else { self.scratch }));
            self.at = kept.end.max(edit.until);
            self.edits = rest;
            if !kept.is_empty() {
                return Some(kept.of(self.bytes));
            }
        }
    }

    /// The same in one loop, for those who take all.
    #[inline]
    fn fold<B, F: FnMut(B, Self::Item) -> B>(self, first: B, mut each: F) -> B {
        let mut folded = first;
        let mut give = |folded: B, piece: &'p [u8]| {
            if piece.is_empty() { folded } else { each(folded, piece) }
        };
        if let Some(text) = self.text {
            folded = give(folded, text);
        }
        let mut at = self.at;
        for edit in self.edits {
            let kept = Range32::new(at, edit.at.max(at));
            folded = give(folded, kept.of(self.bytes));
            folded = give(folded, edit.text.of(if edit.own { self.bytes } else { self.scratch }));
            at = kept.end.max(edit.until);
        }
        give(folded, &self.bytes[at as usize..])
    }
}

/// The edits that a proxy makes (RFC 3261 16.6, 16.7).
impl Patch<'_> {
    /// A new topmost Via with this value.
    pub fn push_via(&mut self, value: &[u8]) {
        self.push_via_with(|writer| writer.push(value));
    }

    pub fn push_via_with(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        let at = self.message.first(Name::Via).map_or(self.first_header(), |via| via.line().start);
        self.insert_line(at, Name::Via, write);
    }

    /// Takes the topmost Via value away: its line, if it stands alone, else the value and its comma.
    pub fn pop_top_via(&mut self) {
        let Some(line) = self.message.first(Name::Via).copied() else { return };
        let value = self.message.value(&line);
        if !value.is_empty() && memchr::memchr(b',', value).is_none() {
            self.delete(line.line());
        } else {
            self.remove_values(Name::Via, 1);
        }
    }

    /// What is owed to the sender on its topmost Via (RFC 3261 18.2.1, RFC 3581 4): `received` when sent-by is not the
    /// source address or the port is asked for, `rport` when it is asked for. A `received` that came with the request
    /// is replaced: nobody but us knows the source. IPv6 stands without brackets (RFC 5118 4.5).
    pub fn set_received_rport(&mut self, via: &Via<'_>, ip: IpAddr, port: u16) {
        stamp(via, ip, port, |range, text| {
            self.replace_with(range, |writer| text.write(&mut |text| writer.push(text)));
        });
    }

    /// Sets Max-Forwards, or adds it.
    pub fn set_max_forwards(&mut self, hops: u32) {
        self.set_number(Name::MaxForwards, hops);
    }

    /// Sets Max-Breadth, or adds it; exactly one remains (RFC 5393 5.3).
    pub fn set_max_breadth(&mut self, breadth: u32) {
        self.set_number(Name::MaxBreadth, breadth);
    }

    fn set_number(&mut self, name: Name, number: u32) {
        let Some(first) = self.message.first(name).copied() else {
            return self
                .insert_line(self.after_vias(), name, |writer| writer.decimal(number.into()));
        };
        self.replace_with(self.message.value_span(&first), |writer| writer.decimal(number.into()));
        for (_, header) in self.message.rows(name).skip(1) {
            self.delete(header.line());
        }
    }

    /// Takes the first `count` values of a list header away, whole lines where nothing remains of them.
    pub fn remove_values(&mut self, name: Name, count: usize) {
        let message = self.message;
        let mut values = message.values(name).take(count).peekable();
        while let Some(value) = values.next() {
            let header = message.headers()[value.header];
            let all = message.value_span(&header);
            if value.last_in_row {
                self.delete(header.line());
            } else if values.peek().is_none() {
                let next = message.values(name).nth(count).map_or(all.end, |next| next.span.start);
                self.delete(Range32::new(all.start, next));
            }
        }
    }

    /// A new header line above the first one of its name, or behind the Vias. Of two, the one added first stands above.
    pub fn prepend_header(&mut self, name: Name, value: &[u8]) {
        self.prepend_header_with(name, |writer| writer.push(value));
    }

    pub fn prepend_header_with(&mut self, name: Name, write: impl FnOnce(&mut Writer<'_>)) {
        let at = self.message.first(name).map_or(self.after_vias(), |first| first.line().start);
        self.insert_line(at, name, write);
    }

    /// A new last Route value, for a strict router (RFC 3261 16.6 item 6).
    pub fn append_route(&mut self, value: &[u8]) {
        let last = self.message.rows(Name::Route).last();
        let at = last.map_or(self.after_vias(), |(_, header)| header.line().end);
        self.insert_line(at, Name::Route, |writer| writer.push(value));
    }

    /// Replaces the Request-URI; does nothing to a response.
    pub fn replace_request_uri(&mut self, uri: &[u8]) {
        if let Some(span) = self.message.request_uri_span() {
            self.replace(span, uri);
        }
    }

    /// Takes away every header line with one of these names (long form, any case; with `*` at its end a name stands for
    /// all that begin so), in whatever form it came: compact, mixed case, blanks before the colon, folded.
    pub fn remove_headers(&mut self, names: &[impl AsRef<str>]) {
        let message = self.message;
        for name in names {
            let name = name.as_ref().as_bytes();
            let known = Name::of(name);
            for header in message.headers() {
                let gone = match known {
                    Name::Other => is_named(message.text(header.name_span()), header.name, name),
                    known => header.name == known,
                };
                if gone {
                    self.delete(header.line());
                }
            }
        }
    }

    /// Writes a Content-Length in an odd form plainly, so that nobody behind us can read another length. Odd: blanks
    /// before the colon, anything but at most one space after it, folds, blanks at the end, leading zeros.
    pub fn plain_content_length(&mut self) {
        let Some(header) = self.message.first(Name::ContentLength).copied() else { return };
        if !self.is_plain(header) {
            let length = self.message.len() - self.message.head_len();
            self.replace_with(header.line(), |writer| {
                writer.push(b"Content-Length: ");
                writer.decimal(length as u64);
                writer.push(b"\r\n");
            });
        }
    }

    fn is_plain(&self, header: Header) -> bool {
        let value = self.message.value_span(&header);
        let digits = self.message.text(value);
        let between = self.message.text(Range32::new(header.name_span().end, value.start));
        matches!(between, b":" | b": ")
            && value.end + 2 == header.line().end
            && (digits.len() == 1 || digits.first() != Some(&b'0'))
    }

    /// Takes a parameter away with its semicolon.
    pub fn remove_parameter(&mut self, parameter: Parameter) {
        self.delete(parameter.whole);
    }

    fn insert_line(&mut self, at: u32, name: Name, write: impl FnOnce(&mut Writer<'_>)) {
        self.insert_with(at, |writer| {
            writer.push(name.long().as_bytes());
            writer.push(b": ");
            write(writer);
            writer.push(b"\r\n");
        });
    }

    fn first_header(&self) -> u32 {
        self.message.start_line().end + 2
    }

    /// Behind the first block of Via lines, or in front of all headers.
    fn after_vias(&self) -> u32 {
        let mut vias = self.message.rows_from(Name::Via).iter();
        let behind = vias.find(|header| header.name != Name::Via).map(|header| header.line().start);
        match (self.message.first(Name::Via), behind) {
            (None, _) => self.first_header(),
            (Some(_), Some(behind)) => behind,
            (Some(_), None) => self.message.headers_end(),
        }
    }
}

/// Whether a header written `written`, which is `known` by its short form too, goes by the unknown `name`.
fn is_named(written: &[u8], known: Name, name: &[u8]) -> bool {
    match name {
        [prefix @ .., b'*'] => [written, known.long().as_bytes()].iter().any(|text| {
            text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        }),
        _ => written.eq_ignore_ascii_case(name),
    }
}

/// A text of `stamp`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stamp {
    Received(IpAddr),
    Rport(u16),
    ReceivedValue(IpAddr),
}

impl Stamp {
    pub fn write(self, put: &mut impl FnMut(&[u8])) {
        match self {
            Stamp::Rport(port) => {
                put(b"=");
                decimal(port.into(), put);
            }
            Stamp::Received(ip) => {
                put(b";received=");
                address(ip, put);
            }
            Stamp::ReceivedValue(ip) => {
                put(b"received=");
                address(ip, put);
            }
        }
    }
}

/// An address as `Display` has it, IPv4 without the formatting machinery.
fn address(ip: IpAddr, put: &mut impl FnMut(&[u8])) {
    match ip {
        IpAddr::V4(ip) => {
            let mut text = [0; 15];
            let mut at = text.len();
            for (place, octet) in ip.octets().iter().enumerate().rev() {
                at = digits(u64::from(*octet), &mut text, at);
                if place > 0 {
                    at -= 1;
                    text[at] = b'.';
                }
            }
            put(&text[at..]);
        }
        IpAddr::V6(ip) => {
            // The longest form has 45 bytes.
            let mut text = [0; 48];
            let mut rest = &mut text[..];
            write!(rest, "{ip}").expect("the array is long enough");
            let free = rest.len();
            put(&text[..text.len() - free]);
        }
    }
}

/// Writes `number` so that it ends at `at` of `text` and says where it begins.
fn digits(number: u64, text: &mut [u8], at: usize) -> usize {
    let mut at = at;
    let mut rest = number;
    loop {
        at -= 1;
        text[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return at;
        }
    }
}

fn decimal(number: u64, put: &mut impl FnMut(&[u8])) {
    let mut text = [0; 20];
    let at = digits(number, &mut text, 20);
    put(&text[at..]);
}

/// Tells `put` what to write on the topmost Via of a request from `ip` and `port`, in the order of the text.
pub(super) fn stamp(via: &Via<'_>, ip: IpAddr, port: u16, mut put: impl FnMut(Range32, Stamp)) {
    let ip = ip.to_canonical();
    let bare = via.rport() == Rport::Bare;
    if bare && let Some(rport) = via.rport_parameter() {
        put(Range32::at(rport.name.end), Stamp::Rport(port));
    }
    match via.received_parameter() {
        Some(received) => {
            put(Range32::new(received.name.start, received.whole.end), Stamp::ReceivedValue(ip));
        }
        None if bare || !via.sent_by_is(ip) => put(Range32::at(via.end()), Stamp::Received(ip)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::frame::{FrameLimits, FrameState, Framed, frame};

    #[test]
    fn the_usual_edits_of_a_request_stand_where_they_belong() {
        let text = b"INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bKa;rport , SIP/2.0/TCP z\r\n\
            Route: <sip:us;lr>,\r\n <sip:next;lr>\r\nl : 04\r\n\r\nbody";
        let mut state = FrameState::default();
        let Ok(Framed::Message(message)) = frame(text, &mut state, &FrameLimits::default()) else {
            panic!("not a message")
        };
        let mut patch = Patch::new(&message);
        patch.set_max_forwards(70);
        patch.remove_values(Name::Route, 1);
        patch.push_via(b"SIP/2.0/TLS us;branch=z9hG4bKu");
        patch.set_received_rport(&message.top_via().unwrap(), [192, 0, 2, 1].into(), 5070);
        patch.plain_content_length();
        let edited = patch.pieces().collect::<Vec<_>>().concat();
        assert_eq!(
            String::from_utf8(edited).unwrap(),
            "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/TLS us;branch=z9hG4bKu\r\n\
             Via: SIP/2.0/TCP a;branch=z9hG4bKa;rport=5070;received=192.0.2.1 , SIP/2.0/TCP z\r\n\
             Max-Forwards: 70\r\nRoute: <sip:next;lr>\r\nContent-Length: 4\r\n\r\nbody"
        );
    }
}
