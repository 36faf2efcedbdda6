//! `keypairctl csr` and `keypairctl csr-response`.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use super::error::Failure;
use super::input::read_whole;
use super::out_file::OutFile;
use super::output::Form;
use crate::proto::{DistinguishedName, GenerateCsrRequest, ImportCsrResponseRequest};

/// Print a certificate signing request (PKCS#10) of a key pair in PEM.
#[derive(Debug, Args)]
#[command(after_help = CSR_EXAMPLES)]
pub(super) struct Csr {
    /// Identifier of the key pair.
    id: String,
    /// Common name (CN) of another subject than that of the current certificate.
    #[arg(long, requires_all = ["organization", "country"])]
    common_name: Option<String>,
    /// Organization (O).
    #[arg(long, requires = "common_name")]
    organization: Option<String>,
    /// Organizational unit (OU).
    #[arg(long, requires = "common_name")]
    organization_unit: Option<String>,
    /// City or locality (L).
    #[arg(long, requires = "common_name")]
    city: Option<String>,
    /// State or province (ST).
    #[arg(long, requires = "common_name")]
    state: Option<String>,
    /// Country (C), two letters.
    #[arg(long, requires = "common_name")]
    country: Option<String>,
    /// Subject alternative name, instead of those of the current certificate. May be repeated.
    #[arg(long = "san", value_name = "NAME")]
    subject_alternative_names: Vec<String>,
    /// Write to a file instead, as a whole or not at all; `-` is standard output. A pipe or a device
    /// is written to as it is.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace that file if it is there; a symbolic link, and not what it points to.
    #[arg(long, requires = "out")]
    force: bool,
}

impl Csr {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let out = OutFile::optional(self.out.as_deref(), self.force)?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(GenerateCsrRequest {
            id: self.id,
            subject: self.common_name.map(|common_name| DistinguishedName {
                common_name,
                organization: self.organization.unwrap_or_default(),
                organization_unit: self.organization_unit,
                city: self.city,
                state: self.state,
                country: self.country.unwrap_or_default(),
            }),
            subject_alternative_names: self.subject_alternative_names,
        });
        let answer = client.generate_csr(request).await?.into_inner();
        match (out, context.output.form()) {
            (Some(file), _) => file.write(answer.csr_pem.as_bytes(), context),
            (None, Form::Data) => context.json("GenerateCsrResponse", &answer),
            (None, Form::Text) => Ok(write!(context.out, "{}", answer.csr_pem)?),
        }
    }
}

/// Take the certificate that a CA issued for a key pair, with its chain.
#[derive(Debug, Args)]
#[command(after_help = CSR_RESPONSE_EXAMPLES)]
pub(super) struct CsrResponse {
    /// Identifier of the key pair.
    id: String,
    /// Certificate, bundle or PKCS#7, in PEM or DER; `-` for standard input.
    file: PathBuf,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
}

impl CsrResponse {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let file_data = read_whole(&self.file)?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(ImportCsrResponseRequest {
            id: self.id,
            file_data,
            etag: self.etag.unwrap_or_default(),
        });
        let answer = client.import_csr_response(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("ImportCsrResponseResponse", &answer),
            Form::Text => {
                context.adopted(
                    answer.key_pair,
                    &answer.warnings,
                    &answer.ignored_certificates,
                )?;
                if answer.rotation_settings_ended {
                    let said = "The rotation settings ended: a new certificate comes from the CA.";
                    writeln!(context.out, "{said}")?;
                }
                Ok(())
            }
        }
    }
}

const CSR_EXAMPLES: &str = "\
Examples:
  keypairctl csr payments --out payments.csr
  keypairctl csr payments | openssl req -noout -text -verify
  Then give it to the CA, and its answer to keypairctl:
    keypairctl csr-response payments payments.crt";
const CSR_RESPONSE_EXAMPLES: &str = "\
Examples:
  keypairctl csr-response payments payments-and-chain.pem
  keypairctl csr-response payments payments.p7b";
