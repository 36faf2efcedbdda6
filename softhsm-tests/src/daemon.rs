//! Daemons: the built binary, on a port and in a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::token::{LABEL, Token, module};
use crate::tools::Grpcurl;

/// The folder of a daemon: its configuration, store and keys, which outlive a run of it.
#[derive(Clone, Debug)]
pub struct Home {
    folder: Arc<TempDir>,
    config: String,
    softhsm2_conf: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Home {
    /// Prepares a daemon in local mode.
    pub fn local() -> Self {
        Self::new("local", None)
    }

    /// Prepares a daemon in hsm mode.
    pub fn hsm(token: &Token) -> Self {
        Self::new("hsm", Some(token))
    }

    /// Prepares a daemon in hybrid mode.
    pub fn hybrid(token: &Token) -> Self {
        Self::new("hybrid", Some(token))
    }

    fn new(mode: &str, token: Option<&Token>) -> Self {
        let mut home = Self {
            folder: Arc::new(
                tempfile::Builder::new()
                    .prefix("keypaird-home-")
                    .tempdir()
                    .unwrap(),
            ),
            config: String::new(),
            softhsm2_conf: token.map(Token::conf),
            environment: Vec::new(),
        };
        home.set_mode(mode, token);
        home
    }

    /// Writes the configuration anew for a mode; store and keys stay.
    pub fn set_mode(&mut self, mode: &str, token: Option<&Token>) {
        let folder = self.folder.path().display();
        self.config = format!(
            "server.listen = \"127.0.0.1:0\"\n\
             crypto.mode = \"{mode}\"\n\
             crypto.local.key_encryption_key_file = \"{folder}/key-encryption-key\"\n\
             store.url = \"sqlite://{folder}/keypaird.db\"\n\
             telemetry.log_format = \"json\"\n\
             telemetry.log_filter = \"info,keypaird=debug\"\n"
        );
        self.softhsm2_conf = token.map(Token::conf);
        if let Some(token) = token {
            write!(
                self.config,
                "[crypto.pkcs11]\nmodule = \"{}\"\ntoken_label = \"{LABEL}\"\npin_file = \"{}\"\n",
                module(),
                token.pin_file().display()
            )
            .unwrap();
        }
    }

    /// Puts lines before the rest of the configuration.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.config.insert_str(0, &format!("{lines}\n"));
        self
    }

    /// Replaces a line of the configuration that begins so.
    #[must_use]
    pub fn replacing(mut self, begins: &str, line: &str) -> Self {
        let lines: Vec<_> = self
            .config
            .lines()
            .map(|old| if old.starts_with(begins) { line } else { old })
            .collect();
        self.config = lines.join("\n");
        self
    }

    /// Has the module loaded by the daemon itself.
    #[must_use]
    pub fn in_process(self) -> Self {
        self.isolating(Isolation::InProcess)
    }

