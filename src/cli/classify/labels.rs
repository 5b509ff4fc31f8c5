//! What a labelled folder of mails says that they are.

use std::collections::BTreeMap;

/// What one mail is, as its label says.
#[derive(Debug, Clone, Default)]
pub(super) struct Label {
    pub(super) file: String,
    pub(super) kind: String,
    /// For each recipient that failed, the spellings that are equally right.
    pub(super) failed: Vec<Vec<String>>,
    /// The same for those that are late.
    pub(super) delayed: Vec<Vec<String>>,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) hard: Option<bool>,
    pub(super) message_id: String,
    /// It has fields for programs.
    pub(super) is_machine: bool,
    /// A fair reader could decide otherwise; not scored.
    pub(super) is_ambiguous: bool,
    /// The reason was derived from the text, and owes nothing to another parser's tests.
    pub(super) is_derived: bool,
}

impl Label {
    pub(super) fn is_trouble(&self) -> bool {
        matches!(self.kind.as_str(), "bounce" | "delay")
    }

    /// Mail that is about no message of ours that went wrong.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(self.kind.as_str(), "reply" | "other")
    }
}

/// Reads a table of labels: a line with the names of the columns, then one line a mail, columns parted by tabs.
/// Columns that are not there are empty. A table without `kind` holds texts of bounces.
pub(super) fn read(table: &str) -> Result<Vec<Label>, String> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    if !names.contains(&"file") {
        return Err("the first line has no column named \"file\"".to_owned());
    }
    let rows = lines.enumerate().filter(|(_, line)| !line.is_empty());
    rows.map(|(at, line)| {
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != names.len() {
            return Err(format!(
                "line {}: {} columns, where the first line has {}",
                at + 2,
                cells.len(),
                names.len()
            ));
        }
        Ok(label(&names.iter().copied().zip(cells).collect()))
    })
    .collect()
}

fn label(row: &BTreeMap<&str, &str>) -> Label {
    let cell = |name: &str| row.get(name).copied().unwrap_or_default().to_owned();
    let is_set = |name: &str| cell(name) == "1";
    let recipient = cell("recipient");
    let failed = if row.contains_key("failed") { cell("failed") } else { recipient.clone() };
    let kind = match row.get("kind") {
        Some(kind) => (*kind).to_owned(),
        None if recipient.is_empty() => "other".to_owned(),
        None => "bounce".to_owned(),
    };
    Label {
        file: cell("file"),
        kind,
        failed: spellings(&failed),
        delayed: spellings(&cell("delayed")),
        status: if row.contains_key("status") { cell("status") } else { cell("enhanced") },
        reason: cell("reason"),
        hard: match cell("hard").as_str() {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        },
        message_id: cell("orig_msgid").trim_matches(['<', '>', ' ']).to_owned(),
        is_machine: is_set("dsn_part"),
        is_ambiguous: is_set("ambiguous"),
        is_derived: cell("reason_source") == "derived",
    }
}

/// Recipients parted by `,`, their spellings by `|`.
fn spellings(cell: &str) -> Vec<Vec<String>> {
    let each = cell.split(',').map(str::trim).filter(|each| !each.is_empty());
    each.map(|each| each.split('|').map(|one| one.trim().to_lowercase()).collect()).collect()
}
