//! What the store promises about verdicts and what follows them.

use aftercall::classify::verdict::{Kind, Verdict};
use aftercall::compose::Composed;
use aftercall::correlate::{Found, Proof};
use aftercall::ids::{DeliveryId, InboundId};
use aftercall::outbox::Outcome;
use aftercall::store::{Act, Arrival, Deed, Judged, Taken, Telling, VerdictFilter};
use serde_json::{Value, json};

use super::{Engine, Kept, RETRY, at, first, report};

on_both_engines! {
    a_verdict_and_what_follows_are_kept_together_and_once,
    a_delivery_is_found_by_what_its_token_says,
    what_goes_to_a_stopped_address_is_held_when_it_is_due,
    a_second_report_at_the_same_moment_makes_no_second_delivery,
    a_person_is_told_of_a_matter_once_an_hour,
    a_ticket_that_was_learned_is_known_to_the_next_plan,
}

/// A mail that came back.
async fn inbound(kept: &Kept, number: u32) -> InboundId {
    let arrival = Arrival {
        mailbox: "bounces".to_owned(),
        sender: None,
        recipient: None,
        raw: format!("Subject: {number}\r\n\r\n").into_bytes(),
        fault: None,
        now: at(1),
    };
    match kept.store.take_inbound(arrival).await.unwrap() {
        Taken::New(id) | Taken::Known(id) => id,
    }
}

/// A delivery that its relay took.
async fn sent(kept: &Kept, number: u64) -> DeliveryId {
    let id = kept.accept(first("acme", number)).await;
    let lease = kept.claim("acme", 1, at(1)).await.remove(0);
    let work = kept.store.begin_attempt(lease.clone(), at(1)).await.unwrap().unwrap();
    let report = report(Outcome::Accepted);
    kept.store.finish_attempt(lease, work.attempt, report, RETRY, at(2)).await.unwrap().unwrap();
    id
}

fn verdict(kind: Kind) -> Verdict {
    let name = serde_json::to_value(kind).unwrap();
    let whole = json!({ "kind": name, "sub": null, "rule": "a-rule", "recipients": [], "ticket": null });
    serde_json::from_value(whole).unwrap()
}

fn deed(act: Act) -> Deed {
    Deed { reaction: "did", detail: "why".to_owned(), act }
}

fn judged(inbound: InboundId, delivery: Option<DeliveryId>, acts: Vec<Act>, second: i64) -> Judged {
    Judged {
        inbound,
        about: delivery.map(|id| ("acme".to_owned(), id, Proof::EnvelopeSender)),
        verdict: verdict(Kind::Bounce),
        evidence: json!({ "from": "mx" }),
        deeds: acts.into_iter().map(deed).collect(),
        now: at(second),
    }
}

fn notice(number: u32) -> Vec<Telling> {
    vec![Telling::Mail(Box::new(Composed {
        message_id: format!("notice-{number}@example.com"),
        envelope_from: "bridge@example.com".parse().unwrap(),
        recipient: "alerts@example.com".parse().unwrap(),
        wire: b"Subject: alert\r\n\r\n".to_vec(),
        tail: None,
    }))]
}

/// The events of a session's log, in order.
fn events(kept: &Kept, session: &str) -> Vec<String> {
    let story = kept.store.stories(session.parse().unwrap(), Some("acme")).unwrap().remove(0);
    let event =
        |record: &str| serde_json::from_str::<Value>(record).unwrap()["event"].as_str().unwrap().to_owned();
    story.records.iter().map(|row| event(&row.record)).collect()
}

async fn a_verdict_and_what_follows_are_kept_together_and_once(engine: Engine) {
    let kept = Kept::new(engine).await;
    let (id, mail) = (sent(&kept, 7).await, inbound(&kept, 1).await);
    let stop = Act::Stop("crm+7@example.com".to_owned(), "gone".to_owned());
    let acts = vec![stop, Act::Hold("it came back".to_owned()), Act::Notice(notice(1))];
    assert!(kept.store.judge(judged(mail, Some(id), acts.clone(), 9)).await.unwrap());
    assert!(!kept.store.judge(judged(mail, Some(id), acts, 10)).await.unwrap(), "judged once");
    assert_eq!(
        events(&kept, "call-7"),
        ["accepted", "attempted", "received", "reacted", "reacted", "reacted"]
    );
    let story = kept.store.stories("call-7".parse().unwrap(), Some("acme")).unwrap().remove(0);
    let states: Vec<(&str, Option<DeliveryId>)> =
        story.deliveries.iter().map(|row| (row.state.as_str(), row.instead_of)).collect();
    assert_eq!(states, [("accepted", None), ("held", Some(id)), ("pending", None)]);
    let [_, held, alert] = &story.deliveries[..] else { panic!("{story:?}") };
    assert_eq!(kept.store.message(held.id).unwrap(), kept.store.message(id).unwrap(), "the same bytes");
    assert_eq!(kept.store.message(alert.id).unwrap().unwrap(), b"Subject: alert\r\n\r\n");
    let row = kept.store.verdicts(&VerdictFilter { most: 9, ..VerdictFilter::default() }).unwrap().remove(0);
    assert_eq!((row.id, row.delivery, row.proof.as_deref()), (mail, Some(id), Some("envelope-sender")));
    assert_eq!((row.kind.as_deref(), row.rule.as_deref()), (Some("bounce"), Some("a-rule")));
    assert_eq!(row.reactions, json!([["did", "why"], ["did", "why"], ["did", "why"]]));
    assert!(kept.store.new_inbounds(9).await.unwrap().is_empty());
    let stopped = kept.store.stopped().unwrap();
    assert_eq!(
        (stopped[0].address.as_str(), stopped[0].reason.as_str(), stopped.len()),
        ("crm+7@example.com", "gone", 1)
    );
}

