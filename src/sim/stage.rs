//! A world without chance for tests of call flows: agents do what they are told, the ladder is compared.
//! Owns one quiet world with one backend. Never a fault but those that the test asks for.

use std::collections::HashMap;

use super::cast::Cast;
use super::ladder::Ladder;
use super::line::Holder;
use super::setting::Options;
use super::text::{parts_of, uri_in};
use super::wire::WireId;
use super::world::World;

const MILLISECOND: u64 = 1_000_000;

/// The names of the phones, in order.
const PHONES: [&str; 3] = ["alice", "bob", "carol"];

/// One scripted world.
pub struct Stage {
    world: World,
    /// Lines that a test has opened, by name.
    lines: HashMap<String, WireId>,
}

impl Default for Stage {
    fn default() -> Self {
        Stage::new()
    }
}

impl Stage {
    /// Two workers, each linked to the one backend `b0`.
    pub fn new() -> Stage {
        let options = Options { phones: PHONES.len(), scripted: true, ..Options::quiet(1) };
        let mut world = World::new(options);
        world.cast.ladder.keep(10_000);
        world.pass(100 * MILLISECOND);
        world.cast.ladder = Ladder::default();
        world.cast.ladder.keep(10_000);
        Stage { world, lines: HashMap::new() }
    }

    fn cast(&mut self) -> &mut Cast {
        &mut self.world.cast
    }

    fn phone(&self, name: &str) -> usize {
        PHONES.iter().position(|phone| *phone == name).expect("a phone of this stage")
    }

    /// Lets everything that is under way come to its end; calls that ring go on ringing.
    pub fn pause(&mut self) -> &mut Self {
        self.world.pass(25 * MILLISECOND);
        self
    }

    /// Whoever rings has picked up.
    pub fn pick_up(&mut self) -> &mut Self {
        self.world.pass(1000 * MILLISECOND);
        self
    }

    /// A phone connects over TCP and comes to this worker.
    pub fn connect(&mut self, name: &str, worker: u16) -> &mut Self {
        let phone = self.phone(name);
        let it = &mut self.cast().phones[phone];
        (it.listener, it.v6) = (super::setting::EDGE_TCP, false);
        let line = self.cast().phone_dials(phone);
        self.world.net.borrow_mut().wires[line].wants = Some(worker);
        self.lines.insert(name.to_owned(), line);
        self.pause()
    }

    /// A phone hangs up.
    pub fn hang_up(&mut self, name: &str) -> &mut Self {
        let line = self.lines[name];
        self.cast().hang_up(line, false);
        self.pause()
    }

    /// A phone registers.
    pub fn register(&mut self, name: &str) -> &mut Self {
        let (phone, line) = (self.phone(name), self.lines[name]);
        self.cast().ask(phone, line, "REGISTER", "sip:edge.example.com", &[], &[]);
        self.pause()
    }

    /// A phone asks something outside of any dialog.
    pub fn ask(&mut self, name: &str, method: &str, uri: &str) -> &mut Self {
        let (phone, line) = (self.phone(name), self.lines[name]);
        self.cast().ask(phone, line, method, uri, &[], &[]);
        self.pause()
    }

    /// A phone asks with a Route that another one's registration was given; with one character of it changed where
    /// `forged`.
    pub fn ask_by_path_of(&mut self, name: &str, other: &str, forged: bool) -> &mut Self {
        let (phone, line, other) = (self.phone(name), self.lines[name], self.phone(other));
        let mut path = self.cast().bindings[&other].path[0].clone();
        if forged {
            path = super::hostile::flip(&path, 20);
        }
        self.cast().ask(phone, line, "MESSAGE", "sip:u0@edge.example.com", &[path], &[]);
        self.pause()
    }

    /// The phone cancels its call that rings.
    pub fn cancel(&mut self, name: &str) -> &mut Self {
        let phone = self.phone(name);
        let id = self.cast().agents[phone].calling[0].id;
        self.cast().cancel(phone, id);
        self.pause()
    }

    /// The phone goes on within its last dialog; a BYE ends it.
    pub fn within(&mut self, name: &str, method: &str) -> &mut Self {
        let (phone, line) = (self.phone(name), self.lines[name]);
        self.goes_on(phone, line, method)
    }

