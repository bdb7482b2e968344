//! Consumers, publishers and brokers that die.

use super::reads::echo;
use super::*;

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

/// Of a world whose connections `end`s, and which lets clients in again.
pub async fn consumers_and_questions_outlive_a_connection(world: &dyn World, end: impl Fn()) {
    let (client, agent, address) = (world.client(), world.client(), Address::Agent(host(21)));
    let reads = Address::AgentReads(host(21));
    let mut consumer = agent.consume(address, prefetch(10)).await.unwrap();
    echo(agent.serve_reads(reads).await.unwrap());
    publish_all(&*client, address, &["a"]).await;
    let held = next(&mut *consumer).await;
    end();
    let again = next(&mut *consumer).await;
    assert_eq!((again.message_id.as_str(), again.redelivered), ("a", true));
    assert!(matches!(held.ack().await, Err(RpcError::Disconnected(_))));
    again.ack().await.unwrap();
    publish_all(&*client, address, &["b"]).await;
    assert_eq!(next(&mut *consumer).await.message_id, "b");
    // Its questions come back when it does; until then nobody answers.
    let answer = async {
        loop {
            let read = client.read(reads, Bytes::from_static(b"?"), Duration::from_secs(1));
            if let Ok(answer) = read.await {
                return answer;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, answer).await.unwrap(), "??");
    agent.close().await;
    client.close().await;
}
