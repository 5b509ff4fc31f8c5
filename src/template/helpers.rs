//! The helpers that templates may call. `docs/templates.md` lists them for those who write templates.
//!
//! None of them fails on a null or missing value: it writes nothing. A value helper returns text that the engine
//! escapes; only `link` and `block` write markup, and escape what they put into it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use handlebars::{
    Context, Handlebars, Helper as Call, HelperDef, Output, PathAndJson, RenderContext, RenderError,
    ScopedJson,
};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::locale::Language;
use crate::session::{Stamp, text};

/// What kind of body a registry writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Plain text: nothing is escaped, labels are padded to a column.
    Text,
    /// HTML: everything is escaped.
    Html,
}

impl Form {
    /// A text as it may stand in a body.
    pub(super) fn escaped(self, text: &str) -> Cow<'_, str> {
        const MARKUP: [u8; 7] = *b"<>\"&'`=";
        match self {
            Self::Html if text.bytes().any(|byte| MARKUP.contains(&byte)) => {
                handlebars::html_escape(text).into()
            }
            Self::Html | Self::Text => text.into(),
        }
    }
}

/// The column at which values stand behind their labels in a text body.
const LABEL_COLUMN: usize = 26;

/// The parameters of a call as texts, by their place from 0; none for what is not given.
type Parameters<'a> = dyn Fn(usize) -> Option<Cow<'a, str>> + 'a;
type Function = Box<dyn Fn(&Parameters<'_>) -> Option<String> + Send + Sync>;

/// A helper that writes one text, made from its parameters.
pub(super) struct Helper {
    function: Function,
    /// How the text is escaped; not at all where the helper writes markup.
    escaped: Option<Form>,
}

impl Helper {
    /// What it writes.
    pub(super) fn written(&self, given: &Parameters<'_>) -> Option<String> {
        let text = (self.function)(given)?;
        Some(match self.escaped.map(|form| form.escaped(&text)) {
            Some(Cow::Owned(escaped)) => escaped,
            Some(Cow::Borrowed(_)) | None => text,
        })
    }
}

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper").field("escaped", &self.escaped).finish_non_exhaustive()
    }
}

/// The helpers of one form and language by their names; all but `any`, which is for tests.
pub(super) type Helpers = BTreeMap<&'static str, Arc<Helper>>;

/// Makes them.
pub(super) fn helpers(form: Form, language: &Arc<Language>, zone: Option<&TimeZone>) -> Helpers {
    let mut helpers = Helpers::new();
    let mut add = |name, escaped, function: Function| {
        helpers.insert(name, Arc::new(Helper { function, escaped }));
    };
    add("block", None, Box::new(move |of| of(0).map(|text| block(form, &text))));
    add("link", None, Box::new(move |of| of(0).map(|text| link(form, &text))));
    let mut add = |name, function: Function| add(name, Some(form), function);
    let speaks = Arc::clone(language);
    add("label", Box::new(move |of| label(&speaks, &of(0)?, form)));
    let speaks = Arc::clone(language);
    add("heading", Box::new(move |of| speaks.label(&of(0)?).map(str::to_owned)));
    let speaks = Arc::clone(language);
    add("title", Box::new(move |of| Some(speaks.label(&of(0)?)?.replace("{n}", &of(1)?))));
    let speaks = Arc::clone(language);
    add("word", Box::new(move |of| Some(speaks.word(&of(0)?, &of(1)?).to_owned())));
    let speaks = Arc::clone(language);
    add("number", Box::new(move |of| of(0).map(|text| speaks.number(&text).unwrap_or(text.into_owned()))));
    let speaks = Arc::clone(language);
    add("count", Box::new(move |of| speaks.count(&of(0)?, of(1)?.parse().ok()?)));
    let speaks = Arc::clone(language);
    add("duration", Box::new(move |of| of(0).map(|text| duration(&speaks, text))));
    let (speaks, zone) = (Arc::clone(language), zone.cloned());
    add("datetime", Box::new(move |of| of(0).map(|text| date_time(&speaks, zone.as_ref(), text))));
    let (tag, direction) = (language.tag().to_owned(), language.direction());
    add("language", Box::new(move |_| Some(tag.clone())));
    add("direction", Box::new(move |_| Some(direction.to_owned())));
    helpers
}

/// The parameters of the engine's call.
fn given<'c>(call: &'c Call<'_>) -> impl Fn(usize) -> Option<Cow<'c, str>> {
    |at| text(call.param(at).map(PathAndJson::value))
}

/// A helper as the engine calls it.
struct OfEngine(Arc<Helper>);

impl HelperDef for OfEngine {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &Call<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        Ok(ScopedJson::Derived((self.0.function)(&given(call)).into()))
    }

    fn call<'reg: 'rc, 'rc>(
        &self,
        call: &Call<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Result<(), RenderError> {
        Ok(out.write(&self.0.written(&given(call)).unwrap_or_default())?)
    }
}

/// Whether at least one of the parameters is given.
struct Any;

impl HelperDef for Any {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        call: &Call<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        Ok(ScopedJson::Derived(call.params().iter().map(PathAndJson::value).any(is_given).into()))
    }
}

/// Whether there is something in a value.
pub(super) fn is_given(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        scalar => text(Some(scalar)).is_some(),
    }
}

/// An engine that knows the helpers of ours.
pub(super) fn engine(form: Form, helpers: &Helpers) -> Handlebars<'static> {
    let mut engine = Handlebars::new();
    engine.register_escape_fn(move |text| form.escaped(text).into_owned());
    engine.register_helper("any", Box::new(Any));
    for (name, helper) in helpers {
        engine.register_helper(name, Box::new(OfEngine(Arc::clone(helper))));
    }
    engine
}

