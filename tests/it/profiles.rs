//! Profiles: the right ticket in every CRM, and no other, whatever a session says.

use std::path::Path;

use aftercall::config::marks::Answer;
use aftercall::config::profile::{Profile, SHIPPED};
use aftercall::config::sources::{GROUPS, Verified};
use mail_parser::Message;
use regex::Regex;
use serde_json::{Value, json};

use crate::support::{Relay, Site, TenantFile, attachment, call, header, judged, parsed};

/// A CRM as its profile's test needs it: what the tenant says, and by which expressions the CRM reads a mail.
struct Crm {
    /// The tenant's `[profile]`.
    profile: &'static str,
    /// What the session gives.
    ticket: &'static str,
    /// Finds tickets in a subject; the group is the ticket's name.
    subject: &'static [&'static str],
    /// Finds tickets in a text.
    text: &'static [&'static str],
    /// Finds commands in a text, and what loses the mail in a subject.
    commands: &'static str,
    /// The ticket's name as the CRM reads it.
    read: &'static str,
}

const NO_COMMANDS: &str = "^not this$";

/// The expressions are those of the products' sources where these are public, else what the vendors say.
const CRMS: [Crm; 20] = [
    Crm {
        profile: "name = \"generic\"",
        ticket: "10482",
        subject: &[r"\[#(\d+)\]", r"#(\d+)", r"\b([A-Z]+-?\d+)\b"],
        text: &[],
        commands: NO_COMMANDS,
        read: "10482",
    },
    Crm {
        profile: "name = \"rt\"\nvalues = { rtname = \"rt.example.com\" }",
        ticket: "10482",
        subject: &[r"(?i)\[(?:https?://)?rt\.example\.com\s+#(\d+)\s*\]", r"\[[^\]]*#(\d+)\s*\]"],
        text: &[],
        commands: NO_COMMANDS,
        read: "10482",
    },
    Crm {
        profile: "name = \"rt-comment\"\nvalues = { rtname = \"rt.example.com\" }",
        ticket: "10482",
        subject: &[r"(?i)\[(?:https?://)?rt\.example\.com\s+#(\d+)\s*\]", r"\[[^\]]*#(\d+)\s*\]"],
        text: &[],
        commands: NO_COMMANDS,
        read: "10482",
    },
    Crm {
        profile: "name = \"redmine\"",
        ticket: "10482",
        subject: &[r"\[(?:[^\]]*\s+)?#(\d+)\]", r"\[[^\]]*msg(\d+)\]"],
        text: &[],
        commands: r"(?im)^\s*(?:status|priority|assigned to|owner|x-otrs-\w+|done ratio)[ \t]*:",
        read: "10482",
    },
    Crm {
        profile: "name = \"znuny\"",
        ticket: "2026112210000013",
        subject: &[r"(?i)Ticket#(\d{8}10\d{4,40})", r"(?i)Ticket#:\s{0,2}(\d{8}10\d{4,40})"],
        text: &[r"(?i)Ticket#(\d{8}10\d{4,40})", r"(?i)Ticket#:\s{0,2}(\d{8}10\d{4,40})"],
        commands: NO_COMMANDS,
        read: "2026112210000013",
    },
    Crm {
        profile: "name = \"znuny\"\nvalues = { hook = \"Fall=\" }",
        ticket: "2026112210000013",
        subject: &[r"(?i)Fall=(\d{8}10\d{4,40})", r"(?i)Fall=:\s{0,2}(\d{8}10\d{4,40})"],
        text: &[r"(?i)Fall=(\d{8}10\d{4,40})"],
        commands: NO_COMMANDS,
        read: "2026112210000013",
    },
    Crm {
        profile: "name = \"osticket\"",
        ticket: "104821",
        // Only the first counts.
        subject: &[r"^[^#]*#((?:[^\w\s]*\w+)+)", r"#(\w+)"],
        text: &[r"Ref-Mid: (\S+@\S+)"],
        commands: NO_COMMANDS,
        read: "104821",
    },
    Crm {
        profile: "name = \"zammad\"",
        ticket: "67001",
        subject: &[r"(?i)(?:\W|^)Ticket#(\d{2,48})\b", r"(?i)Ticket#\s{0,2}(\d{2,48})\b"],
        text: &[r"(?i)Ticket#\s{0,2}(\d{2,48})\b"],
        commands: NO_COMMANDS,
        read: "67001",
    },
    Crm {
        profile: "name = \"glpi\"",
        ticket: "0000123",
        subject: &[r"\[.+#(\d+)\]"],
        text: &[],
        commands: NO_COMMANDS,
        read: "123",
    },
    Crm {
        profile: "name = \"suitecrm\"",
        ticket: "123",
        subject: &[r"(?i)\[CASE:(\d+)"],
        text: &[],
        commands: NO_COMMANDS,
        read: "123",
    },
    Crm {
        profile: "name = \"espocrm\"",
        ticket: "123",
        subject: &[r"\[#([0-9]+)[^0-9]*\]"],
        text: &[],
        commands: NO_COMMANDS,
        read: "123",
    },
    Crm {
        profile: "name = \"roundup\"",
        ticket: "issue123",
        // A bracket at the end sets properties.
        subject: &[r"\[\s*issue\s*(\d*)\s*\]", r"\[([^\]]*)\]\s*$"],
        text: &[],
        commands: "(?i)autoreply",
        read: "123",
    },
    Crm {
        profile: "name = \"freshdesk\"\nvalues = { prefix = \"Acme-\" }",
        ticket: "123",
        subject: &[r"\[#(?:[\w-]*-)?(\d+)\]", r"#(?:[\w-]*-)?(\d+)"],
        text: &[],
        commands: NO_COMMANDS,
        read: "123",
    },
    Crm {
        profile: "name = \"zoho\"",
        ticket: "12345",
        subject: &[r"##(\d+)##"],
        text: &[],
        commands: NO_COMMANDS,
        read: "12345",
    },
    Crm {
        profile: "name = \"jira\"",
        ticket: "SUP-123",
        subject: &[r"\b([A-Z][A-Z0-9_]+-\d+)\b"],
        text: &[],
        commands: NO_COMMANDS,
        read: "SUP-123",
    },
    Crm {
        profile: "name = \"servicenow\"",
        ticket: "INC0010001",
        subject: &[
            r"^Re:.*?\s([A-Z]{2,12}\d{5,})\b",
            r"(?:^|[\s:])([A-Z]{2,12}\d{5,})(?:[\s:]|$)",
            r"(?i)Ref:(MSG\d+)",
        ],
        text: &[r"(?i)Ref:(MSG\d+)"],
        commands: NO_COMMANDS,
        read: "INC0010001",
    },
    Crm {
        profile: "name = \"sap\"",
        ticket: "123",
        subject: &[r"\[\s*Ticket:\s*(\d+)\s*\]"],
        text: &[],
        commands: NO_COMMANDS,
        read: "123",
    },
    Crm {
        profile: "name = \"salesforce\"\nout_ticket_id = \"token\"",
        ticket: "pp5XPGfmNf2hRZdRCWnrohc",
        subject: &[r"thread::([^:\s]+)::", r"(?i)\bref:([^:\s]+):ref"],
        text: &[r"thread::([^:\s]+)::", r"(?i)\bref:([^:\s]+):ref"],
        commands: NO_COMMANDS,
        read: "pp5XPGfmNf2hRZdRCWnrohc",
    },
    Crm {
        profile: "name = \"dynamics\"\nout_ticket_id = \"token\"",
        ticket: "CRM:0001323",
        subject: &[r"CRM:(\d+)"],
        text: &[],
        commands: NO_COMMANDS,
        read: "0001323",
    },
    Crm {
        profile: "name = \"zendesk\"\nout_ticket_id = \"token\"",
        ticket: "1G7EOR-0Q2J",
        subject: &[r"\[#(\d+)\]"],
        text: &[r"\[([0-9A-Z]{6}-[0-9A-Z]{4})\]"],
        commands: r"(?m)^\s*#",
        read: "1G7EOR-0Q2J",
    },
];

