//! One revision of a session's metadata, as the platform wrote it.
//!
//! Bytes go in; out comes a [`Session`] that knows its key, its version and its ticket and carries every other
//! key along untouched, or a [`Fault`] with the place and the reason. Only `id`, a kind and `updated_at` are
//! required. Numbers keep all their digits.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use jiff::civil;
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

use crate::ids::{Kind, SessionName};

/// A session's metadata in one version.
#[derive(Debug, Clone)]
pub struct Session {
    /// Kind and number; unique within the platform instance.
    pub name: SessionName,
    /// The version stamp: of two revisions the one with the later stamp is the newer.
    pub updated_at: Timestamp,
    /// When the last agent leg ended; none while the session runs or where the stamp is unreadable.
    pub ends_at: Option<Timestamp>,
    /// The language tag, lower or upper case as written.
    pub lang: Option<String>,
    /// The CRM record.
    pub ticket: Ticket,
    /// Everything the file holds.
    pub root: Map<String, Value>,
}

/// The CRM record a session belongs to. Id and URL are independent: neither is derived from the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ticket {
    /// `out_ticket_id`, trimmed; none for null, blank or unusable.
    pub id: Option<String>,
    /// `out_ticket_url`, as written.
    pub url: Option<String>,
    /// True when the id had characters that no ticket id has, so it counts as not given.
    pub unusable: bool,
}

/// What a file turned out to be.
#[derive(Debug)]
pub enum Reading {
    /// A session.
    Session(Box<Session>),
    /// Another kind of file that belongs beside sessions, and what it is.
    Other(&'static str),
}

/// Why bytes are not a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Line and column, both from 1; none where the fault is not at one place.
    pub place: Option<(usize, usize)>,
    /// The key that is at fault.
    pub field: Option<&'static str>,
    /// What is wrong.
    pub reason: String,
    /// True when the bytes end too early: the file may still be being written.
    pub incomplete: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        if let Some(field) = self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl Fault {
    fn of(field: Option<&'static str>, reason: impl Into<String>) -> Self {
        Self { place: None, field, reason: reason.into(), incomplete: false }
    }

    fn from_json(error: &serde_json::Error) -> Self {
        let place = (error.line() > 0).then(|| (error.line(), error.column()));
        // The place is told apart; what serde quotes of the file may be long and personal.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        let reason = match text.strip_prefix("invalid type: ") {
            // What follows the type's name quotes the value.
            Some(found) => {
                let kind: String = found.chars().take_while(char::is_ascii_lowercase).collect();
                format!("invalid type: {kind}, expected one JSON object")
            }
            None => text.chars().take(160).collect(),
        };
        Self { place, field: None, reason, incomplete: error.is_eof() }
    }
}

/// Reads one file. `file_name` helps only where the content does not tell the kind; `limit` is in bytes.
pub fn read(bytes: &[u8], file_name: &str, limit: usize) -> Result<Reading, Fault> {
    if bytes.len() > limit {
        return Err(Fault::of(None, format!("{} bytes are more than the limit of {limit}", bytes.len())));
    }
    // RFC 8259, section 8.1: a byte order mark may be ignored; other encodings are not JSON between systems.
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if json.starts_with(b"\xff\xfe") || json.starts_with(b"\xfe\xff") || json.iter().take(4).any(|b| *b == 0)
    {
        return Err(Fault::of(None, "the file is UTF-16 or binary; session metadata is UTF-8"));
    }
    if file_name.ends_with(".txt") && !json.trim_ascii_start().starts_with(b"{") {
        return Ok(Reading::Other("a text transcript"));
    }
    // Texts within a text need not be looked through one by one; the octets tell the place of what is none.
    let Root(root) = match std::str::from_utf8(json) {
        Ok(json) => serde_json::from_str(json),
        Err(_) => serde_json::from_slice(json),
    }
    .map_err(|error| Fault::from_json(&error))?;
    if root.contains_key("transcript_version")
        || (root.contains_key("entries") && root.contains_key("comm_type"))
    {
        return Ok(Reading::Other("a chat transcript"));
    }
    session(root, file_name).map(|session| Reading::Session(Box::new(session)))
}

