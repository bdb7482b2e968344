//! What every transport promises.

use crate::World;
use crate::checker::{self, until_confirmed};
use berth_rpc::{Address, ConsumeOptions, Consumer, Delivery, ReadRequest, RpcError, Transport};
use berth_rpc_types::HostId;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Room for a machine that is busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing must come for "nothing comes".
const QUIET: Duration = Duration::from_millis(400);

pub fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

const fn prefetch(prefetch: u16) -> ConsumeOptions {
    ConsumeOptions { prefetch }
}

async fn next(consumer: &mut dyn Consumer) -> Delivery {
    let delivery = timeout(PATIENCE, consumer.next()).await;
    delivery
        .expect("a delivery in time")
        .expect("an open transport")
}

async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for _ in 0..count {
        deliveries.push(next(consumer).await);
    }
    deliveries
}

async fn assert_quiet(consumer: &mut dyn Consumer) {
    if let Ok(Some(delivery)) = timeout(QUIET, consumer.next()).await {
        panic!("{} came, where nothing should", delivery.message_id);
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message_id.as_str())
        .collect()
}

async fn publish_all(transport: &dyn Transport, address: Address, ids: &[&str]) {
    for id in ids {
        until_confirmed(transport, address, id).await;
    }
}

pub async fn what_is_not_acknowledged_comes_again(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(1)));
    client.declare(address).await.unwrap();
    publish_all(&*client, address, &["a", "b", "c"]).await;
    let mut consumer = client.consume(address, prefetch(10)).await.unwrap();
    let held = take(&mut *consumer, 3).await;
    assert_eq!(ids(&held), ["a", "b", "c"]);
    assert!(held.iter().all(|delivery| !delivery.redelivered));
    drop((held, consumer));

    let mut consumer = client.consume(address, prefetch(10)).await.unwrap();
    let again = take(&mut *consumer, 3).await;
    assert_eq!(ids(&again), ["a", "b", "c"]);
    assert!(again.iter().all(|delivery| delivery.redelivered));
    assert_eq!(again[1].payload, "b");
    client.close().await;
}

pub async fn what_is_acknowledged_does_not_come_again(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(2)));
    let mut consumer = client.consume(address, prefetch(10)).await.unwrap();
    publish_all(&*client, address, &["a", "b", "c"]).await;
    for delivery in take(&mut *consumer, 3).await {
        delivery.ack().await.unwrap();
    }
    drop(consumer);
    let mut consumer = client.consume(address, prefetch(10)).await.unwrap();
    assert_quiet(&mut *consumer).await;
    client.close().await;
}

pub async fn a_publish_to_a_queue_that_nobody_declared_is_unroutable(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(3)));
    let publish = client.publish(address, "a", Bytes::from_static(b"a"));
    assert!(matches!(publish.await, Err(RpcError::Unroutable(to)) if to == address));
    client.declare(address).await.unwrap();
    client.declare(address).await.unwrap();
    // It waits for an agent that is dead now.
    client
        .publish(address, "a", Bytes::from_static(b"a"))
        .await
        .unwrap();
    let mut consumer = client.consume(address, prefetch(1)).await.unwrap();
    assert_eq!(next(&mut *consumer).await.message_id, "a");
    client.close().await;
}

pub async fn controllers_queues_need_no_declaration_by_agents(world: &dyn World) {
    let (agent, controller) = (world.client(), world.client());
    agent
        .publish(Address::Results, "a", Bytes::from_static(b"a"))
        .await
        .unwrap();
    agent
        .publish(Address::Telemetry, "b", Bytes::from_static(b"b"))
        .await
        .unwrap();
    let mut consumer = controller
        .consume(Address::Results, prefetch(1))
        .await
        .unwrap();
    assert_eq!(next(&mut *consumer).await.message_id, "a");
    agent.close().await;
    controller.close().await;
}

