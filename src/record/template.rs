//! From a recipe's step and the data of a delivery to one request.
//!
//! Texts of a recipe are Handlebars templates, strict: a name that is not there is a failure. A value is escaped for
//! where it stands: percent-encoded in a path, a leaf of the value tree in JSON, a field of its own in a form. It is
//! never looked into for another template.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handlebars::{Context, Handlebars};
use memchr::memmem;
use serde_json::{Number, Value};

use crate::config::reader::Problem;
use crate::config::recipe::{Body, Part, PartValue, Recipe, Step};
use crate::template::guard;

/// The names that every delivery has.
pub const NAMES: [&str; 13] = [
    "ticket",
    "id",
    "external_id",
    "uuid",
    "made_at",
    "session",
    "file_name",
    "file_type",
    "subject",
    "note",
    "note_html",
    "again",
    "tenant",
];

/// The content type of every session file.
pub const FILE_TYPE: &str = "application/json";

/// The helpers that a recipe may call.
const HELPERS: [&str; 8] = ["if", "unless", "eq", "ne", "and", "or", "not", "lookup"];

/// One request, written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Path and query, below the tenant's base.
    pub path: String,
    /// The header fields of the recipe.
    pub headers: Vec<(String, String)>,
    /// Content type and octets; none for a request without a body.
    pub body: Option<(String, Vec<u8>)>,
}

/// A text of a recipe that cannot be written with the data of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unwritable(String);

/// A recipe's texts, compiled.
#[derive(Debug)]
pub struct Requests {
    /// Every text by itself, for headers and bodies.
    plain: Handlebars<'static>,
    /// The same for paths.
    url: Handlebars<'static>,
}

impl Requests {
    /// Compiles all texts; tells everything that is wrong with them. `values` are the names of the tenant's values.
    pub fn compile(recipe: &Recipe, values: &[&str]) -> Result<Self, Vec<Problem>> {
        let engine = |escape: fn(&str) -> String| {
            let mut engine = Handlebars::new();
            engine.register_escape_fn(escape);
            engine.set_strict_mode(true);
            engine
        };
        let mut requests = Self { plain: engine(handlebars::no_escape), url: engine(percent) };
        let mut known: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
        known.extend(values.iter().map(|name| format!("value.{name}")));
        known.extend(["auth.user", "auth.secret"].map(str::to_owned));
        let groups = recipe.ticket_url.iter().flat_map(|pattern| pattern.capture_names().flatten());
        known.extend(groups.map(|group| format!("url.{group}")));
        let flags = recipe.steps.iter().filter_map(|step| step.found.as_ref());
        known.extend(flags.map(|(flag, _)| flag.clone()));
        let mut problems = Vec::new();
        for step in recipe.steps.iter().chain(&recipe.probe) {
            for (text, is_path) in texts(step) {
                if let Err(reason) = requests.add(text, is_path, &known) {
                    let key = format!("steps.{}", step.name);
                    problems.push(Problem { key, ..Problem::of_file(Path::new(&recipe.name), reason) });
                }
            }
            if let Some(condition) = step.when.as_ref().filter(|condition| !known.contains(&condition.name)) {
                let reason = format!("when: nothing gives {:?}", condition.name);
                let key = format!("steps.{}", step.name);
                problems.push(Problem { key, ..Problem::of_file(Path::new(&recipe.name), reason) });
            }
            known.extend(step.captures.iter().map(|(name, _)| name.clone()));
        }
        if problems.is_empty() { Ok(requests) } else { Err(problems) }
    }

    fn add(&mut self, text: &str, is_path: bool, known: &[String]) -> Result<(), String> {
        let template =
            guard::compile(text, &|name| HELPERS.contains(&name)).map_err(|refusal| refusal.to_string())?;
        let unknown = guard::names(&template)
            .into_iter()
            .find(|name| !name.is_empty() && !HELPERS.contains(&name.as_str()) && !known.contains(name));
        if let Some(unknown) = unknown {
            return Err(format!("nothing gives {unknown:?}"));
        }
        let engine = if is_path { &mut self.url } else { &mut self.plain };
        engine.register_template(text, template);
        Ok(())
    }

    /// Writes one request.
    pub fn write(&self, step: &Step, data: &Context, file: &[u8]) -> Result<Request, Unwritable> {
        let path = render(&self.url, &step.path, data)?;
        let header = |(name, value): &(String, String)| Ok((name.clone(), self.text(value, data)?));
        let headers = step.headers.iter().map(header).collect::<Result<_, Unwritable>>()?;
        let body = match &step.body {
            Body::None => None,
            Body::File(content_type) => Some((content_type.clone(), file.to_vec())),
            Body::Json(content_type, tree) => {
                let tree = self.json(tree, data, file)?;
                Some((content_type.clone(), tree.to_string().into_bytes()))
            }
            Body::Parts(parts) => Some(self.form(parts, data, file)?),
        };
        Ok(Request { path, headers, body })
    }

