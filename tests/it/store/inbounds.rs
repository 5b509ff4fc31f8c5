//! What the store promises about mails that came back, and about who reads which mailbox.

use aftercall::ids::InboundId;
use aftercall::inbox::Position;
use aftercall::store::{Arrival, Instance, Store, Taken};
use jiff::Timestamp;

use super::{Engine, Kept, at};

on_both_engines! {
    the_same_mail_twice_is_one_inbound,
    a_mail_that_is_not_whole_waits_in_quarantine,
    mails_that_come_at_once_by_two_ways_are_one_inbound,
    one_instance_at_a_time_reads_a_mailbox,
    a_position_is_noted_only_by_who_holds_the_mailbox,
}

fn arrival(mailbox: &str, recipient: Option<&str>, raw: &[u8], fault: Option<&str>) -> Arrival {
    Arrival {
        mailbox: mailbox.to_owned(),
        sender: recipient.map(|_| String::new()),
        recipient: recipient.map(str::to_owned),
        raw: raw.to_vec(),
        fault: fault.map(str::to_owned),
        now: at(1),
    }
}

async fn the_same_mail_twice_is_one_inbound(engine: Engine) {
    let kept = Kept::new(engine).await;
    let raw = b"Subject: a\r\n\r\n\0\xff\r\n";
    let table = [
        (arrival("bounces", None, raw, None), true),
        (arrival("bounces", None, raw, None), false),
        (arrival("replies", None, raw, None), true),
        (arrival("bounces", Some("bridge+a@example.com"), raw, None), true),
        (arrival("bounces", Some("bridge+a@example.com"), raw, None), false),
        (arrival("bounces", Some("bridge+b@example.com"), raw, None), true),
        (arrival("bounces", None, b"Subject: a", None), true),
    ];
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for (arrival, is_new) in table {
        match kept.store.take_inbound(arrival.clone()).await.unwrap() {
            Taken::New(id) if is_new => new.push(id),
            Taken::Known(id) if !is_new => known.push(id),
            other => panic!("{arrival:?}: {other:?}"),
        }
    }
    assert_eq!(known, [new[0], new[2]]);
    let rows = kept.store.new_inbounds(99).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), new, "in the order of their arrival");
    assert_eq!(kept.store.new_inbounds(2).await.unwrap(), rows[..2]);
    let envelope = |at: usize| (rows[at].sender.as_deref(), rows[at].recipient.as_deref());
    assert_eq!((envelope(0), envelope(2)), ((None, None), (Some(""), Some("bridge+a@example.com"))));
    assert_eq!((rows[0].octets, rows[0].arrived_at, &rows[1].mailbox[..]), (18, at(1), "replies"));
    assert_eq!(kept.store.inbound_mail(new[2]).unwrap().unwrap(), raw);
    assert_eq!(kept.store.inbound_mail(InboundId(999_999)).unwrap(), None);
}

async fn a_mail_that_is_not_whole_waits_in_quarantine(engine: Engine) {
    let kept = Kept::new(engine).await;
    let take = async |raw: &[u8], fault| {
        let arrival = arrival("bounces", None, raw, fault);
        matches!(kept.store.take_inbound(arrival).await.unwrap(), Taken::New(_))
    };
    assert!(take(b"Subject: a", Some("too large")).await);
    assert!(!take(b"Subject: a", Some("too large")).await, "the same head for the same reason");
    assert!(take(b"", Some("mail 1 is not given")).await && take(b"", Some("mail 2 is not given")).await);
    assert!(take(b"Subject: a", None).await, "the mail that is whole is another");
    let reasons: Vec<String> =
        kept.store.quarantined_inbounds().unwrap().into_iter().map(|row| row.reason).collect();
    assert_eq!(reasons, ["too large", "mail 1 is not given", "mail 2 is not given"]);
    assert_eq!(kept.store.new_inbounds(9).await.unwrap().len(), 1);
}

