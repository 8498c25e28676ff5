//! The first bytes of a TLS client, read before anything is spent on it: is it TLS, is the ClientHello whole and not
//! too large, does it name `sip/2`, does it ask for resumption (RFC 8446 4.1.2, RFC 7301, RFC 5077).
//! Owns nothing. Never judges what rustls judges better: an odd ClientHello is handed on as it is.

use std::borrow::Cow;

use super::fault::FaultKind;
use super::session::RECORD_PLAIN_MAX;

/// Bytes of a ClientHello: with post-quantum key shares, tickets and certificate authorities real ones stay below 4 KiB.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Records that a ClientHello may be cut into: real clients use one or two.
pub const CLIENT_HELLO_RECORDS_MAX: usize = 64;

pub(super) const RECORD_HEADER_BYTES: usize = 5;
const ALERT_RECORD: u8 = 21;
const HANDSHAKE_RECORD: u8 = 22;
const FATAL: u8 = 2;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SESSION_TICKET: u16 = 35;
const EXTENSION_PRE_SHARED_KEY: u16 = 41;

/// Whether the client named protocols (RFC 7301), and ours among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    None,
    Sip,
    Other,
}

/// What the ClientHello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub alpn: Alpn,
    /// It names a server (RFC 6066 3).
    pub sni: bool,
    /// It shows a ticket; whether that is good only the handshake tells.
    pub resumption: bool,
}

/// One without extensions, or one that we cannot read: rustls finds the words for it.
const PLAIN: Hello = Hello { alpn: Alpn::None, sni: false, resumption: false };

/// Reads the ClientHello at the front of `bytes`; `None` when it is not whole yet.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Hello>, FaultKind> {
    let Some(message) = message(bytes)? else { return Ok(None) };
    Ok(Some(extensions(&message[HANDSHAKE_HEADER_BYTES..]).unwrap_or(PLAIN)))
}

/// Whether `bytes`, as far as they go, begin like a TLS record: content type, and 3 as the major version.
pub(super) fn may_be_record(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|kind| (20..=24).contains(kind))
        && bytes.get(1).is_none_or(|&major| major == 3)
}

/// The whole handshake message at the front of the records in `bytes`.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, FaultKind> {
    if !may_be_record(bytes) {
        return Err(FaultKind::NotTls);
    }
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    for _ in 0..CLIENT_HELLO_RECORDS_MAX {
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER_BYTES) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE_RECORD || header[1] != 3 {
            return Err(FaultKind::UnexpectedMessage);
        }
        if length == 0 || length > RECORD_PLAIN_MAX {
            return Err(FaultKind::BadRecord);
        }
        let piece = &body[..length.min(body.len())];
        match joined.is_empty() {
            true => joined = Cow::Borrowed(piece),
            false => joined.to_mut().extend_from_slice(piece),
        }
        if joined.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(FaultKind::UnexpectedMessage);
        }
        let mut enough = false;
        if let Some(&[_, high, middle, low]) = joined.first_chunk::<HANDSHAKE_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if length > CLIENT_HELLO_BYTES_MAX {
                return Err(FaultKind::ClientHelloTooLarge);
            }
            enough = joined.len() >= HANDSHAKE_HEADER_BYTES + length;
        }
        match body.get(length..) {
            Some(_) if enough => return Ok(Some(joined)),
            Some(next) => rest = next,
            None => return Ok(None),
        }
    }
    Err(FaultKind::ClientHelloTooLarge)
}

/// The alert for a fault found here, in a record without protection (RFC 8446 5.1, 6); plain text gets none.
pub(super) fn alert(kind: FaultKind, reply: &mut Vec<u8>) {
    let description = match kind {
        FaultKind::UnexpectedMessage => 10,
        FaultKind::BadRecord => 50,
        FaultKind::ClientHelloTooLarge => 47,
        FaultKind::NoApplicationProtocol => 120,
        _ => return,
    };
    reply.extend_from_slice(&[ALERT_RECORD, 3, 3, 0, 2, FATAL, description]);
}

/// A reader that gives up at the first length that does not fit.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|bytes| usize::from(bytes[0]))
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length)
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// Reads the body of a ClientHello; `None` when it is odd.
fn extensions(body: &[u8]) -> Option<Hello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // Version and random.
    reader.vector8()?; // Session id.
    reader.vector16()?; // Cipher suites.
    reader.vector8()?; // Compression methods.
    let mut hello = PLAIN;
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let body = extensions.vector16()?;
        match kind {
            EXTENSION_SERVER_NAME => hello.sni = true,
            EXTENSION_ALPN => hello.alpn = alpn(body)?,
            EXTENSION_SESSION_TICKET if !body.is_empty() => hello.resumption = true,
            EXTENSION_PRE_SHARED_KEY => hello.resumption = true,
            _ => {}
        }
    }
    Some(hello)
}

fn alpn(body: &[u8]) -> Option<Alpn> {
    let mut names = Reader(Reader(body).vector16()?);
    while !names.0.is_empty() {
        if names.vector8()? == super::identity::ALPN_SIP {
            return Some(Alpn::Sip);
        }
    }
    Some(Alpn::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(length_bytes: usize, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&length[4 - length_bytes..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, body)].concat()
    }

    fn hello(extensions: &[u8]) -> Vec<u8> {
        let suites = vector(2, &[0x13, 0x01]);
        let head = [&[3, 3][..], &[7; 32], &vector(1, &[1, 2]), &suites, &vector(1, &[0])].concat();
        let body = [head, vector(2, extensions)].concat();
        let message = [&[1][..], &vector(3, &body)].concat();
        [&[22, 3, 1][..], &vector(2, &message)].concat()
    }

    #[test]
    fn a_hello_is_read_when_whole_and_not_before() {
        let alpn = extension(16, &vector(2, &[vector(1, b"h2"), vector(1, b"sip/2")].concat()));
        let whole = hello(&[extension(0, b"name"), alpn, extension(41, b"psk")].concat());
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Ok(None));
        }
        let expected = Hello { alpn: Alpn::Sip, sni: true, resumption: true };
        assert_eq!(read(&whole), Ok(Some(expected)));
        // What stands behind it is not looked at.
        assert_eq!(read(&[whole, vec![255; 10]].concat()), Ok(Some(expected)));
    }

    #[test]
    fn what_it_asks_for() {
        let asks = |extensions: &[u8]| read(&hello(extensions)).unwrap().unwrap();
        assert_eq!(asks(b""), PLAIN);
        assert_eq!(asks(&extension(16, &vector(2, &vector(1, b"h2")))).alpn, Alpn::Other);
        // An empty session ticket says only that tickets are understood (RFC 5077 3.2).
        assert!(!asks(&extension(35, b"")).resumption);
        assert!(asks(&extension(35, b"ticket")).resumption);
        // Odd ones are rustls' to refuse.
        assert_eq!(asks(&extension(16, &[0, 9, 1])), PLAIN);
        assert_eq!(asks(&[0, 16, 0]), PLAIN);
    }
}
