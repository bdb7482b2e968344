//! Queues: what is published, handed out, acknowledged, rejected.

use super::*;

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
