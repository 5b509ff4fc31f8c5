//! Text that acts: what a CRM would obey in a mail, although a caller or an agent wrote it.
//!
//! A number in brackets is a ticket to a CRM, whoever wrote it, and a line such as `#close` a command. A dot put into
//! the middle takes the meaning away from the machine and leaves it to the reader.

use std::borrow::Cow;
use std::collections::BTreeMap;

use regex::Regex;

use super::reader::Section;
use super::ticket::starts_with;

/// What breaks a meaning up. No product's token or command has it.
const DOT: char = '·';

/// What the templates' engine writes for a character; `&amp;` stays as it is, since a session may hold `&lt;`.
const ENTITIES: [(&str, &str); 6] =
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&#x60;", "`"), ("&#x3D;", "=")];

/// The most rounds of breaking up; a pattern that fits even then loses what it fits.
const ROUNDS: usize = 4;

/// The shapes of ticket names in subjects of all products, for a profile that does not name its own.
const COMMON: [&str; 5] = [
    r"#[^\w·]*(\d)",
    r"\b[A-Z][A-Z0-9_]+-(\d)",
    r"\b(?:INC|CS|RITM|REQ|CHG|PRB|S?C?TASK)(\d)",
    r"(?i)\b(?:ref|thread|crm|case|ticket)(:+\s*\S)",
    r"(?i)\bref!?(\d)",
];

/// What acts in one CRM.
#[derive(Debug, Clone)]
pub struct Acts {
    /// Names of tickets in a subject.
    subject: Patterns,
    /// Names of tickets in a text.
    text: Patterns,
    /// Lines of a text that are commands.
    lines: Patterns,
    /// Whether a text must begin with a letter or digit.
    plain_first_line: bool,
}

impl Acts {
    /// The same with a tenant's values in the patterns.
    pub fn filled(&self, values: &BTreeMap<String, String>) -> Result<Self, regex::Error> {
        let [subject, text, lines] =
            [&self.subject, &self.text, &self.lines].map(|patterns| patterns.filled(values));
        Ok(Self { subject: subject?, text: text?, lines: lines?, plain_first_line: self.plain_first_line })
    }

    /// A subject without a ticket's name. Brackets become round: they frame the tokens and the commands of many
    /// products, and only the profile's own token may stand in them.
    pub fn subject(&self, text: &str) -> String {
        let plain = text.replace('[', "(").replace(']', ")");
        self.subject.in_text(&plain).into_owned()
    }

    /// A text without a ticket's name and without commands.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = self.text.in_text(text);
        let first = text.lines().position(|line| !line.trim().is_empty());
        let is_told = |at: usize, line: &str| {
            self.is_command(line)
                || (self.plain_first_line
                    && first == Some(at)
                    && !line.trim_start().starts_with(char::is_alphanumeric))
        };
        if !text.lines().enumerate().any(|(at, line)| is_told(at, line)) {
            return text;
        }
        let lines = text
            .split('\n')
            .enumerate()
            .map(|(at, line)| if is_told(at, line) { format!("{DOT} {line}") } else { line.to_owned() });
        Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
    }

    /// The same for HTML, where each run of text between two tags may become a line.
    pub fn html<'t>(&self, html: &'t str) -> Cow<'t, str> {
        if self.text.0.is_empty() && self.lines.0.is_empty() {
            return Cow::Borrowed(html);
        }
        let mut plain = String::with_capacity(html.len());
        let mut rest = html;
        while let Some(end) = rest.find('<') {
            self.run(&rest[..end], &mut plain);
            // What stands within <style> is no text.
            let close = if starts_with(&rest[end..], "<style") { "</style>" } else { ">" };
            let tag = rest[end..].find(close).map_or(rest.len(), |length| end + length + close.len());
            plain.push_str(&rest[end..tag]);
            rest = &rest[tag..];
        }
        self.run(rest, &mut plain);
        Cow::Owned(plain)
    }

    /// One run of text. It is judged as its reader sees it, and left alone where nothing in it acts.
    fn run(&self, text: &str, plain: &mut String) {
        let read = ENTITIES.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c));
        let mut lines = Vec::new();
        for line in self.text.in_text(&read).split('\n') {
            lines.push(if self.is_command(line) { format!("{DOT} {line}") } else { line.to_owned() });
        }
        let harmless = lines.join("\n");
        if harmless == read {
            plain.push_str(text);
        } else {
            plain.push_str(&ENTITIES.iter().fold(harmless, |text, (entity, c)| text.replace(c, entity)));
        }
    }

    fn is_command(&self, line: &str) -> bool {
        self.lines.0.iter().any(|(_, command)| command.is_match(line))
    }
}

/// Patterns with their texts, in which `{PARAMETER}` stands for a tenant's value.
#[derive(Debug, Clone)]
struct Patterns(Vec<(String, Regex)>);

impl Patterns {
    fn new(sources: Vec<String>, values: &BTreeMap<String, String>) -> Result<Self, regex::Error> {
        let filled = |source: &String| {
            let fill = |text: String, (name, value): (&String, &String)| {
                text.replace(&format!("{{{name}}}"), &regex::escape(value))
            };
            Regex::new(&values.iter().fold(source.clone(), fill))
        };
        let compiled = sources.into_iter().map(|source| filled(&source).map(|pattern| (source, pattern)));
        compiled.collect::<Result<_, _>>().map(Self)
    }

