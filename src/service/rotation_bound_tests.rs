//! How many generations of a key pair are published, with a clock that is set.

use super::rotation_tests::{Stage, rotation};
use super::*;
use crate::domain::CertificateValidity;

#[tokio::test]
async fn at_most_16_generations_are_published_and_the_refusal_says_when_there_is_room() {
    let stage = Stage::new(1);
    stage
        .generate_with("x", ProviderKind::Local, 100, None)
        .await;
    for day in 0..15 {
        stage.set_day(day);
        stage.rotate("x", true).await;
    }
    let rotate = |activate| {
        let request = RotateRequest {
            id: "x".into(),
            activate,
            etag: String::new(),
        };
        stage.service().rotate(request)
    };
    for activate in [false, true] {
        let refused = rotate(activate).await.unwrap_err();
        let report = super::report::report(&refused);
        assert_eq!(report.reason, "TOO_MANY_GENERATIONS");
        assert_eq!(report.code, super::report::Code::FailedPrecondition);
        assert_eq!(
            report.message,
            "the key pair x has 16 published generations and may have no more: the next one to end ends on 2027-03-04 at 12:00:01 UTC; wait until then, or generate another key pair"
        );
    }
    assert_eq!(stage.pair("x").await.generations().count(), 16);
    // The first one has expired, and is not retired yet.
    stage.set_day(101);
    rotate(true).await.unwrap();
    let pair = stage.pair("x").await;
    assert_eq!(pair.generations().count(), 16);
    assert_eq!(pair.current.number.number(), 17);
}

#[tokio::test]
async fn the_tightest_rotation_waits_for_room_for_years_and_the_key_pair_never_expires() {
    for activation in [364, 1] {
        let stage = Stage::new(1);
        let settings = Some(rotation(364, activation));
        stage
            .generate_with("x", ProviderKind::Local, 365, settings)
            .await;
        let mut most = 0;
        for day in 0..365 * 3 {
            stage.day(day).await;
            let view = stage.service().get("x").await.unwrap();
            assert_eq!(view.status, CertificateValidity::Valid, "day {day}");
            most = most.max(stage.pair("x").await.generations().count());
        }
        assert!(most <= 16, "{most} generations");
        assert_eq!(stage.service().rotation_metrics().failures(), 0);
        assert_eq!(stage.service().rotation_metrics().overdue(), 0);
    }
}
