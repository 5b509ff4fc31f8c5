//! The store's promises: what is answered is kept, what is leased is leased once, and every step is one record.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier};

use aftercall::compose::Composed;
use aftercall::config::StorePlace;
use aftercall::config::rate::Budget;
use aftercall::config::tenant::{Channel, Retry};
use aftercall::ids::{DeliveryId, Digest, Kind, SessionKey, SessionName};
use aftercall::log::FIRST;
use aftercall::outbox::{Outcome, Report, STATES, State};
use aftercall::plan::{History, Past};
use aftercall::record::note::Note;
use aftercall::session::Ticket;
use aftercall::store::{
    Acceptance, Accepted, AttemptRow, Change, DeliveryRow, FallBack, Filter, Instance, Lease, Message,
    Planned, Quarantined, Store, StoreError,
};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Site, TenantFile};

const RETRY: Retry = Retry {
    first: SignedDuration::from_mins(1),
    longest: SignedDuration::from_hours(1),
    give_up_after: SignedDuration::from_hours(24),
    resend_uncertain: true,
};

/// Makes each test twice, for SQLite and for PostgreSQL: the promises are the same.
macro_rules! on_both_engines {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::Engine::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::Engine::Postgres).await;
            })*
        }
    };
}

mod inbounds;
mod verdicts;

