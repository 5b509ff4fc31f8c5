//! The shipped templates: every documented row is shown, nothing is shown for nothing, and no text of a session
//! is more than text.

use std::sync::LazyLock;

use aftercall::config::tenant::Limits;
use aftercall::samples::SAMPLES;
use aftercall::session::{Reading, read};
use aftercall::template::{Context, Missing, Rendered, Templates};
use aftercall::view::view;
use serde_json::{Map, Value, json};

const LIMITS: Limits = Limits { list_entries: 10, note_characters: 2000, message_bytes: 4_000_000 };
const LANGUAGES: [(&str, &str); 2] = [
    ("en", include_str!("../../templates/lang/en.toml")),
    ("de", include_str!("../../templates/lang/de.toml")),
];

/// Makes a value of the session around one text.
type Entry = fn(String) -> Value;

static TEMPLATES: LazyLock<Templates> =
    LazyLock::new(|| Templates::load(None, "en", None, Missing::Failure).unwrap());

fn render_within(session: &Value, language: &str, limits: &Limits) -> Rendered {
    let bytes = serde_json::to_vec(session).unwrap();
    let Reading::Session(session) = read(&bytes, "x.json", 1 << 20).unwrap() else { panic!("no session") };
    let mut rendered =
        TEMPLATES.render(Some(language), &Context::from(view(*session, "Acme", limits))).unwrap();
    // Dates and numbers have no-break spaces of two widths.
    for text in [&mut rendered.subject, &mut rendered.text, &mut rendered.html] {
        *text = text.replace(['\u{a0}', '\u{202f}'], " ");
    }
    rendered
}

fn render(session: &Value, language: &str) -> Rendered {
    render_within(session, language, &LIMITS)
}

/// The labels of a language by their names.
fn labels(source: &str) -> Vec<(String, String)> {
    let file: toml::Table = toml::from_str(source).unwrap();
    let labels = file["labels"].as_table().unwrap();
    labels.iter().map(|(name, label)| (name.clone(), label.as_str().unwrap().to_owned())).collect()
}

