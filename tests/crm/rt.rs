//! Request Tracker, by mail: Aftercall, Postfix, RT's gateway, RT.

use aftercall::config::marks::Answer;
use aftercall::config::profile::SHIPPED;

use crate::postfix::Postfix;
use crate::server::{COMMENT, CORRESPOND, NAME, Rt};
use crate::support::{Site, TenantFile, call, header, judged, parsed, sample};
use crate::waiting::until;

/// Sessions on so many tickets.
const TICKETS: u64 = 10;

/// An RT with a Postfix before it. A failed test shows what both did.
struct Way {
    rt: Rt,
    postfix: Postfix,
}

#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
impl Drop for Way {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.postfix.log(), self.rt.log());
        }
    }
}

impl Way {
    fn start() -> Self {
        let rt = Rt::start();
        let gateways = [(CORRESPOND, rt.gateway("correspond")), (COMMENT, rt.gateway("comment"))];
        let postfix = Postfix::start(&gateways);
        Self { rt, postfix }
    }

    /// A tenant that writes to this address. `profile` is what it says of its profile.
    fn site(&self, recipient: &str, profile: &str) -> Site {
        let recipient = format!("address = \"{recipient}\"");
        Site::new(self.postfix.port, &TenantFile { recipient: &recipient, profile, ..TenantFile::default() })
    }

    /// Waits until Postfix has handed on so many mails more than `before`.
    fn wait_for(&self, before: usize, count: usize) {
        until("Postfix to hand the mails on", || (self.postfix.handed_on() >= before + count).then_some(()));
    }

    /// Sends one session and waits until RT has the mail.
    fn send(&self, site: &Site, file: &str) {
        let before = self.postfix.handed_on();
        site.run(&["send", file]).with_code(0);
        self.wait_for(before, 1);
    }

    /// RT's mails to this address.
    fn mails_to(&self, address: &str) -> Vec<Vec<u8>> {
        let mails = self.rt.mails().into_iter();
        mails.filter(|mail| header(&parsed(mail), "To").contains(address)).collect()
    }
}

fn profile(rtname: &str) -> String {
    format!("name = \"rt\"\nvalues = {{ rtname = \"{rtname}\" }}")
}

#[test]
fn updates_are_in_their_tickets_once_and_what_goes_astray_can_be_known() {
    let way = Way::start();
    ten_sessions_are_on_ten_tickets_and_no_customer_is_mailed(&way);
    a_hostile_session_stays_in_its_ticket(&way);
    a_wrong_token_opens_a_ticket_and_says_so_only_to_a_mail_without_a_mark(&way);
    a_number_that_is_not_there_is_refused(&way);
}

fn ten_sessions_are_on_ten_tickets_and_no_customer_is_mailed(way: &Way) {
    let site = way.site(CORRESPOND, &profile(NAME));
    let tickets: Vec<String> =
        (1..=TICKETS).map(|number| way.rt.open(&format!("customer{number}@example.net"))).collect();
    let before = way.rt.mails().len();
    for (ticket, number) in tickets.iter().zip(1..) {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, ticket, 0));
    }
    let serve = site.serve();
    way.wait_for(0, tickets.len());
    // A revision that changes what the mail shows, of the first session.
    site.session("inbox/acme/call-1-later.json", &call(1, &tickets[0], 20));
    way.wait_for(0, tickets.len() + 1);
    assert_eq!(serve.terminate(), 0);
    assert!(site.states().iter().all(|state| *state == "accepted"), "{:?}", site.states());
    for (ticket, number) in tickets.iter().zip(1..) {
        let updates = if number == 1 { 2 } else { 1 };
        assert_eq!(way.rt.updates(ticket), updates, "ticket {ticket}");
        let files = way.rt.files(ticket);
        assert_eq!(files.len(), updates, "ticket {ticket}");
        let name = format!("call-{number}.json");
        assert!(files.iter().all(|(file, _)| *file == name), "ticket {ticket}");
        assert_eq!(files[0].1, std::fs::read(site.path(&format!("inbox/acme/{name}"))).unwrap());
    }
    assert_eq!(way.rt.tickets().len(), tickets.len(), "no ticket is opened");
    assert_eq!(way.rt.mails().len(), before, "an update is mailed to nobody");
}

