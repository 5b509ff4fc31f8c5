//! The text of a reply, of which a person's own words are kept.
#![no_main]

use aftercall::reply::own_words;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    assert!(own_words(text).len() <= text.len());
});
