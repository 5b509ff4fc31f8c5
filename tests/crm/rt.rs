//! Request Tracker: by mail, through Postfix and RT's gateway; over REST; and what RT answers.

use aftercall::config::marks::Answer;

use crate::answers;
use crate::daemon::free_port;
use crate::postfix::Postfix;
use crate::record;
use crate::server::{COMMENT, CORRESPOND, NAME, Rt};
use crate::support::{Site, TenantFile, call, header, judged, parsed, sample};
use crate::waiting::until;

/// Sessions on so many tickets.
pub(crate) const TICKETS: u64 = 10;

/// An RT with a Postfix before it. A failed test shows what both did.
pub(crate) struct Way {
    pub(crate) rt: Rt,
    pub(crate) postfix: Postfix,
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
        let port = free_port();
        let rt = Rt::start(port);
        let gateways = [(CORRESPOND, rt.gateway("correspond")), (COMMENT, rt.gateway("comment"))];
        let postfix = Postfix::start(port, &gateways);
        Self { rt, postfix }
    }

    /// A tenant that writes to this address. `profile` is what it says of its profile.
    fn site(&self, recipient: &str, profile: &str) -> Site {
        let recipient = format!("address = \"{recipient}\"");
        Site::new(self.postfix.port, &TenantFile { recipient: &recipient, profile, ..TenantFile::default() })
    }

    /// Waits until Postfix has handed on so many mails more than `before`.
    pub(crate) fn wait_for(&self, before: usize, count: usize) {
        until("Postfix to hand the mails on", || (self.postfix.handed_on() >= before + count).then_some(()));
    }

    /// Sends one session and waits until RT has the mail.
    pub(crate) fn send(&self, site: &Site, file: &str) {
        let before = self.postfix.handed_on();
        site.run(&["send", file]).with_code(0);
        self.wait_for(before, 1);
    }

    /// RT's mails to this address.
    pub(crate) fn mails_to(&self, address: &str) -> Vec<Vec<u8>> {
        let mails = self.rt.mails().into_iter();
        mails.filter(|mail| header(&parsed(mail), "To").contains(address)).collect()
    }
}

/// What a tenant says of the shipped profile.
pub(crate) fn profile(rtname: &str) -> String {
    format!("name = \"rt\"\nvalues = {{ rtname = \"{rtname}\" }}")
}

#[test]
fn updates_are_in_their_tickets_once_and_what_goes_astray_can_be_known() {
    let way = Way::start();
    ten_sessions_are_on_ten_tickets_and_no_customer_is_mailed(&way);
    a_hostile_session_stays_in_its_ticket(&way);
    a_wrong_token_opens_a_ticket_in_silence(&way);
    a_number_that_is_not_there_is_refused(&way);
    answers::a_comment_without_a_mark_is_filed_and_no_customer_is_mailed(&way);
    answers::a_misfiled_update_is_told_to_a_person(&way);
    answers::a_refused_update_is_told_to_a_person(&way);
    answers::a_session_without_a_ticket_takes_the_one_that_rt_opens(&way);
    record::ten_sessions_are_on_ten_tickets_and_no_customer_is_mailed(&way);
    record::a_hostile_file_is_attached_byte_for_byte(&way);
    record::a_comment_whose_answer_was_lost_is_found(&way);
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
fn a_wrong_token_opens_a_ticket_in_silence(way: &Way) {
    let ticket = way.rt.open("customer@example.net");
    let tickets = way.rt.tickets().len();
    let wrong = way.site(CORRESPOND, &profile("rt.example.org"));
    let file = wrong.session("call-21.json", &call(21, &ticket, 0));
    way.send(&wrong, &file);
    assert_eq!((way.rt.updates(&ticket), way.rt.tickets().len()), (0, tickets + 1));
    assert!(way.mails_to("bridge@acme.example.com").is_empty());
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
