//! Mail that comes back by a folder, a pipe, a mail server that hands it over, or an IMAP server that misbehaves.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aftercall::store::{VerdictFilter, VerdictRow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::oauth::{token, token_server};
use crate::servers::free_port;
use crate::support::{Ended, Site, Talk, TenantFile, server, until};

/// A site whose `aftercall.toml` has these lines.
pub(crate) fn site(lines: &str) -> Site {
    let site = Site::new(1, &TenantFile::default());
    site.write("config/aftercall.toml", lines.as_bytes());
    site
}

/// What is stored and whole, oldest first.
pub(crate) fn inbounds(site: &Site) -> Vec<VerdictRow> {
    let filter = VerdictFilter { most: 1_000_000, ..VerdictFilter::default() };
    site.store().verdicts(&filter).unwrap()
}

/// The octets of everything that is stored, in order of their text.
pub(crate) fn mails(site: &Site) -> Vec<String> {
    let (rows, store) = (inbounds(site), site.store());
    let mail = |row: &VerdictRow| store.inbound_mail(row.id).unwrap().unwrap();
    let mut mails: Vec<String> =
        rows.iter().map(|row| String::from_utf8_lossy(&mail(row)).into_owned()).collect();
    mails.sort_unstable();
    mails
}

/// What is in quarantine: octets and reason.
pub(crate) fn quarantined(site: &Site) -> Vec<(Vec<u8>, String)> {
    let store = site.store();
    let rows = store.quarantined_inbounds().unwrap();
    rows.into_iter().map(|row| (store.inbound_mail(row.id).unwrap().unwrap(), row.reason)).collect()
}

/// A mail of some octets.
pub(crate) fn mail(number: usize) -> String {
    format!("From: a@example.com\r\nSubject: mail {number:05}\r\n\r\nIt came back.\r\n")
}

/// The names of the files in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn wait_for(site: &Site, count: usize) {
    until(&format!("{count} mails in the store"), || (inbounds(site).len() >= count).then_some(()));
}

const MAILDIR: &str = "[[mailboxes]]\nname = \"bounces\"\nmaildir = \"../mail\"\npoll = \"100ms\"\n";

/// A site with a Maildir that holds these mails.
fn with_maildir(mails: std::ops::Range<usize>) -> Site {
    let site = site(MAILDIR);
    for folder in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(site.path("mail").join(folder)).unwrap();
    }
    for number in mails {
        site.write(&format!("mail/new/{number:05}.host"), mail(number).as_bytes());
    }
    site
}

