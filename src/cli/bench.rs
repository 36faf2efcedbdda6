//! `keypairctl bench`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::Cell;
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha512};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::connect::{Connection, Daemon, parse_duration};
use super::error::{Failure, code_name};
use super::input::{Hash, key_pair};
use super::latencies::Latencies;
use super::output::{Form, Output, cell, signing_algorithm};
use super::{Context, progress};
use crate::proto::{
    BatchSignRequest, SignRequest, SignStreamRequest, batch_sign_result, sign_request,
    sign_stream_response,
};

/// Sign random content for a while, and tell how many signatures a second that made.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bench {
    /// Identifier of the key pair.
    id: String,
    /// How long.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How many signatures are asked for at once, 1 to 10000.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// By which call.
    #[arg(long, default_value = "unary", ignore_case = true)]
    mode: Mode,
    /// How many signatures a batch asks for, 1 to 1000. So many batches are under way as --in-flight has room
    /// for, but at least one.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch_size: u16,
}

/// The call by which signatures are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// `Sign`, one signature a call.
    Unary,
    /// `SignStream`, all in one call.
    Stream,
    /// `BatchSign`, many a call.
    Batch,
}

impl Bench {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let daemon = context.connection.open().await?;
        let view = key_pair(&self.id, &daemon, context).await?;
        let load = Load {
            connection: context.connection,
            daemon,
            content: Content::new(Hash::of(signing_algorithm(&view)))?,
            bench: &self,
        };
        // If the first fails, all would: the daemon says why. It is not counted.
        load.sign(0).await?;
        let tally = load.run(context.output).await?;
        match context.output.form() {
            Form::Data => {
                let mut json = tally.json();
                json["signatureAlgorithm"] = signing_algorithm(&view).into();
                json["id"] = view.id.into();
                context.data(&json)
            }
            Form::Text => context.table(
                &[
                    "SIGNATURES",
                    "PER SECOND",
                    "P50",
                    "P90",
                    "P99",
                    "MAX",
                    "ERRORS",
                ],
                vec![tally.row()],
            ),
        }
    }

    /// Returns how many calls are under way at once.
    fn calls(&self) -> usize {
        match self.mode {
            Mode::Unary | Mode::Stream => self.in_flight.into(),
            Mode::Batch => (self.in_flight / self.batch_size).max(1).into(),
        }
    }
}

/// What is done again and again.
struct Load<'a> {
    connection: &'a Connection,
    daemon: Daemon,
    content: Content,
    bench: &'a Bench,
}

/// What came of one call.
struct Done {
    took: Duration,
    results: Vec<Result<(), Status>>,
}

