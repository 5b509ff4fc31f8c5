//! Request Tracker over REST: the comment and the file on its ticket, once, and no mail to anybody.

use std::os::unix::process::ExitStatusExt;

use aftercall::crash::Step;

use crate::rt::{TICKETS, Way, profile};
use crate::server::NAME;
use crate::support::{Site, TenantFile, call, sample};
use crate::waiting::until;

/// How a debug build ends where it is told to.
const SIGABRT: i32 = 6;

/// A tenant that attaches to RT's tickets, and tries again at once.
fn site(way: &Way) -> Site {
    let record = format!(
        "base = \"{}\"\nallow_private = true\n[record.login]\nkind = \"header\"\nvalue = \"token {{secret}}\"\n\
         secret = {{ file = \"token\" }}",
        way.rt.base()
    );
    let tenant = TenantFile {
        top: "settle = \"none\"\nchannel = \"record\"",
        profile: &profile(NAME),
        retry: "first = \"20ms\"",
        record: &record,
        ..TenantFile::default()
    };
    let site = Site::new(way.postfix.port, &tenant);
    site.write("config/token", way.rt.token().as_bytes());
    site
}

/// Waits until so many deliveries are done, and asserts that RT took them.
fn wait_for(site: &Site, count: usize) {
    until("the deliveries' end", || {
        let states = site.states();
        (states.len() == count && states.iter().all(|state| *state == "accepted")).then_some(())
    });
}

/// How much RT has mailed, and how much it was mailed.
fn mails(way: &Way) -> (usize, usize) {
    (way.rt.mails().len(), way.postfix.handed_on())
}

pub(crate) fn ten_sessions_are_on_ten_tickets_and_no_customer_is_mailed(way: &Way) {
    let site = site(way);
    let told = site.run(&["doctor", "acme"]).with_code(0).out;
    assert!(told.contains("(Request Tracker, live): ok"), "{told}");
    let customer = |number: u64| format!("customer{number}@example.net");
    let tickets: Vec<String> = (1..=TICKETS).map(|number| way.rt.open(&customer(number))).collect();
    let (all, mails_before) = (way.rt.tickets().len(), mails(way));
    for (ticket, number) in tickets.iter().zip(51..) {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, ticket, 0));
    }
    let serve = site.serve();
    wait_for(&site, tickets.len());
    // A revision that changes what the note shows, of the first session.
    let later = call(51, &tickets[0], 20);
    site.session("inbox/acme/call-51-later.json", &later);
    wait_for(&site, tickets.len() + 1);
    assert_eq!(serve.terminate(), 0);
    for (ticket, number) in tickets.iter().zip(51..) {
        let files = way.rt.files(ticket);
        let mut sessions = vec![call(number, ticket, 0).to_string()];
        sessions.extend((number == 51).then(|| later.to_string()));
        assert_eq!((way.rt.updates(ticket), files.len()), (sessions.len(), sessions.len()), "{ticket}");
        for session in sessions {
            assert!(files.iter().any(|(_, bytes)| *bytes == session.as_bytes()), "ticket {ticket}");
        }
        let prefix = format!("call-{number}-");
        assert!(files.iter().all(|(name, _)| name.starts_with(&prefix)), "{files:?}");
    }
    assert_eq!((way.rt.tickets().len(), mails(way)), (all, mails_before));
}

pub(crate) fn a_hostile_file_is_attached_byte_for_byte(way: &Way) {
    let (ticket, site) = (way.rt.open("customer@example.net"), site(way));
    let hostile = std::fs::read_to_string(sample("hostile.json")).unwrap();
    let hostile = hostile.replace("\"10666\"", &format!("\"{ticket}\""));
    let file = site.write("hostile.json", hostile.as_bytes());
    site.run(&["send", file.to_str().unwrap()]).with_code(0);
    assert_eq!(way.rt.updates(&ticket), 1);
    assert!(way.rt.files(&ticket)[0].1 == hostile.as_bytes());
}

pub(crate) fn a_comment_whose_answer_was_lost_is_found(way: &Way) {
    let (ticket, site) = (way.rt.open("customer@example.net"), site(way));
    site.session("inbox/acme/call-71.json", &call(71, &ticket, 0));
    let died = site.serve_with(&[("AFTERCALL_CRASH_AT", Step::RequestAnswered.as_str())]).ended();
    assert_eq!(died.signal(), Some(SIGABRT));
    assert_eq!(way.rt.updates(&ticket), 1);
    let serve = site.serve();
    wait_for(&site, 1);
    assert_eq!(serve.terminate(), 0);
    let outcomes: Vec<_> = site.attempts("call-71").into_iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Some("uncertain".to_owned()), Some("accepted".to_owned())]);
    assert_eq!((way.rt.updates(&ticket), way.rt.files(&ticket).len()), (1, 1));
}
