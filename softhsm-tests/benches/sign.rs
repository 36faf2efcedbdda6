//! Signing, beside the bare operations, in one run on one machine.
//!
//! `cargo bench -p softhsm-tests --bench sign` prints the tables of the manual. A word behind `--` chooses some:
//! `rates`, `isolation`, `latency`, `many-keys`. Daemon, client, token and bare loops share the machine and take turns.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryptoki::object::ObjectHandle;
use keypaird::proto::{
    BatchSignRequest, CryptoProvider, NewKeyPairSettings, SignRequest, SignStreamRequest,
    sign_request,
};
use softhsm_tests::bare::{BareKey, BareToken};
use softhsm_tests::client::settings;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::load::{self, Call, Outcome};
use softhsm_tests::measure::{Samples, cpu_time, median};
use softhsm_tests::token::Token;

const ROUNDS: usize = 5;
/// More, for differences of a few in a hundred.
const ROUNDS_OF_SHELVES: usize = 11;
const KEY_OF_SHELVES: BareKey = BareKey::P256;
const TURN: Duration = Duration::from_secs(1);
/// As many as the machine has cores.
const BARE_THREADS: usize = 2;
/// What this program is called with to be a [`BareProcess`].
const BARE_TURNS: &str = "--bare-turns";

fn main() {
    // SOFTHSM2_CONF belongs to a process: this one starts itself again with it.
    if std::env::var_os("SOFTHSM2_CONF").is_none() {
        let token = Token::fresh();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env("SOFTHSM2_CONF", token.conf())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    if std::env::args().any(|word| word == BARE_TURNS) {
        return bare_turns();
    }
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let bare = BareToken::open();
    if wants("rates") {
        rates(&bare);
    }
    if wants("isolation") {
        isolation(&bare);
    }
    if wants("latency") {
        latency(&bare);
    }
    if wants("many-keys") {
        many_keys();
    }
}

/// A daemon with a token of its own.
struct Measured {
    _token: Token,
    daemon: Daemon,
}

impl Measured {
    fn start(verify_signatures: &str) -> Self {
        Self::isolated("in-process", verify_signatures)
    }

    fn isolated(isolation: &str, verify_signatures: &str) -> Self {
        Self::at(Token::fresh(), isolation, verify_signatures)
    }

    fn at(token: Token, isolation: &str, verify_signatures: &str) -> Self {
        let daemon = Home::hybrid(&token)
            .replacing("telemetry.log_filter", "telemetry.log_filter = \"info\"")
            .replacing(
                "[crypto.pkcs11]",
                &format!(
                    "[crypto.pkcs11]\nisolation = \"{isolation}\"\nverify_signatures = \"{verify_signatures}\""
                ),
            )
            .start();
        Self {
            _token: token,
            daemon,
        }
    }

    fn generate(&self, provider: CryptoProvider, key: BareKey) -> String {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (key_algorithm, key_size) = key.settings();
            let wanted = NewKeyPairSettings {
                key_algorithm: key_algorithm.into(),
                key_size: Some(key_size),
                ..settings(provider)
            };
            self.daemon
                .client()
                .await
                .generate(wanted)
                .await
                .unwrap()
                .id
        })
    }
}

