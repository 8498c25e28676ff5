//! `ringfront tune`: the words of the engine in `host::tune`. Prints, asks for nothing, decides nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::config;
use crate::host::catalogue::{Catalogue, Profile};
use crate::host::guard::NftCommand;
use crate::host::netlink::KernelNic;
use crate::host::plan::{Row, Selection, State};
use crate::host::setting::Host;
use crate::host::sizing::{ASSUMABLE, Inputs, Sizing};
use crate::host::sysroot::{LiveRoot, Sysroot as _};
use crate::host::tune::{Done, Outcome, Permissions, Stopped, Tune, Verdict};
use crate::host::{journal, persist};

/// Set this host up for ringfront, and take it back exactly.
///
/// Each tunable is an entry of the catalogue (docs/tuning.md). `plan` shows the literal writes and writes nothing; `apply`
/// notes each old value in a journal before it writes; `revert` puts back what is still as we wrote it. Exits with 0 when
/// all is as wanted, 1 when something differs, 2 on an error, 3 when nothing applies here.
#[derive(Args, Clone, Debug)]
pub struct TuneArgs {
    #[command(subcommand)]
    command: TuneCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum TuneCommand {
    /// Every tunable: class, how it stands on this host, what for.
    List {
        #[command(flatten)]
        host: HostArgs,
        /// Print docs/tuning.md instead.
        #[arg(long, conflicts_with = "json")]
        markdown: bool,
        #[arg(long, help = JSON)]
        json: bool,
    },
    /// Why a tunable is there, when it hurts, how to read and write it by hand, and how it stands here.
    Explain {
        /// Identifier, as in `tune list`.
        id: String,
        #[command(flatten)]
        host: HostArgs,
        #[arg(long, value_enum, default_value_t, help = PROFILE)]
        profile: Profile,
    },
    /// What `apply` would write, literally. Writes nothing to the host.
    Plan {
        #[command(flatten)]
        host: HostArgs,
        #[command(flatten)]
        choice: ChoiceArgs,
        /// Put the writes into a shell script (`-`: standard output).
        #[arg(long, value_name = "OUT", conflicts_with = "json")]
        script: Option<PathBuf>,
        #[arg(long, help = JSON)]
        json: bool,
    },
    /// Say what differs from the profile, for monitoring.
    Check {
        #[command(flatten)]
        host: HostArgs,
        #[command(flatten)]
        choice: ChoiceArgs,
        /// What cannot be changed counts as a difference too.
        #[arg(long)]
        strict: bool,
        #[arg(long, help = JSON)]
        json: bool,
    },
    /// Write, with the old values in a journal first, and read back.
    Apply {
        #[command(flatten)]
        host: HostArgs,
        #[command(flatten)]
        choice: ChoiceArgs,
        #[command(flatten)]
        allow: AllowArgs,
        /// Write settings that somebody else sets too (rows of state `conflict`).
        #[arg(long)]
        force: bool,
        /// Also leave files that do the same after a reboot: sysctl.d, a service unit, a udev rule.
        #[arg(long)]
        persist: bool,
        #[arg(long, help = JSON)]
        json: bool,
    },
    /// Put back what was written, unless somebody else has changed it since.
    Revert {
        #[command(flatten)]
        state: StateArgs,
        #[arg(long, value_name = "ID", value_delimiter = ',', help = ONLY)]
        only: Vec<String>,
        #[command(flatten)]
        allow: AllowArgs,
        #[arg(long, help = JSON)]
        json: bool,
    },
    /// What is held since boot, and what has drifted from what was written.
    Status {
        #[command(flatten)]
        state: StateArgs,
        #[arg(long, help = JSON)]
        json: bool,
    },
}

const JSON: &str = "Print one JSON document, for scripts";
const ONLY: &str = "Only these tunables (comma-separated, may be repeated)";
const PROFILE: &str = "What to aim at; each contains the one before";

#[derive(Args, Clone, Debug)]
struct HostArgs {
    /// Configuration to size for: listen addresses, cores, connections.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this interface whatever the configuration listens on (may be repeated).
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    interface: Vec<String>,
    /// Size for another load: R, P, S, D or C of docs/tuning.md (`--assume R=5000`; may be repeated).
    #[arg(long, value_name = "NAME=NUMBER", value_parser = assumption)]
    assume: Vec<(String, f64)>,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Args, Clone, Debug)]
