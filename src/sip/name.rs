//! Header names and methods: exact, with the case rules of RFC 3261 7.1 and 7.3.1 and the compact forms of the IANA
//! registry. Never a prefix match.
//!
//! Names of up to 16 bytes are compared as one word of 16 bytes, found by a hash without collisions.

use wide::u8x16;

use super::text::is_token;

/// Header names that the front-end knows. `Other` is every other name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Name {
    Accept,
    AcceptContact,
    Allow,
    AllowEvents,
    Authorization,
    CallId,
    Contact,
    ContentEncoding,
    ContentLength,
    ContentType,
    CSeq,
    Date,
    Event,
    Expires,
    FlowTimer,
    From,
    Identity,
    IdentityInfo,
    MaxBreadth,
    MaxForwards,
    MinExpires,
    PAssertedIdentity,
    Path,
    PPreferredIdentity,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyRequire,
    Reason,
    RecordRoute,
    ReferredBy,
    ReferTo,
    RejectContact,
    RequestDisposition,
    Require,
    RetryAfter,
    Route,
    ServiceRoute,
    SessionExpires,
    Subject,
    Supported,
    Timestamp,
    To,
    Unsupported,
    UserAgent,
    Via,
    Warning,
    WwwAuthenticate,
    Other,
}

/// Each known name: long form as it is written, compact form (0: none). In the order of `Name`.
const NAMES: [(Name, &str, u8); Name::COUNT - 1] = [
    (Name::Accept, "Accept", 0),
    (Name::AcceptContact, "Accept-Contact", b'a'),
    (Name::Allow, "Allow", 0),
    (Name::AllowEvents, "Allow-Events", b'u'),
    (Name::Authorization, "Authorization", 0),
    (Name::CallId, "Call-ID", b'i'),
    (Name::Contact, "Contact", b'm'),
    (Name::ContentEncoding, "Content-Encoding", b'e'),
    (Name::ContentLength, "Content-Length", b'l'),
    (Name::ContentType, "Content-Type", b'c'),
    (Name::CSeq, "CSeq", 0),
    (Name::Date, "Date", 0),
    (Name::Event, "Event", b'o'),
    (Name::Expires, "Expires", 0),
    (Name::FlowTimer, "Flow-Timer", 0),
    (Name::From, "From", b'f'),
    (Name::Identity, "Identity", b'y'),
    (Name::IdentityInfo, "Identity-Info", b'n'),
    (Name::MaxBreadth, "Max-Breadth", 0),
    (Name::MaxForwards, "Max-Forwards", 0),
    (Name::MinExpires, "Min-Expires", 0),
    (Name::PAssertedIdentity, "P-Asserted-Identity", 0),
    (Name::Path, "Path", 0),
    (Name::PPreferredIdentity, "P-Preferred-Identity", 0),
    (Name::ProxyAuthenticate, "Proxy-Authenticate", 0),
    (Name::ProxyAuthorization, "Proxy-Authorization", 0),
    (Name::ProxyRequire, "Proxy-Require", 0),
    (Name::Reason, "Reason", 0),
    (Name::RecordRoute, "Record-Route", 0),
    (Name::ReferredBy, "Referred-By", b'b'),
    (Name::ReferTo, "Refer-To", b'r'),
    (Name::RejectContact, "Reject-Contact", b'j'),
    (Name::RequestDisposition, "Request-Disposition", b'd'),
    (Name::Require, "Require", 0),
    (Name::RetryAfter, "Retry-After", 0),
    (Name::Route, "Route", 0),
    (Name::ServiceRoute, "Service-Route", 0),
    (Name::SessionExpires, "Session-Expires", b'x'),
    (Name::Subject, "Subject", b's'),
    (Name::Supported, "Supported", b'k'),
    (Name::Timestamp, "Timestamp", 0),
    (Name::To, "To", b't'),
    (Name::Unsupported, "Unsupported", 0),
    (Name::UserAgent, "User-Agent", 0),
    (Name::Via, "Via", b'v'),
    (Name::Warning, "Warning", 0),
    (Name::WwwAuthenticate, "WWW-Authenticate", 0),
];

