//! A mailbox becomes stored mails: octets are committed first, and the mailbox is changed last.
//!
//! Every mail that comes back, whichever way, goes through [`keep`]. One task reads one mailbox; what goes wrong with it
//! is told once for each reason and tried again, later each time, and touches no other.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use super::intake::chain;
use crate::clock::Clock;
use crate::config::mailbox::{Imap, Mailbox, Source};
use crate::config::tenant::Login;
use crate::crash::{Step, reached};
use crate::deliver::tls::{TlsError, client_config, connector};
use crate::inbox::lmtp::{Delivered, Listener};
use crate::inbox::{Fault, Mail, Reader, imap, maildir};
use crate::oauth::Tokens;
use crate::store::{Arrival, Instance, ProcessLock, Store, StoreError, Taken};

/// How often a mailbox that another instance reads is asked for.
const HELD: Duration = Duration::from_secs(5);
/// The wait after a first failure; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// How exact the moment of the last look is kept, so that an idle mailbox costs few commits.
const EXACT: SignedDuration = SignedDuration::from_secs(30);
/// How long the conversations of a listener go on behind a failure of the store.
const FAREWELL: Duration = Duration::from_millis(500);
/// How many mails of a listener may wait to be stored.
const WAITING: usize = 256;

/// Why a mailbox was not read.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The mailbox cannot be used.
    #[error(transparent)]
    Mailbox(#[from] Fault),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another instance reads it.
    #[error("another aftercall reads this mailbox")]
    Held,
}

/// Stores mails of a mailbox, or finds that they are stored; each is committed when this returns. Here every mail that
/// came back can be had by its number, once, right behind its commit; one that is not judged by then, for whatever
/// reason, is found again with [`Store::new_inbounds`].
pub async fn keep(store: &Store, arrivals: Vec<Arrival>) -> Result<Vec<Taken>, StoreError> {
    // Together, so that they share a commit.
    let taken = try_join_all(arrivals.into_iter().map(async |arrival| {
        let (mailbox, octets, fault) = (arrival.mailbox.clone(), arrival.raw.len(), arrival.fault.clone());
        let taken = store.take_inbound(arrival).await?;
        match (taken, fault) {
            (Taken::New(id), None) => info!(mailbox, inbound = id.0, octets, "stored a mail"),
            (Taken::New(id), Some(reason)) => {
                warn!(mailbox, inbound = id.0, reason, "quarantined a mail");
            }
            (Taken::Known(_), _) => {}
        }
        Ok(taken)
    }))
    .await?;
    reached(Step::InboundsStored);
    Ok(taken)
}

/// The right to read a mailbox, and its reader.
pub struct Held {
    reader: Reader,
    #[expect(dead_code, reason = "on SQLite the lock lasts as long as this")]
    lock: ProcessLock,
}

/// Reads one mailbox.
pub struct Collector {
    mailbox: Mailbox,
    store: Store,
    instance: Instance,
    clock: Clock,
    /// TLS and tokens towards its server, where it has one.
    access: Option<(TlsConnector, Option<Tokens>)>,
    noted: Option<Timestamp>,
    /// Whether mails were settled since the last failure.
    has_moved: bool,
}

impl Collector {
    /// Sets up the reading; nothing is connected yet.
    pub fn new(mailbox: &Mailbox, store: &Store, instance: Instance, clock: Clock) -> Result<Self, TlsError> {
        let access = match &mailbox.source {
            Source::Imap(imap) => Some(access(imap, clock.clone())?),
            Source::Maildir(_) | Source::Lmtp(_) | Source::Pipe => None,
        };
        let (mailbox, store) = (mailbox.clone(), store.clone());
        Ok(Self { mailbox, store, instance, clock, access, noted: None, has_moved: false })
    }

    /// Reads until told to stop, or until the store fails.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), StoreError> {
        let ended = tokio::select! {
            ended = self.go_on() => ended,
            // Whatever it is at can be left there: a kill would do the same.
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        self.store.release_mailbox(self.mailbox.name.clone(), self.instance).await?;
        ended
    }

