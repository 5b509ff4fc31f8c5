//! What a profile says, in plain words.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::config::marks::Answer;
use crate::config::profile::{Profile, ReplyTo, fill};
use crate::config::sources::{GROUPS, Verified};
use crate::config::ticket::{Form, Identity, Lookup};

/// How updates reach the CRM where a tenant says nothing else.
pub(super) fn channel(profile: &Profile) -> &'static str {
    if profile.unreachable_by(profile.ticket.identity).is_none() { "email" } else { "record" }
}

/// What names a ticket in a mail, the first of several; empty where nothing does.
pub(super) fn token(profile: &Profile) -> String {
    let patterns = [&profile.subject, &profile.body, &profile.recipient];
    let pattern = patterns.into_iter().flatten().next().map(String::as_str).unwrap_or_default();
    filled_with_defaults(profile, pattern)
}

/// A pattern with the profile's own values; what a tenant gives stays a placeholder.
fn filled_with_defaults(profile: &Profile, pattern: &str) -> String {
    let given = profile.parameters.iter().map(|name| (name.clone(), format!("{{{name}}}")));
    let values = profile.defaults.clone().into_iter().chain(given);
    let values = values.chain([("text".to_owned(), "{text}".to_owned())]).collect();
    fill(pattern, &values, "{ticket}")
}

/// What stands in which place of a mail to the ticket of this name.
pub(super) fn tokens(
    profile: &Profile,
    values: &BTreeMap<String, String>,
    ticket: &str,
) -> Vec<(&'static str, String)> {
    let places = [
        ("in the subject", &profile.subject),
        ("at the end of the text", &profile.body),
        ("in the address, unless the tenant has one of its own", &profile.recipient),
        ("in References", &profile.reference),
    ];
    let mut values = values.clone();
    values.insert("text".to_owned(), "...".to_owned());
    let filled =
        |(place, pattern): (_, &Option<String>)| Some((place, fill(pattern.as_ref()?, &values, ticket)));
    places.into_iter().filter_map(filled).collect()
}

/// What an identity is to people.
pub(super) fn identity(identity: Identity) -> &'static str {
    match identity {
        Identity::Number => "the ticket's number",
        Identity::Id => "the ticket's internal id",
        Identity::Token => "the ticket's name for mail",
        Identity::Same => "the ticket's only id",
    }
}

/// The groups of facts that nobody has seen or read of.
pub(super) fn inferred(profile: &Profile) -> Vec<&'static str> {
    let sources = profile.sources.iter().filter(|source| source.verified == Verified::Inferred);
    sources.map(|source| source.group).collect()
}

/// Everything about one profile that is not verified or set up elsewhere: heading and sentence.
pub(super) fn facts(profile: &Profile) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    match profile.unreachable_by(profile.ticket.identity) {
        Some(reason) => facts.push(("Channel", format!("record. Not by mail: {reason}."))),
        None => facts.push(("Channel", "email.".to_owned())),
    }
    if let Some(condition) = &profile.ticket.condition {
        facts.push(("Only if", format!("{condition}.")));
    }
    facts.extend(names(profile));
    facts.extend(mail(profile));
    facts.extend(limits(profile));
    facts.extend(answers(profile));
    facts
}

fn names(profile: &Profile) -> Vec<(&'static str, String)> {
    let rules = &profile.ticket;
    let code = |form: Option<&Form>| form.map_or(String::new(), |form| format!(", as `{}`", form.source()));
    let mut told = format!("{}{}.", identity(rules.identity), code(rules.form(rules.identity)));
    let others =
        [Identity::Number, Identity::Id, Identity::Token].into_iter().filter(|name| rules.allows(*name));
    for other in others.filter(|other| *other != rules.identity) {
        told += &format!(" A tenant may give {} instead{}.", identity(other), code(rules.form(other)));
    }
    let mut facts = vec![("`out_ticket_id`", told)];
    if !rules.urls.is_empty() {
        let in_urls = [Identity::Number, Identity::Id, Identity::Token];
        let in_urls: Vec<String> =
            in_urls.into_iter().filter(|name| rules.is_in_urls(*name)).map(|name| name.to_string()).collect();
        facts.push((
            "`out_ticket_url`",
            format!(
                "tells the {}; one of another ticket holds the update for a person.",
                in_urls.join(" and the ")
            ),
        ));
    }
    match rules.lookup {
        Some(Lookup::Url) => facts.push(("The other name", "is read from `out_ticket_url`.".to_owned())),
        Some(Lookup::Record) => {
            facts.push(("The other name", "only the CRM tells it, over the record channel.".to_owned()));
        }
        None => {}
    }
    facts
}

