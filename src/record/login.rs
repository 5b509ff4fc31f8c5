//! What a request brings, so that the CRM knows us. No secret of it reaches a log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::clock::Clock;
use crate::config::record::{Login, Record};
use crate::config::secret::Secret;
use crate::deliver::tls::{TlsError, client_config};
use crate::oauth::Tokens;

/// A tenant's login, with its tokens.
pub struct Pass {
    login: Login,
    tokens: Option<Tokens>,
}

/// What one request is sent with.
pub struct Presented {
    /// The field; none for a login within the body.
    pub header: Option<(HeaderName, HeaderValue)>,
    /// The secret within, which an answer may quote.
    pub secret: Secret,
}

impl Pass {
    /// The pass of a tenant; nothing is fetched yet.
    pub fn new(record: &Record, clock: Clock) -> Result<Self, TlsError> {
        let tokens = match &record.login {
            Login::OAuth2(client, _) => {
                Some(Tokens::new(client, client_config(record.ca_file.as_deref())?, clock)?)
            }
            _ => None,
        };
        Ok(Self { login: record.login.clone(), tokens })
    }

    /// What to send now; or why there is nothing to send.
    pub async fn present(&self) -> Result<Presented, String> {
        let (name, value, secret) = match &self.login {
            Login::Header(name, pattern, secret) => {
                (name.as_str(), pattern.replace("{secret}", secret.expose()), secret.clone())
            }
            Login::Basic(user, password) => {
                let words = STANDARD.encode(format!("{user}:{}", password.expose()));
                (AUTHORIZATION.as_str(), format!("Basic {words}"), password.clone())
            }
            Login::Key(key) => {
                let words = STANDARD.encode(format!("{}:X", key.expose()));
                (AUTHORIZATION.as_str(), format!("Basic {words}"), key.clone())
            }
            Login::OAuth2(_, scheme) => {
                let tokens = self.tokens.as_ref().ok_or("there are no access tokens")?;
                let token = tokens.get().await.map_err(|error| error.to_string())?;
                (AUTHORIZATION.as_str(), format!("{scheme} {}", token.expose()), token)
            }
            Login::Body(_, secret) => return Ok(Presented { header: None, secret: secret.clone() }),
        };
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| "record.login.header is not the name of a header field")?;
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| "the login cannot stand in a header field".to_owned())?;
        value.set_sensitive(true);
        Ok(Presented { header: Some((name, value)), secret })
    }

    /// User and secret for a recipe that writes them into the request; empty for every other login.
    pub fn in_body(&self) -> (&str, &str) {
        match &self.login {
            Login::Body(user, secret) => (user, secret.expose()),
            _ => ("", ""),
        }
    }

    /// Forgets a token that the CRM refused. True when another one can be fetched.
    pub async fn refused(&self, presented: &Presented) -> bool {
        let Some(tokens) = &self.tokens else { return false };
        tokens.forget(&presented.secret).await;
        true
    }

    /// A text of the CRM without the secrets that it may quote.
    pub fn without_secrets(&self, text: &str, presented: &Presented) -> String {
        let text = text.replace(presented.secret.expose(), "(secret)");
        let encoded = presented.header.as_ref().and_then(|(_, value)| value.to_str().ok());
        let encoded = encoded.and_then(|value| value.split(' ').nth(1)).filter(|word| word.len() > 3);
        encoded.map_or(text.clone(), |word| text.replace(word, "(secret)"))
    }
}