    fn goes_on(&mut self, agent: usize, line: WireId, method: &str) -> &mut Self {
        let dialogs = self.cast().agents[agent].dialogs.len();
        let last = dialogs.checked_sub(1).expect("a dialog stands");
        self.cast().ask_within(agent, line, last, method);
        if method == "BYE" {
            self.cast().agents[agent].dialogs.remove(last);
        }
        self.pause()
    }

    fn link(&mut self, worker: u16) -> WireId {
        let net = self.world.net.borrow();
        let lines = self.world.cast.backends[0].lines.iter().copied();
        let mut of_worker = lines.filter(|line| net.wires[*line].worker == Some(worker));
        of_worker.next().expect("each worker has a link")
    }

    /// The backend asks a registered phone, along its Path, on the link of this worker.
    pub fn backend_asks(&mut self, worker: u16, method: &str, name: &str) -> &mut Self {
        let (phone, line) = (self.phone(name), self.link(worker));
        let binding = self.cast().bindings[&phone].clone();
        let agent = self.cast().agent_of(0);
        self.cast().ask(agent, line, method, &binding.contact, &binding.path, &[]);
        self.pause()
    }

    /// The backend goes on within its last dialog, on the link of this worker.
    pub fn backend_within(&mut self, worker: u16, method: &str) -> &mut Self {
        let line = self.link(worker);
        let agent = self.cast().agent_of(0);
        self.goes_on(agent, line, method)
    }

    /// A phone answers the last request that the backend was asked, as if it were the backend.
    pub fn answers_for_backend(&mut self, name: &str) -> &mut Self {
        let line = self.lines[name];
        let id = self.last_heard_by_backend();
        self.cast().answer_ill(line, id, |_| {});
        self.pause()
    }

    /// The backend answers the last request once more, for another call.
    pub fn backend_answers_other_call(&mut self, worker: u16) -> &mut Self {
        let (line, id) = (self.link(worker), self.last_heard_by_backend());
        self.cast().answer_ill(line, id, |text| {
            text.remove("call-id");
            text.lines.push("Call-ID: another-call\r\n".to_owned());
        });
        self.pause()
    }

    /// The backend answers the last request, long answered, once more.
    pub fn backend_answers_again(&mut self, worker: u16) -> &mut Self {
        let (line, id) = (self.link(worker), self.last_heard_by_backend());
        self.cast().answer_ill(line, id, |_| {});
        self.pause()
    }

    fn last_heard_by_backend(&self) -> usize {
        let cast = &self.world.cast;
        let heard = cast.oracle.sents.iter().rposition(|sent| {
            sent.heard_at.is_some_and(|line| matches!(cast.lines[line].holder, Holder::Link(0)))
                && cast.oracle.is_request(sent)
        });
        heard.expect("the backend was asked something")
    }

    /// The worker panics and begins another life.
    pub fn panic(&mut self, worker: u16) -> &mut Self {
        self.world.make_panic(worker);
        self.world.pass(200 * MILLISECOND);
        self
    }

    /// The ladder since the last time; fails with what was violated meanwhile.
    pub fn ladder(&mut self) -> String {
        let mut violations = self.world.cast.oracle.violations.clone();
        violations.extend(self.world.net.borrow().violations.iter().cloned());
        assert!(violations.is_empty(), "{violations:#?}");
        let cast = &self.world.cast;
        let name = |line: WireId| match cast.lines[line].holder {
            Holder::Phone(phone) | Holder::Hostile(phone) => PHONES[phone].to_owned(),
            Holder::Link(backend) => {
                let worker = self.world.net.borrow().wires[line].worker.unwrap_or(0);
                format!("b{backend}/{worker}")
            }
            Holder::Own(backend) => format!("b{backend}"),
        };
        let text = cast.ladder.messages(name, &cast.oracle.sents);
        self.world.cast.ladder = Ladder::default();
        self.world.cast.ladder.keep(10_000);
        text
    }

    /// The Path that a phone's registration was given, its token left out.
    pub fn path_of(&mut self, name: &str) -> String {
        let phone = self.phone(name);
        let path = self.cast().bindings[&phone].path[0].clone();
        let token = parts_of(uri_in(&path)).0.unwrap_or_default().to_owned();
        path.replace(&token, "TOKEN")
    }
}
