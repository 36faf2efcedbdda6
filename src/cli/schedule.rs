//! `keypairctl schedule`.

use clap::Args;
use comfy_table::Color;
use futures_util::stream::{self, StreamExt};
use prost_types::Timestamp;
use serde_json::json;
use tonic::Code;

use super::Context;
use super::connect::Daemon;
use super::error::Failure;
use super::fit::{GAP_LEN, fit};
use super::list::all_key_pairs;
use super::output::{Form, LAST_WIDTH_MIN, cell, rfc3339, time};
use super::rotation::action;
use crate::printable::printable;
use crate::proto::{KeyPairView, PlanRotationRequest};

/// Show what happens to all key pairs in the next days: rotations, and certificates that expire.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Schedule {
    /// How many days.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

/// Something that will happen.
struct Entry {
    time: Timestamp,
    id: String,
    generation: i32,
    what: &'static str,
    /// Whether an operator has to do something about it.
    urgent: bool,
}

impl Schedule {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let daemon = context.connection.open().await?;
        let end = context.now.seconds + i64::from(self.days) * 86_400;
        let views = all_key_pairs(context, &mut daemon.key_pairs()).await?;
        let mut entries: Vec<_> = views
            .iter()
            .filter_map(|view| expiry(view, context.now))
            .collect();
        let rotating = views.iter().filter(|view| has_steps(view));
        let plans = rotating.map(|view| plan(context, &daemon, &view.id, end));
        let mut plans = stream::iter(plans).buffer_unordered(PLANS_AT_ONCE);
        while let Some(plan) = plans.next().await {
            entries.extend(plan?);
        }
        drop(plans);
        entries.retain(|entry| entry.time.seconds <= end);
        // First what an operator has to do something about.
        entries.sort_by(|one, other| {
            let key = |entry: &Entry| (!entry.urgent, entry.time.seconds, entry.id.clone());
            key(one).cmp(&key(other))
        });
        write(context, &entries, self.days)
    }
}

/// Returns the expiry of a certificate that nothing rotates, if it is still to come.
fn expiry(view: &KeyPairView, now: Timestamp) -> Option<Entry> {
    let expires = view.expires?;
    (view.rotation_settings.is_none() && expires.seconds >= now.seconds).then(|| Entry {
        time: expires,
        generation: view.generation,
        what: "expires, and nothing rotates it",
        urgent: true,
        id: view.id.clone(),
    })
}

/// Asks for the steps of a key pair until a time.
async fn plan(
    context: &Context<'_>,
    daemon: &Daemon,
    id: &str,
    end: i64,
) -> Result<Vec<Entry>, Failure> {
    let mut steps = STEPS_AT_FIRST;
    let plan = loop {
        let request = context.connection.request(PlanRotationRequest {
            id: id.to_owned(),
            steps,
            rotation_settings: None,
        });
        let plan = match daemon.key_pairs().plan_rotation(request).await {
            // It was deleted since it was listed.
            Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
            plan => plan?.into_inner(),
        };
        let is_cut = i32::try_from(plan.steps.len()).is_ok_and(|len| len >= steps);
        let last = plan.steps.last().and_then(|step| step.time);
        let is_short = last.is_some_and(|last| last.seconds <= end);
        if !(is_cut && is_short) || steps >= STEPS_MAX {
            break plan;
        }
        steps = steps.saturating_mul(8).min(STEPS_MAX);
    };
    let entries = plan.steps.iter().map(|step| Entry {
        time: step.time.unwrap_or_default(),
        id: id.to_owned(),
        generation: step.generation,
        what: action(step.action()),
        urgent: false,
    });
    Ok(entries.collect())
}

fn has_steps(view: &KeyPairView) -> bool {
    view.rotation_settings.is_some() || view.pending.is_some() || view.previous.is_some()
}

fn write(context: &mut Context<'_>, entries: &[Entry], days: u16) -> Result<(), Failure> {
    if context.output.form() == Form::Data {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| {
                json!({
                    "time": rfc3339(entry.time),
                    "id": entry.id,
                    "generation": entry.generation,
                    "what": entry.what,
                })
            })
            .collect();
        return context.data(&json!({"entries": entries}));
    }
    if entries.is_empty() {
        return Ok(writeln!(context.out, "nothing happens within {days} days")?);
    }
    table(context, entries)
}

