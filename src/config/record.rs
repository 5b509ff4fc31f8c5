//! The record channel of a tenant: `[record]`, its login, and where its CRM is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use reqwest::Url;
use reqwest::header::HeaderName;

use super::chosen::Chosen;
use super::oauth2::{self, Assertion, OAuth2};
use super::rate::{self, Budget};
use super::reader::Section;
use super::recipe::Recipe;
use super::secret::{self, Secret};
use super::ticket::Identity;

/// How a tenant's CRM is reached over REST.
#[derive(Debug, Clone)]
pub struct Record {
    /// The requests.
    pub recipe: Recipe,
    /// Scheme, host, port and the path below which all requests are; without a slash at its end.
    pub base: Url,
    /// Whether `out_ticket_id` is the internal id, so that nothing has to be looked up.
    pub ticket_is_id: bool,
    /// What every request brings.
    pub login: Login,
    /// A PEM file with a certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether the CRM may be at an address of this machine or of a private network.
    pub allow_private: bool,
    /// The hosts of ticket URLs that ids may be taken from.
    pub ticket_hosts: Vec<String>,
    /// The most requests at a time.
    pub connections: u32,
    /// The longest wait for a connection.
    pub connect_timeout: SignedDuration,
    /// The longest wait for a whole answer, from the connection on.
    pub answer_timeout: SignedDuration,
    /// The values of the recipe's parameters.
    pub values: BTreeMap<String, String>,
    /// How much may be attached in a time.
    pub budgets: Vec<Budget>,
}

/// What every request brings, so that the CRM knows us.
#[derive(Debug, Clone)]
pub enum Login {
    /// A header field; `{secret}` in its value is replaced.
    Header(String, String, Secret),
    /// User and password (RFC 7617).
    Basic(String, Secret),
    /// A secret that is itself the user, with the password `X`.
    Key(Secret),
    /// An access token behind this scheme's name.
    OAuth2(Box<OAuth2>, String),
    /// User and secret that the recipe writes into the request.
    Body(String, Secret),
}

impl Record {
    /// Where the CRM is, as `host:port`.
    pub fn place(&self) -> String {
        let port = self.base.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.base.host_str().unwrap_or_default())
    }
}

/// Reads the section. Without `recipe` the one named as the profile is taken.
pub(super) fn read(
    section: &Section<'_>,
    base: &Path,
    profile: Option<&Chosen>,
    recipes: &BTreeMap<String, Recipe>,
    tenant: &str,
) -> Option<Record> {
    if !section.is_given() {
        return None;
    }
    let recipe = chosen(section, profile.map(|chosen| chosen.profile.name.as_str()), recipes);
    let number = profile.is_some_and(|chosen| chosen.tickets.identity == Identity::Number);
    let allow_private = section.truth("allow_private").unwrap_or(false);
    let url = place(section, allow_private);
    let login = login(&section.section("login"), base);
    let ca_file = section.text("ca_file").map(|file| base.join(file));
    if let Some(file) = ca_file.as_ref().filter(|file| !file.is_file()) {
        section.problem("ca_file", format_args!("there is no file {}", file.display()));
    }
    let ticket_hosts = section.texts("ticket_hosts");
    let connections = section.integer("connections", 1..=16).and_then(|n| u32::try_from(n).ok()).unwrap_or(2);
    let connect_timeout = section.duration("connect_timeout").unwrap_or(SignedDuration::from_secs(15));
    let answer_timeout = section.duration("answer_timeout").unwrap_or(SignedDuration::from_mins(2));
    let values = recipe.as_ref().map(|recipe| values(section, recipe));
    let rate = section.section("rate");
    let budgets = rate::read(&rate, &format!("record {tenant}"));
    rate.finish();
    section.finish();
    let recipe = recipe?;
    Some(Record {
        ticket_is_id: recipe.one_id || !number,
        recipe,
        base: url?,
        login: login?,
        ca_file,
        allow_private,
        ticket_hosts,
        connections,
        connect_timeout,
        answer_timeout,
        values: values?,
        budgets,
    })
}

fn chosen(
    section: &Section<'_>,
    profile: Option<&str>,
    recipes: &BTreeMap<String, Recipe>,
) -> Option<Recipe> {
    let name = section.text("recipe").or(profile.map(str::to_owned))?;
    let found = recipes.get(&name);
    if found.is_none() {
        let known: Vec<&str> = recipes.keys().map(String::as_str).collect();
        section
            .problem("recipe", format_args!("there is no recipe {name:?}; there are {}", known.join(", ")));
    }
    found.cloned()
}

