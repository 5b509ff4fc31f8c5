//! A tenant: everything that one CRM tenant's file says, checked and ready to use.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::chosen::{self, Chosen, Tickets};
use super::dkim::{self, Dkim};
use super::oauth2::{self, OAuth2};
use super::profile::{Profile, fill};
use super::rate::{self, Budget};
use super::reactions::{self, Reactions};
use super::reader::{Document, Problem, Section};
use super::recipe::Recipe;
use super::record::{self, Record};
use super::secret::{self, Secret};
use crate::address::{Address, BadAddress, MAX_LOCAL_OCTETS};
use crate::ids::UnreadableName;

/// The octets that a token adds to the local part of the envelope sender: `+` and the token itself.
pub const TOKEN_OCTETS: usize = 1 + 48;

/// One CRM tenant.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The file's stem; the tenant's name everywhere.
    pub name: String,
    /// The name that mails show.
    pub title: String,
    /// The platform instance whose sessions these are.
    pub instance: String,
    /// The language of a mail when the session's own is not there.
    pub language: String,
    /// The zone to write times in; none keeps the platform's offset.
    pub time_zone: Option<TimeZone>,
    /// How updates reach the CRM.
    pub channel: Channel,
    /// How they reach it when that way is refused for good; none gives up.
    pub fallback: Option<Channel>,
    /// Who the mails are from.
    pub sender: Sender,
    /// Where updates go.
    pub recipient: Recipient,
    /// How the CRM takes mail.
    pub profile: Profile,
    /// What its sessions say of a ticket.
    pub tickets: Tickets,
    /// The values of the profile's parameters.
    pub parameters: BTreeMap<String, String>,
    /// A folder whose files replace the shipped templates.
    pub templates: Option<PathBuf>,
    /// The mail server that takes the mails.
    pub relay: Relay,
    /// The CRM over REST; always there where a channel is `record`.
    pub record: Option<Record>,
    /// How much may be sent in a time.
    pub budgets: Vec<Budget>,
    /// When to try again, and when to stop.
    pub retry: Retry,
    /// What happens to a session without a ticket id.
    pub missing_ticket: MissingTicket,
    /// How long after a session's end to wait for its later revision; none sends at once and follows up.
    pub settle: Option<SignedDuration>,
    /// The folder that `serve` watches.
    pub folder: Option<PathBuf>,
    /// Bounds of what a mail shows.
    pub limits: Limits,
    /// The key of the signed tokens; none uses the store's own.
    pub token_key: Option<Secret>,
    /// The key before it, whose tokens still come back.
    pub previous_token_key: Option<Secret>,
    /// The keys that sign each mail.
    pub dkim: Vec<Dkim>,
    /// What follows mail that comes back.
    pub reactions: Reactions,
}

impl Tenant {
    /// Whether it has a channel.
    pub fn has(&self, channel: Channel) -> bool {
        match channel {
            Channel::Email => true,
            Channel::Record => self.record.is_some(),
            Channel::Webhook => self.reactions.webhook.is_some(),
        }
    }
}

/// A way of an update to the CRM, or of a notice to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A mail to the CRM's address.
    Email,
    /// A note and the file, attached to the record over REST.
    Record,
    /// A request to the tenant's own program; for notices only.
    Webhook,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 3] = [Self::Email, Self::Record, Self::Webhook];

    /// The channel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Record => "record",
            Self::Webhook => "webhook",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = UnreadableName;

    fn from_str(word: &str) -> Result<Self, UnreadableName> {
        let found = Self::ALL.into_iter().find(|channel| channel.as_str() == word);
        found.ok_or_else(|| UnreadableName::new("channel", word))
    }
}

/// Who the mails are from.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The address of `From`, known to the CRM.
    pub address: Address,
    /// The name beside it.
    pub name: Option<String>,
    /// The mailbox that bounces return to; the envelope sender is this with a token.
    pub bounces: Address,
}

/// Where updates go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// One address for all tickets.
    Fixed(Address),
    /// An address made from the ticket id, which stands between the two texts.
    Ticket(String, String),
}

impl Recipient {
    /// The address for `ticket`.
    pub fn address(&self, ticket: &str) -> Result<Address, BadAddress> {
        match self {
            Self::Fixed(address) => Ok(address.clone()),
            Self::Ticket(before, after) => format!("{before}{ticket}{after}").parse(),
        }
    }

