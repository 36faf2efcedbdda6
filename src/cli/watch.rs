//! `keypairctl watch`.

use std::time::Duration;

use clap::Args;
use tonic::Code;

use super::error::Failure;
use super::output::{Form, Output, labels, time};
use super::{Context, say_aside};
use crate::printable::printable;
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

/// How a watch goes.
struct State {
    request: WatchKeyPairsRequest,
    /// How many events are still wanted, if not all.
    left: Option<u64>,
    /// Whether the daemon has answered at all.
    begun: bool,
    /// Whether it was said that the connection is lost.
    lost: bool,
}

impl Watch {
    /// Watches until it is told to end, and comes back to a daemon that was away.
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut state = State {
            request: WatchKeyPairsRequest {
                id: self.id.unwrap_or_default(),
                since: self.since.unwrap_or_default(),
            },
            left: self.count,
            begun: false,
            lost: false,
        };
        loop {
            let why = match follow(context, &mut state).await {
                Err(failure) if state.begun && is_away(&failure) => failure.sentence(),
                // The daemon closed the connection.
                Ok(()) if state.left != Some(0) => "the daemon ended it".to_owned(),
                ended => return ended,
            };
            if !state.lost {
                state.lost = true;
                say_aside(&format!(
                    "the connection is lost ({why}); trying to get it back every second"
                ));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Shows the events of one connection, and moves the request on with each.
async fn follow(context: &mut Context<'_>, state: &mut State) -> Result<(), Failure> {
    let mut client = context.connection.open().await?.events();
    let answer = client.watch_key_pairs(state.request.clone()).await?;
    let mut responses = answer.into_inner();
    while state.left != Some(0)
        && let Some(response) = responses.message().await?
    {
        if !state.begun {
            let what = match &*state.request.id {
                "" => "all key pairs".to_owned(),
                id => format!("the key pair {id}"),
            };
            let address = context.connection.target()?.address;
            say_aside(&format!("watching {what} at {address}; Ctrl-C ends it"));
        } else if state.lost {
            say_aside("connected again; what happened meanwhile follows");
        }
        state.begun = true;
        state.lost = false;
        state.request.since.clone_from(&response.resume_token);
        if show(context, &response)? {
            state.left = state.left.map(|left| left - 1);
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
    match context.output.form() {
        Form::Data => {
            if context.output == Output::Yaml {
                writeln!(context.out, "---")?;
            }
            context.json("WatchKeyPairsResponse", response)?;
        }
        Form::Text => {
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
        Failure::Connect(_) => true,
        _ => false,
    }
}

const RETRY: Duration = Duration::from_secs(1);
const EXAMPLES: &str = "\
Examples:
  keypairctl watch
  keypairctl watch payments --since e1042-8a6f0f3f9f0a4c1d9d6a5f0c2b7e4d31
  keypairctl watch -o json | jq 'select(.event.type == \"EXPIRING\").event.id'";
