//! The location service of the embedded registrar: who is reachable where (RFC 3261 10, Path by RFC 3327, flows by
//! RFC 5626 6). Owns the bindings, in memory and bounded. Never reads a message, never asks the clock; one domain under
//! any name: the host of an address of record does not count, its user does.
//! Invariant: a user with bindings is queued for the first of them to expire; a user without is forgotten in time.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};

use siphasher::sip::SipHasher13;
use smallvec::SmallVec;

use crate::base::machine::ConnId;
use crate::base::time::{DeadlineQueue, Duration, Instant};
use crate::sip::uri::{Scheme, Uri, same_host};

/// Contacts of one user: contract `contacts`, which is also the most that one REGISTER may bring.
pub const CONTACTS_MAX: usize = 10;
/// Bytes of one binding: Contact, its parameters, Path and Call-ID, each of which the front-end bounds by 1 to 4 KiB.
pub const BINDING_BYTES_MAX: usize = 8 * 1024;
/// Bytes of all bindings together: 100,000 phones at a usual 600 bytes.
pub const LOCATION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A registration is shortened to this: a phone that is gone is not rung for longer.
pub const EXPIRES_MAX: u32 = 7200;
/// What a registration without `expires` gets (RFC 3261 10.2.1.1 leaves it to us).
pub const EXPIRES_DEFAULT: u32 = 3600;
/// A user whose last binding is gone is known for this long: 480, not somebody else's answer.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// One place where a user can be reached.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The Contact's URI as written.
    pub uri: Box<[u8]>,
    /// The Contact's parameters but `expires` and `q`, with their semicolons.
    pub parameters: Box<[u8]>,
    /// The Path values in order, as they are put into Route; empty if none.
    pub path: Box<[u8]>,
    /// The connection that the REGISTER came on.
    pub conn: ConnId,
    pub expires_at: Instant,
    call_id: Box<[u8]>,
    cseq: u32,
    /// `+sip.instance` and `reg-id` of an outbound binding, which then name it instead of the URI.
    flow: Option<Flow<Box<[u8]>>>,
    /// Counts updates: the newest binding is the one that is called.
    age: u64,
}

/// What names an outbound binding (RFC 5626 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<B> {
    pub instance: B,
    pub reg_id: u32,
}

/// What one REGISTER asks for.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    pub call_id: &'a [u8],
    pub cseq: u32,
    pub path: &'a [u8],
    pub conn: ConnId,
    pub contacts: &'a [Contact<'a>],
}

/// One Contact value of a REGISTER.
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    pub uri: &'a [u8],
    pub parameters: &'a [u8],
    pub flow: Option<Flow<&'a [u8]>>,
    /// Seconds; 0 removes.
    pub expires: u32,
}

/// Why a REGISTER changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An older CSeq of the same Call-ID than the one that is stored (RFC 3261 10.3 step 7).
    OutOfOrder,
    /// More contacts than one user may have.
    ContactsMany,
    /// A binding larger than `BINDING_BYTES_MAX`.
    BindingLarge,
    /// No room for another user, or for the bytes.
    Full,
}

#[derive(Debug, Default)]
struct User {
    name: Box<[u8]>,
    bindings: SmallVec<[Binding; 1]>,
}

#[derive(Debug)]
pub struct Location {
    by_name: HashMap<Box<[u8]>, u32, Keyed>,
    /// Hash of a Contact URI to its user: for requests inside a dialog, whose Request-URI is a Contact. Lossy: what it
    /// says is compared.
    by_contact: HashMap<u64, u32, Keyed>,
    users: Vec<User>,
    free: Vec<u32>,
    expiry: DeadlineQueue,
    bytes: usize,
    users_max: u32,
    age: u64,
    keys: Keyed,
}

impl Location {
    /// Room for `users_max` users; `seed` keys the hashes, so that nobody outside can choose names that collide.
    pub fn new(users_max: u32, seed: u64, now: Instant) -> Self {
        let keys = Keyed(seed);
        Location {
            by_name: HashMap::with_hasher(keys),
            by_contact: HashMap::with_hasher(keys),
            users: Vec::new(),
            free: Vec::new(),
            expiry: DeadlineQueue::new(users_max, now),
            bytes: 0,
            users_max,
            age: 0,
            keys,
        }
    }

