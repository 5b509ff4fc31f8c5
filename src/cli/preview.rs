//! `aftercall preview`: the mail as the agent will see it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use mail_parser::MessageParser;

use super::{Exit, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::flow::desk::Desk;
use crate::flow::intake::{Document, read_document};
use crate::flow::make;
use crate::ids::SessionName;
use crate::record::note::Note;
use crate::session::{Reading, Session, read};
use crate::store::Message;
use crate::template::Rendered;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A session file.
    file: PathBuf,
    /// Whose session it is. May be left out where there is only one tenant.
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// The language, in place of the session's own.
    #[arg(long, value_name = "L")]
    lang: Option<String>,
    /// Show the HTML body in the browser.
    #[arg(long)]
    open: bool,
    /// Write the HTML body instead of the text.
    #[arg(long, conflicts_with = "open")]
    html: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let tenant = tenant(config, arguments.tenant.as_deref())?;
    let desk = Desk::open(config, tenant, None, Clock::default()).await?;
    let file = &arguments.file;
    let document =
        read_document(file, desk.session_bytes).with_context(|| format!("cannot read {}", file.display()))?;
    let mut session = session(&desk, &document).with_context(|| file.display().to_string())?;
    session.lang = arguments.lang.clone().or(session.lang);
    let name = session.name;
    let (rendered, message) = draft(&desk, session, &document)?;
    if arguments.open {
        open(&rendered.html, name)?;
    } else if arguments.html {
        io::stdout().write_all(rendered.html.as_bytes())?;
    } else {
        let out = &mut io::stdout().lock();
        match message {
            Message::Mail(mail) => write_mail(out, &mail.wire)?,
            Message::Note(note) => write_note(out, &note)?,
        }
    }
    Ok(Exit::Done)
}

/// The session in a file, or why it is none.
pub(super) fn session(desk: &Desk, document: &Document) -> anyhow::Result<Session> {
    match read(&document.bytes, &document.name, desk.session_bytes)? {
        Reading::Session(session) => Ok(*session),
        Reading::Other(what) => bail!("this is {what}, not a session"),
    }
}

/// The mail of a session, or its note for the CRM.
pub(super) fn draft(
    desk: &Desk,
    session: Session,
    document: &Document,
) -> anyhow::Result<(Rendered, Message)> {
    make::draft(desk, session, &document.bytes).map_err(anyhow::Error::msg)
}

/// Writes a mail as a reader's program shows it: the fields that matter, the text, the attachments.
pub(super) fn write_mail(out: &mut dyn Write, wire: &[u8]) -> anyhow::Result<()> {
    use mail_parser::MimeHeaders;
    let message = MessageParser::default().parse(wire).context("the mail cannot be read")?;
    for name in
        ["From", "To", "Reply-To", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted"]
    {
        if let Some(value) = message.header_raw(name) {
            writeln!(out, "{name}: {}", value.split_whitespace().collect::<Vec<_>>().join(" "))?;
        }
    }
    writeln!(out, "Subject: {}\n", message.subject().unwrap_or_default())?;
    writeln!(out, "{}", message.body_text(0).unwrap_or_default().replace("\r\n", "\n").trim_end())?;
    for attachment in message.attachments() {
        let name = attachment.attachment_name().unwrap_or("without a name");
        writeln!(out, "\nAttachment: {name}, {} octets", attachment.contents().len())?;
    }
    Ok(())
}

/// Writes a note for a CRM's record as its reader sees it, and where it goes.
pub(super) fn write_note(out: &mut dyn Write, note: &Note) -> io::Result<()> {
    writeln!(out, "Record: ticket {} at {}\nExternal id: {}", note.ticket, note.target, note.external_id)?;
    writeln!(out, "Subject: {}\n\n{}\n", note.subject, note.text.trim_end())?;
    writeln!(out, "Attachment: {}", note.file_name)
}

fn open(html: &str, name: SessionName) -> anyhow::Result<()> {
    let file = std::env::temp_dir().join(format!("aftercall-preview-{}-{}.html", name, std::process::id()));
    std::fs::write(&file, html).with_context(|| format!("cannot write {}", file.display()))?;
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let opened = Command::new(opener).arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match opened {
        Ok(_) => writeln!(io::stdout(), "{}", file.display())?,
        Err(error) => bail!("cannot start {opener} ({error}); the page is {}", file.display()),
    }
    Ok(())
}