on_both_engines! {
    a_revision_is_stored_with_its_delivery_and_the_same_bytes_again_change_nothing,
    what_is_planned_decides_state_due_and_message,
    a_plan_that_knew_too_little_is_told_what_is_known,
    a_newer_revision_takes_the_place_of_what_waits_and_the_log_says_so,
    only_what_is_due_is_leased_the_longest_due_first_and_once,
    senders_that_claim_at_the_same_time_share_without_overlap,
    a_lease_that_is_no_longer_good_begins_and_ends_nothing,
    an_attempt_that_ends_leaves_state_due_attempt_and_one_record,
    leases_that_are_given_back_can_be_taken_again_at_once,
    what_a_dead_process_left_goes_on_or_waits_for_a_person,
    a_tenant_is_idle_when_nothing_waits_for_a_time_and_nothing_runs,
    a_person_may_do_what_the_state_allows_and_nothing_else,
    an_update_is_not_tried_again_after_a_newer_one_may_have_arrived,
    what_has_no_message_cannot_be_let_go,
    what_the_log_tells_of_behind_a_record_is_what_has_changed_since,
    the_secret_is_made_once_for_each_store,
    two_hundred_at_once_are_all_kept_in_one_unbroken_chain,
    what_comes_at_once_about_the_same_is_done_once,
    what_the_database_refuses_takes_nothing_else_with_it,
    the_same_bytes_from_the_same_place_are_quarantined_once,
    the_last_stamp_of_a_file_is_what_is_read_back,
    a_budget_is_shared_by_its_name_and_new_in_each_span,
    a_paused_tenant_is_given_nothing_and_the_log_says_who_waits_for_what,
    an_instance_that_fell_silent_begins_and_ends_nothing_more,
    each_channel_is_leased_by_itself,
    what_was_given_up_is_taken_over_once_and_only_while_it_is_the_news,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// A store of its own, and the instance that delivers from it.
struct Kept {
    store: Store,
    place: StorePlace,
    instance: Instance,
    _folder: TempDir,
}

impl Kept {
    async fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = match engine {
            Engine::Sqlite => StorePlace::File(folder.path().join("aftercall.db")),
            Engine::Postgres => StorePlace::parse(&crate::servers::postgres::database()),
        };
        let store = Store::open(&place).unwrap();
        let instance = store.join(at(0)).await.unwrap();
        Self { store, place, instance, _folder: folder }
    }

    fn path(&self) -> &Path {
        match &self.place {
            StorePlace::File(path) => path,
            StorePlace::Server(_) => panic!("not a file"),
        }
    }

    async fn claim(&self, tenant: &str, most: u32, now: Timestamp) -> Vec<Lease> {
        self.store
            .claim(tenant.to_owned(), Channel::Email, self.instance, vec![], most, now)
            .await
            .unwrap()
            .leases
    }

    fn row(&self, id: DeliveryId) -> DeliveryRow {
        let filter = Filter { ids: vec![id], ..Filter::default() };
        self.store.deliveries(&filter).unwrap().into_iter().next().unwrap()
    }

    fn attempts(&self, id: DeliveryId) -> Vec<AttemptRow> {
        let row = self.row(id);
        let stories = self.store.stories(row.session, Some(&row.tenant)).unwrap();
        stories
            .into_iter()
            .flat_map(|story| story.attempts)
            .filter(|attempt| attempt.delivery == id)
            .collect()
    }

    /// The records about one delivery: event and content.
    fn records(&self, id: DeliveryId) -> Vec<(String, Value)> {
        let chain = self.store.chain(&self.row(id).tenant).unwrap();
        let read = chain.into_iter().map(|row| {
            let record: Value = serde_json::from_str(&row.record).unwrap();
            (record, serde_json::from_str(&row.content.unwrap()).unwrap())
        });
        let about = read.filter(|(record, _)| record["delivery"] == id.0);
        about.map(|(record, content)| (record["event"].as_str().unwrap().to_owned(), content)).collect()
    }

    async fn accept(&self, accepted: Accepted) -> DeliveryId {
        match self.store.accept(accepted).await.unwrap() {
            Acceptance::Stored(Some(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn claim_one(&self, tenant: &str, now: Timestamp) -> Lease {
        let mut leases = self.claim(tenant, 1, now).await;
        assert_eq!(leases.len(), 1, "{tenant}");
        leases.remove(0)
    }

    /// Leases and begins the only delivery that is due.
    async fn begin_one(&self, tenant: &str, now: Timestamp) -> Lease {
        let lease = self.claim_one(tenant, now).await;
        assert!(self.store.begin_attempt(lease.clone(), now).await.unwrap().is_some(), "{tenant}");
        lease
    }

    async fn finish(&self, lease: Lease, outcome: Outcome, now: Timestamp) -> Option<State> {
        let next = self.store.finish_attempt(lease, 1, report(outcome), RETRY, now).await.unwrap();
        next.map(|next| next.state)
    }

    /// Brings a fresh delivery of a tenant of its own to a state, only by the store's verbs.
    async fn delivery_in(&self, state: State, tenant: &str) -> DeliveryId {
        let id = self.accept(first(tenant, 1)).await;
        let only = Filter { ids: vec![id], ..Filter::default() };
        match state {
            State::Pending => {}
            State::Leased => drop(self.claim_one(tenant, at(0)).await),
            State::Sending => drop(self.begin_one(tenant, at(0)).await),
            State::Held => drop(self.store.change(only, Change::Hold, at(0)).await.unwrap()),
            State::Cancelled => drop(self.store.change(only, Change::Cancel, at(0)).await.unwrap()),
            State::Superseded => drop(self.accept(second(tenant, 1, vec![id])).await),
            State::Accepted | State::Deferred | State::Rejected | State::Uncertain | State::Expired => {
                let (outcome, now) = match state {
                    State::Accepted => (Outcome::Accepted, at(1)),
                    State::Rejected => (Outcome::Rejected, at(1)),
                    State::Uncertain => (Outcome::Uncertain, at(1)),
                    State::Expired => (Outcome::Deferred, at(48 * 3600)),
                    _ => (Outcome::Deferred, at(1)),
                };
                let lease = self.begin_one(tenant, at(0)).await;
                self.finish(lease, outcome, now).await;
            }
        }
        assert_eq!(self.row(id).state, state);
        id
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn report(outcome: Outcome) -> Report {
    Report {
        outcome,
        relay: "relay.example.com:25".to_owned(),
        tls: Some("TLSv1.3".to_owned()),
        stage: "message".into(),
        code: Some(450),
        enhanced: Some("4.2.1".to_owned()),
        text: "as scripted".to_owned(),
        replies: vec!["message: 450 as scripted".to_owned()],
        retry_after: None,
    }
}

/// A message that goes at once.
fn planned(message: Message) -> Planned {
    Planned::Message { digest: message.digest(), message, due: at(0), waits_for: "", hold: None }
}

/// The first revision of `call-NUMBER`, to be sent at once.
fn first(tenant: &str, number: u64) -> Accepted {
    let raw = format!("{tenant} call {number}").into_bytes();
    let mail = Composed {
        message_id: format!("{number}.1@example.com"),
        envelope_from: "bridge@example.com".parse().unwrap(),
        recipient: format!("crm+{number}@example.com").parse().unwrap(),
        wire: format!("Subject: {number}\r\n\r\n").into_bytes(),
        tail: None,
    };
    Accepted {
        key: SessionKey {
            tenant: tenant.to_owned(),
            instance: "main".to_owned(),
            name: format!("call-{number}").parse().unwrap(),
        },
        updated_at: at(-60),
        digest: Digest::of(&raw),
        raw: Arc::new(raw),
        source: format!("call-{number}.json"),
        ticket: Ticket { id: Some(number.to_string()), url: None, unusable: false },
        revisions: 0,
        channel: Channel::Email,
        fallback: None,
        planned: planned(Message::Mail(mail)),
        supersedes: Vec::new(),
        now: at(0),
    }
}

fn due(mut accepted: Accepted, when: Timestamp) -> Accepted {
    if let Planned::Message { due, .. } = &mut accepted.planned {
        *due = when;
    }
    accepted
}

/// A later revision of the same session, by a plan that knows of one before.
fn second(tenant: &str, number: u64, supersedes: Vec<DeliveryId>) -> Accepted {
    let raw = format!("{tenant} call {number} again").into_bytes();
    Accepted {
        updated_at: at(-30),
        digest: Digest::of(&raw),
        raw: Arc::new(raw),
        revisions: 1,
        supersedes,
        ..first(tenant, number)
    }
}

async fn a_revision_is_stored_with_its_delivery_and_the_same_bytes_again_change_nothing(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = kept.accept(first("acme", 7)).await;
    let row = kept.row(id);
    assert_eq!((row.state, row.due, row.attempts), (State::Pending, Some(at(0)), 0));
    assert_eq!((row.recipient.as_deref(), row.ticket.as_deref()), (Some("crm+7@example.com"), Some("7")));
    assert_eq!(kept.store.message(id).unwrap().unwrap(), b"Subject: 7\r\n\r\n");
    let again = kept.store.accept(first("acme", 7)).await.unwrap();
    assert_eq!(again, Acceptance::Duplicate(Some(id)));
    assert_eq!(kept.store.chain("acme").unwrap().len(), 1);
    assert_eq!(kept.store.deliveries(&Filter::default()).unwrap().len(), 1);
    let key = first("acme", 7).key;
    let raw = kept.store.revision(key.clone(), Digest::of(b"acme call 7")).await.unwrap();
    assert_eq!(raw.as_deref(), Some(&b"acme call 7"[..]));
    assert_eq!(kept.store.revision(key, Digest::of(b"never seen")).await.unwrap(), None);
}

async fn what_the_log_tells_of_behind_a_record_is_what_has_changed_since(engine: Engine) {
    let kept = Kept::new(engine).await;
    assert_eq!(kept.store.last_record("acme").unwrap(), 0, "no log yet");
    let before = [kept.accept(first("acme", 1)).await, kept.accept(first("acme", 2)).await];
    kept.accept(first("other", 3)).await;
    let since = kept.store.last_record("acme").unwrap();
    let lease = kept.begin_one("acme", at(0)).await;
    let settled = lease.delivery;
    kept.finish(lease, Outcome::Accepted, at(1)).await;
    let fresh = kept.accept(first("acme", 4)).await;
    kept.accept(first("other", 5)).await;
    let told = |after| {
        let filter = Filter { told_after: Some(("acme".to_owned(), after)), ..Filter::default() };
        kept.store.deliveries(&filter).unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(told(since), [settled, fresh]);
    assert_eq!(told(0), [before[0], before[1], fresh]);
}

async fn what_is_planned_decides_state_due_and_message(engine: Engine) {
    let Planned::Message { message, .. } = first("acme", 1).planned else { panic!("no message") };
    let later = at(900);
    let with = |waits_for, hold: Option<&str>| Planned::Message {
        digest: message.digest(),
        message: message.clone(),
        due: later,
        waits_for,
        hold: hold.map(str::to_owned),
    };
    let table = [
        (with("", None), Some((State::Pending, Some(later), "", true))),
        (with("the session to settle", None), Some((State::Pending, Some(later), "settle", true))),
        (with("", Some("the ticket changed")), Some((State::Held, None, "the ticket changed", true))),
        (Planned::Hold("no ticket".to_owned()), Some((State::Held, None, "no ticket", false))),
        (Planned::Nothing("older"), None),
    ];
    let kept = Kept::new(engine).await;
    for (number, (planned, expected)) in (1_u64..).zip(table) {
        let accepted = Accepted { planned, ..first("acme", number) };
        let Acceptance::Stored(id) = kept.store.accept(accepted).await.unwrap() else { panic!("not stored") };
        assert_eq!(id.is_some(), expected.is_some(), "{number}");
        let (Some(id), Some((state, due, reason, composed))) = (id, expected) else { continue };
        let row = kept.row(id);
        assert_eq!((row.state, row.due), (state, due), "{number}");
        assert!(row.reason.contains(reason), "{number}: {}", row.reason);
        assert_eq!(kept.store.message(id).unwrap().is_some(), composed, "{number}");
        assert_eq!(row.recipient.is_some(), composed, "{number}");
    }
}

async fn a_plan_that_knew_too_little_is_told_what_is_known(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = kept.accept(first("acme", 7)).await;
    let digest = Digest::of(b"acme call 7");
    let history = |state| History {
        ticket: None,
        revisions: 1,
        newest: Some((at(-60), digest)),
        deliveries: vec![Past {
            id,
            state,
            ticket: Some("7".to_owned()),
            channel: Channel::Email,
            message_id: Some("7.1@example.com".to_owned()),
            revision: digest,
        }],
    };
    for revisions in [0, 2] {
        let stale = Accepted { revisions, ..second("acme", 7, vec![id]) };
        let answer = kept.store.accept(stale).await.unwrap();
        assert_eq!(answer, Acceptance::OutOfDate(history(State::Pending)), "{revisions}");
    }
    kept.claim_one("acme", at(0)).await;
    let answer = kept.store.accept(second("acme", 7, vec![id])).await.unwrap();
    assert_eq!(answer, Acceptance::OutOfDate(history(State::Leased)), "leased in between");
    let unknown = kept.store.accept(second("acme", 7, vec![DeliveryId(99)])).await.unwrap();
    assert_eq!(unknown, Acceptance::OutOfDate(history(State::Leased)), "a delivery of no such session");
    assert_eq!(kept.store.chain("acme").unwrap().len(), 1, "an answer without effect is no record");
    assert_eq!(kept.row(id).state, State::Leased);
}

async fn a_newer_revision_takes_the_place_of_what_waits_and_the_log_says_so(engine: Engine) {
    for state in [State::Pending, State::Deferred, State::Held] {
        let kept = Kept::new(engine).await;
        let old = kept.delivery_in(state, "acme").await;
        let before = kept.records(old).len();
        let new = kept.accept(second("acme", 1, vec![old])).await;
        let row = kept.row(old);
        assert_eq!((row.state, row.due), (State::Superseded, None), "{state}");
        assert_eq!(kept.row(new).state, State::Pending, "{state}");
        let records = kept.records(old).split_off(before);
        assert_eq!(records, [("superseded".to_owned(), json!({ "by": new.0 }))], "{state}");
        assert_eq!(kept.records(new).len(), 1, "{state}");
        let leases = kept.claim("acme", 9, at(48 * 3600)).await;
        let claimed: Vec<DeliveryId> = leases.iter().map(|lease| lease.delivery).collect();
        assert_eq!(claimed, [new], "the old one never goes out: {state}");
    }
}

async fn only_what_is_due_is_leased_the_longest_due_first_and_once(engine: Engine) {
    let kept = Kept::new(engine).await;
    let mut ids = Vec::new();
    for (number, second) in [(1, 30), (2, 10), (3, 20), (4, 41)] {
        ids.push(kept.accept(due(first("acme", number), at(second))).await);
    }
    let other = kept.accept(due(first("other", 1), at(0))).await;
    let claim = async |tenant: &str, most, second| {
        let leases = kept.claim(tenant, most, at(second)).await;
        leases.into_iter().map(|lease| lease.delivery).collect::<Vec<_>>()
    };
    assert_eq!(claim("acme", 9, 9).await, [], "nothing is due yet");
    assert_eq!(claim("acme", 2, 40).await, [ids[1], ids[2]], "at most two");
    assert_eq!(claim("acme", 9, 40).await, [ids[0]], "a leased one is not leased again");
    assert_eq!(claim("acme", 9, 41).await, [ids[3]], "due means not before this moment");
    assert_eq!(claim("nobody", 9, 99).await, []);
    assert_eq!(kept.row(other).state, State::Pending, "another tenant's stays");
    assert_eq!(claim("other", 9, 99).await, [other]);
}

async fn senders_that_claim_at_the_same_time_share_without_overlap(engine: Engine) {
    let kept = Kept::new(engine).await;
    let mut ids = BTreeSet::new();
    for number in 1..=40 {
        ids.insert(kept.accept(first("acme", number)).await);
    }
    let claims: Vec<_> = (0..20)
        .map(|_| {
            let (store, instance) = (kept.store.clone(), kept.instance);
            tokio::spawn(async move {
                store
                    .claim("acme".to_owned(), Channel::Email, instance, vec![], 3, at(0))
                    .await
                    .unwrap()
                    .leases
            })
        })
        .collect();
    let mut leased = Vec::new();
    for claim in claims {
        leased.extend(claim.await.unwrap().into_iter().map(|lease| lease.delivery));
    }
    assert_eq!(leased.len(), 40);
    assert_eq!(leased.into_iter().collect::<BTreeSet<_>>(), ids);
}

async fn a_lease_that_is_no_longer_good_begins_and_ends_nothing(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = kept.accept(first("acme", 7)).await;
    let stale = kept.claim_one("acme", at(0)).await;
    kept.store.release(vec![stale.clone()], at(1)).await.unwrap();
    assert!(kept.store.begin_attempt(stale.clone(), at(1)).await.unwrap().is_none(), "given back");
    let good = kept.claim_one("acme", at(1)).await;
    assert_ne!(good, stale);
    assert!(kept.store.begin_attempt(stale.clone(), at(1)).await.unwrap().is_none(), "leased anew");
    assert_eq!(kept.finish(good.clone(), Outcome::Accepted, at(2)).await, None, "not begun");
    assert_eq!(kept.attempts(id), []);

    let work = kept.store.begin_attempt(good.clone(), at(2)).await.unwrap().unwrap();
    assert_eq!((&work.lease, work.attempt), (&good, 1));
    let envelope = (work.envelope_from.as_str(), work.recipient.as_str());
    assert_eq!(envelope, ("bridge@example.com", "crm+7@example.com"));
    assert_eq!(work.wire, b"Subject: 7\r\n\r\n");
    assert!(kept.store.begin_attempt(good.clone(), at(2)).await.unwrap().is_none(), "begun already");
    let look = || (kept.row(id), kept.attempts(id), kept.store.chain("acme").unwrap());
    let before = look();
    assert_eq!(before.0.state, State::Sending);
    for outcome in [Outcome::Accepted, Outcome::Deferred, Outcome::Rejected, Outcome::Uncertain] {
        assert_eq!(kept.finish(stale.clone(), outcome, at(3)).await, None, "{outcome:?}");
        assert_eq!(look(), before, "{outcome:?}");
    }
    kept.store.release(vec![stale.clone(), good.clone()], at(3)).await.unwrap();
    assert_eq!(look(), before, "what has begun is not given back");
    assert_eq!(kept.finish(good.clone(), Outcome::Accepted, at(3)).await, Some(State::Accepted));
    assert_eq!(kept.finish(good.clone(), Outcome::Rejected, at(4)).await, None, "it ended already");
    assert_eq!(kept.row(id).state, State::Accepted);
}

async fn an_attempt_that_ends_leaves_state_due_attempt_and_one_record(engine: Engine) {
    let hold = Retry { resend_uncertain: false, ..RETRY };
    let table = [
        (Outcome::Accepted, RETRY, State::Accepted, false),
        (Outcome::Rejected, RETRY, State::Rejected, false),
        (Outcome::Deferred, RETRY, State::Deferred, true),
        (Outcome::Uncertain, RETRY, State::Uncertain, true),
        (Outcome::Uncertain, hold, State::Held, false),
    ];
    for (outcome, retry, state, again) in table {
        let kept = Kept::new(engine).await;
        let id = kept.accept(first("acme", 7)).await;
        let lease = kept.begin_one("acme", at(5)).await;
        let running = kept.attempts(id);
        assert_eq!((running.len(), running[0].ended_at, running[0].outcome.clone()), (1, None, None));
        let before = kept.records(id).len();
        let next = kept.store.finish_attempt(lease, 1, report(outcome), retry, at(9)).await.unwrap().unwrap();
        let row = kept.row(id);
        assert_eq!((next.state, row.state), (state, state), "{outcome:?}");
        assert_eq!((row.due, row.reason.as_str()), (next.due, next.reason.as_str()), "{outcome:?}");
        assert_eq!((row.attempts, row.changed_at), (1, at(9)), "{outcome:?}");
        // A minute, moved by at most a fifth.
        let waits = row.due.map(|due| due.duration_since(at(9)).as_secs());
        assert_eq!(waits.is_some_and(|wait| (48..=72).contains(&wait)), again, "{outcome:?}: {waits:?}");
        let attempt = AttemptRow {
            delivery: id,
            number: 1,
            began_at: at(5),
            ended_at: Some(at(9)),
            outcome: Some(outcome.as_str().to_owned()),
            relay: Some("relay.example.com:25".to_owned()),
            tls: Some("TLSv1.3".to_owned()),
            stage: Some("message".to_owned()),
            code: Some(450),
            enhanced: Some("4.2.1".to_owned()),
            answer: Some("as scripted".to_owned()),
        };
        assert_eq!(kept.attempts(id), [attempt], "{outcome:?}");
        let records = kept.records(id).split_off(before);
        let [(event, content)] = &records[..] else { panic!("{outcome:?}: {records:?}") };
        assert_eq!(event, "attempted");
        assert_eq!(
            (&content["outcome"], &content["state"]),
            (&json!(outcome.as_str()), &json!(state.as_str()))
        );
        assert_eq!((&content["attempt"], &content["recipient"]), (&json!(1), &json!("crm+7@example.com")));
    }
}

async fn leases_that_are_given_back_can_be_taken_again_at_once(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = kept.accept(first("acme", 7)).await;
    let records = kept.store.chain("acme").unwrap();
    for second in 1..4 {
        let lease = kept.claim_one("acme", at(second)).await;
        assert_eq!((lease.delivery, lease.number), (id, second), "leases are counted");
        kept.store.release(vec![lease], at(second + 1)).await.unwrap();
        let row = kept.row(id);
        assert_eq!((row.state, row.due, row.attempts), (State::Pending, Some(at(second + 1)), 0));
    }
    assert_eq!(kept.store.chain("acme").unwrap(), records, "a lease without an attempt is no event");
}

async fn what_a_dead_process_left_goes_on_or_waits_for_a_person(engine: Engine) {
    for (resend_uncertain, state, due) in [(true, State::Uncertain, Some(at(60))), (false, State::Held, None)]
    {
        let kept = Kept::new(engine).await;
        let sending = kept.accept(first("acme", 1)).await;
        let lost = kept.begin_one("acme", at(0)).await;
        let leased = kept.accept(first("acme", 2)).await;
        kept.claim_one("acme", at(0)).await;
        let sent = kept.accept(first("acme", 3)).await;
        let lease = kept.begin_one("acme", at(0)).await;
        kept.finish(lease, Outcome::Accepted, at(1)).await;
        let others = kept.accept(first("other", 1)).await;
        kept.begin_one("other", at(0)).await;

        let retry = Retry { resend_uncertain, ..RETRY };
        let heir = kept.store.join(at(60)).await.unwrap();
        assert_eq!(kept.store.recover("acme".to_owned(), heir, retry, at(60)).await.unwrap(), 1);
        let row = kept.row(leased);
        assert_eq!((row.state, row.due), (State::Pending, Some(at(60))));
        let row = kept.row(sending);
        assert_eq!((row.state, row.due), (state, due), "resend {resend_uncertain}");
        assert_eq!(kept.attempts(sending)[0].outcome.as_deref(), Some("uncertain"));
        assert_eq!(kept.records(sending).len(), 2, "accepted and attempted");
        assert_eq!(kept.row(sent).state, State::Accepted);
        assert_eq!(kept.row(others).state, State::Sending, "another tenant's is for another to take over");
        assert_eq!(kept.finish(lost, Outcome::Rejected, at(61)).await, None, "the dead one comes too late");
        assert_eq!(kept.store.recover("acme".to_owned(), heir, retry, at(62)).await.unwrap(), 0);
    }
}

async fn a_tenant_is_idle_when_nothing_waits_for_a_time_and_nothing_runs(engine: Engine) {
    let kept = Kept::new(engine).await;
    kept.accept(first("other", 1)).await;
    let look = async || {
        let due = kept.store.next_due("acme".to_owned(), Channel::Email).await.unwrap();
        (kept.store.is_idle("acme".to_owned(), false).await.unwrap(), due)
    };
    assert_eq!(look().await, (true, None), "another tenant's work is not this one's");
    kept.accept(due(first("acme", 1), at(30))).await;
    let sooner = kept.accept(due(first("acme", 2), at(20))).await;
    assert_eq!(look().await, (false, Some(at(20))));
    let only = Filter { ids: vec![sooner], ..Filter::default() };
    kept.store.change(only, Change::Hold, at(0)).await.unwrap();
    assert_eq!(look().await, (false, Some(at(30))), "what is held has no time");
    let lease = kept.claim_one("acme", at(30)).await;
    assert_eq!(look().await, (false, None), "leased");
    kept.store.begin_attempt(lease.clone(), at(30)).await.unwrap();
    assert_eq!(look().await, (false, None), "sending");
    kept.finish(lease, Outcome::Accepted, at(31)).await;
    assert_eq!(look().await, (true, None), "what is held does not keep anyone busy");
}

async fn a_person_may_do_what_the_state_allows_and_nothing_else(engine: Engine) {
    use Change::{Cancel, Hold, Release, Retry};
    // Per state: what retry, hold, release and cancel make of it. What is on the wire or over is left alone, what
    // was given up can come back, and only what is held can be released.
    let table = [
        (State::Pending, [Some(State::Pending), Some(State::Held), None, Some(State::Cancelled)]),
        (State::Leased, [None; 4]),
        (State::Sending, [None; 4]),
        (State::Accepted, [None; 4]),
        (State::Deferred, [Some(State::Pending), Some(State::Held), None, Some(State::Cancelled)]),
        (State::Rejected, [Some(State::Pending), None, None, Some(State::Cancelled)]),
        (State::Uncertain, [Some(State::Pending), Some(State::Held), None, Some(State::Cancelled)]),
        (State::Expired, [Some(State::Pending), None, None, Some(State::Cancelled)]),
        (State::Superseded, [None; 4]),
        (State::Cancelled, [Some(State::Pending), None, None, None]),
        (State::Held, [None, None, Some(State::Pending), Some(State::Cancelled)]),
    ];
    assert!(table.iter().map(|(state, _)| state).eq(STATES.iter().map(|(state, _)| state)), "every state");
    let kept = Kept::new(engine).await;
    for (from, expected) in table {
        let changes = [(Retry, "retried"), (Hold, "held"), (Release, "released"), (Cancel, "cancelled")];
        for ((change, event), expected) in changes.into_iter().zip(expected) {
            let case = format!("{change:?} of {from}");
            let id = kept.delivery_in(from, &case.replace(' ', "-")).await;
            let (row, records) = (kept.row(id), kept.records(id));
            let filter = Filter { ids: vec![id], ..Filter::default() };
            let changed = kept.store.change(filter, change, at(99)).await.unwrap();
            assert_eq!((changed.len(), changed[0].id), (1, id), "{case}");
            let Some(to) = expected else {
                assert_eq!(changed[0].result, Err(format!("is {from}")), "{case}");
                assert_eq!((kept.row(id), kept.records(id)), (row, records), "{case}");
                continue;
            };
            assert!(from.may_become(to), "{case}: the states forbid what the table says");
            assert_eq!(changed[0].result, Ok(to), "{case}");
            let now = kept.row(id);
            assert_eq!((now.state, now.changed_at), (to, at(99)), "{case}");
            assert_eq!(now.due, (to == State::Pending).then_some(at(99)), "{case}");
            let new = kept.records(id).split_off(records.len());
            let content = json!({ "from": from.as_str(), "to": to.as_str() });
            assert_eq!(new, [(event.to_owned(), content)], "{case}");
        }
    }
}

async fn an_update_is_not_tried_again_after_a_newer_one_may_have_arrived(engine: Engine) {
    for newer in [State::Leased, State::Sending, State::Accepted, State::Uncertain] {
        let kept = Kept::new(engine).await;
        let old = kept.delivery_in(State::Rejected, "acme").await;
        let new = kept.accept(second("acme", 1, Vec::new())).await;
        if newer == State::Leased {
            kept.claim_one("acme", at(0)).await;
        } else {
            let lease = kept.begin_one("acme", at(0)).await;
            match newer {
                State::Accepted => drop(kept.finish(lease, Outcome::Accepted, at(1)).await),
                State::Uncertain => drop(kept.finish(lease, Outcome::Uncertain, at(1)).await),
                _ => {}
            }
        }
        assert_eq!(kept.row(new).state, newer);
        let only = Filter { ids: vec![old], ..Filter::default() };
        let changed = kept.store.change(only, Change::Retry, at(9)).await.unwrap();
        assert!(changed[0].result.as_ref().is_err_and(|why| why.contains("older")), "{newer}: {changed:?}");
        assert_eq!(kept.row(old).state, State::Rejected, "{newer}");
    }
}

async fn what_has_no_message_cannot_be_let_go(engine: Engine) {
    let kept = Kept::new(engine).await;
    let held = Accepted { planned: Planned::Hold("no ticket".to_owned()), ..first("acme", 1) };
    let id = kept.accept(held).await;
    for change in [Change::Release, Change::Retry] {
        let filter = Filter { tenant: Some("acme".to_owned()), ..Filter::default() };
        let changed = kept.store.change(filter, change, at(9)).await.unwrap();
        assert!(changed[0].result.is_err(), "{change:?}");
    }
    assert_eq!(kept.row(id).state, State::Held);
    let filter = Filter { ids: vec![id], ..Filter::default() };
    let changed = kept.store.change(filter, Change::Cancel, at(9)).await.unwrap();
    assert_eq!(changed[0].result, Ok(State::Cancelled));
}

async fn the_secret_is_made_once_for_each_store(engine: Engine) {
    let kept = Kept::new(engine).await;
    let secret = kept.store.token_secret().await.unwrap();
    assert_eq!(secret.len(), 32);
    assert_eq!(kept.store.token_secret().await.unwrap(), secret);
    let Kept { store, place, _folder, .. } = kept;
    drop(store);
    assert_eq!(Store::open(&place).unwrap().token_secret().await.unwrap(), secret, "after opening it again");
    assert_ne!(Kept::new(engine).await.store.token_secret().await.unwrap(), secret);
}

#[tokio::test]
async fn one_holder_at_a_time_delivers_for_a_tenant() {
    let kept = Kept::new(Engine::Sqlite).await;
    let again = Store::open(&kept.place).unwrap();
    let lock = kept.store.lock_delivery("acme").unwrap();
    assert!(lock.is_some());
    assert!(kept.store.lock_delivery("acme").unwrap().is_none());
    assert!(again.lock_delivery("acme").unwrap().is_none(), "also not by another opening of the store");
    assert!(again.lock_delivery("other").unwrap().is_some());
    drop(lock);
    assert!(again.lock_delivery("acme").unwrap().is_some());
}

#[tokio::test]
async fn a_store_of_a_later_program_is_refused_and_left_alone() {
    let kept = Kept::new(Engine::Sqlite).await;
    let later = rusqlite::Connection::open(kept.path()).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    match Store::open(&kept.place) {
        Err(newer @ StoreError::Newer { found: 99, .. }) => assert!(newer.to_string().contains("schema 99")),
        other => panic!("{other:?}"),
    }
    let version: i64 = later.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

/// The schema of the first program.
const FIRST_SCHEMA: &str = include_str!("../../src/store/migrations/sqlite/0001_outbox_and_log.sql");

#[tokio::test]
async fn a_store_of_an_earlier_program_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aftercall.db");
    let earlier = rusqlite::Connection::open(&path).unwrap();
    earlier.execute_batch(FIRST_SCHEMA).unwrap();
    let rows = "
        INSERT INTO sessions VALUES (1, 'acme', 'main', 'call', 7, '7', NULL, x'00');
        INSERT INTO revisions VALUES (1, 1, 0, zeroblob(32), 'call-7.json', 0, x'7b7d');
        INSERT INTO deliveries VALUES (1, 'acme', 1, 1, 'email', '7', 'crm@example.com', '7.1@example.com', 'sending', '', NULL, 1, 1, 0, 0);
        INSERT INTO messages VALUES (1, 'bridge@example.com', CAST('Subject: 7' AS BLOB));
        INSERT INTO attempts (delivery, number, began_at) VALUES (1, 1, 0);
        INSERT INTO log VALUES (1, 'acme', 1, 1, 1, '{\"number\":1}', '{}', randomblob(32));
        PRAGMA user_version = 1;";
    earlier.execute_batch(rows).unwrap();
    drop(earlier);
    let store = Store::open(&StorePlace::File(path)).unwrap();
    assert_eq!(store.message(DeliveryId(1)).unwrap().unwrap(), b"Subject: 7");
    let end = store.chain("acme").unwrap().remove(0).hash;
    let instance = store.join(at(0)).await.unwrap();
    assert_eq!(
        store.recover("acme".to_owned(), instance, RETRY, at(0)).await.unwrap(),
        1,
        "its attempt is uncertain"
    );
    let session = SessionName { kind: Kind::Call, number: 7 };
    let attempts = store.stories(session, Some("acme")).unwrap().remove(0).attempts;
    assert_eq!((attempts.len(), attempts[0].outcome.as_deref()), (1, Some("uncertain")));
    let next = store.chain("acme").unwrap().remove(1);
    assert_eq!(next.hash, Digest::of_parts(&[&end.0, next.record.as_bytes()]), "the chain goes on");
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = "This is a text, and long enough to be read as the header of a database file.\n".repeat(20);
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, &text).unwrap();
    assert!(matches!(Store::open(&StorePlace::File(file.clone())), Err(StoreError::Database { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(Store::open(&StorePlace::File(folder.path().to_owned())).is_err(), "a folder");
    assert!(Store::open(&StorePlace::File(file.join("aftercall.db"))).is_err(), "below a file");
}

#[test]
fn a_new_store_can_be_opened_by_many_in_the_same_moment() {
    let folder = tempfile::tempdir().unwrap();
    let moment = Barrier::new(8);
    for round in 0..100 {
        let place = StorePlace::File(folder.path().join(format!("{round}.db")));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    moment.wait();
                    let opened = Store::open(&place);
                    opened.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
                });
            }
        });
    }
}

/// A process loses its locks on a file as soon as it closes the file anywhere (fcntl(2)); another process would then
/// believe that nobody else is there and take the write-ahead log away.
#[test]
fn a_store_that_is_opened_twice_in_a_process_keeps_what_is_written_to_it() {
    let site = Site::new(1, &TenantFile::default());
    let (first, second) = (site.store(), site.store());
    drop(second);
    let look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM log').fetchall(); c.close()";
    let looked =
        Command::new("python3").args(["-c", look]).arg(site.path("config/aftercall.sqlite")).status();
    assert!(looked.unwrap().success());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let quarantined = Quarantined {
        tenant: "acme".to_owned(),
        source: "call-1.json".to_owned(),
        reason: "cut off".to_owned(),
        raw: b"{".to_vec(),
        now: at(0),
    };
    assert!(runtime.block_on(first.quarantine(quarantined)).unwrap());
    let listed = site.run(&["log", "quarantine"]).with_code(0);
    assert!(listed.out.contains("cut off"), "{}", listed.out);
}

#[tokio::test]
async fn only_the_owner_can_read_the_store() {
    let kept = Kept::new(Engine::Sqlite).await;
    let mut seen = 0;
    for entry in std::fs::read_dir(kept.path().parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
        seen += 1;
    }
    assert!(seen > 0);
}

async fn two_hundred_at_once_are_all_kept_in_one_unbroken_chain(engine: Engine) {
    let kept = Kept::new(engine).await;
    let tasks: Vec<_> = (1..=200)
        .map(|number| {
            let store = kept.store.clone();
            tokio::spawn(async move { store.accept(first("acme", number)).await.unwrap() })
        })
        .collect();
    let mut answered = BTreeSet::new();
    for task in tasks {
        let Acceptance::Stored(Some(id)) = task.await.unwrap() else { panic!("not stored") };
        assert!(answered.insert(id), "two callers got delivery {id}");
    }
    let Kept { store, place, _folder, .. } = kept;
    drop(store);
    let store = Store::open(&place).unwrap();
    let rows = store.deliveries(&Filter::default()).unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<BTreeSet<_>>(), answered);
    let sessions: BTreeSet<u64> = rows.iter().map(|row| row.session.number).collect();
    assert_eq!(sessions, (1..=200).collect());

    assert_unbroken(&store, "acme", 200);
}

/// Asserts that a tenant's chain has so many records, each chained to the one before.
#[track_caller]
fn assert_unbroken(store: &Store, tenant: &str, count: i64) {
    let mut previous = FIRST;
    let chain = store.chain(tenant).unwrap();
    assert!(chain.iter().map(|row| row.number).eq(1..=count), "{} records", chain.len());
    for row in chain {
        assert_eq!(row.hash, Digest::of_parts(&[&previous.0, row.record.as_bytes()]), "{}", row.number);
        previous = row.hash;
        let record: Value = serde_json::from_str(&row.record).unwrap();
        assert_eq!((&record["number"], &record["tenant"]), (&json!(row.number), &json!(tenant)));
    }
}

/// Callers that ask at the same time share transactions.
async fn what_comes_at_once_about_the_same_is_done_once(engine: Engine) {
    let kept = Kept::new(engine).await;
    let accept = async |accepted| kept.store.accept(accepted).await.unwrap();
    let same = join_all((0..8).map(|_| accept(first("acme", 1)))).await;
    let [id] = stored(&same)[..] else { panic!("{same:?}") };
    assert_eq!(
        same.iter().filter(|answer| **answer == Acceptance::Duplicate(Some(id))).count(),
        7,
        "{same:?}"
    );

    // Revisions of a session that nobody knew before, each planned as its first.
    let revision = |number: u8| {
        let raw = vec![number];
        Accepted { digest: Digest::of(&raw), raw: Arc::new(raw), ..first("acme", 2) }
    };
    let others = join_all((0..8).map(|number| accept(revision(number)))).await;
    let late = others.iter().filter(|answer| matches!(answer, Acceptance::OutOfDate(_))).count();
    assert_eq!((stored(&others).len(), late), (1, 7), "{others:?}");

    let leases = kept.claim("acme", 9, at(0)).await;
    assert_eq!(leases.len(), 2);
    for lease in leases {
        let begun = join_all((0..8).map(|_| kept.store.begin_attempt(lease.clone(), at(1)))).await;
        assert_eq!(begun.iter().flatten().flatten().count(), 1, "{begun:?}");
        let ended = join_all((0..8).map(|_| kept.finish(lease.clone(), Outcome::Accepted, at(2)))).await;
        assert_eq!(ended.iter().flatten().count(), 1, "{ended:?}");
        let events: Vec<String> = kept.records(lease.delivery).into_iter().map(|(event, _)| event).collect();
        assert_eq!(events, ["accepted", "attempted"]);
    }
}

/// Of one tenant's sessions the database refuses a delivery, of the other's a record of the log, which is written when
/// all other work of its transaction is done.
async fn what_the_database_refuses_takes_nothing_else_with_it(engine: Engine) {
    let kept = Kept::new(engine).await;
    let delivery = "NEW.tenant = 'acme' AND NEW.ticket = '13'";
    let record = "NEW.tenant = 'other' AND NEW.content LIKE '%call-13.json%'";
    match &kept.place {
        StorePlace::File(path) => {
            let refuse = |table: &str, when: &str| {
                format!(
                    "CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} WHEN {when} \
                     BEGIN SELECT RAISE(ABORT, 'unlucky'); END;"
                )
            };
            let triggers = refuse("deliveries", delivery) + &refuse("log", record);
            rusqlite::Connection::open(path).unwrap().execute_batch(&triggers).unwrap();
        }
        StorePlace::Server(url) => {
            let refuse = |table: &str, when: &str| {
                format!(
                    "CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) \
                     EXECUTE FUNCTION refuse();"
                )
            };
            let function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql \
                            AS $$ BEGIN RAISE EXCEPTION 'unlucky'; END $$;";
            let triggers = refuse("deliveries", delivery) + &refuse("log", record);
            crate::servers::postgres::ask(url.expose(), &format!("{function} {triggers}"));
        }
    }
    for tenant in ["acme", "other"] {
        let answers = join_all((1..=90).map(|number| kept.store.accept(first(tenant, number)))).await;
        for (answer, number) in answers.into_iter().zip(1..) {
            match answer {
                Ok(Acceptance::Stored(Some(_))) => assert_ne!(number, 13),
                Err(StoreError::Database { source, .. }) => {
                    assert!(number == 13 && source.to_string().contains("unlucky"), "{number}: {source}");
                }
                other => panic!("{number}: {other:?}"),
            }
        }
        assert_unbroken(&kept.store, tenant, 89);
        let kept_rows =
            kept.store.deliveries(&Filter { tenant: Some(tenant.to_owned()), ..Filter::default() });
        assert_eq!(kept_rows.unwrap().len(), 89);
    }
}

/// The deliveries of those that were stored.
fn stored(answers: &[Acceptance]) -> Vec<DeliveryId> {
    let delivery = |answer: &Acceptance| match answer {
        Acceptance::Stored(delivery) => *delivery,
        _ => None,
    };
    answers.iter().filter_map(delivery).collect()
}

async fn the_same_bytes_from_the_same_place_are_quarantined_once(engine: Engine) {
    let kept = Kept::new(engine).await;
    let table = [
        ("acme", "a.json", "{", true),
        ("acme", "a.json", "{", false),
        ("acme", "a.json", "{\"", true),
        ("acme", "b.json", "{", true),
        ("other", "a.json", "{", true),
    ];
    for (tenant, source, raw, new) in table {
        let quarantined = Quarantined {
            tenant: tenant.to_owned(),
            source: source.to_owned(),
            reason: "line 1, column 1: it ends too early".to_owned(),
            raw: raw.as_bytes().to_vec(),
            now: at(0),
        };
        assert_eq!(kept.store.quarantine(quarantined).await.unwrap(), new, "{tenant} {source} {raw}");
    }
    let rows = kept.store.quarantined(Some("acme")).unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row.source.as_str(), row.octets)).collect();
    assert_eq!(shown, [("a.json", 1), ("a.json", 2), ("b.json", 1)]);
    assert_eq!(kept.store.quarantined_bytes(rows[1].id).unwrap().unwrap(), b"{\"");
    assert_eq!(kept.store.quarantined(None).unwrap().len(), 4);
    assert_eq!(kept.store.chain("acme").unwrap().len(), 3, "one record for each that is new");
    assert_eq!(kept.store.chain("other").unwrap().len(), 1);
}

async fn the_last_stamp_of_a_file_is_what_is_read_back(engine: Engine) {
    let kept = Kept::new(engine).await;
    let note = async |tenant: &str, files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, stamp)| ((*path).to_owned(), (*stamp).to_owned())).collect();
        kept.store.note_files(tenant.to_owned(), files).await.unwrap();
    };
    note("acme", &[("a.json", "1"), ("b.json", "1")]).await;
    note("acme", &[("a.json", "2")]).await;
    note("other", &[("a.json", "9")]).await;
    note("acme", &[]).await;
    let noted = |tenant: &str| {
        let mut files = BTreeSet::new();
        kept.store.noted_files(tenant, |path, stamp| _ = files.insert(format!("{path} {stamp}"))).unwrap();
        files.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(noted("acme"), ["a.json 2", "b.json 1"]);
    assert_eq!(noted("other"), ["a.json 9"]);
    assert!(noted("nobody").is_empty());
}

