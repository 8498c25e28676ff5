//! Header names and methods: exact, with the case rules of RFC 3261 7.1 and 7.3.1 and the compact forms of the IANA
//! registry. Never a prefix match.

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

impl Name {
    /// Known names and `Other`.
    pub const COUNT: usize = Name::Other as usize + 1;

    /// The name that `bytes` are, in long or compact form, whatever the case.
    pub fn of(bytes: &[u8]) -> Name {
        let found = NAMES.iter().find(|(_, long, compact)| match bytes {
            [one] => one.to_ascii_lowercase() == *compact,
            _ => bytes.eq_ignore_ascii_case(long.as_bytes()),
        });
        found.map_or(Name::Other, |(name, ..)| *name)
    }

    /// The long form as it is written; empty for `Other`.
    pub fn long(self) -> &'static str {
        NAMES.get(self as usize).map_or("", |(_, long, _)| long)
    }
}

/// Methods that the front-end knows (RFC 3261 and its extensions). `Other` is every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
