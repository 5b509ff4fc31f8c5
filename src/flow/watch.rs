//! Watching a folder for session files.
//!
//! The folder is looked at again and again: that works on every file system, whoever writes into it. A file is
//! taken when two looks show the same size and time, or when it was not changed for a while, and noted with them,
//! so that it is read again only after it was rewritten. A file that ends too early is given a minute to be
//! completed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{info, warn};

use super::desk::Desk;
use super::dispatch::Wake;
use super::intake::{Input, IntakeError, Taken, take};
use crate::crash::{Step, reached};
use crate::ids::Digest;
use crate::plan::Timing;
use crate::store::{Store, StoreError};

/// The shortest time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How many files are worked on at a time. With many, attempts wait for the commits of files.
const AT_ONCE: usize = 32;
/// The same where the store is on a server: a commit takes longer there, and is shared by more.
const AT_ONCE_TO_SERVER: usize = 128;
/// Of how many octets they are together; a larger file is worked on alone.
const OCTETS_AT_ONCE: u64 = 4_000_000;
/// How many files are noted as dealt with at a time.
const NOTED: usize = 512;
/// How long a file that ends too early may stay so.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file as a look at the folder shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where it is.
    pub path: PathBuf,
    /// Size and time of the last change.
    pub stamp: String,
    octets: u64,
    changed: SystemTime,
}

impl Seen {
    /// Whether nobody has written to it for longer than two looks are apart.
    fn has_rested(&self) -> bool {
        self.changed.elapsed().is_ok_and(|age| age > LOOK * 2)
    }

    /// How long ago it was written to. Whoever wrote may have a clock that is ahead of ours: then by how much.
    fn age(&self) -> Duration {
        self.changed.elapsed().unwrap_or_else(|ahead| ahead.duration())
    }

    /// Names the file in this state.
    fn key(&self) -> [u8; 16] {
        key(&self.path.to_string_lossy(), &self.stamp)
    }
}

fn key(path: &str, stamp: &str) -> [u8; 16] {
    let digest = Digest::of_parts(&[path.as_bytes(), stamp.as_bytes()]).0;
    std::array::from_fn(|at| digest[at])
}

