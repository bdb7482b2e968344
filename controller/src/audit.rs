//! The audit: what must be true of the database at every instant, checked in one transaction.
//!
//! PROTOCOL.md, "Proof". `berth-controller audit` prints what it finds; `berth doctor --audit`
//! and the end-to-end tests call [`audit`], and [`compare`] with what hosts report. At rest (no
//! request under way) more must be true: nothing is open, and nothing waits to be sent.

use crate::core::store::{Store, StoreError, Tx};
use crate::core::{params, row};
use berth_rpc_types::{HostId, Observation, VmmId, VmmState};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The invariant, by its name.
    pub rule: &'static str,
    /// What breaks it.
    pub subject: String,
    /// How.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.rule, self.subject, self.detail)
    }
}

/// A check: its name, whether it holds only at rest, what its rows mean, and a query whose
/// rows (column `subject`) break it.
struct Check {
    rule: &'static str,
    at_rest: bool,
    detail: &'static str,
    sql: &'static str,
}

const CHECKS: &[Check] = &[
    Check {
        rule: "an accepted request ends",
        at_rest: true,
        detail: "is still running",
        sql: "SELECT id AS subject FROM operations WHERE finished_at IS NULL",
    },
    Check {
        rule: "an operation ends whole",
        at_rest: false,
        detail: "is closed without a time, or open with one",
        sql: "SELECT id AS subject FROM operations \
              WHERE (state IN ('done', 'failed')) <> (finished_at IS NOT NULL)",
    },
    Check {
        rule: "an instance's operation is open",
        at_rest: false,
        detail: "is held by an operation that is closed or another's",
        sql: "SELECT i.id AS subject FROM instances i WHERE i.operation_id IS NOT NULL AND NOT EXISTS \
              (SELECT 1 FROM operations o WHERE o.id = i.operation_id AND o.instance_id = i.id \
              AND o.finished_at IS NULL)",
    },
    Check {
        rule: "an open operation holds its instance",
        at_rest: false,
        detail: "is open, and its instance is not held by it",
        sql: "SELECT o.id AS subject FROM operations o JOIN instances i ON i.id = o.instance_id \
              WHERE o.finished_at IS NULL AND i.deleted_at IS NULL \
              AND (i.operation_id IS NULL OR i.operation_id <> o.id)",
    },
    Check {
        rule: "a task belongs to an operation",
        at_rest: false,
        detail: "has a task_state, or is building, and no operation",
        sql: "SELECT id AS subject FROM instances WHERE operation_id IS NULL AND deleted_at IS NULL \
              AND (task_state IS NOT NULL OR vm_state = 'building')",
    },
    Check {
        rule: "a failure names its cause",
        at_rest: false,
        detail: "failed without a word",
        sql: "SELECT id AS subject FROM operations WHERE state = 'failed' \
              AND (error IS NULL OR error = '')",
    },
    Check {
        rule: "an instance in ERROR has its fault",
        at_rest: false,
        detail: "is in ERROR without a fault",
        sql: "SELECT id AS subject FROM instances WHERE vm_state = 'error' AND fault IS NULL \
              AND deleted_at IS NULL",
    },
    Check {
        rule: "a claim is a VMM's",
        at_rest: false,
        detail: "is claimed for, and is closed or unknown",
        sql: "SELECT c.vmm_id AS subject FROM claims c WHERE NOT EXISTS \
              (SELECT 1 FROM vmms v WHERE v.id = c.vmm_id AND v.host_id = c.host_id \
              AND v.instance_id = c.instance_id AND v.deleted_at IS NULL) AND NOT EXISTS \
              (SELECT 1 FROM strays s WHERE s.vmm_id = c.vmm_id AND s.host_id = c.host_id)",
    },
    Check {
        rule: "a VMM has its claim",
        at_rest: false,
        detail: "may be on its host, and nothing is claimed for it",
        sql: "SELECT v.id AS subject FROM vmms v WHERE v.deleted_at IS NULL AND NOT EXISTS \
              (SELECT 1 FROM claims c WHERE c.vmm_id = v.id)",
    },
    Check {
        rule: "a VMM is an instance's",
        at_rest: true,
        detail: "is not closed, and its instance is gone",
        sql: "SELECT v.id AS subject FROM vmms v WHERE v.deleted_at IS NULL AND NOT EXISTS \
              (SELECT 1 FROM instances i WHERE i.id = v.instance_id AND i.deleted_at IS NULL)",
    },
    Check {
        rule: "one VMM has the right to run",
        at_rest: false,
        detail: "has more than one active VMM",
        sql: "SELECT instance_id AS subject FROM vmms WHERE deleted_at IS NULL AND role = 'active' \
              GROUP BY instance_id HAVING COUNT(*) > 1",
    },
    Check {
        rule: "an instance's VMM is there",
        at_rest: false,
        detail: "names an active VMM that is closed, unknown or elsewhere",
        sql: "SELECT i.id AS subject FROM instances i WHERE i.active_vmm_id IS NOT NULL AND NOT EXISTS \
              (SELECT 1 FROM vmms v WHERE v.id = i.active_vmm_id AND v.instance_id = i.id \
              AND v.host_id = i.host_id AND v.deleted_at IS NULL)",
    },
    Check {
        rule: "what is shown is what was seen",
        at_rest: true,
        detail: "is shown in a state that its VMM is not in",
        sql: "SELECT i.id AS subject FROM instances i LEFT JOIN vmms v ON v.id = i.active_vmm_id \
              WHERE i.operation_id IS NULL AND i.deleted_at IS NULL AND ( \
              (i.vm_state = 'active' AND (v.id IS NULL OR v.state <> 'running')) \
              OR (i.vm_state = 'paused' AND (v.id IS NULL OR v.state <> 'paused')) \
              OR (i.vm_state = 'stopped' AND v.state IN ('running', 'paused', 'building')))",
    },
    Check {
        rule: "only what is waited for is sent",
        at_rest: false,
        detail: "is to be sent, and its operation is closed or it was answered",
        sql: "SELECT b.message_id AS subject FROM outbox b WHERE b.next_send_at IS NOT NULL \
              AND (b.result IS NOT NULL OR NOT EXISTS (SELECT 1 FROM operations o \
              WHERE o.id = b.operation_id AND o.finished_at IS NULL))",
    },
    Check {
        rule: "a step is sent once",
        at_rest: false,
        detail: "has two commands of one sequence",
        sql: "SELECT vmm_id AS subject FROM outbox GROUP BY vmm_id, sequence HAVING COUNT(*) > 1",
    },
    Check {
        rule: "a port is a server's that lives",
        at_rest: false,
        detail: "is held by a server that is gone",
        sql: "SELECT p.id AS subject FROM ports p WHERE p.instance_id IS NOT NULL AND NOT EXISTS \
              (SELECT 1 FROM instances i WHERE i.id = p.instance_id AND i.deleted_at IS NULL)",
    },
    Check {
        rule: "a binding is a VMM's",
        at_rest: false,
        detail: "is bound to a VMM that is closed, unknown or elsewhere",
        sql: "SELECT p.id AS subject FROM ports p WHERE p.vmm_id IS NOT NULL AND NOT EXISTS \
              (SELECT 1 FROM vmms v WHERE v.id = p.vmm_id AND v.host_id = p.host_id \
              AND v.deleted_at IS NULL) AND NOT EXISTS \
              (SELECT 1 FROM strays s WHERE s.vmm_id = p.vmm_id AND s.host_id = p.host_id)",
    },
    Check {
        rule: "a second binding is a VMM's",
        at_rest: false,
        detail: "is bound to a VMM that is closed, unknown, elsewhere or its active one",
        sql: "SELECT b.port_id AS subject FROM port_bindings b WHERE NOT EXISTS \
              (SELECT 1 FROM vmms v JOIN ports p ON p.instance_id = v.instance_id \
              WHERE v.id = b.vmm_id AND v.host_id = b.host_id AND v.deleted_at IS NULL \
              AND p.id = b.port_id AND (p.vmm_id IS NULL OR p.vmm_id <> b.vmm_id))",
    },
    Check {
        rule: "what an operation has ends with it",
        at_rest: true,
        detail: "is closed or unknown, and holds a subject, or has a timer or a child",
        sql: "SELECT h.operation_id AS subject FROM holds h WHERE NOT EXISTS \
              (SELECT 1 FROM operations o WHERE o.id = h.operation_id AND o.finished_at IS NULL) \
              UNION SELECT t.operation_id FROM timers t WHERE NOT EXISTS \
              (SELECT 1 FROM operations o WHERE o.id = t.operation_id AND o.finished_at IS NULL) \
              UNION SELECT c.parent_id FROM children c WHERE NOT EXISTS \
              (SELECT 1 FROM operations o WHERE o.id = c.parent_id AND o.finished_at IS NULL)",
    },
    Check {
        rule: "a port that compute made goes with its server",
        at_rest: false,
        detail: "was made for a server, and has none",
        sql: "SELECT id AS subject FROM ports WHERE made_by_compute = 1 AND instance_id IS NULL",
    },
    Check {
        rule: "an address is somebody's",
        at_rest: false,
        detail: "is held for a port that is gone",
        sql: "SELECT a.holder AS subject FROM address_allocations a WHERE a.holder <> 'dhcp' \
              AND NOT EXISTS (SELECT 1 FROM ports p WHERE p.id = a.holder)",
    },
    Check {
        rule: "a disk is an instance's",
        at_rest: false,
        detail: "belongs to an instance that is gone",
        sql: "SELECT d.id AS subject FROM disks d WHERE NOT EXISTS \
              (SELECT 1 FROM instances i WHERE i.id = d.instance_id AND i.deleted_at IS NULL)",
    },
    Check {
        rule: "every guest is known",
        at_rest: false,
        detail: "was found on a host, and nobody knows it",
        sql: "SELECT vmm_id AS subject FROM strays",
    },
];

