//! What the tests share: a folder with a configuration, the program, relays that behave or misbehave.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use aftercall::config::StorePlace;
use aftercall::config::marks::{Answer, Mark};
use aftercall::config::profile::{Profile, SHIPPED};
use aftercall::ids::SessionName;
use aftercall::sink::{Received, Script, Sink};
use aftercall::store::{AttemptRow, DeliveryRow, Filter, Store, Story};
use mail_parser::{Message, MessageParser, MimeHeaders};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) use crate::waiting::{PATIENCE, until};

/// A scripted mail server with the threads it runs on.
pub(crate) struct Relay {
    pub(crate) sink: Sink,
    _runtime: Runtime,
}

impl Relay {
    /// One that takes everything but what the recipients' names ask for.
    pub(crate) fn start() -> Self {
        Self::with(Script::default())
    }

    pub(crate) fn with(script: Script) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sink = runtime.block_on(Sink::start(script)).unwrap();
        Self { sink, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.sink.address().port()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.sink.received()
    }

    /// The only message, parsed.
    pub(crate) fn only(&self) -> Received {
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received.into_iter().next().unwrap()
    }
}

/// A mail server written by the test: `talk` gets each connection with its number from 1.
pub(crate) fn server(talk: impl Fn(Talk, usize) + Send + Sync + 'static) -> u16 {
    server_on(TcpListener::bind(("127.0.0.1", 0)).unwrap(), talk)
}

pub(crate) fn server_on(listener: TcpListener, talk: impl Fn(Talk, usize) + Send + Sync + 'static) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let talk = Arc::new(talk);
    std::thread::spawn(move || {
        for (at, stream) in listener.incoming().flatten().enumerate() {
            let talk = Arc::clone(&talk);
            std::thread::spawn(move || talk(Talk(BufReader::new(stream)), at + 1));
        }
    });
    port
}

/// One connection of [`server`]. A client that has gone away is not the test's concern.
pub(crate) struct Talk(BufReader<TcpStream>);

impl Talk {
    /// Writes octets; false once the client has gone.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        self.say_octets(text.as_bytes())
    }

    pub(crate) fn say_octets(&mut self, octets: &[u8]) -> bool {
        self.0.get_mut().write_all(octets).is_ok()
    }

    /// The next line without its end; none once the client has gone.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let mut line = Vec::new();
        match self.0.read_until(b'\n', &mut line) {
            Ok(length) if length > 0 => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ => None,
        }
    }

    /// Hears so many octets; none once the client has gone.
    pub(crate) fn hear_octets(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut octets = vec![0; count];
        self.0.read_exact(&mut octets).ok().map(|()| octets)
    }

    /// Hears a message up to its final dot.
    pub(crate) fn hear_message(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.hear()? {
                dot if dot == "." => return Some(lines),
                line => lines.push(line),
            }
        }
    }

    /// Hears whatever comes, until the client goes.
    pub(crate) fn hear_out(mut self) {
        while self.hear().is_some() {}
    }
}

/// A tenant's file. A field takes the place of the whole section; `relay` is without the port.
pub(crate) struct TenantFile<'t> {
    pub(crate) top: &'t str,
    pub(crate) sender: &'t str,
    pub(crate) recipient: &'t str,
    pub(crate) profile: &'t str,
    pub(crate) relay: &'t str,
    pub(crate) retry: &'t str,
    pub(crate) missing_ticket: &'t str,
    /// The section `[record]` with those below it; none where it is empty.
    pub(crate) record: &'t str,
}

impl Default for TenantFile<'_> {
    fn default() -> Self {
        Self {
            top: "settle = \"none\"",
            sender: "address = \"bridge@acme.example.com\"\nname = \"Acme contact centre\"",
            recipient: "address = \"support@crm.example.com\"",
            profile: "name = \"generic\"",
            relay: PLAIN,
            retry: "",
            missing_ticket: "",
            record: "",
        }
    }
}

/// A relay on this machine without TLS.
pub(crate) const PLAIN: &str = "host = \"127.0.0.1\"\ntls = \"none\"";

