//! The daemon as a whole, in this process.

use http::{Request, StatusCode};
use tower::ServiceExt;

use super::*;
use crate::config::Environment;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_no_longer_be_written_serves_nothing_and_ends_the_daemon_with_70() {
    let folder = tempfile::tempdir().unwrap();
    let listen = ("KEYPAIRD__SERVER__LISTEN", "127.0.0.1:0");
    let environment = Environment {
        variables: [(listen.0.to_owned(), listen.1.to_owned())].into(),
        state_folder: folder.path().to_owned(),
    };
    let config = Config::load(None, &environment).unwrap();
    let app = App::start(config).await.unwrap();
    let service = Arc::clone(&app.service);
    let routes = rest::routes(Arc::clone(&service), &app.rest, call_ids());
    let ask = async |path: &str| {
        let request = Request::get(path).body(String::new()).unwrap();
        routes.clone().oneshot(request).await.unwrap().status()
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(path).await, StatusCode::OK);
    }
    let serves = |(_, serves): &(&str, bool)| *serves;
    assert!(Health::statuses(&service).iter().all(serves));

    let serving = tokio::spawn(app.serve(CancellationToken::new()));
    // What the end of the writer thread does: the tests of the store have it end.
    service.store_failure().cancel();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(path).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(!Health::statuses(&service).iter().any(serves));
    let ended = serving.await.unwrap().unwrap_err();
    assert!(matches!(ended, StartError::StoreFailed), "{ended}");
    assert_eq!(ended.exit_code(), 70);
}
