//! The owner's models: what REST bodies look like, field by field.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use utoipa::{IntoParams, ToSchema};

use super::request::{Names, Object, Whole};
use crate::domain::{self, CertificateValidity, KeySpec};
use crate::service::{AvailableAlgorithm, KeyPairView as View};

/// Where a private key lives. Applicable in hybrid mode only.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum CryptoProvider {
    /// In software.
    Local,
    /// On the PKCS#11 token.
    Hsm,
}

impl From<CryptoProvider> for domain::ProviderKind {
    fn from(provider: CryptoProvider) -> Self {
        match provider {
            CryptoProvider::Local => Self::Local,
            CryptoProvider::Hsm => Self::Hsm,
        }
    }
}

impl From<domain::ProviderKind> for CryptoProvider {
    fn from(kind: domain::ProviderKind) -> Self {
        match kind {
            domain::ProviderKind::Local => Self::Local,
            domain::ProviderKind::Hsm => Self::Hsm,
        }
    }
}

/// Whether a certificate can be relied on now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Status {
    /// Within its validity.
    Valid,
    /// Past its end.
    Expired,
    /// Before its beginning.
    NotYetValid,
    /// Revoked by its issuer.
    Revoked,
}

/// A key pair to be generated. What is wrong with it is answered with 422, field by field.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"id": "payments", "commonName": "Payments",
    "organization": "Acme", "country": "US", "validDays": 365, "keyAlgorithm": "EC",
    "subjectAlternativeNames": ["payments.example.com"]}))]
pub(super) struct NewKeyPairSettings {
    /// Identifier; made by keypaird when absent.
    #[schema(pattern = "^[a-z0-9._-]{1,64}$")]
    id: Option<String>,
    /// CN.
    #[serde(default)]
    #[schema(required = true, min_length = 1, max_length = 64)]
    common_name: String,
    /// DNS names, IP addresses, e-mail addresses and URIs.
    #[schema(value_type = Option<Vec<String>>)]
    subject_alternative_names: Option<Names>,
    /// O.
    #[serde(default)]
    #[schema(required = true, min_length = 1, max_length = 64)]
    organization: String,
    /// OU.
    #[schema(min_length = 1, max_length = 64)]
    organization_unit: Option<String>,
    /// L.
    #[schema(min_length = 1, max_length = 128)]
    city: Option<String>,
    /// ST.
    #[schema(min_length = 1, max_length = 128)]
    state: Option<String>,
    /// C, two letters.
    #[serde(default)]
    #[schema(required = true, pattern = "^[A-Za-z]{2}$")]
    country: String,
    /// Days until the certificate expires.
    #[serde(default)]
    #[schema(value_type = i32, required = true, minimum = 1, maximum = 36500)]
    valid_days: Whole,
    /// `RSA`, `EC` or `ED25519`.
    #[serde(default)]
    #[schema(required = true, pattern = "^(RSA|EC|ED25519)$")]
    key_algorithm: String,
    /// Bits; the algorithm's default when absent.
    #[schema(value_type = Option<i32>)]
    key_size: Option<Whole>,
    /// Of the certificate; the algorithm's default when absent.
    signature_algorithm: Option<String>,
    /// Where the key shall live; `crypto.default_provider` when absent.
    crypto_provider: Option<CryptoProvider>,
    /// When and into what the key pair is rotated; never by itself when absent.
    #[schema(value_type = Option<KeyPairRotationSettings>)]
    rotation_settings: Option<Object<KeyPairRotationSettings>>,
}

impl From<NewKeyPairSettings> for domain::NewKeyPairSettings {
    fn from(settings: NewKeyPairSettings) -> Self {
        Self {
            id: settings.id,
            common_name: settings.common_name,
            organization: settings.organization,
            organization_unit: settings.organization_unit,
            city: settings.city,
            state: settings.state,
            country: settings.country,
            subject_alternative_names: settings
                .subject_alternative_names
                .map(|Names(names)| names)
                .unwrap_or_default(),
            valid_days: settings.valid_days.0,
            key_algorithm: settings.key_algorithm,
            key_size: settings.key_size.map(|Whole(bits)| bits),
            signature_algorithm: settings.signature_algorithm,
            crypto_provider: settings.crypto_provider.map(Into::into),
            rotation_settings: settings
                .rotation_settings
                .map(|Object(rotation)| rotation.into()),
            ..Self::default()
        }
    }
}

