//! The kernel's netlink: ethtool, netdev and addresses, as messages and never as text.
//! Owns the wire form of what [`Nic`] asks. Never decides, never keeps a socket between questions.
//! Sources: linux/ethtool_netlink.h, linux/netdev.h, linux/rtnetlink.h, genetlink.h.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLA_F_NESTED, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};

use super::nic::{
    InterfaceAddress, Key, Nic, NicFault, NicReading, QueueInterrupt, hash_of, hash_text, table_of,
    table_text,
};

/// The live kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelNic;

/// Messages of one dump; a card with thousands of queues stays far below.
const DUMP_MESSAGES_MAX: usize = 65_536;
/// Receive buffer; the kernel's dumps come in pieces of at most 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;

const NETLINK_ROUTE: isize = 0;
const NETLINK_GENERIC: isize = 16;
const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const CONTROL_FAMILY: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;

// enum ethtool message types, user to kernel.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const COALESCE_GET: u8 = 19;
const COALESCE_SET: u8 = 20;
const PAUSE_GET: u8 = 21;
const PAUSE_SET: u8 = 22;
const EEE_GET: u8 = 23;
const EEE_SET: u8 = 24;
const RSS_GET: u8 = 38;
const RSS_SET: u8 = 48;

const ETHTOOL_HEADER: u16 = 1;
const HEADER_DEVICE_NAME: u16 = 2;
const FEATURES_HARDWARE: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const RSS_TABLE: u16 = 4;
const RSS_FLOW_HASH: u16 = 8;
const FLOW_TCP4: u16 = 4;
const FLOW_TCP6: u16 = 5;

const QUEUE_GET: u8 = 10;
const NAPI_GET: u8 = 11;

/// A number in a reply: where it stands, how it is set, where its bound stands.
struct Place {
    get: u8,
    set: u8,
    value: u16,
    limit: Option<u16>,
    /// A one-byte flag, `on` or `off`; else a number of four bytes.
    flag: bool,
}

fn place(key: &Key) -> Option<Place> {
    let number = |get, set, value, limit| Some(Place { get, set, value, limit, flag: false });
    let flag = |get, set, value| Some(Place { get, set, value, limit: None, flag: true });
    match key {
        Key::Channels => number(CHANNELS_GET, CHANNELS_SET, 9, Some(5)),
        Key::RingRx => number(RINGS_GET, RINGS_SET, 6, Some(2)),
        Key::RingTx => number(RINGS_GET, RINGS_SET, 9, Some(5)),
        Key::AdaptiveRx => flag(COALESCE_GET, COALESCE_SET, 11),
        Key::RxUsecs => number(COALESCE_GET, COALESCE_SET, 2, None),
        Key::RxFrames => number(COALESCE_GET, COALESCE_SET, 3, None),
        Key::PauseRx => flag(PAUSE_GET, PAUSE_SET, 3),
        Key::PauseTx => flag(PAUSE_GET, PAUSE_SET, 4),
        Key::Eee => flag(EEE_GET, EEE_SET, 5),
        Key::Feature(_) | Key::RssTable | Key::RssTcp4 | Key::RssTcp6 => None,
    }
}

