//! Templates: from a view to subject, text and HTML.
//!
//! A set is compiled once, for each language, from the shipped files and a tenant's own, which take precedence.
//! Every file passes [`guard`]. Rendering writes into a bounded buffer and cleans what comes out: no control
//! character reaches a header or a body, whatever the data held.

pub mod changes;
pub mod guard;
pub mod helpers;
mod prepared;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use handlebars::Context;
use handlebars::Output;
use jiff::tz::TimeZone;
use memchr::memchr_iter;
use serde_json::Value;

use self::helpers::Form;
use self::prepared::Prepared;
use crate::config::reader::Problem;
use crate::locale::{Language, fallbacks};

/// The files of a set, as shipped. A tenant's folder may hold any of them under the same name.
pub const SHIPPED: [(&str, &str); 3] = [
    ("update/subject.txt.hbs", include_str!("../../templates/update/subject.txt.hbs")),
    ("update/body.txt.hbs", include_str!("../../templates/update/body.txt.hbs")),
    ("update/body.html.hbs", include_str!("../../templates/update/body.html.hbs")),
];

/// The languages that ship.
const SHIPPED_LANGUAGES: [(&str, &str); 2] = [
    ("en", include_str!("../../templates/lang/en.toml")),
    ("de", include_str!("../../templates/lang/de.toml")),
];

/// The most octets that one body may have.
const MAX_OUTPUT: usize = 2_000_000;
/// The most characters of a subject; RFC 5322 sets no limit, people and CRMs do.
const MAX_SUBJECT: usize = 200;

/// A mail's texts. Lines end in LF; the subject is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The language they are in.
    pub language: String,
    /// The subject without the profile's token.
    pub subject: String,
    /// The plain text body.
    pub text: String,
    /// The HTML body.
    pub html: String,
}

/// A template that failed on data, by its name.
#[derive(Debug, thiserror::Error)]
#[error("template {name} in {language} could not be rendered")]
pub struct RenderFailure {
    name: &'static str,
    language: String,
    #[source]
    source: Box<handlebars::RenderError>,
}

/// What to do about a name that the data does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It writes nothing: a mail is never lost for it.
    Nothing,
    /// It is a failure: for checking templates.
    Failure,
}

/// A compiled set of templates in all its languages.
#[derive(Debug)]
pub struct Templates {
    by_language: BTreeMap<String, Compiled>,
    default: String,
    names: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct Compiled {
    language: Arc<Language>,
    /// In the order of [`SHIPPED`].
    templates: Vec<Prepared>,
}

impl Templates {
    /// Compiles the shipped set and the files of `folder` over it. `default` is the language to fall back to.
    pub fn load(
        folder: Option<&Path>,
        default: &str,
        zone: Option<&TimeZone>,
        missing: Missing,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let (mut by_language, mut names) = (BTreeMap::new(), Vec::new());
        for (tag, file, source) in languages(folder, &mut problems) {
            let language = match Language::parse(&source) {
                Ok(language) => Arc::new(language),
                Err(error) => {
                    problems.push(Problem::of_file(&file, error));
                    continue;
                }
            };
            if missing == Missing::Failure {
                problems.extend(missing_names(&file, &language));
            }
            if let Some(compiled) = Compiled::new(language, folder, zone, missing, &mut names, &mut problems)
            {
                by_language.insert(tag, compiled);
            }
        }
        let templates = Self { by_language, default: default.to_owned(), names };
        if problems.is_empty() && templates.find(default).is_none() {
            let file = folder.unwrap_or(Path::new("templates")).join("lang");
            problems.push(Problem::of_file(
                &file,
                format_args!("there is no language {default:?}; add lang/{default}.toml"),
            ));
        }
        problems.dedup();
        if problems.is_empty() { Ok(templates) } else { Err(problems) }
    }

    /// The languages of the set.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.by_language.keys().map(String::as_str)
    }

