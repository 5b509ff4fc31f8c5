//! Rows for people and for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use serde_json::{Map, Value};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// One JSON array of objects.
    Json,
    /// RFC 4180.
    Csv,
}

/// Named columns and their rows.
pub(super) struct Rows {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Rows {
    pub(super) fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: Vec<Value>) {
        self.rows.push(row);
    }

    pub(super) fn write(&self, out: &mut dyn Write, format: Format) -> io::Result<()> {
        match format {
            Format::Table => self.table(out),
            Format::Json => writeln!(out, "{:#}", self.json()),
            Format::Csv => self.csv(out),
        }
    }

    pub(super) fn json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let entries =
                self.columns.iter().zip(row).map(|(column, value)| ((*column).to_owned(), value.clone()));
            Value::Object(entries.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return writeln!(out, "nothing");
        }
        let mut table = Table::new();
        table
            .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(150);
        table.set_header(self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(plain));
        }
        writeln!(out, "{table}")
    }

    fn csv(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{}\r\n", self.columns.join(","))?;
        for row in &self.rows {
            let quoted = row.iter().map(|value| quote(&plain(value))).collect::<Vec<_>>();
            write!(out, "{}\r\n", quoted.join(","))?;
        }
        Ok(())
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// RFC 4180, section 2: a field with a comma, a quote or a line break stands in quotes, its quotes doubled.
fn quote(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_rows_in_every_format() {
        let mut rows = Rows::new(&["id", "answer"]);
        rows.push(vec![1.into(), "250 ok, \"queued\"".into()]);
        rows.push(vec![2.into(), Value::Null]);
        let written = |format| {
            let mut out = Vec::new();
            rows.write(&mut out, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Format::Csv), "id,answer\r\n1,\"250 ok, \"\"queued\"\"\"\r\n2,\r\n");
        assert_eq!(serde_json::from_str::<Value>(&written(Format::Json)).unwrap()[1]["answer"], Value::Null);
        assert!(written(Format::Table).contains("250 ok, \"queued\""));
    }
}
