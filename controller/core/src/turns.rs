//! Turns: what would only lose against each other in the database is done one after the other within a
//! controller.
//!
//! Two requests that add to what one project has read and write the same counts: the database lets one of
//! them commit, and the other is run again. So that many at once do not mostly run in vain, those of a
//! project wait for each other here, in the order in which they came. It is no lock that anything relies on:
//! other controllers have turns of their own, and between them the database decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// By what is added to. Keys that nobody waits for are forgotten.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<String, Arc<Queue<()>>>>);

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    key: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn.
    pub async fn of(&self, key: &str) -> Turn<'_> {
        let queue = Arc::clone(self.queues().entry(key.to_owned()).or_default());
        // Made before it waits, so that a caller that goes away leaves nothing behind.
        let mut turn = Turn {
            turns: self,
            key: key.to_owned(),
            held: None,
        };
        turn.held = Some(queue.lock_owned().await);
        turn
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<String, Arc<Queue<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut queues = self.turns.queues();
        // Whoever waits has it, too; who comes next takes it from the map, which is locked.
        if queues
            .get(&self.key)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn those_of_one_key_wait_for_each_other_and_for_nobody_else() {
        let turns = Turns::default();
        let first = turns.of("a").await;
        let mut second = Box::pin(turns.of("a"));
        assert!(second.as_mut().now_or_never().is_none());
        let other = turns.of("b").await;
        drop(first);
        let second = second.await;
        assert!(turns.of("a").now_or_never().is_none());
        drop((second, other));
        assert!(turns.queues().is_empty(), "{turns:?}");
    }
}
