//! Real CRMs from Debian's packages: what Aftercall mails to them must be in the right ticket, once.
//!
//! `cargo test --test crm` runs this; it stands apart from the other tests, since it needs a CRM and some time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod answers;
#[expect(dead_code, reason = "made for all tests, and not all of it is needed here")]
#[path = "../it/servers/daemon.rs"]
mod daemon;
mod postfix;
mod record;
mod rt;
mod server;
#[expect(dead_code, unused_imports, reason = "made for all tests, and not all of it is needed here")]
#[path = "../it/support.rs"]
mod support;
#[path = "../it/waiting.rs"]
mod waiting;