    /// The domain of its addresses.
    fn domain(&self) -> &str {
        match self {
            Self::Fixed(address) => address.domain(),
            Self::Ticket(_, after) => after.rsplit_once('@').map_or(after, |(_, domain)| domain),
        }
    }
}

/// How the connection to the relay is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Required and verified, from the first byte (RFC 8314, section 3.3).
    Implicit,
    /// Required and verified, after STARTTLS (RFC 3207).
    StartTls,
    /// None: only for a relay on this machine or a trusted wire.
    None,
}

/// What AUTH brings.
#[derive(Debug, Clone)]
pub enum Login {
    /// User name and password, for PLAIN or LOGIN.
    Password(String, Secret),
    /// An access token, for XOAUTH2.
    OAuth2(OAuth2),
}

/// The mail server that takes the mails.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: Tls,
    /// A PEM file with a certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What AUTH brings; none does not authenticate.
    pub login: Option<Login>,
    /// The most connections at a time.
    pub connections: u32,
    /// The name given in EHLO.
    pub hello: String,
    /// The longest wait for the connection, the greeting and each reply but the last.
    pub reply_timeout: SignedDuration,
    /// The longest wait for the reply to a whole message.
    pub message_timeout: SignedDuration,
}

impl Relay {
    /// Where it is, as `host:port`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// When to try again, and when to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The wait after the first refusal; it doubles with each.
    pub first: SignedDuration,
    /// The longest wait.
    pub longest: SignedDuration,
    /// A delivery older than this is given up.
    pub give_up_after: SignedDuration,
    /// Whether an uncertain delivery is sent again, with the same bytes, or held for a person.
    pub resend_uncertain: bool,
}

/// What happens to a session without a ticket id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissingTicket {
    /// It is held until a later revision brings the id or a person gives one.
    Hold,
    /// After the wait it goes to an address that opens a new ticket.
    CatchAll(Address, SignedDuration),
}

/// Bounds of what a mail shows; the attachment is always whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of each list.
    pub list_entries: usize,
    /// Characters of each note or comment.
    pub note_characters: usize,
    /// Octets of a whole message; the profile's when that is less.
    pub message_bytes: u64,
}

/// What flags and the environment may set in place of a tenant's file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `smtp://HOST:PORT` (no TLS), `smtp+starttls://HOST:PORT` or `smtps://HOST:PORT`.
    pub relay: Option<RelayUrl>,
    /// A folder of templates.
    pub templates: Option<PathBuf>,
}

