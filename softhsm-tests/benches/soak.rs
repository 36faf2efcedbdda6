//! Full load for a long time, by clients that hang up, cancel and time out: is anything left behind?
//!
//! `cargo bench -p softhsm-tests --bench soak` takes ten minutes; a number behind `--` is another count of seconds.
//! It prints what the daemon holds over time, and fails when threads or descriptors are left over, when it does not
//! sign at once after the load is gone, or when its memory has grown by more than 5 % since the first minute.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keypaird::proto::{CryptoProvider, SignRequest, SignStreamRequest, sign_request};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::measure::resident_mib;
use softhsm_tests::token::Token;
use tonic::Status;

#[tokio::main]
async fn main() {
    let given = std::env::args().find_map(|word| word.parse().ok());
    let length = Duration::from_secs(given.unwrap_or(600));
    let token = Token::fresh();
    let daemon = Home::hybrid(&token)
        // A line for each call that was given up would be all there is.
        .replacing(
            "telemetry.log_filter",
            "telemetry.log_filter = \"info,keypaird::service::report=off\"",
        )
        .start();
    let client = daemon.client().await;
    let mut ids = Vec::new();
    for provider in [CryptoProvider::Hsm, CryptoProvider::Local] {
        for _ in 0..4 {
            ids.push(client.generate(settings(provider)).await.unwrap().id);
        }
    }
    let load = Arc::new(Load {
        address: format!("http://{}", daemon.address()),
        ids,
        stop: AtomicBool::new(false),
        counts: Default::default(),
        refusals: Mutex::default(),
    });
    let idle = Held::of(&daemon);
    let workers: Vec<_> = (0..48)
        .map(|number| tokio::spawn(Arc::clone(&load).work(number)))
        .collect();

    println!(
        "| after | signed | given up by the client | refused | memory | threads | descriptors |"
    );
    println!("|---|---|---|---|---|---|---|");
    let begun = Instant::now();
    let mut after_a_minute = None;
    while begun.elapsed() < length {
        tokio::time::sleep((length / 10).min(Duration::from_secs(60))).await;
        let held = Held::of(&daemon);
        after_a_minute.get_or_insert(held.memory_mib);
        load.print(begun.elapsed(), &held);
    }
    load.stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    // What was given up is dropped as its turn comes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = Instant::now();
    for id in &load.ids {
        client.sign(request(id, 0)).await.unwrap();
    }
    let took = again.elapsed();
    let left = Held::of(&daemon);
    load.print(begun.elapsed(), &left);
    println!();
    println!(
        "Eight signatures after the load took {took:?}. Before it: {} threads, {} descriptors.",
        idle.threads, idle.descriptors
    );
    println!("Refused: {:?}.", load.refusals.lock().unwrap());
    let grown = left.memory_mib / after_a_minute.unwrap();
    println!(
        "Memory has grown to {:.1} % of what it was after the first minute.",
        grown * 100.0
    );
    assert!(took < Duration::from_secs(1));
    assert!(
        left.threads <= idle.threads + BLOCKING_THREADS,
        "threads are left over"
    );
    assert!(
        left.descriptors <= idle.descriptors + 8,
        "descriptors are left over"
    );
    assert!(grown < 1.05, "memory grows");
}

/// What the daemon holds.
struct Held {
    memory_mib: f64,
    threads: usize,
    descriptors: usize,
}

impl Held {
    fn of(daemon: &Daemon) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{}/{what}", daemon.pid()))
                .unwrap()
                .count()
        };
        Self {
            memory_mib: resident_mib(daemon.pid()),
            threads: count("task"),
            descriptors: count("fd"),
        }
    }
}

struct Load {
    address: String,
    ids: Vec<String>,
    stop: AtomicBool,
    /// Signed, given up, refused.
    counts: [AtomicUsize; 3],
    /// Why, and how often.
    refusals: Mutex<BTreeMap<String, usize>>,
}

