//! The header of the PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`), at the front of a connection.
//! Owns its bounds and which of its shapes count. Never guesses whether there is one: a listener requires it or does not
//! look, since version 2 begins like a keepalive of RFC 5626. Reading is the crate `ppp`'s; it sees whole headers only.
//! Invariant: what is read does not depend on how the bytes were cut.

use std::net::SocketAddr;

use ppp::{v1, v2};

use crate::telemetry::counter::Closed;

/// A line of version 1 with its CRLF (section 2.1).
const LINE_BYTES_MAX: usize = 107;
/// A header of version 2: the largest addresses and a client's whole certificate in its TLVs fit.
pub const HEADER_BYTES_MAX: usize = 4 * 1024;
/// Signature, version and command, family and protocol, length (section 2.2).
const FIXED_BYTES: usize = 16;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";

/// What stands at the front of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// The header is not whole yet.
    Partial,
    /// A header of so many bytes. `peer`: who it names; `None`: the proxy speaks for itself (LOCAL, UNKNOWN), or names
    /// something that is no internet address.
    Whole { len: usize, peer: Option<SocketAddr> },
}

/// Reads the header at the front of `bytes`; `Err`: why the connection ends.
pub fn read(bytes: &[u8]) -> Result<Preface, Closed> {
    if begins(bytes, SIGNATURE) {
        return version2(bytes);
    }
    if begins(bytes, WORD) {
        return version1(bytes);
    }
    Err(Closed::ProxyHeaderMissing)
}

/// Whether `bytes`, as far as they go, are those of `mark`.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let shared = bytes.len().min(mark.len());
    bytes[..shared] == mark[..shared]
}

fn version1(bytes: &[u8]) -> Result<Preface, Closed> {
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(line, b"\r\n") else {
        let full = line.len() == LINE_BYTES_MAX;
        return if full { Err(Closed::ProxyHeaderTooLong) } else { Ok(Preface::Partial) };
    };
    let len = end + 2;
    let header = v1::Header::try_from(&bytes[..len]).map_err(|_| Closed::ProxyHeaderBad)?;
    let peer = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => Some(SocketAddr::from((of.source_address, of.source_port))),
        v1::Addresses::Tcp6(of) => Some(SocketAddr::from((of.source_address, of.source_port))),
    };
    Ok(Preface::Whole { len, peer })
}

fn version2(bytes: &[u8]) -> Result<Preface, Closed> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(Preface::Partial) };
    let len = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > HEADER_BYTES_MAX {
        return Err(Closed::ProxyHeaderTooLong);
    }
    let Some(whole) = bytes.get(..len) else { return Ok(Preface::Partial) };
    let header = v2::Header::try_from(whole).map_err(|_| Closed::ProxyHeaderBad)?;
    if header.command == v2::Command::Local {
        return Ok(Preface::Whole { len, peer: None });
    }
    // What came in a datagram cannot go on in a stream.
    if header.protocol == v2::Protocol::Datagram {
        return Err(Closed::ProxyHeaderBad);
    }
    let peer = match header.addresses {
        v2::Addresses::IPv4(of) => Some(SocketAddr::from((of.source_address, of.source_port))),
        v2::Addresses::IPv6(of) => Some(SocketAddr::from((of.source_address, of.source_port))),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    Ok(Preface::Whole { len, peer })
}

