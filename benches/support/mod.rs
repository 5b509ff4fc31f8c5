//! What the measurements share: sessions in any number, and a configuration.

use std::fs;
use std::io;
use std::path::Path;

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

/// Writes a configuration of one tenant; `relay` are further lines of its relay section.
pub(crate) fn write_config(folder: &Path, relay: &str) -> io::Result<()> {
    fs::create_dir_all(folder.join("tenants"))?;
    let tenant = format!(
        "[sender]\naddress = \"bridge@example.com\"\n[recipient]\naddress = \"crm@example.com\"\n\
         [profile]\nname = \"generic\"\n[relay]\nhost = \"127.0.0.1\"\n{relay}"
    );
    fs::write(folder.join("tenants/bench.toml"), tenant)
}
