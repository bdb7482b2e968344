//! The rows of images.

use crate::{members, refuse};
use axum::http::StatusCode;
use berth_controller_core::listing::{Condition, Direction, Field, Ids, Is, Table, markers};
use berth_controller_core::store::{FromRow, Json, Row, StoreError, Tx};
use berth_controller_core::{ApiError, params, policy::Reach};
use std::collections::BTreeMap;
use uuid::Uuid;

/// As they are listed.
pub(crate) const TABLE: Table = Table {
    kind: "image",
    from: "images i",
    id: "i.id",
    owner: "CASE WHEN i.visibility IN ('public', 'community') THEN '' ELSE i.owner END",
    fields: &[
        Field::new("id", "i.id", Is::Text),
        Field::new("name", "i.name", Is::Text).or_null(),
        Field::new("status", "i.status", Is::Text),
        Field::new("visibility", "i.visibility", Is::Text),
        Field::new("owner", "i.owner", Is::Text),
        Field::new("container_format", "i.container_format", Is::Text).or_null(),
        Field::new("disk_format", "i.disk_format", Is::Text).or_null(),
        Field::new("min_disk", "i.min_disk", Is::Number),
        Field::new("min_ram", "i.min_ram", Is::Number),
        Field::new("protected", "i.protected", Is::Flag),
        Field::new("os_hidden", "i.hidden", Is::Flag),
        Field::new("size", "i.size", Is::Number).or_null(),
        Field::new("checksum", "i.md5", Is::Text).or_null(),
        Field::new("os_hash_value", "i.sha512", Is::Text).or_null(),
        Field::new("created_at", "i.created_at", Is::Time),
        Field::new("updated_at", "i.updated_at", Is::Time),
    ],
    order: &[
        ("created_at", Direction::Descending),
        ("id", Direction::Descending),
    ],
};

/// Those that a project is shown in a list: its own, public ones, and those shared with it for which it
/// has said `member_status` (`None`: whatever it said); community images only if it asks for them.
pub(crate) fn visible(
    project: Option<&str>,
    community: bool,
    member_status: Option<&str>,
) -> Condition {
    let Some(project) = project else {
        return Condition::default();
    };
    let open = if community {
        "'public', 'community'"
    } else {
        "'public'"
    };
    let mut shared = Condition::new("m.member = ?", [project.into()]);
    if let Some(status) = member_status {
        shared.and(Condition::new("m.status = ?", [status.into()]));
    }
    let mut shared = shared.within("i.id", "SELECT m.image_id FROM image_members m");
    shared.and(Condition::new("i.visibility = 'shared'", []));
    let own = format!("i.owner = ? OR i.visibility IN ({open})");
    Condition::any([Condition::new(own, [project.into()]), shared])
}

/// An image as stored.
#[derive(Clone, Debug)]
pub struct Image {
    /// A UUID.
    pub id: String,
    /// The owning project.
    pub owner: String,
    /// Its name.
    pub name: Option<String>,
    /// `queued`, `saving`, `active`, `deactivated`
    pub status: String,
    /// `public`, `private`, `shared`, `community`
    pub visibility: String,
    /// `bare`
    pub container_format: Option<String>,
    /// `raw`, `qcow2`, `aki`, `ari`
    pub disk_format: Option<String>,
    /// GiB that a flavor must have.
    pub min_disk: i64,
    /// MiB that a flavor must have.
    pub min_ram: i64,
    /// Whether it refuses to be deleted.
    pub protected: bool,
    /// Whether lists leave it out.
    pub hidden: bool,
    /// Bytes, once uploaded.
    pub size: Option<i64>,
    /// Bytes of the disk in it, where they are known: a raw image's own size, what a qcow2
    /// image's header says.
    pub virtual_size: Option<i64>,
    /// Lower-case hex, once uploaded.
    pub md5: Option<String>,
    /// Lower-case hex, once uploaded.
    pub sha512: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Everything else.
    pub properties: BTreeMap<String, String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

impl FromRow for Image {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let size = row.get("size")?;
        let disk_format: Option<String> = row.get("disk_format")?;
        let is_raw = disk_format.as_deref() == Some("raw");
        Ok(Self {
            id: row.get("id")?,
            owner: row.get("owner")?,
            name: row.get("name")?,
            status: row.get("status")?,
            visibility: row.get("visibility")?,
            container_format: row.get("container_format")?,
            disk_format,
            min_disk: row.get("min_disk")?,
            min_ram: row.get("min_ram")?,
            protected: row.get("protected")?,
            hidden: row.get("hidden")?,
            size,
            virtual_size: if is_raw {
                size
            } else {
                row.get("virtual_size")?
            },
            md5: row.get("md5")?,
            sha512: row.get("sha512")?,
            tags: row.get::<Json<_>>("tags")?.0,
            properties: row.get::<Json<_>>("properties")?.0,
            created_at: row.get("created_at")?,
            updated_at: row.get("updated_at")?,
        })
    }
}

