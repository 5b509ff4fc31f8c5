//! `aftercall profile`: the CRMs that are known, what each profile does, and what it would do with a session.

mod page;
mod words;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::table::{Format, Rows};
use super::{Common, Exit, Misuse, preview, tenant};
use crate::clock::Clock;
use crate::config::profile::Profile;
use crate::config::tenant::Tenant;
use crate::config::ticket::{Identity, Names};
use crate::config::{Config, Problems, profile_sources, profiles};
use crate::flow::desk::Desk;
use crate::flow::intake::read_document;
use crate::record::client::Client;
use crate::session::Ticket;
use crate::store::Message;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Every profile: its product, how updates reach it, and how sure its facts are.
    List {
        /// How to write it.
        #[arg(long, value_name = "F", default_value = "table")]
        format: Format,
    },
    /// What a profile does, in plain words.
    Show {
        /// The profile.
        name: String,
    },
    /// Write a profile of your own into the configuration folder, to be changed there.
    New {
        /// Its name; that of a shipped one replaces it.
        name: String,
        /// The profile to start from.
        #[arg(long, value_name = "PROFILE", default_value = "generic")]
        from: String,
    },
    /// The mail that a session would make, its envelope, and the ticket that the CRM would file it in; sends nothing.
    Try {
        /// Whose session it is.
        tenant: String,
        /// A session file.
        file: PathBuf,
    },
    /// The page docs/crms.md: every CRM, what is verified and what must be set up in it.
    Docs,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let out = &mut io::stdout().lock();
    match &arguments.command {
        Command::List { format } => list(out, &known(&common.config)?, *format)?,
        Command::Show { name } => words::write(out, find(&known(&common.config)?, name)?)?,
        Command::New { name, from } => new(out, &common.config, name, from)?,
        Command::Try { tenant: name, file } => {
            let config = common.load()?;
            attempt(out, &config, tenant(&config, Some(name))?, file).await?;
        }
        Command::Docs => page::write(out, &known(Path::new(""))?)?,
    }
    Ok(Exit::Done)
}

/// The profiles that ship and those of the folder, in the order of their products' names.
fn known(folder: &Path) -> Result<Vec<Profile>, Problems> {
    let mut problems = Vec::new();
    let mut known: Vec<Profile> = profiles(folder, |_, _| true, &mut problems).into_values().collect();
    known.sort_by_key(|profile| profile.title.to_lowercase());
    if problems.is_empty() { Ok(known) } else { Err(Problems(problems)) }
}

fn find<'p>(known: &'p [Profile], name: &str) -> Result<&'p Profile, Misuse> {
    known.iter().find(|profile| profile.name == name).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|profile| profile.name.as_str()).collect();
        Misuse(format!("there is no profile {name:?}; there are {}", names.join(", ")))
    })
}

fn list(out: &mut dyn Write, known: &[Profile], format: Format) -> io::Result<()> {
    let mut rows =
        Rows::new(&["profile", "product", "channel", "ticket", "out_ticket_id is", "only inferred"]);
    for profile in known {
        rows.push(vec![
            profile.name.clone().into(),
            profile.title.clone().into(),
            words::channel(profile).into(),
            words::token(profile).into(),
            words::identity(profile.ticket.identity).into(),
            words::inferred(profile).join(", ").into(),
        ]);
    }
    rows.write(out, format)
}

fn new(out: &mut dyn Write, folder: &Path, name: &str, from: &str) -> anyhow::Result<()> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(Misuse(format!("{name:?} is not a name: use a to z, 0 to 9, - and _")).into());
    }
    let sources = profile_sources(folder, &mut Vec::new());
    let (_, source) = sources.get(from).ok_or_else(|| Misuse(format!("there is no profile {from:?}")))?;
    let profiles = folder.join("profiles");
    let file = profiles.join(format!("{name}.toml"));
    fs::create_dir_all(&profiles).with_context(|| format!("cannot make {}", profiles.display()))?;
    let written = File::create_new(&file).and_then(|mut new| new.write_all(source.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(out, "{}", file.display())?;
    writeln!(out, "Change it, name it in a tenant's [profile], then run check and profile try.")?;
    Ok(())
}

async fn attempt(out: &mut dyn Write, config: &Config, tenant: &Tenant, file: &Path) -> anyhow::Result<()> {
    let desk = Desk::open(config, tenant, None, Clock::default()).await?;
    let document =
        read_document(file, desk.session_bytes).with_context(|| format!("cannot read {}", file.display()))?;
    let session = preview::session(&desk, &document).with_context(|| file.display().to_string())?;
    let ticket = session.ticket.clone();
    writeln!(out, "Profile   {} ({})", tenant.profile.title, tenant.profile.name)?;
    place(out, tenant, &ticket)?;
    let (_, message) = preview::draft(&desk, session, &document)?;
    let composed = match message {
        Message::Mail(composed) => composed,
        Message::Note(note) => {
            writeln!(out, "CRM       {}, which this command leaves alone\n", note.target)?;
            if let Some(record) = &tenant.record {
                let lines =
                    Client::new(record, Clock::default())?.rehearse(&note, &document.bytes, &tenant.title);
                lines.iter().try_for_each(|line| writeln!(out, "Request   {line}"))?;
                writeln!(out)?;
            }
            return Ok(preview::write_note(out, &note)?);
        }
    };
    let relay = tenant.relay.place();
    writeln!(out, "Relay     {relay}, which this command leaves alone")?;
    writeln!(out, "Envelope  MAIL FROM:<{}>", composed.envelope_from)?;
    writeln!(out, "          RCPT TO:<{}>", composed.recipient)?;
    writeln!(out, "Message   {} octets\n", composed.wire.len())?;
    preview::write_mail(out, &composed.wire)
}

/// Which ticket the CRM will file the mail in, and by what it knows it.
fn place(out: &mut dyn Write, tenant: &Tenant, ticket: &Ticket) -> io::Result<()> {
    let Some(id) = &ticket.id else {
        return writeln!(out, "Ticket    none: the session has no usable ticket id");
    };
    let profile = &tenant.profile;
    // Where it cannot be that ticket, making the mail says why.
    let Ok(names) = tenant.tickets.names(profile, id, ticket.url.as_deref()) else { return Ok(()) };
    writeln!(out, "Ticket    {}", told(&names, tenant.tickets.identity))?;
    if let Some(name) = names.get(profile.ticket.mail) {
        for (place, token) in words::tokens(profile, &tenant.parameters, name) {
            writeln!(out, "Found by  {token} {place}")?;
        }
    }
    if let Some(condition) = &profile.ticket.condition {
        writeln!(out, "Only if   {condition}")?;
    }
    Ok(())
}

fn told(names: &Names, given: Identity) -> String {
    let all = [Identity::Number, Identity::Id, Identity::Token];
    let known = all.into_iter().filter_map(|identity| {
        let (name, given) = (names.get(identity)?, names.get(given) == names.get(identity));
        let from = if given { "out_ticket_id" } else { "out_ticket_url" };
        Some(format!("{identity} {name}, from {from}"))
    });
    known.collect::<Vec<_>>().join("; ")
}
