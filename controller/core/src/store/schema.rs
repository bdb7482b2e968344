//! The tables, and how a database comes to have them: numbered steps, applied once and in order.
//!
//! `schema_steps` says which steps a database has. What is missing is applied in one transaction
//! with its rows there, under a lock: controllers that start together take turns, and one that is
//! killed has done nothing. A database with a step that this program does not know was used by a
//! newer one, and is refused before anything is read from it.
//!
//! A new step is a file in `schema/` and a line in [`STEPS`]; one that was released is never
//! changed. Controllers of the release before may run beside it, so that it only adds, and adds
//! no column to a table that is read with `SELECT *`: PostgreSQL refuses a prepared statement
//! whose columns have changed.

use super::{Store, StoreError, Tx};
use crate::params;

/// One change of the tables.
struct Step {
    /// From 1, without a gap.
    number: i64,
    /// For people.
    name: &'static str,
    /// SQL, in order.
    files: &'static [&'static str],
}

/// All of them. The first is `IF NOT EXISTS`: databases had it before steps were counted.
const STEPS: &[Step] = &[
    Step {
        number: 1,
        name: "the first tables",
        files: &[
            include_str!("schema/core.sql"),
            include_str!("schema/identity.sql"),
            include_str!("schema/image.sql"),
            include_str!("schema/compute.sql"),
            include_str!("schema/network.sql"),
        ],
    },
    Step {
        number: 2,
        name: "fences",
        files: &[include_str!("schema/fences.sql")],
    },
    Step {
        number: 3,
        name: "the sizes of images' disks",
        files: &[include_str!("schema/virtual_sizes.sql")],
    },
    Step {
        number: 4,
        name: "several commands a step",
        files: &[include_str!("schema/commands.sql")],
    },
    Step {
        number: 5,
        name: "numbers of commands",
        files: &[include_str!("schema/numbers.sql")],
    },
    Step {
        number: 6,
        name: "subjects, holds, timers and children of operations",
        files: &[include_str!("schema/engine.sql")],
    },
    Step {
        number: 7,
        name: "ports bound twice",
        files: &[include_str!("schema/bindings.sql")],
    },
    Step {
        number: 8,
        name: "what servers boot from, and ids of deleted images",
        files: &[include_str!("schema/boot_sources.sql")],
    },
    Step {
        number: 9,
        name: "hosts' accounts at the broker",
        files: &[include_str!("schema/host_accounts.sql")],
    },
    Step {
        number: 10,
        name: "hosts' keys",
        files: &[include_str!("schema/host_keys.sql")],
    },
    Step {
        number: 11,
        name: "watermarks",
        files: &[include_str!("schema/watermarks.sql")],
    },
    Step {
        number: 12,
        name: "starts of hosts' agents, and hosts that were removed",
        files: &[include_str!("schema/agent_starts.sql")],
    },
    Step {
        number: 13,
        name: "timelines",
        files: &[include_str!("schema/timelines.sql")],
    },
    Step {
        number: 14,
        name: "what guests have that no server has",
        files: &[include_str!("schema/strays.sql")],
    },
    Step {
        number: 15,
        name: "the cloud's beats, and pages of lists",
        files: &[include_str!("schema/beats.sql")],
    },
    Step {
        number: 16,
        name: "groups, and application credentials",
        files: &[include_str!("schema/groups.sql")],
    },
    Step {
        number: 17,
        name: "members of images",
        files: &[include_str!("schema/members.sql")],
    },
    Step {
        number: 18,
        name: "tags of networks",
        files: &[include_str!("schema/tags.sql")],
    },
    Step {
        number: 19,
        name: "indexes of large clouds",
        files: &[include_str!("schema/indexes.sql")],
    },
    Step {
        number: 20,
        name: "additions to quotas, and zones",
        files: &[include_str!("schema/additions.sql")],
    },
];

/// Brings a database to the newest step.
///
/// # Errors
/// [`StoreError::Newer`], or the database's.
pub(super) async fn bring_up_to_date(store: &Store) -> Result<(), StoreError> {
    bring_to(store, STEPS).await
}