/// Writes a line for each entry. On a terminal it fits the width: without the hour, and with ids
/// cut that are too long.
fn table(context: &mut Context<'_>, entries: &[Entry]) -> Result<(), Failure> {
    const HEADER: [&str; 6] = ["DAY", "TIME", "", "ID", "GEN", "WHAT"];
    let width = context.fitted_width();
    let shown: &[usize] = match width {
        Some(_) => &[0, 2, 3, 4],
        None => &[0, 1, 2, 3, 4],
    };
    let mut last = (String::new(), true);
    let mut rows = Vec::new();
    for entry in entries {
        let at = time(Some(entry.time));
        let (date, hour) = at.split_once(' ').unwrap_or((&at, ""));
        let day = (date.to_owned(), entry.urgent);
        // Each day is written once, and again where the rotations begin.
        let date = if day == last { "" } else { date };
        let left = match days_left(entry, context) {
            ..=0 => "today".to_owned(),
            1 => "in 1 day".to_owned(),
            left => format!("in {left} days"),
        };
        let generation = entry.generation.to_string();
        let texts = [date, hour, &left, &printable(&entry.id), &generation].map(str::to_owned);
        rows.push(shown.iter().map(|column| texts[*column].clone()).collect());
        last = day;
    }
    let mut header: Vec<_> = shown.iter().map(|column| HEADER[*column]).collect();
    if let Some(width) = width {
        // What happens has its room beside them, and is broken into lines.
        let width = width.saturating_sub(GAP_LEN + LAST_WIDTH_MIN);
        fit(&header, &mut rows, [(2, 12)], width);
    }
    header.push(HEADER[5]);
    let rows = rows.into_iter().zip(entries).map(|(texts, entry)| {
        let colour = match entry.urgent {
            true if days_left(entry, context) < 14 => Some(Color::Red),
            true => Some(Color::Yellow),
            false => None,
        };
        let what = context.cell(entry.what, colour);
        let cells = texts.iter().map(cell).chain([what]);
        cells.collect()
    });
    let rows = rows.collect();
    context.table(&header, rows)
}

/// Returns in how many days something happens by the calendar, whatever the hour.
fn days_left(entry: &Entry, context: &Context<'_>) -> i64 {
    let number = |seconds: i64| seconds.div_euclid(86_400);
    number(entry.time.seconds) - number(context.now.seconds)
}

/// How many key pairs are asked about at once.
const PLANS_AT_ONCE: usize = 64;
/// So many steps are more than most key pairs have in some months.
const STEPS_AT_FIRST: i32 = 8;
/// More steps than a key pair has in the longest time asked for, but for the shortest of lifetimes.
const STEPS_MAX: i32 = 1000;
const EXAMPLES: &str = "\
Examples:
  keypairctl schedule
  keypairctl schedule -o wide
  keypairctl schedule --days 14 --output json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Output;
    use crate::cli::output::tests::{NOW, written};

    fn shown(output: Output, width: Option<usize>) -> String {
        let entry = |days: i64, id: &str, what, urgent| Entry {
            time: Timestamp {
                seconds: NOW.seconds + days * 86_400,
                nanos: 0,
            },
            id: id.to_owned(),
            generation: 12,
            what,
            urgent,
        };
        let entries = [
            entry(3, &"i".repeat(64), "expires, and nothing rotates it", true),
            entry(3, "payments", "the next generation is made", false),
            entry(100, "payments", "the next generation signs", false),
        ];
        written(output, width, |context| write(context, &entries, 365))
    }

    #[test]
    fn a_line_fits_a_terminal_and_a_pipe_and_wide_have_all_there_is() {
        let table = shown(Output::Table, Some(80));
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{table}");
        }
        assert!(table.contains("payments"), "{table}");
        for (output, width) in [(Output::Table, None), (Output::Wide, Some(80))] {
            let wide = shown(output, width);
            assert!(wide.starts_with("DAY         TIME          "), "{wide}");
            assert!(wide.contains(&"i".repeat(64)), "{wide}");
            assert_eq!(wide.lines().count(), 4, "{wide}");
        }
    }
}
