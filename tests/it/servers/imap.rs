//! Dovecot as the server of a mailbox: IMAP under TLS, with a Maildir that the tests put mails into.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::postfix::{Certified, certified};
use super::{Daemon, User, free_port, need, text};
use crate::support::{Site, until};

/// The only user and the password.
pub(super) const LOGIN: (&str, &str) = ("bounces", "dented-nickel-6620");

/// A running IMAP server.
pub(super) struct Imap {
    daemon: Option<Daemon>,
    folder: TempDir,
    user: User,
    pub(super) implicit: u16,
    pub(super) starttls: u16,
    authority: String,
}

impl Imap {
    pub(super) fn start() -> Self {
        need("dovecot-imapd", &["/usr/lib/dovecot/imap"]);
        let user = User::Any("dovecot");
        let folder = user.folder();
        let Certified { authority, server } = certified("127.0.0.1");
        std::fs::write(folder.path().join("server.pem"), server).unwrap();
        let (login, password) = LOGIN;
        std::fs::write(folder.path().join("users"), format!("{login}:{{PLAIN}}{password}\n")).unwrap();
        let (implicit, starttls) = (free_port(), free_port());
        let mut imap = Self { daemon: None, folder, user, implicit, starttls, authority };
        std::fs::write(imap.path("dovecot.conf"), imap.configuration()).unwrap();
        for place in ["new", "cur", "tmp"] {
            imap.user.run(&["mkdir", "-p", text(&imap.path("mail").join(place))]);
        }
        imap.run();
        imap
    }

    pub(super) fn run(&mut self) {
        let program = need("dovecot-core", &["/usr/sbin/dovecot"]);
        let config = self.path("dovecot.conf");
        let command = [text(&program), "-F", "-c", text(&config)];
        let daemon = Daemon::start(self.folder.path(), self.user, "KILL", &command);
        until("Dovecot", || {
            daemon.check();
            std::net::TcpStream::connect(("127.0.0.1", self.starttls)).ok()
        });
        self.daemon = Some(daemon);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts mails into the inbox, as a mail server does.
    pub(super) fn deliver(&self, mails: impl IntoIterator<Item = String>) {
        self.deliver_to("mail", mails);
    }

    pub(super) fn deliver_to(&self, folder: &str, mails: impl IntoIterator<Item = String>) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        for mail in mails {
            let name = format!("{:010}.M1.host", 1_700_000_000 + COUNT.fetch_add(1, Ordering::Relaxed));
            let (tmp, new) =
                (self.path(folder).join("tmp").join(&name), self.path(folder).join("new").join(&name));
            std::fs::write(&tmp, mail).unwrap();
            std::fs::rename(tmp, new).unwrap();
        }
    }

    /// A site that reads this mailbox; `port` is one of ours, `more` further keys of `[mailboxes.imap]`.
    pub(super) fn site(&self, port: u16, more: &str) -> Site {
        let tls = if port == self.implicit { "implicit" } else { "starttls" };
        let site = crate::inbox::site(&format!(
            "[[mailboxes]]\nname = \"bounces\"\npoll = \"30s\"\nmessage_bytes = 20000\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {port}\n\
             tls = \"{tls}\"\nca_file = \"ca.pem\"\nuser = \"{}\"\npassword = {{ file = \"password\" }}\nreply_timeout = \"20s\"\n{more}\n",
            LOGIN.0
        ));
        site.write("config/ca.pem", self.authority.as_bytes());
        site.write("config/password", LOGIN.1.as_bytes());
        site
    }

    fn configuration(&self) -> String {
        let id = |flags| self.user.run(&["id", flags]).trim().to_owned();
        let (name, group, uid, gid) = (id("-un"), id("-gn"), id("-u"), id("-g"));
        let (folder, implicit, starttls) = (text(self.folder.path()), self.implicit, self.starttls);
        format!(
            "base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.pem
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
  args = uid={uid} gid={gid} home={folder}
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
    port = {starttls}
  }}
  inet_listener imaps {{
    port = {implicit}
    ssl = yes
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
