//! A journal's file as a crash or a bad disk leaves it. Each line of the input that begins with
//! `+` gets the right checksum, so that what is behind the checksum is reached too.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use berth_agent::journal::Journal;
use libfuzzer_sys::fuzz_target;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|input: &[u8]| {
    let folder = FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("berth-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    let mut file = Vec::new();
    for (index, line) in input.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match line.strip_prefix(b"+") {
            Some(json) if index > 0 => {
                let json = json.strip_suffix(b"\n").unwrap_or(json);
                file.extend_from_slice(format!("{:08x} ", crc32fast::hash(json)).as_bytes());
                file.extend_from_slice(json);
                file.push(b'\n');
            }
            _ => file.extend_from_slice(line),
        }
    }
    let path = folder.join("journal");
    std::fs::write(&path, &file).expect("room for it");
    if let Ok(journal) = Journal::open(folder) {
        let (host, vmms) = (journal.host(), journal.vmms());
        drop(journal);
        let again = Journal::open(folder).expect("what was opened once opens again");
        assert_eq!((again.host(), again.vmms()), (host, vmms));
    }
});
