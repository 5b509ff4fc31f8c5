//! Reading a TOML file key by key, so that every problem in it is told at once, with its line and key.
//!
//! A [`Document`] is asked for values through [`Section`]s. What is wrong is noted and reading goes on; a key
//! that nobody asked for is unknown, and the nearest known one is suggested.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// The key with its section, such as `relay.host`; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong.
    pub reason: String,
}

impl Problem {
    /// A problem of the file as a whole.
    pub fn of_file(file: &Path, reason: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), line: None, key: String::new(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A TOML file and the problems found in it so far.
pub struct Document<'d> {
    file: PathBuf,
    source: &'d str,
    table: DeTable<'d>,
    problems: RefCell<Vec<Problem>>,
}

impl<'d> Document<'d> {
    /// Takes the file apart; faults of syntax are the first problems.
    pub fn parse(file: &Path, source: &'d str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(source);
        let document =
            Self { file: file.to_owned(), source, table: table.into_inner(), problems: RefCell::default() };
        for error in errors {
            let line = error.span().map(|span| document.line(span.start));
            document.note(line, String::new(), error.message().to_owned());
        }
        document
    }

    /// The top of the file.
    pub fn root(&self) -> Section<'_> {
        Section {
            document: self,
            prefix: String::new(),
            line: None,
            table: Some(&self.table),
            asked: RefCell::default(),
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_sound(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Everything that is wrong, in the order of the lines.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.source.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    }

    fn note(&self, line: Option<usize>, key: String, reason: String) {
        self.problems.borrow_mut().push(Problem { file: self.file.clone(), line, key, reason });
    }
}

/// One table of a document. A section that is not there reads as empty.
pub struct Section<'d> {
    document: &'d Document<'d>,
    prefix: String,
    line: Option<usize>,
    table: Option<&'d DeTable<'d>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    /// Whether the section stands in the file.
    pub fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// Whether `key` stands in the section, whatever its value.
    pub fn names(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Notes a problem of `key`, at its line if it is there.
    pub fn problem(&self, key: &str, reason: impl fmt::Display) {
        let at =
            self.table.and_then(|table| table.get(key)).map(|value| self.document.line(value.span().start));
        self.document.note(at.or(self.line), format!("{}{key}", self.prefix), reason.to_string());
    }

    /// A string.
    pub fn text(&self, key: &'static str) -> Option<String> {
        match self.get(key)?.get_ref() {
            DeValue::String(text) => Some(text.clone().into_owned()),
            other => self.mistyped(key, "a string", other),
        }
    }

    /// A string that has a form of its own.
    pub fn read<T: FromStr<Err: fmt::Display>>(&self, key: &'static str) -> Option<T> {
        self.text(key)?.parse().map_err(|error| self.problem(key, error)).ok()
    }

    /// As [`Section::read`], and a problem where the key is missing.
    pub fn required<T: FromStr<Err: fmt::Display>>(&self, key: &'static str) -> Option<T> {
        if self.get(key).is_none() {
            self.problem(key, "missing");
        }
        self.read(key)
    }

    /// A whole number within `range`.
    pub fn integer(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let value = self.get(key)?.get_ref();
        let DeValue::Integer(digits) = value else { return self.mistyped(key, "a whole number", value) };
        let number =
            u64::from_str_radix(digits.as_str(), digits.radix()).ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(key, format_args!("must lie between {} and {}", range.start(), range.end()));
        }
        number
    }

    /// A length of time such as `20m`, `36h` or `5d`; a day has 24 hours.
    pub fn duration(&self, key: &'static str) -> Option<SignedDuration> {
        let text = self.text(key)?;
        let duration =
            text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
        match duration {
            Ok(duration) if !duration.is_negative() => Some(duration),
            _ => {
                self.problem(
                    key,
                    format_args!("{text:?} is not a length of time such as \"30s\", \"20m\" or \"5d\""),
                );
                None
            }
        }
    }