/// The names of all helpers of ours.
pub const NAMES: [&str; 13] = [
    "any",
    "block",
    "count",
    "datetime",
    "direction",
    "duration",
    "heading",
    "label",
    "language",
    "link",
    "number",
    "title",
    "word",
];

/// In a text body: the label, a colon, and blanks up to the column of the values.
fn label(language: &Language, name: &str, form: Form) -> Option<String> {
    let label = language.label(name)?;
    Some(match form {
        Form::Html => label.to_owned(),
        Form::Text => format!("{:<LABEL_COLUMN$}", format!("{label}:")),
    })
}

/// Seconds in the language's units; what is not a whole number of seconds is shown as it is.
fn duration(language: &Language, text: Cow<'_, str>) -> String {
    let whole = text.split('.').next().unwrap_or_default();
    whole.parse().map_or_else(|_| text.into_owned(), |seconds| language.duration(seconds))
}

/// A stamp in the language's form, in the tenant's zone or else the stamp's own offset; what cannot be read is
/// shown as it is.
fn date_time(language: &Language, zone: Option<&TimeZone>, text: Cow<'_, str>) -> String {
    let Some(stamp) = Stamp::parse(&text) else { return text.into_owned() };
    let (local, offset) = match zone {
        Some(zone) => {
            let zoned = stamp.instant().to_zoned(zone.clone());
            (zoned.datetime(), zoned.offset())
        }
        None => (stamp.local, stamp.offset),
    };
    language.date_time(local, offset).unwrap_or_else(|| text.into_owned())
}

/// A text of several lines. In a text body each line stands behind `| `, so that no line of a caller's can be
/// taken for a command by the CRM; in HTML lines end in `<br>`.
fn block(form: Form, text: &str) -> String {
    match form {
        Form::Text => text.lines().map(|line| format!("  | {line}\n")).collect(),
        Form::Html => text.lines().map(handlebars::html_escape).collect::<Vec<_>>().join("<br>\n"),
    }
}

/// An absolute http or https address as a link in HTML; anything else, and any text body, as plain text.
fn link(form: Form, text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let is_web = lower.starts_with("https://") || lower.starts_with("http://");
    let escaped = form.escaped(text);
    match form {
        Form::Html if is_web => format!("<a href=\"{escaped}\">{escaped}</a>"),
        Form::Html | Form::Text => escaped.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(form: Form, template: &str, data: &Value) -> String {
        let english = Arc::new(Language::parse(include_str!("../../templates/lang/en.toml")).unwrap());
        let engine = engine(form, &helpers(form, &english, None));
        engine.render_template(template, data).unwrap().replace(['\u{a0}', '\u{202f}'], " ")
    }

    #[test]
    fn every_helper_is_named() {
        let english = Arc::new(Language::parse(include_str!("../../templates/lang/en.toml")).unwrap());
        let mut names: Vec<&str> = helpers(Form::Text, &english, None).into_keys().chain(["any"]).collect();
        names.sort_unstable();
        assert_eq!(names, NAMES);
    }

    #[test]
    fn helpers_write_values_in_the_language() {
        let data = json!({"at": "2026-05-11T09:42:01.000+03:00", "s": "245", "n": 1234567.5, "u": "https://a.example/?b=\"c\"&d", "none": null});
        let table = [
            ("{{datetime at}}", "May 11, 2026, 9:42:01 AM (UTC+3)"),
            ("{{datetime \"2026-13-45T99:00>\"}}", "2026-13-45T99:00&gt;"),
            ("{{duration s}}", "4 min 5 s"),
            ("{{duration \"soon\"}}", "soon"),
            ("{{number n}}", "1,234,567.5"),
            ("{{word \"status\" \"finished\"}} {{word \"status\" \"<new>\"}}", "Finished &lt;new&gt;"),
            ("{{count \"more\" 2}}", "2 more in the attachment"),
            (
                "{{label \"status\"}}|{{title \"title_call\" 7}}|{{language}}|{{direction}}",
                "Status|Call 7|en|ltr",
            ),
            (
                "{{link u}}",
                "<a href=\"https://a.example/?b&#x3D;&quot;c&quot;&amp;d\">https://a.example/?b&#x3D;&quot;c&quot;&amp;d</a>",
            ),
            ("{{link \"javascript:alert(1)\"}}", "javascript:alert(1)"),
            ("{{block \"<b>\\n2\"}}", "&lt;b&gt;<br>\n2"),
        ];
        for (template, written) in table {
            assert_eq!(render(Form::Html, template, &data), written, "{template}");
        }
    }

    #[test]
    fn a_null_or_missing_value_writes_nothing() {
        for helper in ["datetime", "duration", "number", "link", "block", "label", "heading"] {
            for value in ["none", "no.such.name"] {
                let written =
                    render(Form::Html, &format!("{{{{{helper} {value}}}}}"), &json!({"none": null}));
                assert_eq!(written, "", "{helper} {value}");
            }
        }
        assert_eq!(
            render(
                Form::Html,
                "{{word \"status\" none}}{{count \"more\" none}}{{title \"x\" none}}",
                &json!({})
            ),
            ""
        );
    }

    #[test]
    fn in_a_text_body_labels_line_up_and_lines_are_fenced() {
        let written = render(
            Form::Text,
            "{{label \"status\"}}x\n{{block note}}",
            &json!({"note": "a\nStatus: Closed <b>"}),
        );
        assert_eq!(written, "Status:                   x\n  | a\n  | Status: Closed <b>\n");
    }
}
