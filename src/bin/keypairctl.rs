//! The client: reads the command line and the clock, and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser;
use keypaird::cli::Cli;
use prost_types::Timestamp;
use tokio::runtime::Builder;

#[expect(
    clippy::disallowed_methods,
    reason = "a program's main function is where these are asked for"
)]
fn main() -> ExitCode {
    let cli = Cli::parse();
    let now = Timestamp::from(std::time::SystemTime::now());
    let variable = |name: &str| std::env::var(name).ok();
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli.run(now, variable)),
        Err(_) => ExitCode::FAILURE,
    }
}