    /// The bindings of a user: `None` when the user was never heard of, or too long ago.
    pub fn bindings(&self, user: &[u8]) -> Option<&[Binding]> {
        let slot = *self.by_name.get(user)?;
        Some(&self.users[slot as usize].bindings)
    }

    /// The binding to call for a user: the one that was renewed last.
    pub fn newest(&self, user: &[u8]) -> Option<&Binding> {
        self.bindings(user)?.iter().max_by_key(|binding| binding.age)
    }

    /// The binding whose Contact is `uri`.
    pub fn at_contact(&self, uri: &[u8]) -> Option<&Binding> {
        let slot = *self.by_contact.get(&self.keys.hash_one(uri))?;
        self.users[slot as usize].bindings.iter().find(|binding| *binding.uri == *uri)
    }

    /// Users that have bindings or are remembered.
    pub fn users(&self) -> u32 {
        self.by_name.len() as u32
    }

    /// When `expire` has something to do.
    pub fn deadline(&self) -> Instant {
        self.expiry.next()
    }

    /// Drops what has expired.
    pub fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.expiry.expired(now) {
            if self.users[slot as usize].bindings.is_empty() {
                self.forget(slot);
                continue;
            }
            self.retain(slot, |binding| binding.expires_at > now);
            self.queue(slot, now);
        }
    }

    /// Adds, renews and removes bindings: all of them or none (RFC 3261 10.3 step 7).
    pub fn update(
        &mut self,
        now: Instant,
        user: &[u8],
        update: &Update<'_>,
    ) -> Result<(), Refusal> {
        let known = self.by_name.get(user).copied();
        self.check(known, update)?;
        let slot = match known {
            Some(slot) => slot,
            None => self.remember(user),
        };
        for contact in update.contacts {
            self.apply(now, slot, update, contact);
        }
        self.queue(slot, now);
        Ok(())
    }

    /// `Contact: *`: removes all bindings of a user.
    pub fn clear(
        &mut self,
        now: Instant,
        user: &[u8],
        call_id: &[u8],
        cseq: u32,
    ) -> Result<(), Refusal> {
        let Some(slot) = self.by_name.get(user).copied() else { return Ok(()) };
        let late = |binding: &Binding| *binding.call_id == *call_id && cseq <= binding.cseq;
        if self.users[slot as usize].bindings.iter().any(late) {
            return Err(Refusal::OutOfOrder);
        }
        self.retain(slot, |_| false);
        self.queue(slot, now);
        Ok(())
    }

    fn check(&self, known: Option<u32>, update: &Update<'_>) -> Result<(), Refusal> {
        let bindings = known.map_or(&[][..], |slot| &self.users[slot as usize].bindings);
        let mut count = bindings.len();
        let mut bytes = 0;
        for contact in update.contacts {
            let size = size_of(contact, update);
            let old = bindings.iter().find(|binding| binding.is(contact));
            if let Some(old) = old
                && *old.call_id == *update.call_id
                && update.cseq <= old.cseq
            {
                return Err(Refusal::OutOfOrder);
            }
            if size > BINDING_BYTES_MAX {
                return Err(Refusal::BindingLarge);
            }
            if contact.expires > 0 {
                bytes += size;
                count += usize::from(old.is_none());
            }
        }
        if count > CONTACTS_MAX {
            return Err(Refusal::ContactsMany);
        }
        let places = self.users.len() - self.free.len();
        if self.bytes + bytes > LOCATION_BYTES_MAX
            || known.is_none() && places >= self.users_max as usize
        {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn apply(&mut self, now: Instant, slot: u32, update: &Update<'_>, contact: &Contact<'_>) {
        if contact.expires == 0 {
            self.retain(slot, |binding| !binding.is(contact));
            return;
        }
        self.age += 1;
        let expires = Duration::from_secs(u64::from(contact.expires.min(EXPIRES_MAX)));
        let user = &mut self.users[slot as usize];
        let place = user.bindings.iter().position(|binding| binding.is(contact));
        let place = place.unwrap_or_else(|| {
            user.bindings.push(Binding::empty());
            user.bindings.len() - 1
        });
        let binding = &mut user.bindings[place];
        self.bytes -= binding.size();
        if *binding.uri != *contact.uri {
            self.by_contact.remove(&self.keys.hash_one(&*binding.uri));
            self.by_contact.insert(self.keys.hash_one(contact.uri), slot);
        }
        replace(&mut binding.uri, contact.uri);
        replace(&mut binding.parameters, contact.parameters);
        replace(&mut binding.path, update.path);
        replace(&mut binding.call_id, update.call_id);
        binding.flow = contact.flow.map(Flow::owned);
        binding.cseq = update.cseq;
        binding.conn = update.conn;
        binding.expires_at = now + expires;
        binding.age = self.age;
        self.bytes += binding.size();
    }

    fn retain(&mut self, slot: u32, keep: impl Fn(&Binding) -> bool) {
        let (by_contact, keys, bytes) = (&mut self.by_contact, self.keys, &mut self.bytes);
        self.users[slot as usize].bindings.retain(|binding| {
            let kept = keep(binding);
            if !kept {
                by_contact.remove(&keys.hash_one(&*binding.uri));
                *bytes -= binding.size();
            }
            kept
        });
    }

    fn queue(&mut self, slot: u32, now: Instant) {
        let bindings = &self.users[slot as usize].bindings;
        let first = bindings.iter().map(|binding| binding.expires_at).min();
        self.expiry.set(slot, first.unwrap_or(now + KNOWN_FOR));
    }

    fn remember(&mut self, name: &[u8]) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.users.push(User::default());
            self.users.len() as u32 - 1
        });
        self.users[slot as usize].name = name.into();
        self.by_name.insert(name.into(), slot);
        slot
    }

    fn forget(&mut self, slot: u32) {
        let user = std::mem::take(&mut self.users[slot as usize]);
        assert!(user.bindings.is_empty());
        self.by_name.remove(&user.name);
        self.free.push(slot);
    }
}

