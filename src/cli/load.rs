//! `ringfront load`: reads what was typed, runs the crowd, prints what became of it.

mod summary;
mod target;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use miette::{IntoDiagnostic, Report, WrapErr, miette};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::args::LoadArgs;
use crate::config::snapshot::{Group, Tls};
use crate::control::load::{Part, Run, Sample};
use crate::peer::crowd::{Load, Plan};
use crate::peer::expect::Expectations;
use crate::peer::scenario::{Scenario, Script, SizeFault, Theme};
use crate::peer::tally::{Phase, Tally};
use crate::telemetry::chart::{self, Curve};
use crate::telemetry::percentiles::{IntervalLog, distribution};
use crate::telemetry::recording::Recording;
use crate::tls::ClientSide;
use summary::{Sums, histograms};
use target::Target;

/// Between two samples: short enough that the edges of the measured window are sharp.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Size of OPTIONS and MESSAGE when none is given: a usual request.
const MESSAGE_BYTES_DEFAULT: u32 = 500;

pub fn run(args: &LoadArgs) -> Result<ExitCode, Report> {
    let expectations = args.expect.as_deref().unwrap_or("");
    let expectations = Expectations::parse(expectations).into_diagnostic()?;
    let parts = parts(args)?;
    let workers = parts.len() as u32;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.into_diagnostic().wrap_err("cannot start the control loop")?;
    let mut recording = args.svg.is_some().then(Recording::default);
    let sums = runtime.block_on(measure(args, parts, workers, recording.as_mut()))?;
    let text = match args.json {
        true => format!("{:#}\n", sums.json()),
        false => sums.text(),
    };
    super::print(text.as_bytes())?;
    if let Some(file) = &args.hgrm {
        let histogram = sums.tally.histogram(crate::peer::tally::Measure::Operation);
        write(file, distribution(histogram).as_bytes())?;
    }
    if let (Some(file), Some(recording)) = (&args.svg, &recording) {
        let title = format!("{} {}", args.scenario, args.target);
        let curve = |(tag, series): (&String, _)| Curve { name: tag.clone(), series };
        let curves: Vec<_> = recording.series.iter().map(curve).rev().collect();
        match chart::draw(&title, &curves) {
            Ok(svg) => write(file, svg.as_bytes())?,
            Err(fault) => eprintln!("no {}: {fault}", file.display()),
        }
    }
    let misses = expectations.judge(&sums.tally, sums.seconds());
    for miss in &misses {
        eprintln!("expected {}, found {}", miss.condition, miss.found);
    }
    let idle = args.scenario == Scenario::Idle.name();
    let nothing = sums.tally.completed_ever == 0 && !(idle && sums.tally.errors_total() == 0);
    Ok(if misses.is_empty() && !nothing { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the crowd to its end.
async fn measure(
    args: &LoadArgs,
    parts: Vec<Part>,
    workers: u32,
    mut recording: Option<&mut Recording>,
) -> Result<Sums, Report> {
    let mut log = args.hlog.as_deref().map(LogFile::create).transpose()?;
    let mut run = Run::start(parts).map_err(|fault| miette!("{fault}"))?;
    let mut sums = Sums::new(workers, &args.server_pid);
    let shows = args.progress || std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    let (mut interrupted, mut count, mut recent) = (false, 0_u32, Tally::new());
    let mut measured = Duration::ZERO;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => {
                if interrupted {
                    break;
                }
                interrupted = true;
                run.drain();
                continue;
            }
        }
        let sample = run.sample().await.map_err(|why| miette!("{why}"))?;
        sums.add(&sample, sample.tally.phase == Phase::Measuring);
        if let Some(log) = &mut log {
            log.interval(&sample)?;
        }
        let length = sample.tally.measured / workers;
        if let Some(recording) = recording.as_deref_mut().filter(|_| !length.is_zero()) {
            for (tag, histogram) in histograms(&sample.tally) {
                recording.add(tag, histogram, measured, length);
            }
            measured += length;
        }
        recent.add_interval(&sample.tally);
        count += 1;
        if shows && count.is_multiple_of(2) {
            eprintln!("{}", progress(&recent));
            recent.reset();
        }
        if sample.tally.phase == Phase::Done {
            break;
        }
    }
    run.stop();
    Ok(sums)
}

/// The second that has passed, in one line.
fn progress(recent: &Tally) -> String {
    let latency = recent.histogram(crate::peer::tally::Measure::Operation);
    let percentiles = match latency.is_empty() {
        true => String::new(),
        false => format!(
            ", p50 {:.0} us, p99 {:.0} us",
            latency.value_at_quantile(0.5) as f64 / 1e3,
            latency.value_at_quantile(0.99) as f64 / 1e3
        ),
    };
    format!(
        "{:<10} {} connections, {} under way, {}/s, {} errors{percentiles}",
        recent.phase.name(),
        recent.connections_open,
        recent.operations_open,
        recent.completed_ever,
        recent.errors_total()
    )
}

/// The interval log under way.
struct LogFile<'a> {
    path: &'a Path,
    file: std::fs::File,
    log: IntervalLog,
    since: SystemTime,
}