    /// Says where the module is loaded.
    #[must_use]
    pub fn isolating(self, isolation: Isolation) -> Self {
        self.env("KEYPAIRD__CRYPTO__PKCS11__ISOLATION", isolation.name())
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command of the daemon's binary to its end, with `--config` where it takes one.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the daemon and waits until it answers, and until its token is connected if it has one.
    pub fn start(&self) -> Daemon {
        let daemon = self.start_without_token();
        if self.softhsm2_conf.is_some() {
            daemon.wait_for_log("connected to the token");
        }
        daemon
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_without_token(&self) -> Daemon {
        let (reader, writer) = io::pipe().unwrap();
        let child = self.serve(writer);
        let log = Log::default();
        let reader = BufReader::new(reader);
        let reading = std::thread::spawn({
            let log = log.clone();
            move || log.follow(reader)
        });
        let mut daemon = self.daemon(child, log);
        daemon.reading = Some(reading);
        daemon.is_serving();
        daemon
    }

    /// Starts the daemon, reads its log until all of these messages have come, the one that it
    /// serves among them, and then reads no further.
    pub fn start_unread(&self, messages: &[&str]) -> (Daemon, BufReader<PipeReader>) {
        let (reader, writer) = io::pipe().unwrap();
        let child = self.serve(writer);
        let mut daemon = self.daemon(child, Log::default());
        let mut reader = BufReader::new(reader);
        while messages.iter().any(|one| daemon.log.find(one).is_none()) {
            let mut line = String::new();
            let length = reader.read_line(&mut line).unwrap();
            assert!(length > 0, "the daemon ended; it logged:\n{}", daemon.log());
            daemon.log.0.lock().unwrap().push_str(&line);
        }
        daemon.is_serving();
        (daemon, reader)
    }

    /// Runs `serve` with its log going into a pipe.
    pub fn serve(&self, log: PipeWriter) -> Child {
        let mut command = self.command(&["serve"]);
        command.stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    fn daemon(&self, child: Child, log: Log) -> Daemon {
        Daemon {
            child,
            log,
            reading: None,
            _folder: Arc::clone(&self.folder),
            address: ([127, 0, 0, 1], 0).into(),
        }
    }

    /// Writes the configuration, and returns the path of its file.
    pub fn write_config(&self) -> PathBuf {
        let config = self.path("keypaird.toml");
        fs::write(&config, &self.config).unwrap();
        config
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let config = self.write_config();
        let mut command = Command::new(binary("keypaird"));
        command
            .args(arguments)
            .arg("--config")
            .arg(config)
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(conf) = &self.softhsm2_conf {
            command.env("SOFTHSM2_CONF", conf);
        }
        command
    }
}

/// Where the module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In a process of its own.
    Process,
    /// In the daemon.
    InProcess,
}

impl Isolation {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Process, Self::InProcess];

    /// Returns its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::InProcess => "in-process",
        }
    }
}

/// A running daemon. It is killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Log,
    reading: Option<JoinHandle<()>>,
    _folder: Arc<TempDir>,
    address: SocketAddr,
}

impl Daemon {
    /// Returns where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns grpcurl for it.
    pub fn grpcurl(&self) -> Grpcurl {
        Grpcurl::plaintext(self.address)
    }

    /// Returns a client for it.
    pub async fn client(&self) -> Client {
        Client::connect(&format!("http://{}", self.address)).await
    }

    /// Returns its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns all that it logged so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits until it serves, and notes where.
    fn is_serving(&mut self) {
        let serving = self.wait_for_log("serving");
        let address = serving["address"].as_str().unwrap();
        self.address = address.split(' ').next().unwrap().parse().unwrap();
    }

    /// Waits for a log line with this message and returns it.
    pub fn wait_for_log(&self, message: &str) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(line) = self.log.find(message) {
                return line;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the daemon did not log {message:?}; it logged:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until something is so, and returns how long that took.
    pub async fn wait_until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so().await {
            assert!(begun.elapsed() < PATIENCE, "{what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }

    /// Limits something for it from now on, such as how many files it may open.
    pub fn limit(&self, resource: Resource, current: Option<u64>) {
        let limit = Rlimit {
            current,
            maximum: getrlimit(resource).maximum,
        };
        prlimit(
            Pid::from_raw(self.child.id().try_into().unwrap()),
            resource,
            limit,
        )
        .unwrap();
    }

    /// Returns how many files it has open.
    pub fn descriptors(&self) -> usize {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        folder.unwrap().count()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM, waits for the end, and returns the status and all that was logged.
    pub fn stop(self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end, and returns the status and all that was logged.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        (status, self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(30);
            eprintln!(
                "--- the end of the daemon's log ---\n{}",
                lines[last..].join("\n")
            );
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn follow(&self, reader: impl BufRead) {
        for line in reader.lines() {
            let Ok(line) = line else { break };
            let mut log = self.0.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    }

    fn find(&self, message: &str) -> Option<Value> {
        let log = self.0.lock().unwrap();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["message"] == message)
    }
}

/// Returns a binary of keypaird, built from the code as it is now.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().and_then(Path::parent).unwrap().to_owned();
    BUILT.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["build", "--quiet", "--bins", "--package", "keypaird"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "keypaird cannot be built"
        );
    });
    profile.join(name)
}

const PATIENCE: Duration = Duration::from_secs(30);