row! {
    /// A row that a check's query finds.
    struct Broken {
        subject: String,
    }
}

/// Checks every invariant; `at_rest` checks those too that hold only while nothing is under way.
///
/// # Errors
/// [`StoreError`]
pub async fn audit(store: &Store, at_rest: bool) -> Result<Vec<Finding>, StoreError> {
    store
        .tx(|tx| {
            Box::pin(async move {
                let mut findings = Vec::new();
                for check in CHECKS.iter().filter(|c| at_rest || !c.at_rest) {
                    for broken in tx.query::<Broken>(check.sql, &[]).await? {
                        findings.push(Finding {
                            rule: check.rule,
                            subject: broken.subject,
                            detail: check.detail.to_owned(),
                        });
                    }
                }
                Ok(findings)
            })
        })
        .await
}

/// Compares the database with all that a host has: every VMM that lives there, and nothing else.
/// At rest only: what is under way may be on one side first.
///
/// # Errors
/// [`StoreError`]
pub async fn compare(
    store: &Store,
    host_id: HostId,
    reported: &[Observation],
) -> Result<Vec<Finding>, StoreError> {
    let (known, lost) = store
        .tx(|tx| {
            Box::pin(async move {
                Ok::<_, StoreError>((living(tx, host_id).await?, lost(tx, host_id).await?))
            })
        })
        .await?;
    let mut findings = Vec::new();
    let mut finding = |subject: VmmId, detail: String| {
        findings.push(Finding {
            rule: "database and host agree",
            subject: subject.to_string(),
            detail: format!("on host {host_id}: {detail}"),
        });
    };
    let there: BTreeMap<VmmId, VmmState> = reported
        .iter()
        .filter(|o| o.state != VmmState::Deleted)
        .map(|o| (o.vmm_id, o.state))
        .collect();
    for (vmm_id, state) in &known {
        match there.get(vmm_id) {
            None => finding(
                *vmm_id,
                format!("is {state} in the database, and not there"),
            ),
            Some(seen) if seen.as_str() != state => {
                finding(
                    *vmm_id,
                    format!("is {state} in the database, and {seen} there"),
                );
            }
            Some(_) => {}
        }
    }
    for (vmm_id, seen) in &there {
        // A host that was fenced removes what it lost at its next report, whenever that is.
        if !known.contains_key(vmm_id) && !lost.contains(vmm_id) {
            finding(
                *vmm_id,
                format!("is {seen} there, and closed or unknown in the database"),
            );
        }
    }
    Ok(findings)
}