struct ChoiceArgs {
    #[arg(long, value_name = "ID", value_delimiter = ',', help = ONLY)]
    only: Vec<String>,
    #[arg(long, value_enum, default_value_t, help = PROFILE)]
    profile: Profile,
}

#[derive(Args, Clone, Copy, Debug)]
struct AllowArgs {
    /// Take the link down for a moment even while ringfront serves.
    #[arg(long)]
    allow_link_reset: bool,
}

#[derive(Args, Clone, Debug)]
struct StateArgs {
    /// Where the journal lies.
    #[arg(long, value_name = "DIR", default_value = journal::FOLDER)]
    state_dir: String,
}

fn assumption(text: &str) -> Result<(String, f64), String> {
    let (name, number) = text.split_once('=').ok_or("NAME=NUMBER is wanted")?;
    if !ASSUMABLE.contains(&name) {
        return Err(format!("`{name}` is none of {}", ASSUMABLE.join(", ")));
    }
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    if !(number.is_finite() && (0.0..1e12).contains(&number)) {
        return Err(format!("{number} is out of range"));
    }
    Ok((name.to_owned(), number))
}

/// What a configuration and the command line say of the host to tune.
///
/// # Errors
/// The configuration has faults, or an interface does not exist.
pub(super) fn inputs(
    config: Option<&Path>,
    interfaces: &[String],
    assume: &[(String, f64)],
) -> Result<(Inputs, Option<config::Settled>), miette::Report> {
    let settled = match config {
        Some(path) => {
            let mut facts = super::facts::host()?;
            // Root tunes for the service: its key files are the service user's, and rightly so.
            if facts.user == 0 {
                facts.user = service_user().unwrap_or(0);
            }
            Some(config::load(Some(path), &facts)?)
        }
        None => None,
    };
    let mut inputs = settled
        .as_ref()
        .map_or_else(Inputs::default, |settled| Inputs::of(&settled.snapshot, &settled.control));
    let known = LiveRoot.list("/sys/class/net").unwrap_or_default();
    for interface in interfaces {
        if !known.contains(interface) {
            return Err(miette::miette!(
                help = format!("there are: {}", known.join(", ")),
                "no interface `{interface}`"
            ));
        }
    }
    inputs.interfaces = interfaces.to_vec();
    inputs.assume = assume.iter().cloned().collect();
    Ok((inputs, settled))
}

/// The user id of `ringfront` in passwd(5), as tuning/systemd/ringfront.service has it.
fn service_user() -> Option<u32> {
    let users = LiveRoot.read("/etc/passwd").ok()?;
    let line = users.lines().find_map(|line| line.strip_prefix("ringfront:"))?;
    line.split(':').nth(1)?.parse().ok()
}

pub(super) const LIVE: Host<'static> =
    Host { root: &LiveRoot, nic: &KernelNic, firewall: &NftCommand };

pub fn run(args: TuneArgs) -> Result<ExitCode, miette::Report> {
    match command(args.command) {
        Ok((text, verdict)) => {
            super::print(text.as_bytes())?;
            Ok(ExitCode::from(verdict.code()))
        }
        Err(report) => {
            match report.downcast_ref::<config::Faults>() {
                Some(faults) => eprint!("{}", faults.text()),
                None => eprintln!("{report:?}"),
            }
            Ok(ExitCode::from(Verdict::Error.code()))
        }
    }
}

fn command(command: TuneCommand) -> Result<(String, Verdict), miette::Report> {
    match command {
        TuneCommand::List { markdown: true, .. } => {
            Ok((Catalogue::embedded().markdown(), Verdict::Fine))
        }
        TuneCommand::List { host, json, .. } => list(&host, json),
        TuneCommand::Explain { id, host, profile } => explain(&host, &id, profile),
        TuneCommand::Plan { host, choice, script, json } => plan(&host, choice, script, json),
        TuneCommand::Check { host, choice, strict, json } => {
            let (selection, sizing, rows) = look(&host, choice)?;
            let verdict = Verdict::of_rows(&rows, strict);
            let text = match json {
                true => rows_json(&selection, &sizing, &rows, verdict),
                false => check_text(&rows, strict),
            };
            Ok((text, verdict))
        }
        TuneCommand::Apply { host, choice, allow, force, persist, json } => {
            let allowed = Permissions { link_reset: allow.allow_link_reset, conflict: force };
            apply(&host, choice, allowed, persist, json)
        }
        TuneCommand::Revert { state, only, allow, json } => {
            known(&only)?;
            let allowed = Permissions { link_reset: allow.allow_link_reset, conflict: false };
            revert(&state, &only, allowed, json)
        }
        TuneCommand::Status { state, json } => status(&state, json),
    }
}

