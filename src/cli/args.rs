//! The command line as typed: one table of commands, from which help, man page and completions are drawn.
//! Never reads a file, never decides.

use std::path::PathBuf;

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
    #[command(subcommand)]
    Config(ConfigCommand),
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
