//! Aftercall: after each session, the right CRM record is updated by e-mail, and a sent-mail log says so.
//!
//! The modules in reading order, lowest first; a module imports only what stands above it here.

pub mod address;
pub mod cli;
pub mod clock;
pub mod compose;
pub mod config;
pub mod deliver;
pub mod flow;
pub mod ids;
pub mod locale;
pub mod log;
pub mod outbox;
pub mod plan;
pub mod samples;
pub mod session;
pub mod sink;
pub mod store;
pub mod telemetry;
pub mod template;
pub mod token;
pub mod view;
