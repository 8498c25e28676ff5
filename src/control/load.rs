//! A load run: one crowd for each worker on its own ring, read at intervals, with what it cost.
//! Owns the workers and the sums. Never prints, never judges; never per-operation work.
//! Invariant: the sum of all samples of a run holds every operation once.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::fault::start_up;
use crate::base::machine::Machine;
use crate::base::ring::RingCounts;
use crate::base::time::Instant;
use crate::peer::crowd::{Crowd, Plan};
use crate::peer::tally::Tally;
use crate::sys::uring::{KernelRing, RingPlan};
use crate::sys::wake::RingDirectory;
use crate::sys::{StartUpFault, affinity, clock, process};
use crate::worker::mailbox::mailboxes;
use crate::worker::turn::{TurnPlan, WorkerReport};
use crate::worker::{Command, WorkerEvent, WorkerHandle, WorkerPlan, spawn};

/// Descriptors that the process needs beside its connections: rings, files, epoll, standard streams.
const DESCRIPTORS_RESERVED: u64 = 64;

/// A worker that does not answer for so long has died.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// One worker's part of a run.
#[derive(Clone, Debug)]
pub struct Part {
    pub crowd: Plan,
    /// The core to pin to; `None`: wherever the kernel likes.
    pub core: Option<usize>,
}

/// A run under way.
pub struct Run {
    workers: Vec<Worker>,
    events: mpsc::UnboundedReceiver<WorkerEvent>,
}

struct Worker {
    handle: WorkerHandle<Crowd>,
    thread: u32,
    spare: Option<Tally>,
    ring: RingCounts,
}

/// What was counted since the last sample, and where the clocks stand.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pub tally: Tally,
    /// Calls into the kernel since the last sample, all workers.
    pub system_calls: u64,
    pub workers: Vec<Usage>,
}

/// Time of one thread so far, in nanoseconds, as the scheduler counts it (proc_pid_schedstat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub on_core: u64,
    /// Ready to run, but another had the core.
    pub waiting: u64,
}

impl Run {
    /// Starts a worker for each part.
    pub fn start(parts: Vec<Part>) -> Result<Run, StartUpFault> {
        let connections: u64 = parts.iter().map(|part| u64::from(part.crowd.connections)).sum();
        check_descriptors(connections)?;
        let count = parts.len() as u16;
        let directory = Arc::new(RingDirectory::new(count));
        let (notify, events) = mpsc::unbounded_channel();
        let mut workers = Vec::new();
        let boxes = mailboxes(count, 1);
        for (number, (part, mailboxes)) in parts.into_iter().zip(boxes).enumerate() {
            let ring = RingPlan::new(number as u16, 0, part.crowd.connections, directory.clone())
                .map_err(|error| ring_fault(number, &error))?;
            let (said, thread) = std::sync::mpsc::channel();
            let waker = ring.waker.clone();
            let (core, plan, notify) = (part.core, part.crowd, notify.clone());
            let handle = spawn(WorkerPlan {
                name: format!("load-{number}"),
                turn: TurnPlan {
                    listeners: 0,
                    accepted: 0,
                    accept_limit: 0,
                    own: plan.connections,
                },
                mailboxes,
                prepare: Box::new(move || {
                    let pinned = core.is_none_or(affinity::pin);
                    // The receiver waits for it, or has given up.
                    let _ = said.send((thread_id(), pinned));
                }),
                build_ring: Box::new(move || Ok(KernelRing::new(ring.clone())?)),
                build_machine: Box::new(move |now, _| Crowd::new(plan.clone(), now)),
                incarnation: Box::new(|| 0),
                wake: Arc::new(move || waker.wake()),
                notify: Box::new(move |event| {
                    let _ = notify.send(event);
                }),
            });
            let handle = handle.map_err(|fault| match fault.downcast::<StartUpFault>() {
                Ok(fault) => *fault,
                Err(fault) => ring_fault(number, &io::Error::other(fault.to_string())),
            })?;
            let (thread, pinned) = thread.recv().unwrap_or_default();
            if !pinned {
                return Err(start_up(
                    format!("cannot pin worker {number} to core {}", core.unwrap_or_default()),
                    "--core",
                    "there is no such core, or this process may not run on it",
                    "see: taskset -cp $$",
                ));
            }
            let thread = thread.unwrap_or(0);
            workers.push(Worker { handle, thread, spare: None, ring: RingCounts::default() });
        }
        Ok(Run { workers, events })
    }