async fn living(tx: &mut Tx, host_id: HostId) -> Result<BTreeMap<VmmId, String>, StoreError> {
    let rows: Vec<(VmmId, String)> = tx
        .query(
            "SELECT id, state FROM vmms WHERE host_id = $1 AND deleted_at IS NULL",
            params![host_id],
        )
        .await?;
    Ok(rows.into_iter().collect())
}

async fn lost(tx: &mut Tx, host_id: HostId) -> Result<BTreeSet<VmmId>, StoreError> {
    let rows: Vec<(VmmId,)> = tx
        .query(
            "SELECT id FROM vmms WHERE host_id = $1 AND lost_at IS NOT NULL AND removed_at IS NULL",
            params![host_id],
        )
        .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn an_empty_database_is_in_order_and_every_check_is_sql() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        assert_eq!(audit(&store, true).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_claim_without_its_vmm_is_found() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let done: Result<u64, StoreError> = store
            .tx(|tx| {
                Box::pin(tx.execute(
                    "INSERT INTO claims (vmm_id, instance_id, host_id, vcpus, memory_mib, disk_gib, \
                     created_at) VALUES ('v', 'i', 'h', 1, 1, 1, 1)",
                    &[],
                ))
            })
            .await;
        done.unwrap();
        let findings = audit(&store, false).await.unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(
            findings[0].to_string(),
            "a claim is a VMM's: v is claimed for, and is closed or unknown"
        );
    }

    #[tokio::test]
    async fn what_a_host_has_and_nobody_knows_is_found() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let host = HostId::from_u128(1);
        let seen = Observation {
            vmm_id: VmmId::from_u128(2),
            observation: 1,
            state: VmmState::Running,
            error: None,
        };
        let gone = Observation {
            vmm_id: VmmId::from_u128(3),
            state: VmmState::Deleted,
            ..seen.clone()
        };
        let findings = compare(&store, host, &[seen, gone]).await.unwrap();
        assert_eq!(findings.len(), 1);
        assert!(findings[0].detail.contains("running there"), "{findings:?}");
    }
}
