//! The three signed words that we write: branch (Via), flow token (Path), route token (Record-Route).
//! Owns the keys and the layouts. Never looks anything up: what a word says is the caller's to judge.
//! Invariant: the three never share a key or a prefix, and nothing in a word is used before its code was checked.
//!
//! Layouts are big-endian, written in base32 (RFC 4648 alphabet, lower case, no padding):
//! * branch, 35 bytes: version and stateful bit, worker, incarnation, slot, generation, attempt, unique part, loop
//!   part, tag (SipHash-2-4, 64 of 128 bits; 15 to 20 ns against 200 for a SHA-256 code, twice per transaction);
//! * flow token, 35 bytes: version, key id, node, worker, incarnation, slot, generation, HMAC-SHA-256/128;
//! * route token, 43 bytes: the same with a backend's identity before the code, which also covers the Call-ID.

use std::hash::Hasher;

use aws_lc_rs::{constant_time, digest, hmac};
use siphasher::sip128::{Hasher128, SipHasher24};
use smallvec::SmallVec;

/// The magic cookie of RFC 3261 8.1.1.7.
pub const COOKIE: &[u8] = b"z9hG4bK";
/// How every branch of ours begins: cookie, and the first character of what version 1 is written as.
pub const BEGINNING: &[u8] = b"z9hG4bKc";
const VERSION: u8 = 1;
const BRANCH_BYTES: usize = 35;
const FLOW_BYTES: usize = 35;
const ROUTE_BYTES: usize = 43;
const CODE_BYTES: usize = 16;
/// Characters of a whole branch value, cookie included.
pub const BRANCH_TEXT: usize = COOKIE.len() + 56;
const _: () = assert!(BRANCH_TEXT <= 96);

/// A connection's life, named so that any worker can tell whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowId {
    pub worker: u8,
    /// 32 random bits for each start of a worker.
    pub incarnation: u32,
    pub slot: u32,
    pub generation: u32,
}

/// Who a request was sent to, in 64 bits: a backend (hash of pool, name and address, the same on every node) or a
/// flow. `NONE` names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(pub u64);

impl PeerId {
    pub const NONE: PeerId = PeerId(0);

    /// The identity of a backend; never `NONE`.
    pub fn backend(pool: &str, name: &str, address: std::net::SocketAddr) -> PeerId {
        let mut hasher = SipHasher24::new();
        field(&mut hasher, b"backend");
        field(&mut hasher, pool.as_bytes());
        field(&mut hasher, name.as_bytes());
        field(&mut hasher, address.to_string().as_bytes());
        PeerId(hasher.finish128().h1 | 1)
    }

    /// The identity of a flow; even, so that it is never a backend's.
    pub fn flow(flow: FlowId) -> PeerId {
        let mut hasher = SipHasher24::new();
        field(&mut hasher, b"flow");
        hasher.write_u8(flow.worker);
        hasher.write_u32(flow.incarnation);
        hasher.write_u32(flow.slot);
        hasher.write_u32(flow.generation);
        PeerId((hasher.finish128().h1 & !1) | 2)
    }
}

/// Length first, so that two neighbours can never be read as one.
fn field(hasher: &mut SipHasher24, bytes: &[u8]) {
    hasher.write_u32(bytes.len() as u32);
    hasher.write(bytes);
}

/// What a branch carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    pub stateful: bool,
    /// The connection that the request came on and the response goes back to.
    pub flow: FlowId,
    pub attempt: u8,
    pub unique: u64,
    pub loop_part: u32,
}

/// What the unique part is made of: the same for a request, its CANCEL and its non-2xx ACK.
pub struct UniqueFields<'a> {
    pub branch: &'a [u8],
    pub sent_by: &'a [u8],
    pub call_id: &'a [u8],
    pub cseq: u32,
    pub from_tag: &'a [u8],
    pub source: std::net::IpAddr,
    pub zone: u16,
}

/// The key of the branches: random for each process start, the same for all workers, never rotated.
#[derive(Clone, Copy)]
pub struct BranchKey {
    key: [u8; 16],
}

