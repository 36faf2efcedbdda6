//! Messages that a client has compressed.

use keypaird::proto::{
    CryptoProvider, ImportSigningKeyPairRequest, ImportSigningKeyPairSettings,
    ListKeyAlgorithmsRequest, SignStreamRequest,
};
use softhsm_tests::client::{reason, settings};
use softhsm_tests::daemon::Home;
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Status};

use super::signature_with;

/// Panics unless a call was refused in the words of the specification (gRPC, Compression).
fn assert_refused(encoding: &str, status: &Status) {
    assert_eq!(
        reason(status),
        (Code::Unimplemented, "UNIMPLEMENTED".into())
    );
    let said = status.message();
    assert!(said.contains(encoding), "{said}");
    let accepted = status.metadata().get("grpc-accept-encoding").unwrap();
    assert_eq!(accepted, "gzip,identity");
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_read_and_other_compressions_are_refused_by_name() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let gzip = CompressionEncoding::Gzip;
    let made = client.generate(settings(CryptoProvider::Unspecified)).await;
    let id = made.unwrap().id;
    let mut signing = client.signing().send_compressed(gzip);
    let signed = signing.sign(signature_with(&id)).await.unwrap();
    assert!(!signed.into_inner().signature.is_empty());
    // What a stream takes is not known before it was read.
    let message = SignStreamRequest {
        correlation_id: "1".into(),
        request: Some(signature_with(&id)),
    };
    let refused = signing.sign_stream(tokio_stream::iter([message])).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("gzip"), "{refused}");
    let accepted = refused.metadata().get("grpc-accept-encoding").unwrap();
    assert_eq!(accepted, "identity");
    for encoding in ["deflate", "zstd", "snappy"] {
        let mut request = Request::new(ListKeyAlgorithmsRequest::default());
        let value = encoding.parse().unwrap();
        request.metadata_mut().insert("grpc-encoding", value);
        let answer = client.key_pairs().list_key_algorithms(request).await;
        assert_refused(encoding, &answer.unwrap_err());
        let nothing = tokio_stream::iter(Vec::<SignStreamRequest>::new());
        let mut request = Request::new(nothing);
        let value = encoding.parse().unwrap();
        request.metadata_mut().insert("grpc-encoding", value);
        let answer = client.signing().sign_stream(request).await;
        assert_refused(encoding, &answer.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_out_of_a_message_is_bounded_as_what_comes_in() {
    let daemon = Home::local()
        .with("server.max_message_bytes = 1048576")
        .start();
    let client = daemon.client().await;
    let with = |length: usize| {
        let file = ImportSigningKeyPairRequest {
            settings: Some(ImportSigningKeyPairSettings {
                file_data: vec![0; length],
                ..ImportSigningKeyPairSettings::default()
            }),
        };
        let mut key_pairs = client
            .key_pairs()
            .send_compressed(CompressionEncoding::Gzip);
        async move { key_pairs.import_signing_key_pair(file).await.unwrap_err() }
    };
    let refused = |status: &Status, why: &str| {
        assert!(status.message().contains(why), "{status}");
        reason(status)
    };
    // It is read, and is no key file.
    let read = with(1_000_000).await;
    let expected = (Code::InvalidArgument, "VALIDATION_FAILED".to_owned());
    assert_eq!(
        refused(&read, "has 1000000 bytes, and may have 65536"),
        expected
    );
    // A thousandth of what comes out of them, many at once.
    let mut bombs: JoinSet<_> = (0..4).map(|_| with(20_000_000)).collect();
    while let Some(bomb) = bombs.join_next().await {
        let bomb = bomb.unwrap();
        let expected = (Code::InvalidArgument, "MALFORMED_REQUEST".to_owned());
        assert_eq!(refused(&bomb, "server.max_message_bytes"), expected);
    }
}
