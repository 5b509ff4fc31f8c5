//! Signs what a webhook is told, posts it, and says what came of it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client as Http, Response, Url};
use sha2::Sha256;

use crate::clock::Clock;
use crate::config::webhook::Webhook;
use crate::outbox::{Outcome, Report};
use crate::record::address::refused;
use crate::record::answer;
use crate::record::client::ClientError;
use crate::record::http::{Limits, guarded};

/// Who answers a program answers at once.
const LIMITS: Limits =
    Limits { connect: SignedDuration::from_secs(15), answer: SignedDuration::from_secs(30) };
/// A value of the URL's query that is shorter is no secret, and would be found in any words.
const LEAST_SECRET: usize = 4;

/// One tenant's way to its webhook.
pub struct Client {
    webhook: Webhook,
    key: Hmac<Sha256>,
    http: Http,
    clock: Clock,
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Posted {
    /// For the log.
    pub report: Report,
    /// Whether the receiver was there to answer.
    pub connected: bool,
}

impl Client {
    /// A client for a tenant's webhook; nothing is connected yet.
    pub fn new(webhook: &Webhook, clock: Clock) -> Result<Self, ClientError> {
        #[expect(clippy::expect_used, reason = "RFC 2104, section 2")]
        let key = Hmac::new_from_slice(&webhook.key()).expect("HMAC takes keys of any length");
        let http = guarded(None, webhook.allow_private, LIMITS)?;
        Ok(Self { webhook: webhook.clone(), key, http, clock })
    }

    /// Posts the octets of one event under its id.
    pub async fn post(&self, id: &str, body: &[u8]) -> Posted {
        if let Some(reason) = refused(&self.webhook.url, self.webhook.allow_private) {
            return self.ended(Outcome::Deferred, reason, true);
        }
        let now = self.clock.now();
        let sending = self
            .http
            .post(self.webhook.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now.as_second())
            .header("webhook-signature", self.signature(id, now, body))
            .body(body.to_vec());
        match sending.send().await {
            Ok(response) => self.answered(response, now).await,
            // Whether it arrived does not matter: who hears it twice knows it by its id.
            Err(error) => {
                let connected = !error.is_connect();
                self.ended(Outcome::Deferred, answer::told(error), connected)
            }
        }
    }

    /// Whether the receiver is there: any answer says so.
    pub async fn reach(&self) -> Result<(), String> {
        if let Some(reason) = refused(&self.webhook.url, self.webhook.allow_private) {
            return Err(reason);
        }
        // RFC 9110, section 9.2.1: what only looks changes nothing.
        match self.http.head::<Url>(self.webhook.target()).send().await {
            Err(error) if error.is_connect() => Err(answer::told(error)),
            _ => Ok(()),
        }
    }

    /// `webhook-signature`: of the id, the second of sending, and the octets.
    fn signature(&self, id: &str, now: Timestamp, body: &[u8]) -> String {
        let start = format!("{id}.{}.", now.as_second());
        let mac = self.key.clone().chain_update(start).chain_update(body).finalize();
        format!("v1,{}", STANDARD.encode(mac.into_bytes()))
    }

    async fn answered(&self, mut response: Response, now: Timestamp) -> Posted {
        let status = response.status().as_u16();
        let outcome = decide(status);
        let retry_after = answer::retry_after(&response, now);
        let reason = response.status().canonical_reason().unwrap_or_default();
        let text = if outcome == Outcome::Accepted {
            reason.to_owned()
        } else {
            let (body, _) = answer::body(&mut response).await;
            let words = self.without_secrets(answer::printable(&body));
            format!("{reason} {words}").trim().to_owned()
        };
        let Posted { report, connected } = self.ended(outcome, text, true);
        let replies = vec![format!("post: {status}")];
        Posted { report: Report { code: Some(status), retry_after, replies, ..report }, connected }
    }

    /// The receiver's words without what only the URL's query may say.
    fn without_secrets(&self, words: String) -> String {
        let values = self.webhook.url.query_pairs().filter(|(_, value)| value.len() >= LEAST_SECRET);
        values.fold(words, |words, (_, value)| words.replace(&*value, "…"))
    }

    fn ended(&self, outcome: Outcome, text: String, connected: bool) -> Posted {
        let tls = (self.webhook.url.scheme() == "https").then(|| "TLS".to_owned());
        let report = Report {
            outcome,
            relay: self.webhook.place(),
            tls,
            stage: Cow::Borrowed("post"),
            code: None,
            enhanced: None,
            text,
            replies: Vec::new(),
            retry_after: None,
        };
        Posted { report, connected }
    }
}

/// What a status means. Nothing is uncertain: it is posted again until somebody says that it was taken.
fn decide(status: u16) -> Outcome {
    match status {
        200..=299 => Outcome::Accepted,
        // These are about the moment (RFC 9110, section 15.5.9; RFC 8470, section 5.2; RFC 6585, section 4).
        408 | 425 | 429 => Outcome::Deferred,
        400..=499 => Outcome::Rejected,
        _ => Outcome::Deferred,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::secret::Secret;

    fn client(url: &str, secret: &str) -> Client {
        let secret = Secret::new(secret.to_owned());
        let webhook = Webhook { url: url.parse().unwrap(), secret, allow_private: false };
        Client::new(&webhook, Clock::default()).unwrap()
    }

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // From the reference implementations' own tests.
        let client = client("https://desk.example.com/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let at = Timestamp::from_second(1_614_265_330).unwrap();
        assert_eq!(
            client.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", at, br#"{"test": 2432232314}"#),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn every_status_has_its_outcome() {
        use Outcome::{Accepted, Deferred, Rejected};
        let table = [
            (200, Accepted),
            (202, Accepted),
            (204, Accepted),
            (301, Deferred),
            (400, Rejected),
            (401, Rejected),
            (404, Rejected),
            (408, Deferred),
            (410, Rejected),
            (413, Rejected),
            (425, Deferred),
            (429, Deferred),
            (500, Deferred),
            (503, Deferred),
            (999, Deferred),
        ];
        for (status, outcome) in table {
            assert_eq!(decide(status), outcome, "{status}");
        }
    }

    #[test]
    fn the_receivers_words_do_not_repeat_the_query() {
        let client = client("https://desk.example.com/hook?token=s%C3%A4cret&v=1", "hunter2");
        assert_eq!(client.without_secrets("1 no säcret here".to_owned()), "1 no … here");
    }
}
