//! Where mail comes back: an IMAP folder ([`imap`]), a Maildir ([`maildir`]), or a server that hands it over
//! ([`lmtp`]).
//!
//! Mails are raw octets here, nobody looks into them. A [`Reader`] is asked for mails in small groups; each group is
//! settled in its mailbox, as taken, only after its caller has stored it. So a mail is in the mailbox, in the store,
//! or in both, at every moment. Nothing here knows the store.

pub mod imap;
pub mod lmtp;
pub mod maildir;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// How many mails are in one group, and of how many octets together; a larger one is alone.
const AT_ONCE: usize = 64;
const OCTETS_AT_ONCE: usize = 4_000_000;
/// The most octets of a head that is kept of a mail that is not.
const HEAD: usize = 64 * 1024;

/// A mail as it was found in a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// What it is called there, for people.
    pub name: String,
    /// Its octets; the head, or nothing, where there is a fault.
    pub raw: Vec<u8>,
    /// Why it was not taken whole.
    pub fault: Option<String>,
}

/// How far an IMAP folder was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which folder of which server.
    pub place: String,
    /// Which numbering of its mails (RFC 3501, section 2.3.1.1).
    pub uid_validity: u32,
    /// The last number that was read.
    pub last_uid: u32,
}

/// Why a mailbox cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server cannot be reached, or the connection cannot go on.
    #[error("{doing}: {text}")]
    Lost {
        /// What was tried.
        doing: &'static str,
        /// What came of it.
        text: String,
    },
    /// The server does not do what was asked; the connection is as good as before.
    #[error("{doing}: the server refused: {text}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// The server's words.
        text: String,
    },
    /// A folder or a socket of the file system cannot be used.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Fault {
    fn lost(doing: &'static str, reason: &dyn std::fmt::Display) -> Self {
        Self::Lost { doing, text: printable(&reason.to_string()) }
    }
}

/// A server's words, cut and without control characters: they reach logs and terminals.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The head of a mail: what stands before the first empty line, as far as it is kept.
pub fn head(raw: &[u8]) -> &[u8] {
    let raw = &raw[..raw.len().min(HEAD)];
    let ends = [memchr::memmem::find(raw, b"\n\n"), memchr::memmem::find(raw, b"\n\r\n")];
    ends.into_iter().flatten().min().map_or(raw, |end| &raw[..=end])
}

/// The reason that stands beside a head.
pub fn too_large(octets: u64, limit: usize) -> String {
    format!("the mail has {octets} octets, more than {limit}; only its head is kept")
}

/// Reads one mailbox.
pub enum Reader {
    /// An IMAP folder.
    Imap(Box<imap::Reader>),
    /// A Maildir.
    Maildir(maildir::Reader),
}

impl Reader {
    /// Looks what is new. For IMAP this connects, if need be.
    pub async fn look(&mut self) -> Result<(), Fault> {
        match self {
            Self::Imap(reader) => reader.look().await,
            Self::Maildir(reader) => reader.look(),
        }
    }

    /// The next group of new mails; empty when there are no more.
    pub async fn fetch(&mut self) -> Result<Vec<Mail>, Fault> {
        match self {
            Self::Imap(reader) => reader.fetch().await,
            Self::Maildir(reader) => reader.fetch(),
        }
    }

    /// Settles the last group in the mailbox: all of it is stored. Where a server refuses, the rest can still be
    /// fetched and stored; [`Reader::finish`] then tells why.
    pub async fn settle(&mut self) -> Result<(), Fault> {
        match self {
            Self::Imap(reader) => reader.settle().await,
            Self::Maildir(reader) => reader.settle(),
        }
    }

    /// How far everything is stored and settled; none where the mailbox itself tells.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Imap(reader) => reader.position(),
            Self::Maildir(_) => None,
        }
    }

    /// Ends a look: tells what could not be done about the mailbox meanwhile.
    pub fn finish(&mut self) -> Result<(), Fault> {
        match self {
            Self::Imap(reader) => reader.finish(),
            Self::Maildir(reader) => reader.finish(),
        }
    }

    /// Waits until there may be something new, at most for so long.
    pub async fn wait(&mut self, poll: Duration) -> Result<(), Fault> {
        match self {
            Self::Imap(reader) => reader.wait(poll).await,
            Self::Maildir(_) => {
                sleep(poll).await;
                Ok(())
            }
        }
    }

    /// Takes leave of the server, where there is one.
    pub async fn close(&mut self) {
        if let Self::Imap(reader) = self {
            reader.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_before_the_first_empty_line_and_has_a_bound() {
        let long = vec![b'x'; HEAD + 1];
        let table: [(&[u8], &[u8]); 6] = [
            (b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\n", b"A: 1\r\nB: 2\r\n"),
            (b"A: 1\nB: 2\n\nbody", b"A: 1\nB: 2\n"),
            (b"A: 1\r\n", b"A: 1\r\n"),
            (b"", b""),
            (b"A: 1\n\r\nb\n\n", b"A: 1\n"),
            (&long, &long[..HEAD]),
        ];
        for (raw, wanted) in table {
            assert_eq!(head(raw), wanted);
        }
    }
}
