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

/// Decides from the stage, the reply code and enhanced code (none when no reply came, or it had none), and whether
/// the final dot had gone out.
///
/// A refusal before MAIL speaks of us or of the server, never of the message, so it is always for later. Without
/// a reply to the dot nobody can tell whether the server took the message (RFC 1047).
pub fn decide(stage: Stage, code: Option<u16>, enhanced: Option<&str>, dot_sent: bool) -> Outcome {
    match (stage, code) {
        (Stage::Message, Some(200..=299)) => Outcome::Accepted,
        (_, Some(400..=499)) => Outcome::Deferred,
        // RFC 4954, section 6: authentication required, too weak or to be encrypted is our fault, not the mail's.
        (_, Some(530 | 534 | 535 | 538)) => Outcome::Deferred,
        // RFC 3463, section 3.5: congestion. Gmail says so of a sender's daily limit, with a code of the fives.
        (_, Some(500..=599)) if enhanced == Some("5.4.5") => Outcome::Deferred,
        (Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Message, Some(500..=599)) => Outcome::Rejected,
        (Stage::Message, _) if dot_sent => Outcome::Uncertain,
        _ => Outcome::Deferred,
    }
}

/// The enhanced code that a reply's text begins with (RFC 2034): class, subject and detail.
pub fn enhanced(text: &str) -> Option<&str> {
    let word = text.split([' ', '\t']).next()?;
    let mut parts = word.split('.');
    let is_number =
        |part: &str, most| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    let are_numbers = parts.next().is_some_and(|part| is_number(part, 3))
        && parts.next().is_some_and(|part| is_number(part, 3));
    (is_class && are_numbers && parts.next().is_none()).then_some(word)
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
            assert_eq!(decide(stage, code, None, dot_sent), outcome, "{stage} {code:?} {dot_sent}");
        }
    }

    /// What the servers of this world say, in the forms that they use.
    #[test]
    fn real_servers_are_understood() {
        use Outcome::{Accepted, Deferred, Rejected};
        let table = [
            // Postfix
            (Stage::Mail, "452 4.3.1 Insufficient system storage", Deferred),
            (Stage::Mail, "552 5.3.4 Message size exceeds fixed limit", Rejected),
            (Stage::Rcpt, "450 4.1.1 <a@b>: Recipient address rejected: unverified address", Deferred),
            (Stage::Rcpt, "550 5.1.1 <a@b>: Recipient address rejected: User unknown", Rejected),
            (Stage::Rcpt, "554 5.7.1 <a@b>: Relay access denied", Rejected),
            (Stage::Rcpt, "530 5.7.0 Must issue a STARTTLS command first", Deferred),
            (Stage::Data, "554 5.5.1 Error: no valid recipients", Rejected),
            (Stage::Message, "451 4.3.0 Error: queue file write error", Deferred),
            (Stage::Message, "250 2.0.0 Ok: queued as 4Z1xQj2M7Sz9w", Accepted),
            // Exim
            (Stage::Rcpt, "451 Temporary local problem - please try later", Deferred),
            (Stage::Rcpt, "550 Unrouteable address", Rejected),
            (Stage::Mail, "552 Message size exceeds maximum permitted", Rejected),
            (Stage::Message, "250 OK id=1rK0aX-0007Jf-2k", Accepted),
            // Exchange Online
            (Stage::Auth, "535 5.7.139 Authentication unsuccessful, user is locked", Deferred),
            (Stage::Mail, "451 4.7.500 Server busy. Please try again later", Deferred),
            (Stage::Rcpt, "550 5.4.1 Recipient address rejected: Access denied", Rejected),
            (Stage::Message, "432 4.3.2 Concurrent connections limit exceeded", Deferred),
            (Stage::Message, "554 5.2.252 SendAsDenied; bridge@example.com not allowed", Rejected),
            (Stage::Message, "250 2.0.0 OK <m@example.com> [Hostname=X.PROD.OUTLOOK.COM]", Accepted),
            // Gmail
            (Stage::Auth, "454 4.7.0 Too many login attempts, please try again later", Deferred),
            (Stage::Rcpt, "550 5.1.1 The email account does not exist", Rejected),
            (Stage::Rcpt, "452 4.2.2 The recipient's inbox is out of storage space", Deferred),
            (Stage::Data, "421 4.7.28 Unusual rate of unsolicited mail", Deferred),
            (Stage::Message, "550 5.4.5 Daily user sending limit exceeded", Deferred),
            (Stage::Message, "250 2.0.0 OK 1795300000 a1-20020a05.12 - gsmtp", Accepted),
            // Amazon SES
            (Stage::Data, "454 Throttling failure: Maximum sending rate exceeded.", Deferred),
            (Stage::Message, "454 Throttling failure: Daily message quota exceeded.", Deferred),
            (Stage::Message, "554 Message rejected: Email address is not verified.", Rejected),
            (Stage::Message, "250 Ok 0102018f0c1d2e3f-4a5b-000000", Accepted),
            // Proofpoint
            (Stage::Greeting, "554 Blocked - see the administrator", Deferred),
            (Stage::Rcpt, "550 5.7.0 Local Policy Violation", Rejected),
            (Stage::Mail, "421 4.7.0 Resources restricted", Deferred),
            // Mimecast
            (Stage::Rcpt, "451 Internal resources are temporarily unavailable", Deferred),
            (Stage::Rcpt, "550 Administrative prohibition", Rejected),
            (Stage::Message, "554 Email rejected due to security policies", Rejected),
        ];
        for (stage, reply, outcome) in table {
            let (code, text) = reply.split_once(' ').unwrap();
            let dot_sent = stage == Stage::Message;
            assert_eq!(
                decide(stage, code.parse().ok(), enhanced(text), dot_sent),
                outcome,
                "{stage}: {reply}"
            );
        }
    }

    #[test]
    fn an_enhanced_code_has_three_numbers() {
        let table = [
            ("5.1.1 no such user", Some("5.1.1")),
            ("4.7.500 busy", Some("4.7.500")),
            ("2.0.0", Some("2.0.0")),
            ("3.0.0 no such class", None),
            ("5.1 no", None),
            ("5.1.1.1 no", None),
            ("5.1.1234 no", None),
            ("5..1 no", None),
            ("Ok 5.1.1", None),
            ("", None),
        ];
        for (text, found) in table {
            assert_eq!(enhanced(text), found, "{text:?}");
        }
    }
}
