//! Addresses in the wild: in header fields, in reports, and anywhere in a text.

use std::borrow::Cow;

/// The longest address that is taken for one.
const MAX_ADDRESS_OCTETS: usize = 320;

/// An address and where it stands in the text that was looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'t> {
    /// The address.
    pub address: &'t str,
    /// The octet at which it begins.
    pub start: usize,
    /// The octet behind it.
    pub end: usize,
}

/// All that looks like an address in a text, in its order.
pub fn scan(text: &str) -> impl Iterator<Item = Found<'_>> {
    let mut last = 0;
    memchr::memchr_iter(b'@', text.as_bytes()).filter_map(move |at| {
        let found = around(text, at)?;
        (found.start >= last).then(|| {
            last = found.end;
            found
        })
    })
}

/// The address around the `@` at this octet.
fn around(text: &str, at: usize) -> Option<Found<'_>> {
    let bytes = text.as_bytes();
    let in_brackets = in_brackets(text, at);
    let (start, end) = in_brackets.unwrap_or_else(|| (local_start(bytes, at), domain_end(bytes, at)));
    let address = text.get(start..end)?;
    is_address(address).then_some(Found { address, start, end })
}

/// Within angle brackets an address may hold nearly anything, also letters beyond ASCII (RFC 6532).
fn in_brackets(text: &str, at: usize) -> Option<(usize, usize)> {
    let window = at.saturating_sub(MAX_ADDRESS_OCTETS)..(at + MAX_ADDRESS_OCTETS).min(text.len());
    let bytes = text.as_bytes();
    let odd =
        |byte: &u8| matches!(byte, b'<' | b'>' | b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' | b';' | b'"');
    let before = bytes[window.start..at].iter().rposition(odd)? + window.start;
    let after = bytes[at..window.end].iter().position(odd)? + at;
    (bytes[before] == b'<' && bytes[after] == b'>').then_some((before + 1, after))
}

fn local_start(bytes: &[u8], at: usize) -> usize {
    if at > 1 && bytes[at - 1] == b'"' {
        // RFC 5321, section 4.1.2: a quoted local part.
        let from = at.saturating_sub(66);
        if let Some(quote) = bytes[from..at - 1].iter().rposition(|byte| matches!(byte, b'"' | b'\n'))
            && bytes[from + quote] == b'"'
        {
            return from + quote;
        }
    }
    let is_local = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(byte);
    let mut start = bytes[..at].iter().rposition(|byte| !is_local(byte)).map_or(0, |before| before + 1);
    while start < at && matches!(bytes[start], b'\'' | b'.' | b'*' | b'`' | b'/' | b'|' | b'=' | b'-' | b'{')
    {
        start += 1;
    }
    start
}

fn domain_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at + 1..];
    if rest.first() == Some(&b'[') {
        return rest.iter().take(60).position(|byte| *byte == b']').map_or(at, |close| at + close + 2);
    }
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let mut end = rest.iter().position(|byte| !is_domain(byte)).map_or(bytes.len(), |after| at + 1 + after);
    while end > at + 1 && matches!(bytes[end - 1], b'.' | b'-' | b'_') {
        end -= 1;
    }
    end
}

fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    !local.is_empty()
        && text.len() <= MAX_ADDRESS_OCTETS
        && domain.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '[')
        && !domain.contains("..")
        && !domain.contains(['/', '=', '<', '(', '*'])
        && !text.bytes().any(|byte| byte.is_ascii_control())
}

/// The addresses of a header field (RFC 5322, section 3.4): those in angle brackets; else those outside quotes.
pub fn of_field(value: &str) -> Vec<&str> {
    let in_brackets: Vec<&str> = value
        .split('<')
        .skip(1)
        .filter_map(|rest| rest.split_once('>').map(|(address, _)| address.trim()))
        .filter(|address| is_address(address))
        .collect();
    if in_brackets.is_empty() { scan(value).map(|found| found.address).collect() } else { in_brackets }
}

