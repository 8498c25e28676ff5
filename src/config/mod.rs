//! What the operator wrote (`file`), what is wrong with it (`check`), and what is settled (`snapshot`).

mod advertise;
mod bounds;
mod check;
pub mod fault;
pub mod file;
mod health;
mod named;
mod pem;
mod process;
pub mod read;
pub mod render;
mod settle;
pub mod snapshot;
pub mod value;

use std::path::{Path, PathBuf};

pub use fault::{Faults, Finding, Source};
pub use settle::EMBEDDED_BACKEND;
use snapshot::{ControlSettings, Snapshot};

/// What the check must know of the host. Handed in, so that a check of the same file always says the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Ids of the cores that this process may run on, ascending; never empty.
    pub cores: Vec<usize>,
    /// Hard limit of open descriptors (`RLIMIT_NOFILE`); it bounds a ring's table of direct descriptors too.
    pub descriptors: u64,
    /// Effective user id.
    pub user: u32,
    /// Seconds since 1970, to judge certificates.
    pub unix_time: i64,
    /// Whether `::1` can be bound.
    pub ipv6_loopback: bool,
}

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Settled {
    pub snapshot: Snapshot,
    pub control: ControlSettings,
    /// What is not wrong but worth saying.
    pub notes: Vec<Finding>,
    /// The text that the notes point into.
    pub source: Source,
    /// The files that it was made of, beside the configuration file itself.
    pub files: Vec<PathBuf>,
}

/// The embedded default as a file: every key, its default, and what it means.
pub const DEFAULT: &str = include_str!("default.toml");

/// Largest configuration file: a thousand routes are a tenth of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads and settles `path`, or the embedded default when there is none.
///
/// # Errors
/// Every fault of the file at once.
pub fn load(path: Option<&Path>, host: &HostFacts) -> Result<Settled, Faults> {
    let Some(path) = path else {
        return settle::settle(Path::new("(embedded default)"), DEFAULT, host, true);
    };
    let text = read_file(path).map_err(|(why, cure)| Faults::one(path, why, cure))?;
    settle::settle(path, &text, host, false)
}

/// The text of a configuration file, or why it cannot be had and the cure.
fn read_file(path: &Path) -> Result<String, (String, String)> {
    let shown = path.display();
    let cannot = |error: std::io::Error, cure: &str| {
        (format!("cannot read {shown}: {error}"), cure.to_owned())
    };
    let metadata = std::fs::metadata(path).map_err(|error| {
        cannot(error, "to write one: ringfront config default > ringfront.toml")
    })?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        let why = format!("{shown} is no file of at most {} KiB", FILE_BYTES_MAX / 1024);
        return Err((why, "give the path of a configuration file".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot(error, "let this user read it"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        (format!("line {line} of {shown} is not UTF-8"), "save the file as UTF-8".into())
    })
}

/// JSON Schema of the file, for editors, with the defaults of the embedded one.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(file::File).to_value();
    let default: serde_json::Value = toml::from_str(DEFAULT).unwrap_or_default();
    for (table, keys) in default.as_object().into_iter().flatten() {
        // Zones, listeners, pools and routes of the embedded default are examples, no defaults.
        let Some(reference) = schema["properties"][table]["$ref"].as_str() else { continue };
        let pointer = reference.trim_start_matches('#').to_owned();
        for (key, value) in keys.as_object().into_iter().flatten() {
            let property = schema.pointer_mut(&format!("{pointer}/properties/{key}"));
            if let Some(property) = property.and_then(serde_json::Value::as_object_mut) {
                property.insert("default".into(), value.clone());
            }
        }
    }
    schema
}