impl Nic for KernelNic {
    fn read(&self, interface: &str, key: &Key) -> Result<NicReading, NicFault> {
        let mut ethtool = Ethtool::open()?;
        if let Some(place) = place(key) {
            let reply = ethtool.ask(place.get, interface, &[])?;
            let value = find(&reply, place.value).ok_or(NicFault::NotOffered)?;
            let value = match (place.flag, value) {
                (true, [byte, ..]) => on_off(*byte != 0).to_owned(),
                (false, bytes) => number(bytes).ok_or(NicFault::NotOffered)?.to_string(),
                _ => return Err(NicFault::NotOffered),
            };
            let limit = place.limit.and_then(|limit| find(&reply, limit)).and_then(number);
            return Ok(NicReading { value, limit, fixed: false });
        }
        match key {
            Key::Feature(name) => ethtool.feature(interface, name),
            Key::RssTable => {
                let table = ethtool.rss_table(interface)?;
                Ok(NicReading { value: table_text(&table), limit: None, fixed: false })
            }
            _ => {
                let reply = ethtool.ask(RSS_GET, interface, &[])?;
                let flow = if *key == Key::RssTcp4 { FLOW_TCP4 } else { FLOW_TCP6 };
                let hashes =
                    find(&reply, RSS_FLOW_HASH).ok_or(NicFault::OldKernel(NO_FLOW_HASH))?;
                // A card without RSS lists the flow with no field at all.
                let bits = find(hashes, flow).and_then(number).filter(|bits| *bits != 0);
                let bits = bits.ok_or(NicFault::NotOffered)?;
                Ok(NicReading { value: hash_text(u64::from(bits)), limit: None, fixed: false })
            }
        }
    }

    fn write(&self, interface: &str, key: &Key, value: &str) -> Result<(), NicFault> {
        let mut ethtool = Ethtool::open()?;
        let unfit = || NicFault::Refused(format!("`{value}` is no value for {key}"));
        if let Some(place) = place(key) {
            let mut body = Vec::new();
            if place.flag {
                attribute(&mut body, place.value, &[u8::from(on(value).ok_or_else(unfit)?)]);
            } else {
                let number: u32 = value.parse().map_err(|_| unfit())?;
                attribute(&mut body, place.value, &number.to_ne_bytes());
            }
            return ethtool.tell(place.set, interface, &body);
        }
        match key {
            Key::Feature(name) => {
                let wanted = on(value).ok_or_else(unfit)?;
                let body = nested(FEATURES_WANTED, &feature_bits(name, wanted));
                ethtool.tell(FEATURES_SET, interface, &body)
            }
            Key::RssTable => {
                let entries = ethtool.rss_table(interface)?.len();
                let table = table_of(value, entries).ok_or_else(unfit)?;
                let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
                let mut body = Vec::new();
                attribute(&mut body, RSS_TABLE, &bytes);
                ethtool.tell_new(RSS_SET, interface, &body)
            }
            _ => {
                let bits = hash_of(value).ok_or_else(unfit)? as u32;
                let flow = if *key == Key::RssTcp4 { FLOW_TCP4 } else { FLOW_TCP6 };
                let mut inner = Vec::new();
                attribute(&mut inner, flow, &bits.to_ne_bytes());
                ethtool.tell_new(RSS_SET, interface, &nested(RSS_FLOW_HASH, &inner))
            }
        }
    }

