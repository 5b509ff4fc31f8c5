//! Postfix's own measure of mail servers' clients: a server that takes everything and keeps nothing.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use crate::support::Result;

/// A running `smtp-sink`; it ends when dropped.
pub(crate) struct SmtpSink {
    child: Child,
    pub(crate) port: u16,
}

impl SmtpSink {
    pub(crate) fn start() -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        // It wants to run as somebody else only when it is started by root.
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0;
        let user: &[&str] = if is_root { &["-u", "nobody"] } else { &[] };
        let mut command = Command::new("/usr/sbin/smtp-sink");
        let mut child = command.args(user).args([&format!("127.0.0.1:{port}"), "1000"]).spawn()?;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("smtp-sink ended with {status}").into());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(Self { child, port })
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
