//! What a caller wants a new key pair to be: as written, and as understood.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::Digest as _;
use time::Duration;

use super::{
    GenerationTemplate, KeyAlgorithm, KeyPairId, KeySpec, Labels, ProviderKind, ProviderPolicy,
    Refusal, RotatedFrom, Rotation, RotationSettings, SignatureAlgorithm, Subject,
    SubjectAlternativeName, SubjectSettings, Violations,
};

/// Settings as a caller wrote them, whatever the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewKeyPairSettings {
    /// `id`.
    pub id: Option<String>,
    /// `commonName`.
    pub common_name: String,
    /// `organization`.
    pub organization: String,
    /// `organizationUnit`.
    pub organization_unit: Option<String>,
    /// `city`.
    pub city: Option<String>,
    /// `state`.
    pub state: Option<String>,
    /// `country`.
    pub country: String,
    /// `subjectAlternativeNames`.
    pub subject_alternative_names: Vec<String>,
    /// `validDays`.
    pub valid_days: i32,
    /// `keyAlgorithm`.
    pub key_algorithm: String,
    /// `keySize`.
    pub key_size: Option<i32>,
    /// `signatureAlgorithm`.
    pub signature_algorithm: Option<String>,
    /// `cryptoProvider`.
    pub crypto_provider: Option<ProviderKind>,
    /// `rotationSettings`.
    pub rotation_settings: Option<RotationSettings>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
}

/// Settings that were checked and completed with the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairTemplate {
    /// The identifier, when the caller chose one.
    pub id: Option<KeyPairId>,
    /// The subject of the certificate.
    pub subject: Subject,
    /// The subject alternative names of the certificate.
    pub names: Vec<SubjectAlternativeName>,
    /// Key, certificate and place of the first generation.
    pub first: GenerationTemplate,
    /// What the key signs with when a request names no algorithm.
    pub signing_algorithm: SignatureAlgorithm,
    /// When and into what the key pair is rotated.
    pub rotation: Option<Rotation>,
    /// Labels.
    pub labels: Labels,
}

/// By what two requests are found to ask for the same: SHA-256 over the settings as written.
pub type SettingsDigest = [u8; 32];

impl NewKeyPairSettings {
    /// Checks all fields and returns what they mean, or everything that is wrong with them.
    ///
    /// `capable` says whether a provider can do a kind of key and signature, as refusals of fields, and is
    /// asked once these are known, whatever else is wrong.
    pub fn check(
        self,
        policy: &ProviderPolicy,
        capable: impl Fn(ProviderKind, KeySpec, &mut Violations),
    ) -> Result<KeyPairTemplate, Violations> {
        let mut violations = Violations::new();
        let v = &mut violations;

        let id = self
            .id
            .map(|id| v.check("id", KeyPairId::parse(&id)))
            .unwrap_or_default();
        let subject = SubjectSettings {
            common_name: self.common_name,
            organization: self.organization,
            organization_unit: self.organization_unit,
            city: self.city,
            state: self.state,
            country: self.country,
        };
        let subject = subject.check("", v);
        let names = SubjectAlternativeName::parse_all(&self.subject_alternative_names, v);
        let valid_days = v.check("validDays", valid_days(self.valid_days));
        let algorithm = required(v, "keyAlgorithm", &self.key_algorithm, KeyAlgorithm::parse);
        let spec = algorithm.and_then(|algorithm| match self.key_size {
            None => Some(algorithm.default_spec()),
            Some(bits) => v.check("keySize", algorithm.spec(bits)),
        });
        let is_asked = self.signature_algorithm.is_some();
        let signature_algorithm = algorithm.and_then(|algorithm| match self.signature_algorithm {
            None => Some(algorithm.default_signature_algorithm()),
            Some(name) => v.check("signatureAlgorithm", algorithm.signature_algorithm(&name)),
        });
        let provider = v.check("cryptoProvider", policy.resolve(self.crypto_provider));
        if let (Some(provider), Some(spec)) = (provider, spec) {
            capable(provider, spec, v);
        }
        let first = provider
            .zip(spec)
            .zip(signature_algorithm)
            .zip(valid_days)
            .map(
                |(((provider, spec), signature_algorithm), valid_days)| GenerationTemplate {
                    spec,
                    signature_algorithm,
                    valid_days,
                    provider,
                },
            );
        let rotation = self.rotation_settings.map(|settings| {
            let checked = match &first {
                Some(first) => settings.check(&RotatedFrom::template(first), policy, &capable),
                // What depends on the rest of the settings is looked at when these are right.
                None => Err(settings.certainly_wrong(LIFETIME_MAX)),
            };
            checked.map_err(|found| v.extend_under("rotationSettings.", found))
        });
        let labels = Labels::check(self.labels, v);
        // The owner's default of certificates has one hash for all curves; JWS does not.
        let signing_algorithm = match is_asked {
            true => signature_algorithm,
            false => spec.map(KeySpec::default_signing_algorithm),
        };

        // Every part is there exactly when nothing was refused.
        let complete = || {
            Some(KeyPairTemplate {
                id,
                subject: subject?,
                names,
                first: first?,
                signing_algorithm: signing_algorithm?,
                rotation: rotation.transpose().ok()?,
                labels,
            })
        };
        match complete() {
            Some(template) if violations.is_empty() => Ok(template),
            _ => Err(violations),
        }
    }