    fn queue_interrupts(&self, interface: &str) -> Result<Vec<QueueInterrupt>, NicFault> {
        let index = interface_index(interface)?;
        let mut link = Link::open(NETLINK_GENERIC)?;
        let family = link.family("netdev")?;
        let ask = |place: u16| {
            let mut body = Vec::new();
            attribute(&mut body, place, &index.to_ne_bytes());
            body
        };
        // NETDEV_A_QUEUE_IFINDEX = 2, NETDEV_A_NAPI_IFINDEX = 1.
        let queues = link.dump(family, &generic(QUEUE_GET, &ask(2)))?;
        let polls = link.dump(family, &generic(NAPI_GET, &ask(1)))?;
        let field =
            |message: &[u8], kind| find(after(message, GENERIC_BYTES), kind).and_then(number);
        let mut found = Vec::new();
        for queue in &queues {
            let (Some(id), Some(poll)) = (field(queue, 1), field(queue, 4)) else { continue };
            let irq = polls
                .iter()
                .find(|one| field(one, 2) == Some(poll))
                .and_then(|one| field(one, 3))
                .filter(|irq| *irq > 0);
            if let Some(irq) = irq {
                found.push(QueueInterrupt { queue: id, irq });
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NicFault> {
        let mut link = Link::open(NETLINK_ROUTE)?;
        // struct ifaddrmsg: family, prefix length, flags, scope, index; all zero asks for every one.
        let replies = link.dump(GET_ADDRESS, &[0; ADDRESS_BYTES])?;
        let names = interface_names();
        let mut found = Vec::new();
        for reply in &replies {
            let attributes = after(reply, ADDRESS_BYTES);
            // IFA_LOCAL is our end of a point-to-point link, IFA_ADDRESS the other; IPv6 has only the latter.
            let bytes = find(attributes, 2).or_else(|| find(attributes, 1));
            let index = reply.get(4..8).and_then(number);
            let name = index.and_then(|index| names.iter().find(|(one, _)| *one == index));
            if let (Some(address), Some((_, name))) = (bytes.and_then(address_of), name) {
                found.push(InterfaceAddress { interface: name.clone(), address });
            }
        }
        Ok(found)
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
}

fn interface_index(interface: &str) -> Result<u32, NicFault> {
    interface_names()
        .into_iter()
        .find(|(_, name)| name == interface)
        .map(|(index, _)| index)
        .ok_or(NicFault::NoInterface)
}

fn interface_names() -> Vec<(u32, String)> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let index = std::fs::read_to_string(entry.path().join("ifindex"));
        if let Some(index) = index.ok().and_then(|text| text.trim().parse().ok()) {
            names.push((index, entry.file_name().to_string_lossy().into_owned()));
        }
    }
    names
}

/// The ethtool family, resolved.
struct Ethtool {
    link: Link,
    family: u16,
}

impl Ethtool {
    fn open() -> Result<Self, NicFault> {
        let mut link = Link::open(NETLINK_GENERIC)?;
        let family = link.family("ethtool")?;
        Ok(Ethtool { link, family })
    }

    fn message(command: u8, interface: &str, body: &[u8]) -> Vec<u8> {
        let mut name = interface.as_bytes().to_vec();
        name.push(0);
        let mut device = Vec::new();
        attribute(&mut device, HEADER_DEVICE_NAME, &name);
        let mut payload = nested(ETHTOOL_HEADER, &device);
        payload.extend_from_slice(body);
        generic(command, &payload)
    }

    /// The attributes of the answer.
    fn ask(&mut self, command: u8, interface: &str, body: &[u8]) -> Result<Vec<u8>, NicFault> {
        let message = Self::message(command, interface, body);
        let answers = self.link.exchange(self.family, NLM_F_REQUEST | NLM_F_ACK, &message)?;
        let answer = answers.first().ok_or(NicFault::NotOffered)?;
        Ok(after(answer, GENERIC_BYTES).to_vec())
    }

    fn tell(&mut self, command: u8, interface: &str, body: &[u8]) -> Result<(), NicFault> {
        let message = Self::message(command, interface, body);
        self.link.exchange(self.family, NLM_F_REQUEST | NLM_F_ACK, &message).map(|_| ())
    }

    /// As `tell`, for a message that older kernels do not know: they answer as if the driver did not offer it.
    fn tell_new(&mut self, command: u8, interface: &str, body: &[u8]) -> Result<(), NicFault> {
        match self.tell(command, interface, body) {
            Err(NicFault::NotOffered) => Err(NicFault::OldKernel(NO_RSS_SET)),
            other => other,
        }
    }

    fn feature(&mut self, interface: &str, name: &str) -> Result<NicReading, NicFault> {
        let reply = self.ask(FEATURES_GET, interface, &[])?;
        let hardware = find(&reply, FEATURES_HARDWARE).ok_or(NicFault::NotOffered)?;
        let active = find(&reply, FEATURES_ACTIVE).ok_or(NicFault::NotOffered)?;
        // The first set lists every bit of the kernel, with a flag on those that can be changed; the second lists the
        // bits that are on.
        let changeable = bit(hardware, name).ok_or(NicFault::NotOffered)?;
        let value = on_off(bit(active, name).is_some()).to_owned();
        Ok(NicReading { value, limit: None, fixed: !changeable })
    }

    fn rss_table(&mut self, interface: &str) -> Result<Vec<u32>, NicFault> {
        let reply = self.ask(RSS_GET, interface, &[])?;
        let table = find(&reply, RSS_TABLE).filter(|table| !table.is_empty());
        let table = table.ok_or(NicFault::NotOffered)?;
        Ok(table.as_chunks::<4>().0.iter().map(|entry| u32::from_ne_bytes(*entry)).collect())
    }
}

const NO_RSS_SET: &str = "it cannot set RSS before 6.17; ethtool(8) can";
const NO_FLOW_HASH: &str = "it does not tell hash fields before 6.17; ethtool(8) does";

/// One netlink socket.
struct Link {
    socket: Socket,
    sequence: u32,
}

impl Link {
    fn open(protocol: isize) -> Result<Link, NicFault> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| NicFault::Refused(format!("netlink: {error}")))?;
        Ok(Link { socket, sequence: 0 })
    }

