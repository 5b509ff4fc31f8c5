//! Postfix between Aftercall and a CRM: it hands each mail to the CRM's gateway, as on an integrator's machine.

use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use crate::daemon::{Daemon, User, free_port, logs, need, text};

/// The folders of Postfix's queue.
const QUEUES: [&str; 13] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "private",
    "public", "saved", "trace",
];

/// A running Postfix.
pub(crate) struct Postfix {
    _daemon: Daemon,
    folder: TempDir,
    pub(crate) port: u16,
}

impl Postfix {
    /// Starts one. Each address is taken, and its mail given to the command beside it.
    pub(crate) fn start(gateways: &[(&str, String)]) -> Self {
        need("postfix", &["/usr/lib/postfix/sbin/master"]);
        let (folder, port) = (User::Root.folder(), free_port());
        let path = |name: &str| folder.path().join(name);
        for name in ["config", "data", "queue/pid"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in QUEUES {
            std::fs::create_dir(path("queue").join(name)).unwrap();
        }
        std::fs::write(path("config/main.cf"), main_cf(text(folder.path()), gateways)).unwrap();
        // Postfix waits until this file is two seconds old, lest somebody is writing it still.
        let main = std::fs::File::options().write(true).open(path("config/main.cf")).unwrap();
        main.set_modified(UNIX_EPOCH).unwrap();
        std::fs::write(path("config/master.cf"), master_cf(port, gateways)).unwrap();
        std::fs::write(path("mail.log"), "").unwrap();
        let owned = [path("data"), path("queue"), path("mail.log")];
        for owned in &owned {
            User::Root.run(&["chown", "-R", "postfix", text(owned)]);
        }
        User::Root.run(&["chown", "root", text(&path("queue")), text(&path("queue/pid"))]);
        let config = path("config");
        let command = ["/usr/lib/postfix/sbin/master", "-c", text(&config), "-s"];
        let daemon = Daemon::start(folder.path(), User::Root, "TERM", &command);
        daemon.wait_for_greeting(port);
        Self { _daemon: daemon, folder, port }
    }

    /// How many mails it has handed on.
    pub(crate) fn handed_on(&self) -> usize {
        self.log().matches("status=sent").count()
    }

    /// Everything that it logged.
    pub(crate) fn log(&self) -> String {
        logs(self.folder.path())
    }
}

fn main_cf(folder: &str, gateways: &[(&str, String)]) -> String {
    let addresses = |behind: fn(usize) -> String| {
        let entries =
            gateways.iter().enumerate().map(|(at, (address, _))| format!("{address}={}", behind(at)));
        entries.collect::<Vec<_>>().join(" ")
    };
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
virtual_mailbox_domains = crm.example.com
virtual_mailbox_maps = inline:{{ {known} }}
transport_maps = inline:{{ {ways} }}
"
    )
}

/// The processes; without pickup, since nothing comes but by SMTP, and without a client, since nothing goes on.
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
postlog unix-dgram n - n - 1 postlogd
{gateways}"
    )
}