    /// Asks every worker for its counts.
    ///
    /// # Errors
    /// A worker has ended: the reason.
    pub async fn sample(&mut self) -> Result<Sample, String> {
        let mut sum: Option<Tally> = None;
        let (mut system_calls, mut usage) = (0, Vec::new());
        for place in 0..self.workers.len() {
            let report = self.report(place).await?;
            let worker = &mut self.workers[place];
            system_calls += report.ring.system_calls - worker.ring.system_calls;
            worker.ring = report.ring;
            usage.push(thread_usage(&format!("/proc/self/task/{}/schedstat", worker.thread)));
            let mut tally = report.machine;
            match &mut sum {
                None => sum = Some(tally.clone()),
                Some(sum) => sum.add_worker(&tally),
            }
            tally.reset();
            worker.spare = Some(tally);
        }
        let tally = sum.unwrap_or_default();
        Ok(Sample { at: clock::monotonic(), tally, system_calls, workers: usage })
    }

    async fn report(
        &mut self,
        place: usize,
    ) -> Result<WorkerReport<<Crowd as Machine>::Report>, String> {
        self.look_at_events()?;
        let worker = &mut self.workers[place];
        let (reply, answer) = oneshot::channel();
        let command = Command::Report {
            spare: worker.spare.take().unwrap_or_default(),
            reply: Box::new(move |report| {
                let _ = reply.send(report);
            }),
        };
        worker.handle.send(command).map_err(|fault| fault.to_string())?;
        let Ok(Ok(report)) = tokio::time::timeout(ANSWER_PATIENCE, answer).await else {
            self.look_at_events()?;
            return Err(format!("worker {place} does not answer"));
        };
        Ok(report)
    }

    /// A worker that panicked begins anew by itself, but its part of the run is lost.
    fn look_at_events(&mut self) -> Result<(), String> {
        while let Ok(event) = self.events.try_recv() {
            match event {
                WorkerEvent::Panicked { message, .. } => {
                    return Err(format!("a worker panicked: {message}"));
                }
                WorkerEvent::GaveUp { reason } => return Err(reason),
                WorkerEvent::Started { .. } | WorkerEvent::Drained | WorkerEvent::Stopped => {}
            }
        }
        Ok(())
    }

    /// Ends the work: what is under way may end, nothing is begun.
    pub fn drain(&self) {
        for worker in &self.workers {
            // One that has ended has nothing to drain.
            let _ = worker.handle.send(Command::Drain { deadline: Instant::FAR });
        }
    }

    /// Ends the workers.
    pub fn stop(self) {
        for worker in self.workers {
            let _ = worker.handle.send(Command::Stop);
            worker.handle.join();
        }
    }
}

fn ring_fault(worker: usize, error: &io::Error) -> StartUpFault {
    start_up(
        format!("cannot create an io_uring: {error}"),
        format!("worker {worker} of the load generator"),
        "io_uring may be switched off, or the process is at a limit",
        "run: ringfront run, whose probe names what the kernel lacks",
    )
}

fn check_descriptors(connections: u64) -> Result<(), StartUpFault> {
    let wanted = connections + DESCRIPTORS_RESERVED;
    match process::raise_descriptor_limit() {
        Ok(limit) if limit.soft < wanted => Err(start_up(
            format!("{connections} connections need {wanted} descriptors"),
            "--connections",
            format!("this process may have {}", limit.soft),
            format!("run: ulimit -n {wanted}, as root if the hard limit is lower"),
        )),
        // An unreadable limit will show itself where it bites.
        _ => Ok(()),
    }
}

/// The number of the calling thread (proc_thread-self(5): `PID/task/TID`).
fn thread_id() -> Option<u32> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

/// `on core, waiting, slices`; zero when the thread is gone.
fn thread_usage(path: &str) -> Usage {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0));
    Usage { on_core: numbers.next().unwrap_or(0), waiting: numbers.next().unwrap_or(0) }
}

/// Time that all threads of a process have had, in nanoseconds; `None` when there is no such process.
pub fn process_usage(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let threads = tasks.filter_map(|task| Some(task.ok()?.path().join("schedstat")));
    Some(threads.map(|path| thread_usage(&path.to_string_lossy()).on_core).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_the_core_grows_by_work() {
        let thread = thread_id().unwrap();
        let path = format!("/proc/self/task/{thread}/schedstat");
        let before = thread_usage(&path);
        let mut sum = 0_u64;
        while thread_usage(&path).on_core < before.on_core + 2_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_usage(std::process::id()).unwrap() >= before.on_core + 2_000_000);
        assert_eq!(process_usage(u32::MAX), None);
        assert_eq!(thread_usage("/proc/none"), Usage::default());
    }
}