/// What a caller or an agent may write, in every field that a mail shows.
const HOSTILE: &str = "[#123] [rt.example.com #124] #125 Ticket#2026112210000021 ticket#: 2026112210000021 Ticket#67002 \
    Fall=2026112210000021 ABC-12 INC0012345 Re: INC0012346: [CASE:7] [GLPI #0000077] #456] [[issue7] [##77##] [msg9] \
    thread::abcDEF123456:: ref:_00D1.!500x:ref CRM:0001 Ref:MSG0000777 [ Ticket: 77 ] [1G7EOR-0Q99] [#Acme-9] \
    autoreply Ref-Mid: a@b [status=resolved]";

fn hostile(ticket: &str) -> Value {
    let lines = format!(
        "#close\n#set x 1\n  # status solved\nStatus: Closed\nPriority : High\nAssigned to: nobody\nX-OTRS-Ignore: yes\n\
         Done ratio: 100\n{HOSTILE}"
    );
    let mut session = call(1, ticket, 10);
    for (key, text) in
        [("status", HOSTILE), ("feedback", &lines), ("sub_status", HOSTILE), ("rating", "#close")]
    {
        session[key] = text.into();
    }
    session["dispositions"] = json!([{ "code": HOSTILE, "note": lines, "list": "Status: Closed" }]);
    session["agent_info"] = json!({ "name": HOSTILE, "email": "a@example.com" });
    session["menu_path"] = json!({ "name": format!("Status: Closed\n{HOSTILE}") });
    session
}

