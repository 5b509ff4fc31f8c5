//! What templates can show of a session: every documented name, always there, null where nothing is given.
//!
//! The names are those of `docs/templates.md`. Single-line values hold no line break and no control character;
//! long texts and lists are cut to the tenant's limits and say how much is missing. Time stamps stay the text
//! that the platform wrote; the `datetime` helper reads them. Everything the file holds is under `raw`.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::config::tenant::Limits;
use crate::ids::Kind;
use crate::session::{Session, Stamp, text};

/// No list that a template can walk is longer, `raw` included.
const RAW_ENTRIES: usize = 200;

/// The words by which the platform says that there is nothing to say.
const NOTHING: [&str; 4] = ["nothing", "no_deflection", "not_voicemail", "undefined"];

/// The status words behind the numbers of the platform's raw export, for calls.
const STATUS_CODES: [(&str, &str); 24] = [
    ("0", "scheduled"),
    ("1", "queued"),
    ("2", "assigned"),
    ("3", "connecting"),
    ("4", "switching"),
    ("5", "connected"),
    ("8", "finished"),
    ("9", "failed"),
    ("10", "recovered"),
    ("11", "deflected"),
    ("12", "selecting"),
    ("13", "va_assigned"),
    ("14", "va_connected"),
    ("15", "preview_pending"),
    ("16", "preview_ready"),
    ("17", "campaign_connecting"),
    ("18", "campaign_connected"),
    ("19", "requeued"),
    ("20", "predictive_waiting"),
    ("21", "progressive_waiting"),
    ("22", "preview_waiting"),
    ("23", "campaign_dialing"),
    ("80", "voicemail"),
    ("81", "voicemail_received"),
];

/// The data of one session for the templates. The session's own keys move into `raw`.
pub fn view(session: Session, tenant: &str, limits: &Limits) -> Value {
    let Session { name, ticket, root, .. } = session;
    let shown = |text: Option<String>| text.map(|text| one_line(text.into()));
    let reader = Reader { root: &root, kind: name.kind, limits };
    let mut view = json!({
        "tenant": tenant,
        "lang": reader.line("lang"),
        "session": {
            "id": name.number.to_string(),
            "name": name.to_string(),
            "is_call": name.kind == Kind::Call,
            "is_chat": name.kind == Kind::Chat,
            "type": reader.first_line(&["session_type_v2", "call_type", "chat_type"]),
            "status": reader.status(),
            "sub_status": reader.first_line(&["sub_status", "subStatus"]),
        },
        "ticket": { "id": shown(ticket.id), "url": shown(ticket.url) },
        "times": reader.times(),
        "queue": reader.queue(),
        "durations": reader.durations(),
        "answer_type": reader.line("answer_type"),
        "disconnected_by": reader.line("disconnected_by"),
        "recording": { "permission": reader.line("recording_permission"), "url": reader.line("recording_url") },
        "numbers": { "support": reader.line("support_number"), "outbound": reader.line("outbound_number") },
        "menu": reader.menu(),
        "csat": reader.csat(),
        "failure": { "reason": reader.line("fail_reason"), "details": reader.line("fail_details") },
        "smart_actions": reader.smart_actions(),
        "agent": reader.agent(),
        "customer": reader.customer(),
        "deflection": reader.deflection(),
        "attachment": null,
        "is_follow_up": false,
        "changes": [],
    });
    if let Value::Object(entries) = &mut view {
        reader.lists(entries);
        let mut raw = Value::Object(root);
        bound(&mut raw);
        entries.insert("raw".to_owned(), raw);
    }
    view
}

/// Reads the documented values out of a session's root.
struct Reader<'s> {
    root: &'s Map<String, Value>,
    kind: Kind,
    limits: &'s Limits,
}

impl<'s> Reader<'s> {
    fn line(&self, key: &str) -> Option<String> {
        line(self.root.get(key))
    }