async fn a_budget_is_shared_by_its_name_and_new_in_each_span(engine: Engine) {
    let kept = Kept::new(engine).await;
    let budget = |name: &str, seconds, most| Budget {
        name: name.to_owned(),
        span: SignedDuration::from_secs(seconds),
        most,
    };
    for number in 1..=9 {
        kept.accept(first("acme", number)).await;
        kept.accept(first("other", number)).await;
    }
    // Spans begin at whole tens and minutes.
    let base = 1_800_000_000;
    let claim = async |tenant: &str, second: i64| {
        let budgets = vec![budget("relay r:25", 10, 3), budget(&format!("tenant {tenant}"), 60, 4)];
        let now = Timestamp::from_second(base + 60 + second).unwrap();
        let claimed = kept
            .store
            .claim(tenant.to_owned(), Channel::Email, kept.instance, budgets, 9, now)
            .await
            .unwrap();
        (claimed.leases.len(), claimed.not_before.map(|moment| moment.as_second() - base - 60))
    };
    assert_eq!(claim("acme", 0).await, (3, None), "the relay's three");
    assert_eq!(claim("other", 9).await, (0, Some(10)), "are used up for the other one too");
    assert_eq!(claim("other", 10).await, (3, None), "a new span");
    assert_eq!(claim("acme", 20).await, (1, None), "the fourth of the minute");
    assert_eq!(claim("acme", 30).await, (0, Some(60)), "the tenant's own are used up");
    assert_eq!(claim("acme", 60).await, (3, None));
}

