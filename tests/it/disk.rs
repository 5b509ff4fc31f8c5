//! A disk that is full, and one that fails to sync: the program ends and says why, and the next start goes on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use aftercall::config::StorePlace;
use aftercall::outbox::State;
use aftercall::store::{Filter, Store};
use tempfile::TempDir;

use crate::crash::{SERVES, SESSIONS, TOOK, assert_all_arrived, put_sessions};
use crate::servers::User;
use crate::shim::shim;
use crate::support::{Relay, Serve, Site, TenantFile, header, parsed, until};

/// A file system of its own in memory, of this size.
struct Disk(TempDir);

impl Disk {
    fn new(kilobytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let form = format!("size={kilobytes}k,mode=0777");
        User::Root.run(&["mount", "-t", "tmpfs", "-o", &form, "tmpfs", folder.path().to_str().unwrap()]);
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Takes all its room but this much.
    fn fill(&self, but: u64) {
        let mut ballast = File::create(self.path("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let taken = ballast.metadata().unwrap().len();
        ballast.set_len(taken.saturating_sub(but)).unwrap();
    }

    /// Gives the room back.
    fn free(&self) {
        std::fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there does not keep it from going.
        let unmount = ["umount", "-l", self.0.path().to_str().unwrap()];
        if !std::thread::panicking() {
            User::Root.run(&unmount);
        } else {
            drop(Command::new(unmount[0]).args(&unmount[1..]).status());
        }
    }
}

/// How often everything that `serve` said so far has these words.
fn said(site: &Site, words: &str) -> usize {
    site.serve_log().matches(words).count()
}

/// Waits until so many mails more are taken, or until `serve` ends by itself; ends it and gives its exit code.
fn let_it_work(site: &Site, mut serve: Serve, before: usize, mails: usize) -> i32 {
    until("mails or an end", || (serve.has_ended() || said(site, TOOK) >= before + mails).then_some(()));
    if serve.has_ended() { serve.ended().code().unwrap() } else { serve.terminate() }
}

/// Starts `serve` without any fault and lets it send what is left; then every mail must have arrived as its log says.
/// What a relay had taken before and the store did not know must be called uncertain.
fn go_on(site: &Site, relay: &Relay, place: &Path) {
    let store = Store::open(&StorePlace::File(place.to_owned())).unwrap();
    let rows = store.deliveries(&Filter::default()).unwrap();
    let known = rows.iter().filter(|row| row.state == State::Accepted);
    let known: Vec<&str> = known.filter_map(|row| row.message_id.as_deref()).collect();
    let arrived: Vec<String> =
        relay.received().iter().map(|mail| header(&parsed(&mail.message), "Message-ID")).collect();
    for id in &known {
        assert!(
            arrived.iter().any(|arrived| arrived.contains(id)),
            "{id} is called accepted and is not there"
        );
    }
    let unknown = arrived.iter().filter(|arrived| !known.iter().any(|id| arrived.contains(id))).count();

    let (served, took) = (said(site, SERVES), said(site, TOOK));
    let serve = site.serve_with(&[("AFTERCALL_STORE", place.to_str().unwrap())]);
    until("the rest", || {
        (said(site, SERVES) > served && said(site, TOOK) >= took + SESSIONS - known.len()).then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    let uncertain = assert_all_arrived(relay, &store, SESSIONS);
    assert!(uncertain.len() >= unknown, "{uncertain:?}: {unknown} were taken that the store did not know");
}

#[test]
fn a_disk_that_fills_at_any_moment_ends_serve_and_loses_and_doubles_nothing() {
    // One page of the store more each time, so that it is another write that fails.
    let mut ends = 0;
    for free in (0..).step_by(48 * 1024) {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        let disk = Disk::new(8192);
        let place = disk.path("aftercall.sqlite");
        let serve = site.serve_with(&[("AFTERCALL_STORE", place.to_str().unwrap())]);
        until("serve", || (said(&site, SERVES) == 1).then_some(()));
        disk.fill(free);
        put_sessions(&site, 1..=SESSIONS);
        let code = let_it_work(&site, serve, 0, SESSIONS);
        disk.free();
        let log = site.serve_log();
        let reason = format!("the store {} failed: database or disk is full", place.display());
        assert!(code == 0 || (code == 1 && log.contains(&reason)), "{free} octets free: {code}\n{log}");
        go_on(&site, &relay, &place);
        if code == 0 {
            break;
        }
        ends += 1;
    }
    assert!(ends > 3, "only {ends} moments were met");
}

#[test]
fn a_full_disk_at_the_start_is_told_with_the_file_and_nothing_is_taken() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    put_sessions(&site, 1..=SESSIONS);
    let disk = Disk::new(2048);
    let place = disk.path("aftercall.sqlite");
    for free in [0, 4096, 65536, 262_144] {
        disk.fill(free);
        let serve = site.serve_with(&[("AFTERCALL_STORE", place.to_str().unwrap())]);
        assert_eq!(serve.ended().code(), Some(1), "{free} octets free");
        disk.free();
        let log = site.serve_log();
        let last = log.lines().last().unwrap();
        assert!(last.contains(place.to_str().unwrap()) && last.contains("full"), "{free} octets free: {log}");
    }
    assert_eq!(relay.received(), []);
    go_on(&site, &relay, &place);
}

/// Lets one sync after another fail, each in a program of its own, until a program is through without a failure.
fn fail_each_sync(times: &str) {
    let mut ends = 0;
    for from in 1.. {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        put_sessions(&site, 1..=SESSIONS);
        let place = site.path("config/aftercall.sqlite");
        let from = format!("{from}");
        let failing = [("LD_PRELOAD", shim()), ("FAIL_SYNC_FROM", &from), ("FAIL_SYNC_TIMES", times)];
        let code = let_it_work(&site, site.serve_with(&failing), 0, SESSIONS);
        let log = site.serve_log();
        let reason = format!("the store {} failed: ", place.display());
        let faults = ["disk I/O error", "the database cannot use a write-ahead log"];
        let is_told = faults.iter().any(|fault| log.contains(&format!("{reason}{fault}")));
        // SQLite goes on where its folder cannot be synced, which some file systems never can.
        let of_folder = format!("a sync of {} failed", site.path("config").display());
        let failed: Vec<&str> = log.lines().filter(|line| line.starts_with("a sync of ")).collect();
        // Nor when everything is committed and the write-ahead log is only to be folded into the database.
        let until_stopped = log.lines().take_while(|line| !line.ends_with(" stopped"));
        let has_to_end = until_stopped.filter(|line| failed.contains(line)).any(|line| line != of_folder);
        let is_right = if has_to_end { code == 1 && is_told } else { code == 0 };
        assert!(is_right, "sync {from}: {code}\n{log}");
        go_on(&site, &relay, &place);
        if failed.is_empty() {
            break;
        }
        ends += usize::from(code == 1);
    }
    assert!(ends > 5, "only {ends} syncs failed");
}

#[test]
fn a_disk_that_fails_to_sync_from_some_moment_on_ends_serve_and_loses_and_doubles_nothing() {
    fail_each_sync("1000000");
}

#[test]
fn one_sync_that_fails_ends_serve_too() {
    fail_each_sync("1");
}