async fn a_delivery_is_found_by_what_its_token_says(engine: Engine) {
    let kept = Kept::new(engine).await;
    let (seven, eight) = (sent(&kept, 7).await, sent(&kept, 8).await);
    let found = async |number: u64, instance: &str, body: &str| {
        let session =
            aftercall::ids::SessionKey { instance: instance.to_owned(), ..first("acme", number).key };
        let found = Found { proof: Proof::Thread, session, body: body.to_owned() };
        kept.store.find_delivery(found).await.unwrap().map(|matched| matched.delivery)
    };
    assert_eq!(found(7, "main", "7.1").await, Some(seven));
    assert_eq!(found(8, "main", "8.1").await, Some(eight));
    assert_eq!(found(7, "main", "8.1").await, None, "a token of another session");
    assert_eq!(found(7, "other", "7.1").await, None, "of another instance");
    assert_eq!(found(9, "main", "9.1").await, None, "a session that nobody knows");
    // What goes out again has the same token; until it was tried, the first is what came back.
    let mail = inbound(&kept, 1).await;
    kept.store.judge(judged(mail, Some(seven), vec![Act::Again(at(3))], 2)).await.unwrap();
    assert_eq!(found(7, "main", "7.1").await, Some(seven));
    let lease = kept.claim("acme", 1, at(5)).await.remove(0);
    kept.store.begin_attempt(lease.clone(), at(5)).await.unwrap().unwrap();
    assert_eq!(found(7, "main", "7.1").await, Some(lease.delivery));
    let matched = kept.store.delivery_to_match(lease.delivery).await.unwrap().unwrap();
    assert_eq!(
        (matched.about.resent, matched.about.is_settled, matched.about.ticket.as_deref()),
        (1, false, Some("7"))
    );
    let matched = kept.store.delivery_to_match(seven).await.unwrap().unwrap();
    assert!(matched.about.is_settled && !matched.about.is_old && !matched.about.is_notice);
}

async fn what_goes_to_a_stopped_address_is_held_when_it_is_due(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = sent(&kept, 7).await;
    let stop = Act::Stop("crm+8@example.com".to_owned(), "gone".to_owned());
    kept.store.judge(judged(inbound(&kept, 1).await, Some(id), vec![stop], 2)).await.unwrap();
    let (eight, nine) = (kept.accept(first("acme", 8)).await, kept.accept(first("acme", 9)).await);
    let leased: Vec<DeliveryId> =
        kept.claim("acme", 9, at(3)).await.into_iter().map(|lease| lease.delivery).collect();
    assert_eq!(leased, [nine]);
    let row = kept.row(eight);
    assert_eq!((row.state.as_str(), row.reason.as_str()), ("held", "nothing goes to the address: gone"));
    assert_eq!(events(&kept, "call-8"), ["accepted", "held"]);
    assert!(kept.store.lift("acme".to_owned(), "CRM+8@example.com".to_owned(), at(4)).await.unwrap());
    assert!(!kept.store.lift("acme".to_owned(), "crm+8@example.com".to_owned(), at(4)).await.unwrap());
    assert!(kept.store.stopped().unwrap().is_empty());
}

async fn a_second_report_at_the_same_moment_makes_no_second_delivery(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = sent(&kept, 7).await;
    let mut judging = tokio::task::JoinSet::new();
    for number in 0..8 {
        let judged = judged(inbound(&kept, number).await, Some(id), vec![Act::Again(at(60))], 2);
        let store = kept.store.clone();
        judging.spawn(async move { store.judge(judged).await.unwrap() });
    }
    assert!(judging.join_all().await.into_iter().all(|is_judged| is_judged));
    let story = kept.store.stories("call-7".parse().unwrap(), Some("acme")).unwrap().remove(0);
    assert_eq!((story.deliveries.len(), story.inbounds.len()), (2, 8));
}

async fn a_person_is_told_of_a_matter_once_an_hour(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = sent(&kept, 7).await;
    let table = [(1, "one", 10), (2, "one", 20), (3, "two", 30), (4, "one", 3_600), (5, "one", 3_700)];
    for (number, matter, second) in table {
        let alert = Act::Alert(notice(number), matter.to_owned());
        kept.store.judge(judged(inbound(&kept, number).await, Some(id), vec![alert], second)).await.unwrap();
    }
    let story = kept.store.stories("call-7".parse().unwrap(), Some("acme")).unwrap().remove(0);
    let ids: Vec<&str> = story.deliveries[1..].iter().filter_map(|row| row.message_id.as_deref()).collect();
    assert_eq!(ids, ["notice-1@example.com", "notice-3@example.com", "notice-5@example.com"]);
}

async fn a_ticket_that_was_learned_is_known_to_the_next_plan(engine: Engine) {
    let kept = Kept::new(engine).await;
    let id = sent(&kept, 7).await;
    kept.store
        .judge(judged(
            inbound(&kept, 1).await,
            Some(id),
            vec![Act::Ticket("42".to_owned()), Act::Notice(notice(1))],
            2,
        ))
        .await
        .unwrap();
    let raw = b"another revision".to_vec();
    let newer = aftercall::store::Accepted {
        digest: aftercall::ids::Digest::of(&raw),
        raw: std::sync::Arc::new(raw),
        ..first("acme", 7)
    };
    let aftercall::store::Acceptance::OutOfDate(history) = kept.store.accept(newer).await.unwrap() else {
        panic!("more is known than the plan knew");
    };
    assert_eq!(history.ticket.as_deref(), Some("42"));
    assert_eq!(history.deliveries.len(), 1, "a notice is no update");
}
