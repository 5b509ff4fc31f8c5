//! Names that a template takes from the data are prepared when it is compiled: the engine would put each path together
//! anew for each mail, and a mail has some 300 of them.
//!
//! `{{#if times.ended}}` becomes a call of a helper of ours with the path as a literal, `["times", "ended"]`, and the
//! helper walks it, from the top of the data or from the entry of the innermost `each` or `with`. What goes upwards, has
//! an `@` or may be the parameter of a block stays the engine's.

use handlebars::template::{HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{
    Context, Handlebars, Helper, HelperDef, JsonRender, JsonTruthy, Output, Path, PathSeg, RenderContext,
    RenderError, Renderable,
};
use serde_json::Value;

use super::helpers::Form;

/// Before the names of the helpers that take paths as literals. A template cannot name them: it has a blank.
const PREPARED: &str = "prepared ";

/// The name of the form of a helper that takes paths as literals.
pub(super) fn form_of(helper: &str) -> String {
    format!("{PREPARED}{helper}")
}

/// Prepares a template; `has_form` says whether a helper has a form that takes paths as literals.
pub(super) fn prepare(template: &mut Template, has_form: &dyn Fn(&str) -> bool) {
    for element in &mut template.elements {
        if let TemplateElement::Expression(helper) | TemplateElement::HelperBlock(helper) = element {
            prepare_call(helper, has_form);
        }
    }
}

fn prepare_call(helper: &mut HelperTemplate, has_form: &dyn Fn(&str) -> bool) {
    let name = helper.name.as_name().unwrap_or_default().to_owned();
    if !helper.block && helper.params.is_empty() && helper.hash.is_empty() {
        if let Some(path) = path(&helper.name).filter(|_| !has_form(&name)) {
            helper.name = Parameter::Name(form_of("value"));
            helper.params = vec![path];
        }
        return;
    }
    for parameter in &mut helper.params {
        if let Parameter::Subexpression(inner) = parameter
            && let TemplateElement::Expression(inner) = &mut *inner.element
            && !inner.params.is_empty()
        {
            prepare_call(inner, has_form);
        }
    }
    let paths: Option<Vec<Parameter>> = helper.params.iter().map(path).collect();
    if let Some(paths) = paths
        && !paths.is_empty()
        && helper.hash.is_empty()
        && (has_form(&name) || matches!(&*name, "if" | "unless"))
    {
        helper.name = Parameter::Name(form_of(&name));
        helper.params = paths;
    }
    if helper.block_param.is_none() {
        for inner in [&mut helper.template, &mut helper.inverse].into_iter().flatten() {
            prepare(inner, has_form);
        }
    }
}

/// A parameter that goes down from where it stands in the data, with its path as a literal.
fn path(parameter: &Parameter) -> Option<Parameter> {
    match parameter {
        Parameter::Literal(Value::Array(_)) => None,
        Parameter::Literal(literal) => Some(Parameter::Literal(literal.clone())),
        Parameter::Path(Path::Relative((segments, _))) => {
            let keys = segments.iter().map(|segment| match segment {
                PathSeg::Named(key) => Some(Value::String(key.clone())),
                _ => None,
            });
            keys.collect::<Option<Vec<_>>>()
                .filter(|keys| !keys.is_empty())
                .map(Value::Array)
                .map(Parameter::Literal)
        }
        _ => None,
    }
}

/// The value of a call's parameter, however it was called; none where the data does not have it.
pub(super) fn parameter<'v>(
    helper: &'v Helper<'_>,
    context: &'v Context,
    rendering: &'v RenderContext<'_, '_>,
    at: usize,
) -> Option<&'v Value> {
    let given = helper.param(at)?.value();
    match given {
        Value::Array(keys) if helper.name().starts_with(PREPARED) => {
            keys.iter().try_fold(here(context, rendering)?, |value, key| below(value, key.as_str()?))
        }
        other => Some(other),
    }
}

/// What the names of the innermost block are relative to.
fn here<'v>(context: &'v Context, rendering: &'v RenderContext<'_, '_>) -> Option<&'v Value> {
    let Some(block) = rendering.block() else { return Some(context.data()) };
    let walk = || block.base_path().iter().try_fold(context.data(), |value, key| below(value, key));
    block.base_value().or_else(walk)
}

fn below<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Array(entries) => entries.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    }
}

/// Registers the forms of the engine's own helpers, and of a name that stands alone.
pub(super) fn register(engine: &mut Handlebars<'_>, form: Form) {
    engine.register_helper(&form_of("if"), Box::new(If(true)));
    engine.register_helper(&form_of("unless"), Box::new(If(false)));
    engine.register_helper(&form_of("value"), Box::new(Alone(form)));
}

/// `if`, or with false `unless`.
struct If(bool);

impl HelperDef for If {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        engine: &'reg Handlebars<'reg>,
        context: &'rc Context,
        rendering: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Result<(), RenderError> {
        let holds = parameter(helper, context, rendering, 0).is_some_and(|value| value.is_truthy(false));
        let template = if holds == self.0 { helper.template() } else { helper.inverse() };
        template.map_or(Ok(()), |template| template.render(engine, context, rendering, out))
    }
}

/// A value that stands alone.
struct Alone(Form);