/// A session in which every row has a value of its own; moments have the row's number as minute and second.
fn full(kind: &str) -> Value {
    let mut session = json!({
        "id": 123_451,
        "lang": "en-NZ",
        "session_type_v2": "type3",
        "status": "status4",
        "sub_status": "sublevel4",
        "created_at": "2026-01-05T05:05:05.000+03:00",
        "assigned_at": "2026-01-05T07:07:07.000+03:00",
        "ends_at": "2026-01-05T09:09:09.000+03:00",
        "scheduled_at": "2026-01-05T10:10:10.000+03:00",
        "updated_at": "2026-01-05T11:11:11.000+03:00",
        "queue_durations": [
            { "menu_path": "queue6", "started_at": "2026-01-05T06:06:06.000+03:00" },
            { "menu_path": "later", "started_at": "2026-01-05T06:30:00.000+03:00" },
        ],
        "hold_duration": 13 * 60 + 13,
        "answer_type": "answer14",
        "out_ticket_id": "ticket15",
        "out_ticket_url": "https://crm.example/16",
        "recording_permission": "permission17",
        "recording_url": "https://recording.example/18",
        "support_number": "+15550100019",
        "outbound_number": "+15550100020",
        "menu_path": { "name": "path21", "materialized_path": "22/2222" },
        "selected_menu": { "name": "selected32", "menu_type": "channel21" },
        "queue_priority_level": "priority23",
        "rating": 2424,
        "feedback": "comment25\nsecond25",
        "virtual_agent_handle_durations": [{ "started_at": "2026-01-05T02:26:26.000+03:00" }],
        "verified": true,
        "photos": [{ "url": "https://photos.example/29", "photo_type": "photo" }],
        "videos": [{ "url": "https://videos.example/30" }],
        "smart_action_text": "input31\nsecond31",
        "agent_info": { "name": "person33", "email": "agent33@example.com", "agent_number": "number33" },
    });
    let lists = json!({
        "transfers": [{
            "status": "transferred",
            "from_agent": { "name": "from34" },
            "to_agent": { "name": "to34" },
            "from_menu_path": { "name": "frommenu34" },
            "to_menu_path": { "name": "tomenu34" },
            "from_queue_priority_level": "before23",
            "to_queue_priority_level": "after23",
            "created_at": "2026-01-05T03:34:34.000+03:00",
            "deflection": "redirected35",
        }],
        "escalations": [{
            "status": "escalated",
            "reason": "reason34",
            "from_virtual_agent": { "name": "virtual34" },
            "to_agent": { "name": "human34" },
            "escalated_at": "2026-01-05T04:34:34.000+03:00",
        }],
        "deflection": "deflection35",
        "deflection_details": [{ "deflection": "detail35", "menu_path": "menu35" }],
        "virtual_agent_deflected_escalations": [{ "escalation_reason": "escalation35" }],
        "dispositions": [{ "code": "code36", "note": "note36\nsecond36", "list": "list36" }],
        "end_user": { "identifier": "customer39", "out_contact_id": "contact39" },
        "participants": [
            { "type": "agent", "first_name": "first39", "last_name": "last39",
              "connected_at": "2026-01-05T08:08:08.000+03:00" },
            { "type": "task_virtual_agent", "connected_at": "2026-01-05T02:27:27.000+03:00" },
            { "type": "end_user", "phone_number": "+15550100039" },
        ],
        "custom_data_not_secured": { "key": { "label": "customname", "value": "customvalue" } },
    });
    let own = match kind {
        "call" => json!({
            "call_type": "another",
            "call_duration": 12 * 60 + 12,
            "in_call_sms": ["message37"],
            "wait_time_sms": [{ "text": "message38" }],
        }),
        _ => json!({ "chat_type": "another", "chat_duration": 12 * 60 + 12 }),
    };
    for more in [lists, own] {
        session.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    session
}

/// Nothing but what makes it a session.
fn least(kind: &str) -> Value {
    json!({ "id": 5, format!("{kind}_type"): null, "updated_at": "2026-01-05T11:11:11.000+03:00" })
}

/// `session` with one more key.
fn with(mut session: Value, key: &str, value: Value) -> Value {
    session[key] = value;
    session
}

/// Every session there is to try: the full ones, the least ones and the samples.
fn sessions() -> Vec<Value> {
    let own = ["call", "chat"].into_iter().flat_map(|kind| [full(kind), least(kind)]);
    own.chain(SAMPLES.iter().map(|(_, json)| serde_json::from_str(json).unwrap())).collect()
}

/// Puts `text` in the place of every string, but for what the session could not be read without.
fn fill(value: &mut Value, text: &str) {
    match value {
        Value::String(old) => text.clone_into(old),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, text)),
        Value::Object(entries) => {
            let others = entries.iter_mut().filter(|(key, _)| *key != "updated_at" && *key != "id");
            others.for_each(|(_, entry)| fill(entry, text));
        }
        _ => {}
    }
}