/// When and into what a self-signed key pair is rotated. What is left out is as in the key pair, and comes back filled
/// in.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"creationBufferDays": 30, "activationBufferDays": 10,
    "keyAlgorithm": "EC", "keySize": 256, "signatureAlgorithm": "SHA256withECDSA", "validDays": 365}))]
pub(super) struct KeyPairRotationSettings {
    /// The key pair's; ignored in requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Days before the expiry at which the next key is made and published.
    #[serde(default)]
    #[schema(value_type = i32, required = true, minimum = 1)]
    creation_buffer_days: Whole,
    /// Days before the expiry at which the next key begins to sign; at most the above.
    #[serde(default)]
    #[schema(value_type = i32, required = true, minimum = 1)]
    activation_buffer_days: Whole,
    /// `RSA`, `EC` or `ED25519`.
    #[schema(pattern = "^(RSA|EC|ED25519)$")]
    key_algorithm: Option<String>,
    /// Bits.
    #[schema(value_type = Option<i32>)]
    key_size: Option<Whole>,
    /// Of the next certificate.
    signature_algorithm: Option<String>,
    /// Days from the making of the next certificate until it expires.
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 36500)]
    valid_days: Option<Whole>,
}

impl From<KeyPairRotationSettings> for domain::RotationSettings {
    fn from(settings: KeyPairRotationSettings) -> Self {
        Self {
            creation_buffer_days: settings.creation_buffer_days.0,
            activation_buffer_days: settings.activation_buffer_days.0,
            key_algorithm: settings.key_algorithm,
            key_size: settings.key_size.map(|Whole(bits)| bits),
            signature_algorithm: settings.signature_algorithm,
            valid_days: settings.valid_days.map(|Whole(days)| days),
            crypto_provider: None,
        }
    }
}

impl KeyPairRotationSettings {
    fn of(pair: &domain::KeyPair) -> Option<Self> {
        let rotation = pair.rotation.as_ref()?;
        let next = &rotation.next;
        Some(Self {
            id: Some(pair.id.to_string()),
            creation_buffer_days: Whole(rotation.creation_buffer_days.into()),
            activation_buffer_days: Whole(rotation.activation_buffer_days.into()),
            key_algorithm: Some(next.spec.algorithm().name().to_owned()),
            key_size: Some(Whole(next.spec.bits())),
            signature_algorithm: Some(next.signature_algorithm.name().to_owned()),
            valid_days: Some(Whole(next.valid_days.into())),
        })
    }
}

/// A key pair.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"id": "payments",
    "serialNumber": "235146864432115932", "subjectDN": "CN=Payments, O=Acme, C=US",
    "subjectAlternativeNames": ["payments.example.com"], "issuerDN": "CN=Payments, O=Acme, C=US",
    "validFrom": "2034-01-24T03:14:52.000Z", "expires": "2035-01-24T03:14:52.000Z",
    "keyAlgorithm": "EC", "keySize": 256, "signatureAlgorithm": "SHA256withECDSA", "version": 3,
    "sha1Fingerprint": "2FD4E1C67A2D28FCED849EE1BB76E7391B93EB12",
    "sha256Fingerprint": "D7A8FBB307D7809469CA9ABCB0082E4F8D5651E46D3CDB762D02D0BF37C9E592",
    "status": "VALID"}))]
pub(super) struct KeyPairView {
    /// Identifier.
    pub(super) id: String,
    /// Decimal digits.
    serial_number: String,
    /// The most specific part first.
    #[serde(rename = "subjectDN")]
    subject_dn: String,
    /// Always there, empty when there are none.
    subject_alternative_names: Vec<String>,
    /// Equal to the subject for a self-signed certificate.
    #[serde(rename = "issuerDN")]
    issuer_dn: String,
    /// UTC.
    #[schema(format = DateTime)]
    valid_from: String,
    /// UTC.
    #[schema(format = DateTime)]
    expires: String,
    /// `RSA`, `EC` or `ED25519`.
    key_algorithm: String,
    /// Bits.
    key_size: i32,
    /// Of the certificate.
    signature_algorithm: String,
    /// X.509 version.
    version: i32,
    /// Upper-case hexadecimal.
    sha1_fingerprint: String,
    /// Upper-case hexadecimal.
    sha256_fingerprint: String,
    /// Now.
    status: Status,
    /// In hybrid mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    crypto_provider: Option<CryptoProvider>,
    /// Where the key pair rotates by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) rotation_settings: Option<KeyPairRotationSettings>,
}

