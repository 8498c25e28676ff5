//! Session tickets without state on our side (RFC 8446 4.6.1, RFC 5077): keys that change with time, shared by all
//! workers, and by a fleet through a key file. Never invents keys in a fleet, never keeps one beyond its use.
//! Invariant: a ticket opens only for the listener, zone policy and CA set that it was sealed for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::{digest, hkdf};
use zeroize::Zeroizing;

use super::clock::TimeProvider;
use crate::config::snapshot::TicketPolicy;

/// Bytes of a master key in a key file.
pub const MASTER_BYTES: usize = 32;

/// Master keys in a file: the one in use, and those it has replaced.
pub const MASTERS_MAX: usize = 16;

/// Bytes of the name by which a ticket finds its key.
const NAME_BYTES: usize = 16;
/// Seconds since 1970 at which the ticket was made.
const TIME_BYTES: usize = 8;
const HEAD_BYTES: usize = NAME_BYTES + TIME_BYTES + NONCE_LEN;
const TAG_BYTES: usize = 16;

/// The longest lifetime that RFC 8446 4.6.1 allows.
pub const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is wrong with a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileFault {
    Empty,
    /// Line, from 1: not 64 hexadecimal digits.
    Line {
        line: usize,
    },
    TooMany,
}

impl fmt::Display for KeyFileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileFault::Empty => f.write_str("holds no key"),
            KeyFileFault::Line { line } => write!(f, "line {line} is not 64 hexadecimal digits"),
            KeyFileFault::TooMany => write!(f, "holds more than {MASTERS_MAX} keys"),
        }
    }
}

impl KeyFileFault {
    /// What to do about it.
    pub const fn cure(self) -> &'static str {
        "write one key a line, newest first, each made by `openssl rand -hex 32`"
    }
}

/// Boxed, so that moving a key moves a pointer and leaves no copy of its bytes behind.
type Secret = Box<Zeroizing<[u8; MASTER_BYTES]>>;

fn blank() -> Secret {
    Box::new(Zeroizing::new([0; MASTER_BYTES]))
}

/// The key of one period of time.
struct PeriodKey {
    name: [u8; NAME_BYTES],
    secret: Secret,
    /// Number of the period: seconds since 1970 divided by the period.
    period: u64,
    /// Which master it comes from, from 0; 0 for keys made in memory.
    master: usize,
}

struct Keys {
    live: Vec<PeriodKey>,
    /// Empty: keys are made at random.
    masters: Vec<Secret>,
}

struct Store {
    clock: Arc<dyn TimeProvider>,
    lifetime: u64,
    rotate: u64,
    random: SystemRandom,
    /// Locked for a few hundred nanoseconds in handshakes only, never for a message.
    keys: Mutex<Keys>,
}

/// The ticket keys of the process. Clones share them.
#[derive(Clone)]
pub struct Tickets(Arc<Store>);

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("lifetime", &self.0.lifetime)
            .field("rotate", &self.0.rotate)
            .finish_non_exhaustive()
    }
}

impl Tickets {
    /// Keys made at random when each period of `rotate` begins; a ticket is good for `lifetime`.
    pub fn random(clock: Arc<dyn TimeProvider>, lifetime: Duration, rotate: Duration) -> Tickets {
        Tickets::of(clock, lifetime, rotate, Vec::new())
    }

    /// Keys derived from the masters in `file` and the time, so that every process with the same file opens the
    /// tickets of all others. One master a line, 64 hexadecimal digits; the first seals, all open. Empty lines and
    /// lines that begin with `#` do not count.
    pub fn from_key_file(
        clock: Arc<dyn TimeProvider>,
        lifetime: Duration,
        rotate: Duration,
        file: &[u8],
    ) -> Result<Tickets, KeyFileFault> {
        Ok(Tickets::of(clock, lifetime, rotate, masters(file)?))
    }

    /// What `policy` asks for.
    pub fn of_policy(
        clock: Arc<dyn TimeProvider>,
        policy: &TicketPolicy,
    ) -> Result<Tickets, KeyFileFault> {
        match policy {
            TicketPolicy::Off => Ok(Tickets::random(clock, Duration::ZERO, Duration::ZERO)),
            TicketPolicy::On { lifetime, rotate, keys: None } => {
                Ok(Tickets::random(clock, *lifetime, *rotate))
            }
            TicketPolicy::On { lifetime, rotate, keys: Some(file) } => {
                Tickets::from_key_file(clock, *lifetime, *rotate, file)
            }
        }
    }

