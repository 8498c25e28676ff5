//! One question to a name server and its answer, over TCP (RFC 7766). Owns the connection while a name is looked up.
//! Never a datagram: there is no other transport in this file, and nothing else here speaks DNS.
//! Invariant: what is handed out was asked: the answer's id and question are ours, its records lie on the chain of
//! aliases that begins at the name of the question.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::secret;

/// Aliases that are followed for one question: beyond it they go round.
const ALIASES_MAX: usize = 8;

/// Name servers of resolv.conf that are asked (resolv.conf(5): MAXNS).
const SYSTEM_SERVERS_MAX: usize = 3;

/// RFC 1035 4.2.
const PORT: u16 = 53;

/// Why a question has no answer. Never that a name does not exist: that is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither the configuration nor /etc/resolv.conf names a server.
    NoServer,
    Unreachable(io::ErrorKind),
    Late,
    /// The server closed the connection within an answer.
    Closed,
    /// It cannot be read, or is not the answer to the question.
    Garbage,
    /// Cut off by the server, which over TCP it need never do.
    Truncated,
    /// SERVFAIL, REFUSED and the like.
    Refused(u16),
    /// Aliases without end.
    Aliases,
}

impl Fault {
    /// The label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Fault::NoServer => "no_server",
            Fault::Unreachable(_) => "unreachable",
            Fault::Late => "timeout",
            Fault::Closed => "closed",
            Fault::Garbage => "garbage",
            Fault::Truncated => "truncated",
            Fault::Refused(_) => "refused",
            Fault::Aliases => "aliases",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoServer => f.write_str(
                "there is no name server: write resolver.servers, or nameserver in /etc/resolv.conf",
            ),
            Fault::Unreachable(kind) => {
                write!(f, "the name server cannot be reached over TCP: {kind}")
            }
            Fault::Late => f.write_str("the name server did not answer over TCP in time"),
            Fault::Closed => f.write_str("the name server closed the connection without an answer"),
            Fault::Garbage => f.write_str("what the name server sent is no answer to the question"),
            Fault::Truncated => f.write_str("the name server cut its answer off, over TCP"),
            Fault::Refused(code) => {
                write!(f, "the name server refused: {}", ResponseCode::from(0, *code as u8))
            }
            Fault::Aliases => write!(f, "more than {ALIASES_MAX} aliases one behind the other"),
        }
    }
}

/// Records of one name and type; empty: there are none.
#[derive(Debug)]
pub struct Answer {
    pub records: Vec<RData>,
    /// The least of all records and aliases; seconds. Of no meaning without records.
    pub ttl: u32,
}

/// Asks the servers in their order, over one connection as long as it holds.
pub struct Asker {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    /// The server that answered last, asked first; its connection.
    current: usize,
    stream: Option<TcpStream>,
}

impl Asker {
    /// `servers` empty: those of the host.
    pub fn new(servers: &[SocketAddr], timeout: Duration) -> Asker {
        let servers = match servers.is_empty() {
            true => system_servers(Path::new("/etc/resolv.conf")),
            false => servers.to_vec(),
        };
        Asker { servers, timeout, current: 0, stream: None }
    }

    /// The records of `kind` that `name` has, perhaps by aliases.
    ///
    /// # Errors
    /// No server gave an answer; the reason of the last one.
    pub async fn ask(&mut self, name: &Name, kind: RecordType) -> Result<Answer, Fault> {
        let mut name = name.clone();
        let mut ttl = u32::MAX;
        let mut aliases = 0;
        loop {
            let message = self.any_server(&name, kind).await?;
            let asked = name.clone();
            // Aliases first: the records stand at the end of their chain.
            while let Some(alias) = alias_of(&message.answers, &name, kind) {
                let RData::CNAME(target) = &alias.data else { break };
                (name, ttl) = (target.0.clone(), ttl.min(alias.ttl));
                aliases += 1;
                if aliases > ALIASES_MAX {
                    return Err(Fault::Aliases);
                }
            }
            let at_end = |record: &&Record| record.name == name && record.record_type() == kind;
            let records: Vec<&Record> = message.answers.iter().filter(at_end).collect();
            if !records.is_empty() || name == asked {
                let ttl = records.iter().fold(ttl, |ttl, record| ttl.min(record.ttl));
                return Ok(Answer {
                    records: records.into_iter().map(|record| record.data.clone()).collect(),
                    ttl,
                });
            }
            // The server gave the aliases and left out where they lead.
        }
    }