fn known(ids: &[String]) -> Result<(), miette::Report> {
    for id in ids {
        Catalogue::embedded()
            .entry(id)
            .map_err(|unknown| miette::miette!(help = "ringfront tune list", "{unknown}"))?;
    }
    Ok(())
}

fn look(
    host: &HostArgs,
    choice: ChoiceArgs,
) -> Result<(Selection, Sizing, Vec<Row>), miette::Report> {
    known(&choice.only)?;
    let (inputs, _) = inputs(host.config.as_deref(), &host.interface, &host.assume)?;
    let selection = Selection { profile: choice.profile, only: choice.only };
    let tune = Tune { host: LIVE, inputs: &inputs, folder: &host.state.state_dir };
    let (sizing, rows) = tune.plan(&selection);
    Ok((selection, sizing, rows))
}

fn list(host: &HostArgs, json: bool) -> Result<(String, Verdict), miette::Report> {
    let all: Vec<String> = Catalogue::embedded().entries().map(|entry| entry.id.clone()).collect();
    let choice = ChoiceArgs { only: all, profile: Profile::LowLatency };
    let (_, _, rows) = look(host, choice)?;
    let mut text =
        format!("{:<28} {:<7} {:<13} {:<12} PURPOSE\n", "ID", "CLASS", "HERE", "PROFILES");
    let mut items = Vec::new();
    for entry in Catalogue::embedded().entries() {
        // How the whole entry stands: its most telling row.
        const TELLING: [State; 6] = [
            State::Conflict,
            State::Drift,
            State::Unchangeable,
            State::Ok,
            State::Report,
            State::NotApplicable,
        ];
        let here = TELLING
            .into_iter()
            .find(|state| rows.iter().any(|row| row.id == entry.id && row.state == *state))
            .unwrap_or(State::NotApplicable);
        let profiles = match entry.profiles.as_slice() {
            [] => "-",
            all if all.len() == Profile::ALL.len() => "all",
            [one] => one.name(),
            _ => "beyond base",
        };
        text.push_str(&format!(
            "{:<28} {:<7} {here:<13} {profiles:<12} {}\n",
            entry.id,
            entry.class.name(),
            entry.purpose
        ));
        items.push(json!({
            "id": entry.id, "class": entry.class.name(), "here": here.name(), "purpose": entry.purpose,
            "profiles": entry.profiles.iter().map(|profile| profile.name()).collect::<Vec<_>>(),
        }));
    }
    if json {
        text = pretty(&json!(items));
    }
    Ok((text, Verdict::Fine))
}

fn explain(
    host: &HostArgs,
    id: &str,
    profile: Profile,
) -> Result<(String, Verdict), miette::Report> {
    let choice = ChoiceArgs { only: vec![id.to_owned()], profile };
    let (_, _, rows) = look(host, choice)?;
    let entry = Catalogue::embedded()
        .entry(id)
        .map_err(|unknown| miette::miette!(help = "ringfront tune list", "{unknown}"))?;
    let profiles: Vec<&str> = entry.profiles.iter().map(|profile| profile.name()).collect();
    let profiles =
        if profiles.is_empty() { "only with --only".into() } else { profiles.join(", ") };
    let persists = match entry.class.name() {
        "sysctl" => "no; apply --persist writes it to /etc/sysctl.d/90-ringfront.conf",
        "sysfs" | "nic" | "nft" => "no; apply --persist installs a unit that applies it at boot",
        _ => "not written here",
    };
    let mut text = format!("{}: {}\n\n", entry.id, entry.purpose);
    for (name, words) in [
        ("class", entry.class.name()),
        ("profiles", profiles.as_str()),
        ("wanted", &entry.formula),
        ("why", &entry.why),
        ("when it hurts", &entry.hurts),
        ("read", &entry.read),
        ("write", &entry.write),
        ("revert", &format!("ringfront tune revert --only {}", entry.id)),
        ("persists", persists),
        ("does not apply", &entry.not_applicable),
    ] {
        text.push_str(&format!("{name:>15}  {words}\n"));
    }
    text.push_str("\nhere:\n");
    for row in &rows {
        text.push_str(&row_line(row));
    }
    Ok((text, Verdict::Fine))
}

