//! How fast mails that came back are read and judged.
//!
//! `cargo bench --bench reports -- [--folder DIR] [--rounds N]`: each bounce and delay that DIR's `labels.tsv` names,
//! so many times, on one thread; messages for each second of the processor, and the most memory. Without a folder,
//! the mails of `tests/reports`.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use aftercall::classify::classify;
use aftercall::classify::rules::Rules;
use aftercall::parse::parse;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let rounds: usize = word_behind("--rounds").map_or(Ok(20), |rounds| rounds.parse())?;
    let mails = match word_behind("--folder") {
        Some(folder) => labelled(Path::new(&folder))?,
        None => all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports"))?,
    };
    let octets: usize = mails.iter().map(Vec::len).sum();
    let rules = Rules::shipped();
    let judge = |raw: &Vec<u8>| classify(&parse(raw), rules, &[]).recipients.len();
    // What is compiled or learnt at the first sight of a mail is not of each mail's cost.
    let recipients: usize = mails.iter().map(judge).sum();
    let before = ticks()?;
    for _ in 0..rounds {
        std::hint::black_box(mails.iter().map(judge).sum::<usize>());
    }
    let seconds = (ticks()? - before) as f64 / 100.0;
    let count = mails.len() * rounds;
    println!("{} mails of {} octets, {recipients} recipients", mails.len(), octets / mails.len().max(1));
    println!("{:.0} mails for each CPU second ({count} in {seconds:.2} s)", count as f64 / seconds);
    println!("peak memory {} MB, {} MB of it the mails", peak()? / 1024, octets / 1_000_000);
    Ok(())
}

fn word_behind(flag: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != flag).nth(1)
}

fn labelled(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let table = fs::read_to_string(folder.join("labels.tsv"))?;
    let files = table.lines().filter_map(|line| {
        let mut cells = line.split('\t');
        let (file, kind) = (cells.next()?, cells.next()?);
        matches!(kind, "bounce" | "delay").then(|| folder.join(file))
    });
    files.map(|file| Ok(fs::read(file)?)).collect()
}

fn all(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let paths: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    let mails = paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "eml"));
    mails.map(|path| Ok(fs::read(path)?)).collect()
}

/// proc(5): utime and stime of this process, in ticks of a hundredth of a second.
fn ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok([11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum())
}

/// proc(5): VmHWM in kilobytes.
fn peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?)
}