/// Names that mean nothing here but come often: they are not looked at byte by byte.
const PLAIN: [&str; 25] = [
    "Accept-Encoding",
    "Accept-Language",
    "Alert-Info",
    "Answer-Mode",
    "Call-Info",
    "Error-Info",
    "Feature-Caps",
    "Geolocation",
    "History-Info",
    "In-Reply-To",
    "Info-Package",
    "Join",
    "MIME-Version",
    "Min-SE",
    "Organization",
    "Priority",
    "Privacy",
    "RAck",
    "Recv-Info",
    "Replaces",
    "RSeq",
    "Server",
    "SIP-ETag",
    "SIP-If-Match",
    "Target-Dialog",
];

impl Name {
    /// Known names and `Other`.
    pub const COUNT: usize = Name::Other as usize + 1;

    /// Known names and `Other`, in order.
    pub const ALL: [Name; Name::COUNT] = {
        let mut all = [Name::Other; Name::COUNT];
        let mut at = 0;
        while at < NAMES.len() {
            all[at] = NAMES[at].0;
            at += 1;
        }
        all
    };

    /// The name that `bytes` are, in long or compact form, whatever the case.
    pub fn of(bytes: &[u8]) -> Name {
        if bytes.len() > WORD {
            let same = |(_, long): &&(Name, &str)| bytes.eq_ignore_ascii_case(long.as_bytes());
            return LONG.iter().find(same).map_or(Name::Other, |(name, _)| *name);
        }
        if !is_token(bytes) {
            return Name::Other;
        }
        let mut word = [0; WORD];
        word[..bytes.len()].copy_from_slice(bytes);
        find(u8x16::new(word), bytes.len()).unwrap_or(Name::Other)
    }

    /// Reads a header line's name, `at` its first byte and `end` its final LF: the name, its length without blanks, the
    /// length up to the colon. `None`: there is no colon on the first line, or what stands before it is no token.
    #[inline(always)]
    pub(super) fn before_colon(bytes: &[u8], at: usize, end: usize) -> Option<(Name, u16, usize)> {
        // The usual line: a known name of up to 15 bytes, and the colon right behind it. The bytes of a name hold no
        // line end, so a match lies within the line.
        if let Some(word) = bytes[at..].first_chunk::<WORD>() {
            let word = u8x16::new(*word);
            let colons = word.simd_eq(u8x16::splat(b':')).to_bitmask();
            if colons != 0 {
                let colon = colons.trailing_zeros() as usize;
                if let Some(name) = find(word, colon) {
                    return Some((name, colon as u16, colon));
                }
            }
        }
        Self::before_colon_slowly(&bytes[at..end])
    }

    #[inline(never)]
    fn before_colon_slowly(line: &[u8]) -> Option<(Name, u16, usize)> {
        let colon = memchr::memchr(b':', line)?;
        let blanks = line[..colon].iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t'));
        let name_end = colon - blanks.count();
        let name = &line[..name_end];
        let name_len = u16::try_from(name_end).ok()?;
        match Name::of(name) {
            Name::Other => is_token(name).then_some((Name::Other, name_len, colon)),
            known => Some((known, name_len, colon)),
        }
    }

    /// The long form as it is written; empty for `Other`.
    pub fn long(self) -> &'static str {
        NAMES.get(self as usize).map_or("", |(_, long, _)| long)
    }
}

/// Bytes that are compared at once.
const WORD: usize = 16;

/// The case bit of a letter. It is set in each byte of a name that is compared: a letter's case is overlooked then, and
/// `-` has it anyway. Of what else would look the same, blanks and control bytes, none stands in a name; a CR stands
/// before an LF only, and no name has what LF becomes.
const CASE: u8 = 0x20;

/// A known name as it is compared.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Entry {
    /// Each byte with its case bit, so that those behind the name are blanks.
    word: [u8; WORD],
    name: Name,
}

/// Masks of the first 0 to 16 bytes.
static FIRST: [[u8; WORD]; WORD + 1] = {
    let mut masks = [[0; WORD]; WORD + 1];
    let mut count = 0;
    while count <= WORD {
        let mut at = 0;
        while at < count {
            masks[count][at] = u8::MAX;
            at += 1;
        }
        count += 1;
    }
    masks
};

/// Places of the table: so many that a factor is easily found.
const PLACES: usize = 512;
/// Found by trial: no two names have the same hash, or `TABLE` would not compile.
const FACTOR: u64 = 0xABB0_E561_E169_99F7;