    fn first_line(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.line(key))
    }

    fn list(&self, key: &str) -> &'s [Value] {
        list(self.root.get(key))
    }

    fn status(&self) -> Option<String> {
        let status = self.line("status")?;
        let word = STATUS_CODES.iter().find(|(code, _)| self.kind == Kind::Call && *code == status);
        Some(word.map_or(status, |(_, word)| (*word).to_owned()))
    }

    /// For a chat, "queued" and "connected" are the earliest of its rows: the platform has no keys for them.
    fn times(&self) -> Value {
        let earliest = |rows: &'s [Value], key: &str| first(rows.iter().filter_map(|row| line(row.get(key))));
        let joined = |types: &'static [&str]| {
            let of_type =
                move |row: &&'s Value| types.contains(&row.get("type").and_then(Value::as_str).unwrap_or(""));
            first(
                self.list("participants")
                    .iter()
                    .filter(of_type)
                    .filter_map(|row| line(row.get("connected_at"))),
            )
        };
        let virtual_agents: &[&str] = &["virtual_agent", "task_virtual_agent"];
        json!({
            "created": self.line("created_at"),
            "queued": self.line("queued_at").or_else(|| earliest(self.list("queue_durations"), "started_at")),
            "assigned": self.line("assigned_at"),
            "connected": self.line("connected_at").or_else(|| joined(&["agent", "virtual_agent"])),
            "ended": self.line("ends_at"),
            "scheduled": self.line("scheduled_at"),
            "updated": self.line("updated_at"),
            "va_assigned": earliest(self.list("virtual_agent_handle_durations"), "started_at"),
            "va_connected": joined(virtual_agents),
        })
    }

    fn queue(&self) -> Value {
        let rows = self.list("queue_durations");
        json!({
            "name": rows.iter().find_map(|row| line(row.get("menu_path"))),
            "priority": self.line("queue_priority_level"),
        })
    }

    fn durations(&self) -> Value {
        let handle = if self.kind == Kind::Call { "call_duration" } else { "chat_duration" };
        json!({
            "handle": self.line(handle),
            "hold": self.line("hold_duration"),
            "wait": self.line("wait_duration").or_else(|| self.line("queue_duration")),
        })
    }

    fn menu(&self) -> Value {
        let (path, selected) = (self.root.get("menu_path"), self.root.get("selected_menu"));
        json!({
            "path": line(field(path, "name")),
            "path_id": line(field(path, "materialized_path")),
            "selected": line(field(selected, "name")),
            "channel": line(field(selected, "menu_type")),
        })
    }

    fn csat(&self) -> Value {
        let (comment, more) = self.note(self.root.get("feedback"));
        json!({ "rating": self.line("rating"), "comment": comment, "comment_more": more })
    }

    fn smart_actions(&self) -> Value {
        let (input, more) = self.note(self.root.get("smart_action_text"));
        json!({ "verified": self.line("verified"), "text": input, "text_more": more })
    }

    fn agent(&self) -> Value {
        let agent = self.root.get("agent_info");
        let is_virtual = field(agent, "va_alias").is_some() && field(agent, "email").is_none();
        match person(agent) {
            Some(name) => json!({
                "name": name,
                "email": line(field(agent, "email")),
                "number": line(field(agent, "agent_number")),
                "is_virtual": is_virtual,
            }),
            None => Value::Null,
        }
    }

    fn customer(&self) -> Value {
        let customer = self.root.get("end_user");
        json!({
            "identifier": line(field(customer, "identifier")),
            "contact": line(field(customer, "out_contact_id")),
            "email": self.line("email"),
        })
    }

    fn deflection(&self) -> Value {
        let after_hours = self.line("after_hours").filter(|truth| truth == "true");
        json!({ "kind": self.line("deflection").or_else(|| after_hours.map(|_| "after_hours".to_owned())) })
    }

    fn custom(&self) -> Vec<Value> {
        let sets = [("custom_data_secured", true), ("custom_data_not_secured", false)];
        let entries = sets.iter().flat_map(|(key, secured)| {
            let object = self.root.get(*key).and_then(Value::as_object);
            object.into_iter().flatten().map(move |(name, entry)| (name, entry, *secured))
        });
        let shown = entries.filter_map(|(name, entry, secured)| {
            let value = line(entry.get("value")).or_else(|| line(Some(entry)))?;
            let name = line(entry.get("label")).unwrap_or_else(|| one_line(name.into()));
            Some(json!({ "name": name, "value": value, "secured": secured }))
        });
        shown.collect()
    }

    /// The lists and, under `more`, how many entries of each are not shown.
    fn lists(&self, view: &mut Map<String, Value>) {
        let mut more = Map::new();
        let mut add = |name: &str, rows: &[Value], show: &dyn Fn(&Value) -> Option<Value>| {
            let all: Vec<Value> = rows.iter().filter_map(show).collect();
            let left = all.len().saturating_sub(self.limits.list_entries);
            more.insert(name.to_owned(), if left > 0 { left.into() } else { Value::Null });
            view.insert(name.to_owned(), all.into_iter().take(self.limits.list_entries).collect());
        };
        add("dispositions", self.list("dispositions"), &|row| self.disposition(row));
        add("participants", self.list("participants"), &participant);
        add("transfers", self.list("transfers"), &transfer);
        add("escalations", self.list("escalations"), &escalation);
        add("deflections", self.list("deflection_details"), &deflected);
        add("deflected_escalations", self.list("virtual_agent_deflected_escalations"), &deflected);
        add("photos", self.list("photos"), &medium);
        add("videos", self.list("videos"), &medium);
        add("custom", &self.custom(), &|entry| Some(entry.clone()));
        add("sms_in_call", self.list("in_call_sms"), &message);
        add("sms_waiting", self.list("wait_time_sms"), &message);
        view.insert("more".to_owned(), Value::Object(more));
    }

    fn disposition(&self, row: &Value) -> Option<Value> {
        let (note, more) = self.note(row.get("note"));
        let code = line(row.get("code"));
        (code.is_some() || note.is_some())
            .then(|| json!({ "code": code, "note": note, "note_more": more, "list": line(row.get("list")) }))
    }

    /// A text of several lines, cut to the tenant's limit, and how many characters are missing.
    fn note(&self, value: Option<&Value>) -> (Option<String>, Option<usize>) {
        let Some(whole) = text(value).map(|text| several_lines(&text)) else { return (None, None) };
        let limit = self.limits.note_characters;
        match whole.char_indices().nth(limit) {
            Some((cut, _)) => (Some(format!("{}…", &whole[..cut])), Some(whole[cut..].chars().count())),
            None => (Some(whole), None),
        }
    }
}

