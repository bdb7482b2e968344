//! Tests that cannot run here say what is missing, and are counted.
//!
//! A skipped test passes for cargo; `scripts/run-tests` counts its line in the closing line.

/// Ends the test that calls it as skipped, saying why: `skip!("no /dev/net/tun")`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        // The test's own name, from a function inside it: its thread need not carry it.
        fn here() {}
        let name = ::std::any::type_name_of_val(&here);
        $crate::skip::announce(name.trim_end_matches("::here"), &format!($($reason)*));
        return;
    }};
}

/// Prints the line `SKIPPED: <test>: <reason>`, past the capture of tests' output.
pub fn announce(name: &str, reason: &str) {
    use std::io::Write;
    // `println!` and `eprintln!` are captured by the test harness; a write to the stream is not.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: {name}: {reason}");
}

/// What is missing for emulated hosts and test networks on this machine, if anything is.
#[must_use]
pub fn missing_for_hosts() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces and taps need root".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun: modprobe tun".into());
    }
    None
}
