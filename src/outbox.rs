//! The states of one delivery, the only legal moves between them, and when to try again.
//!
//! ```text
//! pending -> leased -> sending -> accepted
//!    ^          |         |---> deferred  -> leased ...   (a 4xx or no connection: later)
//!    |          |         |---> rejected                  (a 5xx: given up)
//!    +----------+         |---> uncertain -> leased ...   (the link broke after the message was handed over)
//! waiting -> held, cancelled, superseded, expired         (by a person, a newer revision, or age)
//! ```
//! Replies and bounces that come later are evidence in the log; they do not rewrite the state.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::config::tenant::Retry;
use crate::ids::{DeliveryId, Digest, UnreadableName};

/// The longest time that a server may ask to be left alone: it cannot make a delivery wait for ever.
const LONGEST_ASKED: SignedDuration = SignedDuration::from_hours(6);

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its time.
    Pending,
    /// Taken by a sender that has not begun.
    Leased,
    /// An attempt has begun and has no outcome yet.
    Sending,
    /// The relay took the message.
    Accepted,
    /// The relay or the way to it refused for now; waits for the next attempt.
    Deferred,
    /// The relay refused for good.
    Rejected,
    /// Nobody can tell whether the relay took the message.
    Uncertain,
    /// Given up for its age.
    Expired,
    /// Not sent, because a newer revision took its place.
    Superseded,
    /// Stopped by a person.
    Cancelled,
    /// Waits for a person.
    Held,
}

/// All states with the words of the store and the command line.
pub const STATES: [(State, &str); 11] = [
    (State::Pending, "pending"),
    (State::Leased, "leased"),
    (State::Sending, "sending"),
    (State::Accepted, "accepted"),
    (State::Deferred, "deferred"),
    (State::Rejected, "rejected"),
    (State::Uncertain, "uncertain"),
    (State::Expired, "expired"),
    (State::Superseded, "superseded"),
    (State::Cancelled, "cancelled"),
    (State::Held, "held"),
];

impl State {
    /// The state's word.
    pub fn as_str(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }

    /// Whether the message may have reached the CRM.
    pub fn may_have_arrived(self) -> bool {
        matches!(self, Self::Leased | Self::Sending | Self::Accepted | Self::Uncertain)
    }

    /// Whether the delivery was given up and nothing arrived.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Rejected | Self::Expired)
    }

    /// Whether `next` may follow this state.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Leased => matches!(next, Self::Sending | Self::Pending | Self::Deferred | Self::Uncertain),
            Self::Sending => {
                matches!(
                    next,
                    Self::Accepted
                        | Self::Deferred
                        | Self::Rejected
                        | Self::Uncertain
                        | Self::Expired
                        | Self::Held
                )
            }
            Self::Pending | Self::Deferred => {
                matches!(
                    next,
                    Self::Leased
                        | Self::Held
                        | Self::Cancelled
                        | Self::Superseded
                        | Self::Expired
                        | Self::Pending
                )
            }
            Self::Held => matches!(next, Self::Pending | Self::Cancelled | Self::Superseded),
            Self::Uncertain => matches!(next, Self::Leased | Self::Held | Self::Cancelled | Self::Pending),
            Self::Rejected | Self::Expired => matches!(next, Self::Pending | Self::Cancelled),
            Self::Cancelled => next == Self::Pending,
            Self::Accepted | Self::Superseded => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnreadableName;

    fn from_str(word: &str) -> Result<Self, UnreadableName> {
        let found = STATES.iter().find(|(_, known)| *known == word).map(|(state, _)| *state);
        found.ok_or_else(|| UnreadableName::new("state", word))
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The relay took the message.
    Accepted,
    /// Not now.
    Deferred,
    /// Never.
    Rejected,
    /// Nobody can tell.
    Uncertain,
}

impl Outcome {
    /// The outcome's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
            Self::Uncertain => "uncertain",
        }
    }
}

/// What one attempt came to, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The relay, as `host:port`.
    pub relay: String,
    /// How the connection was secured, such as `TLSv1.3`; none for none.
    pub tls: Option<String>,
    /// The step that decided: of the dialogue (`connect`, `greeting`, `auth`, `mail`, `rcpt`, `data`, `message`), or of
    /// a recipe.
    pub stage: Cow<'static, str>,
    /// The server's reply code; none when no reply came.
    pub code: Option<u16>,
    /// The enhanced code that the text begins with (RFC 2034); none where the server gave none.
    pub enhanced: Option<String>,
    /// The server's text, or what failed when there was none.
    pub text: String,
    /// Every reply of the attempt, each with its step, oldest first; those to the opening of a connection are with
    /// the first attempt over it.
    pub replies: Vec<String>,
    /// How long the server wants to be left alone; none where it did not say.
    pub retry_after: Option<SignedDuration>,
}

/// What follows an attempt: the next state, when it is due, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The state.
    pub state: State,
    /// When a sender may take it again.
    pub due: Option<Timestamp>,
    /// For people.
    pub reason: String,
}

