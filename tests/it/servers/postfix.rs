//! Postfix as a CRM's relay: STARTTLS, a password, mailboxes in Maildir form, and a bounce for one that is full.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::dovecot::{Dovecot, LOGIN};
use super::{Daemon, User, free_port, logs, maildir, need, own_id, text};
use crate::support::{Site, TenantFile, until};

/// The largest message that it takes, and the size at which a mailbox is full.
pub(super) const MOST_OCTETS: usize = 300_000;

/// Takes the mails of `support@crm.example.com`.
pub(super) const CRM: &str = "support";

/// Takes what comes back to `bridge@acme.example.com`, with any extension.
pub(super) const BOUNCES: &str = "bridge";

/// Takes the mails of `staff@crm.example.com`, a person.
pub(super) const STAFF: &str = "staff";

/// An address that is known and has no room.
pub(super) const FULL: &str = "full@crm.example.com";

/// The folders of Postfix's queue. `postfix check` makes them too, in two seconds.
const QUEUES: [&str; 13] = [
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "private",
    "public", "saved", "trace",
];

/// A Postfix with a Dovecot for its passwords.
pub(super) struct Postfix {
    daemon: Option<Daemon>,
    _dovecot: Dovecot,
    folder: TempDir,
    pub(super) port: u16,
    /// The certificate of its authority.
    pub(super) authority: String,
}

impl Postfix {
    /// Starts one that offers AUTH with these mechanisms, under TLS only.
    pub(super) fn start(mechanisms: &str) -> Self {
        Self::start_with(mechanisms, "")
    }

    /// The same with these lines behind main.cf; one that begins with `#` is of master.cf.
    pub(super) fn start_with(mechanisms: &str, more: &str) -> Self {
        need("postfix", &["/usr/lib/postfix/sbin/master"]);
        let dovecot = Dovecot::start(mechanisms);
        let (folder, port) = (User::Root.folder(), free_port());
        let path = |name: &str| folder.path().join(name);
        for name in ["config", "data", "mail", "queue/pid"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        for name in QUEUES {
            std::fs::create_dir(path("queue").join(name)).unwrap();
        }
        let Certified { authority, server } = certified("127.0.0.1");
        std::fs::write(path("server.pem"), server).unwrap();
        let owner = owner();
        let main = main_cf(folder.path(), &dovecot.socket(), owner) + more + "\n";
        std::fs::write(path("config/main.cf"), main).unwrap();
        // Postfix waits until this file is two seconds old, lest somebody is writing it still.
        let main = std::fs::File::options().write(true).open(path("config/main.cf")).unwrap();
        main.set_modified(UNIX_EPOCH).unwrap();
        std::fs::write(path("config/master.cf"), master_cf(port, more)).unwrap();
        // Postfix would make it for itself only.
        std::fs::write(path("mail.log"), "").unwrap();
        std::fs::write(path("mail/full"), vec![b'\n'; MOST_OCTETS]).unwrap();
        User::Root.run(&["chown", "-R", &format!("{owner}"), text(&path("mail"))]);
        User::Root.run(&[
            "chown",
            "-R",
            "postfix",
            text(&path("data")),
            text(&path("queue")),
            text(&path("mail.log")),
        ]);
        User::Root.run(&["chown", "root", text(&path("queue")), text(&path("queue/pid"))]);
        let mut postfix = Self { daemon: None, _dovecot: dovecot, folder, port, authority };
        postfix.run();
        postfix
    }

    /// Starts it, again where it was stopped: same port, same queue.
    pub(super) fn run(&mut self) {
        let config = self.folder.path().join("config");
        let command = ["/usr/lib/postfix/sbin/master", "-c", text(&config), "-s"];
        let daemon = Daemon::start(self.folder.path(), User::Root, "TERM", &command);
        daemon.wait_for_greeting(self.port);
        self.daemon = Some(daemon);
    }

    /// Stops it at once, whatever it is at.
    pub(super) fn stop(&mut self) {
        self.daemon.take().unwrap().stop();
    }

    /// Everything that it logged.
    pub(super) fn log(&self) -> String {
        logs(self.folder.path())
    }

    /// Where it keeps the mails of a mailbox.
    pub(super) fn place(&self, mailbox: &str) -> PathBuf {
        self.folder.path().join("mail").join(mailbox)
    }

    /// Makes a mailbox before its first mail comes, for whoever reads it, and says where it is.
    pub(super) fn mailbox(&self, mailbox: &str) -> PathBuf {
        let place = self.place(mailbox);
        for folder in ["new", "cur", "tmp"] {
            std::fs::create_dir_all(place.join(folder)).unwrap();
        }
        User::Root.run(&["chown", "-R", &owner().to_string(), text(&place)]);
        place
    }

    /// The mails in a mailbox as their server keeps them.
    pub(super) fn stored(&self, mailbox: &str) -> Vec<Vec<u8>> {
        maildir(&self.place(mailbox))
    }

    /// Waits for so many mails in a mailbox.
    pub(super) fn wait_for(&self, mailbox: &str, count: usize) -> Vec<Vec<u8>> {
        let what = format!("{count} mails for {mailbox}");
        until(&what, || Some(self.stored(mailbox)).filter(|mails| mails.len() >= count))
    }

    /// A configuration whose tenant sends through this relay and may do so. `tenant` has the rest.
    pub(super) fn site(&self, tenant: &TenantFile<'_>) -> Site {
        let relay = format!(
            "host = \"127.0.0.1\"\nca_file = \"ca.pem\"\nuser = \"{}\"\npassword = {{ file = \"password\" }}",
            LOGIN.0
        );
        let site = Site::new(self.port, &TenantFile { relay: &relay, ..*tenant });
        site.write("config/ca.pem", self.authority.as_bytes());
        site.write("config/password", LOGIN.1.as_bytes());
        site
    }
}

impl Drop for Postfix {
    #[expect(
        clippy::print_stderr,
        reason = "whoever reads of a failed test wants to know what Postfix thought of it"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A certificate authority, and a server's key with the certificate that it gave.
pub(super) struct Certified {
    pub(super) authority: String,
    pub(super) server: String,
}

/// A new authority that vouches for a server of this name.
pub(super) fn certified(name: &str) -> Certified {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certified { authority, server: key.serialize_pem() + &leaf.pem() }
}

/// Whose the mailboxes are: Postfix delivers for anybody but root.
fn owner() -> u32 {
    if own_id() == 0 { 65_534 } else { own_id() }
}

fn main_cf(folder: &Path, auth_socket: &Path, owner: u32) -> String {
    let (folder, auth_socket) = (text(folder), text(auth_socket));
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = mx.example.com
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
local_header_rewrite_clients =
recipient_delimiter = +
message_size_limit = {MOST_OCTETS}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {folder}/server.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth_socket}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
virtual_transport = virtual
virtual_mailbox_domains = crm.example.com, acme.example.com
virtual_mailbox_base = {folder}/mail
virtual_mailbox_limit = {MOST_OCTETS}
virtual_mailbox_maps = inline:{{ {CRM}@crm.example.com={CRM}/ {BOUNCES}@acme.example.com={BOUNCES}/ {STAFF}@crm.example.com={STAFF}/ {FULL}=full }}
virtual_minimum_uid = 1
virtual_uid_maps = static:{owner}
virtual_gid_maps = static:65534
"
    )
}

/// The processes; without pickup, since nothing comes but by SMTP, and without a client, since nothing goes on.
fn master_cf(port: u16, more: &str) -> String {
    let own: String = more.lines().filter_map(|line| line.strip_prefix('#')).collect();
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
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
{own}
"
    )
}
