//! Header fields, and blocks of fields that look like them.

use jiff::Timestamp;
use mail_parser::DateTime;

use super::{MAX_FIELDS, MAX_VALUE_OCTETS, address};

/// The fields of a header block, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<Field>);

/// One field, unfolded, its words decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as it was written.
    pub name: String,
    /// The value without white space around it.
    pub value: String,
}

impl Headers {
    /// Adds a field, within the bounds of the parent module.
    pub(super) fn push(&mut self, name: &str, value: &str) {
        if self.0.len() < MAX_FIELDS {
            let value = cut(value, MAX_VALUE_OCTETS).trim();
            self.0.push(Field { name: name.to_owned(), value: value.to_owned() });
        }
    }

    /// All fields.
    pub fn fields(&self) -> &[Field] {
        &self.0
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the first field of that name, which may be empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of all fields of that name.
    pub fn all<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h str> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| &*field.value)
    }

    /// The addresses in all fields of that name.
    pub fn addresses<'h>(&'h self, name: &str) -> Vec<&'h str> {
        self.all(name).flat_map(address::of_field).collect()
    }

    /// The `Date` (RFC 5322, section 3.6.1), which a sender may have set to anything.
    pub fn date(&self) -> Option<Timestamp> {
        let date = DateTime::parse_rfc822(self.get("date")?)?;
        Timestamp::from_second(date.is_valid().then(|| date.to_timestamp())?).ok()
    }

    /// The first `Message-ID`, without angle brackets.
    pub fn message_id(&self) -> Option<&str> {
        self.all("message-id").map(bare_id).find(|id| !id.is_empty())
    }

    /// All message ids in the fields of that name, such as `References`, without angle brackets.
    pub fn ids(&self, name: &str) -> Vec<&str> {
        let values = self.all(name).flat_map(|value| value.split(|c: char| c.is_whitespace() || c == ','));
        values.map(bare_id).filter(|id| id.contains('@')).collect()
    }
}

/// A message id without angle brackets and what stands outside of them.
pub(super) fn bare_id(text: &str) -> &str {
    let text = text.trim();
    let inner = text.find('<').map_or(text, |start| &text[start + 1..]);
    inner.find('>').map_or(inner, |end| &inner[..end]).trim()
}

/// The beginning of a text, at most so many octets, cut between characters.
pub(crate) fn cut(text: &str, octets: usize) -> &str {
    if text.len() <= octets {
        return text;
    }
    let end = (0..=octets).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// The name and the value of a line that looks like a header field (RFC 5322, section 2.2).
pub(super) fn field_of(line: &str) -> Option<(&str, &str)> {
    let colon = memchr::memchr(b':', line.as_bytes())?;
    let name = line[..colon].trim_end_matches([' ', '\t']);
    let is_name = (1..=76).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| (name, line[colon + 1..].trim()))
}

/// Groups of fields, parted by blank lines (RFC 3464, section 2.1). A line that is no field ends nothing: it is
/// taken for the rest of a value that was wrapped without an indent.
pub(super) fn groups(text: &str) -> Vec<Headers> {
    let mut groups = Vec::new();
    let mut group = Headers::default();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines() {
        let is_blank = line.trim().is_empty();
        let is_more = line.starts_with([' ', '\t']);
        if let (false, false, Some((name, value))) = (is_blank, is_more, field_of(line)) {
            close(&mut group, open.replace((name, value.to_owned())));
        } else if is_blank {
            close(&mut group, open.take());
            if !group.is_empty() {
                groups.push(std::mem::take(&mut group));
            }
        } else if let Some((_, value)) = open.as_mut().filter(|(_, value)| value.len() < MAX_VALUE_OCTETS) {
            value.push(' ');
            value.push_str(line.trim());
        }
    }
    close(&mut group, open);
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

fn close(group: &mut Headers, field: Option<(&str, String)>) {
    if let Some((name, value)) = field {
        group.push(name, &value);
    }
}
