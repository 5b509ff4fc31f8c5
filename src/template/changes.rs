//! What has changed between two revisions, as a follow-up shows it.

use serde_json::{Value, json};

use crate::locale::Language;
use crate::session::{Stamp, text};

/// How a value is written.
#[derive(Clone, Copy)]
enum Show {
    Plain,
    Word(&'static str),
    Duration,
    Time,
}

/// The values that a follow-up compares: label, place in the view, form.
const COMPARED: [(&str, &str, Show); 19] = [
    ("status", "/session/status", Show::Word("status")),
    ("disposition", "/dispositions", Show::Plain),
    ("rating", "/csat/rating", Show::Plain),
    ("comment", "/csat/comment", Show::Plain),
    ("agent", "/agent/name", Show::Plain),
    ("participants", "/participants", Show::Plain),
    ("transfers", "/transfers", Show::Plain),
    ("assigned", "/times/assigned", Show::Time),
    ("connected", "/times/connected", Show::Time),
    ("ended", "/times/ended", Show::Time),
    ("handle_time", "/durations/handle", Show::Duration),
    ("hold_time", "/durations/hold", Show::Duration),
    ("wait_time", "/durations/wait", Show::Duration),
    ("failure", "/failure/reason", Show::Word("reason")),
    ("deflection", "/deflection/kind", Show::Word("deflection")),
    ("verified", "/smart_actions/verified", Show::Word("yes_no")),
    ("text_input", "/smart_actions/text", Show::Plain),
    ("recording", "/recording/url", Show::Plain),
    ("queue", "/queue/name", Show::Plain),
];

/// The longest value that is shown among the changes; it stands in full further down.
const MAX_CHARACTERS: usize = 120;

/// The differences between two views as `[{name, before, after}]`; `name` is a label's.
pub fn changes(before: &Value, after: &Value, language: &Language) -> Value {
    let rows = COMPARED.iter().filter_map(|(name, place, show)| {
        let [before, after] = [before, after].map(|view| written(view.pointer(place), *show, language));
        (before != after).then(
            || json!({ "name": name, "before": before, "after": after.unwrap_or_else(|| "–".to_owned()) }),
        )
    });
    rows.collect()
}

/// One value in the language; none for nothing. Of a list, the codes or names of its entries.
fn written(value: Option<&Value>, show: Show, language: &Language) -> Option<String> {
    let value = value?;
    if let Some(entries) = value.as_array() {
        let names = entries
            .iter()
            .filter_map(|entry| ["code", "name", "to"].iter().find_map(|key| text(entry.get(key))));
        let list = names.collect::<Vec<_>>().join(", ");
        return Some(shorten(&list)).filter(|list| !list.is_empty());
    }
    let plain = text(Some(value))?;
    let shown = match show {
        Show::Plain => Some(shorten(&plain)),
        Show::Word(set) => Some(language.word(set, &plain).to_owned()),
        Show::Duration => plain.parse().ok().map(|seconds| language.duration(seconds)),
        Show::Time => Stamp::parse(&plain).and_then(|stamp| language.date_time(stamp.local, stamp.offset)),
    };
    Some(shown.unwrap_or_else(|| plain.into_owned()))
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_CHARACTERS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_listed_in_the_language() {
        let german = Language::parse(include_str!("../../templates/lang/de.toml")).unwrap();
        let before = json!({"session": {"status": "connected"}, "csat": {"rating": null}, "dispositions": [], "durations": {"handle": "60"}});
        let after = json!({"session": {"status": "finished"}, "csat": {"rating": "4"}, "dispositions": [{"code": "Gelöst"}, {"code": "Neu"}], "durations": {"handle": "60"}});
        assert_eq!(
            changes(&before, &after, &german),
            json!([
                {"name": "status", "before": "Verbunden", "after": "Beendet"},
                {"name": "disposition", "before": null, "after": "Gelöst, Neu"},
                {"name": "rating", "before": null, "after": "4"},
            ])
        );
        assert_eq!(changes(&after, &after, &german), json!([]));
    }

    #[test]
    fn every_compared_value_has_a_label() {
        let english = Language::parse(include_str!("../../templates/lang/en.toml")).unwrap();
        for (name, _, _) in COMPARED {
            assert!(english.label(name).is_some(), "{name}");
        }
    }
}
