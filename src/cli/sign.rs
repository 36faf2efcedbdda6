//! `keypairctl sign`.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::Context;
use super::error::Failure;
use super::input::{Input, InputOptions};
use super::out_file::OutFile;
use super::output::Form;
use crate::proto::{SignRequest, sign_request};

/// Sign a message or a digest with a key pair.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Sign {
    /// Identifier of the key pair.
    id: String,
    #[command(flatten)]
    input: InputOptions,
    /// Sign even if the certificate is expired or not yet valid.
    #[arg(long)]
    allow_outside_validity: bool,
    /// Write the signature to a file instead, as a whole or not at all; `-` is standard output. A pipe
    /// or a device is written to as it is.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace that file if it is there; a symbolic link, and not what it points to.
    #[arg(long, requires = "out")]
    force: bool,
    /// Write the signature as base64, on one line, also where it is not for a terminal.
    #[arg(long)]
    base64: bool,
}

impl Sign {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let out = OutFile::optional(self.out.as_deref(), self.force)?;
        self.input.refuse_same_file(self.out.as_deref())?;
        let beginning = self.input.read()?;
        let daemon = context.connection.open().await?;
        let (input, signature_algorithm) = self
            .input
            .complete(beginning, &self.id, &daemon, context)
            .await?;
        let request = context.connection.request(SignRequest {
            id: self.id,
            input: Some(input.into()),
            signature_algorithm,
            encoding: self.input.encoding(),
            allow_outside_validity: self.allow_outside_validity,
        });
        let answer = daemon.signing().sign(request).await?.into_inner();
        let as_text = self.base64 || (out.is_none() && context.terminal);
        let written = match as_text {
            true => format!("{}\n", STANDARD.encode(&answer.signature)).into_bytes(),
            false => answer.signature.clone(),
        };
        match (out, context.output.form()) {
            (Some(file), _) => file.write(&written, context),
            (None, Form::Data) => context.json("SignResponse", &answer),
            (None, Form::Text) => Ok(context.out.write_all(&written)?),
        }
    }
}

impl From<Input> for sign_request::Input {
    fn from(input: Input) -> Self {
        match input {
            Input::Message(message) => Self::Message(message),
            Input::Digest(digest) => Self::Digest(digest),
        }
    }
}

const EXAMPLES: &str = "\
The signature is written as it is, or as base64 to a terminal.

Examples:
  keypairctl sign payments --message order.xml --out order.sig
  keypairctl sign payments < order.xml
  keypairctl sign payments --out order.sig \\
    --digest \"$(sha256sum < order.xml | cut -d' ' -f1)\"
  keypairctl sign payments --message order.xml --encoding p1363 --base64
  Whether OpenSSL accepts it:
    keypairctl public-keys payments --format pem > payments.pem
    openssl dgst -sha256 -verify payments.pem -signature order.sig order.xml";
