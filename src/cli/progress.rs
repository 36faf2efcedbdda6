//! A sign of life while something takes long.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{Form, Output};

/// Waits for something, with a spinner and the time elapsed on standard error once it takes a moment.
/// There is none when nobody looks: when standard error is no terminal, or the output is for programs.
pub(super) async fn spin<T>(output: Output, message: String, work: impl Future<Output = T>) -> T {
    if !is_watched(output) {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(MOMENT, &mut work).await {
        return done;
    }
    let spinner = ProgressBar::new_spinner()
        .with_elapsed(MOMENT)
        .with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} … {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// Returns a line on standard error that shows how something goes. It stays empty when nobody looks.
pub(super) fn line(output: Output) -> ProgressBar {
    if !is_watched(output) {
        return ProgressBar::hidden();
    }
    let line = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        line.set_style(style);
    }
    line
}

fn is_watched(output: Output) -> bool {
    output.form() == Form::Text && io::stderr().is_terminal()
}

const MOMENT: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(100);
