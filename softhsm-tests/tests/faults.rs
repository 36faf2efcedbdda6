//! What callers get while the module misbehaves, and how it is when that ends. The daemon is never started again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keypaird::proto::delete_signing_key_pair_response::PrivateKeyFate;
use keypaird::proto::{CryptoProvider, DeleteSigningKeyPairRequest, sign_request};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Home, Isolation};
use softhsm_tests::faults::{FaultyModule, Stage, is_out_of_time};
use softhsm_tests::measure::{children, resident_mib};
use softhsm_tests::token::Token;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

/// A process with a call that does not return is killed after two seconds.
fn impatient(home: Home) -> Home {
    home.env("KEYPAIRD__CRYPTO__PKCS11__OPERATION_TIMEOUT", "2s")
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
    let faults = [
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
    ];
    println!("| isolation | fault | callers get | signs again after |\n|---|---|---|---|");
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        for (name, orders, expected) in faults {
            stage.module.tell(orders);
            let told = stage.sign(&stage.hsm).await.unwrap_err();
            // A session that is there still fails otherwise than one that cannot be opened.
            let too_many = name.starts_with("CKR_SESSION_COUNT");
            let (expected, or) = (expected, if too_many { UNAVAILABLE } else { expected });
            assert!(is_one_of(&told, &[expected, or]), "{name}: {told:?}");
            stage.software_signs().await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            let later = stage.sign(&stage.hsm).await.unwrap_err();
            assert!(
                is_one_of(&later, &[UNAVAILABLE, INTERNAL, BUSY]),
                "{name}: {later:?}"
            );
            stage.module.mend();
            let took = stage.recovered(name).await;
            let (code, said) = reason(&told);
            println!(
                "| {} | {name} | {code:?} {said} | {:.2} s |",
                isolation.name(),
                took.as_secs_f64()
            );
        }
        stage.holds("after all", 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_once_is_not_noticed_where_it_is_safe_to_try_again() {
    for isolation in Isolation::ALL {
        goes_wrong_once(Stage::new(isolation).await).await;
    }
}

async fn goes_wrong_once(stage: Stage) {
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
        // The canary that comes with each new connection is not to meet the fault.
        let serves = async || stage.client.serves("provider/HSM").await;
        stage.daemon.wait_until("provider/HSM serves", serves).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_tried_again_within_the_deadline_of_its_caller_only() {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        // It takes longer to connect anew than the caller waits.
        stage
            .module
            .tell("C_Sign 0 1 return 0xb3\nC_Initialize 0 1 delay 1500");
        let mut request = tonic::Request::new(Stage::request(&stage.hsm));
        request.set_timeout(Duration::from_millis(500));
        let told = stage.client.signing().sign(request).await.unwrap_err();
        assert!(is_out_of_time(&told), "{told:?}");
        stage.recovered("a deadline").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_fails_is_undone_and_never_tried_again() {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        // The last one: the token has made the key, and says that it failed as a device.
        for action in ["return 0x30", "return 0x5", "crash", "after 0x30"] {
            if (action, isolation) == ("crash", Isolation::InProcess) {
                continue;
            }
            let generations = stage.module.called("C_GenerateKeyPair");
            stage
                .module
                .tell(&format!("C_GenerateKeyPair 0 1 {action}"));
            let told = stage.client.generate(settings(CryptoProvider::Hsm)).await;
            assert!(
                matches!(told.unwrap_err().code(), Code::Unavailable | Code::Internal),
                "{action}"
            );
            stage.recovered(action).await;
            stage.holds(action, 1);
            // A call that crashes does not return, and is not counted.
            let returned = u64::from(action != "crash");
            assert_eq!(
                stage.module.called("C_GenerateKeyPair"),
                generations + returned,
                "{action}"
            );
            let view = stage.client.generate(settings(CryptoProvider::Hsm)).await;
            stage.client.delete(&view.unwrap().id).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_returns_holds_nobody_up_but_its_caller() {
    for isolation in Isolation::ALL {
        never_returns(Stage::new(isolation).await).await;
    }
}

async fn never_returns(stage: Stage) {
    stage.module.tell("C_Sign 0 1 block");
    let begun = Instant::now();
    let mut request = tonic::Request::new(Stage::request(&stage.hsm));
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
    let stage = Stage::new(Isolation::InProcess).await;
    stage.module.tell("C_Sign 0 0 delay 2000");
    // A signature takes two calls and so four seconds: four sessions make four in time, and those behind them run out
    // of theirs.
    waits_for_a_slow_token(stage, Duration::from_secs(6), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_token_in_another_process_keeps_nobody_waiting_for_the_signatures_of_others() {
    let stage = Stage::new(Isolation::Process).await;
    stage.module.tell("C_Sign 0 0 delay 1000");
    // From the first one it is known that the token is slow. In the time of two, four sessions make eight.
    stage.sign(&stage.hsm).await.unwrap();
    waits_for_a_slow_token(stage, Duration::from_secs(5), 8).await;
}

async fn waits_for_a_slow_token(stage: Stage, deadline: Duration, expected: usize) {
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = stage.client.clone();
            let mut request = tonic::Request::new(Stage::request(&stage.hsm));
            request.set_timeout(deadline);
            tokio::spawn(async move { client.signing().sign(request).await.map(drop) })
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
async fn a_queue_full_of_large_messages_takes_no_more_memory_than_they_have() {
    const MESSAGE_LEN: usize = 256 * 1024;
    const CALLS: usize = 1000;
    // More than fit into the queue. What lies in connections has a bound of its own.
    const AT_ONCE: usize = 150;
    let stage = Stage::at(Token::fresh(), Isolation::InProcess, |home| {
        home.env("KEYPAIRD__CRYPTO__PKCS11__QUEUE_LENGTH", "100")
    })
    .await;
    let before = resident_mib(stage.daemon.pid());
    stage.module.tell("C_Sign 0 0 delay 2000");
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let (client, turns) = (stage.client.clone(), Arc::clone(&turns));
            let mut message = Stage::request(&stage.hsm);
            message.input = Some(sign_request::Input::Message(vec![7; MESSAGE_LEN].into()));
            let mut request = tonic::Request::new(message);
            request.set_timeout(Duration::from_secs(5));
            tokio::spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                client.signing().sign(request).await.map(drop)
            })
        })
        .collect();
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap() {
            Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
            Err(status) => assert!(is_out_of_time(&status), "{status:?}"),
            Ok(()) => {}
        }
    }
    // What does not fit into the queue is told so.
    assert!(refused > 0);
    let during = resident_mib(stage.daemon.pid());
    stage.module.mend();
    stage.recovered("a full queue").await;
    println!(
        "resident before {before:.0} MiB, with a full queue {during:.0} MiB, {refused} refused"
    );
    assert!(during - before < 96.0, "{before} MiB, then {during}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_crashes_ends_or_hangs_takes_only_its_own_process_with_it() {
    let stage = Stage::at(Token::fresh(), Isolation::Process, impatient).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_a_key_is_made_leaves_nothing_of_it() {
    let stage = Stage::at(Token::fresh(), Isolation::Process, impatient).await;
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
            stage.holds(&format!("{function} {moment}"), 1);
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

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_the_module_gives_way_to_nobody_but_where_it_makes_keys() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let [process] = children(daemon.pid())[..] else {
        panic!("one process for the module");
    };
    let client = daemon.client().await;
    let made = client.generate(settings(CryptoProvider::Hsm)).await;
    client.signs(&made.unwrap()).await;
    let nice = |stat: &std::path::Path| {
        let stat = std::fs::read_to_string(stat).unwrap();
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let nice = after_name.split_whitespace().nth(16).unwrap();
        nice.parse::<i32>().unwrap()
    };
    let ours = nice("/proc/self/stat".as_ref());
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let thread = thread.unwrap().path();
        let name = std::fs::read_to_string(thread.join("comm")).unwrap();
        let expected = match name.trim() {
            "module-manage" => (ours + 10).min(19),
            _ => ours,
        };
        assert_eq!(nice(&thread.join("stat")), expected, "{name}");
    }
}

/// Deletes a key pair, and returns what became of its private key.
async fn fate(client: &Client, id: &str) -> Result<PrivateKeyFate, Status> {
    let request = DeleteSigningKeyPairRequest {
        id: id.to_owned(),
        ..DeleteSigningKeyPairRequest::default()
    };
    let answer = client.key_pairs().delete_signing_key_pair(request).await?;
    Ok(answer.into_inner().private_key())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_says_whether_the_private_key_is_destroyed_yet() {
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let daemon = module.given_to(Home::hybrid(&token)).start();
    let client = daemon.client().await;
    let mut ids = Vec::new();
    for provider in [
        CryptoProvider::Hsm,
        CryptoProvider::Hsm,
        CryptoProvider::Local,
    ] {
        ids.push(client.generate(settings(provider)).await.unwrap().id);
    }
    // The token fails in the middle: the key pair is gone, its key is not.
    module.tell("C_DestroyObject 0 0 return 0x30");
    assert_eq!(
        fate(&client, &ids[0]).await.unwrap(),
        PrivateKeyFate::Pending
    );
    let gone = (Code::NotFound, "KEY_PAIR_NOT_FOUND".to_owned());
    assert_eq!(reason(&client.get(&ids[0]).await.unwrap_err()), gone);
    daemon.wait_for_log("the private key of a deleted key pair is destroyed later");
    assert_eq!(token.count("Private Key"), 2);
    module.mend();
    // No caller has to ask again.
    let is_recorded = async || daemon.log().contains(r#""destroyed":1,"#);
    daemon
        .wait_until("it is destroyed later", is_recorded)
        .await;
    assert_eq!(token.count("Private Key"), 1);
    assert_eq!(reason(&fate(&client, &ids[0]).await.unwrap_err()), gone);
    for id in &ids[1..] {
        assert_eq!(fate(&client, id).await.unwrap(), PrivateKeyFate::Destroyed);
    }
    assert_eq!(token.count("Private Key"), 0);
}
