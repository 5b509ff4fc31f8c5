//! The shape of the source: what may import what, how long a file may be, and that the documents tell the truth.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The most lines of a source file, its own tests not counted.
const MOST_LINES: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder with this ending, in order.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's text without its unit tests.
fn without_tests(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap().to_owned()
}

/// A file's code: no tests, no comments.
fn code(path: &Path) -> String {
    let text = without_tests(path);
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The first names of a use tree: `a` of `a::b`, and `a`, `c` of `{a::b, c}`.
fn first_names(tree: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = tree.strip_prefix('{') else { return vec![word(tree)] };
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && is_word(c) => {
                names.push(word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

/// The top-level modules that a file's code names. `depth` is how many modules the file's own is below the crate.
fn imports(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_word) {
            found.extend(first_names(&code[at + "crate::".len()..]));
        }
    }
    let up = "super::".repeat(depth);
    for (at, _) in code.match_indices(&up) {
        let is_whole = !code[..at].ends_with(is_word) && !code[..at].ends_with("super::");
        if is_whole {
            found.extend(first_names(&code[at + up.len()..]));
        }
    }
    found
}

/// The modules from the crate down to a file: `flow`, `intake` of `src/flow/intake.rs`.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut module: Vec<String> =
        path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

#[test]
fn imports_are_found_in_every_form() {
    let table = [
        ("use crate::store::{Store, Work};", 1, &["store"][..]),
        ("use crate::{plan::Plan, store::{a, b}, ids};", 1, &["plan", "store", "ids"]),
        ("let x = crate::log::FIRST; my_crate::no()", 1, &["log"]),
        ("use super::plan;", 1, &["plan"]),
        ("use super::desk;", 2, &[]),
        ("use super::super::ids::{A, B};", 2, &["ids"]),
        ("use super::{desk, watch};", 1, &["desk", "watch"]),
    ];
    for (code, depth, names) in table {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(imports(code, depth), names, "{code}");
    }
}

#[test]
fn a_module_imports_only_what_stands_above_it_in_lib() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 10, "{order:?}");
    let mut wrong = Vec::new();
    for path in files(&root().join("src"), "rs") {
        let module = module_of(&path);
        let Some(place) = order.iter().position(|name| *name == module[0]) else { continue };
        for import in imports(&code(&path), module.len()) {
            let target = order.iter().position(|name| **name == import);
            if target.is_some_and(|target| target > place) {
                wrong.push(format!("{} imports {import}, which stands below {}", path.display(), module[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_file_is_short_enough_to_read() {
    let mut long = Vec::new();
    for path in files(&root().join("src"), "rs") {
        let lines = without_tests(&path).lines().count();
        if lines > MOST_LINES {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The documents there are.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["ARCHITECTURE.md", "README.md"].iter().map(|name| root().join(name)).collect();
    found.retain(|path| path.is_file());
    found.extend(files(&root().join("docs"), "md"));
    found
}

/// What stands between backticks, outside of code blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_path_that_the_documents_name_exists() {
    const STARTS: [&str; 6] = ["src/", "tests/", "config/", "templates/", "docs/", "benches/"];
    let mut missing = Vec::new();
    for document in documents() {
        for name in quoted(&std::fs::read_to_string(&document).unwrap()) {
            let is_path = STARTS.iter().any(|start| name.starts_with(start));
            // A name in capitals stands for any, as in `config/tenants/NAME.toml`.
            let is_pattern = name.contains("NAME") || name.contains("TAG") || name.contains(['*', '<', ' ']);
            if is_path && !is_pattern && !root().join(&name).exists() {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_module_and_test_that_the_architecture_names_exists() {
    let Ok(text) = std::fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let mut sources = files(&root().join("src"), "rs");
    sources.extend(files(&root().join("tests"), "rs"));
    let code: String = sources.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let is_module = |name: &str| {
        sources.iter().any(|path| path.file_stem().is_some_and(|stem| stem == name))
            || root().join("src").join(name).is_dir()
    };
    let mut missing = Vec::new();
    for name in quoted(&text) {
        let parts: Vec<&str> = name.split("::").collect();
        let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| is_word(c) && !c.is_uppercase());
        // Library names such as `std::fs` are not ours.
        if parts.len() < 2 || !parts.iter().all(is_name) || !is_module(parts[0]) {
            continue;
        }
        let last = parts[parts.len() - 1];
        if !is_module(last) && !code.contains(&format!("fn {last}(")) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
