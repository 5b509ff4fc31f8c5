//! The fields of complaints and receipts, and a provider's JSON; the first octet says which.
#![no_main]

use aftercall::parse::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((which, fields)) = input.split_first() else { return };
    let kind = match which % 3 {
        0 => "message/feedback-report",
        1 => "message/disposition-notification",
        _ => "text/plain",
    };
    parse(&[b"Content-Type: ", kind.as_bytes(), b"\n\n", fields].concat());
});
