//! What one revision makes necessary: nothing, a mail, or a mail that waits.
//!
//! Pure: it sees the session, the tenant, what is known of the session already, and the time.

use jiff::Timestamp;

use crate::address::Address;
use crate::config::tenant::{Channel, MissingTicket, Tenant};
use crate::ids::{DeliveryId, Digest};
use crate::outbox::State;
use crate::session::Session;

/// What is known of a session before a revision is accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// How many revisions are stored; a plan made for another number is out of date.
    pub revisions: u64,
    /// Stamp and digest of the newest revision.
    pub newest: Option<(Timestamp, Digest)>,
    /// The ticket that the CRM named in its answer to an update without one.
    pub ticket: Option<String>,
    /// The deliveries so far, oldest first.
    pub deliveries: Vec<Past>,
}

/// One delivery that a session already has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its number.
    pub id: DeliveryId,
    /// The way it goes.
    pub channel: Channel,
    /// Where it stands.
    pub state: State,
    /// The ticket it is about.
    pub ticket: Option<String>,
    /// Its Message-ID without brackets, or its external id; none for one that was held before it was composed.
    pub message_id: Option<String>,
    /// The digest of its revision.
    pub revision: Digest,
}

/// What to do about one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Store it and send nothing, for this reason.
    Keep(&'static str),
    /// Store it and put a mail, or a note for the CRM's record, into the outbox.
    Send(Mail),
    /// Store it and hold it for a person, for this reason.
    Hold {
        /// Why.
        reason: String,
        /// Deliveries that wait and that this one replaces.
        supersedes: Vec<DeliveryId>,
    },
}

/// Where an update goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To this address, by mail.
    Email(Address),
    /// To the ticket's record, over REST.
    Record,
}

/// A mail to make, or a note in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The ticket's name as mail carries it; none for the address that opens a new one.
    pub ticket: Option<String>,
    /// The ticket's URL.
    pub ticket_url: Option<String>,
    /// Where to.
    pub target: Target,
    /// Not before this moment.
    pub due: Timestamp,
    /// Why it waits; empty when it does not.
    pub waits_for: &'static str,
    /// Why a person must let it go first; none when nobody needs to.
    pub hold: Option<String>,
    /// Deliveries that wait and that this one replaces.
    pub supersedes: Vec<DeliveryId>,
    /// Message-IDs of the mails about this session that may have arrived, oldest first.
    pub thread: Vec<String>,
    /// The revision that the last of them showed.
    pub follows: Option<Digest>,
}

/// When mails go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// As the tenant's `settle` says.
    Settle,
    /// At once: somebody asked for it.
    Now,
}

/// Plans one revision, whose bytes have `digest`, for a channel of the tenant's.
pub fn plan(
    session: &Session,
    digest: &Digest,
    tenant: &Tenant,
    channel: Channel,
    history: &History,
    timing: Timing,
    now: Timestamp,
) -> Plan {
    // Equal stamps with different bytes are ordered by digest, so that every instance chooses the same one.
    if history.newest.is_some_and(|newest| newest >= (session.updated_at, *digest)) {
        return Plan::Keep("a newer revision is known");
    }
    let supersedes = history
        .deliveries
        .iter()
        .filter(|past| past.state.may_become(State::Superseded))
        .map(|past| past.id)
        .collect();
    let arrived: Vec<&Past> =
        history.deliveries.iter().filter(|past| past.state.may_have_arrived()).collect();
    let last = arrived.last();
    let named = session.ticket.id.as_ref().or(history.ticket.as_ref());
    let (ticket, target) = match target(session, history.ticket.as_ref(), tenant, channel) {
        Ok(target) => target,
        Err(reason) => return Plan::Hold { reason, supersedes },
    };
    let (due, waits_for) = due(session, tenant, ticket.is_none(), history.newest.is_some(), timing, now);
    let hold = hold(history, last.copied(), named);
    Plan::Send(Mail {
        ticket,
        ticket_url: session.ticket.url.clone(),
        target,
        due,
        waits_for,
        hold,
        supersedes,
        thread: arrived
            .iter()
            .filter(|past| past.channel == Channel::Email)
            .filter_map(|past| past.message_id.clone())
            .collect(),
        follows: last.map(|past| past.revision),
    })
}

