//! Signals that log rotation, closed terminals and operators send.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use softhsm_tests::client::settings;
use softhsm_tests::daemon::{Home, binary};
use softhsm_tests::measure::children;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{Grpcurl, run};

use super::{CryptoProvider, certificates, with_tls};

const NOTHING_TO_READ: &str = "there are no TLS files to be read again; a PIN file is read at each login; all other configuration is read when the daemon starts";
const FILES_ARE_READ: &str = "the TLS certificate, its private key and the client CA are read again now; a PIN file is read at each login; all other configuration is read when the daemon starts";

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_and_the_signals_of_users_end_neither_the_daemon_nor_the_process_of_its_module() {
    let token = Token::fresh();
    let daemon = Home::hsm(&token).start();
    let client = daemon.client().await;
    let made = client.generate(settings(CryptoProvider::Unspecified)).await;
    let made = made.unwrap();
    let modules = children(daemon.pid());
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        daemon.signal(signal);
        for module in &modules {
            let pid = Pid::from_raw((*module).try_into().unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        }
    }
    let said = tokio::task::block_in_place(|| daemon.wait_for_log(NOTHING_TO_READ));
    assert_eq!(said["signal"], "SIGHUP");
    client.signs(&made).await;
    assert_eq!(children(daemon.pid()), modules);
    let (status, log) = tokio::task::block_in_place(|| daemon.stop());
    assert!(status.success(), "{log}");
    // Neither these nor the stop are anything to warn of.
    for level in ["\"WARN\"", "\"ERROR\""] {
        assert!(!log.contains(level), "{log}");
    }
}

#[test]
fn a_hangup_while_the_configuration_is_read_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("keypaird.toml");
    run("mkfifo", [&config]);
    let mut daemon = Command::new(binary("keypaird"))
        .args(["serve", "--config"])
        .arg(&config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It opens when the daemon opens it to read.
    let mut writer = OpenOptions::new().write(true).open(&config).unwrap();
    let pid = Pid::from_child(&daemon);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        kill_process(pid, signal).unwrap();
    }
    writer.write_all(b"[server]\nlisten = 7\n").unwrap();
    drop(writer);
    let ended = daemon.wait().unwrap();
    let mut said = String::new();
    daemon.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(ended.code(), Some(64), "{said}");
    assert!(said.contains("server.listen"), "{said}");
}

#[test]
fn a_hangup_has_the_tls_files_read_again() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let daemon = with_tls(folder.path(), false).start();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(FILES_ARE_READ);
    daemon.wait_for_log("the TLS files were read again and are in use");
    fs::write(folder.path().join("server.pem"), "damaged").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(
        "the TLS files were read again and cannot be used; the former ones stay in use",
    );
    let ca = folder.path().join("ca.pem").display().to_string();
    let grpcurl = Grpcurl::with(&["-cacert", &ca], daemon.address());
    grpcurl.key_pairs("ListKeyAlgorithms", &json!({})).unwrap();
}
