//! `berth`: one guest now (`run`), a whole cloud on this machine (`up`), what this machine can
//! do (`doctor`), images for a cloud (`image`), and how fast it is beside its peers (`bench`).
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done,
//! 1 failed, 2 the arguments are wrong; `berth run` ends with its VMM's own code.

mod bench;
mod cloud;
mod doctor;
mod image;
mod run;
mod tools;
mod up;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A compute cloud small enough to read.
#[derive(Parser)]
#[command(name = "berth", version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one guest on this machine, its console in this terminal.
    Run(run::Arguments),
    /// Run a whole cloud on this machine: controller and agent in one process.
    Up(up::Arguments),
    /// Tell what this machine can and cannot do, and why.
    Doctor(doctor::Arguments),
    /// Images of a cloud.
    Image(image::Arguments),
    /// Measure, beside any peer, in one interleaved run.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Verb::Run(arguments) => run::main(&arguments),
        Verb::Up(arguments) => up::main(&arguments),
        Verb::Doctor(arguments) => doctor::main(&arguments),
        Verb::Image(arguments) => image::main(&arguments),
        Verb::Bench(arguments) => bench::main(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("berth: {error:#}");
        ExitCode::FAILURE
    })
}
