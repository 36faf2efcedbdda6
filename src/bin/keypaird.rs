//! The daemon: `serve`, and what an operator needs beside it.

#![expect(clippy::print_stdout, reason = "this is a program's main file")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use keypaird::app::{self, App, NotWell, StartError};
use keypaird::config::Config;
use keypaird::domain::ProviderMode;
use keypaird::providers::pkcs11::{PinSource, TokenSelector, init_token};
use keypaird::telemetry::{self, FlushOnDrop, LogFormat, TelemetryConfig, chain};

/// Key management daemon: signing key pairs in a PKCS#11 token or in software, over gRPC.
#[derive(Debug, Parser)]
#[command(name = "keypaird", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer calls until SIGTERM or SIGINT.
    Serve(ConfigFile),
    /// Check the configuration, name every fault, and end with 64 if there is one.
    ///
    /// With `--connect`, try also all that it names, before `serve` is started or while it runs: the
    /// store, the key files, the addresses, the token. Nothing is changed. OK is as it should be,
    /// WARN works and should be looked at, FAIL does not work. Ends with 0 without a FAIL, else with
    /// the exit code that `serve` would end with, or with 1 when it would run all the same, as
    /// without a token.
    CheckConfig(CheckConfig),
    /// Initialise a new token with the label and the user PIN of the configuration.
    InitToken(InitToken),
    /// Ask a running daemon for its health (`grpc.health.v1`); ends with 0 if it serves, else with 1.
    Healthcheck(Healthcheck),
    /// Copy the store to a file, while the daemon runs or not.
    ///
    /// The copy is of one moment, and is checked. It has the software keys, encrypted. The key
    /// encryption key and the token are not in it: back them up by other means.
    Backup(Backup),
    /// Put a backup in the place of the store; the daemon must be stopped.
    ///
    /// The backup must be whole and of this version of keypaird or an earlier one, and the key
    /// encryption key must be the one that it was made with. The former store is kept beside the
    /// new one. Keys on the token that are newer than the backup are left there.
    Restore(Restore),
    /// Print the version.
    Version,
    /// The process that the PKCS#11 module is loaded in; `serve` starts it.
    #[command(name = app::PKCS11_MODULE, hide = true)]
    Pkcs11Module(Pkcs11Module),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML). Without one: local mode, SQLite in the state folder, loopback.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckConfig {
    #[command(flatten)]
    file: ConfigFile,
    /// Try all that the configuration names. The PIN is sent to the token once.
    #[arg(long)]
    connect: bool,
    /// Send the PIN even when the token says that one more wrong one locks it.
    #[arg(long, requires = "connect")]
    last_try: bool,
}

#[derive(Debug, Args)]
struct InitToken {
    #[command(flatten)]
    file: ConfigFile,
    /// File with the PIN of the token's security officer in its first line.
    #[arg(long, value_name = "FILE")]
    so_pin_file: PathBuf,
}

#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    file: ConfigFile,
    /// The file to make, readable by its owner only.
    #[arg(value_name = "FILE")]
    destination: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Restore {
    #[command(flatten)]
    file: ConfigFile,
    /// The file that `keypaird backup` made, or another copy of a store.
    #[arg(value_name = "FILE")]
    backup: PathBuf,
}

#[derive(Debug, Args)]
struct Healthcheck {
    #[command(flatten)]
    file: ConfigFile,
    /// What to ask for: nothing for the daemon as a whole, `provider/HSM` or `provider/LOCAL` for a provider.
    #[arg(long, default_value = "")]
    service: String,
}

#[derive(Debug, Args)]
struct Pkcs11Module {
    /// The form of log lines.
    #[arg(value_parser = log_format)]
    log_format: LogFormat,
    /// Which log lines are written.
    log_filter: String,
}

fn log_format(name: &str) -> Result<LogFormat, &'static str> {
    let named = LogFormat::ALL.into_iter().find(|form| form.name() == name);
    named.ok_or("no form of log lines")
}

fn main() -> ExitCode {
    // Also when this thread panics.
    let _log = FlushOnDrop;
    let result = match Cli::parse().command {
        Command::Serve(file) => serve(&file),
        Command::CheckConfig(command) => check_config(&command),
        Command::InitToken(command) => initialise_token(&command),
        Command::Backup(command) => back_up(&command),
        Command::Restore(command) => restore(&command),
        Command::Healthcheck(command) => healthcheck(&command),
        Command::Pkcs11Module(logging) => pkcs11_module(logging),
        Command::Version => {
            println!("keypaird {}", keypaird::VERSION);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            telemetry::print(&format!("keypaird: {}", failure.message));
            ExitCode::from(failure.code)
        }
    }
}

/// A sentence for people and an exit code.
struct Failure {
    message: String,
    code: u8,
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self {
            code: error.exit_code(),
            message: chain(&error),
        }
    }
}

impl From<NotWell> for Failure {
    fn from(not_well: NotWell) -> Self {
        Self {
            message: not_well.to_string(),
            code: not_well.exit_code,
        }
    }
}

impl Failure {
    fn of(error: &dyn Error) -> Self {
        Self {
            message: chain(error),
            code: 1,
        }
    }
}

fn load(file: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(file, &app::environment()).map_err(StartError::from)?)
}

fn serve(file: &ConfigFile) -> Result<(), Failure> {
    run(async {
        // First of all: a log rotation may send its SIGHUP at any moment.
        let stop = app::stop_signal().map_err(StartError::Threads)?;
        let config = Config::load(file.config.as_deref(), &app::environment())?;
        telemetry::start(&config.telemetry)
            .map_err(|error| StartError::Logging(error.to_string()))?;
        let app = App::start(config).await?;
        app.serve(stop).await
    })
}

