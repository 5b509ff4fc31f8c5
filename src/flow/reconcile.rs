//! What came back becomes known: a stored mail is read, judged, matched to its delivery, and answered by the tenant's
//! policy; the store then keeps all of it in one transaction.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::desk::Desk;
use super::intake::chain;
use super::make::Making;
use super::tell::Teller;
use crate::address::Address;
use crate::classify::classify;
use crate::classify::rules::Rules;
use crate::classify::verdict::Verdict;
use crate::config::mailbox::Mailbox;
use crate::config::tenant::Channel;
use crate::config::{Config, Problems};
use crate::correlate::{Found, Proof, Signatory, correlate};
use crate::ids::{DeliveryId, InboundId};
use crate::parse::{Mail, parse};
use crate::plan::{History, Plan, Target, Timing, plan};
use crate::react::{About, Case, Reaction, UNMATCHED, react};
use crate::session::{Reading, read};
use crate::store::{Act, Deed, Judged, Matched, Planned, Store, StoreError, Unjudged};

/// How often it is asked whether mails came back.
const POLL: Duration = Duration::from_secs(1);
/// The most mails that are asked for at a time.
const BATCH: u32 = 16;
/// The most characters of a mail's header in the evidence.
const MOST_EVIDENCE: usize = 300;

/// Judges mails of all tenants.
#[derive(Clone)]
pub struct Reconciler {
    store: Store,
    desks: Arc<[Desk]>,
    /// The configured ones; any other is of all tenants.
    mailboxes: Arc<[Mailbox]>,
    rules: Arc<Rules>,
}

/// A mail that was read and judged, before anything follows.
struct Read {
    mail: Mail,
    verdict: Verdict,
    matched: Option<(Matched, Proof)>,
    evidence: Value,
}

impl Reconciler {
    /// Sets up the judging for all tenants of a configuration.
    pub fn new(config: &Config, desks: Vec<Desk>, store: Store) -> Result<Self, Problems> {
        let rules = Arc::new(Rules::load(&config.folder)?);
        Ok(Self { store, desks: desks.into(), mailboxes: config.mailboxes.clone().into(), rules })
    }

