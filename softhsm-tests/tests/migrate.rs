//! Software key pairs that move into the token, whatever comes between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keypaird::proto::{
    CryptoProvider, GenerateCsrRequest, KeyOrigin, KeyPairView, MigrateSigningKeyPairRequest,
    SignRequest, VerifyRequest, sign_request, verify_request,
};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::token::Token;
use tonic::{Code, Status};

async fn migrate(client: &Client, id: &str, to: CryptoProvider) -> Result<KeyPairView, Status> {
    let request = MigrateSigningKeyPairRequest {
        id: id.into(),
        crypto_provider: to.into(),
        etag: String::new(),
    };
    let answer = client.key_pairs().migrate_signing_key_pair(request).await?;
    Ok(answer.into_inner().key_pair.unwrap())
}

async fn sign(client: &Client, id: &str) -> Result<Vec<u8>, Status> {
    let signed = client.sign(SignRequest {
        id: id.into(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    });
    Ok(signed.await?.signature)
}

async fn verifies(client: &Client, id: &str, signature: &[u8]) -> bool {
    let verified = client.verify(VerifyRequest {
        id: id.into(),
        input: Some(verify_request::Input::Message(b"message"[..].into())),
        signature: signature.to_vec(),
        ..VerifyRequest::default()
    });
    verified.await.unwrap().valid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_moves_into_the_token_under_its_id_while_it_signs() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let was = client
        .generate(settings(CryptoProvider::Local))
        .await
        .unwrap();
    let id = was.id.clone();
    let before = sign(&client, &id).await.unwrap();
    let done = AtomicBool::new(false);
    let signing = async {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) {
            let signature = sign(&client, &id).await.unwrap();
            assert!(verifies(&client, &id, &signature).await);
            count += 1;
        }
        count
    };
    let moving = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let moved = migrate(&client, &id, CryptoProvider::Hsm).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        done.store(true, Ordering::Relaxed);
        moved.unwrap()
    };
    let (count, moved) = tokio::join!(signing, moving);
    assert!(count > 10, "{count}");
    assert_eq!(moved.crypto_provider(), CryptoProvider::Hsm);
    assert_eq!(moved.key_origin(), KeyOrigin::Imported);
    assert!(!moved.token_attributes.unwrap().never_extractable);
    assert_eq!(moved.certificate_pem, was.certificate_pem);
    assert_eq!(client.get(&id).await.unwrap(), moved);
    assert!(verifies(&client, &id, &before).await);
    assert_eq!(
        (token.count("Private Key"), token.count("Certificate")),
        (1, 1)
    );
    // Again, it is there already.
    assert_eq!(
        migrate(&client, &id, CryptoProvider::Hsm).await.unwrap(),
        moved
    );
    let back = migrate(&client, &id, CryptoProvider::Local)
        .await
        .unwrap_err();
    assert_eq!(
        reason(&back),
        (Code::InvalidArgument, "VALIDATION_FAILED".into())
    );
    client.delete(&id).await.unwrap();
    assert_eq!(token.count("Private Key"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_the_key_is_done_with_the_one_or_the_other_while_it_moves() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for _ in 0..10 {
        let wanted = settings(CryptoProvider::Local);
        let id = client.generate(wanted).await.unwrap().id;
        let done = Arc::new(AtomicBool::new(false));
        let requesting: Vec<_> = (0..8)
            .map(|_| {
                let (client, id, done) = (client.clone(), id.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    // It reads the key anew each time, as signing does once.
                    while !done.load(Ordering::Relaxed) {
                        let request = GenerateCsrRequest {
                            id: id.clone(),
                            ..GenerateCsrRequest::default()
                        };
                        client.key_pairs().generate_csr(request).await.unwrap();
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        migrate(&client, &id, CryptoProvider::Hsm).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        done.store(true, Ordering::Relaxed);
        for requesting in requesting {
            requesting.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_is_pending_moves_along_and_signs_in_the_token() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let mut wanted = settings(CryptoProvider::Local);
    wanted.key_algorithm = "RSA".into();
    let id = client.generate(wanted).await.unwrap().id;
    let before = client.rotate(&id, false).await.unwrap();
    let moved = migrate(&client, &id, CryptoProvider::Hsm).await.unwrap();
    assert_eq!(moved.pending, before.pending);
    assert_eq!(
        (token.count("Private Key"), token.count("Certificate")),
        (2, 2)
    );
    let rotated = client.rotate(&id, true).await.unwrap();
    assert_eq!(
        (rotated.generation, rotated.crypto_provider()),
        (2, CryptoProvider::Hsm)
    );
    client.signs(&rotated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_killed_at_any_point_leaves_a_key_pair_that_signs_and_no_second_key() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let mut daemon = home.start();
    let mut moved = 0;
    for round in 0_u64..30 {
        let client = daemon.client().await;
        let id = format!("k{round}");
        let mut wanted = settings(CryptoProvider::Local);
        wanted.id = Some(id.clone());
        client.generate(wanted).await.unwrap();
        let before = sign(&client, &id).await.unwrap();
        let migration = tokio::spawn({
            let id = id.clone();
            async move { migrate(&client, &id, CryptoProvider::Hsm).await }
        });
        // Closer together in the beginning; the last times, a machine gets there however busy it is.
        let patience = match round < 27 {
            true => Duration::from_micros(round * round * 300),
            false => Duration::from_secs(2),
        };
        tokio::time::sleep(patience).await;
        daemon.kill();
        let acknowledged = migration.await.unwrap().is_ok();
        daemon = home.start();
        daemon.wait_for_log("the token and the store were compared");
        let client = daemon.client().await;
        let view = client.get(&id).await.unwrap();
        let in_token = view.crypto_provider() == CryptoProvider::Hsm;
        assert!(
            in_token || !acknowledged,
            "an acknowledged migration was lost"
        );
        moved += usize::from(in_token);
        let after = sign(&client, &id).await.unwrap();
        assert!(verifies(&client, &id, &before).await && verifies(&client, &id, &after).await);
        assert_eq!(token.count("Private Key"), moved, "after kill {round}");
        assert_eq!(token.count("Certificate"), moved, "after kill {round}");
    }
    println!("{moved} of 30 had moved");
    assert!(
        moved > 0 && moved < 30,
        "{moved} of 30: the kills missed the migration"
    );
}