/// Decides what follows. `attempts` counts the one that just ended; `created` is when the delivery was made.
pub fn next(
    report: &Report,
    retry: &Retry,
    id: DeliveryId,
    attempts: u32,
    created: Timestamp,
    now: Timestamp,
) -> Next {
    let asked = report.retry_after.unwrap_or_default().min(LONGEST_ASKED);
    let wait = backoff(retry, id, attempts).max(asked);
    let due = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
    let too_old = due.duration_since(created) > retry.give_up_after;
    let reason = match report.code {
        Some(code) if report.outcome == Outcome::Accepted => format!("{code} {}", report.text),
        Some(code) => format!("at {}: {code} {}", report.stage, report.text),
        None => format!("at {}: {}", report.stage, report.text),
    };
    match report.outcome {
        Outcome::Accepted => Next { state: State::Accepted, due: None, reason },
        Outcome::Rejected => Next { state: State::Rejected, due: None, reason },
        Outcome::Deferred if too_old => Next {
            state: State::Expired,
            due: None,
            reason: format!("given up for its age; last refused {reason}"),
        },
        Outcome::Deferred => Next { state: State::Deferred, due: Some(due), reason },
        Outcome::Uncertain if retry.resend_uncertain && !too_old => {
            Next { state: State::Uncertain, due: Some(due), reason }
        }
        Outcome::Uncertain => {
            Next { state: State::Held, due: None, reason: format!("uncertain, held for a person: {reason}") }
        }
    }
}

/// The wait before the next attempt: doubled each time up to the longest, and moved by up to a fifth so that
/// deliveries refused together do not return together. The same delivery and attempt give the same wait.
pub fn backoff(retry: &Retry, id: DeliveryId, attempts: u32) -> SignedDuration {
    let doubled =
        retry.first.checked_mul(1_i32.checked_shl(attempts.saturating_sub(1).min(30)).unwrap_or(i32::MAX));
    let wait = doubled.unwrap_or(retry.longest).min(retry.longest);
    let dice = Digest::of_parts(&[&id.0.to_be_bytes(), &attempts.to_be_bytes()]).0;
    let fifth = i128::from(dice[0]) - 128; // -128 to 127, for -20 % to +20 %
    // Whole milliseconds, as the store keeps them.
    let moved = wait.as_millis() + wait.as_millis() * fifth / 640;
    SignedDuration::from_millis(i64::try_from(moved).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RETRY: Retry = Retry {
        first: SignedDuration::from_mins(1),
        longest: SignedDuration::from_hours(1),
        give_up_after: SignedDuration::from_hours(24),
        resend_uncertain: true,
    };

    fn report(outcome: Outcome) -> Report {
        Report {
            outcome,
            relay: "r:25".into(),
            tls: None,
            stage: "rcpt".into(),
            code: Some(450),
            enhanced: None,
            text: "busy".into(),
            replies: vec![],
            retry_after: None,
        }
    }

    fn after(outcome: Outcome, retry: &Retry, hours: i64) -> Next {
        let now = Timestamp::from_second(hours * 3600).unwrap();
        next(&report(outcome), retry, DeliveryId(7), 1, Timestamp::UNIX_EPOCH, now)
    }

    #[test]
    fn each_outcome_has_one_state() {
        let hold = Retry { resend_uncertain: false, ..RETRY };
        let table = [
            (Outcome::Accepted, RETRY, 1, State::Accepted, false),
            (Outcome::Rejected, RETRY, 1, State::Rejected, false),
            (Outcome::Deferred, RETRY, 1, State::Deferred, true),
            (Outcome::Deferred, RETRY, 24, State::Expired, false),
            (Outcome::Uncertain, RETRY, 1, State::Uncertain, true),
            (Outcome::Uncertain, RETRY, 24, State::Held, false),
            (Outcome::Uncertain, hold, 1, State::Held, false),
        ];
        for (outcome, retry, hours, state, again) in table {
            let next = after(outcome, &retry, hours);
            assert_eq!((next.state, next.due.is_some()), (state, again), "{outcome:?} after {hours} h");
            assert!(next.reason.contains("450 busy"), "{}", next.reason);
            assert!(State::Sending.may_become(state));
        }
    }

    #[test]
    fn words_read_back() {
        for (state, word) in STATES {
            assert_eq!((state.as_str(), word.parse()), (word, Ok(state)));
        }
        assert!("sent".parse::<State>().is_err());
    }

    proptest! {
        #[test]
        fn waits_grow_to_the_longest_and_stay_near_it(id in any::<i64>(), attempts in 1_u32..200) {
            let wait = backoff(&RETRY, DeliveryId(id), attempts);
            let plain = RETRY.first.as_secs().saturating_mul(1 << (attempts - 1).min(20)).min(RETRY.longest.as_secs());
            prop_assert!(wait.as_secs() >= plain * 79 / 100 && wait.as_secs() <= plain * 121 / 100, "{wait} for {plain}");
            prop_assert_eq!(wait, backoff(&RETRY, DeliveryId(id), attempts));
        }

        #[test]
        fn what_was_accepted_or_superseded_never_moves_again(to in 0_usize..STATES.len()) {
            prop_assert!(!State::Accepted.may_become(STATES[to].0));
            prop_assert!(!State::Superseded.may_become(STATES[to].0));
        }

        #[test]
        fn an_attempt_begins_only_from_a_lease(from in 0_usize..STATES.len()) {
            prop_assert_eq!(STATES[from].0.may_become(State::Sending), STATES[from].0 == State::Leased);
        }
    }
}
