//! Values as an operator writes them: durations, sizes, rates, addresses, names, each with its one text form.
//! Owns reading one value, its JSON Schema, and writing it back. Never knows which key it stands under.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::file::{Backend, Health, Tickets};
use super::read::{Many, Named, Written, nearest};
use super::snapshot::{Prefix, Rate};

/// Why ringfront has no UDP; the second line is the cure.
pub const NO_UDP: &str = "ringfront has no UDP, by design: a datagram's source can be forged, a message over 1300 \
    bytes must not travel in one (RFC 3261 18.1.1), and nothing tells the sender to slow down\n\
    write \"tcp\" or \"tls\"; phones that know only UDP need a gateway of their own in front";

/// Whether a word asks for UDP in any of its usual spellings: `udp`, `UDP`, `udp:...`, `_sip._udp...`.
pub fn is_udp(word: &str) -> bool {
    let word = word.trim().to_ascii_lowercase();
    let rest = word.strip_prefix("sip/2.0/").unwrap_or(&word);
    rest == "udp" || rest.starts_with("udp:") || rest == "dtls" || word.contains("_sip._udp")
}

/// A value that is written as text.
trait Text: Sized {
    /// What belongs here, with an example: `a duration with a unit, such as "5s"`.
    const FORM: &'static str;
    /// Regular expression of the schema.
    const PATTERN: &'static str;

    /// # Errors
    /// The reason, and after a line break the cure.
    fn parse(text: &str) -> Result<Self, String>;

    /// What to write instead of a bare number.
    fn for_number(_number: u64) -> Option<String> {
        None
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: Text> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::FORM)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        if is_udp(text) {
            return Err(E::custom(NO_UDP));
        }
        T::parse(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        match T::for_number(number) {
            Some(cure) => {
                Err(E::custom(format_args!("expected {}, found {number}\n{cure}", T::FORM)))
            }
            None => Err(E::invalid_type(serde::de::Unexpected::Unsigned(number), &self)),
        }
    }
}

/// Joins a [`Text`] value to serde and to the schema.
macro_rules! text_value {
    ($($value:ident),*) => {$(
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextVisitor(PhantomData))
            }
        }

        impl JsonSchema for $value {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($value).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $value::PATTERN })
            }
        }
    )*};
}

text_value!(
    Name,
    Period,
    Size,
    PerTime,
    BytesPerSecond,
    Address,
    HostPort,
    Host,
    SourcePrefix,
    FilePath
);
text_value!(AdminAddress, Method, HeaderName, Identity, Target);
text_value!(BackendAddress, ServiceName, NameServer);

/// A name that may stand in a metric, a path and a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub Box<str>);

/// Longest name: one label of a host name, so that a node's name can be one.
const NAME_CHARS_MAX: usize = 63;

impl Text for Name {
    const FORM: &'static str = "a name of letters, digits and '-', such as \"edge-1\"";
    const PATTERN: &'static str = "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";

    fn parse(text: &str) -> Result<Self, String> {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let fits = !text.is_empty() && text.len() <= NAME_CHARS_MAX && text.chars().all(inner);
        if fits && !text.starts_with('-') && !text.ends_with('-') {
            return Ok(Name(text.into()));
        }
        Err(format!(
            "{text:?} is no name: letters, digits and inner '-', at most {NAME_CHARS_MAX} characters\n\
             write {}",
            Self::FORM
        ))
    }
}

/// A span of time; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// Longest span that can be written: beyond it a deadline is a mistake of units.
const PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

impl Text for Period {
    const FORM: &'static str = "a duration with a unit, such as \"5s\"";
    const PATTERN: &'static str = "^[0-9]+ ?(us|ms|s|m|h|d)$";

    fn parse(text: &str) -> Result<Self, String> {
        let cure = "write a whole number with us, ms, s, m, h or d, such as \"5s\"";
        let (number, unit) =
            number_and_unit(text).ok_or_else(|| format!("{text:?} is no duration\n{cure}"))?;
        let nanoseconds: u64 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 24 * 3600 * 1_000_000_000,
            "" => return Err(format!("{text:?} has no unit\nwrite \"{number}s\" for seconds")),
            _ => return Err(format!("{text:?} has the unknown unit {unit:?}\n{cure}")),
        };
        match number.checked_mul(nanoseconds).map(Duration::from_nanos) {
            Some(span) if span.is_zero() => Err(ZERO.into()),
            Some(span) if span <= PERIOD_MAX => Ok(Period(span)),
            _ => Err(format!("{text:?} is longer than a year\n{cure}")),
        }
    }

    fn for_number(number: u64) -> Option<String> {
        Some(format!("write \"{number}s\" for seconds"))
    }
}