#[test]
fn a_mailbox_is_described_once_and_mistakes_have_file_line_and_key() {
    let table = [
        ("[[mailboxes]]\n", "aftercall.toml:1: mailboxes.name: missing"),
        ("[[mailboxes]]\nname = \"a/b\"\n", "aftercall.toml:2: mailboxes.name: may hold ASCII letters"),
        (
            "[[mailboxes]]\nname = \"a\"\n[[mailboxes]]\nname = \"a\"\n",
            "aftercall.toml:4: mailboxes.name: \"a\" is the name of two",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\ntenants = [\"b\"]\n",
            "aftercall.toml:3: mailboxes.tenants: there is no tenant \"b\"",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nmaildir = \"m\"\nlmtp = { listen = \"127.0.0.1:24\" }\n",
            "mailboxes.lmtp: give one of imap, maildir and lmtp",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\npoll = \"1m\"\n",
            "aftercall.toml:3: mailboxes.poll: is used only with imap and maildir",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nmaildir = \"m\"\npoll = \"10ms\"\n",
            "aftercall.toml:4: mailboxes.poll: must be 100ms or longer",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nlmtp = { listen = \"192.0.2.1:24\" }\n",
            "aftercall.toml:3: mailboxes.lmtp.listen: must be an address of this machine",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nlmtp = { listen = \"socket\" }\n",
            "mailboxes.lmtp.listen: \"socket\" is neither",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\n[mailboxes.imap]\nhost = \"mail.example.com\"\ntls = \"none\"\nuser = \"u\"\npassword = { file = \"secret\" }\n",
            "aftercall.toml:5: mailboxes.imap.tls: \"none\" is for a server on this machine only",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nimap = { host = \"mail.example.com\" }\n",
            "mailboxes.imap.user: missing; give user and password or oauth2",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nimap = { host = \"h\", user = \"u\", password = { file = \"secret\" }, done = \"keep\", done_folder = \"Done\" }\n",
            "mailboxes.imap.done_folder: give either done or done_folder",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nimap = { host = \"h\", user = \"u\", password = { file = \"secret\" }, folder = \"a\\u000d\" }\n",
            "mailboxes.imap.folder: must not be empty or hold control characters",
        ),
        (
            "[[mailboxes]]\nname = \"a\"\nimap = { host = \"h\", user = \"u\", password = { file = \"secret\" }, done = \"read\" }\n",
            "mailboxes.imap.done: \"read\" is not one of",
        ),
    ];
    for (lines, told) in table {
        let site = site(lines);
        site.write("config/secret", b"hunter2");
        let checked = site.run(&["check"]).with_code(1);
        assert!(checked.out.contains(told), "{told} is not in\n{}", checked.out);
    }
    let site = site(
        "[[mailboxes]]\nname = \"a\"\ntenants = [\"acme\"]\nmessage_bytes = 20000\n[mailboxes.imap]\nhost = \"mail.example.com\"\nuser = \"u\"\npassword = { file = \"secret\" }\n\
         [[mailboxes]]\nname = \"b\"\nmaildir = \"mail\"\n[[mailboxes]]\nname = \"c\"\nlmtp = { listen = \"[::1]:2424\" }\n[[mailboxes]]\nname = \"d\"\n",
    );
    site.write("config/secret", b"hunter2");
    let checked = site.run(&["check"]).with_code(0).out;
    assert!(checked.contains("mailbox a: ok; imap mail.example.com:993 u INBOX\n"), "{checked}");
    assert!(checked.contains("mailbox c: ok; lmtp [::1]:2424\nmailbox d: ok; receive\n"), "{checked}");
    let listed = site.run(&["inbox", "mailboxes", "--format", "json"]).with_code(0).json();
    assert_eq!((&listed[0]["mailbox"], &listed[0]["read"]), (&"a".into(), &serde_json::Value::Null));
}

#[test]
fn a_maildir_is_read_once_and_its_mails_are_moved_aside() {
    let site = with_maildir(0..150);
    site.write("mail/new/.hidden", b"no mail");
    std::fs::create_dir(site.path("mail/new/folder")).unwrap();
    let told = site.run(&["fetch"]).with_code(0).out;
    assert_eq!(told.lines().count(), 150);
    assert!(told.starts_with("bounces: 00000.host: inbound 1\n"), "{told}");
    assert_eq!(mails(&site), (0..150).map(mail).collect::<Vec<_>>());
    assert_eq!(names(&site.path("mail/new")), [".hidden", "folder"]);
    assert_eq!(names(&site.path("mail/cur"))[149], "00149.host:2,S");
    // The same mail under another name, as after a restored backup.
    site.write("mail/new/again", mail(7).as_bytes());
    assert_eq!(site.run(&["fetch"]).with_code(0).out, "bounces: again: known as inbound 8\n");
    assert_eq!((inbounds(&site).len(), names(&site.path("mail/new")).len()), (150, 2));
    let listed = site.run(&["inbox", "mailboxes", "--format", "json"]).with_code(0).json();
    assert!(listed[0]["read"].is_string(), "{listed}");
    assert_eq!(site.run(&["inbox", "mail", "8"]).with_code(0).out, mail(7));
}

#[test]
fn a_mail_over_the_limit_is_kept_by_its_head_and_the_next_one_is_read() {
    let site = with_maildir(1..2);
    site.write("config/aftercall.toml", format!("{MAILDIR}message_bytes = 10000\n").as_bytes());
    let large = format!("Subject: large\r\n\r\n{}", "x".repeat(10_000));
    site.write("mail/new/00000", large.as_bytes());
    site.run(&["fetch"]).with_code(0);
    assert_eq!(mails(&site), [mail(1)]);
    let reason = "the mail has 10018 octets, more than 10000; only its head is kept".to_owned();
    assert_eq!(quarantined(&site), [(b"Subject: large\r\n".to_vec(), reason.clone())]);
    assert_eq!(names(&site.path("mail/cur")), ["00000:2,FS", "00001.host:2,S"]);
    let listed = site.run(&["inbox", "quarantine", "--format", "json"]).with_code(0).json();
    assert_eq!(listed[0]["reason"], reason);
}

#[test]
fn serve_reads_a_maildir_and_tells_once_what_is_wrong_with_another() {
    let site = with_maildir(0..3);
    let more = format!("{MAILDIR}[[mailboxes]]\nname = \"away\"\nmaildir = \"../away\"\npoll = \"100ms\"\n");
    site.write("config/aftercall.toml", more.as_bytes());
    let serve = site.serve();
    wait_for(&site, 3);
    until("the reason", || site.serve_log().contains("mailbox=\"away\"").then_some(()));
    let late = site.write("mail/tmp/late", mail(9).as_bytes());
    std::fs::rename(late, site.path("mail/new/late")).unwrap();
    wait_for(&site, 4);
    for folder in ["new", "cur"] {
        std::fs::create_dir_all(site.path("away").join(folder)).unwrap();
    }
    site.write("away/new/1", mail(1).as_bytes());
    wait_for(&site, 5);
    until("the news", || site.serve_log().contains("the mailbox is read again").then_some(()));
    let held = site.run(&["fetch", "--mailbox", "bounces"]).with_code(75).err;
    assert!(held.contains("bounces: another aftercall reads this mailbox"), "{held}");
    let asked = Instant::now();
    assert_eq!(serve.terminate(), 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let log = site.serve_log();
    assert_eq!(log.matches("a mailbox cannot be read").count(), 1, "{log}");
    assert!(log.contains("away/new") && !log.contains("It came back"), "{log}");
}

#[test]
fn a_mailbox_of_one_tenant_is_read_by_who_serves_that_tenant() {
    let site = with_maildir(0..1);
    site.tenant("other", &TenantFile::default());
    site.write("config/aftercall.toml", format!("{MAILDIR}tenants = [\"other\"]\n").as_bytes());
    let serve = site.serve_of("acme");
    until("serve", || site.serve_log().contains("serving store").then_some(()));
    let other = site.serve_of("other");
    wait_for(&site, 1);
    assert_eq!((serve.terminate(), other.terminate()), (0, 0));
    let stored = site.serve_log().matches("stored a mail").count();
    assert_eq!(stored, 1);
}

#[test]
fn a_pipe_hears_the_exit_codes_of_mail_servers() {
    let site = site("[[mailboxes]]\nname = \"replies\"\nmessage_bytes = 10000\n");
    let receive = |arguments: &[&str], mail: &[u8]| -> Ended {
        site.run_with(&[&["receive"], arguments].concat(), mail)
    };
    receive(&["--from", "", "--to", "<bridge+x@example.com>"], b"Subject: a\n\nb\n").with_code(0);
    receive(&["--from", "", "--to", "bridge+x@example.com"], b"Subject: a\n\nb\n").with_code(0);
    receive(&["--mailbox", "replies"], mail(1).as_bytes()).with_code(0);
    receive(&["--mailbox", "replies"], "S: x\n\n".repeat(9_000).as_bytes()).with_code(0);
    let rows = inbounds(&site);
    let seen: Vec<_> =
        rows.iter().map(|row| (&row.mailbox[..], row.sender.as_deref(), row.recipient.as_deref())).collect();
    assert_eq!(seen, [("pipe", Some(""), Some("bridge+x@example.com")), ("replies", None, None)]);
    assert!(quarantined(&site)[0].1.contains("54000 octets, more than 10000"));
    receive(&[], b"").with_code(65);
    receive(&["--mailbox", "none"], b"a").with_code(64);
    receive(&["--from", "a\nb"], b"a").with_code(64);
    receive(&["--form", "a"], b"a").with_code(64);
    site.run(&["receive", "--help"]).with_code(0);
    site.run(&["fetch", "--help-me"]).with_code(2);
    let gone = site.path("gone/store").display().to_string();
    std::fs::write(site.path("gone"), "").unwrap();
    site.run_with(&["receive", "--store", &gone], b"a").with_code(75);
    site.write("config/aftercall.toml", b"[[mailboxes]]\n");
    receive(&[], b"a").with_code(78);
}

/// A conversation with our listener.
struct Client<S>(BufReader<S>);

impl<S: std::io::Read + Write> Client<S> {
    fn say(&mut self, octets: &[u8]) {
        self.0.get_mut().write_all(octets).unwrap();
    }

    /// The next line; empty at the end, whichever way it comes.
    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        drop(self.0.read_line(&mut line));
        line.trim_end().to_owned()
    }

    /// Says a line and hears its answer, of one line.
    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.say(format!("{line}\r\n").as_bytes());
        self.hear()
    }

    /// Gives a mail for these recipients and hears each one's answer.
    #[track_caller]
    fn give(&mut self, recipients: &[&str], mail: &[u8]) -> Vec<String> {
        assert_eq!(self.ask("MAIL FROM:<>"), "250 2.1.0 ok");
        for recipient in recipients {
            assert_eq!(self.ask(&format!("RCPT TO:<{recipient}>")), "250 2.1.5 ok");
        }
        assert_eq!(self.ask("DATA"), "354 go on");
        self.say(mail);
        recipients.iter().map(|_| self.hear()).collect()
    }
}

impl Client<TcpStream> {
    fn connect(port: u16) -> Self {
        let stream = until("the listener", || TcpStream::connect(("127.0.0.1", port)).ok());
        let mut client = Self(BufReader::new(stream));
        assert_eq!(client.hear(), "220 aftercall LMTP");
        client
    }
}

fn with_listener(more: &str) -> (Site, u16) {
    let port = free_port();
    let lines =
        format!("[[mailboxes]]\nname = \"bounces\"\nlmtp = {{ listen = \"127.0.0.1:{port}\" }}\n{more}");
    (site(&lines), port)
}

#[test]
fn a_listener_answers_for_each_recipient_once_the_mail_is_stored() {
    let (site, port) = with_listener("message_bytes = 10000\n");
    let serve = site.serve();
    let mut client = Client::connect(port);
    assert_eq!(client.ask("EHLO mx.example.com"), "500 5.5.1 this is LMTP, say LHLO");
    assert_eq!(client.ask("RCPT TO:<a@example.com>"), "503 5.5.1 MAIL first");
    assert_eq!(client.ask("LHLO mx.example.com"), "250-aftercall");
    let offered: Vec<String> = (0..5).map(|_| client.hear()).collect();
    assert!(offered.contains(&"250-PIPELINING".to_owned()) && offered[4] == "250 SIZE 10000", "{offered:?}");
    let two = ["bridge+a@example.com", "bridge+b@example.com"];
    assert_eq!(
        client.give(&two, b"Subject: a\r\n\r\n..b\r\n.\r\n"),
        ["250 2.0.0 stored", "250 2.0.0 stored"]
    );
    // Committed when it was answered, and the same mail again is the same inbound.
    assert_eq!(mails(&site), ["Subject: a\r\n\r\n.b\r\n"; 2]);
    assert_eq!(client.give(&two[..1], b"Subject: a\r\n\r\n..b\r\n.\r\n"), ["250 2.0.0 stored"]);
    let rows = inbounds(&site);
    let mut recipients: Vec<&str> = rows.iter().map(|row| row.recipient.as_deref().unwrap()).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, two);
    assert_eq!(client.ask("MAIL FROM:<a@example.com> SIZE=10001"), "552 5.3.4 the mail is too large");
    let large = format!("{}\r\n.\r\n", "x".repeat(10_000));
    assert_eq!(client.give(&two, large.as_bytes()), ["552 5.3.4 the mail is too large"; 2]);
    for smuggled in ["a\n.\r\nMAIL FROM:<x@example.com>\r\n.\r\n", "a\n.\nb\r\n.\r\n", "\nb\r\n.\r\n"] {
        assert_eq!(
            client.give(&two[..1], smuggled.as_bytes()),
            ["550 5.6.0 a line ends without CR"],
            "{smuggled:?}"
        );
    }
    assert_eq!(client.give(&two[..1], b".\r\n"), ["250 2.0.0 stored"], "an empty mail is one too");
    // A group of commands in one packet (RFC 2920).
    client.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n");
    let heard: Vec<String> = (0..4).map(|_| client.hear()).collect();
    assert_eq!(heard, ["250 2.1.0 ok", "501 5.1.3 no such recipient", "250 2.1.5 ok", "354 go on"]);
    client.say(b"Subject: c\r\n\r\n\r\n.\r\nQUIT\r\n");
    assert_eq!(
        (client.hear(), client.hear(), client.hear()),
        ("250 2.0.0 stored".into(), "221 2.0.0 bye".into(), String::new())
    );
    let mut client = Client::connect(port);
    assert_eq!(client.ask("NOOP\nNOOP"), "500 5.5.2 the line is too long, or does not end in CRLF");
    let mut client = Client::connect(port);
    client.ask("MAIL FROM:<a@example.com>");
    for number in 0..100 {
        assert_eq!(client.ask(&format!("RCPT TO:<r{number}@example.com>")), "250 2.1.5 ok");
    }
    assert_eq!(client.ask("RCPT TO:<one@example.com>"), "452 4.5.3 too many recipients");
    assert_eq!(inbounds(&site).len(), 4);
    let asked = Instant::now();
    assert_eq!(serve.terminate(), 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "open conversations hold nobody up");
    assert_eq!(client.hear(), "");
}

#[test]
fn a_listener_at_a_socket_takes_the_place_of_one_that_was_killed() {
    let site = site("[[mailboxes]]\nname = \"bounces\"\nlmtp = { listen = \"../lmtp.sock\" }\n");
    let path = site.path("lmtp.sock");
    for number in 1..=2 {
        let serve = site.serve();
        let stream = until("the socket", || UnixStream::connect(&path).ok());
        let mut client = Client(BufReader::new(stream));
        assert_eq!(client.hear(), "220 aftercall LMTP");
        assert_eq!(
            client.give(&["a@example.com"], format!("Subject: {number}\r\n\r\n.\r\n").as_bytes()),
            ["250 2.0.0 stored"]
        );
        serve.kill();
    }
    assert_eq!(inbounds(&site).len(), 2);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn a_mail_that_cannot_be_stored_stays_with_the_mail_server() {
    let (site, port) = with_listener("");
    let serve = site.serve();
    let mut client = Client::connect(port);
    rusqlite::Connection::open(site.path("config/aftercall.sqlite"))
        .unwrap()
        .execute_batch("DROP TABLE inbound_mails")
        .unwrap();
    assert_eq!(client.give(&["a@example.com"], b"a\r\n.\r\n"), ["451 4.3.0 it cannot be stored now"]);
    assert_eq!(serve.ended().code(), Some(1), "and the reason ends serve");
    until("the reason", || site.serve_log().contains("stopping").then_some(()));
}

/// An IMAP server written by the test. `answer` gets each command's verb and rest and gives the lines before the
/// tagged OK, which is left out where they end in a line that begins with the tag.
fn imap(
    answer: impl Fn(&mut Talk, &str, &str) -> Option<bool> + Send + Sync + 'static,
) -> (u16, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heard);
    let port = server(move |mut talk, _| {
        talk.say("* OK ready\r\n");
        while let Some(line) = talk.hear() {
            noted.lock().unwrap().push(line.clone());
            let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
            match answer(&mut talk, tag, command) {
                Some(true) => talk.say(&format!("{tag} OK done\r\n")),
                Some(false) => true,
                None => return,
            };
        }
    });
    (port, heard)
}

fn imap_site(port: u16, more: &str) -> Site {
    let site = site(&format!(
        "[[mailboxes]]\nname = \"bounces\"\npoll = \"300ms\"\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"bridge\"\n\
         password = {{ file = \"secret\" }}\nreply_timeout = \"2s\"\n{more}\n"
    ));
    site.write("config/secret", SECRET.as_bytes());
    site
}

const SECRET: &str = "brittle-bronze-1187";
const NO_TLS: &str = "tls = \"none\"";

/// What a good server answers, for a folder with the mails 3 and 7.
fn usual(talk: &mut Talk, command: &str) -> Option<bool> {
    let mut words = command.split(' ');
    let said = match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        ("CAPABILITY", _) => "* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR IDLE\r\n".to_owned(),
        ("SELECT" | "EXAMINE", _) => "* 2 EXISTS\r\n* OK [UIDVALIDITY 9] ok\r\n".to_owned(),
        ("UID", "SEARCH") => "* SEARCH 3 7\r\n".to_owned(),
        ("UID", "FETCH") => {
            let uids = command.split(' ').nth(2).unwrap_or_default().split(',');
            uids.map(|uid| {
                let mail = mail(uid.parse().unwrap());
                let size = mail.len();
                if command.contains("SIZE") {
                    format!("* 1 FETCH (UID {uid} RFC822.SIZE {size})\r\n")
                } else {
                    format!("* 1 FETCH (UID {uid} BODY[] {{{size}}}\r\n{mail})\r\n")
                }
            })
            .collect()
        }
        _ => String::new(),
    };
    talk.say(&said);
    Some(true)
}

#[test]
fn without_move_a_mail_is_copied_marked_and_removed() {
    for (abilities, last) in [("UIDPLUS", "UID EXPUNGE 3,7"), ("", "UID STORE 3,7 +FLAGS.SILENT (\\Deleted)")]
    {
        let (port, heard) = imap(move |talk, _, command| {
            if command == "CAPABILITY" {
                talk.say(&format!("* CAPABILITY IMAP4rev1 {abilities}\r\n"));
                return Some(true);
            }
            usual(talk, command)
        });
        let site = imap_site(port, &format!("{NO_TLS}\ndone_folder = \"Gelöscht\""));
        site.run(&["fetch"]).with_code(0);
        assert_eq!(mails(&site), [mail(3), mail(7)]);
        let heard = heard.lock().unwrap().clone();
        let commands: Vec<&str> =
            heard.iter().filter_map(|line| line.split_once(' ')).map(|(_, rest)| rest).collect();
        let copy = commands.iter().position(|command| *command == "UID COPY 3,7 \"Gel&APY-scht\"").unwrap();
        assert_eq!(commands[copy + 1], "UID STORE 3,7 +FLAGS.SILENT (\\Deleted)");
        assert_eq!(commands[commands.len() - 2], last, "{commands:?}");
        assert!(commands.contains(&format!("LOGIN \"bridge\" \"{SECRET}\"").as_str()), "without PLAIN");
    }
}

#[test]
fn a_server_that_goes_silent_in_idle_is_found_out_and_left() {
    let (port, heard) = imap(|talk, _, command| {
        if command == "IDLE" {
            talk.say("+ idling\r\n");
            while talk.hear().is_some() {}
            return None;
        }
        usual(talk, command)
    });
    let site = imap_site(port, &format!("{NO_TLS}\ndone = \"keep\""));
    let serve = site.serve();
    until("the second connection", || {
        (heard.lock().unwrap().iter().filter(|line| line.contains("IDLE")).count() >= 2).then_some(())
    });
    until("the reason", || site.serve_log().contains("the server has gone silent").then_some(()));
    let asked = Instant::now();
    assert_eq!(serve.terminate(), 0);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!(mails(&site), [mail(3), mail(7)]);
    assert!(!site.serve_log().contains(SECRET));
    let searched = heard.lock().unwrap().iter().filter(|line| line.ends_with("UID SEARCH UID 8:*")).count();
    assert!(searched > 0, "it goes on where it was");
}

#[test]
fn a_mail_that_the_server_does_not_give_is_quarantined_and_the_rest_is_read() {
    // What the server does about the body of mail 3; the head, and mail 7, it gives.
    let ways: [fn(&mut Talk, &str) -> Option<bool>; 4] = [
        |talk, tag| Some(!talk.say(&format!("{tag} NO [SERVERBUG] cannot\r\n"))),
        |_, _| Some(true),
        |talk, _| {
            talk.say("* 1 FETCH (UID 3 BODY[] {100}\r\nonly");
            None
        },
        |talk, _| {
            talk.say("* 1 FETCH (UID 3 BODY[] {99999999999}\r\n");
            Some(true)
        },
    ];
    std::thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || read_around_mail_3(way));
        }
    });
}

