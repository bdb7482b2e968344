//! A report of a host, and an observer that notes what it is told.

#![allow(clippy::unwrap_used)]

mod quiet;
mod removal;
mod restored;

use crate::{Observer, lineage, sync};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, Env, params};
use berth_controller_identity::testing;
use berth_rpc_types::link::{AgentStart, SyncReply, SyncRequest};
use berth_rpc_types::spec::VmmSpec;
use berth_rpc_types::{Capacity, HostId, InstanceId, Observation, VmmId, VmmState};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

const HOST: HostId = HostId::from_u128(1);
const KNOWN: VmmId = VmmId::from_u128(2);
const CLOSED: VmmId = VmmId::from_u128(3);
const UNKNOWN: VmmId = VmmId::from_u128(4);
const INSTANCE: InstanceId = InstanceId::from_u128(5);

/// Acknowledges what it is told, or not.
pub(crate) struct Noting {
    acknowledge: bool,
    told: Mutex<Vec<(InstanceId, Observation)>>,
    /// Strays, and whether they were found or are gone.
    strays: Mutex<Vec<(VmmId, bool)>>,
}

impl Observer for Noting {
    fn observed<'a>(
        &'a self,
        _tx: &'a mut Tx,
        _env: &'a Env,
        instance_id: InstanceId,
        seen: &'a Observation,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.told.lock().unwrap().push((instance_id, seen.clone()));
        Box::pin(async { Ok(self.acknowledge) })
    }

    fn found<'a>(
        &'a self,
        _tx: &'a mut Tx,
        _env: &'a Env,
        vmm_id: VmmId,
        _host_id: HostId,
        _spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.strays.lock().unwrap().push((vmm_id, true));
        Box::pin(async { Ok(()) })
    }

    fn gone<'a>(
        &'a self,
        _tx: &'a mut Tx,
        vmm_id: VmmId,
        _host_id: HostId,
        _spec: &'a VmmSpec,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.strays.lock().unwrap().push((vmm_id, false));
        Box::pin(async { Ok(()) })
    }
}

/// A host with a VMM that has been seen up to observation 5, and a closed one.
async fn cloud() -> AppState {
    let app = (*testing::app().await).clone();
    lineage::ensure(&app.store, &app.env()).await.unwrap();
    let written = app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move {
            tx.execute(
                "INSERT INTO hosts (id, service_id, hostname, address, secret_hash, epoch, \
                 availability_zone, enabled, forced_down, last_seen_at, agent_version, capacity, \
                 generation, network_revision, created_at, updated_at) \
                 VALUES ($1, 1, 'h', '', 'x', 7, 'nova', 1, 0, 0, '', '{}', 1, 3, 1, 1)",
                params![HOST],
            )
            .await?;
            for (id, deleted_at) in [(KNOWN, None), (CLOSED, Some(1_i64))] {
                tx.execute(
                    "INSERT INTO vmms (id, instance_id, host_id, role, state, sequence, observation, \
                     created_at, deleted_at) VALUES ($1, $2, $3, 'active', 'running', 0, 5, 1, $4)",
                    params![id, INSTANCE, HOST, deleted_at],
                )
                .await?;
            }
            Ok(())
        })
    });
    written.await.unwrap();
    app
}

fn seen(vmm_id: VmmId, observation: u64) -> Observation {
    Observation {
        vmm_id,
        observation,
        state: VmmState::Stopped,
        error: None,
    }
}

async fn report(
    app: &AppState,
    observer: &Arc<Noting>,
    observations: Vec<Observation>,
    epoch: u64,
) -> SyncReply {
    told(app, observer, observations, epoch, None).await
}

async fn told(
    app: &AppState,
    observer: &Arc<Noting>,
    observations: Vec<Observation>,
    epoch: u64,
    start: Option<AgentStart>,
) -> SyncReply {
    let lineage = app.store.tx(|tx| Box::pin(lineage::read(tx)));
    let (lineage, counter) = lineage.await.unwrap();
    let request = SyncRequest {
        host_id: HOST,
        hostname: "h".into(),
        address: String::new(),
        version: "1".into(),
        starting: false,
        start,
        timeline: None,
        numbers: None,
        refusal: None,
        guests: vec![],
        knows_accounts: true,
        epoch,
        lineage: Some(lineage),
        lineage_counter: counter,
        capacity: Capacity::default(),
        observations,
    };
    let env = app.env();
    let folded = app.store.tx(|tx| {
        let (env, observer, request) = (env.clone(), observer.clone(), request.clone());
        Box::pin(async move { sync::fold(tx, &env, &*observer, &request).await })
    });
    folded.await.unwrap()
}

pub(crate) fn noting(acknowledge: bool) -> Arc<Noting> {
    Arc::new(Noting {
        acknowledge,
        told: Mutex::default(),
        strays: Mutex::default(),
    })
}

