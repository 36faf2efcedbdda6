//! `keypairctl rotation`.

use clap::{Args, Subcommand};

use super::Context;
use super::error::Failure;
use super::output::{Form, cell, time};
use super::retry::Retrying;
use super::values::{CERTIFICATE_ALGORITHMS, KEY_ALGORITHMS, Provider, parse_days};
use crate::proto::key_pair_service_client::KeyPairServiceClient;
use crate::proto::{
    CryptoProvider, DeleteRotationSettingsRequest, GetRotationSettingsRequest,
    GetSigningKeyPairRequest, KeyPairRotationSettings, KeyPairView, PlanRotationRequest,
    RotationAction, RotationStep, UpdateRotationSettingsRequest,
};

/// Show, change or end what rotates a key pair by itself.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Rotation {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(Get),
    Set(Set),
    Delete(Delete),
    Plan(Plan),
}

/// Show when and into what a key pair is rotated.
#[derive(Debug, Args)]
struct Get {
    /// Identifier of the key pair.
    id: String,
}

/// Say when and into what a key pair is rotated. Without buffers, 25 % and 10 % of its lifetime are proposed.
#[derive(Debug, Args)]
struct Set {
    /// Identifier of the key pair.
    id: String,
    #[command(flatten)]
    settings: Settings,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
}

#[derive(Debug, Default, PartialEq, Args)]
struct Settings {
    /// Days before the expiry at which the next key is made and published.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    creation_buffer_days: Option<i32>,
    /// Days before the expiry at which the next key begins to sign.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    activation_buffer_days: Option<i32>,
    /// Key algorithm of the next key: RSA, EC or ED25519. That of the current one when left out, as all below.
    #[arg(long, value_name = "NAME", value_parser = KEY_ALGORITHMS, hide_possible_values = true)]
    key_algorithm: Option<String>,
    /// Key size of the next key in bits.
    #[arg(long, value_name = "BITS")]
    key_size: Option<i32>,
    /// Signature algorithm of the next certificate.
    #[arg(long, value_name = "NAME", value_parser = CERTIFICATE_ALGORITHMS, hide_possible_values = true)]
    signature_algorithm: Option<String>,
    /// Days until the next certificate expires.
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    valid_days: Option<i32>,
    /// Where the next key shall live: LOCAL or HSM. For daemons in hybrid mode.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    crypto_provider: Option<CryptoProvider>,
}

/// End the rotation of a key pair. A next key that is pending stays so.
#[derive(Debug, Args)]
struct Delete {
    /// Identifier of the key pair.
    id: String,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
}

/// Show the next steps with their times, without doing them. With settings, as they would be if these were set.
#[derive(Debug, Args)]
struct Plan {
    /// Identifier of the key pair.
    id: String,
    /// How many steps.
    #[arg(long, default_value_t = 10)]
    steps: i32,
    #[command(flatten)]
    settings: Settings,
}

impl Rotation {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        match self.command {
            Command::Get(get) => get.run(context).await,
            Command::Set(set) => set.run(context).await,
            Command::Delete(delete) => delete.run(context).await,
            Command::Plan(plan) => plan.run(context).await,
        }
    }
}

impl Get {
    async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = GetRotationSettingsRequest { id: self.id };
        let request = context.connection.request(request);
        let answer = client.get_rotation_settings(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("GetRotationSettingsResponse", &answer),
            Form::Text => write(context, &answer.rotation_settings.unwrap_or_default()),
        }
    }
}

impl Set {
    async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let Self { id, settings, etag } = self;
        let settings = settings.complete(context, &mut client, &id).await?;
        let request = context.connection.request(UpdateRotationSettingsRequest {
            id,
            rotation_settings: Some(settings),
            etag: etag.unwrap_or_default(),
        });
        let answer = client.update_rotation_settings(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("UpdateRotationSettingsResponse", &answer),
            Form::Text => write(context, &answer.rotation_settings.unwrap_or_default()),
        }
    }
}

impl Delete {
    async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(DeleteRotationSettingsRequest {
            id: self.id.clone(),
            etag: self.etag.unwrap_or_default(),
        });
        let answer = client.delete_rotation_settings(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("DeleteRotationSettingsResponse", &answer),
            Form::Text => Ok(writeln!(
                context.out,
                "{} no longer rotates by itself",
                self.id
            )?),
        }
    }
}

impl Plan {
    async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let Self {
            id,
            steps,
            settings,
        } = self;
        let settings = match settings.are_given() {
            true => Some(settings.complete(context, &mut client, &id).await?),
            false => None,
        };
        let request = context.connection.request(PlanRotationRequest {
            id,
            steps,
            rotation_settings: settings,
        });
        let answer = client.plan_rotation(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("PlanRotationResponse", &answer),
            Form::Text if answer.steps.is_empty() => Ok(writeln!(
                context.out,
                "nothing: the key pair has no rotation settings"
            )?),
            Form::Text => {
                let row = |step: &RotationStep| {
                    vec![
                        cell(time(step.time)),
                        cell(step.generation),
                        cell(action(step.action())),
                    ]
                };
                let rows = answer.steps.iter().map(row).collect();
                context.table(&["TIME", "GENERATION", "WHAT"], rows)
            }
        }
    }
}

impl Settings {
    fn are_given(&self) -> bool {
        *self != Self::default()
    }

