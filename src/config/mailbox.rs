//! The mailboxes that mail comes back to: `[[mailboxes]]` of `aftercall.toml`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::reader::Section;
use super::tenant::{Login, ServerPlace, Tls, login, server_place};

/// The mailbox of what `receive` brings, where none is named.
pub const PIPE: &str = "pipe";

/// A place where mail comes back.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// Its name in the store, in lists and in the log.
    pub name: String,
    /// Whose mails come there; empty for all tenants.
    pub tenants: Vec<String>,
    /// Where it is.
    pub source: Source,
    /// The time between two looks; an IMAP server that can, tells of new mail before that.
    pub poll: SignedDuration,
    /// The largest mail in octets; of a larger one only the head is kept, in quarantine.
    pub message_bytes: usize,
}

impl Mailbox {
    /// The mailbox that is there without being configured: only `receive` fills it.
    pub fn pipe() -> Self {
        Self {
            name: PIPE.to_owned(),
            tenants: Vec::new(),
            source: Source::Pipe,
            poll: SignedDuration::ZERO,
            message_bytes: MESSAGE_BYTES,
        }
    }

    /// Whether the tenant's mails come there.
    pub fn is_of(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|name| name == tenant)
    }
}

/// How mail gets from a mailbox to us.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is fetched from a server.
    Imap(Box<Imap>),
    /// Somebody delivers into a folder of this form.
    Maildir(PathBuf),
    /// A mail server hands it over.
    Lmtp(Listen),
    /// A mail server runs `receive` for each mail.
    Pipe,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imap(imap) => write!(f, "imap {}", imap.place()),
            Self::Maildir(folder) => write!(f, "maildir {}", folder.display()),
            Self::Lmtp(listen) => write!(f, "lmtp {listen}"),
            Self::Pipe => f.write_str("receive"),
        }
    }
}

/// A folder of an IMAP server.
#[derive(Debug, Clone)]
pub struct Imap {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: Tls,
    /// A PEM file with a certificate authority to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Who logs in.
    pub login: Login,
    /// The folder with the mails.
    pub folder: String,
    /// What becomes of a mail that is stored.
    pub done: Done,
    /// Where a mail goes that could not be taken whole; none treats it as the others.
    pub failed: Option<String>,
    /// The longest wait for the connection and for each answer.
    pub reply_timeout: SignedDuration,
}

impl Imap {
    /// The folder among all others, for the position in it.
    pub fn place(&self) -> String {
        let user = match &self.login {
            Login::Password(user, _) => user,
            Login::OAuth2(client) => &client.user,
        };
        format!("{}:{} {user} {}", self.host, self.port, self.folder)
    }
}

/// What becomes of a mail on its server once it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Nothing.
    Keep,
    /// It is marked as read.
    Seen,
    /// It is removed.
    Delete,
    /// It is moved to this folder.
    Folder(String),
}

/// Where a mail server finds us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A port of this machine.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The largest mail where nothing else is said.
const MESSAGE_BYTES: usize = 25_000_000;

/// Reads all mailboxes. Relative paths start at `base`; `tenants` are those that there are.
pub(super) fn read(root: &Section<'_>, base: &Path, tenants: &BTreeSet<String>) -> Vec<Mailbox> {
    let (mut mailboxes, mut names) = (Vec::new(), BTreeSet::new());
    for section in root.sections("mailboxes") {
        let mailbox = mailbox(&section, base, tenants);
        section.finish();
        if let Some(mailbox) = mailbox {
            if !names.insert(mailbox.name.clone()) {
                section.problem("name", format_args!("{:?} is the name of two mailboxes", mailbox.name));
            }
            mailboxes.push(mailbox);
        }
    }
    mailboxes
}

