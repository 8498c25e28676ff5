//! What is wrong with a configuration, and what is only worth saying: each finding with its place, why, and the cure.
//! Owns the text of the file, to point into it. Never decides what is a fault.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

/// Where something stands in the file; line and column count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u32,
    pub column: u32,
    /// Bytes of the file.
    pub span: Range<usize>,
}

impl Place {
    /// The place of `span` in `text`.
    pub fn of(text: &str, span: Range<usize>) -> Place {
        let start = text.floor_char_boundary(span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Place {
            line: count(before.matches('\n').count() + 1),
            column: count(before[line_start..].chars().count() + 1),
            span: start..span.end.clamp(start, text.len()),
        }
    }
}

/// Whether a finding stops the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nothing starts while there is one.
    Fault,
    /// Stops nothing.
    Note,
}

/// One thing that is wrong, or worth saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub weight: Weight,
    /// The key, as a path: `listener[0].bind`; empty for the file as a whole.
    pub key: String,
    /// `None`: the file as a whole, or something that is not written in it.
    pub place: Option<Place>,
    pub why: String,
    /// What to write or run; empty when the reason says it all.
    pub cure: String,
}

/// The text of a configuration, under the name of its file.
pub type Source = Arc<NamedSource<String>>;

pub(super) fn source(file: &Path, text: &str) -> Source {
    Arc::new(NamedSource::new(file.display().to_string(), text.to_owned()))
}

impl Finding {
    /// For a log: where, what, and the cure, in one line.
    pub fn line(&self) -> String {
        let place = self.place.as_ref();
        let place = place.map(|place| format!("line {}, column {}: ", place.line, place.column));
        let cure = if self.cure.is_empty() { "" } else { "; " };
        format!("{}{self}{cure}{}", place.unwrap_or_default(), self.cure)
    }

    /// For people: what, the lines of `source` around it, and the cure.
    pub fn text(&self, source: &Source) -> String {
        let report = miette::Report::new(self.clone()).with_source_code(source.clone());
        format!("{report:?}\n")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => f.write_str(&self.why),
            key => write!(f, "{key}: {}", self.why),
        }
    }
}

impl std::error::Error for Finding {}

impl Diagnostic for Finding {
    fn severity(&self) -> Option<Severity> {
        Some(match self.weight {
            Weight::Fault => Severity::Error,
            Weight::Note => Severity::Advice,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.cure.is_empty()).then(|| Box::new(&self.cure) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new_primary_with_span(None, place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// All faults of one file, in the order of the file; never empty.
#[derive(Clone)]
pub struct Faults {
    pub file: PathBuf,
    pub faults: Vec<Finding>,
    /// The files that it names, as far as it could be read.
    pub files: Vec<PathBuf>,
    pub(super) source: Source,
}

impl Faults {
    /// Faults of `text`, which was read from `file`.
    pub fn new(file: &Path, text: &str, faults: Vec<Finding>) -> Faults {
        assert!(!faults.is_empty());
        Faults { file: file.to_owned(), faults, files: Vec::new(), source: source(file, text) }
    }

    /// The one fault of a file that has no text to point into.
    pub fn one(file: &Path, why: impl Into<String>, cure: impl Into<String>) -> Faults {
        let fault = Finding {
            weight: Weight::Fault,
            key: String::new(),
            place: None,
            why: why.into(),
            cure: cure.into(),
        };
        Faults::new(file, "", vec![fault])
    }
}

impl Faults {
    /// For people: each fault with the lines around its place, then their number.
    pub fn text(&self) -> String {
        let faults = self.faults.iter().map(|fault| fault.text(&self.source));
        faults.chain(std::iter::once(format!("{self}\n"))).collect()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let faults = if count == 1 { "fault" } else { "faults" };
        write!(f, "{count} {faults} in {}; nothing was started", self.file.display())
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("file", &self.file).field("faults", &self.faults).finish()
    }
}

impl std::error::Error for Faults {}

impl Diagnostic for Faults {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.faults.iter().map(|fault| fault as &dyn Diagnostic)))
    }
}
