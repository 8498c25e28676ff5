//! `ringfront run`.

use std::process::ExitCode;

use super::args::RunArgs;
use crate::config;

pub fn run(args: RunArgs) -> Result<ExitCode, miette::Report> {
    let settled = config::load(args.config.as_deref(), &super::facts::host()?)?;
    Err(miette::miette!(
        help = "build the next revision",
        "the configuration of node {} is good, but this revision has no control plane to start it",
        settled.snapshot.node
    ))
}
