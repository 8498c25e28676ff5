//! `ringfront config`: the embedded default file, and the schema of the file.

use std::process::ExitCode;

use super::args::ConfigCommand;

pub fn run(_command: ConfigCommand) -> Result<ExitCode, miette::Report> {
    Err(miette::miette!("this revision has no default file yet"))
}
