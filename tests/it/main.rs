//! What Aftercall promises, held from outside: the real program against a scripted mail server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod arrivals;
mod classify;
mod commands;
mod crash;
mod delivery;
mod disk;
mod dkim;
mod flow;
mod forgery;
mod http;
mod inbox;
mod intake;
mod layers;
mod oauth;
mod profiles;
mod python;
mod readme;
mod recipes;
mod reconcile;
mod record;
mod record_crash;
mod record_way;
mod scenarios;
mod servers;
mod shim;
mod sink;
mod smtp;
mod stop;
mod store;
mod support;
mod templates;
mod waiting;
mod webhook;
