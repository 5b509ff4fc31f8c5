//! Failure and delay notices that are written for people.

use super::reply::codes;
use super::report::{explain, returned_to};
use super::rules::Says;
use super::verdict::{Action, Kind, Recipient, Verdict};
use super::whom::{self, Named};
use super::{Seen, answers};

/// Two signs of the shape of a notice, and something that it is about: an address, a reply or a returned message.
pub(super) fn judge(seen: &Seen<'_>) -> Option<Verdict> {
    let evidence = &seen.evidence;
    if evidence.first(&[Says::Other, Says::Complaint, Says::Challenge]).is_some() {
        return None;
    }
    let daemon = evidence.first(&[Says::Daemon]);
    let subject = evidence.in_header(&[Says::Bounce, Says::Delay]);
    let text = evidence.in_text(&[Says::Bounce, Says::Delay]);
    let failed = seen.header("x-failed-recipients");
    let mut signs = [daemon.is_some(), subject.is_some(), failed.is_some(), text.is_some()];
    if seen.mail.report_type.as_deref() == Some("delivery-status") {
        signs[2] = true;
    }
    let is_bare = seen.mail.headers.is_empty();
    let count = signs.iter().filter(|sign| **sign).count();
    let is_shaped = count >= 2 || (count == 1 && (is_bare || (seen.has_empty_sender() && !is_answer(seen))));
    if !is_shaped || (is_answer(seen) && daemon.is_none() && failed.is_none()) {
        return None;
    }
    let named = whom::named(seen);
    let said = codes(&seen.mail.text);
    let is_about_something = !named.is_empty() || said.reply.is_some() || seen.mail.returned.is_some();
    if !is_about_something && count < 3 {
        return None;
    }
    let rule = evidence.first(&[Says::Bounce, Says::Delay]).or(daemon);
    let kind = match evidence.first(&[Says::Bounce, Says::Delay]).map(|rule| rule.says) {
        Some(Says::Delay) => Kind::Delay,
        _ => Kind::Bounce,
    };
    let name = rule.map_or("x-failed-recipients", |rule| rule.name.as_str());
    Some(Verdict::new(kind, name).about(recipients(seen, kind, &named)))
}

/// What people write in answer to a notice quotes its words.
fn is_answer(seen: &Seen<'_>) -> bool {
    !seen.has_empty_sender()
        && answers::is_reply_subject(seen.header("subject").unwrap_or_default())
        && answers::names_another(seen.mail)
}

fn recipients(seen: &Seen<'_>, kind: Kind, named: &[Named]) -> Vec<Recipient> {
    let action = if kind == Kind::Delay { Action::Delayed } else { Action::Failed };
    let text = &seen.mail.text;
    let is_alone = named.len() == 1;
    let mut found: Vec<Recipient> = named
        .iter()
        .map(|named| {
            let mut one = Recipient::new(&named.address, action);
            // What the host said may stand before the address as well as behind it.
            let said = codes(&named.words);
            let is_silent = said.reply.is_none() && said.status.is_none();
            let is_before = is_alone && is_silent && codes(text).reply.is_some();
            let words = if named.words.is_empty() || is_before { text } else { &named.words };
            explain(&mut one, codes(words).status.map(str::to_owned), words, text, seen.rules);
            one
        })
        .collect();
    if found.is_empty() && let Some(address) = returned_to(seen.mail) {
        let mut one = Recipient::new(&address, action);
        explain(&mut one, codes(text).status.map(str::to_owned), "", text, seen.rules);
        found.push(one);
    }
    found
}
