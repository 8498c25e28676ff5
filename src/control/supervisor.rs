//! The process while it runs: signals, events of workers, their reports, questions, drain, reload, stop.
//! Owns the state machine of the process: running, draining, stopping; each way leads forward only. Never waits for a
//! worker: what it asks comes back as an event, or a deadline passes.
#![expect(
    clippy::disallowed_methods,
    reason = "the intervals of the latency log and the ends of certificates are wall clock time"
)]

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use axum::http::StatusCode;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::admin::{Answer, Asked, OPEN_METRICS, Question};
use super::expiry::Expiry;
use super::export;
use super::files::{self, Appender};
use super::fleet::{EVENTS_WAITING_MAX, Events, Who};
use super::host::HostWatch;
use super::log::{Escaped, Log, tell_refusals};
use super::pools;
use super::problem::Problem;
use super::reload::{self, Reload};
use super::resolve::{self, Resolver};
use super::roll;
use super::start::{self, Running};
use super::status::{Phase, View};
use super::totals::{Reloads, Totals, WorkerState};
use super::watch::Watch;
use crate::base::limits;
use crate::config::snapshot::ControlSettings;
use crate::host::sizing::Inputs;
use crate::proxy::settings::{Order, Settings};
use crate::proxy::{Proxy, Report};
use crate::sys::{StartUpFault, clock};
use crate::telemetry::percentiles::{self, IntervalLog};
use crate::worker::turn::WorkerReport;
use crate::worker::{Command, WorkerEvent};

/// How often the counts of all workers are gathered when nobody asks.
const GATHER_EVERY: Duration = Duration::from_secs(1);

/// Before the process says that it is ready it looks so often whether its workers have reached a backend,
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// and says so anyway after this: backends that are down must not keep an operator from what else there is.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two gatherings at least, so that scrapes cannot press the workers. Who asks meanwhile waits for the next one,
/// and so is never told less than what he has done.
const REST: Duration = Duration::from_millis(100);

/// A worker that has not reported by then is left out of the answer.
const GATHER_PATIENCE: Duration = Duration::from_millis(500);

/// After the deadline of a drain the workers close what is left; then so long for their last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Answers of the admin interface have so long to leave before the process does.
const LAST_ANSWERS: Duration = Duration::from_millis(20);

/// Ticket keys that have run out are wiped so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Why the process ended, when it was not asked to.
pub type Lost = Option<String>;

/// What a worker reported, and which one.
type Reported = (usize, WorkerReport<Report>);

/// The counts of a worker on their way between it and us.
#[derive(Default)]
struct Loan {
    spare: Option<Report>,
    /// A report is outstanding.
    asked: bool,
}

struct Gathering {
    /// When to stop waiting for reports; `None`: none is outstanding.
    until: Option<Instant>,
    /// When the last one was complete.
    done: Option<Instant>,
    loans: Vec<Loan>,
    /// Answered when this one is complete.
    waiting: Vec<Asked>,
    /// Answered when the next one is complete, which begins at `again`.
    later: Vec<Asked>,
    again: Option<Instant>,
    /// An interval of the latency log ends with these reports.
    interval_due: bool,
}