/// A template that puts a caller's words first in subject, text and HTML.
const BARE: [(&str, &str); 3] = [
    ("subject.txt.hbs", "{{session.status}} {{csat.comment}}"),
    ("body.txt.hbs", "{{csat.comment}}\n{{raw.feedback}}\n{{menu.path}}\n"),
    (
        "body.html.hbs",
        "<p>{{csat.comment}}</p><p>{{block csat.comment}}</p>{{#each dispositions}}<div>{{block note}}</div>{{/each}}",
    ),
];

fn site(crm: &Crm, top: &str) -> Site {
    Site::new(25, &TenantFile { profile: crm.profile, top, ..TenantFile::default() })
}

/// The mail of a session, made and not sent.
fn mail(site: &Site, session: &Value) -> Vec<u8> {
    let file = site.session("call-1.json", session);
    site.run(&["send", "--dry-run", &file]).with_code(0).raw
}

/// Every ticket that these expressions find.
fn found<'t>(expressions: &[&str], text: &'t str) -> Vec<&'t str> {
    let all = expressions.iter().flat_map(|expression| {
        let expression = Regex::new(expression).unwrap();
        expression.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str())).collect::<Vec<_>>()
    });
    all.collect()
}

/// The words of an HTML body, a line for each run between two tags.
fn words(html: &str) -> String {
    let words = Regex::new("(?s)<style>.*?</style>|<[^>]*>").unwrap().replace_all(html, "\n").into_owned();
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&#x3D;", "="), ("&#x27;", "'"), ("&quot;", "\""), ("&amp;", "&")];
    entities.iter().fold(words, |words, (entity, c)| words.replace(entity, c))
}

fn bodies(message: &Message<'_>) -> [String; 2] {
    let text = message.body_text(0).unwrap().replace("\r\n", "\n");
    [text, words(&message.body_html(0).unwrap())]
}

