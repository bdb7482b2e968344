//! The command line: Firecracker's flags where they mean something here, and a few of Berth's.
//!
//! Parsed by hand: it is part of every guest's boot, and takes a few microseconds so.

use std::path::PathBuf;

use berth_vmm_api::{LogLevel, MAX_PAYLOAD};

/// The text of `--help`.
pub const HELP: &str = "\
berth-vmm: runs one guest on /dev/kvm

Usage:
  berth-vmm --api-sock PATH [--config-file FILE]   a guest behind an API socket
  berth-vmm --no-api --config-file FILE            one guest, its console in this terminal
                                                   (Ctrl-A x ends it)
  berth-vmm --unpack-kernel IN OUT                 the ELF inside a bzImage
  berth-vmm --capabilities                         what this host's KVM can do, as JSON

Options:
  --api-sock PATH                  the API's Unix socket [/run/berth-vmm.socket]
  --id ID                          the guest's name in logs and answers [anonymous-instance]
  --config-file FILE               a guest in Firecracker's JSON, started at once
  --no-api                         no socket; needs --config-file
  --log-path FILE                  the log [standard error]
  --level LEVEL                    Off, Error, Warning, Info, Debug or Trace
  --metrics-path FILE              where FlushMetrics writes
  --boot-timer                     logs when the guest writes 123 to the boot timer
  --http-api-max-payload-size N    the largest request body, in bytes [51200]
  --request-id ID                  the request that this VMM is started for, on every log line
  --status-file FILE               JSON: phase, exit code, reason and last error
  --version, --help

Accepted and without effect: --module, --show-level, --show-log-origin, --no-seccomp,
  --mmds-size-limit, --start-time-us, --start-time-cpu-us, --parent-cpu-time-us

Exit codes: 0 the guest powered off, or the VMM was stopped; 1 the VMM failed; 3 the guest asked
  for a reset (start it again); 4 KVM could not go on with the guest; 152 wrong configuration;
  153 wrong command line
";

/// What the program is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run a guest.
    Run(Box<Run>),
    /// Unpack the kernel `.0` to `.1`.
    UnpackKernel(PathBuf, PathBuf),
    /// Print KVM's capabilities.
    Capabilities,
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// How to run a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The socket; None with `--no-api`.
    pub api_sock: Option<PathBuf>,
    /// The guest's name.
    pub id: String,
    /// The guest to start at once.
    pub config_file: Option<PathBuf>,
    /// The log; None is standard error.
    pub log_path: Option<PathBuf>,
    /// The log's level, if given.
    pub level: Option<LogLevel>,
    /// Where metrics go.
    pub metrics_path: Option<PathBuf>,
    /// Whether the guest's boot is timed.
    pub boot_timer: bool,
    /// The largest request body, in bytes.
    pub max_payload: usize,
    /// The request that the VMM is started for.
    pub request_id: Option<String>,
    /// Where the status is kept.
    pub status_file: Option<PathBuf>,
}

/// A wrong command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Arguments parsing error: {0}\n\nFor more information try --help.")]
pub struct CliError(String);

fn wrong(why: impl Into<String>) -> CliError {
    CliError(why.into())
}

/// Understands a command line, without the program's name.
///
/// # Errors
/// If there is an unknown flag, a flag without its value, or one that contradicts another.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, CliError> {
    let mut arguments = arguments.into_iter();
    let mut run = Run {
        api_sock: Some(PathBuf::from("/run/berth-vmm.socket")),
        id: "anonymous-instance".to_owned(),
        config_file: None,
        log_path: None,
        level: None,
        metrics_path: None,
        boot_timer: false,
        max_payload: MAX_PAYLOAD,
        request_id: None,
        status_file: None,
    };
    let mut no_api = false;
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| arguments.next())
                .ok_or_else(|| wrong(format!("The argument '{flag}' requires a value.")))
        };
        match flag.as_str() {
            "--api-sock" => run.api_sock = Some(value()?.into()),
            "--id" => run.id = checked_id(value()?)?,
            "--config-file" => run.config_file = Some(value()?.into()),
            "--no-api" => no_api = true,
            "--log-path" => run.log_path = Some(value()?.into()),
            "--level" => run.level = Some(value()?.parse().map_err(wrong)?),
            "--metrics-path" => run.metrics_path = Some(value()?.into()),
            "--boot-timer" => run.boot_timer = true,
            "--http-api-max-payload-size" => {
                let text = value()?;
                run.max_payload = text
                    .parse()
                    .map_err(|_| wrong(format!("'{text}' is no size in bytes.")))?;
            }
            "--request-id" => run.request_id = Some(value()?),
            "--status-file" => run.status_file = Some(value()?.into()),
            "--show-level" | "--show-log-origin" | "--no-seccomp" => {}
            "--module"
            | "--mmds-size-limit"
            | "--start-time-us"
            | "--start-time-cpu-us"
            | "--parent-cpu-time-us" => drop(value()?),
            "--enable-pci" => return Err(wrong("--enable-pci: there is no PCI bus yet.")),
            "--metadata" => return Err(wrong("--metadata: there is no metadata service yet.")),
            "--seccomp-filter" => {
                return Err(wrong(
                    "--seccomp-filter: filters of one's own are not supported yet.",
                ));
            }
            "--unpack-kernel" => {
                let input = value()?;
                return Ok(Command::UnpackKernel(input.into(), value()?.into()));
            }
            "--capabilities" => return Ok(Command::Capabilities),
            "--version" => return Ok(Command::Version),
            "--help" | "-h" => return Ok(Command::Help),
            other => {
                return Err(wrong(format!(
                    "Found argument '{other}' which wasn't expected."
                )));
            }
        }
    }
    if no_api {
        if run.config_file.is_none() {
            return Err(wrong("Argument '--no-api' requires '--config-file'."));
        }
        run.api_sock = None;
    }
    Ok(Command::Run(Box::new(run)))
}

/// Firecracker's rule: 1 to 64 letters, digits and dashes.
fn checked_id(id: String) -> Result<String, CliError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(legal) {
        return Err(wrong(format!(
            "'{}' is no id: 1 to 64 letters, digits and dashes.",
            id.chars().take(80).collect::<String>()
        )));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(line: &str) -> Result<Command, CliError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn run(line: &str) -> Run {
        match parsed(line).unwrap() {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn firecrackers_flags_are_understood() {
        let run = run(
            "--id vm-1 --api-sock /tmp/s --level Warning --show-level --start-time-us 7 \
                       --http-api-max-payload-size=100",
        );
        assert_eq!((run.id.as_str(), run.max_payload), ("vm-1", 100));
        assert_eq!(run.api_sock, Some(PathBuf::from("/tmp/s")));
        assert_eq!(run.level, Some(LogLevel::Warn));
    }

    #[test]
    fn without_an_api_there_must_be_a_guest() {
        assert!(parsed("--no-api").is_err());
        assert_eq!(run("--no-api --config-file f").api_sock, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, name) in [
            ("--foo", "--foo"),
            ("--id", "--id"),
            ("--id a/b", "a/b"),
            ("--level loud", "loud"),
            ("--enable-pci", "PCI"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(name), "{line}: {error}");
        }
    }

    #[test]
    fn other_commands_take_their_own_arguments() {
        let unpack = Command::UnpackKernel("a".into(), "b".into());
        assert_eq!(parsed("--unpack-kernel a b").unwrap(), unpack);
        assert!(parsed("--unpack-kernel a").is_err());
        assert_eq!(parsed("--version --foo").unwrap(), Command::Version);
    }
}
