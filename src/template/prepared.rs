//! A template, prepared for many mails.
//!
//! A mail takes some 350 names from the data. The engine would put each path together anew and look each helper up by
//! its name. So what it has compiled is turned into parts that have both at hand, and what is known already (a label,
//! the language) becomes text. What has no part here stays the engine's: names that go upwards, `@index`, options,
//! names for the entries of a block, and most sub-expressions.

use std::borrow::Cow;
use std::sync::Arc;

use handlebars::template::{HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{
    Context, Handlebars, JsonRender, JsonTruthy, Output, Path, PathSeg, RenderContext, RenderError,
    Renderable,
};
use serde_json::Value;

use super::helpers::{Form, Helper, Helpers, is_given};
use crate::session::text;

/// A prepared template.
#[derive(Debug)]
pub(super) struct Prepared {
    form: Form,
    parts: Vec<Part>,
    engine: Arc<Handlebars<'static>>,
}

#[derive(Debug)]
enum Part {
    /// Text as it is.
    Text(String),
    /// A value, escaped.
    Value(Names),
    /// What a helper writes.
    Call(Arc<Helper>, Vec<Source>),
    /// The first where the test holds, else the second.
    If(Test, Vec<Part>, Vec<Part>),
    /// The first for each entry, from where it stands; the second where there is none.
    Each(Names, Vec<Part>, Vec<Part>),
    /// The first from where a value stands; the second where there is none.
    With(Names, Vec<Part>, Vec<Part>),
    /// What the engine renders.
    Engine(Template),
}

/// The way down from where the template stands in the data.
#[derive(Debug)]
struct Names(Vec<String>);

#[derive(Debug)]
enum Source {
    Names(Names),
    Literal(Value),
}

#[derive(Debug)]
enum Test {
    If(Names),
    Unless(Names),
    IfAny(Vec<Source>),
}

impl Prepared {
    /// Prepares a template whose helpers are these.
    pub(super) fn new(
        template: &Template,
        form: Form,
        helpers: &Helpers,
        engine: &Arc<Handlebars<'static>>,
    ) -> Self {
        let parts = parts(Some(template), helpers, true).unwrap_or_default();
        Self { form, parts, engine: Arc::clone(engine) }
    }

    /// Leaves a template to the engine.
    pub(super) fn of_engine(template: Template, form: Form, engine: &Arc<Handlebars<'static>>) -> Self {
        Self { form, parts: vec![Part::Engine(template)], engine: Arc::clone(engine) }
    }

    /// Writes the template with this data.
    pub(super) fn render(&self, data: &Context, out: &mut impl Output) -> Result<(), RenderError> {
        self.write(&self.parts, data.data(), data, out)
    }

    fn write(
        &self,
        parts: &[Part],
        here: &Value,
        data: &Context,
        out: &mut impl Output,
    ) -> Result<(), RenderError> {
        for part in parts {
            match part {
                Part::Text(text) => out.write(text)?,
                Part::Value(names) => match names.value(here) {
                    Some(Value::String(text)) => out.write(&self.form.escaped(text))?,
                    Some(other) => out.write(&self.form.escaped(&other.render()))?,
                    None => {}
                },
                Part::Call(helper, sources) => {
                    let written = helper.written(&|at| sources.get(at)?.text(here));
                    out.write(&written.unwrap_or_default())?;
                }
                Part::If(test, first, second) => {
                    self.write(if test.holds(here) { first } else { second }, here, data, out)?;
                }
                Part::Each(names, first, second) => match names.value(here) {
                    Some(Value::Array(entries)) if !entries.is_empty() => {
                        entries.iter().try_for_each(|entry| self.write(first, entry, data, out))?;
                    }
                    Some(Value::Object(entries)) if !entries.is_empty() => {
                        entries.values().try_for_each(|entry| self.write(first, entry, data, out))?;
                    }
                    _ => self.write(second, here, data, out)?,
                },
                Part::With(names, first, second) => match names.value(here) {
                    Some(value) if value.is_truthy(false) => self.write(first, value, data, out)?,
                    _ => self.write(second, here, data, out)?,
                },
                Part::Engine(template) => {
                    template.render(&self.engine, data, &mut RenderContext::new(None), out)?;
                }
            }
        }
        Ok(())
    }
}

/// The parts of a template; none where it needs the engine and may not have it.
fn parts(template: Option<&Template>, helpers: &Helpers, engine: bool) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let Some(template) = template else { return Some(parts) };
    for (at, element) in template.elements.iter().enumerate() {
        let part = match part(element, helpers, engine) {
            Some(part) => part,
            None if engine => {
                let mut alone = Template::new();
                alone.elements.push(element.clone());
                // Of what stands behind `else if` the engine knows no place.
                alone.mapping.extend(template.mapping.get(at).cloned());
                Part::Engine(alone)
            }
            None => return None,
        };
        match (parts.last_mut(), part) {
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => parts.push(part),
        }
    }
    Some(parts)
}

