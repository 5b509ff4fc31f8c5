//! Request Tracker with a database, a web server and an outgoing mailbox of its own.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, User, free_port, logs, need, text};
use crate::waiting::until;

/// The user whom Debian's RT runs as.
const USER: User = User::Only("www-data");

/// What RT calls itself in its tokens.
pub(crate) const NAME: &str = "rt.example.com";

/// Takes mail as replies, which RT relays to the customer unless something keeps it from it.
pub(crate) const CORRESPOND: &str = "rt@crm.example.com";

/// Takes mail as comments, which customers never see.
pub(crate) const COMMENT: &str = "rt-comment@crm.example.com";

/// A running RT.
pub(crate) struct Rt {
    _daemon: Daemon,
    folder: TempDir,
    port: u16,
}

impl Rt {
    /// Sets one up, with a user for the bridge and the rights that everybody needs to write to tickets. Its mails go to
    /// the mail server at `relay`, as far as that takes them.
    pub(crate) fn start(relay: u16) -> Self {
        let program = need("request-tracker5", &["/usr/share/request-tracker5/libexec/rt-server"]);
        need("rt5-clients", &["/usr/bin/rt-mailgate-5"]);
        let (folder, port) = (USER.folder(), free_port());
        let path = |name: &str| folder.path().join(name);
        // For RT and for whoever runs the tests.
        let open = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        open(folder.path());
        for name in ["data", "mails", "site.d"] {
            std::fs::create_dir(path(name)).unwrap();
            open(&path(name));
        }
        std::fs::write(path("site.pm"), site_config(text(folder.path()), port)).unwrap();
        std::fs::write(path("initial.pl"), initial(text(&path("token")))).unwrap();
        std::fs::write(path("sendmail"), sendmail(text(&path("mails")), relay)).unwrap();
        open(&path("sendmail"));
        let set = |name: &str, file: &str| format!("{name}={}", text(&path(file)));
        let site = [set("RT_SITE_CONFIG", "site.pm"), set("RT_SITE_CONFIG_DIR", "site.d")];
        let with_site = |command: &[&str]| {
            let words = ["env", &site[0], &site[1]].into_iter().chain(command.iter().copied());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let run = |command: &[&str]| {
            let words = with_site(command);
            USER.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        const SETUP: &str = "/usr/sbin/rt-setup-database-5";
        run(&[SETUP, "--action", "init", "--skip-create"]);
        let initial = path("initial.pl");
        run(&[SETUP, "--action", "insert", "--skip-create", "--datafile", text(&initial)]);
        let port_text = port.to_string();
        let server = with_site(&["perl", text(&program), "--host", "127.0.0.1", "--port", &port_text]);
        let server: Vec<&str> = server.iter().map(String::as_str).collect();
        let daemon = Daemon::start(folder.path(), USER, "TERM", &server);
        let rt = Self { _daemon: daemon, folder, port };
        until("RT's web server", || rt.ask("GET", "/rt", None).ok());
        rt
    }

    /// The command that hands a mail to RT.
    pub(crate) fn gateway(&self, action: &str) -> String {
        format!("/usr/bin/rt-mailgate-5 --queue General --action {action} --url {}", self.base())
    }

    /// Where its web server is.
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the bridge's user logs in with over REST.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("token")).unwrap()
    }

    /// Opens a ticket for a customer and gives its number.
    pub(crate) fn open(&self, customer: &str) -> String {
        let ticket = json!({ "Queue": "General", "Subject": "Billing question", "Requestor": customer });
        let made = self.ask("POST", "/ticket", Some(&ticket)).unwrap();
        made["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// The numbers of all tickets.
    pub(crate) fn tickets(&self) -> Vec<String> {
        let found = self.ask("GET", "/tickets?query=id%3E0&per_page=100", None).unwrap();
        found["items"].as_array().unwrap().iter().map(|ticket| as_text(&ticket["id"])).collect()
    }

    /// How many replies and comments by the bridge's user a ticket has.
    pub(crate) fn updates(&self, ticket: &str) -> usize {
        let place = format!("/ticket/{ticket}/history?fields=Type,Creator&per_page=100");
        let history = self.ask("GET", &place, None).unwrap();
        let is_update = |event: &&Value| {
            ["Correspond", "Comment"].contains(&event["Type"].as_str().unwrap())
                && event["Creator"]["id"] == "bridge"
        };
        history["items"].as_array().unwrap().iter().filter(is_update).count()
    }

    /// Name and bytes of the files on a ticket.
    pub(crate) fn files(&self, ticket: &str) -> Vec<(String, Vec<u8>)> {
        let place = format!("/ticket/{ticket}/attachments?fields=Filename&per_page=100");
        let list = self.ask("GET", &place, None).unwrap();
        let named = list["items"].as_array().unwrap().iter().filter(|item| item["Filename"] != "");
        let file = |item: &Value| {
            let whole = self.ask("GET", &format!("/attachment/{}", as_text(&item["id"])), None).unwrap();
            let content: String = whole["Content"].as_str().unwrap().split_whitespace().collect();
            (as_text(&item["Filename"]), STANDARD.decode(content).unwrap())
        };
        named.map(file).collect()
    }

    /// What RT has mailed, to whomever.
    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.folder.path().join("mails")).unwrap().flatten();
        let finished = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "eml"));
        finished.map(|entry| std::fs::read(entry.path()).unwrap()).collect()
    }

    /// Everything that it logged.
    pub(crate) fn log(&self) -> String {
        logs(self.folder.path())
    }

    /// One question to its REST interface.
    fn ask(&self, method: &str, place: &str, body: Option<&Value>) -> std::io::Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let login = STANDARD.encode("root:password");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            stream,
            "{method} /REST/2.0{place} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Basic {login}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (_, json) = answer.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(json).map_err(|error| std::io::Error::other(format!("{error}: {answer}")))
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn site_config(folder: &str, port: u16) -> String {
    format!(
        "Set($rtname, '{NAME}');
Set($Organization, 'example.com');
Set($WebDomain, '127.0.0.1');
Set($WebPort, {port});
Set($WebPath, '');
Set($WebBaseURL, 'http://127.0.0.1:{port}');
Set($CorrespondAddress, '{CORRESPOND}');
Set($CommentAddress, '{COMMENT}');
Set($OwnerEmail, 'owner@example.com');
Set($DatabaseType, 'SQLite');
Set($DatabaseName, '{folder}/data/rt.sqlite');
Set($MasonDataDir, '{folder}/data/mason');
Set($LogToSyslog, undef);
Set($LogToSTDERR, 'info');
Set($LogToFile, undef);
Set($MailCommand, 'sendmailpipe');
Set($SendmailPath, '{folder}/sendmail');
Set($SendmailArguments, '');
1;
"
    )
}