impl BranchKey {
    pub fn new(key: [u8; 16]) -> Self {
        BranchKey { key }
    }

    /// Purposes are told apart by the first byte hashed.
    fn hasher(&self, purpose: u8) -> SipHasher24 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u8(purpose);
        hasher
    }

    pub fn unique(&self, fields: &UniqueFields<'_>) -> u64 {
        let mut hasher = self.hasher(b'u');
        field(&mut hasher, fields.branch);
        field(&mut hasher, fields.sent_by);
        field(&mut hasher, fields.call_id);
        field(&mut hasher, fields.from_tag);
        hasher.write_u32(fields.cseq);
        hasher.write_u16(fields.zone);
        match fields.source.to_canonical() {
            std::net::IpAddr::V4(address) => hasher.write(&address.octets()),
            std::net::IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.finish128().h1
    }

    /// The loop part (RFC 5393 4.2.1): over everything that the routing reads, never over method or To tag.
    pub fn loop_part<'r>(
        &self,
        request_uri: &[u8],
        routes: impl Iterator<Item = &'r [u8]>,
        call_id: &[u8],
        from_tag: &[u8],
        cseq: u32,
        zone: u16,
    ) -> u32 {
        let mut hasher = self.hasher(b'l');
        field(&mut hasher, request_uri);
        for route in routes {
            field(&mut hasher, route);
        }
        field(&mut hasher, call_id);
        field(&mut hasher, from_tag);
        hasher.write_u32(cseq);
        hasher.write_u16(zone);
        hasher.finish128().h1 as u32
    }

    /// A key for the hash that picks nothing but a place in a table: Call-IDs and the like.
    pub fn table_hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher(b't');
        hasher.write(bytes);
        hasher.finish128().h1
    }

    fn tag(&self, head: &[u8], peer: PeerId, call_id: &[u8], cseq: u32) -> u64 {
        let mut hasher = self.hasher(b'b');
        hasher.write(head);
        hasher.write_u64(peer.0);
        field(&mut hasher, call_id);
        hasher.write_u32(cseq);
        hasher.finish128().h1
    }

    /// The branch value for a request that goes to `peer`.
    pub fn write(&self, b: &Branch, peer: PeerId, call_id: &[u8], cseq: u32) -> [u8; BRANCH_TEXT] {
        let mut raw = [0; BRANCH_BYTES];
        raw[0] = VERSION << 4 | u8::from(b.stateful);
        raw[1] = b.flow.worker;
        raw[2..6].copy_from_slice(&b.flow.incarnation.to_be_bytes());
        raw[6..10].copy_from_slice(&b.flow.slot.to_be_bytes());
        raw[10..14].copy_from_slice(&b.flow.generation.to_be_bytes());
        raw[14] = b.attempt;
        raw[15..23].copy_from_slice(&b.unique.to_be_bytes());
        raw[23..27].copy_from_slice(&b.loop_part.to_be_bytes());
        let tag = self.tag(&raw[..27], peer, call_id, cseq);
        raw[27..].copy_from_slice(&tag.to_be_bytes());
        let mut text = [0; BRANCH_TEXT];
        text[..COOKIE.len()].copy_from_slice(COOKIE);
        base32_into(&raw, &mut text[COOKIE.len()..]);
        text
    }

    /// Reads a branch without believing it. `None`: not of our form.
    pub fn read(text: &[u8]) -> Option<Unverified> {
        if text.len() != BRANCH_TEXT || !text.starts_with(COOKIE) {
            return None;
        }
        let mut raw = [0; BRANCH_BYTES];
        base32_decode(&text[COOKIE.len()..], &mut raw)?;
        if raw[0] >> 4 != VERSION || raw[0] & 0b1110 != 0 {
            return None;
        }
        Some(Unverified { raw })
    }
}

/// A branch of our form whose tag has not been checked.
pub struct Unverified {
    raw: [u8; BRANCH_BYTES],
}