const ZERO: &str = "0 is no bound, and not the absence of one\nwrite at least 1";

/// A number of bytes; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u32);

impl Text for Size {
    const FORM: &'static str = "a size with a unit, such as \"64KiB\"";
    const PATTERN: &'static str = "^[0-9]+ ?(B|KiB|MiB|GiB)$";

    fn parse(text: &str) -> Result<Self, String> {
        bytes(text).map(Size)
    }

    fn for_number(number: u64) -> Option<String> {
        Some(format!("write \"{number}B\" for bytes"))
    }
}

fn bytes(text: &str) -> Result<u32, String> {
    let cure = "write a whole number with B, KiB, MiB or GiB, such as \"64KiB\"";
    let (number, unit) =
        number_and_unit(text).ok_or_else(|| format!("{text:?} is no size\n{cure}"))?;
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return Err(format!("{text:?} has no unit\nwrite \"{number}B\" for bytes")),
        "KB" | "kB" | "K" | "k" | "kb" | "kib" | "KIB" => {
            return Err(format!("{text:?} has the unknown unit {unit:?}\nwrite \"{number}KiB\""));
        }
        "MB" | "M" | "m" | "mb" | "mib" | "MIB" => {
            return Err(format!("{text:?} has the unknown unit {unit:?}\nwrite \"{number}MiB\""));
        }
        _ => return Err(format!("{text:?} has the unknown unit {unit:?}\n{cure}")),
    };
    match number.checked_mul(factor).map(u32::try_from) {
        Some(Ok(0)) => Err(ZERO.into()),
        Some(Ok(bytes)) => Ok(bytes),
        _ => Err(format!("{text:?} is more than 4 GiB\n{cure}")),
    }
}

/// A whole number and what follows it, which may be set off by a blank.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..end].parse().ok()?;
    Some((number, text[end..].trim_start()))
}

/// Events in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerTime(pub Rate);

impl Text for PerTime {
    const FORM: &'static str = "a rate, such as \"200/s\"";
    const PATTERN: &'static str = "^[0-9]+ ?/ ?(s|m|h)$";

    fn parse(text: &str) -> Result<Self, String> {
        let cure = "write a whole number for each s, m or h, such as \"200/s\"";
        let (count, unit) =
            number_and_unit(text).ok_or_else(|| format!("{text:?} is no rate\n{cure}"))?;
        let seconds = match unit.strip_prefix('/').map(str::trim_start) {
            Some("s") => 1,
            Some("m") => 60,
            Some("h") => 3600,
            None if unit.is_empty() => {
                return Err(format!("{text:?} has no time\nwrite \"{count}/s\" for each second"));
            }
            _ => return Err(format!("{text:?} is no rate\n{cure}")),
        };
        match u32::try_from(count) {
            Ok(0) => Err(ZERO.into()),
            Ok(u32::MAX) | Err(_) => Err(format!("{text:?} is beyond every source\n{cure}")),
            Ok(count) => Ok(PerTime(Rate { count, per: Duration::from_secs(seconds) })),
        }
    }

    fn for_number(number: u64) -> Option<String> {
        Some(format!("write \"{number}/s\" for each second"))
    }
}

/// Bytes in a second; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesPerSecond(pub u32);

impl Text for BytesPerSecond {
    const FORM: &'static str = "bytes in a second, such as \"512B/s\"";
    const PATTERN: &'static str = "^[0-9]+ ?(B|KiB|MiB|GiB)/s$";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/s") {
            Some(size) => bytes(size.trim_end()).map(BytesPerSecond),
            None => Err(format!(
                "{text:?} is no rate of bytes\nwrite a size for each second: \"512B/s\""
            )),
        }
    }

    fn for_number(number: u64) -> Option<String> {
        Some(format!("write \"{number}B/s\""))
    }
}

/// An address with its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

const ADDRESS_CURE: &str =
    "write address:port, an IPv6 address in brackets: \"192.0.2.1:5060\", \"[2001:db8::1]:5060\"";

