//! Keeps docs/rfc.md true: every rule stands in one of its lists, and what it calls held names tests that say so
//! themselves. Reads text; knows nothing of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every rule that was drawn from the RFCs.
const RULES: &str = "
    3261-7.3-a 3261-7.3-b 3261-7.5-a 3261-18.3-a 3261-18.3-b 3261-8.1.1.7-a 3261-16.3-a
    3261-16.3-b 3261-16.3-c 3261-16.3-d 3261-16.3-e 3261-16.4-a 3261-16.4-b 3261-16.4-c
    3261-16.5-a 3261-16.6-a 3261-16.6-b 3261-16.6-c 3261-16.6-d 3261-16.6-e 3261-16.6-f
    3261-16.6-g 3261-16.6-h 3261-16.7-a 3261-16.7-b 3261-16.7-c 3261-16.7-d 3261-16.7-e
    3261-16.7-f 3261-16.7-g 3261-16.9-a 3261-16.10-a 3261-9.1-a 3261-16.11-a 3261-17-a 3261-17-b
    3261-17.2.3-a 3261-18-a 3261-18-b 3261-18.1.1-a 3261-18.2.1-a 3261-18.2.1-b 3261-18.2.2-a
    3261-18.2.2-b 3261-18.4-a 3261-26-a 3261-26-b 3261-26-c 3263-4-a 3263-4.1-a 3263-4.1-b
    3263-4.1-c 3263-4.1-d 3263-4.1-e 3263-4.2-a 3263-4.3-a 3263-4.4-a 3263-5-a 3327-5.2-a
    3327-5.2-b 3327-5.2-c 3581-4-a 3581-3-a 4320-4.1-a 4320-4.2-a 4320-4.2-b 6026-7.1-a 6026-7.2-a
    6026-7.1-b 6026-7.3-a 6026-8.4-a 5393-4.1-a 5393-4.2-a 5393-4.2-b 5393-5.3-a 5393-5.3-b
    5626-5.1-a 5626-5.2-a 5626-5.3-a 5626-5.3.1-a 5626-5.3.2-a 5626-5.4-a 5626-5.4-b 5626-5.4-c
    5626-4.4.1-a 5626-7-a 6223-4.4-a 6223-4.3-a 6223-10-a 6223-4.4-b 6228-6-a 6228-6-b 5630-5.3-a
    5630-5.3-b 5630-5.3-c 5630-5.3-d 5630-5.3-e 5630-5.3-f 5630-A-a 5658-5-a 5658-6.2-a 5658-6.2-b
    5922-7.1-a 5922-7.1-b 5922-7.2-a 5922-7.3-a 5922-7.4-a 5922-7.5-a 5922-7.8-a 5923-8.1-a
    5923-8.2-a 5923-9.3-a 5923-8.3-a 5923-P 7339-4-a 7339-5.5-a 7339-5.9-a 7339-5.10.1-a 7339-4-b
    7339-5.10.2-a 7339-5.11-a 7339-5.6-a 7339-P 7118-4.1-a 7118-4.2-a 7118-5-a 7118-5.1-a
    8760-2.5-a 8760-P 7301-3.2-a PP-a PP-b PP-c
";

/// A rule's id and a test, `path::function`.
type Claim = (String, String);

struct Document {
    /// Ids of the table under "Held", in order.
    held: Vec<String>,
    /// Ids of the three other lists, in order.
    listed: Vec<String>,
    claims: BTreeSet<Claim>,
    /// Files of the table.
    files: BTreeSet<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn is_rule(word: &str) -> bool {
    RULES.split_whitespace().any(|rule| rule == word)
}

/// What stands in backticks and names a test.
fn tests_named(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains(".rs::")).map(str::to_string).collect()
}

