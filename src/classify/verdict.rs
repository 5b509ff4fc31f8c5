//! What a mail that came back is.

use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// The kinds of mail that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A person answered.
    Reply,
    /// A program answered.
    AutoReply,
    /// The CRM's own answer, known by a mark of its profile.
    Acknowledgement,
    /// At least one recipient will not get the message.
    Bounce,
    /// Still being tried.
    Delay,
    /// It arrived.
    Delivered,
    /// It was handed on to a server that reports nothing, or to a list: no proof that it arrived.
    Relayed,
    /// It was displayed, deleted or refused by the recipient's program (RFC 8098).
    ReadReceipt,
    /// Somebody complained, or a server reports a failed authentication (RFC 5965).
    Complaint,
    /// A program wants to be answered before it lets the message through.
    Challenge,
    /// Anything else.
    Other,
}

impl Kind {
    /// The word in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::AutoReply => "auto-reply",
            Self::Acknowledgement => "acknowledgement",
            Self::Bounce => "bounce",
            Self::Delay => "delay",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::ReadReceipt => "read-receipt",
            Self::Complaint => "complaint",
            Self::Challenge => "challenge",
            Self::Other => "other",
        }
    }

    /// Whether it says that a message did not arrive, or not yet.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Bounce | Self::Delay)
    }
}

/// The finer kind, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sub {
    /// Auto-reply: the person is away.
    Vacation,
    /// Auto-reply: the mail was received.
    Autoack,
    /// Auto-reply: the person has another address.
    AddressChange,
    /// Acknowledgement: the mail went into a ticket that was there.
    Updated,
    /// Acknowledgement: a ticket was opened.
    Opened,
    /// Acknowledgement: the mail was not taken.
    Refused,
    /// Bounce or delay: recipients fared differently.
    MixedActions,
    /// Relayed: a list handed it on.
    Expanded,
    /// Complaint: unwanted mail.
    Abuse,
    /// Complaint: fraud.
    Fraud,
    /// Complaint: a virus.
    Virus,
    /// Complaint: a message that was no spam after all (RFC 6430).
    NotSpam,
    /// Complaint: the recipient wants no more.
    OptOut,
    /// Complaint: a failed authentication (RFC 6591); for the admin, not about the recipient.
    AuthFailure,
    /// Complaint: any other.
    OtherComplaint,
    /// Receipt: displayed.
    Displayed,
    /// Receipt: deleted unread.
    Deleted,
    /// Receipt: handed on or handled by a program.
    Processed,
    /// Receipt: refused by the recipient's filter (RFC 5429); its recipient is named as failed.
    SieveReject,
}

/// What became of a message for one recipient (RFC 3464, section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It will not arrive.
    Failed,
    /// It is still being tried.
    Delayed,
    /// It arrived.
    Delivered,
    /// It was handed on to a server that reports nothing.
    Relayed,
    /// It was handed on to the members of a list.
    Expanded,
}

impl Action {
    /// The word in reports, files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }
}

/// One recipient, and what became of the message for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address that the report names; not always one that was written to.
    pub address: String,
    /// The address that the sender named, where the report says so.
    pub original: Option<String>,
    /// What became of the message.
    pub action: Action,
    /// The enhanced status code (RFC 3463).
    pub status: Option<String>,
    /// The SMTP reply code.
    pub reply: Option<u16>,
    /// Why; [`Reason::Undefined`] where nothing tells, or nothing is wrong.
    pub reason: Reason,
    /// Whether the address itself is bad, so that sending again is useless.
    pub hard: bool,
    /// The host that said so.
    pub remote: Option<String>,
    /// What it said, cut.
    pub text: String,
}

/// What a mail is, and why it is taken for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The kind.
    pub kind: Kind,
    /// The finer kind.
    pub sub: Option<Sub>,
    /// The rule that decided.
    pub rule: String,
    /// Whom it is about: who failed, complained, read or answered.
    pub recipients: Vec<Recipient>,
    /// The ticket that an acknowledgement names.
    pub ticket: Option<String>,
}

impl Verdict {
    /// A verdict about nobody.
    pub(super) fn new(kind: Kind, rule: &str) -> Self {
        Self { kind, sub: None, rule: rule.to_owned(), recipients: Vec::new(), ticket: None }
    }

    /// The same with a finer kind.
    pub(super) fn with_sub(self, sub: Option<Sub>) -> Self {
        Self { sub, ..self }
    }

    /// The same about these recipients.
    pub(super) fn about(self, recipients: Vec<Recipient>) -> Self {
        Self { recipients, ..self }
    }
}

impl Recipient {
    /// One of whom only the address and the action are known.
    pub(super) fn new(address: &str, action: Action) -> Self {
        Self {
            address: address.to_owned(),
            original: None,
            action,
            status: None,
            reply: None,
            reason: Reason::Undefined,
            hard: false,
            remote: None,
            text: String::new(),
        }
    }
}
