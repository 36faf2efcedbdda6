//! Requests made at random from `/openapi.json`, by schemathesis: whatever comes is answered as the description says.

use std::path::Path;

use serde_json::json;
use softhsm_tests::daemon::Home;
use softhsm_tests::http::post;
use softhsm_tests::tools::{run, tools};

/// How many requests for each path; `KEYPAIRD_FUZZ` says another number. 450 make more than 10,000 in all.
const EXAMPLES: &str = "50";

#[test]
fn no_request_is_answered_with_what_the_description_does_not_say() {
    let examples = std::env::var("KEYPAIRD_FUZZ").unwrap_or_else(|_| EXAMPLES.into());
    let daemon = Home::local()
        .env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true")
        .start();
    let settings = json!({
        "id": "fuzz", "commonName": "E", "organization": "o", "country": "US", "validDays": 9, "keyAlgorithm": "EC",
    });
    assert_eq!(
        post(&daemon, "/keyPairs/signing/generate", &settings).status,
        201
    );
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("fuzz.toml"), "[parameters]\n\"path.id\" = \"fuzz\"\n").unwrap();
    std::fs::write(path("none.toml"), "").unwrap();
    let schemathesis = tools().join("venv/bin/schemathesis");
    // With ids at random, and then with one that there is.
    for (config, left_out) in [("none.toml", "PATCH"), ("fuzz.toml", "DELETE")] {
        let said = run(
            &schemathesis,
            [
                "--config-file",
                &path(config),
                "run",
                &format!("http://{}/openapi.json", daemon.address()),
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--max-examples",
                &examples,
                "--exclude-method",
                left_out,
                "--generation-database",
                "none",
                "--no-color",
            ],
        );
        let done = said.lines().find(|line| line.contains("generated,"));
        println!("{}", done.unwrap_or_default().trim());
    }
    assert!(Path::new(&schemathesis).exists());
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}
