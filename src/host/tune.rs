//! Plan, apply, revert, status: the engine over the catalogue.
//! Owns the order of things: journal, write, read back; and on the way back compare, write, read back. Never writes what
//! the catalogue does not name, never writes over what somebody else has changed since.

use serde::Serialize;

use super::catalogue::{Catalogue, Entry, Form, Profile};
use super::journal::{Held, Journal, JournalFault};
use super::managers::Managers;
use super::plan::{Planner, Row, Selection, State};
use super::setting::{Address, Host, Obstacle};
use super::sizing::{Inputs, Sizing};

/// One host, one configuration, one journal.
pub struct Tune<'a> {
    pub host: Host<'a>,
    pub inputs: &'a Inputs,
    /// Folder of the journal; [`super::journal::FOLDER`] on a live host.
    pub folder: &'a str,
}

/// What an operator may allow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Permissions {
    /// Settings that take the link down, while the daemon serves.
    pub link_reset: bool,
    /// Settings that somebody else sets too.
    pub conflict: bool,
}

/// How one setting came out of `apply`, `revert` or `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was to be done.
    Already,
    /// Written, and reads back as written.
    Written,
    /// The old value is back.
    Restored,
    /// Held as we wrote it (`status`).
    Held,
    /// Not touched, for the reason given.
    Left,
    /// Does not apply here.
    NotApplicable,
    /// Tried, and it did not come out.
    Failed,
}

impl Outcome {
    /// The word in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Already => "ok",
            Outcome::Written => "written",
            Outcome::Restored => "restored",
            Outcome::Held => "held",
            Outcome::Left => "left",
            Outcome::NotApplicable => "n/a",
            Outcome::Failed => "failed",
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    pub id: String,
    pub at: String,
    pub outcome: Outcome,
    /// The value before, and the one after (or the one wanted, where it was left or failed).
    pub from: Option<String>,
    pub to: Option<String>,
    pub reason: Option<String>,
}

/// What a command has to say in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    Drift,
    Error,
    Nothing,
}

impl Verdict {
    /// The exit status (contract: 0 fine, 1 drift, 2 error, 3 nothing applies).
    pub const fn code(self) -> u8 {
        match self {
            Verdict::Fine => 0,
            Verdict::Drift => 1,
            Verdict::Error => 2,
            Verdict::Nothing => 3,
        }
    }

    /// Of rows that were only looked at. `strict`: what cannot be changed counts as drift too.
    pub fn of_rows(rows: &[Row], strict: bool) -> Verdict {
        let drifts = |row: &Row| match row.state {
            State::Drift | State::Conflict => true,
            State::Unchangeable => strict,
            _ => false,
        };
        let mut judged = rows.iter().filter(|row| row.state != State::Report).peekable();
        if judged.peek().is_none() || judged.all(|row| row.state == State::NotApplicable) {
            Verdict::Nothing
        } else if rows.iter().any(drifts) {
            Verdict::Drift
        } else {
            Verdict::Fine
        }
    }

    /// Of what was done.
    pub fn of_done(done: &[Done]) -> Verdict {
        let any = |outcome| done.iter().any(|one| one.outcome == outcome);
        if any(Outcome::Failed) {
            Verdict::Error
        } else if any(Outcome::Left) {
            Verdict::Drift
        } else if done.iter().all(|one| one.outcome == Outcome::NotApplicable) {
            Verdict::Nothing
        } else {
            Verdict::Fine
        }
    }
}

/// What was done until the journal failed, and why it did: nothing is half-applied without saying so.
#[derive(Debug)]
pub struct Stopped {
    pub done: Vec<Done>,
    pub fault: JournalFault,
}

impl From<JournalFault> for Stopped {
    fn from(fault: JournalFault) -> Self {
        Stopped { done: Vec::new(), fault }
    }
}

