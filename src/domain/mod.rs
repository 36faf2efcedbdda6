//! The values keypaird speaks of, and their rules: identifiers, algorithms, names, settings, key pairs.
//!
//! Pure: nothing here does I/O, reads the clock or knows of tasks and threads. Every rule about what a
//! caller may ask for is here and nowhere else, so that each transport answers alike.

mod algorithm;
pub(crate) mod ber;
mod certificate;
mod chance;
pub(crate) mod contents;
mod curve_point;
mod dn;
mod event;
mod id;
mod jwk;
mod key_pair;
mod labels;
mod list;
mod origin;
pub(crate) mod pem;
mod private_key;
mod provider;
mod pss;
mod public_key;
mod rotation;
mod san;
mod schedule;
mod settings;
mod signing;
mod spki;
mod violation;

pub use algorithm::{Curve, Hash, KeyAlgorithm, KeySpec, RsaSize, SignatureAlgorithm};
pub use certificate::{Certificate, CertificateValidity, END_OF_TIME, Validity};
pub use chance::{Clock, Entropy, EntropyError};
pub use dn::{DnAttribute, DnField, Subject, SubjectSettings, dn_part};
pub use event::{Event, EventKind, EventSubject};
pub use id::{Generation, KeyPairId, KeyRef, RequestId};
pub use jwk::{Jwk, JwkKey};
pub use key_pair::{
    GenerationState, HeldKey, IssuedCertificate, KeyOrigin, KeyPair, KeyPairGeneration, SealedKey,
    TokenAttributes,
};
pub use labels::Labels;
pub use list::{ListFilter, ListOrder, ListQuery, OrderField, PageSize, PageToken};
pub use origin::{Client, ClientAddress, Origin, Peer};
pub use private_key::PrivateKey;
pub use provider::{ProviderKind, ProviderMode, ProviderPolicy};
pub use pss::{PssHash, PssOnly, PssParameters};
pub(crate) use public_key::digest_algorithm;
pub use public_key::{PublicKey, SignatureMismatch};
pub use rotation::{GenerationTemplate, RotatedFrom, Rotation, RotationSettings, SigningNow};
pub use san::SubjectAlternativeName;
pub use schedule::{DueStep, GENERATIONS_MAX, Lifecycle, RotationAction};
pub use settings::{KeyPairTemplate, NewKeyPairSettings, SettingsDigest};
pub use signing::{LARGE_LEN, SignatureEncoding, SigningInput, ecdsa_der};
pub(crate) use spki::rsa_numbers_of;
pub use violation::{Refusal, Violation, Violations};

pub use crate::printable::{is_unprintable, printable};
