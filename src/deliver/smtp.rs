//! One exchange at a time over an open connection.
//!
//! [`Connection::send`] takes the connection and gives it back only when the exchange ended in order. One left in
//! mid-exchange is closed: on it a late reply would be read as the answer to the next command.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt, Rset};
use lettre::transport::smtp::response::Response;
use tokio::time::timeout;

use super::connect::Unusable;
use super::outcome::{Stage, decide};
use crate::compose::wire_fault;
use crate::config::tenant::Relay;
use crate::outbox::{Outcome, Report};

/// A connection that is ready for a message.
pub struct Connection {
    client: AsyncSmtpConnection,
    dot_sent: Arc<AtomicBool>,
    relay: String,
    tls: Option<String>,
    reply_timeout: Duration,
    message_timeout: Duration,
    is_used: bool,
}

/// A message with its envelope.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'m> {
    /// MAIL FROM.
    pub from: &'m str,
    /// RCPT TO.
    pub recipient: &'m str,
    /// The message, CRLF line ends, not dot-stuffed.
    pub wire: &'m [u8],
}

/// What came of handing over a message.
pub enum Sent {
    /// The exchange ended; the connection is there again if it can be used again.
    Ended(Report, Option<Box<Connection>>),
    /// The connection had been used before and was gone: nothing was said about the message.
    Stale(Report),
}

/// Why a step did not get the reply it needs.
struct Fault {
    stage: Stage,
    code: Option<u16>,
    text: String,
}

impl Connection {
    pub(super) fn new(
        client: AsyncSmtpConnection,
        dot_sent: Arc<AtomicBool>,
        relay: &Relay,
        tls: Option<String>,
    ) -> Self {
        Self {
            client,
            dot_sent,
            relay: format!("{}:{}", relay.host, relay.port),
            tls,
            reply_timeout: Duration::try_from(relay.reply_timeout).unwrap_or_default(),
            message_timeout: Duration::try_from(relay.message_timeout).unwrap_or_default(),
            is_used: false,
        }
    }

    /// Hands over one message.
    pub async fn send(mut self, envelope: Envelope<'_>) -> Sent {
        if let Some(fault) = wire_fault(envelope.wire) {
            let (relay, text) = (self.relay.clone(), format!("not sent: {fault}"));
            let report =
                Report { outcome: Outcome::Rejected, relay, tls: None, stage: "local", code: None, text };
            return Sent::Ended(report, Some(Box::new(self)));
        }
        self.dot_sent.store(false, Ordering::Release);
        let result = self.exchange(envelope).await;
        let dot_sent = self.dot_sent.load(Ordering::Acquire);
        let report = |stage: Stage, code, text| Report {
            outcome: decide(stage, code, dot_sent),
            relay: self.relay.clone(),
            tls: self.tls.clone(),
            stage: stage.as_str(),
            code,
            text,
        };
        match result {
            Ok(response) => {
                let report = report(Stage::Message, Some(code_of(&response)), text_of(&response));
                let reusable = report.outcome == Outcome::Accepted;
                self.is_used = true;
                Sent::Ended(report, reusable.then(|| Box::new(self)))
            }
            // RFC 5321, section 3.8: a server may close an idle connection, with 421 or without a word.
            Err(Fault { stage: Stage::Mail, code: code @ (None | Some(421)), text }) if self.is_used => {
                Sent::Stale(report(Stage::Mail, code, text))
            }
            Err(Fault { stage, code, text }) => {
                let report = report(stage, code, text);
                let kept = code.is_some_and(|code| code != 421) && self.reset().await;
                self.is_used = true;
                Sent::Ended(report, kept.then(|| Box::new(self)))
            }
        }
    }

    async fn exchange(&mut self, envelope: Envelope<'_>) -> Result<Response, Fault> {
        let fault = |stage, text: &str| Fault { stage, code: None, text: text.to_owned() };
        let from =
            envelope.from.parse().map_err(|_| fault(Stage::Mail, "the envelope sender is no address"))?;
        let recipient =
            envelope.recipient.parse().map_err(|_| fault(Stage::Rcpt, "the recipient is no address"))?;
        self.step(Stage::Mail, Mail::new(Some(from), vec![])).await?;
        self.step(Stage::Rcpt, Rcpt::new(recipient, vec![])).await?;
        let go_ahead = self.step(Stage::Data, Data).await?;
        if code_of(&go_ahead) != 354 {
            return Err(fault(Stage::Data, "the relay answered DATA without asking for the message"));
        }
        // The client writes CRLF before the final dot, which ends the last line (RFC 5321, section 4.1.1.4).
        let body = envelope.wire.strip_suffix(b"\r\n").unwrap_or(envelope.wire);
        let reply = timeout(self.message_timeout, self.client.message(body)).await;
        read(Stage::Message, reply)
    }

    async fn step(&mut self, stage: Stage, command: impl std::fmt::Display) -> Result<Response, Fault> {
        read(stage, timeout(self.reply_timeout, self.client.command(command)).await)
    }

    /// Whether the server forgot the refused message and the connection can be used again.
    async fn reset(&mut self) -> bool {
        let reply = timeout(self.reply_timeout, self.client.command(Rset)).await;
        matches!(reply, Ok(Ok(response)) if code_of(&response) == 250)
    }

    /// Says goodbye. A server that does not answer is left.
    pub async fn quit(mut self) {
        drop(timeout(Duration::from_secs(2), self.client.command(Quit)).await);
    }
}

impl Unusable {
    /// The report of an attempt that found no usable connection.
    pub fn report(&self, relay: &Relay) -> Report {
        Report {
            outcome: decide(self.stage, self.code, false),
            relay: format!("{}:{}", relay.host, relay.port),
            tls: None,
            stage: self.stage.as_str(),
            code: self.code,
            text: self.text.clone(),
        }
    }
}

type Answer = Result<Result<Response, lettre::transport::smtp::Error>, tokio::time::error::Elapsed>;

fn read(stage: Stage, answer: Answer) -> Result<Response, Fault> {
    match answer {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            let (code, text) = self::answer(&error);
            Err(Fault { stage, code, text })
        }
        Err(_) => Err(Fault { stage, code: None, text: "no answer in time".to_owned() }),
    }
}

/// The reply code and text within the client library's error; the error's own words where there was no reply.
pub(super) fn answer(error: &lettre::transport::smtp::Error) -> (Option<u16>, String) {
    let code = error.status().map(u16::from);
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    (code, printable(&text))
}

fn code_of(response: &Response) -> u16 {
    u16::from(response.code())
}

fn text_of(response: &Response) -> String {
    printable(&response.message().collect::<Vec<_>>().join(" "))
}

/// A server's words are data: no control characters, and no more than a log needs.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect::<String>().trim().to_owned()
}
