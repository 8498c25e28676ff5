//! The made-up world: workers, network and cast in one thread, on one virtual clock, out of one seed.
//! Owns the order of events and what strikes when. Never reads a wall clock.
//! Invariant: the same seed gives the same events.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::balance::{self, Books};
use super::cast::Cast;
use super::faults::{Fault, Tally};
use super::ladder::Rung;
use super::oracle::Judge;
use super::ring::{MadePanic, REFUSED, RingPlan, Rough, SimRing};
use super::setting::{self, LISTENERS, Options, Setting};
use super::wire::{Event, Net, Side, WireId};
use crate::base::limits;
use crate::base::random::Random;
use crate::base::ring::ConnectFault;
use crate::base::time::{Duration, Instant};
use crate::proxy::settings::Settings;
use crate::proxy::{Envelope, Proxy};
use crate::worker::Command;
use crate::worker::mailbox::{Mailboxes, mailboxes};
use crate::worker::turn::{Going, Turn, TurnPlan};

const SECOND: u64 = 1_000_000_000;

/// Events of one run: far more than any settles in.
const EVENTS_MAX: u64 = 3_000_000;

/// How long the active part of a run lasts at most, and how long the world then takes to settle: the longest back-off
/// of a link and the longest ringing are behind it.
const ACTIVE: u64 = 90 * SECOND;
const SETTLING: u64 = 20 * SECOND;
/// With failover Timer C is behind it, too (RFC 3261 16.6 step 11).
const SETTLING_FAILOVER: u64 = 230 * SECOND;
/// The end of it, when nobody has anything to do; turns that are taken then: back-offs, idle connections, drains.
const RESTING: u64 = 5 * SECOND;
const RESTING_STEPS: u64 = 400;
/// And for each probe: it is due, it is sent, its answer comes, in parts.
const PROBE_STEPS: u64 = 4;
/// Everybody hangs up; both lingerings are over.
const PARTING: u64 = 6 * SECOND;

/// What became of one seed.
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    /// The last events; empty where all is well.
    pub ladder: String,
    pub faults: Tally,
    pub compared: [u64; Judge::ALL.len()],
    pub transactions: u32,
    pub connections: usize,
    pub events: u64,
    /// The same for each run of the seed.
    pub digest: u64,
}

/// One worker and its lives.
pub struct Worker {
    pub turn: Option<Turn<SimRing, Proxy>>,
    /// Kept between two lives.
    mailboxes: Option<Mailboxes<Envelope>>,
    alarm: Instant,
    stopped: bool,
    /// The newest configuration has not come to it yet.
    behind: bool,
}

pub struct World {
    pub setting: Rc<Setting>,
    pub net: Rc<RefCell<Net>>,
    pub cast: Cast,
    pub workers: Vec<Worker>,
    settings: Arc<Settings>,
    generation: u64,
    drain: Option<Instant>,
    calm: bool,
    /// How far the clock jumped in all.
    jumped: Duration,
    random: Random,
    pub books: Books,
    events: u64,
    /// Turns taken by all workers.
    steps: u64,
}

impl World {
    pub fn new(options: Options) -> World {
        let mut random = Random::new(options.seed);
        let workers = usize::from(options.workers);
        let net = Net::new(workers, LISTENERS as usize, options.weather, random.fork());
        let net = Rc::new(RefCell::new(net));
        let setting = Rc::new(Setting::new(options));
        let cast = Cast::new(Rc::clone(&setting), Rc::clone(&net), random.fork());
        let settings = setting.settings(0);
        let boxes = mailboxes(setting.options.workers, setting.options.mailbox);
        let mut world = World {
            net,
            cast,
            workers: Vec::new(),
            settings,
            generation: 0,
            drain: None,
            calm: false,
            jumped: Duration::ZERO,
            random,
            books: Books::default(),
            events: 0,
            steps: 0,
            setting,
        };
        for boxes in boxes {
            world.workers.push(Worker {
                turn: None,
                mailboxes: Some(boxes),
                alarm: Instant::FAR,
                stopped: false,
                behind: false,
            });
        }
        (0..world.setting.options.workers).for_each(|worker| world.begin_life(worker));
        world
    }

