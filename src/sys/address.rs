//! Socket addresses as the kernel lays them out (ip(7), ipv6(7)), read and written byte by byte.
//! Owns no socket. Never resolves a name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for a sockaddr_in6, the larger of the two that we speak.
const BYTES: usize = size_of::<libc::sockaddr_in6>();
const V4_BYTES: usize = size_of::<libc::sockaddr_in>();

/// A sockaddr_in or sockaddr_in6.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct RawAddress {
    bytes: [u8; BYTES],
}

impl RawAddress {
    pub const EMPTY: RawAddress = RawAddress { bytes: [0; BYTES] };
    pub const BYTES: u32 = BYTES as u32;

    /// The address and its length.
    pub fn of(address: SocketAddr) -> (RawAddress, u32) {
        let mut raw = RawAddress::EMPTY;
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        raw.bytes[0..2].copy_from_slice(&(family as u16).to_ne_bytes());
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                (raw, V4_BYTES as u32)
            }
            SocketAddr::V6(v6) => {
                raw.bytes[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (raw, BYTES as u32)
            }
        }
    }

    /// What the kernel wrote, `len` bytes of it; `None` when it is neither IPv4 nor IPv6.
    pub fn parse(&self, len: usize) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes(self.part(0)));
        let port = u16::from_be_bytes(self.part(2));
        if family == libc::AF_INET && len >= V4_BYTES {
            let ip = Ipv4Addr::from(self.part::<4>(4));
            return Some(SocketAddrV4::new(ip, port).into());
        }
        if family == libc::AF_INET6 && len >= BYTES {
            let ip = Ipv6Addr::from(self.part::<16>(8));
            let flow = u32::from_be_bytes(self.part(4));
            let scope = u32::from_ne_bytes(self.part(24));
            return Some(SocketAddrV6::new(ip, port, flow, scope).into());
        }
        None
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes[at..at + N].try_into().expect("N bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_round_trip() {
        for text in ["127.0.0.1:5060", "255.1.2.3:65535", "[::1]:5061", "[fe80::1:2%7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddress::of(address);
            assert_eq!(raw.parse(len as usize), Some(address));
            assert_eq!(raw.parse(2), None);
        }
        assert_eq!(RawAddress::EMPTY.parse(BYTES), None);
    }

    /// The layout is the kernel's: the standard library agrees with it through libc.
    #[test]
    fn the_layout_is_that_of_libc() {
        let address: SocketAddr = "[2001:db8::7]:5061".parse().unwrap();
        let (raw, len) = RawAddress::of(address);
        let theirs = socket2::SockAddr::from(address);
        assert_eq!(theirs.len(), len);
        // PROMISE: `len` bytes at the pointer are initialised.
        // WHO: socket2 owns a whole sockaddr_storage.
        // TEST: this one.
        let theirs = unsafe { std::slice::from_raw_parts(theirs.as_ptr().cast::<u8>(), 28) };
        assert_eq!(theirs, raw.bytes);
    }
}
