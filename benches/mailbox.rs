//! Kills `aftercall serve` at random moments while it reads a Maildir, and a folder of Dovecot, and counts what is in the
//! store.
//!
//! `cargo bench --bench mailbox -- [--mails N] [--kills N] [--seed N]`
//! Each mail must be there exactly once, and must be settled in its mailbox.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/dovecot.rs"]
mod dovecot;
#[path = "support/serving.rs"]
mod serving;
#[expect(dead_code, reason = "there are no sessions here")]
mod support;
#[path = "../tests/it/waiting.rs"]
mod waiting;

use std::path::Path;
use std::time::{Duration, Instant};

use dice::Dice;
use dovecot::imap::{Imap, LOGIN};
use rusqlite::Connection;
use serving::Serving;
use support::{Result, number, write_tenant};

fn main() -> Result<()> {
    let value =
        |flag, default| Ok::<_, Box<dyn std::error::Error>>(number(flag, default)?.unwrap_or(default));
    let (mails, kills) = (value("--mails", 10_000)?, value("--kills", 50)?);
    let mut dice = Dice::new(value("--seed", 20_261_122)?);

    let folder = tempfile::tempdir()?;
    let maildir = folder.path().join("mail");
    for name in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(maildir.join(name))?;
    }
    for number in 0..mails {
        std::fs::write(maildir.join(format!("new/{number:06}.host")), mail(number))?;
    }
    let lines = "maildir = \"../mail\"\npoll = \"100ms\"\n";
    let found = killed(folder.path(), lines, (mails, kills), &mut dice)?;
    let left = std::fs::read_dir(maildir.join("new"))?.count();
    println!("maildir: {found}; {left} left in new");

    let imap = Imap::start(None);
    imap.deliver((0..mails).map(mail));
    let folder = tempfile::tempdir()?;
    let lines = format!(
        "poll = \"100ms\"\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nuser = \"{}\"\n\
         password = {{ file = \"password\" }}\ndone_folder = \"Done\"\n",
        imap.plain, LOGIN.0
    );
    std::fs::create_dir(folder.path().join("config"))?;
    std::fs::write(folder.path().join("config/password"), LOGIN.1)?;
    let found_there = killed(folder.path(), &lines, (mails, kills), &mut dice)?;
    let in_folder = |name: &str| -> Result<usize> {
        let count =
            |part: &str| Ok::<_, std::io::Error>(std::fs::read_dir(imap.path(name).join(part))?.count());
        Ok(count("new")? + count("cur")?)
    };
    let (left_there, done) = (in_folder("mail")?, in_folder("mail/.Done")?);
    println!("imap: {found_there}; {left_there} left in the inbox, {done} in the folder Done");
    let is_settled = left == 0 && left_there == 0 && done == mails;
    if found.is_sound() && found_there.is_sound() && is_settled {
        Ok(())
    } else {
        Err("a mail is lost, stored twice, or not settled".into())
    }
}

fn mail(number: usize) -> String {
    let text = "It came back. ".repeat(number % 200);
    format!("From: a@example.com\r\nSubject: mail {number:06}\r\n\r\n{text}\r\n")
}

/// What is in the store in the end.
struct Found {
    mails: usize,
    kills: usize,
    killed_at: Vec<usize>,
    stored: usize,
    distinct: usize,
    took: Duration,
}

impl Found {
    fn is_sound(&self) -> bool {
        self.stored == self.mails && self.distinct == self.mails
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mails, kills, killed_at, stored, distinct, took } = self;
        let within = killed_at.iter().filter(|stored| **stored < *mails).count();
        write!(
            f,
            "{distinct} of {mails} mails stored, {} lost, {} twice; {kills} kills, {within} of them in the midst; \
             {:.1} s",
            mails.saturating_sub(*distinct),
            stored - distinct,
            took.as_secs_f64()
        )
    }
}

/// Kills `serve` so many times while it reads, then lets it come to the end.
fn killed(folder: &Path, mailbox: &str, (mails, kills): (usize, usize), dice: &mut Dice) -> Result<Found> {
    write_tenant(folder, "bench", "port = 1\ntls = \"none\"\n")?;
    let lines = format!("[[mailboxes]]\nname = \"bounces\"\n{mailbox}");
    std::fs::write(folder.join("config/aftercall.toml"), lines)?;
    let store = folder.join("store.sqlite");
    let (began, mut killed_at) = (Instant::now(), Vec::new());
    let count = |what: &str| -> rusqlite::Result<usize> {
        let sql = format!("SELECT count({what}) FROM inbounds JOIN inbound_mails ON inbound = id");
        Connection::open(&store)?.query_row(&sql, [], |row| row.get(0))
    };
    for _ in 0..kills {
        let before = if store.exists() { count("*")? } else { 0 };
        let mut serve = Serving::start(folder, &store.to_string_lossy())?;
        waiting::until("a mail", || count("*").ok().filter(|count| *count > before || *count == mails));
        std::thread::park_timeout(Duration::from_millis(dice.roll(30)));
        serve.running()?;
        drop(serve);
        killed_at.push(count("*")?);
    }
    let mut serve = Serving::start(folder, &store.to_string_lossy())?;
    let read_at = || {
        let connection = Connection::open(&store).ok()?;
        let sql = "SELECT read_at FROM mailboxes WHERE read_at IS NOT NULL";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).ok()
    };
    waiting::until("the end of the mailbox", || {
        (count("*").ok()? >= mails && read_at().is_some()).then_some(())
    });
    serve.running()?;
    drop(serve);
    let (stored, distinct) = (count("*")?, count("DISTINCT raw")?);
    Ok(Found { mails, kills, killed_at, stored, distinct, took: began.elapsed() })
}
