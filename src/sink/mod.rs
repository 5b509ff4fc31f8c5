//! A scripted SMTP server on loopback: it takes mail for the demo, the tests and the benchmarks, and misbehaves
//! on request.
//!
//! The recipient's local part, up to a `+`, is a script: `temp@` and `perm@` are refused for now and for good,
//! `once-then-ok@` is refused for now the first time, `slow@` takes a while, `421@` ends the connection at RCPT,
//! `drop-before-dot@` and `drop-after-dot@` end it during and after the message. Anyone else is accepted. The
//! [`rules`] of a [`Script`] say what else it does, at which step and how often; they come before the recipient's.

mod auth;
mod conversation;
mod message;
pub mod rules;
mod wire;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use conversation::Conversation;
use rules::{Doing, Rule, Step};

/// How many connections may wait to be taken.
const BACKLOG: u32 = 1024;

/// One message that the sink took, or that it read before it refused it or broke the connection. One for two
/// recipients counts twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// MAIL FROM.
    pub from: String,
    /// The parameters of MAIL as they came, such as `SIZE=1000 RET=HDRS`.
    pub mail_parameters: String,
    /// RCPT TO.
    pub recipient: String,
    /// The parameters of RCPT as they came.
    pub recipient_parameters: String,
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
    /// What stands between the first and the last lines of the EHLO reply; 8BITMIME alone when empty. With SIZE
    /// and a number, larger messages are refused (RFC 1870).
    pub keywords: Vec<String>,
    /// The wait before a message is acknowledged.
    pub delay: Duration,
    /// TLS with this certificate.
    pub tls: Option<TlsAcceptor>,
    /// Whether TLS starts with the first byte; otherwise STARTTLS is offered.
    pub implicit: bool,
    /// Octets sent in the clear right behind the reply to STARTTLS.
    pub injected: String,
    /// The user and password that AUTH PLAIN or LOGIN must bring before MAIL.
    pub login: Option<(String, String)>,
    /// The user and token that AUTH XOAUTH2 must bring before MAIL.
    pub bearer: Option<(String, String)>,
    /// The most messages on one connection; then it is closed without a word. 0 for any number.
    pub messages_per_connection: usize,
    /// The most connections at a time; one more is sent away with 421. 0 for any number.
    pub connections_at_a_time: usize,
    /// How many octets may be on the way unread, as far as the system keeps to it; its own choice when 0.
    pub window: u32,
    /// What else it does; the first that applies is followed.
    pub rules: Vec<Rule>,
    /// Where to keep messages as `.eml` files.
    pub folder: Option<PathBuf>,
    /// Whether to forget messages and conversations at once: for benchmarks.
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
    conversations: Vec<Vec<String>>,
    /// How often the step of each rule was reached.
    reached: Vec<usize>,
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

    /// What to do at a step, for a recipient where there is one.
    fn doing(&self, step: Step, recipient: &str) -> Doing {
        let mut state = self.state();
        state.reached.resize(self.script.rules.len(), 0);
        let mut found = None;
        for (rule, reached) in self.script.rules.iter().zip(&mut state.reached) {
            if rule.at == step && (rule.role.is_empty() || rule.role == rules::role(recipient)) {
                *reached += 1;
                if found.is_none() && rule.applies(*reached) {
                    found = Some(rule.doing.clone());
                }
            }
        }
        found.unwrap_or_else(|| {
            let is_first = |recipient: &str| state.refused_once.insert(recipient.to_owned());
            rules::by_role(step, recipient, is_first, self.script.delay)
        })
    }

    fn keep(&self, received: Received) -> io::Result<()> {
        let script = &self.script;
        let mut state = self.state();
        if let Some(folder) = &script.folder {
            std::fs::write(folder.join(format!("{:04}.eml", state.received.len() + 1)), &received.message)?;
        }
        if !script.forgetful {
            state.received.push(received);
        }
        Ok(())
    }

    /// Notes a line of the conversation with this number.
    fn note(&self, conversation: usize, line: impl FnOnce() -> String) {
        if !self.script.forgetful
            && let Some(lines) = self.state().conversations.get_mut(conversation)
        {
            lines.push(line());
        }
    }
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(script: Script) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if script.window > 0 {
            socket.set_recv_buffer_size(script.window)?;
        }
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { script, state: Mutex::default() });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
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

    /// The lines of each conversation so far: the client's behind `C: `, ours behind `S: `, with octets that do
    /// not print escaped. A message is one line that tells its length.
    pub fn conversations(&self) -> Vec<Vec<String>> {
        self.shared.state().conversations.clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Talks to everyone who comes; the conversations end with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while open.try_join_next().is_some() {}
        let most = shared.script.connections_at_a_time;
        let is_one_too_many = most > 0 && open.len() >= most;
        let number = {
            let mut state = shared.state();
            state.connections += 1;
            state.conversations.push(Vec::new());
            state.conversations.len() - 1
        };
        let shared = Arc::clone(&shared);
        // A client that goes away, or is sent away, ends only its own conversation.
        open.spawn(async move {
            if let Ok(conversation) = Conversation::open(stream, &shared, number).await {
                drop(conversation.run(is_one_too_many).await);
            }
        });
    }
}