    /// One word of a closed list.
    pub fn one_of<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let list: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem(key, format_args!("{text:?} is not one of {}", list.join(", ")));
        }
        found
    }

    /// A list of strings; empty where it is not there.
    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let texts = match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        texts.unwrap_or_else(|| self.mistyped(key, "a list of strings", value.get_ref()).unwrap_or_default())
    }

    /// A value of any form, as JSON; a date and a number that JSON cannot hold are problems.
    pub fn tree(&self, key: &'static str) -> Option<Value> {
        let value = self.get(key)?.get_ref();
        json(value).or_else(|| self.mistyped(key, "what JSON can hold", value))
    }

    /// A list of whole numbers within `range`; empty where it is not there.
    pub fn integers(&self, key: &'static str, range: std::ops::RangeInclusive<u16>) -> Vec<u16> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let number = |item: &Value| item.as_u64().and_then(|number| u16::try_from(number).ok());
        let numbers = match json(value.get_ref()) {
            Some(Value::Array(items)) => items.iter().map(number).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let numbers = numbers.filter(|numbers| numbers.iter().all(|number| range.contains(number)));
        numbers.unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.problem(key, format_args!("must be a list of numbers between {least} and {most}"));
            Vec::new()
        })
    }

    /// A truth.
    pub fn truth(&self, key: &'static str) -> Option<bool> {
        match self.get(key)?.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            other => self.mistyped(key, "true or false", other),
        }
    }

    /// A list of strings that have a form of their own; each that does not have it is a problem.
    pub fn list<T: FromStr<Err: fmt::Display>>(&self, key: &'static str) -> Vec<T> {
        let parsed =
            self.texts(key).into_iter().map(|text| text.parse().map_err(|error| self.problem(key, error)));
        parsed.filter_map(Result::ok).collect()
    }

    /// A table within this one.
    pub fn section(&self, key: &'static str) -> Section<'d> {
        let value = self.get(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => self.mistyped(key, "a table", other),
        });
        let line = value.map(|value| self.document.line(value.span().start)).or(self.line);
        Section {
            document: self.document,
            prefix: format!("{}{key}.", self.prefix),
            line,
            table,
            asked: RefCell::default(),
        }
    }

    /// The tables of a list, `[[key]]`; none where it is not there.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.mistyped::<()>(key, "a list of tables", value.get_ref());
            return Vec::new();
        };
        let tables = items.iter().filter_map(|item| match item.get_ref() {
            DeValue::Table(table) => Some((item, table)),
            other => self.mistyped(key, "a list of tables", other),
        });
        let section = |(item, table): (&'d Spanned<DeValue<'d>>, _)| Section {
            document: self.document,
            prefix: format!("{}{key}.", self.prefix),
            line: Some(self.document.line(item.span().start)),
            table: Some(table),
            asked: RefCell::default(),
        };
        tables.map(section).collect()
    }

    /// All keys of this section with their strings, for a table whose keys the user chooses.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let entries = self.table.into_iter().flat_map(|table| table.iter());
        let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let key: &toml::de::DeString<'_> = key.get_ref();
            match value.get_ref().as_str() {
                Some(text) => Some((key.clone().into_owned(), text.to_owned())),
                None => {
                    self.problem(key, "must be a string");
                    None
                }
            }
        };
        entries.filter_map(pair).collect()
    }

    /// Ends the reading: what was never asked for is unknown.
    pub fn finish(&self) {
        let known = self.asked.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let key = key.get_ref().as_ref();
            if !known.contains(&key) {
                let near = known.iter().max_by(|a, b| likeness(key, a).total_cmp(&likeness(key, b)));
                match near.filter(|near| likeness(key, near) > 0.7) {
                    Some(near) => self.problem(key, format_args!("unknown key; did you mean {near:?}?")),
                    None => self.problem(key, format_args!("unknown key; known here: {}", known.join(", "))),
                }
            }
        }
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().push(key);
        self.table?.get(key)
    }

    fn mistyped<T>(&self, key: &str, wanted: &str, found: &DeValue<'_>) -> Option<T> {
        self.problem(key, format_args!("must be {wanted}, not {}", found.type_str()));
        None
    }
}

