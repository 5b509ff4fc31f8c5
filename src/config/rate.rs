//! How much may be sent in a time: a tenant's own limits, and those of a relay that several tenants share.

use jiff::SignedDuration;

use super::reader::Section;

/// The most messages in one span. Spans follow each other from 1970-01-01 UTC on, so a day's budget is new at midnight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Whose budget: those who share a name share it.
    pub name: String,
    /// A second, a minute or a day.
    pub span: SignedDuration,
    /// The most messages.
    pub most: u32,
}

/// Reads `per_second`, `per_minute` and `per_day`.
pub fn read(section: &Section<'_>, name: &str) -> Vec<Budget> {
    let keys = [
        ("per_second", SignedDuration::from_secs(1)),
        ("per_minute", SignedDuration::from_mins(1)),
        ("per_day", SignedDuration::from_hours(24)),
    ];
    let budget = |(key, span)| {
        let most = section.integer(key, 1..=1_000_000_000).and_then(|most| u32::try_from(most).ok())?;
        Some(Budget { name: name.to_owned(), span, most })
    };
    keys.into_iter().filter_map(budget).collect()
}
