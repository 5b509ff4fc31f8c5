//! Delivery: one message to one relay, and what came of it.
//!
//! [`connect`] opens a connection and secures it, [`smtp`] drives one exchange at a time over it, [`outcome`]
//! decides what an answer, or the lack of one, means. Nothing here knows the store.

pub mod auth;
pub mod connect;
pub mod dialogue;
pub mod outcome;
pub mod smtp;
pub mod stream;
pub mod tls;
