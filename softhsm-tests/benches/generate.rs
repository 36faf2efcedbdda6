//! Generating, beside the bare operations it is made of, in one run on one machine.
//!
//! `cargo bench -p softhsm-tests --bench generate` prints the table of the manual.

use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::object::{Attribute, CertificateType, ObjectClass};
use keypaird::proto::{CryptoProvider, NewKeyPairSettings};
use softhsm_tests::bare::{BareKey, BareToken};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::measure::{Samples, ms};
use softhsm_tests::token::Token;

/// How often the two sides take turns, so that both have the machine in the same state.
const TURNS: usize = 40;
const ROUNDS: usize = 7;

fn main() {
    // SOFTHSM2_CONF belongs to a process: this one starts itself again with it.
    if std::env::var_os("SOFTHSM2_CONF").is_none() {
        let token = Token::fresh();
        let status = Command::new(std::env::current_exe().unwrap())
            .env("SOFTHSM2_CONF", token.conf())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let conf = std::env::var("SOFTHSM2_CONF").unwrap();
    let token = Token::there(conf.as_ref());
    let bare = BareToken::open();
    let daemon = Home::hybrid(&token)
        .replacing("telemetry.log_filter", "telemetry.log_filter = \"info\"")
        .start();
    let client = daemon.client().await;

    println!(
        "| in the HSM, one call after the other | bare `C_GenerateKeyPair` | `GenerateSigningKeyPair` | of it `C_CreateObject` of the certificate | ratio, whole | ratio without the certificate object |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, key, per_turn) in [
        ("EC-256", BareKey::P256, 5),
        ("RSA-2048", BareKey::Rsa2048, 3),
    ] {
        let (key_algorithm, _) = key.settings();
        let mut bare_times = Samples::default();
        let mut daemon_times = Samples::default();
        let mut certificate_times = Samples::default();
        for _ in 0..TURNS {
            let mut made = Vec::new();
            for _ in 0..per_turn {
                generate(&bare, key, &mut bare_times);
            }
            for _ in 0..per_turn {
                let begun = Instant::now();
                let view = client
                    .generate(wanted(CryptoProvider::Hsm, key_algorithm))
                    .await
                    .unwrap();
                daemon_times.add(begun.elapsed());
                made.push(view.id);
            }
            for id in made {
                client.delete(&id).await.unwrap();
            }
            for _ in 0..per_turn {
                certificate(&bare, &mut certificate_times);
            }
        }
        let (bare, whole, certificate) = (
            bare_times.median(),
            daemon_times.median(),
            certificate_times.median(),
        );
        println!(
            "| {name}, median of {} | {} | {} | {} | {:.2} | {:.2} |",
            TURNS * per_turn,
            ms(bare),
            ms(whole),
            ms(certificate),
            ratio(whole, bare),
            ratio(whole.saturating_sub(certificate), bare),
        );
    }
    local(&daemon, &client).await;
}

async fn local(daemon: &Daemon, client: &Client) {
    let commits = durable_commits();
    println!();
    println!("| in software | a second | for each durable SQLite commit ({commits:.0} a second) |");
    println!("|---|---|---|");
    for clients in [1, 4, 16, 64] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            rates.push(local_rate(daemon, clients).await);
        }
        rates.sort_by(f64::total_cmp);
        let rate = rates[rates.len() / 2];
        println!(
            "| EC-256, {clients} in flight | {rate:.0} | {:.2} |",
            rate / commits
        );
    }
    drop(client.list_all().await);
}

/// Generates for a second with some clients at once.
async fn local_rate(daemon: &Daemon, clients: usize) -> f64 {
    let client = daemon.client().await;
    let begun = Instant::now();
    let until = begun + Duration::from_secs(1);
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut made = 0_u32;
                while Instant::now() < until {
                    client
                        .generate(wanted(CryptoProvider::Local, "EC"))
                        .await
                        .unwrap();
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.unwrap();
    }
    f64::from(made) / begun.elapsed().as_secs_f64()
}

/// Commits rows of 2 KiB one by one, as durable as the daemon's store does, and returns the rate.
fn durable_commits() -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(folder.path().join("commits.db")).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.pragma_update(None, "synchronous", "FULL").unwrap();
    db.execute_batch("CREATE TABLE row (id INTEGER PRIMARY KEY, value BLOB)")
        .unwrap();
    let mut times = Samples::default();
    for _ in 0..2000 {
        times.time(|| {
            db.execute("INSERT INTO row (value) VALUES (?1)", [vec![7_u8; 2048]])
                .unwrap()
        });
    }
    1.0 / times.median().as_secs_f64()
}

fn wanted(provider: CryptoProvider, key_algorithm: &str) -> NewKeyPairSettings {
    NewKeyPairSettings {
        key_algorithm: key_algorithm.into(),
        ..settings(provider)
    }
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// Times one `C_GenerateKeyPair` of token objects.
fn generate(token: &BareToken, key: BareKey, times: &mut Samples) {
    let (public, private) = token.generate(key, times);
    token.session.destroy_object(public).unwrap();
    token.session.destroy_object(private).unwrap();
}

/// Times one `C_CreateObject` of a certificate.
fn certificate(token: &BareToken, times: &mut Samples) {
    let template = [
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Id(vec![7; 16]),
        Attribute::Label(b"bare".to_vec()),
        Attribute::Subject(vec![7; 60]),
        Attribute::Issuer(vec![7; 60]),
        Attribute::SerialNumber(vec![7; 19]),
        Attribute::Value(vec![7; 480]),
    ];
    let object = times.time(|| token.session.create_object(&template).unwrap());
    token.session.destroy_object(object).unwrap();
}