    /// Judges what comes until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), StoreError> {
        while !*stop.borrow() {
            if self.judge_new().await? == 0 {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        Ok(())
    }

    /// Judges the mails that nobody has judged, some of them, and says how many.
    pub async fn judge_new(&self) -> Result<usize, StoreError> {
        let rows = self.store.new_inbounds(BATCH).await?;
        // Together, so that they share commits.
        let judged = rows.iter().map(async |row| match self.store.inbound(row.id).await? {
            Some(inbound) => self.judge(inbound, None).await,
            None => Ok(false),
        });
        try_join_all(judged).await?;
        Ok(rows.len())
    }

    /// Judges one mail and does what follows; with `hand`, as about this delivery, also when it was judged before. False
    /// when nothing was done because it was.
    pub async fn judge(&self, inbound: Unjudged, hand: Option<DeliveryId>) -> Result<bool, StoreError> {
        let id = inbound.id;
        let read = self.read(inbound, hand).await?;
        let deeds = self.deeds(id, &read);
        let about = read
            .matched
            .as_ref()
            .map(|(matched, proof)| (matched.key.tenant.clone(), matched.delivery, *proof));
        let tenant = about.as_ref().map(|(tenant, ..)| tenant.clone());
        let (kind, rule) = (read.verdict.kind.as_str(), read.verdict.rule.clone());
        let did: Vec<&'static str> = deeds.iter().map(|deed| deed.reaction).collect();
        let (verdict, evidence, now) = (read.verdict, read.evidence, self.now());
        let is_judged =
            self.store.judge(Judged { inbound: id, about, verdict, evidence, deeds, now }).await?;
        if is_judged {
            info!(inbound = id.0, tenant, verdict = kind, rule, reactions = ?did, "judged a mail");
        }
        Ok(is_judged)
    }

    /// What a mail about this delivery would be judged to be now. Nothing is kept and nothing follows.
    pub async fn look(&self, inbound: Unjudged, about: Option<DeliveryId>) -> Result<Verdict, StoreError> {
        Ok(self.read(inbound, about).await?.verdict)
    }

    fn now(&self) -> Timestamp {
        self.desks.first().map_or(Timestamp::UNIX_EPOCH, |desk| desk.clock.now())
    }

    fn desk(&self, tenant: &str) -> Option<&Desk> {
        self.desks.iter().find(|desk| desk.tenant.name == tenant)
    }

    /// The desks of the tenants whose mails come to a mailbox.
    fn desks_of(&self, mailbox: &str) -> impl Iterator<Item = &Desk> {
        let known = self.mailboxes.iter().find(|known| known.name == mailbox);
        self.desks.iter().filter(move |desk| known.is_none_or(|known| known.is_of(&desk.tenant.name)))
    }

    async fn read(&self, inbound: Unjudged, hand: Option<DeliveryId>) -> Result<Read, StoreError> {
        let Unjudged { mailbox, recipient, raw, .. } = inbound;
        let mail = spawn_blocking(move || parse(&raw)).await.unwrap_or_default();
        let signatories: Vec<Signatory<'_>> = self.desks_of(&mailbox).map(signatory).collect();
        let found = correlate(&mail, recipient.as_deref(), &signatories);
        let (matched, conflict) = self.matched(&found, hand).await?;
        let desk = matched.as_ref().and_then(|(matched, _)| self.desk(&matched.key.tenant));
        let marks = desk.map(|desk| &desk.tenant.profile.marks[..]);
        let verdict = classify(&mail, &self.rules, marks.unwrap_or_default());
        let evidence = evidence(&mail, &found, conflict.as_deref());
        Ok(Read { mail, verdict, matched, evidence })
    }

    /// The delivery of the strongest proof that leads to one, and what contradicts it.
    async fn matched(
        &self,
        found: &[Found],
        hand: Option<DeliveryId>,
    ) -> Result<(Option<(Matched, Proof)>, Option<String>), StoreError> {
        let mut best = match hand {
            Some(delivery) => {
                self.store.delivery_to_match(delivery).await?.map(|matched| (matched, Proof::Hand))
            }
            None => None,
        };
        let mut conflict = None;
        let mut seen = Vec::new();
        for one in found {
            // Every token of a delivery leads to the same one.
            let names = (&one.session, &one.body);
            if seen.contains(&names) {
                continue;
            }
            seen.push(names);
            let Some(matched) = self.store.find_delivery(one.clone()).await? else { continue };
            match &best {
                None => best = Some((matched, one.proof)),
                Some((first, _)) if first.key != matched.key => {
                    conflict =
                        conflict.or_else(|| Some(format!("{} names {}", one.proof.as_str(), matched.key)));
                }
                Some(_) => {}
            }
        }
        Ok((best, conflict))
    }

    /// What follows, ready for the store.
    fn deeds(&self, inbound: InboundId, read: &Read) -> Vec<Deed> {
        let about = read.matched.as_ref();
        let about =
            about.and_then(|(matched, proof)| Some((self.desk(&matched.key.tenant)?, matched, *proof)));
        match about {
            Some((desk, matched, proof)) => deeds(desk, inbound, read, matched, proof),
            None => vec![Deed::new(&UNMATCHED, Act::Nothing)],
        }
    }
}

fn deeds(desk: &Desk, inbound: InboundId, read: &Read, matched: &Matched, proof: Proof) -> Vec<Deed> {
    let (policy, own) = (&desk.tenant.reactions, &desk.tenant.sender.address);
    // What the CRM calls the ticket in mails, which is not always what the sessions call it.
    let by_mail = |id: &String| {
        let url = matched.ticket_url.as_deref();
        desk.tenant.tickets.for_mail(&desk.tenant.profile, id, url).unwrap_or_else(|_| id.clone())
    };
    let about = About { ticket: matched.about.ticket.as_ref().map(by_mail), ..matched.about.clone() };
    let (mail, verdict) = (&read.mail, &read.verdict);
    let case = Case { mail, verdict, about: &about, proof, policy, own };
    let teller = Teller { desk, inbound, mail, verdict, matched, proof };
    react(&case).into_iter().map(|reaction| deed(&teller, reaction)).collect()
}

fn signatory(desk: &Desk) -> Signatory<'_> {
    let tenant = &desk.tenant;
    Signatory {
        tenant: &tenant.name,
        instance: &tenant.instance,
        mailbox: &tenant.sender.bounces,
        domain: tenant.sender.address.domain(),
        keys: &desk.keys,
    }
}