/// What no word is: every byte of a word has its case bit.
const VACANT: [u8; WORD] = [0; WORD];

const fn entry(name: Name, text: &[u8]) -> Entry {
    let mut word = [CASE; WORD];
    let mut at = 0;
    while at < text.len() {
        word[at] = text[at] | CASE;
        at += 1;
    }
    Entry { word, name }
}

/// The long names that fit a word, the compact ones and the plain ones, each in the place of its hash.
static TABLE: [Entry; PLACES] = {
    let mut table = [Entry { word: VACANT, name: Name::Other }; PLACES];
    let mut at = 0;
    while at < NAMES.len() {
        let (name, long, compact) = NAMES[at];
        assert!(name as usize == at);
        if long.len() <= WORD {
            table = put(table, name, long.as_bytes());
        }
        if compact != 0 {
            table = put(table, name, &[compact]);
        }
        at += 1;
    }
    let mut at = 0;
    while at < PLAIN.len() {
        table = put(table, Name::Other, PLAIN[at].as_bytes());
        at += 1;
    }
    table
};

const fn put(mut table: [Entry; PLACES], name: Name, text: &[u8]) -> [Entry; PLACES] {
    let entry = entry(name, text);
    let place = hash(first_half(entry.word), text.len());
    assert!(table[place].word[0] == VACANT[0], "two names with one hash: choose another FACTOR");
    table[place] = entry;
    table
}

const fn first_half(word: [u8; WORD]) -> u64 {
    u128::from_le_bytes(word) as u64
}

/// Over the first eight bytes and the length.
#[inline]
const fn hash(first_half: u64, len: usize) -> usize {
    let mixed = (first_half ^ (len as u64) << 56).wrapping_mul(FACTOR);
    (mixed >> (64 - PLACES.trailing_zeros())) as usize
}

/// The name that the first `len` bytes of `word` are. None of them is a blank, so a blank behind them tells lengths
/// apart.
#[inline(always)]
fn find(word: u8x16, len: usize) -> Option<Name> {
    let word = (word & u8x16::new(FIRST[len])) | u8x16::splat(CASE);
    let entry = &TABLE[hash(first_half(word.to_array()), len)];
    let same = u8x16::new(entry.word).simd_eq(word).all();
    if same { Some(entry.name) } else { None }
}

/// Names that do not fit a word.
static LONG: [(Name, &str); LONG_COUNT] = {
    let mut long = [(Name::Other, ""); LONG_COUNT];
    let mut filled = 0;
    let mut at = 0;
    while at < NAMES.len() {
        if NAMES[at].1.len() > WORD {
            long[filled] = (NAMES[at].0, NAMES[at].1);
            filled += 1;
        }
        at += 1;
    }
    long
};

const LONG_COUNT: usize = {
    let mut count = 0;
    let mut at = 0;
    while at < NAMES.len() {
        count += (NAMES[at].1.len() > WORD) as usize;
        at += 1;
    }
    count
};

/// Methods that the front-end knows (RFC 3261 and its extensions). `Other` is every other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    Ack,
    Bye,
    Cancel,
    Info,
    Invite,
    Message,
    Notify,
    Options,
    Prack,
    Publish,
    Refer,
    Register,
    Subscribe,
    Update,
    #[default]
    Other,
}

impl Method {
    pub const ALL: [Method; 15] = [
        Method::Ack,
        Method::Bye,
        Method::Cancel,
        Method::Info,
        Method::Invite,
        Method::Message,
        Method::Notify,
        Method::Options,
        Method::Prack,
        Method::Publish,
        Method::Refer,
        Method::Register,
        Method::Subscribe,
        Method::Update,
        Method::Other,
    ];

    /// The method that `bytes` are; case counts (RFC 3261 7.1).
    pub fn from_bytes(bytes: &[u8]) -> Method {
        match bytes {
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            b"INFO" => Method::Info,
            b"INVITE" => Method::Invite,
            b"MESSAGE" => Method::Message,
            b"NOTIFY" => Method::Notify,
            b"OPTIONS" => Method::Options,
            b"PRACK" => Method::Prack,
            b"PUBLISH" => Method::Publish,
            b"REFER" => Method::Refer,
            b"REGISTER" => Method::Register,
            b"SUBSCRIBE" => Method::Subscribe,
            b"UPDATE" => Method::Update,
            _ => Method::Other,
        }
    }

