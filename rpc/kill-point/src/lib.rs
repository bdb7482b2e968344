//! Named places where a process can be made to die, as if by `kill -9`.
//!
//! Each boundary of commit, publish, acknowledge, journal and spawn says
//! `kill_point!("agent.journal.accepted")`. Normally that costs one load and allocates nothing. In
//! a process with
//! - `BERTH_KILL_POINT=name` or `name:nth`: it dies there, the `nth` time (1 is the first);
//! - `BERTH_KILL_POINT_FILE=file`: it dies where the file says (`name` or `name:nth`, counted from
//!   when the file was written), and takes the file away as it dies: a test arms a running
//!   process, and one that starts again with the same environment does not die again. Of
//!   several processes with the same file one dies;
//! - `BERTH_KILL_POINTS_SEEN=file`: each name is appended to the file each time it is passed, a
//!   line each, so that a test learns which points are on an operation's path.
//!
//! A process that starts others passes [`VARIABLES`] on where it clears the environment: all may
//! share the files, since names begin with the program that they are in.
//!
//! Names are string literals, so that the list of all of them is made from the source:
//! [`names_in`] finds them, and the sweeps take their list from it.
//!
//! A crate of its own, because the VMM has it too and links nothing else of `berth-rpc`.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The environment's variables, as told above.
pub const VARIABLES: [&str; 3] = [
    "BERTH_KILL_POINT",
    "BERTH_KILL_POINT_FILE",
    "BERTH_KILL_POINTS_SEEN",
];

/// Dies here if the environment says so; see [`berth_kill_point`](crate).
#[macro_export]
macro_rules! kill_point {
    ($name:literal) => {
        $crate::reached($name)
    };
}

struct Armed {
    /// The point to die at, and at which pass.
    at: Option<(String, u64)>,
    /// Where a test says so while we run.
    told_in: Option<std::path::PathBuf>,
    seen_file: Option<std::path::PathBuf>,
    passes: Mutex<HashMap<&'static str, u64>>,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

impl Armed {
    #[cold]
    fn from_environment() -> Option<Self> {
        let [at, told_in, seen_file] = VARIABLES.map(std::env::var_os);
        let armed = at.is_some() || told_in.is_some() || seen_file.is_some();
        armed.then(|| Self {
            at: at.map(|text| parse(&text.to_string_lossy())),
            told_in: told_in.map(Into::into),
            seen_file: seen_file.map(Into::into),
            passes: Mutex::default(),
        })
    }
}

fn parse(text: &str) -> (String, u64) {
    match text.rsplit_once(':') {
        Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
        None => (text.to_owned(), 1),
    }
}

/// What [`kill_point!`](crate::kill_point!) calls.
#[inline]
pub fn reached(name: &'static str) {
    if let Some(armed) = ARMED.get_or_init(Armed::from_environment) {
        armed.pass(name);
    }
}

impl Armed {
    #[cold]
    fn pass(&self, name: &'static str) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = passes.entry(name).or_default();
        *pass += 1;
        if let Some(path) = &self.seen_file
            && let Ok(mut file) = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
        {
            // A test reads it; a failure shows there as a point that nobody passes.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        if self
            .at
            .as_ref()
            .is_some_and(|(at, nth)| at == name && nth == pass)
        {
            die();
        }
        if self.told_in.as_deref().is_some_and(|file| told(file, name)) {
            die();
        }
    }
}

/// Whether the file says to die here, now; it is gone then.
fn told(file: &std::path::Path, name: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else {
        return false;
    };
    let (at, nth) = parse(text.trim());
    if at != name {
        return false;
    }
    if nth > 1 {
        // A test that tells several processes at once with one file counts their passes together.
        let _ = std::fs::write(file, format!("{at}:{}", nth - 1));
        return false;
    }
    std::fs::remove_file(file).is_ok()
}

/// SIGKILL to ourselves: no destructor, no flush, no handler.
fn die() -> ! {
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    // Delivery is immediate; this is only for the type checker.
    std::process::abort()
}

/// The names of the kill points in the Rust sources under `folder`, sorted, each once.
///
/// # Errors
/// If a folder or file cannot be read.
pub fn names_in(folder: &std::path::Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                names.extend(names_of(&std::fs::read_to_string(&path)?));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn names_of(source: &str) -> impl Iterator<Item = String> + '_ {
    source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("kill_point!(\"").skip(1))
        .filter_map(|rest| rest.split_once('"').map(|(name, _)| name.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_point_is_named_with_or_without_its_pass() {
        assert_eq!(parse("agent.x"), ("agent.x".into(), 1));
        assert_eq!(parse("agent.x:3"), ("agent.x".into(), 3));
    }

    #[test]
    fn the_list_comes_from_the_source_and_comments_do_not_count() {
        let source = concat!(
            "  kill_",
            "point!(\"a.b\"); x; kill_",
            "point!(\"c\")\n// kill_",
            "point!(\"d\")"
        );
        assert_eq!(names_of(source).collect::<Vec<_>>(), ["a.b", "c"]);
    }

    #[test]
    fn a_file_tells_a_running_process_where_to_die_once() {
        let path = std::env::temp_dir().join(format!("berth-told-{}", std::process::id()));
        std::fs::write(&path, "two:2\n").unwrap();
        assert!(!told(&path, "one"));
        assert!(!told(&path, "two"));
        assert!(told(&path, "two"));
        assert!(!told(&path, "two"), "the file is gone: it happens once");
    }

    #[test]
    fn each_pass_is_noted() {
        let path = std::env::temp_dir().join(format!("berth-seen-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let armed = Armed {
            at: Some(("other".into(), 1)),
            told_in: None,
            seen_file: Some(path.clone()),
            passes: Mutex::default(),
        };
        armed.pass("one");
        armed.pass("one");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\none\n");
        let _ = std::fs::remove_file(path);
    }
}