/// A relay written as a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    /// From the scheme.
    pub tls: Tls,
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for RelayUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let schemes =
            [("smtp+starttls://", Tls::StartTls), ("smtps://", Tls::Implicit), ("smtp://", Tls::None)];
        let found = schemes.iter().find_map(|(scheme, tls)| Some((url.strip_prefix(scheme)?, *tls)));
        let (place, tls) =
            found.ok_or("a relay is smtp://HOST:PORT, smtp+starttls://HOST:PORT or smtps://HOST:PORT")?;
        let (host, port) = place.trim_end_matches('/').rsplit_once(':').ok_or("the relay has no :PORT")?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
        Ok(Self { tls, host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

/// What a tenant's file may name.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// The recipes by name.
    pub recipes: BTreeMap<String, Recipe>,
}

/// Reads one tenant's file. Relative paths in it start at `base`.
pub fn parse(
    name: &str,
    file: &Path,
    source: &str,
    base: &Path,
    known: &Known,
    overrides: &Overrides,
) -> Result<Tenant, Vec<Problem>> {
    let document = Document::parse(file, source);
    let tenant = tenant(name, &document.root(), base, known, overrides);
    match tenant {
        Some(tenant) if document.is_sound() => Ok(tenant),
        _ => Err(document.into_problems()),
    }
}

fn tenant(
    name: &str,
    root: &Section<'_>,
    base: &Path,
    known: &Known,
    overrides: &Overrides,
) -> Option<Tenant> {
    let title = root.text("title");
    let instance = root.text("instance");
    let language = root.text("language");
    let time_zone = root.text("time_zone").and_then(|zone| {
        TimeZone::get(&zone)
            .map_err(|_| {
                root.problem(
                    "time_zone",
                    format_args!("{zone:?} is not a time zone such as \"Europe/Berlin\""),
                );
            })
            .ok()
    });
    let sender = sender(&root.section("sender"));
    let (channel, fallback) = channels(root);
    let by_mail = channel == Channel::Email || fallback == Some(Channel::Email);
    let chosen = chosen::read(&root.section("profile"), &known.profiles, by_mail);
    let recipient = recipient(&root.section("recipient"), chosen.as_ref());
    let relay = relay(&root.section("relay"), base, overrides.relay.as_ref(), sender.as_ref());
    let record = root.section("record");
    let record = record::read(&record, base, chosen.as_ref(), &known.recipes, name);
    let rate = root.section("rate");
    let budgets = rate::read(&rate, &format!("tenant {name}"));
    rate.finish();
    let retry = retry(&root.section("retry"));
    let missing_ticket = missing_ticket(&root.section("missing_ticket"));
    let settle = settle(root);
    let folder = root.text("folder").map(|folder| base.join(folder));
    let templates = root.text("templates").map(|folder| base.join(folder));
    let templates = overrides.templates.clone().or(templates);
    if let Some(folder) = templates.as_ref().filter(|folder| !folder.is_dir()) {
        root.problem("templates", format_args!("there is no folder {}", folder.display()));
    }
    let limits = limits(&root.section("limits"), chosen.as_ref().map(|chosen| &chosen.profile));
    let token_key = secret::load(root, "token_key", base);
    let previous_token_key = secret::load(root, "previous_token_key", base);
    if previous_token_key.is_some() && token_key.is_none() {
        root.problem("previous_token_key", "needs a token_key that took its place");
    }
    let dkim = dkim::read(root, base, sender.as_ref());
    let domain = recipient.as_ref().map(Recipient::domain);
    let reactions = reactions::read(&root.section("reactions"), base, domain);
    root.finish();
    let Chosen { profile, parameters, tickets } = chosen?;
    Some(Tenant {
        name: name.to_owned(),
        title: title.unwrap_or_else(|| name.to_owned()),
        instance: instance.unwrap_or_else(|| name.to_owned()),
        language: language.unwrap_or_else(|| "en".to_owned()),
        time_zone,
        channel,
        fallback,
        sender: sender?,
        recipient: recipient?,
        profile,
        tickets,
        parameters,
        templates,
        relay: relay?,
        record,
        budgets,
        retry,
        missing_ticket: missing_ticket?,
        settle,
        folder,
        limits,
        token_key,
        previous_token_key,
        dkim,
        reactions,
    })
}

/// The channel, and the one that stands in for it.
fn channels(root: &Section<'_>) -> (Channel, Option<Channel>) {
    let words = [
        ("email", (Channel::Email, None)),
        ("record", (Channel::Record, None)),
        ("record-else-email", (Channel::Record, Some(Channel::Email))),
        ("email-else-record", (Channel::Email, Some(Channel::Record))),
    ];
    let (channel, fallback) = root.one_of("channel", &words).unwrap_or((Channel::Email, None));
    if (channel == Channel::Record || fallback == Some(Channel::Record)) && !root.names("record") {
        root.problem("channel", "needs a section [record]");
    }
    (channel, fallback)
}

fn settle(root: &Section<'_>) -> Option<SignedDuration> {
    match root.text("settle").as_deref() {
        None => Some(SignedDuration::from_mins(20)),
        Some("none") => None,
        Some(_) => root.duration("settle"),
    }
}

fn sender(section: &Section<'_>) -> Option<Sender> {
    let address: Option<Address> = section.required("address");
    let name = section.text("name");
    let bounces = section.read::<Address>("bounces").or_else(|| address.clone());
    if name.as_ref().is_some_and(|name| name.chars().any(char::is_control)) {
        section.problem("name", "must not hold line breaks or other control characters");
    }
    if let Some(long) =
        bounces.as_ref().filter(|bounces| bounces.local().len() + TOKEN_OCTETS > MAX_LOCAL_OCTETS)
    {
        let room = MAX_LOCAL_OCTETS - TOKEN_OCTETS;
        section.problem(
            "bounces",
            format_args!(
                "the part before the @ of {long} may have {room} characters, so that a token fits behind it"
            ),
        );
    }
    section.finish();
    Some(Sender { address: address?, name, bounces: bounces? })
}

fn recipient(section: &Section<'_>, chosen: Option<&Chosen>) -> Option<Recipient> {
    let fixed: Option<Address> = section.read("address");
    let pattern = section.text("pattern");
    section.finish();
    let is_told = section.names("address") || section.names("pattern");
    let of_profile = chosen.filter(|_| !is_told).and_then(|chosen| {
        let pattern = chosen.profile.recipient.as_ref()?;
        Some(fill(pattern, &chosen.parameters, "{ticket}"))
    });
    match (fixed, pattern.or(of_profile)) {
        (Some(address), None) => Some(Recipient::Fixed(address)),
        (None, Some(pattern)) => recipient_of_ticket(section, &pattern),
        // An address that cannot be read is told already.
        (None, None) if is_told => None,
        _ => {
            section.problem("address", "give either address or pattern");
            None
        }
    }
}

fn recipient_of_ticket(section: &Section<'_>, pattern: &str) -> Option<Recipient> {
    const TICKET: &str = "1234567890";
    let Some((before, after)) = pattern.split_once("{ticket}") else {
        section.problem("pattern", "must hold {ticket}, as in support+id{ticket}@crm.example.com");
        return None;
    };
    let recipient = Recipient::Ticket(before.to_owned(), after.to_owned());
    match recipient.address(TICKET) {
        Ok(address) if address.local().contains(TICKET) => return Some(recipient),
        Ok(_) => section.problem("pattern", "{ticket} must stand before the @"),
        Err(error) => section.problem("pattern", format_args!("with a ticket filled in, {error}")),
    }
    None
}

fn relay(
    section: &Section<'_>,
    base: &Path,
    url: Option<&RelayUrl>,
    sender: Option<&Sender>,
) -> Option<Relay> {
    let ServerPlace { host, port, tls, ca_file } = server_place(section, base, Tls::StartTls);
    let login = login(section, base);
    let connections = section.integer("connections", 1..=64).and_then(|n| u32::try_from(n).ok()).unwrap_or(4);
    let hello = section.text("hello").or_else(|| sender.map(|sender| sender.address.domain().to_owned()));
    // RFC 5321, section 4.5.3.2.
    let reply_timeout = section.duration("reply_timeout").unwrap_or(SignedDuration::from_mins(5));
    let message_timeout = section.duration("message_timeout").unwrap_or(SignedDuration::from_mins(10));
    section.finish();
    let tls = url.map_or(tls, |url| url.tls);
    let default_port = if tls == Tls::Implicit { 465 } else { 587 };
    if host.is_none() && url.is_none() {
        section.problem("host", "missing");
    }
    Some(Relay {
        host: url.map(|url| url.host.clone()).or(host)?,
        port: url.map_or(port.unwrap_or(default_port), |url| url.port),
        tls,
        ca_file,
        // No secret is sent in the clear to a relay that a flag put in place of the configured one.
        login: login.filter(|_| url.is_none_or(|url| url.tls != Tls::None)),
        connections,
        hello: hello?,
        reply_timeout,
        message_timeout,
    })
}

/// Where a server is, and how the connection is secured.
pub(super) struct ServerPlace {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) tls: Tls,
    pub(super) ca_file: Option<PathBuf>,
}