    /// The names that the templates take and that none of these views has; each with its file.
    pub fn unknown_names(&self, views: &[Value]) -> Vec<Problem> {
        let is_known = |name: &str| {
            let place = format!("/{}", name.replace('.', "/"));
            // A list's entries differ, and what the platform sends beside the documented keys is not known.
            helpers::NAMES.contains(&name)
                || name == "raw"
                || name.starts_with("raw.")
                || name.contains('[')
                || views.iter().any(|view| view.pointer(&place).is_some())
        };
        let unknown =
            self.names.iter().filter(|(_, name)| !name.is_empty() && name != "this" && !is_known(name));
        let mut problems: Vec<Problem> = unknown
            .map(|(file, name)| Problem::of_file(file, format_args!("no session has {name:?}")))
            .collect();
        problems.dedup();
        problems
    }

    /// The language that a session in `lang` is written in.
    pub fn language(&self, lang: Option<&str>) -> &Language {
        &self.pick(lang).language
    }

    /// Writes one mail in the language of the session, or the nearest one that there is.
    pub fn render(&self, lang: Option<&str>, view: &Context) -> Result<Rendered, RenderFailure> {
        let compiled = self.pick(lang);
        let write = |at: usize| {
            let mut buffer = Bounded(String::with_capacity(4096));
            let rendered = compiled.templates[at].render(view, &mut buffer);
            rendered.map_err(|mut source| {
                let (name, language) = (SHIPPED[at].0, compiled.language.tag().to_owned());
                source.template_name = Some(name.to_owned());
                RenderFailure { name, language, source: Box::new(source) }
            })?;
            Ok(clean(buffer.0))
        };
        let subject = write(0)?;
        let subject =
            subject.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_SUBJECT).collect();
        Ok(Rendered {
            language: compiled.language.tag().to_owned(),
            subject,
            text: write(1)?,
            html: write(2)?,
        })
    }

    fn pick(&self, lang: Option<&str>) -> &Compiled {
        let found = lang.and_then(|lang| self.find(lang)).or_else(|| self.find(&self.default));
        #[expect(clippy::expect_used, reason = "load() has found the default language")]
        found.expect("a set has its default language")
    }

    fn find(&self, lang: &str) -> Option<&Compiled> {
        fallbacks(lang).find_map(|tag| self.by_language.get(&tag))
    }
}

impl Compiled {
    fn new(
        language: Arc<Language>,
        folder: Option<&Path>,
        zone: Option<&TimeZone>,
        missing: Missing,
        names: &mut Vec<(PathBuf, String)>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let kinds = [Form::Text, Form::Html].map(|form| {
            let helpers = helpers::helpers(form, &language, zone);
            let mut engine = helpers::engine(form, &helpers);
            engine.set_strict_mode(missing == Missing::Failure);
            (Arc::new(engine), helpers)
        });
        let before = problems.len();
        let mut templates = Vec::new();
        for (name, shipped) in SHIPPED {
            let form = if name.ends_with(".html.hbs") { Form::Html } else { Form::Text };
            let (engine, helpers) = &kinds[form as usize];
            let (file, source) = own_file(folder, language.tag(), name, problems)
                .unwrap_or_else(|| (PathBuf::from(name), shipped.to_owned()));
            match guard::compile(&source, &is_helper) {
                Ok(template) => {
                    let used = guard::names(&template).into_iter().map(|used| (file.clone(), used));
                    names.extend(used.filter(|used| !names.contains(used)).collect::<Vec<_>>());
                    // The engine alone tells of a name that the data does not have.
                    templates.push(match missing {
                        Missing::Nothing => Prepared::new(&template, form, helpers, engine),
                        Missing::Failure => Prepared::of_engine(template, form, engine),
                    });
                }
                Err(refusal) => {
                    problems.push(Problem { line: refusal.line, ..Problem::of_file(&file, refusal) });
                }
            }
        }
        (problems.len() == before).then_some(Self { language, templates })
    }
}