fn part(element: &TemplateElement, helpers: &Helpers, engine: bool) -> Option<Part> {
    match element {
        TemplateElement::RawString(text) => Some(Part::Text(text.clone())),
        TemplateElement::Expression(call) if call.hash.is_empty() => expression(call, helpers),
        TemplateElement::HelperBlock(block) if block.hash.is_empty() && block.block_param.is_none() => {
            let [parameter] = &block.params[..] else { return None };
            let name = block.name.as_name()?;
            // Where it has moved in the data, the engine does not know where it is.
            let engine_inside = engine && matches!(name, "if" | "unless");
            let first = parts(block.template.as_ref(), helpers, engine_inside)?;
            let second = parts(block.inverse.as_ref(), helpers, engine)?;
            Some(match name {
                "if" => Part::If(test(parameter)?, first, second),
                "unless" => Part::If(Test::Unless(names(parameter)?), first, second),
                "each" => Part::Each(names(parameter)?, first, second),
                "with" => Part::With(names(parameter)?, first, second),
                _ => return None,
            })
        }
        _ => None,
    }
}

fn expression(call: &HelperTemplate, helpers: &Helpers) -> Option<Part> {
    match helpers.get(call.name.as_name()?) {
        None if call.params.is_empty() => names(&call.name).map(Part::Value),
        None => None,
        Some(helper) => {
            let sources: Vec<Source> = call.params.iter().map(source).collect::<Option<_>>()?;
            Some(if sources.iter().all(|source| matches!(source, Source::Literal(_))) {
                Part::Text(helper.written(&|at| sources.get(at)?.text(&Value::Null)).unwrap_or_default())
            } else {
                Part::Call(Arc::clone(helper), sources)
            })
        }
    }
}

fn test(parameter: &Parameter) -> Option<Test> {
    let Parameter::Subexpression(inner) = parameter else { return names(parameter).map(Test::If) };
    match &*inner.element {
        TemplateElement::Expression(call) if call.name.as_name() == Some("any") && call.hash.is_empty() => {
            call.params.iter().map(source).collect::<Option<_>>().map(Test::IfAny)
        }
        _ => None,
    }
}

fn source(parameter: &Parameter) -> Option<Source> {
    match parameter {
        Parameter::Literal(literal) => Some(Source::Literal(literal.clone())),
        other => names(other).map(Source::Names),
    }
}

fn names(parameter: &Parameter) -> Option<Names> {
    let Parameter::Path(Path::Relative((segments, _))) = parameter else { return None };
    let names = segments.iter().map(|segment| match segment {
        PathSeg::Named(name) => Some(name.clone()),
        _ => None,
    });
    names.collect::<Option<_>>().map(Names)
}

impl Names {
    fn value<'v>(&self, here: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(here, |value, name| match value {
            Value::Array(entries) => entries.get(name.parse::<usize>().ok()?),
            other => other.get(name),
        })
    }
}