fn a_hostile_session_stays_in_its_ticket(way: &Way) {
    let (tickets, ticket) = (way.rt.tickets(), way.rt.open("customer@example.net"));
    let site = way.site(CORRESPOND, &profile(NAME));
    let hostile = std::fs::read_to_string(sample("hostile.json")).unwrap();
    // Words that name the ticket before this one, in the subject too.
    let other = tickets.last().unwrap();
    let hostile = hostile.replace("\"10666\"", &format!("\"{ticket}\""));
    let hostile = hostile.replace("exploded", &format!("exploded [{NAME} #{other}]"));
    let file = site.write("hostile.json", hostile.as_bytes());
    let before: Vec<usize> = tickets.iter().map(|ticket| way.rt.updates(ticket)).collect();
    way.send(&site, file.to_str().unwrap());
    assert_eq!(way.rt.updates(&ticket), 1);
    assert_eq!(way.rt.files(&ticket)[0].1, hostile.as_bytes());
    assert_eq!(tickets.iter().map(|ticket| way.rt.updates(ticket)).collect::<Vec<_>>(), before);
    assert_eq!(way.rt.tickets().len(), tickets.len() + 1);
}

/// To a mail with `Auto-Submitted` RT answers nothing, also where it opens a ticket for it.
fn a_wrong_token_opens_a_ticket_and_says_so_only_to_a_mail_without_a_mark(way: &Way) {
    let ticket = way.rt.open("customer@example.net");
    let tickets = way.rt.tickets().len();
    let wrong = way.site(CORRESPOND, &profile("rt.example.org"));
    let file = wrong.session("call-21.json", &call(21, &ticket, 0));
    way.send(&wrong, &file);
    assert_eq!((way.rt.updates(&ticket), way.rt.tickets().len()), (0, tickets + 1));
    assert!(way.mails_to("bridge@acme.example.com").is_empty());

    let site = way.site(COMMENT, "name = \"unmarked\"\nvalues = { rtname = \"rt.example.org\" }");
    let (_, source) = SHIPPED.into_iter().find(|(name, _)| *name == "rt").unwrap();
    let unmarked = source.replace("auto_submitted = \"auto-generated\"", "auto_submitted = \"absent\"");
    site.write("config/profiles/unmarked.toml", unmarked.as_bytes());
    let file = site.session("call-22.json", &call(22, &ticket, 0));
    way.send(&site, &file);
    assert_eq!((way.rt.updates(&ticket), way.rt.tickets().len()), (0, tickets + 2));
    let answer = until("RT's answer", || way.mails_to("bridge@acme.example.com").pop());
    let (kind, named) = judged("rt", &answer).unwrap();
    assert_eq!(kind, Answer::Opened);
    assert_ne!(named.unwrap(), ticket);
    let message_id = site.deliveries().remove(0).message_id.unwrap();
    assert_eq!(header(&parsed(&answer), "In-Reply-To"), format!("<{message_id}>"));
}

fn a_number_that_is_not_there_is_refused(way: &Way) {
    let tickets = way.rt.tickets().len();
    let site = way.site(CORRESPOND, &profile(NAME));
    let file = site.session("call-31.json", &call(31, "4711", 0));
    way.send(&site, &file);
    assert_eq!(way.rt.tickets().len(), tickets);
    // To a mail with Auto-Submitted the refusal goes to OwnerEmail alone.
    let refusal = until("RT's refusal", || way.mails_to("owner@example.com").pop());
    assert_eq!(judged("rt", &refusal), Some((Answer::Refused, None)));
    let message_id = site.deliveries().remove(0).message_id.unwrap();
    assert_eq!(header(&parsed(&refusal), "In-Reply-To"), format!("<{message_id}>"));
}
