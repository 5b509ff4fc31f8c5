//! `aftercall receive`: one mail on standard input, as a mail server hands it to a command. The exit codes are those
//! that mail servers know (sysexits.h).

use std::io::{self, Read, Write};

use anyhow::Context as _;

use super::{Exit, Misuse, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::mailbox::PIPE;
use crate::flow::collect::keep;
use crate::inbox::lmtp::is_path;
use crate::inbox::{head, too_large};
use crate::store::Arrival;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The envelope's sender; empty for the null reverse-path.
    #[arg(long, value_name = "ADDR")]
    from: Option<String>,
    /// The envelope's recipient.
    #[arg(long, value_name = "ADDR")]
    to: Option<String>,
    /// The mailbox that it belongs to; "pipe" is there without being configured.
    #[arg(long, value_name = "NAME", default_value = PIPE)]
    mailbox: String,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<Exit> {
    let mailbox = config.mailbox(&arguments.mailbox);
    let mailbox = mailbox.ok_or_else(|| Misuse("there is no such mailbox".to_owned()))?;
    let (sender, recipient) = (address(arguments.from)?, address(arguments.to)?);
    let (raw, fault) = mail(mailbox.message_bytes).context("cannot read standard input")?;
    if raw.is_empty() {
        writeln!(io::stderr(), "aftercall: there is no mail on standard input")?;
        return Ok(Exit::BadData);
    }
    let recipient = recipient.filter(|recipient| !recipient.is_empty());
    let now = Clock::default().now();
    let arrival = Arrival { mailbox: mailbox.name, sender, recipient, raw, fault, now };
    keep(&open_store(config)?, vec![arrival]).await?;
    Ok(Exit::Done)
}

/// An address without the brackets that some mail servers leave around it.
fn address(text: Option<String>) -> Result<Option<String>, Misuse> {
    let bare = text.map(|text| {
        let bare = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
        bare.unwrap_or(&text).to_owned()
    });
    match bare {
        Some(text) if !is_path(&text) => Err(Misuse("an address holds what no address may hold".to_owned())),
        bare => Ok(bare),
    }
}

/// The mail, or its head with the reason. All of it is read: who hands it over would take a closed pipe for a failure.
fn mail(limit: usize) -> io::Result<(Vec<u8>, Option<String>)> {
    let (mut raw, mut input) = (Vec::new(), io::stdin().lock());
    (&mut input).take(limit as u64 + 1).read_to_end(&mut raw)?;
    if raw.len() <= limit {
        return Ok((raw, None));
    }
    let octets = raw.len() as u64 + io::copy(&mut input, &mut io::sink())?;
    raw.truncate(head(&raw).len());
    Ok((raw, Some(too_large(octets, limit))))
}
