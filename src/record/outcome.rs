//! What an answer over REST means for the delivery, decided in one place.

use crate::config::recipe::Step;
use crate::outbox::Outcome;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was not sent: no connection, or no login to send with.
    NotSent,
    /// It was sent, at least in part, and no whole answer came.
    Lost,
    /// It was answered with this status.
    Answered(u16),
    /// It was answered with success, without what a later step needs.
    Lacking,
    /// It was answered with success and an error within; true for one that is for later.
    Refused(bool),
}

/// What follows a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The next step, or, behind the last, acceptance.
    GoOn,
    /// The whole delivery was made before.
    Done,
    /// The attempt is over.
    End(Outcome),
}

/// Decides from the step and how its request ended.
///
/// A refusal that speaks of us, of the way or of the moment is for later; one that speaks of the ticket or of what was
/// sent is for good. Where the request may have had its effect and nobody said so, nobody can tell: that is so when
/// no answer came (RFC 9110, section 9.2.2), and when a gateway says that none came to it (sections 15.6.3, 15.6.5).
pub fn decide(step: &Step, ending: Ending) -> Verdict {
    let unknown = if step.effect { Outcome::Uncertain } else { Outcome::Deferred };
    let status = match ending {
        Ending::NotSent => return Verdict::End(Outcome::Deferred),
        Ending::Lost => return Verdict::End(unknown),
        // A look-up that found nothing says that the ticket is not there; anything else is no answer that we know.
        Ending::Lacking if step.lookup => return Verdict::End(Outcome::Rejected),
        Ending::Lacking => return Verdict::End(unknown),
        Ending::Refused(true) => return Verdict::End(Outcome::Deferred),
        Ending::Refused(false) => return Verdict::End(Outcome::Rejected),
        Ending::Answered(status) => status,
    };
    match status {
        _ if step.expect.contains(&status) || step.already.contains(&status) => Verdict::GoOn,
        _ if step.done.contains(&status) => Verdict::Done,
        _ if step.retry.contains(&status) => Verdict::End(Outcome::Deferred),
        502 | 504 => Verdict::End(unknown),
        // 401 is about our login; 408, 425, 429 about the moment; a redirect about the configured place.
        300..=399 | 401 | 407 | 408 | 425 | 429 | 500..=599 => Verdict::End(Outcome::Deferred),
        400..=499 => Verdict::End(Outcome::Rejected),
        // Success of a kind that the recipe does not know.
        200..=299 => Verdict::End(unknown),
        _ => Verdict::End(Outcome::Deferred),
    }
}

/// What a status says to a person, where it says more than its number.
pub fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "the CRM is somewhere else; look at record.base. ",
        401 => "the CRM refuses the login; look at record.login. ",
        404 | 410 => "the ticket is not there. ",
        413 => "the size is more than the CRM takes. ",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::recipe::Recipe;

    fn step(keys: &str) -> Step {
        let effect = "[[steps]]\nname = \"b\"\nmethod = \"POST\"\npath = \"/\"";
        let source = format!(
            "title = \"X\"\nverified = \"inferred\"\n[[steps]]\nname = \"a\"\npath = \"/\"\n{keys}\n{effect}\n"
        );
        Recipe::parse("x", Path::new("x"), &source).unwrap().steps.remove(0)
    }

    #[test]
    fn every_ending_of_every_kind_of_step_has_its_verdict() {
        use Outcome::{Deferred, Rejected, Uncertain};
        let end = Verdict::End;
        let post = step("method = \"POST\"\nexpect = [201]\nalready = [409]\ndone = [303]\nretry = [403]");
        let upload = step("method = \"POST\"\neffect = false");
        let look = step("method = \"GET\"\nlookup = true");
        let answered = Ending::Answered;
        // The ending, and what it means for a request with an effect, for one without, and for a look-up.
        let table = [
            (Ending::NotSent, end(Deferred), end(Deferred), end(Deferred)),
            (Ending::Lost, end(Uncertain), end(Deferred), end(Deferred)),
            (Ending::Lacking, end(Uncertain), end(Deferred), end(Rejected)),
            (Ending::Refused(true), end(Deferred), end(Deferred), end(Deferred)),
            (Ending::Refused(false), end(Rejected), end(Rejected), end(Rejected)),
            (answered(200), end(Uncertain), Verdict::GoOn, Verdict::GoOn),
            (answered(201), Verdict::GoOn, Verdict::GoOn, Verdict::GoOn),
            (answered(206), end(Uncertain), end(Deferred), end(Deferred)),
            (answered(302), end(Deferred), end(Deferred), end(Deferred)),
            (answered(303), Verdict::Done, end(Deferred), end(Deferred)),
            (answered(400), end(Rejected), end(Rejected), end(Rejected)),
            (answered(401), end(Deferred), end(Deferred), end(Deferred)),
            (answered(403), end(Deferred), end(Rejected), end(Rejected)),
            (answered(404), end(Rejected), end(Rejected), end(Rejected)),
            (answered(408), end(Deferred), end(Deferred), end(Deferred)),
            (answered(409), Verdict::GoOn, end(Rejected), end(Rejected)),
            (answered(410), end(Rejected), end(Rejected), end(Rejected)),
            (answered(413), end(Rejected), end(Rejected), end(Rejected)),
            (answered(422), end(Rejected), end(Rejected), end(Rejected)),
            (answered(425), end(Deferred), end(Deferred), end(Deferred)),
            (answered(429), end(Deferred), end(Deferred), end(Deferred)),
            (answered(500), end(Deferred), end(Deferred), end(Deferred)),
            (answered(502), end(Uncertain), end(Deferred), end(Deferred)),
            (answered(503), end(Deferred), end(Deferred), end(Deferred)),
            (answered(504), end(Uncertain), end(Deferred), end(Deferred)),
            (answered(507), end(Deferred), end(Deferred), end(Deferred)),
            (answered(100), end(Deferred), end(Deferred), end(Deferred)),
            (answered(999), end(Deferred), end(Deferred), end(Deferred)),
        ];
        for (ending, of_effect, of_none, of_lookup) in table {
            let found = [&post, &upload, &look].map(|step| decide(step, ending));
            assert_eq!(found, [of_effect, of_none, of_lookup], "{ending:?}");
        }
    }
}
