//! With which projects an image is shared. A project that it was shared with finds it by its id at once,
//! and in its lists once it has accepted it.

use berth_controller_core::store::{StoreError, Tx};
use berth_controller_core::{params, row};

/// How many an image may have, as in Glance.
pub(crate) const MOST: i64 = 128;

row! {
    /// One, as stored.
    #[derive(Clone, Debug)]
    pub(crate) struct Member {
        /// The image.
        pub image_id: String,
        /// The project.
        pub member: String,
        /// `pending`, `accepted`, `rejected`
        pub status: String,
        /// Unix milliseconds.
        pub created_at: i64,
        /// Unix milliseconds.
        pub updated_at: i64,
    }
}

/// An image's, by project.
///
/// # Errors
/// The store's.
pub(crate) async fn list(tx: &mut Tx, image: &str) -> Result<Vec<Member>, StoreError> {
    let sql = "SELECT * FROM image_members WHERE image_id = $1 ORDER BY created_at, member";
    tx.query(sql, params![image]).await
}

/// One.
///
/// # Errors
/// The store's.
pub(crate) async fn find(
    tx: &mut Tx,
    image: &str,
    member: &str,
) -> Result<Option<Member>, StoreError> {
    let sql = "SELECT * FROM image_members WHERE image_id = $1 AND member = $2";
    tx.query_opt(sql, params![image, member]).await
}

/// Makes one, unless the image has too many: whether.
///
/// # Errors
/// [`StoreError::Conflict`] for one that is there.
pub(crate) async fn add(
    tx: &mut Tx,
    now: i64,
    image: &str,
    member: &str,
) -> Result<bool, StoreError> {
    let sql = "INSERT INTO image_members (image_id, member, status, created_at, updated_at) \
               SELECT $1, $2, 'pending', $3, $3 \
               WHERE (SELECT COUNT(*) FROM image_members WHERE image_id = $1) < $4";
    Ok(tx.execute(sql, params![image, member, now, MOST]).await? == 1)
}

/// What the member says of it.
///
/// # Errors
/// The store's.
pub(crate) async fn answer(
    tx: &mut Tx,
    now: i64,
    image: &str,
    member: &str,
    status: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE image_members SET status = $1, updated_at = $2 \
               WHERE image_id = $3 AND member = $4";
    tx.execute(sql, params![status, now, image, member]).await?;
    Ok(())
}

/// Ends one: whether there was one.
///
/// # Errors
/// The store's.
pub(crate) async fn remove(tx: &mut Tx, image: &str, member: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM image_members WHERE image_id = $1 AND member = $2";
    Ok(tx.execute(sql, params![image, member]).await? == 1)
}