fn session(root: Map<String, Value>, file_name: &str) -> Result<Session, Fault> {
    let kind = kind(&root, file_name).ok_or_else(|| {
        Fault::of(None, "neither call_type nor chat_type is there, so this is not a session")
    })?;
    let number = number(&root)?;
    let updated_at = text(root.get("updated_at")).ok_or_else(|| Fault::of(Some("updated_at"), "missing"))?;
    let updated_at = Stamp::parse(&updated_at)
        .ok_or_else(|| Fault::of(Some("updated_at"), "not a date and time with an offset"))?
        .instant();
    Ok(Session {
        name: SessionName { kind, number },
        updated_at,
        ends_at: text(root.get("ends_at")).and_then(|at| Stamp::parse(&at)).map(Stamp::instant),
        lang: text(root.get("lang")).map(Cow::into_owned),
        ticket: ticket(&root),
        root,
    })
}

/// The kind, by the key that is there, then by the type's words, then by the file's name.
fn kind(root: &Map<String, Value>, file_name: &str) -> Option<Kind> {
    let given = |key: &str| root.get(key).is_some_and(|value| !value.is_null());
    let words = ["session_type_v2", "session_type"].map(|key| text(root.get(key)).unwrap_or_default());
    let typed = |start: &str| words.iter().any(|word| word.starts_with(start));
    if root.contains_key("call_type") != root.contains_key("chat_type") {
        return Some(if root.contains_key("call_type") { Kind::Call } else { Kind::Chat });
    }
    match () {
        () if given("call_type") || typed("Voice") => Some(Kind::Call),
        () if given("chat_type") || typed("Messaging") || given("chat_uuid") => Some(Kind::Chat),
        () if file_name.starts_with("call-") => Some(Kind::Call),
        () if file_name.starts_with("chat-") => Some(Kind::Chat),
        () => None,
    }
}

fn number(root: &Map<String, Value>) -> Result<u64, Fault> {
    let id = text(root.get("id")).ok_or_else(|| Fault::of(Some("id"), "missing"))?;
    let number = id.parse().map_err(|_| Fault::of(Some("id"), "not a whole number of at most 64 bits"))?;
    // The store's integers are signed.
    if i64::try_from(number).is_err() {
        return Err(Fault::of(Some("id"), "larger than 9223372036854775807"));
    }
    Ok(number)
}

fn ticket(root: &Map<String, Value>) -> Ticket {
    let id = text(root.get("out_ticket_id")).map(Cow::into_owned);
    let unusable = id.as_ref().is_some_and(|id| id.len() > 200 || id.chars().any(char::is_control));
    let url = text(root.get("out_ticket_url")).map(Cow::into_owned);
    Ticket { id: id.filter(|_| !unusable), url, unusable }
}

/// A scalar as text, trimmed; none for missing, null, blank, and for lists and objects.
pub fn text(value: Option<&Value>) -> Option<Cow<'_, str>> {
    let text: Cow<'_, str> = match value? {
        Value::String(text) => text.trim().into(),
        Value::Number(number) => number.to_string().into(),
        Value::Bool(truth) => truth.to_string().into(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// A moment with the offset it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Date and time of day at that offset.
    pub local: civil::DateTime,
    /// Hours and minutes from UTC.
    pub offset: Offset,
}