impl Load<'_> {
    async fn run(&self, output: Output) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let line = progress::line(output);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let mut calls = self.calls(begun + self.bench.duration).await?;
        loop {
            tokio::select! {
                done = calls.next() => match done {
                    Some(done) => tally.count(done?),
                    None => break,
                },
                _ = tick.tick() => {
                    tally.took = begun.elapsed();
                    let left = self.bench.duration.saturating_sub(tally.took);
                    line.set_message(format!("{}, {} s left", tally.line(), left.as_secs()));
                    line.tick();
                }
            }
        }
        tally.took = begun.elapsed();
        line.finish_and_clear();
        Ok(tally)
    }

    /// Returns the calls as they are done. None is begun after the end.
    async fn calls(&self, end: Instant) -> Result<BoxStream<'_, Result<Done, Failure>>, Failure> {
        if self.bench.mode == Mode::Stream {
            return self.stream(end).await;
        }
        let begin = (1..).map_while(move |number| {
            (Instant::now() < end).then_some(async move { Ok(self.call(number).await) })
        });
        let calls = stream::iter(begin).buffer_unordered(self.bench.calls());
        Ok(calls.boxed())
    }

    async fn call(&self, number: u64) -> Done {
        let begun = Instant::now();
        let results = match self.bench.mode {
            Mode::Batch => self.sign_batch(number).await,
            Mode::Unary | Mode::Stream => vec![self.sign(number).await],
        };
        Done {
            took: begun.elapsed(),
            results,
        }
    }

    async fn sign(&self, number: u64) -> Result<(), Status> {
        let request = self.connection.request(self.request(number));
        self.daemon.signing().sign(request).await?;
        Ok(())
    }

    async fn sign_batch(&self, number: u64) -> Vec<Result<(), Status>> {
        let size = u64::from(self.bench.batch_size);
        let numbers = number * size..(number + 1) * size;
        let request = self.connection.request(BatchSignRequest {
            requests: numbers.map(|number| self.request(number)).collect(),
        });
        match self.daemon.signing().batch_sign(request).await {
            Ok(answer) => {
                let results = answer.into_inner().results.into_iter();
                results
                    .map(|result| match result.result {
                        Some(batch_sign_result::Result::Signed(_)) => Ok(()),
                        Some(batch_sign_result::Result::Error(error)) => Err(status(&error)),
                        None => Err(Status::internal("a result is missing")),
                    })
                    .collect()
            }
            Err(error) => vec![Err(error); self.bench.batch_size.into()],
        }
    }

    /// Signs over one stream: each result lets the next request go, until the end.
    async fn stream(&self, end: Instant) -> Result<BoxStream<'_, Result<Done, Failure>>, Failure> {
        let in_flight = self.bench.calls();
        let (requests, sent) = mpsc::channel(in_flight);
        let call = self
            .connection
            .request_lasting(self.bench.duration, ReceiverStream::new(sent));
        let mut slots = Slots {
            requests: Some(requests),
            begun: vec![Instant::now(); in_flight],
            number: 0,
        };
        for slot in 0..in_flight {
            slots.ask(slot, self);
        }
        let results = self.daemon.signing().sign_stream(call).await?.into_inner();
        let done = stream::try_unfold(
            (results, slots),
            move |(mut results, mut slots)| async move {
                let Some(message) = results.message().await? else {
                    return Ok(None);
                };
                let slot = slots.slot(&message.correlation_id)?;
                let done = Done {
                    took: slots.begun[slot].elapsed(),
                    results: vec![match message.result {
                        Some(sign_stream_response::Result::Signed(_)) => Ok(()),
                        Some(sign_stream_response::Result::Error(error)) => Err(status(&error)),
                        None => Err(Status::internal("a result is missing")),
                    }],
                };
                match Instant::now() < end {
                    true => slots.ask(slot, self),
                    false => slots.requests = None,
                }
                Ok(Some((done, (results, slots))))
            },
        );
        Ok(done.boxed())
    }

    fn request(&self, number: u64) -> SignRequest {
        SignRequest {
            id: self.bench.id.clone(),
            input: Some(self.content.input(number)),
            ..SignRequest::default()
        }
    }
}

/// The requests of a stream that are under way.
struct Slots {
    requests: Option<mpsc::Sender<SignStreamRequest>>,
    begun: Vec<Instant>,
    number: u64,
}

impl Slots {
    fn ask(&mut self, slot: usize, load: &Load<'_>) {
        self.number += 1;
        self.begun[slot] = Instant::now();
        let request = SignStreamRequest {
            correlation_id: slot.to_string(),
            request: Some(load.request(self.number)),
        };
        if let Some(requests) = &self.requests {
            // There is room for a request of each slot. When the stream has ended, its results tell.
            let _ = requests.try_send(request);
        }
    }

    fn slot(&self, correlation_id: &str) -> Result<usize, Failure> {
        let slot = correlation_id.parse().ok();
        slot.filter(|slot| *slot < self.begun.len())
            .ok_or_else(|| Failure::Answer(format!("nothing was asked as {correlation_id:?}")))
    }
}

/// What is signed: another one each time.
struct Content {
    /// None for Ed25519, which takes a message.
    hash: Option<Hash>,
    seed: [u8; 32],
}

