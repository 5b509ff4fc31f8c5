//! What RT answers by itself: it comes back into a mailbox, is tied to its delivery, and has its consequence.

use serde_json::{Value, json};

use crate::postfix::{ALERTS, BRIDGE};
use crate::rt::Way;
use crate::server::{COMMENT, NAME};
use crate::support::{Site, TenantFile, call, parsed};
use crate::waiting::until;

/// A tenant that writes comments which RT answers, with the mailbox that the answers come to.
fn site(way: &Way, rtname: &str, missing_ticket: &str) -> Site {
    let recipient = format!("address = \"{COMMENT}\"");
    let profile = format!("name = \"rt-comment\"\nvalues = {{ rtname = \"{rtname}\" }}");
    let rest = format!("{missing_ticket}\n[reactions]\nalert = \"{ALERTS}@acme.example.com\"\n");
    let tenant = TenantFile {
        recipient: &recipient,
        profile: &profile,
        missing_ticket: &rest,
        ..TenantFile::default()
    };
    let site = Site::new(way.postfix.port, &tenant);
    let folder = way.postfix.maildir(BRIDGE);
    let mailbox =
        format!("[[mailboxes]]\nname = \"answers\"\nmaildir = \"{}\"\npoll = \"100ms\"\n", folder.display());
    site.write("config/aftercall.toml", mailbox.as_bytes());
    site
}

/// The mails in a mailbox that nobody has taken.
fn new_mails(way: &Way, mailbox: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(way.postfix.maildir(mailbox).join("new")).into_iter().flatten();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// The only mail that came back to a site, as `inbox show` tells it; none as long as nobody has judged it.
fn came_back(site: &Site) -> Option<Value> {
    let rows = site.run(&["inbox", "--format", "json"]).with_code(0).json();
    let [row] = &rows.as_array().unwrap()[..] else { return None };
    let id = row["id"].to_string();
    let shown = site.run(&["inbox", "show", &id, "--format", "json"]).with_code(0).json();
    (!shown["verdict"].is_null()).then_some(shown)
}

/// Asserts that a mail is RT's answer to the site's first delivery, and what followed it.
#[track_caller]
fn assert_answer(shown: &Value, sub: &str, proof: &str, reaction: (&str, &str)) {
    assert_eq!(
        (&shown["verdict"]["kind"], &shown["verdict"]["sub"], &shown["proof"], &shown["delivery"]),
        (&json!("acknowledgement"), &json!(sub), &json!(proof), &json!(1)),
        "{shown:#}"
    );
    assert_eq!(shown["reactions"], json!([[reaction.0, reaction.1]]), "{shown:#}");
}

/// The ticket that was opened behind `known`.
fn opened(way: &Way, known: &[String]) -> Option<String> {
    let new: Vec<String> = way.rt.tickets().into_iter().filter(|ticket| !known.contains(ticket)).collect();
    assert!(new.len() <= 1, "one mail opened {new:?}");
    new.into_iter().next()
}

/// Sends a session that RT does not file as it was meant, and gives what `fetch` makes of RT's answer.
fn answered(way: &Way, site: &Site, number: u64, ticket: &str) -> Value {
    let file = site.session("call.json", &call(number, ticket, 0));
    way.send(site, &file);
    until("RT's answer in the mailbox", || new_mails(way, BRIDGE).pop());
    site.run(&["fetch"]).with_code(0);
    assert_eq!(new_mails(way, BRIDGE).len(), 0);
    came_back(site).unwrap()
}

pub(crate) fn a_comment_without_a_mark_is_filed_and_no_customer_is_mailed(way: &Way) {
    let (ticket, site) = (way.rt.open("customer@example.net"), site(way, NAME, ""));
    let (tickets, mails) = (way.rt.tickets().len(), way.rt.mails().len());
    let file = site.session("call.json", &call(40, &ticket, 0));
    way.send(&site, &file);
    assert_eq!((way.rt.updates(&ticket), way.rt.files(&ticket).len()), (1, 1));
    assert_eq!((way.rt.tickets().len(), way.rt.mails().len()), (tickets, mails));
}

/// A wrong name of the RT makes a token that it does not take.
pub(crate) fn a_misfiled_update_is_told_to_a_person(way: &Way) {
    let ticket = way.rt.open("customer@example.net");
    let known = way.rt.tickets();
    let site = site(way, "rt.example.org", "");
    let shown = answered(way, &site, 41, &ticket);
    let opened = opened(way, &known).unwrap();
    assert_eq!((way.rt.updates(&ticket), way.rt.files(&opened).len()), (0, 1));
    let what = format!("the update for ticket {ticket} went into ticket {opened}");
    assert_answer(&shown, "opened", "thread", ("alerted", &what));
    let serve = site.serve();
    let alert = until("the alert", || new_mails(way, ALERTS).pop());
    assert_eq!(serve.terminate(), 0);
    let text = parsed(&alert).body_text(0).unwrap().into_owned();
    assert!(text.contains(&what) && text.contains("call-41 of tenant acme"), "{text}");
}

pub(crate) fn a_refused_update_is_told_to_a_person(way: &Way) {
    let known = way.rt.tickets();
    let shown = answered(way, &site(way, NAME, ""), 42, "4711");
    assert_eq!(opened(way, &known), None);
    // The refusal holds the whole mail as RT had it, with the envelope's sender.
    let what = "the CRM did not record the update for ticket 4711";
    assert_answer(&shown, "refused", "returned-sender", ("alerted", what));
}

pub(crate) fn a_session_without_a_ticket_takes_the_one_that_rt_opens(way: &Way) {
    let (known, mails, before) = (way.rt.tickets(), way.rt.mails().len(), way.postfix.handed_on());
    let catch_all = format!("then = \"catch-all\"\naddress = \"{COMMENT}\"\nwait = \"0s\"");
    let site = site(way, NAME, &catch_all);
    let serve = site.serve();
    site.session("inbox/acme/call-43.json", &call(43, "", 0));
    let shown = until("RT's answer to be judged", || came_back(&site));
    let ticket = opened(way, &known).unwrap();
    assert_answer(&shown, "opened", "thread", ("ticket-taken", &ticket));
    assert_eq!(way.rt.mails().len(), mails + 1, "RT answers the bridge and tells nobody else");
    // The revision names no ticket either.
    let later = call(43, "", 20);
    site.session("inbox/acme/call-43-later.json", &later);
    way.wait_for(before, 2);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(opened(way, &known), Some(ticket.clone()), "the revision opens no other");
    assert_eq!(way.rt.updates(&ticket), 1);
    let files = way.rt.files(&ticket);
    assert_eq!(files.len(), 2);
    assert!(files.iter().any(|(_, bytes)| *bytes == later.to_string().as_bytes()));
    assert_eq!(way.rt.mails().len(), mails + 1);
}