/// The helpers of ours and the engine's own that cannot hurt.
fn is_helper(name: &str) -> bool {
    const BUILT_IN: [&str; 14] =
        ["if", "unless", "each", "with", "lookup", "eq", "ne", "gt", "gte", "lt", "lte", "and", "or", "not"];
    BUILT_IN.contains(&name) || helpers::NAMES.contains(&name)
}

/// The labels, words and plurals that English has and this language does not.
fn missing_names(file: &Path, language: &Language) -> Option<Problem> {
    let english = Language::parse(SHIPPED_LANGUAGES[0].1).ok()?;
    let known = language.names();
    let missing: Vec<String> = english.names().into_iter().filter(|name| !known.contains(name)).collect();
    (!missing.is_empty()).then(|| Problem::of_file(file, format_args!("missing: {}", missing.join(", "))))
}

/// A tenant's own file of that name: `TAG/NAME` for one language, else `NAME`.
fn own_file(
    folder: Option<&Path>,
    tag: &str,
    name: &str,
    problems: &mut Vec<Problem>,
) -> Option<(PathBuf, String)> {
    let folder = folder?;
    [folder.join(tag).join(name), folder.join(name)].into_iter().find_map(
        |file| match std::fs::read_to_string(&file) {
            Ok(source) => Some((file, source)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                problems.push(Problem::of_file(&file, error));
                None
            }
        },
    )
}

/// The language files by tag: the shipped ones, then those of the folder, which replace them.
fn languages(folder: Option<&Path>, problems: &mut Vec<Problem>) -> Vec<(String, PathBuf, String)> {
    let shipped =
        SHIPPED_LANGUAGES.map(|(tag, source)| (tag.to_owned(), (PathBuf::from(tag), source.to_owned())));
    let mut found = BTreeMap::from(shipped);
    let entries = folder.and_then(|folder| std::fs::read_dir(folder.join("lang")).ok());
    for file in entries.into_iter().flatten().flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "toml") {
            let tag = file.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            match std::fs::read_to_string(&file) {
                Ok(source) => _ = found.insert(tag, (file, source)),
                Err(error) => problems.push(Problem::of_file(&file, error)),
            }
        }
    }
    found.into_iter().map(|(tag, (file, source))| (tag, file, source)).collect()
}

/// Leaves no control character but the line feed and the tab.
pub fn clean(text: String) -> String {
    let bytes = text.as_bytes();
    let is_control = |byte: &u8| (*byte < b' ' && !matches!(byte, b'\n' | b'\t')) || *byte == 0x7f;
    // Those beyond ASCII, U+0080 to U+009F, are 0xC2 and one octet more.
    let beyond = memchr_iter(0xc2, bytes).any(|at| bytes.get(at + 1).is_some_and(|next| *next < 0xa0));
    // Without an early end, so that many octets are looked at in one step.
    if !beyond && !bytes.iter().fold(false, |found, byte| found | is_control(byte)) {
        return text;
    }
    text.replace("\r\n", "\n").replace(is_unwanted, "")
}

fn is_unwanted(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
}

/// A buffer that refuses to grow without end.
struct Bounded(String);