impl Text for Address {
    const FORM: &'static str =
        "an address with a port, such as \"127.0.0.1:5060\" or \"[::1]:5060\"";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$";

    fn parse(text: &str) -> Result<Self, String> {
        let Ok(address) = text.parse::<SocketAddr>() else { return Err(not_an_address(text)) };
        if address.port() == 0 {
            return Err(format!(
                "{text:?} has port 0, which is no port that anybody could dial\n{ADDRESS_CURE}"
            ));
        }
        if address.ip().to_canonical() != address.ip() {
            let mapped = SocketAddr::new(address.ip().to_canonical(), address.port());
            return Err(format!("{text:?} is an IPv4 address in IPv6 dress\nwrite \"{mapped}\""));
        }
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return Err(format!("{text:?} names a network interface\nleave the part from '%' out"));
        }
        Ok(Address(address))
    }
}

fn not_an_address(text: &str) -> String {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        // "::1:5060" may be meant as either.
        let split = bare.rsplit_once(':').and_then(|(host, port)| {
            Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, port.parse().ok()?))
        });
        if let (true, Some(meant)) = (bare.len() == text.len(), split) {
            return format!("{text:?} has no brackets around its address\nwrite \"{meant}\"");
        }
        let example = SocketAddr::new(address, 5060);
        return format!("{text:?} has no port\nwrite \"{example}\", or the port that is meant");
    }
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u64>().ok());
    if port.is_some_and(|port| port > u64::from(u16::MAX)) {
        return format!("{text:?} has a port beyond 65535\n{ADDRESS_CURE}");
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    if parse_host(host).is_ok() && host.chars().any(|c| c.is_ascii_alphabetic()) {
        return format!(
            "{text:?} is a name, and an address is wanted here\nwrite it: \"192.0.2.1:5060\""
        );
    }
    format!("{text:?} is no address\n{ADDRESS_CURE}")
}

/// Where a backend is: an address, or a name that DNS knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAddress {
    Address(SocketAddr),
    Name { host: Box<str>, port: Option<u16> },
}

impl Text for BackendAddress {
    const FORM: &'static str =
        "an address with a port, or a name: \"192.0.2.11:5061\", \"pbx.example.com\"";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}|[A-Za-z0-9.-]+(:[0-9]{1,5})?)$";

    fn parse(text: &str) -> Result<Self, String> {
        match HostPort::parse(text) {
            Ok(HostPort { host: Host(host), port })
                if !host.starts_with('[') && host.parse::<IpAddr>().is_err() =>
            {
                Ok(BackendAddress::Name { host: absolute(&host), port })
            }
            _ => Address::parse(text).map(|Address(address)| BackendAddress::Address(address)),
        }
    }
}

/// Names are looked up as they stand, with or without their final dot.
fn absolute(host: &str) -> Box<str> {
    host.strip_suffix('.').unwrap_or(host).into()
}

/// The owner of SRV records (RFC 2782): `_service._tcp.name`, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// `_sips`
    pub service: Box<str>,
    /// What the name itself says is spoken there; `None`: nothing that is known here.
    pub tls: Option<bool>,
    /// What stands behind the protocol.
    pub domain: Box<str>,
    pub whole: Box<str>,
}

impl Text for ServiceName {
    const FORM: &'static str = "the name of SRV records, such as \"_sips._tcp.pbx.example.com\"";
    const PATTERN: &'static str = r"^_[A-Za-z0-9-]+\._[A-Za-z]+\.[A-Za-z0-9.-]+$";

    fn parse(text: &str) -> Result<Self, String> {
        let refusal = || format!("{text:?} is no name of SRV records\nwrite {}", Self::FORM);
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.splitn(3, '.');
        let (service, protocol, domain) = (parts.next(), parts.next(), parts.next());
        let (Some(service), Some(protocol), Some(domain)) = (service, protocol, domain) else {
            return Err(refusal());
        };
        let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let label = |text: &str| {
            text.strip_prefix('_').is_some_and(|rest| !rest.is_empty() && rest.chars().all(label))
        };
        let Host(domain) = parse_host(domain).map_err(|_| refusal())?;
        if !label(service) || service.len() > 63 || domain.parse::<IpAddr>().is_ok() {
            return Err(refusal());
        }
        if protocol == "_udp" {
            return Err(NO_UDP.into());
        }
        if !["_tcp", "_tls"].contains(&protocol) {
            return Err(format!(
                "{text:?} names {protocol:?}, which is not spoken here\nwrite {}",
                Self::FORM
            ));
        }
        let domain = absolute(&domain);
        let whole = format!("{service}.{protocol}.{domain}").into();
        let tls = match (service, protocol) {
            ("_sips", _) | (_, "_tls") => Some(true),
            ("_sip", _) => Some(false),
            _ => None,
        };
        Ok(ServiceName { service: service.into(), tls, domain, whole })
    }
}