async fn a_paused_tenant_is_given_nothing_and_the_log_says_who_waits_for_what(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = kept.accept(first("acme", 1)).await;
    kept.accept(first("other", 1)).await;
    let pause = async |pause| kept.store.pause("acme".to_owned(), pause, at(1)).await.unwrap();
    assert!(!pause(false).await, "it is not paused");
    assert!(pause(true).await && !pause(true).await);
    assert!(
        kept.store.is_paused("acme".to_owned()).await.unwrap()
            && !kept.store.is_paused("other".to_owned()).await.unwrap()
    );
    assert_eq!(kept.claim("acme", 9, at(9)).await, []);
    assert_eq!(kept.claim("other", 9, at(9)).await.len(), 1, "another tenant goes on");
    assert_eq!(kept.row(id).state, State::Pending);
    assert!(pause(false).await);
    assert_eq!(kept.claim("acme", 9, at(9)).await.len(), 1);
    let events = kept.store.chain("acme").unwrap().into_iter().map(|row| {
        let record: Value = serde_json::from_str(&row.record).unwrap();
        record["event"].as_str().unwrap().to_owned()
    });
    assert_eq!(events.collect::<Vec<_>>(), ["accepted", "paused", "resumed"]);
}

async fn an_instance_that_fell_silent_begins_and_ends_nothing_more(engine: Engine) {
    let kept = Kept::new(engine).await;
    let begun = kept.accept(first("acme", 1)).await;
    let running = kept.begin_one("acme", at(0)).await;
    let waiting = kept.accept(first("acme", 2)).await;
    let leased = kept.claim_one("acme", at(0)).await;
    let heir = kept.store.join(at(10)).await.unwrap();
    if engine == Engine::Postgres {
        let early = kept.store.recover("acme".to_owned(), heir, RETRY, at(20)).await.unwrap();
        assert_eq!((early, kept.row(begun).state), (0, State::Sending), "it may still be alive");
    }
    assert!(kept.store.heartbeat(heir, at(40)).await.unwrap());
    assert!(
        !kept.store.heartbeat(kept.instance, at(41)).await.unwrap(),
        "it is told that it was taken for dead"
    );
    assert!(
        kept.store.begin_attempt(leased, at(41)).await.unwrap().is_none(),
        "also before anything is taken over"
    );
    assert_eq!(kept.store.recover("acme".to_owned(), heir, RETRY, at(42)).await.unwrap(), 1);
    assert_eq!((kept.row(begun).state, kept.row(waiting).state), (State::Uncertain, State::Pending));
    assert_eq!(kept.finish(running, Outcome::Accepted, at(43)).await, None);
    assert_eq!(kept.row(begun).state, State::Uncertain, "what it would have said is no longer heard");
}