fn mail(profile: &Profile) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let own = |pattern: &String| filled_with_defaults(profile, pattern);
    if let Some(subject) = &profile.subject {
        let text = if subject.contains("{text}") { "" } else { ", then the subject of the templates" };
        facts.push(("Subject", format!("`{}`{text}.", own(subject))));
    }
    if let Some(body) = &profile.body {
        facts.push(("Body", format!("ends with `{}`.", own(body))));
    }
    if let Some(recipient) = &profile.recipient {
        facts.push(("Recipient", format!("`{}`, unless the tenant has one of its own.", own(recipient))));
    }
    if let Some(reference) = &profile.reference {
        facts.push(("References", format!("begins with `{}`.", own(reference))));
    }
    if facts.is_empty() {
        return facts;
    }
    if profile.ticket.mail == Identity::Token {
        facts.push(("`{ticket}`", format!("is {}, not the number.", identity(Identity::Token))));
    }
    for name in &profile.parameters {
        facts.push(("Value needed", format!("`{name}`.")));
    }
    for (name, value) in &profile.defaults {
        facts.push(("Value", format!("`{name}`, `{value}` unless the tenant says otherwise.")));
    }
    let automatic = match profile.auto_submitted {
        Some(value) => format!("`Auto-Submitted: {value}`"),
        None => "no `Auto-Submitted`".to_owned(),
    };
    let suppress = if profile.suppress_auto_response { "`All`" } else { "absent" };
    facts.push(("Marks of automatic mail", format!("{automatic}; `X-Auto-Response-Suppress` {suppress}.")));
    if profile.reply_to == ReplyTo::Token {
        facts.push(("`Reply-To`", "the envelope sender with its token.".to_owned()));
    }
    facts
}

fn limits(profile: &Profile) -> Option<(&'static str, String)> {
    if channel(profile) == "record" && profile.subject.is_none() && profile.body.is_none() {
        return None;
    }
    let mut limits = vec![format!("{} octets for the whole mail", grouped(profile.message_bytes))];
    limits.extend(profile.file_bytes.map(|most| format!("{} octets for the attachment", grouped(most))));
    let characters = profile.text_characters.and_then(|most| u64::try_from(most).ok());
    limits.extend(characters.map(|most| format!("{} characters for each text", grouped(most))));
    Some(("At most", format!("{}.", limits.join(", "))))
}

fn answers(profile: &Profile) -> Option<(&'static str, String)> {
    let kinds =
        [(Answer::Updated, "an update"), (Answer::Opened, "a new ticket"), (Answer::Refused, "a refusal")];
    let known = kinds.into_iter().filter(|(kind, _)| profile.marks.iter().any(|mark| mark.answer == *kind));
    let known: Vec<&str> = known.map(|(_, words)| words).collect();
    (!known.is_empty()).then(|| ("Answers known", format!("{}.", known.join(", "))))
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let place = |(at, digit): (usize, char)| {
        let comma = (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(place).collect()
}

/// Writes all of it for a terminal.
pub(super) fn write(out: &mut dyn Write, profile: &Profile) -> io::Result<()> {
    writeln!(out, "{} ({})\n", profile.title, profile.name)?;
    for (heading, text) in facts(profile) {
        writeln!(out, "{:<25}{}", format!("{}:", heading.replace('`', "")), text.replace('`', ""))?;
    }
    writeln!(
        out,
        "\nWords of a session:      square brackets in a subject become round; what names a ticket or acts in this CRM\n                         is broken up with a dot"
    )?;
    writeln!(out, "\nHow sure this is:")?;
    for (group, about) in GROUPS {
        if let Some(source) = profile.sources.iter().find(|source| source.group == group) {
            writeln!(out, "  {:<14} {about}: {}", source.verified, source.note)?;
        }
    }
    writeln!(out, "\nTo set up in the CRM:")?;
    for step in &profile.setup {
        writeln!(out, "  - {step}")?;
    }
    Ok(())
}
