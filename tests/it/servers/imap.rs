//! Dovecot as the server of a mailbox: IMAP, with a Maildir that mails are put into. The measurements use it too.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::daemon::{Daemon, User, free_port, need, text};
use crate::waiting::until;

/// The only user and the password.
pub(crate) const LOGIN: (&str, &str) = ("bounces", "dented-nickel-6620");

/// A running IMAP server.
pub(crate) struct Imap {
    daemon: Option<Daemon>,
    folder: TempDir,
    user: User,
    /// The port with TLS from the first byte.
    pub(crate) implicit: u16,
    /// The port with STARTTLS, or in the clear.
    pub(crate) plain: u16,
}

impl Imap {
    /// Starts one with this certificate and key in PEM; without them, it talks in the clear.
    pub(crate) fn start(certificate: Option<&str>) -> Self {
        Self::start_with(certificate, "")
    }

    /// The same with these lines behind its configuration.
    pub(crate) fn start_with(certificate: Option<&str>, more: &str) -> Self {
        need("dovecot-imapd", &["/usr/lib/dovecot/imap"]);
        let user = User::Any("dovecot");
        let folder = user.folder();
        std::fs::write(folder.path().join("server.pem"), certificate.unwrap_or_default()).unwrap();
        let (login, password) = LOGIN;
        std::fs::write(folder.path().join("users"), format!("{login}:{{PLAIN}}{password}\n")).unwrap();
        let (implicit, plain) = (free_port(), free_port());
        let mut imap = Self { daemon: None, folder, user, implicit, plain };
        std::fs::write(imap.path("dovecot.conf"), imap.configuration(certificate.is_some()) + more).unwrap();
        for place in ["new", "cur", "tmp"] {
            imap.user.run(&["mkdir", "-p", text(&imap.path("mail").join(place))]);
        }
        imap.run();
        imap
    }

    pub(crate) fn run(&mut self) {
        let program = need("dovecot-core", &["/usr/sbin/dovecot"]);
        let config = self.path("dovecot.conf");
        let command = [text(&program), "-F", "-c", text(&config)];
        let daemon = Daemon::start(self.folder.path(), self.user, "KILL", &command);
        until("Dovecot", || {
            daemon.check();
            std::net::TcpStream::connect(("127.0.0.1", self.plain)).ok()
        });
        self.daemon = Some(daemon);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts mails into the inbox, as a mail server does.
    pub(crate) fn deliver(&self, mails: impl IntoIterator<Item = String>) {
        self.deliver_to("mail", mails);
    }

    pub(crate) fn deliver_to(&self, folder: &str, mails: impl IntoIterator<Item = String>) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        for mail in mails {
            let name = format!("{:010}.M1.host", 1_700_000_000 + COUNT.fetch_add(1, Ordering::Relaxed));
            let (tmp, new) =
                (self.path(folder).join("tmp").join(&name), self.path(folder).join("new").join(&name));
            std::fs::write(&tmp, mail).unwrap();
            std::fs::rename(tmp, new).unwrap();
        }
    }

    fn configuration(&self, has_tls: bool) -> String {
        let tls = if has_tls {
            "ssl = required\nssl_cert = <{folder}/server.pem\nssl_key = <{folder}/server.pem"
        } else {
            "ssl = no\ndisable_plaintext_auth = no"
        };
        let id = |flags| self.user.run(&["id", flags]).trim().to_owned();
        let (name, group, uid, gid) = (id("-un"), id("-gn"), id("-u"), id("-g"));
        let ssl = if has_tls { "yes" } else { "no" };
        let tls = tls.replace("{folder}", text(self.folder.path()));
        let (folder, implicit, plain) = (text(self.folder.path()), self.implicit, self.plain);
        format!(
            "base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
{tls}
default_internal_user = {name}
default_internal_group = {group}
default_login_user = {name}
first_valid_uid = 1
mail_location = maildir:{folder}/mail
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder} allow_all_users=yes
}}
service auth {{
  user = {name}
}}
service auth-worker {{
  user = {name}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {plain}
  }}
  inet_listener imaps {{
    port = {implicit}
    ssl = {ssl}
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"
        )
    }
}

impl Drop for Imap {
    #[expect(
        clippy::print_stderr,
        reason = "whoever reads of a failed test wants to know what Dovecot thought of it"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", super::daemon::logs(self.folder.path()));
        }
    }
}
