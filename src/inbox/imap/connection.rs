//! The commands of IMAP that reading a folder needs (RFC 3501), each within its time and its octets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::folder::folder_name;
use super::wire::{Fetched, Response, Wire};
use crate::deliver::stream::Stream;
use crate::inbox::{Fault, HEAD};

/// What a command without mails may cost in octets.
pub(super) const TALK: usize = 64 * 1024;
/// What a list of mails may cost: more than a million of them.
const LIST: usize = 16 * 1024 * 1024;
/// How fast a mail must come at least, in octets a second.
const SLOWEST: usize = 16 * 1024;

/// A connection to a server.
pub(super) struct Connection {
    wire: Wire,
    commands: u32,
    abilities: BTreeSet<String>,
    limit: Duration,
    /// Whether the server told of mails after the last list.
    has_news: bool,
}

impl Connection {
    /// `limit` is the longest wait for an answer.
    pub(super) fn new(wire: Wire, limit: Duration) -> Self {
        Self { wire, commands: 0, abilities: BTreeSet::new(), limit, has_news: false }
    }

    /// The stream below; none when something was sent behind the last answer.
    pub(super) fn into_stream(self) -> Option<Stream> {
        self.wire.into_stream()
    }

    /// Whether the server said that it can do this.
    pub(super) fn can(&self, ability: &str) -> bool {
        self.abilities.contains(ability)
    }

    /// One response, unasked.
    pub(super) async fn hear(&mut self, octets: usize) -> Result<Response, Fault> {
        self.wire.allow(octets);
        let deadline = Instant::now() + self.limit;
        self.hear_until(deadline, self.limit).await
    }

    async fn hear_until(&mut self, deadline: Instant, limit: Duration) -> Result<Response, Fault> {
        let response = timeout_at(deadline, self.wire.response()).await;
        response.map_err(|_| Fault::lost("reading an answer", &format_args!("none within {limit:?}")))?
    }

    /// Sends a command and hears it out; `octets` is what the answer may cost.
    pub(super) async fn command(
        &mut self,
        doing: &'static str,
        text: &str,
        octets: usize,
    ) -> Result<Vec<Response>, Fault> {
        let mut heard = Vec::new();
        self.dialogue(doing, text, octets, None, &mut heard).await?;
        Ok(heard)
    }

    /// Sends a command and an answer each time that the server waits for one.
    pub(super) async fn converse(
        &mut self,
        doing: &'static str,
        text: &str,
        mut answer: impl FnMut() -> String + Send,
    ) -> Result<(), Fault> {
        self.dialogue(doing, text, TALK, Some(&mut answer), &mut Vec::new()).await
    }

    async fn dialogue(
        &mut self,
        doing: &'static str,
        text: &str,
        octets: usize,
        mut answer: Option<&mut (dyn FnMut() -> String + Send)>,
        heard: &mut Vec<Response>,
    ) -> Result<(), Fault> {
        self.commands += 1;
        let own = format!("a{}", self.commands);
        // One deadline for the whole answer: drops that come now and then do not move it.
        let limit = self.limit + Duration::from_secs((octets / SLOWEST) as u64);
        let deadline = Instant::now() + limit;
        self.wire.allow(octets);
        self.say(&format!("{own} {text}")).await?;
        loop {
            match self.hear_until(deadline, limit).await? {
                Response::Tagged { tag, status, text } if tag == own => {
                    return if status == "OK" { Ok(()) } else { Err(Fault::Refused { doing, text }) };
                }
                Response::Tagged { .. } => {
                    return Err(Fault::lost(doing, &"the server answered what nobody asked"));
                }
                Response::GoOn(_) => match &mut answer {
                    Some(answer) => self.say(&answer()).await?,
                    None => return Err(Fault::lost(doing, &"the server waits for more than the command")),
                },
                Response::Untagged(text) if text.starts_with("BYE") => {
                    return Err(Fault::lost(doing, &text));
                }
                response => {
                    self.note(&response);
                    heard.push(response);
                }
            }
        }
    }

