//! The command line: flags in, exit code out.

mod check;
mod classify;
mod demo;
mod doctor;
mod fetch;
mod inbox;
mod log;
mod outbox;
mod preview;
mod profile;
mod receive;
mod send;
mod serve;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::clock::Clock;
use crate::config::tenant::{Overrides, RelayUrl, Tenant};
use crate::config::{Config, LogFormat, Problems, StorePlace};
use crate::flow::desk::{Desk, DeskError};
use crate::store::Store;
use crate::telemetry;

/// After each contact-centre session, the right CRM record is updated by e-mail, and a sent-mail log says so.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 75 not done yet, try again.";

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration folder.
    #[arg(long, global = true, value_name = "DIR", env = "AFTERCALL_CONFIG", default_value = "config")]
    config: PathBuf,
    /// The database, in place of the configured one: a SQLite file, or postgres://...
    #[arg(long, global = true, value_name = "FILE|URL", env = "AFTERCALL_STORE", hide_env_values = true)]
    store: Option<String>,
    /// The relay of all tenants, in place of theirs: smtp://HOST:PORT (no TLS), smtp+starttls:// or smtps://.
    #[arg(long, global = true, value_name = "URL", env = "AFTERCALL_RELAY")]
    relay: Option<RelayUrl>,
    /// The template folder of all tenants, in place of theirs.
    #[arg(long, global = true, value_name = "DIR", env = "AFTERCALL_TEMPLATES")]
    templates: Option<PathBuf>,
    /// What to log: error, warn, info, debug, or directives such as aftercall=debug. Without it, serve logs info
    /// and every other command warn.
    #[arg(long, global = true, value_name = "FILTER", env = "AFTERCALL_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything once, without any outside service: sample sessions, two tenants, a mail server on loopback.
    Demo(demo::Arguments),
    /// Take session files, send their mails, and say what came of each.
    Send(send::Arguments),
    /// Watch each tenant's folder and send until SIGTERM or SIGINT.
    Serve(serve::Arguments),
    /// Show the mail that a session would make, without sending or storing anything.
    Preview(preview::Arguments),
    /// Tell every problem in every configuration file and template.
    Check,
    /// Connect to a tenant's relay and CRM, send nothing, and say what works.
    Doctor(doctor::Arguments),
    /// Say what mails that came back are: bounces, delays, replies; with labels, how often that is right.
    Classify(classify::Arguments),
    /// The sent-mail log: what was sent, to whom, and what the servers said.
    Log(log::Arguments),
    /// What waits and why; retry, hold, release or cancel it.
    Outbox(outbox::Arguments),
    /// Store what is new in the mailboxes, once.
    Fetch(fetch::Arguments),
    /// Store one mail from standard input, for a mail server's pipe. Exit codes: 0 stored, 64 wrong use, 65 no mail,
    /// 75 try again, 78 wrong configuration.
    Receive(receive::Arguments),
    /// When each mailbox was read; what of it is in quarantine; one mail as it came.
    Inbox(inbox::Arguments),
    /// The CRMs that are known: what each takes, and what it would make of a session.
    Profile(profile::Arguments),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Done = 0,
    Failed = 1,
    Misused = 2,
    /// `receive`, used wrongly.
    Usage = 64,
    /// `receive`, given no mail.
    BadData = 65,
    TryAgain = 75,
    /// `receive`, with a configuration that cannot be used.
    BadConfig = 78,
}

/// The answer to something that was asked wrongly: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error),
    };
    let receives = matches!(arguments.command, Command::Receive(_));
    let exit = run(arguments).unwrap_or_else(|error| {
        // A reader that has seen enough, such as `head`, is not a failure.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Exit::Done;
        }
        // In one piece: others may write to the same place.
        drop(io::stderr().write_all(format!("aftercall: {error:#}\n").as_bytes()));
        match (receives, error.is::<Misuse>(), error.is::<Problems>()) {
            (true, true, _) => Exit::Usage,
            (true, _, true) => Exit::BadConfig,
            // The mail server keeps the mail, and a person looks why.
            (true, ..) => Exit::TryAgain,
            (false, false, false) => Exit::Failed,
            (false, ..) => Exit::Misused,
        }
    });
    ExitCode::from(exit as u8)
}

