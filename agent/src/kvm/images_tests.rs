//! The image cache, against a controller's double that breaks off, lies and counts.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::tests::image;
use crate::link::ByteStream;
use berth_rpc_types::link::{NetworkDocument, SyncReply, SyncRequest};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sends `bytes`; the first connection breaks after `breaks_after`.
struct Source {
    bytes: Vec<u8>,
    breaks_after: Option<usize>,
    connections: AtomicU64,
    sent: AtomicU64,
}

impl Controller for Source {
    fn sync(&self, _: SyncRequest) -> BoxFuture<'_, Result<SyncReply, LinkError>> {
        Box::pin(async { Err(LinkError::Configuration("not here".into())) })
    }
    fn networks(&self) -> BoxFuture<'_, Result<NetworkDocument, LinkError>> {
        Box::pin(async { Ok(NetworkDocument::default()) })
    }
    fn image<'a>(
        &'a self,
        _: &'a ImageSpec,
        offset: u64,
    ) -> BoxFuture<'a, Result<ByteStream, LinkError>> {
        let first = self.connections.fetch_add(1, Ordering::SeqCst) == 0;
        let rest = &self.bytes[usize::try_from(offset).unwrap()..];
        let broken = self.breaks_after.filter(|_| first);
        let sent = &rest[..broken.unwrap_or(rest.len())];
        self.sent.fetch_add(sent.len() as u64, Ordering::SeqCst);
        let mut chunks: Vec<_> = sent
            .chunks(1000)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        if broken.is_some() {
            chunks.push(Err(LinkError::Unreachable {
                url: "x".into(),
                reason: "broke".into(),
            }));
        }
        Box::pin(async { Ok(futures::stream::iter(chunks).boxed()) })
    }
}

fn cache(
    folder: &Path,
    bytes: &[u8],
    breaks_after: Option<usize>,
) -> (Images, Arc<Source>, ImageSpec) {
    let source = Arc::new(Source {
        bytes: bytes.to_vec(),
        breaks_after,
        connections: AtomicU64::new(0),
        sent: AtomicU64::new(0),
    });
    let mut image = image("raw");
    image.size = bytes.len() as u64;
    image.sha512 = hex::encode(Sha512::digest(bytes));
    (
        Images::new(
            folder.to_owned(),
            "berth-vmm".into(),
            source.clone(),
            Bound { bytes: 1 << 30 },
        ),
        source,
        image,
    )
}

/// The same cache, bounded, before a source of other bytes.
fn bounded(folder: &Path, bytes: &[u8], most: u64) -> (Images, ImageSpec) {
    let (mut images, _, image) = cache(folder, bytes, None);
    images.bound = Bound { bytes: most };
    (images, image)
}

#[tokio::test]
async fn an_image_leaves_the_cache_for_another_unless_a_guest_is_being_made_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let (token, progress) = (CancellationToken::new(), Progress::default());
    let (images, first) = bounded(folder.path(), &[7; 50_000], 120_000);
    let old = images.ready(&first, Use::Disk, &token, &progress).await;
    let old = old.unwrap();
    let (images, second) = bounded(folder.path(), &[8; 50_000], 120_000);
    images.pin(VmmId::from_u128(1), vec![old.clone()]);
    let new = images.ready(&second, Use::Disk, &token, &progress).await;
    assert!(new.unwrap().exists() && old.exists());
    images.unpin(VmmId::from_u128(1));
    let (images, third) = bounded(folder.path(), &[9; 50_000], 120_000);
    let new = images.ready(&third, Use::Disk, &token, &progress).await;
    assert!(new.unwrap().exists() && !old.exists());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".length"))
        .collect()
}

#[tokio::test]
async fn many_guests_share_one_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = vec![7; 50_000];
    let (images, source, image) = cache(folder.path(), &bytes, None);
    let (token, progress) = (CancellationToken::new(), Progress::default());
    let fetches = (0..20).map(|_| images.ready(&image, Use::Disk, &token, &progress));
    let paths = futures::future::try_join_all(fetches).await.unwrap();
    assert_eq!(source.connections.load(Ordering::SeqCst), 1);
    assert_eq!(fs::read(&paths[0]).unwrap(), bytes);
    assert_eq!(names(folder.path()).len(), 1);
}

