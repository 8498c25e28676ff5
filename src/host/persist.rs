//! What `tune apply --persist` leaves on disk so that the host is tuned again after a reboot, and how it is removed.
//! Owns four files and their journal. Never writes another path; never removes a file that was changed since.
//!
//! Settings of the card are not put into systemd `.link` files: the first matching `.link` file replaces the default one
//! whole, and with it the naming of interfaces. The unit applies them instead, and again when a card appears anew.

use serde::{Deserialize, Serialize};

use super::catalogue::{Catalogue, Class, Mode};
use super::journal::JournalFault;
use super::managers::OWN_SYSCTL_FILE;
use super::plan::{Row, State};
use super::setting::Address;
use super::sysroot::Sysroot;
use super::tune::{Done, Outcome};

/// Where the journal of files lies: it outlives a reboot, as the files do. Not below the daemon's own folder.
pub const FOLDER: &str = "/var/lib/ringfront-tune";

pub const UNIT_FILE: &str = "/etc/systemd/system/ringfront-tune.service";
pub const RULES_FILE: &str = "/etc/udev/rules.d/90-ringfront.rules";

const UNIT: &str = include_str!("../../tuning/systemd/ringfront-tune.service");
const RULES: &str = include_str!("../../tuning/udev/90-ringfront.rules");
/// Every path that may ever be written or removed here.
const PATHS: [&str; 3] = [OWN_SYSCTL_FILE, UNIT_FILE, RULES_FILE];

/// What to do after the files are there; it is not done for the operator.
pub const NEXT: &str =
    "systemctl daemon-reload && systemctl enable ringfront-tune && udevadm control --reload";

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Put { path: String, old: Option<String>, sha256: String },
    Removed { path: String },
}

/// The files for what these rows want; `command` is what the unit is to run.
pub fn files(rows: &[Row], command: &str) -> Vec<(&'static str, String)> {
    let unit: Vec<String> = UNIT
        .lines()
        .map(|line| match line.strip_prefix("ExecStart=") {
            Some(_) => format!("ExecStart={command}"),
            None => line.to_owned(),
        })
        .collect();
    vec![
        (OWN_SYSCTL_FILE, sysctl_text(SYSCTL_HEAD, rows)),
        (UNIT_FILE, unit.join("\n") + "\n"),
        (RULES_FILE, RULES.to_owned()),
    ]
}

const SYSCTL_HEAD: &str = "\
# Written by `ringfront tune apply --persist`; `ringfront tune revert` removes it.
# What each line is for, and when it hurts: docs/tuning.md.
";

/// Sysctl settings in the form of sysctl.d(5) under `head`, each entry with its purpose.
pub fn sysctl_text(head: &str, rows: &[Row]) -> String {
    let mut text = String::from(head);
    let mut last = "";
    for row in rows {
        let wanted = match (row.state, row.mode, &row.want) {
            (State::Ok | State::Drift, Mode::Exact | Mode::AtLeast, Some(want)) => want,
            _ => continue,
        };
        let entry = Catalogue::embedded().entry(&row.id).ok();
        let Some(entry) = entry.filter(|entry| entry.class == Class::Sysctl) else { continue };
        let Some(key) = Address::parse(&row.at).and_then(|address| address.sysctl_key()) else {
            continue;
        };
        if last != entry.id {
            text.push_str(&format!("\n# {}: {}\n", entry.id, entry.purpose));
            last = &entry.id;
        }
        text.push_str(&format!("{key} = {wanted}\n"));
    }
    text
}