impl Unverified {
    /// The loop part: compared with one that was computed anew, so it needs no tag (RFC 5393 4.2.2).
    pub fn loop_part(&self) -> u32 {
        be32(&self.raw, 23)
    }

    /// The branch, if it was made for this peer, call and CSeq number.
    pub fn verify(
        &self,
        key: &BranchKey,
        peer: PeerId,
        call_id: &[u8],
        cseq: u32,
    ) -> Option<Branch> {
        let tag = key.tag(&self.raw[..27], peer, call_id, cseq).to_be_bytes();
        constant_time::verify_slices_are_equal(&tag, &self.raw[27..]).ok()?;
        Some(self.trusted())
    }

    /// The branch as it stands.
    fn trusted(&self) -> Branch {
        Branch {
            stateful: self.raw[0] & 1 == 1,
            flow: FlowId {
                worker: self.raw[1],
                incarnation: be32(&self.raw, 2),
                slot: be32(&self.raw, 6),
                generation: be32(&self.raw, 10),
            },
            attempt: self.raw[14],
            unique: be64(&self.raw, 15),
            loop_part: be32(&self.raw, 23),
        }
    }
}

/// Keys of flow and route tokens: two live ones, so that a change of key does not cut flows.
#[derive(Clone)]
pub struct TokenKeys {
    current: TokenKey,
    previous: Option<TokenKey>,
    /// 32-bit hash of the node's name.
    node: u32,
}

#[derive(Clone)]
struct TokenKey {
    id: u8,
    key: hmac::Key,
}

impl TokenKey {
    fn new(secret: &[u8; 32]) -> Self {
        let id = digest::digest(&digest::SHA256, secret).as_ref()[0];
        TokenKey { id, key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }
}

/// What a flow or route token says, its code checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    /// False when another node wrote it: the flow is not here.
    pub this_node: bool,
    pub flow: FlowId,
    /// The backend of the dialog (route tokens), `NONE` if there is none.
    pub backend: PeerId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Flow,
    Route,
}

/// What the user part of one of our own URIs turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not of a token's form: one of our names without a token.
    Plain,
    Forged,
    Good(Token),
}

/// Text of a token, kind prefix included.
pub type TokenText = SmallVec<[u8; 72]>;

impl TokenKeys {
    pub fn new(node: &str, current: &[u8; 32], previous: Option<&[u8; 32]>) -> Self {
        let mut hasher = SipHasher24::new();
        field(&mut hasher, node.as_bytes());
        let node = hasher.finish128().h1 as u32;
        TokenKeys { current: TokenKey::new(current), previous: previous.map(TokenKey::new), node }
    }

    pub fn write_flow(&self, flow: FlowId) -> TokenText {
        let mut raw = [0; FLOW_BYTES];
        self.write_head(flow, &mut raw);
        let code = self.code(&self.current, TokenKind::Flow, &raw[..19], b"");
        raw[19..].copy_from_slice(&code);
        text(b'f', &raw)
    }

    pub fn write_route(&self, flow: FlowId, backend: PeerId, call_id: &[u8]) -> TokenText {
        let mut raw = [0; ROUTE_BYTES];
        self.write_head(flow, &mut raw);
        raw[19..27].copy_from_slice(&backend.0.to_be_bytes());
        let code = self.code(&self.current, TokenKind::Route, &raw[..27], call_id);
        raw[27..].copy_from_slice(&code);
        text(b'r', &raw)
    }

    /// Reads the user part of one of our own URIs; `call_id` is that of the request which carries it.
    pub fn read(&self, user: &[u8], call_id: &[u8]) -> Reading {
        match user.first() {
            Some(b'f') if user.len() == 1 + FLOW_BYTES * 8 / 5 => {
                let mut raw = [0; FLOW_BYTES];
                self.check(user, &mut raw, TokenKind::Flow, b"")
            }
            Some(b'r') if user.len() == 1 + (ROUTE_BYTES * 8).div_ceil(5) => {
                let mut raw = [0; ROUTE_BYTES];
                self.check(user, &mut raw, TokenKind::Route, call_id)
            }
            _ => Reading::Plain,
        }
    }

