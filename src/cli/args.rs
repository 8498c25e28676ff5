//! The command line as typed: one table of commands, from which help, man page and completions are drawn.
//! Never reads a file, never decides.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\nSIP over TCP and TLS, on per-core io_uring loops. No UDP, by design."
);

/// A SIP front-end for TCP and TLS on per-core io_uring loops.
///
/// Without a command: the same as `ringfront run`.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringfront", version, long_version = VERSION, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, propagate_version = false)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Check(CheckArgs),
    Doctor(super::doctor::DoctorArgs),
    Tune(super::tune::TuneArgs),
    Load(Box<LoadArgs>),
    Histogram(HistogramArgs),
    #[command(subcommand)]
    Config(ConfigCommand),
    #[cfg(feature = "sim")]
    Sim(SimArgs),
    Completions(CompletionsArgs),
    /// Print the man page, for `man -l -`.
    Man,
}

/// Start the front-end (the same as no command).
///
/// Without --config the embedded default starts: SIP over TLS on port 5061 and over TCP on port 5060 of 127.0.0.1 and
/// ::1, with a registrar and user agent server behind it. Logs go to stderr.
///
/// SIGTERM and SIGINT drain, then stop.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Configuration file (TOML); `ringfront config default` prints one to start from.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Say everything that is wrong with a configuration, or what it settles to.
///
/// Prints every fault at once, each with line, column, why and cure. When there is none: the settled configuration, and
/// the memory that it may take. Starts nothing. Exits with 0 when the file is good, 1 when it has faults.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON document, for scripts.
    #[arg(long)]
    pub json: bool,
}

/// Print the embedded default configuration, or its JSON Schema.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// The embedded default as a file: every key, its default, and what it means.
    Default,
    /// JSON Schema of the file, for editors.
    Schema,
}

/// Print a completion script for a shell: bash, elvish, fish, powershell or zsh.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Make load: many SIP clients on the same loop as the front-end, and what became of them.
///
/// Prints throughput, errors, responses and the latency table. With --rate it is an open loop: arrivals come at equal
/// distances whatever the server does, and latency counts from the intended start. Otherwise each connection keeps
/// --outstanding operations under way. Exits with 1 when --expect is not met, or when nothing was completed.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// tls:HOST:PORT or tcp:HOST:PORT. HOST is an address ([::1] for IPv6), localhost, or a name in /etc/hosts; no
    /// name server is asked, since that would be UDP.
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// What each client does: options, register (one user for each connection, renewed), message, call (INVITE, 180,
    /// 200, ACK, BYE, 200), handshake (dial, TLS, CRLF ping, reset), idle (hold connections), churn (dial, TLS, one
    /// OPTIONS, close), storm (all dial at once and register, again and again).
    #[arg(long, value_name = "NAME", default_value = "options")]
    pub scenario: String,
    /// Connections, over all workers; for handshake and churn the most at once, for storm all at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Connections being made at once, by each worker; all of them at once are a storm.
    #[arg(long, value_name = "N", default_value_t = crate::peer::crowd::DIALS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub dials: u32,
    /// Closed loop: operations under way on each connection.
    #[arg(long, value_name = "K", default_value_t = 1, conflicts_with = "rate")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub outstanding: u32,
    /// Open loop: arrivals per second, over all connections.
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Measured time, such as 10s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::load::duration)]
    pub duration: Duration,
    /// Time of work before it, which is not measured.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = super::load::duration)]
    pub warmup: Duration,
    /// Longest wait for an operation; then it is an error.
    #[arg(long, value_name = "TIME", default_value = "32s", value_parser = super::load::duration)]
    pub timeout: Duration,
    /// Size of each request, padded by a header; 0: as small as it is. Default: 500, or the least that is possible.
    #[arg(long, value_name = "BYTES")]
    pub message_bytes: Option<u32>,
    /// Request-URI. Default: sip:load@HOST:PORT of the target. REGISTER takes its host.
    #[arg(long, value_name = "URI")]
    pub uri: Option<String>,
    /// CA certificates (PEM) that may vouch for the server.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Believe whoever answers.
    #[arg(long)]
    pub insecure: bool,
    /// Name that the server's certificate must carry, also sent as SNI. Default: HOST of the target.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Resume TLS sessions; without it every handshake is a full one.
    #[arg(long)]
    pub resume: bool,
    /// Key exchange to offer, most wanted first: X25519MLKEM768, X25519, P-256, P-384. May be given several times.
    /// Default: all of them in this order.
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,
    /// Threads, each with its own ring and its share of connections and rate.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// Cores to pin the workers to, in order, such as 2,3.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub core: Vec<usize>,
    /// Processes of the server, on this host, whose CPU time per operation is shown, such as 812,813.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// Write an interval log (HdrHistogram V2), one line for each half second and kind of latency.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Write the percentile distribution of the operations' latency.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Draw the latency as SVG: percentiles, and over time.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub json: bool,
    /// Print a line each second to stderr, also when that is no terminal.
    #[arg(long)]
    pub progress: bool,
    /// Conditions that must hold, such as 'p99<5ms,errors=0'. Quantities: pN, mean, max, errors, operations, rate.
    #[arg(long, value_name = "CONDITIONS")]
    pub expect: Option<String>,
}

/// Print or draw recorded latency: interval logs of ringfront, or of anything else that writes HdrHistogram's V2 form.
///
/// Prints a table of percentiles for each log, one line for each tag (the kind of latency). With several logs --svg
/// draws them over one another. Values are read as nanoseconds, unless --unit says otherwise.
#[derive(Args, Clone, Debug)]
pub struct HistogramArgs {
    /// Interval logs (`.hlog`).
    #[arg(value_name = "FILE.hlog", required = true)]
    pub files: Vec<PathBuf>,
    /// Only this kind of latency, such as transaction or operation; for --hgrm and the chart over time the one with the
    /// most values when none is named.
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Draw the percentiles, and the latency over time.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the percentile distribution (HdrHistogram's `.hgrm`), of one log.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub json: bool,
    /// What the log counts in: ns, us or ms.
    #[arg(long, value_name = "UNIT", default_value = "ns", value_parser = ["ns", "us", "ms"])]
    pub unit: String,
}

/// Run the front-end in a made-up world, seed by seed, and judge all that happens.
///
/// Each seed draws a network, a kernel, phones, backends and their faults. A failing seed prints what was violated and
/// the last events as a ladder. Over 100 seeds or more, each class of faults must have struck and each judge compared.
/// Exits with 0 when all is well, 1 when not.
#[cfg(feature = "sim")]
#[derive(Args, Clone, Debug)]
pub struct SimArgs {
    /// One seed.
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// Seeds from A to B, B excluded [default: 0..100]
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Option<Seeds>,
    /// How many of the last events a failing seed prints.
    #[arg(long, value_name = "N", default_value_t = crate::sim::RUNGS)]
    pub events: usize,
}

/// A range of seeds; never empty.
#[cfg(feature = "sim")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub std::ops::Range<u64>);

#[cfg(feature = "sim")]
fn seeds(text: &str) -> Result<Seeds, String> {
    let range = text.split_once("..").and_then(|(from, to)| {
        let range = from.parse().ok()?..to.parse().ok()?;
        (range.start < range.end).then_some(range)
    });
    range.map(Seeds).ok_or_else(|| "expected A..B, B above A, as in 0..1000".to_owned())
}
