//! An operator's rule file.
#![no_main]

use std::path::Path;

use aftercall::classify::rules::{FILE, Rules};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    drop(Rules::read(&[(Path::new(FILE), source)]));
});
