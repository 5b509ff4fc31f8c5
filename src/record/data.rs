//! What a recipe's templates can take of a delivery: every name, always there.

use serde_json::{Value, json};

use super::note::Note;
use super::template::{FILE_TYPE, as_html};
use crate::config::record::Record;

/// The data of one attempt. User and secret are for a recipe that writes them into the request; `again` says that there
/// was an attempt before.
pub(super) fn data(
    record: &Record,
    (user, secret): (&str, &str),
    note: &Note,
    tenant: &str,
    again: bool,
) -> Value {
    let id = match note.url.get("id") {
        Some(id) => id.as_str(),
        None if record.ticket_is_id => &note.ticket,
        None => "",
    };
    let mut data = json!({
        "ticket": note.ticket,
        "id": id,
        "external_id": note.external_id,
        "uuid": note.uuid,
        "made_at": note.made_at,
        "session": note.session,
        "file_name": note.file_name,
        "file_type": FILE_TYPE,
        "subject": note.subject,
        "note": note.text,
        "note_html": as_html(&note.text),
        "again": again,
        "tenant": tenant,
        "url": note.url,
        "value": record.values,
        "auth": { "user": user, "secret": secret },
    });
    for step in &record.recipe.steps {
        for name in step.found.iter().map(|(flag, _)| flag) {
            data[name] = false.into();
        }
        // A capture that a skipped step would have given, unless it is one of the names above.
        for (name, _) in &step.captures {
            if data.get(name).is_none() {
                data[name] = "".into();
            }
        }
    }
    let groups = record.recipe.ticket_url.iter().flat_map(|pattern| pattern.capture_names().flatten());
    for group in groups.filter(|group| !note.url.contains_key(*group)) {
        data["url"][group] = "".into();
    }
    data
}