#[test]
fn every_row_is_shown_in_both_bodies() {
    let both = |row, shown| (row, shown, shown);
    let moment = [
        (5, "Created", "5:05:05"),
        (6, "Entered queue", "6:06:06"),
        (7, "Assigned", "7:07:07"),
        (8, "Connected", "8:08:08"),
        (9, "Ended", "9:09:09"),
        (10, "Scheduled", "10:10:10"),
        (11, "Updated", "11:11:11"),
        (26, "Virtual agent assigned", "2:26:26"),
        (27, "Virtual agent connected", "2:27:27"),
    ];
    let moments: Vec<(i32, String, String)> = moment
        .into_iter()
        .map(|(row, label, time)| {
            let shown = format!("Jan 5, 2026, {time} AM (UTC+3)");
            let label_and_colon = format!("{label}:");
            (row, format!("{label_and_colon:<26}{shown}"), format!("{label}</th><td>{shown}"))
        })
        .collect();
    let table = [
        both(1, "en-NZ"),
        both(2, "123451"),
        both(3, "type3"),
        both(4, "status4"),
        both(4, "sublevel4"),
        both(6, "queue6"),
        (12, "Handle time:              12 min 12 s", "Handle time</th><td>12 min 12 s"),
        (13, "On hold:                  13 min 13 s", "On hold</th><td>13 min 13 s"),
        both(14, "answer14"),
        both(15, "ticket15"),
        (16, "https://crm.example/16", "<a href=\"https://crm.example/16\">"),
        both(17, "permission17"),
        (18, "https://recording.example/18", "<a href=\"https://recording.example/18\">"),
        both(19, "+15550100019"),
        both(20, "+15550100020"),
        both(21, "path21"),
        both(21, "channel21"),
        both(22, "22/2222"),
        both(23, "priority23"),
        both(23, "before23"),
        both(23, "after23"),
        both(24, "2,424"),
        (25, "  | comment25\n  | second25\n", "comment25<br>\nsecond25"),
        (28, "Verified:                 Yes", "Verified</th><td>Yes"),
        (29, "https://photos.example/29", "<a href=\"https://photos.example/29\">"),
        (30, "https://videos.example/30", "<a href=\"https://videos.example/30\">"),
        (31, "  | input31\n  | second31\n", "input31<br>\nsecond31"),
        both(32, "selected32"),
        both(33, "person33"),
        both(33, "agent33@example.com"),
        both(33, "number33"),
        (34, "from34 → to34 · Transferred", "from34</bdi> → <strong><bdi>to34</bdi></strong> · Transferred"),
        both(34, "frommenu34 → tomenu34"),
        both(34, "Jan 5, 2026, 3:34:34 AM (UTC+3)"),
        (34, "virtual34 → human34 · Escalated reason34", "virtual34</bdi> → <strong><bdi>human34"),
        both(34, "Jan 5, 2026, 4:34:34 AM (UTC+3)"),
        both(35, "deflection35"),
        both(35, "redirected35"),
        both(35, "detail35 · menu35"),
        both(35, "escalation35"),
        both(36, "code36"),
        both(36, "list36"),
        (36, "  | note36\n  | second36\n", "note36<br>\nsecond36"),
        both(37, "message37"),
        both(38, "message38"),
        (39, "Agent: first39 last39", "Agent: <bdi>first39 last39</bdi>"),
        (39, "Customer: +15550100039", "Customer: <bdi>+15550100039</bdi>"),
        both(39, "customer39"),
        both(39, "contact39"),
    ];
    let rows = table.iter().copied().chain(moments.iter().map(|(row, text, html)| (*row, &**text, &**html)));
    let mut covered: Vec<i32> = rows.clone().map(|(row, ..)| row).collect();
    covered.sort_unstable();
    covered.dedup();
    assert!(covered.into_iter().eq(1..=39), "every row of docs/templates.md");
    let mut lacks = Vec::new();
    for kind in ["call", "chat"] {
        let Rendered { text, html, .. } = render(&full(kind), "en");
        // Text messages beside the conversation exist for calls only.
        for (row, in_text, in_html) in
            rows.clone().filter(|(row, ..)| kind == "call" || !matches!(row, 37 | 38))
        {
            if !text.contains(in_text) {
                lacks.push(format!("{kind}, text, row {row}: {in_text}"));
            }
            if !html.contains(in_html) {
                lacks.push(format!("{kind}, HTML, row {row}: {in_html}"));
            }
        }
        for custom in ["customname", "customvalue"] {
            assert!(text.contains(custom) && html.contains(custom), "{kind}: {custom}");
        }
    }
    assert!(lacks.is_empty(), "not shown:\n{}", lacks.join("\n"));
}

#[test]
fn no_label_stands_with_nothing_behind_it() {
    for (tag, source) in LANGUAGES {
        let labels = labels(source);
        for session in sessions() {
            let Rendered { text, html, .. } = render(&session, tag);
            for (name, label) in &labels {
                // Their texts follow on lines of their own.
                let is_block = matches!(name.as_str(), "comment" | "text_input");
                let empty = format!("{label}:");
                let stands = text.lines().any(|line| line.trim_end() == empty);
                assert!(is_block || !stands, "{tag} {}: {label}", session["id"]);
            }
            assert!(!html.contains("<td></td>"), "{tag} {}", session["id"]);
            assert!(!html.contains("<bdi></bdi></td>"), "{tag} {}", session["id"]);
        }
    }
}