impl Tune<'_> {
    pub fn sizing(&self) -> Sizing {
        Sizing::of(self.inputs, self.host.root, self.host.nic)
    }

    /// What would be written.
    pub fn plan(&self, selection: &Selection) -> (Sizing, Vec<Row>) {
        let sizing = self.sizing();
        let managers = Managers::of(self.host.root);
        let profile = selection.profile;
        let planner = Planner { host: self.host, sizing: &sizing, managers: &managers, profile };
        let rows = planner.rows(Catalogue::embedded(), selection);
        (sizing, rows)
    }

    /// Writes what the selection wants. Facts are read anew before each entry.
    pub fn apply(&self, selection: &Selection, allowed: Permissions) -> Result<Vec<Done>, Stopped> {
        let sizing = self.sizing();
        let managers = Managers::of(self.host.root);
        let profile = selection.profile;
        let planner = Planner { host: self.host, sizing: &sizing, managers: &managers, profile };
        let mut journal = Journal::open(self.host.root, self.folder)?;
        let mut done = Vec::new();
        let mut begun = false;
        for entry in Catalogue::embedded().ordered() {
            if !selection.takes(entry) {
                continue;
            }
            for row in planner.entry(entry) {
                let refusal = refusal(&row, &managers, allowed);
                let due = row.write.is_some()
                    && (row.state == State::Drift
                        || (row.state == State::Conflict && allowed.conflict));
                if !due || refusal.is_some() {
                    done.push(untouched(row, refusal));
                    continue;
                }
                let written = (|| {
                    if !begun {
                        journal.begin(profile.name())?;
                        begun = true;
                    }
                    self.write(&mut journal, &row)
                })();
                match written {
                    Ok(one) => done.push(one),
                    Err(fault) => return Err(Stopped { done, fault }),
                }
            }
        }
        Ok(done)
    }

    /// Journal, write, read back.
    fn write(&self, journal: &mut Journal<'_>, row: &Row) -> Result<Done, JournalFault> {
        let old = row.now.clone().unwrap_or_default();
        let new = row.want.clone().unwrap_or_default();
        let mut done = Done {
            id: row.id.clone(),
            at: row.at.clone(),
            outcome: Outcome::Failed,
            from: row.now.clone(),
            to: row.want.clone(),
            reason: None,
        };
        let Some(address) = Address::parse(&row.at) else { return Ok(done) };
        let sequence = journal.before(&row.id, &row.at, &old, &new)?;
        let written = self.host.write(&address, &new);
        let present = self.host.read(&address, row.form).map(|reading| reading.value);
        if let Ok(present) = &present
            && *present != new
        {
            if *present == old {
                journal.undone(sequence)?;
            } else {
                journal.seen(sequence, present)?;
            }
        }
        match (written, present) {
            (Err(obstacle), _) => {
                done.reason = Some(obstacle.reason().to_owned());
                // What shows only on trying is a property of the host, not a fault of this run.
                if matches!(obstacle, Obstacle::Unchangeable(_) | Obstacle::NotApplicable(_)) {
                    done.outcome = Outcome::Left;
                }
            }
            (Ok(()), Ok(present)) if row.satisfied(&present) => {
                done.outcome = Outcome::Written;
                done.reason = self.not_yet(&address, &present);
                done.to = Some(present);
            }
            (Ok(()), Ok(present)) => {
                done.reason = Some(format!("wrote `{new}`, it reads back `{present}`"));
            }
            (Ok(()), Err(obstacle)) => {
                done.reason = Some(format!("written, but not read back: {}", obstacle.reason()));
            }
        }
        Ok(done)
    }

    /// An interrupt moves when it next fires; until then the kernel's effective list is the old one.
    fn not_yet(&self, address: &Address, present: &str) -> Option<String> {
        let Address::File(path) = address else { return None };
        let folder = path.strip_suffix("/smp_affinity_list")?;
        let effective = Address::File(format!("{folder}/effective_affinity_list"));
        let effective = self.host.read(&effective, Form::List).ok()?.value;
        (effective != present)
            .then(|| format!("takes effect with the next interrupt (effective: {effective})"))
    }

    /// Puts back what was written since boot, newest first; with `only`, that of these entries.
    pub fn revert(&self, only: &[String], allowed: Permissions) -> Result<Vec<Done>, Stopped> {
        let mut journal = Journal::open(self.host.root, self.folder)?;
        let managers = Managers::of(self.host.root);
        let held: Vec<Held> = journal.held().to_vec();
        let mut done = Vec::new();
        for one in held.iter().rev().filter(|one| only.is_empty() || only.contains(&one.id)) {
            match self.undo(&mut journal, one, &managers, allowed) {
                Ok(one) => done.push(one),
                Err(fault) => return Err(Stopped { done, fault }),
            }
        }
        journal.finish();
        Ok(done)
    }

    /// Compare, write, read back.
    fn undo(
        &self,
        journal: &mut Journal<'_>,
        held: &Held,
        managers: &Managers,
        allowed: Permissions,
    ) -> Result<Done, JournalFault> {
        let mut done = Done {
            id: held.id.clone(),
            at: held.at.clone(),
            outcome: Outcome::Left,
            from: None,
            to: Some(held.old.clone()),
            reason: None,
        };
        let (address, form, resets_link) = match self.known(held) {
            Ok(known) => known,
            Err(reason) => {
                done.reason = Some(reason.into());
                return Ok(done);
            }
        };
        let present = match self.host.read(&address, form) {
            Ok(reading) => reading.value,
            Err(obstacle) => {
                done.reason = Some(format!("cannot be compared: {}", obstacle.reason()));
                return Ok(done);
            }
        };
        done.from = Some(present.clone());
        if present == held.old {
            journal.undone(held.sequence)?;
            done.outcome = Outcome::Restored;
            return Ok(done);
        }
        if present != held.new && held.seen.as_ref() != Some(&present) {
            done.reason =
                Some(format!("drift: somebody has changed `{}` since; left alone", held.new));
            return Ok(done);
        }
        if resets_link && !allowed.link_reset && !managers.serving.is_empty() {
            done.reason = Some(link_reset_refusal(managers));
            return Ok(done);
        }
        if let Err(obstacle) = self.host.write(&address, &held.old) {
            done.outcome = Outcome::Failed;
            done.reason = Some(obstacle.reason().to_owned());
            return Ok(done);
        }
        match self.host.read(&address, form) {
            Ok(reading) if reading.value == held.old => {
                journal.undone(held.sequence)?;
                done.outcome = Outcome::Restored;
            }
            Ok(reading) => {
                done.outcome = Outcome::Failed;
                done.reason =
                    Some(format!("wrote `{}`, it reads back `{}`", held.old, reading.value));
                journal.seen(held.sequence, &reading.value)?;
            }
            Err(obstacle) => {
                done.outcome = Outcome::Failed;
                done.reason = Some(format!("written, but not read back: {}", obstacle.reason()));
            }
        }
        Ok(done)
    }

    /// The address of a journal line, if the catalogue names it.
    fn known(&self, held: &Held) -> Result<(Address, Form, bool), &'static str> {
        if held.elsewhere {
            return Err("written in another network namespace: revert it there");
        }
        let entry = Catalogue::embedded().entry(&held.id).map_err(
            |_| "this version does not know the tunable; its old value is in the journal",
        )?;
        let address = Address::parse(&held.at).ok_or("the journal's address is not understood")?;
        let form = form_of(entry, &held.at).ok_or("the catalogue does not name this setting")?;
        Ok((address, form, entry.resets_link))
    }

    /// What we hold, and what drifted.
    pub fn status(&self) -> Result<(Option<String>, Vec<Done>), JournalFault> {
        let journal = Journal::open(self.host.root, self.folder)?;
        let mut report = Vec::new();
        for (place, held) in journal.held().iter().enumerate() {
            // A later write of the same setting stands for both; the value before is the first one's.
            if journal.held()[place + 1..].iter().any(|later| later.at == held.at) {
                continue;
            }
            let first = journal.held().iter().find(|one| one.at == held.at).unwrap_or(held);
            let mut done = Done {
                id: held.id.clone(),
                at: held.at.clone(),
                outcome: Outcome::Held,
                from: Some(first.old.clone()),
                to: Some(held.new.clone()),
                reason: None,
            };
            match self.known(held) {
                Ok((address, form, _)) => match self.host.read(&address, form) {
                    Ok(reading) if reading.value == held.new => {}
                    Ok(reading) if held.seen.as_ref() == Some(&reading.value) => {
                        done.reason = Some(format!("the host made `{}` of it", reading.value));
                    }
                    Ok(reading) => {
                        done.outcome = Outcome::Left;
                        done.reason = Some(format!("drift: now `{}`", reading.value));
                    }
                    Err(obstacle) => {
                        done.outcome = Outcome::Left;
                        done.reason = Some(obstacle.reason().to_owned());
                    }
                },
                Err(reason) => {
                    done.outcome = Outcome::Left;
                    done.reason = Some(reason.into());
                }
            }
            report.push(done);
        }
        Ok((journal.profile().map(str::to_owned), report))
    }
}