struct LatencyLog {
    file: Appender,
    text: IntervalLog,
    since: SystemTime,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What can happen.
enum Happening {
    Terminate(&'static str),
    Reload,
    HandOver,
    Event(Who, WorkerEvent),
    Reported(Box<Reported>),
    Asked(Asked),
    /// Some backend's name leads elsewhere.
    NamesChanged,
    Second,
    Interval,
    Gather,
    GatherOver,
    Deadline,
}

/// Everything that the supervisor listens to.
struct Ears {
    signals: Signals,
    events: mpsc::Receiver<(Who, WorkerEvent)>,
    reports: mpsc::Receiver<Reported>,
    questions: mpsc::Receiver<Asked>,
    second: Interval,
    interval: Interval,
}

/// The process while it runs.
pub struct Supervisor {
    running: Running,
    control: ControlSettings,
    reload: Reload,
    watch: Watch,
    /// How the last reload went; null before the first.
    last_reload: serde_json::Value,
    reloads: Reloads,
    totals: Totals,
    gathering: Gathering,
    report_to: mpsc::Sender<Reported>,
    phase: Phase,
    /// When draining or stopping is given up.
    deadline: Option<Instant>,
    backend_ended: bool,
    /// Printed when the process is ready; empty from then on.
    greeting: String,
    log: Log,
    latency_log: Option<LatencyLog>,
    host: HostWatch,
    started: Instant,
    swept: Instant,
    expiry: Expiry,
    lost: Lost,
    ears: Ears,
}

/// A queue for what workers tell.
pub fn events() -> (Events, mpsc::Receiver<(Who, WorkerEvent)>) {
    mpsc::channel(EVENTS_WAITING_MAX)
}

impl Supervisor {
    /// Takes over everything that was started.
    pub async fn new(
        running: Running,
        control: ControlSettings,
        (reload, watch): (Reload, Watch),
        log: Log,
        events: mpsc::Receiver<(Who, WorkerEvent)>,
        questions: mpsc::Receiver<Asked>,
    ) -> Result<Supervisor, StartUpFault> {
        let snapshot = &running.settings.snapshot;
        let backends = running.settings.backends().len();
        let totals = Totals::new(&control.cores, snapshot.zones.len(), backends);
        let workers = running.workers.len();
        let (report_to, reports) = mpsc::channel(2 * workers);
        let latency_log = match &control.latency_log {
            Some(path) => Some(LatencyLog::open(path).await?),
            None => None,
        };
        let ears = Ears {
            signals: Signals::new()?,
            events,
            reports,
            questions,
            second: every(LOOK_EVERY),
            interval: every(control.latency_interval),
        };
        let backend_ended = running.backend.is_none();
        let mut expiry = Expiry::default();
        expiry.configure(&running.settings, unix_time());
        let greeting = start::greeting(snapshot, &control);
        let host = HostWatch::start(Inputs::of(snapshot, &control));
        Ok(Supervisor {
            running,
            control,
            reload,
            watch,
            last_reload: serde_json::Value::Null,
            reloads: Reloads::default(),
            totals,
            gathering: Gathering {
                until: None,
                done: None,
                loans: (0..workers).map(|_| Loan::default()).collect(),
                waiting: Vec::new(),
                later: Vec::new(),
                again: None,
                interval_due: false,
            },
            report_to,
            phase: Phase::Running,
            deadline: None,
            backend_ended,
            greeting,
            log,
            latency_log,
            host,
            started: Instant::now(),
            swept: Instant::now(),
            expiry,
            lost: None,
            ears,
        })
    }

    /// Runs until the process is asked to end, or loses a worker for good.
    pub async fn run(mut self) -> Lost {
        loop {
            let Gathering { until, again, .. } = self.gathering;
            let deadlines = [again, until, self.deadline];
            let happening = self.ears.next(deadlines, &mut self.running.resolver).await;
            if self.handle(happening).await.is_break() {
                break;
            }
        }
        self.finish().await
    }

