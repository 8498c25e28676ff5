//! The three signed words that we write: branch (Via), flow token (Path), route token (Record-Route).
//! Owns the keys and the layouts. Never looks anything up: what a word says is the caller's to judge.
//! Invariant: the three never share a key or a prefix, and nothing in a word is used before its code was checked.
//!
//! Layouts are big-endian, written in base32 (RFC 4648 alphabet, lower case, no padding):
//! * branch, 35 bytes: version and stateful bit, worker, incarnation, slot, generation, attempt, unique part, loop
//!   part, tag (SipHash-2-4, 64 of 128 bits; 15 to 20 ns against 200 for a SHA-256 code, twice per transaction); the two
//!   parts are SipHash-1-3, since the tag signs them: nobody gains by a guess at them alone;
//! * flow token, 35 bytes: version, key id, node, worker, incarnation, slot, generation, HMAC-SHA-256/128;
//! * route token, 43 bytes: the same with a backend's identity before the code, which also covers the Call-ID.

use std::hash::Hasher;

use arrayvec::ArrayVec;
use aws_lc_rs::{constant_time, digest, hmac};
use siphasher::sip128::{Hasher128, SipHasher13, SipHasher24};
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

/// Bytes that are gathered before they are hashed: what one message gives, as a rule.
const GATHERED: usize = 256;

/// Fields on their way into a hasher, side by side: it takes eight bytes at a time and is slow at the seams.
struct Gather<H> {
    hasher: H,
    bytes: ArrayVec<u8, GATHERED>,
}

