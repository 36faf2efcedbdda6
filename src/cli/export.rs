//! `keypairctl export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::error::Failure;
use super::out_file::OutFile;
use super::output::Form;
use super::password::{Asked, PasswordOptions};
use super::{Context, progress};
use crate::proto::{ExportSigningKeyPairRequest, KeyFileFormat};

/// Export a software key pair as a file encrypted under a password.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Export {
    /// Identifier of the key pair.
    id: String,
    /// What the file shall be.
    #[arg(long, ignore_case = true, default_value = "pkcs12")]
    format: Format,
    /// The file to write, readable by you alone, as a whole or not at all; `-` is standard output. A
    /// pipe or a device is written to as it is.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace that file if it is there; a symbolic link, and not what it points to.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    password: PasswordOptions,
}

/// A kind of key file.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// PKCS#12.
    Pkcs12,
    /// PEM.
    Pem,
}

impl Format {
    /// Returns the number on the wire.
    pub(super) fn number(format: Option<Self>) -> i32 {
        match format {
            None => KeyFileFormat::Unspecified,
            Some(Self::Pkcs12) => KeyFileFormat::Pkcs12,
            Some(Self::Pem) => KeyFileFormat::Pem,
        }
        .into()
    }
}

impl Export {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let out = OutFile::private(&self.out, self.force)?;
        let password = self.password.read(context, Asked::Twice)?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(ExportSigningKeyPairRequest {
            id: self.id,
            format: Format::number(Some(self.format)),
            password: password.to_string(),
        });
        let call = client.export_signing_key_pair(request);
        let message = "encrypting the private key".to_owned();
        let answer = progress::spin(context.output, message, call)
            .await?
            .into_inner();
        out.write(&answer.file_data, context)?;
        match (context.output.form(), out.is_standard_output()) {
            (Form::Text, false) => Ok(writeln!(context.out, "wrote {}", self.out.display())?),
            _ => Ok(()),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl export payments --out payments.p12
  keypairctl export payments --format pem --out payments.pem \\
    --password-file password.txt";
