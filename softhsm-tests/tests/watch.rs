//! Those who watch: what they are told, over kills and restarts.

use keypaird::proto::key_pair_event::Type;
use keypaird::proto::{CryptoProvider, NewKeyPairSettings};
use softhsm_tests::client::{reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::keypairctl;
use softhsm_tests::shifted_clock::ShiftedClock;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_back_after_a_kill_misses_nothing_and_sees_nothing_twice() {
    let home = Home::local();
    let mut daemon = home.start();
    let mut token = daemon.client().await.watch("", "").await.unwrap().token;
    let (mut made, mut told) = (Vec::new(), Vec::new());
    for round in 0..6_u64 {
        let client = daemon.client().await;
        // Makes key pairs as fast as it can, until the daemon dies.
        let making = tokio::spawn({
            let client = client.clone();
            async move {
                let mut made = Vec::new();
                while let Ok(view) = client.generate(settings(CryptoProvider::Unspecified)).await {
                    made.push(view.id);
                }
                made
            }
        });
        let mut watch = client.watch("", &token).await.unwrap();
        let watching = tokio::spawn(async move {
            let mut told = Vec::new();
            while let Ok(event) = watch.next().await {
                assert_eq!(event.r#type(), Type::Created);
                assert_eq!(event.key_pair.unwrap().id, event.id);
                told.push((event.id, watch.token.clone()));
            }
            told
        });
        tokio::time::sleep(std::time::Duration::from_millis(50 + 37 * round)).await;
        daemon.kill();
        made.extend(making.await.unwrap());
        for (id, resume) in watching.await.unwrap() {
            told.push(id);
            token = resume;
        }
        daemon = home.start();
    }
    // What was recorded and not told before the last kill.
    let client = daemon.client().await;
    let last = client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    let mut watch = client.watch("", &token).await.unwrap();
    while told.last() != Some(&last.id) {
        told.push(watch.next().await.unwrap().id);
    }
    let unique: std::collections::BTreeSet<_> = told.iter().collect();
    assert_eq!(unique.len(), told.len(), "an event was told twice");
    let there: std::collections::BTreeSet<_> = client
        .list_all()
        .await
        .into_iter()
        .map(|view| view.id)
        .collect();
    assert_eq!(unique, there.iter().collect());
    assert!(
        made.iter().all(|id| there.contains(id)),
        "what was answered was lost"
    );
    assert!(made.len() > 50, "{}", made.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn expiries_are_told_at_the_days_that_are_configured() {
    let clock = ShiftedClock::new();
    let home = clock
        .given_to(Home::local())
        .with("rotation.check_interval = \"50ms\"\nrotation.expiry_warning_days = [50, 20]");
    let mut daemon = home.start();
    let client = daemon.client().await;
    let mut watch = client.watch("x", "").await.unwrap();
    let wanted = NewKeyPairSettings {
        id: Some("x".into()),
        valid_days: 100,
        ..settings(CryptoProvider::Unspecified)
    };
    client.generate(wanted).await.unwrap();
    assert_eq!(watch.next().await.unwrap().r#type(), Type::Created);
    for (days, kind) in [
        (51, Type::Expiring),
        (81, Type::Expiring),
        (101, Type::Expired),
    ] {
        clock.set_days_ahead(days);
        let event = watch.next().await.unwrap();
        assert_eq!((event.r#type(), &*event.id), (kind, "x"), "day {days}");
        // Once, over a restart too.
        daemon.stop();
        daemon = home.start();
        watch = daemon
            .client()
            .await
            .watch("x", &watch.token)
            .await
            .unwrap();
    }
    let client = daemon.client().await;
    client.delete("x").await.unwrap();
    assert_eq!(watch.next().await.unwrap().r#type(), Type::Deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_watch_are_told_that_the_daemon_stops_and_keep_it_from_nothing() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let mut watch = client.watch("", "").await.unwrap();
    let begun = std::time::Instant::now();
    let stopping = tokio::task::spawn_blocking(move || daemon.stop());
    let told = watch.next().await.unwrap_err();
    assert_eq!(reason(&told), (Code::Unavailable, "SHUTTING_DOWN".into()));
    let (status, _) = stopping.await.unwrap();
    assert!(status.success());
    assert!(begun.elapsed().as_secs() < 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_and_no_id_is_refused_by_name() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (id, since, field) in [("", "yesterday", "since"), ("Not An Id", "", "id")] {
        let refused = client.watch(id, since).await.unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::InvalidArgument, "VALIDATION_FAILED".into())
        );
        assert!(refused.message().contains(field), "{}", refused.message());
    }
}

#[test]
fn keypairctl_watches_and_goes_on_where_it_was() {
    let daemon = Home::local().start();
    let generate = |id: &str| {
        let mut arguments = vec!["generate", "--id", id];
        arguments.extend(keypairctl::SUBJECT);
        keypairctl::succeeded(&daemon, &arguments);
    };
    for id in ["a", "b", "c"] {
        generate(id);
    }
    // The token of an event is that of the beginning, with a number of its own.
    let first = keypairctl::json(
        &daemon,
        &["watch", "--since", "e0", "--count", "1", "--output", "json"],
    );
    let first = first["resumeToken"].as_str().unwrap();
    assert!(first.starts_with("e1-"), "{first}");
    let third = first.replace("e1-", "e3-");
    let shown = keypairctl::succeeded(&daemon, &["watch", "--since", first, "--count", "2"]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(
        lines[0].contains("CREATED") && lines[0].contains("b, CN=Example, O=Acme, C=US, until "),
        "{shown}"
    );
    assert!(lines[1].ends_with(&format!("({third})")), "{shown}");
    let json = keypairctl::json(
        &daemon,
        &[
            "watch", "c", "--since", "e0", "--count", "1", "--output", "json",
        ],
    );
    assert_eq!(json["event"]["type"], "CREATED");
    assert_eq!(json["event"]["keyPair"]["id"], "c");
    assert_eq!(json["resumeToken"], third);
    let refused = keypairctl::run(&daemon, &["watch", "--since", "nonsense"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = keypairctl::err(&refused);
    assert!(
        said.contains("since (--since): \"nonsense\" is no resume token"),
        "{said}"
    );
}