    fn family(&mut self, name: &str) -> Result<u16, NicFault> {
        let mut body = Vec::new();
        attribute(&mut body, CONTROL_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let message = generic(CONTROL_GET_FAMILY, &body);
        let answers = self.exchange(CONTROL_FAMILY, NLM_F_REQUEST | NLM_F_ACK, &message);
        let answers = answers.map_err(|_| NicFault::OldKernel("the netlink family is absent"))?;
        let id = answers.first().and_then(|one| find(after(one, GENERIC_BYTES), CONTROL_FAMILY_ID));
        id.and_then(|id| id.try_into().ok())
            .map(u16::from_ne_bytes)
            .ok_or(NicFault::OldKernel("the netlink family is absent"))
    }

    fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, NicFault> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, payload)
    }

    /// Sends one message and gathers the payloads of the answers until the kernel says that it is done.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<Vec<u8>>, NicFault> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER_BYTES + payload.len());
        message.extend_from_slice(&((HEADER_BYTES + payload.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(payload);
        let lost = |error: io::Error| NicFault::Refused(format!("netlink: {error}"));
        self.socket.send(&message, 0).map_err(lost)?;
        let mut answers = Vec::new();
        loop {
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            self.socket.recv(&mut buffer, 0).map_err(lost)?;
            let mut rest = buffer.as_slice();
            while let Some(answer) = Answer::cut(&mut rest) {
                if answer.sequence != self.sequence {
                    continue;
                }
                match answer.kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => return acknowledge(answer.payload).map(|()| answers),
                    _ if answers.len() < DUMP_MESSAGES_MAX => answers.push(answer.payload.to_vec()),
                    _ => return Err(NicFault::Refused("netlink: an endless answer".into())),
                }
            }
        }
    }
}

struct Answer<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The next message of a datagram; `None` at its end or where it is cut short.
    fn cut(rest: &mut &'a [u8]) -> Option<Answer<'a>> {
        let bytes: &'a [u8] = rest;
        let length = number(bytes.get(..4)?)? as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = number(bytes.get(8..12)?)?;
        let payload = bytes.get(HEADER_BYTES..length)?;
        *rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, sequence, payload })
    }
}

/// The error of an acknowledgement (struct nlmsgerr): zero, or a negative errno.
fn acknowledge(payload: &[u8]) -> Result<(), NicFault> {
    let code = payload.get(..4).and_then(number).map_or(0, |code| -(code as i32));
    if code == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(code);
    Err(match rustix::io::Errno::from_raw_os_error(code) {
        rustix::io::Errno::OPNOTSUPP => NicFault::NotOffered,
        rustix::io::Errno::NODEV => NicFault::NoInterface,
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => NicFault::NoPrivilege,
        _ => NicFault::Refused(format!("the kernel refuses: {error}")),
    })
}

