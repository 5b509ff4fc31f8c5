//! A folder of an IMAP server, read mail by mail in the order of their numbers.
//!
//! [`Reader`] keeps what must outlive a connection: how far everything is settled, and which mail was in the way.

mod connection;
mod folder;
mod login;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio_rustls::TlsConnector;

use self::connection::Connection;
use super::{AT_ONCE, Fault, Mail, OCTETS_AT_ONCE, Position, too_large};
use crate::config::mailbox::{Done, Imap};
use crate::oauth::Tokens;

/// After so many failures with one mail alone, its head is taken in its place.
const TRIES: u32 = 3;
/// After so many, nothing of it: there are servers that fall over a broken mail, however it is asked for.
const TRIES_IN_ALL: u32 = 5;
/// The longest time in IDLE: less than servers, and what stands between, keep a silent connection.
const LONGEST_IDLE: Duration = Duration::from_secs(9 * 60);

/// Reads one folder.
pub struct Reader {
    imap: Box<Imap>,
    tls: TlsConnector,
    tokens: Option<Tokens>,
    limit: usize,
    position: Position,
    connection: Option<Connection>,
    waiting: VecDeque<u32>,
    group: Group,
    trouble: Trouble,
    /// What the server refused to do about stored mails.
    refused: Option<Fault>,
}

/// The mails of the last group.
#[derive(Default)]
struct Group {
    whole: Vec<u32>,
    others: Vec<u32>,
    last: u32,
}

/// What was in the way.
#[derive(Default)]
struct Trouble {
    /// Up to this number mails are fetched one by one, to find which it is.
    singly_to: u32,
    /// The last one that failed alone, and how often.
    uid: u32,
    times: u32,
}

impl Trouble {
    fn times_of(&self, uid: u32) -> u32 {
        if self.uid == uid { self.times } else { 0 }
    }

    /// Notes that these mails could not be fetched. What the server refuses it will refuse again.
    fn note(&mut self, uids: &[u32], is_refused: bool) {
        let &[uid] = uids else {
            self.singly_to = uids.last().copied().unwrap_or(0);
            return;
        };
        let times = self.times_of(uid);
        let more = if is_refused && times < TRIES { TRIES } else { times + 1 };
        (self.uid, self.times) = (uid, more);
    }
}

impl Reader {
    /// A reader that goes on behind `position`; of a mail with more octets than `limit` it takes the head.
    pub fn new(
        imap: Box<Imap>,
        tls: TlsConnector,
        tokens: Option<Tokens>,
        limit: usize,
        position: Option<Position>,
    ) -> Self {
        let place = imap.place();
        let begin = Position { place: place.clone(), uid_validity: 0, last_uid: 0 };
        Self {
            imap,
            tls,
            tokens,
            limit,
            position: position.filter(|position| position.place == place).unwrap_or(begin),
            connection: None,
            waiting: VecDeque::new(),
            group: Group::default(),
            trouble: Trouble::default(),
            refused: None,
        }
    }