impl LogFile<'_> {
    fn create(path: &Path) -> Result<LogFile<'_>, Report> {
        let file = std::fs::File::create(path).into_diagnostic();
        let file = file.wrap_err_with(|| format!("cannot create {}", path.display()))?;
        let since = wall_clock();
        let mut log = LogFile { path, file, log: IntervalLog::new(since), since };
        let header = log.log.header();
        log.append(&header)?;
        Ok(log)
    }

    fn interval(&mut self, sample: &Sample) -> Result<(), Report> {
        let now = wall_clock();
        let length = now.duration_since(self.since).unwrap_or_default();
        let lines = self.log.lines(histograms(&sample.tally), self.since, length);
        self.since = now;
        self.append(&lines)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Report> {
        let path = self.path;
        let written = self.file.write_all(bytes).into_diagnostic();
        written.wrap_err_with(|| format!("cannot write {}", path.display()))
    }
}

#[expect(clippy::disallowed_methods, reason = "the log says when it was written")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Report> {
    std::fs::write(path, bytes)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot write {}", path.display()))
}

/// What each worker does.
fn parts(args: &LoadArgs) -> Result<Vec<Part>, Report> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let target = Target::parse(&args.target, &hosts)
        .map_err(|fault| miette!(help = fault.cure, "{fault}"))?;
    let scenario = Scenario::named(&args.scenario).ok_or_else(|| {
        let names: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
        miette!(help = format!("one of {}", names.join(", ")), "`{}` is no scenario", args.scenario)
    })?;
    if scenario.dials_each_time() && args.outstanding > 1 {
        return Err(miette!(
            help = "use --connections for more of them at once",
            "--outstanding does not go with {}: each operation has a connection of its own",
            scenario.name()
        ));
    }
    if scenario == Scenario::Storm && args.rate.is_some() {
        return Err(miette!(
            "--rate does not go with storm: all dial at once, as often as they can"
        ));
    }
    if u32::from(args.workers) > args.connections {
        return Err(miette!("{} workers need as many connections", args.workers));
    }
    if !args.core.is_empty() && args.core.len() != usize::from(args.workers) {
        return Err(miette!("--core names {} cores for {} workers", args.core.len(), args.workers));
    }
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(miette!("--rate is a number of arrivals per second above 0"));
    }
    let tls = if target.tls { Some(client_side(args, &target)?) } else { None };
    let seed = RandomState::new().build_hasher().finish();
    let workers = u32::from(args.workers);
    (0..workers)
        .map(|worker| {
            let tag = (seed as u32).wrapping_add(worker);
            let share = args.connections / workers;
            let connections = share + u32::from(worker < args.connections % workers);
            let load = match args.rate {
                Some(rate) => Load::Open {
                    per_second: rate * f64::from(connections) / f64::from(args.connections),
                },
                None => Load::Closed { outstanding: args.outstanding },
            };
            let crowd = Plan {
                target: target.address,
                tls: tls.clone(),
                scenario,
                script: script(args, &target, scenario, tag)?,
                load,
                connections,
                dials: args.dials,
                warm_up: args.warmup,
                duration: args.duration,
                timeout: args.timeout,
            };
            Ok(Part { crowd, core: args.core.get(worker as usize).copied() })
        })
        .collect()
}