fn plan(
    host: &HostArgs,
    choice: ChoiceArgs,
    script: Option<PathBuf>,
    json: bool,
) -> Result<(String, Verdict), miette::Report> {
    let (selection, sizing, rows) = look(host, choice)?;
    let verdict = Verdict::of_rows(&rows, false);
    if json {
        return Ok((rows_json(&selection, &sizing, &rows, verdict), verdict));
    }
    let Some(out) = script else { return Ok((plan_text(&selection, &sizing, &rows), verdict)) };
    let text = script_text(&selection, &rows);
    if out.as_os_str() == "-" {
        return Ok((text, verdict));
    }
    write_script(&out, &text)?;
    Ok((format!("{} written\n", out.display()), verdict))
}

fn write_script(out: &Path, text: &str) -> Result<(), miette::Report> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o755);
    let written = options.open(out).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| miette::miette!("cannot write {}: {error}", out.display()))
}

fn apply(
    host: &HostArgs,
    choice: ChoiceArgs,
    allowed: Permissions,
    persist: bool,
    json: bool,
) -> Result<(String, Verdict), miette::Report> {
    known(&choice.only)?;
    let (inputs, _) = inputs(host.config.as_deref(), &host.interface, &host.assume)?;
    let selection = Selection { profile: choice.profile, only: choice.only };
    let folder = host.state.state_dir.as_str();
    let tune = Tune { host: LIVE, inputs: &inputs, folder };
    let _lock = lock(folder)?;
    let mut done = whole(tune.apply(&selection, allowed))?;
    let mut next = None;
    if persist {
        let (_, rows) = tune.plan(&selection);
        let files = persist::files(&rows, &unit_command(host, &selection));
        done.extend(persist::put(&LiveRoot, &files_folder(folder), &files)?);
        next = Some(persist::NEXT);
    }
    let verdict = Verdict::of_done(&done);
    let mut text = match json {
        true => pretty(&json!({"done": done, "verdict": word(verdict), "next": next})),
        false => done_text(&done),
    };
    if let (Some(next), false) = (next, json) {
        text.push_str(&format!("\nThe files take effect after: {next}\n"));
    }
    Ok((text, verdict))
}

/// What the persistent unit is to run: this program, for the same configuration and profile.
fn unit_command(host: &HostArgs, selection: &Selection) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/ringfront".into());
    let mut words = vec![program.display().to_string(), "tune apply".into()];
    if let Some(config) = &host.config {
        let whole = std::path::absolute(config).unwrap_or_else(|_| config.clone());
        words.push(format!("--config {}", whole.display()));
    }
    words.push(format!("--profile {}", selection.profile.name()));
    words.extend(host.interface.iter().map(|interface| format!("--interface {interface}")));
    words.extend(host.assume.iter().map(|(name, value)| format!("--assume {name}={value}")));
    if !selection.only.is_empty() {
        words.push(format!("--only {}", selection.only.join(",")));
    }
    words.join(" ")
}

fn revert(
    state: &StateArgs,
    only: &[String],
    allowed: Permissions,
    json: bool,
) -> Result<(String, Verdict), miette::Report> {
    let inputs = Inputs::default();
    let folder = state.state_dir.as_str();
    let tune = Tune { host: LIVE, inputs: &inputs, folder };
    let _lock = lock(folder)?;
    let mut done = whole(tune.revert(only, allowed))?;
    if only.is_empty() {
        done.extend(persist::remove(&LiveRoot, &files_folder(folder))?);
    }
    if done.is_empty() {
        let text = if json {
            pretty(&json!({"done": [], "verdict": "fine"}))
        } else {
            "nothing is held\n".into()
        };
        return Ok((text, Verdict::Fine));
    }
    let verdict = Verdict::of_done(&done);
    let text = match json {
        true => pretty(&json!({"done": done, "verdict": word(verdict)})),
        false => done_text(&done),
    };
    Ok((text, verdict))
}