    async fn say(&mut self, line: &str) -> Result<(), Fault> {
        let sent = timeout_at(Instant::now() + self.limit, self.wire.send(line)).await;
        sent.map_err(|_| Fault::lost("sending a command", &"the server does not read"))?
    }

    pub(super) async fn ask_abilities(&mut self) -> Result<(), Fault> {
        let heard = self.command("asking for abilities", "CAPABILITY", TALK).await?;
        let lists = heard.iter().filter_map(|response| match response {
            Response::Untagged(text) => {
                text.to_ascii_uppercase().strip_prefix("CAPABILITY ").map(str::to_owned)
            }
            _ => None,
        });
        self.abilities =
            lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
        Ok(())
    }

    /// Opens a folder and tells its UIDVALIDITY; with `to_change` it may be changed.
    pub(super) async fn select(&mut self, name: &str, to_change: bool) -> Result<u32, Fault> {
        let verb = if to_change { "SELECT" } else { "EXAMINE" };
        let heard =
            self.command("opening the folder", &format!("{verb} {}", folder_name(name)), TALK).await?;
        let validity = heard.iter().find_map(|response| match response {
            Response::Untagged(text) => {
                let rest = text.to_ascii_uppercase().strip_prefix("OK [UIDVALIDITY ")?.to_owned();
                rest.split(']').next()?.parse().ok()
            }
            _ => None,
        });
        validity.filter(|validity| *validity > 0).ok_or_else(|| {
            Fault::lost("opening the folder", &"the server gives its mails no lasting numbers")
        })
    }

    /// The numbers of the mails that match, in order. Where none do, some servers give no list.
    pub(super) async fn search(&mut self, what: &str) -> Result<BTreeSet<u32>, Fault> {
        self.has_news = false;
        let heard = self.command("listing the folder", &format!("UID SEARCH {what}"), LIST).await?;
        let lists = heard.iter().filter_map(|response| match response {
            Response::Untagged(text) => text.strip_prefix("SEARCH"),
            _ => None,
        });
        Ok(lists.flat_map(str::split_ascii_whitespace).filter_map(|uid| uid.parse().ok()).collect())
    }

    /// The sizes that the server tells, by number.
    pub(super) async fn sizes(&mut self, uids: &[u32]) -> Result<BTreeMap<u32, u32>, Fault> {
        let command = format!("UID FETCH {} (UID RFC822.SIZE)", list(uids));
        let heard = self.command("asking for sizes", &command, TALK + uids.len() * 200).await?;
        Ok(fetched(heard).filter_map(|mail| Some((mail.uid?, mail.size?))).collect())
    }

    /// Whole mails of about so many octets together, by number. Reading them changes nothing.
    pub(super) async fn mails(
        &mut self,
        uids: &[u32],
        octets: usize,
    ) -> Result<BTreeMap<u32, Vec<u8>>, Fault> {
        // Some servers guess sizes.
        self.bodies(uids, "BODY.PEEK[]", octets * 2).await
    }

    /// The heads of mails.
    pub(super) async fn heads(&mut self, uids: &[u32]) -> Result<BTreeMap<u32, Vec<u8>>, Fault> {
        self.bodies(uids, &format!("BODY.PEEK[HEADER]<0.{HEAD}>"), uids.len() * HEAD * 2).await
    }

    async fn bodies(
        &mut self,
        uids: &[u32],
        what: &str,
        octets: usize,
    ) -> Result<BTreeMap<u32, Vec<u8>>, Fault> {
        let command = format!("UID FETCH {} (UID {what})", list(uids));
        let heard = self.command("fetching mails", &command, TALK + octets).await?;
        Ok(fetched(heard).filter_map(|mail| Some((mail.uid?, mail.body?))).collect())
    }

    /// Adds a flag.
    pub(super) async fn mark(&mut self, uids: &[u32], flag: &str) -> Result<(), Fault> {
        let command = format!("UID STORE {} +FLAGS.SILENT ({flag})", list(uids));
        self.command("marking mails", &command, LIST).await.map(drop)
    }

