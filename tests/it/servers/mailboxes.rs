//! Mail that comes back, read from a real Dovecot and taken from a real Postfix.

use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use aftercall::config::StorePlace;
use aftercall::crash::{STEPS, Step};
use aftercall::store::{Store, VerdictFilter};
use aftercall::token::body_of;

use super::imap::{Imap, LOGIN};
use super::postfix::{CRM, Certified, Postfix, certified};
use super::postgres::{ask, database};
use super::{User, free_port, text};
use crate::inbox::{inbounds, mail, mails, names, quarantined, site};
use crate::support::{Site, TenantFile, call, header, parsed, until};

/// A Postfix that looks every second for what it may try again. It takes up a mail up to a second
/// before its time: with a backoff of one second that is before the agent that had it last has
/// closed it, and such a mail is put off for a minute.
const IMPATIENT: &str = "queue_run_delay = 1s\nminimal_backoff_time = 3s\nmaximal_backoff_time = 3s";

/// A Dovecot with a certificate, and the authority that vouches for it.
struct Server {
    imap: Imap,
    authority: String,
}

impl Server {
    fn start() -> Self {
        let Certified { authority, server } = certified("127.0.0.1");
        Self { imap: Imap::start(Some(&server)), authority }
    }

    /// A site that reads its mailbox; `port` is one of the server's, `more` further keys of `[mailboxes.imap]`.
    fn site(&self, port: u16, more: &str) -> Site {
        let tls = if port == self.implicit { "implicit" } else { "starttls" };
        let site = site(&format!(
            "[[mailboxes]]\nname = \"bounces\"\npoll = \"30s\"\nmessage_bytes = 20000\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {port}\n\
             tls = \"{tls}\"\nca_file = \"ca.pem\"\nuser = \"{}\"\npassword = {{ file = \"password\" }}\nreply_timeout = \"20s\"\n{more}\n",
            LOGIN.0
        ));
        site.write("config/ca.pem", self.authority.as_bytes());
        site.write("config/password", LOGIN.1.as_bytes());
        site
    }
}

impl std::ops::Deref for Server {
    type Target = Imap;

    fn deref(&self) -> &Imap {
        &self.imap
    }
}

/// The signal by which a process ends itself at once.
const SIGABRT: i32 = 6;

/// As IMAP gives a mail that lies in a Maildir.
fn all(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(mail).collect()
}

fn wait_for(site: &Site, count: usize) {
    until(&format!("{count} mails in the store"), || (inbounds(site).len() >= count).then_some(()));
}

/// How many mails are in a folder of the Maildir.
fn count(imap: &Imap, folder: &str) -> usize {
    let folder = imap.path(folder);
    names(&folder.join("new")).len() + names(&folder.join("cur")).len()
}

