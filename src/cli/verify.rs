//! `keypairctl verify`.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::json;

use super::Context;
use super::error::Failure;
use super::input::{Input, InputOptions, is_dash};
use super::output::{Form, generation_state};
use crate::proto::{VerifyRequest, VerifyResponse, verify_request};

/// Check a signature with the public keys of a key pair.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Verify {
    /// Identifier of the key pair.
    id: String,
    /// File with the signature, as `sign` writes it: as it is, or as base64. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// How many bytes the salt of an RSASSA-PSS signature has. Any number when this is left out.
    #[arg(long, value_name = "BYTES")]
    pss_salt_length: Option<i32>,
    #[command(flatten)]
    input: InputOptions,
}

impl Verify {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let signature = self.read_signature()?;
        let beginning = self.input.read()?;
        let daemon = context.connection.open().await?;
        let (input, signature_algorithm) = self
            .input
            .complete(beginning, &self.id, &daemon, context)
            .await?;
        let request = context.connection.request(VerifyRequest {
            id: self.id,
            input: Some(input.into()),
            signature,
            signature_algorithm,
            encoding: self.input.encoding(),
            pss_salt_length: self.pss_salt_length,
        });
        let answer = daemon.signing().verify(request).await?.into_inner();
        let written = write(context, &answer);
        match answer.valid {
            true => written,
            // Whether anybody read it or not.
            false => Err(Failure::NotValid),
        }
    }

    fn read_signature(&self) -> Result<Vec<u8>, Failure> {
        if !is_dash(&self.signature) {
            let read = fs::read(&self.signature).map_err(|error| {
                Failure::Usage(format!("--signature {}: {error}", self.signature.display()))
            });
            return Ok(without_base64(read?));
        }
        if self.input.is_standard_input() {
            return Err(Failure::Usage(
                "signature and message cannot both come from standard input; --message names a file"
                    .to_owned(),
            ));
        }
        let mut read = Vec::new();
        match io::stdin().read_to_end(&mut read) {
            Ok(_) => Ok(without_base64(read)),
            Err(error) => Err(Failure::Usage(format!("standard input: {error}"))),
        }
    }
}

fn write(context: &mut Context<'_>, answer: &VerifyResponse) -> Result<(), Failure> {
    match (context.output.form(), answer.valid) {
        (Form::Data, true) => context.json("VerifyResponse", answer),
        // Protobuf's JSON leaves out what is false.
        (Form::Data, false) => context.data(&json!({"valid": false})),
        (Form::Text, true) => Ok(writeln!(
            context.out,
            "valid, by generation {} ({})",
            answer.generation,
            generation_state(answer.generation_state())
        )?),
        (Form::Text, false) => Ok(writeln!(context.out, "not valid")?),
    }
}

/// Decodes what is base64, in one line or more, and leaves all else as it is. No signature looks like base64
/// by chance: the shortest ones have 64 bytes, of which each would have to be one of 65.
fn without_base64(read: Vec<u8>) -> Vec<u8> {
    let text: Vec<_> = read
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD.decode(text).unwrap_or(read)
}

impl From<Input> for verify_request::Input {
    fn from(input: Input) -> Self {
        match input {
            Input::Message(message) => Self::Message(message),
            Input::Digest(digest) => Self::Digest(digest),
        }
    }
}

const EXAMPLES: &str = "\
The exit code is 0 when the signature is valid, and 5 when it is not.

Examples:
  keypairctl verify payments --message order.xml --signature order.sig
  keypairctl verify payments --signature order.sig < order.xml
  keypairctl verify payments --message order.xml --signature order.sig && ship";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_as_bytes_and_as_base64() {
        let signature: Vec<u8> = (0..=255).collect();
        assert_eq!(without_base64(signature.clone()), signature);
        let line = STANDARD.encode(&signature);
        assert_eq!(without_base64(line.clone().into_bytes()), signature);
        let (first, second) = line.split_at(76);
        let lines = format!("{first}\r\n{second}\n");
        assert_eq!(without_base64(lines.into_bytes()), signature);
    }
}
