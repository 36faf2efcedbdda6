//! The process that the PKCS#11 module is loaded in: how the daemon starts it, and what it does.

use std::io;
use std::os::fd::AsFd;

use tokio::signal::unix::{SignalKind, signal};

use super::shutdown::{outlive_full_files, outlive_hangup};
use crate::providers::isolated::{self, WorkerCommand};
use crate::telemetry::TelemetryConfig;

/// The command of the program that becomes such a process. Its arguments are the form and the filter of log lines.
pub const PKCS11_MODULE: &str = "pkcs11-module";

/// Returns how the process is started: as this program, even if its file was replaced meanwhile.
pub(super) fn command(telemetry: &TelemetryConfig) -> WorkerCommand {
    WorkerCommand {
        program: "/proc/self/exe".into(),
        arguments: vec![
            PKCS11_MODULE.into(),
            telemetry.log_format.name().into(),
            telemetry.log_filter.clone().into(),
        ],
    }
}

/// Does what the daemon says over the standard input, until it says farewell.
///
/// # Errors
/// When the standard input is no socket of the daemon's.
pub fn serve_module() -> io::Result<()> {
    // The daemon ends this process when it has ended its own work, not whoever tells all processes to end.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let entered = runtime.enter();
    let _terminate = signal(SignalKind::terminate())?;
    let _interrupt = signal(SignalKind::interrupt())?;
    outlive_hangup()?;
    // The module writes the files of a token in software.
    outlive_full_files()?;
    drop(entered);
    isolated::serve(io::stdin().as_fd().try_clone_to_owned()?)
}
