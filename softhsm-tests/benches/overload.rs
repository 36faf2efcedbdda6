//! Four times as many calls as can be answered: do those that can be answered get their answers, and the others a refusal at
//! once?
//!
//! `cargo bench -p softhsm-tests --bench overload` takes six minutes; a number behind `--` is another count of seconds for each
//! of the loads. It prints what came of them, and fails when less than 90 % of the capacity is left with a token that is a
//! device of its own, when anything else than a refusal comes back, or when memory grows.
//!
//! A token is a device of its own when it does not need the processors of this machine: SoftHSM2 that waits 2 ms before each
//! signature. SoftHSM2 by itself, and keys in software, need the same two processors that the refusals and the load take
//! theirs of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keypaird::proto::{CryptoProvider, SignRequest, sign_request};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::load::{self, Call, Outcome};
use softhsm_tests::measure::{Samples, cpu_time, resident_mib};
use softhsm_tests::token::Token;
use tonic::Code;

#[tokio::main]
async fn main() {
    let given = std::env::args().find_map(|word| word.parse().ok());
    let device = Duration::from_secs(given.unwrap_or(300));
    let others = Duration::from_secs(given.unwrap_or(20).min(20));

    let token = Token::fresh();
    let module = FaultyModule::new();
    let daemon = module.given_to(quiet(Home::hybrid(&token))).start();
    let client = daemon.client().await;
    let hsm = client.generate(settings(CryptoProvider::Hsm)).await;
    let local = client.generate(settings(CryptoProvider::Local)).await;
    let (hsm, local) = (hsm.unwrap().id, local.unwrap().id);
    client.sign(request(&hsm)).await.unwrap();

    module.tell("C_Sign 0 0 delay 2");
    let slow = overload("HSM P-256, a device of 2 ms", &daemon, &hsm, device).await;
    module.mend();
    let quick = overload("HSM P-256, SoftHSM2 as it is", &daemon, &hsm, others).await;
    let local = overload("LOCAL P-256", &daemon, &local, others).await;
    let all = [slow, quick, local];

    println!(
        "| load | capacity | asked for | signed | of capacity | median | p99 | refused | median | p99 | processors | memory at first, after 10 %, at last |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for measured in &all {
        measured.print();
    }
    println!();
    println!("What a client of generated code got beside it, one call after the other:");
    println!();
    println!("| load | signatures | median | p99 | refusals, all PROVIDER_BUSY | median | p99 |");
    println!("|---|---|---|---|---|---|---|");
    for measured in &all {
        measured.print_beside();
    }
    for measured in &all {
        let memory = &measured.memory;
        let (first, last) = (memory[1], memory[memory.len() - 1]);
        assert!(last < first * 1.1 + 4.0, "memory grows: {memory:?}");
    }
    let kept = all[0].kept();
    assert!(kept >= 0.9, "only {kept} of the capacity is left");
}

fn quiet(home: Home) -> Home {
    home.replacing("telemetry.log_filter", "telemetry.log_filter = \"info\"")
}

/// What came of a load.
struct Measured {
    name: &'static str,
    /// Signatures a second.
    capacity: f64,
    outcome: Outcome,
    /// What a client of generated code got.
    beside: (Samples, Samples),
    processors: f64,
    memory: Vec<f64>,
}

/// Measures the capacity, and asks for four times as much.
async fn overload(name: &'static str, daemon: &Daemon, id: &str, duration: Duration) -> Measured {
    let call = Call::new(daemon.address(), "Sign", &[request(id)]);
    let capacity = tokio::task::block_in_place(|| {
        load::closed(&call, 64, Duration::from_secs(2));
        load::closed(&call, 64, Duration::from_secs(8)).rate()
    });
    let memory = Arc::new(std::sync::Mutex::new(vec![resident_mib(daemon.pid())]));
    let watching = tokio::spawn({
        let (memory, pid) = (Arc::clone(&memory), daemon.pid());
        async move {
            for _ in 0..9 {
                tokio::time::sleep(duration / 10).await;
                memory.lock().unwrap().push(resident_mib(pid));
            }
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask_as_others_do(
        daemon.client().await,
        id.to_owned(),
        Arc::clone(&stop),
    ));
    let (busy, begun) = (cpu_time(daemon.pid()), Instant::now());
    let outcome = tokio::task::block_in_place(|| load::flood(&call, 4, 4.0 * capacity, duration));
    let busy = cpu_time(daemon.pid()).saturating_sub(busy);
    let processors = busy.as_secs_f64() / begun.elapsed().as_secs_f64();
    watching.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let beside = asking.await.unwrap();
    let memory = memory.lock().unwrap().clone();
    Measured {
        name,
        capacity,
        outcome,
        beside,
        processors,
        memory,
    }
}

/// Calls as other clients do, and panics when what comes back is neither a signature nor a refusal as it should be.
async fn ask_as_others_do(client: Client, id: String, stop: Arc<AtomicBool>) -> (Samples, Samples) {
    let (mut signed, mut refused) = (Samples::default(), Samples::default());
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match client.sign(request(&id)).await {
            Ok(_) => signed.add(begun.elapsed()),
            Err(status) => {
                let busy = (Code::ResourceExhausted, "PROVIDER_BUSY".into());
                assert_eq!(reason(&status), busy);
                refused.add(begun.elapsed());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (signed, refused)
}

impl Measured {
    /// Returns what share of the capacity was left.
    fn kept(&self) -> f64 {
        self.outcome.rate() / self.capacity
    }

    fn print(&self) {
        let (outcome, memory) = (&self.outcome, &self.memory);
        let asked = f64::from(u32::try_from(outcome.done + outcome.failed).unwrap());
        println!(
            "| {} | {:.0} /s | {:.1} times | {:.0} /s | **{:.0} %** | {:?} | {:?} | {} | {:?} | {:?} | {:.2} | {:.0}, {:.0}, {:.0} MiB |",
            self.name,
            self.capacity,
            asked / outcome.took.as_secs_f64() / self.capacity,
            outcome.rate(),
            self.kept() * 100.0,
            median(&outcome.latencies),
            p99(&outcome.latencies),
            outcome.failed,
            median(&outcome.refusals),
            p99(&outcome.refusals),
            self.processors,
            memory[0],
            memory[1],
            memory[memory.len() - 1],
        );
    }

    fn print_beside(&self) {
        let (signed, refused) = &self.beside;
        println!(
            "| {} | {} | {:?} | {:?} | {} | {:?} | {:?} |",
            self.name,
            signed.len(),
            median(signed),
            p99(signed),
            refused.len(),
            median(refused),
            p99(refused),
        );
    }
}

fn median(samples: &Samples) -> Duration {
    quantile(samples, 0.5)
}

fn p99(samples: &Samples) -> Duration {
    quantile(samples, 0.99)
}

fn quantile(samples: &Samples, share: f64) -> Duration {
    match samples.is_empty() {
        true => Duration::ZERO,
        false => Duration::from_micros(u64::try_from(samples.quantile(share).as_micros()).unwrap()),
    }
}

fn request(id: &str) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(vec![7; 64].into())),
        ..SignRequest::default()
    }
}