#[test]
fn a_session_without_a_status_leaves_no_separator_behind() {
    for (tag, _) in LANGUAGES {
        for kind in ["call", "chat"] {
            let Rendered { subject, text, .. } = render(&least(kind), tag);
            assert!(subject.ends_with('5'), "the session's number is the last that is known: {subject:?}");
            let dangling = text.lines().find(|line| line.trim_end().ends_with('·'));
            assert_eq!(dangling, None, "{tag} {kind}");
        }
    }
}

#[test]
fn a_key_that_is_null_is_a_key_that_is_not_there() {
    for (tag, _) in LANGUAGES {
        for kind in ["call", "chat"] {
            let mut nulls = full(kind);
            let needed = least(kind);
            for (key, value) in nulls.as_object_mut().unwrap() {
                *value = needed.get(key).cloned().unwrap_or_default();
            }
            assert_eq!(render(&nulls, tag), render(&needed, tag), "{tag} {kind}");
        }
    }
}

#[test]
fn a_german_mail_has_no_english_label() {
    let [english, german] = LANGUAGES.map(|(_, source)| labels(source));
    let is_german = |label: &str| german.iter().any(|(_, known)| known == label);
    let foreign: Vec<&String> =
        english.iter().map(|(_, label)| label).filter(|label| !is_german(label)).collect();
    assert!(foreign.len() > 40, "the languages differ in most labels: {foreign:?}");
    for kind in ["call", "chat"] {
        let session = full(kind);
        let (in_german, in_english) = (render(&session, "de"), render(&session, "en"));
        assert_eq!((&*in_german.language, &*in_english.language), ("de", "en"));
        let shows = |rendered: &Rendered, label: &str| {
            let (with_colon, heading) = (format!("{label}:"), format!("* {label}"));
            let (row, sentence) = (format!(">{label}</th>"), format!(">{label}</p>"));
            let text = |line: &str| line.starts_with(&with_colon) || line == heading || line == label;
            rendered.text.lines().any(text)
                || rendered.html.contains(&row)
                || rendered.html.contains(&sentence)
        };
        let found: Vec<_> = foreign.iter().filter(|label| shows(&in_german, label)).collect();
        assert!(found.is_empty(), "{kind}: {found:?}");
        // The same look at an English mail finds most of them, so it would have found them in a German one.
        assert!(foreign.iter().filter(|label| shows(&in_english, label)).count() > 30, "{kind}");
    }
}

#[test]
fn a_long_list_is_cut_and_says_how_many_are_missing() {
    let limits = Limits { list_entries: 2, ..LIMITS };
    let table: [(&str, Entry); 10] = [
        ("dispositions", |mark| json!({ "code": mark })),
        ("participants", |mark| json!({ "type": "end_user", "first_name": mark })),
        ("transfers", |mark| json!({ "status": "transferred", "to_agent": { "name": mark } })),
        ("escalations", |mark| json!({ "status": "escalated", "to_agent": { "name": mark } })),
        ("deflection_details", |mark| json!({ "deflection": mark })),
        ("virtual_agent_deflected_escalations", |mark| json!({ "escalation_reason": mark })),
        ("photos", |mark| json!({ "url": mark })),
        ("videos", |mark| json!({ "url": mark })),
        ("in_call_sms", |mark| json!(mark)),
        ("wait_time_sms", |mark| json!({ "body": mark })),
    ];
    let lists = table.map(|(key, entry)| {
        let list = move |length: u32| (1..=length).map(|at| entry(format!("entry{at}."))).collect::<Value>();
        (key, list(2), list(5))
    });
    let custom = |length: u32| {
        let entry = |at: u32| {
            (format!("key{at}"), json!({ "label": format!("name{at}"), "value": format!("entry{at}.") }))
        };
        Value::Object((1..=length).map(entry).collect::<Map<_, _>>())
    };
    let custom = ["custom_data_secured", "custom_data_not_secured"].map(|key| (key, custom(2), custom(5)));
    for (key, short, long) in lists.into_iter().chain(custom) {
        for (list, missing) in [(short, None), (long, Some("3 more in the attachment"))] {
            let Rendered { text, html, .. } = render_within(&with(least("call"), key, list), "en", &limits);
            for body in [text, html] {
                for at in 1..=5 {
                    assert_eq!(body.contains(&format!("entry{at}.")), at <= 2, "{key} {at}\n{body}");
                }
                let says = body.matches("more in the attachment").count();
                assert_eq!(says, usize::from(missing.is_some()), "{key}");
                assert!(missing.is_none_or(|missing| body.contains(missing)), "{key}\n{body}");
            }
        }
    }
}

