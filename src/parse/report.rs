//! The machine-readable parts: delivery reports, complaints, receipts.

use super::address::of_report;
use super::headers::{Headers, bare_id, groups};

/// One `message/delivery-status` (RFC 3464) or `message/global-delivery-status` (RFC 6533).
#[derive(Debug, Clone, Default)]
pub struct DeliveryReport {
    /// `Original-Envelope-Id`.
    pub envelope_id: Option<String>,
    /// `Reporting-MTA`, without its type.
    pub reporting_mta: Option<String>,
    /// One for each recipient.
    pub recipients: Vec<ReportRecipient>,
}

/// The fields about one recipient (RFC 3464, section 2.3). Values are as they came, without types and brackets.
#[derive(Debug, Clone, Default)]
pub struct ReportRecipient {
    /// `Final-Recipient`: whom the failing host saw.
    pub address: Option<String>,
    /// Whether `address` was taken out of an X.400 address, which no sender of ours wrote to.
    pub is_x400: bool,
    /// `Original-Recipient`: whom the sender named.
    pub original: Option<String>,
    /// `Action`, in small letters and without comment.
    pub action: Option<String>,
    /// `Status`, as it was written.
    pub status: Option<String>,
    /// `Remote-MTA`, without its type.
    pub remote_mta: Option<String>,
    /// `Diagnostic-Code`, without its type.
    pub diagnostic: Option<String>,
}

/// A `message/feedback-report` (RFC 5965).
#[derive(Debug, Clone, Default)]
pub struct Feedback {
    /// `Feedback-Type`, in small letters: `abuse`, `auth-failure`, ...
    pub kind: String,
    /// The address of `Original-Rcpt-To`, where it was not blotted out.
    pub recipient: Option<String>,
    /// The address of `Original-Mail-From`: our envelope sender.
    pub sender: Option<String>,
    /// `Original-Envelope-Id`.
    pub envelope_id: Option<String>,
    /// All fields.
    pub fields: Headers,
}

/// A `message/disposition-notification` (RFC 8098).
#[derive(Debug, Clone, Default)]
pub struct Disposition {
    /// What happened, in small letters: `displayed`, `deleted`, ...
    pub kind: String,
    /// Whether a program decided it, not a person (`automatic-action`).
    pub automatic: bool,
    /// The address of `Final-Recipient`.
    pub recipient: Option<String>,
    /// `Original-Message-ID`, without angle brackets.
    pub original_message_id: Option<String>,
}

/// Reads the groups of a delivery report. `None` where no group is about a recipient.
pub(super) fn delivery(text: &str) -> Option<DeliveryReport> {
    let mut report = DeliveryReport::default();
    for group in groups(text) {
        let id = group.get("original-envelope-id").filter(|id| !id.is_empty());
        report.envelope_id = report.envelope_id.or_else(|| id.map(str::to_owned));
        report.reporting_mta = report.reporting_mta.or_else(|| group.get("reporting-mta").map(untyped));
        report.recipients.extend(recipients(&group));
    }
    join_halves(&mut report.recipients);
    (!report.recipients.is_empty()).then_some(report)
}

/// The recipients of one group: more than one where the blank lines between them are missing.
fn recipients(group: &Headers) -> Vec<ReportRecipient> {
    let mut found = Vec::new();
    let mut open = ReportRecipient::default();
    for field in group.fields() {
        let name = field.name.to_ascii_lowercase();
        let text = || Some(field.value.clone()).filter(|value| !value.is_empty());
        let slot = match name.as_str() {
            "final-recipient" => (&mut open.address, of_report(&field.value)),
            "original-recipient" => (&mut open.original, of_report(&field.value)),
            "action" => (&mut open.action, first_word(&field.value)),
            "status" => (&mut open.status, text()),
            "remote-mta" => (&mut open.remote_mta, text().as_deref().map(untyped)),
            "diagnostic-code" | "x-supplementary-info" => {
                (&mut open.diagnostic, text().as_deref().map(untyped))
            }
            "x-actual-recipient" if open.address.is_none() => (&mut open.address, of_report(&field.value)),
            _ => continue,
        };
        let starts_next =
            slot.0.is_some() && matches!(name.as_str(), "final-recipient" | "original-recipient");
        if starts_next {
            let value = slot.1;
            let is_final = name == "final-recipient";
            found.push(std::mem::take(&mut open));
            if is_final { open.address = value } else { open.original = value }
        } else if slot.0.is_none() {
            *slot.0 = slot.1;
        }
        open.is_x400 |= name == "final-recipient" && is_x400(&field.value);
    }
    found.push(open);
    found.retain(|one| {
        one.address.is_some() || one.original.is_some() || one.action.is_some() || one.status.is_some()
    });
    found
}

