//! Names of folders as they stand in a command.

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};

use super::login::quoted;

const BASE64: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// A folder's name in modified UTF-7 (RFC 3501, section 5.1.3), quoted.
pub(super) fn folder_name(name: &str) -> String {
    let mut encoded = String::new();
    let mut outside: Vec<u16> = Vec::new();
    for c in name.chars().map(Some).chain([None]) {
        let is_plain = c.is_none_or(|c| (' '..='~').contains(&c));
        if is_plain && !outside.is_empty() {
            let octets: Vec<u8> = outside.drain(..).flat_map(u16::to_be_bytes).collect();
            encoded.push_str(&format!("&{}-", BASE64.encode(octets)));
        }
        match c {
            Some('&') => encoded.push_str("&-"),
            Some(c) if is_plain => encoded.push(c),
            Some(c) => outside.extend_from_slice(c.encode_utf16(&mut [0; 2])),
            None => {}
        }
    }
    quoted(&encoded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_rfc_3501_has_them() {
        let table = [
            ("INBOX", "\"INBOX\""),
            ("Lost & Found", "\"Lost &- Found\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("Gelöscht", "\"Gel&APY-scht\""),
            // The example of section 5.1.3.
            ("~peter/mail/台北/日本語", "\"~peter/mail/&U,BTFw-/&ZeVnLIqe-\""),
            ("Mail 📬", "\"Mail &2D3c7A-\""),
        ];
        for (name, written) in table {
            assert_eq!(folder_name(name), written, "{name}");
        }
    }
}
