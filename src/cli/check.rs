//! `ringfront check`: every fault of a configuration, or what it settles to.

use std::process::ExitCode;

use super::args::CheckArgs;
use crate::config;

pub fn run(args: CheckArgs) -> Result<ExitCode, miette::Report> {
    let settled = config::load(Some(&args.config), &super::facts::host()?)?;
    super::print(format!("{:#?}\n", settled.snapshot).as_bytes())
}
