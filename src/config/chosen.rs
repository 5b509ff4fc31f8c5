//! What a tenant says of its profile: which one, the values for it, and what its sessions tell of a ticket.

use std::collections::{BTreeMap, BTreeSet};

use super::profile::{Profile, SHIPPED};
use super::reader::Section;
use super::ticket::{Identity, Names, given_identity, starts_with};

/// A profile with what a tenant says of it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// How the CRM takes mail.
    pub profile: Profile,
    /// The values of the profile's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What `out_ticket_id` of the sessions says of a ticket.
    pub tickets: Tickets,
}

/// What `out_ticket_id` and `out_ticket_url` of a tenant's sessions say.
#[derive(Debug, Clone)]
pub struct Tickets {
    /// Which of a ticket's names `out_ticket_id` is.
    pub identity: Identity,
    /// What each `out_ticket_url` must begin with; none takes any.
    pub below: Option<String>,
}

impl Tickets {
    /// All that is known of a session's ticket, or why it must not be written to.
    pub fn names(&self, profile: &Profile, id: &str, url: Option<&str>) -> Result<Names, String> {
        if let (Some(below), Some(url)) = (&self.below, url)
            && !starts_with(url, below)
        {
            return Err(format!("out_ticket_url is not below {below}"));
        }
        profile.ticket.names(self.identity, id, url)
    }

    /// The name that mail carries, or why there is none.
    pub fn for_mail(&self, profile: &Profile, id: &str, url: Option<&str>) -> Result<String, String> {
        let carried = profile.ticket.mail;
        let names = self.names(profile, id, url)?;
        let missing = || format!("mail carries the ticket's {carried}, and out_ticket_url does not tell it");
        names.get(carried).map(str::to_owned).ok_or_else(missing)
    }
}

/// Reads a tenant's `[profile]`. `by_mail` says whether its updates may go by mail.
pub(super) fn read(
    section: &Section<'_>,
    profiles: &BTreeMap<String, Profile>,
    by_mail: bool,
) -> Option<Chosen> {
    let name: Option<String> = section.required("name");
    let values = section.section("values");
    let given: BTreeMap<String, String> = values.pairs().into_iter().collect();
    let below = section.text("url").map(|url| format!("{}/", url.trim_end_matches('/')));
    if below.as_ref().is_some_and(|url| !starts_with(url, "https://") && !starts_with(url, "http://")) {
        section.problem("url", "must begin with https:// or http://");
    }
    let Some(profile) = profiles.get(&name?) else {
        let shipped = SHIPPED.iter().map(|(name, _)| *name);
        let known: BTreeSet<&str> = profiles.keys().map(String::as_str).chain(shipped).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let name = section.text("name").unwrap_or_default();
        section.problem("name", format_args!("there is no profile {name:?}; there are {}", known.join(", ")));
        section.text("out_ticket_id");
        section.finish();
        return None;
    };
    let identity = given_identity(section, &profile.ticket);
    section.finish();
    look_for_problems(section, &values, profile, &given, by_mail);
    if by_mail && let Some(reason) = profile.unreachable_by(identity) {
        let name = &profile.name;
        section.problem(
            "name",
            format_args!("{name} takes no updates by mail: {reason}; use channel = \"record\""),
        );
    }
    let mut parameters = profile.defaults.clone();
    parameters.extend(given);
    let mut profile = profile.clone();
    match profile.acts.filled(&parameters) {
        Ok(acts) => profile.acts = acts,
        Err(error) => values.problem("acts", error),
    }
    Some(Chosen { profile, parameters, tickets: Tickets { identity, below } })
}

fn look_for_problems(
    section: &Section<'_>,
    values: &Section<'_>,
    profile: &Profile,
    given: &BTreeMap<String, String>,
    by_mail: bool,
) {
    let name = &profile.name;
    // Only a mail needs them.
    let needed = profile.parameters.iter().filter(|_| by_mail);
    for parameter in needed.filter(|parameter| !given.contains_key(*parameter)) {
        section.problem("values", format_args!("the profile {name} needs a value for {parameter}"));
    }
    for (key, value) in given {
        if !profile.parameters.contains(key) && !profile.defaults.contains_key(key) {
            values.problem(key, format_args!("the profile {name} has no such parameter"));
        }
        if !value.chars().all(|c| c.is_ascii_graphic() && !"[]<>{}".contains(c)) {
            values.problem(key, "must be printable ASCII without blanks and brackets");
        }
    }
}
