//! Rotation and warnings while the clock cannot be trusted.

use time::{Duration, OffsetDateTime};

use super::keep_rotating::Setbacks;
use super::rotation_tests::{START, Stage};
use super::*;
use crate::domain::{EventKind, NewKeyPairSettings};

#[tokio::test]
async fn while_the_clock_cannot_be_trusted_nothing_is_retired_and_all_else_is_done() {
    let stage = Stage::new(1);
    stage.generate("x", ProviderKind::Hsm).await;
    stage.day(70).await;
    stage.day(90).await;
    assert_eq!(stage.generations("x").await, "2 - [1]");
    let service = stage.service();
    let is_done = async |trusted: Option<i64>| {
        let trusted = trusted.map(|day| START + Duration::days(day));
        service
            .do_what_is_due(&mut Setbacks::default(), trusted)
            .await;
        stage.generations("x").await
    };
    // The clock is ahead. The next generation is made, and no key is destroyed.
    stage.set_day(155);
    assert_eq!(is_done(None).await, "2 3 [1]");
    assert_eq!(stage.keys(), 3);
    assert_eq!(service.rotation_metrics().overdue(), 0);
    // A clock that jumped after it was looked at is trusted no further than it showed then.
    assert_eq!(is_done(Some(99)).await, "2 3 [1]");
    assert_eq!(is_done(Some(155)).await, "2 3 []");
    assert_eq!(stage.keys(), 2);
}

/// Lets time pass, which no clock shows.
async fn pass(duration: std::time::Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_named_request_is_answered_again_for_a_day_whatever_the_clock_shows() {
    let stage = Stage::new(2);
    let hours = |hours: u64| std::time::Duration::from_secs(3600 * hours);
    let ask = async |service: &Arc<Service>| {
        let settings = NewKeyPairSettings {
            common_name: "Example".into(),
            organization: "Acme".into(),
            country: "US".into(),
            valid_days: 100,
            key_algorithm: "ED25519".into(),
            crypto_provider: Some(ProviderKind::Local),
            ..NewKeyPairSettings::default()
        };
        let request = GenerateRequest {
            settings,
            request_id: "r".into(),
            ..GenerateRequest::default()
        };
        match service.generate(request).await.unwrap() {
            GenerateOutcome::Made(view) => view.key_pair.id.to_string(),
            GenerateOutcome::WouldMake(_) => unreachable!("the request is no dry run"),
        }
    };
    let [service, restarted] = [&stage.services[0], &stage.services[1]];
    let made = ask(service).await;
    for day in [2, 40, -400, 0, 40_000] {
        stage.set_day(day);
        assert_eq!(ask(service).await, made, "day {day}");
        service.forget_old_requests().await;
        assert_eq!(ask(service).await, made, "day {day}");
    }
    // A daemon that is started while the clock is wrong.
    assert_eq!(ask(restarted).await, made);
    stage.set_day(0);
    assert_eq!(ask(restarted).await, made);
    pass(hours(23)).await;
    restarted.forget_old_requests().await;
    assert_eq!(ask(restarted).await, made);
    // The day is over, with the clock where it was.
    pass(hours(2)).await;
    let remade = ask(restarted).await;
    assert_ne!(remade, made);
    assert_eq!(ask(service).await, remade);
}

#[tokio::test]
async fn while_the_clock_cannot_be_trusted_no_expiry_is_told() {
    let stage = Stage::new(1);
    stage
        .generate_with("x", ProviderKind::Local, 100, None)
        .await;
    let told = async |trusted: Option<OffsetDateTime>| {
        stage
            .service()
            .do_what_is_due(&mut Setbacks::default(), trusted)
            .await;
        let events = stage.store.events_after(0, 99).await.unwrap();
        let told: Vec<_> = events.iter().skip(1).map(|event| event.kind).collect();
        told
    };
    // Ahead for a while, and right again: the warnings come when they are due.
    stage.set_day(400);
    assert_eq!(told(None).await, []);
    assert_eq!(told(Some(START)).await, []);
    stage.set_day(80);
    let now = Some(stage.now());
    assert_eq!(told(now).await, [EventKind::Expiring]);
    stage.set_day(101);
    let now = Some(stage.now());
    assert_eq!(told(now).await, [EventKind::Expiring, EventKind::Expired]);
}
