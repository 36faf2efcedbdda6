//! Which key pairs to list, in what order, and from where on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest as _;
use time::OffsetDateTime;

use super::{CertificateValidity, KeyAlgorithm, Labels, ProviderKind, Refusal};

/// One page of a list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which key pairs.
    pub filter: ListFilter,
    /// In what order.
    pub order: ListOrder,
    /// How many at most.
    pub page_size: PageSize,
    /// After which one, when it is not the first page.
    pub after: Option<PageToken>,
    /// How many to pass over, for pages that are told by their number.
    pub skip: u32,
    /// Whether the total is needed. To count what contains a text takes a look at every key pair.
    pub with_total: bool,
    /// Whether the others are needed that have a key of one of the page too.
    pub with_sharers: bool,
}

/// Conditions that listed key pairs meet, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Their private key lives in this provider.
    pub provider: Option<ProviderKind>,
    /// They are of this algorithm.
    pub algorithm: Option<KeyAlgorithm>,
    /// Their certificate has this status now.
    pub status: Option<CertificateValidity>,
    /// Their certificate expires before this time.
    pub expires_before: Option<OffsetDateTime>,
    /// Their id or subject contains this text, letters of either case.
    pub text: Option<String>,
    /// They have these labels, all of them with these values.
    pub labels: Labels,
}

impl ListFilter {
    /// Checks the text to search for.
    pub fn check_text(text: &str) -> Result<Option<String>, Refusal> {
        if text.chars().count() > TEXT_LEN_MAX {
            return Err(Refusal::new(format!(
                "must have at most {TEXT_LEN_MAX} characters"
            )));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }
}

/// The order of a list. Key pairs alike in the field follow in the order of their making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListOrder {
    /// By what.
    pub field: OrderField,
    /// Whether the greatest come first.
    pub descending: bool,
}

/// What a list can be ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrderField {
    /// The time of making.
    #[default]
    CreateTime,
    /// The identifier.
    Id,
    /// The certificate's notAfter.
    Expires,
    /// The certificate's subject as it is shown.
    SubjectDn,
}

impl ListOrder {
    /// Reads an `orderBy` (AIP-132): a field, and ` desc` behind it for the reverse.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut words = text.split_whitespace();
        let field = match words.next() {
            None => return Ok(Self::default()),
            Some("create_time" | "createTime") => OrderField::CreateTime,
            Some("id") => OrderField::Id,
            Some("expires") => OrderField::Expires,
            Some("subject_dn" | "subjectDN") => OrderField::SubjectDn,
            Some(_) => return Err(Refusal::new(ORDERS)),
        };
        let descending = match (words.next(), words.next()) {
            (None, _) => false,
            (Some("desc"), None) => true,
            _ => return Err(Refusal::new(ORDERS)),
        };
        Ok(Self { field, descending })
    }
}

/// Where a page ends: after 1 to 1000 key pairs, or after a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    key_pairs: u16,
    bytes_max: usize,
}

impl PageSize {
    /// Reads a `pageSize` (AIP-158): 0 means 50, and more than 1000 means 1000.
    pub fn parse(asked: i32) -> Result<Self, Refusal> {
        let key_pairs = match u32::try_from(asked) {
            Err(_) => return Err(Refusal::new("must not be negative; 0 means 50")),
            Ok(0) => 50,
            Ok(asked) => u16::try_from(asked).unwrap_or(u16::MAX).min(1000),
        };
        Ok(Self {
            key_pairs,
            bytes_max: PAGE_BYTES_MAX,
        })
    }

    /// Ends the page after fewer bytes.
    #[must_use]
    pub fn within(self, bytes: usize) -> Self {
        Self {
            bytes_max: self.bytes_max.min(bytes),
            ..self
        }
    }

    /// Returns the number of key pairs.
    pub const fn get(self) -> u16 {
        self.key_pairs
    }

    /// Returns how many bytes the key pairs of a page may have, by
    /// [`super::KeyPair::size_estimate`]. One key pair may have more, and is then alone.
    pub const fn bytes_max(self) -> usize {
        self.bytes_max
    }
}

