//! Recipes: how one CRM product takes a file and a note over REST.
//!
//! A recipe is data, one TOML file in `config/recipes/`, of the same name as the profile of its product. Those that
//! ship are compiled in; a file of the same form in the configuration folder's `recipes/` adds one or replaces one.
//! `docs/record.md` has every key.

use std::path::Path;

use regex::Regex;
use reqwest::Method;
use serde_json::Value;

use super::reader::{Document, Problem, Section};

/// The recipes that ship, by name.
pub const SHIPPED: [(&str, &str); 14] = [
    ("dynamics", include_str!("../../config/recipes/dynamics.toml")),
    ("freshdesk", include_str!("../../config/recipes/freshdesk.toml")),
    ("hubspot", include_str!("../../config/recipes/hubspot.toml")),
    ("jira", include_str!("../../config/recipes/jira.toml")),
    ("odoo", include_str!("../../config/recipes/odoo.toml")),
    ("redmine", include_str!("../../config/recipes/redmine.toml")),
    ("rt", include_str!("../../config/recipes/rt.toml")),
    ("salesforce", include_str!("../../config/recipes/salesforce.toml")),
    ("servicenow", include_str!("../../config/recipes/servicenow.toml")),
    ("suitecrm", include_str!("../../config/recipes/suitecrm.toml")),
    ("zammad", include_str!("../../config/recipes/zammad.toml")),
    ("zendesk", include_str!("../../config/recipes/zendesk.toml")),
    ("znuny", include_str!("../../config/recipes/znuny.toml")),
    ("zoho", include_str!("../../config/recipes/zoho.toml")),
];

/// The most steps of a recipe: each is a request.
const MOST_STEPS: usize = 8;

/// One CRM's way to a ticket over REST.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The file's stem, as a tenant names it.
    pub name: String,
    /// The product, for people.
    pub title: String,
    /// How sure the recipe is.
    pub verified: Verified,
    /// Whether the product has one name for number and internal id.
    pub one_id: bool,
    /// What of a ticket URL are names, by group; the group `id` is the internal id.
    pub ticket_url: Option<Regex>,
    /// The names that a tenant must give values for.
    pub parameters: Vec<String>,
    /// Names with the value that they have where a tenant gives none.
    pub defaults: Vec<(String, String)>,
    /// The largest file in octets that the CRM takes.
    pub file_bytes: u64,
    /// The most characters of a note.
    pub note_characters: usize,
    /// The requests, in order.
    pub steps: Vec<Step>,
    /// A request that changes nothing, for `doctor`.
    pub probe: Option<Step>,
}

/// How sure a recipe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Seen on a running installation.
    Live,
    /// Read in the product's source.
    Source,
    /// Read in the vendor's documentation.
    Documentation,
    /// Concluded from what is generally known.
    Inferred,
}

impl Verified {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Source => "source",
            Self::Documentation => "documentation",
            Self::Inferred => "inferred",
        }
    }
}

/// One request. Its texts are templates.
#[derive(Debug, Clone)]
pub struct Step {
    /// The step's word in the log.
    pub name: String,
    /// The method.
    pub method: Method,
    /// Path and query below the tenant's base.
    pub path: String,
    /// Header fields besides those of the login and the body.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Body,
    /// What the answer gives to later steps: a name and a JSON pointer.
    pub captures: Vec<(String, String)>,
    /// A name that becomes true when the answer holds this text.
    pub found: Option<(String, String)>,
    /// When the step is taken; none for always.
    pub when: Option<Condition>,
    /// The statuses of success.
    pub expect: Vec<u16>,
    /// The statuses by which the CRM says that this step was done before.
    pub already: Vec<u16>,
    /// The statuses by which it says so of the whole delivery.
    pub done: Vec<u16>,
    /// The statuses that are for later, besides the usual ones.
    pub retry: Vec<u16>,
    /// Whether the step changes the ticket, so that taking it twice would show.
    pub effect: bool,
    /// Where an answer of success holds an error all the same: a JSON pointer.
    pub error: Option<String>,
    /// The words of an error that is for later.
    pub error_later: Vec<String>,
    /// Whether the step looks for the ticket: an answer without what is captured says that it is not there.
    pub lookup: bool,
}

/// A name that must be given and neither empty nor false, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The name.
    pub name: String,
    /// What it must be.
    pub wanted: bool,
}

