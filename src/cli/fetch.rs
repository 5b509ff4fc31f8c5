//! `aftercall fetch`: read the mailboxes once, judge what came, and say so.

use std::io::{self, Write};

use super::inbox::reconciler;
use super::{Exit, Misuse, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::mailbox::{Mailbox, Source};
use crate::flow::collect::{CollectError, Collector};
use crate::flow::intake::chain;
use crate::flow::presence::Presence;
use crate::store::Taken;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only this mailbox.
    #[arg(long, value_name = "NAME")]
    mailbox: Option<String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let wanted = |mailbox: &&Mailbox| {
        matches!(mailbox.source, Source::Imap(_) | Source::Maildir(_))
            && arguments.mailbox.as_ref().is_none_or(|name| *name == mailbox.name)
    };
    let mailboxes: Vec<&Mailbox> = config.mailboxes.iter().filter(wanted).collect();
    if mailboxes.is_empty() && arguments.mailbox.is_some() {
        return Err(Misuse("there is no such mailbox of the kind imap or maildir".to_owned()).into());
    }
    let (store, clock) = (open_store(config)?, Clock::default());
    let presence = Presence::begin(&store, &[], &clock).await?;
    let mut exit = Exit::Done;
    for mailbox in mailboxes {
        let mut collector = Collector::new(mailbox, &store, presence.instance, clock.clone())?;
        match collector.once(|name, taken| tell(&mailbox.name, name, taken)).await {
            Ok(()) => {}
            Err(CollectError::Store(error)) => return Err(error.into()),
            Err(error) => {
                writeln!(io::stderr(), "{}: {}", mailbox.name, chain(&error))?;
                let is_held = matches!(error, CollectError::Held);
                exit = if is_held && exit == Exit::Done { Exit::TryAgain } else { Exit::Failed };
            }
        }
    }
    presence.end().await?;
    let reconciler = reconciler(config, &store).await?;
    while reconciler.judge_new().await? > 0 {}
    Ok(exit)
}

fn tell(mailbox: &str, name: &str, taken: Taken) {
    // A file's name may hold anything.
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    // Who does not read on does not stop the work.
    drop(match taken {
        Taken::New(id) => writeln!(io::stdout(), "{mailbox}: {name}: inbound {id}"),
        Taken::Known(id) => writeln!(io::stdout(), "{mailbox}: {name}: known as inbound {id}"),
    });
}