#[test]
fn a_crm_finds_our_ticket_and_no_other_whatever_a_session_says() {
    for crm in &CRMS {
        for top in ["", "templates = \"own\""] {
            let site = site(crm, top);
            for (name, template) in BARE {
                site.write(&format!("config/own/update/{name}"), template.as_bytes());
            }
            let wire = mail(&site, &hostile(crm.ticket));
            let message = parsed(&wire);
            let subject = message.subject().unwrap();
            let in_text = !crm.text.is_empty() && crm.profile.contains("zendesk");
            let tickets = found(crm.subject, subject);
            assert!(
                tickets.iter().all(|ticket| *ticket == crm.read),
                "{}: {tickets:?} in {subject}",
                crm.profile
            );
            assert!(in_text || tickets.contains(&crm.read), "{}: {subject}", crm.profile);
            let commands = Regex::new(crm.commands).unwrap();
            assert!(!commands.is_match(subject), "{}: {subject}", crm.profile);
            for body in bodies(&message) {
                let tickets = found(crm.text, &body);
                assert!(
                    tickets.iter().all(|ticket| *ticket == crm.read),
                    "{}: {tickets:?} in {body}",
                    crm.profile
                );
                assert!(!in_text || tickets.contains(&crm.read), "{}: {body}", crm.profile);
                let is_of_lines = !crm.commands.contains("autoreply");
                assert!(!is_of_lines || !commands.is_match(&body), "{}: {body}", crm.profile);
                assert!(body.contains("INC"), "the words are there for a reader: {body}");
            }
        }
    }
}

#[test]
fn a_mail_that_opens_a_ticket_names_none() {
    for crm in &CRMS {
        let missing_ticket = "then = \"catch-all\"\naddress = \"new@crm.example.com\"";
        let tenant = TenantFile { profile: crm.profile, missing_ticket, ..TenantFile::default() };
        let wire = mail(&Site::new(25, &tenant), &hostile(""));
        let message = parsed(&wire);
        let subject = message.subject().unwrap();
        // To osTicket a dot is part of the number, and no number has one.
        let tickets: Vec<&str> =
            found(crm.subject, subject).into_iter().filter(|ticket| !ticket.starts_with('·')).collect();
        assert_eq!(tickets, Vec::<&str>::new(), "{}: {subject}", crm.profile);
        assert_eq!(found(crm.text, &message.body_text(0).unwrap()), Vec::<&str>::new(), "{}", crm.profile);
    }
}

#[test]
fn a_crm_finds_the_ticket_of_an_ordinary_session_and_the_words_stay_as_they_are() {
    for crm in &CRMS {
        let site = site(crm, "");
        let mut session = call(1, crm.ticket, 10);
        session["feedback"] = "All good: thank you".into();
        let wire = mail(&site, &session);
        let message = parsed(&wire);
        let subject = message.subject().unwrap();
        assert!(!subject.contains('·'), "{}: {subject}", crm.profile);
        assert!(subject.contains("Call 1: Finished"), "{}: {subject}", crm.profile);
        // The token is not torn apart by the encoding of the header.
        assert_eq!(header(&message, "Subject"), subject);
        assert!(
            found(crm.subject, subject).contains(&crm.read) || !crm.text.is_empty(),
            "{}: {subject}",
            crm.profile
        );
        assert!(message.body_text(0).unwrap().contains("All good: thank you"), "{}", crm.profile);
        assert!(!header(&message, "Precedence").contains("bulk"));
    }
}

#[test]
fn what_a_crm_throws_away_is_not_in_its_mails() {
    // From the products' sources, their documentation, and what running installations did.
    let discards = [
        ("redmine", r"auto-(?:replied|generated)"),
        ("roundup", "."),
        ("espocrm", "."),
        ("jira", "auto-"),
        ("zendesk", "."),
        ("glpi", "."),
    ];
    for (name, pattern) in discards {
        let crm = CRMS.iter().find(|crm| crm.profile.contains(name)).unwrap();
        let wire = mail(&site(crm, ""), &call(1, crm.ticket, 10));
        let message = parsed(&wire);
        let value = header(&message, "Auto-Submitted");
        assert!(!Regex::new(pattern).unwrap().is_match(&value), "{name}: {value}");
        let suppress = header(&message, "X-Auto-Response-Suppress");
        assert_eq!(suppress.is_empty(), ["glpi", "zendesk", "espocrm"].contains(&name), "{name}");
    }
}

#[test]
fn a_reference_names_the_issue_as_redmine_reads_it() {
    let crm = CRMS.iter().find(|crm| crm.profile.contains("redmine")).unwrap();
    let wire = mail(&site(crm, ""), &call(1, "10482", 10));
    let message = parsed(&wire);
    let references = header(&message, "References");
    let read = Regex::new(r"^<?redmine\.([a-z0-9_]+)-(\d+)\.\d+(\.[a-f0-9]+)?@").unwrap();
    let read = read.captures(&references).unwrap();
    assert_eq!((&read[1], &read[2]), ("issue", "10482"));
}

