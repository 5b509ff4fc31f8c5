//! Where a test can end the program, as a power cut would.
//!
//! Every step between a file and its acknowledged, logged delivery has a name here, and every step between a mailbox
//! and the mail that is stored and settled in it. A debug build whose environment
//! says `AFTERCALL_CRASH_AT=STEP`, or `STEP:N` for the N-th time, ends at that step at once: nothing is finished,
//! closed or said. In a release build nothing of this is left.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes the enum, its list and its words from one table, so that no step can be missing in one of them.
macro_rules! steps {
    ($($(#[$about:meta])* $step:ident = $word:literal,)*) => {
        /// A step between a file and its logged delivery, or between a mailbox and the store, in their order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[$about])* $step,)*
        }

        /// Every step, in order.
        pub const STEPS: &[Step] = &[$(Step::$step),*];

        impl Step {
            /// Whether only a mail comes by it.
            pub fn is_of_mail(self) -> bool {
                (Self::Connected..=Self::AnswerRead).contains(&self)
            }

            /// Whether only a note for a CRM comes by it.
            pub fn is_of_record(self) -> bool {
                matches!(self, Self::RequestReady | Self::RequestAnswered)
            }

            /// Whether mail that comes back goes by it.
            pub fn is_of_inbound(self) -> bool {
                self >= Self::MailsRead
            }

            /// The step's word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$step => $word,)*
                }
            }
        }
    };
}

steps! {
    /// A file's bytes are read.
    FileRead = "file-read",
    /// They are understood as a session.
    SessionRead = "session-read",
    /// The mail is planned and composed.
    Composed = "composed",
    /// Everything of the revision is written, not committed.
    AcceptWritten = "accept-written",
    /// The revision is committed, and whoever took the file does not know it.
    Accepted = "accepted",
    /// The file is dealt with, not noted.
    ToNote = "to-note",
    /// The file is noted.
    Noted = "noted",
    /// A delivery's lease is written, not committed.
    ClaimWritten = "claim-written",
    /// It is committed, and nobody works on it.
    Claimed = "claimed",
    /// The beginning of an attempt is written, not committed.
    BeginWritten = "begin-written",
    /// It is committed, and nothing is said to the relay.
    Begun = "begun",
    /// A connection is open and ready.
    Connected = "connected",
    /// MAIL is sent, with RCPT and DATA where the relay takes them together.
    EnvelopeSent = "envelope-sent",
    /// The relay asks for the message.
    MessageAsked = "message-asked",
    /// A part of the message is sent.
    MessageHalf = "message-half",
    /// The final dot is sent.
    MessageSent = "message-sent",
    /// The answer to the message is read.
    AnswerRead = "answer-read",
    /// A request that changes a ticket is written, not sent.
    RequestReady = "request-ready",
    /// It is answered, and nobody knows it.
    RequestAnswered = "request-answered",
    /// The end of the attempt is written, not committed.
    FinishWritten = "finish-written",
    /// It is committed.
    Finished = "finished",
    /// Mails are read out of a mailbox, not stored.
    MailsRead = "mails-read",
    /// One of them is written, not committed.
    InboundWritten = "inbound-written",
    /// All of them are committed, and the mailbox does not know it.
    InboundsStored = "inbounds-stored",
    /// The mailbox is changed.
    MailboxChanged = "mailbox-changed",
    /// How far it was read is written, not committed.
    PositionWritten = "position-written",
    /// It is committed.
    PositionNoted = "position-noted",
    /// A verdict and what follows it are written, not committed.
    JudgeWritten = "judge-written",
    /// They are committed.
    Judged = "judged",
}

/// The step to end at, and how often it is still to be reached until then.
#[expect(clippy::disallowed_methods, reason = "no flag: it is for tests only")]
fn named() -> Option<&'static (Step, AtomicUsize)> {
    static NAMED: OnceLock<Option<(Step, AtomicUsize)>> = OnceLock::new();
    let read = || {
        let wish = std::env::var("AFTERCALL_CRASH_AT").ok()?;
        let (word, times) = wish.split_once(':').unwrap_or((&wish, "1"));
        let step = STEPS.iter().find(|step| step.as_str() == word)?;
        Some((*step, AtomicUsize::new(times.parse().ok()?)))
    };
    NAMED.get_or_init(read).as_ref()
}

/// Ends the process here, if this is the step to end at.
#[inline]
pub fn reached(step: Step) {
    if cfg!(debug_assertions)
        && let Some((named, left)) = named()
        && *named == step
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        // Like a kill it runs no destructor and flushes nothing.
        std::process::abort();
    }
}

/// What to write of these octets at one go: half of them, if the process is to end at this step.
#[inline]
pub fn part(step: Step, octets: &[u8]) -> &[u8] {
    let is_cut = cfg!(debug_assertions) && named().is_some_and(|(named, _)| *named == step);
    if is_cut { &octets[..octets.len().div_ceil(2)] } else { octets }
}
