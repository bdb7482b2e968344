//! `berth bench`: the same work on Berth and on any peer, interleaved in one run, so that a
//! noisy machine is noisy for all alike. Ratios are the result; absolute times are not.

mod boot;
mod control;
mod report;

use std::process::ExitCode;

/// Arguments of `berth bench`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time from exec of the VMM to a marker on the guest's serial console.
    Boot(boot::Arguments),
    /// What the controllers cost with so many hosts and servers.
    Control(control::Arguments),
    /// Many simulated hosts in one process; `control` starts it.
    #[command(hide = true)]
    Fleet(control::fleet::FleetArguments),
}

/// Runs the benchmark.
pub fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.what {
        What::Boot(arguments) => boot::main(arguments),
        What::Control(arguments) => control::main(arguments),
        What::Fleet(arguments) => control::fleet::main(arguments),
    }
}