    /// Removes mails. Without UIDPLUS (RFC 4315) they are only marked: EXPUNGE alone would remove what others marked.
    pub(super) async fn remove(&mut self, uids: &[u32]) -> Result<(), Fault> {
        self.mark(uids, "\\Deleted").await?;
        if !self.can("UIDPLUS") {
            return Ok(());
        }
        let command = format!("UID EXPUNGE {}", list(uids));
        self.command("removing mails", &command, LIST).await.map(drop)
    }

    /// Moves mails to a folder, which is made if need be.
    pub(super) async fn move_to(&mut self, uids: &[u32], folder: &str) -> Result<(), Fault> {
        match self.try_move(uids, folder).await {
            // RFC 3501, section 6.4.7: the folder is not there.
            Err(Fault::Refused { text, .. }) if text.to_ascii_uppercase().starts_with("[TRYCREATE]") => {
                let create = format!("CREATE {}", folder_name(folder));
                self.command("making a folder", &create, TALK).await?;
                self.try_move(uids, folder).await
            }
            moved => moved,
        }
    }

    /// RFC 6851, or the steps that it stands for.
    async fn try_move(&mut self, uids: &[u32], folder: &str) -> Result<(), Fault> {
        let (uid_list, folder) = (list(uids), folder_name(folder));
        if self.can("MOVE") {
            let command = format!("UID MOVE {uid_list} {folder}");
            return self.command("moving mails", &command, LIST).await.map(drop);
        }
        self.command("copying mails", &format!("UID COPY {uid_list} {folder}"), LIST).await?;
        self.remove(uids).await
    }

    /// Waits until the server tells of new mails, at most for so long (IDLE, RFC 2177). A server that is silent for
    /// good is found out at the end of it.
    pub(super) async fn idle(&mut self, wait: Duration) -> Result<(), Fault> {
        let doing = "waiting for new mails";
        if self.has_news {
            return Ok(());
        }
        self.commands += 1;
        let own = format!("a{}", self.commands);
        self.wire.allow(LIST);
        self.say(&format!("{own} IDLE")).await?;
        let (mut is_idle, mut is_done) = (false, false);
        let mut end = Instant::now() + self.limit;
        loop {
            match timeout_at(end, self.wire.response()).await {
                // From here on nothing moves the end: some servers say every few minutes that they are there.
                Ok(Ok(Response::GoOn(_))) if !is_idle => (is_idle, end) = (true, Instant::now() + wait),
                Ok(Ok(Response::Tagged { tag, status, text })) if tag == own => {
                    return if status == "OK" { Ok(()) } else { Err(Fault::Refused { doing, text }) };
                }
                Ok(Ok(Response::Untagged(text))) if text.starts_with("BYE") => {
                    return Err(Fault::lost(doing, &text));
                }
                Ok(Ok(response)) => self.note(&response),
                Ok(Err(fault)) => return Err(fault),
                Err(_) if !is_idle || is_done => {
                    return Err(Fault::lost(doing, &"the server has gone silent"));
                }
                Err(_) => {}
            }
            if is_idle && !is_done && (self.has_news || Instant::now() >= end) {
                (is_done, end) = (true, Instant::now() + self.limit);
                self.say("DONE").await?;
            }
        }
    }

    /// Notes whether there may be mails that no list has shown.
    fn note(&mut self, response: &Response) {
        self.has_news |= matches!(response, Response::Untagged(text) if text.ends_with(" EXISTS"));
    }

    pub(super) async fn log_out(&mut self) -> Result<(), Fault> {
        self.say("z LOGOUT").await
    }
}

fn fetched(heard: Vec<Response>) -> impl Iterator<Item = Fetched> {
    heard.into_iter().filter_map(|response| match response {
        Response::Fetch(mail) => Some(mail),
        _ => None,
    })
}

fn list(uids: &[u32]) -> String {
    uids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