    fn of(
        clock: Arc<dyn TimeProvider>,
        lifetime: Duration,
        rotate: Duration,
        masters: Vec<Secret>,
    ) -> Tickets {
        Tickets(Arc::new(Store {
            clock,
            lifetime: lifetime.min(LIFETIME_MAX).as_secs(),
            rotate: rotate.as_secs().max(1),
            random: SystemRandom::new(),
            keys: Mutex::new(Keys { live: Vec::new(), masters }),
        }))
    }

    /// Wipes the keys whose tickets have all run out. Every use does this too; control calls it so that keys also go
    /// when nobody comes.
    pub fn sweep(&self) {
        if let Some(now) = self.0.now() {
            self.0.sweep(&mut self.0.lock(), now);
        }
    }

    /// Keys in memory: what a lifetime divided by a period gives, and one more.
    pub fn live_keys(&self) -> usize {
        self.0.lock().live.len()
    }

    /// The same keys for one listener: what is sealed under another `binding` does not open.
    pub(super) fn bound(&self, binding: Binding) -> BoundTickets {
        BoundTickets { tickets: self.clone(), binding }
    }
}

/// What is wrong with the text of a key file.
pub fn examine(file: &[u8]) -> Result<(), KeyFileFault> {
    masters(file).map(drop)
}

fn masters(file: &[u8]) -> Result<Vec<Secret>, KeyFileFault> {
    let mut masters = Vec::new();
    for (index, line) in file.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        masters.push(master(line).ok_or(KeyFileFault::Line { line: index + 1 })?);
    }
    match masters.len() {
        0 => Err(KeyFileFault::Empty),
        1..=MASTERS_MAX => Ok(masters),
        _ => Err(KeyFileFault::TooMany),
    }
}

