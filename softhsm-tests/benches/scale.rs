//! Many key pairs: 100,000 in the store, and 5,000 on a token.
//!
//! `cargo bench -p softhsm-tests --bench scale` prints the tables of the manual; it takes some minutes, most
//! of them to fill the token. `KEYS_ON_TOKEN` changes how many keys that gets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypaird::domain::{KeyPairId, KeyRef, PublicKey};
use keypaird::proto::{
    CertificateValidity, CryptoProvider, KeyPairFilter, ListSigningKeyPairsRequest,
    NewKeyPairSettings,
};
use keypaird::store::{EmbeddedStore, MetadataStore, NewKeyPair};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::http;
use softhsm_tests::measure::{Samples, ms, resident_mib};
use softhsm_tests::token::Token;

const IN_STORE: usize = 100_000;
const QUIET: &str = "telemetry.log_filter = \"info\"";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        in_store().await;
        on_token().await;
    });
}

async fn in_store() {
    let home = Home::local().replacing("telemetry.log_filter", QUIET);
    fill_store(&home).await;
    let begun = Instant::now();
    let daemon = home.start();
    let client = daemon.client().await;
    client.get("k000007").await.unwrap();
    let started = begun.elapsed();

    println!("| {IN_STORE} key pairs in the store | median | p99 |");
    println!("|---|---|---|");
    println!("| start to the first answer | {} | |", ms(started));
    let mut gets = Samples::default();
    for n in 0..3000 {
        let id = format!("k{:06}", (n * 7919) % IN_STORE);
        let begun = Instant::now();
        client.get(&id).await.unwrap();
        gets.add(begun.elapsed());
    }
    row("Get", &gets);
    let filter = |filter| ListSigningKeyPairsRequest {
        filter: Some(filter),
        ..ListSigningKeyPairsRequest::default()
    };
    let order = |order_by: &str| ListSigningKeyPairsRequest {
        order_by: order_by.into(),
        ..ListSigningKeyPairsRequest::default()
    };
    for (name, request) in [
        ("pages of 50", order("")),
        ("pages of 50 by id", order("id")),
        (
            "pages of 50 by expiry, the last first",
            order("expires desc"),
        ),
        ("pages of 50 by subject", order("subject_dn")),
        (
            "pages of 50 of one algorithm",
            filter(KeyPairFilter {
                key_algorithm: "EC".into(),
                ..KeyPairFilter::default()
            }),
        ),
        (
            "pages of 50 of the valid ones",
            filter(KeyPairFilter {
                status: CertificateValidity::Valid.into(),
                ..KeyPairFilter::default()
            }),
        ),
        (
            "pages of 50 with a text",
            filter(KeyPairFilter {
                query: "77".into(),
                ..KeyPairFilter::default()
            }),
        ),
    ] {
        row(name, &pages(&client, request).await);
    }
    let (first, last) = ("page=1", format!("page={}", IN_STORE / 50));
    for (name, page) in [("the first", first), ("the last", &*last)] {
        let mut times = Samples::default();
        for _ in 0..20 {
            let begun = Instant::now();
            let path = format!("/keyPairs/signing?numberPerPage=50&{page}");
            assert_eq!(http::get(&daemon, &path).status, 200);
            times.add(begun.elapsed());
        }
        row(&format!("REST, {name} page of 50"), &times);
    }
    let begun = Instant::now();
    let whole = http::send(
        &daemon,
        "GET",
        "/pf-admin-api/v1/keyPairs/signing",
        &[],
        b"",
    );
    println!(
        "| REST, all of them, {} MB | {} | |",
        whole.body.len() / 1_000_000,
        ms(begun.elapsed())
    );
    println!(
        "| resident memory after all that | {:.0} MiB | |",
        resident_mib(daemon.pid())
    );
}

