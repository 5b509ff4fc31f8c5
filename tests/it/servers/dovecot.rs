//! Dovecot, which tells Postfix whose password is right.

use std::path::PathBuf;

use tempfile::TempDir;

use super::{Daemon, User, need, text};
use crate::support::until;

/// The only user that Dovecot knows, and the password.
pub(super) const LOGIN: (&str, &str) = ("bridge", "plain-pewter-4471");

/// A running authentication server.
pub(super) struct Dovecot {
    daemon: Daemon,
    folder: TempDir,
}

impl Dovecot {
    /// Starts one that offers these mechanisms.
    pub(super) fn start(mechanisms: &str) -> Self {
        let program = need("dovecot-core", &["/usr/sbin/dovecot"]);
        let user = User::Any("dovecot");
        let folder = user.folder();
        // Dovecot gives each of its processes a user by name, and without root that can only be its own.
        let (name, group) = (user.run(&["id", "-un"]), user.run(&["id", "-gn"]));
        let config = folder.path().join("dovecot.conf");
        std::fs::write(&config, configuration(text(folder.path()), name.trim(), group.trim(), mechanisms))
            .unwrap();
        let (login, password) = LOGIN;
        std::fs::write(folder.path().join("users"), format!("{login}:{{PLAIN}}{password}\n")).unwrap();
        let daemon = Daemon::start(folder.path(), user, "KILL", &[text(&program), "-F", "-c", text(&config)]);
        let dovecot = Self { daemon, folder };
        until("Dovecot's socket", || {
            dovecot.daemon.check();
            dovecot.socket().exists().then_some(())
        });
        dovecot
    }

    /// Where Postfix asks.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/auth-client")
    }
}

/// Nobody may count wrong passwords (`anvil-auth-penalty`), since each makes the next login wait for seconds.
fn configuration(folder: &str, user: &str, group: &str, mechanisms: &str) -> String {
    format!(
        "base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/dovecot.log
protocols =
ssl = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service auth {{
  user = {user}
  unix_listener auth-client {{
    mode = 0666
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
