//! What callers get while the module misbehaves, and how it is when that ends. The daemon is never started again.

use std::time::{Duration, Instant};

use keypaird::proto::{
    CryptoProvider, KeyPairView, SignRequest, SignResponse, VerifyRequest, sign_request,
    verify_request,
};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::measure::children;
use softhsm_tests::token::Token;
use tonic::{Code, Status};

const MESSAGE: &[u8] = b"message";

/// A daemon in hybrid mode over a module that fails when told, with a key pair in each provider.
struct Stage {
    module: FaultyModule,
    daemon: Daemon,
    client: Client,
    hsm: KeyPairView,
    local: KeyPairView,
    token: Token,
}

impl Stage {
    /// With the module in the daemon, where its faults do the most harm.
    async fn new(lines: &str) -> Self {
        let token = Token::fresh();
        let home = Home::hybrid(&token).with(lines).in_process();
        Self::at(token, home).await
    }

    /// With the module in a process of its own.
    async fn isolated() -> Self {
        let token = Token::fresh();
        let home = Home::hybrid(&token).env("KEYPAIRD__CRYPTO__PKCS11__OPERATION_TIMEOUT", "2s");
        Self::at(token, home).await
    }

    async fn at(token: Token, home: Home) -> Self {
        let module = FaultyModule::new();
        let daemon = module.given_to(home).start();
        let client = daemon.client().await;
        let stage = Self {
            hsm: client
                .generate(settings(CryptoProvider::Hsm))
                .await
                .unwrap(),
            local: client
                .generate(settings(CryptoProvider::Local))
                .await
                .unwrap(),
            module,
            daemon,
            client,
            token,
        };
        stage.sign(&stage.hsm).await.unwrap();
        stage
    }

    async fn sign(&self, view: &KeyPairView) -> Result<SignResponse, Status> {
        let request = SignRequest {
            id: view.id.clone(),
            input: Some(sign_request::Input::Message(MESSAGE.into())),
            ..SignRequest::default()
        };
        let signed = self.client.sign(request).await?;
        // Whatever happens, what comes is right.
        let request = VerifyRequest {
            id: view.id.clone(),
            input: Some(verify_request::Input::Message(MESSAGE.into())),
            signature: signed.signature.clone(),
            ..VerifyRequest::default()
        };
        assert!(self.client.verify(request).await.unwrap().valid);
        Ok(signed)
    }

