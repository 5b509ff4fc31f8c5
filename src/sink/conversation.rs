//! One conversation of a sink, command by command.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Shared;
use super::rules::{Act, Doing, Step};
use super::wire::{Buffered, Wire, buffered, over, read_line};

/// An address of the envelope with its parameters.
#[derive(Default)]
pub(super) struct Mailbox {
    pub(super) address: String,
    pub(super) parameters: String,
}

pub(super) struct Conversation<'s> {
    pub(super) wire: Buffered,
    pub(super) shared: &'s Shared,
    pub(super) number: usize,
    pub(super) from: Option<Mailbox>,
    pub(super) recipients: Vec<Mailbox>,
    /// The address that rules for a recipient look at: that of the last RCPT.
    pub(super) addressed: String,
    is_secured: bool,
    pub(super) is_logged_in: bool,
    pub(super) messages: usize,
}

impl<'s> Conversation<'s> {
    /// Under TLS from the start where the script wants that.
    pub(super) async fn open(stream: TcpStream, shared: &'s Shared, number: usize) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let conversation = Self {
            wire: buffered(Box::new(stream)),
            shared,
            number,
            from: None,
            recipients: Vec::new(),
            addressed: String::new(),
            is_secured: false,
            is_logged_in: false,
            messages: 0,
        };
        if shared.script.implicit { conversation.secured().await } else { Ok(conversation) }
    }

    /// Starts TLS. What was said before is forgotten, and what the client sent behind STARTTLS is thrown away
    /// (RFC 3207, section 4.2).
    async fn secured(self) -> io::Result<Self> {
        let Some(tls) = &self.shared.script.tls else { return Ok(self) };
        let stream: Box<dyn Wire> = self.wire.into_inner().into_inner();
        let wire: Box<dyn Wire> = Box::new(tls.accept(stream).await?);
        Ok(Self {
            wire: buffered(wire),
            from: None,
            recipients: Vec::new(),
            is_secured: true,
            is_logged_in: false,
            ..self
        })
    }

    /// Talks until the end.
    pub(super) async fn run(mut self, is_one_too_many: bool) -> io::Result<()> {
        if is_one_too_many {
            return self.say("421 4.3.2 too many connections").await;
        }
        let greeting = match self.shared.script.greeting.as_str() {
            "" => "220 sink.example.com ESMTP",
            greeting => greeting,
        };
        self.answer(Step::Greeting, greeting).await?;
        loop {
            let line = self.hear().await?;
            if self.obey(&line).await? {
                self = self.secured().await?;
            }
        }
    }

    /// Reads a line. All that was said before goes out first, unless a whole command waits already: a group of
    /// commands is answered together (RFC 2920, section 3.2).
    pub(super) async fn hear(&mut self) -> io::Result<String> {
        if !self.wire.buffer().contains(&b'\n') {
            self.wire.flush().await?;
        }
        let line = read_line(&mut self.wire).await?;
        self.shared.note(self.number, || format!("C: {}", line.as_bytes().escape_ascii()));
        Ok(line)
    }

    /// Says lines of our own.
    pub(super) async fn say(&mut self, lines: &str) -> io::Result<()> {
        self.say_octets(format!("{lines}\r\n").as_bytes()).await?;
        self.wire.flush().await
    }

    async fn say_octets(&mut self, octets: &[u8]) -> io::Result<()> {
        self.note_said(octets);
        self.wire.write_all(octets).await
    }

    fn note_said(&self, octets: &[u8]) {
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            self.shared.note(self.number, || format!("S: {}", line.trim_ascii_end().escape_ascii()));
        }
    }

    /// Does what the script wants at a step; without a wish gives the usual reply. Gives the code that was said,
    /// 0 for what is no reply.
    pub(super) async fn answer(&mut self, step: Step, usual: &str) -> io::Result<u16> {
        let doing = self.shared.doing(step, &self.addressed);
        self.pause(doing.wait).await?;
        self.act(doing, usual).await
    }

    pub(super) async fn act(&mut self, Doing { act, wait }: Doing, usual: &str) -> io::Result<u16> {
        let said = match act {
            Act::Usual => format!("{usual}\r\n").into_bytes(),
            Act::Say(octets) => octets,
            Act::Repeat(octets) if !octets.is_empty() => return self.repeat(&octets, wait).await,
            Act::Close(octets) => {
                self.say_octets(&octets).await?;
                self.wire.flush().await?;
                return Err(over());
            }
            Act::Reset(octets) => {
                self.say_octets(&octets).await?;
                self.wire.flush().await?;
                self.wire.get_ref().get_ref().tcp().set_zero_linger()?;
                return Err(over());
            }
            Act::Silence | Act::Repeat(_) => {
                self.wire.flush().await?;
                return std::future::pending().await;
            }
        };
        self.say_octets(&said).await?;
        let code = code(&said);
        if code == 421 {
            // RFC 5321, section 3.8: who says 421 closes.
            self.wire.flush().await?;
            return Err(over());
        }
        Ok(code)
    }

    /// Ends when the client goes.
    async fn repeat(&mut self, octets: &[u8], wait: Duration) -> io::Result<u16> {
        self.note_said(octets);
        loop {
            self.wire.write_all(octets).await?;
            self.pause(wait).await?;
        }
    }

    pub(super) async fn pause(&mut self, wait: Duration) -> io::Result<()> {
        if !wait.is_zero() {
            self.wire.flush().await?;
            sleep(wait).await;
        }
        Ok(())
    }

    /// Obeys one command; true when TLS is to start.
    async fn obey(&mut self, line: &str) -> io::Result<bool> {
        let verb = line.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.hello().await?,
            "HELO" => self.say("250 sink.example.com").await?,
            "STARTTLS" => {
                let usual = format!("220 go ahead{}", self.shared.script.injected);
                let code = self.answer(Step::StartTls, &usual).await?;
                self.wire.flush().await?;
                return Ok(code == 220 && self.shared.script.tls.is_some());
            }
            "AUTH" => self.log_in(line).await?,
            "MAIL" => self.mail(line).await?,
            "RCPT" => self.recipient(line).await?,
            "DATA" => self.data().await?,
            "RSET" => {
                self.forget();
                self.answer(Step::Reset, "250 2.0.0 ok").await?;
            }
            "NOOP" => self.say("250 2.0.0 ok").await?,
            "QUIT" => {
                self.answer(Step::Quit, "221 2.0.0 bye").await?;
                self.wire.flush().await?;
                return Err(over());
            }
            _ => self.say("500 5.5.1 no such command").await?,
        }
        Ok(false)
    }

    fn forget(&mut self) {
        self.from = None;
        self.recipients.clear();
    }

    async fn hello(&mut self) -> io::Result<()> {
        let script = &self.shared.script;
        let mut lines = vec!["sink.example.com".to_owned()];
        if script.tls.is_some() && !self.is_secured {
            lines.push("STARTTLS".to_owned());
        }
        lines.extend(self.mechanisms());
        lines.extend(script.keywords.iter().cloned());
        if script.keywords.is_empty() {
            lines.push("8BITMIME".to_owned());
        }
        let last = lines.len() - 1;
        let line = |(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' });
        let reply = lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\r\n");
        self.forget();
        self.answer(Step::Hello, &reply).await.map(drop)
    }

    async fn mail(&mut self, line: &str) -> io::Result<()> {
        let from = mailbox(line);
        let usual = if self.mechanisms().is_some() && !self.is_logged_in {
            "530 5.7.0 authentication required"
        } else if self.from.is_some() {
            "503 5.5.1 one at a time"
        } else if self.is_declared_too_large(&from.parameters) {
            "552 5.3.4 too large"
        } else {
            "250 2.1.0 ok"
        };
        if is_good(self.answer(Step::Mail, usual).await?) {
            self.from = Some(from);
        }
        Ok(())
    }

    async fn recipient(&mut self, line: &str) -> io::Result<()> {
        if self.from.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        let recipient = mailbox(line);
        self.addressed.clone_from(&recipient.address);
        if is_good(self.answer(Step::Rcpt, "250 2.1.5 ok").await?) {
            self.recipients.push(recipient);
        }
        Ok(())
    }
}

/// The address between the brackets, and what follows them.
fn mailbox(line: &str) -> Mailbox {
    let found = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let (address, parameters) = found.unwrap_or_default();
    Mailbox { address: address.to_owned(), parameters: parameters.trim().to_owned() }
}

/// The code of a reply's first line; 0 for what is no reply.
pub(super) fn code(octets: &[u8]) -> u16 {
    let digits = octets.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

pub(super) fn is_good(code: u16) -> bool {
    (200..300).contains(&code)
}