#[tokio::test]
async fn the_observer_is_told_what_is_new_of_a_guest_that_is_there() {
    let (app, observer) = (cloud().await, noting(true));
    let all = vec![
        seen(KNOWN, 5),
        seen(KNOWN, 6),
        seen(CLOSED, 9),
        seen(UNKNOWN, 1),
    ];
    let reply = report(&app, &observer, all.clone(), 7).await;
    assert_eq!((reply.epoch, reply.network_revision), (7, 3));
    // What is old, closed or nobody's is acknowledged, and told nobody.
    let acknowledged: Vec<_> = all.iter().map(|o| (o.vmm_id, o.observation)).collect();
    assert_eq!(reply.acknowledged, acknowledged);
    assert_eq!(*observer.told.lock().unwrap(), [(INSTANCE, seen(KNOWN, 6))]);
    let strays = app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(tx.query::<(VmmId,)>("SELECT vmm_id FROM strays", params![]))
    });
    assert_eq!(strays.await.unwrap(), [(UNKNOWN,)]);
}

#[tokio::test]
async fn what_the_observer_does_not_take_is_told_again() {
    let (app, observer) = (cloud().await, noting(false));
    for _ in 0..2 {
        let reply = report(&app, &observer, vec![seen(KNOWN, 6)], 7).await;
        assert_eq!(reply.acknowledged, []);
    }
    assert_eq!(observer.told.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_database_older_than_the_host_tells_nobody_anything() {
    let (app, observer) = (cloud().await, noting(true));
    let reply = report(&app, &observer, vec![seen(KNOWN, 6), seen(UNKNOWN, 1)], 8).await;
    assert!(reply.refused.unwrap().contains("older"));
    assert_eq!(reply.acknowledged, []);
    assert!(observer.told.lock().unwrap().is_empty());
}

fn start(id: u128, previous: Option<u128>, boot: &str) -> Option<AgentStart> {
    Some(AgentStart {
        id: Uuid::from_u128(id),
        previous: previous.map(Uuid::from_u128),
        boot_id: boot.into(),
    })
}

#[tokio::test]
async fn the_epoch_rises_with_another_journal_and_another_boot_and_not_with_a_restart() {
    let (app, observer) = (cloud().await, noting(true));
    // (start, the one that it knows of, boot, epoch in the answer)
    for (id, previous, boot, epoch) in [
        // The first that is told.
        (1, None, "a", 7),
        // Its reports, and one whose answer was lost.
        (1, Some(1), "a", 7),
        (1, None, "a", 7),
        // Restarts, of one the answer was lost.
        (2, Some(1), "a", 7),
        (2, Some(1), "a", 7),
        (3, Some(2), "a", 7),
        // The host was off; once.
        (4, Some(3), "b", 8),
        (4, Some(3), "b", 8),
        // Its disk was restored: it knows an older start.
        (5, Some(2), "b", 9),
        (5, Some(2), "b", 9),
        (6, Some(5), "b", 9),
        // It has a new disk.
        (7, None, "b", 10),
        (7, Some(7), "b", 10),
        // And was off for that.
        (8, None, "c", 11),
    ] {
        let started = start(id, previous, boot);
        let reply = told(&app, &observer, vec![], 7, started).await;
        assert_eq!(reply.epoch, epoch, "{id} after {previous:?}");
    }
}

#[tokio::test]
async fn what_another_journal_saw_is_new_however_low_its_numbers_are() {
    let (app, observer) = (cloud().await, noting(true));
    told(&app, &observer, vec![], 7, start(1, None, "a")).await;
    // With the journal that it had, this is old.
    let crashed = vec![seen(KNOWN, 2)];
    told(&app, &observer, crashed.clone(), 7, start(2, Some(1), "a")).await;
    assert_eq!(*observer.told.lock().unwrap(), []);
    told(&app, &observer, crashed, 7, start(3, None, "a")).await;
    assert_eq!(*observer.told.lock().unwrap(), [(INSTANCE, seen(KNOWN, 2))]);
}

#[tokio::test]
async fn a_deleted_guest_that_is_there_again_goes_to_the_lost_list_until_it_is_removed() {
    let (app, observer) = (cloud().await, noting(true));
    let reply = report(&app, &observer, vec![seen(CLOSED, 2)], 7).await;
    assert_eq!(reply.lost, [CLOSED]);
    let gone = Observation {
        state: VmmState::Deleted,
        ..seen(CLOSED, 3)
    };
    let reply = report(&app, &observer, vec![gone.clone()], 7).await;
    assert_eq!(reply.lost, []);
    // Its host's disk was restored once more.
    let reply = report(&app, &observer, vec![seen(CLOSED, 2)], 7).await;
    assert_eq!(reply.lost, [CLOSED]);
    let reply = report(&app, &observer, vec![gone], 7).await;
    assert_eq!(reply.lost, []);
}