/// A temporary folder with a configuration; everything in it is gone when it is dropped.
pub(crate) struct Site {
    folder: TempDir,
    port: u16,
}

/// A failed test shows what the program did.
#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let deliveries = Store::open(&self.place()).map(|store| store.deliveries(&Filter::default()));
            eprintln!("{deliveries:#?}\n{}", self.serve_log());
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) raw: Vec<u8>,
}

impl Ended {
    /// Asserts the exit code, and shows everything where it is another.
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Site {
    /// A configuration with the tenant `acme`, whose relay is at `port`.
    pub(crate) fn new(port: u16, tenant: &TenantFile<'_>) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), port };
        site.tenant("acme", tenant);
        site
    }

    /// Writes a tenant's file; its watched folder is `inbox/NAME`.
    pub(crate) fn tenant(&self, name: &str, tenant: &TenantFile<'_>) {
        self.tenant_at(name, self.port, tenant);
    }

    /// The same with a relay at another port.
    pub(crate) fn tenant_at(&self, name: &str, port: u16, tenant: &TenantFile<'_>) {
        let TenantFile { top, sender, recipient, profile, relay, retry, missing_ticket, record } = tenant;
        let record = if record.is_empty() { String::new() } else { format!("[record]\n{record}\n") };
        let text = format!(
            "folder = \"../inbox/{name}\"\n{top}\n[sender]\n{sender}\n[recipient]\n{recipient}\n[profile]\n{profile}\n\
             [relay]\n{relay}\nport = {port}\n[retry]\n{retry}\n[missing_ticket]\n{missing_ticket}\n{record}"
        );
        self.write(&format!("config/tenants/{name}.toml"), text.as_bytes());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and its folders.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes a session and says where it is.
    pub(crate) fn session(&self, name: &str, session: &Value) -> String {
        self.write(name, session.to_string().as_bytes()).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aftercall"));
        for name in ["CONFIG", "STORE", "RELAY", "TEMPLATES", "LOG"] {
            command.env_remove(format!("AFTERCALL_{name}"));
        }
        command.arg("--config").arg(self.path("config")).args(arguments).current_dir(self.folder.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"")
    }

    /// Runs a command to its end, within the patience of a test.
    pub(crate) fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, given) = (child.stdin.take().unwrap(), stdin.to_vec());
        // A command that does not read its input closes the pipe.
        std::thread::spawn(move || drop(input.write_all(&given)));
        let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
        let mut child = Running(child);
        let code =
            until(&format!("the end of {arguments:?}"), || child.0.try_wait().unwrap()).code().unwrap();
        let (raw, err) = (out.join().unwrap(), err.join().unwrap());
        let out = String::from_utf8_lossy(&raw).into_owned();
        Ended { code, out, err: String::from_utf8_lossy(&err).into_owned(), raw }
    }

    /// Starts `serve`; what it says goes to `serve.log`.
    pub(crate) fn serve(&self) -> Serve {
        self.serve_with(&[])
    }

    /// Starts `serve` with these names in its environment.
    pub(crate) fn serve_with(&self, environment: &[(&str, &str)]) -> Serve {
        self.start(&["serve"], environment)
    }

    /// Starts `serve` for one tenant.
    pub(crate) fn serve_of(&self, tenant: &str) -> Serve {
        self.start(&["serve", "--tenant", tenant], &[])
    }

    fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Serve {
        let log = File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Serve(Running(child))
    }

    /// What every `serve` so far has said.
    pub(crate) fn serve_log(&self) -> String {
        std::fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    fn place(&self) -> StorePlace {
        StorePlace::File(self.path("config/aftercall.sqlite"))
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.place()).unwrap()
    }

    /// All deliveries, oldest first.
    pub(crate) fn deliveries(&self) -> Vec<DeliveryRow> {
        self.store().deliveries(&Filter::default()).unwrap()
    }

