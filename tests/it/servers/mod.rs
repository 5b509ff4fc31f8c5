//! Real servers from Debian's packages. Each has a temporary folder and free ports of loopback for itself; no server
//! of the system is touched.

mod bounces;
mod daemon;
mod dovecot;
mod exim;
mod imap;
mod instances;
mod mailboxes;
mod outages;
mod postfix;
pub(crate) mod postgres;
mod returns;
mod submission;

use std::path::Path;

use daemon::{Daemon, logs, need, own_id, text};
pub(crate) use daemon::{User, free_port};

/// The mails in a Maildir, as their server keeps them.
fn maildir(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder.join("new")).into_iter().flatten().flatten();
    entries.map(|entry| std::fs::read(entry.path()).unwrap()).collect()
}

/// The headers with which servers say which way a mail came.
const TRACE: [&str; 4] = ["Return-Path:", "X-Original-To:", "Delivered-To:", "Received:"];

/// A stored mail as it came: with the line ends of the wire, and without the trace headers above its own.
fn as_sent(stored: &[u8]) -> String {
    let stored = std::str::from_utf8(stored).unwrap();
    let mut is_trace = true;
    let own = stored.lines().skip_while(|line| {
        let is_folded = line.starts_with([' ', '\t']);
        is_trace &= is_folded || TRACE.iter().any(|name| line.starts_with(name));
        is_trace
    });
    own.flat_map(|line| [line, "\r\n"]).collect()
}