impl Content {
    fn new(hash: Option<Hash>) -> Result<Self, Failure> {
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| {
            Failure::Answer("the system's random number generator failed".to_owned())
        })?;
        Ok(Self { hash, seed })
    }

    fn input(&self, number: u64) -> sign_request::Input {
        let mut bytes = Sha512::new()
            .chain_update(self.seed)
            .chain_update(number.to_be_bytes())
            .finalize()
            .to_vec();
        bytes.truncate(self.hash.map_or(MESSAGE_LEN, Hash::digest_len));
        match self.hash {
            Some(_) => sign_request::Input::Digest(bytes.into()),
            None => sign_request::Input::Message(bytes.into()),
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    took: Duration,
    latencies: Latencies,
    /// How many errors there were, by reason.
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn count(&mut self, done: Done) {
        for result in done.results {
            match result {
                Ok(()) => self.latencies.add(done.took),
                Err(error) => *self.errors.entry(reason(&error)).or_default() += 1,
            }
        }
    }

    /// Returns how many signatures were made in a second.
    fn rate(&self) -> f64 {
        let count = u32::try_from(self.latencies.count()).unwrap_or(u32::MAX);
        let seconds = self.took.as_secs_f64();
        match seconds > 0.0 {
            true => f64::from(count) / seconds,
            false => 0.0,
        }
    }

    /// Shows what there is so far.
    fn line(&self) -> String {
        let errors: u64 = self.errors.values().sum();
        format!(
            "{:.0} signatures a second, p50 {}, p99 {}, {errors} errors",
            self.rate(),
            ms(self.latencies.percentile(50)),
            ms(self.latencies.percentile(99)),
        )
    }

    fn row(&self) -> Vec<Cell> {
        let errors = self.errors.iter();
        let errors: Vec<_> = errors
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        vec![
            cell(self.latencies.count()),
            cell(format!("{:.1}", self.rate())),
            cell(ms(self.latencies.percentile(50))),
            cell(ms(self.latencies.percentile(90))),
            cell(ms(self.latencies.percentile(99))),
            cell(ms(self.latencies.max())),
            cell(match errors.is_empty() {
                true => "none".to_owned(),
                false => errors.join(", "),
            }),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        json!({
            "durationSeconds": self.took.as_secs_f64(),
            "signatures": self.latencies.count(),
            "signaturesPerSecond": self.rate(),
            "latencyMs": {
                "p50": ms(self.latencies.percentile(50)),
                "p90": ms(self.latencies.percentile(90)),
                "p99": ms(self.latencies.percentile(99)),
                "max": ms(self.latencies.max()),
            },
            "errors": self.errors.values().sum::<u64>(),
            "errorsByReason": self.errors,
        })
    }
}

/// Returns the error of a single signature as a call would have failed with it.
fn status(error: &tonic_types::Status) -> Status {
    Status::with_details(
        Code::from_i32(error.code),
        error.message.clone(),
        error.encode_to_vec().into(),
    )
}

/// Returns the daemon's reason for an error, or the code of one that is not the daemon's.
fn reason(error: &Status) -> String {
    match error.get_details_error_info() {
        Some(info) => info.reason,
        None => code_name(error.code()),
    }
}

fn ms(latency: Duration) -> String {
    format!("{:.2} ms", latency.as_secs_f64() * 1e3)
}

const TICK: Duration = Duration::from_millis(200);
/// How long a message for Ed25519 is.
const MESSAGE_LEN: usize = 32;
const EXAMPLES: &str = "\
A signature's latency is that of its call. One signature is made before, and not
counted.

Examples:
  keypairctl bench payments
  keypairctl bench payments --duration 1m --in-flight 8 --mode stream
  keypairctl bench payments --mode batch --batch-size 250 --in-flight 1000";

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn errors_are_counted_by_reason() {
        let details = ErrorDetails::with_error_info("PROVIDER_BUSY", "keypaird", []);
        let busy = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let mut tally = Tally {
            took: Duration::from_secs(2),
            ..Tally::default()
        };
        tally.count(Done {
            took: Duration::from_millis(100),
            results: vec![Ok(()), Err(busy.clone()), Ok(()), Err(busy)],
        });
        tally.count(Done {
            took: Duration::from_millis(300),
            results: vec![Err(Status::unavailable("gone"))],
        });
        let json = tally.json();
        assert_eq!(json["signatures"], 2);
        assert_eq!(json["signaturesPerSecond"], 1.0);
        assert_eq!(json["latencyMs"]["max"], 100.0);
        assert_eq!(json["errors"], 3);
        assert_eq!(
            json["errorsByReason"],
            json!({"PROVIDER_BUSY": 2, "UNAVAILABLE": 1})
        );
    }

    #[test]
    fn content_is_as_long_as_the_key_wants_it_and_new_each_time() {
        for (hash, expected) in [
            (Some(Hash::Sha256), 32),
            (Some(Hash::Sha384), 48),
            (Some(Hash::Sha512), 64),
            (None, 32),
        ] {
            let content = Content::new(hash).unwrap();
            let (first, second) = (content.input(1), content.input(2));
            assert_ne!(first, second);
            match first {
                sign_request::Input::Digest(digest) => {
                    assert_eq!((hash.is_some(), digest.len()), (true, expected));
                }
                sign_request::Input::Message(message) => {
                    assert_eq!((hash.is_none(), message.len()), (true, expected));
                }
            }
        }
    }
}