/// Makes what a reaction needs. Whatever cannot be made is said in its place, and never stops the rest.
fn deed(teller: &Teller<'_>, reaction: Reaction) -> Deed {
    let Teller { desk, inbound, matched, .. } = *teller;
    let mut deed = Deed::new(&reaction, Act::Nothing);
    let policy = &desk.tenant.reactions;
    let now = desk.clock.now();
    deed.act = match reaction {
        Reaction::Note(_) => Act::Nothing,
        Reaction::SendAgain => Act::Again(now.saturating_add(policy.soft_wait).unwrap_or(Timestamp::MAX)),
        Reaction::SendSmaller => instead(desk, matched, Channel::Email, None, true),
        Reaction::SendTo(address) => instead(desk, matched, Channel::Email, Some(address), false),
        Reaction::UseOtherChannel => {
            instead(desk, matched, matched.fallback.unwrap_or(Channel::Email), None, false)
        }
        Reaction::Hold(why) => Act::Hold(why),
        Reaction::StopAddress(address, why) => Act::Stop(address, why),
        Reaction::TakeTicket(ticket) if desk.tenant.profile.ticket.is_for_mail(&ticket) => {
            Act::Ticket(ticket)
        }
        Reaction::TakeTicket(ticket) => {
            deed.detail = format!("{ticket} is no ticket of this CRM");
            Act::Nothing
        }
        Reaction::Alert(what) => {
            warn!(tenant = desk.tenant.name, session = %matched.key.name, inbound = inbound.0, what, "needs a person");
            match teller.alert(&what) {
                notices if notices.is_empty() => Act::Nothing,
                notices => Act::Alert(notices, matter(matched, &what)),
            }
        }
        Reaction::Forward => Act::Notice(teller.reply()),
    };
    deed
}

/// Alerts of one matter are told once an hour: what happened, without whom and when.
fn matter(matched: &Matched, what: &str) -> String {
    let kind: String = what.chars().filter(|c| !c.is_ascii_digit()).take(40).collect();
    format!("{} {kind}", matched.about.recipient)
}

/// The update of a delivery's revision once more: another address, without the file, or another channel.
fn instead(
    desk: &Desk,
    matched: &Matched,
    channel: Channel,
    address: Option<Address>,
    is_smaller: bool,
) -> Act {
    let Matched { key, raw, digest, about, .. } = matched;
    let session = match read(raw, "", desk.session_bytes.max(raw.len())) {
        Ok(Reading::Session(session)) => *session,
        Ok(Reading::Other(what)) => return Act::Hold(format!("the stored file is {what}")),
        Err(fault) => return Act::Hold(chain(&fault)),
    };
    let history = History { ticket: about.ticket.clone(), ..History::default() };
    let now = desk.clock.now();
    let mut mail = match plan(&session, digest, &desk.tenant, channel, &history, Timing::Now, now) {
        Plan::Send(mail) => mail,
        Plan::Hold { reason, .. } => return Act::Hold(reason),
        Plan::Keep(why) => return Act::Hold(why.to_owned()),
    };
    if let Some(address) = address {
        mail.target = Target::Email(address);
    }
    let making = Making { desk, key, raw, digest, followed: None, is_smaller };
    let planned: Planned = making.planned(session, &mail);
    Act::Instead(channel, Box::new(planned))
}

/// What the mail was judged by, for people and for judging it again.
fn evidence(mail: &Mail, found: &[Found], conflict: Option<&str>) -> Value {
    let header = |name: &str| -> Option<String> {
        mail.headers.get(name).map(|value| value.chars().take(MOST_EVIDENCE).collect())
    };
    let proofs: Vec<Value> =
        found.iter().map(|one| json!([one.proof.as_str(), one.session.to_string()])).collect();
    let problems: Vec<&str> = mail.problems.iter().map(|problem| problem.as_str()).collect();
    json!({
        "from": header("from"),
        "subject": header("subject"),
        "message_id": header("message-id"),
        "proofs": proofs,
        "conflict": conflict,
        "problems": problems,
    })
}