    async fn handle(&mut self, happening: Happening) -> ControlFlow<()> {
        match happening {
            Happening::Terminate(name) => self.terminate(name),
            Happening::Reload => drop(self.reload("SIGHUP").await),
            Happening::HandOver => {
                tracing::warn!(
                    "SIGUSR2: this version cannot hand over to a new binary; restart it"
                );
            }
            Happening::Event(Who::Worker(worker), event) => self.worker_event(worker, event),
            Happening::Event(Who::Backend, event) => self.backend_event(event),
            Happening::Reported(reported) => self.reported(reported.0, reported.1),
            Happening::Asked(asked) => self.asked(asked).await,
            Happening::NamesChanged => self.names_changed(),
            Happening::Second => {
                self.second();
                let watched = self.control.watch && self.phase == Phase::Running;
                if watched && self.watch.look(Instant::now()) {
                    let _ = self.reload("files").await;
                }
            }
            Happening::Interval => {
                self.gathering.interval_due = self.latency_log.is_some();
                self.gather();
            }
            Happening::Gather => self.gather(),
            Happening::GatherOver => self.gathered(),
            Happening::Deadline if self.phase == Phase::Stopping => return ControlFlow::Break(()),
            Happening::Deadline => self.stop("the deadline of the drain has passed"),
        }
        if self.phase == Phase::Draining && self.all(&[WorkerState::Drained, WorkerState::Ended]) {
            self.stop("everything is drained");
        }
        match self.phase == Phase::Stopping && self.backend_ended && self.all(&[WorkerState::Ended])
        {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn all(&self, states: &[WorkerState]) -> bool {
        self.totals.workers.iter().all(|worker| states.contains(&worker.state))
    }

    fn second(&mut self) {
        notify(&[NotifyState::Watchdog]);
        self.gather();
        if self.swept.elapsed() >= SWEEP_EVERY {
            self.swept = Instant::now();
            self.running.keys.sweep();
            self.expiry.look(unix_time());
        }
    }

    // ---- drain and stop

    fn terminate(&mut self, name: &'static str) {
        match self.phase {
            Phase::Running => self.drain(name),
            Phase::Draining => self.stop("a second signal came"),
            Phase::Stopping => {}
        }
    }

    fn drain(&mut self, why: &str) {
        let patience = self.running.settings.snapshot.drain.deadline;
        tracing::info!(why, deadline = ?patience, "draining: no new work");
        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        self.phase = Phase::Draining;
        self.deadline = Some(Instant::now() + patience + LAST_WORDS);
        let deadline = clock::monotonic() + patience;
        self.tell_all(|| Command::Drain { deadline });
    }

    fn stop(&mut self, why: &str) {
        if self.phase == Phase::Stopping {
            return;
        }
        tracing::info!(why, "stopping");
        self.phase = Phase::Stopping;
        self.deadline = Some(Instant::now() + limits::STOP_PATIENCE + LAST_WORDS);
        // Commands are obeyed in order: the last counts come before the end.
        self.gather();
        self.tell_all(|| Command::Stop);
        if let Some(backend) = &self.running.backend
            && backend.send(Command::Stop).is_err()
        {
            self.backend_ended = true;
        }
    }

    fn tell_all(&mut self, command: impl Fn() -> Command<Proxy>) {
        for (index, worker) in self.running.workers.iter().enumerate() {
            if let Err(fault) = worker.send(command()) {
                tracing::warn!(worker = index, %fault, "a command did not reach its worker");
                if worker.is_finished() {
                    self.totals.workers[index].state = WorkerState::Ended;
                }
            }
        }
    }

    /// The last words, when all workers have ended or the patience with them.
    async fn finish(mut self) -> Lost {
        while let Ok((worker, report)) = self.ears.reports.try_recv() {
            self.reported(worker, report);
        }
        self.write_interval();
        let later = std::mem::take(&mut self.gathering.later);
        self.gathering.waiting.extend(later);
        self.answer_waiting();
        tokio::time::sleep(LAST_ANSWERS).await;
        if let Some(log) = self.latency_log.take() {
            log.file.finish().await;
        }
        if let Some(path) = &self.running.admin_socket {
            let _ = std::fs::remove_file(path);
        }
        // Who has said that it ends does so; for one that hangs nobody waits.
        for (worker, totals) in self.running.workers.into_iter().zip(&self.totals.workers) {
            match totals.state {
                WorkerState::Ended => worker.join(),
                _ => tracing::warn!(worker = worker.name, "it hangs; the process ends without it"),
            }
        }
        if let Some(backend) = self.running.backend
            && self.backend_ended
        {
            backend.join();
        }
        self.log.finish().await;
        eprint!("{}", percentiles::table(&self.totals.latency));
        self.lost
    }

    // ---- what workers tell

    fn worker_event(&mut self, worker: usize, event: WorkerEvent) {
        let totals = &mut self.totals.workers[worker];
        match event {
            WorkerEvent::Started { incarnation } => {
                tracing::info!(worker, core = totals.core, incarnation, "worker started");
                totals.state = WorkerState::Running;
            }
            WorkerEvent::Drained => totals.state = WorkerState::Drained,
            WorkerEvent::Panicked { message, leaked_bytes } => {
                tracing::error!(
                    worker,
                    message = %Escaped(message.as_bytes()),
                    leaked_bytes,
                    "a worker panicked and its connections are closed; this is a bug, please report it"
                );
                totals.life_ended(leaked_bytes);
                // The report that it owed went with it.
                self.gathering.loans[worker].asked = false;
            }
            WorkerEvent::GaveUp { reason } => {
                totals.state = WorkerState::Ended;
                self.lose(format!("worker {worker} cannot go on: {reason}"));
            }
            WorkerEvent::Stopped => totals.state = WorkerState::Ended,
        }
    }

    fn backend_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Started { .. } => tracing::info!("embedded backend started"),
            WorkerEvent::Drained => {}
            WorkerEvent::Panicked { message, .. } => {
                tracing::error!(
                    message,
                    "the embedded backend panicked; its registrations are lost"
                );
            }
            WorkerEvent::GaveUp { reason } => {
                self.backend_ended = true;
                self.lose(format!("the embedded backend cannot go on: {reason}"));
            }
            WorkerEvent::Stopped => self.backend_ended = true,
        }
    }