    pub(super) fn position(&self) -> Option<&Position> {
        // Behind a refusal the position stands still, so that the mailbox is tried again.
        (self.refused.is_none() && self.position.uid_validity > 0).then_some(&self.position)
    }

    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.refused.take().map_or(Ok(()), Err)
    }

    pub(super) async fn look(&mut self) -> Result<(), Fault> {
        let looked = self.list().await;
        self.unless_lost(looked)
    }

    async fn list(&mut self) -> Result<(), Fault> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let mut connection = login::open(&self.imap, &self.tls, self.tokens.as_ref()).await?;
                let to_change = self.imap.done != Done::Keep || self.imap.failed.is_some();
                let validity = connection.select(&self.imap.folder, to_change).await?;
                if validity != self.position.uid_validity {
                    // RFC 3501, section 2.3.1.1: the old numbers mean nothing any more.
                    (self.position.uid_validity, self.position.last_uid) = (validity, 0);
                }
                none.insert(connection)
            }
        };
        let last = self.position.last_uid;
        // A range with a star has the last mail in it, however low its number.
        let found = connection.search(&format!("UID {}:*", last.saturating_add(1))).await?;
        self.waiting = found.into_iter().filter(|uid| *uid > last).collect();
        Ok(())
    }

    /// Forgets a connection that cannot go on.
    fn unless_lost<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if matches!(result, Err(Fault::Lost { .. })) {
            self.connection = None;
        }
        result
    }

    pub(super) async fn fetch(&mut self) -> Result<Vec<Mail>, Fault> {
        loop {
            let Some(first) = self.waiting.front().copied() else { return Ok(Vec::new()) };
            let times = self.trouble.times_of(first);
            let most = if first <= self.trouble.singly_to || times > 0 { 1 } else { AT_ONCE };
            let next: Vec<u32> = self.waiting.iter().take(most).copied().collect();
            let fetched = match times {
                0..TRIES => self.group_of(&next).await,
                TRIES..TRIES_IN_ALL => self.head_of(first).await,
                _ => Ok(vec![self.not_given(first, Vec::new())]),
            };
            match self.unless_lost(fetched) {
                Ok(mails) => {
                    self.waiting.retain(|uid| *uid > self.group.last);
                    if !mails.is_empty() {
                        return Ok(mails);
                    }
                }
                Err(Fault::Refused { .. }) => self.trouble.note(&next, true),
                Err(fault) => {
                    self.trouble.note(&next, false);
                    return Err(fault);
                }
            }
        }
    }

    /// Fetches as many of these mails as make a group.
    async fn group_of(&mut self, next: &[u32]) -> Result<Vec<Mail>, Fault> {
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let sizes = connection.sizes(next).await?;
        let size = |uid: &u32| sizes.get(uid).map_or(0, |size| *size as usize);
        let mut octets = 0;
        let fits = |uid: &&u32| {
            octets += size(uid).min(self.limit);
            octets <= OCTETS_AT_ONCE || **uid == next[0]
        };
        let next: Vec<u32> = next.iter().take_while(fits).copied().collect();
        let (large, small): (Vec<u32>, Vec<u32>) = next.iter().partition(|uid| size(uid) > self.limit);
        let expected = small.iter().map(size).sum();
        let mut bodies = BTreeMap::new();
        if !small.is_empty() {
            bodies.extend(connection.mails(&small, expected).await?);
        }
        if !large.is_empty() {
            bodies.extend(connection.heads(&large).await?);
        }
        let missing: Vec<u32> = next.iter().filter(|uid| !bodies.contains_key(uid)).copied().collect();
        if !missing.is_empty() {
            gone(connection, &missing).await?;
        }
        self.group = Group { last: next.last().copied().unwrap_or(0), ..Group::default() };
        let mut mails = Vec::new();
        for (uid, raw) in bodies.into_iter().filter(|(uid, _)| next.contains(uid)) {
            let octets = raw.len().max(size(&uid));
            mails.push(self.mail(
                uid,
                raw,
                (octets > self.limit).then(|| too_large(octets as u64, self.limit)),
            ));
        }
        Ok(mails)
    }

    /// The head of a mail that cannot be fetched; nothing where the server refuses even that.
    async fn head_of(&mut self, uid: u32) -> Result<Vec<Mail>, Fault> {
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let head = match connection.heads(&[uid]).await {
            Ok(mut heads) => heads.remove(&uid).unwrap_or_default(),
            Err(Fault::Refused { .. }) => Vec::new(),
            Err(fault) => return Err(fault),
        };
        Ok(vec![self.not_given(uid, head)])
    }

    fn not_given(&mut self, uid: u32, head: Vec<u8>) -> Mail {
        self.group = Group { last: uid, ..Group::default() };
        let validity = self.position.uid_validity;
        // The same words each time, so that the same mail stays the same inbound.
        let fault =
            format!("the server does not give mail {uid} (UIDVALIDITY {validity}); only its head is kept");
        self.mail(uid, head, Some(fault))
    }

    fn mail(&mut self, uid: u32, mut raw: Vec<u8>, fault: Option<String>) -> Mail {
        if fault.is_some() {
            raw.truncate(super::head(&raw).len());
            self.group.others.push(uid);
        } else {
            self.group.whole.push(uid);
        }
        Mail { name: format!("UID {uid}"), raw, fault }
    }

    pub(super) async fn settle(&mut self) -> Result<(), Fault> {
        let group = std::mem::take(&mut self.group);
        let settled = self.change(&group).await;
        match self.unless_lost(settled) {
            Err(refused @ Fault::Refused { .. }) => _ = self.refused.get_or_insert(refused),
            Err(fault) => return Err(fault),
            Ok(()) if self.refused.is_none() => self.position.last_uid = group.last,
            Ok(()) => {}
        }
        Ok(())
    }

    async fn change(&mut self, group: &Group) -> Result<(), Fault> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let failed = self.imap.failed.clone().map(Done::Folder);
        let done = &self.imap.done;
        for (uids, done) in [(&group.whole, done), (&group.others, failed.as_ref().unwrap_or(done))] {
            if uids.is_empty() {
                continue;
            }
            match done {
                Done::Keep => {}
                Done::Seen => connection.mark(uids, "\\Seen").await?,
                Done::Delete => connection.remove(uids).await?,
                Done::Folder(folder) => connection.move_to(uids, folder).await?,
            }
        }
        Ok(())
    }

    pub(super) async fn wait(&mut self, poll: Duration) -> Result<(), Fault> {
        let waited = match &mut self.connection {
            Some(connection) if connection.can("IDLE") => connection.idle(poll.min(LONGEST_IDLE)).await,
            _ => {
                tokio::time::sleep(poll).await;
                Ok(())
            }
        };
        // Whatever it was, the next look begins with a new connection.
        waited.inspect_err(|_| self.connection = None)
    }

    pub(super) async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            // A server that does not hear it finds out by itself.
            drop(connection.log_out().await);
        }
    }
}

/// Mails that were left out of an answer are gone, or the server cannot give them.
async fn gone(connection: &mut Connection, missing: &[u32]) -> Result<(), Fault> {
    let list = missing.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let there = connection.search(&format!("UID {list}")).await?;
    if there.is_empty() {
        return Ok(());
    }
    let text = format!("mail {} is there and left out", there.first().copied().unwrap_or(0));
    Err(Fault::Refused { doing: "fetching mails", text })
}