/// Walks some hundred pages.
async fn pages(client: &Client, mut request: ListSigningKeyPairsRequest) -> Samples {
    let mut times = Samples::default();
    for _ in 0..300 {
        let begun = Instant::now();
        let page = client.list(request.clone()).await.unwrap();
        times.add(begun.elapsed());
        assert!(!page.key_pairs.is_empty());
        request.page_token = page.next_page_token;
    }
    times
}

fn row(name: &str, times: &Samples) {
    println!(
        "| {name} | {} | {} |",
        ms(times.median()),
        ms(times.quantile(0.99))
    );
}

/// Makes one key pair, and stores it again and again under other names.
async fn fill_store(home: &Home) {
    let daemon = home.start();
    daemon
        .client()
        .await
        .generate(NewKeyPairSettings {
            id: Some("first".into()),
            ..settings(CryptoProvider::Unspecified)
        })
        .await
        .unwrap();
    daemon.stop();
    let store = Arc::new(EmbeddedStore::open(&home.path("keypaird.db")).unwrap());
    let first = store
        .key_pair(&KeyPairId::parse("first").unwrap())
        .await
        .unwrap()
        .unwrap();
    let sealed = store.sealed_key(first.current.key_ref).await.unwrap();
    for block in 0..IN_STORE / 1000 {
        let writes: Vec<_> = (block * 1000..(block + 1) * 1000)
            .map(|n| {
                let (store, sealed_key) = (Arc::clone(&store), sealed.clone());
                let mut key_pair = first.clone();
                key_pair.id = KeyPairId::parse(&format!("k{n:06}")).unwrap();
                key_pair.current.key_ref = KeyRef::from_random(rand::random());
                key_pair.current.public_key = other_key(&first.current.public_key, n);
                key_pair.current.subject_dn =
                    format!("CN=Service {:06}, O=Acme, C=US", (n * 7919) % IN_STORE);
                key_pair.current.validity.not_after +=
                    Duration::from_secs((n as u64 * 31) % 1_000_000);
                let new = NewKeyPair {
                    key_pair,
                    sealed_key,
                    intent: None,
                    request: None,
                };
                tokio::spawn(async move { store.complete_creation(new).await.unwrap() })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
    }
}

/// Returns another public key of the same kind, whose last bytes say which.
fn other_key(key: &PublicKey, number: usize) -> PublicKey {
    let mut bits = key.bits().to_vec();
    let place = bits.len() - 20;
    bits[place..place + 8].copy_from_slice(&number.to_be_bytes());
    PublicKey::new(key.spec(), bits)
}

async fn on_token() {
    let keys: usize = std::env::var("KEYS_ON_TOKEN").map_or(5000, |keys| keys.parse().unwrap());
    let token = Token::fresh();
    let home = Home::hsm(&token).replacing("telemetry.log_filter", QUIET);
    let daemon = home.start();
    let client = daemon.client().await;
    for _ in 0..keys / 50 {
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(
                    async move { client.generate(settings(CryptoProvider::Unspecified)).await },
                )
            })
            .collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
    }
    let id = client
        .list(ListSigningKeyPairsRequest::default())
        .await
        .unwrap()
        .key_pairs[0]
        .id
        .clone();
    daemon.stop();

    let begun = Instant::now();
    let daemon = home.start_without_token();
    let client = daemon.client().await;
    client.get(&id).await.unwrap();
    let answered = begun.elapsed();
    daemon.wait_for_log("connected to the token");
    let connected = begun.elapsed();
    let begun_generating = Instant::now();
    client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    let generated = begun_generating.elapsed();
    daemon.wait_for_log("the token and the store were compared");
    let compared = begun.elapsed();
    println!();
    println!("| {keys} key pairs on the token | after the start |");
    println!("|---|---|");
    println!("| the first Get is answered | {} |", ms(answered));
    println!(
        "| the token is connected and keys can be made | {} |",
        ms(connected)
    );
    println!(
        "| token and store are compared, all handles known | {} |",
        ms(compared)
    );
    println!("| a key pair made meanwhile takes | {} |", ms(generated));
    println!(
        "| resident memory | {:.0} MiB |",
        resident_mib(daemon.pid())
    );
}
