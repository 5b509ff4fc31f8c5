//! The fields of a delivery report, and what is made of them.
#![no_main]

use aftercall::classify::classify;
use aftercall::classify::rules::Rules;
use aftercall::parse::{MAX_RECIPIENTS, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|fields: &[u8]| {
    let mail = parse(&[b"Content-Type: message/delivery-status\n\n", fields].concat());
    let recipients: usize = mail.reports.iter().map(|report| report.recipients.len()).sum();
    assert!(recipients <= MAX_RECIPIENTS);
    classify(&mail, Rules::shipped(), &[]);
});