pub async fn a_dead_consumers_messages_go_to_the_next_in_their_order(world: &dyn World) {
    let (dies, lives, address) = (world.client(), world.client(), Address::Agent(host(4)));
    let mut first = dies.consume(address, prefetch(2)).await.unwrap();
    publish_all(&*lives, address, &["a", "b", "c", "d"]).await;
    next(&mut *first).await.ack().await.unwrap();
    let held = take(&mut *first, 2).await;
    assert_eq!(ids(&held), ["b", "c"]);
    let mut second = lives.consume(address, prefetch(10)).await.unwrap();
    dies.close().await;

    let rest = take(&mut *second, 3).await;
    let came: BTreeSet<&str> = ids(&rest).into_iter().collect();
    assert_eq!(came, BTreeSet::from(["b", "c", "d"]));
    let again = |delivery: &&Delivery| delivery.redelivered;
    assert_eq!(
        rest.iter()
            .filter(again)
            .map(|d| &d.message_id)
            .collect::<Vec<_>>(),
        ["b", "c"]
    );
    lives.close().await;
}

pub async fn an_agents_queue_has_one_active_consumer(world: &dyn World) {
    let (active, waiting, address) = (world.client(), world.client(), Address::Agent(host(5)));
    let mut first = active.consume(address, prefetch(10)).await.unwrap();
    let mut second = waiting.consume(address, prefetch(10)).await.unwrap();
    publish_all(&*waiting, address, &["a", "b", "c", "d"]).await;
    let held = take(&mut *first, 4).await;
    assert_quiet(&mut *second).await;
    held[0].ack().await.unwrap();
    drop((held, first));
    let taken_over = take(&mut *second, 3).await;
    assert_eq!(ids(&taken_over), ["b", "c", "d"]);
    active.close().await;
    waiting.close().await;
}

pub async fn results_are_shared_among_consumers(world: &dyn World) {
    let (one, other, agent) = (world.client(), world.client(), world.client());
    let mut first = one.consume(Address::Results, prefetch(1)).await.unwrap();
    let mut second = other.consume(Address::Results, prefetch(1)).await.unwrap();
    publish_all(&*agent, Address::Results, &["a", "b"]).await;
    let (a, b) = (next(&mut *first).await, next(&mut *second).await);
    assert_ne!(a.message_id, b.message_id);
    for client in [one, other, agent] {
        client.close().await;
    }
}

pub async fn one_publishers_messages_arrive_in_order(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(6)));
    let mut consumer = client.consume(address, prefetch(16)).await.unwrap();
    let sent: Vec<String> = (0..200).map(|number| format!("{number:04}")).collect();
    let published = async {
        for id in &sent {
            client.publish(address, id, Bytes::new()).await.unwrap();
        }
    };
    let received = async {
        let mut received = Vec::new();
        for _ in 0..sent.len() {
            let delivery = next(&mut *consumer).await;
            delivery.ack().await.unwrap();
            received.push(delivery.message_id);
        }
        received
    };
    let ((), received) = tokio::join!(published, received);
    assert_eq!(received, sent);
    client.close().await;
}

pub async fn a_repeated_publish_keeps_its_message_id(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(7)));
    let mut consumer = client.consume(address, prefetch(10)).await.unwrap();
    publish_all(&*client, address, &["same", "same"]).await;
    assert_eq!(ids(&take(&mut *consumer, 2).await), ["same", "same"]);
    client.close().await;
}

pub async fn no_more_is_handed_out_than_the_prefetch(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(8)));
    let mut consumer = client.consume(address, prefetch(3)).await.unwrap();
    publish_all(&*client, address, &["a", "b", "c", "d", "e"]).await;
    let held = take(&mut *consumer, 3).await;
    assert_quiet(&mut *consumer).await;
    held[0].ack().await.unwrap();
    assert_eq!(next(&mut *consumer).await.message_id, "d");
    client.close().await;
}

