//! Which delivery a mail is about: without the key, nobody makes a token that counts.
#![no_main]

use std::sync::LazyLock;

use aftercall::address::Address;
use aftercall::correlate::{Signatory, correlate};
use aftercall::parse::parse;
use aftercall::token::TokenKey;
use libfuzzer_sys::fuzz_target;

static MAILBOX: LazyLock<Address> = LazyLock::new(|| "bridge@example.com".parse().unwrap());
static KEYS: LazyLock<[TokenKey; 1]> = LazyLock::new(|| [TokenKey::new(b"nobody knows this", "acme")]);

fuzz_target!(|raw: &[u8]| {
    let who = Signatory {
        tenant: "acme",
        instance: "main",
        mailbox: &MAILBOX,
        domain: "example.com",
        keys: &*KEYS,
    };
    assert_eq!(correlate(&parse(raw), Some("bridge+c1-aaaaaaa@example.com"), &[who]), []);
});