impl Binding {
    fn empty() -> Self {
        Binding {
            uri: Box::default(),
            parameters: Box::default(),
            path: Box::default(),
            conn: ConnId { slot: u32::MAX, generation: 0 },
            expires_at: Instant(0),
            call_id: Box::default(),
            cseq: 0,
            flow: None,
            age: 0,
        }
    }

    /// Whether a Contact names this binding: by its flow if it has one, else by its URI.
    fn is(&self, contact: &Contact<'_>) -> bool {
        match (&self.flow, &contact.flow) {
            (Some(mine), Some(theirs)) => {
                *mine.instance == *theirs.instance && mine.reg_id == theirs.reg_id
            }
            _ => same_uri(&self.uri, contact.uri),
        }
    }

    fn size(&self) -> usize {
        self.uri.len() + self.parameters.len() + self.path.len() + self.call_id.len()
    }
}

impl Flow<&[u8]> {
    fn owned(self) -> Flow<Box<[u8]>> {
        Flow { instance: self.instance.into(), reg_id: self.reg_id }
    }
}

fn size_of(contact: &Contact<'_>, update: &Update<'_>) -> usize {
    contact.uri.len() + contact.parameters.len() + update.path.len() + update.call_id.len()
}

/// Renewals bring the same bytes again and again: then nothing is allocated.
fn replace(place: &mut Box<[u8]>, bytes: &[u8]) {
    if **place != *bytes {
        *place = bytes.into();
    }
}

/// The user that a URI names: its user part without password, or the number of a `tel`, escapes of unreserved
/// characters undone (RFC 3261 10.3 step 5). `None` when there is none.
pub fn user_of(uri: &Uri<'_>) -> Option<SmallVec<[u8; 64]>> {
    let raw = match uri.scheme {
        Scheme::Sip | Scheme::Sips => uri.user?.split(|byte| *byte == b':').next()?,
        Scheme::Tel => uri.opaque.split(|byte| *byte == b';').next()?,
        Scheme::Other => return None,
    };
    let mut user = SmallVec::new();
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let escape = (*first == b'%').then(|| tail.get(..2)).flatten();
        match escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                user.push(byte);
                rest = &tail[2..];
            }
            None => user.push(*first),
        }
    }
    (!user.is_empty()).then_some(user)
}

