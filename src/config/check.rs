//! What is being checked and what was found: the tools that every part of the check uses.
//! Owns the findings and where they stand. Never knows a key of the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{Faults, Finding, Place, Weight, source};
use super::read::{At, Misread, Written, nearest};
use super::snapshot::{ControlSettings, Snapshot};
use super::value::{FilePath, Name, Period};
use super::{HostFacts, Settled};

/// What is being checked, and what was found so far.
pub(super) struct Check<'a> {
    text: &'a str,
    file: &'a Path,
    pub host: &'a HostFacts,
    findings: Vec<Finding>,
    /// Every file that was read, or should have been.
    pub files: Vec<PathBuf>,
}

impl<'a> Check<'a> {
    pub fn new(file: &'a Path, text: &'a str, host: &'a HostFacts, misread: Vec<Misread>) -> Self {
        let mut check = Check { text, file, host, findings: Vec::new(), files: Vec::new() };
        for Misread { at, why, cure } in misread {
            check.fault(&at, why, cure);
        }
        check
    }

    pub fn fault(&mut self, at: &At, why: impl Into<String>, cure: impl Into<String>) {
        self.find(Weight::Fault, at, why.into(), cure.into());
    }

    pub fn note(&mut self, at: &At, why: impl Into<String>, cure: impl Into<String>) {
        self.find(Weight::Note, at, why.into(), cure.into());
    }

    fn find(&mut self, weight: Weight, at: &At, why: String, cure: String) {
        let place = at.is_somewhere().then(|| Place::of(self.text, at.span.clone()));
        self.findings.push(Finding { weight, key: at.key.to_string(), place, why, cure });
    }

    /// Faults so far.
    pub fn faults(&self) -> usize {
        self.findings.iter().filter(|finding| finding.weight == Weight::Fault).count()
    }

    /// The outcome: what was settled and the notes, or every fault; both in the order of the file.
    pub fn finish(
        self,
        settled: impl FnOnce() -> (Snapshot, ControlSettings),
    ) -> Result<Settled, Faults> {
        if self.faults() > 0 {
            return Err(self.refuse());
        }
        let (snapshot, control) = settled();
        let source = source(self.file, self.text);
        let files = self.files.clone();
        Ok(Settled { snapshot, control, notes: self.sorted(Weight::Note), source, files })
    }

    /// Every fault; there is one.
    pub fn refuse(self) -> Faults {
        let (file, text, files) = (self.file, self.text, self.files.clone());
        Faults { files, ..Faults::new(file, text, self.sorted(Weight::Fault)) }
    }

    fn sorted(self, weight: Weight) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.retain(|finding| finding.weight == weight);
        findings.sort_by_key(|finding| match &finding.place {
            Some(place) => place.span.start,
            None => usize::MAX,
        });
        findings
    }

    /// A path, from the directory of the configuration file.
    pub fn path(&self, path: &FilePath) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(&path.0)
    }

    /// The value of a key that must be there.
    pub fn required<'w, T>(
        &mut self,
        written: &'w Written<T>,
        table: &At,
        key: &str,
        example: &str,
    ) -> Option<(&'w T, &'w At)> {
        if written.is_absent() {
            let cure = format!("write {key} = {example}");
            self.fault(&table.below(key), format!("`{key}` is missing"), cure);
        }
        written.good()
    }

    /// The place among `known` of the name that is written; a fault when it is none of them.
    pub fn find_name(
        &mut self,
        what: &str,
        (name, at): (&Name, &At),
        known: &[Box<str>],
    ) -> Option<usize> {
        let found = known.iter().position(|known| *known == name.0);
        if found.is_none() {
            let mut listed: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
            listed.retain(|name| !name.is_empty());
            listed.dedup();
            let cure = match nearest(&name.0, known.iter().map(AsRef::as_ref)) {
                Some(nearest) => format!("did you mean \"{nearest}\"?"),
                None if listed.is_empty() => format!("the file has no {what} at all: write one"),
                None => format!("write one of: {}", listed.join(", ")),
            };
            self.fault(at, format!("there is no {what} \"{}\"", name.0), cure);
        }
        found
    }

    /// Each name once.
    pub fn unique<'w>(&mut self, what: &str, names: impl Iterator<Item = &'w Written<Name>>) {
        let mut seen: Vec<&Name> = Vec::new();
        for (name, at) in names.filter_map(Written::good) {
            if seen.contains(&name) {
                let why = format!("a second {what} is named \"{}\"", name.0);
                self.fault(at, why, "give each its own name");
            }
            seen.push(name);
        }
    }

    /// At most `bound` of something.
    pub fn at_most(&mut self, what: &str, at: &At, count: usize, bound: usize) {
        if count > bound {
            let why = format!("{count} {what}: more than the {bound} that this version holds");
            self.fault(at, why, "leave some out");
        }
    }
}

/// The value that was written, or `default`.
pub(super) fn or<T: Clone>(written: &Written<T>, default: T) -> T {
    written.value().cloned().unwrap_or(default)
}

/// The duration that was written, or `default`.
pub(super) fn period(written: &Written<Period>, default: Duration) -> Duration {
    written.value().map_or(default, |period| period.0)
}
