//! The client: reads the command line and the clock, and leaves the rest to the library.

use std::process::ExitCode;

use keypaird::cli::{Cli, answer_completions};
use prost_types::Timestamp;
use tokio::runtime::Builder;

#[expect(
    clippy::disallowed_methods,
    reason = "a program's main function is where these are asked for"
)]
fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    answer_completions(std::env::args_os());
    let cli = Cli::read(std::env::args_os(), variable);
    let now = Timestamp::from(std::time::SystemTime::now());
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let exit_code = runtime.block_on(cli.run(now, variable));
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
            exit_code
        }
        Err(_) => ExitCode::FAILURE,
    }
}
