//! What Aftercall promises, held from outside: the real program against a scripted mail server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod commands;
mod delivery;
mod intake;
mod layers;
mod python;
mod readme;
mod servers;
mod smtp;
mod store;
mod support;
mod templates;
