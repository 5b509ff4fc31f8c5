//! A scripted SMTP server on loopback: it takes mail for the demo, the tests and the benchmarks, and misbehaves
//! on request.
//!
//! The recipient's local part, up to a `+`, is the script: `temp@` and `perm@` are refused for now and for good,
//! `once-then-ok@` is refused for now the first time, `slow@` takes a while, `421@` ends the connection at RCPT,
//! `drop-before-dot@` and `drop-after-dot@` end it during and after the message. Anyone else is accepted.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// One message that the sink took, or that it read before it broke the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// MAIL FROM.
    pub from: String,
    /// RCPT TO.
    pub recipient: String,
    /// The message as it stood on the wire, dots unstuffed.
    pub message: Vec<u8>,
    /// Whether the client was told that it was taken.
    pub acknowledged: bool,
}

/// How a sink behaves besides its recipients' scripts.
#[derive(Clone, Default)]
pub struct Script {
    /// The first line; the usual 220 when empty.
    pub greeting: String,
    /// What stands between the first and the last line of the EHLO reply.
    pub keywords: Vec<String>,
    /// The wait before a message is acknowledged.
    pub delay: Duration,
    /// TLS with this certificate.
    pub tls: Option<TlsAcceptor>,
    /// Whether TLS starts with the first byte; otherwise STARTTLS is offered.
    pub implicit: bool,
    /// Octets sent in the clear right behind the reply to STARTTLS.
    pub injected: String,
    /// The user and password that AUTH must bring.
    pub login: Option<(String, String)>,
    /// The most messages on one connection; then it is closed without a word. 0 for any number.
    pub messages_per_connection: usize,
    /// Where to keep messages as `.eml` files.
    pub folder: Option<PathBuf>,
    /// Whether to forget messages at once: for benchmarks.
    pub forgetful: bool,
}

/// A running sink; it stops when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    refused_once: HashSet<String>,
    connections: usize,
}

struct Shared {
    script: Script,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { script, state: Mutex::default() });
        let sharing = Arc::clone(&shared);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&sharing);
                shared.state().connections += 1;
                // A client that goes away, or is sent away, ends only its own conversation.
                tokio::spawn(async move { drop(converse(stream, &shared).await) });
            }
        });
        Ok(Self { address, shared, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything received so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Anything to talk over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let script = &shared.script;
    match &script.tls {
        Some(tls) if script.implicit => {
            let secured = tls.accept(stream).await?;
            Conversation::new(BufReader::new(secured), shared).run(true).await.map(drop)
        }
        _ => {
            let upgrade = Conversation::new(BufReader::new(stream), shared).run(true).await?;
            let (Some(stream), Some(tls)) = (upgrade, &script.tls) else { return Ok(()) };
            let secured = tls.accept(stream.into_inner()).await?;
            Conversation::new(BufReader::new(secured), shared).secured().run(false).await.map(drop)
        }
    }
}

struct Conversation<'s, W> {
    wire: BufReader<W>,
    shared: &'s Shared,
    from: String,
    recipient: Option<String>,
    is_secured: bool,
    messages: usize,
}

impl<'s, W: Wire> Conversation<'s, W> {
    fn new(wire: BufReader<W>, shared: &'s Shared) -> Self {
        Self {
            wire,
            shared,
            from: String::new(),
            recipient: None,
            is_secured: shared.script.implicit,
            messages: 0,
        }
    }

    fn secured(self) -> Self {
        Self { is_secured: true, ..self }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.wire.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.wire.flush().await
    }