async fn bring_to(store: &Store, steps: &'static [Step]) -> Result<(), StoreError> {
    let last = steps.last().map_or(0, |step| step.number);
    // Most starts find nothing to do, and need no lock. A database without the table answers
    // with an error; one that is away will say so again.
    let read: Result<i64, StoreError> = store.tx(|tx| Box::pin(newest(tx))).await;
    if read.is_ok_and(|newest| newest == last) {
        return Ok(());
    }
    store
        .tx(|tx| {
            Box::pin(async move {
                if tx.is_postgres() {
                    // Two that start together: CREATE IF NOT EXISTS alone races. Its answer is of
                    // type void, which is no value: it is run, not asked.
                    let lock = "SELECT pg_advisory_xact_lock(4277009102)";
                    tx.execute(lock, params![]).await?;
                }
                tx.execute(
                    "CREATE TABLE IF NOT EXISTS schema_steps (step BIGINT PRIMARY KEY, name TEXT NOT NULL)",
                    params![],
                )
                .await
            })
        })
        .await?;
    store
        .tx(|tx| Box::pin(async move { apply(tx, steps, last).await }))
        .await
}

/// Applies what is missing.
async fn apply(tx: &mut Tx, steps: &[Step], last: i64) -> Result<(), StoreError> {
    tx.lock("schema_steps").await?;
    let newest = newest(tx).await?;
    if newest > last {
        return Err(StoreError::Newer {
            database: newest,
            program: last,
        });
    }
    for step in steps.iter().filter(|step| step.number > newest) {
        for statement in step.files.iter().flat_map(|file| statements(file)) {
            let statement = match tx.is_postgres() {
                true => statement.replace(" BLOB", " BYTEA"),
                false => statement,
            };
            tx.execute(&statement, params![]).await?;
        }
        tx.execute(
            "INSERT INTO schema_steps (step, name) VALUES ($1, $2)",
            params![step.number, step.name],
        )
        .await?;
        tracing::info!(step = step.number, name = step.name, "schema step applied");
    }
    Ok(())
}

/// The last step that the database has; 0 if none.
async fn newest(tx: &mut Tx) -> Result<i64, StoreError> {
    let sql = "SELECT COALESCE(MAX(step), 0) AS newest FROM schema_steps";
    let row = tx.query_opt::<(i64,)>(sql, params![]).await?;
    Ok(row.map_or(0, |(newest,)| newest))
}

/// Splits SQL at semicolons; `--` comments may hold none.
fn statements(text: &str) -> Vec<String> {
    let without_comments: String = text
        .lines()
        .map(|line| line.split("--").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    without_comments
        .split(';')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn steps_are_numbered_from_one_without_a_gap() {
        let numbers: Vec<i64> = STEPS.iter().map(|step| step.number).collect();
        assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_step_may_be_run_on_a_database_that_had_it_before_steps_were_counted() {
        for statement in STEPS[0].files.iter().flat_map(|file| statements(file)) {
            assert!(statement.contains("IF NOT EXISTS"), "{statement}");
        }
    }

    #[tokio::test]
    async fn a_step_that_fails_leaves_nothing_of_itself_and_of_those_before_it() {
        const BAD: &[Step] = &[
            Step {
                number: 1,
                name: "good",
                files: &["CREATE TABLE a (id TEXT); CREATE TABLE b (id TEXT)"],
            },
            Step {
                number: 2,
                name: "bad",
                files: &["CREATE TABLE c (id TEXT); CREATE TABLE a (id TEXT)"],
            },
        ];
        let store = Store::connect_without_tables("sqlite::memory:");
        let store = store.await.unwrap();
        assert!(bring_to(&store, BAD).await.is_err());
        let tables: Vec<(String,)> = store
            .tx::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let sql = "SELECT name FROM sqlite_master WHERE type = 'table'";
                    tx.query(sql, params![]).await
                })
            })
            .await
            .unwrap();
        assert_eq!(tables, [("schema_steps".to_owned(),)]);
        // The same program, repaired.
        bring_to(&store, &BAD[..1]).await.unwrap();
        let newest = store.tx::<_, StoreError, _>(|tx| Box::pin(newest(tx)));
        assert_eq!(newest.await.unwrap(), 1);
    }
}
