//! keypairctl about rotation, as a person reads it.

use softhsm_tests::daemon::Home;
use softhsm_tests::keypairctl::{SUBJECT, err, json, run, succeeded};
use softhsm_tests::token::Token;

#[test]
fn rotation_is_set_shown_planned_done_and_ended() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let mut generate = vec![
        "generate",
        "--id",
        "payments",
        "--crypto-provider",
        "local",
        "--rotate",
    ];
    generate.extend(SUBJECT);
    let shown = succeeded(&daemon, &generate);
    assert!(
        shown.contains("rotates               made 5 and signing 2 days before the expiry"),
        "{shown}"
    );

    let shown = succeeded(
        &daemon,
        &[
            "rotation",
            "set",
            "payments",
            "--creation-buffer-days",
            "10",
            "--activation-buffer-days",
            "3",
            "--crypto-provider",
            "hsm",
            "--valid-days",
            "30",
        ],
    );
    let expected = "\
id                    payments
the next is made      10 days before the expiry
and signs             3 days before the expiry
its key algorithm     EC
its key size          256
signature algorithm   SHA256withECDSA
validity              30 days
provider              HSM
";
    assert_eq!(shown, expected);
    assert_eq!(
        succeeded(&daemon, &["rotation", "get", "payments"]),
        expected
    );

    // Two steps of it, ten and seventeen days from now.
    let plan = succeeded(&daemon, &["rotation", "plan", "payments", "--steps", "3"]);
    let lines: Vec<_> = plan.lines().collect();
    assert!(
        lines[0].starts_with("TIME") && lines[0].ends_with("WHAT"),
        "{plan}"
    );
    assert!(
        lines[1].ends_with("UTC  2           is made and published"),
        "{plan}"
    );
    assert!(
        lines[2].ends_with("UTC  2           begins to sign"),
        "{plan}"
    );
    assert!(
        lines[3].ends_with("UTC  1           is retired, its private key destroyed"),
        "{plan}"
    );
    let steps = json(
        &daemon,
        &["rotation", "plan", "payments", "--output", "json"],
    );
    assert_eq!(steps["steps"].as_array().unwrap().len(), 10);
    let what_if = json(
        &daemon,
        &[
            "rotation",
            "plan",
            "payments",
            "--creation-buffer-days",
            "1",
            "--activation-buffer-days",
            "1",
            "--steps",
            "1",
            "--output",
            "json",
        ],
    );
    assert_ne!(what_if["steps"][0]["time"], steps["steps"][0]["time"]);
    // One setting is enough to plan with, and is not passed over.
    for setting in [
        ["--creation-buffer-days", "12"],
        ["--activation-buffer-days", "9"],
    ] {
        let plan = [
            &["rotation", "plan", "payments", "--output", "json"][..],
            &setting,
        ]
        .concat();
        assert_ne!(json(&daemon, &plan)["steps"], steps["steps"], "{setting:?}");
    }

    // A calendar, in which what nothing rotates stands out.
    let mut lonely = vec!["generate", "--id", "lonely"];
    lonely.extend(SUBJECT);
    succeeded(&daemon, &lonely);
    let calendar = succeeded(&daemon, &["schedule"]);
    // Nine, when midnight passes meanwhile.
    let in_time = ["in 10 days", "in 9 days"]
        .iter()
        .any(|said| calendar.contains(said));
    assert!(in_time, "{calendar}");
    assert!(
        calendar.contains("payments  2    is made and published"),
        "{calendar}"
    );
    assert!(
        calendar.contains("lonely    1    expires, and nothing rotates it"),
        "{calendar}"
    );
    assert_eq!(
        succeeded(&daemon, &["schedule", "--days", "1"]),
        "nothing happens within 1 days\n"
    );
    let entries = json(&daemon, &["schedule", "--days", "12", "--output", "json"]);
    assert_eq!(entries["entries"].as_array().unwrap().len(), 1);

    let shown = succeeded(&daemon, &["rotate", "payments"]);
    assert!(
        shown.contains("next generation       2, signs from "),
        "{shown}"
    );
    let shown = succeeded(&daemon, &["rotate", "payments", "--activate"]);
    assert!(shown.contains("provider              HSM"), "{shown}");
    assert!(shown.contains("generation            2"), "{shown}");
    assert!(
        shown.contains("previous generation   1, published until "),
        "{shown}"
    );
    let shown = succeeded(&daemon, &["public-keys", "payments"]);
    assert!(
        shown.contains("current") && shown.contains("previous"),
        "{shown}"
    );

    assert_eq!(
        succeeded(&daemon, &["rotation", "delete", "payments"]),
        "payments no longer rotates by itself\n"
    );
    for (arguments, code, said) in [
        (
            &["rotation", "get", "payments"][..],
            3,
            "the key pair payments has no rotation settings",
        ),
        (
            &["rotation", "get", "nobody"],
            3,
            "there is no key pair \"nobody\"",
        ),
        (
            &[
                "rotation",
                "set",
                "payments",
                "--creation-buffer-days",
                "40",
                "--activation-buffer-days",
                "3",
            ],
            1,
            "creationBufferDays (--creation-buffer-days): must be 1 to 29",
        ),
        (
            &["rotate", "payments", "--etag", "stale"],
            1,
            "changed since its etag was read",
        ),
        (
            &["rotation", "plan", "payments", "--steps", "-1"],
            1,
            "steps (--steps): must be 0 to 1000",
        ),
        (&["schedule", "--days", "0"], 2, "0 is not in 1..=3650"),
    ] {
        let refused = run(&daemon, arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}");
        assert!(
            err(&refused).contains(said),
            "{arguments:?}: {}",
            err(&refused)
        );
    }
}