    fn lose(&mut self, why: String) {
        tracing::error!(why, "the process ends");
        self.lost = Some(why);
        self.stop("a worker is lost");
    }

    // ---- reports

    /// Asks every worker that owes no report for one.
    fn gather(&mut self) {
        if self.gathering.until.is_none() {
            let later = std::mem::take(&mut self.gathering.later);
            self.gathering.waiting.extend(later);
            self.gathering.again = None;
        }
        let mut outstanding = false;
        for (index, worker) in self.running.workers.iter().enumerate() {
            let loan = &mut self.gathering.loans[index];
            if !loan.asked {
                let spare = loan.spare.take().unwrap_or_else(|| {
                    let settings = &self.running.settings;
                    Report::new(settings.snapshot.zones.len(), settings.backends().len())
                });
                let to = self.report_to.clone();
                let reply = move |report| {
                    // There is room for two reports of each worker, and one at most is outstanding.
                    let _ = to.try_send((index, report));
                };
                let command = Command::Report { spare, reply: Box::new(reply) };
                loan.asked = worker.send(command).is_ok();
            }
            outstanding |= loan.asked;
        }
        if outstanding {
            self.gathering.until.get_or_insert_with(|| Instant::now() + GATHER_PATIENCE);
        } else {
            self.gathered();
        }
    }

    fn reported(&mut self, worker: usize, report: WorkerReport<Report>) {
        pools::log_changes(&self.running.settings.snapshot, worker, &report.machine.gauges);
        tell_refusals(&self.running.settings.snapshot, worker, &report.machine.gauges.refusals);
        for (label, count) in &report.machine.counters.reported {
            let zones = &self.running.settings.snapshot.zones;
            let zone = zones.get(usize::from(label.zone)).map_or("", |zone| &zone.name);
            tracing::warn!(
                zone,
                reason = label.reason,
                count,
                "let in by policy `report`: client_certificate = \"required\" would refuse"
            );
        }
        let spare = self.totals.take(worker, report);
        let loan = &mut self.gathering.loans[worker];
        loan.spare = Some(spare);
        loan.asked = false;
        if self.gathering.loans.iter().all(|loan| !loan.asked) {
            self.gathered();
        }
    }