fn pkcs11_module(logging: Pkcs11Module) -> Result<(), Failure> {
    let telemetry = TelemetryConfig {
        log_format: logging.log_format,
        log_filter: logging.log_filter,
    };
    telemetry::start_in_child(&telemetry)
        .map_err(|error| StartError::Logging(error.to_string()))?;
    app::serve_module().map_err(|_| Failure {
        message: "this command is for keypaird serve, which starts it".to_owned(),
        code: 64,
    })
}

fn check_config(command: &CheckConfig) -> Result<(), Failure> {
    let config = load(command.file.config.as_deref())?;
    show(&config);
    match command.connect {
        true => connect(&config, command.last_try),
        false => Ok(()),
    }
}

/// Tries all that a configuration names, and tells how it is, line by line.
fn connect(config: &Config, last_try: bool) -> Result<(), Failure> {
    match config.crypto.token {
        Some(_) => println!("trying all that it names; the PIN is sent to the token once"),
        None => println!("trying all that it names"),
    }
    let checks = app::check_connections(config, last_try);
    for check in &checks {
        println!("  {check}");
    }
    match app::conclude(&checks)? {
        0 => println!("all is well"),
        1 => println!("it works, with 1 warning"),
        warnings => println!("it works, with {warnings} warnings"),
    }
    Ok(())
}

fn show(config: &Config) {
    let policy = config.crypto.policy;
    println!("the configuration is in order");
    println!("  mode      {}", policy.mode);
    if policy.mode == ProviderMode::Hybrid {
        println!("  default   {}", policy.default);
    }
    if let Some(token) = &config.crypto.token {
        let (kind, name) = match &token.pkcs11.token {
            TokenSelector::Label(label) => ("label", label),
            TokenSelector::Serial(serial) => ("serial number", serial),
        };
        println!(
            "  token     {kind} {name:?} in {}",
            token.pkcs11.module.display()
        );
    }
    if let Some(local) = &config.crypto.local {
        println!("  key file  {}", local.key_encryption_key_file.display());
    }
    println!("  store     {}", config.store.path.display());
    let tls = match &config.server.tls {
        None => "without TLS",
        Some(tls) if tls.client_ca.is_some() => "with mutual TLS",
        Some(_) => "with TLS",
    };
    println!("  listen    {} {tls}", config.server.listen);
    if let Some(path) = &config.server.unix_socket {
        println!("  socket    {}", path.display());
    }
}

fn initialise_token(command: &InitToken) -> Result<(), Failure> {
    let failure = |message: &str| Failure {
        message: message.to_owned(),
        code: 64,
    };
    let config = load(command.file.config.as_deref())?;
    let token = config
        .crypto
        .token
        .ok_or_else(|| failure("crypto.mode is local, which uses no token"))?;
    let TokenSelector::Label(label) = &token.pkcs11.token else {
        return Err(failure("a new token needs a crypto.pkcs11.token_label"));
    };
    let so_pin = PinSource::File(command.so_pin_file.clone());
    let so_pin = so_pin.read().map_err(|error| Failure::of(&error))?;
    let user_pin = token
        .pkcs11
        .pin
        .read()
        .map_err(|error| Failure::of(&error))?;
    let serial = init_token(&token.pkcs11.module, label, &so_pin, &user_pin)
        .map_err(|error| Failure::of(&error))?;
    println!("initialised the token {label:?}, serial number {serial}");
    Ok(())
}

fn back_up(command: &Backup) -> Result<(), Failure> {
    let config = load(command.file.config.as_deref())?;
    let key_pairs = run(async {
        app::outlive_full_files().map_err(StartError::Threads)?;
        app::back_up(&config, &command.destination, command.force)
    })?;
    println!(
        "backed up {} to {}",
        counted(key_pairs),
        command.destination.display()
    );
    if let Some(local) = &config.crypto.local {
        println!(
            "  not in it: the key encryption key {}; keep a copy of it in another place",
            local.key_encryption_key_file.display()
        );
    }
    if config.crypto.token.is_some() {
        println!("  not in it: the token; back it up by the means of its vendor");
    }
    Ok(())
}

fn restore(command: &Restore) -> Result<(), Failure> {
    let config = load(command.file.config.as_deref())?;
    let restored = run(async {
        app::outlive_full_files().map_err(StartError::Threads)?;
        app::restore(&config, &command.backup)
    })?;
    println!(
        "restored {} to {}",
        counted(restored.key_pairs),
        config.store.path.display()
    );
    if let Some(former) = restored.former {
        println!("  the former store is kept as {}", former.display());
    }
    println!("  now start the daemon, and see what keypairctl doctor says");
    Ok(())
}

fn counted(key_pairs: u64) -> String {
    match key_pairs {
        1 => "one key pair".to_owned(),
        count => format!("{count} key pairs"),
    }
}

fn healthcheck(command: &Healthcheck) -> Result<(), Failure> {
    let config = load(command.file.config.as_deref())?;
    let status = run(async { Ok(app::ask_health(&config.server, &command.service).await) })?;
    match status {
        Ok(true) => {
            println!("serving");
            Ok(())
        }
        Ok(false) => Err(Failure {
            message: "not serving".to_owned(),
            code: 1,
        }),
        Err(message) => Err(Failure { message, code: 1 }),
    }
}

fn run<T>(work: impl Future<Output = Result<T, StartError>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(app::prepare_thread)
        .build()
        .map_err(StartError::Threads)?;
    let done = runtime.block_on(work);
    // A call that hangs in a module must not keep the process.
    runtime.shutdown_background();
    Ok(done?)
}
