//! Conversion with the real `qemu-img`, of good images and of hostile ones.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kvm::tests::image;
use crate::progress::Progress;
use std::fs;
use std::process::Command as Program;
use std::sync::Arc;

/// A qcow2 image in `folder`, made by `qemu-img`; None: there is none on this machine.
fn qcow2(folder: &Path, arguments: &[&str]) -> Option<std::path::PathBuf> {
    let path = folder.join("image.qcow2");
    let made = Program::new("qemu-img")
        .args(arguments)
        .arg(&path)
        .current_dir(folder)
        .output();
    match made {
        Ok(made) => {
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "qemu-img: {said}");
            Some(path)
        }
        Err(_) => None,
    }
}

macro_rules! need {
    ($made:expr, $test:literal) => {
        match $made {
            Some(made) => made,
            None => return println!("SKIPPED: {}: there is no qemu-img", $test),
        }
    };
}

async fn converted(from: &Path, part: &Part) -> Result<Vec<u8>, DriverError> {
    let to = from.with_extension("raw");
    convert(&image("qcow2"), from, &to, part).await?;
    Ok(fs::read(&to).unwrap())
}

#[test]
fn percents_are_read_wherever_the_pipe_splits_them() {
    let mut percents = Percents::default();
    assert_eq!(percents.hear(b"    (0.00/100%)\r    (41."), Some(0));
    assert_eq!(percents.hear(b"52/1"), None);
    assert_eq!(percents.hear(b"00%)\rnoise\n"), Some(41));
    assert_eq!(percents.hear(&[b'x'; 100_000]), None);
    assert!(percents.line.len() <= Percents::LINE);
    assert_eq!(percents.hear(b"\r  (101.00/100%)\r"), None);
    assert_eq!(percents.hear(b"    (100.00/100%)\r\n"), Some(100));
}

#[tokio::test]
async fn an_image_comes_out_byte_for_byte_and_its_progress_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| (n / 513) as u8).collect();
    fs::write(folder.path().join("raw"), &bytes).unwrap();
    let made = qcow2(
        folder.path(),
        &["convert", "-f", "raw", "-O", "qcow2", "raw"],
    );
    let path = need!(made, "an_image_comes_out_byte_for_byte");
    let (part, progress) = (Arc::new(Part::new(1000, true)), Progress::default());
    progress.follow(&part);
    part.fetched(1000);
    assert_eq!(progress.reading().unwrap().percent, 50);
    assert!(converted(&path, &part).await.unwrap() == bytes);
    assert_eq!(
        progress.reading().unwrap().percent,
        100,
        "qemu-img's last word"
    );
}

#[tokio::test]
async fn an_image_that_names_a_file_of_the_host_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), [7; 4096]).unwrap();
    let part = Part::new(0, true);
    let backed = ["create", "-f", "qcow2", "-b", "secret", "-F", "raw"];
    let path = need!(
        qcow2(folder.path(), &backed),
        "an_image_that_names_a_file_of_the_host_is_refused"
    );
    let error = converted(&path, &part).await.unwrap_err().to_string();
    assert!(error.contains("refers to another file"), "{error}");

    fs::remove_file(&path).unwrap();
    let apart = ["create", "-f", "qcow2", "-o", "data_file=outside,size=1M"];
    // The size comes with -o, the path behind it.
    qcow2(folder.path(), &apart).unwrap();
    let error = converted(&path, &part).await.unwrap_err().to_string();
    assert!(error.contains("refers to another file"), "{error}");
}

#[tokio::test]
async fn a_size_that_no_disk_has_and_a_file_that_is_no_qcow2_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let part = Part::new(0, true);
    let test = "a_size_that_no_disk_has_and_a_file_that_is_no_qcow2_are_refused";
    let large = ["create", "-f", "qcow2", "-o", "cluster_size=2M,size=100T"];
    let Some(path) = qcow2(folder.path(), &large) else {
        return println!("SKIPPED: {test}: there is no qemu-img");
    };
    let error = converted(&path, &part).await.unwrap_err().to_string();
    assert!(error.contains("out of bounds"), "{error}");

    // Raw bytes are never taken for a disk because somebody said qcow2.
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let error = converted(&path, &part).await.unwrap_err().to_string();
    assert!(error.contains("no sound qcow2"), "{error}");
}

/// Tables larger than memory, or beyond the end of the file: an error, or a disk of the size that
/// was promised, and nothing of anybody else's in it.
#[tokio::test]
async fn a_header_that_lies_about_its_tables_yields_a_refusal_or_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let made = qcow2(folder.path(), &["create", "-f", "qcow2", "-o", "size=1M"]);
    let test = "a_header_that_lies_about_its_tables_yields_a_refusal_or_zeros";
    let Some(path) = made else {
        return println!("SKIPPED: {test}: there is no qemu-img");
    };
    let mut bytes = fs::read(&path).unwrap();
    // l1_size, l1_table_offset, refcount_table_offset, refcount_table_clusters.
    for (at, must_fail) in [(36, true), (40, false), (48, false), (56, true)] {
        let mut lie = bytes.clone();
        lie[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        fs::write(&path, &lie).unwrap();
        match converted(&path, &Part::new(0, true)).await {
            Ok(disk) => {
                assert!(!must_fail, "field at {at}");
                assert!(disk == vec![0; 1 << 20], "field at {at}");
            }
            Err(error) => assert!(error.to_string().contains("image"), "{error}"),
        }
    }
    bytes.truncate(100);
    fs::write(&path, &bytes).unwrap();
    let cut_short = converted(&path, &Part::new(0, true)).await;
    assert!(cut_short.is_err(), "cut short");
}