/// A name server: an address, with or without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

/// RFC 1035 4.2.
const DNS_PORT: u16 = 53;

impl Text for NameServer {
    const FORM: &'static str = "the address of a name server, such as \"10.0.0.53\"";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9A-Fa-f.:]+)$";

    fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare.parse::<IpAddr>() {
            Ok(address) => Ok(NameServer(SocketAddr::new(address.to_canonical(), DNS_PORT))),
            Err(_) => Address::parse(text).map(|Address(address)| NameServer(address)),
        }
    }
}

/// A host as it stands in a URI: lower case, IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub Box<str>);

impl Text for Host {
    const FORM: &'static str =
        "a host, such as \"sip.example.com\", \"192.0.2.1\" or \"[2001:db8::1]\"";
    const PATTERN: &'static str = r"^(\[?[0-9A-Fa-f:.]+\]?|[A-Za-z0-9.-]+)$";

    fn parse(text: &str) -> Result<Self, String> {
        parse_host(text)
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => return Ok(Host(format!("[{address}]").into())),
        Ok(IpAddr::V4(address)) if bare.len() == text.len() => {
            return Ok(Host(address.to_string().into()));
        }
        _ => {}
    }
    // RFC 3261 25.1 hostname, RFC 1035 lengths. The last label may not be a number, or it is a bad IPv4 address.
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top = name.rsplit('.').next().unwrap_or_default();
    let fits = name.len() <= 253 && name.split('.').all(label);
    if fits && top.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok(Host(name.to_ascii_lowercase().into()));
    }
    Err(format!("{text:?} is no host\nwrite {}", Host::FORM))
}

/// A host, and a port where one is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: Host,
    pub port: Option<u16>,
}

impl Text for HostPort {
    const FORM: &'static str = "a host with or without a port, such as \"sip.example.com\"";
    const PATTERN: &'static str = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?$";

    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(host) = parse_host(text) {
            return Ok(HostPort { host, port: None });
        }
        let cure = "write host or host:port, an IPv6 address in brackets: \"sip.example.com:5061\", \"[2001:db8::1]\"";
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("{text:?} is no host\n{cure}"))?;
        let host =
            parse_host(host).map_err(|_| format!("{text:?} is no host with a port\n{cure}"))?;
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(HostPort { host, port: Some(port) }),
            _ => Err(format!("{text:?} has a port outside 1..65535\n{cure}")),
        }
    }
}

/// Source addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePrefix(pub Prefix);

impl Text for SourcePrefix {
    const FORM: &'static str = "a source prefix, such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
    const PATTERN: &'static str = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";

    fn parse(text: &str) -> Result<Self, String> {
        let refusal = |why: &str| format!("{text:?} {why}\nwrite {}", Self::FORM);
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| refusal("is no source prefix"))?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse::<u8>) {
            None => bits_max,
            Some(Ok(bits)) if bits <= bits_max => bits,
            Some(_) => return Err(refusal(&format!("has a length outside 0..{bits_max}"))),
        };
        let network = network(address, bits);
        if network != address {
            return Err(format!("{text:?} has bits beyond its length\nwrite \"{network}/{bits}\""));
        }
        Ok(SourcePrefix(Prefix { address, bits }))
    }
}

/// `address` with all but its first `bits` cleared.
fn network(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// A path; relative to the directory of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Text for FilePath {
    const FORM: &'static str = "a path, such as \"/etc/ringfront/key.pem\"";
    const PATTERN: &'static str = "^.+$";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{text:?} is no path\nwrite {}", Self::FORM));
        }
        Ok(FilePath(text.into()))
    }
}