/// How signatures are asked for.
#[derive(Clone, Copy)]
enum Way {
    Unary(usize),
    Streams(usize, usize),
    Batches(usize, usize),
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Unary(in_flight) => format!("`Sign`, {in_flight} in flight"),
            Self::Streams(streams, window) => {
                format!("`SignStream`, {streams} streams of {window}")
            }
            Self::Batches(size, in_flight) => {
                format!("`BatchSign` of {size}, {in_flight} in flight")
            }
        }
    }

    /// Signs for a turn, and returns how much in a second, and the daemon's processor time of each.
    fn turn(self, daemon: &Daemon, ids: &[String], key: BareKey) -> (f64, Duration) {
        let (outcome, cpu) = with_cpu_of_one(daemon, || self.run(daemon, ids, key, TURN));
        assert_eq!(outcome.failed, 0);
        (outcome.rate(), cpu)
    }

    fn run(self, daemon: &Daemon, ids: &[String], key: BareKey, duration: Duration) -> Outcome {
        let address = daemon.address();
        let requests: Vec<_> = ids.iter().map(|id| request(id, key)).collect();
        match self {
            Self::Unary(in_flight) => {
                load::closed(&Call::new(address, "Sign", &requests), in_flight, duration)
            }
            Self::Streams(streams, window) => {
                let messages: Vec<_> = requests
                    .into_iter()
                    .map(|request| SignStreamRequest {
                        correlation_id: "1".into(),
                        request: Some(request),
                    })
                    .collect();
                let call = Call::new(address, "SignStream", &messages);
                load::streams(&call, streams, window, duration)
            }
            Self::Batches(size, in_flight) => {
                let batch = BatchSignRequest {
                    requests: requests.into_iter().cycle().take(size).collect(),
                };
                let call = Call::new(address, "BatchSign", &[batch]);
                load::closed(&call, in_flight, duration)
            }
        }
    }
}

fn request(id: &str, key: BareKey) -> SignRequest {
    let input = vec![7; 32].into();
    SignRequest {
        id: id.to_owned(),
        input: Some(match key {
            BareKey::Ed25519 => sign_request::Input::Message(input),
            _ => sign_request::Input::Digest(input),
        }),
        ..SignRequest::default()
    }
}