impl Stamp {
    /// Reads `2026-05-11T09:42:01.000+03:00` (RFC 3339, section 5.6); none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let pieces = Pieces::parse(text).ok()?;
        let local = pieces.date().to_datetime(pieces.time()?);
        let stamp = Self { local, offset: pieces.to_numeric_offset()? };
        stamp.offset.to_timestamp(local).ok().map(|_| stamp)
    }

    /// The moment itself.
    pub fn instant(self) -> Timestamp {
        self.offset.to_timestamp(self.local).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// The file's object. A key that stands twice is refused: two readers could take different tickets from it.
struct Root(Map<String, Value>);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Root;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Root, A::Error> {
                let mut root = Map::new();
                while let Some(key) = entries.next_key::<String>()? {
                    match root.entry(key) {
                        Entry::Vacant(place) => _ = place.insert(entries.next_value()?),
                        Entry::Occupied(place) => {
                            let key: String = place.key().chars().take(60).collect();
                            return Err(A::Error::custom(format!("the key {key:?} stands twice")));
                        }
                    }
                }
                Ok(Root(root))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn session_of(json: &str) -> Session {
        match read(json.as_bytes(), "x.json", LIMIT) {
            Ok(Reading::Session(session)) => *session,
            other => panic!("{json}: {other:?}"),
        }
    }

    fn fault_of(bytes: &[u8]) -> Fault {
        match read(bytes, "x.json", LIMIT) {
            Err(fault) => fault,
            Ok(other) => panic!("taken for {other:?}"),
        }
    }

    #[test]
    fn the_least_session_is_enough() {
        let session =
            session_of(r#"{"id":41999,"call_type":null,"updated_at":"2026-04-02T16:20:31.000+02:00"}"#);
        assert_eq!(session.name.to_string(), "call-41999");
        assert_eq!(session.updated_at.to_string(), "2026-04-02T14:20:31Z");
        assert_eq!(session.ticket, Ticket::default());
    }

    #[test]
    fn the_kind_is_found_by_key_then_words_then_file_name() {
        let stamp = r#""updated_at":"2026-04-02T16:20:31Z""#;
        let table = [
            (r#""call_type":"Voice Inbound (IVR)""#, "x.json", Some("call-1")),
            (r#""chat_type":"Messaging (WhatsApp)""#, "call-1.json", Some("chat-1")),
            (r#""session_type_v2":"Messaging Inbound (SMS)""#, "x.json", Some("chat-1")),
            (r#""session_type":"Voice Outbound""#, "x.json", Some("call-1")),
            (r#""chat_uuid":"88900e6a""#, "x.json", Some("chat-1")),
            (r#""lang":"en""#, "call-1.json", Some("call-1")),
            (r#""lang":"en""#, "chat-1.json", Some("chat-1")),
            (r#""lang":"en""#, "metadata-1.json", None),
        ];
        for (key, file, name) in table {
            let json = format!(r#"{{"id":1,{stamp},{key}}}"#);
            match (read(json.as_bytes(), file, LIMIT), name) {
                (Ok(Reading::Session(session)), Some(name)) => assert_eq!(session.name.to_string(), name),
                (Err(fault), None) => assert!(fault.reason.contains("call_type"), "{fault}"),
                (other, _) => panic!("{key} in {file}: {other:?}"),
            }
        }
    }

    #[test]
    fn ids_keep_every_digit_and_come_as_numbers_or_text() {
        let with = |id: &str| format!(r#"{{"id":{id},"chat_type":"x","updated_at":"2026-04-02T16:20:31Z"}}"#);
        assert_eq!(session_of(&with("9007199254740993")).name.number, 9_007_199_254_740_993);
        assert_eq!(session_of(&with("\"135\"")).name.number, 135);
        let unusual = r#"{"id":1,"chat_type":"x","updated_at":"2026-04-02T16:20:31Z","future":123456789012345678901234567890.10}"#;
        assert_eq!(
            text(session_of(unusual).root.get("future")).unwrap(),
            "123456789012345678901234567890.10"
        );
        for id in ["-1", "1.5", "\"x\"", "null", "18446744073709551616", "9223372036854775808", "{}"] {
            assert_eq!(fault_of(with(id).as_bytes()).field, Some("id"), "{id}");
        }
    }

    #[test]
    fn a_ticket_key_is_text_or_number_and_blank_means_none() {
        let table = [
            (r#""12345""#, Some("12345"), false),
            ("12345", Some("12345"), false),
            (r#"" DE-1 ""#, Some("DE-1"), false),
            ("null", None, false),
            (r#""""#, None, false),
            (r#""   ""#, None, false),
            (r#""1\r\nBcc: x""#, None, true),
        ];
        for (id, ticket, unusable) in table {
            let json = format!(
                r#"{{"id":1,"call_type":"x","updated_at":"2026-04-02T16:20:31Z","out_ticket_id":{id}}}"#
            );
            let session = session_of(&json);
            assert_eq!((session.ticket.id.as_deref(), session.ticket.unusable), (ticket, unusable), "{id}");
        }
    }

    #[test]
    fn what_is_not_a_session_is_refused_with_place_and_reason() {
        let deep = format!(r#"{{"id":1,"a":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let table: &[(&[u8], &str)] = &[
            (b"", "line 1, column 0: EOF while parsing a value"),
            (b"{\"id\":1,\n\"call_type\"", "line 2, column 11: EOF while parsing an object"),
            (b"[]", "line 1, column 0: invalid type: sequence, expected one JSON object"),
            (b"\"+15550100444\"", "line 1, column 14: invalid type: string, expected one JSON object"),
            (b"{} {}", "line 1, column 4: trailing characters"),
            (b"{\"id\":1,\"id\":2}", "line 1, column 12: the key \"id\" stands twice"),
            (b"\xff\xfe{\x00}\x00", "the file is UTF-16 or binary; session metadata is UTF-8"),
            (b"{\x00}\x00", "the file is UTF-16 or binary; session metadata is UTF-8"),
            (b"{\"a\":\"\xff\"}", "line 1, column 7: invalid unicode code point"),
            (deep.as_bytes(), "line 1, column 139: recursion limit exceeded"),
            (b"{\"call_type\":\"x\",\"updated_at\":\"2026-04-02T16:20:31Z\"}", "id: missing"),
            (b"{\"id\":1,\"call_type\":\"x\"}", "updated_at: missing"),
            (
                b"{\"id\":1,\"call_type\":\"x\",\"updated_at\":\"soon\"}",
                "updated_at: not a date and time with an offset",
            ),
            (
                b"{\"id\":1,\"call_type\":\"x\",\"updated_at\":\"2026-04-02T16:20:31\"}",
                "updated_at: not a date and time with an offset",
            ),
        ];
        for (bytes, message) in table {
            assert_eq!(fault_of(bytes).to_string(), *message);
        }
        assert!(fault_of(b"{\"id\":1").incomplete);
        assert!(!fault_of(b"[]").incomplete);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_before_it_is_parsed() {
        let huge = format!(r#"{{"id":1,"call_type":"{}"}}"#, "x".repeat(LIMIT));
        assert_eq!(fault_of(huge.as_bytes()).reason, "1048599 bytes are more than the limit of 1048576");
    }

    #[test]
    fn a_byte_order_mark_is_tolerated() {
        let json = b"\xef\xbb\xbf{\"id\":1,\"call_type\":\"x\",\"updated_at\":\"2026-04-02T16:20:31Z\"}";
        assert!(matches!(read(json, "x.json", LIMIT), Ok(Reading::Session(_))));
    }

    #[test]
    fn neighbours_of_sessions_are_told_apart_from_broken_ones() {
        let transcript = br#"{"comm_type":"chat","comm_id":7,"transcript_version":"2.0","entries":[]}"#;
        assert!(matches!(read(transcript, "chat-7.json", LIMIT), Ok(Reading::Other("a chat transcript"))));
        assert!(matches!(
            read(b"Agent: hello", "chat-7.txt", LIMIT),
            Ok(Reading::Other("a text transcript"))
        ));
    }

    #[test]
    fn stamps_keep_the_offset_they_were_written_in() {
        let stamp = Stamp::parse("2026-03-23T13:12:51.000-07:00").unwrap();
        assert_eq!(stamp.instant().to_string(), "2026-03-23T20:12:51Z");
        assert_eq!((stamp.local.hour(), stamp.offset), (13, Offset::constant(-7)));
        assert_eq!(Stamp::parse("2026-05-11T09:42:01.250Z").unwrap().offset, Offset::UTC);
        for text in ["2026-13-45T99:00>", "2026-05-11", "09:42", "", "2026-05-11T09:42:01", "now"] {
            assert_eq!(Stamp::parse(text), None, "{text}");
        }
    }
}