async fn mails_that_come_at_once_by_two_ways_are_one_inbound(engine: Engine) {
    let kept = Kept::new(engine).await;
    let other = Store::open(&kept.place).unwrap();
    let mut taking = tokio::task::JoinSet::new();
    for number in 0..200 {
        // The other way round on one of them.
        let (store, number) =
            if number % 2 == 0 { (&kept.store, number / 2) } else { (&other, 99 - number / 2) };
        let arrival = arrival("bounces", None, format!("Subject: {number}").as_bytes(), None);
        let store = store.clone();
        taking.spawn(async move { store.take_inbound(arrival).await.unwrap() });
    }
    let taken = taking.join_all().await;
    assert_eq!(taken.iter().filter(|taken| matches!(taken, Taken::New(_))).count(), 100);
    let rows = kept.store.new_inbounds(999).await.unwrap();
    assert_eq!(rows.len(), 100);
    assert!(rows.iter().all(|row| kept.store.inbound_mail(row.id).unwrap().is_some()));
}

async fn hold(store: &Store, instance: Instance, now: Timestamp) -> bool {
    store.hold_mailbox("bounces".to_owned(), instance, now).await.unwrap()
}

async fn one_instance_at_a_time_reads_a_mailbox(engine: Engine) {
    let kept = Kept::new(engine).await;
    let heir = kept.store.join(at(0)).await.unwrap();
    assert!(hold(&kept.store, kept.instance, at(0)).await && hold(&kept.store, kept.instance, at(1)).await);
    if engine == Engine::Postgres {
        assert!(!hold(&kept.store, heir, at(20)).await, "the other one may still be alive");
        assert!(kept.store.hold_mailbox("replies".to_owned(), heir, at(20)).await.unwrap());
        kept.store.release_mailbox("bounces".to_owned(), heir).await.unwrap();
        assert!(!hold(&kept.store, heir, at(21)).await, "nobody gives back what another one holds");
        assert!(hold(&kept.store, heir, at(31)).await, "it was silent for too long");
        assert!(kept.store.heartbeat(heir, at(31)).await.unwrap());
        assert!(!hold(&kept.store, kept.instance, at(32)).await, "it was taken over");
    } else {
        // The lock of the mailbox decides, also between two openings of the store.
        let again = Store::open(&kept.place).unwrap();
        let lock = kept.store.lock_mailbox("bounces").unwrap().unwrap();
        assert!(again.lock_mailbox("bounces").unwrap().is_none());
        assert!(again.lock_mailbox("replies").unwrap().is_some());
        assert!(again.lock_delivery("bounces").unwrap().is_some(), "a tenant may have that name");
        drop(lock);
        assert!(again.lock_mailbox("bounces").unwrap().is_some());
        assert!(hold(&kept.store, heir, at(1)).await, "who has the lock is the only one");
    }
    kept.store.release_mailbox("bounces".to_owned(), heir).await.unwrap();
    assert!(hold(&kept.store, kept.instance, at(31)).await, "what was given back is free at once");
}

async fn a_position_is_noted_only_by_who_holds_the_mailbox(engine: Engine) {
    let kept = Kept::new(engine).await;
    let position =
        |last_uid| Position { place: "mail.example.com:993 a INBOX".to_owned(), uid_validity: 7, last_uid };
    let note = async |instance, last_uid| {
        kept.store.note_position("bounces".to_owned(), instance, position(last_uid)).await.unwrap()
    };
    let read = async || kept.store.mailbox_position("bounces".to_owned()).await.unwrap();
    assert!(!note(kept.instance, 1).await && read().await.is_none());
    assert!(hold(&kept.store, kept.instance, at(0)).await && read().await.is_none());
    assert!(note(kept.instance, u32::MAX).await);
    assert_eq!(read().await, Some(position(u32::MAX)));
    let heir = kept.store.join(at(40)).await.unwrap();
    assert!(hold(&kept.store, heir, at(40)).await);
    assert!(!note(kept.instance, 3).await, "it was taken for dead");
    assert_eq!(read().await, Some(position(u32::MAX)));
    kept.store.note_read("bounces".to_owned(), at(41)).await.unwrap();
    let rows = kept.store.mailboxes().unwrap();
    assert_eq!((rows.len(), &rows[0].name[..], rows[0].read_at), (1, "bounces", Some(at(41))));
}
