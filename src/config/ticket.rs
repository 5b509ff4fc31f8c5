//! The names of a ticket: which one `out_ticket_id` is, which one mail carries, and what a URL tells of both.
//!
//! Most products know a ticket by two names, the number that people see and the internal id of URLs and interfaces.
//! A number where an id belongs reaches another ticket, so each has a form, and a URL that tells of another ticket is
//! a contradiction.

use std::fmt;

use regex::Regex;

use super::reader::Section;

/// One of a ticket's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The number that people see.
    Number,
    /// The internal id that URLs and interfaces carry.
    Id,
    /// A name made for mail alone, which the CRM gives out and nobody can compute.
    Token,
    /// The product has one name for number and id.
    Same,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "number",
            Self::Id => "internal id",
            Self::Token => "mail token",
            Self::Same => "id",
        })
    }
}

/// The words for identities in files.
const IDENTITIES: [(&str, Identity); 4] = [
    ("number", Identity::Number),
    ("id", Identity::Id),
    ("token", Identity::Token),
    ("same", Identity::Same),
];

/// How a name that the session does not give is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// In `out_ticket_url`, by one of the patterns.
    Url,
    /// By a question to the CRM, which only the record channel asks.
    Record,
}

/// What a name looks like.
#[derive(Debug, Clone)]
pub struct Form {
    whole: Regex,
    source: String,
}

/// The form of a name that a profile says nothing about.
const ANY: &str = "[A-Za-z0-9._/-]{1,60}";

impl Form {
    fn new(source: &str) -> Result<Self, regex::Error> {
        Ok(Self { whole: Regex::new(&format!("^(?:{source})$"))?, source: source.to_owned() })
    }

    /// The pattern, as the profile wrote it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The name in `text`: the group `ticket` where the pattern has one, else all of it. None where it does not fit.
    pub fn read<'t>(&self, text: &'t str) -> Option<&'t str> {
        // Whatever the pattern lets through, a name stands in a subject and an address.
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_./!:".contains(c);
        let found = self.whole.captures(text)?;
        let name = found.name("ticket").or_else(|| found.get(0))?.as_str();
        (!name.is_empty() && name.len() <= 100 && name.chars().all(is_safe)).then_some(name)
    }
}

/// The names of one ticket, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The number, or the only name.
    pub number: Option<String>,
    /// The internal id.
    pub id: Option<String>,
    /// The name for mail.
    pub token: Option<String>,
}

impl Names {
    /// The name of this kind.
    pub fn get(&self, identity: Identity) -> Option<&str> {
        match identity {
            Identity::Number | Identity::Same => self.number.as_deref(),
            Identity::Id => self.id.as_deref(),
            Identity::Token => self.token.as_deref(),
        }
    }

    /// Takes what is told of a name, unless something else is known of it already.
    fn learn(&mut self, identity: Identity, name: &str) -> Result<(), String> {
        let known = match identity {
            Identity::Number | Identity::Same => &mut self.number,
            Identity::Id => &mut self.id,
            Identity::Token => &mut self.token,
        };
        match known {
            Some(known) if !known.eq_ignore_ascii_case(name) => {
                Err(format!("out_ticket_id is of ticket {known} and out_ticket_url of ticket {name}"))
            }
            Some(_) => Ok(()),
            None => {
                *known = Some(name.to_owned());
                Ok(())
            }
        }
    }
}

/// What a profile says about its CRM's tickets.
#[derive(Debug, Clone)]
pub struct TicketRules {
    /// Which name `out_ticket_id` is, unless a tenant says otherwise.
    pub identity: Identity,
    /// Which name `{ticket}` stands for in a mail.
    pub mail: Identity,
    /// How a name that the session does not give is found.
    pub lookup: Option<Lookup>,
    /// What the URLs of tickets look like, with the groups `number`, `id` and `token`.
    pub urls: Vec<Regex>,
    /// Why mail cannot reach a ticket by the name that sessions give; none where it can.
    pub unreachable: Option<String>,
    /// What must be true in the CRM for mail to reach a ticket; none where nothing special must.
    pub condition: Option<String>,
    number: Option<Form>,
    id: Option<Form>,
    token: Option<Form>,
}

impl TicketRules {
    /// The form of a name; none where the profile says nothing about it.
    pub fn form(&self, identity: Identity) -> Option<&Form> {
        match identity {
            Identity::Number | Identity::Same => self.number.as_ref(),
            Identity::Id => self.id.as_ref(),
            Identity::Token => self.token.as_ref(),
        }
    }

