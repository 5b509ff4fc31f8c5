//! One exchange at a time over an open connection.
//!
//! [`Connection::send`] takes the connection and gives it back only when the exchange ended in order. One left in
//! mid-exchange is closed: on it a late reply would be read as the answer to the next command.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter, RcptParameter};
use lettre::transport::smtp::response::Response;
use memchr::memmem;
use tokio::time::timeout;

use super::connect::Unusable;
use super::dialogue::Reply;
use super::outcome::{Stage, decide, enhanced};
use super::stream::Progress;
use crate::compose::safe_text;
use crate::config::tenant::Relay;
use crate::crash::{Step, reached};
use crate::outbox::{Outcome, Report};

/// A connection that is ready for a message.
pub struct Connection {
    client: AsyncSmtpConnection,
    progress: Arc<Progress>,
    offers: Offers,
    relay: String,
    tls: Option<String>,
    /// The replies to the opening of the connection, until a report takes them.
    replies: Vec<String>,
    reply_timeout: Duration,
    message_timeout: Duration,
    is_used: bool,
}

/// The service extensions that a server offers, as far as we use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offers {
    /// RFC 2920: several commands at once.
    pub pipelining: bool,
    /// RFC 3461: what to report, to whom, and under which name.
    pub dsn: bool,
    /// RFC 6531: addresses and headers beyond ASCII.
    pub smtputf8: bool,
    /// RFC 1870: sizes are told before a message is sent; the limit in octets, where there is one.
    pub size: Option<Option<u64>>,
}

impl Offers {
    /// Reads the reply to EHLO.
    pub fn of(hello: &Reply) -> Self {
        let has = |keyword| hello.keyword(keyword).is_some();
        let limit = |parameters: Vec<String>| parameters.first()?.parse().ok().filter(|limit| *limit > 0);
        Self {
            pipelining: has("PIPELINING"),
            dsn: has("DSN"),
            // RFC 6531, section 3.1: only together with 8BITMIME.
            smtputf8: has("SMTPUTF8") && has("8BITMIME"),
            size: hello.keyword("SIZE").map(limit),
        }
    }
}

/// A message with its envelope.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'m> {
    /// The name under which the relay reports on it: ENVID of RFC 3461.
    pub id: &'m str,
    /// MAIL FROM.
    pub from: &'m str,
    /// RCPT TO.
    pub recipient: &'m str,
    /// The message, CRLF line ends, not dot-stuffed.
    pub wire: &'m [u8],
}

impl Envelope<'_> {
    fn needs_utf8(&self) -> bool {
        !(self.from.is_ascii() && self.recipient.is_ascii() && self.wire.is_ascii())
    }
}

/// What came of handing over a message.
pub enum Sent {
    /// The exchange ended; the connection is there again if it can be used again.
    Ended(Report, Option<Box<Connection>>),
    /// The connection had been used before and was gone: nothing was said about the message.
    Stale(Report),
}

/// How an exchange ended.
struct End {
    stage: Stage,
    /// None when no reply came.
    code: Option<u16>,
    text: String,
    /// Whether the server waits for a command now.
    is_in_order: bool,
}

impl End {
    fn without_reply(stage: Stage, text: &str) -> Self {
        Self { stage, code: None, text: text.to_owned(), is_in_order: false }
    }
}

impl Connection {
    pub(super) fn new(
        client: AsyncSmtpConnection,
        progress: Arc<Progress>,
        relay: &Relay,
        offers: Offers,
        tls: Option<String>,
        replies: Vec<String>,
    ) -> Self {
        Self {
            client,
            progress,
            offers,
            relay: relay.place(),
            tls,
            replies,
            reply_timeout: Duration::try_from(relay.reply_timeout).unwrap_or_default(),
            message_timeout: Duration::try_from(relay.message_timeout).unwrap_or_default(),
            is_used: false,
        }
    }

    /// Hands over one message.
    pub async fn send(mut self, envelope: Envelope<'_>) -> Sent {
        let text = match self.sendable(envelope) {
            Ok(text) => text,
            Err(fault) => {
                let report = self.report(Outcome::Rejected, "local", None, format!("not sent: {fault}"));
                return Sent::Ended(report, Some(Box::new(self)));
            }
        };
        self.progress.begin();
        let (Ok(end) | Err(end)) = self.exchange(envelope, text).await;
        let dot_sent = self.progress.is_dot_sent();
        let outcome = decide(end.stage, end.code, enhanced(&end.text), dot_sent);
        let report = self.report(outcome, end.stage.as_str(), end.code, end.text);
        // RFC 5321, section 3.8: a server may close an idle connection, with 421 or without a word. That says
        // nothing about the message; while none of it is sent, another connection may be tried at once.
        if self.is_used && end.stage < Stage::Message && matches!(end.code, None | Some(421)) {
            return Sent::Stale(report);
        }
        let reusable = outcome == Outcome::Accepted || (end.is_in_order && self.reset().await);
        self.is_used = true;
        Sent::Ended(report, reusable.then(|| Box::new(self)))
    }