fn rates(bare: &BareToken) {
    let unary = Way::Unary(64);
    let stream = Way::Streams(4, 16);
    let batch = Way::Batches(64, 4);
    println!(
        "| signatures a second | bare, 2 threads | `never` verified | ratio | server CPU of one / bare | `always` verified | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (never, always) = (Measured::start("never"), Measured::start("always"));
    for (provider, key, ways) in [
        (CryptoProvider::Hsm, BareKey::Rsa2048, &[unary][..]),
        (CryptoProvider::Hsm, BareKey::P256, &[unary, stream, batch]),
        (
            CryptoProvider::Local,
            BareKey::P256,
            &[unary, stream, batch],
        ),
        (CryptoProvider::Hsm, BareKey::Ed25519, &[unary, batch]),
        (CryptoProvider::Hsm, BareKey::P384, &[unary, batch]),
        (CryptoProvider::Hsm, BareKey::Rsa4096, &[unary, batch]),
        (CryptoProvider::Local, BareKey::Ed25519, &[unary, batch]),
        (CryptoProvider::Local, BareKey::P384, &[unary, batch]),
        (CryptoProvider::Local, BareKey::Rsa2048, &[unary, batch]),
        (CryptoProvider::Local, BareKey::Rsa4096, &[unary, batch]),
    ] {
        let on_token = provider == CryptoProvider::Hsm;
        let handle = on_token.then(|| bare.generate(key, &mut Samples::default()).1);
        let ids = [&never, &always].map(|measured| vec![measured.generate(provider, key)]);
        for way in ways {
            let mut figures = Figures::default();
            for _ in 0..ROUNDS {
                figures.bare(bare, key, handle);
                figures.never(*way, &never.daemon, &ids[0], key);
                if on_token {
                    figures.always(*way, &always.daemon, &ids[1], key);
                }
            }
            figures.print(&format!(
                "{} {key:?}, {}",
                provider.as_str_name(),
                way.name()
            ));
        }
    }
}

/// What it costs to have the module in a process of its own.
fn isolation(bare: &BareToken) {
    println!();
    println!(
        "| HSM P-256 | verified | in-process | process | ratio | of the bare loop | CPU of one in-process | process |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let key = BareKey::P256;
    let handle = bare.generate(key, &mut Samples::default()).1;
    for verify in ["never", "always"] {
        let kinds = ["in-process", "process"].map(|isolation| {
            let measured = Measured::isolated(isolation, verify);
            let ids = vec![measured.generate(CryptoProvider::Hsm, key)];
            (measured, ids)
        });
        for way in [
            Way::Unary(1),
            Way::Unary(64),
            Way::Streams(4, 16),
            Way::Batches(64, 4),
        ] {
            let mut figures = [Figures::default(), Figures::default()];
            // More than elsewhere: what is looked for is small.
            for _ in 0..ROUNDS * 3 {
                figures[0].bare(bare, key, Some(handle));
                for (figures, (measured, ids)) in figures.iter_mut().zip(&kinds) {
                    figures.never(way, &measured.daemon, ids, key);
                }
            }
            let [inside, outside] = figures;
            let (bare, inside_rate) = (median(inside.bare), median(inside.never));
            let outside_rate = median(outside.never);
            println!(
                "| {} | {verify} | {inside_rate:.0} | {outside_rate:.0} | **{:.2}** | {:.2} | {:.0} µs | {:.0} µs |",
                way.name(),
                outside_rate / inside_rate,
                outside_rate / bare,
                median(inside.never_cpu),
                median(outside.never_cpu),
            );
        }
    }
}

/// What turns gave: signatures a second, and processor time of each in microseconds.
#[derive(Default)]
struct Figures {
    bare: Vec<f64>,
    bare_cpu: Vec<f64>,
    never: Vec<f64>,
    never_cpu: Vec<f64>,
    always: Vec<f64>,
}

impl Figures {
    fn bare(&mut self, token: &BareToken, key: BareKey, handle: Option<ObjectHandle>) {
        let bare = match handle {
            Some(handle) => token.sign(key, handle, BARE_THREADS, TURN),
            None => key.sign_in_software(BARE_THREADS, TURN),
        };
        self.bare.push(bare.rate);
        self.bare_cpu.push(microseconds(bare.cpu));
    }

    fn never(&mut self, way: Way, daemon: &Daemon, ids: &[String], key: BareKey) {
        let (rate, cpu) = way.turn(daemon, ids, key);
        self.never.push(rate);
        self.never_cpu.push(microseconds(cpu));
    }

    fn always(&mut self, way: Way, daemon: &Daemon, ids: &[String], key: BareKey) {
        let (rate, _) = way.turn(daemon, ids, key);
        self.always.push(rate);
    }

    fn print(self, name: &str) {
        let bare = median(self.bare);
        let never = median(self.never);
        let cpu = median(self.never_cpu);
        let bare_cpu = median(self.bare_cpu);
        // Software signatures are not verified: whoever has the key in memory has made them.
        let (always, ratio) = if self.always.is_empty() {
            (String::new(), String::new())
        } else {
            let always = median(self.always);
            (format!("{always:.0}"), format!("{:.2}", always / bare))
        };
        println!(
            "| {name} | {bare:.0} | {never:.0} | **{:.2}** | {:.0} / {:.0} µs = {:.2} | {always} | {ratio} |",
            never / bare,
            cpu,
            bare_cpu,
            cpu / bare_cpu,
        );
    }
}

fn latency(bare: &BareToken) {
    let key = BareKey::P256;
    let handle = bare.generate(key, &mut Samples::default()).1;
    let measured = Measured::start("never");
    let ids = [measured.generate(CryptoProvider::Hsm, key)];
    let daemon = &measured.daemon;
    let call = Call::new(daemon.address(), "Sign", &[request(&ids[0], key)]);

    let (mut alone, mut single) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        alone.extend(bare.sign(key, handle, 1, TURN).latencies);
        single.extend(load::closed(&call, 1, TURN).latencies);
    }
    println!();
    println!("| HSM P-256, one call at a time | median | p99 |");
    println!("|---|---|---|");
    println!(
        "| bare `C_Sign` | {} | {} |",
        us(&alone, 0.5),
        us(&alone, 0.99)
    );
    println!("| `Sign` | {} | {} |", us(&single, 0.5), us(&single, 0.99));

    let saturated = median(
        (0..ROUNDS)
            .map(|_| load::closed(&call, 64, TURN).rate())
            .collect(),
    );
    let half = saturated / 2.0;
    println!();
    println!(
        "| HSM P-256 at {half:.0} a second, half of the saturated rate | median | p99 | p99.9 | CPU of one | key pairs made |"
    );
    println!("|---|---|---|---|---|---|");
    let turns = TURN * 5;
    let (quiet, cpu) = with_cpu_of_one(daemon, || load::open(&call, half, turns));
    println!(
        "| nothing beside it | {} | {} | {} | {} | |",
        us(&quiet.latencies, 0.5),
        us(&quiet.latencies, 0.99),
        us(&quiet.latencies, 0.999),
        show(cpu),
    );
    let (busy, made) = beside_generation(&measured, || load::open(&call, half, turns * 4));
    println!(
        "| RSA-4096 key pairs made in the same token without pause | {} | {} | {} | | {made} |",
        us(&busy.latencies, 0.5),
        us(&busy.latencies, 0.99),
        us(&busy.latencies, 0.999)
    );
    let paced = |turns| bare.sign_paced(key, handle, BARE_THREADS, half, turns);
    let bare_quiet = paced(turns);
    let stop = AtomicBool::new(false);
    let admin = bare.another();
    let (bare_busy, made) = std::thread::scope(|scope| {
        let stop = &stop;
        let making = scope.spawn(move || {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                admin.generate(BareKey::Rsa4096, &mut Samples::default());
                made += 1;
            }
            made
        });
        let busy = paced(turns * 4);
        stop.store(true, Ordering::Relaxed);
        (busy, making.join().unwrap())
    });
    for (name, samples, cpu, made) in [
        (
            "bare `C_Sign` at that rate, nothing beside it",
            bare_quiet.latencies,
            show(bare_quiet.cpu),
            String::new(),
        ),
        (
            "bare `C_Sign` at that rate, RSA-4096 key pairs made on a third thread",
            bare_busy.latencies,
            String::new(),
            made.to_string(),
        ),
    ] {
        println!(
            "| {name} | {} | {} | {} | {cpu} | {made} |",
            us(&samples, 0.5),
            us(&samples, 0.99),
            us(&samples, 0.999)
        );
    }
}

