//! What phones do: connect, register, call, answer, hang up, reconnect. The last few mean no good.
//! Owns a phone's line and habits. Never touches the front-end.

use super::agent::Calling;
use super::cast::Cast;
use super::line::Holder;
use super::setting::{self, EDGE_TCP, EDGE_TCP6, EDGE_TLS, Options, SECURE_TLS};
use super::text::Text;
use super::wire::WireId;
use crate::base::random::Random;

pub struct Phone {
    pub listener: u32,
    pub v6: bool,
    pub line: Option<WireId>,
    /// Connections so far.
    pub life: u32,
    pub hostile: bool,
}

impl Phone {
    pub fn drawn(index: usize, options: &Options, random: &mut Random) -> Phone {
        let tls = options.tls > 0 && random.one_in(options.tls);
        let listener = match (tls, random.below(3)) {
            (true, 0) => SECURE_TLS,
            (true, _) => EDGE_TLS,
            (false, 0) => EDGE_TCP6,
            (false, _) => EDGE_TCP,
        };
        let v6 = listener == EDGE_TCP6;
        Phone { listener, v6, line: None, life: 0, hostile: index >= options.phones }
    }
}

impl Cast {
    pub fn phone_dials(&mut self, phone: usize) -> WireId {
        let it = &mut self.phones[phone];
        it.life += 1;
        let (life, v6, listener) = (it.life, it.v6, it.listener);
        let peer = setting::phone_address(phone, life, v6);
        let line = self.dial(phone, Holder::Phone(phone), peer, listener);
        self.phones[phone].line = Some(line);
        line
    }

    pub fn phone_acts(&mut self, phone: usize) {
        let line = self.phones[phone].line.filter(|line| self.speaks(*line));
        let Some(line) = line else {
            let line = self.phone_dials(phone);
            self.register(phone, line);
            return;
        };
        if self.phones[phone].hostile && self.one_in(2) {
            return self.does_ill(phone, line);
        }
        // Several at once, so that they come in one receive.
        let many = if self.one_in(4) { 1 + self.random.below(3) } else { 1 };
        for _ in 0..many {
            self.phone_acts_once(phone, line);
        }
    }

    fn phone_acts_once(&mut self, phone: usize, line: WireId) {
        match self.random.below(20) {
            0..=3 => {
                self.ask(phone, line, "MESSAGE", "sip:service@edge.example.com", &[], &[]);
            }
            4 => {
                self.ask(phone, line, "OPTIONS", "sip:edge.example.com", &[], &[]);
            }
            5 => {
                self.ask(phone, line, "OPTIONS", "sip:service@edge.example.com", &[], &[]);
            }
            6 | 7 => self.register(phone, line),
            8..=10 => {
                let method = if self.one_in(5) { "SUBSCRIBE" } else { "INVITE" };
                self.ask(phone, line, method, "sip:service@edge.example.com", &[], &[]);
            }
            11..=13 => self.calls_another(phone, line),
            14..=16 => match self.some_dialog(phone) {
                Some(dialog) => self.go_on(phone, line, dialog),
                None => self.pings(line),
            },
            17 => self.gives_up(phone),
            18 => self.is_refused(phone, line),
            _ if self.one_in(4) => self.hang_up(line, false),
            _ => self.pings(line),
        }
    }

    pub fn register(&mut self, phone: usize, line: WireId) {
        let extra = match self.random.below(3) {
            0 => vec!["Supported: path, outbound\r\n".to_owned()],
            1 => vec!["Path: <sip:before.example.net;lr>\r\n".to_owned()],
            _ => vec![],
        };
        self.ask(phone, line, "REGISTER", "sip:edge.example.com", &[], &extra);
    }

    fn calls_another(&mut self, phone: usize, line: WireId) {
        let count = self.phones.len() as u64;
        let other = self.random.below(count) as usize;
        let uri = format!("sip:u{other}@edge.example.com");
        let method = if self.one_in(3) { "MESSAGE" } else { "INVITE" };
        self.ask(phone, line, method, &uri, &[], &[]);
    }

    fn pings(&mut self, line: WireId) {
        let it = &mut self.lines[line];
        it.pings += 1;
        it.say(&mut self.net.borrow_mut(), &mut self.pool, b"\r\n\r\n");
    }

    /// Cancels a call that rings.
    fn gives_up(&mut self, phone: usize) {
        let ringing: Vec<usize> = self.agents[phone]
            .calling
            .iter()
            .filter(|it| it.rings && !it.cancelled)
            .map(|Calling { id, .. }| *id)
            .collect();
        if let Some(id) = ringing.first() {
            self.cancel(phone, *id);
        }
    }

    /// Requests that may not be forwarded as they are.
    fn is_refused(&mut self, phone: usize, line: WireId) {
        let service = "sip:service@edge.example.com";
        let proxy_require = ["Proxy-Require: teleport, beam\r\n".to_owned()];
        match self.random.below(6) {
            0 => self.ask(phone, line, "MESSAGE", service, &[], &proxy_require),
            1 => {
                let uri = "sip:service@edge.example.com;transport=udp";
                self.ask(phone, line, "MESSAGE", uri, &[], &[])
            }
            2 => self.ask(phone, line, "MESSAGE", "mailto:service@edge.example.com", &[], &[]),
            3 => self.ask(phone, line, "MESSAGE", "sips:service@edge.example.com", &[], &[]),
            4 => {
                let udp = ["<sip:next.example.net;transport=UDP;lr>".to_owned()];
                self.ask(phone, line, "MESSAGE", service, &udp, &[])
            }
            _ => self.has_no_hops(phone, line, service),
        };
    }

    fn has_no_hops(&mut self, phone: usize, line: WireId, uri: &str) -> usize {
        let id = self.oracle.next();
        let text = format!(
            "MESSAGE {uri} SIP/2.0\r\nVia: SIP/2.0/{};branch=z9hG4bKm{id}.\r\n\
             Max-Forwards: 0\r\nFrom: <sip:a{phone}@edge.example.com>;tag=1\r\nTo: <{uri}>\r\n\
             Call-ID: m{id}.z\r\nCSeq: 1 MESSAGE\r\nX-Marker: m{id}.\r\n\
             Content-Length: 0\r\n\r\n",
            self.via(line)
        );
        self.say_request(line, text, None)
    }

    pub fn phone_requested(&mut self, phone: usize, line: WireId, id: usize, text: &Text) {
        self.called(phone, line, id, text);
    }
}
