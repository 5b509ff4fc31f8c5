//! Verdicts from the parts that are written for programs.

use super::reason::{Reason, by_reply, by_status, is_hard};
use super::reply::{codes, status_of};
use super::rules::Rules;
use super::says::Says;
use super::verdict::{Action, Kind, Recipient, Sub, Verdict};
use super::{Seen, whom};
use crate::parse::address::{Found, scan};
use crate::parse::headers::cut;
use crate::parse::provider::Event;
use crate::parse::report::ReportRecipient;
use crate::parse::{Mail, Problem};

/// The most octets of a host's words that a verdict keeps.
pub(super) const MAX_WORDS: usize = 500;
/// The most octets of them that its reason is looked for in.
const MAX_JUDGED: usize = 1500;
/// The most octets of a notice in which words about one of many recipients are looked for.
const MAX_SEARCHED: usize = 8 << 10;

/// RFC 3464: the action belongs to the recipient; the mail takes the worst.
pub(super) fn delivery(seen: &Seen<'_>) -> Option<Verdict> {
    let mail = seen.mail;
    let is_nested = mail.problems.contains(&Problem::NestedReport);
    // Challenges come as reports, so that nobody answers them.
    if (is_nested && is_forwarded(seen)) || seen.header.first(&[Says::Challenge]).is_some() {
        return None;
    }
    let fields = || mail.reports.iter().flat_map(|report| &report.recipients);
    let is_alone = fields().count() == 1;
    let mut recipients: Vec<Recipient> = Vec::new();
    for field in fields() {
        let Some(recipient) = recipient(field, seen, is_alone) else { continue };
        let is_known = |known: &Recipient| {
            known.address.eq_ignore_ascii_case(&recipient.address) && known.action == recipient.action
        };
        if !recipients.iter().any(is_known) {
            recipients.push(recipient);
        }
    }
    let (kind, sub) = kind_of(&recipients)?;
    let rule =
        if mail.problems.contains(&Problem::FieldsInText) { "report-in-text" } else { "delivery-report" };
    Some(Verdict::new(kind, rule).with_sub(sub).about(recipients))
}

/// A person forwards a report: that is a person's mail.
fn is_forwarded(seen: &Seen<'_>) -> bool {
    let is_notice = seen.header.first(&[Says::Daemon, Says::Bounce, Says::Delay]).is_some();
    let is_answer = !seen.mail.headers.ids("in-reply-to").is_empty();
    is_answer || !(is_notice || seen.has_empty_sender())
}

fn kind_of(recipients: &[Recipient]) -> Option<(Kind, Option<Sub>)> {
    let has = |action| recipients.iter().any(|one| one.action == action);
    let first = recipients.first()?;
    let is_mixed = recipients.iter().any(|one| one.action != first.action);
    let mixed = is_mixed.then_some(Sub::MixedActions);
    Some(if has(Action::Failed) {
        (Kind::Bounce, mixed)
    } else if has(Action::Delayed) {
        (Kind::Delay, mixed)
    } else if has(Action::Delivered) {
        (Kind::Delivered, mixed)
    } else {
        (Kind::Relayed, mixed.or(has(Action::Expanded).then_some(Sub::Expanded)))
    })
}

fn recipient(field: &ReportRecipient, seen: &Seen<'_>, is_alone: bool) -> Option<Recipient> {
    let status = field.status.as_deref().and_then(status_of);
    let action = action(field, status.as_deref(), seen);
    let address = address(field, seen, is_alone)?;
    let mut one = Recipient::new(&address, action);
    one.original = field.original.clone().filter(|original| !original.eq_ignore_ascii_case(&address));
    one.remote = field.remote_mta.clone().filter(|host| !host.is_empty());
    let said = field.diagnostic.as_deref().or_else(|| comment(field)).unwrap_or_default();
    let notice = if is_alone { seen.mail.text.as_str() } else { about(&seen.mail.text, &address, field) };
    explain(&mut one, status, said, notice, seen.rules);
    Some(one)
}

/// What a server wrote behind a status, as in `5.0.0 (mailbox full)`.
fn comment(field: &ReportRecipient) -> Option<&str> {
    field.status.as_deref()?.split_once('(').map(|(_, comment)| comment.trim_end_matches(')'))
}

/// What a text says behind the first mention of an address, up to the next address in a line of its own.
fn about<'t>(text: &'t str, address: &str, field: &ReportRecipient) -> &'t str {
    let text = cut(text, MAX_SEARCHED);
    let mut mentions = scan(text);
    let Some(first) = mentions.find(|one| one.address.eq_ignore_ascii_case(address)) else { return "" };
    let is_same = |one: &str| {
        one.eq_ignore_ascii_case(address)
            || field.original.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(one))
    };
    let is_next = |one: &Found<'_>| !is_same(one.address);
    let end = mentions.find(is_next).map_or(text.len(), |next| next.start);
    &text[first.end..end]
}

/// The failing address; where the report blots it out or names only a pipe, the one that the sender named.
fn address(field: &ReportRecipient, seen: &Seen<'_>, is_alone: bool) -> Option<String> {
    let original = field.original.as_ref().filter(|address| address.contains('@'));
    if field.is_x400 && original.is_some() {
        return original.cloned();
    }
    let known = field.address.as_ref().or(field.original.as_ref());
    let is_whole = known.is_some_and(|address| address.contains('@'));
    if is_whole || !is_alone {
        return known.cloned();
    }
    original.cloned().or_else(|| whom::from_header(seen).into_iter().next()).or_else(|| known.cloned())
}