impl From<View> for KeyPairView {
    fn from(view: View) -> Self {
        let pair = view.key_pair;
        let rotation_settings = KeyPairRotationSettings::of(&pair);
        let current = pair.current;
        let spec = current.public_key.spec();
        Self {
            id: pair.id.to_string(),
            serial_number: current.serial_number,
            subject_dn: current.subject_dn,
            subject_alternative_names: current.subject_alternative_names,
            issuer_dn: current.issuer_dn,
            valid_from: time(current.validity.not_before),
            expires: time(current.validity.not_after),
            key_algorithm: spec.algorithm().name().to_owned(),
            key_size: spec.bits(),
            signature_algorithm: current.certificate_signature_algorithm,
            version: X509_VERSION,
            sha1_fingerprint: current.certificate.sha1_fingerprint(),
            sha256_fingerprint: current.certificate.sha256_fingerprint(),
            status: match view.status {
                CertificateValidity::Valid => Status::Valid,
                CertificateValidity::Expired => Status::Expired,
                CertificateValidity::NotYetValid => Status::NotYetValid,
                CertificateValidity::Revoked => Status::Revoked,
            },
            crypto_provider: view.crypto_provider.map(Into::into),
            rotation_settings,
        }
    }
}

/// Key pairs.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"items": [{"id": "payments",
    "serialNumber": "235146864432115932", "subjectDN": "CN=Payments, O=Acme, C=US",
    "subjectAlternativeNames": [], "issuerDN": "CN=Payments, O=Acme, C=US",
    "validFrom": "2034-01-24T03:14:52.000Z", "expires": "2035-01-24T03:14:52.000Z",
    "keyAlgorithm": "RSA", "keySize": 2048, "signatureAlgorithm": "SHA256withRSA", "version": 3,
    "sha1Fingerprint": "2FD4E1C67A2D28FCED849EE1BB76E7391B93EB12",
    "sha256Fingerprint": "D7A8FBB307D7809469CA9ABCB0082E4F8D5651E46D3CDB762D02D0BF37C9E592",
    "status": "VALID"}]}))]
pub(super) struct KeyPairViews {
    /// In the order of their making.
    pub(super) items: Vec<KeyPairView>,
}

/// What can be done with a kind of key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"name": "EC", "keySizes": [256, 384, 521],
    "defaultKeySize": 256, "signatureAlgorithms": ["SHA256withECDSA", "SHA384withECDSA",
    "SHA512withECDSA"], "defaultSignatureAlgorithm": "SHA256withECDSA"}))]
pub(super) struct KeyAlgorithm {
    /// `RSA`, `EC` or `ED25519`.
    name: String,
    /// Bits.
    key_sizes: Vec<i32>,
    /// Used when a request names none.
    default_key_size: i32,
    /// Of certificates.
    signature_algorithms: Vec<String>,
    /// Used when a request names none.
    default_signature_algorithm: String,
}

/// Key algorithms.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"items": [{"name": "ED25519", "keySizes": [255], "defaultKeySize": 255,
    "signatureAlgorithms": ["Ed25519"], "defaultSignatureAlgorithm": "Ed25519"}]}))]
pub(super) struct KeyAlgorithms {
    /// The union over the providers.
    pub(super) items: Vec<KeyAlgorithm>,
}

impl From<Vec<AvailableAlgorithm>> for KeyAlgorithms {
    /// Puts together what the providers can do.
    fn from(available: Vec<AvailableAlgorithm>) -> Self {
        let mut items: Vec<KeyAlgorithm> = Vec::new();
        for one in available {
            let bits = one.specs.iter().copied().map(KeySpec::bits);
            let known = items
                .iter_mut()
                .find(|known| known.name == one.algorithm.name());
            match known {
                Some(known) => {
                    known.key_sizes.extend(bits);
                    known.key_sizes.sort_unstable();
                    known.key_sizes.dedup();
                }
                None => items.push(KeyAlgorithm {
                    name: one.algorithm.name().to_owned(),
                    key_sizes: bits.collect(),
                    default_key_size: one.default_spec.bits(),
                    signature_algorithms: one
                        .signature_algorithms
                        .iter()
                        .map(|algorithm| algorithm.name().to_owned())
                        .collect(),
                    default_signature_algorithm: one.default_signature_algorithm.name().to_owned(),
                }),
            }
        }
        Self { items }
    }
}