fn refusal(row: &Row, managers: &Managers, allowed: Permissions) -> Option<String> {
    let would = row.write.is_some() && matches!(row.state, State::Drift | State::Conflict);
    (would && row.resets_link && !allowed.link_reset && !managers.serving.is_empty())
        .then(|| link_reset_refusal(managers))
}

fn link_reset_refusal(managers: &Managers) -> String {
    let pid = managers.serving.first().copied().unwrap_or_default();
    format!(
        "takes the link down for a moment, and ringfront serves (process {pid}): drain it first, or use \
         --allow-link-reset"
    )
}

fn untouched(row: Row, refusal: Option<String>) -> Done {
    let outcome = match row.state {
        State::Ok | State::Report => Outcome::Already,
        State::NotApplicable => Outcome::NotApplicable,
        State::Drift | State::Conflict | State::Unchangeable => Outcome::Left,
    };
    let word = match row.state {
        State::Conflict => "conflict: ",
        State::Unchangeable => "unchangeable: ",
        _ => "",
    };
    let reason = refusal.or(row.reason).map(|reason| format!("{word}{reason}"));
    Done { id: row.id, at: row.at, outcome, from: row.now, to: row.want, reason }
}

/// The form of the entry's setting that `at` is an instance of.
fn form_of(entry: &Entry, at: &str) -> Option<Form> {
    entry.setting.iter().find(|setting| instance(&setting.at, at)).map(|setting| setting.form)
}

