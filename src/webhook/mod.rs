//! A webhook: a tenant's own program, told of alerts and replies by signed requests.
//!
//! [`post`] is what the outbox keeps of one, [`client`] signs it and takes it there. The form is that of Standard
//! Webhooks: the receiver checks the signature, and knows by the id what it has had before.

pub mod client;
pub mod post;
