//! The throw-away PostgreSQL that the tests start, for measurements.

#[expect(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "it belongs to the tests, which use more of it"
)]
#[path = "../../tests/it/servers/daemon.rs"]
mod daemon;
#[expect(clippy::unwrap_used, clippy::panic, reason = "it belongs to the tests")]
#[path = "../../tests/it/servers/postgres.rs"]
pub(crate) mod postgres;
