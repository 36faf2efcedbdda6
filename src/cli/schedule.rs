//! `keypairctl schedule`.

use clap::Args;
use comfy_table::Color;
use prost_types::Timestamp;
use serde_json::json;
use tonic::Code;

use super::Context;
use super::error::Failure;
use super::list::all_key_pairs;
use super::output::{Output, cell, rfc3339, time};
use super::rotation::action;
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
    /// Whether somebody has to do something about it.
    urgent: bool,
}

impl Schedule {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let end = context.now.seconds + i64::from(self.days) * 86_400;
        let mut entries = Vec::new();
        for view in all_key_pairs(context, &mut client).await? {
            if view.rotation_settings.is_none()
                && let Some(expires) = view.expires
                && expires.seconds >= context.now.seconds
            {
                entries.push(Entry {
                    time: expires,
                    generation: view.generation,
                    what: "expires, and nothing rotates it",
                    urgent: true,
                    id: view.id.clone(),
                });
            }
            if !has_steps(&view) {
                continue;
            }
            let request = context.connection.request(PlanRotationRequest {
                id: view.id.clone(),
                steps: STEPS_MAX,
                rotation_settings: None,
            });
            let plan = match client.plan_rotation(request).await {
                // It was deleted since it was listed.
                Err(status) if status.code() == Code::NotFound => continue,
                plan => plan?.into_inner(),
            };
            entries.extend(plan.steps.iter().map(|step| Entry {
                time: step.time.unwrap_or_default(),
                id: view.id.clone(),
                generation: step.generation,
                what: action(step.action()),
                urgent: false,
            }));
        }
        entries.retain(|entry| entry.time.seconds <= end);
        entries.sort_by(|one, other| {
            let key = |entry: &Entry| (entry.time.seconds, entry.id.clone());
            key(one).cmp(&key(other))
        });
        write(context, &entries, self.days)
    }
}

fn has_steps(view: &KeyPairView) -> bool {
    view.rotation_settings.is_some() || view.pending.is_some() || view.previous.is_some()
}

fn write(context: &mut Context<'_>, entries: &[Entry], days: u16) -> Result<(), Failure> {
    if context.output == Output::Json {
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
        return Ok(writeln!(context.out, "{:#}", json!({"entries": entries}))?);
    }
    if entries.is_empty() {
        return Ok(writeln!(context.out, "nothing happens within {days} days")?);
    }
    let mut day = String::new();
    let mut rows = Vec::new();
    for entry in entries {
        let at = time(Some(entry.time));
        let (date, hour) = at.split_once(' ').unwrap_or((&at, ""));
        // Each day is written once.
        let shown = if day == date { "" } else { date };
        // By the calendar, whatever the hour.
        let number = |seconds: i64| seconds.div_euclid(86_400);
        let left = number(entry.time.seconds) - number(context.now.seconds);
        let colour = match entry.urgent {
            true if left < 14 => Some(Color::Red),
            true => Some(Color::Yellow),
            false => None,
        };
        rows.push(vec![
            cell(shown),
            cell(hour),
            cell(match left {
                ..=0 => "today".to_owned(),
                1 => "in 1 day".to_owned(),
                left => format!("in {left} days"),
            }),
            cell(&entry.id),
            cell(entry.generation),
            context.cell(entry.what, colour),
        ]);
        date.clone_into(&mut day);
    }
    context.table(&["DAY", "TIME", "", "ID", "GENERATION", "WHAT"], rows)
}

/// More steps than a key pair has in the longest time asked for, but for the shortest of lifetimes.
const STEPS_MAX: i32 = 1000;
const EXAMPLES: &str = "\
Examples:
  keypairctl schedule
  keypairctl schedule --days 14 --output json";