/// `host`, `port`, `tls` and `ca_file` of a section.
pub(super) fn server_place(section: &Section<'_>, base: &Path, usual: Tls) -> ServerPlace {
    let tls = section
        .one_of("tls", &[("implicit", Tls::Implicit), ("starttls", Tls::StartTls), ("none", Tls::None)]);
    let (host, port) = (section.text("host"), section.integer("port", 1..=65535));
    let ca_file = section.text("ca_file").map(|file| base.join(file));
    if let Some(file) = ca_file.as_ref().filter(|file| !file.is_file()) {
        section.problem("ca_file", format_args!("there is no file {}", file.display()));
    }
    ServerPlace {
        host,
        port: port.and_then(|port| u16::try_from(port).ok()),
        tls: tls.unwrap_or(usual),
        ca_file,
    }
}

/// `user` and `password`, or `oauth2`.
pub(super) fn login(section: &Section<'_>, base: &Path) -> Option<Login> {
    let user = section.text("user");
    let password = secret::load(section, "password", base);
    let oauth2 = section.section("oauth2");
    let tokens = oauth2::read(&oauth2, base);
    let password_is_given = user.is_some() || password.is_some();
    if user.is_some() != password.is_some() {
        section.problem("user", "user and password go together");
    }
    if password_is_given && oauth2.is_given() {
        section.problem("oauth2", "give either user and password or oauth2");
    }
    let password = user.zip(password).map(|(user, password)| Login::Password(user, password));
    password.or(tokens.map(Login::OAuth2))
}

