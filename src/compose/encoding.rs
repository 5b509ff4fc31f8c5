//! The two encodings of a body (RFC 2045, section 6), with CRLF line ends and without an end of the last line.
//!
//! The mail library's own go line by line and octet by octet; that made a twentieth of what a session costs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr_iter;

/// The longest line, with the `=` of a soft line break.
const LINE: usize = 76;

/// Base64 in lines.
pub(super) fn base64(raw: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(base64_length(raw.len()) + 2);
    // In one piece first: that is several times as fast as line by line.
    for line in STANDARD.encode(raw).as_bytes().chunks(LINE) {
        encoded.extend_from_slice(line);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.truncate(base64_length(raw.len()));
    encoded
}

/// How many octets so many become in base64.
pub(super) fn base64_length(raw: usize) -> usize {
    let characters = raw.div_ceil(3) * 4;
    characters + characters.div_ceil(LINE).saturating_sub(1) * 2
}

/// Quoted-printable of a text whose lines end in LF.
pub(super) fn quoted_printable(text: &str) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 4);
    let mut from = 0;
    for end in memchr_iter(b'\n', text.as_bytes()) {
        quote(&text.as_bytes()[from..end], &mut encoded);
        encoded.extend_from_slice(b"\r\n");
        from = end + 1;
    }
    quote(&text.as_bytes()[from..], &mut encoded);
    encoded
}

/// One line. A blank at its end is quoted: on the way it could get lost.
fn quote(line: &[u8], encoded: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let is_printable = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~') && *byte != b'=';
    let ends_blank = matches!(line.last(), Some(b'\t' | b' '));
    if line.len() <= LINE && line.iter().all(is_printable) && !ends_blank {
        encoded.extend_from_slice(line);
        return;
    }
    let (mut at, mut width) = (0, 0);
    while at < line.len() {
        // What is left goes on this line, or as much of it as leaves room for the `=` of a soft line break.
        let (left, room) = (line.len() - at, LINE - width);
        let most = if left <= room { left } else { room - 1 };
        let run = line[at..at + most].iter().take_while(|byte| is_printable(byte)).count();
        let run = if ends_blank && run == left { run - 1 } else { run };
        encoded.extend_from_slice(&line[at..at + run]);
        (at, width) = (at + run, width + run);
        if run < most && width + 3 + usize::from(at + 1 < line.len()) <= LINE {
            let byte = line[at];
            encoded.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            (at, width) = (at + 1, width + 3);
        } else if at < line.len() {
            encoded.extend_from_slice(b"=\r\n");
            width = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;
    use proptest::prelude::*;

    use super::*;

    /// What a reader of the mail gets.
    fn decoded(body: &[u8], encoding: &str) -> Vec<u8> {
        let head = format!("Content-Type: application/x\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
        let mail = [head.as_bytes(), body].concat();
        MessageParser::default().parse(&mail).unwrap().attachment(0).unwrap().contents().to_vec()
    }

    #[test]
    fn what_cannot_stand_as_it_is_is_quoted_and_long_lines_are_broken() {
        let table = [
            ("", String::new()),
            ("a\nb\n", "a\r\nb\r\n".to_owned()),
            ("a=b \u{e4}", "a=3Db =C3=A4".to_owned()),
            ("end \ntab\t", "end=20\r\ntab=09".to_owned()),
            (" \n", "=20\r\n".to_owned()),
            ("\r\0\u{7f}", "=0D=00=7F".to_owned()),
            (&"x".repeat(76), "x".repeat(76)),
            (&"x".repeat(77), format!("{}=\r\nxx", "x".repeat(75))),
            (&format!("{}\u{e4}", "x".repeat(70)), format!("{}=C3=A4", "x".repeat(70))),
            (&format!("{}\u{e4}", "x".repeat(71)), format!("{}=C3=\r\n=A4", "x".repeat(71))),
            (&format!("{}=", "x".repeat(73)), format!("{}=3D", "x".repeat(73))),
            (&format!("{} ", "x".repeat(75)), format!("{}=\r\n=20", "x".repeat(75))),
        ];
        for (text, encoded) in table {
            assert_eq!(String::from_utf8(quoted_printable(text)).unwrap(), encoded, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_reader_gets_the_text_and_every_line_is_short(text in "(?s)([a-z =\t\n]|.){0,300}") {
            let encoded = quoted_printable(&text);
            prop_assert_eq!(decoded(&encoded, "quoted-printable"), text.replace('\n', "\r\n").into_bytes());
            let written = String::from_utf8(encoded).unwrap();
            for line in written.split("\r\n") {
                prop_assert!(line.len() <= 76 && line.is_ascii() && !line.ends_with([' ', '\t', '\r']), "{:?}", line);
            }
        }

        #[test]
        fn base64_gives_the_octets_and_has_the_length_that_is_said(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            let encoded = base64(&raw);
            prop_assert_eq!(encoded.len(), base64_length(raw.len()));
            prop_assert!(encoded.split(|octet| *octet == b'\n').all(|line| line.len() <= 77));
            prop_assert_eq!(decoded(&encoded, "base64"), raw);
        }
    }
}
