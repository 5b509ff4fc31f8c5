//! Takes a recipe's requests to a CRM, one after another, and says what came of them.

use std::borrow::Cow;

use handlebars::Context;
use jiff::SignedDuration;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client as Http, Response, Url};
use serde_json::Value;

use super::address::refused;
use super::answer;
use super::data::data;
use super::http::{Limits, guarded};
use super::login::{Pass, Presented};
use super::note::Note;
use super::outcome::{Ending, Verdict, decide, hint};
use super::template::{Request, Requests};
use crate::clock::Clock;
use crate::config::reader::Problem;
use crate::config::recipe::Step;
use crate::config::record::Record;
use crate::crash;
use crate::deliver::tls::TlsError;
use crate::outbox::{Outcome, Report};
use crate::session::text;

/// The most octets of a value that an answer gives to a later step.
const MAX_CAPTURE: usize = 1000;

/// Why a CRM cannot be worked with at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client cannot be made.
    #[error("cannot set up HTTP")]
    Http(#[from] reqwest::Error),
    /// The recipe takes what nothing gives.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Recipe(Vec<Problem>),
}

/// One tenant's way to its CRM.
pub struct Client {
    record: Record,
    requests: Requests,
    http: Http,
    pass: Pass,
    clock: Clock,
}

/// What an attempt came to.
#[derive(Debug)]
pub struct Attached {
    /// For the log.
    pub report: Report,
    /// Whether the CRM was there to answer.
    pub connected: bool,
}

/// How one request ended.
struct Exchanged {
    ending: Ending,
    status: Option<u16>,
    words: String,
    body: Vec<u8>,
    retry_after: Option<SignedDuration>,
    /// No connection could be made.
    is_away: bool,
}

impl Exchanged {
    fn without_answer(ending: Ending, words: String) -> Self {
        Self { ending, status: None, words, body: Vec::new(), retry_after: None, is_away: false }
    }
}

impl Client {
    /// A client for a tenant's CRM; nothing is connected yet.
    pub fn new(record: &Record, clock: Clock) -> Result<Self, ClientError> {
        let values: Vec<&str> = record.values.keys().map(String::as_str).collect();
        let requests = Requests::compile(&record.recipe, &values).map_err(ClientError::Recipe)?;
        let limits = Limits { connect: record.connect_timeout, answer: record.answer_timeout };
        let http = guarded(record.ca_file.as_deref(), record.allow_private, limits)?;
        let pass = Pass::new(record, clock.clone())?;
        Ok(Self { record: record.clone(), requests, http, pass, clock })
    }

    /// Attaches a note and its file. `again` says that there was an attempt before.
    pub async fn attach(&self, note: &Note, file: &[u8], tenant: &str, again: bool) -> Attached {
        if file.len() as u64 > self.record.recipe.file_bytes {
            let most = self.record.recipe.file_bytes;
            let text = format!("the file has {} octets; the CRM takes {most}", file.len());
            return self.ended(Outcome::Rejected, "local", text, Vec::new());
        }
        let mut data = data(&self.record, self.pass.in_body(), note, tenant, again);
        let (mut replies, mut last) = (Vec::new(), None);
        for step in &self.record.recipe.steps {
            if step.when.as_ref().is_some_and(|when| is_given(&data[&when.name]) != when.wanted) {
                continue;
            }
            let exchanged = self.take(step, &mut data, file).await;
            replies.extend(exchanged.status.map(|status| format!("{}: {status}", step.name)));
            let verdict = decide(step, exchanged.ending);
            let outcome = match verdict {
                Verdict::GoOn => {
                    last = Some((step, exchanged));
                    continue;
                }
                Verdict::Done => Outcome::Accepted,
                Verdict::End(outcome) => outcome,
            };
            return self.told(outcome, step, exchanged, replies);
        }
        match last {
            Some((step, exchanged)) => self.told(Outcome::Accepted, step, exchanged, replies),
            None => self.ended(Outcome::Accepted, "local", "nothing was left to do".to_owned(), replies),
        }
    }

    /// What would be asked of the CRM for a note, a line for each request. What an earlier answer gives is a name in
    /// capitals, and the login is left out.
    pub fn rehearse(&self, note: &Note, file: &[u8], tenant: &str) -> Vec<String> {
        let mut data = data(&self.record, ("USER", "SECRET"), note, tenant, false);
        let mut lines = Vec::new();
        for step in &self.record.recipe.steps {
            if step.when.as_ref().is_some_and(|when| is_given(&data[&when.name]) != when.wanted) {
                continue;
            }
            let written = Context::wraps(&data)
                .map_err(|error| error.to_string())
                .and_then(|data| self.requests.write(step, &data, file).map_err(|error| error.to_string()));
            let line = written.and_then(|request| Ok((self.url(&request.path)?, request)));
            lines.push(match line {
                Ok((url, Request { body: Some((kind, octets)), .. })) => {
                    format!("{}: {} {url}, {kind}, {} octets", step.name, step.method, octets.len())
                }
                Ok((url, _)) => format!("{}: {} {url}", step.name, step.method),
                Err(reason) => format!("{}: {reason}", step.name),
            });
            for (name, _) in &step.captures {
                if !is_given(&data[name]) {
                    data[name] = name.to_uppercase().into();
                }
            }
        }
        lines
    }