/// The users and rights, and a token in a file. Over REST the bridge comments, and looks for what is there already; that
/// takes ShowTicketComments.
fn initial(token: &str) -> String {
    format!(
        "@Users = ({{ Name => 'bridge', EmailAddress => 'bridge@acme.example.com', Privileged => 1 }});
@ACL = (
    (map {{ {{ GroupDomain => 'SystemInternal', GroupType => 'Everyone', Queue => 'General', Right => $_ }} }}
        qw(CreateTicket ReplyToTicket CommentOnTicket SeeQueue)),
    (map {{ {{ UserId => 'bridge', Queue => 'General', Right => $_ }} }} qw(ShowTicket ShowTicketComments)),
);
@Final = (sub {{
    my $bridge = RT::User->new(RT->SystemUser);
    $bridge->Load('bridge');
    my (undef, undef, $token) =
        RT::AuthToken->new(RT->SystemUser)->Create(Owner => $bridge->Id, Description => 'bridge');
    open my $file, '>', '{token}' or die $!;
    print $file $token;
}});
1;
"
    )
}

/// Keeps each mail in a file of its own, which has its name once it is whole, and hands it to a mail server for each
/// recipient that this takes. RT gives no recipients, so they are those of the header.
fn sendmail(folder: &str, relay: u16) -> String {
    format!(
        r#"#!/usr/bin/perl
use strict;
use File::Temp;
use Net::SMTP;
my $mail = do {{ local $/; <STDIN> }};
my $file = File::Temp->new(DIR => '{folder}', UNLINK => 0);
print $file $mail;
close $file;
rename $file->filename, $file->filename . '.eml' or die $!;
my ($header) = split /\n\n/, $mail;
my $to = join ' ', $header =~ /^(?:To|Cc|Bcc):(.*(?:\n[ \t].*)*)/mig;
my $server = Net::SMTP->new('127.0.0.1', Port => {relay}) or exit 0;
for my $address ($to =~ /[^\s<>,"]+@[^\s<>,"]+/g) {{
    $server->mail('') && $server->to($address) && $server->data($mail);
    $server->reset;
}}
$server->quit;
"#
    )
}