fn place(section: &Section<'_>, allow_private: bool) -> Option<Url> {
    let mut url: Url = section.required("base")?;
    if let Some(reason) = oauth2::refusal(&url) {
        section.problem("base", reason);
    } else if url.query().is_some() {
        section.problem("base", "must not hold a query");
    } else if url.scheme() == "http" && !allow_private {
        section.problem("base", "http:// needs allow_private = true, and is for this machine only");
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Some(url)
}

/// The parameters' values: those of the section, else the recipe's own.
fn values(section: &Section<'_>, recipe: &Recipe) -> BTreeMap<String, String> {
    let given = section.section("values");
    let mut values: BTreeMap<String, String> = recipe.defaults.iter().cloned().collect();
    for (key, value) in given.pairs() {
        if !recipe.parameters.contains(&key) && !values.contains_key(&key) {
            given.problem(&key, format_args!("the recipe {} has no such parameter", recipe.name));
        }
        if value.chars().any(char::is_control) {
            given.problem(&key, "must not hold control characters");
        }
        values.insert(key, value);
    }
    for missing in recipe.parameters.iter().filter(|name| !values.contains_key(*name)) {
        section.problem("values", format_args!("the recipe {} needs a value for {missing}", recipe.name));
    }
    values
}

/// Reads the keys of one kind of login.
type Reader = fn(&Section<'_>, &Path) -> Option<Login>;

fn login(section: &Section<'_>, base: &Path) -> Option<Login> {
    if !section.is_given() {
        section.problem("kind", "missing; the CRM must know who writes");
    }
    let kinds: [(&str, Reader); 6] = [
        ("header", header),
        ("basic", |section, base| {
            let user: Option<String> = section.required("user");
            needed(section, "password", base).zip(user).map(|(password, user)| Login::Basic(user, password))
        }),
        ("key", |section, base| needed(section, "secret", base).map(Login::Key)),
        ("oauth2", tokens),
        ("jwt", asserted),
        ("body", |section, base| {
            let user: Option<String> = section.required("user");
            needed(section, "secret", base).zip(user).map(|(secret, user)| Login::Body(user, secret))
        }),
    ];
    let login = section.one_of("kind", &kinds)?(section, base);
    section.finish();
    login
}

/// A secret that must be there.
fn needed(section: &Section<'_>, key: &'static str, base: &Path) -> Option<Secret> {
    let secret = secret::load(section, key, base);
    if !section.names(key) {
        section.problem(key, "missing");
    }
    secret
}

fn header(section: &Section<'_>, base: &Path) -> Option<Login> {
    let name = section.text("header").unwrap_or_else(|| "Authorization".to_owned());
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        section.problem("header", "is not the name of a header field");
    }
    let value: Option<String> = section.required("value");
    if value.as_ref().is_some_and(|value| !value.contains("{secret}")) {
        section.problem("value", "must hold {secret}, as in \"Bearer {secret}\"");
    }
    needed(section, "secret", base).zip(value).map(|(secret, value)| Login::Header(name, value, secret))
}

fn tokens(section: &Section<'_>, base: &Path) -> Option<Login> {
    let (client, scheme) = (oauth2::client(section, base), scheme(section));
    // RFC 6749, section 4.4: client credentials are for confidential clients only.
    if !section.names("client_secret") && !section.names("refresh_token") {
        section.problem("client_secret", "missing; without a refresh_token the client needs a secret");
    }
    Some(Login::OAuth2(Box::new(client?), scheme))
}

fn asserted(section: &Section<'_>, base: &Path) -> Option<Login> {
    let (client, scheme) = (oauth2::client(section, base), scheme(section));
    let (subject, audience) = (section.required("subject"), section.text("audience"));
    let key = needed(section, "key", base);
    let client = client?;
    let audience = audience.unwrap_or_else(|| client.token_url.origin().ascii_serialization());
    let assertion = Assertion { issuer: client.client_id.clone(), subject: subject?, audience, key: key? };
    let client = OAuth2 { assertion: Some(Box::new(assertion)), ..client };
    Some(Login::OAuth2(Box::new(client), scheme))
}

fn scheme(section: &Section<'_>) -> String {
    section.text("scheme").unwrap_or_else(|| "Bearer".to_owned())
}
