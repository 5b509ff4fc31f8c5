//! What a template says in one language is known when it is compiled: labels are written into it then, and not looked
//! up again for each mail.

use handlebars::template::{HelperTemplate, Parameter, Template, TemplateElement};
use serde_json::Value;

/// Puts the texts of `known` in the place of the helpers that it knows; it is given a helper's name and its only
/// parameter, a literal.
pub(super) fn fold(template: &mut Template, known: &dyn Fn(&str, &str) -> Option<String>) {
    let elements = std::mem::take(&mut template.elements);
    let places = std::mem::take(&mut template.mapping);
    for (element, place) in elements.into_iter().zip(places) {
        let element = match element {
            TemplateElement::Expression(helper) => match constant(&helper, known) {
                Some(text) => TemplateElement::RawString(text),
                None => TemplateElement::Expression(helper),
            },
            TemplateElement::HelperBlock(mut helper) => {
                for inner in [&mut helper.template, &mut helper.inverse].into_iter().flatten() {
                    fold(inner, known);
                }
                TemplateElement::HelperBlock(helper)
            }
            other => other,
        };
        match (template.elements.last_mut(), element) {
            (Some(TemplateElement::RawString(before)), TemplateElement::RawString(text)) => {
                before.push_str(&text);
            }
            (_, element) => {
                template.elements.push(element);
                template.mapping.push(place);
            }
        }
    }
}

fn constant(helper: &HelperTemplate, known: &dyn Fn(&str, &str) -> Option<String>) -> Option<String> {
    match &helper.params[..] {
        [Parameter::Literal(Value::String(word))] if helper.hash.is_empty() => {
            known(helper.name.as_name()?, word)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use handlebars::Handlebars;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_becomes_text_and_the_rest_stays() {
        let source = "{{say \"a\"}}: {{x}}{{#if x}} {{say \"b\"}}{{else}}{{say \"none\"}}{{/if}}{{say x}}";
        let mut template = Template::compile(source).unwrap();
        fold(&mut template, &|name, word| (name == "say" && word != "none").then(|| word.to_uppercase()));
        let mut engine = Handlebars::new();
        handlebars::handlebars_helper!(say: |word: String| word);
        engine.register_helper("say", Box::new(say));
        engine.register_template("t", template);
        assert_eq!(engine.render("t", &json!({"x": "v"})).unwrap(), "A: v Bv");
        assert_eq!(engine.render("t", &json!({"x": ""})).unwrap(), "A: none");
    }
}
