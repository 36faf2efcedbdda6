//! `keypairctl watch`.

use std::time::Duration;

use clap::Args;
use tonic::Code;

use super::Context;
use super::error::Failure;
use super::output::{Output, labels, time};
use super::printable::printable;
use crate::proto::key_pair_event::Type;
use crate::proto::{CryptoProvider, KeyPairEvent, WatchKeyPairsRequest, WatchKeyPairsResponse};

/// Show what happens to key pairs, as it happens.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Watch {
    /// Only what happens to this key pair.
    id: Option<String>,
    /// Begin after this resume token, as an earlier `watch` showed it.
    #[arg(long)]
    since: Option<String>,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
}

impl Watch {
    /// Watches until it is told to end, and comes back to a daemon that was away.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut request = WatchKeyPairsRequest {
            id: self.id.unwrap_or_default(),
            since: self.since.unwrap_or_default(),
        };
        let mut left = self.count;
        let mut begun = false;
        loop {
            let ended = follow(context, &mut request, &mut left, &mut begun).await;
            match ended {
                Err(failure) if begun && is_away(&failure) => tokio::time::sleep(RETRY).await,
                // The daemon closed the connection.
                Ok(()) if left != Some(0) => tokio::time::sleep(RETRY).await,
                ended => return ended,
            }
        }
    }
}

/// Shows the events of one connection, and moves the request on with each.
async fn follow(
    context: &mut Context<'_>,
    request: &mut WatchKeyPairsRequest,
    left: &mut Option<u64>,
    begun: &mut bool,
) -> Result<(), Failure> {
    let mut client = context.connection.open().await?.events();
    let answer = client.watch_key_pairs(request.clone()).await?;
    let mut responses = answer.into_inner();
    while *left != Some(0)
        && let Some(response) = responses.message().await?
    {
        *begun = true;
        request.since.clone_from(&response.resume_token);
        if show(context, &response)? {
            *left = left.map(|left| left - 1);
        }
        context.out.flush()?;
    }
    Ok(())
}

/// Shows a response, and tells whether it was an event.
fn show(context: &mut Context<'_>, response: &WatchKeyPairsResponse) -> Result<bool, Failure> {
    let Some(event) = &response.event else {
        return Ok(false);
    };
    match context.output {
        Output::Json => context.json("WatchKeyPairsResponse", response)?,
        Output::Table => {
            let kind = event.r#type().as_str_name();
            let when = time(event.time);
            let (token, what) = (&response.resume_token, what(event));
            let shown = printable(&format!("{what}  ({token})"));
            writeln!(context.out, "{when}  {kind:20}  {shown}")?;
        }
    }
    Ok(true)
}

/// Says what an event is about.
fn what(event: &KeyPairEvent) -> String {
    let view = event.key_pair.clone().unwrap_or_default();
    let id = &event.id;
    match event.r#type() {
        Type::Unspecified => String::new(),
        Type::Created | Type::Imported | Type::CertificateUpdated => {
            format!("{id}, {}, until {}", view.subject_dn, time(view.expires))
        }
        Type::PendingCreated => {
            let pending = view.pending.unwrap_or_default();
            let begins = match pending.activate_time {
                Some(_) => format!("signs from {}", time(pending.activate_time)),
                None => "signs when told to".to_owned(),
            };
            format!("{id}, generation {}, {begins}", pending.number)
        }
        Type::Activated => format!("{id}, generation {} signs", view.generation),
        Type::Expiring | Type::Expired => format!("{id}, at {}", time(view.expires)),
        Type::Deleted => id.clone(),
        Type::Updated => match (&*labels(&view), view.rotation_settings.is_some()) {
            ("", false) => id.clone(),
            ("", true) => format!("{id}, rotates"),
            (labels, false) => format!("{id}, {labels}"),
            (labels, true) => format!("{id}, {labels}, rotates"),
        },
        Type::ProviderUnavailable | Type::ProviderRecovered => match event.crypto_provider() {
            CryptoProvider::Unspecified => String::new(),
            provider => provider.as_str_name().to_owned(),
        },
    }
}

fn is_away(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(status) => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        Failure::Connect { .. } => true,
        _ => false,
    }
}

const RETRY: Duration = Duration::from_secs(1);
const EXAMPLES: &str = "\
Examples:
  keypairctl watch
  keypairctl watch payments --since e1042-8a6f0f3f9f0a4c1d9d6a5f0c2b7e4d31
  keypairctl watch --output json | jq -c 'select(.event.type == \"EXPIRING\") | .event.id'";