    /// Waits until the key in the HSM signs again, and returns how long that took.
    async fn recovered(&self, fault: &str) -> Duration {
        let begun = Instant::now();
        while let Err(status) = self.sign(&self.hsm).await {
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "{fault}: {status:?}\n{}",
                self.daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_signature_fails_with_callers_are_told_and_it_works_again_when_that_ends() {
    const UNAVAILABLE: (Code, &str) = (Code::Unavailable, "PROVIDER_UNAVAILABLE");
    const INTERNAL: (Code, &str) = (Code::Internal, "INTERNAL");
    const BUSY: (Code, &str) = (Code::ResourceExhausted, "PROVIDER_BUSY");
    let is_one_of = |status: &Status, expected: &[(Code, &str)]| {
        let (code, said) = reason(status);
        expected.contains(&(code, &*said))
    };
    let stage = Stage::new("").await;
    println!("| fault | callers get | signs again after |\n|---|---|---|");
    for (name, orders, expected) in [
        (
            "CKR_SESSION_HANDLE_INVALID",
            "C_SignInit 0 0 return 0xb3",
            UNAVAILABLE,
        ),
        (
            "CKR_SESSION_CLOSED",
            "C_SignInit 0 0 return 0xb0",
            UNAVAILABLE,
        ),
        (
            "CKR_USER_NOT_LOGGED_IN",
            "C_SignInit 0 0 return 0x101",
            UNAVAILABLE,
        ),
        (
            "CKR_OBJECT_HANDLE_INVALID",
            "C_SignInit 0 0 return 0x82",
            INTERNAL,
        ),
        (
            "CKR_KEY_HANDLE_INVALID",
            "C_SignInit 0 0 return 0x60",
            INTERNAL,
        ),
        ("CKR_DEVICE_ERROR", "C_Sign 0 0 return 0x30", UNAVAILABLE),
        ("CKR_DEVICE_REMOVED", "C_Sign 0 0 return 0x32", UNAVAILABLE),
        (
            "CKR_TOKEN_NOT_PRESENT",
            "C_Sign 0 0 return 0xe0",
            UNAVAILABLE,
        ),
        ("CKR_DEVICE_MEMORY", "C_Sign 0 0 return 0x31", INTERNAL),
        ("CKR_GENERAL_ERROR", "C_Sign 0 0 return 0x5", INTERNAL),
        ("CKR_FUNCTION_FAILED", "C_Sign 0 0 return 0x6", INTERNAL),
        (
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "C_SignInit 0 0 return 0x190",
            UNAVAILABLE,
        ),
        (
            "CKR_SESSION_COUNT, after the sessions are lost",
            "C_Sign 0 0 return 0xb3\nC_OpenSession 0 0 return 0xb1",
            BUSY,
        ),
        ("a wrong signature", "C_Sign 0 0 corrupt", INTERNAL),
        (
            "a signature, and CKR_FUNCTION_FAILED all the same",
            "C_Sign 0 0 after 0x6",
            INTERNAL,
        ),
    ] {
        stage.module.tell(orders);
        let told = stage.sign(&stage.hsm).await.unwrap_err();
        // A session that is there still fails otherwise than one that cannot be opened.
        let too_many = name.starts_with("CKR_SESSION_COUNT");
        let (expected, or) = (expected, if too_many { UNAVAILABLE } else { expected });
        assert!(is_one_of(&told, &[expected, or]), "{name}: {told:?}");
        // Software keys know nothing of it.
        for _ in 0..3 {
            stage.sign(&stage.local).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        let later = stage.sign(&stage.hsm).await.unwrap_err();
        assert!(
            is_one_of(&later, &[UNAVAILABLE, INTERNAL, BUSY]),
            "{name}: {later:?}"
        );
        stage.module.mend();
        let took = stage.recovered(name).await;
        let (code, said) = reason(&told);
        println!("| {name} | {code:?} {said} | {:.2} s |", took.as_secs_f64());
    }
    assert_eq!(stage.token.count("Private Key"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_once_is_not_noticed_where_it_is_safe_to_try_again() {
    let stage = Stage::new("").await;
    let second = stage
        .client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    stage.sign(&second).await.unwrap();
    for (name, orders) in [
        ("a stale handle", "C_SignInit 0 1 return 0x82"),
        ("a key handle that is none", "C_SignInit 0 1 return 0x60"),
    ] {
        stage.module.tell(orders);
        stage
            .sign(&stage.hsm)
            .await
            .unwrap_or_else(|status| panic!("{name}: {status:?}"));
        stage.module.mend();
    }
    // A handle that is another key's now never signs for this one.
    stage.module.tell("C_SignInit 0 1 other");
    let told = stage.sign(&stage.hsm).await;
    if let Err(status) = told {
        assert_eq!(status.code(), Code::Internal);
    }
    stage.module.mend();
    stage.recovered("another key's handle").await;
    // Lost sessions and a lost login cost a caller a moment.
    for orders in [
        "C_SignInit 0 1 logout",
        "C_Sign 0 1 logout",
        "C_SignInit 0 1 close",
        "C_Sign 0 1 return 0xb3",
        "C_SignInit 0 1 return 0x101",
        "C_Sign 0 1 return 0x30",
    ] {
        stage.module.tell(orders);
        let begun = Instant::now();
        stage
            .sign(&stage.hsm)
            .await
            .unwrap_or_else(|status| panic!("{orders}: {status:?}\n{}", stage.daemon.log()));
        stage.module.mend();
        println!("{orders}: signed after {:?}", begun.elapsed());
    }
}

/// Tells whether a deadline passed, whoever of the two noticed first.
fn is_out_of_time(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_returns_holds_nobody_up_but_its_caller() {
    let stage = Stage::new("").await;
    stage.module.tell("C_Sign 0 1 block");
    let begun = Instant::now();
    let request = SignRequest {
        id: stage.hsm.id.clone(),
        input: Some(sign_request::Input::Message(MESSAGE.into())),
        ..SignRequest::default()
    };
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_millis(500));
    let told = stage.client.signing().sign(request).await.unwrap_err();
    assert!(is_out_of_time(&told), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    // The other sessions go on.
    for _ in 0..20 {
        stage.sign(&stage.hsm).await.unwrap();
        stage.sign(&stage.local).await.unwrap();
    }
    stage.module.mend();
    stage.recovered("a call that never returns").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_token_is_waited_for_and_the_queue_stays_bounded() {
    let stage = Stage::new("").await;
    stage.module.tell("C_Sign 0 0 delay 2000");
    // A signature takes two calls and so four seconds: four sessions make four in time, and those behind them run out
    // of theirs.
    waits_for_a_slow_token(stage, Duration::from_secs(6), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_token_in_another_process_keeps_nobody_waiting_for_the_signatures_of_others() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let stage = Stage::at(token, home).await;
    stage.module.tell("C_Sign 0 0 delay 1000");
    // From the first one it is known that the token is slow. In the time of two, four sessions make eight.
    stage.sign(&stage.hsm).await.unwrap();
    waits_for_a_slow_token(stage, Duration::from_secs(5), 8).await;
}

async fn waits_for_a_slow_token(stage: Stage, deadline: Duration, expected: usize) {
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let (client, id) = (stage.client.clone(), stage.hsm.id.clone());
            tokio::spawn(async move {
                let request = SignRequest {
                    id,
                    input: Some(sign_request::Input::Message(MESSAGE.into())),
                    ..SignRequest::default()
                };
                let mut request = tonic::Request::new(request);
                request.set_timeout(deadline);
                client.signing().sign(request).await.map(drop)
            })
        })
        .collect();
    for _ in 0..20 {
        stage.sign(&stage.local).await.unwrap();
    }
    let mut failures = Vec::new();
    for call in calls {
        failures.push(call.await.unwrap().err());
    }
    let made = failures.iter().filter(|failure| failure.is_none()).count();
    assert_eq!(made, expected, "{failures:?}");
    assert!(
        failures.iter().flatten().all(is_out_of_time),
        "{failures:?}"
    );
    stage.module.mend();
    stage.recovered("a slow token").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_fails_at_any_call_of_the_module_leaves_nothing_and_the_next_one_succeeds()
 {
    let stage = Stage::new("").await;
    let kept = (
        stage.token.count("Private Key"),
        stage.token.count("Certificate"),
    );
    for function in [
        "C_GenerateKeyPair",
        "C_GetAttributeValue",
        "C_DestroyObject",
        "C_SignInit",
        "C_Sign",
        "C_CreateObject",
    ] {
        for nth in 0..6 {
            for action in ["return 0x5", "return 0x30", "after 0x6"] {
                stage.module.tell(&format!("{function} {nth} 1 {action}"));
                let made = stage.client.generate(settings(CryptoProvider::Hsm)).await;
                stage.module.mend();
                let fault = format!("{function}, call {nth}, {action}");
                if let Ok(view) = made {
                    stage.recovered(&fault).await;
                    let begun = Instant::now();
                    while let Err(status) = stage.client.delete(&view.id).await {
                        assert!(
                            begun.elapsed() < Duration::from_secs(15),
                            "{fault}: {status:?}"
                        );
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                stage.recovered(&fault).await;
                let begun = Instant::now();
                while (
                    stage.token.count("Private Key"),
                    stage.token.count("Certificate"),
                ) != kept
                {
                    let count = (
                        stage.token.count("Private Key"),
                        stage.token.count("Certificate"),
                    );
                    assert!(
                        begun.elapsed() < Duration::from_secs(20),
                        "{fault}: {count:?}\n{}",
                        stage.daemon.log()
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_crashes_ends_or_hangs_takes_only_its_own_process_with_it() {
    let stage = Stage::isolated().await;
    println!("| the module | callers get | signs again after |\n|---|---|---|");
    for (name, orders) in [
        ("crashes (SIGSEGV) in C_Sign", "C_Sign 0 0 crash"),
        ("ends the process in C_Sign", "C_Sign 0 0 exit"),
        (
            "crashes when it is initialised",
            "C_Sign 0 0 crash\nC_Initialize 0 0 crash",
        ),
        ("does not return from C_Sign", "C_Sign 0 0 block"),
        ("loses its sessions", "C_Sign 0 0 return 0xb3"),
        ("fails as a device", "C_Sign 0 0 return 0x30"),
    ] {
        stage.module.tell(orders);
        let told = stage.sign(&stage.hsm).await.unwrap_err();
        assert!(
            reason(&told) == (Code::Unavailable, "PROVIDER_UNAVAILABLE".into())
                || is_out_of_time(&told),
            "{name}: {told:?}"
        );
        for _ in 0..20 {
            stage.sign(&stage.local).await.unwrap();
        }
        stage.module.mend();
        let took = stage.recovered(name).await;
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
        println!(
            "| {name} | {:?} | {:.2} s |",
            told.code(),
            took.as_secs_f64()
        );
    }
    // The daemon is the same all the while, with one process for the module, and not one left over.
    assert_eq!(children(stage.daemon.pid()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_a_key_is_made_leaves_nothing_of_it() {
    let stage = Stage::isolated().await;
    for function in ["C_GenerateKeyPair", "C_GetAttributeValue", "C_CreateObject"] {
        for moment in ["crash", "exit"] {
            stage.module.tell(&format!("{function} 0 0 {moment}"));
            let told = stage
                .client
                .generate(settings(CryptoProvider::Hsm))
                .await
                .unwrap_err();
            assert_eq!(
                told.code(),
                Code::Unavailable,
                "{function} {moment}: {told:?}"
            );
            stage.module.mend();
            stage.recovered(function).await;
            let begun = Instant::now();
            while (
                stage.token.count("Private Key"),
                stage.token.count("Certificate"),
            ) != (1, 1)
            {
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "{function} {moment}\n{}",
                    stage.daemon.log()
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_the_module_ends_with_the_daemon_and_not_by_a_signal_to_all() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let [process] = children(daemon.pid())[..] else {
        panic!("one process for the module");
    };
    let signalled = std::process::Command::new("kill")
        .args(["-TERM", &process.to_string()])
        .status()
        .unwrap();
    assert!(signalled.success());
    let client = daemon.client().await;
    client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap();
    assert_eq!(children(daemon.pid()), [process]);
    daemon.kill();
    let begun = Instant::now();
    while std::path::Path::new(&format!("/proc/{process}/exe")).exists() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
