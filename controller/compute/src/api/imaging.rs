//! What Nova asks of Glance before it accepts a server.

use super::common::{Call, bad};
use crate::flavors::Flavor;
use berth_controller_core::ApiError;
use berth_controller_core::store::{StoreError, Tx};
use berth_controller_image::{BootSources, records};
use berth_rpc_types::ImageId;

/// Bytes of a GiB.
const GIB: i64 = 1 << 30;

/// What is known of an image that a server boots from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Glance's status.
    pub status: String,
    /// MiB that it needs.
    pub min_ram: i64,
    /// GiB that it needs.
    pub min_disk: i64,
    /// Bytes of the disk in it, as far as known: the file's, or more for a sparse format.
    pub size: i64,
}

/// Whether a server of this flavor can boot from an image, in Nova's words and order.
///
/// # Errors
/// 400 with the image, what it needs, and what the flavor has.
pub fn fits(id: ImageId, image: &Facts, flavor: &Flavor) -> Result<(), ApiError> {
    if image.status != "active" {
        return Err(bad(format!(
            "Image {id} is unacceptable: its status is {}, not active.",
            image.status
        )));
    }
    if flavor.ram < image.min_ram {
        return Err(bad(format!(
            "Flavor's memory is too small for requested image: {} has {} MB, image {id} needs {} MB.",
            flavor.name, flavor.ram, image.min_ram
        )));
    }
    // A flavor's 0 is the image's own size.
    if flavor.disk == 0 {
        return Ok(());
    }
    let bytes = flavor.disk.saturating_mul(GIB);
    if image.size > bytes {
        return Err(bad(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {bytes} bytes, image is {} bytes.",
            image.size
        )));
    }
    if flavor.disk < image.min_disk {
        return Err(bad(format!(
            "The requested flavor's disk is too small: {} has {} GB, image {id} has a minimum of {} GB.",
            flavor.name, flavor.disk, image.min_disk
        )));
    }
    Ok(())
}

/// What a server of this image boots from, if the flavor is large enough for it.
///
/// # Errors
/// 400 as [`fits`] and [`BootSources::of`], and for an image that the project does not see.
pub async fn check(
    tx: &mut Tx,
    call: &Call,
    id: ImageId,
    flavor: &Flavor,
) -> Result<BootSources, ApiError> {
    let facts = facts(tx, call, id).await?;
    let facts = facts.ok_or_else(|| bad(format!("Can not find requested image {id}.")))?;
    fits(id, &facts, flavor)?;
    BootSources::of(tx, &call.context.reach, id).await
}

/// An image that the caller sees.
async fn facts(tx: &mut Tx, call: &Call, id: ImageId) -> Result<Option<Facts>, StoreError> {
    let seen = records::seen(tx, &call.context.reach, &id.to_string()).await?;
    Ok(seen.map(|i| Facts {
        status: i.status,
        min_ram: i.min_ram,
        min_disk: i.min_disk,
        size: i.size.max(i.virtual_size).unwrap_or(0),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn flavor(ram: i64, disk: i64) -> Flavor {
        Flavor {
            id: "1".into(),
            name: "f".into(),
            vcpus: 1,
            ram,
            disk,
            description: None,
            is_public: true,
            extra_specs: Default::default(),
        }
    }

    #[test]
    fn what_is_too_small_is_named_with_both_sizes() {
        let id = ImageId::from_u128(1);
        let image = |status: &str| Facts {
            status: status.into(),
            min_ram: 512,
            min_disk: 5,
            size: 2 * GIB,
        };
        assert!(fits(id, &image("active"), &flavor(512, 5)).is_ok());
        assert!(fits(id, &image("active"), &flavor(512, 0)).is_ok());
        for (status, ram, disk, words) in [
            ("queued", 512, 5, "status is queued"),
            ("active", 511, 5, "511 MB"),
            ("active", 512, 4, "minimum of 5 GB"),
            (
                "active",
                512,
                1,
                "disk is 1073741824 bytes, image is 2147483648",
            ),
        ] {
            let error = fits(id, &image(status), &flavor(ram, disk)).unwrap_err();
            assert_eq!(error.status.as_u16(), 400);
            assert!(error.message.contains(words), "{}", error.message);
        }
    }
}
