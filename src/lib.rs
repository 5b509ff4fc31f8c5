//! Aftercall: after each session, the right CRM record is updated by e-mail, and a sent-mail log says so.
//!
//! The modules in reading order, lowest first; a module imports only what stands above it here.

pub mod ids;
pub mod clock;
pub mod address;
pub mod locale;
pub mod session;
pub mod config;
pub mod outbox;
pub mod plan;
pub mod token;
pub mod view;
pub mod template;
pub mod compose;
pub mod log;
pub mod store;
pub mod deliver;
pub mod sink;
pub mod flow;
pub mod samples;
pub mod telemetry;
pub mod cli;