/// What a request carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Nothing.
    None,
    /// The file's octets, with this content type.
    File(String),
    /// A JSON value with its content type. Its strings are templates; the tables `{ "$file" = "base64" }` and `{ "$number" = ".." }`
    /// become the file in base64 and a number.
    Json(String, Value),
    /// Parts of a form (RFC 7578).
    Parts(Vec<Part>),
}

/// One part of a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The field's name.
    pub name: String,
    /// The name of a file; none for a plain field.
    pub file_name: Option<String>,
    /// The part's content type.
    pub content_type: Option<String>,
    /// What it holds.
    pub value: PartValue,
}

/// What a part of a form holds.
#[derive(Debug, Clone, PartialEq)]
pub enum PartValue {
    /// A text, which is a template.
    Text(String),
    /// A JSON value, as in [`Body::Json`].
    Json(Value),
    /// The file's octets.
    File,
}

impl Recipe {
    /// Reads one recipe file.
    pub fn parse(name: &str, file: &Path, source: &str) -> Result<Self, Vec<Problem>> {
        let document = Document::parse(file, source);
        let recipe = Self::from_document(name, &document);
        match recipe {
            Some(recipe) if document.is_sound() => Ok(recipe),
            _ => Err(document.into_problems()),
        }
    }

    fn from_document(name: &str, document: &Document<'_>) -> Option<Self> {
        let root = document.root();
        let title = root.required("title");
        let words = [Verified::Live, Verified::Source, Verified::Documentation, Verified::Inferred];
        let verified = root.one_of("verified", &words.map(|word| (word.as_str(), word)));
        if !root.names("verified") {
            root.problem("verified", "missing");
        }
        let ids = root.one_of("ticket_ids", &[("one", true), ("two", false)]);
        let ticket_url = root
            .text("ticket_url")
            .and_then(|pattern| Regex::new(&pattern).map_err(|error| root.problem("ticket_url", error)).ok());
        let parameters = root.texts("parameters");
        let defaults = root.section("defaults").pairs();
        let file_bytes = root.integer("file_bytes", 1_000..=1_000_000_000);
        let note_characters = root.integer("note_characters", 100..=1_000_000);
        let sections = root.sections("steps");
        let steps: Vec<Step> = sections.iter().filter_map(step).collect();
        if steps.is_empty() || sections.len() > MOST_STEPS {
            root.problem("steps", format_args!("there must be one to {MOST_STEPS} steps"));
        }
        if !steps.iter().any(|step| step.effect) {
            root.problem("steps", "none of them has an effect on the ticket");
        }
        let probe = root.section("probe");
        let probe = if probe.is_given() { step(&probe) } else { None };
        if probe.as_ref().is_some_and(|probe| probe.effect) {
            root.problem("probe", "must not have an effect; write effect = false where that is so");
        }
        root.finish();
        Some(Self {
            name: name.to_owned(),
            title: title?,
            verified: verified?,
            one_id: ids.unwrap_or(false),
            ticket_url,
            parameters,
            defaults,
            file_bytes: file_bytes.unwrap_or(20_000_000),
            note_characters: note_characters.and_then(|most| usize::try_from(most).ok()).unwrap_or(30_000),
            steps,
            probe,
        })
    }
}

fn step(section: &Section<'_>) -> Option<Step> {
    let name: Option<String> = section.required("name");
    if name.as_ref().is_some_and(|name| !is_name(name)) {
        section.problem("name", "must be letters, digits, - and _, at most 40");
    }
    let method = method(section);
    let path: Option<String> = section.required("path");
    if path.as_ref().is_some_and(|path| !path.starts_with('/') || !path.is_ascii() || path.contains('#')) {
        section.problem("path", "must begin with / and be ASCII without #");
    }
    let headers = section.section("headers").pairs();
    let body = body(section);
    let captures = section.section("capture").pairs();
    for (name, pointer) in &captures {
        if !pointer.starts_with('/') || !is_name(name) {
            section.problem("capture", "must be names with JSON pointers, which begin with /");
        }
    }
    let found = section.section("found").pairs();
    if found.len() > 1 {
        section.problem("found", "must be one name and one text");
    }
    let when = section.text("when").map(|name| match name.strip_prefix('!') {
        Some(name) => Condition { name: name.to_owned(), wanted: false },
        None => Condition { name, wanted: true },
    });
    let statuses = |key| section.integers(key, 200..=599);
    let expect = statuses("expect");
    let (already, done, retry) = (statuses("already"), statuses("done"), statuses("retry"));
    let effect = section.truth("effect");
    let (error, error_later) = (section.text("error"), section.texts("error_later"));
    if error.as_ref().is_some_and(|pointer| !pointer.starts_with('/')) {
        section.problem("error", "must be a JSON pointer, which begins with /");
    }
    let lookup = section.truth("lookup").unwrap_or(false);
    section.finish();
    let method = method?;
    Some(Step {
        name: name?,
        effect: effect.unwrap_or(method != Method::GET),
        method,
        path: path?,
        headers,
        body: body?,
        captures,
        found: found.into_iter().next(),
        when,
        expect: if expect.is_empty() { vec![200, 201, 202, 204] } else { expect },
        already,
        done,
        retry,
        error,
        error_later,
        lookup,
    })
}

