//! What programs answer: absences, acknowledgements, challenges; and complaints that are written for people.

use super::Seen;
use super::answers::author;
use super::says::Says;
use super::verdict::{Action, Kind, Recipient, Sub, Verdict};
use crate::parse::Mail;

/// Rules of the file, then the fields of RFC 3834 and those of single programs.
pub(super) fn judge(seen: &Seen<'_>) -> Option<Verdict> {
    if let Some(rule) =
        seen.evidence().first(&[Says::Other, Says::Complaint, Says::Challenge, Says::Delivered])
    {
        return match rule.says {
            Says::Complaint => {
                let whom = super::report::returned_to(seen.mail);
                let recipients =
                    whom.iter().map(|address| Recipient::new(address, Action::Delivered)).collect();
                Some(Verdict::new(Kind::Complaint, &rule.name).with_sub(rule.sub).about(recipients))
            }
            Says::Challenge => Some(Verdict::new(Kind::Challenge, &rule.name).about(author(seen.mail))),
            Says::Delivered => Some(Verdict::new(Kind::Delivered, &rule.name)),
            _ => Some(Verdict::new(Kind::Other, &rule.name)),
        };
    }
    let is_answer = |rule: &str, sub: Option<Sub>| {
        Some(Verdict::new(Kind::AutoReply, rule).with_sub(sub).about(author(seen.mail)))
    };
    let ruled = seen.evidence().first(&[Says::AutoReply]);
    if let Some(rule) = ruled.filter(|_| !is_mass_mail(seen.mail)) {
        return is_answer(&rule.name, rule.sub.or_else(|| seen.evidence().sub(Says::AutoReply)));
    }
    // RFC 3834, section 5: a word, then perhaps parameters or a comment.
    let word = seen.header("auto-submitted").unwrap_or_default().trim_start().to_ascii_lowercase();
    word.starts_with("auto-replied").then(|| is_answer("auto-submitted", None)).flatten()
}

/// Newsletters and lists answer nothing.
fn is_mass_mail(mail: &Mail) -> bool {
    ["list-id", "list-unsubscribe", "list-post"].iter().any(|name| mail.headers.get(name).is_some())
}
