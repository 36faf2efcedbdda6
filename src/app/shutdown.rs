//! When to stop, and what the service manager is told.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry;

/// Returns a token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
///
/// From here on, SIGXFSZ, SIGHUP, SIGUSR1 and SIGUSR2 end nothing.
pub fn stop_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    outlive_full_files()?;
    outlive_hangup()?;
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

/// Has SIGHUP, SIGUSR1 and SIGUSR2 end nothing: log rotation, a closed terminal and operators send
/// them to programs that do something by them. To be called where Tokio runs.
pub(super) fn outlive_hangup() -> std::io::Result<()> {
    for kind in [
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ] {
        // It stays handled when this is gone.
        signal(kind).map(drop)?;
    }
    Ok(())
}

/// Has the TLS files read again at each SIGHUP, where there are some, and says what is read again
/// and what is not.
pub(super) async fn read_again_at_hangup(tls: Option<Arc<Notify>>) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return warn!(%error, "SIGHUP cannot be listened for"),
    };
    while hangups.recv().await.is_some() {
        let files = match &tls {
            Some(tls) => {
                tls.notify_one();
                "the TLS certificate, its private key and the client CA are read again now"
            }
            None => "there are no TLS files to be read again",
        };
        info!(
            signal = "SIGHUP",
            "{files}; a PIN file is read at each login; all other configuration is read when the daemon starts"
        );
    }
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