const GENERIC_BYTES: usize = 4;
const GET_ADDRESS: u16 = 22;
const ADDRESS_BYTES: usize = 8;

/// Command and version of a generic netlink message, then the body.
fn generic(command: u8, body: &[u8]) -> Vec<u8> {
    [&[command, 1, 0, 0], body].concat()
}

fn after(message: &[u8], bytes: usize) -> &[u8] {
    message.get(bytes..).unwrap_or_default()
}

/// Appends one attribute, padded to four bytes.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn nested(kind: u16, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    attribute(&mut out, kind | NLA_F_NESTED, inner);
    out
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// The value of the first attribute of that kind.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    // `kind()` is without the flags for nested and network order.
    attributes(bytes).find(|one| one.kind() == kind).map(|one| one.into_inner()).and_then(|one| {
        let length = u16::from_ne_bytes(one.get(..2)?.try_into().ok()?) as usize;
        one.get(4..length)
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes)
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn on(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Whether the named bit is listed in a bitset, and if so whether it carries the value flag.
fn bit(bitset: &[u8], name: &str) -> Option<bool> {
    let bits = find(bitset, BITSET_BITS)?;
    for one in attributes(bits).filter(|one| one.kind() == BITSET_BIT) {
        let whole = one.into_inner();
        let length = u16::from_ne_bytes(whole.get(..2)?.try_into().ok()?) as usize;
        let inner = whole.get(4..length)?;
        let own = find(inner, BIT_NAME)?;
        if own.strip_suffix(&[0]).unwrap_or(own) == name.as_bytes() {
            return Some(find(inner, BIT_VALUE).is_some());
        }
    }
    None
}

/// A bitset that names one feature and its value.
fn feature_bits(name: &str, on: bool) -> Vec<u8> {
    let mut one = Vec::new();
    attribute(&mut one, BIT_NAME, &[name.as_bytes(), &[0]].concat());
    if on {
        attribute(&mut one, BIT_VALUE, &[]);
    }
    nested(BITSET_BITS, &nested(BITSET_BIT, &one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_go_there_and_back() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 7, b"abc");
        bytes.extend(nested(9, &feature_bits("rx-gro", true)));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 7), Some(&b"abc"[..]));
        assert_eq!(find(&bytes, 8), None);
        let bitset = find(&bytes, 9).unwrap();
        assert_eq!(bit(bitset, "rx-gro"), Some(true));
        assert_eq!(bit(bitset, "rx-lro"), None);
        assert_eq!(bit(&feature_bits("x", false), "x"), Some(false));
    }

    #[test]
    fn answers_that_are_cut_short_end_the_datagram() {
        let mut whole = 20u32.to_ne_bytes().to_vec();
        whole.extend([2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Answer::cut(&mut whole.as_slice()).is_some());
        for length in 0..whole.len() {
            assert!(Answer::cut(&mut &whole[..length]).is_none());
        }
        let endless = [0xFFu8; 40];
        assert!(Answer::cut(&mut endless.as_slice()).is_none());
        // A length below the header's own must not be taken for progress.
        let mut short = whole.clone();
        short[0] = 3;
        assert!(Answer::cut(&mut short.as_slice()).is_none());
    }

    #[test]
    fn the_live_kernel_answers_for_loopback() {
        let nic = KernelNic;
        let addresses = nic.addresses().unwrap();
        assert!(addresses.iter().all(|one| !one.interface.is_empty()));
        let features = nic.read("lo", &Key::Feature("rx-gro".into())).unwrap();
        assert!(features.value == "on" || features.value == "off");
        assert_eq!(nic.read("lo", &Key::RingRx), Err(NicFault::NotOffered));
        assert_eq!(nic.read("absent0", &Key::RingRx), Err(NicFault::NoInterface));
    }
}