    /// Says of a key that is there already what settings would say of it, as far as they leave it open.
    pub fn for_key(mut self, spec: KeySpec, id: Option<String>) -> Self {
        if self.key_algorithm.is_empty() {
            spec.algorithm().name().clone_into(&mut self.key_algorithm);
            self.key_size.get_or_insert(spec.bits());
        }
        self.id = id.or(self.id);
        self
    }

    /// Returns the digest by which a repeated request is told from a different one.
    pub fn digest(&self) -> SettingsDigest {
        // A struct of texts, numbers and a sorted map always has a JSON form.
        let canonical = serde_json::to_vec(self).unwrap_or_default();
        sha2::Sha256::digest(canonical).into()
    }
}

/// Checks a field that must be there.
fn required<T>(
    violations: &mut Violations,
    field: &'static str,
    value: &str,
    check: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Option<T> {
    let checked = check(value).map_err(|refusal| match value.is_empty() {
        true => Refusal::new(format!("is required; {refusal}")),
        false => refusal,
    });
    violations.check(field, checked)
}

pub(super) fn valid_days(days: i32) -> Result<u16, Refusal> {
    u16::try_from(days)
        .ok()
        .filter(|days| (1..=VALID_DAYS_MAX).contains(days))
        .ok_or_else(|| Refusal::new(format!("must be 1 to {VALID_DAYS_MAX}")))
}

/// About a hundred years.
pub(super) const VALID_DAYS_MAX: u16 = 36_500;
const LIFETIME_MAX: Duration = Duration::days(36_500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Curve, Hash, ProviderMode, RsaSize};

    const HYBRID: ProviderPolicy = ProviderPolicy {
        mode: ProviderMode::Hybrid,
        default: ProviderKind::Hsm,
    };

    fn settings() -> NewKeyPairSettings {
        NewKeyPairSettings {
            common_name: "Example".into(),
            organization: "Acme".into(),
            country: "US".into(),
            valid_days: 365,
            key_algorithm: "RSA".into(),
            ..NewKeyPairSettings::default()
        }
    }

    fn check(settings: NewKeyPairSettings) -> Result<KeyPairTemplate, Vec<(String, String)>> {
        settings.check(&HYBRID, |_, _, _| {}).map_err(|violations| {
            violations
                .iter()
                .map(|v| (v.field.to_string(), v.refusal.to_string()))
                .collect()
        })
    }

    fn refused_fields(settings: NewKeyPairSettings) -> Vec<String> {
        let refused = check(settings).unwrap_err();
        refused.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn a_key_signs_with_what_was_asked_for_or_with_the_hash_of_its_curve() {
        for (algorithm, size, asked, certificate, signing) in [
            ("RSA", 4096, None, "SHA256withRSA", "SHA256withRSA"),
            (
                "RSA",
                2048,
                Some("SHA512withRSA"),
                "SHA512withRSA",
                "SHA512withRSA",
            ),
            ("EC", 256, None, "SHA256withECDSA", "SHA256withECDSA"),
            ("EC", 384, None, "SHA256withECDSA", "SHA384withECDSA"),
            ("EC", 521, None, "SHA256withECDSA", "SHA512withECDSA"),
            (
                "EC",
                384,
                Some("SHA256withECDSA"),
                "SHA256withECDSA",
                "SHA256withECDSA",
            ),
            (
                "EC",
                521,
                Some("SHA384withECDSA"),
                "SHA384withECDSA",
                "SHA384withECDSA",
            ),
            ("ED25519", 255, None, "Ed25519", "Ed25519"),
        ] {
            let template = check(NewKeyPairSettings {
                key_algorithm: algorithm.into(),
                key_size: Some(size),
                signature_algorithm: asked.map(String::from),
                ..settings()
            });
            let template = template.unwrap();
            let of_certificate = template.first.signature_algorithm;
            assert_eq!(of_certificate.name(), certificate, "{algorithm} {size}");
            assert_eq!(
                template.signing_algorithm.name(),
                signing,
                "{algorithm} {size}"
            );
        }
    }

    #[test]
    fn what_is_left_out_gets_the_defaults() {
        let template = check(settings()).unwrap();
        assert_eq!(template.id, None);
        assert_eq!(template.first.spec, KeySpec::Rsa(RsaSize::Bits2048));
        assert_eq!(
            template.first.signature_algorithm,
            SignatureAlgorithm::RsaPkcs1(Hash::Sha256)
        );
        assert_eq!(template.first.provider, ProviderKind::Hsm);

        let template = check(NewKeyPairSettings {
            key_algorithm: "EC".into(),
            key_size: Some(521),
            ..settings()
        })
        .unwrap();
        assert_eq!(template.first.spec, KeySpec::Ec(Curve::P521));
        assert_eq!(
            template.first.signature_algorithm,
            SignatureAlgorithm::Ecdsa(Hash::Sha256)
        );
    }

    #[test]
    fn all_that_is_wrong_is_reported_at_once() {
        let wrong = NewKeyPairSettings {
            id: Some("Not An Id".into()),
            common_name: "x".repeat(65),
            organization: String::new(),
            organization_unit: Some(String::new()),
            city: Some("x".repeat(129)),
            state: Some("\0".into()),
            country: "USA".into(),
            subject_alternative_names: vec!["ok.example".into(), "not ok".into()],
            valid_days: 0,
            key_algorithm: "EC".into(),
            key_size: Some(255),
            signature_algorithm: Some("SHA256withRSA".into()),
            crypto_provider: None,
            rotation_settings: Some(RotationSettings::default()),
            labels: BTreeMap::from([("Bad Key".into(), String::new())]),
        };
        let refused = check(wrong).unwrap_err();
        let expected = [
            (
                "id",
                "\"Not An Id\" must consist of lower-case letters, digits, '.', '_' and '-'",
            ),
            ("commonName", "must have at most 64 characters, and has 65"),
            (
                "organization",
                "is required; must have 1 to 64 characters that are not all blank",
            ),
            (
                "organizationUnit",
                "must have 1 to 64 characters that are not all blank; leave it out when there is none",
            ),
            ("city", "must have at most 128 characters, and has 129"),
            ("state", "must not contain control characters"),
            ("country", "must be two letters, a country code of ISO 3166"),
            (
                "subjectAlternativeNames[1]",
                "\"not ok\" is not a DNS name, IP address, e-mail address or URI (the labels of a host name are 1 to 63 letters, digits and inner hyphens); a prefix DNS:, IP:, email: or URI: names the kind",
            ),
            ("validDays", "must be 1 to 36500"),
            ("keySize", "must be 256, 384 or 521 for EC"),
            (
                "signatureAlgorithm",
                "must be SHA256withECDSA, SHA384withECDSA or SHA512withECDSA for EC",
            ),
            (
                "rotationSettings.creationBufferDays",
                "must be 1 to 36499: less than the lifetimes in days of this certificate and the next",
            ),
            (
                "rotationSettings.activationBufferDays",
                "must be 1 to 36499: less than the lifetimes in days of this certificate and the next",
            ),
            (
                "labels",
                "\"Bad Key\" is no label key; must be 1 to 63 of lower-case letters, digits, '.', '_', '-' and '/'",
            ),
        ];
        let refused: Vec<_> = refused
            .iter()
            .map(|(field, message)| (field.as_str(), message.as_str()))
            .collect();
        assert_eq!(refused, expected);
    }

    #[test]
    fn an_empty_request_names_every_required_field() {
        assert_eq!(
            refused_fields(NewKeyPairSettings::default()),
            [
                "commonName",
                "organization",
                "country",
                "validDays",
                "keyAlgorithm"
            ]
        );
    }

    #[test]
    fn valid_days_are_bounded() {
        let with_days = |valid_days| NewKeyPairSettings {
            valid_days,
            ..settings()
        };
        for days in [1, 36_500] {
            assert_eq!(
                i32::from(check(with_days(days)).unwrap().first.valid_days),
                days
            );
        }
        for days in [i32::MIN, -1, 0, 36_501, 65_537, i32::MAX] {
            assert_eq!(refused_fields(with_days(days)), ["validDays"], "{days}");
        }
    }

    #[test]
    fn every_pair_of_curve_and_hash_is_accepted() {
        for key_size in [256, 384, 521] {
            for hash in ["SHA256", "SHA384", "SHA512"] {
                let template = check(NewKeyPairSettings {
                    key_algorithm: "EC".into(),
                    key_size: Some(key_size),
                    signature_algorithm: Some(format!("{hash}withECDSA")),
                    ..settings()
                });
                assert!(template.is_ok(), "{key_size} {hash}");
            }
        }
    }

    #[test]
    fn what_the_provider_lacks_is_reported_with_the_rest() {
        let violations = NewKeyPairSettings {
            country: String::new(),
            ..settings()
        }
        .check(&HYBRID, |provider, spec, violations| {
            violations.add("keySize", Refusal::new(format!("{provider} lacks {spec}")));
        })
        .unwrap_err();
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_ref()).collect();
        assert_eq!(fields, ["country", "keySize"]);
    }

    #[test]
    fn the_digest_tells_different_settings_apart() {
        let other = NewKeyPairSettings {
            valid_days: 366,
            ..settings()
        };
        assert_eq!(settings().digest(), settings().digest());
        assert_ne!(settings().digest(), other.digest());
    }
}
