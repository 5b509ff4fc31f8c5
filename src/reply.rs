//! What a person wrote in a reply, without what it quotes.
//!
//! Programs mark a quotation with `>`, with a line that says who wrote when, or with the header of the mail below.
//! Each in the sender's language; a mark that is not known here leaves the quotation in, and loses nothing.

use std::sync::LazyLock;

use regex::RegexSet;

/// The most characters that are kept.
const MOST_CHARACTERS: usize = 10_000;

/// How many lines the sentence before a quotation may be broken into.
const MOST_BROKEN: usize = 3;

/// A line, or two or three that belong together, after which all is quoted.
static QUOTATION_FOLLOWS: LazyLock<Option<RegexSet>> = LazyLock::new(|| {
    let patterns = [
        // Who wrote when: Apple Mail, Gmail, Thunderbird.
        r"(?i)^on .{6,300} wrote:$",
        r"(?i)^am .{6,300} schrieb .{0,200}:$",
        r"(?i)^.{0,200} schrieb am .{6,200}:$",
        r"(?i)^le .{6,300} a écrit\s?:$",
        r"(?i)^el .{6,300} escribió:$",
        r"(?i)^il .{6,300} ha scritto:$",
        r"(?i)^op .{6,300} (?:schreef|heeft) .{0,200}:$",
        r"(?i)^em .{6,300} escreveu:$",
        r"(?i)^(?:w dniu|dnia) .{6,300} (?:pisze|napisał|napisała|napisał\(a\)):$",
        r"(?i)^den .{6,300} skrev .{0,200}:$",
        r"^.{6,300}(?:のメール|に書かれました)[:：]$",
        // A line across, and the words of Outlook for it.
        r"(?i)^-{2,} ?(?:original message|ursprüngliche nachricht|message d'origine|mensaje original|messaggio originale|oorspronkelijk bericht|mensagem original|wiadomość oryginalna|forwarded message) ?-{2,}$",
        r"^_{20,}$",
        // The header of the mail below: Outlook.
        r"(?i)^\*?(?:from|von|de|da|van|från|od)\s?:\*? .{1,300}\s\*?(?:sent|date|gesendet|datum|envoyé|enviado|inviato|verzonden|data|skickat|wysłano)\s?:\*? ",
    ];
    RegexSet::new(patterns).ok()
});

/// The text above the first quotation and above the signature, at most ten thousand characters of it.
pub fn own_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let end = (0..lines.len()).find(|at| ends_at(&lines[*at..])).unwrap_or(lines.len());
    let unquoted = lines[..end].iter().filter(|line| !line.starts_with('>'));
    let kept = unquoted.copied().collect::<Vec<_>>().join("\n");
    kept.trim().chars().take(MOST_CHARACTERS).collect()
}

/// Whether the text ends before these lines.
fn ends_at(lines: &[&str]) -> bool {
    // RFC 3676, section 4.3: the line before a signature, whose trailing blank is gone here.
    if lines[0] == "--" {
        return true;
    }
    let is_mark = |text: &str| QUOTATION_FOLLOWS.as_ref().is_some_and(|marks| marks.is_match(text));
    let paragraph = lines.iter().take_while(|line| !line.is_empty() && !line.starts_with('>')).count();
    (1..=MOST_BROKEN.min(paragraph)).any(|count| is_mark(&lines[..count].join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_wrote_is_kept_and_what_is_quoted_is_cut() {
        let table = [
            (
                "Thanks, closed.\n\nOn Mon, 2 Nov 2026 at 10:00, Bridge <b@example.com> wrote:\n> Call 7",
                "Thanks, closed.",
            ),
            ("Danke!\n\nAm 02.11.2026 um 10:00 schrieb Bridge:\n\n> Anruf 7\n", "Danke!"),
            ("Merci\n\nLe lun. 2 nov. 2026 à 10:00, Bridge\n<b@example.com> a écrit :\n> Appel", "Merci"),
            ("Ok\n\n-----Original Message-----\nFrom: Bridge\n", "Ok"),
            ("Ok\n\n________________________________\nVon: Bridge\n", "Ok"),
            ("Hi\n\nFrom: Bridge <b@example.com>\nSent: Monday, 2 November 2026 10:00\nTo: Me\n", "Hi"),
            ("> Call 7: is this done?\nYes, it is.\n> And call 8?\nNo.", "Yes, it is.\nNo."),
            ("Call me.\n-- \nJo Doe\nExample Ltd", "Call me."),
            (
                "On Monday I wrote to them:\nthey did not answer.",
                "On Monday I wrote to them:\nthey did not answer.",
            ),
            ("From: the start it was clear.", "From: the start it was clear."),
            ("", ""),
            ("> only\n> a quotation", ""),
        ];
        for (text, own) in table {
            assert_eq!(own_words(text), own, "{text:?}");
            assert_eq!(own_words(&text.replace('\n', "\r\n")), own, "{text:?} with CRLF");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(own_words(&"ä ".repeat(50_000)).chars().count(), MOST_CHARACTERS);
    }
}
