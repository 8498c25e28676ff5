//! House rules as tests: floors, bans, module documentation, lengths, the ledger of unsafe code, the top level.
//! Reads the source as text; knows nothing of the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 1500;
const FUNCTION_LINES_MAX: usize = 70;

/// What each folder of `src/` may import of the crate, itself aside (docs/architecture.md, the floors).
const FLOORS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("sip", &["base"]),
    ("config/snapshot", &["base"]),
    ("telemetry", &["base"]),
    ("tls", &["base", "config::snapshot"]),
    ("sys", &["base"]),
    ("proxy", &["base", "sip", "tls", "config::snapshot", "telemetry"]),
    ("peer", &["base", "sip", "tls", "telemetry"]),
    ("worker", &["base", "telemetry"]),
    ("sim", &["base", "sip", "tls", "proxy", "peer", "worker", "telemetry", "config"]),
    ("config", &["base", "tls"]),
    ("control", &["base", "config", "telemetry", "tls", "worker", "proxy", "peer", "sys", "host"]),
    ("host", &["base", "config::snapshot"]),
    (
        "cli",
        &[
            "base",
            "config",
            "control",
            "host",
            "peer",
            "proxy",
            "sim",
            "sip",
            "sys",
            "telemetry",
            "tls",
            "worker",
        ],
    ),
];

/// Words that do not belong in the code, where they may stand all the same, and what to write instead.
const BANS: &[(&str, &[&str], &str)] = &[
    ("UdpSocket", &[], "there is no UDP here"),
    ("SOCK_DGRAM", &[], "there is no UDP here"),
    ("todo!(", &[], "what is not built is absent, or says so when called"),
    ("unimplemented!(", &[], "what is not built is absent, or says so when called"),
    ("dbg!(", &[], "telemetry or a log line"),
    ("#[ignore", &[], "a test runs, or is skipped by name with the reason"),
    (
        "Instant::now",
        &["src/sys/", "src/control/", "src/cli/", "src/host/", "tests/", "bench/"],
        "time is handed down",
    ),
    (
        "SystemTime::now",
        &[
            "src/sys/",
            "src/control/",
            "src/cli/",
            "src/host/",
            "tests/",
            "bench/",
            "src/tls/clock.rs",
        ],
        "time is handed down",
    ),
    (
        "thread::sleep",
        &[
            "src/control/",
            "src/cli/",
            "src/host/",
            "src/worker/mod.rs",
            "src/sys/",
            "tests/",
            "bench/",
        ],
        "deadlines",
    ),
    ("thread_rng", &[], "base::random, handed down"),
];

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let skipped = ["target", "corpus", "artifacts"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !skipped {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found.sort();
    assert!(found.len() > 20, "the walk has found the source");
    found
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("source is UTF-8"),
            path: path.strip_prefix(root()).expect("below the root").display().to_string(),
        })
        .collect()
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// The code of a file without its test module.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