impl<H: Hasher + Hasher128> Gather<H> {
    /// Purposes are told apart by the first byte hashed.
    fn new(hasher: H, purpose: u8) -> Self {
        let mut gather = Gather { hasher, bytes: ArrayVec::new() };
        gather.bytes.push(purpose);
        gather
    }

    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.try_extend_from_slice(bytes).is_err() {
            self.spill(bytes);
        }
    }

    #[cold]
    fn spill(&mut self, bytes: &[u8]) {
        self.hasher.write(&self.bytes);
        self.hasher.write(bytes);
        self.bytes.clear();
    }

    /// Length first, so that two neighbours can never be read as one.
    #[inline]
    fn field(&mut self, bytes: &[u8]) {
        self.add(&(bytes.len() as u32).to_le_bytes());
        self.add(bytes);
    }

    #[inline]
    fn finish(mut self) -> u64 {
        self.hasher.write(&self.bytes);
        self.hasher.finish128().h1
    }
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

    fn part(&self, purpose: u8) -> Gather<SipHasher13> {
        Gather::new(SipHasher13::new_with_key(&self.key), purpose)
    }

    pub fn unique(&self, fields: &UniqueFields<'_>) -> u64 {
        let mut part = self.part(b'u');
        part.field(fields.branch);
        part.field(fields.sent_by);
        part.field(fields.call_id);
        part.field(fields.from_tag);
        part.add(&fields.cseq.to_le_bytes());
        part.add(&fields.zone.to_le_bytes());
        match fields.source.to_canonical() {
            std::net::IpAddr::V4(address) => part.add(&address.octets()),
            std::net::IpAddr::V6(address) => part.add(&address.octets()),
        }
        part.finish()
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
        let mut part = self.part(b'l');
        part.field(request_uri);
        routes.for_each(|route| part.field(route));
        part.field(call_id);
        part.field(from_tag);
        part.add(&cseq.to_le_bytes());
        part.add(&zone.to_le_bytes());
        part.finish() as u32
    }

    /// A key for the hash that picks nothing but a place in a table: Call-IDs and the like.
    pub fn table_hash(&self, bytes: &[u8]) -> u64 {
        let mut part = self.part(b't');
        part.add(bytes);
        part.finish()
    }

    fn tag(&self, head: &[u8], peer: PeerId, call_id: &[u8], cseq: u32) -> u64 {
        let mut tag = Gather::new(SipHasher24::new_with_key(&self.key), b'b');
        tag.add(head);
        tag.add(&peer.0.to_le_bytes());
        tag.field(call_id);
        tag.add(&cseq.to_le_bytes());
        tag.finish()
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

/// Base32, eight characters of five bits at a time, each character in a byte of a word (RFC 4648 6, lower case): `a` to
/// `z` are 0 to 25, `2` to `7` are 26 to 31.
const EACH: u64 = 0x0101_0101_0101_0101;
/// From the character that 26 would have after `z` to `2`.
const TO_DIGITS: u64 = b'z' as u64 + 1 - b'2' as u64;

/// Eight characters for forty bits.
#[inline]
fn characters(bits: u64) -> [u8; 8] {
    let halves = (bits << 12 & 0x000F_FFFF_0000_0000) | (bits & 0x000F_FFFF);
    let quarters = (halves << 6 & 0x03FF_0000_03FF_0000) | (halves & 0x0000_03FF_0000_03FF);
    let fives = (quarters << 3 & 0x1F00_1F00_1F00_1F00) | (quarters & 0x001F_001F_001F_001F);
    spelled(fives).to_be_bytes()
}

/// The characters of eight numbers below 32.
#[inline]
fn spelled(fives: u64) -> u64 {
    let digits = (fives + 6 * EACH) >> 5 & EACH;
    fives + EACH * u64::from(b'a') - digits * TO_DIGITS
}

/// Forty bits of eight characters. `None`: one of them is not of the alphabet.
#[inline]
fn bits(characters: [u8; 8]) -> Option<u64> {
    let text = u64::from_be_bytes(characters);
    let digits = !text >> 6 & EACH;
    let fives = text.wrapping_sub(EACH * u64::from(b'a')).wrapping_add(digits * TO_DIGITS);
    // Whatever was borrowed between strange bytes: what spells the same text is its number.
    if fives & (0xE0 * EACH) != 0 || spelled(fives) != text {
        return None;
    }
    let quarters = (fives & 0x001F_001F_001F_001F) | (fives & 0x1F00_1F00_1F00_1F00) >> 3;
    let halves = (quarters & 0x0000_03FF_0000_03FF) | (quarters & 0x03FF_0000_03FF_0000) >> 6;
    Some((halves & 0x000F_FFFF) | (halves & 0x000F_FFFF_0000_0000) >> 12)
}

/// Writes `raw` as base32; `text` has exactly the room it takes.
fn base32_into(raw: &[u8], text: &mut [u8]) {
    assert!(text.len() == (raw.len() * 8).div_ceil(5));
    let (fives, last) = raw.as_chunks::<5>();
    let (eights, last_text) = text.as_chunks_mut::<8>();
    for ([a, b, c, d, e], eight) in fives.iter().zip(eights) {
        *eight = characters(u64::from_be_bytes([0, 0, 0, *a, *b, *c, *d, *e]));
    }
    let mut word = [0; 8];
    word[3..3 + last.len()].copy_from_slice(last);
    last_text.copy_from_slice(&characters(u64::from_be_bytes(word))[..last_text.len()]);
}

/// Reads base32 into exactly `raw`. `None`: another length, another alphabet, or bits left over.
fn base32_decode(text: &[u8], raw: &mut [u8]) -> Option<()> {
    if text.len() != (raw.len() * 8).div_ceil(5) {
        return None;
    }
    let (eights, last_text) = text.as_chunks::<8>();
    let (fives, last) = raw.as_chunks_mut::<5>();
    for (eight, five) in eights.iter().zip(fives) {
        let [_, _, _, bytes @ ..] = bits(*eight)?.to_be_bytes();
        *five = bytes;
    }
    let mut eight = [b'a'; 8];
    eight[..last_text.len()].copy_from_slice(last_text);
    let [_, _, _, bytes @ ..] = bits(eight)?.to_be_bytes();
    let (kept, beyond) = bytes.split_at(last.len());
    last.copy_from_slice(kept);
    // Bits beyond the last byte must be zero: one text for each token.
    beyond.iter().all(|byte| *byte == 0).then_some(())
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

        #[test]
        fn base32_reads_nothing_but_what_it_writes(
            text in proptest::collection::vec(
                prop_oneof![4 => Just(b'a'), 1 => Just(b'7'), 1 => any::<u8>()], 0..30),
        ) {
            let mut raw = vec![0; text.len() * 5 / 8];
            if base32_decode(&text, &mut raw).is_some() {
                let mut again = vec![0; text.len()];
                base32_into(&raw, &mut again);
                prop_assert_eq!(again, text);
            }
        }

        #[test]
        fn eight_characters_mean_forty_bits(number in 0u64..1 << 40) {
            const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
            let text = characters(number);
            let spelled = [35, 30, 25, 20, 15, 10, 5, 0].map(|at| ALPHABET[(number >> at & 31) as usize]);
            prop_assert_eq!(text, spelled);
            prop_assert_eq!(bits(text), Some(number));
        }

        #[test]
        fn a_strange_character_is_refused(number in 0u64..1 << 40, at in 0usize..8, with in 0u8..=255) {
            let mut text = characters(number);
            text[at] = with;
            prop_assert_eq!(bits(text).is_some(), matches!(with, b'a'..=b'z' | b'2'..=b'7'));
        }

        /// However long the fields are, no byte of them is left out.
        #[test]
        fn every_byte_counts(
            mut branch in proptest::collection::vec(any::<u8>(), 1..600),
            call_id in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0usize..600,
        ) {
            let key = BranchKey::new([1; 16]);
            let unique = |branch: &[u8]| key.unique(&UniqueFields {
                branch,
                sent_by: b"h",
                call_id: &call_id,
                cseq: 1,
                from_tag: b"t",
                source: std::net::IpAddr::from([127, 0, 0, 1]),
                zone: 0,
            });
            let before = unique(&branch);
            let at = at % branch.len();
            branch[at] ^= 1;
            prop_assert_ne!(unique(&branch), before);
        }
    }
}
