//! What has happened, as a SIP ladder: who said what to whom, and what struck.
//! Owns the last events. Never judges.

use std::collections::VecDeque;

use super::line::{Holder, Line};
use super::oracle::{Kind, Sent};
use super::text::Text;
use super::wire::WireId;
use crate::base::time::Instant;

/// Events that are kept, unless more are asked for.
pub const RUNGS: usize = 200;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rung {
    Opened {
        line: WireId,
    },
    Closed {
        line: WireId,
        abort: bool,
    },
    WasReset {
        line: WireId,
    },
    /// A message left an agent.
    Said {
        id: usize,
    },
    /// It came to another one.
    Heard {
        id: usize,
        line: WireId,
    },
    /// The front-end answered itself.
    Answered {
        id: usize,
        status: u16,
        line: WireId,
    },
    Struck {
        what: String,
    },
}

#[derive(Clone, Debug)]
pub struct Ladder {
    rungs: VecDeque<(Instant, Rung)>,
    kept: usize,
    digest: u64,
}

impl Default for Ladder {
    fn default() -> Self {
        Ladder { rungs: VecDeque::new(), kept: RUNGS, digest: 0 }
    }
}

impl Ladder {
    /// Keeps so many of the last events.
    pub fn keep(&mut self, rungs: usize) {
        self.kept = rungs.max(1);
    }

    pub fn push(&mut self, at: Instant, rung: Rung) {
        let kind = match &rung {
            Rung::Opened { line } => *line as u64,
            Rung::Closed { line, .. } => 1 << 32 | *line as u64,
            Rung::WasReset { line } => 2 << 32 | *line as u64,
            Rung::Said { id } => 3 << 32 | *id as u64,
            Rung::Heard { id, line } => 4 << 48 | (*id as u64) << 24 | *line as u64,
            Rung::Answered { id, status, .. } => 5 << 48 | (*id as u64) << 24 | u64::from(*status),
            Rung::Struck { what } => 6 << 32 | what.len() as u64,
        };
        // The events and their times, folded: two runs of a seed give the same.
        let mixed = (self.digest ^ kind ^ at.0.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.digest = mixed ^ mixed >> 29;
        if self.rungs.len() == self.kept {
            self.rungs.pop_front();
        }
        self.rungs.push_back((at, rung));
    }

    pub fn clear(&mut self) {
        self.rungs.clear();
    }

    /// All events so far in one number.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// With times and numbers: what a failing seed prints.
    pub fn print(&self, lines: &[Line], sents: &[Sent]) -> String {
        let mut out = String::new();
        for (at, rung) in &self.rungs {
            let millis = at.0 as f64 / 1e6;
            out.push_str(&format!("{millis:>12.3} ms  {}\n", describe(rung, lines, sents)));
        }
        out
    }

    /// Messages only, without times: what a test compares.
    pub fn messages(&self, name: impl Fn(WireId) -> String, sents: &[Sent]) -> String {
        let mut out = String::new();
        for (_, rung) in &self.rungs {
            let edge = || "edge".to_owned();
            let (from, to, what) = match rung {
                Rung::Said { id } => (name(sents[*id].line), edge(), brief(&sents[*id])),
                Rung::Heard { id, line } => {
                    let sent = &sents[*id];
                    let heard = sent.heard_text.as_deref().unwrap_or_default();
                    let edits = edits(&sent.text, heard);
                    (edge(), name(*line), format!("{:<8} {edits}", brief(sent)))
                }
                Rung::Answered { id, status, line } => {
                    (edge(), name(*line), format!("{status} to {}", brief(&sents[*id])))
                }
                Rung::Struck { what } => {
                    out.push_str(&format!("*** {what}\n"));
                    continue;
                }
                _ => continue,
            };
            out.push_str(format!("{from:<6} -> {to:<6} {what}").trim_end());
            out.push('\n');
        }
        out
    }
}

/// What was changed on the way, header by header.
fn edits(before: &str, after: &str) -> String {
    let (Some(before), Some(after)) = (Text::parse(before), Text::parse(after)) else {
        return String::new();
    };
    let mut edits = Vec::new();
    for (name, long) in [
        ("via", "Via"),
        ("record-route", "Record-Route"),
        ("path", "Path"),
        ("route", "Route"),
        ("max-breadth", "Max-Breadth"),
        ("p-asserted-identity", "P-Asserted-Identity"),
    ] {
        let (one, two) = (before.values(name).len(), after.values(name).len());
        let (sign, count) = if two > one { ('+', two - one) } else { ('-', one - two) };
        match count {
            0 => {}
            1 => edits.push(format!("{sign}{long}")),
            _ => edits.push(format!("{sign}{count} {long}")),
        }
    }
    let hops = |text: &Text| text.first("max-forwards").unwrap_or_default();
    if hops(&before) != hops(&after) {
        edits.push(format!("Max-Forwards {}>{}", hops(&before), hops(&after)));
    }
    edits.join("  ")
}

/// Who is at a line.
pub fn who(line: &Line) -> String {
    match line.holder {
        Holder::Phone(phone) => format!("phone{phone}/{}", line.wire),
        Holder::Link(backend) => format!("b{backend}/{}", line.wire),
        Holder::Own(backend) => format!("b{backend}'/{}", line.wire),
        Holder::Hostile(index) => format!("hostile{index}/{}", line.wire),
    }
}

/// Method or status of a message.
pub fn brief(sent: &Sent) -> String {
    match &sent.kind {
        Kind::Request { method, .. } => method.clone(),
        Kind::Response { status, .. } => status.to_string(),
        Kind::Garbage { .. } => "garbage".to_owned(),
    }
}

fn describe(rung: &Rung, lines: &[Line], sents: &[Sent]) -> String {
    let arrow = |from: &str, to: &str, what: String| format!("{from:<14} -> {to:<14} {what}");
    match rung {
        Rung::Said { id } => {
            let sent = &sents[*id];
            let more = match &sent.kind {
                Kind::Request { target, .. } => format!("for {target:?}"),
                Kind::Response { to, .. } => format!("to m{to}"),
                Kind::Garbage { .. } => String::new(),
            };
            let ill = if sent.hostile { " (ill-meant)" } else { "" };
            arrow(&who(&lines[sent.line]), "edge", format!("m{id} {} {more}{ill}", brief(sent)))
        }
        Rung::Heard { id, line } => {
            arrow("edge", &who(&lines[*line]), format!("m{id} {}", brief(&sents[*id])))
        }
        Rung::Answered { id, status, line } => {
            arrow("edge", &who(&lines[*line]), format!("{status} to m{id} {}", brief(&sents[*id])))
        }
        Rung::Opened { line } => {
            let line = &lines[*line];
            let place = &line.place;
            let transport = if place.tls { "TLS" } else { "TCP" };
            format!("{} opens: {transport}, {}, zone {}", who(line), place.peer, place.zone)
        }
        Rung::Closed { line, abort } => {
            format!("{} {}", who(&lines[*line]), if *abort { "resets" } else { "closes" })
        }
        Rung::WasReset { line } => format!("{} was reset", who(&lines[*line])),
        Rung::Struck { what } => format!("*** {what}"),
    }
}