#[test]
fn an_address_names_the_conversation_as_chatwoot_reads_it() {
    let profile =
        "name = \"chatwoot\"\nout_ticket_id = \"token\"\nvalues = { inbound_domain = \"in.example.com\" }";
    let site = Site::new(25, &TenantFile { profile, recipient: "", ..TenantFile::default() });
    let uuid = "b2f6a9b0-3c1d-4e5f-8a7b-0123456789ab";
    let wire = mail(&site, &call(1, uuid, 10));
    let message = parsed(&wire);
    let to = header(&message, "To");
    let read =
        Regex::new(r"^reply\+([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@in\.example\.com$").unwrap();
    assert_eq!(&read.captures(&to).unwrap()[1], uuid);
    assert_eq!(header(&message, "Cc"), "", "there it would be lost");
}

#[test]
fn a_ticket_id_of_another_form_or_a_url_of_another_ticket_is_held() {
    let znuny = "name = \"znuny\"\nurl = \"https://desk.example.com/otrs\"";
    let by_id = "name = \"znuny\"\nout_ticket_id = \"id\"";
    let number = "2026112210000013";
    let zoom = |rest: &str| format!("https://desk.example.com/otrs/index.pl?Action=AgentTicketZoom;{rest}");
    let table = [
        (znuny, number, zoom("TicketID=2"), Ok(number)),
        (znuny, number, zoom("TicketNumber=2026112210000013"), Ok(number)),
        (
            znuny,
            number,
            zoom("TicketNumber=2026112210000021"),
            Err("out_ticket_url of ticket 2026112210000021"),
        ),
        (
            znuny,
            number,
            "https://evil.example.com/otrs/?TicketID=2".to_owned(),
            Err("is not below https://desk"),
        ),
        // An internal id in the place of a number would be another ticket, or a new one.
        (znuny, "4711", zoom("TicketID=4711"), Err("profile's form")),
        (
            "name = \"zammad\"",
            "1110",
            "https://desk.example.com/#ticket/zoom/1110".to_owned(),
            Err("are the same"),
        ),
        (by_id, "2", zoom("TicketNumber=2026112210000013"), Ok(number)),
        (by_id, "2", zoom("TicketID=3"), Err("out_ticket_id is of ticket 2 and out_ticket_url of ticket 3")),
        (by_id, "2", zoom("TicketID=2"), Err("out_ticket_url does not tell it")),
    ];
    for (profile, id, url, expected) in table {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile { profile, ..TenantFile::default() });
        let mut session = call(1, id, 10);
        session["out_ticket_url"] = url.clone().into();
        let file = site.session("call-1.json", &session);
        site.run(&["send", &file]).with_code(0);
        match expected {
            Ok(ticket) => {
                let received = relay.only();
                let message = parsed(&received.message);
                assert!(message.subject().unwrap().starts_with(&format!("[Ticket#{ticket}] ")), "{url}");
            }
            Err(reason) => {
                assert!(relay.received().is_empty(), "{url}");
                let row = site.deliveries().remove(0);
                assert_eq!(row.state.as_str(), "held", "{url}");
                assert!(row.reason.contains(reason), "{url}: {}", row.reason);
                let tried = site.run(&["profile", "try", "acme", &file]).with_code(1);
                assert!(tried.err.contains(reason), "{}", tried.err);
            }
        }
    }
}