/// Does something while RSA-4096 key pairs are made without pause, and returns how many were made.
fn beside_generation<T>(measured: &Measured, work: impl FnOnce() -> T) -> (T, usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                measured.generate(CryptoProvider::Hsm, BareKey::Rsa4096);
                made += 1;
            }
            made
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        (done, making.join().unwrap())
    })
}

/// Compares tokens with few and many keys, turn by turn, since the machine changes more in a minute than they differ.
fn many_keys() {
    let mut shelves = [1, 1000, 5000].map(Shelf::fill);
    let mut all_of: Vec<_> = shelves.iter().map(|_| Turns::default()).collect();
    for round in 0..ROUNDS_OF_SHELVES {
        for place in 0..shelves.len() {
            let place = (place + round) % shelves.len();
            all_of[place].take(&mut shelves[place]);
        }
    }
    println!();
    println!(
        "| keys on the token | bare, that token | `Sign`, 64 in flight, one of the keys | of that with 1 | of the bare loop | server CPU of one / bare | all of the keys in turn | of that with 1 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let few = &all_of[0];
    for (shelf, turns) in shelves.iter().zip(&all_of) {
        println!(
            "| {} | {:.0} | {:.0} | **{:.2}** | {:.2} | {:.0} µs / {:.0} µs = {:.2} | {:.0} | **{:.2}** |",
            shelf.ids.len(),
            median(turns.bare.clone()),
            median(turns.one.clone()),
            ratio(&turns.one, &few.one),
            ratio(&turns.one, &turns.bare),
            median(turns.cpu.clone()),
            median(turns.bare_cpu.clone()),
            ratio(&turns.cpu, &turns.bare_cpu),
            median(turns.all.clone()),
            ratio(&turns.all, &few.all),
        );
    }
}

/// Returns the median of the ratios of figures that were taken one after the other.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let pairs = ours.iter().zip(theirs);
    median(pairs.map(|(ours, theirs)| ours / theirs).collect())
}