    fn filled(&self, values: &BTreeMap<String, String>) -> Result<Self, regex::Error> {
        Self::new(self.0.iter().map(|(source, _)| source.clone()).collect(), values)
    }

    /// Puts a dot before the first group of each pattern, or before the whole, until none fits.
    fn in_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for (_, pattern) in &self.0 {
            for round in 0..=ROUNDS {
                let places: Vec<usize> = pattern
                    .captures_iter(&text)
                    .filter_map(|found| found.get(1).or_else(|| found.get(0)).map(|place| place.start()))
                    .collect();
                if places.is_empty() {
                    break;
                }
                text = Cow::Owned(if round < ROUNDS {
                    with_dots(&text, &places)
                } else {
                    pattern.replace_all(&text, DOT.to_string()).into_owned()
                });
            }
        }
        text
    }
}

fn with_dots(text: &str, places: &[usize]) -> String {
    let mut dotted = String::with_capacity(text.len() + places.len() * DOT.len_utf8());
    let mut done = 0;
    for place in places {
        dotted.push_str(&text[done..*place]);
        dotted.push(DOT);
        done = *place;
    }
    dotted.push_str(&text[done..]);
    dotted
}

/// Reads `[acts]`. The patterns are tried with the profile's own values.
pub(super) fn read(section: &Section<'_>, values: &BTreeMap<String, String>) -> Acts {
    let patterns = |key: &'static str, sources| match Patterns::new(sources, values) {
        Ok(patterns) => patterns,
        Err(error) => {
            section.problem(key, error);
            Patterns(Vec::new())
        }
    };
    let common = COMMON.map(str::to_owned).to_vec();
    let acts = Acts {
        subject: patterns(
            "subject",
            if section.names("subject") { section.texts("subject") } else { common },
        ),
        text: patterns("text", section.texts("text")),
        lines: patterns("lines", section.texts("lines")),
        plain_first_line: section.one_of("first_line", &[("plain", true), ("any", false)]).unwrap_or(false),
    };
    section.texts("subject");
    section.finish();
    acts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::reader::Document;

    fn acts(source: &str) -> Acts {
        let document = Document::parse(Path::new("x"), source);
        let acts = read(&document.root(), &BTreeMap::new());
        assert!(document.is_sound(), "{:?}", document.into_problems());
        acts
    }

    #[test]
    fn brackets_become_round_and_patterns_hold_values() {
        let values = |value: &str| BTreeMap::from([("hook".to_owned(), value.to_owned())]);
        let document = Document::parse(Path::new("x"), "subject = ['{hook}(\\d{2})']");
        let acts = read(&document.root(), &values("Ticket#"));
        assert_eq!(acts.subject("[Shop] Ticket#12 [#1"), "(Shop) Ticket#·12 (#1");
        let other = acts.filled(&values("Case.")).unwrap();
        assert_eq!(other.subject("Ticket#12 Case.34 Cases34"), "Ticket#12 Case.·34 Cases34");
    }

    #[test]
    fn what_names_a_ticket_is_broken_up_until_it_fits_no_more() {
        let acts = acts(r##"subject = ['#(\d)', 'AB-(\d+)', 'x\S*?(\d)']"##);
        assert_eq!(acts.subject("#1 ##22 AB-7"), "#·1 ##·22 AB-·7");
        let stubborn = acts.subject("x1");
        assert!(!stubborn.contains('1'), "{stubborn}");
    }

    #[test]
    fn the_common_shapes_are_known_where_a_profile_names_none() {
        let acts = acts("");
        let table = [
            "#123",
            "#.123",
            "ABC-12",
            "INC0012345",
            "Ticket#123",
            "Ticket#:123",
            "thread::abc::",
            "ref:_00D1.!500x:ref",
            "CRM:0001",
            "[CASE:7]",
            "[##12##]",
        ];
        for text in table {
            assert!(acts.subject(text).contains(DOT), "{text} stays {}", acts.subject(text));
        }
        assert_eq!(acts.subject("Call 41207: Finished"), "Call 41207: Finished");
    }

    #[test]
    fn a_command_is_a_line_of_text_and_a_run_of_html() {
        let acts = acts(
            r##"lines = ['^\s*#\w', '^\s*[\w ]+:']
first_line = "plain""##,
        );
        assert_eq!(acts.text("#close\nfine\n  Status: Closed\n"), "· #close\nfine\n·   Status: Closed\n");
        assert_eq!(acts.text("\n* fine\n* too"), "\n· * fine\n* too");
        assert_eq!(acts.text("fine"), "fine");
        let html = "<style>\n#a { b: c }</style><p title=\"#close\">a<br>#close<br>\n#set x&#x3D;1 &lt;b&gt; &amp;lt;&nbsp;</p>Status: x<a";
        assert_eq!(
            acts.html(html),
            "<style>\n#a { b: c }</style><p title=\"#close\">a<br>· #close<br>\n· #set x&#x3D;1 &lt;b&gt; &amp;lt;&nbsp;</p>· Status: x<a"
        );
    }
}