/// Whether `at` is `pattern` with each placeholder replaced by something without a slash or a colon.
pub fn instance(pattern: &str, at: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('{') else { return pattern == at };
    let Some((_, after)) = rest.split_once('}') else { return false };
    let Some(tail) = at.strip_prefix(before) else { return false };
    let end = tail.find(['/', ':']).unwrap_or(tail.len());
    // A placeholder may be followed by more of the same word (`rx-{rx}` ends it, `cpu{worker}` does not).
    (1..=end).any(|length| tail.is_char_boundary(length) && instance(after, &tail[length..]))
}

/// One setting that is not as the applied profile (or baseline) wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The tunable's identifier: the label of `ringfront_tuning_drift`.
    pub id: String,
    /// One line for the log.
    pub line: String,
}

/// What the daemon logs at start: differences from the profile that was applied since boot, else from `baseline`. Only
/// reads; what this process may not read is not drift.
pub fn drift(inputs: &Inputs, host: Host<'_>, folder: &str) -> Vec<Drift> {
    let applied = Journal::open(host.root, folder).ok();
    let profile = applied.and_then(|journal| Profile::of(journal.profile()?)).unwrap_or_default();
    let selection = Selection { profile, only: Vec::new() };
    let (_, rows) = Tune { host, inputs, folder }.plan(&selection);
    let differs = |row: &Row| {
        // Whether this process could write it is no matter here: the daemon runs without privileges.
        row.state == State::Drift
            || row.state == State::Conflict
            || (row.state == State::Unchangeable && row.write.is_some())
    };
    rows.into_iter()
        .filter(differs)
        .map(|row| {
            let now = row.now.unwrap_or_default();
            let line = match (row.want, row.reason) {
                (Some(want), _) => {
                    format!("{} is `{now}`, {} wants `{want}`", row.at, profile.name())
                }
                (None, Some(reason)) => format!("{} is `{now}`: {reason}", row.at),
                (None, None) => format!("{} is `{now}`", row.at),
            };
            Drift { id: row.id, line }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_its_pattern_only() {
        let rx = "file:/sys/class/net/{interface}/queues/rx-{rx}/rps_cpus";
        assert!(instance(rx, "file:/sys/class/net/eth0/queues/rx-12/rps_cpus"));
        assert!(!instance(rx, "file:/sys/class/net/eth0/queues/tx-0/rps_cpus"));
        assert!(!instance(rx, "file:/sys/class/net/a/b/queues/rx-0/rps_cpus"));
        assert!(!instance(rx, "file:/sys/class/net//queues/rx-0/rps_cpus"));
        assert!(instance("nic:{interface}:rings.rx", "nic:eth0.5:rings.rx"));
        assert!(!instance("nic:{interface}:rings.rx", "nic:eth0:rings.tx"));
        assert!(instance("nft:guard", "nft:guard"));
    }
}