/// Reads a folder whose mail 3 is not given, in this way.
fn read_around_mail_3(way: fn(&mut Talk, &str) -> Option<bool>) {
    let (port, heard) = imap(move |talk, tag, command| {
        let is_of_3 = command.split(' ').nth(2).unwrap_or_default().split(',').any(|uid| uid == "3");
        if command.contains("BODY.PEEK[HEADER]") {
            talk.say("* 1 FETCH (UID 3 BODY[HEADER]<0> {12}\r\nSubject: 3\r\n)\r\n");
            return Some(true);
        }
        if command.contains("BODY.PEEK[]") && is_of_3 {
            return way(talk, tag);
        }
        usual(talk, command)
    });
    let site = imap_site(port, &format!("{NO_TLS}\nfailed_folder = \"Failed\""));
    let serve = site.serve();
    wait_for(&site, 1);
    assert_eq!(mails(&site), [mail(7)]);
    let reason = "the server does not give mail 3 (UIDVALIDITY 9); only its head is kept".to_owned();
    assert_eq!(quarantined(&site), [(b"Subject: 3\r\n".to_vec(), reason)]);
    until("the mailbox's change", || {
        heard
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.ends_with("UID STORE 7 +FLAGS.SILENT (\\Seen)"))
            .then_some(())
    });
    assert!(heard.lock().unwrap().iter().any(|line| line.ends_with("UID COPY 3 \"Failed\"")));
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn a_mail_that_a_server_falls_over_however_it_is_asked_for_stops_nothing() {
    let (port, _) = imap(|talk, tag, command| {
        if command.starts_with("UID SEARCH") {
            // The position behind a star and a first number, or numbers.
            let from: u32 = command["UID SEARCH UID ".len()..].split([':', ',']).next()?.parse().unwrap();
            let there: Vec<String> = (from..=100).map(|uid| uid.to_string()).collect();
            return Some(!talk.say(&format!("* SEARCH {}\r\n{tag} OK done\r\n", there.join(" "))));
        }
        let uids: Vec<&str> = command.split(' ').nth(2).unwrap_or_default().split(',').collect();
        if command.contains("BODY.PEEK") && uids.contains(&"40") {
            return None;
        }
        if command.contains("BODY.PEEK[]") && (uids.contains(&"20") || uids.contains(&"80")) {
            return Some(!talk.say(&format!("{tag} NO [SERVERBUG] cannot\r\n")));
        }
        usual(talk, command)
    });
    let site = imap_site(port, &format!("{NO_TLS}\ndone = \"keep\""));
    let serve = site.serve();
    wait_for(&site, 97);
    until("what could not be had", || (quarantined(&site).len() == 3).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let is_good = |uid: &usize| ![20, 40, 80].contains(uid);
    assert_eq!(mails(&site), (1..=100).filter(is_good).map(mail).collect::<Vec<_>>());
}

#[test]
fn a_server_that_refuses_to_move_mails_keeps_none_from_being_stored() {
    let (port, _) = imap(|talk, tag, command| {
        if command.starts_with("UID COPY") {
            return Some(!talk.say(&format!("{tag} NO [OVERQUOTA] \u{1b}[2J no room\r\n")));
        }
        usual(talk, command)
    });
    let site = imap_site(port, &format!("{NO_TLS}\ndone_folder = \"Done\""));
    let told = site.run(&["fetch"]).with_code(1);
    assert!(told.err.contains("copying mails: the server refused: [OVERQUOTA] [2J no room"), "{}", told.err);
    assert_eq!(mails(&site), [mail(3), mail(7)]);
    assert_eq!(
        site.run(&["fetch"]).with_code(1).out.matches("known as inbound").count(),
        2,
        "it is tried again"
    );
}

#[test]
fn nothing_is_believed_and_no_password_told_before_tls() {
    let table = [
        ("* PREAUTH welcome\r\n", "", "greeting: PREAUTH welcome"),
        ("* BYE go away\r\n", "", "greeting: BYE go away"),
        ("HTTP/1.1 400 Bad Request\r\n", "", "greeting: this is no IMAP server"),
        (
            "* OK ready\r\n",
            "a1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n",
            "the server sent more than the answer",
        ),
        ("* OK ready\r\n", "a1 NO not today\r\n", "starting TLS: the server refused: not today"),
        ("* OK ready\r\n", "a1 OK go\r\n", "starting TLS: "),
    ];
    for (greeting, answer, told) in table {
        let heard = Arc::new(Mutex::new(String::new()));
        let noted = Arc::clone(&heard);
        let port = server(move |mut talk, _| {
            talk.say(greeting);
            if !answer.is_empty() {
                noted.lock().unwrap().push_str(&talk.hear().unwrap_or_default());
                talk.say(answer);
                // What follows is no TLS.
                talk.say("* OK\r\n");
            }
            noted.lock().unwrap().push_str(&talk.hear().unwrap_or_default());
        });
        let site = imap_site(port, "tls = \"starttls\"");
        let ended = site.run(&["fetch"]).with_code(1);
        assert!(ended.err.contains(told), "{told} is not in {}", ended.err);
        let heard = heard.lock().unwrap();
        assert!(!heard.contains("AUTHENTICATE") && !heard.contains("LOGIN"), "{heard}");
    }
}

#[test]
fn a_server_that_drops_in_the_midst_costs_no_mail() {
    // Each connection lasts for a few more lines than the one before.
    let count = Arc::new(Mutex::new((0, 2)));
    let (port, _) = imap(move |talk, _, command| {
        let mut count = count.lock().unwrap();
        count.0 += 1;
        if count.0 > count.1 {
            *count = (0, count.1 + 2);
            return None;
        }
        usual(talk, command)
    });
    let site = imap_site(port, NO_TLS);
    until("a whole pass", || (site.run(&["fetch"]).code == 0).then_some(()));
    assert_eq!(mails(&site), [mail(3), mail(7)]);
    assert!(quarantined(&site).is_empty());
}

#[test]
fn a_wrong_password_is_told_without_it() {
    let (port, _) = imap(|talk, tag, command| {
        if command.starts_with("AUTHENTICATE") {
            return Some(!talk.say(&format!("{tag} NO [AUTHENTICATIONFAILED] {SECRET} is wrong\r\n")));
        }
        usual(talk, command)
    });
    let site = imap_site(port, NO_TLS);
    let ended = site.run(&["fetch", "--log", "trace"]).with_code(1);
    assert!(
        ended.err.contains("logging in: the server refused: [AUTHENTICATIONFAILED] (secret) is wrong"),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains(SECRET));
}

/// The signal by which a process ends itself at once.
const SIGABRT: i32 = 6;

#[test]
fn after_a_death_at_any_step_a_maildir_is_read_once() {
    for step in ["mails-read", "inbound-written", "inbounds-stored", "mailbox-changed"] {
        let site = with_maildir(0..5);
        let ended = site.serve_with(&[("AFTERCALL_CRASH_AT", step)]).ended();
        assert_eq!(ended.signal(), Some(SIGABRT), "it did not die at {step}");
        let left = names(&site.path("mail/new")).len();
        assert_eq!(
            left,
            if step == "mailbox-changed" { 0 } else { 5 },
            "{step}: the mailbox is changed last"
        );
        site.run(&["fetch"]).with_code(0);
        assert_eq!(mails(&site), (0..5).map(mail).collect::<Vec<_>>(), "{step}");
        assert_eq!(names(&site.path("mail/cur")).len(), 5, "{step}");
    }
}

#[test]
fn after_a_death_of_the_listener_a_mail_that_is_given_again_is_stored_once() {
    for step in ["inbound-written", "inbounds-stored"] {
        let (site, port) = with_listener("");
        let serve = site.serve_with(&[("AFTERCALL_CRASH_AT", step)]);
        let (to, came) = (["a@example.com"], b"Subject: a\r\n\r\n.\r\n");
        assert_eq!(Client::connect(port).give(&to, came), [""], "nothing is answered at {step}");
        assert_eq!(serve.ended().signal(), Some(SIGABRT));
        let serve = site.serve();
        assert_eq!(Client::connect(port).give(&to, came), ["250 2.0.0 stored"]);
        assert_eq!(mails(&site), ["Subject: a\r\n\r\n"], "{step}");
        assert_eq!(serve.terminate(), 0);
    }
}

#[test]
fn a_token_opens_a_mailbox_and_one_that_is_refused_is_replaced() {
    let (tokens, _) = token_server(token);
    let (port, heard) = imap(|talk, tag, command| {
        if command == "CAPABILITY" {
            talk.say("* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n");
        } else if command == "AUTHENTICATE XOAUTH2" {
            talk.say("+ \r\n");
            let words = STANDARD.decode(talk.hear()?).unwrap();
            let words = String::from_utf8(words).unwrap();
            if words != "user=bridge\u{1}auth=Bearer token-2\u{1}\u{1}" {
                // A server tells why, and goes on to refuse once that is heard.
                talk.say("+ eyJzdGF0dXMiOiI0MDEifQ==\r\n");
                assert_eq!(talk.hear()?, "");
                return Some(!talk.say(&format!("{tag} NO expired\r\n")));
            }
        } else {
            return usual(talk, command);
        }
        Some(true)
    });
    let site = site(&format!(
        "[[mailboxes]]\nname = \"bounces\"\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\ndone = \"keep\"\n\
         [mailboxes.imap.oauth2]\nuser = \"bridge\"\ntoken_url = \"http://127.0.0.1:{tokens}/token\"\nclient_id = \"c\"\nclient_secret = {{ file = \"secret\" }}\n"
    ));
    site.write("config/secret", SECRET.as_bytes());
    let serve = site.serve();
    wait_for(&site, 2);
    assert_eq!(serve.terminate(), 0);
    let log = site.serve_log();
    assert!(log.contains("logging in: the server refused: expired") && !log.contains("token-"), "{log}");
    assert!(!heard.lock().unwrap().iter().any(|line| line.contains("LOGIN")));
}