    async fn any_server(&mut self, name: &Name, kind: RecordType) -> Result<Message, Fault> {
        let mut last = Fault::NoServer;
        for _ in 0..self.servers.len() {
            let server = self.servers[self.current];
            // A server may close an idle connection between two questions: that is tried once more.
            let mut reused = self.stream.is_some();
            let patience = self.timeout;
            loop {
                let exchange = self.exchange(server, name, kind);
                let outcome = timeout(patience, exchange).await.unwrap_or(Err(Fault::Late));
                match outcome {
                    Ok(message) => return Ok(message),
                    Err(fault) => last = fault,
                }
                self.stream = None;
                if !std::mem::take(&mut reused) || last != Fault::Closed {
                    break;
                }
            }
            self.current = (self.current + 1) % self.servers.len();
        }
        Err(last)
    }

    async fn exchange(
        &mut self,
        server: SocketAddr,
        name: &Name,
        kind: RecordType,
    ) -> Result<Message, Fault> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(server).await;
                let stream = stream.map_err(|error| Fault::Unreachable(error.kind()))?;
                let _ = stream.set_nodelay(true);
                self.stream.insert(stream)
            }
        };
        let id = random_id();
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name.clone(), kind));
        let bytes = question.to_vec().map_err(|_| Fault::Garbage)?;
        let length = u16::try_from(bytes.len()).map_err(|_| Fault::Garbage)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        stream.write_all(&framed).await.map_err(|_| Fault::Closed)?;
        let length = stream.read_u16().await.map_err(|_| Fault::Closed)?;
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.map_err(|_| Fault::Closed)?;
        let answer = Message::from_vec(&bytes).map_err(|_| Fault::Garbage)?;
        judge(&answer, id, name, kind)?;
        Ok(answer)
    }
}

/// Whether it is the answer to our question, and one that says something.
fn judge(answer: &Message, id: u16, name: &Name, kind: RecordType) -> Result<(), Fault> {
    let head = &answer.metadata;
    let [question] = &answer.queries[..] else { return Err(Fault::Garbage) };
    let ours = head.id == id
        && head.message_type == MessageType::Response
        && head.op_code == OpCode::Query
        && question.name == *name
        && question.query_type == kind
        && question.query_class == DNSClass::IN;
    if !ours || answer.answers.iter().any(|record| record.dns_class != DNSClass::IN) {
        return Err(Fault::Garbage);
    }
    if head.truncation {
        return Err(Fault::Truncated);
    }
    match head.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(()),
        code => Err(Fault::Refused(code.into())),
    }
}

fn alias_of<'a>(answers: &'a [Record], name: &Name, kind: RecordType) -> Option<&'a Record> {
    let here = |record: &&Record| {
        record.name == *name
            && record.record_type() == RecordType::CNAME
            && kind != RecordType::CNAME
    };
    answers.iter().find(here)
}

/// Unforeseeable, though the connection alone already binds answer to question.
fn random_id() -> u16 {
    let mut bytes = [0; 2];
    secret::random(&mut bytes);
    u16::from_ne_bytes(bytes)
}

/// The name servers of a resolv.conf; read at each look-up, since DHCP clients rewrite it.
fn system_servers(path: &Path) -> Vec<SocketAddr> {
    let Ok(text) = std::fs::read(path) else { return Vec::new() };
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let addresses = config.nameservers.iter().filter_map(|server| match server {
        resolv_conf::ScopedIp::V4(address) => Some(IpAddr::V4(*address)),
        resolv_conf::ScopedIp::V6(address, None) => Some(IpAddr::V6(*address)),
        resolv_conf::ScopedIp::V6(_, Some(_)) => None,
    });
    addresses.take(SYSTEM_SERVERS_MAX).map(|address| SocketAddr::new(address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_host_are_read_as_the_host_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let text = "# made by DHCP\nsearch example.com\nnameserver 10.0.0.53\nnonsense here\n\
                    nameserver fe80::1%eth0\nnameserver 2001:db8::53\noptions use-vc\n";
        std::fs::write(&path, text).unwrap();
        let servers: Vec<String> = system_servers(&path).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.53:53", "[2001:db8::53]:53"]);
        assert!(system_servers(&directory.path().join("absent")).is_empty());
    }
}
