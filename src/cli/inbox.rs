//! `aftercall inbox`: when each mailbox was read, and what of it could not be taken whole.

use std::io::{self, Write};

use clap::Subcommand;

use super::log::stamp;
use super::table::{Format, Rows};
use super::{Exit, Misuse, open_store};
use crate::config::Config;
use crate::ids::InboundId;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// How to write.
    #[arg(long, value_enum, default_value = "table", global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The mails in quarantine, with the reason.
    Quarantine,
    /// One mail as it came.
    Mail {
        /// Its number.
        id: i64,
    },
}

pub(super) fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let store = open_store(config)?;
    let mut out = io::stdout().lock();
    let rows = match arguments.what {
        Some(What::Mail { id }) => {
            let mail = store.inbound_mail(InboundId(id))?;
            out.write_all(&mail.ok_or_else(|| Misuse(format!("there is no inbound {id}")))?)?;
            return Ok(Exit::Done);
        }
        Some(What::Quarantine) => {
            let mut rows = Rows::new(&["id", "mailbox", "arrived", "octets", "reason"]);
            for row in store.quarantined_inbounds()? {
                rows.push(vec![
                    row.id.0.into(),
                    row.mailbox.into(),
                    stamp(row.arrived_at).into(),
                    row.octets.into(),
                    row.reason.into(),
                ]);
            }
            rows
        }
        None => {
            let read = store.mailboxes()?;
            let mut rows = Rows::new(&["mailbox", "source", "read"]);
            for mailbox in &config.mailboxes {
                let found = read.iter().find(|row| row.name == mailbox.name);
                let read_at = found.and_then(|row| row.read_at);
                rows.push(vec![
                    mailbox.name.clone().into(),
                    mailbox.source.to_string().into(),
                    read_at.map(stamp).into(),
                ]);
            }
            rows
        }
    };
    rows.write(&mut out, arguments.format)?;
    Ok(Exit::Done)
}