/// The earliest of some stamps, whatever offsets they are in.
fn first(stamps: impl Iterator<Item = String>) -> Option<String> {
    stamps.min_by_key(|stamp| Stamp::parse(stamp).map_or(jiff::Timestamp::MAX, Stamp::instant))
}

fn participant(row: &Value) -> Option<Value> {
    let kind = line(row.get("type"))?;
    let parts = ["first_name", "middle_name", "last_name"].map(|key| line(row.get(key)));
    let name = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let name = Some(name).filter(|name| !name.is_empty()).or_else(|| line(row.get("phone_number")));
    let seconds = line(row.get("call_duration")).or_else(|| line(row.get("chat_duration")));
    Some(
        json!({ "type": kind, "name": name, "email": line(row.get("email")), "status": line(row.get("status")),
        "connected": line(row.get("connected_at")), "duration": seconds }),
    )
}

fn transfer(row: &Value) -> Option<Value> {
    let menu = |key: &str, older: &str| line(field(row.get(key).or_else(|| row.get(older)), "name"));
    row.is_object().then(|| {
        json!({
            "status": line(row.get("status")),
            "from": person(row.get("from_agent")).or_else(|| person(row.get("from_virtual_agent"))),
            "to": person(row.get("to_agent")).or_else(|| person(row.get("to_virtual_agent"))),
            "from_menu": menu("from_menu_path", "from_menu"),
            "to_menu": menu("to_menu_path", "to_menu"),
            "from_priority": line(row.get("from_queue_priority_level")),
            "to_priority": line(row.get("to_queue_priority_level")),
            "at": line(row.get("created_at")),
            "wait": line(row.get("wait_duration")),
            "reason": line(row.get("fail_reason")),
            "deflection": line(row.get("deflection")),
        })
    })
}