/// Puts together what a stray blank line took apart: a group that names nobody belongs to the one before it.
fn join_halves(recipients: &mut Vec<ReportRecipient>) {
    let mut joined: Vec<ReportRecipient> = Vec::with_capacity(recipients.len());
    for one in recipients.drain(..) {
        match joined.last_mut() {
            Some(last) if one.address.is_none() && one.original.is_none() => {
                last.action = last.action.take().or(one.action);
                last.status = last.status.take().or(one.status);
                last.remote_mta = last.remote_mta.take().or(one.remote_mta);
                last.diagnostic = last.diagnostic.take().or(one.diagnostic);
            }
            Some(last) if last.address.is_none() && last.original.is_none() => {
                let (action, status) = (last.action.take(), last.status.take());
                *last = one;
                last.action = last.action.take().or(action);
                last.status = last.status.take().or(status);
            }
            _ => joined.push(one),
        }
    }
    *recipients = joined;
}

/// Reads a feedback report. `None` where it has no `Feedback-Type`.
pub(super) fn feedback(text: &str) -> Option<Feedback> {
    let fields = groups(text).into_iter().find(|group| group.get("feedback-type").is_some())?;
    let address = |name| fields.addresses(name).first().map(|address| (*address).to_owned());
    Some(Feedback {
        kind: first_word(fields.get("feedback-type")?)?,
        recipient: address("original-rcpt-to").or_else(|| address("removal-recipient")),
        sender: address("original-mail-from"),
        envelope_id: fields.get("original-envelope-id").map(str::to_owned),
        fields,
    })
}

/// Reads a receipt. `None` where it has no `Disposition`.
pub(super) fn disposition(text: &str) -> Option<Disposition> {
    groups(text).iter().find_map(receipt)
}

/// A receipt that stands in a text. What it must have (RFC 8098, sections 3.2.4 and 3.2.6) is asked for: updates show a
/// session's disposition in a line that begins alike, and whoever answers one may quote it.
pub(super) fn disposition_in(text: &str) -> Option<Disposition> {
    let is_whole = |fields: &&Headers| {
        let value = fields.get("disposition").unwrap_or_default().to_ascii_lowercase();
        fields.get("final-recipient").is_some()
            && (value.starts_with("manual-action/") || value.starts_with("automatic-action/"))
    };
    groups(text).iter().filter(is_whole).find_map(receipt)
}

fn receipt(fields: &Headers) -> Option<Disposition> {
    // RFC 8098, section 3.2.6: action-mode "/" sending-mode ";" disposition-type [ "/" modifiers ]
    let value = fields.get("disposition")?.to_ascii_lowercase();
    let (mode, kind) = value.split_once(';').unwrap_or(("", &value));
    let kind = kind.trim().split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
    let id = fields.get("original-message-id").map(bare_id).filter(|id| !id.is_empty());
    Some(Disposition {
        kind: kind.to_owned(),
        automatic: mode.contains("automatic-action"),
        recipient: fields.get("final-recipient").and_then(of_report),
        original_message_id: id.map(str::to_owned),
    })
}

fn is_x400(value: &str) -> bool {
    value.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("x400"))
}

fn first_word(value: &str) -> Option<String> {
    let word = value.trim().split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()?;
    (!word.is_empty()).then(|| word.to_ascii_lowercase())
}

/// A value without the type before its semicolon, such as `dns;`, `smtp;` or `X-Postfix;`.
fn untyped(value: &str) -> String {
    match value.split_once(';') {
        Some((kind, rest))
            if kind.len() <= 20 && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
        {
            rest.trim().to_owned()
        }
        _ => value.trim().to_owned(),
    }
}