pub async fn a_rejected_message_becomes_a_dead_letter_that_names_its_origin(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(9)));
    let mut dead_letters = client
        .consume(Address::DeadLetters, prefetch(10))
        .await
        .unwrap();
    let mut consumer = client.consume(address, prefetch(1)).await.unwrap();
    publish_all(&*client, address, &["bad", "good"]).await;
    next(&mut *consumer).await.reject().await.unwrap();
    assert_eq!(next(&mut *consumer).await.message_id, "good");

    let dead = next(&mut *dead_letters).await;
    assert_eq!(
        (dead.message_id.as_str(), &dead.payload[..]),
        ("bad", &b"bad"[..])
    );
    assert_eq!(dead.dead_letter_queue, Some(address.to_string()));
    dead.ack().await.unwrap();

    let mut results = client.consume(Address::Results, prefetch(1)).await.unwrap();
    publish_all(&*client, Address::Results, &["worse"]).await;
    next(&mut *results).await.reject().await.unwrap();
    let dead = next(&mut *dead_letters).await;
    assert_eq!(dead.message_id, "worse");
    assert_eq!(
        dead.dead_letter_queue.as_deref(),
        Some("controller.results")
    );
    client.close().await;
}

pub async fn a_large_message_arrives_whole(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(10)));
    let mut consumer = client.consume(address, prefetch(1)).await.unwrap();
    let large: Bytes = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    client
        .publish(address, "large", large.clone())
        .await
        .unwrap();
    assert!(next(&mut *consumer).await.payload == large);
    client.close().await;
}

pub async fn telemetry_keeps_the_newest_and_drops_the_oldest(world: &dyn World) {
    const SENT: usize = 10_100;
    const KEPT: usize = 10_000;
    let client = world.client();
    client.declare(Address::Telemetry).await.unwrap();
    let sent: Vec<String> = (0..SENT).map(|number| format!("{number:05}")).collect();
    for some in sent.chunks(50) {
        let publishes = some
            .iter()
            .map(|id| client.publish(Address::Telemetry, id, Bytes::new()));
        for published in futures::future::join_all(publishes).await {
            published.unwrap();
        }
    }
    let mut consumer = client
        .consume(Address::Telemetry, prefetch(1000))
        .await
        .unwrap();
    let mut received = BTreeSet::new();
    while received.len() < KEPT {
        let delivery = next(&mut *consumer).await;
        delivery.ack().await.unwrap();
        received.insert(delivery.message_id);
    }
    assert_quiet(&mut *consumer).await;
    assert!(received.contains(&sent[SENT - 1]) && !received.contains(&sent[0]));
    client.close().await;
}

/// Answers every question with itself, twice.
fn echo(mut questions: mpsc::Receiver<ReadRequest>) {
    tokio::spawn(async move {
        while let Some(ReadRequest { payload, reply }) = questions.recv().await {
            reply([&payload[..], &payload[..]].concat().into()).await;
        }
    });
}

pub async fn reads_are_answered_each_with_its_own(world: &dyn World) {
    let (controller, agent, address) = (
        world.client(),
        world.client(),
        Address::AgentReads(host(11)),
    );
    echo(agent.serve_reads(address).await.unwrap());
    let questions: Vec<String> = (0..20).map(|number| format!("<{number}>")).collect();
    let reads = questions
        .iter()
        .map(|q| controller.read(address, q.clone().into(), PATIENCE));
    for (question, answer) in questions.iter().zip(futures::future::join_all(reads).await) {
        assert_eq!(answer.unwrap(), format!("{question}{question}"));
    }
    controller.close().await;
    agent.close().await;
}

