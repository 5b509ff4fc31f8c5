//! `aftercall inbox`: the mails that came back, what they were judged to be, and what followed.

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::Value;

use super::log::stamp;
use super::table::{Format, Rows};
use super::{Exit, Misuse, desks, open_store};
use crate::clock::Clock;
use crate::config::Config;
use crate::flow::reconcile::Reconciler;
use crate::ids::{DeliveryId, InboundId};
use crate::store::{Store, VerdictFilter, VerdictRow};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    filter: Wanted,
    /// How to write.
    #[arg(long, value_enum, default_value = "table", global = true)]
    format: Format,
}

/// Which mails.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// Only those that were judged to be this: reply, bounce, acknowledgement, ...
    #[arg(long, value_name = "KIND")]
    verdict: Option<String>,
    /// Only those that nothing ties to a delivery.
    #[arg(long)]
    unmatched: bool,
    /// Only of this tenant.
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N", default_value = "100")]
    most: u32,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One mail: what it was judged to be and why, what it is about and by what proof, and what followed.
    Show {
        /// Its number.
        id: i64,
    },
    /// One mail as it came.
    Mail {
        /// Its number.
        id: i64,
    },
    /// Say by hand which delivery a mail is about; what the tenant's policy wants follows.
    Assign {
        /// The mail's number.
        id: i64,
        /// The delivery's number.
        delivery: i64,
    },
    /// Judge mails again, after a change of the rules, and tell what differs.
    Reclassify {
        /// Keep the new verdicts. What followed the old ones stays as it is.
        #[arg(long)]
        apply: bool,
    },
    /// The addresses that nothing goes to any more, since mails came back from them.
    Stopped,
    /// Let mails go to such an address again.
    Lift {
        /// The address.
        address: String,
        /// Whose.
        #[arg(long, value_name = "T")]
        tenant: String,
    },
    /// The mailboxes, and when each was read.
    Mailboxes,
    /// The mails that are not whole, with the reason.
    Quarantine,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<Exit> {
    let store = open_store(config)?;
    let format = arguments.format;
    let rows = match arguments.what {
        None => list(&store, &arguments.filter)?,
        Some(What::Show { id }) => return show(&store, InboundId(id), format),
        Some(What::Mail { id }) => {
            let mail = store.inbound_mail(InboundId(id))?;
            io::stdout().lock().write_all(&mail.ok_or_else(|| unknown(id))?)?;
            return Ok(Exit::Done);
        }
        Some(What::Assign { id, delivery }) => return assign(config, &store, id, delivery).await,
        Some(What::Reclassify { apply }) => reclassify(config, &store, apply).await?,
        Some(What::Stopped) => stopped(&store)?,
        Some(What::Lift { address, tenant }) => {
            return lift(config, &store, &address, &tenant).await;
        }
        Some(What::Mailboxes) => mailboxes(config, &store)?,
        Some(What::Quarantine) => quarantine(&store)?,
    };
    rows.write(&mut io::stdout().lock(), format)?;
    Ok(Exit::Done)
}

fn unknown(id: i64) -> Misuse {
    Misuse(format!("there is no inbound {id}"))
}

fn list(store: &Store, wanted: &Wanted) -> anyhow::Result<Rows> {
    let filter = VerdictFilter {
        kind: wanted.verdict.clone(),
        unmatched: wanted.unmatched,
        tenant: wanted.tenant.clone(),
        most: wanted.most,
        ..VerdictFilter::default()
    };
    let mut rows =
        Rows::new(&["id", "arrived", "verdict", "from", "session", "delivery", "proof", "followed"]);
    for row in store.verdicts(&filter)? {
        rows.push(vec![
            row.id.0.into(),
            stamp(row.arrived_at).into(),
            row.kind.clone().unwrap_or_else(|| "not judged yet".to_owned()).into(),
            row.evidence["from"].as_str().map(str::to_owned).into(),
            row.session.map(|session| session.to_string()).into(),
            row.delivery.map(|id| id.0).into(),
            row.proof.clone().into(),
            followed(&row).into(),
        ]);
    }
    Ok(rows)
}

/// What followed, in few words.
pub(super) fn followed(row: &VerdictRow) -> String {
    let word = |reaction: &Value| match (reaction[0].as_str(), reaction[1].as_str()) {
        (Some("noted"), Some(why)) => why.to_owned(),
        (Some(word), _) => word.to_owned(),
        _ => String::new(),
    };
    let words: Vec<String> = row.reactions.as_array().into_iter().flatten().map(word).collect();
    words.join(", ")
}