#[test]
fn files_import_lower_floors_only() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let inner = source.path.trim_start_matches("src/").trim_end_matches(".rs");
        if matches!(inner, "lib" | "main") {
            continue;
        }
        let Some((floor, allowed)) = FLOORS
            .iter()
            .filter(|(floor, _)| inner == *floor || inner.starts_with(&format!("{floor}/")))
            .max_by_key(|(floor, _)| floor.len())
        else {
            faults.push(format!("{}: a folder without a floor", source.path));
            continue;
        };
        let own = floor.split('/').next().expect("a name");
        for (number, line) in without_tests(&source.text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for rest in code.split("crate::").skip(1) {
                // `pub(in crate::x)` and re-exports of the own floor are no imports.
                let fine = rest.starts_with(own)
                    || allowed.iter().any(|floor| {
                        rest.starts_with(floor) || rest.starts_with(&floor.replace("::", "::{")[..])
                    });
                if !fine && !line.contains("tidy: allow(floor)") {
                    faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    report(faults);
}

#[test]
fn banned_words_stay_out() {
    let mut faults = Vec::new();
    for source in sources(&["src", "bench", "tests"]) {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            for (word, places, instead) in BANS {
                let allowed = places.iter().any(|place| source.path.starts_with(place));
                let comment = line.trim_start().starts_with("//");
                if line.contains(word) && !allowed && !comment && !line.contains("tidy: allow(ban)")
                {
                    faults.push(format!("{}:{}: {word}: {instead}", source.path, number + 1));
                }
            }
        }
    }
    report(faults);
}

#[test]
fn every_file_says_what_it_owns() {
    let faults = sources(&["src", "tests"])
        .into_iter()
        .filter(|source| !source.text.starts_with("//!") && !source.text.starts_with("#!["))
        .map(|source| format!("{}: opens without //!", source.path));
    report(faults.collect());
}

#[test]
fn files_and_functions_stay_readable() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines, {LINES_MAX} is the stop", source.path));
        }
        if source.path.ends_with("/tests.rs") {
            continue;
        }
        let code = without_tests(&source.text);
        let mut start: Option<(usize, usize, String)> = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head =
                line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
            let head = head.trim_start_matches("pub(crate) ").trim_start_matches("const ");
            if head.starts_with("fn ") && start.is_none() && !line.trim_end().ends_with(';') {
                start = Some((number, indent, head.to_string()));
            }
            if let Some((from, depth, name)) = &start
                && indent == *depth
                && line.trim_start().starts_with('}')
            {
                let length = number - from + 1;
                if length > FUNCTION_LINES_MAX
                    && !code
                        .lines()
                        .nth(from.saturating_sub(1))
                        .is_some_and(|it| it.contains("tidy: allow(length)"))
                {
                    faults.push(format!("{}:{}: {length} lines: {name}", source.path, from + 1));
                }
                start = None;
            }
        }
    }
    report(faults);
}

#[test]
fn unsafe_code_lives_in_sys_and_in_the_ledger() {
    let ledger = fs::read_to_string(root().join("docs/unsafe.md")).expect("docs/unsafe.md");
    let mut faults = Vec::new();
    let mut blocks: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources(&["src"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|form| code.contains(form));
            if !is_unsafe {
                continue;
            }
            if !source.path.starts_with("src/sys/") {
                faults.push(format!("{}:{}: unsafe outside src/sys/", source.path, number + 1));
                continue;
            }
            *blocks.entry(source.path.clone()).or_default() += 1;
            let above = lines[number.saturating_sub(12)..number].join("\n");
            for word in ["PROMISE", "WHO", "TEST"] {
                if !above.contains(word) {
                    faults.push(format!("{}:{}: no {word} line above", source.path, number + 1));
                }
            }
        }
    }
    for (path, count) in blocks {
        let name = path.trim_start_matches("src/");
        let rows =
            ledger.lines().filter(|line| line.starts_with('|') && line.contains(name)).count();
        if rows != count {
            faults.push(format!(
                "docs/unsafe.md has {rows} rows for {path}, which has {count} blocks"
            ));
        }
    }
    report(faults);
}

#[test]
fn the_top_level_is_what_was_agreed() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "bench",
        "tuning",
        "docs",
        "tests",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "target",
        "ringfront-state",
    ];
    let entries = fs::read_dir(root()).expect("the root").flatten();
    let faults = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !allowed.contains(&&name[..]))
        .map(|name| format!("{name}: not at the top level"));
    report(faults.collect());
}

/// Paths in the documents stand for files that exist.
#[test]
fn documents_name_files_that_exist() {
    let mut faults = Vec::new();
    let mut documents = vec![root().join("README.md")];
    let folder =
        fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    documents.extend(folder.filter(|path| path.extension().is_some_and(|it| it == "md")));
    for document in documents {
        let text = fs::read_to_string(&document).expect("a document");
        for word in text.split(['`', '(', ')', ' ', '\n', '|', ',']) {
            let path = word.trim_end_matches(['.', ':', ';']);
            let named = ["src/", "tests/", "bench/", "tuning/", "docs/"]
                .iter()
                .any(|it| path.starts_with(it));
            let plain = path.chars().all(|it| it.is_ascii_alphanumeric() || "/._-".contains(it));
            if named && plain && !root().join(path).exists() {
                faults.push(format!(
                    "{}: {path}",
                    document.file_name().unwrap_or_default().display()
                ));
            }
        }
    }
    report(faults);
}
