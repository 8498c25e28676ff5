//! The configuration, as an operator meets it: every fault at once with line, column, why and cure; what a good file
//! settles to; and the commands that print them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use proptest::prelude::*;
use ringfront::config::fault::Finding;
use ringfront::config::snapshot::{AdminListen, Limits, Rate, Transport};
use ringfront::config::{self, DEFAULT, Faults, HostFacts, Settled, render};

#[path = "config/advertise.rs"]
mod advertise;
#[path = "config/certificates.rs"]
mod certificates;

/// A host with all that the files here ask for. 2027-01-15T08:00:00Z.
fn host() -> HostFacts {
    HostFacts {
        cores: vec![0, 1, 2, 3],
        descriptors: 1 << 16,
        user: own_user(),
        unix_time: 1_800_000_000,
        ipv6_loopback: true,
    }
}

fn own_user() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("proc").uid()
}

fn load_text(text: &str) -> Result<Settled, Faults> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ringfront.toml");
    std::fs::write(&path, text).expect("written");
    config::load(Some(&path), &host())
}

/// `line:column key: why` and the cure below it.
fn listed(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let place = finding.place.as_ref();
        let place = place.map_or("-".into(), |place| format!("{}:{}", place.line, place.column));
        writeln!(text, "{place} {finding}\n    {}", finding.cure).expect("a string");
    }
    text
}

/// Each file of tests/data/config and the exact findings next to it; `BLESS=1` writes them anew, to be read.
#[test]
fn each_bad_file_gets_exactly_its_faults() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    let files = std::fs::read_dir(&directory).expect("tests/data/config");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 15);
    for file in files {
        let found = match config::load(Some(&file), &host()) {
            Ok(settled) => format!("good\n{}", listed(&settled.notes)),
            Err(faults) => listed(&faults.faults),
        };
        let found = found.replace(&format!("{}/", directory.display()), "");
        let expected = file.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected, &found).expect("written");
        }
        let expected = std::fs::read_to_string(&expected).expect("the findings beside the file");
        assert!(found == expected, "{}:\n{found}", file.display());
    }
}

#[test]
fn a_fault_always_says_why_and_how_to_cure_it() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    for entry in std::fs::read_dir(directory).expect("tests/data/config") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let Err(faults) = config::load(Some(&path), &host()) else { continue };
        for fault in &faults.faults {
            assert!(!fault.why.is_empty(), "{fault:?}");
            assert!(!fault.cure.is_empty(), "{fault:?}");
        }
        let text = faults.text();
        for fault in &faults.faults {
            let Some(place) = &fault.place else { continue };
            assert!(
                text.contains(&format!(":{}:{}]", place.line, place.column)),
                "{fault:?}\n{text}"
            );
        }
    }
}

#[test]
fn a_log_line_has_place_reason_and_cure() {
    let faults = load_text("[limits]\nheed = '1KiB'\n").unwrap_err();
    let line = faults.faults[0].line();
    assert_eq!(line, "line 2, column 1: limits.heed: unknown key `heed`; did you mean `head`?");
}