impl HelperDef for Alone {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        rendering: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Result<(), RenderError> {
        match parameter(helper, context, rendering, 0) {
            Some(Value::String(text)) => out.write(&self.0.escaped(text))?,
            Some(other) => out.write(&self.0.escaped(&other.render()))?,
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::locale::Language;
    use crate::template::helpers;

    #[test]
    fn a_prepared_template_writes_what_the_engine_writes() {
        let data = json!({
            "a": {"b": "<b>", "yes": true, "none": null, "n": 12.50}, "list": ["one", {"name": "two"}], "empty": [],
            "rows": [{"name": "r1", "a": {"b": "inner"}}, {"name": null}], "at": "2026-05-11T09:42:01.000+03:00", "s": "finished",
            "nested": [{"n": 9, "rows": [{"n": 1, "s": "finished"}, {"n": 2}]}],
        });
        let table = [
            ("{{a.b}} {{a.n}} {{a.yes}} {{a.none}}{{a}}", "&lt;b&gt; 12.5 true [object]", true),
            ("{{none}}{{a.b.c}}{{list.7}}", "", true),
            ("{{list.0}} {{list.[0]}} {{list.1.name}} {{list}}", "one one two [one, [object]]", true),
            ("{{this.a.b}}{{this}}", "&lt;b&gt;[object]", true),
            ("{{@root.a.b}}{{../a.b}}", "&lt;b&gt;&lt;b&gt;", false),
            ("{{#if a.none}}1{{else if empty}}2{{else if a.b}}3{{else}}4{{/if}}", "3", true),
            ("{{#unless a.yes}}1{{else}}{{a.b}}{{/unless}}", "&lt;b&gt;", true),
            ("{{#if a.b includeZero=true}}{{a.b}}{{/if}}", "&lt;b&gt;", true),
            ("{{#if (any none empty)}}1{{/if}}{{#if (any a.none s)}}2{{/if}}", "2", true),
            (
                "{{word \"status\" s}}; {{datetime at}}; {{duration none}}",
                "Finished; May 11, 2026, 9:42:01 AM (UTC+3); ",
                true,
            ),
            ("{{word \"status\" (lookup a \"b\")}}", "&lt;b&gt;", false),
            ("{{word [\"s\"] s}}", "", false),
            (
                "{{#each rows}}{{name}}{{a.b}}{{#if a}}{{../s}}{{/if}}{{@index}} {{/each}}",
                "r1innerfinished0 1 ",
                true,
            ),
            ("{{#with a}}{{b}}{{#if yes}}{{n}}{{/if}}{{s}}{{/with}}", "&lt;b&gt;12.5", true),
            ("{{#each empty}}x{{else}}{{a.b}}{{/each}}", "&lt;b&gt;", true),
            (
                "{{#each list}}{{this}}{{name}} {{#unless name}}-{{/unless}}{{/each}}",
                "one -[object]two ",
                true,
            ),
            ("{{#each a}}{{@key}}{{#if this}}+{{/if}}{{b}}{{/each}}", "b+n+noneyes+", true),
            (
                "{{#each nested}}{{#each rows}}{{n}}{{word \"status\" s}}{{../n}} {{/each}}{{n}}{{/each}}",
                "1Finished9 29 9",
                true,
            ),
            (
                "{{#each rows}}{{#with a}}{{b}}{{#each ../../list}}{{name}}{{/each}}{{b}}{{/with}}{{/each}}",
                "innertwoinner",
                true,
            ),
            ("{{#each (lookup this \"rows\")}}{{name}}{{#if (any a.b)}}!{{/if}} {{/each}}", "r1!  ", true),
            (
                "{{#each rows as |row at|}}{{row.name}}{{at}}{{name}}{{#if row.a}}{{row.a.b}}{{/if}}{{/each}}",
                "r10r1inner1",
                false,
            ),
            ("{{#each rows}}{{../name}}{{#with ../a}}{{b}}{{/with}}{{/each}}", "&lt;b&gt;&lt;b&gt;", true),
            ("{{language}} {{direction}}", "en ltr", false),
        ];
        let english = Arc::new(Language::parse(include_str!("../../templates/lang/en.toml")).unwrap());
        let mut engine = Handlebars::new();
        helpers::register(&mut engine, Form::Html, &english, None);
        for (source, written, is_prepared) in table {
            let plain = Template::compile(source).unwrap();
            let mut prepared = plain.clone();
            prepare(&mut prepared, &|helper| helpers::NAMES.contains(&helper));
            assert_eq!(prepared != plain, is_prepared, "{source}");
            for template in [plain, prepared] {
                engine.register_template("t", template);
                let rendered = engine.render("t", &data).unwrap().replace(['\u{a0}', '\u{202f}'], " ");
                assert_eq!(rendered, written, "{source}");
            }
        }
        // What the engine refuses while it renders stays as it is.
        for source in ["{{#if (s)}}x{{/if}}", "{{#if}}x{{/if}}"] {
            let mut template = Template::compile(source).unwrap();
            prepare(&mut template, &|helper| helpers::NAMES.contains(&helper));
            assert_eq!(template, Template::compile(source).unwrap(), "{source}");
            engine.register_template("t", template);
            assert!(engine.render("t", &data).is_err(), "{source}");
        }
    }
}