/// Whether two URIs are the same by RFC 3261 19.1.4, as far as a Contact needs it: header parts do not count.
pub fn same_uri(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let (Ok(one), Ok(other)) = (Uri::parse(one), Uri::parse(other)) else { return false };
    if one.scheme != other.scheme
        || !matches!(one.scheme, Scheme::Sip | Scheme::Sips)
        || one.user != other.user
        || one.port != other.port
        || !same_host(one.host, other.host)
    {
        return false;
    }
    let covers = |one: &Uri<'_>, other: &Uri<'_>| {
        one.params().all(|(name, value)| {
            let found = other.params().find(|(other, _)| other.eq_ignore_ascii_case(name));
            match found {
                Some((_, theirs)) => match (value, theirs) {
                    (Some(mine), Some(theirs)) => mine.eq_ignore_ascii_case(theirs),
                    (mine, theirs) => mine.is_none() && theirs.is_none(),
                },
                // Only these five must be in both or in neither.
                None => ![&b"transport"[..], b"user", b"ttl", b"method", b"maddr"]
                    .iter()
                    .any(|strict| name.eq_ignore_ascii_case(strict)),
            }
        })
    };
    covers(&one, &other) && covers(&other, &one)
}

/// SipHash with keys of this process.
#[derive(Clone, Copy, Debug)]
pub struct Keyed(pub u64);

impl Keyed {
    /// A tag over several parts, each with its length.
    pub fn tag(self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.build_hasher();
        for part in parts {
            part.hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.0.rotate_left(32) ^ 0x5851_F42D_4C95_7F2D)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 1, generation: 0 };

