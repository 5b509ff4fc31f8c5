//! Where the pure steps and the world meet: a file becomes a delivery ([`intake`]), a delivery becomes a sent
//! mail ([`dispatch`]), a folder becomes files ([`watch`]), a mailbox becomes stored mails ([`collect`]). [`presence`]
//! tells other instances that this one is alive.

pub mod collect;
pub mod desk;
pub mod dispatch;
pub mod gate;
pub mod intake;
pub mod presence;
pub mod watch;
