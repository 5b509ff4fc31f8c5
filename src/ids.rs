//! The names of things: what a session, a revision, a delivery and an inbound are called everywhere.
//!
//! No I/O, no rules; only shapes, how they are written and how they are read back.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Which kind of interaction a session is. Calls and chats are numbered separately by the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A voice session.
    Call,
    /// A messaging session.
    Chat,
}

impl Kind {
    /// The word used in file names, keys and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Chat => "chat",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = UnreadableName;

    fn from_str(s: &str) -> Result<Self, UnreadableName> {
        match s {
            "call" => Ok(Self::Call),
            "chat" => Ok(Self::Chat),
            _ => Err(UnreadableName::new("session kind", s)),
        }
    }
}

/// A session's name inside one platform instance: `call-41207`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName {
    /// Call or chat.
    pub kind: Kind,
    /// The platform's number, unique for the instance and the kind.
    pub number: u64,
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind, self.number)
    }
}

impl FromStr for SessionName {
    type Err = UnreadableName;

    fn from_str(s: &str) -> Result<Self, UnreadableName> {
        let unreadable = || UnreadableName::new("session (call-NUMBER or chat-NUMBER)", s);
        let (kind, number) = s.split_once('-').ok_or_else(unreadable)?;
        let kind = kind.parse().map_err(|_| unreadable())?;
        let number = number.parse().map_err(|_| unreadable())?;
        Ok(Self { kind, number })
    }
}

/// A session's whole key: tenant, platform instance and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The tenant whose folder or command brought the session.
    pub tenant: String,
    /// The platform instance that counts the sessions.
    pub instance: String,
    /// Kind and number.
    pub name: SessionName,
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

/// A delivery's number in the outbox, as the operator types it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub i64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a mail that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundId(pub i64);

impl fmt::Display for InboundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A SHA-256 of some bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several parts, each preceded by its length so that no two lists of parts collide.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct UnreadableName {
    what: &'static str,
    text: String,
}

impl UnreadableName {
    /// `text` is not a `what`.
    pub fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_reads_back_as_it_is_written() {
        for text in ["call-41207", "chat-1", "call-18446744073709551615"] {
            assert_eq!(text.parse::<SessionName>().unwrap().to_string(), text);
        }
        for text in ["call", "call-", "mail-3", "call-x", "call--3", "41207", ""] {
            assert!(text.parse::<SessionName>().is_err(), "{text} was taken for a session");
        }
    }

    #[test]
    fn parts_are_not_confused_with_their_concatenation() {
        assert_ne!(Digest::of_parts(&[b"ab", b"c"]), Digest::of_parts(&[b"a", b"bc"]));
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // FIPS 180-2, appendix B.1
        );
    }
}
