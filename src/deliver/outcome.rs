//! What an answer means for the message, decided in one place.

use std::fmt;

use crate::outbox::Outcome;

/// How far the dialogue had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Opening the TCP connection.
    Connect,
    /// Securing it.
    Tls,
    /// The server's first words.
    Greeting,
    /// EHLO.
    Hello,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// The message and its final dot.
    Message,
}

impl Stage {
    /// The stage's word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Hello => "hello",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decides from the stage, the reply code (none when no reply came) and whether the final dot had gone out.
///
/// A refusal before MAIL speaks of us or of the server, never of the message, so it is always for later. Without
/// a reply to the dot nobody can tell whether the server took the message (RFC 1047).
pub fn decide(stage: Stage, code: Option<u16>, dot_sent: bool) -> Outcome {
    match (stage, code) {
        (Stage::Message, Some(200..=299)) => Outcome::Accepted,
        (_, Some(400..=499)) => Outcome::Deferred,
        // RFC 4954, section 6: authentication required, too weak or to be encrypted is our fault, not the mail's.
        (_, Some(530 | 534 | 535 | 538)) => Outcome::Deferred,
        (Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Message, Some(500..=599)) => Outcome::Rejected,
        (Stage::Message, _) if dot_sent => Outcome::Uncertain,
        _ => Outcome::Deferred,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_and_answer_has_its_outcome() {
        use Outcome::{Accepted, Deferred, Rejected, Uncertain};
        let table = [
            (Stage::Connect, None, false, Deferred),
            (Stage::Tls, None, false, Deferred),
            (Stage::Greeting, Some(554), false, Deferred),
            (Stage::Greeting, Some(421), false, Deferred),
            (Stage::Hello, Some(550), false, Deferred),
            (Stage::Auth, Some(535), false, Deferred),
            (Stage::Auth, Some(454), false, Deferred),
            (Stage::Mail, Some(530), false, Deferred),
            (Stage::Mail, Some(452), false, Deferred),
            (Stage::Mail, Some(550), false, Rejected),
            (Stage::Rcpt, Some(450), false, Deferred),
            (Stage::Rcpt, Some(550), false, Rejected),
            (Stage::Rcpt, None, false, Deferred),
            (Stage::Data, Some(451), false, Deferred),
            (Stage::Data, Some(554), false, Rejected),
            (Stage::Data, Some(250), false, Deferred),
            (Stage::Message, Some(250), true, Accepted),
            (Stage::Message, Some(451), true, Deferred),
            (Stage::Message, Some(421), true, Deferred),
            (Stage::Message, Some(552), true, Rejected),
            (Stage::Message, Some(554), true, Rejected),
            (Stage::Message, Some(354), true, Uncertain),
            (Stage::Message, None, true, Uncertain),
            (Stage::Message, None, false, Deferred),
        ];
        for (stage, code, dot_sent, outcome) in table {
            assert_eq!(decide(stage, code, dot_sent), outcome, "{stage} {code:?} {dot_sent}");
        }
    }
}