fn master(line: &[u8]) -> Option<Secret> {
    if line.len() != 2 * MASTER_BYTES {
        return None;
    }
    let mut key = blank();
    for (byte, digits) in key.iter_mut().zip(line.chunks_exact(2)) {
        let high = char::from(digits[0]).to_digit(16)?;
        let low = char::from(digits[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(key)
}

impl Store {
    /// Seconds since 1970.
    fn now(&self) -> Option<u64> {
        self.clock.current_time().map(|time| time.as_secs())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Keys> {
        // A panic elsewhere leaves the keys whole: each is pushed or removed in one step.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first second at which no ticket of `period` can be good any more.
    fn end(&self, period: u64) -> u64 {
        (period + 1).saturating_mul(self.rotate).saturating_add(self.lifetime)
    }

    fn sweep(&self, keys: &mut Keys, now: u64) {
        // `Zeroizing` wipes each key where it goes.
        keys.live.retain(|key| now < self.end(key.period));
    }

    /// The key that seals now, made if the period has just begun.
    fn sealing<'k>(&self, keys: &'k mut Keys, now: u64) -> Option<&'k PeriodKey> {
        self.sweep(keys, now);
        let period = now / self.rotate;
        let found = keys.live.iter().position(|key| key.period == period && key.master == 0);
        let index = match found {
            Some(index) => index,
            None => {
                let key = match keys.masters.first() {
                    Some(master) => derived(master, 0, period)?,
                    None => self.invented(period)?,
                };
                keys.live.push(key);
                keys.live.len() - 1
            }
        };
        keys.live.get(index)
    }

    fn invented(&self, period: u64) -> Option<PeriodKey> {
        let mut key = PeriodKey { name: [0; NAME_BYTES], secret: blank(), period, master: 0 };
        self.random.fill(&mut key.name).ok()?;
        self.random.fill(key.secret.as_mut_slice()).ok()?;
        Some(key)
    }

    /// The key that a ticket of `made` names; in a fleet it may be one that only others have used so far.
    fn opening<'k>(
        &self,
        keys: &'k mut Keys,
        name: &[u8],
        made: u64,
        now: u64,
    ) -> Option<&'k PeriodKey> {
        self.sweep(keys, now);
        let period = made / self.rotate;
        if let Some(index) = keys.live.iter().position(|key| key.name == name) {
            return keys.live.get(index).filter(|key| key.period == period);
        }
        let mut missing = None;
        for (index, master) in keys.masters.iter().enumerate() {
            let known = keys.live.iter().any(|key| key.period == period && key.master == index);
            if !known {
                missing = derived(master, index, period).filter(|key| key.name == name);
            }
            if missing.is_some() {
                break;
            }
        }
        keys.live.push(missing?);
        keys.live.last()
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The key of `period` under a master of the fleet (HKDF, RFC 5869).
fn derived(master: &[u8; MASTER_BYTES], index: usize, period: u64) -> Option<PeriodKey> {
    let mut bytes = Zeroizing::new([0; NAME_BYTES + 32]);
    let info = [b"ringfront ticket key 1".as_slice(), &period.to_be_bytes()];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"ringfront session tickets")
        .extract(master)
        .expand(&info, Length(bytes.len()))
        .and_then(|key| key.fill(bytes.as_mut_slice()))
        .ok()?;
    let mut key = PeriodKey { name: [0; NAME_BYTES], secret: blank(), period, master: index };
    key.name.copy_from_slice(&bytes[..NAME_BYTES]);
    key.secret.copy_from_slice(&bytes[NAME_BYTES..]);
    Some(key)
}

/// Digest of what a session may be resumed under.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding([u8; 32]);

impl Binding {
    /// SHA-256 over `lists` of parts: each part has its length before it, and each list an end that no part has.
    pub fn of(lists: &mut [&mut dyn Iterator<Item = &[u8]>]) -> Binding {
        let mut context = digest::Context::new(&digest::SHA256);
        for list in lists {
            for part in list {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
            context.update(&u64::MAX.to_be_bytes());
        }
        let mut binding = Binding([0; 32]);
        binding.0.copy_from_slice(context.finish().as_ref());
        binding
    }
}

/// Ticket keys as one listener uses them.
pub(super) struct BoundTickets {
    tickets: Tickets,
    binding: Binding,
}

impl fmt::Debug for BoundTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tickets.fmt(f)
    }
}

impl BoundTickets {
    /// The cipher of one key, and what is authenticated beside the session: the binding and the ticket's head.
    fn cipher(&self, key: &PeriodKey, head: &[u8]) -> Option<(LessSafeKey, [u8; 32 + HEAD_BYTES])> {
        let cipher = UnboundKey::new(&AES_256_GCM, key.secret.as_slice()).ok()?;
        let mut beside = [0; 32 + HEAD_BYTES];
        beside[..32].copy_from_slice(&self.binding.0);
        beside[32..].copy_from_slice(head);
        Some((LessSafeKey::new(cipher), beside))
    }
}

impl rustls::server::ProducesTickets for BoundTickets {
    fn enabled(&self) -> bool {
        self.tickets.0.lifetime > 0
    }

    fn lifetime(&self) -> u32 {
        // At most a week.
        self.tickets.0.lifetime as u32
    }

    /// name (16), time made (8), nonce (12), sealed session, tag (16). Nonces are random: with 96 bits one key may
    /// seal 2^32 tickets (NIST SP 800-38D 8.3), which is more than 100 cores make in an hour.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let store = &self.tickets.0;
        let now = store.now()?;
        let mut keys = store.lock();
        let key = store.sealing(&mut keys, now)?;
        let mut nonce = [0; NONCE_LEN];
        store.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(HEAD_BYTES + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&now.to_be_bytes());
        ticket.extend_from_slice(&nonce);
        let (cipher, beside) = self.cipher(key, &ticket)?;
        drop(keys);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = cipher
            .seal_in_place_separate_tag(nonce, Aad::from(beside), &mut ticket[HEAD_BYTES..])
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD_BYTES)?;
        let (name, rest) = head.split_at_checked(NAME_BYTES)?;
        let (made, nonce) = rest.split_at_checked(TIME_BYTES)?;
        let made = u64::from_be_bytes(made.try_into().ok()?);
        let store = &self.tickets.0;
        let now = store.now()?;
        // A ticket from ahead of our clock is a fleet member's whose clock differs; more than a period is no clock.
        if now.saturating_sub(made) > store.lifetime || made > now.saturating_add(store.rotate) {
            return None;
        }
        let mut keys = store.lock();
        let key = store.opening(&mut keys, name, made, now)?;
        let (cipher, beside) = self.cipher(key, head)?;
        drop(keys);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = cipher.open_in_place(nonce, Aad::from(beside), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use rustls::server::ProducesTickets;

    use super::super::clock::SetClock;
    use super::*;

    const START: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;

    fn bound(clock: &Arc<SetClock>) -> BoundTickets {
        let (lifetime, rotate) = (Duration::from_secs(12 * HOUR), Duration::from_secs(HOUR));
        let tickets = Tickets::random(clock.clone(), lifetime, rotate);
        tickets.bound(Binding::of(&mut [&mut [b"a".as_slice()].into_iter()]))
    }

    #[test]
    fn a_ticket_opens_as_it_was_sealed_and_no_byte_of_it_may_change() {
        let clock = Arc::new(SetClock::new(START));
        let tickets = bound(&clock);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(tickets.encrypt(b"session").unwrap(), ticket);
        for at in 0..ticket.len() {
            for bit in 0..8 {
                let mut changed = ticket.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(tickets.decrypt(&changed), None, "bit {bit} of byte {at}");
            }
            assert_eq!(tickets.decrypt(&ticket[..at]), None);
        }
        assert_eq!(tickets.tickets.live_keys(), 1, "nothing made up makes a key");
    }

    #[test]
    fn a_clock_that_steps_back_and_tickets_from_ahead() {
        let clock = Arc::new(SetClock::new(START));
        let tickets = bound(&clock);
        let ticket = tickets.encrypt(b"session").unwrap();
        clock.set(START - HOUR / 2);
        assert!(tickets.decrypt(&ticket).is_some(), "half an hour is a clock that was set");
        clock.set(START - 3 * HOUR);
        assert!(tickets.decrypt(&ticket).is_none());
        assert!(tickets.encrypt(b"session").is_some());
    }

    #[test]
    fn bindings_differ_by_every_part_and_its_place() {
        let of = |lists: &[&[&[u8]]]| {
            let mut lists: Vec<_> = lists.iter().map(|list| list.iter().copied()).collect();
            let mut lists: Vec<&mut dyn Iterator<Item = &[u8]>> =
                lists.iter_mut().map(|list| list as &mut dyn Iterator<Item = &[u8]>).collect();
            Binding::of(&mut lists).0
        };
        let all = [
            of(&[&[b"ab", b"c"], &[]]),
            of(&[&[b"a", b"bc"], &[]]),
            of(&[&[b"ab"], &[b"c"]]),
            of(&[&[], &[b"ab", b"c"]]),
            of(&[&[b"abc"], &[]]),
            of(&[&[b"ab", b"c"]]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one));
        }
    }

    #[test]
    fn key_files_are_read_strictly() {
        let key = "00ff".repeat(16);
        let faulty = |text: &str| masters(text.as_bytes()).err();
        assert_eq!(faulty(""), Some(KeyFileFault::Empty));
        assert_eq!(faulty("# nothing\n\n"), Some(KeyFileFault::Empty));
        assert_eq!(faulty(&key[1..]), Some(KeyFileFault::Line { line: 1 }));
        assert_eq!(faulty(&format!("{key}\n{key}0")), Some(KeyFileFault::Line { line: 2 }));
        assert_eq!(faulty(&"g".repeat(64)), Some(KeyFileFault::Line { line: 1 }));
        assert_eq!(faulty(&format!("{key}\n").repeat(17)), Some(KeyFileFault::TooMany));
        let read = masters(format!("# keys\r\n  {key}\r\n").as_bytes()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0][..4], [0, 0xff, 0, 0xff]);
    }

    /// Whether `masked`, each byte of it turned over, lies anywhere in the writable memory of this process.
    fn in_memory(masked: &[u8]) -> bool {
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut buffer = vec![0; 1 << 20];
        let mut found = false;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, _) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (mut at, to) = (number(from), number(to));
            while at < to {
                let length = buffer.len().min((to - at) as usize);
                let Ok(read) = memory.read_at(&mut buffer[..length], at) else { break };
                let equal = |window: &[u8]| window.iter().zip(masked).all(|(a, b)| *a == !b);
                found |= buffer[..read].windows(masked.len()).any(equal);
                // Neighbouring pieces overlap, so that no place falls between them.
                at += if read > masked.len() { (read - masked.len() + 1) as u64 } else { 4096 };
            }
        }
        buffer.fill(0);
        found
    }

    #[test]
    fn a_key_that_has_run_out_is_gone_from_memory() {
        let clock = Arc::new(SetClock::new(START));
        let tickets = bound(&clock);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert!(tickets.decrypt(&ticket).is_some());
        let mask = |secret: &Secret| secret.iter().map(|byte| !byte).collect::<Vec<u8>>();
        let masked = mask(&tickets.tickets.0.lock().live[0].secret);
        assert!(in_memory(&masked), "the search finds a key that is there");
        clock.advance(14 * HOUR);
        tickets.tickets.sweep();
        assert!(!in_memory(&masked));
    }
}
