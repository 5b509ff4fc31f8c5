//! What rules can say.

use super::verdict::Sub;

/// What a rule says of a mail that it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Its sender is a mail server.
    Daemon,
    /// Its sender is a program, which may write anything.
    Robot,
    /// It reports a failure.
    Bounce,
    /// It reports that a message is late.
    Delay,
    /// It reports that a message arrived.
    Delivered,
    /// A program answered.
    AutoReply,
    /// A program asks for a confirmation.
    Challenge,
    /// Somebody complains.
    Complaint,
    /// It is none of these, whatever else it looks like.
    Other,
}

/// The words of a rule file for what a rule says.
pub(super) const SAYS: [(&str, Says); 9] = [
    ("daemon", Says::Daemon),
    ("robot", Says::Robot),
    ("bounce", Says::Bounce),
    ("delay", Says::Delay),
    ("delivered", Says::Delivered),
    ("auto-reply", Says::AutoReply),
    ("challenge", Says::Challenge),
    ("complaint", Says::Complaint),
    ("other", Says::Other),
];

/// The words of a rule file for finer kinds.
pub(super) const SUBS: [(&str, Sub); 5] = [
    ("vacation", Sub::Vacation),
    ("autoack", Sub::Autoack),
    ("address-change", Sub::AddressChange),
    ("abuse", Sub::Abuse),
    ("opt-out", Sub::OptOut),
];