/// The address in a field such as `Final-Recipient` (RFC 3464, section 2.3.2): without its type, brackets, comments
/// and names. What holds no address, such as a pipe to a program, is given as it is.
pub fn of_report(value: &str) -> Option<String> {
    let (kind, rest) = match value.split_once(';') {
        Some((kind, rest)) if !kind.contains('@') => (kind.trim(), rest.trim()),
        _ => ("", value.trim()),
    };
    if kind.eq_ignore_ascii_case("x400") || kind.eq_ignore_ascii_case("x-x400") {
        return x400(rest).or_else(|| Some(rest.to_owned()).filter(|rest| !rest.is_empty()));
    }
    let rest = if rest.contains("\\x{") { Cow::Owned(unitext(rest)) } else { xtext(rest) };
    // A field is an address as a whole, if nothing parts it.
    let whole = rest.trim_matches(['<', '>', ' ']);
    if is_address(whole) && !whole.contains([' ', '\t', '<', '>', ',']) {
        return Some(whole.to_owned());
    }
    let found = of_field(&rest).first().map(|address| (*address).to_owned());
    found.or_else(|| Some(whole.trim_matches('"').to_owned()).filter(|whole| !whole.is_empty()))
}

/// RFC 2156, section 4.3: an address within an X.400 one, `/RFC-822=a(a)b/`.
fn x400(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let key = ["rfc-822=", "rfc822="].into_iter().find_map(|key| lower.find(key).map(|at| at + key.len()))?;
    let value = text[key..].split(['/', ';']).next()?.trim();
    let value = value.replace("(a)", "@").replace("(p)", "%").replace("(u)", "_").replace("(b)", "!");
    is_address(&value).then_some(value)
}

/// RFC 6533, section 3: `\x{HEX}` in an address of the type `utf-8`.
fn unitext(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x{") {
        out.push_str(before);
        let code = after.split_once('}').and_then(|(hex, behind)| {
            u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).map(|code| (code, behind))
        });
        let Some((code, behind)) = code else {
            out.push_str("\\x{");
            rest = after;
            continue;
        };
        out.push(code);
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// RFC 3461, section 4: `+HH`, where a server hands on what it was given without decoding it. Only the codes of
/// octets that never go uncoded are taken for codes, so a real `+` stays.
fn xtext(text: &str) -> Cow<'_, str> {
    if text.contains("+2B") || text.contains("+3D") || text.contains("+40") {
        Cow::Owned(text.replace("+40", "@").replace("+3D", "=").replace("+2B", "+"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_a_text() {
        let table: &[(&str, &[&str])] = &[
            ("<a@b.example>: unknown", &["a@b.example"]),
            ("to a.b+c@d-e.example.", &["a.b+c@d-e.example"]),
            ("'a@b.example', \"c d\"@e.example", &["a@b.example", "\"c d\"@e.example"]),
            ("a@b.example<mailto:a@b.example>", &["a@b.example", "a@b.example"]),
            ("user@[192.0.2.1] and @b.example and a@", &["user@[192.0.2.1]"]),
            ("<ö@bücher.example>", &["ö@bücher.example"]),
            ("受信者a@b.exampleは", &["a@b.example"]),
        ];
        for (text, addresses) in table {
            assert_eq!(scan(text).map(|found| found.address).collect::<Vec<_>>(), *addresses, "{text}");
        }
    }

    #[test]
    fn the_address_of_a_report_is_taken_out_of_what_stands_around_it() {
        let table = [
            ("rfc822; a@b.example", "a@b.example"),
            ("RFC822;<a@b.example>", "a@b.example"),
            ("a@b.example", "a@b.example"),
            ("rfc822; \"A, B\" <a@b.example> (unknown)", "a@b.example"),
            ("x400; /RFC-822=a(a)b.example/P=x/C=us/", "a@b.example"),
            ("utf-8; \\x{f6}@b.example", "ö@b.example"),
            ("utf-8; ö@bücher.example", "ö@bücher.example"),
            ("rfc822; a+2Bb+3Dc@d.example", "a+b=c@d.example"),
            ("rfc822; |/usr/bin/filter", "|/usr/bin/filter"),
        ];
        for (value, address) in table {
            assert_eq!(of_report(value).as_deref(), Some(address), "{value}");
        }
        assert_eq!(of_report("rfc822;"), None);
    }
}