/// The journal of files: beside the other one where that was moved, else where it outlives a reboot.
fn files_folder(folder: &str) -> String {
    if folder == journal::FOLDER { persist::FOLDER.into() } else { format!("{folder}/files") }
}

fn status(state: &StateArgs, json: bool) -> Result<(String, Verdict), miette::Report> {
    let inputs = Inputs::default();
    let tune = Tune { host: LIVE, inputs: &inputs, folder: &state.state_dir };
    let (profile, held) = tune.status()?;
    let verdict = Verdict::of_done(&held);
    let verdict = if held.is_empty() { Verdict::Fine } else { verdict };
    if json {
        return Ok((
            pretty(&json!({"profile": profile, "held": held, "verdict": word(verdict)})),
            verdict,
        ));
    }
    let mut text = match &profile {
        Some(profile) => format!("profile applied last: {profile}\n"),
        None => "nothing was applied since boot\n".into(),
    };
    for one in &held {
        text.push_str(&format!(
            "{:<9} {:<26} {}  {} -> {}{}\n",
            one.outcome.name(),
            one.id,
            bare(&one.at),
            first_line(one.from.as_deref()),
            first_line(one.to.as_deref()),
            tail(one.reason.as_deref()),
        ));
    }
    Ok((text, verdict))
}

fn lock(folder: &str) -> Result<std::fs::File, miette::Report> {
    LiveRoot::lock(folder).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "run it as root; `ringfront tune plan` needs no privilege"
            }
            _ => "wait for it, or look at the folder's owner",
        };
        miette::miette!(help = help, "cannot keep a journal in {folder}: {error}")
    })
}