impl Image {
    /// Refuses callers who may see but not change it.
    ///
    /// # Errors
    /// 403.
    pub fn must_be_owned_by(&self, reach: &Reach) -> Result<(), ApiError> {
        if reach.covers(&self.owner) {
            return Ok(());
        }
        Err(refuse(
            StatusCode::FORBIDDEN,
            format!(
                "You are not permitted to change image {}: it is another project's.",
                self.id
            ),
        ))
    }
}

/// A 404 for an image.
pub fn missing(id: &str) -> ApiError {
    refuse(
        StatusCode::NOT_FOUND,
        format!(
            "No image found with ID {}",
            berth_controller_core::body::clip(id)
        ),
    )
}

/// What an [`Image`] is made of.
const READ: &str = "SELECT images.*, virtual_sizes.bytes AS virtual_size \
                    FROM images LEFT JOIN virtual_sizes ON virtual_sizes.image_id = images.id";

/// Those of a page, in its order.
///
/// # Errors
/// The store's.
pub(crate) async fn of_page(tx: &mut Tx, page: &Ids) -> Result<Vec<Image>, StoreError> {
    let (sql, values) = page.among("images.id").statement(READ, "");
    let images = tx.query(&sql, &values).await?;
    Ok(page.in_order(images, |image: &Image| image.id.clone()))
}

/// One, whoever's it is.
///
/// # Errors
/// The store's.
pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<Image>, StoreError> {
    tx.query_opt(&format!("{READ} WHERE id = $1"), params![id])
        .await
}

/// One, if who reaches so far may see it: its own, a public or community one, and one that is shared with
/// it.
///
/// # Errors
/// The store's.
pub async fn seen(tx: &mut Tx, reach: &Reach, id: &str) -> Result<Option<Image>, StoreError> {
    let Some(image) = find(tx, id).await? else {
        return Ok(None);
    };
    let is_open = matches!(image.visibility.as_str(), "public" | "community");
    if is_open || reach.covers(&image.owner) {
        return Ok(Some(image));
    }
    if image.visibility == "shared"
        && let Some(project) = reach.project()
        && members::find(tx, id, project).await?.is_some()
    {
        return Ok(Some(image));
    }
    Ok(None)
}

/// One, if the caller may see it.
///
/// # Errors
/// 404 otherwise.
pub async fn load(tx: &mut Tx, reach: &Reach, id: &str) -> Result<Image, ApiError> {
    let image = seen(tx, reach, id).await?;
    image.ok_or_else(|| missing(id))
}

