//! AUTH (RFC 4954): PLAIN, LOGIN and XOAUTH2, spoken by ourselves, so that what they carry reaches no log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::connect::{Unusable, within};
use super::dialogue::{Reply, command};
use super::outcome::Stage;
use super::stream::Stream;
use super::tls::{TlsError, client_config};
use crate::clock::Clock;
use crate::config::secret::Secret;
use crate::config::tenant::{Login, Relay};
use crate::oauth::Tokens;

/// The reply that asks for more, and the one that is content (RFC 4954, section 4).
const GO_ON: u16 = 334;
const CONTENT: u16 = 235;

/// The most characters of a server's reason.
const MAX_REASON: usize = 300;

/// The tokens for a relay that takes them.
pub fn tokens(relay: &Relay, clock: Clock) -> Result<Option<Tokens>, TlsError> {
    let Some(Login::OAuth2(config)) = &relay.login else { return Ok(None) };
    Ok(Some(Tokens::new(config, client_config(relay.ca_file.as_deref())?, clock)?))
}

/// What a connection authenticates with.
pub(super) enum Pass<'p> {
    Password(&'p str, &'p Secret),
    Token(&'p str, Secret),
}

impl<'p> Pass<'p> {
    /// The relay's pass; none where it asks for none.
    pub(super) async fn of(relay: &'p Relay, tokens: Option<&Tokens>) -> Result<Option<Self>, Unusable> {
        match (&relay.login, tokens) {
            (None, _) => Ok(None),
            (Some(Login::Password(user, password)), _) => Ok(Some(Self::Password(user, password))),
            (Some(Login::OAuth2(config)), Some(tokens)) => {
                let token = tokens.get().await.map_err(|error| Unusable::new(Stage::Auth, &error))?;
                Ok(Some(Self::Token(&config.user, token)))
            }
            (Some(Login::OAuth2(_)), None) => Err(Unusable::new(Stage::Auth, &"there are no access tokens")),
        }
    }

    /// Authenticates with the best mechanism that the server offered and the pass fits.
    pub(super) async fn present(
        &self,
        relay: &Relay,
        stream: &mut Stream,
        offered: &[String],
    ) -> Result<(), Unusable> {
        let offers = |mechanism: &str| offered.iter().any(|offer| offer == mechanism);
        let (reply, reason) = match self {
            Self::Token(user, token) if offers("XOAUTH2") => xoauth2(relay, stream, user, token).await?,
            Self::Password(user, password) if offers("PLAIN") => {
                // RFC 4616: no other identity, then user and password, parted by NUL.
                let words = STANDARD.encode(format!("\0{user}\0{}", password.expose()));
                (say(relay, stream, &format!("AUTH PLAIN {words}")).await?, String::new())
            }
            Self::Password(user, password) if offers("LOGIN") => {
                (login(relay, stream, user, password).await?, String::new())
            }
            Self::Token(..) => {
                return Err(Unusable::new(Stage::Auth, &"the relay does not offer AUTH XOAUTH2"));
            }
            Self::Password(..) => {
                return Err(Unusable::new(Stage::Auth, &"the relay offers neither AUTH PLAIN nor LOGIN"));
            }
        };
        if reply.code == CONTENT {
            return Ok(());
        }
        let text = [reply.text(), reason].join(" ").trim().to_owned();
        Err(Unusable { stage: Stage::Auth, code: Some(reply.code), text })
    }

    /// Forgets a token that the server refused for good; the next attempt fetches another.
    pub(super) async fn refused(&self, tokens: Option<&Tokens>, why: &Unusable) {
        if let (Self::Token(_, token), Some(tokens), Some(500..=599)) = (self, tokens, why.code) {
            tokens.forget(token).await;
        }
    }
}

async fn say(relay: &Relay, stream: &mut Stream, line: &str) -> Result<Reply, Unusable> {
    within(relay, Stage::Auth, command(stream, line)).await
}

/// The server asks for the user, then for the password; its wording is its own.
async fn login(relay: &Relay, stream: &mut Stream, user: &str, password: &Secret) -> Result<Reply, Unusable> {
    let mut reply = say(relay, stream, "AUTH LOGIN").await?;
    for words in [user, password.expose()] {
        if reply.code != GO_ON {
            break;
        }
        reply = say(relay, stream, &STANDARD.encode(words)).await?;
    }
    Ok(reply)
}

/// A server that refuses may tell its reason with 334; an empty line then asks for the reply that decides.
async fn xoauth2(
    relay: &Relay,
    stream: &mut Stream,
    user: &str,
    token: &Secret,
) -> Result<(Reply, String), Unusable> {
    let words = STANDARD.encode(format!("user={user}\x01auth=Bearer {}\x01\x01", token.expose()));
    let reply = say(relay, stream, &format!("AUTH XOAUTH2 {words}")).await?;
    if reply.code != GO_ON {
        return Ok((reply, String::new()));
    }
    let reason = STANDARD.decode(reply.lines.join("").trim()).unwrap_or_default();
    let reason = String::from_utf8_lossy(&reason).replace(token.expose(), "(token)");
    let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    Ok((say(relay, stream, "").await?, reason))
}
