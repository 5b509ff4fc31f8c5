//! Aftercall: after each session, the right CRM record is updated by e-mail, and a sent-mail log says so.
//!
//! The modules in reading order, lowest first; a module imports only what stands above it here.

// Words: names, addresses, time.
pub mod address;
pub mod ids;

pub mod clock;
pub mod crash;

// What comes with the program, and what may be configured.
pub mod locale;
pub mod samples;

pub mod config;

pub mod dkim;
pub mod oauth;

// The way of the data, pure: bytes to session to plan to texts to message.
pub mod session;

// The way back, pure: bytes to a mail to a verdict.
pub mod parse;

pub mod classify;

pub mod log;
pub mod outbox;
pub mod reply;
pub mod token;
pub mod view;

pub mod correlate;

pub mod react;

pub mod plan;
pub mod template;

pub mod compose;

pub mod notice;

// The world: the relay, the mailboxes, the database, the process.
pub mod deliver;
pub mod inbox;
pub mod record;

pub mod webhook;

pub mod sink;
pub mod store;
pub mod telemetry;

// Where both meet, and the way in.
pub mod flow;

pub mod cli;