    async fn go_on(&mut self) -> Result<(), StoreError> {
        let mut trouble = Trouble::new(&self.mailbox.name);
        let mut held = None;
        loop {
            let work = AssertUnwindSafe(self.work(&mut held, &mut trouble)).catch_unwind().await;
            if std::mem::take(&mut self.has_moved) {
                trouble.wait = FIRST;
            }
            let wait = match work {
                Ok(Err(CollectError::Store(error))) => return Err(error),
                Ok(Err(CollectError::Held)) => {
                    held = None;
                    trouble.tell(&CollectError::Held.to_string());
                    HELD
                }
                Ok(Err(error)) => trouble.grow(&chain(&error)),
                Ok(Ok(never)) => match never {},
                // A server's octets must not end the program, whatever they are.
                Err(_) => {
                    held = None;
                    trouble.grow("reading ended in a fault of this program")
                }
            };
            sleep(wait).await;
        }
    }

    /// Reads on and on; ends only with a failure.
    async fn work(
        &mut self,
        held: &mut Option<Held>,
        trouble: &mut Trouble,
    ) -> Result<Infallible, CollectError> {
        match &self.mailbox.source {
            // It comes by a command of its own.
            Source::Pipe => std::future::pending().await,
            Source::Lmtp(listen) => {
                let listener = Listener::open(listen, self.mailbox.message_bytes).await?;
                trouble.is_over();
                self.listen(listener).await
            }
            Source::Imap(_) | Source::Maildir(_) => {
                let Held { reader, .. } = match held {
                    Some(held) => held,
                    none => none.insert(self.hold().await?),
                };
                let poll = Duration::try_from(self.mailbox.poll).unwrap_or(FIRST);
                loop {
                    self.pass(reader, |_, _| ()).await?;
                    trouble.is_over();
                    reader.wait(poll).await?;
                }
            }
        }
    }

    /// Takes the right to read the mailbox.
    async fn hold(&self) -> Result<Held, CollectError> {
        let (name, limit) = (self.mailbox.name.clone(), self.mailbox.message_bytes);
        let lock = self.store.lock_mailbox(&name)?.ok_or(CollectError::Held)?;
        if !self.store.hold_mailbox(name.clone(), self.instance, self.clock.now()).await? {
            return Err(CollectError::Held);
        }
        let reader = match (&self.mailbox.source, &self.access) {
            (Source::Imap(imap), Some((tls, tokens))) => {
                let position = self.store.mailbox_position(name).await?;
                let (imap, tls, tokens) = (imap.clone(), tls.clone(), tokens.clone());
                Reader::Imap(Box::new(imap::Reader::new(imap, tls, tokens, limit, position)))
            }
            (Source::Maildir(folder), _) => Reader::Maildir(maildir::Reader::new(folder.clone(), limit)),
            _ => return Err(CollectError::Held),
        };
        Ok(Held { reader, lock })
    }

    /// Stores everything that is new and settles it in the mailbox; `told` hears of each mail.
    async fn pass(
        &mut self,
        reader: &mut Reader,
        mut told: impl FnMut(&str, Taken) + Send,
    ) -> Result<(), CollectError> {
        reader.look().await?;
        loop {
            let mails = reader.fetch().await?;
            if mails.is_empty() {
                break;
            }
            reached(Step::MailsRead);
            let names: Vec<String> = mails.iter().map(|mail| mail.name.clone()).collect();
            let arrivals = mails.into_iter().map(|mail| self.arrival(mail)).collect();
            let taken = keep(&self.store, arrivals).await?;
            names.iter().zip(taken).for_each(|(name, taken)| told(name, taken));
            reader.settle().await?;
            reached(Step::MailboxChanged);
            self.has_moved = true;
            if let Some(position) = reader.position().cloned() {
                let name = self.mailbox.name.clone();
                if !self.store.note_position(name, self.instance, position).await? {
                    return Err(CollectError::Held);
                }
                reached(Step::PositionNoted);
            }
        }
        reader.finish()?;
        let now = self.clock.now();
        if self.noted.is_none_or(|noted| now.duration_since(noted) >= EXACT) {
            self.store.note_read(self.mailbox.name.clone(), now).await?;
            self.noted = Some(now);
        }
        Ok(())
    }