fn script(
    args: &LoadArgs,
    target: &Target,
    scenario: Scenario,
    tag: u32,
) -> Result<Script, Report> {
    let default = format!("sip:load@{}", target.authority);
    let uri = args.uri.as_deref().unwrap_or(&default);
    let good = crate::sip::Uri::parse(uri.as_bytes())
        .is_ok_and(|uri| matches!(uri.scheme, crate::sip::Scheme::Sip | crate::sip::Scheme::Sips));
    if !good || uri.contains(['{', '}']) {
        return Err(miette!(help = "such as sip:bench@example.com", "`{uri}` is no SIP URI"));
    }
    let theme = |message_bytes| Theme {
        scenario,
        uri,
        transport: if target.tls { "TLS" } else { "TCP" },
        message_bytes,
        tag,
    };
    match args.message_bytes {
        Some(bytes) => Script::new(&theme(bytes)).map_err(|SizeFault { least, most }| {
            miette!("--message-bytes is from {least} to {most} for {}, or 0", scenario.name())
        }),
        None => Script::new(&theme(MESSAGE_BYTES_DEFAULT))
            .or_else(|_| Script::new(&theme(0)))
            .map_err(|_| miette!("the URI is too long")),
    }
}

fn client_side(args: &LoadArgs, target: &Target) -> Result<ClientSide, Report> {
    let authorities = match (&args.ca, args.insecure) {
        (Some(file), _) => authorities(file)?,
        (None, true) => Vec::new(),
        (None, false) => {
            return Err(miette!(
                help = "--ca FILE names the CA certificates to trust; --insecure believes whoever answers",
                "a TLS target needs --ca or --insecure"
            ));
        }
    };
    let groups = match args.group.as_slice() {
        [] => vec![Group::X25519MlKem768, Group::X25519, Group::P256, Group::P384],
        names => names.iter().map(|name| group(name)).collect::<Result<_, _>>()?,
    };
    let tls = Tls { groups, ..Tls::default() };
    let name = args.server_name.as_deref().unwrap_or(&target.host);
    let clock = Arc::new(DefaultTimeProvider);
    ClientSide::for_load(name, &authorities, args.resume, &tls, clock).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        miette!("cannot speak TLS to {name}: {}", faults.join("; "))
    })
}

fn authorities(file: &Path) -> Result<Vec<Vec<u8>>, Report> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
    let certificates = certificates
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot read CA certificates from {}", file.display()))?;
    if certificates.is_empty() {
        return Err(miette!("{} holds no certificate", file.display()));
    }
    Ok(certificates.iter().map(|certificate| certificate.to_vec()).collect())
}

fn group(name: &str) -> Result<Group, Report> {
    let known = [
        ("X25519MLKEM768", Group::X25519MlKem768),
        ("X25519", Group::X25519),
        ("P-256", Group::P256),
        ("P-384", Group::P384),
    ];
    let found = known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, group)| group).ok_or_else(|| {
        miette!(help = "X25519MLKEM768, X25519, P-256 or P-384", "`{name}` is no key exchange")
    })
}

/// A duration with a unit: ms, s, m or h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("`{text}` is no time; write 500ms, 10s, 2m or 1h");
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(fault)?;
    let (number, unit) = text.split_at(at);
    let seconds: f64 = number.trim().parse().map_err(|_| fault())?;
    let scale = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(fault()),
    };
    Duration::try_from_secs_f64(seconds * scale).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["10", "s", "-1s", "1d", "nans", "1e300h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_scenario_of_the_help_exists() {
        let command = <super::super::args::Arguments as clap::CommandFactory>::command();
        let load = command.find_subcommand("load").unwrap();
        let help = load.get_arguments().find(|argument| argument.get_id() == "scenario").unwrap();
        let help = help.get_help().unwrap().to_string();
        for scenario in Scenario::ALL {
            assert!(help.contains(scenario.name()), "{}", scenario.name());
        }
    }
}
