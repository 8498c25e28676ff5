//! A small name server over TCP (RFC 7766), with faults on demand. Owns its listener and its records. Never speaks
//! anything but TCP: a question by datagram would find nobody.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NAPTR, SRV};
use hickory_proto::rr::{Name, RData, Record};

/// What the server does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Takes the question and says nothing.
    Silent,
    /// SERVFAIL.
    Fails,
    /// The answer's bytes are noise of this length.
    Noise(usize),
    /// One byte of a good answer is another one, drawn anew for each answer.
    Flips,
    /// The flag of truncation on a good answer.
    Truncates,
    /// A good answer under another id.
    OtherId,
    /// A good answer to another question.
    OtherQuestion,
    /// Closes in the middle of the answer.
    Breaks,
    /// Closes after each good answer.
    Closes,
}

struct State {
    records: Vec<Record>,
    mood: Mood,
}

/// The server; it ends with the process, or refuses connections after `stop`.
#[derive(Clone)]
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// `records`: lines of `name ttl type data`.
    pub fn start(records: &str) -> NameServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { records: zone(records), mood: Mood::Answers }));
        let server = NameServer { address, state, asked: Arc::default() };
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let own = own.clone();
                std::thread::spawn(move || own.serve(stream));
            }
        });
        server
    }

    pub fn set(&self, records: &str) {
        self.state.lock().expect("a state").records = zone(records);
    }

    pub fn mood(&self, mood: Mood) {
        self.state.lock().expect("a state").mood = mood;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).ok()?;
            let question = Message::from_vec(&bytes).ok()?;
            self.asked.fetch_add(1, Ordering::SeqCst);
            let (answer, mood) = {
                let state = self.state.lock().expect("a state");
                (self.answer(&question, &state), state.mood)
            };
            let mut answer = match mood {
                Mood::Silent => continue,
                Mood::Noise(length) => (0..length).map(|at| (at * 37 + 11) as u8).collect(),
                _ => answer.to_vec().ok()?,
            };
            if mood == Mood::Flips {
                // Every place and every bit comes up in time: 1009 is prime, and so is 31.
                let drawn = self.asked() * 1009;
                let at = drawn % answer.len();
                answer[at] ^= 1 << (drawn / 31 % 8);
            }
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            if mood == Mood::Breaks {
                stream.write_all(&framed[..framed.len() / 2]).ok()?;
                return None;
            }
            // In pieces, as a network might.
            let (first, second) = framed.split_at(framed.len().min(3));
            stream.write_all(first).ok()?;
            stream.write_all(second).ok()?;
            if mood == Mood::Closes {
                return None;
            }
        }
    }

    fn answer(&self, question: &Message, state: &State) -> Message {
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let mut name = query.name.clone();
        loop {
            let at = |record: &&Record| record.name == name;
            let here: Vec<&Record> = state.records.iter().filter(at).collect();
            let alias = here.iter().find_map(|record| match &record.data {
                RData::CNAME(target) => Some(((*record).clone(), target.0.clone())),
                _ => None,
            });
            match alias {
                Some((record, target)) if answer.answers.len() < 20 => {
                    answer.add_answer(record);
                    name = target;
                }
                _ => {
                    let wanted = here.iter().filter(|it| it.record_type() == query.query_type);
                    answer.add_answers(wanted.map(|record| (*record).clone()));
                    break;
                }
            }
        }
        if !state.records.iter().any(|record| record.name == query.name) {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        match state.mood {
            Mood::Fails => {
                answer.answers.clear();
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            Mood::Truncates => answer.metadata.truncation = true,
            Mood::OtherId => answer.metadata.id ^= 1,
            Mood::OtherQuestion => answer.queries[0].name = name_of("other.example"),
            _ => {}
        }
        answer
    }
}

fn name_of(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).expect("a name")
}

fn zone(text: &str) -> Vec<Record> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| record(line).unwrap_or_else(|| panic!("a record: {line}"))).collect()
}

fn record(line: &str) -> Option<Record> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [owner, ttl, kind, data @ ..] = &words[..] else { return None };
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let data = match (*kind, data) {
        ("A", [one]) => match address(one)? {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(_) => return None,
        },
        ("AAAA", [one]) => match address(one)? {
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            IpAddr::V4(_) => return None,
        },
        ("CNAME", [target]) => RData::CNAME(CNAME(name_of(target))),
        ("SRV", [priority, weight, port, target]) => RData::SRV(SRV::new(
            priority.parse().ok()?,
            weight.parse().ok()?,
            port.parse().ok()?,
            name_of(target),
        )),
        ("NAPTR", [order, preference, flags, service, replacement]) => RData::NAPTR(NAPTR::new(
            order.parse().ok()?,
            preference.parse().ok()?,
            flags.as_bytes().into(),
            service.as_bytes().into(),
            Box::default(),
            name_of(replacement),
        )),
        _ => return None,
    };
    Some(Record::from_rdata(name_of(owner), ttl.parse().ok()?, data))
}
