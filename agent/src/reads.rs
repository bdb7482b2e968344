//! Answers questions that change nothing. A question that cannot be understood or answered
//! gets an error in words; nobody waits for one that is lost.

use crate::engine::Engine;
use berth_rpc::{Address, ReadRequest, RpcError};
use berth_rpc_types::{Read, ReadReply};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest console text in an answer, in bytes: its end is kept.
const CONSOLE_LIMIT: usize = 1 << 20;
/// Questions answered at the same time; the others wait.
const AT_ONCE: usize = 16;
const RETRY: Duration = Duration::from_secs(1);

/// Answers until the agent ends.
pub(crate) async fn answer(engine: Arc<Engine>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let mut questions = match engine
            .transport
            .serve_reads(Address::AgentReads(engine.host_id))
            .await
        {
            Ok(questions) => questions,
            Err(RpcError::Configuration(reason)) => {
                return tracing::error!(reason, "reads are not served");
            }
            Err(error) => {
                tracing::debug!(%error, "cannot serve reads yet");
                engine.clock.sleep(RETRY).await;
                continue;
            }
        };
        while let Some(question) = questions.recv().await {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                return;
            };
            let asked = Arc::clone(&engine);
            engine.spawn(async move {
                answer_one(&asked, question).await;
                drop(turn);
            });
        }
        engine.clock.sleep(RETRY).await;
    }
}

async fn answer_one(engine: &Engine, question: ReadRequest) {
    let reply = match serde_json::from_slice::<Read>(&question.payload) {
        Ok(Read::ConsoleLog {
            vmm_id,
            lines,
            request_id,
        }) => {
            tracing::debug!(%request_id, %vmm_id, "console log");
            match engine.driver.console_log(vmm_id, lines).await {
                Ok(output) => ReadReply::ConsoleLog {
                    output: end_of(output, CONSOLE_LIMIT),
                },
                Err(error) => ReadReply::Error {
                    message: error.to_string(),
                },
            }
        }
        Err(error) => ReadReply::Error {
            message: format!("this agent does not understand the question: {error}"),
        },
    };
    if let Ok(bytes) = serde_json::to_vec(&reply) {
        (question.reply)(bytes.into()).await;
    }
}

/// At most `limit` bytes from the end, cut at a character.
fn end_of(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mut start = text.len() - limit;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_console_keeps_its_end_and_its_characters_whole() {
        assert_eq!(end_of("abc".into(), 5), "abc");
        assert_eq!(end_of("aäbc".into(), 3), "bc");
    }
}
