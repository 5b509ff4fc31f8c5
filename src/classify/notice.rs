//! Failure and delay notices that are written for people.

use super::reply::codes;
use super::report::{explain, returned_to};
use super::says::Says;
use super::verdict::{Action, Kind, Recipient, Verdict};
use super::whom::{self, Named};
use super::{Seen, answers};

/// Two signs of the shape of a notice, and something that it is about: an address, a reply or a returned message.
pub(super) fn judge(seen: &Seen<'_>) -> Option<Verdict> {
    let evidence = seen.evidence();
    if evidence.first(&[Says::Other, Says::Complaint, Says::Challenge]).is_some() {
        return None;
    }
    let subject = evidence.in_header(&[Says::Bounce, Says::Delay]).is_some();
    let text = evidence.in_text(&[Says::Bounce, Says::Delay]).is_some();
    let is_named = seen.header("x-failed-recipients").is_some()
        || seen.mail.report_type.as_deref() == Some("delivery-status");
    let is_silent = seen.has_empty_sender();
    let robot = evidence.first(&[Says::Robot]).filter(|_| subject || is_silent);
    let daemon = evidence.first(&[Says::Daemon]).or(robot);
    let count = [daemon.is_some(), subject, is_named, text].iter().filter(|sign| **sign).count();
    let is_bare = seen.mail.headers.is_empty();
    let is_shaped = count >= 2 || (count == 1 && (is_bare || (is_silent && !is_answer(seen))));
    let is_from_machine = daemon.is_some() || is_named || is_silent || is_bare;
    // A sender alone says nothing; and what answers for a person may quote anything.
    let says_so = subject || text || is_named;
    let is_for_person = daemon.is_none() && !is_named && evidence.in_header(&[Says::AutoReply]).is_some();
    if !says_so || !is_shaped || is_for_person || (is_answer(seen) && !is_from_machine) {
        return None;
    }
    let (named, is_sure) = whom::named(seen);
    let is_quoted = codes(&seen.mail.text).reply.is_some() || seen.mail.returned.is_some();
    // A person may write about a failure too; a program writes to whom, or what was said, or what was sent.
    let is_about = is_quoted || is_sure || (is_from_machine && (count >= 2 || is_bare) && !named.is_empty());
    if !is_about && count < 3 {
        return None;
    }
    let rule = evidence.first(&[Says::Bounce, Says::Delay]).or(daemon);
    let kind = match evidence.first(&[Says::Bounce, Says::Delay]).map(|rule| rule.says) {
        Some(Says::Delay) => Kind::Delay,
        _ => Kind::Bounce,
    };
    let name = rule.map_or("failed-recipients", |rule| rule.name.as_str());
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
            one.remote = host(words);
            explain(&mut one, codes(words).status.map(str::to_owned), words, text, seen.rules);
            one
        })
        .collect();
    if found.is_empty()
        && let Some(address) = returned_to(seen.mail)
    {
        let mut one = Recipient::new(&address, action);
        explain(&mut one, codes(text).status.map(str::to_owned), "", text, seen.rules);
        found.push(one);
    }
    found
}

/// The host that a program says it talked to.
fn host(words: &str) -> Option<String> {
    const BEFORE: [&str; 4] = ["host ", "talking to ", "domain by ", "server "];
    BEFORE.iter().flat_map(|word| words.match_indices(word)).find_map(|(at, word)| {
        let rest = &words[at + word.len()..];
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-').unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches(['.', '-']);
        let is_name =
            name.contains('.') && name.len() <= 253 && name.contains(|c: char| c.is_ascii_alphabetic());
        is_name.then(|| name.to_owned())
    })
}
