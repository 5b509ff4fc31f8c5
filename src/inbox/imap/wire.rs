//! The octets under an IMAP connection: lines out, responses in.
//!
//! A response is a line, or several with literals between them (RFC 3501, section 4.3). Reading one does not recurse
//! and never holds more octets than the command that it answers may cost.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::deliver::stream::Stream;
use crate::inbox::{Fault, printable};

/// What a response is about, as far as we ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// The end of a command.
    Tagged { tag: String, status: String, text: String },
    /// `+`: the server waits for more.
    GoOn(String),
    /// A line that begins with `*`, without it.
    Untagged(String),
    /// What was fetched of one mail.
    Fetch(Fetched),
}

/// What a FETCH response tells of a mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) uid: Option<u32>,
    pub(super) size: Option<u32>,
    pub(super) body: Option<Vec<u8>>,
}

/// A connection with what was read ahead.
pub(super) struct Wire {
    stream: Stream,
    received: BytesMut,
    /// How many octets the running command may still cost.
    left: usize,
}

/// The most literals of one response; one is asked for.
const MOST_LITERALS: usize = 64;

/// What goes on while a response is read.
const READING: &str = "reading an answer";

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, received: BytesMut::new(), left: 0 }
    }

    /// From here on so many octets may come.
    pub(super) fn allow(&mut self, octets: usize) {
        self.left = octets;
    }

    /// The stream below; none when something was sent behind the last response.
    pub(super) fn into_stream(self) -> Option<Stream> {
        self.received.is_empty().then_some(self.stream)
    }

    pub(super) async fn send(&mut self, line: &str) -> Result<(), Fault> {
        let fault = |error| Fault::lost("sending a command", &error);
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(fault)?;
        self.stream.flush().await.map_err(fault)
    }

    /// The next response. May be given up and called again.
    pub(super) async fn response(&mut self) -> Result<Response, Fault> {
        let mut wanted = 1;
        loop {
            if self.received.len() >= wanted {
                match measure(&self.received) {
                    Ok((octets, literals)) => {
                        let response = parse(&self.received[..octets], &literals);
                        self.received.advance(octets);
                        return Ok(response);
                    }
                    Err(more) => wanted = self.received.len() + more,
                }
            }
            if self.left == 0 {
                return Err(Fault::lost(READING, &"it is longer than it may be"));
            }
            self.received.reserve(16 * 1024);
            let read = self.stream.read_buf(&mut self.received).await;
            match read.map_err(|error| Fault::lost(READING, &error))? {
                0 => return Err(Fault::lost(READING, &"the server closed the connection")),
                octets => self.left = self.left.saturating_sub(octets),
            }
        }
    }
}

/// The octets of the response at the beginning, and where its literals stand; or how many are missing at least.
fn measure(received: &[u8]) -> Result<(usize, Vec<Range<usize>>), usize> {
    let (mut at, mut literals) = (0, Vec::new());
    // Words for people may look like the beginning of a literal; only what is fetched has any.
    let may_have_literals = received.get(2).is_none_or(u8::is_ascii_digit) && received.starts_with(b"* ");
    loop {
        let end = at + memchr(b'\n', &received[at..]).ok_or(1_usize)?;
        let line = &received[at..end];
        let Some(length) = literal(line).filter(|_| may_have_literals && literals.len() < MOST_LITERALS)
        else {
            return Ok((end + 1, literals));
        };
        let from = end + 1;
        let to = from.saturating_add(length);
        if received.len() < to {
            return Err(to - received.len());
        }
        literals.push(from..to);
        at = to;
    }
}

/// A response without its line end. A carriage return may be the last octet of a literal instead.
fn without_end<'r>(response: &'r [u8], literals: &[Range<usize>]) -> &'r [u8] {
    let line = response.strip_suffix(b"\n").unwrap_or(response);
    let is_outside = |line: &&[u8]| literals.last().is_none_or(|literal| literal.end <= line.len());
    line.strip_suffix(b"\r").filter(is_outside).unwrap_or(line)
}

