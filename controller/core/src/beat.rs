//! The cloud's own clock: a row that is counted on while a controller runs, once a [`BEAT`] however many
//! of them there are. A host is down that has not reported for some beats.
//!
//! Wall clocks jump, and differ; each of them would down the whole fleet at once, or show a dead host as
//! up. And while no controller ran, nobody could report: those are no beats.

use crate::listing::Condition;
use crate::params;
use crate::settings::ControlSettings;
use crate::store::{StoreError, Tx};
use std::time::Duration;

/// How long a beat is.
pub const BEAT: Duration = Duration::from_secs(1);

/// For how many beats a host has been silent. One that has never reported has been silent for ever. One whose
/// last report a controller of the release before took has not been silent until that is counted: it would get
/// no server meanwhile.
macro_rules! silent {
    () => {
        "CASE WHEN hosts.last_seen_at <> COALESCE((SELECT b.copied FROM host_beats b \
         WHERE b.host_id = hosts.id), 0) THEN 0 \
         ELSE COALESCE((SELECT c.beat - b.beat FROM beats c, host_beats b \
         WHERE b.host_id = hosts.id), 1000000000) END"
    };
}

/// Columns of a query of `hosts`: for how many beats a host has been silent, and when it was last seen.
pub const SEEN: &str = concat!(
    silent!(),
    " AS silent, \
     COALESCE((SELECT b.seen_at FROM host_beats b WHERE b.host_id = hosts.id), 0) AS seen_at"
);

impl ControlSettings {
    /// Whether a host counts as up that has been silent for so many beats.
    pub const fn is_up(&self, silent: i64, forced_down: bool) -> bool {
        !forced_down && silent <= self.beats()
    }

    /// Beats after which a silent host is down.
    const fn beats(&self) -> i64 {
        self.service_down_time as i64 * 1000 / BEAT.as_millis() as i64
    }
}

/// The same of rows of `hosts`.
pub fn is_up(control: &ControlSettings) -> Condition {
    Condition::new(
        concat!("hosts.forced_down = 0 AND ", silent!(), " <= ?"),
        [control.beats().into()],
    )
}

/// The beat that it is.
///
/// # Errors
/// [`StoreError`]
pub async fn now(tx: &mut Tx) -> Result<i64, StoreError> {
    let row = tx
        .query_opt::<(i64,)>("SELECT beat FROM beats", &[])
        .await?;
    Ok(row.map_or(0, |(beat,)| beat))
}

/// Counts on, if nobody has since the caller last looked, a beat ago: `last` is what it was given then.
/// So those who count take turns, and if one stops another goes on.
///
/// # Errors
/// [`StoreError`]
pub async fn count_on(tx: &mut Tx, last: i64) -> Result<i64, StoreError> {
    let beat = now(tx).await?;
    if beat != last {
        return Ok(beat);
    }
    let sql = "UPDATE beats SET beat = beat + 1 WHERE beat = $1";
    let counted = tx.execute(sql, params![beat]).await?;
    Ok(beat + i64::try_from(counted).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn those_who_count_take_turns() {
        let store = Store::connect("sqlite::memory:").await.unwrap();
        let count = async |last: i64| {
            let counted = store.tx(|tx| Box::pin(count_on(tx, last)));
            counted.await.unwrap()
        };
        // The first look of each counts nothing.
        let (mut a, mut b) = (count(0).await, count(0).await);
        assert_eq!((a, b), (1, 1));
        let mut seen = Vec::new();
        for _ in 0..3 {
            a = count(a).await;
            b = count(b).await;
            seen.push((a, b));
        }
        assert_eq!(seen, [(2, 2), (3, 3), (4, 4)]);
        // One of them stops.
        assert_eq!(count(b).await, 5);
        assert_eq!(count(5).await, 6);
    }
}