impl Output for Bounded {
    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.0.len() + text.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("the output is larger than {MAX_OUTPUT} octets")));
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tenant::Limits;
    use crate::session::{Reading, read};
    use crate::view::view;

    const LIMITS: Limits = Limits { list_entries: 10, note_characters: 2000, message_bytes: 4_000_000 };

    fn view_of(file: &str) -> Context {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples").join(file);
        match read(&std::fs::read(path).unwrap(), file, 1 << 20).unwrap() {
            Reading::Session(session) => Context::from(view(*session, "Acme", &LIMITS)),
            Reading::Other(what) => panic!("{file} is {what}"),
        }
    }

    #[test]
    fn the_shipped_set_renders_the_hostile_session_strictly_and_tamely() {
        let templates = Templates::load(None, "en", None, Missing::Failure).unwrap();
        let mut view = view_of("hostile.json");
        view.data_mut()["attachment"] = "call-66666.json".into();
        let rendered = templates.render(Some("en"), &view).unwrap();
        assert!(!rendered.subject.contains('\n'), "{}", rendered.subject);
        for body in [&rendered.subject, &rendered.text, &rendered.html] {
            let stray = body.chars().find(|c| {
                (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202e}' | '\u{2066}')
            });
            assert_eq!(stray, None);
        }
        let lower = rendered.html.to_ascii_lowercase();
        for markup in ["<script", "<img", "href=\"javascript"] {
            assert!(!lower.contains(markup), "{markup} got through");
        }
        let commands = rendered.text.lines().filter(|line| {
            line.starts_with("Status: ") && line.contains("Closed") || line.starts_with('#') || *line == "."
        });
        assert_eq!(commands.collect::<Vec<_>>(), Vec::<&str>::new());
        assert!(rendered.text.contains("30 more in the attachment"), "{}", rendered.text);
    }

    #[test]
    fn the_language_follows_the_session_then_the_tenant() {
        let templates = Templates::load(None, "de", None, Missing::Nothing).unwrap();
        let table = [
            (Some("de-CH"), "de"),
            (Some("en_GB"), "en"),
            (Some("ja"), "de"),
            (None, "de"),
            (Some(""), "de"),
        ];
        for (lang, tag) in table {
            assert_eq!(templates.language(lang).tag(), tag, "{lang:?}");
        }
        let problems = Templates::load(None, "fr", None, Missing::Nothing).unwrap_err();
        assert!(problems[0].to_string().contains("there is no language \"fr\""), "{problems:?}");
    }

    #[test]
    fn a_tenants_files_take_the_place_of_the_shipped_ones() {
        let folder = tempfile::tempdir().unwrap();
        for (name, source) in [
            ("update/subject.txt.hbs", "Ours {{session.id}}"),
            ("de/update/subject.txt.hbs", "Unser {{session.id}}"),
        ] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, source).unwrap();
        }
        let templates = Templates::load(Some(folder.path()), "en", None, Missing::Failure).unwrap();
        let subject = |lang| templates.render(Some(lang), &view_of("call-50112.json")).unwrap().subject;
        assert_eq!((subject("en"), subject("de")), ("Ours 50112".to_owned(), "Unser 50112".to_owned()));
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("update")).unwrap();
        std::fs::write(folder.path().join("update/body.txt.hbs"), "fine\n{{> footer}}\n").unwrap();
        let problems = Templates::load(Some(folder.path()), "en", None, Missing::Failure).unwrap_err();
        assert!(
            problems[0].to_string().ends_with(
                "update/body.txt.hbs:2: {{> footer}}: partials are not available; a template is one file"
            ),
            "{problems:?}"
        );
    }

    #[test]
    fn a_missing_name_fails_the_check_and_never_a_mail() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("update")).unwrap();
        std::fs::write(
            folder.path().join("update/subject.txt.hbs"),
            "a{{sesion.id}}b{{datetime times.none}}",
        )
        .unwrap();
        let load = |missing| Templates::load(Some(folder.path()), "en", None, missing).unwrap();
        let failure = load(Missing::Failure).render(None, &view_of("call-50112.json")).unwrap_err();
        let told = std::error::Error::source(&failure).unwrap().to_string();
        assert!(told.contains("\"update/subject.txt.hbs\" line 1") && told.contains("sesion"), "{told}");
        assert_eq!(load(Missing::Nothing).render(None, &view_of("call-50112.json")).unwrap().subject, "ab");
    }

    #[test]
    fn output_without_end_is_cut_off_with_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("update")).unwrap();
        let loops = "{{#each raw.dispositions}}{{#each @root.raw.dispositions}}{{#each @root.raw.dispositions}}0123456789{{/each}}{{/each}}{{/each}}";
        std::fs::write(folder.path().join("update/body.txt.hbs"), loops).unwrap();
        let templates = Templates::load(Some(folder.path()), "en", None, Missing::Nothing).unwrap();
        assert!(templates.render(None, &view_of("hostile.json")).is_err());
    }
}
