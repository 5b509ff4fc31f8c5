//! `aftercall classify`: what the mails of a folder are; and, where labels say what they should be, how near it comes.

mod labels;
mod score;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Value, json};

use self::labels::Label;
use self::score::{COLUMNS, Judged, Tally, judge};
use super::{Common, Exit, Misuse};
use crate::classify::classify;
use crate::classify::rules::Rules;
use crate::classify::verdict::Verdict;
use crate::parse::{Mail, parse};

/// The most octets of a file that are read; the parser itself reads less.
const MAX_FILE_OCTETS: u64 = 50_000_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A folder of mails, one a file that ends in .eml; with labels, any files.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What the mails are: a table with a line a mail; the column `file` starts at DIR.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Write a line of JSON for each mail.
    #[arg(long)]
    json: bool,
    /// For each mail, tell what was judged otherwise than its label says.
    #[arg(long, requires = "labels")]
    misses: bool,
    /// The least percentage of a column that must be right, as in det=99; more than once for several.
    #[arg(long, value_name = "COLUMN=PERCENT", requires = "labels")]
    floor: Vec<Floor>,
}

/// The least percentage of a column that must be right.
#[derive(Debug, Clone)]
struct Floor {
    column: String,
    percent: f64,
}

impl FromStr for Floor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (column, percent) = text.split_once('=').ok_or("must be COLUMN=PERCENT")?;
        // Columns of free text alone begin with a word of their own.
        if !COLUMNS.contains(&column.strip_prefix("text-").unwrap_or(column)) {
            return Err(format!("there is no column {column:?}; there are {}", COLUMNS.join(", ")));
        }
        let percent = percent.parse().map_err(|_| format!("{percent:?} is no number"))?;
        Ok(Self { column: column.to_owned(), percent })
    }
}

/// The tallies of all mails, and of failures and delays by whether they have fields for programs.
#[derive(Default)]
struct Board {
    all: Tally,
    machine: Tally,
    text: Tally,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let rules = Rules::load(&common.config)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let Some(table) = &arguments.labels else {
        for file in files(&arguments.folder)? {
            let (mail, verdict) = look(&arguments.folder.join(&file), &rules)?;
            tell(&mut out, &file, &mail, &verdict, arguments.json)?;
        }
        out.flush()?;
        return Ok(Exit::Done);
    };
    let labels =
        std::fs::read_to_string(table).with_context(|| format!("cannot read {}", table.display()))?;
    let labels = labels::read(&labels).map_err(|reason| Misuse(format!("{}: {reason}", table.display())))?;
    let mut board = Board::default();
    for label in labels.iter().filter(|label| !label.is_ambiguous) {
        let (mail, verdict) = look(&arguments.folder.join(&label.file), &rules)?;
        let judged = judge(label, &mail, &verdict);
        board.add(label, &judged);
        if arguments.json {
            tell(&mut out, &label.file, &mail, &verdict, true)?;
        }
        if arguments.misses {
            for miss in judged.iter().filter(|one| !one.is_right) {
                let Judged { column, wanted, found, .. } = miss;
                writeln!(
                    out,
                    "{}: {column}: wanted {wanted}, found {found} (rule {})",
                    label.file, verdict.rule
                )?;
            }
        }
    }
    if !arguments.json {
        board.write(&mut out)?;
    }
    out.flush()?;
    Ok(if board.holds(&arguments.floor)? { Exit::Done } else { Exit::Failed })
}

impl Board {
    fn add(&mut self, label: &Label, judged: &[Judged]) {
        self.all.add(judged);
        if label.is_trouble() {
            if label.is_machine { self.machine.add(judged) } else { self.text.add(judged) }
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{:<17}", "")?;
        writeln!(out, "{}", COLUMNS.map(|column| format!(" {column:>12}")).concat().trim_end())?;
        for (name, tally) in
            [("all", &self.all), ("machine-readable", &self.machine), ("free text", &self.text)]
        {
            let cells: Vec<String> = tally.cells().iter().map(|cell| format!(" {cell:>12}")).collect();
            writeln!(out, "{name:<17}{}", cells.concat())?;
        }
        Ok(())
    }

    /// Whether no column is below its floor; those that are, are told.
    fn holds(&self, floors: &[Floor]) -> io::Result<bool> {
        let mut holds = true;
        for floor in floors {
            let reached = match floor.column.strip_prefix("text-") {
                Some(column) => self.text.percent(column),
                None => self.all.percent(&floor.column),
            };
            let Some(reached) = reached.filter(|reached| *reached >= floor.percent) else {
                let reached =
                    reached.map_or_else(|| "nothing".to_owned(), |reached| format!("{reached:.2} %"));
                writeln!(
                    io::stderr(),
                    "{}: {reached}, below the floor of {} %",
                    floor.column,
                    floor.percent
                )?;
                holds = false;
                continue;
            };
            tracing::debug!(column = floor.column, reached, "floor holds");
        }
        Ok(holds)
    }
}

/// The .eml files below a folder, as paths from it, in order.
fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = std::fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "eml") {
                found.push(path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn look(path: &Path, rules: &Rules) -> anyhow::Result<(Mail, Verdict)> {
    let read = || {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(std::fs::File::open(path)?, MAX_FILE_OCTETS), &mut bytes)?;
        io::Result::Ok(bytes)
    };
    let mail = parse(&read().with_context(|| format!("cannot read {}", path.display()))?);
    let verdict = classify(&mail, rules, &[]);
    Ok((mail, verdict))
}

fn tell(out: &mut dyn Write, file: &str, mail: &Mail, verdict: &Verdict, as_json: bool) -> io::Result<()> {
    if as_json {
        return writeln!(out, "{}", line(file, mail, verdict));
    }
    let sub = verdict.sub.map(|sub| json!(sub).as_str().unwrap_or_default().to_owned());
    let kind =
        [Some(verdict.kind.as_str().to_owned()), sub].into_iter().flatten().collect::<Vec<_>>().join(", ");
    writeln!(out, "{file}: {kind} (rule {})", verdict.rule)?;
    for one in &verdict.recipients {
        let status = one.status.as_deref().unwrap_or("-");
        // Addresses come from strangers; control characters must not reach a terminal.
        let address = one.address.escape_debug();
        writeln!(out, "  {address}: {} {status} {}", one.action.as_str(), one.reason.as_str())?;
    }
    Ok(())
}

fn line(file: &str, mail: &Mail, verdict: &Verdict) -> Value {
    let recipient = |one: &crate::classify::verdict::Recipient| {
        json!({
            "address": one.address,
            "original": one.original,
            "action": one.action,
            "status": one.status,
            "reply": one.reply,
            "reason": one.reason,
            "group": one.reason.group(),
            "hard": one.hard,
            "remote": one.remote,
            "text": one.text,
        })
    };
    json!({
        "file": file,
        "kind": verdict.kind,
        "sub": verdict.sub,
        "rule": verdict.rule,
        "recipients": verdict.recipients.iter().map(recipient).collect::<Vec<_>>(),
        "message_id": mail.original_message_id(),
        "envelope_id": mail.envelope_id(),
        "in_reply_to": mail.headers.ids("in-reply-to"),
        "problems": mail.problems.iter().map(|problem| problem.as_str()).collect::<Vec<_>>(),
    })
}
