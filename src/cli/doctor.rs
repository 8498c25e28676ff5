//! `ringfront doctor`: reads this host and says what stands in the way. Only reads.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use super::tune::{LIVE, inputs, pretty};
use crate::host::catalogue::Profile;
use crate::host::checks::{Examination, Finding, Severity, examine};
use crate::host::facts::{Ability, Facts, Refusal, RingFacts};
use crate::host::journal;
use crate::host::plan::Selection;
use crate::host::tune::Tune;
use crate::sys::probe;

/// Read this host: what stands between it and its best.
///
/// Kernel and ring, limits, cores, network card, interrupts, connection tracking, TCP, certificates, clock, UDP. Each
/// finding comes with why it matters and its cure. Writes nothing and needs no privilege (as root it sees more). Exits
/// with 1 when there is a "must".
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Configuration to judge the host for: listen addresses, cores, connections, certificates.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this interface whatever the configuration listens on (may be repeated).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    interface: Vec<String>,
    /// Print one JSON document, for scripts.
    #[arg(long)]
    json: bool,
    /// Show what is as it should be, too.
    #[arg(long, short)]
    all: bool,
}

pub fn run(args: DoctorArgs) -> Result<ExitCode, miette::Report> {
    let (inputs, settled) = inputs(args.config.as_deref(), &args.interface, &[])?;
    #[expect(clippy::disallowed_methods, reason = "a command reads the clock once, at its start")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let snapshot = settled.as_ref().map(|settled| &settled.snapshot);
    let facts = Facts::read(LIVE.root, &inputs.ports, snapshot, now.cast_signed());
    let tune = Tune { host: LIVE, inputs: &inputs, folder: journal::FOLDER };
    let (sizing, rows) = tune.plan(&Selection { profile: Profile::Throughput, only: Vec::new() });
    let findings = examine(&Examination {
        facts: &facts,
        ring: &ring_facts(),
        sizing: &sizing,
        rows: &rows,
        configured: settled.is_some(),
    });
    let text = if args.json { json_text(&findings) } else { plain_text(&findings, args.all) };
    super::print(text.as_bytes())?;
    let must = findings.iter().any(|finding| finding.severity == Severity::Must);
    Ok(if must { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the kernel's ring can do, by the probe that the daemon runs at its start.
fn ring_facts() -> RingFacts {
    match probe::run() {
        Ok(report) => {
            let abilities = report.abilities.iter().map(|one| Ability {
                name: one.name,
                since: one.since,
                present: one.found,
                needed: one.needed,
            });
            RingFacts { refused: None, abilities: abilities.collect() }
        }
        Err(fault) => RingFacts {
            refused: Some(Refusal { what: fault.what, cure: fault.cure }),
            abilities: Vec::new(),
        },
    }
}

fn json_text(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let summary: serde_json::Map<String, serde_json::Value> = Severity::ALL
        .into_iter()
        .map(|severity| (severity.name().to_owned(), json!(count(severity))))
        .collect();
    pretty(&json!({"findings": findings, "summary": summary}))
}

fn plain_text(findings: &[Finding], all: bool) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|one| all || one.severity != Severity::Ok) {
        text.push_str(&format!(
            "{:<7} {}: {}\n",
            finding.severity.name(),
            finding.id,
            finding.what
        ));
        if let Some(why) = &finding.why {
            text.push_str(&format!("        why:  {why}\n"));
        }
        if let Some(cure) = &finding.cure {
            text.push_str(&format!("        cure: {cure}\n"));
        }
    }
    let count = |severity| findings.iter().filter(|one| one.severity == severity).count();
    let words: Vec<String> = Severity::ALL
        .into_iter()
        .map(|severity| format!("{} {}", count(severity), severity.name()))
        .collect();
    text.push_str(&format!("{}\n", words.join(", ")));
    text
}
