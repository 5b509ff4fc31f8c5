//! A Maildir: mails lie in `new`, one file each, and are moved to `cur` once they are stored. `tmp` is the deliverers'.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::{AT_ONCE, Fault, Mail, OCTETS_AT_ONCE, head, too_large};

/// Reads one Maildir.
pub struct Reader {
    folder: PathBuf,
    limit: usize,
    waiting: VecDeque<String>,
    /// The mails of the last group, and whether each was taken whole.
    group: Vec<(String, bool)>,
    /// Why a mail had to stay where it is.
    left: Option<Fault>,
}

impl Reader {
    /// A reader of this folder; of a mail with more octets than `limit` it takes the head.
    pub fn new(folder: PathBuf, limit: usize) -> Self {
        Self { folder, limit, waiting: VecDeque::new(), group: Vec::new(), left: None }
    }

    fn fault(path: &Path) -> impl FnOnce(io::Error) -> Fault {
        let path = path.to_owned();
        |source| Fault::File { path, source }
    }

    /// Lists `new`. The names begin with a time, so the oldest come first.
    pub(super) fn look(&mut self) -> Result<(), Fault> {
        let folder = self.folder.join("new");
        let entries = std::fs::read_dir(&folder).map_err(Self::fault(&folder))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(Self::fault(&folder))?.file_name();
            // A name that is no text could not be told; deliverers do not make such names.
            names.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
        }
        names.sort_unstable();
        self.waiting = names.into();
        Ok(())
    }

    pub(super) fn fetch(&mut self) -> Result<Vec<Mail>, Fault> {
        self.group.clear();
        let (mut mails, mut octets) = (Vec::new(), 0);
        while mails.len() < AT_ONCE && octets < OCTETS_AT_ONCE {
            let Some(name) = self.waiting.pop_front() else { break };
            let path = self.folder.join("new").join(&name);
            match self.read(&path) {
                Ok(Some((raw, fault))) => {
                    octets += raw.len();
                    self.group.push((name.clone(), fault.is_none()));
                    mails.push(Mail { name, raw, fault });
                }
                Ok(None) => {}
                // The folder's owner can mend this, for this mail and all others. It loses its place, not the mail.
                Err(source) => self.left = Some(Fault::File { path, source }),
            }
        }
        Ok(mails)
    }

    /// A mail, or its head with the reason. None for what is gone, or is no file.
    fn read(&self, path: &Path) -> io::Result<Option<(Vec<u8>, Option<String>)>> {
        let gone = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
        let octets = match std::fs::metadata(path) {
            // A pipe would be read for ever.
            Ok(about) if !about.is_file() => return Ok(None),
            Ok(about) => about.len(),
            Err(error) => return gone(error),
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return gone(error),
        };
        let mut raw = Vec::new();
        file.take(self.limit as u64 + 1).read_to_end(&mut raw)?;
        if raw.len() > self.limit {
            raw.truncate(head(&raw).len());
            return Ok(Some((raw, Some(too_large(octets, self.limit)))));
        }
        Ok(Some((raw, None)))
    }

    /// Moves the group to `cur`, as seen; what was not taken whole is flagged too, for people to find.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        let cur = self.folder.join("cur");
        for (name, is_whole) in self.group.drain(..) {
            let plain = name.split(":2,").next().unwrap_or(&name);
            let flags = if is_whole { "S" } else { "FS" };
            let from = self.folder.join("new").join(&name);
            match std::fs::rename(from, cur.join(format!("{plain}:2,{flags}"))) {
                Err(error) if error.kind() == ErrorKind::NotFound && cur.is_dir() => {} // Somebody else moved it.
                Err(error) => self.left = Some(Self::fault(&cur)(error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.left.take().map_or(Ok(()), Err)
    }
}