#[test]
fn the_default_file_settles_to_the_embedded_default() {
    let embedded = config::load(None, &host()).expect("the embedded default");
    assert_eq!(embedded.notes, []);
    let written = load_text(DEFAULT).expect("the default file");
    assert_eq!(format!("{:#?}", embedded.snapshot), format!("{:#?}", written.snapshot));

    let binds: Vec<String> = embedded
        .snapshot
        .listeners
        .iter()
        .map(|one| format!("{}:{}", one.transport.name(), one.bind))
        .collect();
    assert_eq!(
        binds,
        ["tls:127.0.0.1:5061", "tls:[::1]:5061", "tcp:127.0.0.1:5060", "tcp:[::1]:5060"]
    );
    assert!(embedded.snapshot.listeners.iter().all(|listener| listener.identities.is_empty()));
    assert_eq!(
        embedded.snapshot.limits,
        Limits {
            connections_per_core: 64_256,
            connections_per_prefix: 20_000,
            requests_per_prefix: Rate { count: 200_000, per: Duration::from_secs(1) },
            handshakes_per_prefix: 512,
            handshake_rate_per_prefix: Rate { count: 20_000, per: Duration::from_secs(1) },
            ..Limits::default()
        }
    );
    let control = &embedded.control;
    assert_eq!(control.state_dir, Path::new("ringfront-state"));
    assert_eq!(control.admin, AdminListen::Unix("ringfront-state/admin.sock".into()));
    assert_eq!(control.metrics_listen, Some("127.0.0.1:9060".parse().unwrap()));
    assert_eq!(control.cores, [0, 1, 2, 3]);
    assert_eq!(control.housekeeping_core, None);
    assert_eq!(control.embedded_backend, Some(config::EMBEDDED_BACKEND));
    let backend = &embedded.snapshot.pools[0].backends[0];
    assert_eq!((backend.address, backend.transport), (config::EMBEDDED_BACKEND, Transport::Tcp));
}

/// What the default file says of a key is what happens when the key is left out; of four limits it says that in
/// brackets, since everybody on loopback shares one prefix.
#[test]
fn a_key_that_is_left_out_has_the_value_of_the_default_file() {
    let written = config::load(None, &host()).expect("the embedded default");
    let short = "
        [zone.edge]
        transports = ['tls', 'tcp']
        [zone.core]
        transports = 'tcp'
        advertise = '127.0.0.1:5060'
        allow_from = '127.0.0.1'
        trusted = true
        [[listener]]
        name = 'edge-tls'
        zone = 'edge'
        transport = 'tls'
        bind = ['127.0.0.1:5061', '[::1]:5061']
        [[listener]]
        name = 'edge-tcp'
        zone = 'edge'
        transport = 'tcp'
        bind = ['127.0.0.1:5060', '[::1]:5060']
        [[pool]]
        name = 'embedded'
        zone = 'core'
        backends = 'embedded'
        [[route]]
        from_zone = 'edge'
        pool = 'embedded'
    ";
    let mut short = load_text(short).expect("good");
    let left_out = Limits { connections_per_core: 64_256, ..Limits::default() };
    assert_eq!(short.snapshot.limits, left_out);
    short.snapshot.limits = written.snapshot.limits.clone();
    for (key, absent) in [
        ("connections_per_prefix", "[256]"),
        ("requests_per_prefix", "[\"200/s\"]"),
        ("handshakes_per_prefix", "[64]"),
        ("handshake_rate_per_prefix", "[\"2000/s\"]"),
    ] {
        let line = DEFAULT.lines().find(|line| line.starts_with(&format!("{key} = ")));
        assert!(line.is_some_and(|line| line.ends_with(absent)), "{key}");
    }
    let page = |settled: &Settled| {
        let mut control = settled.control.clone();
        // It is optional: the embedded default asks for it.
        control.metrics_listen = None;
        let page = render::toml(&settled.snapshot, &control);
        let directory = control.state_dir.with_file_name("").display().to_string();
        if directory.is_empty() { page } else { page.replace(&directory, "") }
    };
    let written = page(&written);
    assert_eq!(page(&short), written);
}

#[test]
fn without_ipv6_the_embedded_default_starts_on_ipv4_and_says_so() {
    let host = HostFacts { ipv6_loopback: false, ..host() };
    let settled = config::load(None, &host).expect("the embedded default");
    assert_eq!(settled.snapshot.listeners.len(), 2);
    assert!(settled.snapshot.listeners.iter().all(|listener| listener.bind.is_ipv4()));
    assert_eq!(settled.notes.len(), 1);
    assert!(settled.notes[0].why.contains("no ::1"), "{:?}", settled.notes);
}