impl Load {
    /// Connects, calls in one way for a while, hangs up, and begins anew.
    async fn work(self: Arc<Self>, number: usize) {
        while !self.stop.load(Ordering::Relaxed) {
            let client = Client::connect(&self.address).await;
            let until = Instant::now() + Duration::from_millis(500 + rand::random_range(0..2000));
            match number % 6 {
                0 | 1 => self.patient(&client, until).await,
                2 => self.cancelling(&client, until).await,
                3 => self.timing_out(&client, until).await,
                4 => self.streaming(&client, until).await,
                _ => self.batching(&client, until).await,
            }
        }
    }

    async fn patient(&self, client: &Client, until: Instant) {
        while Instant::now() < until {
            self.answered(client.sign(self.any(0)).await, 1);
        }
    }

    /// Goes away before the answer.
    async fn cancelling(&self, client: &Client, until: Instant) {
        while Instant::now() < until {
            let patience = Duration::from_micros(rand::random_range(0..3000));
            match tokio::time::timeout(patience, client.sign(self.any(1000))).await {
                Ok(done) => self.answered(done, 1),
                Err(_) => self.count(1, 1),
            }
        }
    }

    /// Tells the daemon how long it waits.
    async fn timing_out(&self, client: &Client, until: Instant) {
        while Instant::now() < until {
            let mut request = tonic::Request::new(self.any(0));
            request.set_timeout(Duration::from_micros(rand::random_range(100..5000)));
            match client.signing().sign(request).await {
                Ok(_) => self.count(0, 1),
                Err(_) => self.count(1, 1),
            }
        }
    }

    /// Reads some of the answers and hangs up.
    async fn streaming(&self, client: &Client, until: Instant) {
        while Instant::now() < until {
            let requests: Vec<_> = (0..200)
                .map(|number| SignStreamRequest {
                    correlation_id: number.to_string(),
                    request: Some(self.any(64)),
                })
                .collect();
            let stream = client
                .signing()
                .sign_stream(tokio_stream::iter(requests))
                .await;
            let Ok(mut stream) = stream.map(tonic::Response::into_inner) else {
                continue;
            };
            for _ in 0..rand::random_range(0..200) {
                if stream
                    .message()
                    .await
                    .is_ok_and(|message| message.is_some())
                {
                    self.count(0, 1);
                }
            }
            self.count(1, 1);
        }
    }

    async fn batching(&self, client: &Client, until: Instant) {
        while Instant::now() < until {
            let requests: Vec<_> = (0..100).map(|_| self.any(0)).collect();
            let patience = Duration::from_millis(rand::random_range(0..60));
            match tokio::time::timeout(patience, client.sign_batch(requests)).await {
                Ok(done) => self.answered(done, 100),
                Err(_) => self.count(1, 1),
            }
        }
    }

    fn any(&self, len: usize) -> SignRequest {
        request(&self.ids[rand::random_range(0..self.ids.len())], len)
    }

    fn answered<T>(&self, done: Result<T, Status>, how_many: usize) {
        match done {
            Ok(_) => self.count(0, how_many),
            Err(status) => {
                let why = format!("{:?}: {}", status.code(), status.message());
                *self.refusals.lock().unwrap().entry(why).or_default() += 1;
                self.count(2, 1);
            }
        }
    }

    fn count(&self, what: usize, how_many: usize) {
        self.counts[what].fetch_add(how_many, Ordering::Relaxed);
    }

    fn print(&self, after: Duration, held: &Held) {
        let count = |what: usize| self.counts[what].load(Ordering::Relaxed);
        println!(
            "| {} s | {} | {} | {} | {:.1} MiB | {} | {} |",
            after.as_secs(),
            count(0),
            count(1),
            count(2),
            held.memory_mib,
            held.threads,
            held.descriptors
        );
    }
}

fn request(id: &str, len: usize) -> SignRequest {
    SignRequest {
        id: id.to_owned(),
        input: Some(sign_request::Input::Message(vec![7; len].into())),
        ..SignRequest::default()
    }
}

/// Threads of the pool for blocking work, which end by themselves after ten idle seconds.
const BLOCKING_THREADS: usize = 6;
