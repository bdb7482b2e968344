//! The kernel command line.
//!
//! Guarantees: what the kernel gets is at most [`CMDLINE_MAX`](super::layout::CMDLINE_MAX) bytes
//! with its final zero, printable ASCII, and holds what the caller gave first, then what the
//! machine adds (the root disk, no PCI), in front of any ` -- ` that ends the kernel's own part.

use berth_vmm_api::Drive;

use super::layout::CMDLINE_MAX;

/// A command line that no kernel could take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// More than Linux reads.
    #[error("the kernel command line has {0} bytes, and Linux reads at most {max}", max = CMDLINE_MAX - 1)]
    TooLong(usize),
    /// Something that is no printable ASCII.
    #[error("the kernel command line has a byte {0:#04x}, and may hold printable ASCII only")]
    NotAscii(u8),
}

/// Checks what a caller gives as boot arguments.
///
/// # Errors
/// If a kernel could not take them.
pub fn check(boot_args: &str) -> Result<(), CmdlineError> {
    if boot_args.len() >= CMDLINE_MAX {
        return Err(CmdlineError::TooLong(boot_args.len()));
    }
    match boot_args
        .bytes()
        .find(|byte| !matches!(byte, 0x20..=0x7E | b'\t'))
    {
        Some(byte) => Err(CmdlineError::NotAscii(byte)),
        None => Ok(()),
    }
}

/// The whole command line: `boot_args`, and what the machine adds where they do not say
/// otherwise.
///
/// # Errors
/// If it is too long or not printable.
pub fn build(boot_args: &str, root: Option<&Drive>) -> Result<String, CmdlineError> {
    check(boot_args)?;
    let (kernel, init) = match boot_args.split_once(" -- ") {
        Some((kernel, init)) => (kernel, Some(init)),
        None => (boot_args, None),
    };
    let mut line = kernel.trim_end().to_owned();
    let mut add = |word: String| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    };
    if !names(kernel, "pci=") {
        add("pci=off".to_owned());
    }
    if let Some(root) = root {
        add(match &root.partuuid {
            Some(partuuid) => format!("root=PARTUUID={partuuid}"),
            None => "root=/dev/vda".to_owned(),
        });
        add(if root.is_read_only == Some(true) {
            "ro"
        } else {
            "rw"
        }
        .to_owned());
    }
    if let Some(init) = init {
        line.push_str(" -- ");
        line.push_str(init);
    }
    check(&line)?;
    Ok(line)
}

/// Whether a word of the line starts with `prefix`.
fn names(line: &str, prefix: &str) -> bool {
    line.split_ascii_whitespace()
        .any(|word| word.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_machine_adds_its_root_disk_and_the_absence_of_pci() {
        let root = Drive {
            is_root_device: true,
            is_read_only: Some(true),
            ..Default::default()
        };
        assert_eq!(
            build("console=ttyS0", Some(&root)).unwrap(),
            "console=ttyS0 pci=off root=/dev/vda ro"
        );
        let by_uuid = Drive {
            partuuid: Some("0eaa91a0-01".into()),
            ..Default::default()
        };
        assert_eq!(
            build("", Some(&by_uuid)).unwrap(),
            "pci=off root=PARTUUID=0eaa91a0-01 rw"
        );
    }

    #[test]
    fn what_the_caller_says_of_pci_stands() {
        assert_eq!(build("pci=conf1", None).unwrap(), "pci=conf1");
    }

    #[test]
    fn arguments_for_init_stay_last() {
        assert_eq!(
            build("quiet -- --debug", None).unwrap(),
            "quiet pci=off -- --debug"
        );
    }

    #[test]
    fn a_line_that_linux_would_cut_is_refused() {
        let long = "x".repeat(CMDLINE_MAX);
        assert_eq!(build(&long, None), Err(CmdlineError::TooLong(CMDLINE_MAX)));
        let almost = "x".repeat(CMDLINE_MAX - 4);
        assert!(matches!(
            build(&almost, None),
            Err(CmdlineError::TooLong(_))
        ));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(check("a\0b"), Err(CmdlineError::NotAscii(0)));
        assert_eq!(check("ä"), Err(CmdlineError::NotAscii(0xC3)));
    }
}
