//! A mail server on this machine hands mails over, one answer for each recipient (LMTP, RFC 2033).
//!
//! An answer that takes a mail is given only after its caller has stored it, so the server keeps what we have not.
//! What a client can make us hold is bounded: a line, a message, the recipients, the connections, the time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Fault;
use crate::config::mailbox::Listen;

/// The longest line of a command; RFC 5321, section 4.5.3.1.4 wants 512 and room for extensions.
const MAX_LINE: usize = 4096;
/// RFC 5321, section 4.5.3.1.8.
const MAX_RECIPIENTS: usize = 100;
/// The longest address with its brackets, in octets; RFC 5321, section 4.5.3.1.3, with room for long tokens.
const MAX_PATH: usize = 512;
/// The most connections at a time.
const CONNECTIONS: usize = 32;
/// The most commands of one connection that are not understood.
const MISTAKES: usize = 20;
/// The longest wait for a client (RFC 5321, section 4.5.3.2.7).
const PATIENCE: Duration = Duration::from_secs(300);

/// A mail for one recipient, and where to say whether it is stored.
#[derive(Debug)]
pub struct Delivered {
    /// MAIL FROM without brackets; empty for the null reverse-path.
    pub sender: String,
    /// RCPT TO without brackets.
    pub recipient: String,
    /// The mail as it came, dots unstuffed.
    pub raw: Arc<Vec<u8>>,
    /// True once it is stored. Without an answer the client keeps the mail.
    pub stored: oneshot::Sender<bool>,
}

/// A socket that takes mails.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    limit: usize,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Begins to listen; a mail may have `limit` octets.
    pub async fn open(listen: &Listen, limit: usize) -> Result<Self, Fault> {
        let fault = |path: String| move |source| Fault::File { path: path.into(), source };
        let socket = match listen {
            Listen::Tcp(address) => {
                Socket::Tcp(TcpListener::bind(address).await.map_err(fault(address.to_string()))?)
            }
            Listen::Unix(path) => Socket::Unix(unix(path).await.map_err(fault(path.display().to_string()))?),
        };
        Ok(Self { socket, limit })
    }

    /// Talks to everyone who comes, and gives each mail to `taken`. The conversations end with it.
    pub async fn run(self, taken: mpsc::Sender<Delivered>) -> io::Error {
        let (mut open, room) = (JoinSet::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            while open.try_join_next().is_some() {}
            let stream: Box<dyn Stream> = match &self.socket {
                Socket::Tcp(socket) => match socket.accept().await {
                    Ok((stream, _)) => Box::new(stream),
                    Err(error) => return error,
                },
                Socket::Unix(socket) => match socket.accept().await {
                    Ok((stream, _)) => Box::new(stream),
                    Err(error) => return error,
                },
            };
            let (taken, limit, permit) = (taken.clone(), self.limit, Arc::clone(&room).try_acquire_owned());
            // A client that goes away, or is sent away, ends only its own conversation.
            open.spawn(async move {
                let mut conversation = Conversation {
                    stream: BufReader::new(stream),
                    limit,
                    taken,
                    envelope: None,
                    mistakes: 0,
                };
                drop(match permit {
                    Ok(_permit) => conversation.run().await,
                    Err(_) => conversation.say("421 4.3.2 too many connections").await,
                });
            });
        }
    }
}

