//! Languages: the fixed words of a mail, and how dates, numbers and durations are written.
//!
//! A language is one TOML file (`templates/lang/en.toml`): labels, words for the platform's values, plural
//! forms. Formats come from CLDR through ICU4X. Time stamps keep the offset that the platform wrote, unless
//! the tenant names a time zone.

use std::collections::BTreeMap;

use icu_datetime::DateTimeFormatter;
use icu_datetime::fieldsets::{YMD, YMDT};
use icu_datetime::input::{Date, DateTime, Time};
use icu_decimal::DecimalFormatter;
use icu_decimal::input::Decimal;
use icu_locale_core::Locale;
use icu_plurals::{PluralCategory, PluralRules};
use jiff::civil;
use jiff::tz::Offset;
use serde::Deserialize;

/// What a language file may say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tag: String,
    direction: Direction,
    labels: BTreeMap<String, String>,
    words: BTreeMap<String, BTreeMap<String, String>>,
    plurals: BTreeMap<String, BTreeMap<String, String>>,
    units: Units,
}

/// Which way the language is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Ltr,
    Rtl,
}

/// Short signs behind the numbers of a duration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Units {
    hour: String,
    minute: String,
    second: String,
}

/// One language, ready to write with.
pub struct Language {
    file: File,
    date_time: DateTimeFormatter<YMDT>,
    decimal: DecimalFormatter,
    plural: PluralRules,
}

impl std::fmt::Debug for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Language({})", self.file.tag)
    }
}

impl Language {
    /// Reads a language file; the error says what is wrong with it and where.
    pub fn parse(toml: &str) -> Result<Self, LanguageError> {
        let file: File = toml::from_str(toml)?;
        let locale: Locale = file.tag.parse().map_err(|_| LanguageError::Tag(file.tag.clone()))?;
        let unsupported = |_| LanguageError::Tag(file.tag.clone());
        let fields = YMD::medium().with_time_hms();
        Ok(Self {
            date_time: DateTimeFormatter::try_new(locale.clone().into(), fields).map_err(unsupported)?,
            decimal: DecimalFormatter::try_new(
                locale.clone().into(),
                icu_decimal::options::DecimalFormatterOptions::default(),
            )
            .map_err(|_| LanguageError::Tag(file.tag.clone()))?,
            plural: PluralRules::try_new(locale.into(), icu_plurals::PluralRulesOptions::default())
                .map_err(|_| LanguageError::Tag(file.tag.clone()))?,
            file,
        })
    }

    /// The BCP 47 tag, such as `de`.
    pub fn tag(&self) -> &str {
        &self.file.tag
    }

    /// `ltr` or `rtl`, as HTML's `dir` attribute wants it.
    pub fn direction(&self) -> &'static str {
        match self.file.direction {
            Direction::Ltr => "ltr",
            Direction::Rtl => "rtl",
        }
    }

    /// The label of that name; none where the file has no such label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.file.labels.get(name).map(String::as_str)
    }

    /// The names of all labels, of all words (`status.finished`) and of all plurals, to compare two languages by.
    pub fn names(&self) -> Vec<String> {
        let labels = self.file.labels.keys().map(|key| format!("labels.{key}"));
        let words = self
            .file
            .words
            .iter()
            .flat_map(|(set, words)| words.keys().map(move |key| format!("words.{set}.{key}")));
        let plurals = self.file.plurals.keys().map(|key| format!("plurals.{key}"));
        labels.chain(words).chain(plurals).collect()
    }

    /// A platform's value in this language; a value that the file does not know is shown as it is.
    pub fn word<'a>(&'a self, set: &str, value: &'a str) -> &'a str {
        self.file.words.get(set).and_then(|words| words.get(value)).map_or(value, String::as_str)
    }

    /// A counted phrase, its `{n}` replaced by the number.
    pub fn count(&self, name: &str, n: u64) -> Option<String> {
        let forms = self.file.plurals.get(name)?;
        let form = forms.get(category(self.plural.category_for(n))).or_else(|| forms.get("other"))?;
        Some(form.replace("{n}", &self.number(&n.to_string())?))
    }

    /// A decimal number with this language's digits and separators; none for what is not a number.
    pub fn number(&self, text: &str) -> Option<String> {
        Some(self.decimal.format(&Decimal::try_from_str(text).ok()?).to_string())
    }

    /// Whole seconds as hours, minutes and seconds, leaving out what is zero: `1 h 2 s`.
    pub fn duration(&self, seconds: u64) -> String {
        let units = &self.file.units;
        let parts = [
            (seconds / 3600, &units.hour),
            (seconds / 60 % 60, &units.minute),
            (seconds % 60, &units.second),
        ];
        let shown = parts.iter().filter(|(n, unit)| *n > 0 || (seconds == 0 && *unit == &units.second));
        // U+00A0 keeps a number and its unit on one line.
        let written =
            shown.map(|(n, unit)| format!("{}\u{a0}{unit}", self.number(&n.to_string()).unwrap_or_default()));
        written.collect::<Vec<_>>().join(" ")
    }

    /// A date and time of day with the offset they are in: `11 May 2026, 09:42:01 (UTC+3)`.
    pub fn date_time(&self, at: civil::DateTime, offset: Offset) -> Option<String> {
        let date =
            Date::try_new_iso(at.year().into(), at.month().unsigned_abs(), at.day().unsigned_abs()).ok()?;
        let time = Time::try_new(
            at.hour().unsigned_abs(),
            at.minute().unsigned_abs(),
            at.second().unsigned_abs(),
            0,
        )
        .ok()?;
        let shown = self.date_time.format(&DateTime { date, time });
        Some(format!("{shown} ({})", utc_offset(offset)))
    }
}

