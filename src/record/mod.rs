//! The record channel: a note and the session file, attached to a CRM's record over REST, and what came of it.
//!
//! [`note`] is what the outbox keeps of a delivery, [`template`] writes a recipe's requests from it, [`client`] takes
//! them to the CRM, [`address`] keeps them from going anywhere else, and [`outcome`] decides what an answer, or the
//! lack of one, means. [`http`] is the client below. Nothing here knows the store.

pub mod address;
pub(crate) mod answer;
pub mod client;
mod data;
pub mod http;
pub mod login;
pub mod note;
pub mod outcome;
pub mod template;
