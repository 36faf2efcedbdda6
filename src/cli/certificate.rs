//! `keypairctl certificate`.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use super::error::Failure;
use super::out_file::OutFile;
use super::output::Form;
use crate::proto::ExportCertificateRequest;

/// Print the certificate of a key pair in PEM.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Certificate {
    /// Identifier of the key pair.
    id: String,
    /// With the issuing certificates behind it.
    #[arg(long)]
    chain: bool,
    /// Write to a file instead, as a whole or not at all; `-` is standard output. A pipe or a device
    /// is written to as it is.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace that file if it is there; a symbolic link, and not what it points to.
    #[arg(long, requires = "out")]
    force: bool,
}

impl Certificate {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let out = OutFile::optional(self.out.as_deref(), self.force)?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(ExportCertificateRequest {
            id: self.id,
            include_chain: self.chain,
        });
        let answer = client.export_certificate(request).await?.into_inner();
        match (out, context.output.form()) {
            (Some(file), _) => file.write(answer.certificate_pem.as_bytes(), context),
            (None, Form::Data) => context.json("ExportCertificateResponse", &answer),
            (None, Form::Text) => Ok(write!(context.out, "{}", answer.certificate_pem)?),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl certificate payments | openssl x509 -noout -text
  keypairctl certificate payments --out payments.pem";
