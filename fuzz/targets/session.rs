//! A session's metadata file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    drop(aftercall::session::read(raw, "call-1.json", 1_000_000));
});
