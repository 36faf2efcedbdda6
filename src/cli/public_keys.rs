//! `keypairctl public-keys`.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Context;
use super::error::Failure;
use super::fit::fit;
use super::generate::parse_label;
use super::output::{Form, cell, counted, generation_state, time};
use crate::printable::printable;
use crate::proto::{JsonWebKey, ListPublicKeysRequest, ListPublicKeysResponse, PublicKey};

/// List the public keys that signatures are verified with.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PublicKeys {
    /// Only those of one key pair.
    id: Option<String>,
    /// Only those of key pairs with this label. May be repeated: all must hold.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Form of the keys. With `table`, --output json gives the whole answer.
    #[arg(long, default_value = "table", ignore_case = true)]
    format: Format,
    /// How many key pairs are asked for at a time. All pages are fetched.
    #[arg(long, default_value_t = 1000)]
    page_size: i32,
}

/// The form of public keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each.
    Table,
    /// SubjectPublicKeyInfo in PEM, one after the other.
    Pem,
    /// A JWK set (RFC 7517).
    Jwks,
}

impl PublicKeys {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.signing();
        let mut request = ListPublicKeysRequest {
            id: self.id.unwrap_or_default(),
            page_size: self.page_size,
            page_token: String::new(),
            labels: self.labels.into_iter().collect(),
        };
        let mut answer = ListPublicKeysResponse::default();
        loop {
            let page = client
                .list_public_keys(context.connection.request(request.clone()))
                .await?
                .into_inner();
            answer.public_keys.extend(page.public_keys);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        match (self.format, context.output.form()) {
            (Format::Table, Form::Data) => context.json("ListPublicKeysResponse", &answer),
            (Format::Table, Form::Text) => write(context, &answer.public_keys),
            (Format::Pem, _) => {
                for key in &answer.public_keys {
                    write!(context.out, "{}", key.public_key_pem)?;
                }
                Ok(())
            }
            (Format::Jwks, _) => Ok(writeln!(
                context.out,
                "{:#}",
                jwks(answer.public_keys.into_iter().filter_map(|key| key.jwk))
            )?),
        }
    }
}

/// Writes a line for each key. On a terminal it fits the width: without the generation, the expiry
/// counted from now, and what is too long cut.
fn write(context: &mut Context<'_>, keys: &[PublicKey]) -> Result<(), Failure> {
    let Some(width) = context.fitted_width() else {
        let rows = keys.iter().map(|key| {
            let [id, state, algorithm, kid] = texts(key);
            let (generation, expires) = (key.generation.to_string(), time(key.expires));
            let row = [id, generation, state, algorithm, kid, expires];
            row.map(cell).to_vec()
        });
        let header = ["ID", "GENERATION", "STATE", "ALGORITHM", "KID", "EXPIRES"];
        return context.table(&header, rows.collect());
    };
    let header = ["ID", "STATE", "ALGORITHM", "KID", "EXPIRES"];
    let rows = keys.iter().map(|key| {
        let [id, state, algorithm, kid] = texts(key);
        let expires = counted(key.expires, context.now);
        vec![id, state, algorithm, kid, expires]
    });
    let mut rows: Vec<_> = rows.collect();
    // Ids are for copying, and are cut after the rest.
    fit(&header, &mut rows, [(3, 8), (0, 12)], width);
    let rows = rows.into_iter().map(|row| row.iter().map(cell).collect());
    context.table(&header, rows.collect())
}

/// Returns what is always shown of a key: id, state, algorithm and kid.
fn texts(key: &PublicKey) -> [String; 4] {
    let jwk = key.jwk.clone().unwrap_or_default();
    let algorithm = match &*jwk.crv {
        "" => jwk.kty,
        curve => format!("{} {curve}", jwk.kty),
    };
    let state = generation_state(key.generation_state());
    [&*key.id, state, &*algorithm, &*key.kid].map(printable)
}

/// Returns a JWK set. Members that a key does not have are left out.
fn jwks(keys: impl Iterator<Item = JsonWebKey>) -> Value {
    let keys = keys.map(|jwk| {
        let members = [
            ("kty", jwk.kty),
            ("use", jwk.r#use),
            ("alg", jwk.alg),
            ("kid", jwk.kid),
            ("n", jwk.n),
            ("e", jwk.e),
            ("crv", jwk.crv),
            ("x", jwk.x),
            ("y", jwk.y),
        ];
        let members = members.into_iter().filter(|(_, value)| !value.is_empty());
        let members = members.map(|(name, value)| (name.to_owned(), value.into()));
        Value::Object(members.collect::<Map<_, _>>())
    });
    json!({ "keys": keys.collect::<Vec<_>>() })
}

const EXAMPLES: &str = "\
Examples:
  keypairctl public-keys
  keypairctl public-keys -o wide
  keypairctl public-keys payments --format pem > payments.pem
  keypairctl public-keys --format jwks | jq -r '.keys[].kid'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Output;
    use crate::cli::output::tests::{NOW, written};
    use crate::proto::GenerationState;

    #[test]
    fn a_jwk_has_the_members_of_its_kind_only() {
        let key = JsonWebKey {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            x: "eA".into(),
            ..JsonWebKey::default()
        };
        assert_eq!(
            jwks(std::iter::once(key)),
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "eA"}]})
        );
        assert_eq!(jwks(std::iter::empty()), json!({"keys": []}));
    }

    #[test]
    fn a_line_fits_a_terminal_and_a_pipe_and_wide_have_all_there_is() {
        let shown = |output: Output, width: Option<usize>| {
            let keys = ["payments", &*"i".repeat(64)].map(|id| PublicKey {
                id: id.into(),
                generation: 12,
                generation_state: GenerationState::Previous.into(),
                kid: "k".repeat(43),
                expires: Some(NOW),
                jwk: Some(JsonWebKey {
                    kty: "OKP".into(),
                    crv: "Ed25519".into(),
                    ..JsonWebKey::default()
                }),
                ..PublicKey::default()
            });
            written(output, width, |context| write(context, &keys))
        };
        let table = shown(Output::Table, Some(80));
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{table}");
        }
        assert!(table.contains("payments "), "{table}");
        for (output, width) in [(Output::Table, None), (Output::Wide, Some(80))] {
            let wide = shown(output, width);
            for whole in ["GENERATION", &"i".repeat(64), &"k".repeat(43), " UTC"] {
                assert!(wide.contains(whole), "{wide}");
            }
        }
    }
}
