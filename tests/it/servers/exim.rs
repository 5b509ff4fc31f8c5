//! Exim, a second mail server of another family: it must get the same bytes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Daemon, User, as_sent, free_port, maildir, need, text};
use crate::support::{Site, TenantFile, call, sample, until};

/// The user whose name is built into Debian's Exim. As root it would need to be installed with more rights.
const USER: User = User::Only("Debian-exim");

/// A running Exim. It takes mail for anybody but `perm@`, whom it does not know, and `temp@`, whom it puts off
/// until there is a file `open`.
struct Exim {
    _daemon: Daemon,
    folder: TempDir,
    port: u16,
}

impl Exim {
    fn start() -> Self {
        // Debian lets only one mail server be installed; .ci/run unpacks this one beside Postfix.
        let program = need("exim4-daemon-light", &["/usr/sbin/exim4", "/opt/exim4/usr/sbin/exim4"]);
        let (folder, port) = (USER.folder(), free_port());
        // For Exim and for whoever runs the tests.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let config = folder.path().join("exim.conf");
        std::fs::write(&config, configuration(text(&program), text(folder.path()), port)).unwrap();
        let daemon =
            Daemon::start(folder.path(), USER, "TERM", &[text(&program), "-C", text(&config), "-bdf"]);
        daemon.wait_for_greeting(port);
        Self { _daemon: daemon, folder, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for so many mails.
    fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        let mails = || Some(maildir(&self.path("mail"))).filter(|mails| mails.len() >= count);
        until(&format!("{count} mails"), mails)
    }

    /// A site that sends to this address.
    fn site(&self, recipient: &str) -> Site {
        let recipient = format!("address = \"{recipient}\"");
        Site::new(self.port, &TenantFile { recipient: &recipient, ..TenantFile::default() })
    }
}

fn configuration(program: &str, folder: &str, port: u16) -> String {
    format!(
        "exim_path = {program}
spool_directory = {folder}/spool
log_file_path = {folder}/%s.log
primary_hostname = mx.example.com
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
tls_advertise_hosts =
host_lookup =
keep_environment =
deliver_drop_privilege = true
acl_smtp_rcpt = recipient

begin acl
recipient:
  deny local_parts = perm
       message = 5.1.1 no such mailbox
  defer local_parts = temp
        condition = ${{if exists{{{folder}/open}}{{no}}{{yes}}}}
        message = 4.2.0 greylisted, try again
  accept

begin routers
everybody:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = {folder}/mail
  mode = 0644
  directory_mode = 0755
"
    )
}

#[test]
fn exim_keeps_the_bytes_that_stand_in_the_outbox() {
    let exim = Exim::start();
    let site = exim.site("support@crm.example.com");
    let names = ["call-50119.json", "chat-7306.json", "hostile.json"].map(sample);
    let files = names.iter().map(|path| text(path));
    site.run(&["send"].into_iter().chain(files).collect::<Vec<_>>()).with_code(0);
    let mut arrived: Vec<String> = exim.wait_for(names.len()).iter().map(|mail| as_sent(mail)).collect();
    let mail = |id: String| site.run(&["log", "mail", &id, "--source"]).with_code(0).out;
    let mut sent: Vec<String> = site.deliveries().iter().map(|row| mail(row.id.to_string())).collect();
    arrived.sort();
    sent.sort();
    assert_eq!(arrived, sent);
}

#[test]
fn a_mail_that_exim_puts_off_goes_out_when_it_is_taken() {
    let exim = Exim::start();
    let site = exim.site("temp@crm.example.com");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(75);
    assert_eq!(site.states(), ["deferred"]);
    std::fs::write(exim.path("open"), "").unwrap();
    site.run(&["outbox", "retry", "1"]).with_code(0);
    let serve = site.serve();
    until("the mail to be accepted", || (site.states() == ["accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    assert_eq!(exim.wait_for(1).len(), 1);
    let attempts = site.attempts("call-1");
    let seen: Vec<_> = attempts.iter().map(|attempt| (attempt.stage.as_deref(), attempt.code)).collect();
    assert_eq!(seen, [(Some("rcpt"), Some(451)), (Some("message"), Some(250))], "{attempts:?}");
    assert!(attempts[0].answer.as_deref().unwrap().contains("greylisted"), "{attempts:?}");
    // Exim names a mail too.
    assert!(attempts[1].answer.as_deref().unwrap().contains("OK id="), "{attempts:?}");
}

#[test]
fn a_mail_that_exim_refuses_is_not_sent_again() {
    let exim = Exim::start();
    let site = exim.site("perm@crm.example.com");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(1);
    assert_eq!(site.states(), ["rejected"]);
    let attempt = site.attempts("call-1").remove(0);
    assert_eq!((attempt.stage.as_deref(), attempt.code), (Some("rcpt"), Some(550)), "{attempt:?}");
    assert!(attempt.answer.as_deref().unwrap().contains("no such mailbox"), "{attempt:?}");
}