#[test]
fn mails_are_stored_and_moved_and_one_that_comes_while_idling_is_seen_at_once() {
    let imap = Server::start();
    imap.deliver(all(0..3));
    let site = imap.site(imap.implicit, "done_folder = \"Done\"");
    let serve = site.serve();
    until("the mails to be moved", || (count(&imap, "mail/.Done") == 3).then_some(()));
    assert_eq!(mails(&site), all(0..3), "stored before they are moved");
    assert_eq!(count(&imap, "mail"), 0);
    for number in 3..6 {
        let given = Instant::now();
        imap.deliver(all(number..number + 1));
        wait_for(&site, number + 1);
        // The mailbox is looked at every 30 s; Dovecot tells of a mail within half a second or so.
        assert!(given.elapsed() < Duration::from_secs(10), "{:?}", given.elapsed());
    }
    until("the rest to be moved", || (count(&imap, "mail/.Done") == 6).then_some(()));
    let asked = Instant::now();
    assert_eq!(serve.terminate(), 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let log = site.serve_log();
    assert!(!log.contains(LOGIN.1) && !log.contains("It came back"), "{log}");
}

#[test]
fn a_mailbox_opens_by_starttls_to_whom_it_should_and_to_nobody_else() {
    let imap = Server::start();
    imap.deliver(all(0..1));
    let site = imap.site(imap.plain, "");
    // The relay is away, so not all is well; the mailbox is, and nothing is taken out of it.
    let told = site.run(&["doctor"]).with_code(1).out;
    assert!(told.contains("mailbox bounces (imap") && told.contains("): ok: it opens"), "{told}");
    assert_eq!(site.run(&["fetch"]).with_code(0).out, "bounces: UID 1: inbound 1\n");
    for (file, content, told) in [
        (
            "config/password",
            "crooked-copper-9038".to_owned(),
            "logging in: the server refused: [AUTHENTICATIONFAILED]",
        ),
        ("config/ca.pem", certified("127.0.0.1").authority, "starting TLS: invalid peer certificate"),
    ] {
        for port in [imap.plain, imap.implicit] {
            let site = imap.site(port, "");
            site.write(file, content.as_bytes());
            let ended = site.run(&["fetch"]).with_code(1);
            assert!(ended.err.contains(told), "{told} is not in {}", ended.err);
            assert!(!ended.err.contains(&content), "{}", ended.err);
        }
    }
    let log = super::logs(&imap.path(""));
    assert_eq!(
        log.matches("auth failed, 1 attempts").count(),
        2,
        "only the wrong passwords were told: {log}"
    );
}

#[test]
fn a_thousand_mails_are_read_in_order_and_once() {
    let imap = Server::start();
    imap.deliver(all(0..1000));
    imap.deliver([format!("Subject: large\r\n\r\n{}\r\n", "x".repeat(20_000))]);
    imap.deliver(all(1000..1001));
    let site = imap.site(imap.implicit, "done = \"delete\"\nfailed_folder = \"Störung & mehr\"");
    let fetched = site.run(&["fetch"]).with_code(0).out;
    assert_eq!(fetched.lines().count(), 1002);
    assert!(fetched.starts_with("bounces: UID 1: inbound 1\nbounces: UID 2: inbound "), "{fetched}");
    assert_eq!(mails(&site), all(0..1001));
    let (head, reason) = quarantined(&site).remove(0);
    assert!(head == b"Subject: large\r\n" && reason.contains("more than 20000"), "{reason}");
    assert_eq!(count(&imap, "mail"), 0, "deleted, or moved aside");
    let folders = names(&imap.path("mail"));
    assert!(folders.iter().any(|name| name == ".St&APY-rung &- mehr"), "{folders:?}");
    assert_eq!(site.run(&["fetch"]).with_code(0).out, "");
}

#[test]
fn what_becomes_of_a_stored_mail_is_what_the_mailbox_says() {
    let imap = Server::start();
    imap.deliver(all(0..2));
    let kept = imap.site(imap.implicit, "done = \"keep\"");
    assert_eq!(kept.run(&["fetch"]).with_code(0).out.lines().count(), 2);
    assert_eq!(kept.run(&["fetch"]).with_code(0).out, "", "nothing is new");
    let flags = || names(&imap.path("mail/cur")).iter().filter(|name| name.contains(":2,S")).count();
    assert_eq!(flags(), 0);
    let seen = imap.site(imap.implicit, "");
    assert_eq!(seen.run(&["fetch"]).with_code(0).out.lines().count(), 2);
    assert_eq!((flags(), count(&imap, "mail")), (2, 2));
    assert_eq!(mails(&seen), mails(&kept));
}

#[test]
fn a_folder_that_was_made_anew_is_read_anew_and_no_mail_is_taken_twice() {
    let imap = Server::start();
    let make = || {
        for place in ["new", "cur", "tmp"] {
            User::Any("dovecot").run(&["mkdir", "-p", text(&imap.path("mail/.Bounces").join(place))]);
        }
    };
    make();
    imap.deliver_to("mail/.Bounces", all(0..5));
    let site = imap.site(imap.implicit, "folder = \"Bounces\"\ndone = \"keep\"");
    assert_eq!(site.run(&["fetch"]).with_code(0).out.matches(": inbound ").count(), 5);
    let before = position(&site);
    User::Root.run(&["rm", "-r", text(&imap.path("mail/.Bounces"))]);
    make();
    // Numbers begin at 1 again: by them alone, two of these would be known.
    imap.deliver_to("mail/.Bounces", all(4..7));
    let fetched = site.run(&["fetch"]).with_code(0).out;
    assert_eq!(
        (fetched.matches("known as").count(), fetched.matches(": inbound ").count()),
        (1, 2),
        "{fetched}"
    );
    assert_ne!(position(&site), before);
    assert_eq!(mails(&site), all(0..7));
}

/// UIDVALIDITY of what was read.
fn position(site: &Site) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(site.store().mailbox_position("bounces".to_owned())).unwrap().unwrap().uid_validity
}

/// Lets `serve` die at a step of reading, starts it again, and looks at what came of the mails.
fn die_and_go_on(step: Step, url: Option<&str>) {
    const MAILS: usize = 5;
    let imap = Server::start();
    imap.deliver(all(0..MAILS));
    let site = imap.site(imap.implicit, "done_folder = \"Done\"");
    let file = site.path("config/aftercall.sqlite").display().to_string();
    let place = url.unwrap_or(&file);
    let at = ("AFTERCALL_STORE", place);
    let ended = site.serve_with(&[at, ("AFTERCALL_CRASH_AT", step.as_str())]).ended();
    assert_eq!(ended.signal(), Some(SIGABRT), "it did not die there");
    let is_moved = count(&imap, "mail/.Done") == MAILS;
    assert_eq!(is_moved, step >= Step::MailboxChanged, "the mailbox is changed last");
    if let Some(url) = url {
        ask(url, "UPDATE instances SET seen_at = seen_at - 30001");
    }
    let store = Store::open(&StorePlace::parse(place)).unwrap();
    let stored = || store.verdicts(&VerdictFilter { most: 99, ..VerdictFilter::default() }).unwrap();
    assert_eq!(stored().len(), if step >= Step::InboundsStored { MAILS } else { 0 }, "{step:?}");
    let serve = site.serve_with(&[at]);
    imap.deliver(all(MAILS..MAILS + 1));
    until("the mails to be moved", || (count(&imap, "mail/.Done") == MAILS + 1).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let mut found: Vec<String> = stored()
        .iter()
        .map(|row| String::from_utf8(store.inbound_mail(row.id).unwrap().unwrap()).unwrap())
        .collect();
    found.sort();
    assert_eq!(found, all(0..MAILS + 1), "each once");
}

fn die_everywhere(url: impl Fn() -> Option<String>) {
    let wrong = Mutex::new(Vec::new());
    for step in STEPS.iter().filter(|step| (Step::MailsRead..=Step::PositionNoted).contains(*step)) {
        let died = || die_and_go_on(*step, url().as_deref());
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(died)).is_err() {
            wrong.lock().unwrap().push(step.as_str());
        }
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "wrong after a death at {wrong:?}");
}

