//! Where access tokens come from: `[relay.oauth2]` and `[record.login]` of a tenant's file.

use std::path::Path;

use reqwest::Url;

use super::reader::Section;
use super::secret::{self, Secret};

/// A client of an authorization server (RFC 6749).
#[derive(Debug, Clone)]
pub struct OAuth2 {
    /// The mailbox; empty for tokens that open no relay.
    pub user: String,
    /// The token endpoint.
    pub token_url: Url,
    /// The client's name.
    pub client_id: String,
    /// The client's secret; a public client has none.
    pub client_secret: Option<Secret>,
    /// With it the grant is `refresh_token`, without it `client_credentials`.
    pub refresh_token: Option<Secret>,
    /// What the tokens are asked for.
    pub scope: Option<String>,
    /// With it the grant is a signed assertion (RFC 7523).
    pub assertion: Option<Box<Assertion>>,
}

/// What a client says of itself with its own key in place of a secret (RFC 7523, section 3).
#[derive(Debug, Clone)]
pub struct Assertion {
    /// Who says it; usually the client's name.
    pub issuer: String,
    /// The user for whom the tokens are.
    pub subject: String,
    /// To whom it is said.
    pub audience: String,
    /// The private key in PEM: RSA.
    pub key: Secret,
}

/// Reads the section; none where it is not there. A relative path starts at `base`.
pub(super) fn read(section: &Section<'_>, base: &Path) -> Option<OAuth2> {
    if !section.is_given() {
        return None;
    }
    let user: Option<String> = section.required("user");
    // \x01 parts the fields of XOAUTH2.
    if user.as_ref().is_some_and(|user| user.is_empty() || user.chars().any(char::is_control)) {
        section.problem("user", "must not be empty or hold control characters");
    }
    let client = client(section, base);
    section.finish();
    // RFC 6749, section 4.4: client credentials are for confidential clients only.
    if !section.names("client_secret") && !section.names("refresh_token") {
        section.problem("client_secret", "missing; without a refresh_token the client needs a secret");
    }
    Some(OAuth2 { user: user?, ..client? })
}

/// Reads what every client has. A client of none but an assertion has no secret.
pub(super) fn client(section: &Section<'_>, base: &Path) -> Option<OAuth2> {
    let token_url: Option<Url> = section.required("token_url");
    if let Some(reason) = token_url.as_ref().and_then(refusal) {
        section.problem("token_url", reason);
    }
    let client_id = section.required("client_id");
    let client_secret = secret::load(section, "client_secret", base);
    let refresh_token = secret::load(section, "refresh_token", base);
    let scope = section.text("scope");
    Some(OAuth2 {
        user: String::new(),
        token_url: token_url?,
        client_id: client_id?,
        client_secret,
        refresh_token,
        scope,
        assertion: None,
    })
}

/// Why no secret is sent there; none for a URL that is fit (RFC 6749, section 3.2).
pub(super) fn refusal(url: &Url) -> Option<&'static str> {
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(url) => {}
        _ => return Some("must begin with https://; http:// is for this machine only"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("must not hold a user or a password");
    }
    url.fragment().map(|_| "must not hold a fragment")
}

/// Whether the URL is of this machine by its text.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_only_where_nobody_else_reads_them() {
        let table = [
            ("https://login.example.com/token", true),
            ("https://login.example.com:8443/token?tenant=a", true),
            ("http://127.0.0.1:8080/token", true),
            ("http://[::1]/token", true),
            ("http://localhost/token", true),
            ("http://login.example.com/token", false),
            ("http://localhost.example.com/token", false),
            ("http://127.0.0.1.example.com/token", false),
            ("ftp://login.example.com/token", false),
            ("https://u:p@login.example.com/token", false),
            ("https://login.example.com/token#a", false),
        ];
        for (url, fit) in table {
            assert_eq!(refusal(&url.parse().unwrap()).is_none(), fit, "{url}");
        }
    }
}