/// `UTC`, `UTC+3` or `UTC-03:30`.
fn utc_offset(offset: Offset) -> String {
    let minutes = offset.seconds() / 60;
    let (sign, hours, rest) = (if minutes < 0 { '-' } else { '+' }, minutes.abs() / 60, minutes.abs() % 60);
    match (hours, rest) {
        (0, 0) => "UTC".to_owned(),
        (_, 0) => format!("UTC{sign}{hours}"),
        _ => format!("UTC{sign}{hours:02}:{rest:02}"),
    }
}

/// CLDR's name of a plural category.
fn category(category: PluralCategory) -> &'static str {
    match category {
        PluralCategory::Zero => "zero",
        PluralCategory::One => "one",
        PluralCategory::Two => "two",
        PluralCategory::Few => "few",
        PluralCategory::Many => "many",
        PluralCategory::Other => "other",
    }
}

/// The tags to try for `lang`, most special first: `de-CH` gives `de-ch`, `de`.
pub fn fallbacks(lang: &str) -> impl Iterator<Item = String> {
    let lang = lang.trim().replace('_', "-").to_ascii_lowercase();
    let mut ends: Vec<usize> = lang.match_indices('-').map(|(at, _)| at).collect();
    ends.push(lang.len());
    ends.into_iter().rev().filter(|end| *end > 0).map(move |end| lang[..end].to_owned())
}

/// Why a language file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The TOML is not what a language file may say.
    #[error(transparent)]
    File(#[from] toml::de::Error),
    /// The tag names no language.
    #[error("{0:?} is not a language tag")]
    Tag(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = include_str!("../templates/lang/en.toml");
    const GERMAN: &str = include_str!("../templates/lang/de.toml");

    #[test]
    fn both_languages_have_the_same_names() {
        let (english, german) = (Language::parse(ENGLISH).unwrap(), Language::parse(GERMAN).unwrap());
        assert_eq!(english.names(), german.names());
    }

    #[test]
    fn durations_leave_out_what_is_zero() {
        let english = Language::parse(ENGLISH).unwrap();
        let table =
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (245, "4 min 5 s"), (3600, "1 h"), (3602, "1 h 2 s")];
        for (seconds, shown) in table {
            assert_eq!(english.duration(seconds).replace('\u{a0}', " "), shown);
        }
        assert_eq!(
            Language::parse(GERMAN).unwrap().duration(36_000_000).replace('\u{a0}', " "),
            "10.000 Std."
        );
    }

    #[test]
    fn a_time_is_written_as_the_language_does_with_its_own_offset() {
        let at = civil::date(2026, 5, 11).at(9, 42, 1, 0);
        let (english, german) = (Language::parse(ENGLISH).unwrap(), Language::parse(GERMAN).unwrap());
        let plain = |text: Option<String>| text.unwrap().replace(['\u{202f}', '\u{a0}'], " ");
        assert_eq!(plain(english.date_time(at, Offset::constant(3))), "May 11, 2026, 9:42:01 AM (UTC+3)");
        assert_eq!(plain(german.date_time(at, Offset::constant(0))), "11.05.2026, 09:42:01 (UTC)");
        let newfoundland = Offset::from_seconds(-12_600).unwrap();
        assert_eq!(utc_offset(newfoundland), "UTC-03:30");
    }

    #[test]
    fn counted_phrases_follow_the_plural_rules() {
        let english = Language::parse(ENGLISH).unwrap();
        assert_eq!(english.count("more", 1).unwrap(), "1 more in the attachment");
        assert_eq!(english.count("more", 1200).unwrap(), "1,200 more in the attachment");
        assert_eq!(english.count("no such phrase", 1), None);
    }

    #[test]
    fn a_tag_falls_back_to_what_it_specialises() {
        let table: &[(&str, &[&str])] = &[
            ("de", &["de"]),
            ("de-CH", &["de-ch", "de"]),
            ("zh_Hant_TW", &["zh-hant-tw", "zh-hant", "zh"]),
            ("", &[]),
        ];
        for (lang, tags) in table {
            assert_eq!(fallbacks(lang).collect::<Vec<_>>(), *tags);
        }
    }

    #[test]
    fn a_bad_language_file_is_refused_with_its_reason() {
        let unknown = ENGLISH.replace("[units]", "[unit]");
        assert!(Language::parse(&unknown).unwrap_err().to_string().contains("unknown field `unit`"));
        let tag = ENGLISH.replace("tag = \"en\"", "tag = \"not a tag\"");
        assert_eq!(Language::parse(&tag).unwrap_err().to_string(), "\"not a tag\" is not a language tag");
    }
}