    // --- The whole of a run ----------------------------------------------------------------------

    /// Runs a seed to its end.
    pub fn run(mut self) -> Outcome {
        self.begin();
        let wanted = self.setting.options.transactions;
        let done = |world: &World| world.cast.oracle.answered >= wanted || world.drain.is_some();
        let mut active = self.cast.now() + Duration::from_nanos(ACTIVE);
        while self.cast.now() < active && !done(&self) && self.is_whole() {
            let jumped = self.jumped;
            self.go(active, done);
            // Time that was jumped over is not time in which anything was said.
            active = active + self.jumped.saturating_sub(jumped);
        }
        self.calm_down();
        let failover = self.setting.options.failover;
        self.pass(if failover { SETTLING_FAILOVER } else { SETTLING } - RESTING);
        let before = (self.steps, self.probes());
        self.pass(RESTING);
        self.check_rest(before);
        if self.is_whole() {
            balance::settled(&mut self);
        }
        if self.is_whole() {
            self.part();
            self.pass(PARTING);
            balance::parted(&mut self);
            self.stop();
            balance::stopped(&mut self);
        }
        self.end()
    }

    /// Everybody gets a first turn; the first fault gets a time.
    fn begin(&mut self) {
        let agents = self.cast.agents.len();
        let mut net = self.net.borrow_mut();
        for agent in 0..agents {
            let after = net.between((0, 300_000_000));
            net.after(after, Event::Act { agent });
        }
        if self.setting.options.strikes.any() {
            net.after(200_000_000, Event::Strike);
        }
    }

    /// No violation so far that makes the rest meaningless.
    fn is_whole(&self) -> bool {
        self.cast.oracle.violations.is_empty() && self.net.borrow().violations.is_empty()
    }

    fn end(self) -> Outcome {
        let net = self.net.borrow();
        let mut violations = self.cast.oracle.violations.clone();
        violations.extend(net.violations.iter().map(|text| format!("ring: {text}")));
        let ladder = match violations.is_empty() {
            true => String::new(),
            false => self.cast.ladder.print(&self.cast.lines, &self.cast.oracle.sents),
        };
        Outcome {
            seed: self.setting.options.seed,
            violations,
            ladder,
            faults: net.faults.clone(),
            compared: Judge::ALL.map(|judge| self.cast.oracle.compared(judge)),
            transactions: self.cast.oracle.answered,
            connections: net.wires.len(),
            events: self.events,
            digest: self.cast.ladder.digest(),
        }
    }

    // --- Events ----------------------------------------------------------------------------------

    /// Lets events happen until `until`, or until `done` says so after one.
    pub fn go(&mut self, until: Instant, done: impl Fn(&World) -> bool) {
        loop {
            let event = self.net.borrow_mut().next(until);
            let Some(event) = event else { return };
            self.events += 1;
            self.happen(event);
            if self.events >= EVENTS_MAX {
                self.net.borrow_mut().violation("the world does not come to rest");
                return;
            }
            if done(self) || !self.is_whole() {
                return;
            }
        }
    }

