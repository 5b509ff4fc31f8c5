//! What a sink does besides taking mail, at which step and how often.

use std::time::Duration;

/// A moment of a conversation at which a rule can step in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first words.
    Greeting,
    /// EHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH, at its last reply.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA.
    Data,
    /// In the midst of the message.
    Body,
    /// The final dot.
    Dot,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
}

/// What to do at a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Act {
    /// What a good server does.
    #[default]
    Usual,
    /// Says these octets in place of the reply; they need not be one, and may be none.
    Say(Vec<u8>),
    /// Says these octets over and over.
    Repeat(Vec<u8>),
    /// Says these octets, which may be half a reply, and closes the connection.
    Close(Vec<u8>),
    /// The same, and the connection ends with a reset.
    Reset(Vec<u8>),
    /// Neither says nor reads anything more.
    Silence,
}

/// An act and its pace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doing {
    /// What.
    pub act: Act,
    /// The wait before it; also between repetitions, and in the midst of a message before each piece is read.
    pub wait: Duration,
}

/// What to do at a step, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The step.
    pub at: Step,
    /// Only for recipients whose local part, up to a `+`, is this; any when empty. From RCPT on.
    pub role: String,
    /// How often the step first passes without the rule, all connections taken together.
    pub after: usize,
    /// How often the rule then holds; from there on for ever when 0.
    pub times: usize,
    /// What to do.
    pub doing: Doing,
}

impl Rule {
    /// An act that holds always and at once.
    pub fn new(at: Step, act: Act) -> Self {
        Self { at, role: String::new(), after: 0, times: 0, doing: Doing { act, wait: Duration::ZERO } }
    }

    /// A reply in place of the usual one, always; its lines are ended here.
    pub fn reply(at: Step, lines: &[&str]) -> Self {
        Self::new(at, Act::Say(lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect()))
    }

    /// Whether it holds when its step is reached for this time, counted from 1.
    pub(super) fn applies(&self, reached: usize) -> bool {
        reached > self.after && (self.times == 0 || reached <= self.after.saturating_add(self.times))
    }
}

/// The local part up to a `+`.
pub(super) fn role(recipient: &str) -> &str {
    recipient.split(['+', '@']).next().unwrap_or_default()
}

/// What the recipient's name asks for. `is_first` says whether it comes for the first time, `delay` is the usual
/// wait before a message is acknowledged.
pub(super) fn by_role(
    step: Step,
    recipient: &str,
    is_first: impl FnOnce(&str) -> bool,
    delay: Duration,
) -> Doing {
    let now = |act| Doing { act, wait: Duration::ZERO };
    let say = |line: &str| now(Act::Say(format!("{line}\r\n").into_bytes()));
    match (step, role(recipient)) {
        (Step::Rcpt, "temp") => say("450 4.2.1 mailbox busy"),
        (Step::Rcpt, "perm") => say("550 5.1.1 no such mailbox"),
        (Step::Rcpt, "421") => say("421 4.3.2 closing"),
        (Step::Rcpt, "once-then-ok") if is_first(recipient) => say("451 4.7.1 greylisted"),
        (Step::Body, "drop-before-dot") => now(Act::Close(Vec::new())),
        (Step::Dot, "drop-after-dot") => Doing { act: Act::Close(Vec::new()), wait: delay },
        (Step::Dot, "slow") => Doing { act: Act::Usual, wait: Duration::from_millis(300) },
        (Step::Dot, _) => Doing { act: Act::Usual, wait: delay },
        _ => Doing::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_holds_from_its_first_time_to_its_last() {
        for (after, times, holds) in [(0, 0, "11111"), (0, 2, "11000"), (1, 2, "01100"), (3, 0, "00011")] {
            let rule = Rule { after, times, ..Rule::new(Step::Mail, Act::Silence) };
            let held: String = (1..=5).map(|reached| if rule.applies(reached) { '1' } else { '0' }).collect();
            assert_eq!(held, holds, "after {after}, {times} times");
        }
    }
}
