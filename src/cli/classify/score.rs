//! How near verdicts come to labels.

use super::labels::Label;
use crate::classify::reason::Reason;
use crate::classify::verdict::{Action, Kind, Recipient, Verdict};
use crate::parse::Mail;

/// What is counted, in the order of the columns. Each counts what is right, out of how many.
pub(super) const COLUMNS: [&str; 17] = [
    "det",
    "rcpt",
    "exact",
    "delay",
    "fp",
    "auto",
    "auto-det",
    "fpa",
    "arf",
    "mdn",
    "delivered",
    "status",
    "reason",
    "reason-tests",
    "hard",
    "mid",
    "kind",
];

/// Columns in which each mail counts, so that they are shown as numbers, not as percent.
const AS_NUMBERS: [&str; 8] = ["delay", "fp", "auto", "auto-det", "fpa", "arf", "mdn", "delivered"];

/// How many were right, out of how many, for each column.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally([(u32, u32); COLUMNS.len()]);

/// One thing that was judged: the column, whether it was right, and what was wanted and found.
pub(super) struct Judged {
    pub(super) column: &'static str,
    pub(super) is_right: bool,
    pub(super) wanted: String,
    pub(super) found: String,
}

impl Tally {
    pub(super) fn add(&mut self, judged: &[Judged]) {
        for one in judged {
            if let Some(at) = COLUMNS.iter().position(|column| *column == one.column) {
                self.0[at].0 += u32::from(one.is_right);
                self.0[at].1 += 1;
            }
        }
    }

    /// The percentage that is right; none where nothing was counted.
    pub(super) fn percent(&self, column: &str) -> Option<f64> {
        let at = COLUMNS.iter().position(|known| *known == column)?;
        let (right, of) = self.0[at];
        (of > 0).then(|| 100.0 * f64::from(right) / f64::from(of))
    }

    /// The cells of a row. False alarms are shown as their number.
    pub(super) fn cells(&self) -> Vec<String> {
        let cell = |(at, (right, of)): (usize, &(u32, u32))| match COLUMNS[at] {
            _ if *of == 0 => "-".to_owned(),
            "fp" | "fpa" | "auto-det" => format!("{}/{of}", of - right),
            column if AS_NUMBERS.contains(&column) => format!("{right}/{of}"),
            _ => format!("{:.1}", 100.0 * f64::from(*right) / f64::from(*of)),
        };
        self.0.iter().enumerate().map(cell).collect()
    }
}

/// Judges a verdict by a label.
pub(super) fn judge(label: &Label, mail: &Mail, verdict: &Verdict) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut note = |column, is_right, wanted: &str, found: &str| {
        judged.push(Judged { column, is_right, wanted: wanted.to_owned(), found: found.to_owned() });
    };
    let kind = verdict.kind.as_str();
    note("kind", is_kind(&label.kind, verdict.kind), &label.kind, kind);
    let is_answer = matches!(verdict.kind, Kind::AutoReply | Kind::Challenge | Kind::Acknowledgement);
    match label.kind.as_str() {
        "bounce" | "delay" => note("det", verdict.kind.is_trouble(), &label.kind, kind),
        "autoreply" => {
            note("auto", is_answer, "auto-reply", kind);
            note("auto-det", !verdict.kind.is_trouble(), "auto-reply", kind);
        }
        "arf" => note("arf", verdict.kind == Kind::Complaint, "complaint", kind),
        "mdn" => note("mdn", verdict.kind == Kind::ReadReceipt, "read-receipt", kind),
        "delivered" => note("delivered", is_kind("delivered", verdict.kind), "delivered", kind),
        _ => {}
    }
    if label.kind == "delay" {
        note("delay", verdict.kind == Kind::Delay, "delay", kind);
    }
    if label.is_ordinary() {
        note("fp", !verdict.kind.is_trouble(), &label.kind, kind);
        note("fpa", !is_answer, &label.kind, kind);
    }
    if label.is_trouble() {
        judged.extend(recipients(label, verdict));
        judged.extend(codes(label, verdict));
    }
    if label.is_trouble() && !label.message_id.is_empty() {
        let found = mail.original_message_id().unwrap_or_default();
        judged.push(Judged {
            column: "mid",
            is_right: found == label.message_id,
            wanted: label.message_id.clone(),
            found: found.to_owned(),
        });
    }
    judged
}

fn is_kind(label: &str, kind: Kind) -> bool {
    match label {
        "autoreply" => matches!(kind, Kind::AutoReply | Kind::Challenge | Kind::Acknowledgement),
        "mdn" => kind == Kind::ReadReceipt,
        "arf" => kind == Kind::Complaint,
        "delivered" => matches!(kind, Kind::Delivered | Kind::Relayed),
        label => label == kind.as_str(),
    }
}

/// Those that failed or are late: all of them, and nobody else.
fn recipients(label: &Label, verdict: &Verdict) -> Vec<Judged> {
    let wanted: Vec<&Vec<String>> = label.failed.iter().chain(&label.delayed).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let is_late = |one: &&Recipient| matches!(one.action, Action::Failed | Action::Delayed);
    let found: Vec<String> =
        verdict.recipients.iter().filter(is_late).map(|one| one.address.to_lowercase()).collect();
    let has_all =
        verdict.kind.is_trouble() && wanted.iter().all(|ways| ways.iter().any(|way| found.contains(way)));
    let has_only = found.iter().all(|one| wanted.iter().any(|ways| ways.contains(one)));
    let (wanted, found) =
        (wanted.iter().map(|ways| ways.join("|")).collect::<Vec<_>>().join(","), found.join(","));
    let one = |column, is_right| Judged { column, is_right, wanted: wanted.clone(), found: found.clone() };
    vec![one("rcpt", has_all), one("exact", has_all && has_only)]
}

fn codes(label: &Label, verdict: &Verdict) -> Vec<Judged> {
    let first = verdict.recipients.first();
    let mut judged = Vec::new();
    if label.is_machine && !label.status.is_empty() {
        let found = first.and_then(|one| one.status.clone()).unwrap_or_default();
        judged.push(Judged {
            column: "status",
            is_right: found == label.status,
            wanted: label.status.clone(),
            found,
        });
    }
    if let Some(wanted) = reason_of(&label.reason) {
        let found = first.map_or(Reason::Undefined, |one| one.reason);
        judged.push(Judged {
            column: if label.is_derived { "reason" } else { "reason-tests" },
            is_right: found.group() == wanted.group(),
            wanted: format!("{} ({})", label.reason, wanted.group().as_str()),
            found: format!("{} ({})", found.as_str(), found.group().as_str()),
        });
    }
    if let Some(wanted) = label.hard {
        let found = first.is_some_and(|one| one.hard);
        let word = |hard| if hard { "hard" } else { "soft" }.to_owned();
        judged.push(Judged {
            column: "hard",
            is_right: found == wanted,
            wanted: word(wanted),
            found: word(found),
        });
    }
    judged
}

/// A reason by the word of a label, which may be an older one.
fn reason_of(word: &str) -> Option<Reason> {
    let word = match word {
        "toomanyconn" | "speeding" => "ratelimited",
        "emailtoolarge" => "mesgtoobig",
        word => word,
    };
    Reason::ALL.iter().find(|(known, _)| *known == word).map(|(_, reason)| *reason)
}
