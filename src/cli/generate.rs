//! `keypairctl generate`.

use clap::Args;

use super::error::Failure;
use super::output::Form;
use super::rotation::proposal;
use super::values::{CERTIFICATE_ALGORITHMS, KEY_ALGORITHMS, Provider, parse_days};
use super::{Context, progress};
use crate::proto::{
    CryptoProvider, GenerateSigningKeyPairRequest, KeyPairRotationSettings, KeyPairView,
    NewKeyPairSettings,
};

/// Generate a key pair with a self-signed certificate.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Generate {
    /// Identifier, 1 to 64 of `a-z 0-9 . _ -`. One is made when this is left out.
    #[arg(long)]
    id: Option<String>,
    /// Common name (CN) of the subject.
    #[arg(long)]
    common_name: String,
    /// Organization (O).
    #[arg(long)]
    organization: String,
    /// Organizational unit (OU).
    #[arg(long)]
    organization_unit: Option<String>,
    /// City or locality (L).
    #[arg(long)]
    city: Option<String>,
    /// State or province (ST).
    #[arg(long)]
    state: Option<String>,
    /// Country (C), two letters.
    #[arg(long)]
    country: String,
    /// Subject alternative name: DNS name, IP address, e-mail address or URI. May be repeated.
    #[arg(long = "san", value_name = "NAME")]
    subject_alternative_names: Vec<String>,
    /// Days until the certificate expires, 1 to 36500, or 1y, 4w.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    valid_days: i32,
    /// Key algorithm: RSA, EC or ED25519.
    #[arg(long, value_name = "NAME", value_parser = KEY_ALGORITHMS, hide_possible_values = true)]
    key_algorithm: String,
    /// Key size in bits: 2048, 3072, 4096 for RSA; 256, 384, 521 for EC.
    #[arg(long, value_name = "BITS")]
    key_size: Option<i32>,
    /// Signature algorithm of the certificate, such as SHA256withRSA or SHA384withECDSA.
    #[arg(long, value_name = "NAME", value_parser = CERTIFICATE_ALGORITHMS, hide_possible_values = true)]
    signature_algorithm: Option<String>,
    /// Where the key shall live: LOCAL or HSM. For daemons in hybrid mode.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    crypto_provider: Option<CryptoProvider>,
    /// Rotate the key pair by itself: the next key is made 25 %, and signs 10 % of the lifetime before the expiry.
    #[arg(long)]
    rotate: bool,
    /// Rotate, and make the next key so many days before the expiry.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    creation_buffer_days: Option<i32>,
    /// Rotate, and have the next key sign so many days before the expiry.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    activation_buffer_days: Option<i32>,
    /// Label. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Name of this request: repeated with the same settings within a day, it gets the same key pair.
    #[arg(long)]
    request_id: Option<String>,
    /// Check the request, and show what is known before the key exists; make nothing.
    #[arg(long)]
    validate_only: bool,
}

impl Generate {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let request = self.request();
        let message = message(&request);
        let mut client = context.connection.open().await?.key_pairs();
        let call = client.generate_signing_key_pair(context.connection.request(request));
        let answer = progress::spin(context.output, message, call)
            .await?
            .into_inner();
        match context.output.form() {
            Form::Data => context.json("GenerateSigningKeyPairResponse", &answer),
            Form::Text => context.view(&answer.key_pair.unwrap_or_else(KeyPairView::default)),
        }
    }

    fn request(self) -> GenerateSigningKeyPairRequest {
        let rotation_settings = self.rotation_settings();
        GenerateSigningKeyPairRequest {
            settings: Some(NewKeyPairSettings {
                id: self.id,
                common_name: self.common_name,
                organization: self.organization,
                organization_unit: self.organization_unit,
                city: self.city,
                state: self.state,
                country: self.country,
                subject_alternative_names: self.subject_alternative_names,
                valid_days: self.valid_days,
                key_algorithm: self.key_algorithm,
                key_size: self.key_size,
                signature_algorithm: self.signature_algorithm,
                crypto_provider: self.crypto_provider.unwrap_or_default().into(),
                rotation_settings,
                labels: self.labels.into_iter().collect(),
            }),
            request_id: self.request_id.unwrap_or_default(),
            validate_only: self.validate_only,
        }
    }
}

