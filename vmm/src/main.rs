//! `berth-vmm`, the program: from a command line to a guest, and from the guest's end to an exit
//! code. See the library for everything else, and `--help` for the command line.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use berth_kill_point::kill_point;
use berth_vmm::action::Action;
use berth_vmm::api::Server;
use berth_vmm::cli::{self, Command, Run};
use berth_vmm::driver::{ActionError, Outcome, StateDriver};
use berth_vmm::guest::GuestError;
use berth_vmm::kvm::Caps;
use berth_vmm::launch::KvmLauncher;
use berth_vmm::resources::Resources;
use berth_vmm::status::StatusFile;
use berth_vmm::terminal::RawMode;
use berth_vmm::{boot, log, signals};
use berth_vmm_api as api;
use berth_vmm_api::{ExitReason, LogLevel, VmmConfig};

fn main() -> ExitCode {
    let started = Instant::now();
    let command = match cli::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("berth-vmm: {error}");
            return ExitCode::from(api::ExitCode::ArgParsing as u8);
        }
    };
    let result = match command {
        Command::Run(run) => return ExitCode::from(self::run(&run, started).code as u8),
        Command::Help => {
            print!("{}", cli::HELP);
            Ok(())
        }
        Command::Version => {
            println!("Berth VMM v{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::UnpackKernel(input, output) => {
            boot::unpack::unpack(&input, &output).map_err(anyhow::Error::from)
        }
        Command::Capabilities => print_capabilities(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-vmm: {error:#}");
            ExitCode::from(api::ExitCode::GenericError as u8)
        }
    }
}

fn print_capabilities() -> Result<()> {
    let kvm = kvm_ioctls::Kvm::new().context("cannot open /dev/kvm")?;
    let caps = Caps::read(&kvm)?;
    println!("{}", serde_json::to_string(caps.all())?);
    Ok(())
}

/// Runs a guest to its end. Whatever the end, it is in the status file, and an error on
/// standard error too.
fn run(run: &Run, started: Instant) -> Outcome {
    let level = run
        .level
        .unwrap_or(if run.api_sock.is_none() && run.log_path.is_none() {
            // The terminal is the guest's; only what goes wrong is said there.
            LogLevel::Warn
        } else {
            LogLevel::Info
        });
    log::start(&run.id, run.request_id.as_deref(), level);
    kill_point!("vmm.process.started");
    let mut status = StatusFile::new(run.status_file.clone(), &run.id, run.request_id.as_deref());
    let driver = match prepare(run, started) {
        Ok((resources, launcher)) => StateDriver::new(&run.id, launcher, resources, status),
        Err(error) => {
            let outcome = bad_configuration(&error);
            status.set_outcome(&outcome);
            return outcome;
        }
    };
    let outcome = serve(run, driver);
    if let Some(error) = &outcome.error {
        eprintln!("berth-vmm: {error}");
    }
    tracing::info!(exit_code = outcome.code as u8, reason = ?outcome.reason, "berth-vmm exiting");
    outcome
}

fn bad_configuration(error: &anyhow::Error) -> Outcome {
    let text = format!("{error:#}");
    eprintln!("berth-vmm: {text}");
    tracing::error!(error = text, "wrong configuration");
    Outcome {
        code: api::ExitCode::BadConfiguration,
        reason: ExitReason::Error,
        error: Some(text),
    }
}

/// The log, the signals, and what the configuration file says.
fn prepare(run: &Run, started: Instant) -> Result<(Resources, KvmLauncher)> {
    if let Some(path) = &run.log_path {
        let logger = api::Logger {
            log_path: Some(path.clone()),
            ..Default::default()
        };
        log::configure(&logger).context("cannot open the log")?;
    }
    tracing::info!("Running Berth VMM v{}", env!("CARGO_PKG_VERSION"));
    signals::block().context("cannot block signals")?;
    let launcher = KvmLauncher {
        boot_timer: run.boot_timer.then_some(started),
        stdin: None,
    };
    let Some(path) = &run.config_file else {
        return Ok((Resources::default(), launcher));
    };
    let config = read_config(path)?;
    if let Some(logger) = &config.logger {
        log::configure(logger).context("cannot open the log")?;
    }
    let resources = Resources::from_config(&config)
        .with_context(|| format!("configuration file {}", path.display()))?;
    Ok((resources, launcher))
}

fn read_config(path: &Path) -> Result<VmmConfig> {
    let text = std::fs::read(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("configuration file {}: invalid JSON", path.display()))
}

/// Starts what is to be started, and lets the state driver run to the end.
fn serve(run: &Run, mut driver: StateDriver<KvmLauncher>) -> Outcome {
    let raw = RawMode::enter();
    let server = match begin(run, &mut driver) {
        Ok(server) => server,
        Err(outcome) => {
            drop(raw);
            driver.finish(&outcome);
            return outcome;
        }
    };
    let outcome = driver.run();
    driver.finish(&outcome);
    if let Some(server) = server {
        server.finish();
    }
    drop(raw);
    outcome
}

/// The guest first, if there is one: it boots while the API and the signals are set up.
fn begin(run: &Run, driver: &mut StateDriver<KvmLauncher>) -> Result<Option<Server>, Outcome> {
    let stdin = driver.sender();
    driver.launcher().stdin = Some(stdin);
    if let Some(path) = &run.metrics_path {
        let config = api::Metrics {
            metrics_path: path.clone(),
            emit_id: false,
        };
        driver
            .act(Action::ConfigureMetrics(config))
            .map_err(|error| failed(&error))?;
    }
    if run.config_file.is_some() {
        driver.act(Action::Start).map_err(|error| failed(&error))?;
    }
    let other = |error: &dyn std::fmt::Display| Outcome {
        code: api::ExitCode::GenericError,
        reason: ExitReason::Error,
        error: Some(error.to_string()),
    };
    signals::start(driver.sender()).map_err(|error| other(&error))?;
    match &run.api_sock {
        Some(path) => Server::start(path, driver.sender(), run.max_payload)
            .map(Some)
            .map_err(|error| other(&error)),
        None => Ok(None),
    }
}

/// How a VMM ends whose guest did not start: wrong files are wrong configuration.
fn failed(error: &ActionError) -> Outcome {
    let code = match error {
        ActionError::Start(GuestError::Boot(_) | GuestError::Machine(_))
        | ActionError::Resource(_)
        | ActionError::NoBootSource => api::ExitCode::BadConfiguration,
        _ => api::ExitCode::GenericError,
    };
    Outcome {
        code,
        reason: ExitReason::Error,
        error: Some(error.to_string()),
    }
}