/// Puts the files in place, what was there before in the journal first.
pub fn put(
    root: &dyn Sysroot,
    folder: &str,
    files: &[(&'static str, String)],
) -> Result<Vec<Done>, JournalFault> {
    let journal = format!("{folder}/files.jsonl");
    let mut done = Vec::new();
    for (path, text) in files {
        let old = root.read(path).ok();
        let mut one = line(path, Outcome::Already);
        if old.as_deref() != Some(text) {
            append(
                root,
                &journal,
                &Event::Put { path: (*path).into(), old, sha256: sha256(text) },
            )?;
            match root.replace(path, text) {
                Ok(()) => one.outcome = Outcome::Written,
                Err(error) => {
                    one.outcome = Outcome::Failed;
                    one.reason = Some(error.to_string());
                }
            }
        }
        done.push(one);
    }
    Ok(done)
}

/// Takes the files away, or puts back what they replaced; newest first.
pub fn remove(root: &dyn Sysroot, folder: &str) -> Result<Vec<Done>, JournalFault> {
    let journal = format!("{folder}/files.jsonl");
    let text = root.read(&journal).unwrap_or_default();
    let mut standing: Vec<(String, Option<String>, String)> = Vec::new();
    for event in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match event {
            Event::Put { path, old, sha256 } => standing.push((path, old, sha256)),
            Event::Removed { path } => {
                if let Some(place) = standing.iter().rposition(|(one, ..)| *one == path) {
                    standing.remove(place);
                }
            }
        }
    }
    let mut done = Vec::new();
    for (path, old, sum) in standing.into_iter().rev() {
        let mut one = line(&path, Outcome::Left);
        let present = root.read(&path).ok();
        if !PATHS.contains(&path.as_str()) {
            one.reason = Some("not a file of ours".into());
        } else if present == old {
            one.outcome = Outcome::Restored;
        } else if present.as_deref().map(sha256) != Some(sum) {
            one.reason = Some("drift: somebody has changed it since; left alone".into());
        } else {
            let restored = match &old {
                Some(old) => root.replace(&path, old),
                None => root.remove(&path),
            };
            match restored {
                Ok(()) => one.outcome = Outcome::Restored,
                Err(error) => {
                    one.outcome = Outcome::Failed;
                    one.reason = Some(error.to_string());
                }
            }
        }
        if one.outcome == Outcome::Restored {
            append(root, &journal, &Event::Removed { path })?;
        }
        done.push(one);
    }
    Ok(done)
}

fn line(path: &str, outcome: Outcome) -> Done {
    Done {
        id: "persist".into(),
        at: format!("file:{path}"),
        outcome,
        from: None,
        to: None,
        reason: None,
    }
}

fn append(root: &dyn Sysroot, journal: &str, event: &Event) -> Result<(), JournalFault> {
    let unwritable = |error| JournalFault::Unwritable { path: journal.to_owned(), error };
    let line = serde_json::to_string(event).map_err(|fault| unwritable(fault.into()))?;
    // A line that a crash cut short stands alone and is not understood; ours must not be glued to it.
    let torn = root.read(journal).is_ok_and(|text| !text.is_empty() && !text.ends_with('\n'));
    let line = if torn { format!("\n{line}") } else { line };
    root.append(journal, &line).map_err(unwritable)
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::recorded::Recorded;
    use super::*;

    #[test]
    fn files_come_and_go_and_a_changed_one_stays() {
        let host = Recorded::parse("/etc/udev/rules.d/90-ringfront.rules = older\n").unwrap();
        let before = host.snapshot();
        let files = files(&[], "/usr/bin/ringfront tune apply --profile throughput");
        assert!(
            files[1].1.contains("\nExecStart=/usr/bin/ringfront tune apply --profile throughput\n")
        );
        let put_again = || put(&host, "/var/lib/ringfront-tune", &files).unwrap();
        assert!(put_again().iter().all(|one| one.outcome == Outcome::Written));
        assert!(put_again().iter().all(|one| one.outcome == Outcome::Already));
        assert!(remove(&host, FOLDER).unwrap().iter().all(|one| one.outcome == Outcome::Restored));
        assert_eq!(host.snapshot().differences(&before), Vec::<String>::new());
        assert!(remove(&host, FOLDER).unwrap().is_empty());
        put_again();
        host.set(&format!("file:{OWN_SYSCTL_FILE}"), "mine");
        let done = remove(&host, FOLDER).unwrap();
        let kept = done.iter().find(|one| one.at.ends_with("90-ringfront.conf")).unwrap();
        assert_eq!(kept.outcome, Outcome::Left);
        assert_eq!(host.read(OWN_SYSCTL_FILE).unwrap(), "mine");
    }
}