    /// Takes the recipe's harmless request. Says what was answered, or what does not work.
    pub async fn probe(&self) -> Result<String, String> {
        let Some(step) = &self.record.recipe.probe else {
            return self.reach().await.map(|()| "it answers; the recipe has no probe".to_owned());
        };
        let mut data = data(&self.record, self.pass.in_body(), &Note::blank(), "", false);
        let exchanged = self.take(step, &mut data, &[]).await;
        let told = format!("{} {}", exchanged.status.unwrap_or_default(), exchanged.words);
        match decide(step, exchanged.ending) {
            Verdict::GoOn | Verdict::Done => Ok(told.trim().to_owned()),
            Verdict::End(_) => Err(told.trim_start_matches("0 ").to_owned()),
        }
    }

    /// Whether the CRM is there: any answer says so.
    pub async fn reach(&self) -> Result<(), String> {
        let base = self.record.base.clone();
        if let Some(reason) = refused(&base, self.record.allow_private) {
            return Err(reason);
        }
        match self.http.get(base).send().await {
            Err(error) if error.is_connect() => Err(answer::told(error)),
            _ => Ok(()),
        }
    }

    /// Takes one step; what it captures goes into the data. A token that is refused is replaced once.
    async fn take(&self, step: &Step, data: &mut Value, file: &[u8]) -> Exchanged {
        let mut exchanged = self.exchange(step, data, file).await;
        if let Err(presented) = &exchanged
            && self.pass.refused(presented).await
        {
            exchanged = self.exchange(step, data, file).await;
        }
        let mut exchanged = match exchanged {
            Ok(exchanged) => exchanged,
            Err(_) => Exchanged {
                status: Some(401),
                ..Exchanged::without_answer(Ending::Answered(401), hint(401).trim().to_owned())
            },
        };
        if matches!(exchanged.ending, Ending::Answered(status) if step.expect.contains(&status))
            && let Err((ending, words)) = self.capture(step, &exchanged.body, data)
        {
            (exchanged.ending, exchanged.words) = (ending, words);
        }
        exchanged
    }

