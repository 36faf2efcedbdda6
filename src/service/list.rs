//! Lists key pairs.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::share::Turn;
use super::{KeyPairView, Service, ServiceError};
use crate::domain::{
    CertificateValidity, KeyAlgorithm, Labels, ListFilter, ListOrder, ListQuery, Origin, PageSize,
    PageToken, ProviderKind, ProviderMode, Violations,
};

/// A list as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// From where the call came.
    pub origin: Option<Origin>,
    /// After how many bytes the page ends at the latest; 0 for the most.
    pub bytes_max: usize,
    /// `pageSize`.
    pub page_size: i32,
    /// `pageToken`; empty for the first page.
    pub page_token: String,
    /// How many key pairs to pass over, for pages that are told by their number.
    pub skip: u32,
    /// `orderBy`; empty for the default.
    pub order_by: String,
    /// `filter.cryptoProvider`.
    pub crypto_provider: Option<ProviderKind>,
    /// `filter.keyAlgorithm`; empty for all.
    pub key_algorithm: String,
    /// `filter.status`.
    pub status: Option<CertificateValidity>,
    /// `filter.expiresBefore`.
    pub expires_before: Option<OffsetDateTime>,
    /// `filter.query`; empty for all.
    pub query: String,
    /// `filter.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether the total is needed; otherwise it is not exact.
    pub with_total: bool,
    /// Whether the views name the other key pairs that have the same key.
    pub with_shared_keys: bool,
}

/// One page of a list. As long as it is there, only few others are.
#[derive(Debug)]
pub struct KeyPairPage {
    /// The key pairs.
    pub key_pairs: Vec<KeyPairView>,
    /// The token of the next page; empty after the last.
    pub next_page_token: String,
    /// How many key pairs there are over all pages, where that was asked for. Elsewhere it is not
    /// exact.
    pub total_size: u64,
    _turn: Turn,
}

impl Service {
    /// Returns one page of key pairs: as many as were asked for, or fewer when they are large. The
    /// token is not asked.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`].
    pub async fn list(&self, request: ListRequest) -> Result<KeyPairPage, ServiceError> {
        let query = self.list_query(&request).map_err(ServiceError::Invalid)?;
        let (filter, order) = (query.filter.clone(), query.order);
        let turn = self.lists.turn(request.origin).await;
        let page = self.store.list(query, self.clock.now()).await?;
        let mut sharers = page.sharers.into_iter();
        Ok(KeyPairPage {
            key_pairs: page
                .key_pairs
                .into_iter()
                .map(|pair| KeyPairView {
                    also_key_pair_ids: sharers.next().unwrap_or_default(),
                    ..self.view(pair)
                })
                .collect(),
            next_page_token: page
                .next
                .map(|token| token.encode(&filter, order))
                .unwrap_or_default(),
            total_size: page.total,
            _turn: turn,
        })
    }

    /// Reads what a caller asked for.
    pub(super) fn list_query(&self, request: &ListRequest) -> Result<ListQuery, Violations> {
        let mut violations = Violations::new();
        let mut of_labels = Violations::new();
        let labels = Labels::check(request.labels.clone(), &mut of_labels);
        violations.extend_under("filter.", of_labels);
        let v = &mut violations;
        let policy = self.registry.policy();
        let asked = v.check(
            "filter.cryptoProvider",
            policy.narrow(request.crypto_provider),
        );
        let algorithm = match request.key_algorithm.as_str() {
            "" => None,
            name => v.check("filter.keyAlgorithm", KeyAlgorithm::parse(name)),
        };
        let text = v.check("filter.query", ListFilter::check_text(&request.query));
        let filter = ListFilter {
            // What is off in this mode is not listed, since it cannot be got either.
            provider: match policy.mode {
                ProviderMode::Local => Some(ProviderKind::Local),
                ProviderMode::Hsm => Some(ProviderKind::Hsm),
                ProviderMode::Hybrid => asked.flatten(),
            },
            algorithm,
            status: request.status,
            expires_before: request.expires_before,
            text: text.flatten(),
            labels,
        };
        let page_size = v.check("pageSize", PageSize::parse(request.page_size));
        let order = v.check("orderBy", ListOrder::parse(&request.order_by));
        let after = match (&*request.page_token, order) {
            ("", _) | (_, None) => None,
            (token, Some(order)) => v.check("pageToken", PageToken::parse(token, &filter, order)),
        };
        match (page_size, order) {
            (Some(page_size), Some(order)) if violations.is_empty() => Ok(ListQuery {
                filter,
                order,
                page_size: match request.bytes_max {
                    0 => page_size,
                    bytes => page_size.within(bytes),
                },
                after,
                skip: request.skip,
                with_total: request.with_total,
                with_sharers: request.with_shared_keys,
            }),
            _ => Err(violations),
        }
    }
}