impl Generate {
    fn rotation_settings(&self) -> Option<KeyPairRotationSettings> {
        let (creation, activation) = (self.creation_buffer_days, self.activation_buffer_days);
        if !self.rotate && creation.is_none() && activation.is_none() {
            return None;
        }
        let proposed = proposal(self.valid_days);
        Some(KeyPairRotationSettings {
            creation_buffer_days: creation.unwrap_or(proposed.creation_buffer_days),
            activation_buffer_days: activation.unwrap_or(proposed.activation_buffer_days),
            ..proposed
        })
    }
}

/// Says what is waited for.
fn message(request: &GenerateSigningKeyPairRequest) -> String {
    let settings = request.settings.clone().unwrap_or_default();
    let size = settings
        .key_size
        .map(|size| format!("-{size}"))
        .unwrap_or_default();
    let place = match settings.crypto_provider() {
        CryptoProvider::Unspecified => String::new(),
        provider => format!(" in {}", provider.as_str_name()),
    };
    format!(
        "generating a key pair, {}{size}{place}",
        settings.key_algorithm
    )
}

/// Reads a label.
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

const EXAMPLES: &str = "\
Examples:
  A P-256 key in the HSM, for a year:
    keypairctl generate --id payments --common-name Payments \\
      --organization Acme --country US --valid-days 1y --key-algorithm EC \\
      --crypto-provider HSM
  An RSA key in software, with names:
    keypairctl generate --common-name api.example.com --organization Acme \\
      --country US --valid-days 90 --key-algorithm RSA --key-size 3072 \\
      --san api.example.com --san 192.0.2.1 --crypto-provider LOCAL
  Whether a request would be accepted:
    keypairctl generate ... --validate-only";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &str) -> GenerateSigningKeyPairRequest {
        let arguments = arguments.split(' ').filter(|argument| !argument.is_empty());
        let cli = Cli::try_parse_from(["keypairctl", "generate"].into_iter().chain(arguments));
        match cli.unwrap().command {
            Command::Generate(generate) => generate.request(),
            other => panic!("{other:?}"),
        }
    }

    const REQUIRED: &str =
        "--common-name E --organization A --country US --valid-days 1 --key-algorithm EC";

    #[test]
    fn what_is_left_out_stays_unset() {
        let request = parse(REQUIRED);
        assert_eq!(
            request.settings.unwrap(),
            NewKeyPairSettings {
                common_name: "E".into(),
                organization: "A".into(),
                country: "US".into(),
                valid_days: 1,
                key_algorithm: "EC".into(),
                ..NewKeyPairSettings::default()
            }
        );
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let request = parse(&format!(
            "{REQUIRED} --id x --organization-unit U --city L --state S --san a --san b --key-size 384 \
             --signature-algorithm SHA384withECDSA --crypto-provider hsm --label a=1 --label b=x=y \
             --request-id r --validate-only --activation-buffer-days 3 --rotate"
        ));
        assert_eq!((&*request.request_id, request.validate_only), ("r", true));
        assert_eq!(message(&request), "generating a key pair, EC-384 in HSM");
        let settings = request.settings.unwrap();
        assert_eq!(settings.id.as_deref(), Some("x"));
        assert_eq!(settings.organization_unit.as_deref(), Some("U"));
        assert_eq!(settings.city.as_deref(), Some("L"));
        assert_eq!(settings.state.as_deref(), Some("S"));
        assert_eq!(settings.subject_alternative_names, ["a", "b"]);
        assert_eq!(settings.key_size, Some(384));
        assert_eq!(
            settings.signature_algorithm.as_deref(),
            Some("SHA384withECDSA")
        );
        assert_eq!(settings.crypto_provider(), CryptoProvider::Hsm);
        assert_eq!(settings.labels["b"], "x=y");
        let rotation = settings.rotation_settings.unwrap();
        assert_eq!(rotation.activation_buffer_days, 3);
        assert_eq!(rotation.creation_buffer_days, 1);
    }
}
