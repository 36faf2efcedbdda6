//! When to stop, and what the service manager is told.

use std::time::Duration;

use rustix::process::Signal;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry;

/// Returns a token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
///
/// From here on, SIGXFSZ ends nothing.
pub fn stop_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    outlive_full_files()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        for count in 0_u8.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if count > 0 {
                warn!(signal = name, "ending at once");
                telemetry::flush(LAST_LINES_MAX);
                std::process::exit(EXIT_BY_SECOND_SIGNAL);
            }
            info!(signal = name, "asked to stop");
            stop.cancel();
        }
    });
    Ok(stopped)
}

/// Has a file that may not grow further (`ulimit -f`) be an error where it is written, as a full disk is: SIGXFSZ would end
/// the process. To be called where Tokio runs.
pub fn outlive_full_files() -> std::io::Result<()> {
    // It stays handled when this is gone.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

/// Tells the service manager, if there is one, that calls are answered (`sd_notify(3)`).
pub(super) fn notify_ready() {
    notify(NotifyState::Ready);
}

/// Tells the service manager that the daemon stops.
pub(super) fn notify_stopping() {
    notify(NotifyState::Stopping);
}

/// Tells the service manager again and again that the daemon lives, where it wants to know.
pub(super) async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let interval = (limit / 3).max(Duration::from_millis(100));
    loop {
        notify(NotifyState::Watchdog);
        tokio::time::sleep(interval).await;
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// 128 and the number of SIGTERM, as shells show it.
const EXIT_BY_SECOND_SIGNAL: i32 = 143;
/// How long the end at once waits for the reader of the log.
const LAST_LINES_MAX: Duration = Duration::from_millis(100);