/// The length that a line announces for the literal behind it: `{12}` at its end.
fn literal(line: &[u8]) -> Option<usize> {
    let digits = line.strip_suffix(b"}\r")?;
    let digits = &digits[digits.iter().rposition(|octet| *octet == b'{')? + 1..];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads one response.
fn parse(response: &[u8], literals: &[Range<usize>]) -> Response {
    let octets = without_end(response, literals);
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    if let Some(rest) = octets.strip_prefix(b"+") {
        return Response::GoOn(text(rest).trim_start().to_owned());
    }
    if let Some(rest) = octets.strip_prefix(b"* ") {
        return fetched(octets, literals).map_or_else(|| Response::Untagged(text(rest)), Response::Fetch);
    }
    let line = text(octets);
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    Response::Tagged { tag: word(), status: word().to_ascii_uppercase(), text: printable(&word()) }
}

/// Reads `* 12 FETCH (UID 7 RFC822.SIZE 100 BODY[] {3}...)`; none for any other response.
fn fetched(octets: &[u8], literals: &[Range<usize>]) -> Option<Fetched> {
    let mut scan = Scan { octets, at: 2, literals };
    scan.word();
    if !scan.word().eq_ignore_ascii_case(b"FETCH") || scan.octets.get(scan.at) != Some(&b'(') {
        return None;
    }
    scan.at += 1;
    let mut fetched = Fetched::default();
    loop {
        let name = scan.word().to_ascii_uppercase();
        if name.is_empty() {
            return Some(fetched);
        }
        let value = scan.value();
        let number = || std::str::from_utf8(value.as_deref()?).ok()?.parse().ok();
        match &name[..] {
            b"UID" => fetched.uid = number(),
            b"RFC822.SIZE" => fetched.size = number(),
            name if name.starts_with(b"BODY[") => fetched.body = value.map(Cow::into_owned),
            _ => {}
        }
    }
}

/// A place in a response.
struct Scan<'r> {
    octets: &'r [u8],
    at: usize,
    literals: &'r [Range<usize>],
}

impl<'r> Scan<'r> {
    /// The octets up to the next blank or bracket outside of `[]`; what parts words is passed over.
    fn word(&mut self) -> &'r [u8] {
        let from = self.at;
        let mut depth = 0_usize;
        while let Some(octet) = self.octets.get(self.at) {
            match octet {
                b'[' => depth += 1,
                b']' => depth = depth.saturating_sub(1),
                b' ' | b'(' | b')' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        let word = &self.octets[from..self.at];
        if self.octets.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        word
    }

    /// A word, a quoted string or a literal; none for NIL, and for a list, which is passed over.
    fn value(&mut self) -> Option<Cow<'r, [u8]>> {
        let value = match self.octets.get(self.at) {
            Some(b'(') => {
                self.pass_list();
                None
            }
            Some(b'"') => Some(self.quoted()),
            Some(b'{') => {
                let range = self.literals.iter().find(|literal| literal.start > self.at)?;
                self.at = range.end;
                Some(Cow::Borrowed(&self.octets[range.clone()]))
            }
            _ => {
                let word = self.word();
                return (!word.eq_ignore_ascii_case(b"NIL")).then_some(Cow::Borrowed(word));
            }
        };
        if self.octets.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        value
    }

