//! Where the pure steps and the world meet: a file becomes a delivery ([`intake`]), a delivery becomes a sent
//! mail ([`dispatch`]), a folder becomes files ([`watch`]), a mailbox becomes stored mails ([`collect`]). What is given up
//! on one channel goes another way ([`fall_back`]). [`presence`] tells other instances that this one is alive.

pub mod carrier;
pub mod collect;
pub mod desk;
pub mod dispatch;
pub mod fall_back;
pub mod gate;
pub mod intake;
pub mod make;
pub mod presence;
pub mod reconcile;
mod tell;
pub mod watch;
