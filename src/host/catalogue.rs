//! The catalogue of host tunables: the data under `tuning/catalogue/`, embedded, checked and put in order.
//! Owns the entries. Never reads or writes a host.
//! Invariant: identifiers are unique, every `after` names an entry, the order is acyclic (tested below).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::OnceLock;

use serde::Deserialize;

/// What kind of thing an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A file under `/proc/sys`.
    Sysctl,
    /// A file under `/sys` or `/proc/irq`.
    Sysfs,
    /// The network card, through ethtool netlink.
    Nic,
    /// A packet filter, through `nft`.
    Nft,
    /// The kernel command line: looked at, never written.
    Boot,
    /// What the daemon itself does for each socket or thread.
    Daemon,
    /// A service unit sets it.
    Unit,
    /// Looked at, never written.
    Report,
}

impl Class {
    /// The name in the catalogue and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Sysctl => "sysctl",
            Class::Sysfs => "sysfs",
            Class::Nic => "nic",
            Class::Nft => "nft",
            Class::Boot => "boot",
            Class::Daemon => "daemon",
            Class::Unit => "unit",
            Class::Report => "report",
        }
    }
}

/// A set of aims that belong together.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Safe on any host.
    #[default]
    Baseline,
    /// Most messages a second.
    Throughput,
    /// Shortest and steadiest latency, paid for with power and headroom.
    LowLatency,
}

impl Profile {
    pub const ALL: [Profile; 3] = [Profile::Baseline, Profile::Throughput, Profile::LowLatency];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Baseline => "baseline",
            Profile::Throughput => "throughput",
            Profile::LowLatency => "low-latency",
        }
    }

    pub fn of(name: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// How a wanted value relates to the present one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Exact,
    /// Raise, never lower: word by word for settings of several numbers.
    AtLeast,
    /// A value that `check` warns of; never written.
    Forbid,
    /// Shown, never judged, never written.
    Report,
}

/// How a file's text becomes a value that can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Words, one blank between them.
    #[default]
    Words,
    /// `always [madvise] never`: the word in brackets.
    Choice,
    /// A hexadecimal CPU mask, commas every 32 bits.
    Mask,
    /// A list of CPUs: `0-3,8`.
    List,
}

/// One thing to read and, if `want` is there, to write.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// `file:PATH`, `nic:INTERFACE:KEY` or `nft:TABLE`, with placeholders in braces.
    pub at: String,
    /// Template (see `formula`); for every profile of the entry without one of its own.
    #[serde(default)]
    pub want: Option<String>,
    #[serde(default)]
    pub want_throughput: Option<String>,
    #[serde(default)]
    pub want_low_latency: Option<String>,
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub form: Form,
    /// For `mode = "forbid"`: a formula over the present value (`x`, or `x0`, `x1`, ... by word).
    #[serde(default)]
    pub bad: Option<String>,
    /// For `mode = "forbid"`: a word that must not be the present value.
    #[serde(default)]
    pub bad_word: Option<String>,
    /// Asked only while this formula is not zero; also over the present value `x`.
    #[serde(default)]
    pub when: Option<String>,
}

impl Setting {
    /// The template for `profile`.
    pub fn wanted(&self, profile: Profile) -> Option<&str> {
        let own = match profile {
            Profile::Baseline => None,
            Profile::Throughput => self.want_throughput.as_deref(),
            Profile::LowLatency => self.want_low_latency.as_deref(),
        };
        own.or(self.want.as_deref())
    }
}

/// One tunable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub id: String,
    pub class: Class,
    /// Profiles that ask for it; empty: only `--only` does.
    #[serde(default)]
    pub profiles: Vec<Profile>,
    /// One line.
    pub purpose: String,
    pub why: String,
    /// When it hurts.
    pub hurts: String,
    /// How to read it by hand.
    pub read: String,
    /// How to write it by hand.
    pub write: String,
    /// The wanted value in words.
    pub formula: String,
    /// How to tell that it does not apply.
    pub not_applicable: String,
    #[serde(default)]
    pub setting: Vec<Setting>,
    /// A formula; zero: the entry does not apply now, for the reason in `not_applicable`.
    #[serde(default)]
    pub when: Option<String>,
    /// Entries that must be settled before this one.
    #[serde(default)]
    pub after: Vec<String>,
    /// Writing it takes the link down for a moment on most drivers.
    #[serde(default)]
    pub resets_link: bool,
    /// Services that also set it: `irqbalance`, `tuned`, or `networkd:KEY` for a key of a `.link` file.
    #[serde(default)]
    pub managers: Vec<String>,
    /// False: a plan only. Such an entry is not listed and cannot be named.
    #[serde(default = "yes")]
    pub built: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    title: String,
    entry: Vec<Entry>,
}

