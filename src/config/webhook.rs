//! A program that is told what comes back: `[reactions.webhook]` of a tenant's file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

use super::oauth2::{is_loopback, refusal};
use super::reader::Section;
use super::secret::{self, Secret};

/// What secrets of the Standard Webhooks form begin with; base64 follows.
const ENCODED: &str = "whsec_";

/// Where a tenant's alerts and replies are posted.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The whole URL. Its query may hold a secret and is told to nobody else.
    pub url: Url,
    /// The secret that both sides know.
    pub secret: Secret,
    /// Whether the URL may be at an address of this machine or of a private network.
    pub allow_private: bool,
}

impl Webhook {
    /// Where it is, as `host:port`.
    pub fn place(&self) -> String {
        let port = self.url.port_or_known_default().unwrap_or_default();
        format!("{}:{port}", self.url.host_str().unwrap_or_default())
    }

    /// The URL as the store and the log know it: without the query.
    pub fn target(&self) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url
    }

    /// The octets that sign: what `whsec_` encodes, else the secret as it is written.
    pub fn key(&self) -> Vec<u8> {
        key(&self.secret).unwrap_or_default()
    }
}

/// The octets of a secret; none for one that says it is base64 and is not.
fn key(secret: &Secret) -> Option<Vec<u8>> {
    match secret.expose().strip_prefix(ENCODED) {
        Some(encoded) => STANDARD.decode(encoded).ok().filter(|key| !key.is_empty()),
        None => Some(secret.expose().as_bytes().to_vec()),
    }
}

/// Reads the section; none where it is not there. A relative path starts at `base`.
pub(super) fn read(section: &Section<'_>, base: &Path) -> Option<Webhook> {
    if !section.is_given() {
        return None;
    }
    let url: Option<Url> = section.required("url");
    if let Some(reason) = url.as_ref().and_then(refusal) {
        section.problem("url", reason);
    }
    let secret = secret::load(section, "secret", base);
    if !section.names("secret") {
        section.problem("secret", "missing; without it the receiver cannot tell who writes");
    }
    if secret.as_ref().is_some_and(|secret| key(secret).is_none()) {
        section.problem("secret", "begins with whsec_, and no base64 follows");
    }
    let allow_private = section.truth("allow_private").unwrap_or(false);
    section.finish();
    let url = url?;
    // Whoever writes the name of this machine means it.
    Some(Webhook { allow_private: allow_private || is_loopback(&url), url, secret: secret? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reader::Document;

    fn read_with(secret: &str, keys: &str) -> Result<Webhook, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s"), secret).unwrap();
        let source = format!("secret = {{ file = \"s\" }}\n{keys}");
        let document = Document::parse(Path::new("t.toml"), &source);
        let webhook = read(&document.root(), folder.path());
        let problems: Vec<String> = document.into_problems().iter().map(ToString::to_string).collect();
        if problems.is_empty() { Ok(webhook.unwrap()) } else { Err(problems) }
    }

    #[test]
    fn a_webhook_is_where_nobody_else_reads_it() {
        let table = [
            ("https://desk.example.com/hooks/1", true, false),
            ("http://127.0.0.1:8080/hook", true, true),
            ("http://desk.example.com/hook", false, false),
            ("https://u:p@desk.example.com/hook", false, false),
            ("https://desk.example.com/hook#a", false, false),
        ];
        for (url, fit, private) in table {
            let webhook = read_with("hunter2", &format!("url = \"{url}\""));
            assert_eq!(webhook.is_ok(), fit, "{url}");
            assert!(webhook.is_ok_and(|webhook| webhook.allow_private == private) || !fit, "{url}");
        }
        assert!(read_with("hunter2", "").unwrap_err()[0].contains("url"));
    }

    #[test]
    fn a_secret_is_octets_or_their_base64_and_never_shows() {
        let url = "url = \"https://desk.example.com:8443/hook?key=abc\"";
        let plain = read_with("hunter2", url).unwrap();
        assert_eq!(plain.key(), b"hunter2");
        assert!(!format!("{plain:?}").contains("hunter2"));
        assert_eq!(read_with("whsec_AAECAw==", url).unwrap().key(), [0, 1, 2, 3]);
        let told = read_with("whsec_hunter2!", url).unwrap_err();
        assert!(told[0].contains("no base64 follows") && !told[0].contains("hunter2"), "{told:?}");
        assert_eq!(plain.target().as_str(), "https://desk.example.com:8443/hook");
        assert_eq!(plain.place(), "desk.example.com:8443");
    }
}