/// Where the admin interface listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Text for AdminAddress {
    const FORM: &'static str = "\"unix:PATH\" or an address with a port";
    const PATTERN: &'static str = r"^(unix:.+|(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5})$";

    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => FilePath::parse(path).map(|FilePath(path)| AdminAddress::Unix(path)),
            None if text.contains('/') => Err(format!(
                "{text:?} is no address\nwrite \"unix:{text}\" for a socket in the file system"
            )),
            None => Address::parse(text).map(|Address(address)| AdminAddress::Tcp(address)),
        }
    }
}

/// A request method, exactly as it stands in a request: methods are case-sensitive (RFC 3261 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub Box<str>);

impl Text for Method {
    const FORM: &'static str = "a method in capitals, such as \"INVITE\"";
    const PATTERN: &'static str = "^[A-Z0-9.!%*_+`'~-]+$";

    fn parse(text: &str) -> Result<Self, String> {
        if !is_token(text) {
            return Err(format!("{text:?} is no method\nwrite {}", Self::FORM));
        }
        let capitals = text.to_ascii_uppercase();
        if capitals != text {
            return Err(format!(
                "{text:?} is not in capitals, as methods are\nwrite \"{capitals}\""
            ));
        }
        Ok(Method(capitals.into()))
    }
}

/// A header name: lower case, long form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(pub Box<str>);

/// Compact forms (RFC 3261 7.3.3 and the IANA registry of SIP header fields).
const COMPACT_FORMS: [(&str, &str); 20] = [
    ("a", "accept-contact"),
    ("b", "referred-by"),
    ("c", "content-type"),
    ("d", "request-disposition"),
    ("e", "content-encoding"),
    ("f", "from"),
    ("i", "call-id"),
    ("j", "reject-contact"),
    ("k", "supported"),
    ("l", "content-length"),
    ("m", "contact"),
    ("n", "identity-info"),
    ("o", "event"),
    ("r", "refer-to"),
    ("s", "subject"),
    ("t", "to"),
    ("u", "allow-events"),
    ("v", "via"),
    ("x", "session-expires"),
    ("y", "identity"),
];

/// A request without one of these is no request, or finds no way back.
const NEEDED: [&str; 13] = [
    "call-id",
    "contact",
    "content-encoding",
    "content-length",
    "content-type",
    "cseq",
    "from",
    "max-forwards",
    "path",
    "record-route",
    "route",
    "to",
    "via",
];

impl Text for HeaderName {
    const FORM: &'static str = "a header name, such as \"P-Asserted-Identity\"";
    const PATTERN: &'static str = "^[A-Za-z0-9.!%*_+`'~-]+$";

    fn parse(text: &str) -> Result<Self, String> {
        if !is_token(text) {
            return Err(format!("{text:?} is no header name\nwrite {}", Self::FORM));
        }
        let lower = text.to_ascii_lowercase();
        let long = COMPACT_FORMS.iter().find(|(compact, _)| *compact == lower);
        let name = long.map_or(lower.as_str(), |(_, long)| long);
        if NEEDED.contains(&name) {
            return Err(format!("a request cannot do without {text:?}\ntake it out of the list"));
        }
        Ok(HeaderName(name.into()))
    }
}

/// RFC 3261 25.1 token.
fn is_token(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c);
    !text.is_empty() && text.chars().all(inner)
}

/// An identity in a certificate (RFC 5922 7.1): a domain, lower case, or a `sip:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(pub Box<str>);

impl Text for Identity {
    const FORM: &'static str = "a domain, such as \"pbx.example.com\"";
    const PATTERN: &'static str = "^(sips?:)?[^ ]+$";

    fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let domain = lower.strip_prefix("sip:").unwrap_or(&lower);
        match parse_host(domain) {
            // RFC 5922 7.1: a SIP URI without user part names the domain.
            Ok(Host(host)) => Ok(Identity(host)),
            Err(_) => Err(format!(
                "{text:?} is no identity of a SIP domain (RFC 5922)\nwrite {}",
                Self::FORM
            )),
        }
    }
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stderr,
    File(PathBuf),
}

impl Text for Target {
    const FORM: &'static str = "\"stderr\" or a path";
    const PATTERN: &'static str = "^.+$";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "stderr" => Ok(Target::Stderr),
            "stdout" | "syslog" | "journal" => Err(format!(
                "logs do not go to {text:?}\nwrite \"stderr\" (systemd takes it to the journal) or a path"
            )),
            path => FilePath::parse(path).map(|FilePath(path)| Target::File(path)),
        }
    }
}