/// A token with some keys, a daemon, and a process that signs on the same token: it is SoftHSM2 that has to carry all those objects.
struct Shelf {
    measured: Measured,
    ids: Vec<String>,
    bare: BareProcess,
}

impl Shelf {
    fn fill(count: usize) -> Self {
        let key = KEY_OF_SHELVES;
        let token = Token::fresh();
        let conf = token.conf();
        let measured = Measured::at(token, "in-process", "never");
        let ids: Vec<_> = (0..count)
            .map(|_| measured.generate(CryptoProvider::Hsm, key))
            .collect();
        let bare = BareProcess::start(&conf);
        // The first use of each.
        Way::Batches(1000, 1).run(&measured.daemon, &ids, key, TURN);
        Way::Unary(64).run(&measured.daemon, &ids, key, TURN * 2);
        Self {
            measured,
            ids,
            bare,
        }
    }
}

/// What the turns of a shelf gave: signatures a second, and processor time of each in microseconds.
#[derive(Default)]
struct Turns {
    bare: Vec<f64>,
    bare_cpu: Vec<f64>,
    one: Vec<f64>,
    cpu: Vec<f64>,
    all: Vec<f64>,
}

impl Turns {
    fn take(&mut self, shelf: &mut Shelf) {
        let (rate, cpu) = shelf.bare.turn();
        self.bare.push(rate);
        self.bare_cpu.push(cpu);
        let (way, daemon) = (Way::Unary(64), &shelf.measured.daemon);
        let (rate, cpu) = way.turn(daemon, &shelf.ids[..1], KEY_OF_SHELVES);
        self.one.push(rate);
        self.cpu.push(microseconds(cpu));
        let (rate, _) = way.turn(daemon, &shelf.ids, KEY_OF_SHELVES);
        self.all.push(rate);
    }
}

/// A process with a bare loop of its own, for a token of its own.
struct BareProcess {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl BareProcess {
    fn start(conf: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(BARE_TURNS)
            .env("SOFTHSM2_CONF", conf)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, answers }
    }

    /// Has it sign for a turn, and returns how much in a second, and the processor time of each in microseconds.
    fn turn(&mut self) -> (f64, f64) {
        self.process
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"\n")
            .unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let (rate, cpu) = answer.trim().split_once(' ').unwrap();
        (rate.parse().unwrap(), cpu.parse().unwrap())
    }
}

impl Drop for BareProcess {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// The life of a [`BareProcess`]: a turn for each line that comes in.
fn bare_turns() {
    let bare = BareToken::open();
    let key = KEY_OF_SHELVES;
    let handle = bare.generate(key, &mut Samples::default()).1;
    // It gets to know all of the objects, as the daemon does.
    bare.session.find_objects(&[]).unwrap();
    for _ in std::io::stdin().lines() {
        let turn = bare.sign(key, handle, BARE_THREADS, TURN);
        println!("{} {}", turn.rate, microseconds(turn.cpu));
    }
}

/// Has a daemon sign, and returns its processor time of one signature too.
fn with_cpu_of_one(daemon: &Daemon, work: impl FnOnce() -> Outcome) -> (Outcome, Duration) {
    let before = cpu_time(daemon.pid());
    let outcome = work();
    let spent = cpu_time(daemon.pid()).saturating_sub(before);
    let done = u32::try_from(outcome.done).unwrap();
    (outcome, spent / done)
}

fn show(duration: Duration) -> String {
    format!("{:.0} µs", microseconds(duration))
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn us(samples: &Samples, share: f64) -> String {
    show(samples.quantile(share))
}