    /// Whether mail can carry this name.
    pub fn is_for_mail(&self, name: &str) -> bool {
        self.read(self.mail, name).is_some()
    }

    /// Whether a tenant may say that its sessions give this name.
    pub fn allows(&self, identity: Identity) -> bool {
        let is_another = match identity {
            Identity::Same => false,
            Identity::Number => self.identity != Identity::Same && self.number.is_some(),
            Identity::Id | Identity::Token => self.form(identity).is_some(),
        };
        identity == self.identity || is_another
    }

    /// Whether some URL tells this name.
    pub fn is_in_urls(&self, identity: Identity) -> bool {
        let group = word(identity);
        self.urls.iter().any(|url| url.capture_names().flatten().any(|name| name == group))
    }

    /// Whether the name that mail carries is known where sessions give this one.
    pub fn tells_mail(&self, identity: Identity) -> bool {
        word(identity) == word(self.mail) || self.is_in_urls(self.mail)
    }

    /// All that is known of a session's ticket, or why it cannot be that ticket.
    pub fn names(&self, identity: Identity, given: &str, url: Option<&str>) -> Result<Names, String> {
        let mut names = Names::default();
        names.learn(identity, self.read(identity, given).ok_or_else(|| self.refusal(identity))?)?;
        // What is no web address opens nothing in a browser and proves nothing here.
        let url = url.filter(|url| starts_with(url, "https://") || starts_with(url, "http://"));
        for found in self.urls.iter().filter_map(|pattern| pattern.captures(url?)) {
            for (group, identity) in IDENTITIES {
                if let Some(found) = found.name(group).and_then(|found| self.read(identity, found.as_str())) {
                    names.learn(identity, found)?;
                }
            }
        }
        // They are counted apart, so equal ones are one name that was given for the other.
        if names.number.is_some() && names.number == names.id {
            return Err("number and internal id are the same, so out_ticket_id is not what the tenant says"
                .to_owned());
        }
        Ok(names)
    }

    fn read<'t>(&self, identity: Identity, text: &'t str) -> Option<&'t str> {
        match self.form(identity) {
            Some(form) => form.read(text),
            None => Form::new(ANY).ok()?.read(text),
        }
    }

    fn refusal(&self, identity: Identity) -> String {
        let form = self.form(identity).map_or(ANY, Form::source);
        format!("the ticket id does not have the profile's form (the {identity} of a ticket is {form})")
    }
}

/// Whether `text` begins with `start`, whatever the case.
pub fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// The word for an identity in files, and the name of its group in patterns of URLs.
pub fn word(identity: Identity) -> &'static str {
    let found = IDENTITIES.iter().find(|(_, known)| *known == identity);
    found.map_or("number", |(word, _)| if *word == "same" { "number" } else { word })
}

/// Reads which name the sessions of a tenant give.
pub fn given_identity(section: &Section<'_>, rules: &TicketRules) -> Identity {
    let given = section.one_of("out_ticket_id", &IDENTITIES);
    if let Some(refused) = given.filter(|identity| !rules.allows(*identity)) {
        section.problem("out_ticket_id", format_args!("the profile knows no {refused} of a ticket"));
    }
    given.unwrap_or(rules.identity)
}

