//! Words on the command line: one file for each command, short; the only place that ends the process.
//!
//! A command is a variant of [`args::Command`] and a file here with
//! `pub fn run(args) -> Result<ExitCode, miette::Report>`; [`dispatch`] joins the two.

pub mod args;
mod check;
mod config;
mod doctor;
pub mod facts;
mod histogram;
mod load;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod tune;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::config::Faults;
use args::{Arguments, Command};

/// Entry point of the program. Exit codes: 0 done, 1 cannot (the reason is printed), 2 wrong usage.
pub fn main() -> ExitCode {
    match dispatch(Arguments::parse()) {
        Ok(code) => code,
        Err(report) => {
            match report.downcast_ref::<Faults>() {
                Some(faults) => eprint!("{}", faults.text()),
                None => eprintln!("{report:?}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<ExitCode, miette::Report> {
    match arguments.command {
        None => run::run(arguments.run),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Doctor(args)) => doctor::run(args),
        Some(Command::Tune(args)) => tune::run(args),
        Some(Command::Load(args)) => load::run(&args),
        Some(Command::Histogram(args)) => histogram::run(&args),
        Some(Command::Config(args)) => config::run(args),
        #[cfg(feature = "sim")]
        Some(Command::Sim(args)) => sim::run(args),
        Some(Command::Completions(args)) => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(args.shell, &mut command, "ringfront", &mut script);
            print(&script)
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command())
                .render(&mut page)
                .map_err(|error| miette::miette!("cannot write the man page: {error}"))?;
            print(&page)
        }
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no error.
fn print(bytes: &[u8]) -> Result<ExitCode, miette::Report> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(miette::miette!("cannot write to stdout: {error}"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
