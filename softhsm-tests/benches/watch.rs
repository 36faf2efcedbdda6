//! What a thousand watchers cost: the rate of signatures with them and without, and how soon they are told.
//!
//! `cargo bench -p softhsm-tests --bench watch` prints the table of the manual.

use std::time::{Duration, Instant};

use keypaird::proto::{BatchSignRequest, CryptoProvider, SignRequest, sign_request};
use softhsm_tests::client::{Client, Watch, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::load::{Call, closed};
use softhsm_tests::measure::{ms, resident_mib};
use softhsm_tests::token::Token;

const WATCHERS: usize = 1000;
/// A connection takes 1,024 calls at once.
const PER_CONNECTION: usize = 250;
const QUIET: &str = "telemetry.log_filter = \"info\"";
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(2);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).replacing("telemetry.log_filter", QUIET);
    let (with, without) = (
        home.start(),
        Home::hybrid(&token)
            .replacing("telemetry.log_filter", QUIET)
            .start(),
    );
    let client = with.client().await;
    let mut watches = Vec::new();
    let before = resident_mib(with.pid());
    for _ in 0..WATCHERS / PER_CONNECTION {
        let connection = with.client().await;
        for _ in 0..PER_CONNECTION {
            watches.push(connection.watch("", "").await.unwrap());
        }
    }
    let memory = (resident_mib(with.pid()) - before) * 1024.0;
    println!("| {WATCHERS} watchers | |\n|---|---|");
    println!("| memory of each | {:.1} KiB |", memory / 1000.0);

    let told = told(&client, &mut watches).await;
    println!(
        "| from the answer of a rotation until the last of them is told | {} |",
        ms(told)
    );
    for provider in [CryptoProvider::Hsm, CryptoProvider::Local] {
        let (here, there) = (
            signing(&with, provider).await,
            signing(&without, provider).await,
        );
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            // Side by side, and in turn first.
            let rate = |call: &Call| closed(call, 4, ROUND).rate();
            let (first, second) = if round % 2 == 0 {
                (&here, &there)
            } else {
                (&there, &here)
            };
            let (first, second) = (rate(first), rate(second));
            ratios.push(if round % 2 == 0 {
                first / second
            } else {
                second / first
            });
        }
        ratios.sort_by(f64::total_cmp);
        println!(
            "| rate of signatures against a daemon without them, {}, BatchSign of 64 | {:.3} ({:.3} to {:.3}) |",
            provider.as_str_name(),
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }
}

/// Rotates a key pair, and waits until all have heard of it.
async fn told(client: &Client, watches: &mut [Watch]) -> Duration {
    let id = client
        .generate(settings(CryptoProvider::Local))
        .await
        .unwrap()
        .id;
    client.rotate(&id, true).await.unwrap();
    let answered = Instant::now();
    for watch in watches {
        for _ in 0..3 {
            watch.next().await.unwrap();
        }
    }
    answered.elapsed()
}

async fn signing(daemon: &Daemon, provider: CryptoProvider) -> Call {
    let client = daemon.client().await;
    let id = client.generate(settings(provider)).await.unwrap().id;
    let request = SignRequest {
        id,
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    };
    let requests = vec![request; 64];
    Call::new(
        daemon.address(),
        "BatchSign",
        &[BatchSignRequest { requests }],
    )
}
