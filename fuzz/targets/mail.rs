//! Whole mails: parsed and judged.
#![no_main]

use aftercall::classify::classify;
use aftercall::classify::rules::Rules;
use aftercall::parse::{MAX_TEXT_OCTETS, Problem, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let mail = parse(raw);
    assert!(!mail.problems.contains(&Problem::Unreadable));
    assert!(mail.text.len() <= MAX_TEXT_OCTETS);
    classify(&mail, Rules::shipped(), &[]);
});