/// The key pair that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct IdParameter {
    /// Identifier of the key pair.
    #[param(pattern = "^[a-z0-9._-]{1,64}$", example = "payments")]
    id: String,
}

/// A JWK set (RFC 7517 section 5).
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schema(example = json!({"keys": [{"kty": "OKP", "use": "sig", "alg": "EdDSA",
    "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}))]
pub(super) struct JwkSet {
    /// The keys, each with a `kid` of its own.
    keys: Vec<JsonWebKey>,
}

/// A JSON Web Key (RFC 7517). Binary values are base64url without padding. A member that the kind
/// of key does not have is absent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct JsonWebKey {
    /// `RSA`, `EC` or `OKP`.
    kty: String,
    /// `sig`.
    #[schema(rename = "use")]
    usage: String,
    /// The JWS algorithm that the key signs with. Absent where JWS has none, or where key pairs
    /// with this key sign with different ones.
    #[schema(nullable = false)]
    alg: Option<String>,
    /// SHA-256 thumbprint (RFC 7638).
    kid: String,
    /// RSA: the modulus.
    #[schema(nullable = false)]
    n: Option<String>,
    /// RSA: the public exponent.
    #[schema(nullable = false)]
    e: Option<String>,
    /// EC and OKP: `P-256`, `P-384`, `P-521` or `Ed25519`.
    #[schema(nullable = false)]
    crv: Option<String>,
    /// EC: the x coordinate. OKP: the key.
    #[schema(nullable = false)]
    x: Option<String>,
    /// EC: the y coordinate.
    #[schema(nullable = false)]
    y: Option<String>,
}

/// A PKCS#12 file (RFC 7292) with the private key, its certificate and chain.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schema(value_type = String, format = Binary)]
pub(super) struct Pkcs12File(Vec<u8>);

/// A PEM file: the encrypted private key first, then its certificate and chain.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schema(value_type = String, format = Binary)]
pub(super) struct PemFile(String);

/// A certificate in PEM.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schema(value_type = String, format = Binary)]
pub(super) struct CertificateFile(String);

/// A certificate signing request in PEM (RFC 7468 section 7).
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
#[schema(value_type = String, format = Binary)]
pub(super) struct CsrFile(String);

/// A file with a private key and its certificates.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"id": "payments", "fileData": "MIIKPgIBAzCCCfQGCSqGSIb3DQEHAaCCCeU...",
    "format": "PKCS12", "password": "a password"}))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyPairFile {
    /// Identifier; made by keypaird when absent.
    pub(super) id: Option<String>,
    /// PKCS#12 or PEM in base64, of either alphabet, or PEM as it is.
    #[serde(default)]
    #[schema(required = true, min_length = 1)]
    pub(super) file_data: String,
    /// `PKCS12` or `PEM`; found out when absent.
    pub(super) format: Option<String>,
    /// Of the file.
    pub(super) password: Option<String>,
    /// Where the key shall live; `crypto.default_provider` when absent.
    pub(super) crypto_provider: Option<CryptoProvider>,
}

/// A private key that is already on the token.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"id": "payments", "privateKeyId": "0a1b2c3d"}))]
pub(super) struct KeyPairLink {
    /// Identifier; made by keypaird when absent.
    pub(super) id: Option<String>,
    /// `CKA_ID` in hexadecimal digits, or else `CKA_LABEL`.
    #[serde(default)]
    #[schema(required = true, min_length = 1)]
    pub(super) private_key_id: String,
    /// The certificate in base64 or PEM; that on the token when absent.
    pub(super) certificate_data: Option<String>,
}

/// How a private key shall leave.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"password": "a good password"}))]
pub(super) struct KeyPairExportSettings {
    /// What the file is encrypted under.
    #[serde(default)]
    #[schema(required = true, min_length = 8)]
    pub(super) password: String,
}

/// The answer of a CA.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"fileData": "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n"}))]
pub(super) struct CsrResponse {
    /// Certificate, chain or PKCS#7: PEM, base64 of PEM, or bare base64.
    #[serde(default)]
    #[schema(required = true, min_length = 1)]
    pub(super) file_data: String,
}

/// Writes a time as clients of this API read it.
fn time(time: OffsetDateTime) -> String {
    // These parts of a time are always there.
    time.format(TIME).unwrap_or_default()
}

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const X509_VERSION: i32 = 3;
