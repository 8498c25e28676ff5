//! `ringfront run`: the front-end.

use std::process::ExitCode;

use super::args::RunArgs;
use crate::config::{self, Finding};
use crate::control;
use crate::control::reload::{Refused, Reload};

pub fn run(args: RunArgs) -> Result<ExitCode, miette::Report> {
    let host = super::facts::host()?;
    let settled = config::load(args.config.as_deref(), &host)?;
    let user = host.user;
    // The facts are read anew: certificates are judged by the time of the reload. But the cores stay: by then this
    // thread may be pinned to one (`node.housekeeping_core`), which says nothing of the process.
    let (file, cores) = (args.config.clone(), host.cores.clone());
    let reload = move || {
        let mut host = super::facts::host()
            .map_err(|report| Refused { faults: vec![report.to_string()], files: Vec::new() })?;
        host.cores.clone_from(&cores);
        config::load(args.config.as_deref(), &host).map_err(|faults| Refused {
            faults: faults.faults.iter().map(Finding::line).collect(),
            files: faults.files,
        })
    };
    match control::run(settled, user, Reload::new(file, Box::new(reload))) {
        Ok(None) => Ok(ExitCode::SUCCESS),
        // What was lost stands in the log.
        Ok(Some(_)) => Ok(ExitCode::FAILURE),
        Err(fault) => {
            eprintln!("{fault}");
            Ok(ExitCode::FAILURE)
        }
    }
}
