//! What a template must not do, decided before it is used.
//!
//! A stack overflow inside the engine ends the process and cannot be caught, and compile time grows faster than
//! nesting. So size and depth are measured on the text first; then the compiled elements are walked and
//! partials, inline partials, decorators, unescaped output and unknown helpers are refused. What is left cannot
//! call itself, and loops at most `MAX_LOOPS` deep over lists that the view has bounded.

use handlebars::Template;
use handlebars::template::{DecoratorTemplate, HelperTemplate, Parameter, TemplateElement};

/// The largest template in octets.
const MAX_BYTES: usize = 256 * 1024;
/// The deepest nesting of blocks and sub-expressions.
const MAX_DEPTH: usize = 50;
/// The deepest nesting of `each`.
const MAX_LOOPS: usize = 3;

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The line from 1, where it is known.
    pub line: Option<usize>,
    /// The reason.
    pub reason: String,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { line: None, reason: reason.into() })
}

/// Compiles a template that keeps the rules; `is_helper` knows the registered helpers.
pub fn compile(source: &str, is_helper: &dyn Fn(&str) -> bool) -> Result<Template, Refusal> {
    if source.len() > MAX_BYTES {
        return refuse(format!("{} bytes are more than the limit of {MAX_BYTES}", source.len()));
    }
    if let Some(line) = too_deep(source) {
        return Err(Refusal {
            line: Some(line),
            reason: format!("blocks or brackets are nested more than {MAX_DEPTH} deep"),
        });
    }
    let template = Template::compile(source).map_err(|error| {
        let line = error.pos().map(|(line, _)| line);
        Refusal { line, reason: error.reason().to_string() }
    })?;
    Walk { is_helper }.template(&template, 0)?;
    Ok(template)
}

/// The names that a template takes from the top of the data: those outside `each` and `with`, and those after
/// `@root`. For finding names that no session has.
pub fn names(template: &Template) -> Vec<String> {
    let mut names = Vec::new();
    collect(template, true, &mut names);
    names
}

fn collect(template: &Template, at_top: bool, names: &mut Vec<String>) {
    for element in &template.elements {
        if let TemplateElement::Expression(helper) | TemplateElement::HelperBlock(helper) = element {
            collect_helper(helper, at_top, names);
        }
    }
}

fn collect_helper(helper: &HelperTemplate, at_top: bool, names: &mut Vec<String>) {
    let is_value = !helper.block && helper.params.is_empty();
    let name = is_value.then_some(&helper.name);
    for parameter in name.into_iter().chain(&helper.params).chain(helper.hash.values()) {
        match parameter {
            Parameter::Name(_) | Parameter::Path(_) => {
                let name = parameter.as_name().unwrap_or_default();
                let from_root = name.strip_prefix("@root.");
                let from_top =
                    (at_top && !name.starts_with(['@', '.'])).then(|| name.trim_start_matches("this."));
                names.extend(from_root.or(from_top).map(str::to_owned));
            }
            Parameter::Subexpression(inner) => {
                if let TemplateElement::Expression(helper) = &*inner.element {
                    collect_helper(helper, at_top, names);
                }
            }
            _ => {}
        }
    }
    let moves = matches!(helper.name.as_name(), Some("each" | "with"));
    for inner in [&helper.template, &helper.inverse].into_iter().flatten() {
        collect(inner, at_top && !moves, names);
    }
}

/// The line where nesting passes the limit. Counts openings and closings only, in one pass over the text, and
/// errs towards deeper: text inside strings and comments counts too.
fn too_deep(source: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let (mut blocks, mut brackets, mut line, mut inside) = (0_usize, 0_usize, 1, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => line += 1,
            b'{' if bytes[at..].starts_with(b"{{#") || bytes[at..].starts_with(b"{{^") => blocks += 1,
            b'{' if bytes[at..].starts_with(b"{{/") => blocks = blocks.saturating_sub(1),
            b'{' if bytes[at..].starts_with(b"{{") => (inside, brackets) = (true, 0),
            b'}' if bytes[at..].starts_with(b"}}") => inside = false,
            b'(' => brackets += 1,
            b')' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        if blocks > MAX_DEPTH || (inside && brackets > MAX_DEPTH) {
            return Some(line);
        }
    }
    None
}

struct Walk<'a> {
    is_helper: &'a dyn Fn(&str) -> bool,
}

impl Walk<'_> {
    fn template(&self, template: &Template, loops: usize) -> Result<(), Refusal> {
        template.elements.iter().enumerate().try_for_each(|(at, element)| {
            // Of what stands behind `else if` the engine knows no place.
            let line = template.mapping.get(at).map(|place| place.0);
            self.element(element, loops).map_err(|refusal| Refusal { line: refusal.line.or(line), ..refusal })
        })
    }

    fn element(&self, element: &TemplateElement, loops: usize) -> Result<(), Refusal> {
        match element {
            TemplateElement::RawString(_) | TemplateElement::Comment(_) => Ok(()),
            TemplateElement::Expression(helper) | TemplateElement::HelperBlock(helper) => {
                self.helper(helper, loops)
            }
            TemplateElement::HtmlExpression(_) => {
                refuse("{{{...}}} and {{&...}} write text of a session without escaping it; use {{...}}")
            }
            TemplateElement::PartialExpression(partial) | TemplateElement::PartialBlock(partial) => refuse(
                format!("{{{{> {}}}}}: partials are not available; a template is one file", name_of(partial)),
            ),
            TemplateElement::DecoratorExpression(decorator) | TemplateElement::DecoratorBlock(decorator) => {
                refuse(format!(
                    "{{{{* {}}}}}: decorators and inline partials are not available",
                    name_of(decorator)
                ))
            }
            _ => refuse("this kind of expression is not available"),
        }
    }

    fn helper(&self, helper: &HelperTemplate, loops: usize) -> Result<(), Refusal> {
        let name = helper.name.as_name().unwrap_or_default();
        let calls = helper.block || !helper.params.is_empty() || !helper.hash.is_empty();
        if calls && !(self.is_helper)(name) {
            return refuse(format!("there is no helper {name:?}"));
        }
        let loops = loops + usize::from(name == "each");
        if loops > MAX_LOOPS {
            return refuse(format!("each is nested more than {MAX_LOOPS} deep"));
        }
        for parameter in helper.params.iter().chain(helper.hash.values()).chain([&helper.name]) {
            if let Parameter::Subexpression(inner) = parameter {
                self.element(&inner.element, loops)?;
            }
        }
        [&helper.template, &helper.inverse]
            .into_iter()
            .flatten()
            .try_for_each(|inner| self.template(inner, loops))
    }
}

