//! Why a message did not arrive, and what the codes alone tell of it.

use serde::{Deserialize, Serialize};

/// Declares the reasons with their words and groups, so that none can be forgotten in a list.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal, $group:ident;)+) => {
        /// Why a message did not arrive.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// All reasons with their words.
            pub const ALL: &[(&str, Self)] = &[$(($word, Self::$name),)+];

            /// The word in files and tables.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// What the reason is about.
            pub fn group(self) -> Group {
                match self { $(Self::$name => Group::$group,)+ }
            }
        }
    };
}

reasons! {
    /// There is no such mailbox.
    UserUnknown = "userunknown", Recipient;
    /// There is no such host or domain.
    HostUnknown = "hostunknown", Recipient;
    /// The domain takes no mail at all.
    NotAccept = "notaccept", Recipient;
    /// The mailbox has moved.
    HasMoved = "hasmoved", Recipient;
    /// The recipient, or a filter of theirs, does not want the message.
    Filtered = "filtered", Recipient;
    /// The mailbox is full.
    MailboxFull = "mailboxfull", Full;
    /// The disk of the host is full.
    SystemFull = "systemfull", Full;
    /// The mailbox is switched off.
    Suspend = "suspend", Disabled;
    /// The message is too big.
    MesgTooBig = "mesgtoobig", Size;
    /// The message is over a limit of the mailbox.
    ExceedLimit = "exceedlimit", Size;
    /// Something in the message is not allowed or broken.
    ContentError = "contenterror", Content;
    /// It looks like spam.
    SpamDetected = "spamdetected", Content;
    /// It looks like a virus.
    VirusDetected = "virusdetected", Content;
    /// The sending host is on a list.
    Blocked = "blocked", Policy;
    /// The sending host has a bad name.
    BadReputation = "badreputation", Policy;
    /// SPF, DKIM or DMARC of the sender failed.
    AuthFailure = "authfailure", Policy;
    /// The sending host has no name in the reverse DNS.
    RequirePtr = "requireptr", Policy;
    /// The sender's address is refused.
    Rejected = "rejected", Policy;
    /// The host does not relay.
    NoRelaying = "norelaying", Policy;
    /// A login or its right is missing.
    SecurityError = "securityerror", Policy;
    /// TLS could not be had.
    FailedStartTls = "failedstarttls", Policy;
    /// A rule of the recipient's site forbids it.
    PolicyViolation = "policyviolation", Policy;
    /// The message is not as the RFCs want it.
    NotCompliantRfc = "notcompliantrfc", Policy;
    /// The address is on the provider's own stop list.
    Suppressed = "suppressed", Policy;
    /// Too much in too short a time.
    RateLimited = "ratelimited", Transient;
    /// The host wants to be asked again later.
    Greylisted = "greylisted", Transient;
    /// The network or the way to the host is broken.
    NetworkError = "networkerror", Transient;
    /// It was tried for too long.
    Expired = "expired", Transient;
    /// The host is broken.
    SystemError = "systemerror", System;
    /// The program that should deliver is broken.
    MailerError = "mailererror", System;
    /// The two hosts do not understand each other.
    SyntaxError = "syntaxerror", System;
    /// Held, without more being said.
    OnHold = "onhold", Unknown;
    /// Nothing tells.
    Undefined = "undefined", Unknown;
}

/// What a reason is about, and so who can do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The address.
    Recipient,
    /// Room.
    Full,
    /// A mailbox that is switched off.
    Disabled,
    /// The message's size.
    Size,
    /// The message's content.
    Content,
    /// What the other site allows.
    Policy,
    /// Time heals it.
    Transient,
    /// A fault of a host.
    System,
    /// Unknown.
    Unknown,
}

impl Group {
    /// The word in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Full => "full",
            Self::Disabled => "disabled",
            Self::Size => "size",
            Self::Content => "content",
            Self::Policy => "policy",
            Self::Transient => "transient",
            Self::System => "system",
            Self::Unknown => "unknown",
        }
    }
}

/// What an enhanced status code says by itself (RFC 3463 and IANA's registry). `None` where it is used for
/// everything, such as `5.0.0` and `5.7.1`.
pub(super) fn by_status(status: &str) -> Option<Reason> {
    let (class, rest) = status.split_once('.')?;
    if !matches!(class, "4" | "5") {
        return None;
    }
    Some(match rest {
        "1.0" | "1.1" | "1.3" | "1.4" | "1.5" => Reason::UserUnknown,
        "1.2" | "4.4" => Reason::HostUnknown,
        "1.6" => Reason::HasMoved,
        "1.7" | "1.8" | "7.27" => Reason::Rejected,
        "1.10" => Reason::NotAccept,
        "2.1" | "7.13" => Reason::Suspend,
        "2.2" => Reason::MailboxFull,
        "2.3" => Reason::ExceedLimit,
        "2.4" => Reason::MailerError,
        "3.1" => Reason::SystemFull,
        "3.0" | "3.2" | "3.3" | "3.5" | "4.3" => Reason::SystemError,
        "3.4" => Reason::MesgTooBig,
        "4.0" | "4.1" | "4.2" | "4.5" | "4.6" | "4.14" => Reason::NetworkError,
        "4.7" => Reason::Expired,
        "5.1" | "5.2" | "5.4" | "5.5" => Reason::SyntaxError,
        "5.3" | "7.28" => Reason::RateLimited,
        "6.0" | "6.1" | "6.2" | "6.3" | "6.5" | "6.6" | "6.7" | "6.8" | "6.9" => Reason::ContentError,
        "7.5" | "7.6" | "7.8" | "7.9" | "7.11" | "7.14" => Reason::SecurityError,
        "7.10" | "7.30" => Reason::FailedStartTls,
        "7.20" | "7.21" | "7.22" | "7.23" | "7.24" | "7.26" | "7.29" | "7.509" => Reason::AuthFailure,
        "7.25" => Reason::RequirePtr,
        _ => return None,
    })
}

/// What an SMTP reply code says by itself (RFC 5321, section 4.2.3; RFC 7504).
pub(super) fn by_reply(reply: u16) -> Option<Reason> {
    Some(match reply {
        421 => Reason::RateLimited,
        432 | 454 | 530 | 534 | 535 | 538 => Reason::SecurityError,
        452 => Reason::SystemFull,
        521 | 556 => Reason::NotAccept,
        522 => Reason::MailboxFull,
        523 | 552 => Reason::ExceedLimit,
        525 => Reason::Suspend,
        500..=504 => Reason::SyntaxError,
        _ => return None,
    })
}

/// Whether the address is bad for good. The reason decides; where there is none, the code does.
pub(super) fn is_hard(reason: Reason, status: Option<&str>) -> bool {
    let is_temporary = status.is_some_and(|status| status.starts_with('4'));
    match reason {
        Reason::UserUnknown | Reason::HasMoved | Reason::NotAccept | Reason::Suppressed => true,
        Reason::HostUnknown => !is_temporary,
        _ => false,
    }
}