#[tokio::test]
async fn everybody_who_waits_for_an_image_sees_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = vec![7; 50_000];
    let (images, _, image) = cache(folder.path(), &bytes, None);
    let (one, other) = (Progress::default(), Progress::default());
    let token = CancellationToken::new();
    let fetches = tokio::join!(
        images.ready(&image, Use::Ramdisk, &token, &one),
        images.ready(&image, Use::Ramdisk, &token, &other)
    );
    fetches.0.and(fetches.1).unwrap();
    for progress in [one, other] {
        let reading = progress.reading().unwrap();
        assert_eq!(reading.percent, 100);
        assert_eq!((reading.bytes.done, reading.bytes.total), (50_000, 50_000));
    }
    let late = Progress::default();
    let ready = images.ready(&image, Use::Ramdisk, &token, &late).await;
    assert!(
        ready.is_ok() && late.reading().is_none(),
        "nothing to do, nothing to tell"
    );
}

#[tokio::test]
async fn a_fetch_that_broke_off_is_resumed_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..50_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let (images, source, image) = cache(folder.path(), &bytes, Some(20_000));
    let path = images
        .ready(
            &image,
            Use::Disk,
            &CancellationToken::new(),
            &Progress::default(),
        )
        .await
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert_eq!(source.sent.load(Ordering::SeqCst), 50_000);
}

#[tokio::test]
async fn the_wrong_bytes_never_get_a_name_and_the_image_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (images, _, mut image) = cache(folder.path(), &[1; 5_000], None);
    image.sha512 = "0".repeat(128);
    let error = images
        .ready(
            &image,
            Use::Disk,
            &CancellationToken::new(),
            &Progress::default(),
        )
        .await
        .unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    assert!(matches!(
        error,
        DriverError::Failed {
            retry_elsewhere: false,
            ..
        }
    ));
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn more_bytes_than_promised_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (images, _, mut image) = cache(folder.path(), &[1; 5_000], None);
    image.size = 4_000;
    let error = images
        .ready(
            &image,
            Use::Disk,
            &CancellationToken::new(),
            &Progress::default(),
        )
        .await
        .unwrap_err();
    assert!(error.to_string().contains("4000"), "{error}");
}

#[tokio::test]
async fn a_leftover_of_a_crash_is_checked_and_fetched_anew_if_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = vec![7; 50_000];
    let (images, _, image) = cache(folder.path(), &bytes, None);
    let path = images.path(&image, Use::Disk).unwrap();
    fs::write(path.with_extension("partial"), vec![0; 10_000]).unwrap();
    images
        .ready(
            &image,
            Use::Disk,
            &CancellationToken::new(),
            &Progress::default(),
        )
        .await
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[test]
fn neither_a_checksum_nor_a_format_becomes_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let (images, _, mut image) = cache(folder.path(), &[], None);
    image.disk_format = "vmdk".into();
    assert!(
        images
            .path(&image, Use::Disk)
            .unwrap_err()
            .to_string()
            .contains("vmdk")
    );
    image.sha512 = format!("../{}", "a".repeat(125));
    assert!(images.path(&image, Use::Kernel).is_err());
}

#[tokio::test]
async fn a_cached_file_that_was_cut_short_is_fetched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (token, progress) = (CancellationToken::new(), Progress::default());
    let (images, source, image) = cache(folder.path(), &[7; 50_000], None);
    let ready = async || images.ready(&image, Use::Disk, &token, &progress).await;
    let path = ready().await.unwrap();
    assert_eq!(ready().await.unwrap(), path);
    assert_eq!(source.connections.load(Ordering::SeqCst), 1);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(49_999).unwrap();
    assert_eq!(ready().await.unwrap(), path);
    assert_eq!(source.connections.load(Ordering::SeqCst), 2);
    assert_eq!(fs::read(&path).unwrap(), [7; 50_000]);
    // A release that noted no length left this.
    fs::remove_file(length_of(&path)).unwrap();
    assert_eq!(ready().await.unwrap(), path);
    assert_eq!(source.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_full_disk_is_the_hosts_fault_and_nothing_half_made_is_left() {
    use std::os::unix::fs::PermissionsExt as _;
    for (says, elsewhere) in [("No space left on device", true), ("no kernel", false)] {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("vmm");
        // `--unpack-kernel FROM TO`
        let script = format!("#!/bin/sh\nhead -c 100 \"$2\" > \"$3\"\necho '{says}' >&2\nexit 1\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let cached = folder.path().join("cache");
        fs::create_dir(&cached).unwrap();
        let (mut images, _, image) = cache(&cached, &[7; 5_000], None);
        images.vmm_binary = program;
        let (token, progress) = (CancellationToken::new(), Progress::default());
        let made = images.ready(&image, Use::Kernel, &token, &progress).await;
        let Err(DriverError::Failed {
            message,
            retry_elsewhere,
            ..
        }) = made
        else {
            panic!("{made:?}");
        };
        assert_eq!(retry_elsewhere, elsewhere, "{message}");
        assert!(message.contains(&image.id.to_string()), "{message}");
        assert_eq!(names(&cached), [""; 0]);
    }
}