    /// A quoted string without its quotes and escapes.
    fn quoted(&mut self) -> Cow<'r, [u8]> {
        let mut text = Vec::new();
        self.at += 1;
        while let Some(octet) = self.octets.get(self.at) {
            self.at += 1;
            match octet {
                b'"' => break,
                b'\\' => {
                    text.extend(self.octets.get(self.at));
                    self.at += 1;
                }
                octet => text.push(*octet),
            }
        }
        self.at = self.at.min(self.octets.len());
        Cow::Owned(text)
    }

    fn pass_list(&mut self) {
        let mut depth = 0_usize;
        while let Some(octet) = self.octets.get(self.at) {
            match octet {
                b'(' => depth += 1,
                b')' if depth <= 1 => {
                    self.at += 1;
                    return;
                }
                b')' => depth -= 1,
                b'"' => {
                    self.quoted();
                    continue;
                }
                b'{' => {
                    if let Some(range) = self.literals.iter().find(|literal| literal.start > self.at) {
                        self.at = range.end;
                        continue;
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn read(received: &[u8]) -> Option<(Response, usize)> {
        let (octets, literals) = measure(received).ok()?;
        Some((parse(&received[..octets], &literals), octets))
    }

    fn mail(uid: u32, size: Option<u32>, body: Option<&[u8]>) -> Response {
        Response::Fetch(Fetched { uid: Some(uid), size, body: body.map(<[u8]>::to_vec) })
    }

    #[test]
    fn responses_are_read_whole_whatever_is_in_them() {
        let tagged = |status: &str, text: &str| Response::Tagged {
            tag: "a1".to_owned(),
            status: status.to_owned(),
            text: text.to_owned(),
        };
        let untagged = |text: &str| Response::Untagged(text.to_owned());
        let table: &[(&[u8], Response)] = &[
            (b"a1 OK done\r\n", tagged("OK", "done")),
            (b"a1 no [TRYCREATE] no such folder\r\n", tagged("NO", "[TRYCREATE] no such folder")),
            (b"a1 OK\r\n", tagged("OK", "")),
            (b"+ idling\r\n", Response::GoOn("idling".to_owned())),
            (b"+\r\n", Response::GoOn(String::new())),
            (b"* OK [ALERT]\xc3\xa9 {7}\r\n", untagged("OK [ALERT]\u{e9} {7}")),
            (b"* SEARCH 1 2 3\r\n", untagged("SEARCH 1 2 3")),
            (b"* 12 EXISTS\r\n", untagged("12 EXISTS")),
            (b"\n", Response::Tagged { tag: String::new(), status: String::new(), text: String::new() }),
            (b"* 1 FETCH (UID 7 RFC822.SIZE 12)\r\n", mail(7, Some(12), None)),
            (b"* 1 FETCH (BODY[] {4}\r\n)\r\n UID 7)\r\n", mail(7, None, Some(b")\r\n "))),
            (b"* 1 fetch (uid 7 body[header]<0> {2}\r\nab)\r\n", mail(7, None, Some(b"ab"))),
            (b"* 1 FETCH (FLAGS (\\Seen \"a)\") UID 7 BODY[] \"a\\\"b\")\r\n", mail(7, None, Some(b"a\"b"))),
            (b"* 1 FETCH (UID 7 BODY[] NIL)\r\n", mail(7, None, None)),
            (b"* 1 FETCH (UID 7 BODY[] {3}\r\nab\r\n", mail(7, None, Some(b"ab\r"))),
            (b"* 1 FETCH (X {3}\r\n((( Y (a (b {2}\r\n)) c)) UID 7)\r\n", mail(7, None, None)),
        ];
        for (received, response) in table {
            let shown = String::from_utf8_lossy(received);
            let more = [received, &b"a2 OK next\r\n"[..]].concat();
            assert_eq!(read(&more), Some((response.clone(), received.len())), "{shown}");
            for cut in 0..received.len() {
                assert!(read(&received[..cut]).is_none(), "{shown} cut at {cut}");
            }
        }
    }

    #[test]
    fn nothing_that_a_server_says_ends_the_program() {
        let nested = [b"* 1 FETCH (", &b"(".repeat(200_000)[..], b"\r\n"].concat();
        assert!(read(&nested).is_some());
        for odd in [
            "* 1 FETCH (UID",
            "* 1 FETCH (UID \"a\\",
            "* 1 FETCH (A {99999999999999999999}",
            "* ",
            "*",
            "* 1 FETCH (]",
        ] {
            assert!(read(format!("{odd}\r\n").as_bytes()).is_some(), "{odd}");
        }
        let many = [b"* 1 FETCH (A ", &b"{0}\r\n".repeat(200_000)[..]].concat();
        assert!(
            measure(&many).unwrap().0 < 1000,
            "what stands behind is another response, and none that fits"
        );
        assert_eq!(measure(b"* 1 FETCH (A {18446744073709551615}\r\n"), Err(usize::MAX - 37));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Out of the parts of real responses, so that they come far.
        #[test]
        fn no_octets_of_a_server_end_the_program(parts in vec(prop_oneof![
            select(vec![&b"* 1 FETCH ("[..], b"UID 7 ", b"BODY[] ", b"RFC822.SIZE 3 ", b"{3}\r\n", b"{0}\r\n", b"NIL",
                b"\"", b"\\", b"(", b")", b"[", b"]", b"\r\n", b"* OK [ALERT]", b"+ ", b"a1 NO "]).prop_map(<[u8]>::to_vec),
            vec(any::<u8>(), 0..8),
        ], 0..40)) {
            let received = parts.concat();
            if let Some((_, octets)) = read(&received) {
                prop_assert!(octets <= received.len());
            }
        }
    }
}
