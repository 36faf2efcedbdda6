//! `keypairctl algorithms`.

use clap::Args;
use comfy_table::Cell;

use super::Context;
use super::error::Failure;
use super::output::{Form, cell};
use super::values::Provider;
use crate::proto::{CryptoProvider, KeyAlgorithm, ListKeyAlgorithmsRequest};

/// List what each provider can do now.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Algorithms {
    /// Only LOCAL or HSM. For daemons in hybrid mode.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    crypto_provider: Option<CryptoProvider>,
}

impl Algorithms {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(ListKeyAlgorithmsRequest {
            crypto_provider: self.crypto_provider.unwrap_or_default().into(),
        });
        let answer = client.list_key_algorithms(request).await?.into_inner();
        if context.output.form() == Form::Data {
            return context.json("ListKeyAlgorithmsResponse", &answer);
        }
        // The longest column is the last one, which is broken into lines on a terminal.
        let mut header = vec!["ALGORITHM", "KEY SIZES", "PROVIDER", "SIGNATURE ALGORITHMS"];
        let mut rows: Vec<_> = answer.key_algorithms.iter().map(row).collect();
        if rows.iter().all(|row| row[PROVIDER].content().is_empty()) {
            header.remove(PROVIDER);
            for row in &mut rows {
                row.remove(PROVIDER);
            }
        }
        context.table(&header, rows)
    }
}

/// The defaults are marked with a star.
fn row(algorithm: &KeyAlgorithm) -> Vec<Cell> {
    let sizes = algorithm
        .key_sizes
        .iter()
        .map(|size| match *size == algorithm.default_key_size {
            true => format!("{size}*"),
            false => size.to_string(),
        });
    let signatures = algorithm.signature_algorithms.iter().map(|name| {
        match *name == algorithm.default_signature_algorithm {
            true => format!("{name}*"),
            false => name.clone(),
        }
    });
    let provider = match algorithm.crypto_provider() {
        CryptoProvider::Unspecified => "",
        provider => provider.as_str_name(),
    };
    vec![
        cell(&algorithm.name),
        cell(sizes.collect::<Vec<_>>().join(", ")),
        cell(provider),
        cell(signatures.collect::<Vec<_>>().join(", ")),
    ]
}

/// Where the provider is in a row.
const PROVIDER: usize = 2;

const EXAMPLES: &str = "\
What is used when nothing is said has a star.

Examples:
  keypairctl algorithms
  keypairctl algorithms --crypto-provider HSM --output json";