    fn check(&self, user: &[u8], raw: &mut [u8], kind: TokenKind, call_id: &[u8]) -> Reading {
        if base32_decode(&user[1..], raw).is_none() || raw[0] != VERSION {
            return Reading::Forged;
        }
        let (head, code) = raw.split_at(raw.len() - CODE_BYTES);
        let good = [Some(&self.current), self.previous.as_ref()].into_iter().flatten().any(|key| {
            key.id == head[1] && {
                let expected = self.code(key, kind, head, call_id);
                constant_time::verify_slices_are_equal(&expected, code).is_ok()
            }
        });
        if !good {
            return Reading::Forged;
        }
        let backend = if kind == TokenKind::Route { PeerId(be64(head, 19)) } else { PeerId::NONE };
        Reading::Good(Token {
            kind,
            this_node: be32(head, 2) == self.node,
            flow: FlowId {
                worker: head[6],
                incarnation: be32(head, 7),
                slot: be32(head, 11),
                generation: be32(head, 15),
            },
            backend,
        })
    }

    fn write_head(&self, flow: FlowId, raw: &mut [u8]) {
        raw[0] = VERSION;
        raw[1] = self.current.id;
        raw[2..6].copy_from_slice(&self.node.to_be_bytes());
        raw[6] = flow.worker;
        raw[7..11].copy_from_slice(&flow.incarnation.to_be_bytes());
        raw[11..15].copy_from_slice(&flow.slot.to_be_bytes());
        raw[15..19].copy_from_slice(&flow.generation.to_be_bytes());
    }

    fn code(
        &self,
        key: &TokenKey,
        kind: TokenKind,
        head: &[u8],
        call_id: &[u8],
    ) -> [u8; CODE_BYTES] {
        let mut context = hmac::Context::with_key(&key.key);
        context.update(match kind {
            TokenKind::Flow => b"flow",
            TokenKind::Route => b"rout",
        });
        context.update(head);
        context.update(call_id);
        let mut code = [0; CODE_BYTES];
        code.copy_from_slice(&context.sign().as_ref()[..CODE_BYTES]);
        code
    }
}

fn text(prefix: u8, raw: &[u8]) -> TokenText {
    let mut text = TokenText::new();
    text.push(prefix);
    text.resize(1 + (raw.len() * 8).div_ceil(5), 0);
    base32_into(raw, &mut text[1..]);
    text
}

fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

