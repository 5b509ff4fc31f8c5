//! Access tokens (RFC 6749): fetched when one is needed, kept until shortly before their end.

mod jwt;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Response, redirect};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::debug;

use crate::clock::Clock;
use crate::config::oauth2::OAuth2;
use crate::config::secret::Secret;

/// The longest wait for a token, from the connection to the last octet of the answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// The most octets of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// The most octets of a token: RFC 4954, section 4 allows 12,288 for the line that carries it in base64.
const MAX_TOKEN: usize = 8 * 1024;
/// The most characters of each text that a server gives as its reason.
const MAX_REASON: usize = 200;
/// The life of a token whose server does not tell it; RFC 6749, section 5.1 allows that.
const UNTOLD_LIFE: i64 = 600;
/// The longest life that we believe.
const LONGEST_LIFE: i64 = 24 * 60 * 60;
/// How long before its end a token is renewed, unless that is most of its life.
const EARLY: i64 = 5 * 60;
/// After a failure the server is not asked again for so long, whoever needs a token: a queue of mails must not
/// become a flood of requests.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);

/// Why there is no token. The text holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no access token from {server}: {reason}")]
pub struct NoToken {
    server: String,
    reason: String,
}

/// The grant by an assertion (RFC 7523, section 2.1).
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// One client's access tokens. Clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    config: OAuth2,
    http: Client,
    clock: Clock,
    /// Locked while a token is fetched: whoever needs one meanwhile waits for that one.
    state: Mutex<State>,
}

struct State {
    token: Option<Token>,
    /// The one to use next: a server may replace it with each token (RFC 6749, section 6).
    refresh_token: Option<Secret>,
    failure: Option<(Timestamp, NoToken)>,
}

struct Token {
    secret: Secret,
    renewed_from: Timestamp,
    ends: Timestamp,
}

/// What a server granted.
struct Grant {
    access_token: Secret,
    refresh_token: Option<Secret>,
    life: i64,
}

impl Tokens {
    /// Tokens for this client; nothing is fetched yet. `tls` says whom to trust.
    pub fn new(config: &OAuth2, tls: ClientConfig, clock: Clock) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .tls_backend_preconfigured(tls)
            // A redirect or a proxy of the environment would be given the secrets.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(DEADLINE)
            .build()?;
        let refresh_token = config.refresh_token.clone();
        let state = Mutex::new(State { token: None, refresh_token, failure: None });
        Ok(Self(Arc::new(Shared { config: config.clone(), http, clock, state })))
    }

    /// A token that is good now: the kept one, or a new one.
    pub async fn get(&self) -> Result<Secret, NoToken> {
        let shared = &*self.0;
        let mut state = shared.state.lock().await;
        let now = shared.clock.now();
        if let Some(token) = state.token.as_ref().filter(|token| now < token.renewed_from) {
            return Ok(token.secret.clone());
        }
        let failure = match state.failure.take().filter(|(at, _)| now.duration_since(*at) < PAUSE) {
            Some(recent) => recent,
            None => match shared.fetch(state.refresh_token.as_ref()).await {
                Ok(grant) => {
                    state.refresh_token = grant.refresh_token.or(state.refresh_token.take());
                    // Counted from the question, so that the way of the answer is not taken for life.
                    let token = Token::new(grant.access_token, grant.life, now);
                    return Ok(state.token.insert(token).secret.clone());
                }
                Err(reason) => (shared.clock.now(), NoToken { server: shared.server(), reason }),
            },
        };
        state.failure = Some(failure.clone());
        match state.token.as_ref().filter(|token| shared.clock.now() < token.ends) {
            Some(token) => Ok(token.secret.clone()),
            None => Err(failure.1),
        }
    }

    /// Forgets a token that the relay refused, unless it has been replaced already.
    pub async fn forget(&self, refused: &Secret) {
        let mut state = self.0.state.lock().await;
        state.token.take_if(|token| token.secret.expose() == refused.expose());
    }
}

impl Token {
    fn new(secret: Secret, life: i64, now: Timestamp) -> Self {
        let after =
            |seconds| now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        Self { secret, renewed_from: after((life - EARLY).max(life * 4 / 5)), ends: after(life) }
    }
}

impl Shared {
    fn server(&self) -> String {
        self.config.token_url.host_str().unwrap_or_default().to_owned()
    }

