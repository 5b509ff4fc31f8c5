//! Names that a template takes from the top of the data are prepared when it is compiled: the engine would put each
//! path together anew for each mail, and a mail has some 200 of them.
//!
//! `{{#if times.ended}}` becomes a call of a helper of ours with the path as a literal, `["times", "ended"]`, and the
//! helper walks it. What stands within `each` or `with` is relative to an entry and stays the engine's.

use handlebars::template::{HelperTemplate, Parameter, Template, TemplateElement};
use handlebars::{
    Context, Handlebars, Helper, HelperDef, JsonRender, JsonTruthy, Output, Path, PathSeg, RenderContext,
    RenderError, Renderable,
};
use serde_json::Value;

use super::helpers::Form;

/// Before the names of the helpers that take paths as literals. A template cannot name them: it has a blank.
const TOP: &str = "top ";

/// The name of the form of a helper that takes paths as literals.
pub(super) fn form_of(helper: &str) -> String {
    format!("{TOP}{helper}")
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
    let is_value = !helper.block && helper.params.is_empty() && helper.hash.is_empty();
    if is_value && !has_form(&name) {
        if let Some(path) = path(&helper.name) {
            helper.name = Parameter::Name(form_of("value"));
            helper.params = vec![path];
        }
        return;
    }
    for parameter in &mut helper.params {
        if let Parameter::Subexpression(inner) = parameter
            && let TemplateElement::Expression(inner) = &mut *inner.element
        {
            prepare_call(inner, has_form);
        }
    }
    let paths: Option<Vec<Parameter>> = helper.params.iter().map(path).collect();
    if let Some(paths) = paths
        && helper.hash.is_empty()
        && (has_form(&name) || matches!(&*name, "if" | "unless"))
    {
        helper.name = Parameter::Name(form_of(&name));
        helper.params = paths;
    }
    if !matches!(&*name, "each" | "with") {
        for inner in [&mut helper.template, &mut helper.inverse].into_iter().flatten() {
            prepare(inner, has_form);
        }
    }
}

/// A parameter that depends on nothing but the top of the data, with a path as a literal.
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
pub(super) fn parameter<'v>(helper: &'v Helper<'_>, context: &'v Context, at: usize) -> Option<&'v Value> {
    let given = helper.param(at)?.value();
    match given {
        Value::Array(keys) if helper.name().starts_with(TOP) => find(context.data(), keys),
        other => Some(other),
    }
}

fn find<'v>(data: &'v Value, keys: &[Value]) -> Option<&'v Value> {
    keys.iter().try_fold(data, |value, key| match value {
        Value::Array(entries) => entries.get(key.as_str()?.parse::<usize>().ok()?),
        other => other.get(key.as_str()?),
    })
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
        let holds = parameter(helper, context, 0).is_some_and(|value| value.is_truthy(false));
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
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> Result<(), RenderError> {
        match parameter(helper, context, 0) {
            Some(Value::String(text)) => out.write(&self.0.escaped(text))?,
            Some(other) => out.write(&self.0.escaped(&other.render()))?,
            None => {}
        }
        Ok(())
    }
}