fn show(store: &Store, id: InboundId, format: Format) -> anyhow::Result<Exit> {
    let filter = VerdictFilter { id: Some(id), most: 1, ..VerdictFilter::default() };
    let row = store.verdicts(&filter)?.pop().ok_or_else(|| unknown(id.0))?;
    let out = &mut io::stdout().lock();
    if format == Format::Json {
        writeln!(out, "{:#}", row.as_json())?;
        return Ok(Exit::Done);
    }
    let line = |name: &str, value: &str| {
        if value.is_empty() { String::new() } else { format!("  {name:<10}{value}\n") }
    };
    let of = |key: &str| row.evidence[key].as_str().unwrap_or_default().to_owned();
    let mut text = format!("inbound {id}, arrived {} in {}\n", stamp(row.arrived_at), row.mailbox);
    text += &line("from", &of("from"));
    text += &line("subject", &of("subject"));
    let verdict = row.kind.as_deref().unwrap_or("not judged yet");
    let rule = row.rule.as_ref().map(|rule| format!(", by the rule {rule}")).unwrap_or_default();
    text += &line("verdict", &format!("{verdict}{rule}"));
    for recipient in row.verdict["recipients"].as_array().into_iter().flatten() {
        let part = |key: &str| recipient[key].as_str().unwrap_or_default();
        let hard = if recipient["hard"].as_bool() == Some(true) { "hard" } else { "soft" };
        let told = format!(
            "{} {} {} ({}, {hard}) {}",
            part("address"),
            part("action"),
            part("status"),
            part("reason"),
            part("text")
        );
        text += &line("", told.trim_end());
    }
    text += &line(
        "about",
        &match (&row.tenant, row.session, row.delivery) {
            (Some(tenant), Some(session), Some(delivery)) => {
                let proof = row.proof.as_deref().unwrap_or_default();
                format!("delivery {delivery} of {tenant}/{session}, proof: {proof}")
            }
            _ => "nothing ties it to a delivery".to_owned(),
        },
    );
    text += &line("conflict", &of("conflict"));
    for problem in row.evidence["problems"].as_array().into_iter().flatten() {
        text += &line("problem", problem.as_str().unwrap_or_default());
    }
    for reaction in row.reactions.as_array().into_iter().flatten() {
        let part = |at: usize| reaction[at].as_str().unwrap_or_default();
        text += &line("followed", format!("{}: {}", part(0), part(1)).trim_end_matches([':', ' ']));
    }
    if row.delivery.is_none() {
        for (delivery, session) in store.recent_to(&row.verdict)? {
            text += &line(
                "perhaps",
                &format!("delivery {delivery} of {session}; aftercall inbox assign {id} {delivery}"),
            );
        }
    }
    out.write_all(text.as_bytes())?;
    Ok(Exit::Done)
}

/// What judges mails, for all tenants.
pub(super) async fn reconciler(config: &Config, store: &Store) -> anyhow::Result<Reconciler> {
    Ok(Reconciler::new(config, desks(config, store).await?, store.clone())?)
}

async fn assign(config: &Config, store: &Store, id: i64, delivery: i64) -> anyhow::Result<Exit> {
    let inbound = store.inbound(InboundId(id)).await?.ok_or_else(|| unknown(id))?;
    let matched = store.delivery_to_match(DeliveryId(delivery)).await?;
    let matched = matched.ok_or_else(|| Misuse(format!("there is no delivery {delivery}")))?;
    if !config.tenants.contains_key(&matched.key.tenant) {
        return Err(Misuse(format!("the tenant {} is not configured", matched.key.tenant)).into());
    }
    reconciler(config, store).await?.judge(inbound, Some(DeliveryId(delivery))).await?;
    show(store, InboundId(id), Format::Table)
}

/// Judges every judged mail again, and lists those whose verdict differs.
async fn reclassify(config: &Config, store: &Store, apply: bool) -> anyhow::Result<Rows> {
    let reconciler = reconciler(config, store).await?;
    let mut rows = Rows::new(&["id", "was", "by", "is", "by now"]);
    let mut after = InboundId(0);
    loop {
        let page = store.judged_after(after, 200)?;
        let Some(last) = page.last() else { return Ok(rows) };
        after = last.id;
        for row in page {
            let Some(inbound) = store.inbound(row.id).await? else { continue };
            let verdict = reconciler.look(inbound, row.delivery).await?;
            let was = (row.kind.unwrap_or_default(), row.rule.unwrap_or_default());
            let now = serde_json::to_value(&verdict)?;
            if now == row.verdict {
                continue;
            }
            if apply {
                store.rejudge(row.id, verdict.clone()).await?;
            }
            rows.push(vec![
                row.id.0.into(),
                was.0.into(),
                was.1.into(),
                verdict.kind.as_str().into(),
                verdict.rule.into(),
            ]);
        }
    }
}

fn stopped(store: &Store) -> anyhow::Result<Rows> {
    let mut rows = Rows::new(&["tenant", "address", "since", "reason"]);
    for row in store.stopped()? {
        rows.push(vec![row.tenant.into(), row.address.into(), stamp(row.at).into(), row.reason.into()]);
    }
    Ok(rows)
}

async fn lift(config: &Config, store: &Store, address: &str, tenant: &str) -> anyhow::Result<Exit> {
    let tenant = super::tenant(config, Some(tenant))?.name.clone();
    let now = Clock::default().now();
    if !store.lift(tenant.clone(), address.to_owned(), now).await? {
        return Err(Misuse(format!("nothing stops mails of {tenant} to {address}")).into());
    }
    writeln!(
        io::stdout().lock(),
        "mails to {address} go out again; what was held is let go with: aftercall outbox release --tenant {tenant} \
         --recipient {address}"
    )?;
    Ok(Exit::Done)
}

fn mailboxes(config: &Config, store: &Store) -> anyhow::Result<Rows> {
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
    Ok(rows)
}

fn quarantine(store: &Store) -> anyhow::Result<Rows> {
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
    Ok(rows)
}
