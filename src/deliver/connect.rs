//! Opening a connection to a relay: TCP, TLS, greeting, EHLO, AUTH; each step within its time.

use std::sync::Arc;
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::auth::Pass;
use super::dialogue::{DialogueError, Reply, command, read_reply};
use super::outcome::Stage;
use super::smtp::{Connection, Offers};
use super::stream::{Primed, Progress, Stream};
use crate::config::tenant::{Relay, Tls};
use crate::crash::{Step, reached};
use crate::oauth::Tokens;

/// What kept a connection from being usable, at which step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {text}")]
pub struct Unusable {
    /// The step.
    pub stage: Stage,
    /// The server's reply code; none when no reply came.
    pub code: Option<u16>,
    /// The server's words, or what failed.
    pub text: String,
}

impl Unusable {
    pub(super) fn new(stage: Stage, reason: &dyn std::fmt::Display) -> Self {
        Self { stage, code: None, text: reason.to_string() }
    }
}

/// Opens a connection that is ready for a message. `tokens` are those of [`tokens`](super::auth::tokens).
pub async fn connect(
    relay: &Relay,
    tls: &TlsConnector,
    tokens: Option<&Tokens>,
) -> Result<Connection, Unusable> {
    // A token may take its time; no connection is kept waiting for it.
    let pass = Pass::of(relay, tokens).await?;
    let tcp = within(relay, Stage::Connect, TcpStream::connect((relay.host.as_str(), relay.port))).await?;
    let fault = |error| Unusable::new(Stage::Connect, &error);
    // Without it, each message waits some 40 ms for the delayed acknowledgement of its first packet.
    tcp.set_nodelay(true).map_err(fault)?;
    let peer = tcp.peer_addr().map_err(fault)?;
    let mut stream = match relay.tls {
        Tls::Implicit => secure(relay, tls, tcp).await?,
        Tls::StartTls | Tls::None => Stream::Plain(tcp),
    };
    let greeting = within(relay, Stage::Greeting, read_reply(&mut stream)).await?;
    expect(Stage::Greeting, &greeting, 220)?;
    let mut hello = say_hello(relay, &mut stream).await?;
    if relay.tls == Tls::StartTls {
        stream = start_tls(relay, tls, stream, &hello).await?;
        // RFC 3207, section 4.2: what was known before TLS is forgotten.
        hello = say_hello(relay, &mut stream).await?;
    }
    let security = security(&stream);
    if let Some(pass) = pass {
        let offered = hello.keyword("AUTH").unwrap_or_default();
        if let Err(why) = pass.present(relay, &mut stream, &offered).await {
            pass.refused(tokens, &why).await;
            return Err(why);
        }
    }
    let progress = Arc::new(Progress::default());
    let primed = Primed::new(stream, peer, Arc::clone(&progress));
    let name = ClientId::Domain(relay.hello.clone());
    let client = AsyncSmtpConnection::connect_with_transport(Box::new(primed), &name);
    let client = within(relay, Stage::Hello, client).await?;
    reached(Step::Connected);
    let said = |stage: Stage, reply: &Reply| format!("{stage}: {} {}", reply.code, reply.text());
    let replies = vec![said(Stage::Greeting, &greeting), said(Stage::Hello, &hello)];
    Ok(Connection::new(client, progress, relay, Offers::of(&hello), security, replies))
}

/// Runs one step within the relay's time for a reply.
pub(super) async fn within<T, E: std::fmt::Display>(
    relay: &Relay,
    stage: Stage,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Unusable> {
    let limit = Duration::try_from(relay.reply_timeout).unwrap_or_default();
    match timeout(limit, step).await {
        Ok(result) => result.map_err(|error| Unusable::new(stage, &error)),
        Err(_) => Err(Unusable::new(stage, &format_args!("no answer within {:#}", relay.reply_timeout))),
    }
}

fn expect(stage: Stage, reply: &Reply, code: u16) -> Result<(), Unusable> {
    if reply.code == code {
        Ok(())
    } else {
        Err(Unusable { stage, code: Some(reply.code), text: reply.text() })
    }
}

async fn say_hello(relay: &Relay, stream: &mut Stream) -> Result<Reply, Unusable> {
    let line = format!("EHLO {}", relay.hello);
    let reply = within(relay, Stage::Hello, command(stream, &line)).await?;
    expect(Stage::Hello, &reply, 250)?;
    Ok(reply)
}

async fn start_tls(
    relay: &Relay,
    tls: &TlsConnector,
    mut stream: Stream,
    hello: &Reply,
) -> Result<Stream, Unusable> {
    if hello.keyword("STARTTLS").is_none() {
        return Err(Unusable::new(
            Stage::Tls,
            &"the relay does not offer STARTTLS, and the tenant requires it",
        ));
    }
    let reply = within(relay, Stage::Tls, command(&mut stream, "STARTTLS")).await?;
    expect(Stage::Tls, &reply, 220)?;
    match stream {
        Stream::Plain(tcp) => secure(relay, tls, tcp).await,
        Stream::Tls(_) => Err(Unusable::new(Stage::Tls, &DialogueError::Unasked)),
    }
}

async fn secure(relay: &Relay, tls: &TlsConnector, tcp: TcpStream) -> Result<Stream, Unusable> {
    let name = ServerName::try_from(relay.host.clone()).map_err(|error| Unusable::new(Stage::Tls, &error))?;
    Ok(Stream::Tls(Box::new(within(relay, Stage::Tls, tls.connect(name, tcp)).await?)))
}

/// The TLS version and cipher suite, for the log.
fn security(stream: &Stream) -> Option<String> {
    let Stream::Tls(tls) = stream else { return None };
    let (_, session) = tls.get_ref();
    let version =
        session.protocol_version().and_then(|version| version.as_str().map(|name| name.replace('_', ".")));
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    Some([version.as_deref(), suite].into_iter().flatten().collect::<Vec<_>>().join(" "))
}