fn mailbox(section: &Section<'_>, base: &Path, known: &BTreeSet<String>) -> Option<Mailbox> {
    let name: Option<String> = section.required("name");
    // It is part of a file's name.
    let is_plain = |name: &&String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if name.is_some() && name.as_ref().filter(is_plain).is_none() {
        section.problem("name", "may hold ASCII letters, digits, - _ and .");
    }
    let tenants = section.texts("tenants");
    for tenant in tenants.iter().filter(|tenant| !known.contains(*tenant)) {
        section.problem("tenants", format_args!("there is no tenant {tenant:?}"));
    }
    let poll = section.duration("poll");
    if poll.is_some_and(|poll| poll < SignedDuration::from_millis(100)) {
        section.problem("poll", "must be 100ms or longer");
    }
    let message_bytes = section.integer("message_bytes", 10_000..=200_000_000);
    let source = source(section, base);
    let usual = match &source {
        Some(Source::Maildir(_)) => SignedDuration::from_secs(5),
        _ => SignedDuration::from_mins(1),
    };
    if matches!(source, Some(Source::Lmtp(_) | Source::Pipe)) && section.names("poll") {
        section.problem("poll", "is used only with imap and maildir");
    }
    Some(Mailbox {
        name: name?,
        tenants,
        source: source?,
        poll: poll.unwrap_or(usual),
        message_bytes: message_bytes.and_then(|most| usize::try_from(most).ok()).unwrap_or(MESSAGE_BYTES),
    })
}

/// At most one of the sources; with none, only `receive` brings mails.
fn source(section: &Section<'_>, base: &Path) -> Option<Source> {
    let given: Vec<&str> = ["imap", "maildir", "lmtp"].into_iter().filter(|key| section.names(key)).collect();
    let (imap_section, lmtp_section) = (section.section("imap"), section.section("lmtp"));
    let imap = imap_section.is_given().then(|| imap(&imap_section, base));
    let maildir = section.text("maildir").map(|folder| base.join(folder));
    let lmtp = lmtp_section.is_given().then(|| listen(&lmtp_section, base));
    match given[..] {
        [] => Some(Source::Pipe),
        [_] => {
            let imap = imap.flatten().map(Box::new).map(Source::Imap);
            imap.or(maildir.map(Source::Maildir)).or(lmtp.flatten().map(Source::Lmtp))
        }
        [_, second, ..] => {
            section.problem(second, "give one of imap, maildir and lmtp");
            None
        }
    }
}

fn imap(section: &Section<'_>, base: &Path) -> Option<Imap> {
    let ServerPlace { host, port, tls, ca_file } = server_place(section, base, Tls::Implicit);
    if host.is_none() {
        section.problem("host", "missing");
    }
    let is_here = host.as_deref().is_some_and(is_loopback);
    if tls == Tls::None && host.is_some() && !is_here {
        section.problem("tls", "\"none\" is for a server on this machine only");
    }
    let login = login(section, base);
    if login.is_none() && !["user", "password", "oauth2"].iter().any(|key| section.names(key)) {
        section.problem("user", "missing; give user and password or oauth2");
    }
    let name = folder(section, "folder");
    let (done, failed) = (done(section), folder(section, "failed_folder"));
    let reply_timeout = section.duration("reply_timeout").unwrap_or(SignedDuration::from_mins(1));
    section.finish();
    Some(Imap {
        host: host?,
        port: port.unwrap_or(if tls == Tls::Implicit { 993 } else { 143 }),
        tls,
        ca_file,
        login: login?,
        folder: name.unwrap_or_else(|| "INBOX".to_owned()),
        done,
        failed,
        reply_timeout,
    })
}

fn done(section: &Section<'_>) -> Done {
    let done =
        section.one_of("done", &[("seen", &Done::Seen), ("keep", &Done::Keep), ("delete", &Done::Delete)]);
    let folder = folder(section, "done_folder");
    if done.is_some() && folder.is_some() {
        section.problem("done_folder", "give either done or done_folder");
    }
    folder.map(Done::Folder).or(done.cloned()).unwrap_or(Done::Seen)
}

/// The name of a folder; one with control characters would be several commands.
fn folder(section: &Section<'_>, key: &'static str) -> Option<String> {
    let name = section.text(key)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        section.problem(key, "must not be empty or hold control characters");
    }
    Some(name)
}

/// `listen = "127.0.0.1:24"` or the path of a socket. Nobody logs in, so only this machine may come.
fn listen(section: &Section<'_>, base: &Path) -> Option<Listen> {
    let text: Option<String> = section.required("listen");
    section.finish();
    let text = text?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Some(Listen::Tcp(address)),
        Ok(_) => {
            section.problem("listen", "must be an address of this machine, such as 127.0.0.1:2424");
            None
        }
        Err(_) if text.contains('/') => Some(Listen::Unix(base.join(text))),
        Err(_) => {
            section.problem(
                "listen",
                format_args!("{text:?} is neither 127.0.0.1:PORT nor a path with a / in it"),
            );
            None
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