    /// Lets so much time pass.
    pub fn pass(&mut self, nanos: u64) {
        let until = Instant(self.cast.now().0 + nanos);
        self.go(until, |_| false);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { wire, to_proxy } => {
                let to = if to_proxy { Side::Proxy } else { Side::Peer };
                let heard = self.net.borrow_mut().deliver(wire, to);
                if heard && to == Side::Peer {
                    self.cast.listen(wire);
                }
            }
            Event::Arrive { wire } => self.arrive(wire),
            Event::Dialled { worker, slot, generation } => self.dialled(worker, slot, generation),
            Event::Step { worker } => {
                self.net.borrow_mut().stepped(worker);
                self.step(worker);
            }
            Event::Alarm { worker } => {
                if self.workers[usize::from(worker)].alarm <= self.cast.now() {
                    self.step(worker);
                }
            }
            Event::Restart { worker } => self.begin_life(worker),
            Event::Act { agent } => self.cast.act(agent),
            Event::Later { agent } => self.cast.later(agent),
            Event::Resume { wire } => self.cast.resume(wire),
            Event::Strike => self.strike(),
        }
    }

    /// A client's connection reaches a listener: that of any worker (SO_REUSEPORT).
    fn arrive(&mut self, wire: WireId) {
        let any = self.random.below(self.workers.len() as u64) as u16;
        let mut net = self.net.borrow_mut();
        let worker = net.wires[wire].wants.unwrap_or(any);
        let Some(listener) = net.wires[wire].listener else { return };
        net.backlog[usize::from(worker)][listener as usize].push_back(wire);
        net.rouse(worker);
    }

    /// A connect ends: somebody listens there, nobody does, or nothing comes back.
    fn dialled(&mut self, worker: u16, slot: u32, generation: u32) {
        let mut net = self.net.borrow_mut();
        let found = net
            .dials
            .iter()
            .position(|it| (it.worker, it.slot, it.generation) == (worker, slot, generation));
        let Some(place) = found else { return };
        let dial = net.dials[place];
        let backend =
            (0..setting::BACKENDS).find(|index| setting::backend_address(*index) == dial.to);
        let Some(backend) = backend else { return };
        let (up, black_hole) =
            (self.cast.backends[backend].up, self.cast.backends[backend].black_hole);
        if black_hole && net.now() < dial.deadline {
            net.at(dial.deadline, Event::Dialled { worker, slot, generation });
            return;
        }
        net.dials.swap_remove(place);
        drop(net);
        let result = match (black_hole, up) {
            (true, _) => Err(ConnectFault::Timeout),
            (false, false) => Err(REFUSED),
            (false, true) => Ok(self.cast.reached(worker, backend)),
        };
        if result.is_err() {
            self.cast.trouble();
        }
        let turn = self.workers[usize::from(worker)].turn.as_mut();
        let taken = turn.is_some_and(|turn| turn.ring_mut().dialled(slot, generation, result));
        match result {
            Ok(wire) if !taken => {
                self.net.borrow_mut().close(wire, Side::Proxy, true);
                self.cast.listen(wire);
            }
            _ => self.net.borrow_mut().rouse(worker),
        }
    }

    // --- Workers ---------------------------------------------------------------------------------

    /// One turn of a worker, and the kernel's answer to what it has submitted.
    fn step(&mut self, worker: u16) {
        let it = &mut self.workers[usize::from(worker)];
        let Some(turn) = &mut it.turn else { return };
        self.steps += 1;
        let result = catch_unwind(AssertUnwindSafe(|| {
            turn.sleep();
            let going = turn.work();
            turn.ring_mut().enter();
            going
        }));
        match result {
            Ok(Going::On) => self.sleeps(worker),
            Ok(Going::Stopped) => it.stopped = true,
            Err(panic) => {
                if panic.downcast_ref::<MadePanic>().is_none() {
                    let text = panic
                        .downcast_ref::<String>()
                        .cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    let text = text.unwrap_or_default();
                    self.net.borrow_mut().violation(format!("worker {worker} panicked: {text}"));
                }
                self.end_life(worker);
            }
        }
    }

    fn sleeps(&mut self, worker: u16) {
        let it = &mut self.workers[usize::from(worker)];
        let Some(turn) = &it.turn else { return };
        let until = turn.sleeps_until();
        let mut net = self.net.borrow_mut();
        if until <= net.now() {
            net.rouse(worker);
        } else if until < Instant::FAR && until != it.alarm {
            it.alarm = until;
            net.at(until, Event::Alarm { worker });
        } else {
            it.alarm = until;
        }
    }

    fn turn_plan(&self) -> TurnPlan {
        let options = &self.setting.options;
        TurnPlan {
            listeners: LISTENERS,
            accepted: options.accepted,
            accept_limit: options.accept_limit,
            own: limits::OWN_SLOTS,
        }
    }

    fn begin_life(&mut self, worker: u16) {
        let Some(boxes) = self.workers[usize::from(worker)].mailboxes.take() else { return };
        let options = &self.setting.options;
        let plan = RingPlan {
            worker,
            accepted: options.accepted,
            own: limits::OWN_SLOTS,
            listeners: LISTENERS,
            buffers: options.buffers,
            buffer_bytes: options.buffer_bytes,
            submissions: options.submissions,
            completions: options.completions,
            rough: if self.calm { Rough::default() } else { options.rough },
        };
        let ring = SimRing::new(Rc::clone(&self.net), plan, self.random.fork());
        let (incarnation, seed) = (self.random.next_u64() as u32, self.random.next_u64());
        let now = self.cast.now();
        let settings = Arc::clone(&self.settings);
        let accepted = options.accepted;
        let machine = Proxy::new(worker as u8, incarnation, accepted, seed, now, settings);
        let mut turn = Turn::new(&self.turn_plan(), ring, machine, boxes);
        if let Some(deadline) = self.drain {
            turn.command(Command::Drain { deadline });
        }
        let it = &mut self.workers[usize::from(worker)];
        it.turn = Some(turn);
        it.alarm = Instant::FAR;
        it.behind = false;
        self.net.borrow_mut().rouse(worker);
    }

    /// The worker has panicked: its connections are cut, its mail is kept.
    fn end_life(&mut self, worker: u16) {
        let Some(mut turn) = self.workers[usize::from(worker)].turn.take() else { return };
        self.strikes(format!("worker {worker} panics"));
        self.cast.trouble();
        let now = self.cast.now();
        balance::close_books(&mut self.books, &mut turn, now);
        self.books.panics += 1;
        let (boxes, _) = turn.abandon();
        self.workers[usize::from(worker)].mailboxes = Some(boxes);
        let mut net = self.net.borrow_mut();
        net.life_ended(worker);
        net.dials.retain(|dial| dial.worker != worker);
        let after = net.between((1_000_000, 100_000_000));
        net.after(after, Event::Restart { worker });
    }

    fn command(&mut self, make: impl Fn() -> Command<Proxy>) {
        for worker in 0..self.workers.len() {
            if let Some(turn) = &mut self.workers[worker].turn {
                turn.command(make());
                self.net.borrow_mut().rouse(worker as u16);
            }
        }
    }

    // --- Faults ----------------------------------------------------------------------------------

    fn strikes(&mut self, what: String) {
        let now = self.cast.now();
        self.cast.ladder.push(now, Rung::Struck { what });
    }

    /// It is time for a fault, or several.
    fn strike(&mut self) {
        if self.calm {
            return;
        }
        let rates = self.setting.options.strikes;
        let draw = |random: &mut Random, rate: u64| rate > 0 && random.one_in(rate);
        if draw(&mut self.random, rates.reset)
            && let Some(wire) = self.some_wire()
        {
            self.strikes(format!("the network resets line {wire}"));
            let mut net = self.net.borrow_mut();
            net.reset(wire);
            net.faults.count(Fault::Reset);
            drop(net);
            self.cast.trouble();
        }
        if draw(&mut self.random, rates.stall)
            && let Some(wire) = self.some_wire()
        {
            let to = if self.random.one_in(2) { Side::Proxy } else { Side::Peer };
            let nanos = self.random.below(4 * SECOND);
            self.strikes(format!("line {wire} stands still"));
            let mut net = self.net.borrow_mut();
            let until = Instant(net.now().0 + nanos);
            net.stall(wire, to, until);
            net.faults.count(Fault::Stall);
        }
        if draw(&mut self.random, rates.slow_peer)
            && let Some(wire) = self.some_wire()
        {
            self.strikes(format!("line {wire} is not read"));
            let nanos = SECOND / 5 + self.random.below(14 * SECOND);
            self.cast.pause(wire, nanos);
        }
        self.strike_lines(rates);
        if draw(&mut self.random, rates.backend) {
            self.strike_backend(rates.black_hole);
        }
        self.strike_workers(rates);
        let mut net = self.net.borrow_mut();
        let after = net.between((20_000_000, 200_000_000));
        net.after(after, Event::Strike);
    }

    fn strike_lines(&mut self, rates: setting::Strikes) {
        let draw = |random: &mut Random, rate: u64| rate > 0 && random.one_in(rate);
        if draw(&mut self.random, rates.half_close)
            && let Some(wire) = self.some_wire()
            && self.cast.lines[wire].holder.backend().is_none()
        {
            self.strikes(format!("line {wire} is half closed"));
            self.net.borrow_mut().faults.count(Fault::HalfClose);
            self.cast.half_close(wire);
        }
        if draw(&mut self.random, rates.flip)
            && let Some(wire) = self.some_wire()
            && self.cast.lines[wire].place.tls
        {
            self.strikes(format!("a bit on line {wire} will flip"));
            self.net.borrow_mut().faults.count(Fault::FlippedBit);
            self.cast.lines[wire].flip = true;
        }
        if draw(&mut self.random, rates.handshake) && self.setting.options.tls > 0 {
            let index = self.random.below(self.cast.phones.len() as u64) as usize;
            self.cast.leaves_handshake(index);
        }
    }

    fn strike_workers(&mut self, rates: setting::Strikes) {
        let draw = |random: &mut Random, rate: u64| rate > 0 && random.one_in(rate);
        if draw(&mut self.random, rates.config) {
            self.swap_config();
        }
        self.catch_up(false);
        if draw(&mut self.random, rates.panic) {
            let worker = self.random.below(self.workers.len() as u64) as usize;
            let calls = self.random.below(60) as u32;
            if let Some(turn) = &mut self.workers[worker].turn {
                turn.ring_mut().panic_in(calls);
            }
        }
        if draw(&mut self.random, rates.jump) {
            // Long enough for any deadline of a message, or for idle connections as well.
            let longest = if self.random.one_in(3) { 200 } else { 9 };
            let nanos = SECOND + self.random.below(longest * SECOND);
            self.strikes(format!("the clock jumps by {} ms", nanos / 1_000_000));
            let mut net = self.net.borrow_mut();
            net.faults.count(Fault::ClockJump);
            net.pass(nanos);
            self.jumped += Duration::from_nanos(nanos);
            self.setting.clock.advance(nanos / SECOND);
            drop(net);
            self.cast.trouble();
        }
        let enough = self.cast.oracle.answered >= setting::TRANSACTIONS;
        if rates.drain && self.drain.is_none() && enough {
            let deadline = self.cast.now() + Duration::from_secs(10);
            self.strikes("the workers are drained".to_owned());
            self.net.borrow_mut().faults.count(Fault::Drain);
            self.cast.trouble();
            self.drain = Some(deadline);
            self.command(|| Command::Drain { deadline });
        }
    }

    fn swap_config(&mut self) {
        self.generation += 1;
        self.strikes(format!("configuration {} comes", self.generation));
        self.net.borrow_mut().faults.count(Fault::ConfigSwapped);
        self.settings = self.setting.settings(self.generation);
        self.cast.trouble();
        self.workers.iter_mut().for_each(|worker| worker.behind = true);
    }

    /// Brings the newest configuration to workers, not to all of them at once.
    fn catch_up(&mut self, all: bool) {
        for worker in 0..self.workers.len() {
            if !self.workers[worker].behind || (!all && self.random.one_in(2)) {
                continue;
            }
            self.workers[worker].behind = false;
            self.cast.trouble();
            if let Some(turn) = &mut self.workers[worker].turn {
                turn.command(Command::Configure(Arc::clone(&self.settings)));
                self.net.borrow_mut().rouse(worker as u16);
            }
        }
    }

    fn strike_backend(&mut self, black_hole: u64) {
        let down = (0..setting::BACKENDS).find(|index| !self.cast.backends[*index].up);
        let any = self.random.below(setting::BACKENDS as u64) as usize;
        let backend = down.filter(|_| self.random.one_in(2)).unwrap_or(any);
        let hole = black_hole > 0 && self.random.one_in(black_hole);
        let sulks = self.setting.options.health.is_some() && self.random.one_in(3);
        let it = &mut self.cast.backends[backend];
        if sulks {
            it.sulks = !it.sulks;
            self.cast.trouble();
            return;
        }
        let was_up = it.up;
        it.up = !was_up;
        it.black_hole = was_up && hole;
        let lines = it.lines.clone();
        let fault = if was_up { Fault::BackendDied } else { Fault::BackendReturned };
        self.net.borrow_mut().faults.count(fault);
        self.strikes(format!("backend {backend} {}", if was_up { "dies" } else { "returns" }));
        self.cast.trouble();
        if was_up {
            let abort = self.random.one_in(2);
            lines.into_iter().for_each(|line| self.cast.hang_up(line, abort));
        }
    }

    /// Any line that is open at both ends.
    fn some_wire(&mut self) -> Option<WireId> {
        let net = self.net.borrow();
        let open: Vec<WireId> = (0..net.wires.len())
            .filter(|wire| net.wires[*wire].proxy_open && net.wires[*wire].peer_open)
            .collect();
        let count = open.len() as u64;
        (count > 0).then(|| open[self.random.below(count) as usize])
    }

    // --- The end ---------------------------------------------------------------------------------

    /// Nothing strikes any more; what was held up goes on.
    fn calm_down(&mut self) {
        self.calm = true;
        self.strikes("it calms down".to_owned());
        self.cast.winding_down = true;
        self.catch_up(true);
        for backend in 0..setting::BACKENDS {
            let it = &mut self.cast.backends[backend];
            (it.up, it.black_hole, it.sulks) = (true, false, false);
        }
        for worker in &mut self.workers {
            if let Some(turn) = &mut worker.turn {
                turn.ring_mut().calm();
            }
        }
        let mut net = self.net.borrow_mut();
        net.weather.split = 0;
        net.weather.dribble = 0;
        net.clear_stalls();
        drop(net);
        for line in 0..self.cast.lines.len() {
            self.cast.lines[line].paused_until = Instant(0);
            self.cast.resume(line);
        }
    }

    /// Probes of all backends so far, as they heard them.
    fn probes(&self) -> u64 {
        self.cast.lines.iter().map(|line| line.probes).sum()
    }

    fn check_rest(&mut self, (steps, probes): (u64, u64)) {
        let (steps, probes) = (self.steps - steps, self.probes() - probes);
        let most = RESTING_STEPS + PROBE_STEPS * probes;
        self.cast.oracle.judge(Judge::Rest, steps <= most, || {
            format!("{steps} turns and {probes} probes in {} idle seconds", RESTING / SECOND)
        });
    }

    /// Everybody but the links hangs up.
    fn part(&mut self) {
        self.strikes("everybody hangs up".to_owned());
        for line in 0..self.cast.lines.len() {
            if !matches!(self.cast.lines[line].holder, super::line::Holder::Link(_)) {
                self.cast.hang_up(line, false);
            }
        }
    }

    fn stop(&mut self) {
        self.command(|| Command::Stop);
        let patience = limits::STOP_PATIENCE.as_nanos() as u64;
        let until = Instant(self.cast.now().0 + patience);
        self.go(until, |world| world.workers.iter().all(|worker| worker.stopped));
    }

    pub fn is_stopped(&self, worker: usize) -> bool {
        self.workers[worker].stopped
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Counts of everything that has lived so far.
    pub fn close_all_books(&mut self) {
        let now = self.cast.now();
        for worker in &mut self.workers {
            if let Some(turn) = &mut worker.turn {
                balance::close_books(&mut self.books, turn, now);
            }
        }
    }

    /// The worker's next call into its ring is its last.
    pub fn make_panic(&mut self, worker: u16) {
        if let Some(turn) = &mut self.workers[usize::from(worker)].turn {
            turn.ring_mut().panic_in(0);
        }
        self.net.borrow_mut().rouse(worker);
    }
}