/// The ticket and where its update goes, or why there is none. Only a mail can open a new ticket.
fn target(
    session: &Session,
    learned: Option<&String>,
    tenant: &Tenant,
    channel: Channel,
) -> Result<(Option<String>, Target), String> {
    let by_mail = |ticket: String| {
        let address = tenant.recipient.address(&ticket).map_err(|error| error.to_string())?;
        Ok((Some(ticket), Target::Email(address)))
    };
    match (session.ticket.id.as_ref(), learned, &tenant.missing_ticket) {
        (Some(id), ..) => {
            let url = session.ticket.url.as_deref();
            if channel == Channel::Record {
                tenant.tickets.names(&tenant.profile, id, url)?;
                return Ok((Some(id.clone()), Target::Record));
            }
            by_mail(tenant.tickets.for_mail(&tenant.profile, id, url)?)
        }
        (None, Some(ticket), _) if channel == Channel::Record => Ok((Some(ticket.clone()), Target::Record)),
        (None, Some(ticket), _) => by_mail(ticket.clone()),
        (None, None, _) if session.ticket.unusable => {
            Err("the ticket id has control characters or is over 200 characters".to_owned())
        }
        (None, None, MissingTicket::CatchAll(address, _)) => Ok((None, Target::Email(address.clone()))),
        (None, None, MissingTicket::Hold) => Err("the session has no ticket id".to_owned()),
    }
}

/// Why a person must look at this mail first.
fn hold(history: &History, last: Option<&Past>, ticket: Option<&String>) -> Option<String> {
    if let Some(before) = last.and_then(|past| past.ticket.as_ref()).filter(|before| Some(*before) != ticket)
    {
        return Some(format!("the ticket id changed after an update went to ticket {before}"));
    }
    // Held with a message: by a person, or for one. A newer revision does not undo that.
    let held = history.deliveries.iter().find(|past| past.state == State::Held && past.message_id.is_some());
    held.map(|past| format!("it replaces delivery {}, which was held", past.id))
}

