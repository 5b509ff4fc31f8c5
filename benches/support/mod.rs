//! What the measurements share: sessions in any number, child processes with their cost.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

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

/// What a finished child process cost.
pub(crate) struct Cost {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// From start to end.
    pub(crate) wall: Duration,
    /// User and system time, to a hundredth of a second.
    pub(crate) cpu: Duration,
    /// The largest resident set in kilobytes.
    pub(crate) peak: u64,
}

/// Waits for a child and says what it cost. No other child may end meanwhile.
pub(crate) fn cost_of(mut child: Child) -> io::Result<Cost> {
    let (began, before) = (Instant::now(), children_ticks()?);
    let mut peak = 0;
    loop {
        peak = peak.max(resident_peak(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            let cpu = Duration::from_millis((children_ticks()? - before) * 10);
            return Ok(Cost { status, wall: began.elapsed(), cpu, peak });
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// proc(5): cutime and cstime of this process, in ticks of a hundredth of a second.
fn children_ticks() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok([13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum())
}

/// proc(5): VmHWM in kilobytes.
fn resident_peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A free TCP port of 127.0.0.1.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
