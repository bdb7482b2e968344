//! One conformance suite, run on every transport.
//!
//! [`properties`] says what the seam promises, one function a promise, for any [`World`]: a
//! broker and the means to kill it. [`checker`] counts what became of messages while the broker
//! dies, in the words of RabbitMQ's own Jepsen suite. Below, each property runs in process, and over
//! a socket, with a broker of its own; and all of them on one real RabbitMQ, a namespace each.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod accounts;
mod checker;
mod properties;
mod world;

use world::{InProcessWorld, RabbitWorld, SocketWorld, World};

/// Runs each property: `in_process::<name>` and `over_a_socket::<name>` by itself, and all in a row on RabbitMQ.
macro_rules! properties {
    ($($name:ident),+ $(,)?) => {
        mod in_process {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    crate::properties::$name(&crate::InProcessWorld::default()).await;
                }
            )+
        }

        mod over_a_socket {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    crate::properties::$name(&crate::SocketWorld::default()).await;
                }
            )+
        }

        async fn all_on(world: &RabbitWorld) {
            $(
                world.enter(stringify!($name));
                properties::$name(world).await;
            )+
        }
    };
}

properties![
    what_is_not_acknowledged_comes_again,
    what_is_acknowledged_does_not_come_again,
    a_publish_to_a_queue_that_nobody_declared_is_unroutable,
    controllers_queues_need_no_declaration_by_agents,
    a_dead_consumers_messages_go_to_the_next_in_their_order,
    an_agents_queue_has_one_active_consumer,
    results_are_shared_among_consumers,
    one_publishers_messages_arrive_in_order,
    a_repeated_publish_keeps_its_message_id,
    no_more_is_handed_out_than_the_prefetch,
    a_rejected_message_becomes_a_dead_letter_that_names_its_origin,
    a_large_message_arrives_whole,
    telemetry_keeps_the_newest_and_drops_the_oldest,
    reads_are_answered_each_with_its_own,
    a_read_that_nobody_answers_times_out,
    a_read_of_a_host_that_never_served_is_unroutable,
    an_acknowledgement_after_the_consumer_is_gone_fails,
    close_ends_everything,
    many_publishers_lose_nothing,
    a_killed_broker_loses_nothing_it_confirmed,
    a_broker_that_lost_its_disk_gets_its_queues_again,
];

/// The transport's own words, for a test that fails.
fn show_log() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter("warn,lapin=off,berth_rpc=debug")
        .with_ansi(false)
        .with_test_writer()
        .try_init();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_has_every_property() {
    show_log();
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    all_on(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_rabbitmq_left_without_a_leader_is_made_again() {
    show_log();
    let Some(world) = RabbitWorld::start().await else {
        return;
    };
    world.enter("leaderless");
    properties::a_queue_works_after_a_kill_right_after_its_declaration(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_fault_at_once_nothing_that_was_confirmed_is_lost() {
    for seed in 0..20 {
        let world = InProcessWorld::with_faults(seed);
        let counts = checker::run(&world, 300, async { world.calm_after_a_while().await }).await;
        assert_eq!(counts.lost, 0, "seed {seed}: {counts:?}");
        assert_eq!(counts.unexpected, 0, "seed {seed}: {counts:?}");
        assert!(
            counts.duplicated > 0,
            "seed {seed} had no fault: {counts:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_and_past_a_broker_that_is_down() {
    let Some(world) = RabbitWorld::start_with_tls().await else {
        return;
    };
    world.enter("tls");
    properties::what_is_acknowledged_does_not_come_again(&world).await;
    properties::reads_are_answered_each_with_its_own(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_at_a_socket_goes_on_when_it_is_served_again() {
    let world = SocketWorld::default();
    properties::consumers_and_questions_outlive_a_connection(&world, || world.serve_anew()).await;
}