    /// Writes a text that stands for itself.
    pub fn text(&self, text: &str, data: &Context) -> Result<String, Unwritable> {
        render(&self.plain, text, data)
    }

    /// A value tree with its leaves written.
    fn json(&self, tree: &Value, data: &Context, file: &[u8]) -> Result<Value, Unwritable> {
        Ok(match tree {
            Value::String(text) => self.text(text, data)?.into(),
            Value::Array(items) => {
                items.iter().map(|item| self.json(item, data, file)).collect::<Result<_, _>>()?
            }
            Value::Object(entries) if entries.contains_key("$file") => STANDARD.encode(file).into(),
            Value::Object(entries) => {
                if let Some(Value::String(text)) = entries.get("$number") {
                    let digits = self.text(text, data)?;
                    let number = digits.parse::<i64>();
                    return Ok(Value::Number(Number::from(
                        number.map_err(|_| Unwritable(format!("{text} is not a number")))?,
                    )));
                }
                let entry =
                    |(key, value): (&String, &Value)| Ok((key.clone(), self.json(value, data, file)?));
                Value::Object(entries.iter().map(entry).collect::<Result<_, Unwritable>>()?)
            }
            other => other.clone(),
        })
    }

    /// A form of several parts (RFC 7578). The boundary follows from the delivery, so that a retry is the same.
    fn form(&self, parts: &[Part], data: &Context, file: &[u8]) -> Result<(String, Vec<u8>), Unwritable> {
        let mut written = Vec::new();
        for part in parts {
            let file_name = part.file_name.as_ref().map(|name| self.text(name, data)).transpose()?;
            let value = match &part.value {
                PartValue::Text(text) => self.text(text, data)?.into_bytes(),
                PartValue::Json(tree) => self.json(tree, data, file)?.to_string().into_bytes(),
                PartValue::File => file.to_vec(),
            };
            let given = match part.value {
                PartValue::File => Some(FILE_TYPE),
                PartValue::Json(_) => Some("application/json"),
                PartValue::Text(_) => None,
            };
            written.push((part, file_name, part.content_type.as_deref().or(given), value));
        }
        let mut boundary = format!("aftercall-{}", self.text("{{external_id}}", data)?);
        while written.iter().any(|(.., value)| memmem::find(value, boundary.as_bytes()).is_some()) {
            boundary.push('x');
        }
        let mut body = Vec::new();
        for (part, file_name, content_type, value) in written {
            let mut head =
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"", quoted(&part.name));
            if let Some(name) = file_name {
                head.push_str(&format!("; filename=\"{}\"", quoted(&name)));
            }
            if let Some(content_type) = content_type {
                head.push_str(&format!("\r\nContent-Type: {content_type}"));
            }
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(b"\r\n\r\n");
            body.extend(value);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        Ok((format!("multipart/form-data; boundary={boundary}"), body))
    }
}

fn render(engine: &Handlebars<'_>, text: &str, data: &Context) -> Result<String, Unwritable> {
    engine.render_with_context(text, data).map_err(|error| Unwritable(error.reason().to_string()))
}