fn be64(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const DIGITS: [u8; 256] = {
    let mut digits = [0xFF; 256];
    let mut index = 0;
    while index < 32 {
        digits[ALPHABET[index] as usize] = index as u8;
        index += 1;
    }
    digits
};

/// Writes `raw` as base32; `text` has exactly the room it takes.
fn base32_into(raw: &[u8], text: &mut [u8]) {
    assert!(text.len() == (raw.len() * 8).div_ceil(5));
    for (five, eight) in raw.chunks(5).zip(text.chunks_mut(8)) {
        let mut word = 0u64;
        for (index, byte) in five.iter().enumerate() {
            word |= u64::from(*byte) << (32 - 8 * index);
        }
        for (index, character) in eight.iter_mut().enumerate() {
            *character = ALPHABET[(word >> (35 - 5 * index) & 31) as usize];
        }
    }
}

/// Reads base32 into exactly `raw`. `None`: another length, another alphabet, or bits left over.
fn base32_decode(text: &[u8], raw: &mut [u8]) -> Option<()> {
    if text.len() != (raw.len() * 8).div_ceil(5) {
        return None;
    }
    for (eight, five) in text.chunks(8).zip(raw.chunks_mut(5)) {
        let mut word = 0u64;
        for (index, character) in eight.iter().enumerate() {
            let digit = DIGITS[usize::from(*character)];
            if digit == 0xFF {
                return None;
            }
            word |= u64::from(digit) << (35 - 5 * index);
        }
        for (index, byte) in five.iter_mut().enumerate() {
            *byte = (word >> (32 - 8 * index)) as u8;
        }
        // Bits beyond the last byte must be zero: one text for each token.
        if five.len() < 5 && word & ((1 << (40 - 8 * five.len())) - 1) != 0 {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOW: FlowId = FlowId { worker: 3, incarnation: 0xDEAD_BEEF, slot: 77, generation: 9 };

    fn keys() -> TokenKeys {
        TokenKeys::new("edge-1", &[7; 32], None)
    }

    fn branch() -> Branch {
        Branch { stateful: false, flow: FLOW, attempt: 1, unique: 42, loop_part: 43 }
    }

    #[test]
    fn a_branch_is_good_for_its_peer_call_and_cseq_only() {
        let key = BranchKey::new([1; 16]);
        let peer = PeerId(5);
        let text = key.write(&branch(), peer, b"call", 1);
        let read = BranchKey::read(&text).unwrap();
        assert_eq!(read.verify(&key, peer, b"call", 1), Some(branch()));
        assert_eq!(read.loop_part(), 43);
        assert!(text.starts_with(BEGINNING));
        assert_eq!(read.verify(&key, PeerId(6), b"call", 1), None);
        assert_eq!(read.verify(&key, peer, b"calm", 1), None);
        assert_eq!(read.verify(&key, peer, b"call", 2), None);
        assert_eq!(read.verify(&BranchKey::new([2; 16]), peer, b"call", 1), None);
    }

    #[test]
    fn a_route_token_is_good_for_its_call_only() {
        let keys = keys();
        let text = keys.write_route(FLOW, PeerId(99), b"call");
        let Reading::Good(token) = keys.read(&text, b"call") else { panic!("good") };
        assert_eq!((token.flow, token.backend, token.this_node), (FLOW, PeerId(99), true));
        assert_eq!(keys.read(&text, b"other"), Reading::Forged);
    }

    /// 5626-5.2-a
    #[test]
    fn two_keys_live_and_the_third_is_forged() {
        let old = keys().write_flow(FLOW);
        let rolled = TokenKeys::new("edge-1", &[8; 32], Some(&[7; 32]));
        assert!(matches!(rolled.read(&old, b""), Reading::Good(_)));
        let gone = TokenKeys::new("edge-1", &[9; 32], Some(&[8; 32]));
        assert_eq!(gone.read(&old, b""), Reading::Forged);
        let elsewhere = TokenKeys::new("edge-2", &[7; 32], None);
        let Reading::Good(token) = elsewhere.read(&old, b"") else { panic!("good") };
        assert!(!token.this_node);
    }

    /// 5626-5.2-a
    #[test]
    fn a_flow_token_is_never_a_route_token() {
        let keys = keys();
        let mut text = keys.write_flow(FLOW);
        text[0] = b'r';
        assert_eq!(keys.read(&text, b""), Reading::Plain);
        assert_eq!(keys.read(b"alice", b""), Reading::Plain);
    }

    proptest! {
        #[test]
        fn any_flipped_character_is_refused(at in 0usize..56, with in 0u8..=255) {
            let keys = keys();
            let good = keys.write_flow(FLOW);
            let mut text = good.clone();
            text[1 + at] = with;
            prop_assume!(text != good);
            prop_assert_eq!(keys.read(&text, b""), Reading::Forged);

            let key = BranchKey::new([1; 16]);
            let good = key.write(&branch(), PeerId(5), b"call", 1);
            let mut text = good;
            text[COOKIE.len() + at] = with;
            prop_assume!(text != good);
            let read = BranchKey::read(&text);
            prop_assert!(read.is_none_or(|read| read.verify(&key, PeerId(5), b"call", 1).is_none()));
        }

        #[test]
        fn base32_is_read_back(raw in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut text = vec![0; (raw.len() * 8).div_ceil(5)];
            base32_into(&raw, &mut text);
            let mut back = vec![0; raw.len()];
            prop_assert!(base32_decode(&text, &mut back).is_some());
            prop_assert_eq!(back, raw);
        }
    }
}