    fn contact(uri: &[u8], expires: u32) -> Contact<'_> {
        Contact { uri, parameters: b"", flow: None, expires }
    }

    fn register(
        location: &mut Location,
        now: Instant,
        cseq: u32,
        contacts: &[Contact<'_>],
    ) -> Result<(), Refusal> {
        let update = Update { call_id: b"call", cseq, path: b"<sip:e;lr>", conn: CONN, contacts };
        location.update(now, b"alice", &update)
    }

    fn seconds(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    #[test]
    fn a_binding_lives_until_it_expires_and_the_user_is_known_a_while_longer() {
        let mut location = Location::new(4, 7, seconds(0));
        register(&mut location, seconds(0), 1, &[contact(b"sip:a@h:1", 60)]).unwrap();
        assert_eq!(&*location.newest(b"alice").unwrap().uri, b"sip:a@h:1");
        assert_eq!(&*location.at_contact(b"sip:a@h:1").unwrap().path, b"<sip:e;lr>");
        location.expire(seconds(59));
        assert!(location.newest(b"alice").is_some());
        location.expire(seconds(61));
        assert!(location.newest(b"alice").is_none() && location.at_contact(b"sip:a@h:1").is_none());
        assert_eq!(location.bindings(b"alice").map(<[_]>::len), Some(0));
        location.expire(seconds(61 + 3601));
        assert!(location.bindings(b"alice").is_none());
        assert_eq!((location.users(), location.bytes), (0, 0));
        assert_eq!(location.deadline(), Instant::FAR);
    }

    #[test]
    fn renewals_replace_and_the_newest_is_called() {
        let mut location = Location::new(4, 7, seconds(0));
        register(&mut location, seconds(0), 1, &[contact(b"sip:a@h:1", 60)]).unwrap();
        register(&mut location, seconds(1), 2, &[contact(b"sip:a@h:2", 60)]).unwrap();
        assert_eq!(&*location.newest(b"alice").unwrap().uri, b"sip:a@h:2");
        register(&mut location, seconds(2), 3, &[contact(b"sip:a@H:1", 60)]).unwrap();
        assert_eq!(&*location.newest(b"alice").unwrap().uri, b"sip:a@H:1");
        assert_eq!(location.bindings(b"alice").unwrap().len(), 2);
        register(&mut location, seconds(3), 4, &[contact(b"sip:a@h:1", 0)]).unwrap();
        assert_eq!(&*location.newest(b"alice").unwrap().uri, b"sip:a@h:2");
    }

    #[test]
    fn an_older_request_changes_nothing() {
        let mut location = Location::new(4, 7, seconds(0));
        register(&mut location, seconds(0), 5, &[contact(b"sip:a@h:1", 60)]).unwrap();
        let late = register(
            &mut location,
            seconds(0),
            5,
            &[contact(b"sip:a@h:9", 60), contact(b"sip:a@h:1", 0)],
        );
        assert_eq!(late, Err(Refusal::OutOfOrder));
        assert_eq!(location.clear(seconds(0), b"alice", b"call", 5), Err(Refusal::OutOfOrder));
        assert_eq!(location.bindings(b"alice").unwrap().len(), 1);
        assert_eq!(location.clear(seconds(0), b"alice", b"other", 1), Ok(()));
        assert_eq!(location.bindings(b"alice").unwrap().len(), 0);
    }

    #[test]
    fn the_same_instance_and_reg_id_replace_another_contact() {
        let mut location = Location::new(4, 7, seconds(0));
        let flow = |reg_id| Some(Flow { instance: &b"<urn:uuid:1>"[..], reg_id });
        for (cseq, uri, reg_id) in
            [(1, &b"sip:a@h:1"[..], 1), (2, b"sip:a@h:2", 2), (3, b"sip:a@h:3", 1)]
        {
            let contact = Contact { flow: flow(reg_id), ..contact(uri, 60) };
            register(&mut location, seconds(0), cseq, &[contact]).unwrap();
        }
        let uris: Vec<_> =
            location.bindings(b"alice").unwrap().iter().map(|binding| &*binding.uri).collect();
        assert_eq!(uris, [&b"sip:a@h:3"[..], b"sip:a@h:2"]);
        assert!(location.at_contact(b"sip:a@h:1").is_none());
    }

    #[test]
    fn every_bound_refuses() {
        let mut location = Location::new(1, 7, seconds(0));
        let uris: Vec<_> = (0..=CONTACTS_MAX).map(|n| format!("sip:a@h:{}", n + 1)).collect();
        let many: Vec<_> = uris.iter().map(|uri| contact(uri.as_bytes(), 60)).collect();
        assert_eq!(register(&mut location, seconds(0), 1, &many), Err(Refusal::ContactsMany));
        let large = vec![b'a'; BINDING_BYTES_MAX];
        let large = Contact { parameters: &large, ..contact(b"sip:a@h", 60) };
        assert_eq!(register(&mut location, seconds(0), 1, &[large]), Err(Refusal::BindingLarge));
        assert_eq!(location.users(), 0);
        register(&mut location, seconds(0), 1, &many[..CONTACTS_MAX]).unwrap();
        let update = Update { call_id: b"c", cseq: 1, path: b"", conn: CONN, contacts: &many[..1] };
        assert_eq!(location.update(seconds(0), b"bob", &update), Err(Refusal::Full));
    }

    #[test]
    fn uris_are_compared_as_the_rfc_says() {
        for (one, other, same) in [
            ("sip:a@h", "sip:a@H", true),
            ("sip:a@h", "sips:a@h", false),
            ("sip:a@h", "sip:A@h", false),
            ("sip:a@h", "sip:a@h:5060", false),
            ("sip:a@h;transport=tcp", "sip:a@h;transport=TCP", true),
            ("sip:a@h;transport=tcp", "sip:a@h", false),
            ("sip:a@h;x=1", "sip:a@h", true),
            ("sip:a@h;x=1", "sip:a@h;x=2", false),
            ("sip:a@[::1]:7", "sip:a@[0:0::1]:7", true),
        ] {
            assert_eq!(same_uri(one.as_bytes(), other.as_bytes()), same, "{one} {other}");
        }
    }

    #[test]
    fn a_user_is_named_without_host_password_and_escapes() {
        let user =
            |uri: &str| user_of(&Uri::parse(uri.as_bytes()).unwrap()).map(|user| user.to_vec());
        assert_eq!(user("sip:%61lice:secret@h:1;x"), Some(b"alice".to_vec()));
        assert_eq!(user("tel:+1555;phone-context=x"), Some(b"+1555".to_vec()));
        assert_eq!(user("sip:h"), None);
    }
}