pub async fn a_read_that_nobody_answers_times_out(world: &dyn World) {
    let (controller, agent, address) = (
        world.client(),
        world.client(),
        Address::AgentReads(host(12)),
    );
    let short = Duration::from_millis(600);
    let mut questions = agent.serve_reads(address).await.unwrap();
    let read = controller
        .read(address, Bytes::from_static(b"?"), short)
        .await;
    assert!(matches!(read, Err(RpcError::ReadTimeout(_))), "{read:?}");
    // A late answer finds nobody, and disturbs nothing.
    let late = questions.recv().await.unwrap();
    (late.reply)(Bytes::from_static(b"late")).await;
    echo(questions);
    let answer = controller
        .read(address, Bytes::from_static(b"?"), PATIENCE)
        .await
        .unwrap();
    assert_eq!(answer, "??");
    // A server that is gone: nobody answers at once.
    agent.close().await;
    let read = controller
        .read(address, Bytes::from_static(b"?"), short)
        .await;
    assert!(matches!(read, Err(RpcError::ReadTimeout(_))), "{read:?}");
    controller.close().await;
}

pub async fn a_read_of_a_host_that_never_served_is_unroutable(world: &dyn World) {
    let (client, address) = (world.client(), Address::AgentReads(host(13)));
    let read = client
        .read(address, Bytes::from_static(b"?"), PATIENCE)
        .await;
    assert!(
        matches!(read, Err(RpcError::Unroutable(to)) if to == address),
        "{read:?}"
    );
    client.close().await;
}

pub async fn an_acknowledgement_after_the_consumer_is_gone_fails(world: &dyn World) {
    let (client, address) = (world.client(), Address::Agent(host(14)));
    let mut consumer = client.consume(address, prefetch(1)).await.unwrap();
    publish_all(&*client, address, &["a"]).await;
    let held = next(&mut *consumer).await;
    drop(consumer);
    let mut other = client.consume(address, prefetch(1)).await.unwrap();
    let again = next(&mut *other).await;
    assert!(matches!(held.ack().await, Err(RpcError::Disconnected(_))));
    // And it did not acknowledge the other delivery.
    drop((again, other));
    let mut third = client.consume(address, prefetch(1)).await.unwrap();
    assert_eq!(next(&mut *third).await.message_id, "a");
    client.close().await;
}

pub async fn close_ends_everything(world: &dyn World) {
    let (client, other, address) = (world.client(), world.client(), Address::Agent(host(15)));
    let reads = Address::AgentReads(host(15));
    let mut questions = client.serve_reads(reads).await.unwrap();
    let mut consumer = client.consume(address, prefetch(1)).await.unwrap();
    publish_all(&*client, address, &["a"]).await;
    let held = next(&mut *consumer).await;
    let waiting = tokio::spawn(async move { (consumer.next().await.is_none(), consumer) });
    client.close().await;
    client.close().await;

    assert!(!client.is_connected());
    let (ended, consumer) = timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(ended);
    assert!(timeout(PATIENCE, questions.recv()).await.unwrap().is_none());
    let gone = |outcome: Result<(), RpcError>| matches!(outcome, Err(RpcError::Disconnected(_)));
    assert!(gone(held.ack().await));
    assert!(gone(client.publish(address, "b", Bytes::new()).await));
    assert!(gone(client.declare(address).await));
    assert!(gone(client.consume(address, prefetch(1)).await.map(drop)));
    assert!(gone(client.serve_reads(reads).await.map(drop)));
    assert!(gone(
        client.read(reads, Bytes::new(), PATIENCE).await.map(drop)
    ));
    // What it held comes to another, though its consumer still exists.
    let mut successor = other.consume(address, prefetch(1)).await.unwrap();
    assert_eq!(next(&mut *successor).await.message_id, "a");
    drop(consumer);
    other.close().await;
}

