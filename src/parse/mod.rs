//! Raw bytes of a mail that came back, to what classifying and matching need of it.
//!
//! Everything in such a mail is written by strangers: parsing never fails, what is wrong is listed in
//! [`Mail::problems`], and what a mail can cost is bounded by the constants of this module.

pub mod address;
pub mod headers;
pub mod provider;
pub mod report;

mod quoted;
mod tidy;
mod tree;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::headers::Headers;
use self::provider::ProviderNotice;
use self::report::{DeliveryReport, Disposition, Feedback};

/// The most octets of a mail that are read. What decides stands at its beginning.
pub const MAX_OCTETS: usize = 2 << 20;
/// The most octets of a mail's header block.
pub const MAX_HEADER_OCTETS: usize = 256 << 10;
/// The most parts of a mail, and so the deepest nesting too.
pub const MAX_PARTS: usize = 250;
/// The deepest nesting of messages that is looked into.
pub const MAX_DEPTH: usize = 8;
/// The most octets of decoded text that are kept.
pub const MAX_TEXT_OCTETS: usize = 128 << 10;
/// The most groups of fields that are kept of all delivery reports together.
pub const MAX_RECIPIENTS: usize = 1000;
/// The most header fields that are kept of one header block, and the most octets of a value.
pub const MAX_FIELDS: usize = 500;
/// See [`MAX_FIELDS`].
pub const MAX_VALUE_OCTETS: usize = 8 << 10;

/// A mail, as far as it matters here.
#[derive(Debug, Clone, Default)]
pub struct Mail {
    /// The mail's own header fields, their words decoded.
    pub headers: Headers,
    /// What a person reads, without a returned message that is quoted in it. HTML is turned into text where there is
    /// no plain one, or the plain one names no address: some programs say nothing in it.
    pub text: String,
    /// Delivery reports (RFC 3464, RFC 6533), wherever they stood.
    pub reports: Vec<DeliveryReport>,
    /// A report of a complaint or a failed authentication (RFC 5965).
    pub feedback: Option<Feedback>,
    /// A receipt (RFC 8098).
    pub disposition: Option<Disposition>,
    /// A notice that a provider wrote in a form of its own.
    pub provider: Option<ProviderNotice>,
    /// The header fields of the message that this mail is about, as a part or quoted in the text.
    pub returned: Option<Headers>,
    /// The value of `report-type` of a `multipart/report` (RFC 6522), in small letters.
    pub report_type: Option<String>,
    /// What was wrong with the mail, each once.
    pub problems: Vec<Problem>,
}

/// Something wrong with a mail that was read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Longer than [`MAX_OCTETS`]; the rest was not read.
    TooLong,
    /// A header block longer than [`MAX_HEADER_OCTETS`]; the rest was not read.
    LongHeader,
    /// More than [`MAX_PARTS`]; the rest was not read.
    TooManyParts,
    /// Nested deeper than [`MAX_DEPTH`]; what stands below was not looked into.
    TooDeep,
    /// More text than [`MAX_TEXT_OCTETS`]; the rest was not read.
    LongText,
    /// More recipients than [`MAX_RECIPIENTS`]; the rest was left out.
    TooManyRecipients,
    /// It begins with a byte order mark, blank lines or a mailbox separator.
    Preamble,
    /// Its lines end in a bare CR.
    BareCr,
    /// It has no header fields.
    NoHeader,
    /// No blank line parts the header from the text.
    NoBlankLine,
    /// Report fields that stand in a text, not in a part of their own.
    FieldsInText,
    /// The report stands in a message within the mail.
    NestedReport,
    /// The library that reads MIME failed on it; nothing of it is known.
    Unreadable,
}

impl Problem {
    /// The problem in a sentence's end.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "it is too long and was cut",
            Self::LongHeader => "its header is too long and was cut",
            Self::TooManyParts => "it has too many parts and was cut",
            Self::TooDeep => "its messages are nested too deep",
            Self::LongText => "it has too much text, which was cut",
            Self::TooManyRecipients => "its report names too many recipients",
            Self::Preamble => "something stands before its header",
            Self::BareCr => "its lines end in a bare CR",
            Self::NoHeader => "it has no header",
            Self::NoBlankLine => "no blank line ends its header",
            Self::FieldsInText => "its report stands in a text",
            Self::NestedReport => "its report stands in a message within it",
            Self::Unreadable => "it cannot be read at all",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Mail {
    /// Notes a problem once.
    fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The addresses that the mail was delivered to, as the mailbox and the header tell it, most reliable first.
    pub fn delivered_to(&self) -> Vec<&str> {
        const NAMES: [&str; 7] =
            ["delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "to", "cc"];
        let mut found: Vec<&str> = Vec::new();
        for address in NAMES.iter().flat_map(|name| self.headers.addresses(name)) {
            if !found.iter().any(|known| known.eq_ignore_ascii_case(address)) {
                found.push(address);
            }
        }
        found
    }

    /// The Message-ID of the message that this mail is about, without angle brackets: from a receipt, a provider's
    /// notice, or the returned header.
    pub fn original_message_id(&self) -> Option<&str> {
        let receipt = self.disposition.as_ref().and_then(|receipt| receipt.original_message_id.as_deref());
        let provider = self.provider.as_ref().and_then(|notice| notice.message_id.as_deref());
        let returned = self.returned.as_ref().and_then(Headers::message_id);
        receipt.or(provider).or(returned)
    }

    /// The envelope id (RFC 3461, section 4.4) of the message that this mail is about.
    pub fn envelope_id(&self) -> Option<&str> {
        let report = self.reports.iter().find_map(|report| report.envelope_id.as_deref());
        report.or_else(|| self.feedback.as_ref().and_then(|feedback| feedback.envelope_id.as_deref()))
    }
}

/// Reads a mail. Never fails, never panics.
pub fn parse(raw: &[u8]) -> Mail {
    // The library promises not to panic, and fuzzers have found panics in it before; one mail must not end the
    // process. Nothing outlives a panic: the half-built mail is dropped.
    catch_unwind(AssertUnwindSafe(|| tree::read(raw)))
        .unwrap_or_else(|_| Mail { problems: vec![Problem::Unreadable], ..Mail::default() })
}
