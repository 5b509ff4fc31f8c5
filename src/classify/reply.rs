//! SMTP replies and enhanced codes in a text.

/// What a host answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Codes<'t> {
    /// The reply code.
    pub(super) reply: Option<u16>,
    /// The enhanced status code.
    pub(super) status: Option<&'t str>,
}

/// The first reply code and the first enhanced code of failure in a text.
pub(super) fn codes(text: &str) -> Codes<'_> {
    let mut found = Codes::default();
    let bytes = text.as_bytes();
    for at in memchr::memchr2_iter(b'4', b'5', bytes) {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        if before.is_some_and(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'@' | b'/' | b'_')
        }) {
            let is_behind_code =
                before == Some(b'-') && at >= 4 && bytes[at - 4..at - 1].iter().all(u8::is_ascii_digit);
            if !is_behind_code {
                continue;
            }
        }
        if found.status.is_none() {
            found.status = status_at(text, at);
            if found.status.is_some() {
                continue;
            }
        }
        if found.reply.is_none() {
            found.reply = reply_at(bytes, at);
        }
        if found.reply.is_some() && found.status.is_some() {
            break;
        }
    }
    found
}

/// RFC 5321, section 4.2: three digits, then a blank, a hyphen or the end.
fn reply_at(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 3)?;
    let fits = digits[1] <= b'7' && digits.iter().all(u8::is_ascii_digit);
    // Four hundred bytes, days or kilometres are no replies: these stand before a blank and a small word.
    let after = bytes.get(at + 3).copied().unwrap_or(b'\n');
    let is_end = matches!(
        after,
        b' ' | b'-' | b'\n' | b'\r' | b':' | b',' | b'"' | b'\'' | b')' | b']' | b';' | b'\t' | b'<'
    );
    let reply = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (fits && is_end && (400..=577).contains(&reply)).then_some(reply)
}

/// RFC 3463, section 2: `class.subject.detail`.
fn status_at(text: &str, at: usize) -> Option<&str> {
    let rest = &text[at..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let code = rest[..end].trim_end_matches('.');
    let mut parts = code.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    let is_short = |part: &str| (1..=3).contains(&part.len());
    let fits = class.len() == 1 && is_short(subject) && is_short(detail) && parts.next().is_none();
    // A subject goes up to 7; a version such as 4.20.1 or an address such as 5.9.1 does not pass.
    (fits && subject.len() == 1 && subject <= "7").then_some(code)
}

/// The three numbers of a status field, without comments and leading noughts.
pub(super) fn status_of(field: &str) -> Option<String> {
    let digits = field.trim().trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let mut parts = digits[..end].split('.').filter(|part| !part.is_empty());
    let number = |part: Option<&str>| part?.parse::<u16>().ok();
    let (class, subject) = (number(parts.next())?, number(parts.next())?);
    let detail = number(parts.next()).unwrap_or(0);
    (matches!(class, 2 | 4 | 5) && subject <= 999 && detail <= 999)
        .then(|| format!("{class}.{subject}.{detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_codes_are_told_from_other_numbers() {
        let table: &[(&str, Option<u16>, Option<&str>)] = &[
            ("host a[192.0.2.1] said: 550 5.1.1 <a@b.example>: unknown", Some(550), Some("5.1.1")),
            ("550-5.7.26 This mail", Some(550), Some("5.7.26")),
            ("said: 421-4.7.0 later", Some(421), Some("4.7.0")),
            ("(#5.1.1)", None, Some("5.1.1")),
            ("Exim 4.92.3 (5432 octets) 192.0.2.5 at 12:45", None, None),
            ("552", Some(552), None),
            ("5.4.310 domain does not exist", None, Some("5.4.310")),
        ];
        for (text, reply, status) in table {
            assert_eq!(codes(text), Codes { reply: *reply, status: *status }, "{text}");
        }
        assert_eq!(status_of("5.1.1 (bad mailbox)").as_deref(), Some("5.1.1"));
        assert_eq!(status_of("5.0").as_deref(), Some("5.0.0"));
        assert_eq!(status_of("unknown"), None);
    }
}
