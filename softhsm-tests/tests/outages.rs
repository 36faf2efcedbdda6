//! What befalls the token from outside, while the daemon runs: what callers get, and that all is well again when it ends.
//! The daemon is never started again. Each is shown with the module in a process of its own and in the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keypaird::proto::CryptoProvider;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use softhsm_tests::client::{reason, settings};
use softhsm_tests::daemon::{Home, Isolation};
use softhsm_tests::faults::Stage;
use softhsm_tests::measure::children;
use softhsm_tests::token::{LABEL, MODULE, PIN, SO_PIN, Token};
use softhsm_tests::tools::{pkcs11_tool, shell, succeeded};
use tonic::{Code, Status};

const UNAVAILABLE: &str = "PROVIDER_UNAVAILABLE";
const PATIENCE: Duration = Duration::from_secs(20);
const LOSE_THE_CONNECTION: &str = "C_Sign 0 1 return 0xb3";

fn print(isolation: Isolation, outage: &str, told: &Status, took: Duration) {
    let (code, reason) = reason(told);
    let (isolation, took) = (isolation.name(), took.as_secs_f64());
    println!("| {isolation} | {outage} | {code:?} {reason} | {took:.1} s |");
}

fn softhsm2_util(token: &Token, arguments: &[&str]) {
    let output = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", token.conf())
        .args(arguments)
        .output()
        .unwrap();
    succeeded("softhsm2-util".as_ref(), &output);
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_changed_is_refused_once_and_the_right_one_is_taken_when_it_comes() {
    const NEW_PIN: &str = "another-pin-46";
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        pkcs11_tool(&stage.token, &["--change-pin", "--new-pin", NEW_PIN]);
        let logins = stage.module.called("C_Login");
        stage.module.tell(LOSE_THE_CONNECTION);
        let told = stage.refused("a changed PIN", UNAVAILABLE).await;
        assert_eq!(told.code(), Code::Unavailable);
        // Time for a storm, if there were one.
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage.software_signs().await;
        let told = stage.sign(&stage.hsm).await.unwrap_err();
        assert!(told.message().contains("refused the PIN"), "{told:?}");
        assert_eq!(stage.module.called("C_Login"), logins + 1);
        stage.token.write_pin(NEW_PIN);
        let took = stage.recovered("a changed PIN").await;
        assert_eq!(stage.module.called("C_Login"), logins + 2);
        print(
            isolation,
            "CKR_PIN_INCORRECT after a PIN change",
            &told,
            took,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_pin_is_tried_once_and_the_one_that_an_officer_sets_is_taken() {
    const NEW_PIN: &str = "officers-pin-28";
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        let logins = stage.module.called("C_Login");
        stage
            .module
            .tell(&format!("{LOSE_THE_CONNECTION}\nC_Login 0 0 return 0xa4"));
        stage.refused("a locked PIN", UNAVAILABLE).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage.software_signs().await;
        let told = stage.sign(&stage.hsm).await.unwrap_err();
        assert_eq!(reason(&told).1, UNAVAILABLE);
        assert_eq!(stage.module.called("C_Login"), logins + 1);
        let officer = [
            "--init-pin",
            "--login-type",
            "so",
            "--so-pin",
            SO_PIN,
            "--pin",
            NEW_PIN,
        ];
        pkcs11_tool(&stage.token, &officer);
        stage.module.mend();
        stage.token.write_pin(NEW_PIN);
        let took = stage.recovered("a locked PIN").await;
        assert_eq!(stage.module.called("C_Login"), logins + 2);
        print(isolation, "CKR_PIN_LOCKED", &told, took);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_crashes_while_it_logs_in_is_started_again_and_sent_the_pin_once_each_time() {
    let stage = Stage::new(Isolation::Process).await;
    let logins = stage.module.called("C_Login");
    let orders = format!("{LOSE_THE_CONNECTION}\nC_Login 0 2 crash");
    stage.module.tell(&orders);
    // The caller waits meanwhile, and may not notice.
    stage.recovered("a crash in C_Login").await;
    // Calls are counted when they return, so that this is the one that did.
    assert_eq!(stage.module.called("C_Login"), logins + 1);
    let log = stage.daemon.log();
    let crashes = log.matches("ended by itself; another one is started");
    assert_eq!(crashes.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_initialised_anew_is_told_of_and_nothing_is_forgotten_until_its_copy_is_back()
 {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        let kept = tempfile::tempdir().unwrap();
        copy(&stage.token.objects(), kept.path());
        let init = [
            "--init-token",
            "--token",
            LABEL,
            "--label",
            LABEL,
            "--pin",
            PIN,
            "--so-pin",
            SO_PIN,
        ];
        softhsm2_util(&stage.token, &init);
        assert_eq!(stage.token.count("Private Key"), 0);
        let told = stage.refused("initialised anew", "INTERNAL").await;
        stage.software_signs().await;
        // Once it is sure that this is not for a connection that cannot see, it says what is so.
        while !stage
            .daemon
            .log()
            .contains("the token shows none of our private keys")
        {
            stage.refused("initialised anew", "INTERNAL").await;
        }
        // It is told, not forgotten.
        assert_eq!(stage.client.get(&stage.hsm.id).await.unwrap(), stage.hsm);
        // The token can be used meanwhile.
        let other = stage.client.generate(settings(CryptoProvider::Hsm)).await;
        stage.sign(&other.unwrap()).await.unwrap();
        fs::remove_dir_all(stage.token.objects()).unwrap();
        copy(&kept.path().join("tokens"), &stage.token.objects());
        let took = stage.recovered("a token restored from a copy").await;
        let outage = "token initialised anew, then restored from a copy";
        print(isolation, outage, &told, took);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_directory_that_was_away_is_used_again_when_it_is_back() {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        let second = stage
            .client
            .generate(settings(CryptoProvider::Hsm))
            .await
            .unwrap();
        for seconds in [0, 3] {
            let away = stage.token.objects().with_extension("away");
            fs::rename(stage.token.objects(), &away).unwrap();
            let told = stage.refused("away", UNAVAILABLE).await;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stage.software_signs().await;
            stage.refused("away", UNAVAILABLE).await;
            // A key is not taken for destroyed because nothing is shown.
            let told_of_deletion = stage.client.delete(&second.id).await.unwrap_err();
            assert_eq!(reason(&told_of_deletion).1, UNAVAILABLE);
            fs::rename(&away, stage.token.objects()).unwrap();
            let took = stage.recovered("a token directory that is back").await;
            stage.sign(&second).await.unwrap();
            print(
                isolation,
                "token directory removed and restored",
                &told,
                took,
            );
        }
    }
}

/// A file system that a token lies on.
struct Disk(PathBuf);

impl Disk {
    /// Puts a token on a small file system of its own. None where mounting is not permitted.
    fn with_token() -> Option<(Self, Token)> {
        let token = Token::none();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(token.objects())
            .output();
        if !mount.unwrap().status.success() {
            return None;
        }
        let disk = Self(token.objects());
        token.initialise(LABEL);
        Some((disk, token))
    }

    fn remount(&self, how: &str) {
        let mount = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there ends soon.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_disk_is_full_or_read_only_makes_no_keys_and_goes_on_with_those_it_has() {
    for isolation in Isolation::ALL {
        let Some((disk, token)) = Disk::with_token() else {
            println!("NOT SHOWN: no file system can be mounted here");
            return;
        };
        let stage = Stage::at(token, isolation, |home| home).await;
        for outage in ["disk full", "disk read-only"] {
            let filler = disk.0.join("filler");
            match outage {
                // All but what a block is not enough for.
                "disk full" => {
                    shell(&disk.0, "cat /dev/zero > filler 2>/dev/null || true");
                }
                _ => disk.remount("ro"),
            }
            let told = stage.client.generate(settings(CryptoProvider::Hsm)).await;
            let told = told.unwrap_err();
            assert!(
                matches!(told.code(), Code::Internal | Code::Unavailable),
                "{told:?}"
            );
            stage.software_signs().await;
            // What is on it signs.
            stage.recovered(outage).await;
            match outage {
                "disk full" => fs::remove_file(&filler).unwrap(),
                _ => disk.remount("rw"),
            }
            let begun = Instant::now();
            let made = loop {
                match stage.client.generate(settings(CryptoProvider::Hsm)).await {
                    Ok(made) => break made,
                    Err(status) => assert!(begun.elapsed() < PATIENCE, "{status:?}"),
                }
            };
            let took = begun.elapsed();
            stage.client.delete(&made.id).await.unwrap();
            stage.holds(outage, 1);
            print(isolation, &format!("{outage}: generation"), &told, took);
        }
        // Before the folder is removed that it lies in.
        stage.daemon.kill();
        drop(disk);
    }
}

/// Lets a process open no more files, or as many as before.
struct Descriptors {
    pid: Pid,
    before: Rlimit,
}

impl Descriptors {
    /// None when there is no such process any more.
    fn exhaust(pid: u32) -> Option<Self> {
        let in_use: Vec<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
            .ok()?
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        let pid = Pid::from_raw(pid.try_into().unwrap())?;
        // The first number that is free is the first that is too high.
        let none_left = Rlimit {
            current: (0..=u64::from(u32::MAX)).find(|number| !in_use.contains(number)),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        let before = prlimit(Some(pid), Resource::Nofile, none_left).ok()?;
        Some(Self { pid, before })
    }

    fn restore(self) {
        // A process of the module has ended by now, perhaps.
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_callers_are_told_and_all_is_well_when_there_are_some() {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        for whose in ["daemon", "module"] {
            let daemon = stage.daemon.pid();
            if (whose, isolation) == ("module", Isolation::InProcess) {
                continue;
            }
            let outage = format!("no descriptors left in the {whose}");
            let exhausted = loop {
                let pid = match whose {
                    "module" => children(daemon).first().copied(),
                    _ => Some(daemon),
                };
                if let Some(exhausted) = pid.and_then(Descriptors::exhaust) {
                    break exhausted;
                }
            };
            // As long as the connection lasts, hardly anybody notices.
            stage.software_signs().await;
            let _ = stage.sign(&stage.hsm).await;
            // A new one cannot be made, at most by chance.
            let (mut told, mut made_meanwhile) = (None, Vec::new());
            for _ in 0..3 {
                stage.module.tell(LOSE_THE_CONNECTION);
                if let Err(status) = stage.sign(&stage.hsm).await {
                    told = Some(status);
                }
                let made = stage.client.generate(settings(CryptoProvider::Hsm)).await;
                made_meanwhile.extend(made);
                stage.software_signs().await;
            }
            exhausted.restore();
            stage.module.mend();
            let took = stage.recovered(&outage).await;
            let made = stage.client.generate(settings(CryptoProvider::Hsm)).await;
            made_meanwhile.push(made.unwrap());
            for made in made_meanwhile {
                stage.sign(&made).await.unwrap();
                stage.client.delete(&made.id).await.unwrap();
            }
            stage.holds(&outage, 1);
            // New connections are accepted again.
            stage
                .daemon
                .client()
                .await
                .get(&stage.hsm.id)
                .await
                .unwrap();
            match told {
                Some(told) => {
                    assert_eq!(reason(&told).1, UNAVAILABLE, "{told:?}");
                    print(isolation, &outage, &told, took);
                }
                None => println!("| {} | {outage} | nothing of it | |", isolation.name()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_found_again_when_slots_have_other_numbers() {
    for isolation in Isolation::ALL {
        let stage = Stage::new(isolation).await;
        // All slots have other numbers from now on, as after a reader was plugged in.
        stage.module.tell("* 0 0 renumber 7");
        // What is said of the former number shows at the next look at the token, after five seconds, or when the connection
        // is lost.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            if let Err(status) = stage.sign(&stage.hsm).await {
                assert_eq!(reason(&status).1, UNAVAILABLE, "{status:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // So they have when another token comes, and when it goes.
        let compared = || {
            stage
                .daemon
                .log()
                .matches("the token and the store were compared")
                .count()
        };
        let before = compared();
        stage.token.initialise("other");
        stage
            .module
            .tell(&format!("* 0 0 renumber 7\n{LOSE_THE_CONNECTION}"));
        stage.sign(&stage.hsm).await.unwrap();
        // Slots that change under the comparison lose the connection once more.
        let is_over = async || compared() > before;
        stage.daemon.wait_until("a comparison", is_over).await;
        softhsm2_util(&stage.token, &["--delete-token", "--token", "other"]);
        stage.module.tell(LOSE_THE_CONNECTION);
        stage.sign(&stage.hsm).await.unwrap();
        let made = stage
            .client
            .generate(settings(CryptoProvider::Hsm))
            .await
            .unwrap();
        stage.sign(&made).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_module_the_daemon_serves_the_rest_and_connects_when_the_module_comes() {
    for isolation in Isolation::ALL {
        let token = Token::fresh();
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("module.so");
        let line = format!("module = \"{}\"", module.display());
        let home = Home::hybrid(&token)
            .isolating(isolation)
            .replacing("module", &line);
        let daemon = home.start_without_token();
        let client = daemon.client().await;
        client
            .generate(settings(CryptoProvider::Local))
            .await
            .unwrap();
        let told = client
            .generate(settings(CryptoProvider::Hsm))
            .await
            .unwrap_err();
        assert_eq!(reason(&told), (Code::Unavailable, UNAVAILABLE.into()));
        let said =
            daemon.wait_for_log("the provider is not available; it is tried again and again");
        assert!(said["cause"].as_str().unwrap().contains("module"), "{said}");
        tokio::time::sleep(Duration::from_secs(6)).await;
        fs::copy(MODULE, &module).unwrap();
        let begun = Instant::now();
        daemon.wait_for_log("connected to the token");
        print(
            isolation,
            "module file missing at start",
            &told,
            begun.elapsed(),
        );
        client
            .generate(settings(CryptoProvider::Hsm))
            .await
            .unwrap();
    }
}