    /// Asks the server (RFC 6749, sections 4.4.2 and 6); the client names itself in the body (section 2.3.1).
    async fn fetch(&self, refresh_token: Option<&Secret>) -> Result<Grant, String> {
        let config = &self.config;
        let mut form = vec![("client_id", config.client_id.as_str())];
        let assertion =
            config.assertion.as_ref().map(|config| jwt::assertion(config, self.clock.now())).transpose()?;
        match (&assertion, refresh_token) {
            (Some(assertion), _) => form.extend([("grant_type", JWT_BEARER), ("assertion", assertion)]),
            (None, Some(token)) => {
                form.extend([("grant_type", "refresh_token"), ("refresh_token", token.expose())]);
            }
            (None, None) => form.push(("grant_type", "client_credentials")),
        }
        form.extend(config.client_secret.as_ref().map(|secret| ("client_secret", secret.expose())));
        form.extend(config.scope.as_ref().map(|scope| ("scope", scope.as_str())));
        let request =
            self.http.post(config.token_url.clone()).header("accept", "application/json").form(&form);
        let mut response = request.send().await.map_err(told)?;
        let body = body(&mut response).await?;
        let result =
            if response.status().is_success() { granted(&body) } else { Err(refusal(&response, &body)) };
        let grant = result.map_err(|reason| self.without_secrets(reason, refresh_token))?;
        debug!(server = self.server(), seconds = grant.life, "fetched an access token");
        Ok(grant)
    }

    /// A server may quote what it was sent. An assertion is not: its end is near, and it is too long to be quoted whole.
    fn without_secrets(&self, reason: String, refresh_token: Option<&Secret>) -> String {
        let secrets = self.config.client_secret.iter().chain(refresh_token);
        secrets.fold(reason, |reason, secret| reason.replace(secret.expose(), "(secret)"))
    }
}

async fn body(response: &mut Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err(format!("the answer is longer than {MAX_ANSWER} octets"));
        }
    }
    Ok(body)
}

/// Reads what was granted (RFC 6749, section 5.1).
fn granted(body: &[u8]) -> Result<Grant, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON".to_owned())?;
    let text = |key| answer.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("access_token").ok_or("the answer has no access_token")?;
    // It stands between separators in the AUTH exchange; RFC 6750, section 2.1 has a narrower set still.
    if token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the answer's access_token is none".to_owned());
    }
    if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("the answer's token is not of the type Bearer".to_owned());
    }
    // Some servers write the number as a string.
    let life =
        answer.get("expires_in").and_then(|life| life.as_i64().or_else(|| life.as_str()?.parse().ok()));
    Ok(Grant {
        access_token: Secret::new(token.to_owned()),
        refresh_token: text("refresh_token").map(|token| Secret::new(token.to_owned())),
        life: life.unwrap_or(UNTOLD_LIFE).clamp(0, LONGEST_LIFE),
    })
}

/// The server's reason (RFC 6749, section 5.2), bounded and printable.
fn refusal(response: &Response, body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let texts = ["error", "error_description"].map(|key| answer.get(key).and_then(Value::as_str));
    let texts = texts.into_iter().flatten().map(printable).collect::<Vec<_>>().join(": ");
    let status = response.status().as_u16();
    if texts.is_empty() { format!("status {status}") } else { format!("status {status}, {texts}") }
}

fn printable(text: &str) -> String {
    let visible = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(MAX_REASON).map(visible).collect()
}

/// What went wrong on the way. The URL is left out: it may hold more than the host.
fn told(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", DEADLINE.as_secs());
    }
    let error = error.without_url();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_its_end_and_not_much_earlier() {
        for (life, from) in [(3600, 3300), (1500, 1200), (600, 480), (60, 48), (0, 0)] {
            let token = Token::new(Secret::new("t".to_owned()), life, Timestamp::UNIX_EPOCH);
            assert_eq!((token.renewed_from.as_second(), token.ends.as_second()), (from, life));
        }
    }

    #[test]
    fn an_answer_is_a_grant_or_says_why_not() {
        let long = format!(r#"{{"access_token":"{}"}}"#, "t".repeat(MAX_TOKEN + 1));
        let table = [
            (r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, "t 3600 -"),
            (
                r#"{"access_token":"t","token_type":"bearer","expires_in":"3599","refresh_token":"r"}"#,
                "t 3599 r",
            ),
            (r#"{"access_token":"t"}"#, "t 600 -"),
            (r#"{"access_token":"t","expires_in":-5,"refresh_token":""}"#, "t 0 -"),
            (r#"{"access_token":"t","expires_in":99999999999}"#, "t 86400 -"),
            (r#"{"access_token":"t","expires_in":1e400}"#, "t 600 -"),
            (r#"{"access_token":""}"#, "the answer has no access_token"),
            (r#"{"access_token":7}"#, "the answer has no access_token"),
            (r#"{"access_token":"t\u0001auth=x"}"#, "the answer's access_token is none"),
            (r#"{"access_token":"t","token_type":"mac"}"#, "the answer's token is not of the type Bearer"),
            (r"[]", "the answer has no access_token"),
            ("<html>", "the answer is not JSON"),
            ("", "the answer is not JSON"),
            (&long, "the answer's access_token is none"),
        ];
        for (body, read) in table {
            let found = granted(body.as_bytes()).map_or_else(
                |reason| reason,
                |Grant { access_token, refresh_token, life }| {
                    let refresh_token = refresh_token.as_ref().map_or("-", Secret::expose);
                    format!("{} {life} {refresh_token}", access_token.expose())
                },
            );
            assert_eq!(found, read, "{body}");
        }
    }
}