/// The files below `folder` that may be sessions and are wanted, by path; what cannot be looked at is told and left out.
pub fn session_files(folder: &Path, is_wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(folder = %folder.display(), cause = %error, "cannot look into a folder");
                continue;
            }
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if may_be_session(&path) {
                files.extend(look_at(path).filter(&is_wanted));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The files that are not known, and how long the look took. The wait for a thread, which other tenants' work may
/// fill, is not in it.
fn timed_look(folder: &Path, known: &HashSet<[u8; 16]>) -> (Vec<Seen>, Duration) {
    let began = Instant::now();
    let files = session_files(folder, |file| !known.contains(&file.key()));
    (files, began.elapsed())
}

/// Media and documents beside sessions are known by their endings; the rest is told by content.
fn may_be_session(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json") || ending.eq_ignore_ascii_case("txt"))
}

fn look_at(path: PathBuf) -> Option<Seen> {
    // A pipe or a device would be read for ever.
    let about = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
    let changed = about.modified().ok()?;
    let nanoseconds = changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Some(Seen { path, stamp: format!("{}-{nanoseconds}", about.len()), octets: about.len(), changed })
}

/// Takes every file of `files`, several at a time, and tells what became of each.
pub async fn take_files(
    desk: &Desk,
    store: &Store,
    files: Vec<Seen>,
    timing: Timing,
    is_patient: fn(&Seen) -> bool,
    mut told: impl FnMut(Seen, Result<Taken, IntakeError>),
) {
    let mut files = files.into_iter().peekable();
    let most = if store.is_shared() { AT_ONCE_TO_SERVER } else { AT_ONCE };
    let (mut working, mut octets) = (JoinSet::new(), 0);
    loop {
        while let Some(file) = files.next_if(|file| {
            working.is_empty() || (octets + file.octets <= OCTETS_AT_ONCE && working.len() < most)
        }) {
            octets += file.octets;
            let (desk, store) = (desk.clone(), store.clone());
            working.spawn(async move {
                let patient = is_patient(&file);
                let result = take(&desk, &store, Input::File(file.path.clone()), timing, patient).await;
                (file, result)
            });
        }
        match working.join_next().await {
            Some(Ok((file, result))) => {
                octets -= file.octets;
                told(file, result);
            }
            Some(Err(_)) => {} // Cancelled with the runtime: the file is looked at again next time.
            None => return,
        }
    }
}

/// Watches one tenant's folder.
pub struct Watcher {
    /// Whose.
    pub desk: Desk,
    /// Where to put what is found.
    pub store: Store,
    /// The folder.
    pub folder: PathBuf,
    /// Told when something was put into the store.
    pub wake: Wake,
    /// Turns true when it is time to end.
    pub stop: watch::Receiver<bool>,
}

impl Watcher {
    /// Watches until told to stop, or until the store fails.
    pub async fn run(mut self) -> Result<(), StoreError> {
        // Shared with the look, which leaves out what is done: a folder may keep its files for ever.
        let mut done = HashSet::new();
        self.store.noted_files(&self.desk.tenant.name, |path, stamp| _ = done.insert(key(&path, &stamp)))?;
        let (mut done, mut before) = (Arc::new(done), HashMap::new());
        while !*self.stop.borrow() {
            let (folder, known) = (self.folder.clone(), Arc::clone(&done));
            let looking = spawn_blocking(move || timed_look(&folder, &known));
            let (mut steady, looked) = looking.await.unwrap_or_default();
            let is_moving =
                |file: &mut Seen| !file.has_rested() && before.get(&file.path) != Some(&file.stamp);
            let moving: Vec<Seen> = steady.extract_if(.., is_moving).collect();
            before = moving.into_iter().map(|file| (file.path, file.stamp)).collect();
            self.take(steady, Arc::make_mut(&mut done), &mut before).await?;
            // A large folder is looked at less often, so that looking never takes more than a tenth of the time.
            let wait = LOOK.max(looked * 9);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = self.stop.changed() => {}
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        files: Vec<Seen>,
        done: &mut HashSet<[u8; 16]>,
        before: &mut HashMap<PathBuf, String>,
    ) -> Result<(), StoreError> {
        let is_patient = |file: &Seen| file.age() < PATIENCE;
        let mut dealt_with = Vec::new();
        let mut failed = None;
        for chunk in files.chunks(NOTED) {
            if *self.stop.borrow() {
                return Ok(());
            }
            take_files(&self.desk, &self.store, chunk.to_vec(), Timing::Settle, is_patient, |file, result| match result {
                Ok(Taken::Incomplete(_)) => _ = before.insert(file.path, file.stamp),
                Ok(taken) => {
                    if let Taken::Other(what) = taken {
                        info!(tenant = self.desk.tenant.name, file = %file.path.display(), "skipped {what}");
                    }
                    dealt_with.push(file);
                }
                Err(IntakeError::Store(error)) => failed = Some(error),
                Err(error) => {
                    warn!(tenant = self.desk.tenant.name, cause = super::intake::chain(&error), "could not take a file; it is tried again");
                    before.insert(file.path, file.stamp);
                }
            })
            .await;
            self.wake.tell();
            if let Some(error) = failed.take() {
                return Err(error);
            }
            done.extend(dealt_with.iter().map(Seen::key));
            let noted =
                dealt_with.drain(..).map(|file| (file.path.to_string_lossy().into_owned(), file.stamp));
            reached(Step::ToNote);
            self.store.note_files(self.desk.tenant.name.clone(), noted.collect()).await?;
            reached(Step::Noted);
        }
        Ok(())
    }
}