/// Body of a fuzz target: any bytes are read without a panic, within the bounds, and the same however they were cut.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let whole = read(bytes);
    if let Ok(Preface::Whole { len, .. }) = whole {
        assert!(len <= bytes.len() && len <= HEADER_BYTES_MAX);
        assert_eq!(read(&bytes[..len]), whole, "what follows the header does not count");
    }
    for end in 0..bytes.len().min(HEADER_BYTES_MAX + 1) {
        match (read(&bytes[..end]), whole) {
            (Ok(Preface::Partial), Ok(Preface::Whole { len, .. })) => assert!(end < len),
            (Ok(Preface::Partial), Ok(Preface::Partial)) => {}
            (Ok(Preface::Partial), Err(_)) => {}
            (decided, whole) => assert_eq!(decided, whole, "cut at {end}"),
        }
    }
    if whole == Ok(Preface::Partial) {
        assert!(bytes.len() < HEADER_BYTES_MAX, "a peer that sends on comes to an end");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn two(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn named(bytes: &[u8]) -> Result<Option<String>, Closed> {
        fuzz(bytes);
        match read(bytes) {
            Ok(Preface::Whole { len, peer }) => {
                assert_eq!(len, bytes.len());
                Ok(peer.map(|peer| peer.to_string()))
            }
            Ok(Preface::Partial) => panic!("{bytes:?} is whole"),
            Err(why) => Err(why),
        }
    }

    /// PP-b
    #[test]
    fn headers_of_both_versions_name_the_peer() {
        let four = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            named(b"PROXY TCP4 192.0.2.7 203.0.113.1 40000 5061\r\n"),
            four("192.0.2.7:40000")
        );
        assert_eq!(
            named(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 5061\r\n"),
            four("[2001:db8::7]:40000")
        );
        assert_eq!(named(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(named(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Ok(None));
        let ports = [0x9C, 0x40, 0x13, 0xC5];
        let v4 = [&[192, 0, 2, 7, 203, 0, 113, 1][..], &ports].concat();
        assert_eq!(named(&two(0x21, 0x11, &v4)), four("192.0.2.7:40000"));
        let mut v6 = [0_u8; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
        v6[32..].copy_from_slice(&ports);
        assert_eq!(named(&two(0x21, 0x21, &v6)), four("[2001:db8::]:40000"));
        // TLVs are skipped by their length, whatever they are.
        let with_more = [&v4[..], &[0x20, 0, 3, 1, 2, 3, 0xEE, 0, 1, 9]].concat();
        assert_eq!(named(&two(0x21, 0x11, &with_more)), four("192.0.2.7:40000"));
        assert_eq!(named(&two(0x20, 0x00, &[])), Ok(None), "LOCAL");
        assert_eq!(named(&two(0x20, 0x11, &v4)), Ok(None), "LOCAL with addresses");
        assert_eq!(named(&two(0x21, 0x00, &[])), Ok(None));
        assert_eq!(named(&two(0x21, 0x31, &[7; 216])), Ok(None));
    }

    /// PP-b
    #[test]
    fn everything_else_is_refused_by_name() {
        use Closed::{ProxyHeaderBad as Bad, ProxyHeaderMissing as Missing, ProxyHeaderTooLong};
        let v4 = [192, 0, 2, 7, 203, 0, 113, 1, 1, 1, 2, 2];
        let long = two(0x21, 0x11, &[0; HEADER_BYTES_MAX]);
        let line = [b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat();
        let cases: [(&[u8], Closed); 14] = [
            (b"OPTIONS sip:x SIP/2.0\r\n", Missing),
            (b"\r\n\r\nx", Missing),
            (&[0x16, 3, 1, 2, 0], Missing),
            (b"PROXYTCP4", Missing),
            (b"proxy TCP4 192.0.2.7 203.0.113.1 1 2\r\n", Missing),
            (b"PROXY TCP4 192.0.2.7 203.0.113.1 70000 2\r\n", Bad),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", Bad),
            (b"PROXY UDP4 192.0.2.7 203.0.113.1 1 2\r\n", Bad),
            (b"PROXY \r\n", Bad),
            (&line, ProxyHeaderTooLong),
            (&long, ProxyHeaderTooLong),
            (&two(0x31, 0x11, &v4), Bad),
            (&two(0x22, 0x11, &v4), Bad),
            (&two(0x21, 0x12, &v4), Bad),
        ];
        for (bytes, why) in cases {
            assert_eq!(named(bytes), Err(why), "{}", bytes.escape_ascii());
        }
        assert_eq!(named(&two(0x21, 0x11, &v4[..8])), Err(Bad), "addresses cut short");
        assert_eq!(read(b""), Ok(Preface::Partial));
    }

    proptest! {
        #[test]
        fn any_bytes(start in 0..4_usize, rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let starts: [&[u8]; 4] = [b"", b"PROXY ", SIGNATURE, b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r"];
            fuzz(&[starts[start], &rest].concat());
        }
    }
}
