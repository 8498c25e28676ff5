//! `ringfront histogram`: reads interval logs, prints their percentiles, draws them.

use std::path::Path;
use std::process::ExitCode;

use miette::{IntoDiagnostic, Report, WrapErr, miette};

use super::args::HistogramArgs;
use crate::telemetry::chart::{self, Curve};
use crate::telemetry::percentiles::{Summary, distribution, table_of};
use crate::telemetry::recording::{Recording, Series};

pub fn run(args: &HistogramArgs) -> Result<ExitCode, Report> {
    let nanos = match args.unit.as_str() {
        "ms" => 1_000_000,
        "us" => 1_000,
        _ => 1,
    };
    let logs = args.files.iter().map(|file| Ok((name_of(file), read(file, nanos)?)));
    let mut logs: Vec<(String, Recording)> = logs.collect::<Result<_, Report>>()?;
    if let Some(tag) = &args.tag {
        for (name, log) in &mut logs {
            let known: Vec<_> = log.series.keys().cloned().collect();
            log.series.retain(|key, _| key == tag);
            if log.series.is_empty() {
                return Err(miette!(
                    help = format!("it has {}", known.join(", ")),
                    "{name} has no `{tag}`"
                ));
            }
        }
    }
    if let Some(file) = &args.hgrm {
        let [(_, log)] = &logs[..] else {
            return Err(miette!(help = "name one log", "--hgrm is of one log"));
        };
        write(file, distribution(&log.series[log.busiest()].total).as_bytes())?;
    }
    if let Some(file) = &args.svg {
        let curves = curves(&logs);
        let svg = chart::draw(&title(&logs), &curves).map_err(|fault| miette!("{fault}"))?;
        write(file, svg.as_bytes())?;
    }
    let text = if args.json { json(&logs) } else { text(&logs) };
    super::print(text.as_bytes())
}

/// One log: all that it has. Several: the same kind of latency of each.
fn curves(logs: &[(String, Recording)]) -> Vec<Curve<'_>> {
    let curve = |name: String, series| Curve { name, series };
    if let [(_, log)] = logs {
        let mut all: Vec<_> = log.series.iter().collect();
        // The one that is drawn over time comes first.
        all.sort_by_key(|(tag, _)| tag.as_str() != log.busiest());
        return all.into_iter().map(|(tag, series)| curve(tag.clone(), series)).collect();
    }
    let common = |tag: &str| logs.iter().all(|(_, log)| log.series.contains_key(tag));
    let tag = logs.first().map(|(_, log)| log.busiest()).filter(|tag| common(tag));
    let of = |log: &'_ Recording| tag.unwrap_or(log.busiest()).to_owned();
    logs.iter()
        .map(|(name, log)| {
            let tag = of(log);
            curve(format!("{name}: {tag}"), &log.series[&tag])
        })
        .collect()
}

fn title(logs: &[(String, Recording)]) -> String {
    match logs {
        [(name, _)] => name.clone(),
        _ => format!("{} logs", logs.len()),
    }
}

fn text(logs: &[(String, Recording)]) -> String {
    let mut text = String::new();
    for (name, log) in logs {
        if logs.len() > 1 {
            text.push_str(&format!("{name}\n"));
        }
        let totals = log.series.iter().map(|(tag, series)| (tag.as_str(), &series.total));
        text.push_str(&table_of(totals));
    }
    text
}

/// Nanoseconds, as everywhere in JSON.
fn json(logs: &[(String, Recording)]) -> String {
    let of = |series: &Series| {
        let seconds =
            series.intervals.last().map_or(0.0, |it| (it.start + it.length).as_secs_f64());
        serde_json::json!({
            "summary": Summary::of_histogram(&series.total),
            "intervals": series.intervals.len(),
            "seconds": seconds,
        })
    };
    let logs: serde_json::Map<_, _> = logs
        .iter()
        .map(|(name, log)| {
            let tags = log.series.iter().map(|(tag, series)| (tag.clone(), of(series)));
            (name.clone(), serde_json::Value::Object(tags.collect()))
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Object(logs))
}

fn name_of(file: &Path) -> String {
    file.display().to_string()
}

fn read(file: &Path, nanos: u64) -> Result<Recording, Report> {
    let bytes = std::fs::read(file)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot read {}", file.display()))?;
    Recording::read(&bytes, nanos).map_err(|fault| {
        miette!(
            help = "an interval log of HdrHistogram, V2: what --hlog and [latency] log write",
            "{}: {fault}",
            file.display()
        )
    })
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Report> {
    std::fs::write(file, bytes)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot write {}", file.display()))
}