/// The entries of one file.
#[derive(Clone, Debug)]
pub struct Group {
    pub title: String,
    pub entries: Vec<Entry>,
}

/// All of them, in the order of the files.
#[derive(Clone, Debug)]
pub struct Catalogue {
    pub groups: Vec<Group>,
}

const FILES: [(&str, &str); 10] = [
    ("nic", include_str!("../../tuning/catalogue/nic.toml")),
    ("steering", include_str!("../../tuning/catalogue/steering.toml")),
    ("napi", include_str!("../../tuning/catalogue/napi.toml")),
    ("cpu", include_str!("../../tuning/catalogue/cpu.toml")),
    ("memory", include_str!("../../tuning/catalogue/memory.toml")),
    ("tcp", include_str!("../../tuning/catalogue/tcp.toml")),
    ("limits", include_str!("../../tuning/catalogue/limits.toml")),
    ("guard", include_str!("../../tuning/catalogue/guard.toml")),
    ("refuse", include_str!("../../tuning/catalogue/refuse.toml")),
    ("planned", include_str!("../../tuning/catalogue/planned.toml")),
];

/// An identifier that is not in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no tunable `{id}`{}", .near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
pub struct Unknown {
    pub id: String,
    pub near: Option<String>,
}

impl Catalogue {
    /// The embedded catalogue.
    pub fn embedded() -> &'static Catalogue {
        static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
        CATALOGUE.get_or_init(|| {
            let mut groups = Vec::new();
            for (name, text) in FILES {
                match toml::from_str::<GroupFile>(text) {
                    Ok(file) => groups.push(Group { title: file.title, entries: file.entry }),
                    // Part of the program, not input: a test reads it in every build.
                    Err(fault) => panic!("tuning/catalogue/{name}.toml: {fault}"),
                }
            }
            Catalogue { groups }
        })
    }

    /// Built entries in the order of the files.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| &group.entries).filter(|entry| entry.built)
    }

    /// A built entry.
    pub fn entry(&self, id: &str) -> Result<&Entry, Unknown> {
        self.entries()
            .find(|entry| entry.id == id)
            .ok_or_else(|| Unknown { id: id.into(), near: self.near(id) })
    }

    fn near(&self, id: &str) -> Option<String> {
        let wanted = id.to_lowercase();
        self.entries()
            .map(|entry| {
                let last = entry.id.rsplit('.').next().unwrap_or(&entry.id);
                let by_end = distance(&wanted, last) + 1;
                (distance(&wanted, &entry.id).min(by_end), &entry.id)
            })
            .filter(|(far, _)| *far <= 1 + wanted.len() / 3)
            .min()
            .map(|(_, id)| id.clone())
    }

    /// Built entries so that each follows all of its `after`; otherwise in the order of the files.
    pub fn ordered(&self) -> Vec<&Entry> {
        let mut waiting: Vec<&Entry> = self.entries().collect();
        let known: BTreeSet<&str> = waiting.iter().map(|entry| entry.id.as_str()).collect();
        let mut settled: BTreeSet<&str> = BTreeSet::new();
        let mut order = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let ready = waiting.iter().position(|entry| {
                let mut after = entry.after.iter().map(String::as_str);
                after.all(|id| settled.contains(id) || !known.contains(id))
            });
            // A cycle is a fault of the data that a test finds; the file's order is then as good as any.
            let entry = waiting.remove(ready.unwrap_or(0));
            settled.insert(&entry.id);
            order.push(entry);
        }
        order
    }

    /// `docs/tuning.md`, whole.
    pub fn markdown(&self) -> String {
        let mut out = String::from(MARKDOWN_HEAD);
        for group in &self.groups {
            let _ = write!(out, "\n## {}\n", group.title);
            for entry in &group.entries {
                entry_markdown(&mut out, entry);
            }
        }
        out
    }
}

const MARKDOWN_HEAD: &str = include_str!("../../tuning/catalogue/head.md");