fn action(field: &ReportRecipient, status: Option<&str>, seen: &Seen<'_>) -> Action {
    let word = field.action.as_deref().unwrap_or_default();
    let words = [
        ("fail", Action::Failed),
        ("delay", Action::Delayed),
        ("deliver", Action::Delivered),
        ("relay", Action::Relayed),
        ("expand", Action::Expanded),
    ];
    if let Some((_, action)) = words.iter().find(|(start, _)| word.starts_with(start)) {
        return *action;
    }
    match status.and_then(|status| status.chars().next()) {
        Some('2') => Action::Delivered,
        Some('4') if seen.evidence().first(&[Says::Delay]).is_some() => Action::Delayed,
        _ => Action::Failed,
    }
}

/// Fills in codes, reason and words. `notice` is what stands around the words of the host.
pub(super) fn explain(one: &mut Recipient, status: Option<String>, words: &str, notice: &str, rules: &Rules) {
    let said = codes(words);
    one.text = cut(words.trim(), MAX_WORDS).to_owned();
    one.reply = said.reply;
    if matches!(one.action, Action::Failed | Action::Delayed) {
        one.reason = why(status.as_deref(), words, notice, rules);
    }
    one.status = status.or_else(|| said.status.map(str::to_owned));
    one.hard = one.action == Action::Failed && is_hard(one.reason, one.status.as_deref());
}

/// What the host said tells more than its codes, and both more than the notice around them.
fn why(status: Option<&str>, words: &str, notice: &str, rules: &Rules) -> Reason {
    let said = codes(words);
    let code = said.status.filter(|code| !code.ends_with(".0.0")).or(status);
    let [telling, weak] = rules.reasons(cut(words, MAX_JUDGED), code, said.reply);
    let by_code = || status.and_then(by_status).or_else(|| said.status.and_then(by_status));
    telling.or_else(by_code).or(weak).unwrap_or_else(|| {
        let around = codes(notice);
        let [telling, _] = rules.reasons(notice, around.status, around.reply);
        let by_code = around.status.and_then(by_status);
        let by_number = || said.reply.or(around.reply).and_then(by_reply);
        telling.or(by_code).or_else(by_number).unwrap_or(Reason::Undefined)
    })
}

/// Amazon SES.
pub(super) fn provider(seen: &Seen<'_>) -> Option<Verdict> {
    let notice = seen.mail.provider.as_ref()?;
    let (kind, action) = match notice.event {
        Event::Bounce => (Kind::Bounce, Action::Failed),
        Event::Complaint => (Kind::Complaint, Action::Failed),
        Event::Delivery => (Kind::Delivered, Action::Delivered),
        Event::Delay => (Kind::Delay, Action::Delayed),
    };
    let recipients = notice.recipients.iter().map(|whom| {
        let mut one = Recipient::new(&whom.address, action);
        let words = whom.diagnostic.as_deref().unwrap_or_default();
        let words = words.split_once(';').map_or(words, |(_, rest)| rest.trim());
        explain(&mut one, whom.status.as_deref().and_then(status_of), words, &notice.detail, seen.rules);
        one
    });
    let sub = (kind == Kind::Complaint).then_some(Sub::Abuse);
    Some(Verdict::new(kind, "provider-notice").with_sub(sub).about(recipients.collect()))
}

/// RFC 5965.
pub(super) fn feedback(seen: &Seen<'_>) -> Option<Verdict> {
    let feedback = seen.mail.feedback.as_ref()?;
    let sub = match feedback.kind.as_str() {
        "abuse" => Sub::Abuse,
        "fraud" => Sub::Fraud,
        "virus" => Sub::Virus,
        "not-spam" => Sub::NotSpam,
        "opt-out" | "opt-out-list" | "unsubscribe" => Sub::OptOut,
        "auth-failure" => Sub::AuthFailure,
        _ => Sub::OtherComplaint,
    };
    let whom = feedback.recipient.clone().or_else(|| returned_to(seen.mail));
    let recipients = whom.iter().map(|address| Recipient::new(address, Action::Delivered)).collect();
    Some(Verdict::new(Kind::Complaint, "feedback-report").with_sub(Some(sub)).about(recipients))
}

/// The only recipient of the returned message.
pub(super) fn returned_to(mail: &Mail) -> Option<String> {
    let addresses = mail.returned.as_ref()?.addresses("to");
    (addresses.len() == 1).then(|| addresses[0].to_owned())
}

/// RFC 8098. A program that deletes what it was to deliver refuses it (RFC 5429, section 2.2).
pub(super) fn receipt(seen: &Seen<'_>) -> Option<Verdict> {
    let receipt = seen.mail.disposition.as_ref()?;
    let address = receipt
        .recipient
        .clone()
        .or_else(|| seen.mail.headers.addresses("from").first().map(|address| (*address).to_owned()));
    let is_refusal = receipt.automatic && matches!(receipt.kind.as_str(), "deleted" | "denied" | "failed");
    let (sub, action) = match receipt.kind.as_str() {
        _ if is_refusal => (Sub::SieveReject, Action::Failed),
        "displayed" => (Sub::Displayed, Action::Delivered),
        "deleted" => (Sub::Deleted, Action::Delivered),
        _ => (Sub::Processed, Action::Delivered),
    };
    let recipients = address.iter().map(|address| {
        let mut one = Recipient::new(address, action);
        if is_refusal {
            explain(&mut one, None, "", &seen.mail.text, seen.rules);
            // A receipt has no field for the reason; it stands in the text for people.
            let words: Vec<&str> = cut(&seen.mail.text, MAX_JUDGED).split_whitespace().collect();
            one.text = cut(&words.join(" "), MAX_WORDS).to_owned();
            one.reason = if one.reason == Reason::Undefined { Reason::Filtered } else { one.reason };
        }
        one
    });
    Some(Verdict::new(Kind::ReadReceipt, "receipt").with_sub(Some(sub)).about(recipients.collect()))
}