/// Reads `[ticket]`.
pub(super) fn read(section: &Section<'_>) -> TicketRules {
    let form = |key: &'static str| {
        let source = section.text(key)?;
        Form::new(&source).map_err(|error| section.problem(key, error)).ok()
    };
    let identity = section.one_of("identity", &IDENTITIES).unwrap_or(Identity::Same);
    let mail = section.one_of("mail", &IDENTITIES[..3]);
    let rules = TicketRules {
        identity,
        mail: mail.unwrap_or(Identity::Number),
        lookup: section.one_of("lookup", &[("url", Lookup::Url), ("record", Lookup::Record)]),
        urls: section.list("urls"),
        unreachable: section.text("unreachable"),
        condition: section.text("condition"),
        number: form("number"),
        id: form("id"),
        token: form("token"),
    };
    for url in &rules.urls {
        if !url.capture_names().flatten().any(|name| IDENTITIES[..3].iter().any(|(word, _)| *word == name)) {
            section.problem("urls", format_args!("{url} has no group named number, id or token"));
        }
    }
    if rules.lookup == Some(Lookup::Url)
        && !IDENTITIES[..3].iter().any(|(_, name)| *name != identity && rules.is_in_urls(*name))
    {
        section.problem("lookup", "no pattern in urls has a group for another name");
    }
    section.finish();
    rules
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::reader::Document;

    fn rules(source: &str) -> TicketRules {
        let document = Document::parse(Path::new("x"), source);
        let rules = read(&document.root());
        assert!(document.is_sound(), "{:?}", document.into_problems());
        rules
    }

    #[test]
    fn a_name_has_the_profiles_form_and_is_safe_whatever_the_form() {
        let digits = rules("number = '#?0*(?<ticket>\\d{1,5})'");
        let word = rules("");
        let wild = rules("number = '(?s).*'");
        let table = [
            ("12345", Some("12345"), true, true),
            ("#0012", Some("12"), false, false),
            ("", None, false, false),
            ("123456", None, true, true),
            ("A-1", None, true, true),
            ("1] [", None, false, false),
            ("１", None, false, false),
            ("1\n", None, false, false),
            ("{x}", None, false, false),
            ("a:b", None, false, true),
        ];
        for (id, as_digits, as_word, as_wild) in table {
            let read = |rules: &TicketRules| {
                rules.names(Identity::Same, id, None).ok().and_then(|names| names.number)
            };
            assert_eq!(read(&digits).as_deref(), as_digits, "{id}");
            assert_eq!((read(&word).is_some(), read(&wild).is_some()), (as_word, as_wild), "{id}");
        }
    }

    #[test]
    fn a_url_tells_other_names_or_contradicts() {
        let rules = rules(
            "identity = 'number'\nnumber = '[0-9]{7,20}'\nid = '[0-9]{1,6}'\nlookup = 'url'\n\
             urls = ['[?;]TicketID=(?<id>[0-9]+)', '[?;]TicketNumber=(?<number>[0-9]+)']",
        );
        let (n, i) = ("2026112210000013", "2");
        let table = [
            (Identity::Number, n, None, Ok((Some(n), None))),
            (Identity::Number, n, Some("https://x/?TicketID=2"), Ok((Some(n), Some(i)))),
            (
                Identity::Number,
                n,
                Some("https://x/?TicketNumber=2026112210000013;TicketID=2"),
                Ok((Some(n), Some(i))),
            ),
            (
                Identity::Number,
                n,
                Some("https://x/?TicketNumber=2026112210000021"),
                Err("out_ticket_url of ticket 2026112210000021"),
            ),
            (Identity::Number, "2", None, Err("profile's form")),
            (Identity::Id, i, Some("https://x/?TicketNumber=2026112210000013"), Ok((Some(n), Some(i)))),
            (Identity::Id, i, Some("https://x/?TicketID=3"), Err("out_ticket_id is of ticket 2")),
            (Identity::Id, i, Some("javascript:alert(1)//?TicketID=3"), Ok((None, Some(i)))),
            (Identity::Id, i, Some("https://x/other"), Ok((None, Some(i)))),
            (Identity::Number, n, Some("https://x/?TicketID=99999999999"), Ok((Some(n), None))),
            (Identity::Id, "22", Some("https://x/?TicketID=22"), Ok((None, Some("22")))),
        ];
        for (identity, given, url, expected) in table {
            match (rules.names(identity, given, url), expected) {
                (Ok(names), Ok(known)) => {
                    assert_eq!((names.number.as_deref(), names.id.as_deref()), known, "{url:?}");
                }
                (Err(told), Err(part)) => assert!(told.contains(part), "{url:?}: {told}"),
                (found, _) => panic!("{identity} {given} {url:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn an_id_that_is_given_for_a_number_is_noticed_by_its_url() {
        let rules =
            rules("identity = 'number'\nnumber = '[0-9]+'\nid = '[0-9]+'\nurls = ['zoom/(?<id>[0-9]+)']");
        let names = |number, url| rules.names(Identity::Number, number, Some(url));
        assert!(names("67001", "https://x/#ticket/zoom/1110").is_ok());
        assert!(names("1110", "https://x/#ticket/zoom/1110").unwrap_err().contains("are the same"));
    }

    #[test]
    fn a_tenant_may_give_the_names_that_the_profile_knows() {
        let both = rules("identity = 'number'\nnumber = '[0-9]+'\nid = '[a-z]+'");
        let same = rules("number = '[0-9]+'\ntoken = '[a-z]+'");
        let all = [Identity::Number, Identity::Id, Identity::Token, Identity::Same];
        assert_eq!(all.map(|identity| both.allows(identity)), [true, true, false, false]);
        assert_eq!(all.map(|identity| same.allows(identity)), [false, false, true, true]);
    }
}