/// A TOML value as JSON.
fn json(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => text.clone().into_owned().into(),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok()?.into(),
        DeValue::Float(digits) => serde_json::Number::from_f64(digits.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect::<Option<_>>()?,
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<toml::de::DeString<'_>>, &Spanned<DeValue<'_>>)| {
                Some((key.get_ref().clone().into_owned(), json(value.get_ref())?))
            };
            Value::Object(table.iter().map(entry).collect::<Option<_>>()?)
        }
    })
}

fn likeness(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(source: &str, read: impl Fn(&Section<'_>)) -> Vec<String> {
        let document = Document::parse(Path::new("t.toml"), source);
        let root = document.root();
        read(&root);
        root.finish();
        document.into_problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_line_and_key() {
        let source =
            "name = 7\nhots = \"a\"\n[relay]\nport = 70000\ntls = \"ssl\"\nwait = \"soon\"\nzebra = 1\n";
        let told = problems(source, |root| {
            assert_eq!(root.text("name"), None);
            assert_eq!(root.text("hosts"), None);
            assert_eq!(root.required::<String>("title"), None);
            let relay = root.section("relay");
            assert_eq!(relay.integer("port", 1..=65535), None);
            assert_eq!(relay.one_of("tls", &[("starttls", 1), ("implicit", 2)]), None);
            assert_eq!(relay.duration("wait"), None);
            relay.finish();
        });
        assert_eq!(
            told,
            [
                "t.toml: title: missing",
                "t.toml:1: name: must be a string, not integer",
                "t.toml:2: hots: unknown key; did you mean \"hosts\"?",
                "t.toml:4: relay.port: must lie between 1 and 65535",
                "t.toml:5: relay.tls: \"ssl\" is not one of \"starttls\", \"implicit\"",
                "t.toml:6: relay.wait: \"soon\" is not a length of time such as \"30s\", \"20m\" or \"5d\"",
                "t.toml:7: relay.zebra: unknown key; known here: port, tls, wait",
            ]
        );
    }

    #[test]
    fn faults_of_syntax_have_a_line_and_do_not_hide_the_rest() {
        let told = problems("a = \nb = 3\n", |root| {
            root.text("a");
            root.text("b");
        });
        assert!(told.iter().any(|line| line.starts_with("t.toml:1: ")), "{told:?}");
        assert!(told.contains(&"t.toml:2: b: must be a string, not integer".to_owned()), "{told:?}");
    }

    #[test]
    fn lengths_of_time_are_read() {
        let table = [("30s", 30), ("20m", 1200), ("1h 30m", 5400), ("5d", 432_000), ("0s", 0)];
        for (text, seconds) in table {
            let source = format!("wait = \"{text}\"");
            let document = Document::parse(Path::new("t.toml"), &source);
            assert_eq!(document.root().duration("wait").map(|wait| wait.as_secs()), Some(seconds), "{text}");
        }
    }

    #[test]
    fn tables_of_a_list_are_read_each_with_its_lines() {
        let told = problems("[[key]]\nname = \"a\"\n[[key]]\nnam = \"b\"\n", |root| {
            let sections = root.sections("key");
            let names: Vec<_> = sections.iter().map(|section| section.text("name")).collect();
            assert_eq!(names, [Some("a".to_owned()), None]);
            sections.iter().for_each(Section::finish);
        });
        assert_eq!(told, ["t.toml:4: key.nam: unknown key; did you mean \"name\"?"]);
        let told = problems("key = [3]\n", |root| assert!(root.sections("key").is_empty()));
        assert_eq!(told, ["t.toml:1: key: must be a list of tables, not integer"]);
        let told = problems("[key]\n", |root| assert!(root.sections("key").is_empty()));
        assert_eq!(told, ["t.toml:1: key: must be a list of tables, not table"]);
    }

    #[test]
    fn a_section_that_is_not_there_reads_as_empty() {
        let document = Document::parse(Path::new("t.toml"), "");
        let relay = document.root().section("relay");
        assert!(!relay.is_given());
        assert_eq!((relay.text("host"), relay.pairs(), relay.texts("list")), (None, vec![], vec![]));
        assert!(document.is_sound());
    }
}