    /// The message as it may go over this connection, or why it may not.
    fn sendable<'m>(&self, envelope: Envelope<'m>) -> Result<&'m str, String> {
        let text = safe_text(envelope.wire)?;
        if envelope.needs_utf8() && !self.offers.smtputf8 {
            return Err("5.6.7 an address is not ASCII, and the relay does not offer SMTPUTF8".to_owned());
        }
        match self.offers.size.flatten() {
            Some(limit) if text.len() as u64 > limit => {
                Err(format!("5.3.4 the message has {} octets, and the relay takes {limit}", text.len()))
            }
            _ => Ok(text),
        }
    }

    fn report(&mut self, outcome: Outcome, stage: &'static str, code: Option<u16>, text: String) -> Report {
        Report {
            outcome,
            relay: self.relay.clone(),
            tls: self.tls.clone(),
            stage: stage.into(),
            code,
            enhanced: enhanced(&text).map(str::to_owned),
            text,
            replies: std::mem::take(&mut self.replies),
            retry_after: None,
        }
    }

    async fn exchange(&mut self, envelope: Envelope<'_>, text: &str) -> Result<End, End> {
        let (mail, rcpt) = (self.mail(envelope)?, self.rcpt(envelope)?);
        if self.offers.pipelining {
            self.together(&mail, &rcpt).await?;
        } else {
            self.step(Stage::Mail, mail).await?;
            self.step(Stage::Rcpt, rcpt).await?;
            self.step(Stage::Data, Data).await?;
        }
        reached(Step::MessageAsked);
        // The time is for the answer; a slow link gets a second more for each 256 KiB of the message.
        let limit = self.message_timeout + Duration::from_secs(text.len() as u64 / 262_144);
        let answer = timeout(limit, self.client.command(Stuffed(text))).await;
        reached(Step::AnswerRead);
        self.heard(Stage::Message, answer)
    }

    /// RFC 2920, section 3.1: MAIL, RCPT and DATA in one write. All replies are read; the first refusal decides.
    async fn together(&mut self, mail: &Mail, rcpt: &Rcpt) -> Result<(), End> {
        let mut refusal: Option<End> = None;
        for stage in [Stage::Mail, Stage::Rcpt, Stage::Data] {
            let answer = if stage == Stage::Mail {
                timeout(self.reply_timeout, self.client.command(format!("{mail}{rcpt}{Data}"))).await
            } else {
                timeout(self.reply_timeout, self.client.read_response()).await
            };
            match (self.heard(stage, answer), &mut refusal) {
                (Ok(_), None) => {}
                // The server waits for the message of a refused envelope: nothing else can be said to it.
                (Ok(_), Some(refusal)) => refusal.is_in_order = stage != Stage::Data,
                (Err(end), None) if end.is_in_order => refusal = Some(end),
                (Err(end), None) => return Err(end),
                (Err(end), Some(_)) if end.is_in_order => {}
                // Without a reply nobody knows which command the next one would answer.
                (Err(_), Some(refusal)) => {
                    refusal.is_in_order = false;
                    break;
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn mail(&self, envelope: Envelope<'_>) -> Result<Mail, End> {
        let bad = |_| End::without_reply(Stage::Mail, "the envelope sender is no address");
        let from = envelope.from.parse().map_err(bad)?;
        let mut parameters = Vec::new();
        if self.offers.size.is_some() {
            parameters.push(MailParameter::Size(envelope.wire.len()));
        }
        if envelope.needs_utf8() {
            parameters
                .extend([MailParameter::Body(MailBodyParameter::EightBitMime), MailParameter::SmtpUtfEight]);
        }
        if self.offers.dsn {
            // RFC 3461, sections 4.3 and 4.4.
            let other = |keyword: &str, value: &str| MailParameter::Other {
                keyword: keyword.to_owned(),
                value: Some(value.to_owned()),
            };
            parameters.extend([other("RET", "HDRS"), other("ENVID", envelope.id)]);
        }
        Ok(Mail::new(Some(from), parameters))
    }

    fn rcpt(&self, envelope: Envelope<'_>) -> Result<Rcpt, End> {
        let bad = |_| End::without_reply(Stage::Rcpt, "the recipient is no address");
        let recipient = envelope.recipient.parse().map_err(bad)?;
        let mut parameters = Vec::new();
        if self.offers.dsn {
            // RFC 3461, sections 4.1 and 4.2. The address type for other than ASCII is RFC 6533's.
            let other = |keyword: &str, value: String| RcptParameter::Other {
                keyword: keyword.to_owned(),
                value: Some(value),
            };
            let kind = if envelope.recipient.is_ascii() { "rfc822" } else { "utf-8" };
            parameters.push(other("NOTIFY", "FAILURE,DELAY".to_owned()));
            parameters.push(other("ORCPT", format!("{kind};{}", envelope.recipient)));
        }
        Ok(Rcpt::new(recipient, parameters))
    }

    async fn step(&mut self, stage: Stage, command: impl fmt::Display) -> Result<End, End> {
        let answer = timeout(self.reply_timeout, self.client.command(command)).await;
        self.heard(stage, answer)
    }

    /// Notes a reply for the log, and tells a go-ahead from a refusal.
    fn heard(&mut self, stage: Stage, answer: Answer) -> Result<End, End> {
        let (code, text) = match answer {
            Ok(Ok(response)) => (Some(u16::from(response.code())), text_of(&response)),
            Ok(Err(error)) => self::answer(&error),
            Err(_) => (None, "no answer in time".to_owned()),
        };
        let Some(code) = code else { return Err(End::without_reply(stage, &text)) };
        self.progress.answered();
        self.replies.push(format!("{stage}: {code} {text}"));
        let is_final = stage == Stage::Message;
        match code {
            354 if stage == Stage::Data => Ok(End { stage, code: Some(code), text, is_in_order: false }),
            200..=299 if stage == Stage::Data => {
                Err(End::without_reply(stage, "the relay answered DATA without asking for the message"))
            }
            200..=299 => Ok(End { stage, code: Some(code), text, is_in_order: true }),
            400..=599 => Err(End { stage, code: Some(code), text, is_in_order: code != 421 }),
            _ if is_final => Err(End { stage, code: Some(code), text, is_in_order: false }),
            _ => Err(End::without_reply(stage, &format!("the relay answered {code} {text}"))),
        }
    }

    /// Whether the server forgot the refused message and the connection can be used again.
    async fn reset(&mut self) -> bool {
        let reply = timeout(self.reply_timeout, self.client.command(Rset)).await;
        self.progress.answered();
        matches!(reply, Ok(Ok(response)) if u16::from(response.code()) == 250)
    }

    /// TLS version and cipher suite; none for a connection in the clear.
    pub fn security(&self) -> Option<&str> {
        self.tls.as_deref()
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
            outcome: decide(self.stage, self.code, enhanced(&self.text), false),
            relay: relay.place(),
            tls: None,
            stage: self.stage.as_str().into(),
            code: self.code,
            enhanced: enhanced(&self.text).map(str::to_owned),
            text: self.text.clone(),
            replies: Vec::new(),
            retry_after: None,
        }
    }
}

type Answer = Result<Result<Response, lettre::transport::smtp::Error>, tokio::time::error::Elapsed>;

/// The reply code and text within the client library's error; the error's own words where there was no reply.
fn answer(error: &lettre::transport::smtp::Error) -> (Option<u16>, String) {
    let code = error.status().map(u16::from);
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    (code, printable(&text))
}

fn text_of(response: &Response) -> String {
    printable(&response.message().collect::<Vec<_>>().join(" "))
}

/// A server's words are data: no control characters, and no more than a log needs.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect::<String>().trim().to_owned()
}

/// A message as it stands behind 354: dots at line starts doubled, and the final dot (RFC 5321, section 4.5.2).
struct Stuffed<'m>(&'m str);

impl fmt::Display for Stuffed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with('.') {
            f.write_str(".")?;
        }
        let mut done = 0;
        for at in memmem::find_iter(self.0.as_bytes(), b"\r\n.") {
            f.write_str(&self.0[done..at + 3])?;
            f.write_str(".")?;
            done = at + 3;
        }
        f.write_str(&self.0[done..])?;
        f.write_str(".\r\n")
    }
}
