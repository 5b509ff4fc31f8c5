//! What a delivery carries: a mail, or a note for the CRM's record.

use super::engine::Arg;
use crate::compose::Composed;
use crate::config::tenant::Channel;
use crate::ids::Digest;
use crate::record::note::Note;

/// What a delivery carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A mail, with its envelope.
    Mail(Composed),
    /// A note, which takes the session file with it.
    Note(Box<Note>),
}

impl Message {
    /// The way that it goes.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Mail(_) => Channel::Email,
            Self::Note(_) => Channel::Record,
        }
    }

    /// Where to: an address, or the CRM.
    pub fn target(&self) -> &str {
        match self {
            Self::Mail(mail) => mail.recipient.as_str(),
            Self::Note(note) => &note.target,
        }
    }

    /// The Message-ID without brackets, or the external id.
    pub fn id(&self) -> &str {
        match self {
            Self::Mail(mail) => &mail.message_id,
            Self::Note(note) => &note.external_id,
        }
    }

    /// The envelope's sender; a note has none.
    pub fn envelope_from(&self) -> &str {
        match self {
            Self::Mail(mail) => mail.envelope_from.as_str(),
            Self::Note(_) => "",
        }
    }

    /// The digest of what the store keeps of it and would send.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Mail(mail) => Digest::of(&mail.wire),
            Self::Note(note) => Digest::of(&note.to_bytes()),
        }
    }

    /// Gives `keep` its two columns: the octets before the session file's, and those behind them, which a note and a
    /// mail without attachment do not have.
    pub(super) fn columns<T>(&self, raw: &[u8], keep: impl FnOnce(&[u8], Arg<'_>) -> T) -> T {
        match self {
            Self::Mail(mail) => {
                let (head, tail) = mail.around_attachment(raw);
                keep(head, tail.map_or(Arg::Null, Arg::Bytes))
            }
            Self::Note(note) => keep(&note.to_bytes(), Arg::Null),
        }
    }
}