/// Tells what is wrong with the flags, or the help that was asked for.
fn unparsed(error: &clap::Error) -> ExitCode {
    drop(error.print());
    let matched = Arguments::command().ignore_errors(true).try_get_matches();
    let receives = matched.is_ok_and(|matched| matched.subcommand_name() == Some("receive"));
    match u8::try_from(error.exit_code()) {
        Ok(2) if receives => ExitCode::from(Exit::Usage as u8),
        Ok(code) => ExitCode::from(code),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { common, command } = arguments;
    let serving = matches!(command, Command::Serve(_));
    // Rendering is work for the processor: more threads than it has only cost memory.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.max_blocking_threads(cores + 2).enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        match command {
            Command::Demo(arguments) => {
                start_log(LogFormat::Text, common.log.as_deref().unwrap_or("error"))?;
                demo::run(&arguments).await
            }
            Command::Check => check::run(&common),
            Command::Classify(arguments) => classify::run(&common, &arguments),
            Command::Profile(arguments) => profile::run(&common, &arguments).await,
            _ => {
                let config = common.load()?;
                let filter = common.log.as_deref().unwrap_or(if serving { "info" } else { "warn" });
                start_log(config.log, filter)?;
                match command {
                    Command::Send(arguments) => send::run(&config, arguments).await,
                    Command::Serve(arguments) => serve::run(&config, &arguments).await,
                    Command::Preview(arguments) => preview::run(&config, &arguments).await,
                    Command::Doctor(arguments) => doctor::run(&config, &arguments).await,
                    Command::Log(arguments) => log::run(&config, &arguments),
                    Command::Outbox(arguments) => outbox::run(&config, arguments).await,
                    Command::Fetch(arguments) => fetch::run(&config, &arguments).await,
                    Command::Receive(arguments) => receive::run(&config, arguments).await,
                    Command::Inbox(arguments) => inbox::run(&config, arguments).await,
                    Command::Demo(_) | Command::Check | Command::Classify(_) | Command::Profile(_) => {
                        Ok(Exit::Done)
                    }
                }
            }
        }
    })
}

fn start_log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    telemetry::start(format, filter).map_err(|reason| Misuse(reason).into())
}

impl Common {
    fn overrides(&self) -> Overrides {
        Overrides { relay: self.relay.clone(), templates: self.templates.clone() }
    }

    fn load(&self) -> Result<Config, Problems> {
        let store = self.store.as_deref().map(StorePlace::parse);
        Config::load(&self.config, store.as_ref(), &self.overrides())
    }
}

/// The tenant of that name; the only one where none is named.
fn tenant<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Tenant, Misuse> {
    let known = || config.tenants.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => config
            .tenants
            .get(name)
            .ok_or_else(|| Misuse(format!("there is no tenant {name:?}; there are {}", known()))),
        None if config.tenants.len() == 1 => {
            config.tenants.values().next().ok_or_else(|| Misuse("there is no tenant".to_owned()))
        }
        None => Err(Misuse(format!("name one of the tenants with --tenant: {}", known()))),
    }
}

/// The workplaces of all tenants.
async fn desks(config: &Config, store: &Store) -> Result<Vec<Desk>, DeskError> {
    let mut desks = Vec::new();
    for tenant in config.tenants.values() {
        desks.push(Desk::open(config, tenant, Some(store), Clock::default()).await?);
    }
    Ok(desks)
}

fn open_store(config: &Config) -> anyhow::Result<Store> {
    Ok(Store::open(&config.store)?)
}