fn escalation(row: &Value) -> Option<Value> {
    row.is_object().then(|| {
        json!({
            "status": line(row.get("status")),
            "reason": line(row.get("reason")),
            "from": person(row.get("from_virtual_agent")),
            "to": person(row.get("to_agent")),
            "from_menu": line(field(row.get("from_menu_path"), "name")),
            "to_menu": line(field(row.get("to_menu_path"), "name")),
            "at": line(row.get("escalated_at")).or_else(|| line(row.get("created_at"))),
        })
    })
}

fn deflected(row: &Value) -> Option<Value> {
    let menu = line(field(row.get("from_menu_path"), "name")).or_else(|| line(row.get("menu_path")));
    let kind = line(row.get("deflection")).or_else(|| line(row.get("escalation_reason")))?;
    Some(json!({ "kind": kind, "menu": menu }))
}

fn medium(row: &Value) -> Option<Value> {
    let url = line(row.get("url"))?;
    Some(json!({ "url": url, "type": line(row.get("photo_type")) }))
}

/// The shape of text messages is not published: a string, or the text in an object, else the object itself.
fn message(row: &Value) -> Option<Value> {
    let keys = ["text", "body", "message", "content"];
    let found = line(Some(row)).or_else(|| keys.iter().find_map(|key| line(row.get(key))));
    found.or_else(|| row.is_object().then(|| one_line(row.to_string().into()))).map(Value::String)
}

fn person(value: Option<&Value>) -> Option<String> {
    let whole = line(field(value, "name"));
    let parts = || [line(field(value, "first_name")), line(field(value, "last_name"))];
    whole.or_else(|| {
        Some(parts().into_iter().flatten().collect::<Vec<_>>().join(" ")).filter(|name| !name.is_empty())
    })
}

fn field<'v>(value: Option<&'v Value>, key: &str) -> Option<&'v Value> {
    value?.get(key).filter(|value| !value.is_null())
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A scalar on one line; none for nothing, and for the platform's words for nothing.
fn line(value: Option<&Value>) -> Option<String> {
    text(value).map(one_line).filter(|text| !text.is_empty() && !NOTHING.contains(&text.as_str()))
}

/// Invisible characters that reorder or hide what a reader sees; joiners stay, emoji and scripts need them.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{feff}')
}

fn one_line(text: Cow<'_, str>) -> String {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return text.into_owned();
    }
    let broken =
        text.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    broken.filter(|c| !is_deceptive(*c)).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn several_lines(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
    text.chars().filter(|c| (!c.is_control() || matches!(c, '\n' | '\t')) && !is_deceptive(*c)).collect()
}

/// Cuts every list and object within `value`, so that a template's loops stay bounded.
fn bound(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.truncate(RAW_ENTRIES);
            items.iter_mut().for_each(bound);
        }
        Value::Object(entries) => {
            // Few have so many, and going through one costs.
            if entries.len() > RAW_ENTRIES {
                let mut kept = 0..RAW_ENTRIES;
                entries.retain(|_, _| kept.next().is_some());
            }
            entries.values_mut().for_each(bound);
        }
        _ => {}
    }
}
