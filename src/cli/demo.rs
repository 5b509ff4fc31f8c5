//! `aftercall demo`: the main job from end to end, on this machine alone.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::send::send_all;
use super::table::Format;
use super::{Exit, log, preview};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::tenant::Overrides;
use crate::flow::desk::Desk;
use crate::samples::SAMPLES;
use crate::sink::{Script, Sink};
use crate::store::{Filter, Store};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to leave everything; a new folder for temporary files when left out.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// The tenants and the samples that each gets.
const TENANTS: [(&str, &str, &[&str]); 2] = [
    (
        "acme",
        r#"title = "Acme Retail"
language = "en"
folder = "../inbox/acme"
[sender]
address = "aftercall@acme.example.com"
name = "Acme contact centre"
[recipient]
address = "support@crm.acme.example.com"
[profile]
name = "rt"
values = { rtname = "rt.acme.example.com" }
[missing_ticket]
then = "hold"
"#,
        &[
            "call-50112.json",
            "call-50123.json",
            "call-50127.json",
            "call-50130.json",
            "call-50136.json",
            "chat-7301.json",
            "chat-7318.json",
        ],
    ),
    (
        "muster",
        r#"title = "Muster GmbH"
language = "de"
folder = "../inbox/muster"
[sender]
address = "aftercall@muster.example.org"
name = "Kundendienst Muster"
[recipient]
# The demo's mail server refuses each of these addresses once: watch the second attempt.
pattern = "once-then-ok+{ticket}@tickets.muster.example.org"
[profile]
name = "redmine"
[retry]
first = "200ms"
"#,
        &["call-50119.json", "chat-7306.json", "chat-7312.json"],
    ),
];

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("aftercall-demo-{}", std::process::id())),
    };
    let mails = folder.join("mails");
    fs::create_dir_all(&mails).with_context(|| format!("cannot make {}", mails.display()))?;
    let sink = Sink::start(Script { folder: Some(mails.clone()), ..Script::default() }).await?;
    write_tenants(&folder, &format!("{}", sink.address().port()))?;
    let config_folder = folder.join("config");
    let config = Config::load(&config_folder, None, &Overrides::default())?;
    let store = Store::open(&config.store)?;
    let mut out = io::stdout();
    writeln!(
        out,
        "A mail server listens on {}; two tenants get {} sessions.\n",
        sink.address(),
        SAMPLES.len() - 1
    )?;
    for tenant in config.tenants.values() {
        let desk = Desk::open(&config, tenant, Some(&store), Clock::default()).await?;
        write!(out, "{}: ", tenant.title)?;
        out.flush()?;
        if let Some(inbox) = &tenant.folder {
            send_all(&desk, &store, inbox).await?;
        }
    }
    writeln!(out, "\nThe sent-mail log:")?;
    log::list(&mut out, &store.deliveries(&Filter::default())?, Format::Table)?;
    if let Some(first) = sink.received().first() {
        writeln!(out, "\nOne of the mails, as its reader sees it:\n")?;
        let mut shown = Vec::new();
        preview::write_mail(&mut shown, &first.message)?;
        for line in String::from_utf8_lossy(&shown).lines() {
            writeln!(out, "    {line}")?;
        }
    }
    tell_where(&mut out, &folder, &config)?;
    Ok(Exit::Done)
}

fn tell_where(out: &mut dyn Write, folder: &Path, config: &Config) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let (folder, command) =
        (folder.display(), format!("{} --config {}/config", program.display(), folder.display()));
    writeln!(out, "\nThe mails    {folder}/mails/*.eml, for any mail program")?;
    writeln!(out, "The log      {}", config.store)?;
    writeln!(out, "Look further {command} log show call-50119")?;
    writeln!(out, "             {command} outbox")?;
    writeln!(
        out,
        "             {command} preview --tenant muster --open {folder}/inbox/muster/chat-7312.json"
    )?;
    Ok(())
}

fn write_tenants(folder: &Path, port: &str) -> anyhow::Result<()> {
    for (name, tenant, samples) in TENANTS {
        let (tenants, inbox) = (folder.join("config/tenants"), folder.join("inbox").join(name));
        fs::create_dir_all(&tenants)?;
        fs::create_dir_all(&inbox)?;
        let relay = format!("[relay]\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\n");
        fs::write(tenants.join(format!("{name}.toml")), format!("{tenant}{relay}"))?;
        for (file, json) in SAMPLES.iter().filter(|(file, _)| samples.contains(file)) {
            fs::write(inbox.join(file), json)?;
        }
    }
    Ok(())
}
