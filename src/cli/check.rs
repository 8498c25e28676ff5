//! `ringfront check`: every fault of a configuration, or what it settles to, what it may take, and what to know.

use std::process::ExitCode;

use serde_json::json;

use super::args::CheckArgs;
use crate::config::{self, Faults, Finding, Settled, render};
use crate::control::memory::{self, Sum};

pub fn run(args: CheckArgs) -> Result<ExitCode, miette::Report> {
    let outcome = config::load(Some(&args.config), &super::facts::host()?);
    if args.json {
        let (document, code) = match &outcome {
            Ok(settled) => (good(&args, settled), ExitCode::SUCCESS),
            Err(faults) => (bad(faults), ExitCode::FAILURE),
        };
        super::print(format!("{document:#}\n").as_bytes())?;
        return Ok(code);
    }
    let settled = outcome?;
    for note in &settled.notes {
        eprint!("{}", note.text(&settled.source));
    }
    let page = format!(
        "# {} is good. It settles to:\n\n{}\n# Memory that it may take, beside the kernel's own:\n#\n{}",
        args.config.display(),
        render::toml(&settled.snapshot, &settled.control),
        table(&memory::sums(&settled.snapshot, &settled.control)),
    );
    super::print(page.as_bytes())
}

fn good(args: &CheckArgs, settled: &Settled) -> serde_json::Value {
    let sums = memory::sums(&settled.snapshot, &settled.control);
    let total: u64 = sums.iter().map(Sum::bytes).sum();
    let sums = sums.iter().map(|sum| {
        json!({ "what": sum.what, "count": sum.count, "bytes_each": sum.each, "bytes": sum.bytes() })
    });
    json!({
        "file": args.config.display().to_string(),
        "good": true,
        "faults": [],
        "notes": settled.notes.iter().map(finding).collect::<Vec<_>>(),
        "settled": render::json(&settled.snapshot, &settled.control),
        "memory": { "bytes": total, "sums": sums.collect::<Vec<_>>() },
    })
}

fn bad(faults: &Faults) -> serde_json::Value {
    json!({
        "file": faults.file.display().to_string(),
        "good": false,
        "faults": faults.faults.iter().map(finding).collect::<Vec<_>>(),
        "notes": [],
    })
}

fn finding(finding: &Finding) -> serde_json::Value {
    json!({
        "key": finding.key,
        "line": finding.place.as_ref().map(|place| place.line),
        "column": finding.place.as_ref().map(|place| place.column),
        "why": finding.why,
        "cure": finding.cure,
    })
}

/// The sums as comment lines, so that the whole page is TOML.
fn table(sums: &[Sum]) -> String {
    let total: u64 = sums.iter().map(Sum::bytes).sum();
    let lines = sums.iter().map(|sum| {
        let each = memory::human(sum.each);
        format!(
            "# {:>10}  = {:>7} x {each:>9}  {}\n",
            memory::human(sum.bytes()),
            sum.count,
            sum.what
        )
    });
    let total = format!("# {:>10}  at most, all together\n", memory::human(total));
    lines.chain(std::iter::once(total)).collect()
}