fn entry_markdown(out: &mut String, entry: &Entry) {
    let mut marks = vec![format!("class {}", entry.class.name())];
    let profiles: Vec<&str> = entry.profiles.iter().map(|profile| profile.name()).collect();
    marks.push(match (profiles.len(), entry.setting.iter().any(writes)) {
        (3, _) => "every profile".into(),
        (0, true) => "only when asked for with `--only`".into(),
        (0, false) => "looked at only".into(),
        _ => format!("profiles {}", profiles.join(", ")),
    });
    if entry.resets_link {
        marks.push("resets the link".into());
    }
    if !entry.after.is_empty() {
        marks.push(format!("after {}", entry.after.join(", ")));
    }
    if !entry.built {
        marks.push("**not built yet**".into());
    }
    let _ = write!(out, "\n### {}\n\n{} ({})\n\n", entry.id, entry.purpose, marks.join("; "));
    for (name, text) in [
        ("Wanted", &entry.formula),
        ("Why", &entry.why),
        ("When it hurts", &entry.hurts),
        ("Read", &entry.read),
        ("Write", &entry.write),
        ("Does not apply", &entry.not_applicable),
    ] {
        let _ = writeln!(out, "* {name}: {text}");
    }
    if entry.setting.is_empty() {
        return;
    }
    out.push_str("\n| setting | wanted | mode |\n|---|---|---|\n");
    for setting in &entry.setting {
        let mut wants = BTreeMap::new();
        for profile in Profile::ALL {
            if let Some(want) = setting.wanted(profile) {
                wants.entry(want).or_insert_with(Vec::new).push(profile.name());
            }
        }
        let want = match (wants.len(), &setting.bad, &setting.bad_word) {
            (0, Some(bad), _) => format!("never `{bad}`"),
            (0, _, Some(word)) => format!("never `{word}`"),
            (0, ..) => "as it is".into(),
            (1, ..) => wants.keys().map(|want| format!("`{want}`")).collect(),
            _ => wants
                .iter()
                .map(|(want, profiles)| format!("`{want}` ({})", profiles.join(", ")))
                .collect::<Vec<_>>()
                .join("; "),
        };
        let when = setting.when.as_ref().map(|when| format!(", when `{when}`")).unwrap_or_default();
        let mode = match setting.mode {
            Mode::Exact => "exact",
            Mode::AtLeast => "at least",
            Mode::Forbid => "forbidden",
            Mode::Report => "report",
        };
        let _ =
            writeln!(out, "| `{}` | {}{} | {mode} |", setting.at, want.replace('|', "\\|"), when);
    }
}

fn writes(setting: &Setting) -> bool {
    matches!(setting.mode, Mode::Exact | Mode::AtLeast)
}

/// Edits between two words (Levenshtein), for "did you mean".
pub fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_unique_and_every_after_is_known_and_earlier() {
        let catalogue = Catalogue::embedded();
        let all: Vec<&Entry> = catalogue.groups.iter().flat_map(|group| &group.entries).collect();
        let known: BTreeSet<&str> = all.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(known.len(), all.len());
        let order: Vec<&str> = catalogue.ordered().iter().map(|entry| entry.id.as_str()).collect();
        for entry in all {
            for after in &entry.after {
                assert!(known.contains(after.as_str()), "{}: after {after}", entry.id);
                let place = |id: &str| order.iter().position(|one| *one == id);
                if let (Some(own), Some(earlier)) = (place(&entry.id), place(after)) {
                    assert!(earlier < own, "{after} and {} go round in a circle", entry.id);
                }
            }
        }
    }

    #[test]
    fn every_text_is_there_and_modes_fit_their_fields() {
        for group in &Catalogue::embedded().groups {
            for entry in &group.entries {
                for text in [
                    &entry.purpose,
                    &entry.why,
                    &entry.hurts,
                    &entry.read,
                    &entry.write,
                    &entry.formula,
                    &entry.not_applicable,
                ] {
                    assert!(!text.trim().is_empty() && !text.contains('\n'), "{}", entry.id);
                }
                for setting in &entry.setting {
                    let wants =
                        Profile::ALL.iter().any(|profile| setting.wanted(*profile).is_some());
                    assert_eq!(wants, writes(setting), "{}: {}", entry.id, setting.at);
                    let bad = setting.bad.is_some() || setting.bad_word.is_some();
                    assert_eq!(bad, setting.mode == Mode::Forbid, "{}", entry.id);
                }
                let looked_at = matches!(entry.class, Class::Boot | Class::Report | Class::Daemon);
                assert!(!(looked_at && entry.setting.iter().any(writes)), "{}", entry.id);
            }
        }
    }

    #[test]
    fn what_is_not_built_cannot_be_named() {
        let catalogue = Catalogue::embedded();
        let planned: Vec<&Entry> = catalogue
            .groups
            .iter()
            .flat_map(|group| &group.entries)
            .filter(|entry| !entry.built)
            .collect();
        assert!(!planned.is_empty());
        for entry in planned {
            assert!(catalogue.entry(&entry.id).is_err());
        }
    }

    #[test]
    fn a_misspelt_identifier_gets_the_near_one() {
        let catalogue = Catalogue::embedded();
        let near = |id: &str| catalogue.entry(id).unwrap_err().near;
        assert_eq!(near("tcp.somaxcon").as_deref(), Some("tcp.somaxconn"));
        assert_eq!(near("somaxconn").as_deref(), Some("tcp.somaxconn"));
        assert_eq!(near("udp.gaurd").as_deref(), Some("udp.guard"));
        assert_eq!(near("entirely-else"), None);
    }
}
