//! Timelines, refusals, acceptance and strays: reports of a host that knows more, or has more, than the
//! database does.

use super::*;
use crate::acceptance::{self, AcceptError, Standing};
use crate::{strays, timelines};
use berth_rpc_types::link::{HostNumbers, Recorded, Refusal, StrayGuest, Timeline};
use berth_rpc_types::spec::{BootSpec, ConfigDriveSpec};
use berth_rpc_types::{ImageId, ImageSpec};

/// What an agent that obeys this database says, as `report` does.
pub(super) async fn asks(app: &AppState, change: impl FnOnce(&mut SyncRequest)) -> SyncReply {
    asks_of(app, &noting(true), change).await
}

pub(super) async fn asks_of(
    app: &AppState,
    observer: &Arc<Noting>,
    change: impl FnOnce(&mut SyncRequest),
) -> SyncReply {
    folded(app, observer, &usual(app, change).await).await
}

/// What an agent says that starts for the first time, changed.
pub(super) async fn usual(app: &AppState, change: impl FnOnce(&mut SyncRequest)) -> SyncRequest {
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
    request
}

pub(super) async fn folded(
    app: &AppState,
    observer: &Arc<Noting>,
    request: &SyncRequest,
) -> SyncReply {
    let env = app.env();
    let folded = app.store.tx(|tx| {
        let (env, observer, request) = (env.clone(), observer.clone(), request.clone());
        Box::pin(async move { sync::fold(tx, &env, &*observer, &request).await })
    });
    folded.await.unwrap()
}

/// A start of a controller; the id of its timeline.
pub(super) async fn begins(app: &AppState) -> Uuid {
    timelines::begin(&app.store, &app.env()).await.unwrap();
    let newest = app.store.tx(|tx| Box::pin(timelines::newest(tx)));
    newest.await.unwrap().unwrap().id.parse().unwrap()
}

pub(super) async fn change(app: &AppState, sql: &'static str) {
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
    let accept = async || acceptance::accept(&app.store, &app.env()).await;
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

pub(super) fn told_guest(vmm_id: VmmId) -> StrayGuest {
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