pub async fn many_publishers_lose_nothing(world: &dyn World) {
    let (client, address) = (world.client(), Address::Results);
    let mut consumer = client.consume(address, prefetch(100)).await.unwrap();
    // A publish that nobody routes, among many that are: each must get its own outcome.
    let nowhere = Address::Agent(host(16));
    let publish = async |number: usize| {
        let id = format!("{number:04}");
        if number.is_multiple_of(7) {
            let lost = client.publish(nowhere, &id, Bytes::new()).await;
            assert!(matches!(lost, Err(RpcError::Unroutable(_))), "{lost:?}");
            None
        } else {
            client.publish(address, &id, Bytes::new()).await.unwrap();
            Some(id)
        }
    };
    let sent = futures::future::join_all((0..700).map(publish)).await;
    let sent: BTreeSet<String> = sent.into_iter().flatten().collect();
    let mut received = BTreeSet::new();
    while received.len() < sent.len() {
        let delivery = next(&mut *consumer).await;
        delivery.ack().await.unwrap();
        received.insert(delivery.message_id);
    }
    assert_eq!(received, sent);
    client.close().await;
}

pub async fn a_killed_broker_loses_nothing_it_confirmed(world: &dyn World) {
    let disturbance = async {
        tokio::time::sleep(Duration::from_millis(500) + world.settling()).await;
        world.crash(false).await;
    };
    let counts = checker::run(world, 200, disturbance).await;
    println!("{counts:?}");
    assert!(
        counts.acknowledged >= 200 && counts.ok == counts.acknowledged,
        "{counts:?}"
    );
    assert_eq!((counts.lost, counts.unexpected), (0, 0), "{counts:?}");
}

pub async fn a_broker_that_lost_its_disk_gets_its_queues_again(world: &dyn World) {
    let (controller, agent) = (world.client(), world.client());
    let (alive, dead) = (Address::Agent(host(17)), Address::Agent(host(18)));
    let reads = Address::AgentReads(host(17));
    controller.declare(dead).await.unwrap();
    let mut commands = agent.consume(alive, prefetch(4)).await.unwrap();
    echo(agent.serve_reads(reads).await.unwrap());
    let mut results = controller
        .consume(Address::Results, prefetch(4))
        .await
        .unwrap();
    publish_all(&*controller, alive, &["before"]).await;
    let held = next(&mut *commands).await;

    world.crash(true).await;

    // To a queue that nobody consumes, so that only its declarer can have made it again.
    until_confirmed(&*controller, dead, "waits").await;
    // The agent's own consumer comes back by itself: until then the controller, which has not
    // declared its queue, is told that there is none.
    loop {
        match controller.publish(alive, "after", Bytes::new()).await {
            Ok(()) => break,
            Err(RpcError::Configuration(error)) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let again = loop {
        let delivery = next(&mut *commands).await;
        let old = delivery.message_id == "before";
        let _ = delivery.ack().await;
        if !old {
            break delivery.message_id;
        }
    };
    assert_eq!(again, "after");
    assert!(held.ack().await.is_err());
    until_confirmed(&*agent, Address::Results, "result").await;
    assert_eq!(next(&mut *results).await.message_id, "result");
    let answer = loop {
        match controller
            .read(reads, Bytes::from_static(b"!"), Duration::from_secs(2))
            .await
        {
            Ok(answer) => break answer,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(answer, "!!");
    let mut late = agent.consume(dead, prefetch(1)).await.unwrap();
    assert_eq!(next(&mut *late).await.message_id, "waits");
    controller.close().await;
    agent.close().await;
}

/// Not "loses nothing": RabbitMQ may have lost the queue and all that it held (see `settling`).
pub async fn a_queue_works_after_a_kill_right_after_its_declaration(world: &dyn World) {
    let (controller, agent, address) = (world.client(), world.client(), Address::Agent(host(19)));
    controller.declare(address).await.unwrap();
    let mut consumer = agent.consume(address, prefetch(4)).await.unwrap();
    publish_all(&*controller, address, &["before"]).await;
    world.crash(false).await;
    until_confirmed(&*controller, address, "after").await;
    let received = async {
        loop {
            let delivery = next(&mut *consumer).await;
            let _ = delivery.ack().await;
            if delivery.message_id == "after" {
                return;
            }
        }
    };
    timeout(PATIENCE, received).await.unwrap();
    controller.close().await;
    agent.close().await;
}