    /// All reports are in, or the patience is over: who waits is answered.
    fn gathered(&mut self) {
        self.gathering.until = None;
        self.gathering.done = Some(Instant::now());
        if std::mem::take(&mut self.gathering.interval_due) {
            self.write_interval();
        }
        let may_wait = self.phase == Phase::Running && self.started.elapsed() < LOOK_PATIENCE;
        let waits = may_wait && self.lacks_backend();
        if !self.greeting.is_empty() && !waits {
            self.greet();
        }
        for Asked { question, answer } in std::mem::take(&mut self.gathering.waiting) {
            let _ = answer.send(self.answer(question));
        }
    }

    fn answer_waiting(&mut self) {
        for Asked { question, answer } in std::mem::take(&mut self.gathering.waiting) {
            let _ = answer.send(self.answer(question));
        }
    }

    /// Whether some worker has not reached any backend, though there are some.
    fn lacks_backend(&self) -> bool {
        let any = !self.running.settings.backends().is_empty();
        any && self
            .totals
            .workers
            .iter()
            .any(|worker| !worker.gauges.backends.iter().any(|gauge| gauge.up))
    }

    /// Says that the process is ready: to the service manager and to whoever started it.
    fn greet(&mut self) {
        if self.phase == Phase::Running {
            notify(&[NotifyState::Ready, NotifyState::Status("running")]);
            // Nobody need read it.
            let _ = std::io::stdout().write_all(self.greeting.as_bytes());
        }
        self.greeting.clear();
        self.ears.second = every(GATHER_EVERY);
    }

    fn write_interval(&mut self) {
        let Some(LatencyLog { file, text, since }) = &mut self.latency_log else { return };
        let now = SystemTime::now();
        let length = now.duration_since(*since).unwrap_or_default();
        let lines = self.totals.take_interval(|latency| text.interval(latency, *since, length));
        *since = now;
        if !lines.is_empty() {
            file.append(lines);
        }
    }

    // ---- questions

    async fn asked(&mut self, asked: Asked) {
        match asked.question {
            Question::Drain => {
                if self.phase == Phase::Running {
                    self.drain("asked by the admin interface");
                }
                let state = json!({"state": self.phase.name()});
                let _ = asked.answer.send(Answer::Json(StatusCode::ACCEPTED, state));
            }
            Question::Reload => {
                let answer = match self.reload("admin").await {
                    Ok(generation) => {
                        Answer::Json(StatusCode::OK, json!({"config_generation": generation}))
                    }
                    Err(faults) => Answer::Problem(
                        Problem::new(
                            StatusCode::UNPROCESSABLE_ENTITY,
                            "the old configuration stays",
                        )
                        .with_faults(faults),
                    ),
                };
                let _ = asked.answer.send(answer);
            }
            Question::Order { ref pool, ref backend, order } => {
                let answer = self.order(pool, backend, order);
                let _ = asked.answer.send(answer);
            }
            Question::Connections(query) => {
                let workers = self.running.workers.iter().map(|worker| worker.orders()).collect();
                let settings = Arc::clone(&self.running.settings);
                // Beside the supervisor, which has other work while the workers look.
                tokio_uring::spawn(async move {
                    let _ = asked.answer.send(roll::answer(workers, settings, query).await);
                });
            }
            Question::Health | Question::Configuration => {
                let _ = asked.answer.send(self.answer(asked.question));
            }
            _ => {
                let gathering = &mut self.gathering;
                gathering.later.push(asked);
                if gathering.until.is_none() {
                    let next = gathering.done.map_or_else(Instant::now, |done| done + REST);
                    gathering.again = Some(next);
                }
            }
        }
    }

