//! Servers as child processes; the measurements in `benches` start theirs with it too.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::waiting::until;

/// Runs a server until its own standard input ends, which it does however the tests end: it is a pipe, and when
/// their process is killed, the kernel closes the other end. A signal at the parent's death would come too early:
/// Linux sends it when the thread ends that started the child, and a test is a thread.
///
/// The folder goes with the server, but for a server that is to be started again: then something was written into
/// the pipe. A server that ends by itself leaves the mark `ended` for [`Daemon::check`].
const KEEPER: &str = r#"
folder=$1 signal=$2; shift 2
exec 3<&0
"$@" </dev/null 3<&- & server=$!
cat <&3 >"$folder/wish" & test=$!
wait -n
if kill -s "$signal" "$server"; then wait "$server"; else touch "$folder/ended"; fi
wait "$test"
[ -s "$folder/wish" ] || rm -rf "$folder" || rm -rf "$folder"
"#;

/// Whom a server runs as.
#[derive(Clone, Copy)]
pub(crate) enum User {
    /// Root.
    Root,
    /// This user of its package, or whoever runs the tests where that is not root.
    Any(&'static str),
    /// This user of its package and no other.
    Only(&'static str),
}

impl User {
    /// The words before a command that first gain root, and then leave it for this user.
    fn prefix(self) -> [Vec<String>; 2] {
        let is_root = own_id() == 0;
        let gain = if is_root || matches!(self, Self::Any(_)) { "" } else { "sudo -n" };
        let left_for = match self {
            Self::Any(name) if is_root => Some(name),
            Self::Only(name) => Some(name),
            Self::Root | Self::Any(_) => None,
        };
        let leave = left_for.map(|name| format!("setpriv --reuid={name} --regid={name} --init-groups"));
        let leave = leave.unwrap_or_default();
        [gain, &leave].map(|words| words.split_whitespace().map(str::to_owned).collect())
    }

    /// Runs a command to its end as this user and gives what it wrote.
    #[track_caller]
    pub(crate) fn run(self, command: &[&str]) -> String {
        let mut words = self.prefix().concat();
        words.extend(command.iter().map(|word| (*word).to_owned()));
        let output = Command::new(&words[0]).args(&words[1..]).current_dir("/").output();
        let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{command:?}: {}{}", told(&output.stdout), told(&output.stderr));
        told(&output.stdout)
    }

    /// A new folder of this user's that everybody may enter, since servers have users of their own.
    pub(crate) fn folder(self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        if let (Self::Any(name), 0) = (self, own_id()) {
            Self::Root.run(&["chown", name, text(folder.path())]);
        }
        folder
    }
}

/// The user id that the tests run as.
pub(crate) fn own_id() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// A path as text, for configurations and commands.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The first of these files that is there; without the package that brings it, the test fails.
#[track_caller]
pub(crate) fn need(package: &str, files: &[&str]) -> PathBuf {
    let found = files.iter().map(Path::new).find(|path| path.exists());
    let Some(found) = found else {
        panic!(
            "Debian's package {package} is missing, there is no {}; .ci/run installs it",
            files.join(" or ")
        )
    };
    found.to_owned()
}

/// A server that runs, until this is dropped or the tests are no more.
pub(crate) struct Daemon {
    keeper: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Starts a server; `signal` ends it. Its folder goes with it.
    pub(crate) fn start(folder: &Path, user: User, signal: &str, command: &[&str]) -> Self {
        // Who is no root cannot end others' processes, so the keeper does not leave root with the server.
        let [mut words, leave] = user.prefix();
        words.extend(["bash", "-c", KEEPER, "keeper", text(folder), signal].map(str::to_owned));
        words.extend(leave);
        words.extend(command.iter().map(|word| (*word).to_owned()));
        let output = std::fs::File::create(folder.join("output.log")).unwrap();
        let keeper = Command::new(&words[0])
            .args(&words[1..])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            // Away from a terminal's Ctrl-C, which ends the tests: the keeper must outlive them.
            .process_group(0)
            .spawn()
            .unwrap();
        Self { keeper, folder: folder.to_owned() }
    }

    /// Asserts that the server has not ended by itself, and shows what it said.
    #[track_caller]
    pub(crate) fn check(&self) {
        assert!(!self.folder.join("ended").exists(), "the server ended by itself: {}", logs(&self.folder));
    }

    /// Waits until the server greets as mail servers do.
    pub(crate) fn wait_for_greeting(&self, port: u16) {
        until("the server's greeting", || {
            self.check();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let mut code = [0; 3];
            stream.read_exact(&mut code).ok()?;
            (code == *b"220").then_some(())
        });
    }

    /// Ends the server and leaves its folder, so that it can be started again.
    pub(crate) fn stop(mut self) {
        self.keeper.stdin.take().unwrap().write_all(b"stay").unwrap();
        self.keeper.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // There is nothing that a test could do about a keeper that cannot be waited for.
        drop(self.keeper.wait());
    }
}

/// What the servers of a folder logged.
pub(crate) fn logs(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.map(|path| std::fs::read(path).unwrap_or_default())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

/// A port of loopback that nobody uses, below those that Linux gives to connections by itself, and not the same
/// twice. It is different in each process that runs tests, as far as numbers go.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % u32::from(COUNT) * 101;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from((start + step) % u32::from(COUNT)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