/// Another value for each key of [limits] of the default file; both to be settled and to be seen again in the output.
const OTHER_LIMITS: [(&str, &str); 30] = [
    ("connections_per_core", "1000"),
    ("transactions_per_core", "1000"),
    ("transactions_full", "\"stateless\""),
    ("connections_per_prefix", "17"),
    ("requests_per_prefix", "\"off\""),
    ("handshake_deadline", "\"7s\""),
    ("handshakes_per_core", "1000"),
    ("handshakes_per_prefix", "9"),
    ("handshake_share", "0.250"),
    ("handshake_rate_per_prefix", "\"30/m\""),
    ("requests_per_connection", "\"500/s\""),
    ("requests_per_aor", "\"10/h\""),
    ("failures_per_prefix", "50"),
    ("minimum_rate", "\"1KiB/s\""),
    ("message_deadline", "\"1500ms\""),
    ("idle_timeout", "\"3m\""),
    ("registered_idle_timeout", "\"2h\""),
    ("keepalive", "\"90s\""),
    ("turn_time", "\"30ms\""),
    ("start_line", "\"3KiB\""),
    ("uri", "\"1000B\""),
    ("header_line", "\"5KiB\""),
    ("head", "\"32KiB\""),
    ("headers", "64"),
    ("vias", "16"),
    ("routes", "8"),
    ("contacts", "3"),
    ("parameters", "12"),
    ("body", "\"1KiB\""),
    ("outbox", "\"1MiB\""),
];