/// Where a page ended: the place of its last key pair in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// Its number in the order of making.
    pub sequence: i64,
    /// Its value of the field the list is ordered by: text, or a number in decimal digits.
    pub value: String,
}

impl PageToken {
    /// Writes the token for a list of these conditions and this order.
    pub fn encode(&self, filter: &ListFilter, order: ListOrder) -> String {
        let mut bytes = list_digest(filter, order).to_vec();
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(self.value.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token back, for a list of the same conditions and order.
    pub fn parse(text: &str, filter: &ListFilter, order: ListOrder) -> Result<Self, Refusal> {
        let decode = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (digest, rest) = bytes.split_first_chunk::<8>()?;
            let (sequence, value) = rest.split_first_chunk::<8>()?;
            (*digest == list_digest(filter, order)).then_some(())?;
            Some(Self {
                sequence: i64::from_be_bytes(*sequence),
                value: String::from_utf8(value.to_vec()).ok()?,
            })
        };
        decode().ok_or_else(|| {
            Refusal::new(
                "is no token of this list; take it unchanged from the page before, and repeat that page's filter and order",
            )
        })
    }
}

/// Tells one list from another, so that a token is not taken from one to the other.
fn list_digest(filter: &ListFilter, order: ListOrder) -> [u8; 8] {
    let digest = sha2::Sha256::digest(format!("{filter:?} {order:?}"));
    std::array::from_fn(|index| digest.get(index).copied().unwrap_or_default())
}

const ORDERS: &str =
    "must be create_time, id, expires or subject_dn, with ' desc' behind it for the reverse";
/// Within the 4 MiB that clients of gRPC take by default.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
const TEXT_LEN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_sizes_have_a_default_and_a_limit() {
        for (asked, size) in [
            (0, 50),
            (1, 1),
            (1000, 1000),
            (1001, 1000),
            (i32::MAX, 1000),
        ] {
            assert_eq!(PageSize::parse(asked).unwrap().get(), size, "{asked}");
        }
        assert!(PageSize::parse(-1).is_err());
    }

    #[test]
    fn orders_are_a_field_and_a_direction() {
        let order = |field, descending| Ok(ListOrder { field, descending });
        for (text, expected) in [
            ("", order(OrderField::CreateTime, false)),
            ("create_time desc", order(OrderField::CreateTime, true)),
            ("createTime", order(OrderField::CreateTime, false)),
            ("id", order(OrderField::Id, false)),
            (" expires  desc ", order(OrderField::Expires, true)),
            ("subjectDN", order(OrderField::SubjectDn, false)),
        ] {
            assert_eq!(ListOrder::parse(text), expected, "{text:?}");
        }
        for bad in ["name", "id asc", "id desc desc", "id,expires", "desc"] {
            assert!(ListOrder::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_page_token_comes_back_as_it_was(sequence: i64, value: String) {
            let token = PageToken { sequence, value };
            let filter = ListFilter::default();
            let text = token.encode(&filter, ListOrder::default());
            prop_assert_eq!(PageToken::parse(&text, &filter, ListOrder::default()), Ok(token));
        }

        #[test]
        fn what_is_no_page_token_is_refused(text: String) {
            let parsed = PageToken::parse(&text, &ListFilter::default(), ListOrder::default());
            prop_assert!(parsed.is_err());
        }
    }

    #[test]
    fn a_page_token_of_another_list_is_refused() {
        let token = PageToken {
            sequence: 7,
            value: String::new(),
        };
        let text = token.encode(&ListFilter::default(), ListOrder::default());
        let other = ListFilter {
            provider: Some(ProviderKind::Hsm),
            ..ListFilter::default()
        };
        assert!(PageToken::parse(&text, &other, ListOrder::default()).is_err());
        let by_id = ListOrder {
            field: OrderField::Id,
            descending: false,
        };
        assert!(PageToken::parse(&text, &ListFilter::default(), by_id).is_err());
    }
}