/// A number of things; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u32);

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Count::EXPECTED)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Count, E> {
        match u32::try_from(number) {
            Ok(0) => Err(E::custom(ZERO)),
            Ok(count) => Ok(Count(count)),
            Err(_) => Err(E::custom(format_args!("{number} is beyond {}\nwrite less", u32::MAX))),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

impl JsonSchema for Count {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })
    }
}

/// A share of a whole, in per mille; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u16);

struct ShareVisitor;

impl Visitor<'_> for ShareVisitor {
    type Value = Share;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share from 0.001 to 1.0")
    }

    fn visit_f64<E: Error>(self, share: f64) -> Result<Share, E> {
        let per_mille = (share * 1000.0).round();
        if !(1.0..=1000.0).contains(&per_mille) {
            return Err(E::custom(format_args!(
                "{share} is no share of a core\nwrite a number from 0.001 to 1.0"
            )));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it lies in 1..=1000"
        )]
        Ok(Share(per_mille as u16))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Share, E> {
        #[expect(clippy::cast_precision_loss, reason = "everything above 1 is refused")]
        self.visit_f64(number as f64)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShareVisitor)
    }
}

impl JsonSchema for Share {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 })
    }
}

/// What a value looks like, for people.
pub trait Expected {
    const EXPECTED: &'static str;
}

impl<T: Text> Expected for T {
    const EXPECTED: &'static str = T::FORM;
}

impl Expected for Count {
    const EXPECTED: &'static str = "a whole number from 1 on";
}

impl Expected for u32 {
    const EXPECTED: &'static str = "the number of a core";
}

impl Expected for Many<u32> {
    const EXPECTED: &'static str = "a list of cores";
}

impl Expected for Health {
    const EXPECTED: &'static str = "a table such as { method = \"OPTIONS\", interval = \"5s\" }";
}

impl Expected for Tickets {
    const EXPECTED: &'static str = "a table such as { lifetime = \"12h\", rotate = \"1h\" }";
}

impl Expected for Vec<Written<Backend>> {
    const EXPECTED: &'static str = "a list of backends";
}

/// A word that stands in place of a value.
pub trait Word {
    const WORD: &'static str;
}

/// Declares words, each a type of its own.
macro_rules! words {
    ($($name:ident = $word:literal),*) => {$(
        #[doc = concat!("The word `", $word, "`.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name;
        impl Word for $name {
            const WORD: &'static str = $word;
        }
    )*};
}

words!(Off = "off", Auto = "auto", Unpinned = "none", Embedded = "embedded");

/// A word, or a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Or<W, T> {
    Word(PhantomData<W>),
    Is(T),
}

struct OrVisitor<W, T>(PhantomData<(W, T)>);

impl<'de, W: Word, T: Deserialize<'de> + Expected> Visitor<'de> for OrVisitor<W, T> {
    type Value = Or<W, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" or {}", W::WORD, T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Or<W, T>, E> {
        if text == W::WORD {
            return Ok(Or::Word(PhantomData));
        }
        if let Some(word) = nearest(text, [W::WORD]) {
            return Err(E::custom(format_args!(
                "unknown value \"{text}\"\ndid you mean \"{word}\"?"
            )));
        }
        let value = T::deserialize(text.into_deserializer());
        let or_word = |error: E| E::custom(format_args!("{error}; or \"{}\"", W::WORD));
        value.map(Or::Is).map_err(or_word)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Or<W, T>, E> {
        let value = T::deserialize(number.into_deserializer());
        let or_word = |error: E| E::custom(format_args!("{error}; or \"{}\"", W::WORD));
        value.map(Or::Is).map_err(or_word)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Or<W, T>, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(elements)).map(Or::Is)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Or<W, T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Or::Is)
    }
}

impl<'de, W: Word, T: Deserialize<'de> + Expected> Deserialize<'de> for Or<W, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OrVisitor(PhantomData))
    }
}

impl<W: Word, T: JsonSchema> JsonSchema for Or<W, T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", W::WORD, T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "const": W::WORD }, value] })
    }
}

impl<T: JsonSchema> JsonSchema for Written<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Many{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [value, { "type": "array", "items": value }] })
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}
