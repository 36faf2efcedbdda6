//! Messages of `EventService`.

use super::key_pair::{key_pair_view, shown};
use super::to_timestamp;
use crate::domain::{EventKind, EventSubject, Origin};
use crate::proto as pb;
use crate::proto::key_pair_event::Type;
use crate::service::{Told, ToldEvent, WatchRequest};

pub(in crate::grpc) fn watch_request(
    request: pb::WatchKeyPairsRequest,
    origin: Option<Origin>,
) -> WatchRequest {
    WatchRequest {
        origin,
        id: request.id,
        since: request.since,
    }
}

pub(in crate::grpc) fn watch_response(told: Told) -> pb::WatchKeyPairsResponse {
    pb::WatchKeyPairsResponse {
        resume_token: told.resume_token,
        event: told.event.map(event),
    }
}

fn event(told: ToldEvent) -> pb::KeyPairEvent {
    let (id, provider) = match &told.event.subject {
        EventSubject::KeyPair { id, .. } => (id.to_string(), None),
        EventSubject::Provider(provider) => (String::new(), Some(*provider)),
    };
    pb::KeyPairEvent {
        r#type: event_type(told.event.kind).into(),
        id,
        time: Some(to_timestamp(told.event.time)),
        key_pair: told.view.map(|view| key_pair_view(*view)),
        crypto_provider: shown(provider),
    }
}

const fn event_type(kind: EventKind) -> Type {
    match kind {
        EventKind::Created => Type::Created,
        EventKind::Imported => Type::Imported,
        EventKind::CertificateUpdated => Type::CertificateUpdated,
        EventKind::PendingCreated => Type::PendingCreated,
        EventKind::Activated => Type::Activated,
        EventKind::Expiring => Type::Expiring,
        EventKind::Expired => Type::Expired,
        EventKind::Deleted => Type::Deleted,
        EventKind::ProviderUnavailable => Type::ProviderUnavailable,
        EventKind::ProviderRecovered => Type::ProviderRecovered,
        EventKind::Updated => Type::Updated,
    }
}
