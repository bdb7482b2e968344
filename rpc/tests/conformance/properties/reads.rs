//! Questions and their answers.

use super::*;

/// Answers every question with itself, twice.
pub(super) fn echo(mut questions: mpsc::Receiver<ReadRequest>) {
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