    /// Talks until the end, or until TLS is to start: then the stream is given back.
    async fn run(mut self, greet: bool) -> io::Result<Option<BufReader<W>>> {
        if greet {
            let greeting = &self.shared.script.greeting;
            let greeting =
                if greeting.is_empty() { "220 sink.example.com ESMTP".to_owned() } else { greeting.clone() };
            self.say(&greeting).await?;
        }
        loop {
            let mut line = String::new();
            if (&mut self.wire).take(4096).read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            let verb = line.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.hello().await?,
                "STARTTLS" => {
                    let injected = self.shared.script.injected.clone();
                    self.say(&format!("220 go ahead{injected}")).await?;
                    return Ok(Some(self.wire));
                }
                "AUTH" => self.log_in(line).await?,
                "MAIL" => {
                    self.from = path(line);
                    self.say("250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    if !self.recipient(path(line)).await? {
                        return Ok(None);
                    }
                }
                "DATA" if self.recipient.is_some() => {
                    self.say("354 go on").await?;
                    if !self.message().await? {
                        return Ok(None);
                    }
                }
                "RSET" => {
                    self.recipient = None;
                    self.say("250 2.0.0 ok").await?;
                }
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    return Ok(None);
                }
                _ => self.say("503 5.5.1 not now").await?,
            }
        }
    }

    async fn hello(&mut self) -> io::Result<()> {
        let script = &self.shared.script;
        let mut lines = vec!["sink.example.com".to_owned()];
        lines.extend(script.keywords.iter().cloned());
        if script.tls.is_some() && !self.is_secured {
            lines.push("STARTTLS".to_owned());
        }
        if script.login.is_some() {
            lines.push("AUTH PLAIN LOGIN".to_owned());
        }
        lines.push("8BITMIME".to_owned());
        let last = lines.len() - 1;
        for (at, line) in lines.iter().enumerate() {
            self.say(&format!("250{}{line}", if at == last { ' ' } else { '-' })).await?;
        }
        Ok(())
    }

    /// AUTH PLAIN with an initial response (RFC 4616), as the client sends it.
    async fn log_in(&mut self, line: &str) -> io::Result<()> {
        let given = line
            .split_ascii_whitespace()
            .nth(2)
            .and_then(|given| STANDARD.decode(given).ok())
            .unwrap_or_default();
        let wanted =
            self.shared.script.login.as_ref().map(|(user, password)| format!("\0{user}\0{password}"));
        let reply = if wanted.is_some_and(|wanted| wanted.as_bytes() == given) {
            "235 2.7.0 ok"
        } else {
            "535 5.7.8 bad credentials"
        };
        self.say(reply).await
    }

    /// False when the script ends the connection.
    async fn recipient(&mut self, recipient: String) -> io::Result<bool> {
        let refusal = match role(&recipient) {
            "temp" => Some("450 4.2.1 mailbox busy"),
            "perm" => Some("550 5.1.1 no such mailbox"),
            "421" => Some("421 4.3.2 closing"),
            "once-then-ok" if self.shared.state().refused_once.insert(recipient.clone()) => {
                Some("451 4.7.1 greylisted")
            }
            _ => None,
        };
        match refusal {
            Some(refusal) => {
                self.say(refusal).await?;
                Ok(!refusal.starts_with("421"))
            }
            None => {
                self.recipient = Some(recipient);
                self.say("250 2.1.5 ok").await?;
                Ok(true)
            }
        }
    }

    /// False when the script ends the connection.
    async fn message(&mut self) -> io::Result<bool> {
        let recipient = self.recipient.take().unwrap_or_default();
        let role = role(&recipient).to_owned();
        if role == "drop-before-dot" {
            return Ok(false);
        }
        let message = read_message(&mut self.wire).await?;
        let wait = if role == "slow" { Duration::from_millis(300) } else { self.shared.script.delay };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let acknowledged = role != "drop-after-dot";
        let from = std::mem::take(&mut self.from);
        self.keep(Received { from, recipient, message, acknowledged })?;
        if acknowledged {
            self.say("250 2.0.0 queued").await?;
        }
        self.messages += 1;
        Ok(acknowledged && self.messages != self.shared.script.messages_per_connection)
    }

    fn keep(&self, received: Received) -> io::Result<()> {
        let script = &self.shared.script;
        let mut state = self.shared.state();
        if let Some(folder) = &script.folder {
            std::fs::write(folder.join(format!("{:04}.eml", state.received.len() + 1)), &received.message)?;
        }
        if !script.forgetful {
            state.received.push(received);
        }
        Ok(())
    }
}

/// The address between the brackets.
fn path(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(path, _)| path.to_owned())
        .unwrap_or_default()
}

/// The local part up to a `+`.
fn role(recipient: &str) -> &str {
    recipient.split(['+', '@']).next().unwrap_or_default()
}

/// Reads up to the final dot and takes the stuffed dots away (RFC 5321, section 4.5.2).
async fn read_message(wire: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let start = message.len();
        if wire.read_until(b'\n', &mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Only CRLF ends a line: a dot between bare line feeds is part of the message.
        let is_line_start = start == 0 || message[..start].ends_with(b"\r\n");
        if is_line_start && message[start..] == *b".\r\n" {
            message.truncate(start);
            return Ok(message);
        }
        if is_line_start && message[start] == b'.' {
            message.remove(start);
        }
    }
}