#[test]
fn every_limit_reaches_the_snapshot_and_nothing_else_changes() {
    let default: toml::Table = toml::from_str(DEFAULT).expect("TOML");
    let mut keys: Vec<&str> =
        default["limits"].as_table().unwrap().keys().map(String::as_str).collect();
    let mut others: Vec<&str> = OTHER_LIMITS.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    others.sort_unstable();
    assert_eq!(keys, others);
    let fields = format!("{:#?}", Limits::default());
    let fields =
        fields.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
    assert_eq!(fields.filter(|line| line.contains(':')).count(), OTHER_LIMITS.len());

    let before = load_text(DEFAULT).expect("good");
    let before = render::json(&before.snapshot, &before.control)["limits"].clone();
    for (key, value) in OTHER_LIMITS {
        let changed: String = DEFAULT
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((written, _)) if written == key => format!("{key} = {value}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let settled = load_text(&changed).unwrap_or_else(|faults| panic!("{key}: {faults:?}"));
        assert_ne!(settled.snapshot.limits, Limits::default(), "{key}");
        let after = render::json(&settled.snapshot, &settled.control)["limits"].clone();
        let wanted: toml::Table = toml::from_str(&format!("value = {value}")).expect("TOML");
        let wanted = serde_json::to_value(&wanted["value"]).expect("JSON");
        for (name, before) in before.as_object().expect("a table") {
            let wanted = if name == key { &wanted } else { before };
            if name == key || name != "handshakes_per_core" || key != "connections_per_core" {
                assert_eq!(&after[name], wanted, "{name} after {key} = {value}");
            }
        }
    }
}

#[test]
fn off_is_what_no_source_reaches() {
    let text =
        DEFAULT.replace("requests_per_prefix = \"200000/s\"", "requests_per_prefix = \"off\"");
    let settled = load_text(&text).expect("good");
    assert_eq!(settled.snapshot.limits.requests_per_prefix, Rate::UNLIMITED);
}

#[test]
fn the_descriptor_limit_bounds_the_connections_of_a_core() {
    let connections = |descriptors, text: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ringfront.toml");
        std::fs::write(&path, text).expect("written");
        let host = HostFacts { descriptors, ..host() };
        config::load(Some(&path), &host).map(|settled| settled.snapshot.limits.connections_per_core)
    };
    assert_eq!(connections(u64::MAX, DEFAULT).unwrap(), 100_000);
    assert_eq!(connections(20_000, DEFAULT).unwrap(), 20_000 - 1280);
    let faults = connections(1024, DEFAULT).unwrap_err();
    assert!(faults.faults[0].cure.contains("LimitNOFILE"), "{faults:?}");

    let text = |count: u32| {
        DEFAULT
            .replace("connections_per_core = \"auto\"", &format!("connections_per_core = {count}"))
    };
    assert_eq!(connections(20_000, &text(18_720)).unwrap(), 18_720);
    let faults = connections(20_000, &text(18_721)).unwrap_err();
    assert!(faults.faults[0].cure.contains("LimitNOFILE=20001"), "{faults:?}");
    // Nor more than a ring's table has slots, whatever the limit.
    assert_eq!(connections(u64::MAX, &text(1_047_296)).unwrap(), 1_047_296);
    assert!(connections(u64::MAX, &text(1_047_297)).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let directory = tempfile::tempdir().expect("a directory");
    let absent = config::load(Some(&directory.path().join("absent.toml")), &host()).unwrap_err();
    assert!(absent.faults[0].cure.contains("ringfront config default"), "{absent:?}");
    let folder = config::load(Some(directory.path()), &host()).unwrap_err();
    assert!(folder.faults[0].why.contains("is no file"), "{folder:?}");
    let path = directory.path().join("latin1.toml");
    std::fs::write(&path, b"[node]\nname = \"caf\xe9\"\n").expect("written");
    let latin1 = config::load(Some(&path), &host()).unwrap_err();
    assert!(latin1.faults[0].why.starts_with("line 2 of"), "{latin1:?}");
}

fn ringfront(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringfront"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .expect("ringfront runs")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

#[test]
fn check_tells_people_and_scripts() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ringfront.toml");
    let path = path.to_str().expect("UTF-8");
    std::fs::write(path, stdout(&ringfront(&["config", "default"]))).expect("written");
    let good = ringfront(&["check", "--config", path]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let page: toml::Table = stdout(&good).parse().expect("the page is TOML");
    assert_eq!(page["limits"]["head"].as_str(), Some("16KiB"));
    assert!(stdout(&good).contains("at most, all together"));

    let good = ringfront(&["check", "--json", "--config", path]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let document: serde_json::Value = serde_json::from_str(stdout(&good)).expect("JSON");
    assert_eq!(document["good"], true);
    assert_eq!(document["faults"], serde_json::json!([]));
    assert_eq!(document["settled"]["limits"]["head"], "16KiB");
    let sums = document["memory"]["sums"].as_array().expect("a list");
    let total: u64 = sums.iter().map(|sum| sum["bytes"].as_u64().expect("bytes")).sum();
    assert_eq!(document["memory"]["bytes"], total);

    std::fs::write(path, "[limits]\nheed = \"1KiB\"\n").expect("written");
    let bad = ringfront(&["check", "--config", path]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let text = String::from_utf8(bad.stderr).expect("UTF-8");
    for part in ["unknown key `heed`", "ringfront.toml:2:1]", "did you mean `head`?", "2 faults in"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let bad = ringfront(&["check", "--json", "--config", path]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let document: serde_json::Value = serde_json::from_str(stdout(&bad)).expect("JSON");
    let fault = serde_json::json!({
        "key": "limits.heed",
        "line": 2,
        "column": 1,
        "why": "unknown key `heed`",
        "cure": "did you mean `head`?",
    });
    assert_eq!(document["faults"][0], fault);
    assert_eq!(document["faults"][1]["line"], serde_json::Value::Null);
}

#[test]
fn run_refuses_a_bad_file_and_starts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ringfront.toml");
    std::fs::write(&path, "[[listener]]\ntransport = \"udp\"\n").expect("written");
    let path = path.to_str().expect("UTF-8");
    for arguments in [&["run", "--config", path][..], &["--config", path][..]] {
        let run = ringfront(arguments);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        let text = String::from_utf8(run.stderr).expect("UTF-8");
        assert!(text.contains("ringfront has no UDP, by design"), "{text}");
        assert!(text.contains("nothing was started"), "{text}");
    }
    assert!(!directory.path().join("ringfront-state").exists());
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["chek"][..], &["check"][..], &["--udp"][..], &["config", "defaults"][..]] {
        let output = ringfront(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_program_describes_itself() {
    let version = ringfront(&["--version"]);
    assert!(stdout(&version).contains("TCP and TLS"), "{version:?}");
    assert!(stdout(&version).contains("No UDP, by design"), "{version:?}");
    let help = ringfront(&["--help"]);
    for command in ["run", "check", "config", "completions", "man"] {
        let listed = stdout(&help).lines().any(|line| {
            line.strip_prefix("  ").and_then(|line| line.split_whitespace().next()) == Some(command)
        });
        assert!(listed, "{command}: {help:?}");
    }
    assert!(stdout(&ringfront(&["completions", "bash"])).contains("_ringfront"));
    assert!(stdout(&ringfront(&["man"])).starts_with(".ie"), "a man page");
}

#[test]
fn the_schema_knows_every_key_of_the_default_file() {
    let output = ringfront(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    let default: toml::Table = toml::from_str(DEFAULT).expect("TOML");
    for (table, keys) in default["limits"].as_table().expect("a table") {
        let property = &schema["$defs"]["Limits"]["properties"][table];
        let keys = serde_json::to_value(keys).expect("JSON");
        assert_eq!(property["default"], keys, "{table}");
        assert!(
            property["anyOf"].is_array() || property["type"].is_string(),
            "{table}: {property}"
        );
    }
    let of = |table: &str| match table {
        "zone" => "Zone",
        "listener" => "Listener",
        "pool" => "Pool",
        "route" => "Route",
        _ => "",
    };
    for (table, value) in &default {
        assert!(schema["properties"][table].is_object(), "{table}");
        let tables: Vec<&toml::Table> = match value {
            toml::Value::Array(list) => list.iter().filter_map(toml::Value::as_table).collect(),
            toml::Value::Table(zones) if table == "zone" => {
                zones.values().filter_map(toml::Value::as_table).collect()
            }
            _ => continue,
        };
        for key in tables.into_iter().flat_map(|table| table.keys()) {
            let property = &schema["$defs"][of(table)]["properties"][key];
            assert!(property.is_object(), "{table}.{key}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any cut, doubled line or changed byte of the default file: an answer with places inside the file, never a panic.
    #[test]
    fn a_mangled_file_gets_an_answer(
        cuts in prop::collection::vec((0usize..9000, 0usize..40, "[\\[\\]{}\"=a-z0-9 .\n-]{0,6}"), 1..6)
    ) {
        let mut text = DEFAULT.to_owned();
        for (start, length, with) in cuts {
            let start = text.floor_char_boundary(start.min(text.len()));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &with);
        }
        if let Err(faults) = load_text(&text) {
            prop_assert!(!faults.faults.is_empty());
            for place in faults.faults.iter().filter_map(|fault| fault.place.as_ref()) {
                prop_assert!(place.span.end <= text.len());
                prop_assert!(place.line as usize <= text.lines().count() + 1);
            }
            prop_assert!(!faults.text().is_empty());
        }
    }

    /// Whole lines of the default file left out or moved: the rules between keys must hold without what they join.
    #[test]
    fn a_file_of_any_lines_gets_an_answer(kept in prop::collection::vec(0usize..160, 0..80)) {
        let lines: Vec<&str> = DEFAULT.lines().collect();
        let text: String = kept.iter().filter_map(|index| lines.get(*index)).map(|line| format!("{line}\n")).collect();
        if let Err(faults) = load_text(&text) {
            prop_assert!(!faults.faults.is_empty());
        }
    }

    /// Tables left out of the default file, in its order: names that refer to nothing.
    #[test]
    fn a_file_without_some_of_its_tables_gets_an_answer(kept in prop::collection::vec(any::<bool>(), 20)) {
        let mut text = String::new();
        let mut tables = kept.iter();
        let mut keep = true;
        for line in DEFAULT.lines() {
            if line.starts_with('[') {
                keep = *tables.next().unwrap_or(&true);
            }
            if keep {
                text.push_str(line);
                text.push('\n');
            }
        }
        if let Err(faults) = load_text(&text) {
            prop_assert!(!faults.faults.is_empty());
        }
    }
}
