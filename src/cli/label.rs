//! `keypairctl label`.

use clap::Args;
use tonic::Code;

use super::Context;
use super::error::Failure;
use super::output::Form;
use crate::proto::{GetSigningKeyPairRequest, KeyPairView, UpdateLabelsRequest};

/// Set labels of a key pair, or remove them. Others stay as they are.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Label {
    /// Identifier of the key pair.
    id: String,
    /// `KEY=VALUE` sets a label, `KEY-` removes it.
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = parse_change)]
    changes: Vec<Change>,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
}

/// A change of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Set(String, String),
    Remove(String),
}

impl Label {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let mut attempts = 0;
        let answer = loop {
            attempts += 1;
            let request = GetSigningKeyPairRequest {
                id: self.id.clone(),
            };
            let found = client.get_signing_key_pair(context.connection.request(request));
            let view = found.await?.into_inner().key_pair.unwrap_or_default();
            let request = self.request(view);
            let updated = client.update_labels(context.connection.request(request));
            match updated.await {
                Ok(answer) => break answer.into_inner(),
                // Something else of the key pair changed meanwhile, such as by its rotation.
                Err(status)
                    if status.code() == Code::Aborted
                        && self.etag.is_none()
                        && attempts < ATTEMPTS_MAX => {}
                Err(status) => return Err(status.into()),
            }
        };
        match context.output.form() {
            Form::Data => context.json("UpdateLabelsResponse", &answer),
            Form::Text => context.view(&answer.key_pair.unwrap_or_else(KeyPairView::default)),
        }
    }

    /// Returns the request that makes the changes to what a key pair is now.
    fn request(&self, view: KeyPairView) -> UpdateLabelsRequest {
        let mut labels = view.labels;
        for change in &self.changes {
            match change {
                Change::Set(key, value) => {
                    labels.insert(key.clone(), value.clone());
                }
                Change::Remove(key) => {
                    labels.remove(key);
                }
            }
        }
        UpdateLabelsRequest {
            id: self.id.clone(),
            labels,
            etag: self.etag.clone().unwrap_or(view.etag),
        }
    }
}

fn parse_change(text: &str) -> Result<Change, String> {
    match text.split_once('=') {
        Some((key, value)) => Ok(Change::Set(key.to_owned(), value.to_owned())),
        None => match text.strip_suffix('-') {
            Some(key) if !key.is_empty() => Ok(Change::Remove(key.to_owned())),
            _ => Err("must be KEY=VALUE, or KEY- to remove the label".to_owned()),
        },
    }
}

/// How often the labels are read and changed when the key pair changes in between.
const ATTEMPTS_MAX: u32 = 5;
const EXAMPLES: &str = "\
Examples:
  keypairctl label payments team=pay stage=prod
  keypairctl label payments stage-
  keypairctl list -l team=pay";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_a_label_or_removes_it() {
        let set = |key: &str, value: &str| Ok(Change::Set(key.into(), value.into()));
        for (text, expected) in [
            ("team=pay", set("team", "pay")),
            ("team=", set("team", "")),
            ("team=a=b", set("team", "a=b")),
            ("team=x-", set("team", "x-")),
            ("team-", Ok(Change::Remove("team".into()))),
            ("a-b-", Ok(Change::Remove("a-b".into()))),
        ] {
            assert_eq!(parse_change(text), expected, "{text}");
        }
        for bad in ["", "-", "team"] {
            assert!(parse_change(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_other_labels_stay_and_a_change_of_the_key_pair_in_between_is_noticed() {
        let label = Label {
            id: "x".into(),
            changes: vec![
                Change::Set("team".into(), "hr".into()),
                Change::Remove("stage".into()),
                Change::Remove("none".into()),
            ],
            etag: None,
        };
        let has = [("team", "pay"), ("stage", "prod"), ("app", "x")];
        let has = has.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request = label.request(KeyPairView {
            labels: has.into(),
            etag: "e".into(),
            ..KeyPairView::default()
        });
        let becomes = [("team", "hr"), ("app", "x")];
        let becomes = becomes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(request.labels, becomes.into());
        assert_eq!(request.etag, "e");
    }
}
