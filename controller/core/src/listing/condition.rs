//! Conditions of a WHERE clause that grow, each with its values. No text of a caller ever becomes part
//! of a statement: only of its values.

use crate::store::Value;

/// A condition, with `?` where a value goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    sql: String,
    values: Vec<Value>,
    /// Whether it is parts in brackets, joined by AND.
    joined: bool,
}

impl Condition {
    /// One.
    pub fn new(sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Self {
        Self {
            sql: sql.into(),
            values: values.into_iter().collect(),
            joined: false,
        }
    }

    /// That nothing meets.
    pub fn never() -> Self {
        Self::new("1 = 0", [])
    }

    /// What is this project's; everything, for who reaches everything (`None`).
    pub fn owned(column: &str, project: Option<&str>) -> Self {
        match project {
            None => Self::default(),
            Some(project) => Self::new(format!("{column} = ?"), [project.into()]),
        }
    }

    /// `column` is one of these. The count of values is rounded up to a power of two, by repetition, so
    /// that a database prepares few statements.
    pub fn among(column: &str, values: impl IntoIterator<Item = Value>) -> Self {
        let mut values: Vec<Value> = values.into_iter().collect();
        let Some(last) = values.last().cloned() else {
            return Self::never();
        };
        values.resize(values.len().next_power_of_two(), last);
        let marks = vec!["?"; values.len()].join(", ");
        Self::new(format!("{column} IN ({marks})"), values)
    }

    /// This and that.
    pub fn and(&mut self, other: Self) {
        if other.sql.is_empty() {
            return;
        }
        match (self.sql.is_empty(), self.joined) {
            (true, _) => {}
            (false, true) => self.sql.push_str(" AND "),
            (false, false) => self.sql = format!("({}) AND ", self.sql),
        }
        self.joined = true;
        self.sql.push_str(&format!("({})", other.sql));
        self.values.extend(other.values);
    }

    /// One of these; never, if there are none.
    pub fn any(all: impl IntoIterator<Item = Self>) -> Self {
        let (sql, values): (Vec<_>, Vec<_>) = all.into_iter().map(|c| (c.sql, c.values)).unzip();
        if sql.is_empty() {
            return Self::never();
        }
        Self::new(
            format!("({})", sql.join(") OR (")),
            values.into_iter().flatten(),
        )
    }

    /// That `column` is among what a query gives of the rows that meet this.
    #[must_use]
    pub fn within(self, column: &str, query: &str) -> Self {
        let sql = format!("{column} IN ({query} WHERE {})", self.sql);
        Self::new(sql, self.values)
    }

    /// Not this.
    #[must_use]
    pub fn negated(self) -> Self {
        Self::new(format!("NOT ({})", self.sql), self.values)
    }

    /// A statement's text, from `$1` on, and its values. Without a condition all rows meet it.
    pub fn statement(&self, before: &str, after: &str) -> (String, Vec<Value>) {
        let mut sql = format!("{before} WHERE ");
        let mut number = 0;
        for c in if self.sql.is_empty() {
            "1 = 1"
        } else {
            &self.sql
        }
        .chars()
        {
            if c == '?' {
                number += 1;
                sql.push_str(&format!("${number}"));
            } else {
                sql.push(c);
            }
        }
        sql.push(' ');
        sql.push_str(after);
        (sql, self.values.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_grow_with_their_values() {
        let mut all = Condition::default();
        assert_eq!(
            all.statement("SELECT 1", "LIMIT 1").0,
            "SELECT 1 WHERE 1 = 1 LIMIT 1"
        );
        all.and(Condition::new("a = ?", ["x".into()]));
        all.and(Condition::default());
        all.and(Condition::any([
            Condition::among("b", [1_i64.into(), 2_i64.into(), 3_i64.into()]),
            Condition::new("c > ?", [4_i64.into()]).negated(),
        ]));
        let (sql, values) = all.statement("SELECT 1 FROM t", "");
        assert_eq!(
            sql,
            "SELECT 1 FROM t WHERE (a = $1) AND ((b IN ($2, $3, $4, $5)) OR (NOT (c > $6))) "
        );
        let numbers = [1_i64, 2, 3, 3, 4].map(Value::from);
        assert_eq!(values[0], Value::from("x"));
        assert_eq!(values[1..], numbers);
        // An OR ends where it began.
        let mut either = Condition::new("a = 1 OR b = 1", []);
        either.and(Condition::new("c = 1 OR d = 1", []));
        either.and(Condition::new("e = 1", []));
        assert_eq!(
            either.statement("", "").0.trim(),
            "WHERE (a = 1 OR b = 1) AND (c = 1 OR d = 1) AND (e = 1)"
        );
        assert_eq!(Condition::any([]), Condition::never());
        assert_eq!(Condition::among("b", []), Condition::never());
    }
}
