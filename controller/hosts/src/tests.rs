//! A report of a host, and an observer that notes what it is told.

#![allow(clippy::unwrap_used)]

use crate::acceptance::{self, AcceptError, Standing};
use crate::{Observer, lineage, strays, sync, timelines};
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{AppState, Env, params};
use berth_controller_identity::testing;
use berth_rpc_types::link::{
    AgentStart, HostNumbers, Recorded, Refusal, StrayGuest, SyncReply, SyncRequest, Timeline,
};
use berth_rpc_types::spec::{BootSpec, ConfigDriveSpec, VmmSpec};
use berth_rpc_types::{
    Capacity, HostId, ImageId, ImageSpec, InstanceId, Observation, VmmId, VmmState,
};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

const HOST: HostId = HostId::from_u128(1);
const KNOWN: VmmId = VmmId::from_u128(2);
const CLOSED: VmmId = VmmId::from_u128(3);
const UNKNOWN: VmmId = VmmId::from_u128(4);
const INSTANCE: InstanceId = InstanceId::from_u128(5);

/// Acknowledges what it is told, or not.
struct Noting {
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

fn noting(acknowledge: bool) -> Arc<Noting> {
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

/// What an agent that obeys this database says, as `report` does.
async fn asks(app: &AppState, change: impl FnOnce(&mut SyncRequest)) -> SyncReply {
    asks_of(app, &noting(true), change).await
}

async fn asks_of(
    app: &AppState,
    observer: &Arc<Noting>,
    change: impl FnOnce(&mut SyncRequest),
) -> SyncReply {
    let lineage = app.store.tx(|tx| Box::pin(lineage::read(tx)));
    let (lineage, _) = lineage.await.unwrap();
    let mut request = SyncRequest {
        host_id: HOST,
        hostname: "h".into(),
        address: String::new(),
        version: "1".into(),
        starting: true,
        start: start(1, None, "a"),
        timeline: None,
        numbers: Some(HostNumbers::default()),
        refusal: None,
        guests: vec![],
        knows_accounts: true,
        epoch: 0,
        lineage: Some(lineage),
        lineage_counter: 0,
        capacity: Capacity::default(),
        observations: vec![],
    };
    change(&mut request);
    let env = app.env();
    let folded = app.store.tx(|tx| {
        let (env, observer, request) = (env.clone(), observer.clone(), request.clone());
        Box::pin(async move { sync::fold(tx, &env, &*observer, &request).await })
    });
    folded.await.unwrap()
}

/// A start of a controller; the id of its timeline.
async fn begins(app: &AppState) -> Uuid {
    timelines::begin(&app.store, &app.env()).await.unwrap();
    let newest = app.store.tx(|tx| Box::pin(timelines::newest(tx)));
    newest.await.unwrap().unwrap().id.parse().unwrap()
}

async fn change(app: &AppState, sql: &'static str) {
    let changed = app
        .store
        .tx::<_, StoreError, _>(|tx| Box::pin(tx.execute(sql, &[])));
    changed.await.unwrap();
}

#[tokio::test]
async fn an_agent_is_told_the_timelines_of_what_it_may_still_be_sent() {
    let app = cloud().await;
    let first = begins(&app).await;
    change(&app, "UPDATE host_numbers SET last = 4").await;
    let second = begins(&app).await;
    let told = asks(&app, |_| {}).await.timelines;
    assert_eq!(
        told,
        [Timeline {
            id: second,
            above: 4
        }]
    );
    // Command 3 has not ended.
    change(
        &app,
        "INSERT INTO outbox (message_id, operation_id, step, attempt, host_id, vmm_id, sequence, \
         envelope, sends, created_at, command, subject_kind, host_number) \
         SELECT 'm', 'o', 's', 1, id, 'v', 1, '{}', 1, 1, '', 'vmm', 3 FROM hosts",
    )
    .await;
    let told = asks(&app, |_| {}).await.timelines;
    let above = |id, above| Timeline { id, above };
    assert_eq!(told, [above(first, 0), above(second, 4)]);
    // It obeys the second one; what the first began with is kept for command 3.
    asks(&app, |request| request.timeline = Some(second)).await;
    assert_eq!(asks(&app, |_| {}).await.timelines, told);
    change(&app, "UPDATE outbox SET result = 'x'").await;
    let third = begins(&app).await;
    asks(&app, |request| request.timeline = Some(third)).await;
    let sql = "SELECT timeline FROM host_timelines";
    let kept = app
        .store
        .tx::<_, StoreError, _>(|tx| Box::pin(tx.query::<(i64,)>(sql, &[])));
    assert_eq!(kept.await.unwrap(), [(3,)]);
}

#[tokio::test]
async fn what_an_agent_knows_beyond_what_the_next_timeline_began_with_is_of_another_database() {
    let app = cloud().await;
    let first = begins(&app).await;
    change(&app, "UPDATE host_numbers SET last = 4").await;
    // Noted: counter 3, epoch 7, last 4, watermark 4.
    begins(&app).await;
    // It counts on, which helps nothing; nor does it what comes later.
    for _ in 0..3 {
        change(&app, "UPDATE host_numbers SET last = 99").await;
        change(&app, "UPDATE hosts SET epoch = epoch + 5").await;
        begins(&app).await;
    }
    let numbers = |last, watermark| Some(HostNumbers { last, watermark });
    for (counter, epoch, known, refused) in [
        (3, 7, numbers(4, 4), false),
        (0, 0, None, false),
        (4, 7, numbers(4, 4), true),
        (3, 8, numbers(4, 4), true),
        (3, 7, numbers(5, 4), true),
        (3, 7, numbers(5, 5), true),
    ] {
        let reply = asks(&app, |request| {
            request.timeline = Some(first);
            (request.lineage_counter, request.epoch) = (counter, epoch);
            request.numbers = known;
        })
        .await;
        let case = format!("{counter} {epoch} {known:?}: {:?}", reply.refused);
        assert_eq!(reply.refused.is_some(), refused, "{case}");
        assert_eq!(reply.numbers.is_none(), refused, "{case}");
    }
    // A start that this database does not remember, and one that was refused before.
    let unknown = asks(&app, |request| request.timeline = Some(Uuid::from_u128(9))).await;
    assert!(unknown.refused.unwrap().contains("does not remember"));
    for (id, refused) in [(first, true), (Uuid::from_u128(9), false)] {
        let reply = asks(&app, |request| {
            request.timeline = Some(first);
            request.refusal = Some(Refusal {
                timeline: Some(id),
                records: vec![],
            });
        })
        .await;
        assert_eq!(reply.refused.is_some(), refused);
    }
}

#[tokio::test]
async fn a_database_is_accepted_when_every_host_has_said_what_it_has() {
    let app = cloud().await;
    begins(&app).await;
    let accept = async || acceptance::accept(&app.store, &app.env(), noting(true)).await;
    assert!(matches!(accept().await, Err(AcceptError::NotRefused)));
    let of_the_lost = |request: &mut SyncRequest| {
        request.timeline = Some(Uuid::from_u128(9));
        (request.lineage_counter, request.epoch) = (50, 12);
        request.numbers = Some(HostNumbers {
            last: 30,
            watermark: 20,
        });
    };
    let refused = asks(&app, of_the_lost).await;
    assert!(refused.refused.is_some());
    let Err(AcceptError::NotTold(names)) = accept().await else {
        panic!("accepted before the host said what it has");
    };
    assert_eq!(names, "h");
    let record = |vmm_id, sequence, deleted| Recorded {
        vmm_id,
        sequence,
        state: VmmState::Running,
        deleted,
        is_described: false,
    };
    let refusing = |request: &mut SyncRequest| {
        of_the_lost(request);
        request.refusal = Some(Refusal {
            timeline: refused.timelines.last().map(|timeline| timeline.id),
            records: vec![record(UNKNOWN, 4, false), record(CLOSED, 8, true)],
        });
    };
    assert!(asks(&app, refusing).await.refused.is_some());
    let done = accept().await.unwrap();
    assert_eq!(
        (done.hosts, done.lost, done.strays),
        (1, vec![KNOWN], vec![UNKNOWN])
    );
    // It may follow, and finds everything above what it knows.
    let reply = asks(&app, |request| {
        refusing(request);
        request.lineage = Some(refused.lineage.clone());
    })
    .await;
    assert_eq!(reply.refused, None);
    assert_eq!(
        (&reply.lineage, reply.follows),
        (&done.lineage, Some(refused.lineage.clone()))
    );
    assert!(reply.epoch > 12 && reply.lineage_counter > 50);
    assert_eq!(reply.timelines.last().unwrap().above, 30);
    assert_eq!(reply.lost, [KNOWN]);
    let sql = "SELECT sequence FROM vmms WHERE id = $1";
    let closed = app.store.tx::<_, StoreError, _>(|tx| {
        Box::pin(async move { tx.query_opt::<(u64,)>(sql, params![CLOSED]).await })
    });
    assert_eq!(closed.await.unwrap(), Some((8,)));
    // It has followed, and goes on as any other does, however much the database counts on.
    let newest = reply.timelines.last().unwrap().id;
    for round in 0..3 {
        for _ in 0..2 {
            lineage::advance(&app).await.unwrap();
        }
        let followed = asks(&app, |request| {
            (request.timeline, request.epoch) = (Some(newest), reply.epoch);
            request.lineage_counter = reply.lineage_counter + round;
            request.numbers = Some(HostNumbers {
                last: 30,
                watermark: 30,
            });
        })
        .await;
        assert_eq!(followed.refused, None);
    }
    let standing = app.store.tx(|tx| Box::pin(acceptance::standing(tx)));
    assert_eq!(standing.await.unwrap()[0].standing, Standing::Obeys);
    // Another host that knows another future is not meant by that.
    let other = asks(&app, |request| {
        refusing(request);
        request.lineage = Some("another".into());
    })
    .await;
    assert!(other.refused.is_some());
}

fn spec() -> VmmSpec {
    let image = ImageSpec {
        id: ImageId::from_u128(1),
        disk_format: "aki".into(),
        size: 1,
        sha512: String::new(),
        path: String::new(),
        token: String::new(),
    };
    VmmSpec {
        instance_id: INSTANCE,
        name: "n".into(),
        project_id: "p".into(),
        vcpus: 1,
        memory_mib: 1,
        boot: BootSpec {
            kernel: image,
            ramdisk: None,
            cmdline: String::new(),
        },
        disks: vec![],
        ports: vec![],
        config_drive: ConfigDriveSpec::default(),
    }
}

fn told_guest(vmm_id: VmmId) -> StrayGuest {
    StrayGuest {
        vmm_id,
        sequence: 3,
        spec: spec(),
    }
}

#[tokio::test]
async fn an_agent_is_asked_what_a_stray_is_to_be_and_what_it_has_is_held_until_it_is_gone() {
    let app = cloud().await;
    let observer = noting(true);
    let says = async |observations: Vec<Observation>, guests: Vec<StrayGuest>| {
        asks_of(&app, &observer, |request| {
            (request.observations, request.guests) = (observations, guests);
        })
        .await
    };
    let reply = says(vec![seen(UNKNOWN, 1)], vec![]).await;
    assert_eq!(reply.tell, [UNKNOWN]);
    // It says so, and something of which nobody asked: of a guest that has a server, of one that
    // is nowhere.
    let nowhere = VmmId::from_u128(9);
    let guests = [UNKNOWN, KNOWN, nowhere].map(told_guest).to_vec();
    let reply = says(vec![], guests).await;
    assert_eq!(reply.tell, []);
    assert_eq!(*observer.strays.lock().unwrap(), [(UNKNOWN, true)]);
    let listed = app.store.tx(|tx| Box::pin(strays::list(tx)));
    let listed = listed.await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].sequence, Some(3));
    let gone = Observation {
        state: VmmState::Deleted,
        ..seen(UNKNOWN, 2)
    };
    says(vec![gone], vec![]).await;
    assert_eq!(observer.strays.lock().unwrap()[1..], [(UNKNOWN, false)]);
    let listed = app.store.tx(|tx| Box::pin(strays::list(tx)));
    assert!(listed.await.unwrap().is_empty());
}