    /// The words of all deliveries' states, oldest first.
    pub(crate) fn states(&self) -> Vec<&'static str> {
        self.deliveries().iter().map(|row| row.state.as_str()).collect()
    }

    /// The story of a session of the tenant `acme`.
    pub(crate) fn story(&self, session: &str) -> Story {
        let session: SessionName = session.parse().unwrap();
        self.store().stories(session, Some("acme")).unwrap().into_iter().next().unwrap()
    }

    /// The attempts of a session's only delivery.
    pub(crate) fn attempts(&self, session: &str) -> Vec<AttemptRow> {
        self.story(session).attempts
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A running `aftercall serve`.
pub(crate) struct Serve(Running);

impl Serve {
    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.0.0.kill().unwrap();
        self.0.0.wait().unwrap();
    }

    /// Asks it to end and gives its exit code.
    pub(crate) fn terminate(self) -> i32 {
        self.ask_to_end();
        self.ended().code().unwrap()
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) {
        let id = self.0.0.id();
        assert!(Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().unwrap().success());
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.0.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> ExitStatus {
        until("serve to end", || self.0.0.try_wait().unwrap())
    }

    /// The most memory that it ever had, in kB, as Linux counts it.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// A call in the smallest form that has everything a test looks at. `minute` orders its revisions.
pub(crate) fn call(number: u64, ticket: &str, minute: u32) -> Value {
    json!({
        "id": number,
        "lang": "en",
        "call_type": "Voice Inbound (IVR)",
        "status": "finished",
        "ends_at": "2026-01-10T10:00:00.000Z",
        "updated_at": format!("2026-01-10T10:{minute:02}:00.000Z"),
        "out_ticket_id": if ticket.is_empty() { Value::Null } else { ticket.into() },
        "dispositions": [{ "code": format!("Code of minute {minute}") }],
    })
}

/// Where a sample session is.
pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples").join(name)
}

pub(crate) fn parsed(wire: &[u8]) -> Message<'_> {
    MessageParser::default().parse(wire).unwrap()
}

/// A header's value without folding; empty where it is not there.
pub(crate) fn header(message: &Message<'_>, name: &'static str) -> String {
    let value = message.header_raw(name).unwrap_or_default();
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Name and bytes of the only attachment.
pub(crate) fn attachment(message: &Message<'_>) -> (String, Vec<u8>) {
    let files: Vec<_> = message.attachments().collect();
    assert_eq!(files.len(), 1);
    (files[0].attachment_name().unwrap().to_owned(), files[0].contents().to_vec())
}

/// Whether all of a mark's patterns are in a mail, and the ticket that they name.
fn fits(mark: &Mark, message: &Message<'_>) -> Option<Option<String>> {
    let subject = message.subject().unwrap_or_default();
    let subject = mark.subject.as_ref().map(|pattern| pattern.captures(subject));
    let from =
        message.from().and_then(|from| from.first()).and_then(|from| from.address()).unwrap_or_default();
    let text = message.body_text(0).unwrap_or_default();
    let field = |name: &str| message.header_raw(name).unwrap_or_default().trim().to_owned();
    let others = mark.from.as_ref().is_none_or(|pattern| pattern.is_match(from))
        && mark.text.as_ref().is_none_or(|pattern| pattern.is_match(&text))
        && mark.header.as_ref().is_none_or(|(name, pattern)| pattern.is_match(&field(name)));
    let ticket = subject.as_ref().and_then(|found| Some(found.as_ref()?.name("ticket")?.as_str().to_owned()));
    (others && subject.is_none_or(|found| found.is_some())).then_some(ticket)
}

/// What a shipped profile makes of a CRM's answer: its kind, and the ticket that it names.
pub(crate) fn judged(profile: &str, mail: &[u8]) -> Option<(Answer, Option<String>)> {
    let (name, source) = SHIPPED.into_iter().find(|(name, _)| *name == profile).unwrap();
    let profile = Profile::parse(name, Path::new(name), source).unwrap();
    let message = parsed(mail);
    profile.marks.iter().find_map(|mark| Some((mark.answer, fits(mark, &message)?)))
}