/// Stores a new one.
///
/// # Errors
/// 409 for an id that is taken, or was.
pub async fn insert(tx: &mut Tx, image: &Image) -> Result<(), ApiError> {
    let taken = || {
        refuse(
            StatusCode::CONFLICT,
            format!("Image ID {} already exists!", image.id),
        )
    };
    let sql = "SELECT id FROM retired_images WHERE id = $1";
    let retired: Option<(String,)> = tx.query_opt(sql, params![&image.id]).await?;
    if retired.is_some() {
        return Err(taken());
    }
    let i = image.clone();
    tx.execute(
        "INSERT INTO images (id, owner, name, status, visibility, container_format, disk_format, \
         min_disk, min_ram, protected, hidden, tags, properties, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        params![
            i.id,
            i.owner,
            i.name,
            i.status,
            i.visibility,
            i.container_format,
            i.disk_format,
            i.min_disk,
            i.min_ram,
            i.protected,
            i.hidden,
            serde_json::json!(i.tags),
            serde_json::json!(i.properties),
            i.created_at,
            i.updated_at
        ],
    )
    .await
    .map_err(|e| match e {
        StoreError::Conflict(_) => taken(),
        other => other.into(),
    })?;
    Ok(())
}

/// Stores what a user changed; not what an upload writes.
///
/// # Errors
/// The store's.
pub async fn update(tx: &mut Tx, image: &Image) -> Result<(), StoreError> {
    let i = image.clone();
    tx.execute(
        "UPDATE images SET name = $1, visibility = $2, container_format = $3, disk_format = $4, \
         min_disk = $5, min_ram = $6, protected = $7, hidden = $8, tags = $9, properties = $10, \
         updated_at = $11, owner = $12 WHERE id = $13",
        params![
            i.name,
            i.visibility,
            i.container_format,
            i.disk_format,
            i.min_disk,
            i.min_ram,
            i.protected,
            i.hidden,
            serde_json::json!(i.tags),
            serde_json::json!(i.properties),
            i.updated_at,
            i.owner,
            i.id
        ],
    )
    .await?;
    Ok(())
}

/// Moves an image from one status to another; `false` if it was in none of `from`.
///
/// # Errors
/// The store's.
pub async fn transition(
    tx: &mut Tx,
    id: &str,
    from: &str,
    to: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let sql = "UPDATE images SET status = $1, updated_at = $2 WHERE id = $3 AND status = $4";
    Ok(tx.execute(sql, params![to, now, id, from]).await? == 1)
}

/// How often an upload says that it goes on.
pub const SIGN_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);

/// Gives a queued image to one upload; `false` if it is not queued.
///
/// # Errors
/// The store's.
pub async fn begin_upload(
    tx: &mut Tx,
    id: &str,
    upload: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let sql = "UPDATE images SET status = 'saving', upload = $1, updated_at = $2 \
               WHERE id = $3 AND status = 'queued'";
    Ok(tx.execute(sql, params![upload, now, id]).await? == 1)
}

/// The upload's sign of life; `false` if the image is no longer its own.
///
/// # Errors
/// The store's.
pub async fn upload_goes_on(
    tx: &mut Tx,
    id: &str,
    upload: &str,
    now: i64,
) -> Result<bool, StoreError> {
    let sql = "UPDATE images SET updated_at = $1 \
               WHERE id = $2 AND status = 'saving' AND upload = $3";
    Ok(tx.execute(sql, params![now, id, upload]).await? == 1)
}

/// Ends an upload that failed: its image waits for data again.
///
/// # Errors
/// The store's.
pub async fn upload_failed(
    tx: &mut Tx,
    id: &str,
    upload: &str,
    now: i64,
) -> Result<(), StoreError> {
    let sql = "UPDATE images SET status = 'queued', upload = NULL, updated_at = $1 \
               WHERE id = $2 AND status = 'saving' AND upload = $3";
    tx.execute(sql, params![now, id, upload]).await?;
    Ok(())
}

