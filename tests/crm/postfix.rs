//! Postfix between Aftercall and a CRM, as on an integrator's machine: it hands each mail to the CRM's gateway, and what
//! the CRM answers goes into Maildirs.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use crate::daemon::{Daemon, User, logs, need, own_id, text};

/// The folders of Postfix's queue.
const QUEUES: [&str; 13] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "private",
    "public", "saved", "trace",
];

/// The mailboxes, all of `acme.example.com`.
const MAILBOXES: [&str; 2] = [BRIDGE, ALERTS];

/// What comes back to the tenants' sender.
pub(crate) const BRIDGE: &str = "bridge";

/// What Aftercall tells a person.
pub(crate) const ALERTS: &str = "alerts";

/// A running Postfix.
pub(crate) struct Postfix {
    _daemon: Daemon,
    folder: TempDir,
    pub(crate) port: u16,
}

impl Postfix {
    /// Starts one at a port. Each address is taken, and its mail given to the command beside it.
    pub(crate) fn start(port: u16, gateways: &[(&str, String)]) -> Self {
        need("postfix", &["/usr/lib/postfix/sbin/master"]);
        let folder = User::Root.folder();
        let path = |name: &str| folder.path().join(name);
        for name in ["config", "data", "mail", "queue/pid"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in QUEUES {
            std::fs::create_dir(path("queue").join(name)).unwrap();
        }
        // Postfix delivers for anybody but root.
        let owner = if own_id() == 0 { 65_534 } else { own_id() };
        std::fs::write(path("config/main.cf"), main_cf(text(folder.path()), owner, gateways)).unwrap();
        // Postfix waits until this file is two seconds old, lest somebody is writing it still.
        let main = std::fs::File::options().write(true).open(path("config/main.cf")).unwrap();
        main.set_modified(UNIX_EPOCH).unwrap();
        std::fs::write(path("config/master.cf"), master_cf(port, gateways)).unwrap();
        std::fs::write(path("mail.log"), "").unwrap();
        let owned = [path("data"), path("queue"), path("mail.log")];
        for owned in &owned {
            User::Root.run(&["chown", "-R", "postfix", text(owned)]);
        }
        User::Root.run(&["chown", "-R", &owner.to_string(), text(&path("mail"))]);
        User::Root.run(&["chown", "root", text(&path("queue")), text(&path("queue/pid"))]);
        let config = path("config");
        let command = ["/usr/lib/postfix/sbin/master", "-c", text(&config), "-s"];
        let daemon = Daemon::start(folder.path(), User::Root, "TERM", &command);
        daemon.wait_for_greeting(port);
        Self { _daemon: daemon, folder, port }
    }

    /// How many mails it has handed to gateways.
    pub(crate) fn handed_on(&self) -> usize {
        let log = self.log();
        log.lines().filter(|line| line.contains("relay=gateway") && line.contains("status=sent")).count()
    }

    /// The Maildir of a mailbox.
    pub(crate) fn maildir(&self, mailbox: &str) -> PathBuf {
        self.folder.path().join("mail").join(mailbox)
    }

    /// Everything that it logged.
    pub(crate) fn log(&self) -> String {
        logs(self.folder.path())
    }
}

fn main_cf(folder: &str, owner: u32, gateways: &[(&str, String)]) -> String {
    let addresses = |behind: fn(usize) -> String| {
        let entries =
            gateways.iter().enumerate().map(|(at, (address, _))| format!("{address}={}", behind(at)));
        entries.collect::<Vec<_>>().join(" ")
    };
    let mailboxes = MAILBOXES.map(|name| format!("{name}@acme.example.com={name}/")).join(" ");
    let (known, ways) = (addresses(|_| "known".to_owned()), addresses(|at| format!("gateway{at}:")));
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = mx.example.com
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
local_header_rewrite_clients =
message_size_limit = 20000000
recipient_delimiter = +
virtual_mailbox_domains = crm.example.com, acme.example.com
virtual_mailbox_maps = inline:{{ {known} {mailboxes} }}
virtual_mailbox_base = {folder}/mail
virtual_minimum_uid = 1
virtual_uid_maps = static:{owner}
virtual_gid_maps = static:{owner}
smtpd_relay_restrictions = reject_unauth_destination
transport_maps = inline:{{ {ways} }}
"
    )
}

/// The processes; without pickup, since nothing comes but by SMTP, and without a client, since nothing goes elsewhere.
fn master_cf(port: u16, gateways: &[(&str, String)]) -> String {
    let gateway = |(at, (_, command)): (usize, &(&str, String))| {
        format!("gateway{at} unix - n n - 2 pipe\n  flags=R user=nobody argv={command}\n")
    };
    let gateways: String = gateways.iter().enumerate().map(gateway).collect();
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
{gateways}"
    )
}
