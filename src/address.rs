//! Mail addresses that are safe to put into an envelope and a header.
//!
//! A domain is kept in its ASCII form, whatever form it is written in. A local part outside ASCII stays as it is and
//! needs a relay that offers SMTPUTF8 (RFC 6531).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// RFC 5321, section 4.5.3.1.1.
pub const MAX_LOCAL_OCTETS: usize = 64;
/// RFC 5321, section 4.5.3.1.3, less the two angle brackets.
const MAX_ADDRESS_OCTETS: usize = 254;

/// One mailbox, `local@domain`, checked: no quoting, no routing, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    at: usize,
}

impl Address {
    /// The part before the `@`.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The whole address, without brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same mailbox with `+tag` appended to its local part (RFC 5233 sub-addressing).
    pub fn tagged(&self, tag: &str) -> Result<Self, BadAddress> {
        format!("{}+{tag}@{}", self.local(), self.domain()).parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = |reason| BadAddress { text: text.to_owned(), reason };
        let at = text.rfind('@').ok_or_else(|| bad("it has no @"))?;
        let (local, domain) = (&text[..at], &text[at + 1..]);
        let domain = if domain.is_ascii() {
            Cow::Borrowed(domain)
        } else {
            Cow::Owned(
                idna::domain_to_ascii(domain).map_err(|_| bad("the part after the @ is not a host name"))?,
            )
        };
        if at + 1 + domain.len() > MAX_ADDRESS_OCTETS || local.len() > MAX_LOCAL_OCTETS {
            return Err(bad("it is longer than RFC 5321 allows (64 octets before the @, 254 in all)"));
        }
        if !is_dot_atom(local) {
            return Err(bad(
                "the part before the @ may hold letters, digits, single dots and !#$%&'*+-/=?^_`{|}~, and nothing invisible",
            ));
        }
        if !is_host_name(&domain) {
            return Err(bad("the part after the @ is not a host name"));
        }
        Ok(Self { text: format!("{local}@{domain}"), at })
    }
}

/// RFC 5322, section 3.2.3: atoms parted by single dots; beyond ASCII, letters and digits (RFC 6532, section 3.2
/// allows more, which nobody could see).
fn is_dot_atom(local: &str) -> bool {
    let is_atext = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// Whether `name` is labels parted by single dots.
pub fn is_host_name(name: &str) -> bool {
    name.split('.').all(is_host_label)
}

/// RFC 1123, section 2.1.
fn is_host_label(label: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !label.is_empty()
        && label.len() <= 63
        && label.chars().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A text that is not an address we send to or from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a usable mail address: {reason}")]
pub struct BadAddress {
    text: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_or_refused() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_domain = format!("a@{}.example.com", "b".repeat(64));
        let table: &[(&str, bool)] = &[
            ("support@example.com", true),
            ("support+id12345@crm.example.com", true),
            ("o'neil/dept=1@xn--bcher-kva.example", true),
            ("root@localhost", true),
            ("a..b@example.com", false),
            (".a@example.com", false),
            ("a.@example.com", false),
            ("a@", false),
            ("@example.com", false),
            ("example.com", false),
            ("a b@example.com", false),
            ("\"a b\"@example.com", false),
            ("a@b@example.com", false),
            ("a@exa mple.com", false),
            ("a@-example.com", false),
            ("a@example..com", false),
            ("a@example.com>", false),
            ("a@example.com\r\nRCPT TO:<b@example.com", false),
            ("jörg@example.com", true),
            ("support@bücher.example", true),
            ("a\u{202e}b@example.com", false),
            ("a\u{a0}b@example.com", false),
            ("a@ex\u{202e}ample.com", false),
            ("a@b\u{fc}cher.example>", false),
            (&long_local, false),
            (&long_domain, false),
        ];
        for (text, taken) in table {
            assert_eq!(text.parse::<Address>().is_ok(), *taken, "{text}");
        }
    }

    #[test]
    fn a_domain_has_one_form() {
        let address: Address = "jörg@Bücher.example".parse().unwrap();
        assert_eq!(address.as_str(), "jörg@xn--bcher-kva.example");
        assert_eq!((address.local(), address.domain()), ("jörg", "xn--bcher-kva.example"));
    }

    #[test]
    fn a_tag_goes_behind_the_local_part() {
        let address: Address = "bridge@mail.example.com".parse().unwrap();
        assert_eq!(address.tagged("c7").unwrap().as_str(), "bridge+c7@mail.example.com");
        assert_eq!((address.local(), address.domain()), ("bridge", "mail.example.com"));
        assert!(address.tagged(&"x".repeat(60)).is_err());
    }
}