#[test]
fn after_a_death_at_any_step_of_reading_every_mail_is_stored_once_and_its_mailbox_settled() {
    die_everywhere(|| None);
}

#[test]
fn after_a_death_at_any_step_of_reading_another_instance_takes_the_mailbox_over() {
    die_everywhere(|| Some(database()));
}

#[test]
fn postfix_hands_mails_over_with_their_envelopes_and_keeps_them_while_nobody_listens() {
    let port = free_port();
    let postfix = Postfix::start_with(
        "plain login",
        &format!("{IMPATIENT}\nvirtual_transport = lmtp:inet:127.0.0.1:{port}"),
    );
    let site = postfix.site(&TenantFile::default());
    let lines = format!("[[mailboxes]]\nname = \"back\"\nlmtp = {{ listen = \"127.0.0.1:{port}\" }}\n");
    site.write("config/aftercall.toml", lines.as_bytes());
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    wait_for(&site, 1);
    let row = inbounds(&site).remove(0);
    let sent = site.deliveries().remove(0);
    let token = sent.message_id.unwrap();
    let token = token.split('@').next().unwrap();
    let sender = row.sender.unwrap();
    assert!(sender.starts_with(&format!("bridge+{}", body_of(token))), "{sender}");
    assert_eq!((row.mailbox.as_str(), row.recipient), ("back", Some(format!("{CRM}@crm.example.com"))));
    let came = mails(&site).remove(0);
    assert!(header(&parsed(came.as_bytes()), "Message-ID").contains(token));
    until("Postfix's word", || postfix.log().contains("status=sent (250 2.0.0 stored)").then_some(()));
    assert_eq!(serve.terminate(), 0);
    // Nobody listens: the mail stays in the queue of Postfix, and comes later.
    let file = site.session("call-2.json", &call(2, "8", 0));
    site.run(&["send", &file]).with_code(0);
    until("a deferred mail", || postfix.log().contains("status=deferred").then_some(()));
    let serve = site.serve();
    wait_for(&site, 2);
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn postfix_pipes_a_mail_into_the_program_and_tries_again_when_it_is_told_to() {
    // Postfix runs no command as root, and what it runs must reach configuration and store.
    let site = site("");
    let program = env!("CARGO_BIN_EXE_aftercall");
    let user = User::Any("dovecot").run(&["id", "-un"]).trim().to_owned();
    let store = User::Any("dovecot").folder();
    let pipe = format!(
        "pipe unix - n n - - pipe user={user} null_sender= argv={program} --config {} --store {}/store receive --from ${{sender}} --to ${{recipient}}",
        site.path("config").display(),
        store.path().display()
    );
    User::Root.run(&["chmod", "-R", "a+rX", text(&site.path(""))]);
    let postfix = Postfix::start_with(
        "plain login",
        &format!("{IMPATIENT}\nvirtual_transport = pipe\npipe_destination_recipient_limit = 1\n#{pipe}"),
    );
    let sender = postfix.site(&TenantFile::default());
    let file = sender.session("call-1.json", &call(1, "7", 0));
    // A store that cannot be opened now.
    let broken = store.path().join("store");
    std::fs::create_dir(&broken).unwrap();
    sender.run(&["send", &file]).with_code(0);
    until("a deferred mail", || postfix.log().contains("status=deferred").then_some(()));
    std::fs::remove_dir(&broken).unwrap();
    until("a mail that is handed over", || {
        postfix.log().contains("status=sent (delivered via pipe service)").then_some(())
    });
    User::Root.run(&["chmod", "-R", "a+rwX", text(store.path())]);
    let kept = Store::open(&StorePlace::File(broken)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let row = runtime.block_on(kept.new_inbounds(9)).unwrap().remove(0);
    assert_eq!(row.recipient, Some(format!("{CRM}@crm.example.com")));
    assert!(row.sender.unwrap().starts_with("bridge+"));
}