fn name_of(decorator: &DecoratorTemplate) -> &str {
    decorator.name.as_name().unwrap_or("(...)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Option<String> {
        compile(source, &|name| ["each", "if", "eq"].contains(&name)).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn what_would_end_the_process_is_refused_before_it_is_registered() {
        let block = |depth: usize| "{{#if a}}".repeat(depth) + &"{{/if}}".repeat(depth);
        let brackets = |depth: usize| format!("{{{{eq {} a{}}}}}", "(eq a ".repeat(depth), ")".repeat(depth));
        let table = [
            ("a partial that includes itself", "{{> self}}".to_owned(), "partials are not available"),
            (
                "a partial named by data",
                "{{> (lookup this 'name')}}".to_owned(),
                "partials are not available",
            ),
            ("a partial block", "{{#> layout}}x{{/layout}}".to_owned(), "partials are not available"),
            (
                "an inline partial",
                "{{#*inline \"r\"}}{{> r}}{{/inline}}{{> r}}".to_owned(),
                "inline partials are not available",
            ),
            ("1,600 blocks", block(1600), "nested more than 50 deep"),
            ("1,600 sub-expressions", brackets(1600), "nested more than 50 deep"),
            ("51 blocks", block(51), "nested more than 50 deep"),
            (
                "four loops",
                "{{#each a}}{{#each b}}{{#each c}}{{#each d}}{{/each}}{{/each}}{{/each}}{{/each}}".to_owned(),
                "each is nested more than 3 deep",
            ),
            ("unescaped output", "{{{a}}}".to_owned(), "without escaping"),
            ("unescaped output by &", "{{& a}}".to_owned(), "without escaping"),
            ("an unknown helper", "{{#if a}}{{shout a}}{{/if}}".to_owned(), "there is no helper \"shout\""),
            (
                "an unknown helper in brackets",
                "{{#if (shout a)}}{{/if}}".to_owned(),
                "there is no helper \"shout\"",
            ),
            ("an unknown block", "{{#shout}}{{/shout}}".to_owned(), "there is no helper \"shout\""),
            (
                "unescaped output behind else if",
                "{{#if a}}{{else if b}}{{{c}}}{{/if}}".to_owned(),
                "without escaping",
            ),
            (
                "a partial behind else if, twice",
                "{{#if a}}{{else if b}}{{else if c}}{{> self}}{{/if}}".to_owned(),
                "partials are not available",
            ),
            (
                "a loop too many behind else",
                "{{#each a}}{{#each b}}{{#each c}}{{#if d}}{{else if e}}x{{else}}{{#each d}}{{/each}}{{/if}}{{/each}}{{/each}}{{/each}}"
                    .to_owned(),
                "each is nested more than 3 deep",
            ),
            ("a huge template", "x".repeat(MAX_BYTES + 1), "more than the limit"),
            ("a fault of syntax", "{{#if a}}".to_owned(), ""),
        ];
        for (what, source, reason) in table {
            let told = refusal(&source).unwrap_or_else(|| panic!("{what} was taken"));
            assert!(told.contains(reason), "{what}: {told}");
        }
    }

    #[test]
    fn what_is_harmless_is_taken_and_renders() {
        let block = "{{#if a}}".repeat(50) + "x" + &"{{/if}}".repeat(50);
        for source in ["plain", "{{a.b}}", "{{#if (eq a 'x')}}y{{else}}z{{/if}}", "{{! a note }}", &block] {
            assert_eq!(refusal(source), None, "{source}");
        }
        let template = compile(&block, &|name| name == "if").unwrap();
        let mut engine = handlebars::Handlebars::new();
        engine.register_template("t", template);
        assert_eq!(engine.render("t", &serde_json::json!({"a": true})).unwrap(), "x");
    }

    #[test]
    fn names_are_those_taken_from_the_top_of_the_data() {
        let source = "{{a.b}}{{#if (eq c 'x')}}{{eq this.d 1}}{{/if}}{{#each e}}{{f}}{{@root.g.h}}{{@index}}{{/each}}{{i}}";
        let template = compile(source, &|name| ["each", "if", "eq"].contains(&name)).unwrap();
        assert_eq!(names(&template), ["a.b", "c", "d", "e", "g.h", "i"]);
    }

    #[test]
    fn a_refusal_names_the_line() {
        let refused = compile("one\ntwo\n{{{three}}}\n", &|_| true).unwrap_err();
        assert_eq!(refused.line, Some(3));
        assert!(compile("one\n{{#if a}}\n", &|_| true).unwrap_err().line.is_some());
    }
}