fn retry(section: &Section<'_>) -> Retry {
    let retry = Retry {
        first: section.duration("first").unwrap_or(SignedDuration::from_mins(1)),
        longest: section.duration("longest").unwrap_or(SignedDuration::from_hours(1)),
        give_up_after: section.duration("give_up_after").unwrap_or(SignedDuration::from_hours(5 * 24)),
        resend_uncertain: section
            .one_of("on_uncertain", &[("resend", true), ("hold", false)])
            .unwrap_or(true),
    };
    section.finish();
    retry
}

fn missing_ticket(section: &Section<'_>) -> Option<MissingTicket> {
    let then = section.one_of("then", &[("hold", false), ("catch-all", true)]).unwrap_or(false);
    let address: Option<Address> = section.read("address");
    let wait = section.duration("wait").unwrap_or(SignedDuration::from_hours(1));
    section.finish();
    match (then, address) {
        (false, None) => Some(MissingTicket::Hold),
        (true, Some(address)) => Some(MissingTicket::CatchAll(address, wait)),
        (true, None) => {
            section.problem("address", "missing; \"catch-all\" needs the address that opens a new ticket");
            None
        }
        (false, Some(_)) => {
            section.problem("address", "is used only with then = \"catch-all\"");
            None
        }
    }
}

fn limits(section: &Section<'_>, profile: Option<&Profile>) -> Limits {
    let most = |key, range, default: usize| {
        section.integer(key, range).and_then(|n| usize::try_from(n).ok()).unwrap_or(default)
    };
    let limits = Limits {
        list_entries: most("list_entries", 1..=200, 10),
        note_characters: most("note_characters", 100..=20_000, 2_000),
        message_bytes: section
            .integer("message_bytes", 10_000..=100_000_000)
            .into_iter()
            .chain(profile.map(|profile| profile.message_bytes))
            .min()
            .unwrap_or(4_000_000),
    };
    section.finish();
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::profile::SHIPPED;

    const LEAST: &str = "[sender]\naddress = \"bridge@example.com\"\n[recipient]\naddress = \"crm@example.com\"\n\
        [profile]\nname = \"generic\"\n[relay]\nhost = \"mail.example.com\"\n";

    fn read(source: &str, overrides: &Overrides) -> Result<Tenant, Vec<String>> {
        let profiles = SHIPPED.iter().map(|(name, source)| {
            ((*name).to_owned(), Profile::parse(name, Path::new(name), source).unwrap())
        });
        let known = Known { profiles: profiles.collect(), ..Known::default() };
        parse("acme", Path::new("acme.toml"), source, Path::new("/nowhere"), &known, overrides)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn the_least_tenant_gets_safe_defaults() {
        let tenant = read(LEAST, &Overrides::default()).unwrap();
        assert_eq!((tenant.relay.tls, tenant.relay.port), (Tls::StartTls, 587));
        assert_eq!(tenant.settle, Some(SignedDuration::from_mins(20)));
        assert_eq!(tenant.missing_ticket, MissingTicket::Hold);
        assert_eq!(tenant.sender.bounces.as_str(), "bridge@example.com");
        assert_eq!(tenant.limits.message_bytes, 4_000_000);
    }

    #[test]
    fn problems_name_the_key() {
        let table = [
            ("colour = 1\n", "acme.toml:1: colour: unknown key"),
            ("time_zone = \"Mars/Base\"\n", "acme.toml:1: time_zone: \"Mars/Base\" is not a time zone"),
            ("[retry]\nfirts = \"1m\"\n", "acme.toml:2: retry.firts: unknown key; did you mean \"first\"?"),
            ("[missing_ticket]\nthen = \"catch-all\"\n", "acme.toml:1: missing_ticket.address: missing"),
            ("templates = \"none\"\n", "acme.toml:1: templates: there is no folder"),
        ];
        for (first, start) in table {
            let told = read(&format!("{first}{LEAST}"), &Overrides::default()).unwrap_err();
            assert!(told[0].starts_with(start), "{told:?}");
        }
    }

    #[test]
    fn a_recipient_is_fixed_or_made_from_the_ticket() {
        let with = |recipient: &str| {
            read(&LEAST.replace("address = \"crm@example.com\"", recipient), &Overrides::default())
        };
        let tenant = with("pattern = \"support+id{ticket}@crm.example.com\"").unwrap();
        assert_eq!(tenant.recipient.address("7").unwrap().as_str(), "support+id7@crm.example.com");
        assert!(tenant.recipient.address("7@evil.example,x").is_err());
        for wrong in [
            "pattern = \"support@crm.example.com\"",
            "pattern = \"support@{ticket}.example.com\"",
            "pattern = \"sup port{ticket}@crm.example.com\"",
            "address = \"a@example.com\"\npattern = \"a{ticket}@example.com\"",
            "",
        ] {
            assert!(with(wrong).is_err_and(|told| !told.is_empty()), "{wrong}");
        }
    }

    #[test]
    fn a_profile_gets_the_values_it_needs_and_no_others() {
        let with = |profile: &str| read(&LEAST.replace("name = \"generic\"", profile), &Overrides::default());
        assert!(with("name = \"rt\"\nvalues = { rtname = \"rt.example.com\" }").is_ok());
        assert_eq!(
            with("name = \"rt\"").unwrap_err(),
            ["acme.toml:5: profile.values: the profile rt needs a value for rtname"]
        );
        assert!(with("name = \"rt\"\nvalues = { rtname = \"a] [b\" }").is_err());
        assert!(
            with("name = \"generic\"\nvalues = { rtname = \"x\" }").unwrap_err()[0]
                .contains("no such parameter")
        );
        assert!(with("name = \"rtt\"").unwrap_err()[0].contains("there are chatwoot, dynamics, "));
    }

    #[test]
    fn a_bounce_mailbox_leaves_room_for_the_token() {
        let long = LEAST.replace("bridge@", "contact-centre-updates@");
        assert!(read(&long, &Overrides::default()).unwrap_err()[0].contains("may have 15 characters"));
        let apart = long.replace("[recipient]", "bounces = \"bounce@example.com\"\n[recipient]");
        assert_eq!(read(&apart, &Overrides::default()).unwrap().sender.bounces.local(), "bounce");
    }

    #[test]
    fn a_relay_url_takes_the_place_of_the_file() {
        let overrides = Overrides { relay: Some("smtp://127.0.0.1:2525".parse().unwrap()), templates: None };
        let relay = read(LEAST, &overrides).unwrap().relay;
        assert_eq!((relay.host.as_str(), relay.port, relay.tls), ("127.0.0.1", 2525, Tls::None));
        assert_eq!("smtps://[::1]:465".parse::<RelayUrl>().unwrap().host, "::1");
        // A secret goes along where TLS is kept, and not in the clear.
        let secret = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.dns");
        for login in [
            format!("user = \"u\"\npassword = {{ file = \"{secret}\" }}"),
            format!(
                "[relay.oauth2]\nuser = \"u\"\ntoken_url = \"https://login.example.com\"\nclient_id = \"c\"\n\
                 refresh_token = {{ file = \"{secret}\" }}"
            ),
        ] {
            for (url, goes) in
                [("smtp://h:25", false), ("smtps://h:465", true), ("smtp+starttls://h:587", true)]
            {
                let overrides = Overrides { relay: Some(url.parse().unwrap()), templates: None };
                let relay = read(&format!("{LEAST}{login}\n"), &overrides).unwrap().relay;
                assert_eq!(relay.login.is_some(), goes, "{url} with {login}");
            }
        }
        for wrong in ["127.0.0.1:25", "smtp://host", "smtp://host:x", "http://host:25"] {
            assert!(wrong.parse::<RelayUrl>().is_err(), "{wrong}");
        }
    }
}
