//! What all measurements share: their arguments, sessions in any number, a configuration, and the program.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The number behind a flag of `cargo bench -- FLAG [NUMBER]`: `default` where the flag stands alone, none where it is
/// not given.
pub(crate) fn number(flag: &str, default: usize) -> Result<Option<usize>> {
    let mut words = std::env::args().skip_while(|word| word != flag);
    if words.next().is_none() {
        return Ok(None);
    }
    let number = words.next().filter(|word| !word.starts_with("--"));
    let parsed = number.map_or(Ok(default), |word| word.replace(['_', ','], "").parse());
    Ok(Some(parsed.map_err(|error| format!("{flag}: {error}"))?))
}

/// The program, with the configuration in `folder` and nothing to say.
pub(crate) fn aftercall(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aftercall"));
    command.arg("--config").arg(folder.join("config")).args(["--log", "error"]).stdout(Stdio::null());
    command
}

/// The samples that have a ticket id, and the id that each file's text holds.
const SAMPLES: [(&str, &str, &str); 8] = [
    ("call", "50112", include_str!("../../config/samples/call-50112.json")),
    ("call", "50119", include_str!("../../config/samples/call-50119.json")),
    ("call", "50123", include_str!("../../config/samples/call-50123.json")),
    ("call", "50130", include_str!("../../config/samples/call-50130.json")),
    ("call", "50136", include_str!("../../config/samples/call-50136.json")),
    ("chat", "7301", include_str!("../../config/samples/chat-7301.json")),
    ("chat", "7306", include_str!("../../config/samples/chat-7306.json")),
    ("chat", "7312", include_str!("../../config/samples/chat-7312.json")),
];

/// Writes `count` sessions with numbers from `first` on into `folder`; kinds and languages as in the samples.
pub(crate) fn write_sessions(folder: &Path, first: usize, count: usize) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for number in first..first + count {
        let (kind, id, json) = SAMPLES[number % SAMPLES.len()];
        let json = json.replacen(&format!("\"id\": {id},"), &format!("\"id\": {number},"), 1);
        fs::write(folder.join(format!("{kind}-{number}.json")), json)?;
    }
    Ok(())
}

/// Writes a tenant's file into the configuration in `folder`. Its watched folder is `inbox-NAME`; `relay` are further
/// lines of its relay section.
pub(crate) fn write_tenant(folder: &Path, name: &str, relay: &str) -> io::Result<()> {
    fs::create_dir_all(folder.join("config/tenants"))?;
    let tenant = format!(
        "settle = \"none\"\nfolder = \"../inbox-{name}\"\n[sender]\naddress = \"bridge@example.com\"\n[recipient]\naddress = \"crm@example.com\"\n\
         [profile]\nname = \"generic\"\n[relay]\nhost = \"127.0.0.1\"\n{relay}"
    );
    fs::write(folder.join(format!("config/tenants/{name}.toml")), tenant)
}