    fn answer(&self, question: Question) -> Answer {
        let snapshot = &self.running.settings.snapshot;
        let view = View {
            totals: &self.totals,
            snapshot,
            orders: &self.running.settings.orders,
            names: self.running.resolver.names(),
            now: Instant::now().into_std(),
            phase: self.phase,
            uptime_seconds: self.started.elapsed().as_secs(),
            last_reload: &self.last_reload,
        };
        let ok = StatusCode::OK;
        match question {
            Question::Health => Answer::Json(ok, json!({"healthy": true})),
            Question::Readiness => {
                let ready = view.not_ready().is_empty();
                let status = if ready { ok } else { StatusCode::SERVICE_UNAVAILABLE };
                Answer::Json(status, view.readiness())
            }
            Question::Metrics => Answer::Text(
                OPEN_METRICS,
                export::metrics(
                    &self.totals,
                    snapshot,
                    &self.running.settings.orders,
                    (view.names, view.now),
                    (self.expiry.endings(), self.reloads),
                    &self.host.latest(),
                ),
            ),
            Question::Status => Answer::Json(ok, view.status()),
            Question::Workers => Answer::Json(ok, view.workers()),
            Question::Pools => {
                Answer::Json(ok, pools::document(&self.running.settings, &self.totals))
            }
            Question::Latency => Answer::Json(ok, view.latency()),
            Question::Distribution(stage) => {
                let text = percentiles::distribution(self.totals.latency.histogram(stage));
                Answer::Text("text/plain; charset=utf-8", text)
            }
            Question::Configuration => {
                let configured = &self.running.configured;
                Answer::Json(ok, crate::config::render::json(configured, &self.control))
            }
            Question::Drain
            | Question::Reload
            | Question::Connections(_)
            | Question::Order { .. } => {
                let detail = "this is done, not asked";
                Answer::Problem(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
            }
        }
    }

    /// What the operator wants of a backend: all workers are told at once.
    fn order(&mut self, pool: &str, backend: &str, order: Order) -> Answer {
        let running = &mut self.running;
        if pools::find(&running.settings.snapshot, pool, backend).is_none() {
            return Answer::Problem(Problem::new(
                StatusCode::NOT_FOUND,
                "no such pool or backend; see /v1/pools",
            ));
        }
        tracing::info!(pool, backend, order = order.name(), "the operator gives an order");
        running.keys.orders.set(pool, backend, order);
        let settings = Arc::new(running.keys.orders.apply(Settings::clone(&running.settings)));
        running.settings = Arc::clone(&settings);
        self.tell_all(|| Command::Configure(Arc::clone(&settings)));
        let given = json!({"pool": pool, "backend": backend, "order": order.name()});
        Answer::Json(StatusCode::OK, given)
    }

    // ---- reload

    /// Reads the configuration again and gives it to all workers; the new generation, or everything that is wrong.
    async fn reload(&mut self, why: &'static str) -> Result<u64, Vec<String>> {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        self.log.reopen().await;
        if let Some(log) = &mut self.latency_log {
            log.reopen().await;
        }
        self.watch.begin();
        let outcome = self.reload_settings().await;
        let faults = outcome.as_ref().err().cloned().unwrap_or_default();
        self.last_reload = json!({
            "asked_by": why,
            "unix_time": unix_time(),
            "taken_over": outcome.is_ok(),
            "faults": faults,
        });
        match &outcome {
            Ok(generation) => {
                self.reloads.taken_over += 1;
                tracing::info!(why, generation, "the configuration was read again");
            }
            Err(faults) => {
                self.reloads.refused += 1;
                for fault in faults {
                    tracing::error!(
                        fault,
                        "the configuration is not taken over; the old one stays"
                    );
                }
            }
        }
        notify(&[NotifyState::Ready]);
        outcome
    }

    async fn reload_settings(&mut self) -> Result<u64, Vec<String>> {
        let running = &mut self.running;
        let old = &running.configured;
        let fresh = match reload::read(&self.reload, old, &self.control) {
            Ok(fresh) => fresh,
            Err(refused) => {
                // What is wrong may be put right in a file that only the refused one names.
                self.watch.add(self.reload.files(&refused.files));
                return Err(refused.faults);
            }
        };
        self.watch.replace(self.reload.files(&fresh.files));
        for note in &fresh.notes {
            tracing::warn!("{}", note.line());
        }
        let workers = running.workers.len();
        let made = &running.made;
        let (configured, keys) =
            reload::finish(fresh.snapshot, &fresh.control, &running.keys, made, old, workers)
                .await?;
        let mut resolver = running.resolver.beside(&fresh.control.resolver, &configured);
        resolver.settle(resolve::RELOAD_PATIENCE).await;
        let expanded = resolver.names().expand(&configured);
        // A certificate may have ended while names were looked up.
        let settings = reload::build(&keys, expanded, workers)?;
        // Nothing can fail from here on: all of it is taken over.
        (running.configured, running.keys, running.resolver) = (configured, keys, resolver);
        if fresh.control.latency_interval != self.control.latency_interval {
            self.ears.interval = every(fresh.control.latency_interval);
        }
        self.control = fresh.control;
        self.host.configure(Inputs::of(&self.running.configured, &self.control));
        self.hand_out(settings);
        Ok(self.running.configured.generation)
    }

    /// Gives the workers the configuration with what names lead to now.
    fn put_in_names(&mut self) -> Result<(), Vec<String>> {
        let running = &self.running;
        let snapshot = running.resolver.names().expand(&running.configured);
        let settings = reload::build(&running.keys, snapshot, running.workers.len())?;
        self.hand_out(settings);
        Ok(())
    }

    /// These settings are in force from now on.
    fn hand_out(&mut self, settings: Settings) {
        let settings = Arc::new(settings);
        let running = &mut self.running;
        self.totals.reshape(&running.settings.snapshot, &settings.snapshot);
        running.settings = Arc::clone(&settings);
        self.expiry.configure(&settings, unix_time());
        self.tell_all(|| Command::Configure(Arc::clone(&settings)));
    }

    fn names_changed(&mut self) {
        for fault in self.put_in_names().err().into_iter().flatten() {
            tracing::error!(
                fault,
                "what a name leads to is not taken over; the old addresses stay"
            );
        }
    }
}

impl Ears {
    /// `deadlines`: of the next gathering, of the one under way, of the phase.
    async fn next(
        &mut self,
        deadlines: [Option<Instant>; 3],
        resolver: &mut Resolver,
    ) -> Happening {
        let [again, gathered, over] = deadlines;
        tokio::select! {
            _ = self.signals.terminate.recv() => Happening::Terminate("SIGTERM"),
            _ = self.signals.interrupt.recv() => Happening::Terminate("SIGINT"),
            _ = self.signals.hangup.recv() => Happening::Reload,
            _ = self.signals.user2.recv() => Happening::HandOver,
            Some((who, event)) = self.events.recv() => Happening::Event(who, event),
            Some(reported) = self.reports.recv() => Happening::Reported(Box::new(reported)),
            Some(asked) = self.questions.recv() => Happening::Asked(asked),
            _ = self.second.tick() => Happening::Second,
            _ = self.interval.tick() => Happening::Interval,
            () = resolver.changed() => Happening::NamesChanged,
            () = until(again) => Happening::Gather,
            () = until(gathered) => Happening::GatherOver,
            () = until(over) => Happening::Deadline,
        }
    }
}

/// Seconds since 1970.
fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A clock whose first tick comes after one period, and which does not make up for what it missed.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset();
    interval
}

impl Signals {
    fn new() -> Result<Signals, StartUpFault> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|error| {
                super::fault::start_up(
                    format!("cannot listen to signals: {}", crate::sys::probe::text(&error)),
                    "control plane",
                    "the process has no descriptor left",
                    "raise LimitNOFILE= (systemd) or ulimit -n",
                )
            })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            user2: listen(SignalKind::user_defined2())?,
        })
    }
}

impl LatencyLog {
    async fn open(path: &std::path::Path) -> Result<LatencyLog, StartUpFault> {
        let file = Appender::open(path, files::PUBLIC).await;
        let file =
            file.map_err(|error| super::fault::file("open the latency log", path, &error))?;
        let since = SystemTime::now();
        let mut text = IntervalLog::new(since);
        file.append(text.header());
        Ok(LatencyLog { file, text, since })
    }

    async fn reopen(&mut self) {
        self.file.reopen().await;
        self.file.append(self.text.header());
    }
}

/// Tells systemd, where it asked to be told.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests;