fn due(
    session: &Session,
    tenant: &Tenant,
    no_ticket: bool,
    is_later: bool,
    timing: Timing,
    now: Timestamp,
) -> (Timestamp, &'static str) {
    let end = session.ends_at.unwrap_or(session.updated_at);
    let after = |wait: jiff::SignedDuration| end.saturating_add(wait).unwrap_or(now);
    let (due, waits_for) = match (&tenant.missing_ticket, tenant.settle) {
        _ if timing == Timing::Now => (now, ""),
        (MissingTicket::CatchAll(_, wait), _) if no_ticket => (after(*wait), "a revision with a ticket id"),
        (_, Some(settle)) if !is_later => (after(settle), "the session to settle"),
        _ => (now, ""),
    };
    // A first revision that was written after the settling time is itself the later one.
    if due <= now || (!no_ticket && session.updated_at >= due) { (now, "") } else { (due, waits_for) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::SignedDuration;

    use super::*;
    use crate::config::profile::{Profile, SHIPPED};
    use crate::config::tenant::{Known, Overrides, parse};
    use crate::session::{Reading, read};

    fn tenant(extra: &str) -> Tenant {
        let source = format!(
            "{extra}\n[sender]\naddress = \"b@example.com\"\n[recipient]\npattern = \"crm+{{ticket}}@example.com\"\n\
             [profile]\nname = \"generic\"\n[relay]\nhost = \"r\"\n"
        );
        let profiles = SHIPPED.iter().map(|(name, source)| {
            ((*name).to_owned(), Profile::parse(name, Path::new(name), source).unwrap())
        });
        let known = Known { profiles: profiles.collect(), ..Known::default() };
        parse("t", Path::new("t"), &source, Path::new("/"), &known, &Overrides::default()).unwrap()
    }

    fn session(ticket: &str, updated: &str) -> Session {
        let json = format!(
            r#"{{"id":1,"call_type":"x","ends_at":"2026-11-10T10:00:00Z","updated_at":"2026-11-10T{updated}Z","out_ticket_id":{ticket}}}"#
        );
        match read(json.as_bytes(), "x", 1000) {
            Ok(Reading::Session(session)) => *session,
            other => panic!("{other:?}"),
        }
    }

    fn past(state: State, ticket: &str) -> Past {
        Past {
            id: DeliveryId(5),
            channel: Channel::Email,
            state,
            ticket: Some(ticket.into()),
            message_id: Some("m@x".into()),
            revision: Digest::of(b"old"),
        }
    }

    fn history(deliveries: Vec<Past>) -> History {
        let stamp = "2026-11-10T10:00:10Z".parse().unwrap();
        History { revisions: 1, newest: Some((stamp, Digest::of(b"old"))), ticket: None, deliveries }
    }

    const DIGEST: Digest = Digest([9; 32]);

    fn at(time: &str) -> Timestamp {
        format!("2026-11-10T{time}Z").parse().unwrap()
    }

    fn mail(plan: Plan) -> Mail {
        match plan {
            Plan::Send(mail) => mail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_waits_to_settle_or_for_its_later_revision() {
        let (settles, at_once) = (tenant(""), tenant("settle = \"none\""));
        let table = [
            (&settles, "10:00:10", "10:01:00", Timing::Settle, "10:20:00", "the session to settle"),
            (&settles, "10:00:10", "10:30:00", Timing::Settle, "10:30:00", ""),
            (&settles, "10:21:00", "10:21:05", Timing::Settle, "10:21:05", ""),
            (&settles, "10:00:10", "10:01:00", Timing::Now, "10:01:00", ""),
            (&at_once, "10:00:10", "10:01:00", Timing::Settle, "10:01:00", ""),
        ];
        for (tenant, updated, now, timing, due, waits_for) in table {
            let mail = mail(plan(
                &session("7", updated),
                &DIGEST,
                tenant,
                Channel::Email,
                &History::default(),
                timing,
                at(now),
            ));
            assert_eq!((mail.due, mail.waits_for), (at(due), waits_for), "{updated} {now} {timing:?}");
        }
    }

    #[test]
    fn an_older_or_equal_revision_is_kept_and_not_sent() {
        let known = history(vec![]);
        let tenant = tenant("");
        let kept = |updated: &str, digest: &Digest| {
            matches!(
                plan(
                    &session("7", updated),
                    digest,
                    &tenant,
                    Channel::Email,
                    &known,
                    Timing::Now,
                    at("11:00:00")
                ),
                Plan::Keep(_)
            )
        };
        assert!(kept("09:59:00", &DIGEST));
        assert!(kept("10:00:10", &Digest::of(b"old")));
        assert!(kept("10:00:10", &Digest([0; 32])), "equal stamps are ordered by digest");
        assert!(!kept("10:00:10", &Digest([255; 32])));
        assert!(!kept("10:00:11", &Digest([0; 32])));
    }

    #[test]
    fn what_waits_is_replaced_and_what_may_have_arrived_is_followed() {
        let tenant = tenant("");
        for (state, _) in crate::outbox::STATES {
            let known = history(vec![past(state, "7")]);
            let now = at("10:15:05");
            let mail = mail(plan(
                &session("7", "10:15:00"),
                &DIGEST,
                &tenant,
                Channel::Email,
                &known,
                Timing::Settle,
                now,
            ));
            let waits = matches!(state, State::Pending | State::Deferred | State::Held);
            let arrived =
                matches!(state, State::Leased | State::Sending | State::Accepted | State::Uncertain);
            assert_eq!(mail.supersedes == [DeliveryId(5)], waits, "{state}");
            assert_eq!((mail.thread == ["m@x"], mail.follows.is_some()), (arrived, arrived), "{state}");
            assert_eq!(mail.due, now, "the later revision is what was waited for: {state}");
            assert_eq!(mail.hold.is_some(), state == State::Held, "a hold outlives a revision: {state}");
        }
    }

    #[test]
    fn a_session_without_a_usable_ticket_is_held_or_goes_to_the_catch_all() {
        let held = |ticket: &str, tenant: &Tenant| match plan(
            &session(ticket, "10:00:10"),
            &DIGEST,
            tenant,
            Channel::Email,
            &History::default(),
            Timing::Settle,
            at("10:01:00"),
        ) {
            Plan::Hold { reason, .. } => reason,
            other => panic!("{ticket}: {other:?}"),
        };
        let holds = tenant("");
        assert_eq!(held("null", &holds), "the session has no ticket id");
        assert!(held("\"a b\"", &holds).contains("profile's form"));
        assert!(held("\"a\\u0000\"", &holds).contains("control characters"));
        let mut catches = tenant("");
        catches.missing_ticket =
            MissingTicket::CatchAll("new@example.com".parse().unwrap(), SignedDuration::from_hours(1));
        let mail = mail(plan(
            &session("null", "10:00:10"),
            &DIGEST,
            &catches,
            Channel::Email,
            &History::default(),
            Timing::Settle,
            at("10:01:00"),
        ));
        assert_eq!(
            (mail.target, mail.due, mail.ticket),
            (Target::Email("new@example.com".parse().unwrap()), at("11:00:00"), None)
        );
    }

    #[test]
    fn a_ticket_that_changes_after_an_update_went_out_is_held() {
        let plan_after = |state| {
            let known = history(vec![past(state, "7")]);
            mail(plan(
                &session("8", "10:15:00"),
                &DIGEST,
                &tenant(""),
                Channel::Email,
                &known,
                Timing::Now,
                at("10:15:05"),
            ))
        };
        let held = plan_after(State::Accepted);
        assert!(held.hold.is_some_and(|why| why.contains("went to ticket 7")));
        let address = "crm+8@example.com".parse().unwrap();
        assert_eq!(held.target, Target::Email(address), "a person can let it go");
        assert_eq!(plan_after(State::Pending).hold, None);
    }
}