/// Ends uploads that have given no sign for more than `beats` beats; tells how many. A sign is any change of
/// `updated_at`, whatever the clock of the controller that gave it says.
///
/// # Errors
/// The store's.
pub async fn end_silent_uploads(tx: &mut Tx, beats: i64, now: i64) -> Result<u64, StoreError> {
    tx.execute(
        "INSERT INTO upload_beats (image_id, beat, said_at) SELECT i.id, c.beat, i.updated_at \
         FROM beats c, images i LEFT JOIN upload_beats u ON u.image_id = i.id \
         WHERE i.status = 'saving' AND (u.said_at IS NULL OR u.said_at <> i.updated_at) \
         ON CONFLICT (image_id) DO UPDATE SET beat = excluded.beat, said_at = excluded.said_at",
        &[],
    )
    .await?;
    tx.execute(
        "DELETE FROM upload_beats \
         WHERE image_id NOT IN (SELECT id FROM images WHERE status = 'saving')",
        &[],
    )
    .await?;
    let sql = "UPDATE images SET status = 'queued', upload = NULL, updated_at = $1 \
               WHERE status = 'saving' AND id IN (SELECT u.image_id FROM upload_beats u, beats c \
               WHERE c.beat - u.beat > $2)";
    tx.execute(sql, params![now, beats]).await
}

/// Every image's id and checksum, and the ids of those that were deleted.
///
/// # Errors
/// The store's.
pub async fn ids(tx: &mut Tx) -> Result<(Vec<(Uuid, Option<String>)>, Vec<Uuid>), StoreError> {
    let known = tx.query("SELECT id, sha512 FROM images", params![]).await?;
    let retired: Vec<(Uuid,)> = tx.query("SELECT id FROM retired_images", params![]).await?;
    Ok((known, retired.into_iter().map(|(id,)| id).collect()))
}

/// How many bytes of images a project stores.
///
/// # Errors
/// The store's.
pub async fn stored(tx: &mut Tx, owner: &str) -> Result<u64, StoreError> {
    let sql = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS used FROM images WHERE owner = $1";
    let used: Option<(i64,)> = tx.query_opt(sql, params![owner]).await?;
    let used = used.and_then(|(used,)| u64::try_from(used).ok());
    Ok(used.unwrap_or(0))
}

/// Ends an upload well; `false` if the image is no longer its own. `virtual_size` is in bytes,
/// for formats whose files are not the disk itself.
///
/// # Errors
/// The store's.
pub async fn saved(
    tx: &mut Tx,
    id: &str,
    upload: &str,
    written: &super::files::Written,
    virtual_size: Option<u64>,
    now: i64,
) -> Result<bool, StoreError> {
    let changed = tx
        .execute(
            "UPDATE images SET status = 'active', size = $1, md5 = $2, sha512 = $3, \
             upload = NULL, updated_at = $4 WHERE id = $5 AND status = 'saving' AND upload = $6",
            params![written.size, &written.md5, &written.sha512, now, id, upload],
        )
        .await?;
    if let (1, Some(bytes)) = (changed, virtual_size) {
        let sql = "INSERT INTO virtual_sizes (image_id, bytes) VALUES ($1, $2) \
                   ON CONFLICT (image_id) DO UPDATE SET bytes = excluded.bytes";
        tx.execute(sql, params![id, bytes]).await?;
    }
    Ok(changed == 1)
}

/// Removes a row, and retires its id; `false` if it is protected or gone.
///
/// # Errors
/// The store's.
pub async fn delete(tx: &mut Tx, now: i64, id: &str) -> Result<bool, StoreError> {
    let which = Condition::new("i.id = ? AND i.protected = 0", [id.into()]);
    markers::keep(tx, &TABLE, &which).await?;
    let sql = "DELETE FROM images WHERE id = $1 AND protected = 0";
    if tx.execute(sql, params![id]).await? == 0 {
        return Ok(false);
    }
    for sql in [
        "DELETE FROM image_tokens WHERE image_id = $1",
        "DELETE FROM virtual_sizes WHERE image_id = $1",
        "DELETE FROM image_members WHERE image_id = $1",
    ] {
        tx.execute(sql, params![id]).await?;
    }
    let sql = "INSERT INTO retired_images (id, deleted_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    tx.execute(sql, params![id, now]).await?;
    Ok(true)
}
