//! Tries the rotation with several who change the same key pairs at once, and with a stop.

use tokio_util::sync::CancellationToken;

use super::keep_rotating::Setbacks;
use super::rotation_tests::{Stage, rotation};
use super::*;
use crate::domain::{EventKind, RotationAction};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_on_one_store_make_one_successor_of_each() {
    let stage = Stage::new(3);
    let provider = |n: u32| match n % 2 {
        0 => ProviderKind::Hsm,
        _ => ProviderKind::Local,
    };
    for n in 0..20 {
        stage.generate(&format!("x{n}"), provider(n)).await;
    }
    for (day, expected) in [(75, "1 2 []"), (95, "2 - [1]"), (105, "2 - []")] {
        stage.set_day(day);
        let workers = stage.services.iter().map(|service| {
            let service = Arc::clone(service);
            let trusted = Some(service.clock.now());
            tokio::spawn(async move {
                service
                    .do_what_is_due(&mut Setbacks::default(), trusted)
                    .await;
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        for n in 0..20 {
            let generations = stage.generations(&format!("x{n}")).await;
            assert_eq!(generations, expected, "day {day}, x{n}");
        }
    }
    assert_eq!(stage.keys(), 10, "keys that nobody has are destroyed");
    assert!(stage.store.intents().await.unwrap().is_empty());
    let events = stage.store.events_after(0, 1000).await.unwrap();
    let activated = events
        .iter()
        .filter(|event| event.kind == EventKind::Activated);
    assert_eq!(activated.count(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_names_no_etag_is_not_told_that_it_differs() {
    let stage = Stage::new(1);
    for n in 0..50 {
        let id = format!("x{n}");
        stage.generate(&id, ProviderKind::Local).await;
        let update = UpdateRotationRequest {
            id: id.clone(),
            settings: rotation(20, 10),
            etag: String::new(),
        };
        let service = stage.service();
        let migrate = service.migrate(&id, Some(ProviderKind::Hsm), "");
        let (rotated, updated, migrated) = tokio::join!(
            stage.rotate(&id, true),
            service.update_rotation(update),
            migrate
        );
        assert_eq!(rotated.key_pair.current.number.number(), 2);
        updated.unwrap();
        migrated.unwrap();
        let delete = DeleteRequest {
            id: id.clone(),
            ..DeleteRequest::default()
        };
        let rotate = RotateRequest {
            id: id.clone(),
            ..RotateRequest::default()
        };
        let (rotated, deleted) = tokio::join!(service.rotate(rotate), service.delete(delete));
        deleted.unwrap();
        assert!(
            matches!(rotated, Ok(_) | Err(ServiceError::KeyPairNotFound(_))),
            "{rotated:?}"
        );
    }
    assert_eq!(stage.keys(), 0);
    assert!(stage.store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_ends_rotations_between_two_steps() {
    const PAIRS: u64 = 40;
    let stage = Stage::new(1);
    for number in 0..PAIRS {
        stage
            .generate(&format!("k{number}"), ProviderKind::Local)
            .await;
    }
    // The next generation of each is to be made.
    stage.set_day(75);
    let (service, stop) = (Arc::clone(stage.service()), CancellationToken::new());
    let trusted = Some(service.clock.now());
    let pass = tokio::spawn({
        let (service, stop) = (Arc::clone(&service), stop.clone());
        async move {
            service
                .do_what_is_due(&mut Setbacks::until(&stop), trusted)
                .await;
        }
    });
    let done = || {
        service
            .rotation_metrics()
            .done(RotationAction::CreatePending)
    };
    while done() == 0 {
        tokio::task::yield_now().await;
    }
    let before = done();
    stop.cancel();
    pass.await.unwrap();
    assert!(done() <= before + 1, "{before}, then {}", done());
    assert!(done() < PAIRS);
    // Nothing is begun after it, and nothing is lost by it.
    service
        .do_what_is_due(&mut Setbacks::until(&stop), trusted)
        .await;
    assert!(done() <= before + 1);
    service
        .do_what_is_due(&mut Setbacks::default(), trusted)
        .await;
    assert_eq!(done(), PAIRS);
    assert_eq!(service.rotation_metrics().overdue(), 0);
}
