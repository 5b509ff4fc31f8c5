//! The program dies at every step between a file and its note in a CRM, and is started again.

use std::os::unix::process::ExitStatusExt;

use aftercall::config::StorePlace;
use aftercall::crash::{STEPS, Step};
use aftercall::outbox::State;
use aftercall::store::{DeliveryRow, Filter, Store};

use crate::crash::{SERVES, SESSIONS, SIGABRT, die_everywhere, in_state, put_sessions, uncertain_by_log};
use crate::http::Answer;
use crate::record::{Tracker, site};
use crate::servers::postgres::{ask, database};
use crate::support::until;

/// What `serve` says of each note that a CRM took.
const TOOK: &str = "the CRM accepted";

fn taken() -> (bool, Answer) {
    (true, Answer::json(201, "[]"))
}

/// Asserts that there are so many deliveries, all accepted, and that each one's note is there once.
#[track_caller]
fn assert_all_attached(tracker: &Tracker, store: &Store) {
    let rows = store.deliveries(&Filter::default()).unwrap();
    let states: Vec<State> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, vec![State::Accepted; SESSIONS]);
    let comments = tracker.comments();
    for DeliveryRow { session, message_id, .. } in &rows {
        let of_row = |name: &str| name.contains(message_id.as_deref().unwrap());
        let names = comments.iter().filter_map(|(_, comment)| comment["Attachments"][0]["FileName"].as_str());
        assert_eq!(names.filter(|name| of_row(name)).count(), 1, "{session}");
    }
}

fn rows(store: &Store) -> Vec<DeliveryRow> {
    store.deliveries(&Filter::default()).unwrap()
}

/// Lets `serve` die at a step, starts it again, and looks at what came of the sessions.
fn die_and_go_on(step: Step, url: Option<&str>) {
    let tracker = Tracker::start(|_, _| taken());
    let site = site("record", &tracker.section(), 1, "first = \"20ms\"");
    put_sessions(&site, 1..=SESSIONS);
    let file = site.path("config/aftercall.sqlite").display().to_string();
    let place = url.unwrap_or(&file);
    let at = ("AFTERCALL_STORE", place);
    let ended = site.serve_with(&[at, ("AFTERCALL_CRASH_AT", step.as_str())]).ended();
    assert_eq!(ended.signal(), Some(SIGABRT), "it did not die there");
    let store = Store::open(&StorePlace::parse(place)).unwrap();
    let left = rows(&store);
    let (sending, accepted) = (in_state(&left, State::Sending), in_state(&left, State::Accepted));
    if let Some(url) = url {
        // The dead are known by their silence; this is as long as others wait.
        ask(url, "UPDATE instances SET seen_at = seen_at - 30001");
    }
    let said = |words: &str| site.serve_log().matches(words).count();
    let (served, took) = (said(SERVES), said(TOOK));
    let serve = site.serve_with(&[at]);
    until("the rest to be accepted", || {
        (said(SERVES) > served && said(TOOK) >= took + SESSIONS - accepted.len()).then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    assert_all_attached(&tracker, &store);
    let uncertain = uncertain_by_log(&store);
    assert_eq!(uncertain.keys().copied().collect::<Vec<_>>(), sending, "what was under way is uncertain");
}

fn of_record() -> impl Iterator<Item = Step> + Send {
    STEPS.iter().copied().filter(|step| !step.is_of_inbound() && !step.is_of_mail())
}

#[test]
fn after_a_death_at_any_step_every_note_is_attached_once() {
    die_everywhere(of_record(), |step| die_and_go_on(step, None));
}

#[test]
fn after_a_death_at_any_step_another_instance_attaches_each_note_once() {
    die_everywhere(of_record(), |step| die_and_go_on(step, Some(&database())));
}

#[test]
fn after_a_kill_while_the_crm_has_the_note_and_says_nothing_it_is_looked_for() {
    for is_kept in [true, false] {
        let tracker = Tracker::start(move |_, number| match number {
            1 => (is_kept, Answer::Hold),
            _ => taken(),
        });
        let site = site("record", &tracker.section(), 1, "first = \"20ms\"");
        put_sessions(&site, 1..=SESSIONS);
        let serve = site.serve();
        until("the first note", || (!tracker.crm.heard().is_empty()).then_some(()));
        serve.kill();
        let serve = site.serve();
        until("the notes", || (site.states() == ["accepted"; SESSIONS]).then_some(()));
        assert_eq!(serve.terminate(), 0);
        assert_all_attached(&tracker, &site.store());
        assert!(!uncertain_by_log(&site.store()).is_empty(), "kept {is_kept}");
    }
}
