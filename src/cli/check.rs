//! `aftercall check`: every problem in every file, at once.

use std::io::{self, Write};

use serde_json::json;

use super::{Common, Exit};
use crate::classify::rules::Rules;
use crate::clock::Clock;
use crate::config::mailbox::{Mailbox, Source};
use crate::config::reader::Problem;
use crate::config::record::Record;
use crate::config::sources::Verified;
use crate::config::tenant::Tenant;
use crate::config::ticket::Identity;
use crate::config::{Config, Problems};
use crate::deliver::tls::connector;
use crate::dkim::Signer;
use crate::flow::intake::chain;
use crate::record::client::{Client, ClientError};
use crate::samples::SAMPLES;
use crate::session::{Reading, read};
use crate::template::{Context, Missing, Templates};
use crate::view::view;

pub(super) fn run(common: &Common) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let config = match common.load() {
        Ok(config) => config,
        Err(Problems(problems)) => return tell(&mut out, &problems),
    };
    let mut problems: Vec<Problem> =
        config.tenants.values().flat_map(|tenant| check(&config, common, tenant)).collect();
    problems.extend(config.mailboxes.iter().filter_map(|mailbox| check_mailbox(common, mailbox)));
    if let Err(Problems(found)) = Rules::load(&common.config) {
        problems.extend(found);
    }
    if problems.is_empty() {
        for tenant in config.tenants.values() {
            say(&mut out, tenant)?;
        }
        for mailbox in &config.mailboxes {
            writeln!(out, "mailbox {}: ok; {}", mailbox.name, mailbox.source)?;
        }
        return Ok(Exit::Done);
    }
    tell(&mut out, &problems)
}

/// What a tenant's ticket ids are taken for, and what of its profile nobody has tried.
fn say(out: &mut dyn Write, tenant: &Tenant) -> io::Result<()> {
    let identity = match tenant.tickets.identity {
        Identity::Number => "out_ticket_id is the ticket's number",
        Identity::Id => "out_ticket_id is the ticket's internal id",
        Identity::Token => "out_ticket_id is the ticket's name for mail",
        Identity::Same => "a ticket has one id",
    };
    let profile = &tenant.profile;
    write!(out, "tenant {}: ok; {}: {identity}", tenant.name, profile.title)?;
    if let Some(Record { recipe, .. }) = &tenant.record {
        let (recipe, sure) = (&recipe.title, recipe.verified.as_str());
        write!(out, "; channel {}, recipe {recipe} ({sure})", tenant.channel)?;
    }
    writeln!(out)?;
    if let Some(condition) = &profile.ticket.condition {
        writeln!(out, "  a mail reaches its ticket only if {condition}")?;
    }
    for source in profile.sources.iter().filter(|source| source.verified == Verified::Inferred) {
        writeln!(out, "  only inferred, so try it first: {} ({})", source.group, source.note)?;
    }
    Ok(())
}

fn tell(out: &mut dyn Write, problems: &[Problem]) -> anyhow::Result<Exit> {
    for problem in problems {
        writeln!(out, "{problem}")?;
    }
    let plural = if problems.len() == 1 { "problem" } else { "problems" };
    writeln!(out, "{} {plural}", problems.len())?;
    Ok(Exit::Failed)
}

fn check(config: &Config, common: &Common, tenant: &Tenant) -> Vec<Problem> {
    let file = common.config.join("tenants").join(format!("{}.toml", tenant.name));
    let mut problems = Vec::new();
    if let Err(error) = connector(tenant.relay.ca_file.as_deref()) {
        problems.push(Problem { key: "relay.ca_file".to_owned(), ..Problem::of_file(&file, chain(&error)) });
    }
    if let Some(record) = &tenant.record {
        match Client::new(record, Clock::default()) {
            Ok(_) => {}
            Err(ClientError::Recipe(found)) => problems.extend(found),
            Err(error) => {
                let problem = Problem::of_file(&file, chain(&error));
                problems.push(Problem { key: "record".to_owned(), ..problem });
            }
        }
    }
    for (at, key) in tenant.dkim.iter().enumerate() {
        if let Err(error) = Signer::new(key) {
            let place = format!("dkim {} ({}._domainkey.{})", at + 1, key.selector, key.domain);
            problems.push(Problem { key: place, ..Problem::of_file(&file, chain(&error)) });
        }
    }
    let folder = tenant.templates.as_deref();
    match Templates::load(folder, &tenant.language, tenant.time_zone.as_ref(), Missing::Failure) {
        Ok(templates) => problems.extend(render_samples(config, tenant, &templates)),
        Err(found) => problems.extend(found),
    }
    problems
}

fn check_mailbox(common: &Common, mailbox: &Mailbox) -> Option<Problem> {
    let file = common.config.join("aftercall.toml");
    let Source::Imap(imap) = &mailbox.source else { return None };
    let error = connector(imap.ca_file.as_deref()).err()?;
    Some(Problem { key: "mailboxes.imap.ca_file".to_owned(), ..Problem::of_file(&file, chain(&error)) })
}

/// Renders every sample in every language, as a first mail and as a follow-up without attachment; and looks for
/// names that no session has. Each problem is told once.
fn render_samples(config: &Config, tenant: &Tenant, templates: &Templates) -> Vec<Problem> {
    let folder = tenant.templates.clone().unwrap_or_else(|| "templates".into());
    let mut views = Vec::new();
    for (name, json) in SAMPLES {
        if let Ok(Reading::Session(session)) = read(json.as_bytes(), name, config.session_bytes) {
            let mut first = view(*session, &tenant.title, &tenant.limits);
            let mut follow_up = first.clone();
            first["attachment"] = name.into();
            follow_up["is_follow_up"] = true.into();
            follow_up["changes"] = json!([{ "name": "status", "before": "connected", "after": "finished" }]);
            views.extend([first, follow_up]);
        }
    }
    let mut problems = templates.unknown_names(&views);
    for data in views.into_iter().map(Context::from) {
        for language in templates.languages() {
            if let Err(failure) = templates.render(Some(language), &data) {
                let problem = Problem::of_file(&folder, chain(&failure));
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    problems
}
