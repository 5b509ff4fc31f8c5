//! The first words with an IMAP server: greeting, STARTTLS and authentication.
//!
//! Nothing of a mailbox or a secret is said before TLS where TLS is required, and nothing is believed that was said
//! before it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection::{Connection, TALK};
use super::wire::{Response, Wire};
use crate::config::mailbox::Imap;
use crate::config::secret::Secret;
use crate::config::tenant::{Login, Tls};
use crate::deliver::stream::Stream;
use crate::inbox::Fault;
use crate::oauth::Tokens;

const CONNECTING: &str = "connecting";
const STARTING_TLS: &str = "starting TLS";
const LOGGING_IN: &str = "logging in";

/// Opens a connection that is logged in. `tokens` are those of the mailbox, where it takes some.
pub(super) async fn open(
    imap: &Imap,
    tls: &TlsConnector,
    tokens: Option<&Tokens>,
) -> Result<Connection, Fault> {
    // A token may take its time; no connection is kept waiting for it.
    let token = match tokens {
        Some(tokens) => Some(tokens.get().await.map_err(|error| Fault::lost(LOGGING_IN, &error))?),
        None => None,
    };
    let limit = Duration::try_from(imap.reply_timeout).unwrap_or_default();
    let late = |_| Fault::lost(CONNECTING, &format_args!("no answer within {:#}", imap.reply_timeout));
    let tcp = timeout(limit, TcpStream::connect((imap.host.as_str(), imap.port))).await.map_err(late)?;
    let tcp = tcp.map_err(|error| Fault::lost(CONNECTING, &error))?;
    let stream = match imap.tls {
        Tls::Implicit => timeout(limit, secure(imap, tls, tcp)).await.map_err(late)??,
        Tls::StartTls | Tls::None => Stream::Plain(tcp),
    };
    let mut connection = Connection::new(Wire::new(stream), limit);
    greeted(&mut connection).await?;
    if imap.tls == Tls::StartTls {
        connection = start_tls(imap, tls, connection, limit).await?;
    }
    connection.ask_abilities().await?;
    let logged_in = log_in(&mut connection, &imap.login, token.as_ref()).await;
    if let (Err(Fault::Refused { .. }), Some(tokens), Some(token)) = (&logged_in, tokens, &token) {
        tokens.forget(token).await;
    }
    logged_in?;
    // A server can do more for those it knows.
    connection.ask_abilities().await?;
    Ok(connection)
}

async fn secure(imap: &Imap, tls: &TlsConnector, tcp: TcpStream) -> Result<Stream, Fault> {
    let fault = |error: &dyn std::fmt::Display| Fault::lost(STARTING_TLS, error);
    let name = ServerName::try_from(imap.host.clone()).map_err(|error| fault(&error))?;
    Ok(Stream::Tls(Box::new(tls.connect(name, tcp).await.map_err(|error| fault(&error))?)))
}

/// RFC 3501, section 7.1. A server that has logged us in already (PREAUTH) took us for somebody else, and leaves no
/// room for TLS.
async fn greeted(connection: &mut Connection) -> Result<(), Fault> {
    match connection.hear(TALK).await? {
        Response::Untagged(text) if text.split(' ').next() == Some("OK") => Ok(()),
        Response::Untagged(text) => Err(Fault::lost("greeting", &text)),
        _ => Err(Fault::lost("greeting", &"this is no IMAP server")),
    }
}

/// RFC 3501, section 6.2.1. What was known before is forgotten; what stands behind the answer, in the clear, would be
/// taken as said under TLS.
async fn start_tls(
    imap: &Imap,
    tls: &TlsConnector,
    mut connection: Connection,
    limit: Duration,
) -> Result<Connection, Fault> {
    connection.command(STARTING_TLS, "STARTTLS", TALK).await?;
    let unasked =
        || Fault::lost(STARTING_TLS, &"the server sent more than the answer; what follows cannot be trusted");
    let Stream::Plain(tcp) = connection.into_stream().ok_or_else(unasked)? else { return Err(unasked()) };
    let late = |_| Fault::lost(STARTING_TLS, &format_args!("no answer within {:#}", imap.reply_timeout));
    let stream = timeout(limit, secure(imap, tls, tcp)).await.map_err(late)??;
    Ok(Connection::new(Wire::new(stream), limit))
}

async fn log_in(connection: &mut Connection, login: &Login, token: Option<&Secret>) -> Result<(), Fault> {
    match (login, token) {
        (Login::OAuth2(client), Some(token)) => {
            let words = format!("user={}\x01auth=Bearer {}\x01\x01", client.user, token.expose());
            authenticate(connection, "XOAUTH2", &words, token).await
        }
        (Login::OAuth2(_), None) => Err(Fault::lost(LOGGING_IN, &"there are no access tokens")),
        (Login::Password(user, password), _) if connection.can("AUTH=PLAIN") => {
            // RFC 4616: no other identity, then user and password, parted by NUL.
            let words = format!("\0{user}\0{}", password.expose());
            authenticate(connection, "PLAIN", &words, password).await
        }
        (Login::Password(user, password), _) => {
            // RFC 3501, section 6.2.3.
            if connection.can("LOGINDISABLED") {
                return Err(Fault::lost(LOGGING_IN, &"the server takes neither PLAIN nor LOGIN"));
            }
            let (user, word) = (quoted(user), quoted(password.expose()));
            let (Some(user), Some(word)) = (user, word) else {
                return Err(Fault::lost(LOGGING_IN, &"the server takes only LOGIN, which needs ASCII"));
            };
            let told = connection.command(LOGGING_IN, &format!("LOGIN {user} {word}"), TALK).await;
            told.map(drop).map_err(|fault| without(fault, password))
        }
    }
}

/// AUTHENTICATE (RFC 3501, section 6.2.2), with the words at once where the server takes them (RFC 4959). A server of
/// XOAUTH2 that refuses asks once more before it does; an empty line makes it go on.
async fn authenticate(
    connection: &mut Connection,
    mechanism: &str,
    words: &str,
    secret: &Secret,
) -> Result<(), Fault> {
    let words = STANDARD.encode(words);
    let (command, mut answers) = if connection.can("SASL-IR") {
        (format!("AUTHENTICATE {mechanism} {words}"), vec![])
    } else {
        (format!("AUTHENTICATE {mechanism}"), vec![words])
    };
    let answer = || answers.pop().unwrap_or_default();
    let told = connection.converse(LOGGING_IN, &command, answer).await;
    told.map_err(|fault| without(fault, secret))
}

/// A server may quote what it was told.
fn without(fault: Fault, secret: &Secret) -> Fault {
    match fault {
        Fault::Refused { doing, text } => {
            Fault::Refused { doing, text: text.replace(secret.expose(), "(secret)") }
        }
        other => other,
    }
}

/// A quoted string (RFC 3501, section 9); none for a text that cannot be one.
pub(super) fn quoted(text: &str) -> Option<String> {
    let is_fit = text.bytes().all(|octet| (0x20..0x7f).contains(&octet));
    is_fit.then(|| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}
