//! The rows that a transaction adds, put together so that many go out with one statement.

use std::collections::BTreeMap;

use super::{Value, places};

/// Each of these refers only to those before it: so their rows may go out table by table.
const TABLES: [&str; 6] = ["sessions", "revisions", "deliveries", "messages", "attempts", "log"];
/// How many rows of a table wait at most.
const ROWS: usize = 16;

/// Rows by table and by the statement up to its VALUES.
#[derive(Default)]
pub(super) struct Added(BTreeMap<(usize, String), Vec<Vec<Value>>>);

impl Added {
    /// Keeps the row of a statement that does nothing but add it to a table; other values are given back. True when
    /// enough rows wait.
    pub(super) fn keep(&mut self, sql: &str, values: Vec<Value>) -> Result<bool, Vec<Value>> {
        let Some((table, into)) = insertion(sql) else { return Err(values) };
        let rows = self.0.entry((table, into.to_owned())).or_default();
        rows.push(values);
        Ok(rows.len() == ROWS)
    }

    /// The statements that have to go out before this one: an UPDATE finds the rows of the tables that it mentions, and
    /// anything else finds all rows.
    pub(super) fn before(&mut self, sql: &str) -> Vec<(String, Vec<Value>)> {
        let is_found = |table: usize| !sql.starts_with("UPDATE ") || sql.contains(TABLES[table]);
        let Some(last) = self.0.keys().map(|(table, _)| *table).filter(|table| is_found(*table)).max() else {
            return Vec::new();
        };
        let rest = self.0.split_off(&(last + 1, String::new()));
        let found = std::mem::replace(&mut self.0, rest);
        found
            .into_iter()
            .map(|((_, into), rows)| {
                let places = places(rows.len(), rows.first().map_or(0, Vec::len));
                (format!("{into} VALUES {places}"), rows.into_iter().flatten().collect())
            })
            .collect()
    }
}

/// The table that a statement adds one row of values to, and the statement up to its VALUES; none of one that does more.
fn insertion(sql: &str) -> Option<(usize, &str)> {
    let (into, values) = sql.split_once(" VALUES (")?;
    let mut places = values.strip_suffix(')')?.split(", ").zip(1..);
    let is_plain =
        places.all(|(place, at)| place.strip_prefix('$').is_some_and(|number| number.parse() == Ok(at)));
    let name = into.strip_prefix("INSERT INTO ")?.split(' ').next()?;
    let table = TABLES.iter().position(|table| *table == name)?;
    is_plain.then_some((table, into))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sql: &str, numbers: &[i64]) -> (String, Vec<Value>) {
        (sql.to_owned(), numbers.iter().copied().map(Value::Integer).collect())
    }

    fn keep(added: &mut Added, sql: &str, numbers: &[i64]) -> bool {
        added.keep(sql, row(sql, numbers).1).unwrap()
    }

    const SESSION: &str = "INSERT INTO sessions (id, number) VALUES ($1, $2)";
    const DELIVERY: &str = "INSERT INTO deliveries (id) VALUES ($1)";

    #[test]
    fn rows_go_out_together_those_that_others_refer_to_first() {
        let mut added = Added::default();
        keep(&mut added, DELIVERY, &[3]);
        keep(&mut added, SESSION, &[1, 7]);
        keep(&mut added, SESSION, &[2, 8]);
        let all = [
            row("INSERT INTO sessions (id, number) VALUES ($1, $2), ($3, $4)", &[1, 7, 2, 8]),
            row(DELIVERY, &[3]),
        ];
        assert_eq!(added.before("SELECT id FROM chains"), all);
        assert_eq!(added.before("COMMIT"), []);
    }

    #[test]
    fn an_update_waits_for_the_rows_that_it_may_change_and_for_those_that_they_refer_to() {
        let attempt = "INSERT INTO attempts (delivery, number) VALUES ($1, $2)";
        let mut added = Added::default();
        keep(&mut added, attempt, &[3, 1]);
        assert_eq!(added.before("UPDATE deliveries SET state = 'sending' WHERE id = $1"), []);
        keep(&mut added, SESSION, &[1, 7]);
        keep(&mut added, DELIVERY, &[3]);
        let needed = [row(SESSION, &[1, 7]), row(DELIVERY, &[3])];
        assert_eq!(added.before("UPDATE deliveries SET state = 'sending' WHERE id = $1"), needed);
        assert_eq!(added.before("DELETE FROM attempts"), [row(attempt, &[3, 1])]);
    }

    #[test]
    fn only_what_adds_one_row_of_its_values_to_a_known_table_waits() {
        let refused = [
            "INSERT INTO files (path) VALUES ($1)",
            "INSERT INTO sessions (id, kind) VALUES ($1, 'call')",
            "INSERT INTO sessions (id, number) VALUES ($2, $1)",
            "INSERT INTO sessions (id) VALUES ($1) ON CONFLICT DO NOTHING",
            "INSERT INTO sessions (id) VALUES ($1), ($2)",
            "INSERT INTO sessions SELECT id FROM revisions WHERE id = $1",
            "UPDATE sessions SET number = $1",
        ];
        for sql in refused {
            let mut added = Added::default();
            assert_eq!(added.keep(sql, vec![Value::Null]), Err(vec![Value::Null]), "{sql}");
            assert_eq!(added.before("COMMIT"), [], "{sql}");
        }
    }

    #[test]
    fn of_many_rows_it_is_told_when_enough_wait() {
        let mut added = Added::default();
        let told: Vec<bool> = (0..16).map(|id| keep(&mut added, DELIVERY, &[id])).collect();
        assert_eq!(told.iter().position(|is_enough| *is_enough), Some(15));
        let (sql, values) = added.before(DELIVERY).remove(0);
        assert!(sql.ends_with(", ($15), ($16)"), "{sql}");
        assert_eq!(values, row("", &(0..16).collect::<Vec<_>>()).1);
    }
}