    /// The method as it is written, and its name in metrics; "other" for `Other`.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Ack => "ACK",
            Method::Bye => "BYE",
            Method::Cancel => "CANCEL",
            Method::Info => "INFO",
            Method::Invite => "INVITE",
            Method::Message => "MESSAGE",
            Method::Notify => "NOTIFY",
            Method::Options => "OPTIONS",
            Method::Prack => "PRACK",
            Method::Publish => "PUBLISH",
            Method::Refer => "REFER",
            Method::Register => "REGISTER",
            Method::Subscribe => "SUBSCRIBE",
            Method::Update => "UPDATE",
            Method::Other => "other",
        }
    }

    /// Whether a request of this method outside a dialog can make one: INVITE (RFC 3261 12), SUBSCRIBE (RFC 6665 4.1),
    /// REFER (RFC 3515 2.4.4).
    pub const fn dialog_forming(self) -> bool {
        matches!(self, Method::Invite | Method::Subscribe | Method::Refer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<(Name, u16, usize)> {
        Name::before_colon(line.as_bytes(), 0, line.len())
    }

    #[test]
    fn every_name_is_known_in_every_case_and_form() {
        for (place, (name, long, compact)) in NAMES.into_iter().enumerate() {
            assert_eq!((name as usize, Name::ALL[place], name.long()), (place, name, long));
            for text in [long.to_owned(), long.to_lowercase(), long.to_uppercase()] {
                assert_eq!(Name::of(text.as_bytes()), name, "{text}");
                for line in [format!("{text}: value of it\n"), format!("{text} \t:\n")] {
                    let len = text.len();
                    let colon = line.find(':').expect("a colon");
                    assert_eq!(asked(&line), Some((name, len as u16, colon)), "{line}");
                }
            }
            if compact != 0 {
                for letter in [compact, compact.to_ascii_uppercase()] {
                    assert_eq!(Name::of(&[letter]), name);
                }
            }
        }
        for plain in PLAIN {
            assert_eq!(Name::of(plain.as_bytes()), Name::Other, "{plain}");
        }
    }

    /// A name is known as a whole: no prefix, no neighbour by one byte.
    #[test]
    fn what_is_almost_a_name_is_another() {
        for (name, long, _) in NAMES {
            // One letter may be the compact form.
            for end in (0..long.len()).filter(|end| *end != 1) {
                assert_ne!(Name::of(&long.as_bytes()[..end]), name, "{long} cut at {end}");
            }
            assert_eq!(Name::of(format!("{long}x").as_bytes()), Name::Other);
            for place in 0..long.len() {
                for byte in 0..=u8::MAX {
                    let mut text = long.as_bytes().to_vec();
                    text[place] = byte;
                    let same = text.eq_ignore_ascii_case(long.as_bytes());
                    assert_eq!(Name::of(&text) == name, same, "{text:?}");
                    let mut line = text.clone();
                    line.extend_from_slice(b": and a value\n");
                    let found = Name::before_colon(&line, 0, line.len());
                    let ends_name = b"\r\n\t :".contains(&byte);
                    assert!(ends_name || (found.map(|it| it.0) == Some(name)) == same, "{line:?}");
                }
            }
        }
        for letter in b"aghpqwzAGHPQWZ0-" {
            let known = NAMES.iter().any(|(_, _, compact)| *compact == letter.to_ascii_lowercase());
            assert_eq!(Name::of(&[*letter]) != Name::Other, known);
        }
    }

    #[test]
    fn a_line_without_a_name_has_none() {
        for line in
            [": x", "no colon", " : x", "a b: x", "a\r\n : x", "a(: x", "\u{e4}: x", "", "\0: x"]
        {
            assert_eq!(asked(line), None, "{line:?}");
        }
        let long = "x".repeat(300);
        assert_eq!(asked(&format!("{long}: y")), Some((Name::Other, 300, 300)));
    }

    /// RFC 3261 7.1: method names are case-sensitive.
    #[test]
    fn methods_are_exact() {
        for method in Method::ALL {
            let known = if method == Method::Other { Method::Other } else { method };
            assert_eq!(Method::from_bytes(method.name().as_bytes()), known);
            let lower = method.name().to_lowercase();
            assert_eq!(Method::from_bytes(lower.as_bytes()), Method::Other);
        }
    }
}