#[test]
fn a_long_note_is_cut_and_says_how_many_characters_are_missing() {
    let limits = Limits { note_characters: 10, ..LIMITS };
    let keys: [(&str, Entry); 3] = [
        ("feedback", Value::String),
        ("smart_action_text", Value::String),
        ("dispositions", |note| json!([{ "note": note }])),
    ];
    // Characters, not octets: each is two octets long.
    let table = [(10, None), (11, Some("1 more character in")), (13, Some("3 more characters in"))];
    for (key, value) in keys {
        for (length, missing) in table {
            let session = with(least("chat"), key, value("ä".repeat(length)));
            let Rendered { text, html, .. } = render_within(&session, "en", &limits);
            for body in [text, html] {
                assert!(body.contains(&"ä".repeat(10)), "{key} {length}");
                assert!(!body.contains(&"ä".repeat(11)), "{key} {length}");
                assert_eq!(body.contains("ä…"), missing.is_some(), "{key} {length}");
                assert_eq!(body.contains("more character"), missing.is_some(), "{key} {length}");
                assert!(missing.is_none_or(|missing| body.contains(missing)), "{key} {length}\n{body}");
            }
        }
    }
}

#[test]
fn no_control_character_and_nothing_that_reorders_text_gets_through() {
    let reorders = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let every: String = (0..0x20_u32)
        .chain(0x7f..0xa0)
        .chain(0x202a..=0x202e)
        .chain(0x2066..=0x2069)
        .filter_map(char::from_u32)
        .collect();
    for mut session in sessions() {
        fill(&mut session, &format!("begin{every}end"));
        session["custom_data_secured"] = json!({ format!("key{every}name"): format!("value{every}end") });
        let Rendered { subject, text, html, .. } = render(&session, "en");
        assert!(text.contains("key") && text.contains("value"), "{}", session["id"]);
        assert!(!subject.contains(['\n', '\t']), "{subject:?}");
        for body in [subject, text, html] {
            let stray = body.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || reorders(*c));
            assert_eq!(stray, None, "{}", session["id"]);
        }
    }
}

#[test]
fn markup_of_a_session_is_text() {
    for (written, shown) in [
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"),
        ("https://example.com/\"><b>x</b>", "https://example.com/&quot;&gt;&lt;b&gt;x&lt;/b&gt;"),
        ("{{raw.id}}<b>x", "{{raw.id}}&lt;b&gt;x"),
    ] {
        for mut session in sessions() {
            fill(&mut session, written);
            session["custom_data_secured"] = json!({ written: written });
            for (tag, _) in LANGUAGES {
                let html = render(&session, tag).html;
                assert!(!html.contains("<b>x"), "{tag} {}: {written}", session["id"]);
                assert!(html.contains(shown), "{tag} {}: {written}\n{html}", session["id"]);
            }
        }
    }
}

#[test]
fn the_subject_names_the_session_and_its_status_and_nothing_else() {
    for kind in ["call", "chat"] {
        for (tag, finished) in [("en", "Finished"), ("de", "Beendet")] {
            let name = if kind == "call" && tag == "de" {
                "Anruf"
            } else if kind == "call" {
                "Call"
            } else {
                "Chat"
            };
            let session = with(full(kind), "status", json!("finished"));
            assert_eq!(render(&session, tag).subject, format!("{name} 123451: {finished}"));
            let split = with(full(kind), "status", json!("new\r\nBcc: someone@example.com"));
            let subject = render(&split, tag).subject;
            assert_eq!(subject, format!("{name} 123451: new Bcc: someone@example.com"), "one line");
            let long = with(full(kind), "status", json!("x".repeat(5000)));
            assert_eq!(render(&long, tag).subject.chars().count(), 200);
        }
    }
}