fn method(section: &Section<'_>) -> Option<Method> {
    let word: String = section.required("method")?;
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH];
    let found = known.into_iter().find(|method| method.as_str() == word);
    if found.is_none() {
        section.problem("method", "must be GET, POST, PUT or PATCH");
    }
    found
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(fits)
}

/// At most one of `file`, `json` and `parts`.
fn body(section: &Section<'_>) -> Option<Body> {
    let (file, json, parts) = (section.text("file"), section.tree("json"), section.sections("parts"));
    if usize::from(file.is_some()) + usize::from(json.is_some()) + usize::from(!parts.is_empty()) > 1 {
        section.problem("json", "give one of file, json and parts");
        return None;
    }
    Some(match (file, json) {
        (Some(content_type), _) => Body::File(content_type),
        (_, Some(json)) => {
            let content_type = section.text("content_type").unwrap_or_else(|| "application/json".to_owned());
            Body::Json(content_type, json)
        }
        _ if parts.is_empty() => Body::None,
        _ => Body::Parts(parts.iter().map(part).collect::<Option<_>>()?),
    })
}

fn part(section: &Section<'_>) -> Option<Part> {
    let name: Option<String> = section.required("name");
    let (file_name, content_type) = (section.text("file_name"), section.text("content_type"));
    let (text, json) = (section.text("text"), section.tree("json"));
    section.finish();
    let value = match (text, json, file_name.is_some()) {
        (Some(text), None, false) => PartValue::Text(text),
        (None, Some(json), false) => PartValue::Json(json),
        (None, None, true) => PartValue::File,
        _ => {
            section.problem("text", "give one of text, json and file_name");
            return None;
        }
    };
    Some(Part { name: name?, file_name, content_type, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_recipe_is_sound() {
        for (name, source) in SHIPPED {
            let recipe = Recipe::parse(name, Path::new(name), source);
            assert!(recipe.is_ok_and(|recipe| recipe.probe.is_some()), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let least = "title = \"X\"\nverified = \"inferred\"\n";
        let step = "[[steps]]\nname = \"note\"\nmethod = \"POST\"\npath = \"/notes\"\n";
        let parse = |source: &str| match Recipe::parse("x", Path::new("x.toml"), source) {
            Ok(_) => String::new(),
            Err(problems) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"),
        };
        assert_eq!(parse(&format!("{least}{step}")), "");
        let table = [
            (least.to_owned(), "there must be one to 8 steps"),
            (format!("{least}{step}effect = false"), "none of them has an effect"),
            (format!("title = \"X\"\n{step}"), "verified: missing"),
            (
                format!("{least}{}", step.replace("/notes", "notes")),
                "x.toml:6: steps.path: must begin with /",
            ),
            (format!("{least}{}", step.replace("POST", "BREW")), "must be GET, POST, PUT or PATCH"),
            (format!("{least}{step}file = \"a/b\"\njson = {{}}"), "give one of file, json and parts"),
            (format!("{least}{step}expect = [99]"), "numbers between 200 and 599"),
            (format!("{least}{step}capture = {{ id = \"id\" }}"), "JSON pointers"),
            (format!("{least}{step}json = {{ a = 2026-01-01 }}"), "must be what JSON can hold"),
            (format!("{least}{step}jsn = {{}}"), "unknown key; did you mean \"json\"?"),
        ];
        for (source, told) in table {
            assert!(parse(&source).contains(told), "{told} is not in\n{}", parse(&source));
        }
    }
}