#[test]
fn a_crms_own_answers_are_known_by_their_marks() {
    use Answer::{Opened, Refused, Updated};
    // The forms that running installations, sources and shipped templates have.
    let replied = "Auto-Submitted: auto-replied";
    let generated = "Auto-Submitted: auto-generated";
    let table = [
        ("rt", "[rt.example.com #2] AutoReply: Call 1: Finished", replied, "", Some((Opened, Some("2")))),
        (
            "rt",
            "Message not recorded: [rt.example.com #77] Call 1",
            "Precedence: bulk",
            "",
            Some((Refused, None)),
        ),
        ("rt", "Permission Denied", "Precedence: bulk", "", Some((Refused, None))),
        ("rt", "[rt.example.com #2] Re: a person asks", "X: y", "", None),
        (
            "redmine",
            "[Shop - Bug #12] (New) Billing",
            "Message-ID: <redmine.journal-3.20261122075108.1@h>",
            "",
            Some((Updated, Some("12"))),
        ),
        (
            "redmine",
            "[Shop - Bug #13] (New) Call 1",
            "Message-ID: <redmine.issue-13.20261122075108.1@h>",
            "",
            Some((Opened, Some("13"))),
        ),
        (
            "znuny",
            "[Ticket#2026112210000013] RE: Call 1: Fini [...]",
            generated,
            "",
            Some((Opened, Some("2026112210000013"))),
        ),
        ("osticket", "Support Ticket Opened [#104821]", replied, "", Some((Opened, Some("104821")))),
        ("osticket", "Open Tickets Limit Reached", replied, "", Some((Refused, None))),
        ("zammad", "Thanks for your inquiry (x) [Ticket#67001]", replied, "", Some((Opened, Some("67001")))),
        ("espocrm", "[#12] Case is created", replied, "", Some((Opened, Some("12")))),
        ("glpi", "Re: Call 1: Finished", "X: y", "Your email could not be processed.", Some((Refused, None))),
        (
            "roundup",
            "Failed issue tracker submission",
            "X: y",
            "You are not a registered user.",
            Some((Refused, None)),
        ),
    ];
    for (profile, subject, field, text, expected) in table {
        let mail = format!("From: crm@crm.example.com\r\nSubject: {subject}\r\n{field}\r\n\r\n{text}\r\n");
        let expected = expected.map(|(answer, ticket)| (answer, ticket.map(str::to_owned)));
        assert_eq!(judged(profile, mail.as_bytes()), expected, "{profile}: {subject}");
    }
}

#[test]
fn check_and_every_start_refuse_mail_where_it_cannot_reach_a_ticket() {
    let names = SHIPPED.map(|(name, source)| Profile::parse(name, Path::new(name), source).unwrap());
    let unreachable =
        names.iter().filter(|profile| profile.unreachable_by(profile.ticket.identity).is_some());
    let unreachable: Vec<&str> = unreachable.map(|profile| profile.name.as_str()).collect();
    assert_eq!(
        unreachable,
        [
            "chatwoot",
            "dynamics",
            "freescout",
            "front",
            "helpscout",
            "hubspot",
            "intercom",
            "kustomer",
            "odoo",
            "oracle",
            "salesforce",
            "zendesk"
        ]
    );
    for name in unreachable {
        let profile = format!("name = \"{name}\"");
        let site = Site::new(25, &TenantFile { profile: &profile, ..TenantFile::default() });
        let told = site.run(&["check"]).with_code(1).out;
        assert!(told.contains("takes no updates by mail") && told.contains("channel = \"record\""), "{told}");
        assert_eq!(site.run(&["serve"]).code, 2);
    }
    let site = Site::new(25, &TenantFile { top: "channel = \"pigeon\"", ..TenantFile::default() });
    assert!(site.run(&["check"]).with_code(1).out.contains("channel: \"pigeon\" is not one of"));
    let profile = "name = \"zammad\"\nout_ticket_id = \"id\"";
    let site = Site::new(25, &TenantFile { profile, ..TenantFile::default() });
    let told = site.run(&["check"]).with_code(1).out;
    assert!(told.contains("mail carries the number, and neither the session nor its URL tells it"), "{told}");
}