/// A run that stopped says what it had done before it says why.
fn whole(result: Result<Vec<Done>, Stopped>) -> Result<Vec<Done>, miette::Report> {
    result.map_err(|stopped| {
        let written = stopped.done.iter().filter(|one| one.outcome == Outcome::Written).count();
        if !stopped.done.is_empty() {
            eprint!("{}", done_text(&stopped.done));
        }
        miette::miette!(
            help = "nothing is written without its old value in the journal; `ringfront tune revert` takes back what was",
            "stopped after {written} writes: {}",
            stopped.fault
        )
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fine => "fine",
        Verdict::Drift => "drift",
        Verdict::Error => "error",
        Verdict::Nothing => "nothing applies",
    }
}

pub(super) fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn rows_json(selection: &Selection, sizing: &Sizing, rows: &[Row], verdict: Verdict) -> String {
    pretty(&json!({
        "profile": selection.profile.name(),
        "sizing": sizing.numbers,
        "workers": sizing.workers,
        "housekeeping": sizing.housekeeping,
        "interfaces": sizing.interfaces,
        "rows": rows,
        "verdict": word(verdict),
    }))
}

fn bare(at: &str) -> &str {
    at.strip_prefix("file:").unwrap_or(at)
}

fn first_line(value: Option<&str>) -> &str {
    match value.unwrap_or_default().lines().next() {
        Some("") | None => "(empty)",
        Some(line) => line,
    }
}

fn tail(reason: Option<&str>) -> String {
    reason.map(|reason| format!("  ({reason})")).unwrap_or_default()
}

fn row_line(row: &Row) -> String {
    let value = match (&row.now, &row.want) {
        (Some(now), Some(want)) if row.state != State::Ok => {
            format!("  {} -> {}", first_line(Some(now)), first_line(Some(want)))
        }
        (Some(now), _) => format!("  {}", first_line(Some(now))),
        _ => String::new(),
    };
    format!(
        "{:<13} {:<26} {}{value}{}\n",
        row.state,
        row.id,
        bare(&row.at),
        tail(row.reason.as_deref())
    )
}

fn plan_text(selection: &Selection, sizing: &Sizing, rows: &[Row]) -> String {
    let number = |name: &str| sizing.number(name);
    let mut text = format!(
        "profile {}: {} workers on CPUs {}, {} queues, {} connections, interfaces: {}\n",
        selection.profile.name(),
        number("W"),
        crate::host::sizing::cpu_list_text(&sizing.workers),
        number("Q"),
        number("C"),
        if sizing.interfaces.is_empty() { "none".into() } else { sizing.interfaces.join(", ") },
    );
    let of = |state: State| rows.iter().filter(move |row| row.state == state);
    let written: Vec<&Row> = of(State::Drift).filter(|row| row.write.is_some()).collect();
    text.push_str(&format!("\n{} to be written:\n", written.len()));
    for row in written {
        text.push_str(&format!(
            "  {:<26} {} -> {}\n",
            row.id,
            first_line(row.now.as_deref()),
            first_line(row.want.as_deref())
        ));
        let mark = if row.resets_link { "    # takes the link down for a moment\n" } else { "" };
        text.push_str(mark);
        for line in row.write.iter().flat_map(|write| write.lines()) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    let by_hand = of(State::Drift).filter(|row| row.write.is_none());
    let left: Vec<&Row> =
        by_hand.chain(of(State::Conflict)).chain(of(State::Unchangeable)).collect();
    if !left.is_empty() {
        text.push_str(&format!("\n{} differ and are left:\n", left.len()));
        left.iter().for_each(|row| text.push_str(&format!("  {}", row_line(row))));
    }
    let nowhere: Vec<&Row> = of(State::NotApplicable).collect();
    if !nowhere.is_empty() {
        text.push_str(&format!("\n{} do not apply here:\n", nowhere.len()));
        for row in nowhere {
            text.push_str(&format!(
                "  {:<26} {}{}\n",
                row.id,
                bare(&row.at),
                tail(row.reason.as_deref())
            ));
        }
    }
    text.push_str(&format!("\n{} are as wanted.\n", of(State::Ok).count()));
    text
}

fn check_text(rows: &[Row], strict: bool) -> String {
    let differs = |row: &&Row| match row.state {
        State::Drift | State::Conflict => true,
        State::Unchangeable => strict,
        _ => false,
    };
    let mut text: String = rows.iter().filter(differs).map(row_line).collect();
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    text.push_str(&format!(
        "{} ok, {} drift, {} conflict, {} unchangeable, {} n/a\n",
        count(State::Ok),
        count(State::Drift),
        count(State::Conflict),
        count(State::Unchangeable),
        count(State::NotApplicable)
    ));
    text
}

fn script_text(selection: &Selection, rows: &[Row]) -> String {
    let mut text = format!(
        "#!/bin/sh\n# Made by `ringfront tune plan --profile {} --script`. It keeps no journal: `ringfront tune apply` does.\n\
         set -eu\n",
        selection.profile.name()
    );
    for row in rows.iter().filter(|row| row.state == State::Drift) {
        if let Some(write) = &row.write {
            text.push_str(&format!(
                "\n# {}: {} -> {}\n{write}\n",
                row.id,
                first_line(row.now.as_deref()),
                first_line(row.want.as_deref())
            ));
        }
    }
    text
}

fn done_text(done: &[Done]) -> String {
    let mut text = String::new();
    for one in
        done.iter().filter(|one| !matches!(one.outcome, Outcome::Already | Outcome::NotApplicable))
    {
        let values = match (&one.from, &one.to) {
            (Some(from), Some(to)) => {
                format!("  {} -> {}", first_line(Some(from)), first_line(Some(to)))
            }
            _ => String::new(),
        };
        text.push_str(&format!(
            "{:<9} {:<26} {}{values}{}\n",
            one.outcome.name(),
            one.id,
            bare(&one.at),
            tail(one.reason.as_deref())
        ));
    }
    let count = |outcome| done.iter().filter(|one| one.outcome == outcome).count();
    let mut words = Vec::new();
    for outcome in [
        Outcome::Written,
        Outcome::Restored,
        Outcome::Already,
        Outcome::Left,
        Outcome::Failed,
        Outcome::NotApplicable,
    ] {
        if count(outcome) > 0 {
            words.push(format!("{} {}", count(outcome), outcome.name()));
        }
    }
    text.push_str(&format!("{}\n", words.join(", ")));
    text
}
