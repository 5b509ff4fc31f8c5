//! How sure a profile is of what it says, and what somebody must set up in the CRM.

use std::fmt;

use super::reader::Section;

/// How a group of facts was verified, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verified {
    /// Seen on a running installation.
    Live,
    /// Read in the product's source.
    Source,
    /// Read in the vendor's documentation.
    Documentation,
    /// Read on somebody else's page.
    ThirdParty,
    /// Concluded from something else, or known in general: check it before relying on it.
    Inferred,
}

/// The words for it in files.
const WORDS: [(&str, Verified); 5] = [
    ("live", Verified::Live),
    ("source", Verified::Source),
    ("documentation", Verified::Documentation),
    ("third party", Verified::ThirdParty),
    ("inferred", Verified::Inferred),
];

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(WORDS.iter().find(|(_, verified)| verified == self).map_or("", |(word, _)| word))
    }
}

/// The groups of facts in a profile, and what each is about.
pub const GROUPS: [(&str, &str); 6] = [
    ("ticket", "which ticket a mail is filed in"),
    ("sender", "who may send it"),
    ("automatic", "what marks of automatic mail do"),
    ("limits", "sizes"),
    ("answers", "the CRM's own answers"),
    ("urls", "the URLs of tickets"),
];

/// How sure one group of facts is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The group, one of [`GROUPS`].
    pub group: &'static str,
    /// How it was verified.
    pub verified: Verified,
    /// Where and when, for people.
    pub note: String,
}

/// Reads `[sources]`.
pub(super) fn read(section: &Section<'_>) -> Vec<Source> {
    let one = |group: &'static str| {
        let source = section.section(group);
        let verified = source.one_of("verified", &WORDS);
        let note = source.text("note").unwrap_or_default();
        if source.is_given() && !source.names("verified") {
            source.problem("verified", "missing");
        }
        source.finish();
        Some(Source { group, verified: verified?, note })
    };
    let sources = GROUPS.iter().filter_map(|(group, _)| one(group)).collect();
    section.finish();
    sources
}