#[test]
fn a_text_or_a_file_over_the_crms_limit_is_cut_or_left_out() {
    let own = "title = \"Small\"\nsubject = \"[#{ticket}]\"\nbody = \"<{ticket}>\"\nfile_bytes = 2000\ntext_characters = 1500\n";
    let site = Site::new(25, &TenantFile { profile: "name = \"small\"", ..TenantFile::default() });
    site.write("config/profiles/small.toml", own.as_bytes());
    let small = mail(&site, &call(1, "7", 10));
    assert_eq!(attachment(&parsed(&small)).0, "call-1.json");
    let mut session = call(1, "7", 10);
    session["feedback"] = "A sentence of a caller. ".repeat(200).into();
    let wire = mail(&site, &session);
    let message = parsed(&wire);
    let text = message.body_text(0).unwrap();
    assert!(text.chars().count() <= 1_600 && text.contains("[...]"), "{text}");
    assert!(text.trim_end().ends_with("<7>"), "{text}");
    assert_eq!(
        (
            message.html_body.iter().filter(|part| message.parts[**part as usize].is_text_html()).count(),
            message.attachments().count()
        ),
        (0, 0)
    );
}

#[test]
fn every_shipped_profile_says_how_sure_it_is_and_what_to_set_up() {
    for (name, source) in SHIPPED {
        let profile = Profile::parse(name, Path::new(name), source).unwrap();
        assert!(source.starts_with("# ") && !profile.setup.is_empty(), "{name}");
        let by_mail = profile.unreachable_by(profile.ticket.identity).is_none();
        let given = |group: &str| profile.sources.iter().any(|source| source.group == group);
        assert!(given("ticket"), "{name}");
        for (group, _) in GROUPS.iter().filter(|(group, _)| *group != "answers" && *group != "urls") {
            assert!(!by_mail || given(group), "{name}: {group}");
        }
        assert!(profile.ticket.urls.is_empty() || given("urls"), "{name}");
        assert!(profile.marks.is_empty() || given("answers"), "{name}");
        assert!(profile.sources.iter().all(|source| !source.note.is_empty()), "{name}");
        let live: Vec<_> =
            profile.sources.iter().filter(|source| source.verified == Verified::Live).collect();
        assert_eq!(!live.is_empty(), ["rt", "rt-comment", "redmine", "znuny"].contains(&name), "{name}");
    }
}

#[test]
fn the_page_of_crms_is_what_the_command_prints() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/crms.md")).unwrap();
    let printed = Site::new(25, &TenantFile::default()).run(&["profile", "docs"]).with_code(0).out;
    assert!(page == printed, "run: aftercall profile docs > docs/crms.md");
}

#[test]
fn a_profile_of_ones_own_is_written_listed_shown_and_tried() {
    let site = Site::new(25, &TenantFile { profile: "name = \"desk\"", ..TenantFile::default() });
    let written = site.run(&["profile", "new", "desk", "--from", "redmine"]).with_code(0).out;
    assert!(written.contains("profiles/desk.toml"), "{written}");
    assert!(site.run(&["profile", "new", "desk"]).with_code(1).err.contains("cannot write"));
    assert!(site.run(&["profile", "new", "../desk"]).with_code(2).err.contains("is not a name"));
    assert!(site.run(&["profile", "new", "x", "--from", "y"]).with_code(2).err.contains("no profile \"y\""));
    site.run(&["check"]).with_code(0);
    let listed = site.run(&["profile", "list", "--format", "json"]).with_code(0).json();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|row| row["profile"].as_str().unwrap()).collect();
    assert_eq!(listed.len(), SHIPPED.len() + 1);
    assert!(listed.contains(&"desk"), "{listed:?}");
    let shown = site.run(&["profile", "show", "desk"]).with_code(0).out;
    for part in ["Redmine (desk)", "auto-notified", "[#{ticket}]", "To set up in the CRM"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(site.run(&["profile", "show", "dask"]).with_code(2).err.contains("desk"));
    let file = site.session("call-1.json", &call(1, "7", 10));
    let tried = site.run(&["profile", "try", "acme", &file]).with_code(0).out;
    for part in [
        "Ticket    number 7, from out_ticket_id",
        "Found by  [#7] in the subject",
        "<redmine.issue-7.1@aftercall.invalid> in References",
        "RCPT TO:<support@crm.example.com>",
        "Subject: [#7] Call 1: Finished",
    ] {
        assert!(tried.contains(part), "{part} is not in\n{tried}");
    }
    assert!(!site.path("config/aftercall.sqlite").exists(), "nothing is stored");
}
