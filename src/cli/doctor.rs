//! `aftercall doctor`: connects to what a tenant needs, sends nothing, and says what works.

use std::io::{self, Write};

use super::{Exit, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::mailbox::{Imap, Mailbox, Source};
use crate::config::record::Record;
use crate::config::tenant::{Login, Tenant};
use crate::config::webhook::Webhook;
use crate::deliver::auth::tokens;
use crate::deliver::connect::connect;
use crate::deliver::tls::connector;
use crate::flow::collect::access;
use crate::flow::intake::chain;
use crate::inbox::{Reader, imap};
use crate::record::client::Client;
use crate::webhook;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Whose connections. May be left out where there is only one tenant.
    #[arg(value_name = "TENANT")]
    tenant: Option<String>,
}

/// One thing that was tried: what it is, and what it said or what is wrong with it.
struct Check {
    what: String,
    result: Result<String, String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let tenant = tenant(config, arguments.tenant.as_deref())?;
    let mut checks = vec![relay(tenant).await];
    if let Some(record) = &tenant.record {
        checks.push(crm(record).await);
    }
    if let Some(webhook) = &tenant.reactions.webhook {
        checks.push(receiver(webhook).await);
    }
    for mailbox in config.mailboxes.iter().filter(|mailbox| mailbox.is_of(&tenant.name)) {
        checks.push(look_into(mailbox).await);
    }
    let mut out = io::stdout().lock();
    for Check { what, result } in &checks {
        match result {
            Ok(told) => writeln!(out, "{what}: ok: {told}")?,
            Err(why) => writeln!(out, "{what}: failed: {why}")?,
        }
    }
    let all_well = checks.iter().all(|check| check.result.is_ok());
    Ok(if all_well { Exit::Done } else { Exit::Failed })
}

/// Opens a connection to the relay as for a mail, and leaves.
async fn relay(tenant: &Tenant) -> Check {
    let relay = &tenant.relay;
    let what = format!("relay {}", relay.place());
    let opened = async {
        let tls = connector(relay.ca_file.as_deref()).map_err(|error| chain(&error))?;
        let tokens = tokens(relay, Clock::default()).map_err(|error| chain(&error))?;
        connect(relay, &tls, tokens.as_ref()).await.map_err(|unusable| unusable.to_string())
    };
    let result = match opened.await {
        Ok(connection) => {
            let secured = connection.security().unwrap_or("no TLS").to_owned();
            connection.quit().await;
            Ok(match &relay.login {
                Some(Login::Password(user, _)) => format!("{secured}, as {user}"),
                Some(Login::OAuth2(client)) => format!("{secured}, as {}", client.user),
                None => format!("{secured}, without a login"),
            })
        }
        Err(why) => Err(why),
    };
    Check { what, result }
}

/// Looks whether a webhook's receiver is there, and tells it nothing.
async fn receiver(webhook: &Webhook) -> Check {
    let what = format!("webhook {}", webhook.place());
    let result = match webhook::client::Client::new(webhook, Clock::default()) {
        Ok(client) => client.reach().await.map(|()| "it answers".to_owned()),
        Err(error) => Err(chain(&error)),
    };
    Check { what, result }
}

/// Opens a mailbox as for reading, and takes nothing out of it.
async fn look_into(mailbox: &Mailbox) -> Check {
    let what = format!("mailbox {} ({})", mailbox.name, mailbox.source);
    let result = match &mailbox.source {
        Source::Imap(imap) => look_into_folder(mailbox, imap).await.map(|()| "it opens".to_owned()),
        Source::Maildir(folder) if folder.join("new").is_dir() => Ok("it is there".to_owned()),
        Source::Maildir(_) => Err("there is no folder new in it".to_owned()),
        Source::Lmtp(_) => Ok("serve listens there while it runs".to_owned()),
        Source::Pipe => Ok("receive takes its mails".to_owned()),
    };
    Check { what, result }
}

async fn look_into_folder(mailbox: &Mailbox, imap: &Imap) -> Result<(), String> {
    let (tls, tokens) = access(imap, Clock::default()).map_err(|error| chain(&error))?;
    let folder = imap::Reader::new(Box::new(imap.clone()), tls, tokens, mailbox.message_bytes, None);
    let mut reader = Reader::Imap(Box::new(folder));
    let looked = reader.look().await.map_err(|fault| chain(&fault));
    reader.close().await;
    looked
}

/// Takes the recipe's harmless request.
async fn crm(record: &Record) -> Check {
    let recipe = &record.recipe;
    let what = format!("record {} ({}, {})", record.place(), recipe.title, recipe.verified.as_str());
    let result = match Client::new(record, Clock::default()) {
        Ok(client) => client.probe().await,
        Err(error) => Err(chain(&error)),
    };
    Check { what, result }
}
