//! `ringfront sim`: runs seeds, prints the failing ones with their ladders, and what struck and was judged over all.

use std::fmt::Write;
use std::ops::Range;
use std::process::ExitCode;

use super::args::SimArgs;
use crate::sim::faults::{Fault, Tally};
use crate::sim::oracle::Judge;
use crate::sim::{self, Outcome};

/// From so many seeds on, a class that never struck and a judge that never compared fail the run.
const SEEDS_FOR_COVERAGE: u64 = 100;

/// Failing seeds that are printed in full.
const PRINTED: u64 = 3;

/// Sums over a run of seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    failed: Vec<u64>,
    faults: Tally,
    compared: [u64; Judge::ALL.len()],
    transactions: u64,
    connections: u64,
    events: u64,
}

pub fn run(args: SimArgs) -> Result<ExitCode, miette::Report> {
    let seeds = match (args.seed, args.seeds) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => seeds.0,
        (None, None) => 0..SEEDS_FOR_COVERAGE,
    };
    let mut sums = Sums::default();
    for seed in seeds.clone() {
        let outcome = sim::run(seed, args.events);
        if !outcome.violations.is_empty() && (sums.failed.len() as u64) < PRINTED {
            super::print(failure(&outcome).as_bytes())?;
        } else if let Some(violation) = outcome.violations.first() {
            super::print(format!("seed {}: {violation}\n", outcome.seed).as_bytes())?;
        }
        sums.add(&outcome);
    }
    let missing = sums.missing();
    super::print(sums.report(&seeds, &missing).as_bytes())?;
    let good = sums.failed.is_empty() && missing.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn failure(outcome: &Outcome) -> String {
    let mut text = format!("\nseed {} of {}\n", outcome.seed, sim::VERSION);
    for violation in &outcome.violations {
        let _ = writeln!(text, "  violation: {violation}");
    }
    let _ = writeln!(text, "the last events:\n{}", outcome.ladder);
    let _ = writeln!(text, "again: ringfront sim --seed {}", outcome.seed);
    text
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        if !outcome.violations.is_empty() {
            self.failed.push(outcome.seed);
        }
        self.faults.add(&outcome.faults);
        for (sum, count) in self.compared.iter_mut().zip(outcome.compared) {
            *sum += count;
        }
        self.transactions += u64::from(outcome.transactions);
        self.connections += outcome.connections as u64;
        self.events += outcome.events;
    }

    /// What a run of enough seeds should have seen and has not.
    fn missing(&self) -> Vec<&'static str> {
        if self.seeds < SEEDS_FOR_COVERAGE {
            return Vec::new();
        }
        let faults = Fault::ALL.into_iter().filter(|fault| self.faults.of(*fault) == 0);
        let judges = Judge::ALL.into_iter().filter(|judge| self.compared[*judge as usize] == 0);
        faults.map(Fault::name).chain(judges.map(Judge::name)).collect()
    }

    fn report(&self, seeds: &Range<u64>, missing: &[&str]) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "struck:");
        for fault in Fault::ALL {
            let _ = writeln!(text, "  {:<24} {:>12}", fault.name(), self.faults.of(fault));
        }
        let _ = writeln!(text, "compared:");
        for judge in Judge::ALL {
            let _ = writeln!(text, "  {:<24} {:>12}", judge.name(), self.compared[judge as usize]);
        }
        let _ = writeln!(
            text,
            "seeds {}..{}: {} transactions, {} connections, {} events",
            seeds.start, seeds.end, self.transactions, self.connections, self.events
        );
        for name in missing {
            let _ = writeln!(text, "never seen in {} seeds: {name}", self.seeds);
        }
        let _ = match &self.failed[..] {
            [] => writeln!(text, "all {} seeds are good", self.seeds),
            failed => {
                let first = &failed[..failed.len().min(20)];
                writeln!(text, "{} of {} seeds failed: {first:?} ...", failed.len(), self.seeds)
            }
        };
        text
    }
}
