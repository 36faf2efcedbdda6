//! `keypairctl public-keys`.

use clap::{Args, ValueEnum};
use comfy_table::Cell;
use serde_json::{Map, Value, json};

use super::Context;
use super::error::Failure;
use super::generate::parse_label;
use super::output::{Form, cell, generation_state, time};
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
            (Format::Table, Form::Text) => context.table(
                &["ID", "GENERATION", "STATE", "ALGORITHM", "KID", "EXPIRES"],
                answer.public_keys.iter().map(row).collect(),
            ),
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

fn row(key: &PublicKey) -> Vec<Cell> {
    let jwk = key.jwk.clone().unwrap_or_default();
    vec![
        cell(&key.id),
        cell(key.generation),
        cell(generation_state(key.generation_state())),
        cell(match &*jwk.crv {
            "" => jwk.kty,
            curve => format!("{} {curve}", jwk.kty),
        }),
        cell(&key.kid),
        cell(time(key.expires)),
    ]
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
  keypairctl public-keys payments --format pem > payments.pem
  keypairctl public-keys --format jwks | jq -r '.keys[].kid'";

#[cfg(test)]
mod tests {
    use super::*;

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
}