    /// One request and its answer. An error is a login that was refused.
    async fn exchange(&self, step: &Step, data: &Value, file: &[u8]) -> Result<Exchanged, Presented> {
        let not_sent = |reason: String| Ok(Exchanged::without_answer(Ending::NotSent, reason));
        let written = Context::wraps(data)
            .map_err(|error| error.to_string())
            .and_then(|data| self.requests.write(step, &data, file).map_err(|error| error.to_string()));
        let place = written.and_then(|request| Ok((self.url(&request.path)?, request)));
        let (url, request) = match place {
            Ok(place) => place,
            Err(reason) => return not_sent(reason),
        };
        let presented = match self.pass.present().await {
            Ok(presented) => presented,
            Err(reason) => return not_sent(reason),
        };
        let sending = match self.sending(step, url, request, &presented) {
            Ok(sending) => sending,
            Err(reason) => return not_sent(reason),
        };
        if step.effect {
            crash::reached(crash::Step::RequestReady);
        }
        let mut response = match sending.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return not_sent(answer::told(error)),
            Err(error) if error.is_connect() => {
                let away = Exchanged::without_answer(Ending::NotSent, answer::told(error));
                return Ok(Exchanged { is_away: true, ..away });
            }
            Err(error) => return Ok(Exchanged::without_answer(Ending::Lost, answer::told(error))),
        };
        if step.effect {
            crash::reached(crash::Step::RequestAnswered);
        }
        let status = response.status().as_u16();
        if status == 401 && !step.expect.contains(&401) {
            return Err(presented);
        }
        Ok(self.read(step, &mut response, &presented).await)
    }

    /// Reads an answer. Its status holds, whatever becomes of its body, unless a later step needs that.
    async fn read(&self, step: &Step, response: &mut Response, presented: &Presented) -> Exchanged {
        let status = response.status().as_u16();
        let retry_after = answer::retry_after(response, self.clock.now());
        let reason = response.status().canonical_reason().unwrap_or_default();
        let needs_body = !step.captures.is_empty() || step.found.is_some();
        let (body, broken) = answer::body(response).await;
        if let Some(broken) = broken.filter(|_| needs_body && step.expect.contains(&status)) {
            let lost = Exchanged::without_answer(Ending::Lost, broken);
            return Exchanged { status: Some(status), ..lost };
        }
        // The answer to success may quote the note; only a refusal's words are kept.
        let words = if step.expect.contains(&status) {
            reason.to_owned()
        } else {
            let words = self.pass.without_secrets(&answer::printable(&body), presented);
            format!("{}{reason} {words}", hint(status)).trim().to_owned()
        };
        Exchanged {
            ending: Ending::Answered(status),
            status: Some(status),
            words,
            body,
            retry_after,
            is_away: false,
        }
    }

    /// The whole URL. It is below the tenant's base, or there is none: nothing in a path leads elsewhere.
    fn url(&self, path: &str) -> Result<Url, String> {
        let base = &self.record.base;
        let text = format!("{}{path}", base.as_str().trim_end_matches('/'));
        let url: Url = text.parse().map_err(|_| "the recipe makes no URL of this ticket".to_owned())?;
        let is_below = path.starts_with('/') && url.origin() == base.origin() && url.as_str() == text;
        if !is_below {
            return Err("the recipe makes a URL of this ticket that leads elsewhere".to_owned());
        }
        refused(&url, self.record.allow_private).map_or(Ok(url), Err)
    }

    fn sending(
        &self,
        step: &Step,
        url: Url,
        request: Request,
        presented: &Presented,
    ) -> Result<reqwest::RequestBuilder, String> {
        let mut sending = self.http.request(step.method.clone(), url);
        if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("accept")) {
            sending = sending.header(ACCEPT, "application/json");
        }
        if let Some((content_type, body)) = request.body {
            sending = sending.header(CONTENT_TYPE, content_type).body(body);
        }
        for (name, value) in request.headers {
            let field = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(&value).ok());
            let (name, value) = field.ok_or_else(|| format!("the header field {name} cannot be written"))?;
            sending = sending.header(name, value);
        }
        if let Some((name, value)) = presented.header.clone() {
            sending = sending.header(name, value);
        }
        Ok(sending)
    }

    /// Takes out of an answer of success what later steps need; or says what the answer is instead.
    fn capture(&self, step: &Step, body: &[u8], data: &mut Value) -> Result<(), (Ending, String)> {
        if let Some((later, words)) = answer::error(step, body) {
            return Err((Ending::Refused(later), words));
        }
        if let Some((flag, text)) = &step.found {
            let text = Context::wraps(&*data)
                .map_err(|error| error.to_string())
                .and_then(|data| self.requests.text(text, &data).map_err(|error| error.to_string()))
                .map_err(|reason| (Ending::NotSent, reason))?;
            let is_there = !text.is_empty() && memchr::memmem::find(body, text.as_bytes()).is_some();
            data[flag] = is_there.into();
        }
        if step.captures.is_empty() {
            return Ok(());
        }
        // Nothing at all is an answer of its own to a look-up; a page for people is none.
        let found = match serde_json::from_slice(body) {
            Ok(found) => found,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => return Err((Ending::Lost, "the answer is not JSON".to_owned())),
        };
        for (name, pointer) in &step.captures {
            let value = found.pointer(pointer).and_then(|value| text(Some(value)));
            match value.filter(|value| value.len() <= MAX_CAPTURE) {
                Some(value) => data[name] = value.into(),
                None if step.lookup => return Err((Ending::Lacking, hint(404).trim().to_owned())),
                None => return Err((Ending::Lacking, format!("the answer has no {pointer}"))),
            }
        }
        Ok(())
    }

    fn told(&self, outcome: Outcome, step: &Step, exchanged: Exchanged, replies: Vec<String>) -> Attached {
        let report = Report {
            stage: Cow::Owned(step.name.clone()),
            code: exchanged.status,
            retry_after: exchanged.retry_after,
            ..self.ended(outcome, "", exchanged.words, replies).report
        };
        Attached { report, connected: !exchanged.is_away }
    }

    fn ended(&self, outcome: Outcome, stage: &'static str, text: String, replies: Vec<String>) -> Attached {
        let tls = (self.record.base.scheme() == "https").then(|| "TLS".to_owned());
        let report = Report {
            outcome,
            relay: self.record.place(),
            tls,
            stage: Cow::Borrowed(stage),
            code: None,
            enhanced: None,
            text,
            replies,
            retry_after: None,
        };
        Attached { report, connected: true }
    }
}

/// Whether a value of the data is there and says yes.
fn is_given(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("")
}