/// The same by the record channel, with mail to fall back to.
fn noted(accepted: Accepted) -> Accepted {
    let note = Note {
        target: "https://crm.example.com".to_owned(),
        external_id: format!("{}-note", accepted.key.name),
        text: "Done.".to_owned(),
        ..Note::blank()
    };
    let message = Message::Note(Box::new(note));
    Accepted {
        channel: Channel::Record,
        fallback: Some(Channel::Email),
        planned: planned(message),
        ..accepted
    }
}

async fn each_channel_is_leased_by_itself(engine: Engine) {
    let kept = Kept::new(engine).await;
    kept.accept(first("acme", 1)).await;
    let id = kept.accept(noted(first("acme", 2))).await;
    let claim = async |channel| {
        let claimed = kept.store.claim("acme".to_owned(), channel, kept.instance, vec![], 9, at(0)).await;
        claimed.unwrap().leases
    };
    let next_due = async |channel| kept.store.next_due("acme".to_owned(), channel).await.unwrap();
    assert_eq!(next_due(Channel::Record).await, Some(at(0)));
    let leases = claim(Channel::Record).await;
    assert_eq!(leases.iter().map(|lease| lease.delivery).collect::<Vec<_>>(), [id]);
    assert_eq!((next_due(Channel::Record).await, next_due(Channel::Email).await), (None, Some(at(0))));
    let work = kept.store.begin_attempt(leases[0].clone(), at(0)).await.unwrap().unwrap();
    assert_eq!(work.file.as_deref(), Some(&b"acme call 2"[..]), "the revision's bytes");
    assert_eq!(Note::from_bytes(&work.wire).unwrap().external_id, "call-2-note");
    assert_eq!(claim(Channel::Email).await.len(), 1);
}