fn document() -> Document {
    let text = fs::read_to_string(root().join("docs/rfc.md")).expect("docs/rfc.md");
    let mut found = Document {
        held: Vec::new(),
        listed: Vec::new(),
        claims: BTreeSet::new(),
        files: BTreeSet::new(),
    };
    let held = text.split("\n## ").find(|part| part.starts_with("Held\n")).expect("## Held");
    for row in held.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _, file, tests] = cells[..] else { panic!("four cells: {row}") };
        assert!(!tests_named(tests).is_empty(), "{id}: held without a test");
        found.held.push(id.to_string());
        found.files.insert(file.trim_matches('`').to_string());
        found.claims.extend(tests_named(tests).into_iter().map(|test| (id.to_string(), test)));
    }
    for part in text.split("\n## ").filter(|part| !part.starts_with("Held\n")) {
        for item in part.split("\n* ").skip(1) {
            let head = item.split(':').next().unwrap_or_default();
            let ids: Vec<&str> = head.split(", ").take_while(|word| is_rule(word)).collect();
            for id in ids {
                found.listed.push(id.to_string());
                found
                    .claims
                    .extend(tests_named(item).into_iter().map(|test| (id.to_string(), test)));
            }
        }
    }
    found
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every test of the crate, each with the ids in the comment above it.
fn tests_of_the_crate() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    walk(&root().join("src"), &mut files);
    walk(&root().join("tests"), &mut files);
    let mut tests = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(root()).expect("below the root").display().to_string();
        let text = fs::read_to_string(&file).expect("source is UTF-8");
        let (mut ids, mut is_test) = (BTreeSet::new(), false);
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("///") {
                let words = comment.split([' ', ',', ';', '(', ')', ':']);
                let words = words.map(|word| word.trim_end_matches('.'));
                ids.extend(words.filter(|word| is_rule(word)).map(str::to_string));
            } else if line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ")
                && is_test
            {
                let name = rest.split('(').next().unwrap_or_default();
                tests.insert(format!("{path}::{name}"), std::mem::take(&mut ids));
                is_test = false;
            } else if !line.starts_with("#[") {
                (ids, is_test) = (BTreeSet::new(), false);
            }
        }
    }
    tests
}

#[test]
fn every_rule_stands_in_one_list() {
    let document = document();
    let mut count: BTreeMap<&str, usize> = RULES.split_whitespace().map(|id| (id, 0)).collect();
    assert_eq!(count.len(), RULES.split_whitespace().count(), "the rules themselves are unique");
    for id in document.held.iter().chain(&document.listed) {
        *count.get_mut(&id[..]).unwrap_or_else(|| panic!("{id}: not a rule")) += 1;
    }
    let wrong: Vec<_> = count.into_iter().filter(|(_, count)| *count != 1).collect();
    assert!(wrong.is_empty(), "each once: {wrong:?}");
    assert!(document.held.len() > 60 && document.claims.len() > document.held.len());
}

#[test]
fn every_file_and_every_test_exists() {
    let document = document();
    let tests = tests_of_the_crate();
    assert!(tests.len() > 200, "the walk has found the tests");
    for file in &document.files {
        assert!(root().join(file).is_file(), "{file}");
    }
    for (id, test) in &document.claims {
        assert!(tests.contains_key(test), "{id}: {test}");
    }
}

/// Both ways: a test that the document names has the id above it, and an id above a test stands in the document.
#[test]
fn tests_and_document_say_the_same() {
    let claims = document().claims;
    let above: BTreeSet<Claim> = tests_of_the_crate()
        .into_iter()
        .flat_map(|(test, ids)| ids.into_iter().map(move |id| (id, test.clone())))
        .collect();
    let only_in_document: Vec<_> = claims.difference(&above).collect();
    let only_above_tests: Vec<_> = above.difference(&claims).collect();
    assert!(only_in_document.is_empty(), "not above the test: {only_in_document:#?}");
    assert!(only_above_tests.is_empty(), "not in docs/rfc.md: {only_above_tests:#?}");
}