    /// Proposes the buffers that are not given.
    async fn complete(
        self,
        context: &Context<'_>,
        client: &mut KeyPairServiceClient<Retrying>,
        id: &str,
    ) -> Result<KeyPairRotationSettings, Failure> {
        let lifetime_days = match (self.creation_buffer_days, self.activation_buffer_days) {
            (Some(_), Some(_)) => 0,
            _ => {
                let request = GetSigningKeyPairRequest { id: id.to_owned() };
                let request = context.connection.request(request);
                let answer = client.get_signing_key_pair(request).await?.into_inner();
                lifetime_days(&answer.key_pair.unwrap_or_default())
            }
        };
        Ok(self.message(lifetime_days))
    }

    /// Writes the settings, with buffers for the shorter one of the lifetimes of this certificate and the next, and that go
    /// with the one that is given.
    fn message(self, lifetime_days: i32) -> KeyPairRotationSettings {
        let shorter = self.valid_days.unwrap_or(lifetime_days).min(lifetime_days);
        let proposed = proposal(shorter);
        let creation = self.creation_buffer_days.unwrap_or_else(|| {
            let least = self.activation_buffer_days.unwrap_or_default();
            proposed.creation_buffer_days.max(least)
        });
        let activation = self
            .activation_buffer_days
            .unwrap_or_else(|| proposed.activation_buffer_days.min(creation));
        KeyPairRotationSettings {
            creation_buffer_days: creation,
            activation_buffer_days: activation,
            key_algorithm: self.key_algorithm,
            key_size: self.key_size,
            signature_algorithm: self.signature_algorithm,
            valid_days: self.valid_days,
            crypto_provider: self.crypto_provider.unwrap_or_default().into(),
            ..KeyPairRotationSettings::default()
        }
    }
}

/// Returns the buffers that are proposed for a lifetime: 25 % and 10 % of it, a day at least.
pub(super) fn proposal(lifetime_days: i32) -> KeyPairRotationSettings {
    KeyPairRotationSettings {
        creation_buffer_days: (lifetime_days / 4).max(1),
        activation_buffer_days: (lifetime_days / 10).max(1),
        ..KeyPairRotationSettings::default()
    }
}

/// Says what a step does.
pub(super) const fn action(action: RotationAction) -> &'static str {
    match action {
        RotationAction::Unspecified => "",
        RotationAction::CreatePending => "is made and published",
        RotationAction::Activate => "begins to sign",
        RotationAction::Retire => "is retired, its private key destroyed",
    }
}

fn lifetime_days(view: &KeyPairView) -> i32 {
    let (Some(from), Some(to)) = (view.valid_from, view.expires) else {
        return 0;
    };
    i32::try_from((to.seconds - from.seconds) / 86_400).unwrap_or_default()
}

fn write(context: &mut Context<'_>, settings: &KeyPairRotationSettings) -> Result<(), Failure> {
    let provider = match settings.crypto_provider() {
        CryptoProvider::Unspecified => String::new(),
        provider => provider.as_str_name().to_owned(),
    };
    let days = |days: i32| format!("{days} days before the expiry");
    let algorithm = settings.key_algorithm.clone().unwrap_or_default();
    let lines = [
        ("id", settings.id.clone()),
        ("the next is made", days(settings.creation_buffer_days)),
        ("and signs", days(settings.activation_buffer_days)),
        ("its key algorithm", algorithm),
        ("its key size", settings.key_size().to_string()),
        (
            "signature algorithm",
            settings.signature_algorithm().to_owned(),
        ),
        ("validity", format!("{} days", settings.valid_days())),
        ("provider", provider),
    ];
    context.lines(lines.into_iter().filter(|(_, value)| !value.is_empty()))
}

const EXAMPLES: &str = "\
Examples:
  keypairctl rotation set payments
  keypairctl rotation set payments --creation-buffer-days 30 \\
    --activation-buffer-days 10 --valid-days 1y
  Into the HSM, at the next rotation:
    keypairctl rotation set payments --crypto-provider HSM
  keypairctl rotation plan payments --steps 6
  All of them in a calendar: keypairctl schedule";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_and_a_tenth_of_the_lifetime_are_proposed() {
        for (lifetime, creation, activation) in [(365, 91, 36), (90, 22, 9), (7, 1, 1), (2, 1, 1)] {
            let proposed = proposal(lifetime);
            assert_eq!(
                (
                    proposed.creation_buffer_days,
                    proposed.activation_buffer_days
                ),
                (creation, activation)
            );
        }
    }

    #[test]
    fn what_is_proposed_goes_with_what_is_given() {
        for (creation, activation, valid_days, expected) in [
            (None, None, None, (91, 36)),
            (None, None, Some(90), (22, 9)),
            (None, None, Some(3650), (91, 36)),
            (Some(7), None, None, (7, 7)),
            (None, Some(100), None, (100, 100)),
            (Some(200), Some(1), Some(2), (200, 1)),
        ] {
            let settings = Settings {
                creation_buffer_days: creation,
                activation_buffer_days: activation,
                valid_days,
                ..Settings::default()
            };
            let message = settings.message(365);
            let buffers = (message.creation_buffer_days, message.activation_buffer_days);
            assert_eq!(buffers, expected);
            assert_eq!(message.valid_days, valid_days);
        }
    }
}