impl Source {
    fn value<'v>(&'v self, here: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Names(names) => names.value(here),
            Self::Literal(literal) => Some(literal),
        }
    }

    fn text<'v>(&'v self, here: &'v Value) -> Option<Cow<'v, str>> {
        text(self.value(here))
    }
}

impl Test {
    fn holds(&self, here: &Value) -> bool {
        let is_truthy = |names: &Names| names.value(here).is_some_and(|value| value.is_truthy(false));
        match self {
            Self::If(names) => is_truthy(names),
            Self::Unless(names) => !is_truthy(names),
            Self::IfAny(sources) => sources.iter().any(|source| source.value(here).is_some_and(is_given)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::locale::Language;
    use crate::template::{Bounded, helpers};

    /// Templates, what they write, and whether nothing of them is left to the engine.
    const TABLE: [(&str, &str, bool); 32] = [
        ("{{a.b}} {{a.n}} {{a.yes}} {{a.none}}{{a}}", "&lt;b&gt; 12.5 true [object]", true),
        ("{{none}}{{a.b.c}}{{list.7}}", "", true),
        ("{{list.0}} {{list.[0]}} {{list.1.name}} {{list}}", "one one two [one, [object]]", true),
        ("{{this.a.b}}{{this}}", "&lt;b&gt;[object]", true),
        ("{{@root.a.b}}{{../a.b}}", "&lt;b&gt;&lt;b&gt;", false),
        ("{{#if a.none}}1{{else if empty}}2{{else if a.b}}3{{else}}4{{/if}}", "3", true),
        ("{{#if zero}}1{{/if}}{{#if blank}}2{{/if}}{{#if a}}3{{/if}}{{#if no.such}}4{{/if}}", "23", true),
        ("{{#unless a.yes}}1{{else}}{{a.b}}{{/unless}}{{#unless zero}}2{{/unless}}", "&lt;b&gt;2", true),
        ("{{#if zero includeZero=true}}{{a.b}}{{/if}}", "&lt;b&gt;", false),
        (
            "{{#if (any none empty)}}1{{/if}}{{#if (any a.none s)}}2{{/if}}{{#if (any blank)}}3{{/if}}",
            "2",
            true,
        ),
        (
            "{{any s}} {{#if (word \"status\" s)}}{{#if (lookup a \"b\")}}{{s}}{{/if}}{{/if}}",
            "true finished",
            false,
        ),
        (
            "{{word \"status\" s}}; {{datetime at}}; {{duration none}}; {{count \"more\" list.0}}",
            "Finished; May 11, 2026, 9:42:01 AM (UTC+3); ; ",
            true,
        ),
        ("{{label \"status\"}}{{label s}}{{label \"none\"}} {{heading \"outcome\"}}", "Status Outcome", true),
        ("{{language}} {{direction}}{{title \"title_call\" a.n}}", "en ltrCall 12.5", true),
        (
            "{{link url}}{{block lines}}",
            "<a href=\"https://a.example/?b&#x3D;&quot;c&quot;\">https://a.example/?b&#x3D;&quot;c&quot;</a>&lt;one&gt;<br>\ntwo",
            true,
        ),
        ("{{word \"status\" (lookup a \"b\")}}", "&lt;b&gt;", false),
        ("{{word [\"s\"] s}}", "", true),
        (
            "{{#each rows}}{{name}}{{a.b}} {{/each}}{{#each list}}{{this}},{{/each}}",
            "r1inner  one,[object],",
            true,
        ),
        (
            "{{#each rows}}{{name}}{{a.b}}{{#if a}}{{../s}}{{/if}}{{@index}} {{/each}}",
            "r1innerfinished0 1 ",
            false,
        ),
        ("{{#with a}}{{b}}{{#if yes}}{{n}}{{/if}}{{s}}{{else}}no{{/with}}", "&lt;b&gt;12.5", true),
        ("{{#with empty}}{{b}}{{else}}{{s}}{{/with}}{{#with a.none}}x{{/with}}", "finished", true),
        (
            "{{#each empty}}x{{else}}{{a.b}}{{/each}}{{#each s}}x{{else}}y{{/each}}{{#each none}}x{{/each}}",
            "&lt;b&gt;y",
            true,
        ),
        ("{{#each list}}{{this}}{{name}} {{#unless name}}-{{/unless}}{{/each}}", "one -[object]two ", true),
        ("{{#each a}}{{#if this}}+{{/if}}{{b}}{{/each}}", "+++", true),
        ("{{#each a}}{{@key}}{{/each}}", "bnnoneyes", false),
        (
            "{{#each nested}}{{#each rows}}{{n}}{{word \"status\" s}} {{/each}}{{n}}{{/each}}",
            "1Finished 2 9",
            true,
        ),
        ("{{#each nested}}{{#each rows}}{{n}}{{../n}} {{/each}}{{n}}{{/each}}", "19 29 9", false),
        (
            "{{#each rows}}{{#with a}}{{b}}{{#each ../../list}}{{name}}{{/each}}{{b}}{{/with}}{{/each}}",
            "innertwoinner",
            false,
        ),
        ("{{#each (lookup this \"rows\")}}{{name}}{{#if (any a.b)}}!{{/if}} {{/each}}", "r1!  ", false),
        ("{{#each rows as |row at|}}{{row.name}}{{at}}{{name}}{{/each}}", "r10r11", false),
        ("{{#if s}}{{#each rows}}{{../s}}{{/each}}{{a.b}}{{/if}}", "finishedfinished&lt;b&gt;", false),
        ("{{#if (eq s \"finished\")}}{{a.b}}{{else}}no{{/if}}{{! a note }}", "&lt;b&gt;", false),
    ];

    fn is_of_engine(parts: &[Part]) -> bool {
        parts.iter().any(|part| match part {
            Part::Engine(_) => true,
            Part::If(_, first, second) | Part::Each(_, first, second) | Part::With(_, first, second) => {
                is_of_engine(first) || is_of_engine(second)
            }
            Part::Text(_) | Part::Value(_) | Part::Call(..) => false,
        })
    }

    #[test]
    fn a_prepared_template_writes_what_the_engine_writes() {
        let data = json!({
            "a": {"b": "<b>", "yes": true, "none": null, "n": 12.50}, "list": ["one", {"name": "two"}], "empty": [],
            "rows": [{"name": "r1", "a": {"b": "inner"}}, {"name": null}], "at": "2026-05-11T09:42:01.000+03:00", "s": "finished",
            "nested": [{"n": 9, "rows": [{"n": 1, "s": "finished"}, {"n": 2}]}], "url": "https://a.example/?b=\"c\"",
            "lines": "<one>\ntwo", "zero": 0, "blank": " ",
        });
        let english = Arc::new(Language::parse(include_str!("../../templates/lang/en.toml")).unwrap());
        let helpers = helpers::helpers(Form::Html, &english, None);
        let engine = Arc::new(helpers::engine(Form::Html, &helpers));
        let data = Context::from(data);
        for (source, written, is_ours) in TABLE {
            let template = Template::compile(source).unwrap();
            let prepared = Prepared::new(&template, Form::Html, &helpers, &engine);
            assert_eq!(is_of_engine(&prepared.parts), !is_ours, "{source}");
            for way in [prepared, Prepared::of_engine(template, Form::Html, &engine)] {
                let mut page = Bounded(String::new());
                way.render(&data, &mut page).unwrap();
                assert_eq!(page.0.replace(['\u{a0}', '\u{202f}'], " "), written, "{source}");
            }
        }
        // What the engine refuses while it renders is refused.
        for source in ["{{#if (s)}}x{{/if}}", "{{#if}}x{{/if}}"] {
            let template = Template::compile(source).unwrap();
            let prepared = Prepared::new(&template, Form::Html, &helpers, &engine);
            assert!(prepared.render(&data, &mut Bounded(String::new())).is_err(), "{source}");
        }
    }
}