/// Every text of a step, and whether it is a path.
fn texts(step: &Step) -> Vec<(&str, bool)> {
    let mut texts = vec![(step.path.as_str(), true), ("{{external_id}}", false)];
    texts.extend(step.headers.iter().map(|(_, value)| (value.as_str(), false)));
    texts.extend(step.found.iter().map(|(_, text)| (text.as_str(), false)));
    let mut trees = Vec::new();
    match &step.body {
        Body::None | Body::File(_) => {}
        Body::Json(_, tree) => trees.push(tree),
        Body::Parts(parts) => {
            for part in parts {
                texts.extend(part.file_name.iter().map(|name| (name.as_str(), false)));
                match &part.value {
                    PartValue::Text(text) => texts.push((text, false)),
                    PartValue::Json(tree) => trees.push(tree),
                    PartValue::File => {}
                }
            }
        }
    }
    while let Some(tree) = trees.pop() {
        match tree {
            Value::String(text) => texts.push((text, false)),
            Value::Array(items) => trees.extend(items),
            Value::Object(entries) => trees.extend(entries.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    texts
}

/// All but the unreserved characters (RFC 3986, section 2.3).
fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A name within quotation marks in a form (RFC 7578, section 4.2, as browsers write it).
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// Text as HTML: nothing of it is markup, and lines stay lines.
pub fn as_html(text: &str) -> String {
    handlebars::html_escape(text).replace('\n', "<br>\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "a\"b\\c\r\nX: y/../?q=1&z#f{{note}}%2f\u{202e}<ä>";

    fn recipe(steps: &str) -> Recipe {
        let source = format!("title = \"X\"\nverified = \"inferred\"\n{steps}");
        Recipe::parse("x", Path::new("x"), &source).unwrap()
    }

    fn data() -> Context {
        Context::wraps(json!({ "note": HOSTILE, "ticket": HOSTILE, "id": "17", "external_id": "ext-1" }))
            .unwrap()
    }

    #[test]
    fn a_value_stays_a_value_wherever_it_stands() {
        let recipe = recipe(
            "[[steps]]\nname = \"a\"\nmethod = \"POST\"\npath = \"/t/{{ticket}}?x={{note}}&y=1\"\n\
             json = { n = \"<{{note}}>\", i = { \"$number\" = \"{{id}}\" }, f = { \"$file\" = \"base64\" }, k = [true, \"{{id}}\"] }",
        );
        let requests = Requests::compile(&recipe, &[]).unwrap();
        let request = requests.write(&recipe.steps[0], &data(), b"{}\n").unwrap();
        let encoded =
            "a%22b%5Cc%0D%0AX%3A%20y%2F..%2F%3Fq%3D1%26z%23f%7B%7Bnote%7D%7D%252f%E2%80%AE%3C%C3%A4%3E";
        assert_eq!(request.path, format!("/t/{encoded}?x={encoded}&y=1"));
        let body: Value = serde_json::from_slice(&request.body.unwrap().1).unwrap();
        assert_eq!(body, json!({ "n": format!("<{HOSTILE}>"), "i": 17, "f": "e30K", "k": [true, "17"] }));
    }

    #[test]
    fn a_form_has_its_parts_and_no_others() {
        let recipe = recipe(
            "[[steps]]\nname = \"a\"\nmethod = \"POST\"\npath = \"/\"\n[[steps.parts]]\nname = \"body\"\ntext = \"{{note}}\"\n\
             [[steps.parts]]\nname = \"file\"\nfile_name = \"{{note}}\"\n",
        );
        let requests = Requests::compile(&recipe, &[]).unwrap();
        let write = |file: &[u8]| requests.write(&recipe.steps[0], &data(), file).unwrap().body.unwrap();
        let (kind, body) = write(b"{}");
        assert_eq!(kind, "multipart/form-data; boundary=aftercall-ext-1");
        let name = HOSTILE.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let wanted = format!(
            "--aftercall-ext-1\r\nContent-Disposition: form-data; name=\"body\"\r\n\r\n{HOSTILE}\r\n\
             --aftercall-ext-1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/json\r\n\r\n{{}}\r\n--aftercall-ext-1--\r\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), wanted);
        // A file that holds the boundary gets another.
        let (kind, body) = write(b"--aftercall-ext-1--");
        assert_eq!(kind, "multipart/form-data; boundary=aftercall-ext-1x");
        assert!(body.ends_with(b"--aftercall-ext-1--\r\n--aftercall-ext-1x--\r\n"));
    }

    #[test]
    fn what_nothing_gives_is_told_before_anything_is_sent() {
        let step = "[[steps]]\nname = \"a\"\nmethod = \"POST\"\n";
        let table = [
            ("path = \"/{{tickt}}\"", "nothing gives \"tickt\""),
            ("path = \"/{{token}}\"\ncapture = { token = \"/a\" }", "nothing gives \"token\""),
            ("path = \"/{{value.other}}\"", "nothing gives \"value.other\""),
            ("path = \"/\"\njson = { a = [{ b = \"{{x}}\" }] }", "nothing gives \"x\""),
            ("path = \"/\"\nheaders = { a = \"{{{note}}}\" }", "without escaping"),
            ("path = \"/\"\nwhen = \"x\"", "when: nothing gives \"x\""),
        ];
        for (keys, told) in table {
            let problems = Requests::compile(&recipe(&format!("{step}{keys}")), &["own"]);
            let problems = problems.err().unwrap_or_default();
            assert!(
                problems.iter().any(|problem| problem.to_string().contains(told)),
                "{keys}: {problems:?}"
            );
        }
        let two = "path = \"/\"\ncapture = { token = \"/a\" }\n\
                   [[steps]]\nname = \"b\"\nmethod = \"POST\"\npath = \"/{{token}}/{{value.own}}\"\nwhen = \"token\"";
        assert!(Requests::compile(&recipe(&format!("{step}{two}")), &["own"]).is_ok());
    }
}