async fn what_was_given_up_is_taken_over_once_and_only_while_it_is_the_news(engine: Engine) {
    for is_news in [true, false] {
        let kept = Kept::new(engine).await;
        let id = kept.accept(noted(first("acme", 1))).await;
        let claimed =
            kept.store.claim("acme".to_owned(), Channel::Record, kept.instance, vec![], 1, at(0)).await;
        let lease = claimed.unwrap().leases.remove(0);
        kept.store.begin_attempt(lease.clone(), at(0)).await.unwrap().unwrap();
        let given_up = async || kept.store.given_up("acme".to_owned()).await.unwrap();
        assert_eq!(given_up().await, []);
        kept.finish(lease, Outcome::Rejected, at(1)).await;
        let waiting = given_up().await;
        assert_eq!(waiting.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
        let is_idle = async |falls_back| kept.store.is_idle("acme".to_owned(), falls_back).await.unwrap();
        assert!(is_idle(false).await && !is_idle(true).await);
        assert!(waiting[0].1.contains("450 as scripted"), "{waiting:?}");
        if !is_news {
            kept.accept(second("acme", 1, vec![])).await;
        }
        let fallen = kept.store.fallen("acme".to_owned(), id).await.unwrap().unwrap();
        assert_eq!((fallen.to, &fallen.raw[..]), (Channel::Email, &b"acme call 1"[..]));
        let before = kept.store.deliveries(&Filter::default()).unwrap().len();
        let fall_back = FallBack {
            tenant: "acme".to_owned(),
            delivery: id,
            to: fallen.to,
            why: "refused".to_owned(),
            planned: first("acme", 1).planned,
            now: at(2),
        };
        let taken = kept.store.fall_back(fall_back.clone()).await.unwrap();
        assert_eq!(taken.is_some(), is_news);
        assert_eq!(kept.store.fall_back(fall_back).await.unwrap(), None, "once");
        assert_eq!((given_up().await.len(), kept.row(id).state), (0, State::Rejected));
        let after = kept.store.deliveries(&Filter::default()).unwrap().len();
        assert_eq!(after, before + usize::from(is_news));
        if let Some(taken) = taken {
            let row = kept.row(taken);
            assert_eq!((row.channel, row.instead_of, row.due), (Channel::Email, Some(id), Some(at(0))));
        }
        let records = kept.records(id);
        assert_eq!(records.iter().filter(|(event, _)| event == "fell-back").count(), 1, "{records:?}");
    }
}