/// A socket that any local mail server may write to; the folder says who comes there. One that nobody listens on was
/// left by a process that is no more.
async fn unix(path: &std::path::Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        match tokio::net::UnixStream::connect(path).await {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(socket)
}

/// Anything to talk over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

#[derive(Default)]
struct Envelope {
    sender: String,
    recipients: Vec<String>,
}

struct Conversation {
    stream: BufReader<Box<dyn Stream>>,
    limit: usize,
    taken: mpsc::Sender<Delivered>,
    envelope: Option<Envelope>,
    mistakes: usize,
}

/// A message, or why it is refused.
enum Message {
    Whole(Vec<u8>),
    TooLarge,
    BareLineFeed,
}

impl Conversation {
    async fn run(&mut self) -> io::Result<()> {
        self.say("220 aftercall LMTP").await?;
        while self.mistakes < MISTAKES {
            let line = self.line().await?;
            let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "LHLO" => self.hello().await?,
                "MAIL" => self.mail(&line).await?,
                "RCPT" => self.recipient(&line).await?,
                "DATA" => self.data().await?,
                "RSET" => {
                    self.envelope = None;
                    self.say("250 2.0.0 ok").await?;
                }
                "NOOP" => self.say("250 2.0.0 ok").await?,
                "VRFY" => self.say("252 2.1.5 try it").await?,
                "QUIT" => return self.say("221 2.0.0 bye").await,
                // RFC 2033, section 4.1: a client of SMTP must be told.
                "HELO" | "EHLO" => self.mistake("500 5.5.1 this is LMTP, say LHLO").await?,
                _ => self.mistake("500 5.5.1 no such command").await?,
            }
        }
        self.say("421 4.7.0 too many mistakes").await
    }

    /// Answers; what several commands in one packet are answered waits for the last of them (RFC 2920).
    async fn say(&mut self, line: &str) -> io::Result<()> {
        let written = async {
            self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await?;
            self.stream.get_mut().flush().await
        };
        timeout(PATIENCE, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn mistake(&mut self, line: &str) -> io::Result<()> {
        self.mistakes += 1;
        self.say(line).await
    }

    /// A command. A bare line feed in it ends the conversation: two servers may disagree where a line ends.
    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(MAX_LINE as u64);
        let read = timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await;
        read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        match line.strip_suffix(b"\r\n") {
            Some(line) if !line.contains(&b'\r') => Ok(String::from_utf8_lossy(line).into_owned()),
            _ if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {
                self.say("500 5.5.2 the line is too long, or does not end in CRLF").await?;
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    async fn hello(&mut self) -> io::Result<()> {
        self.envelope = None;
        // RFC 2033, section 5 wants the first two of them.
        self.say(&format!(
            "250-aftercall\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE {}",
            self.limit
        ))
        .await
    }

    async fn mail(&mut self, line: &str) -> io::Result<()> {
        if self.envelope.is_some() {
            return self.mistake("503 5.5.1 one at a time").await;
        }
        let Some((sender, parameters)) = path(line, "MAIL FROM:") else {
            return self.mistake("501 5.1.7 no such sender").await;
        };
        // RFC 1870, section 6.1.
        let mut words = parameters.split_ascii_whitespace();
        let declared = words.find_map(|word| word.to_ascii_uppercase().strip_prefix("SIZE=")?.parse().ok());
        if declared.is_some_and(|octets: usize| octets > self.limit) {
            return self.say("552 5.3.4 the mail is too large").await;
        }
        self.envelope = Some(Envelope { sender: sender.to_owned(), recipients: Vec::new() });
        self.say("250 2.1.0 ok").await
    }

    async fn recipient(&mut self, line: &str) -> io::Result<()> {
        let Some(envelope) = &mut self.envelope else { return self.mistake("503 5.5.1 MAIL first").await };
        let recipient =
            path(line, "RCPT TO:").map(|(recipient, _)| recipient).filter(|path| !path.is_empty());
        let answer = match recipient {
            None => "501 5.1.3 no such recipient",
            Some(_) if envelope.recipients.len() >= MAX_RECIPIENTS => "452 4.5.3 too many recipients",
            Some(recipient) => {
                envelope.recipients.push(recipient.to_owned());
                "250 2.1.5 ok"
            }
        };
        self.say(answer).await
    }

    async fn data(&mut self) -> io::Result<()> {
        // RFC 2033, section 4.2: without recipients there is nobody to answer for.
        let envelope = self.envelope.take().filter(|envelope| !envelope.recipients.is_empty());
        let Some(envelope) = envelope else { return self.mistake("503 5.5.1 no valid recipients").await };
        self.say("354 go on").await?;
        match self.message().await? {
            Message::Whole(raw) => self.store(envelope, raw.into()).await,
            Message::TooLarge => self.refuse(&envelope, "552 5.3.4 the mail is too large").await,
            Message::BareLineFeed => self.refuse(&envelope, "550 5.6.0 a line ends without CR").await,
        }
    }

    async fn refuse(&mut self, envelope: &Envelope, line: &str) -> io::Result<()> {
        for _ in &envelope.recipients {
            self.say(line).await?;
        }
        Ok(())
    }

    /// Hands the mail on for each recipient, and answers for each, in their order (RFC 2033, section 4.2).
    async fn store(&mut self, envelope: Envelope, raw: Arc<Vec<u8>>) -> io::Result<()> {
        let mut answers = Vec::new();
        for recipient in envelope.recipients {
            let (stored, answer) = oneshot::channel();
            let (sender, raw) = (envelope.sender.clone(), Arc::clone(&raw));
            // Where nobody takes mails any more, the answer is dropped with the mail.
            drop(self.taken.send(Delivered { sender, recipient, raw, stored }).await);
            answers.push(answer);
        }
        for answer in answers {
            let is_stored = answer.await.unwrap_or(false);
            self.say(if is_stored { "250 2.0.0 stored" } else { "451 4.3.0 it cannot be stored now" })
                .await?;
        }
        Ok(())
    }

    /// Reads up to the final dot and takes the stuffed dots away (RFC 5321, section 4.5.2). Only CRLF ends a line, so
    /// no dot between bare line feeds ends a message.
    async fn message(&mut self) -> io::Result<Message> {
        let (mut raw, mut is_bare, mut is_large) = (Vec::new(), false, false);
        let mut line = Vec::new();
        let mut at_start = true;
        loop {
            line.clear();
            let mut bounded = (&mut self.stream).take(64 * 1024);
            let read = timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await;
            if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if at_start && line == b".\r\n" {
                break;
            }
            let unstuffed = if at_start { line.strip_prefix(b".").unwrap_or(&line) } else { &line };
            let had_cr = raw.last() == Some(&b'\r') && line == b"\n";
            at_start = line.ends_with(b"\r\n") || had_cr;
            is_bare |= line.ends_with(b"\n") && !at_start;
            is_large |= raw.len() + unstuffed.len() > self.limit;
            if !is_large {
                raw.extend_from_slice(unstuffed);
            }
        }
        Ok(match (is_large, is_bare) {
            (true, _) => Message::TooLarge,
            (_, true) => Message::BareLineFeed,
            _ => Message::Whole(raw),
        })
    }
}

/// The address between the brackets, and the parameters behind them; none for what is no path. It goes into the store
/// and to terminals, so nothing invisible is let in.
fn path<'l>(line: &'l str, verb: &str) -> Option<(&'l str, &'l str)> {
    let (given, rest) = line.split_at_checked(verb.len())?;
    let rest = rest.trim_start().strip_prefix('<').filter(|_| given.eq_ignore_ascii_case(verb))?;
    let (path, parameters) = rest.split_at(rest.rfind('>')?);
    is_path(path).then_some((path, &parameters[1..]))
}

/// Whether a text may be an address of an envelope, which others wrote: nothing invisible, and not too long.
pub fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH && !text.chars().any(|c| c.is_control() || c.is_whitespace() || "<>".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_or_refused() {
        let table = [
            ("MAIL FROM:<a@example.com>", Some(("a@example.com", ""))),
            ("mail from:<> SIZE=7", Some(("", " SIZE=7"))),
            ("MAIL FROM: <\"a b\"@example.com>", None),
            ("MAIL FROM:a@example.com", None),
            ("MAIL FROM:<a@example.com", None),
            ("MAIL FROM:<a\u{7}@example.com>", None),
            ("MAIL FROM:<a><b>", None),
            ("MAIL", None),
            ("MAIL FR\u{f6}M:<a>", None),
        ];
        for (line, read) in table {
            assert_eq!(path(line, "MAIL FROM:"), read, "{line}");
        }
    }
}
