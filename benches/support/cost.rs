//! What a run of a program costs: time, processor and memory.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Result, aftercall};

/// What a finished run cost.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    /// From start to end.
    pub(crate) wall: Duration,
    /// User and system time, to a hundredth of a second.
    pub(crate) cpu: Duration,
    /// The largest resident set in kilobytes.
    pub(crate) peak: u64,
}

impl Cost {
    /// How many a second, where the run did so many.
    pub(crate) fn rate(&self, count: usize) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} s, {:.2} CPU s, peak {} MB",
            self.wall.as_secs_f64(),
            self.cpu.as_secs_f64(),
            self.peak / 1024
        )
    }
}

/// `aftercall send --all` of an inbox of the tenant `bench`, by a store and to a relay on this machine.
pub(crate) fn send_all(folder: &Path, inbox: &Path, store: &str, port: u16) -> Command {
    let mut command = aftercall(folder);
    command.env("AFTERCALL_STORE", store).env("AFTERCALL_RELAY", format!("smtp://127.0.0.1:{port}"));
    command.args(["send", "--tenant", "bench", "--all"]).arg(inbox);
    command
}

/// Runs a command to its end and says what it cost. No other child may end meanwhile.
pub(crate) fn cost_of(command: &mut Command) -> Result<Cost> {
    let (began, before) = (Instant::now(), children_ticks()?);
    let mut child = command.spawn()?;
    let mut peak = 0;
    loop {
        peak = peak.max(resident_peak(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            let cpu = Duration::from_millis((children_ticks()? - before) * 10);
            let cost = Cost { wall: began.elapsed(), cpu, peak };
            return if status.success() {
                Ok(cost)
            } else {
                Err(format!("{command:?} ended with {status}").into())
            };
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs two things by turns, so that both meet the same machine, and gives the time that each took in all.
pub(crate) fn by_turns(
    rounds: usize,
    mut run: impl FnMut(usize, usize) -> Result<Cost>,
) -> Result<[Duration; 2]> {
    let mut walls = [Duration::ZERO; 2];
    for round in 0..rounds {
        for (which, wall) in walls.iter_mut().enumerate() {
            *wall += run(which, round)?.wall;
        }
    }
    Ok(walls)
}

/// proc(5): cutime and cstime of this process, in ticks of a hundredth of a second.
fn children_ticks() -> std::io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok([13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum())
}

/// proc(5): VmHWM in kilobytes.
pub(crate) fn resident_peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