    fn arrival(&self, Mail { raw, fault, .. }: Mail) -> Arrival {
        let (mailbox, now) = (self.mailbox.name.clone(), self.clock.now());
        Arrival { mailbox, sender: None, recipient: None, raw, fault, now }
    }

    /// Reads what is there now, once; `told` hears of each mail.
    pub async fn once(&mut self, told: impl FnMut(&str, Taken) + Send) -> Result<(), CollectError> {
        let mut held = self.hold().await?;
        let passed = self.pass(&mut held.reader, told).await;
        held.reader.close().await;
        self.store.release_mailbox(self.mailbox.name.clone(), self.instance).await?;
        passed
    }

    /// Stores what a listener takes, and answers for each mail.
    async fn listen(&self, listener: Listener) -> Result<Infallible, CollectError> {
        let (taken, mut mails) = mpsc::channel(WAITING);
        let mut storing = JoinSet::new();
        let listening = listener.run(taken);
        let mut listening = std::pin::pin!(listening);
        loop {
            tokio::select! {
                error = &mut listening => {
                    let path = self.mailbox.source.to_string().into();
                    return Err(Fault::File { path, source: error }.into());
                }
                Some(mail) = mails.recv() => {
                    let (store, mailbox, now) = (self.store.clone(), self.mailbox.name.clone(), self.clock.now());
                    storing.spawn(store_one(store, mailbox, mail, now));
                }
                Some(Ok(stored)) = storing.join_next(), if !storing.is_empty() => if let Err(error) = stored {
                    // Whoever waits hears that the mail is not stored, in place of a broken connection.
                    drop(mails);
                    _ = timeout(FAREWELL, listening).await;
                    return Err(error.into());
                },
            }
        }
    }
}

/// TLS and tokens towards a mailbox's server.
pub fn access(imap: &Imap, clock: Clock) -> Result<(TlsConnector, Option<Tokens>), TlsError> {
    let authority = imap.ca_file.as_deref();
    let tokens = match &imap.login {
        Login::OAuth2(client) => Some(Tokens::new(client, client_config(authority)?, clock)?),
        Login::Password(..) => None,
    };
    Ok((connector(authority)?, tokens))
}

async fn store_one(store: Store, mailbox: String, mail: Delivered, now: Timestamp) -> Result<(), StoreError> {
    let Delivered { sender, recipient, raw, stored } = mail;
    let (sender, recipient) = (Some(sender), Some(recipient));
    let arrival = Arrival { mailbox, sender, recipient, raw: raw.to_vec(), fault: None, now };
    let kept = keep(&store, vec![arrival]).await;
    // A client that has gone away gives the mail again.
    _ = stored.send(kept.is_ok());
    kept.map(drop)
}

/// What is wrong with a mailbox: told once, however long it lasts.
struct Trouble {
    mailbox: String,
    told: Option<String>,
    wait: Duration,
}

impl Trouble {
    fn new(mailbox: &str) -> Self {
        Self { mailbox: mailbox.to_owned(), told: None, wait: FIRST }
    }

    fn tell(&mut self, why: &str) {
        if self.told.as_deref() != Some(why) {
            warn!(mailbox = self.mailbox, cause = why, "a mailbox cannot be read; it is tried again");
            self.told = Some(why.to_owned());
        }
    }

    /// Tells a failure and says how long to wait.
    fn grow(&mut self, why: &str) -> Duration {
        self.tell(why);
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        wait
    }

    fn is_over(&mut self) {
        self.wait = FIRST;
        if self.told.take().is_some() {
            info!(mailbox = self.mailbox, "the mailbox is read again");
        }
    }
}
