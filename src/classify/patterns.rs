//! Many patterns over one text: one pass finds which of them can fit at all, and only those are tried.

use std::sync::OnceLock;

use regex::bytes::{Regex, RegexBuilder};

use super::needle::{Finder, needles};
use crate::parse::headers::cut;

/// The most octets of a text that patterns look at.
const MAX_LOOKED_AT: usize = 4 << 10;
/// What a pattern may take of memory, and then its states while it is tried.
const PATTERN_OCTETS: usize = 4 << 20;
/// See [`PATTERN_OCTETS`].
const PATTERN_STATES_OCTETS: usize = 256 << 10;
/// One pattern, and the number of the rule that it belongs to.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) owner: usize,
    source: String,
    /// Most patterns are never tried: they are compiled when they are.
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    pub(super) fn fits(&self, text: &str) -> bool {
        // What is no pattern was refused when it was read.
        let regex = self.regex.get_or_init(|| compile(&self.source).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(text.as_bytes()))
    }
}

/// The patterns of one place.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    patterns: Vec<Pattern>,
    /// Finds what must stand in a text for a pattern to be tried.
    finder: Finder,
    /// Those that are always tried.
    always: Vec<usize>,
}

impl Patterns {
    pub(super) fn new(found: Vec<(String, usize)>) -> Self {
        let mut all = Self::default();
        for (at, (source, owner)) in found.into_iter().enumerate() {
            match needles(&source) {
                Some(needles) => needles.into_iter().for_each(|needle| all.finder.add(needle, at)),
                None => all.always.push(at),
            }
            all.patterns.push(Pattern { owner, source, regex: OnceLock::new() });
        }
        all
    }

    /// Marks, for each rule, that one of its patterns fits here.
    pub(super) fn mark(&self, text: &str, place: u8, met: &mut [u8]) {
        let text = plain(text);
        for pattern in self.candidates(&text) {
            // A rule that a first pattern fits needs no second.
            if met[pattern.owner] & place == 0 && pattern.fits(&text) {
                met[pattern.owner] |= place;
            }
        }
    }

    /// Those that can fit, in their order.
    pub(super) fn candidates(&self, text: &str) -> impl Iterator<Item = &Pattern> {
        let mut numbers = self.finder.find(text);
        numbers.extend_from_slice(&self.always);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|number| &self.patterns[number])
    }
}

fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source)
        .unicode(false)
        .size_limit(PATTERN_OCTETS)
        .dfa_size_limit(PATTERN_STATES_OCTETS)
        .build()
}

/// Why a text can be no pattern.
pub(super) fn problem_of(source: &str) -> Option<String> {
    if let Err(error) = compile(source) {
        return Some(format!("{source:?} is no pattern: {error}"));
    }
    let is_capital = source.chars().any(char::is_uppercase) && !source.contains('\\');
    is_capital.then(|| format!("{source:?} can never fit: texts are in small letters"))
}

/// Small letters, and one blank wherever white space stands, so that it does not matter where a line was wrapped.
pub(super) fn plain(text: &str) -> String {
    let text = cut(text, MAX_LOOKED_AT);
    let mut out = String::with_capacity(text.len());
    let mut is_blank = true;
    for c in text.chars() {
        if c.is_whitespace() {
            if !is_blank {
                out.push(' ');
            }
            is_blank = true;
        } else {
            is_blank = false;
            if c.is_ascii() {
                out.push(c.to_ascii_lowercase());
            } else {
                out.extend(c.to_lowercase());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All patterns of the shipped file.
    fn shipped() -> Vec<String> {
        let file: toml::Table = toml::from_str(include_str!("../../config/bounce-rules.toml")).unwrap();
        let tables = ["rules", "reasons"].iter().flat_map(|key| file[*key].as_array().unwrap());
        let lists = tables.flat_map(|table| table.as_table().unwrap().iter());
        let lists = lists.filter(|(key, _)| ["from", "subject", "text", "value"].contains(&key.as_str()));
        let patterns = lists.flat_map(|(_, list)| list.as_array().unwrap());
        patterns.map(|one| one.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_shipped_pattern_is_one() {
        let patterns = shipped();
        assert!(patterns.len() > 500, "{}", patterns.len());
        let problems: Vec<String> = patterns.iter().filter_map(|pattern| problem_of(pattern)).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    #[test]
    fn no_pattern_that_fits_is_passed_over() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports");
        let sources = shipped();
        let patterns = Patterns::new(sources.iter().cloned().zip(0..).collect());
        let regexes: Vec<Regex> = sources.iter().map(|source| compile(source).unwrap()).collect();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let text = plain(&String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()));
            let tried: Vec<usize> = patterns.candidates(&text).map(|pattern| pattern.owner).collect();
            for (at, regex) in regexes.iter().enumerate() {
                let is_safe = tried.contains(&at) || !regex.is_match(text.as_bytes());
                assert!(is_safe, "{} fits {:?} and is not tried", sources[at], entry.path());
            }
        }
    }
}
