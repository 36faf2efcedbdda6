//! When and into what a key pair is rotated: as written, and as understood.

use serde::Serialize;
use time::Duration;

use super::settings::{VALID_DAYS_MAX, valid_days};
use super::{
    KeyAlgorithm, KeyPair, KeyPairGeneration, KeySpec, ProviderKind, ProviderPolicy, Refusal,
    SignatureAlgorithm, Violations,
};

/// Rotation settings as a caller wrote them, whatever the transport.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RotationSettings {
    /// `creationBufferDays`.
    pub creation_buffer_days: i32,
    /// `activationBufferDays`.
    pub activation_buffer_days: i32,
    /// `keyAlgorithm`.
    pub key_algorithm: Option<String>,
    /// `keySize`.
    pub key_size: Option<i32>,
    /// `signatureAlgorithm`.
    pub signature_algorithm: Option<String>,
    /// `validDays`.
    pub valid_days: Option<i32>,
    /// `cryptoProvider`.
    pub crypto_provider: Option<ProviderKind>,
}

/// Rotation settings that were checked, and completed from the key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How many days before the expiry the next generation is made and published.
    pub creation_buffer_days: u16,
    /// How many days before the expiry the next generation begins to sign. At most the above.
    pub activation_buffer_days: u16,
    /// What the next generation is.
    pub next: GenerationTemplate,
}

/// What a generation shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationTemplate {
    /// The kind of its key.
    pub spec: KeySpec,
    /// The signature algorithm of its certificate.
    pub signature_algorithm: SignatureAlgorithm,
    /// The validity of its certificate in days, 1 to 36500.
    pub valid_days: u16,
    /// Where its key shall live.
    pub provider: ProviderKind,
}

impl GenerationTemplate {
    /// Returns what the next generation signs with when a request names no algorithm: what the
    /// current one does, unless the kind of key changes, or the settings name another signature
    /// algorithm than the certificate has. Settings that were filled in from the certificate name
    /// nothing.
    pub fn signing_algorithm(&self, now: SigningNow<'_>) -> SignatureAlgorithm {
        let named = self.signature_algorithm;
        if self.spec == now.spec {
            return match named.name() == now.certificate {
                true => now.algorithm,
                false => named,
            };
        }
        match named == self.spec.algorithm().default_signature_algorithm() {
            true => self.spec.default_signing_algorithm(),
            false => named,
        }
    }
}

/// How the current generation signs.
#[derive(Clone, Copy, Debug)]
pub struct SigningNow<'a> {
    /// The kind of key.
    pub spec: KeySpec,
    /// What it signs with when a request names no algorithm.
    pub algorithm: SignatureAlgorithm,
    /// What its certificate is signed with, as it is shown.
    pub certificate: &'a str,
}

impl<'a> SigningNow<'a> {
    /// Reads it off a generation.
    pub fn of(generation: &'a KeyPairGeneration) -> Self {
        Self {
            spec: generation.public_key.spec(),
            algorithm: generation.signing_algorithm,
            certificate: &generation.certificate_signature_algorithm,
        }
    }
}

/// What rotation settings leave open is as it is here: in the key pair's current generation.
#[derive(Clone, Debug)]
pub struct RotatedFrom {
    /// The kind of key.
    pub spec: KeySpec,
    /// What the certificate is signed with, as it is shown.
    pub signature_algorithm: String,
    /// How long the certificate is valid.
    pub lifetime: Duration,
    /// Where the key lives.
    pub provider: ProviderKind,
}

impl RotatedFrom {
    /// Takes what a first generation shall be.
    pub fn template(template: &GenerationTemplate) -> Self {
        Self {
            spec: template.spec,
            signature_algorithm: template.signature_algorithm.name().to_owned(),
            lifetime: Duration::days(template.valid_days.into()),
            provider: template.provider,
        }
    }

    /// Reads it off a key pair.
    pub fn key_pair(key_pair: &KeyPair) -> Self {
        let current = &key_pair.current;
        Self {
            spec: current.public_key.spec(),
            signature_algorithm: current.certificate_signature_algorithm.clone(),
            lifetime: current.validity.not_after - current.validity.not_before,
            provider: current.provider,
        }
    }
}

impl RotationSettings {
    /// Checks all fields and returns what they mean, or everything that is wrong with them.
    ///
    /// `capable` says whether a provider can do a kind of key and signature, as refusals of fields.
    pub fn check(
        &self,
        from: &RotatedFrom,
        policy: &ProviderPolicy,
        capable: impl FnOnce(ProviderKind, KeySpec, &mut Violations),
    ) -> Result<Rotation, Violations> {
        let mut violations = Violations::new();
        let v = &mut violations;
        let next = self.next(from, policy, v);
        let shortest = next.map_or(from.lifetime, |next| {
            from.lifetime.min(Duration::days(next.valid_days.into()))
        });
        let buffers = self.buffers(shortest, v);
        if let Some(GenerationTemplate { spec, provider, .. }) = next {
            capable(provider, spec, v);
        }
        match (buffers, next) {
            (Some((creation_buffer_days, activation_buffer_days)), Some(next))
                if violations.is_empty() =>
            {
                Ok(Rotation {
                    creation_buffer_days,
                    activation_buffer_days,
                    next,
                })
            }
            _ => Err(violations),
        }
    }

    /// Returns what is wrong whatever the key pair is.
    pub(super) fn certainly_wrong(&self, lifetime: Duration) -> Violations {
        let mut violations = Violations::new();
        self.buffers(lifetime, &mut violations);
        violations
    }

    /// Checks the buffers against the shorter one of two lifetimes: that of creation, and that of activation.
    fn buffers(&self, shortest: Duration, violations: &mut Violations) -> Option<(u16, u16)> {
        let creation = buffer(self.creation_buffer_days, shortest);
        let creation = violations.check("creationBufferDays", creation);
        let activation = buffer(self.activation_buffer_days, shortest);
        let activation = activation.and_then(|days| match creation {
            Some(creation) if days > creation => Err(Refusal::new(format!(
                "must be at most creationBufferDays, which is {creation}"
            ))),
            _ => Ok(days),
        });
        let activation = violations.check("activationBufferDays", activation);
        creation.zip(activation)
    }

    /// Checks what the next generation shall be. None when something is refused.
    pub fn next(
        &self,
        from: &RotatedFrom,
        policy: &ProviderPolicy,
        violations: &mut Violations,
    ) -> Option<GenerationTemplate> {
        let v = violations;
        let same = from.spec.algorithm();
        let algorithm = match &self.key_algorithm {
            None => Some(same),
            Some(name) => v.check("keyAlgorithm", KeyAlgorithm::parse(name)),
        };
        let spec = algorithm.and_then(|algorithm| match self.key_size {
            None if algorithm == same && from.spec.is_weak() => v.check(
                "keySize",
                Err(Refusal::new(format!(
                    "is required, since a key of {} bits is not made any more",
                    from.spec.bits()
                ))),
            ),
            None if algorithm == same => Some(from.spec),
            None => Some(algorithm.default_spec()),
            Some(bits) => v.check("keySize", algorithm.spec(bits)),
        });
        let signature_algorithm = algorithm.and_then(|algorithm| {
            let checked = match &self.signature_algorithm {
                Some(name) => algorithm.signature_algorithm(name),
                None if algorithm != same => Ok(algorithm.default_signature_algorithm()),
                None => algorithm
                    .signature_algorithm(&from.signature_algorithm)
                    .map_err(|refusal| {
                        let was = &from.signature_algorithm;
                        Refusal::new(format!(
                            "is required, since that of the certificate is {was}: {refusal}"
                        ))
                    }),
            };
            v.check("signatureAlgorithm", checked)
        });
        let valid_days = match self.valid_days {
            Some(days) => v.check("validDays", valid_days(days)),
            None => {
                let days = from.lifetime.whole_days().clamp(1, VALID_DAYS_MAX.into());
                u16::try_from(days).ok()
            }
        };
        let asked = v.check("cryptoProvider", policy.narrow(self.crypto_provider));
        Some(GenerationTemplate {
            spec: spec?,
            signature_algorithm: signature_algorithm?,
            valid_days: valid_days?,
            provider: asked?.unwrap_or(from.provider),
        })
    }
}

/// Checks a buffer against the shorter one of the lifetimes of two certificates.
fn buffer(days: i32, shortest: Duration) -> Result<u16, Refusal> {
    // The most whole days that are less than it.
    let most = (shortest - Duration::SECOND)
        .whole_days()
        .min(VALID_DAYS_MAX.into());
    if most < 1 {
        return Err(Refusal::new(
            "must be at least 1 and less than the lifetimes of this certificate and the next, one of which is a day or less; make a key pair with a longer one",
        ));
    }
    let checked = u16::try_from(days).ok();
    checked
        .filter(|days| (1..=most).contains(&i64::from(*days)))
        .ok_or_else(|| {
            Refusal::new(format!(
                "must be 1 to {most}: less than the lifetimes in days of this certificate and the next"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Curve, Hash, ProviderMode, RsaSize};

    const HYBRID: ProviderPolicy = ProviderPolicy {
        mode: ProviderMode::Hybrid,
        default: ProviderKind::Hsm,
    };

    fn from() -> RotatedFrom {
        RotatedFrom {
            spec: KeySpec::Rsa(RsaSize::Bits3072),
            signature_algorithm: "SHA384withRSA".into(),
            lifetime: Duration::days(365),
            provider: ProviderKind::Local,
        }
    }

    fn settings() -> RotationSettings {
        RotationSettings {
            creation_buffer_days: 30,
            activation_buffer_days: 30,
            ..RotationSettings::default()
        }
    }

    fn check(settings: &RotationSettings, from: &RotatedFrom) -> Result<Rotation, Vec<String>> {
        settings
            .check(from, &HYBRID, |_, _, _| {})
            .map_err(|violations| {
                let said = violations
                    .iter()
                    .map(|v| format!("{}: {}", v.field, v.refusal));
                said.collect()
            })
    }

    #[test]
    fn what_is_left_out_is_as_in_the_current_generation() {
        let rotation = check(&settings(), &from()).unwrap();
        assert_eq!(
            rotation,
            Rotation {
                creation_buffer_days: 30,
                activation_buffer_days: 30,
                next: GenerationTemplate {
                    spec: KeySpec::Rsa(RsaSize::Bits3072),
                    signature_algorithm: SignatureAlgorithm::RsaPkcs1(Hash::Sha384),
                    valid_days: 365,
                    provider: ProviderKind::Local,
                },
            }
        );
        let other = RotationSettings {
            key_algorithm: Some("EC".into()),
            crypto_provider: Some(ProviderKind::Hsm),
            ..settings()
        };
        let next = check(&other, &from()).unwrap().next;
        assert_eq!(next.spec, KeyAlgorithm::Ec.default_spec());
        assert_eq!(next.signature_algorithm.name(), "SHA256withECDSA");
        assert_eq!(next.provider, ProviderKind::Hsm);
    }

    #[test]
    fn the_next_generation_signs_as_the_current_one_unless_told_otherwise() {
        let ecdsa = SignatureAlgorithm::Ecdsa;
        let (p_256, p_384) = (KeySpec::Ec(Curve::P256), KeySpec::Ec(Curve::P384));
        let rsa = KeySpec::Rsa(RsaSize::Bits2048);
        let (sha_256, sha_384, sha_512) = (Hash::Sha256, Hash::Sha384, Hash::Sha512);
        for (name, current, signs_with, certificate, next, named, expected) in [
            (
                "the same",
                p_384,
                ecdsa(sha_384),
                "SHA256withECDSA",
                p_384,
                ecdsa(sha_256),
                ecdsa(sha_384),
            ),
            (
                "asked for once",
                p_384,
                ecdsa(sha_256),
                "SHA256withECDSA",
                p_384,
                ecdsa(sha_256),
                ecdsa(sha_256),
            ),
            (
                "another hash",
                p_384,
                ecdsa(sha_384),
                "SHA256withECDSA",
                p_384,
                ecdsa(sha_512),
                ecdsa(sha_512),
            ),
            (
                "another size",
                p_256,
                ecdsa(sha_256),
                "SHA256withECDSA",
                p_384,
                ecdsa(sha_256),
                ecdsa(sha_384),
            ),
            (
                "another kind",
                rsa,
                SignatureAlgorithm::RsaPkcs1(sha_256),
                "SHA256withRSA",
                p_384,
                ecdsa(sha_256),
                ecdsa(sha_384),
            ),
            (
                "another kind and hash",
                rsa,
                SignatureAlgorithm::RsaPkcs1(sha_256),
                "SHA256withRSA",
                p_384,
                ecdsa(sha_512),
                ecdsa(sha_512),
            ),
            (
                "SHA-1 before",
                rsa,
                SignatureAlgorithm::RsaPkcs1(sha_256),
                "SHA1withRSA",
                rsa,
                SignatureAlgorithm::RsaPkcs1(sha_512),
                SignatureAlgorithm::RsaPkcs1(sha_512),
            ),
        ] {
            let template = GenerationTemplate {
                spec: next,
                signature_algorithm: named,
                valid_days: 1,
                provider: ProviderKind::Local,
            };
            let signs = SigningNow {
                spec: current,
                algorithm: signs_with,
                certificate,
            };
            assert_eq!(template.signing_algorithm(signs), expected, "{name}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_reported_at_once() {
        let wrong = RotationSettings {
            creation_buffer_days: 0,
            activation_buffer_days: -1,
            key_algorithm: Some("EC".into()),
            key_size: Some(2048),
            signature_algorithm: Some("SHA256withRSA".into()),
            valid_days: Some(0),
            crypto_provider: None,
        };
        let fields: Vec<_> = check(&wrong, &from())
            .unwrap_err()
            .into_iter()
            .map(|said| said.split(':').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            fields,
            [
                "keySize",
                "signatureAlgorithm",
                "validDays",
                "creationBufferDays",
                "activationBufferDays"
            ]
        );
    }

    #[test]
    fn buffers_are_less_than_both_lifetimes_and_the_second_not_more_than_the_first() {
        let refused = |creation, activation, valid_days| {
            let settings = RotationSettings {
                creation_buffer_days: creation,
                activation_buffer_days: activation,
                valid_days,
                ..RotationSettings::default()
            };
            check(&settings, &from())
                .err()
                .unwrap_or_default()
                .join("; ")
        };
        assert_eq!(refused(364, 1, None), "");
        let most = "less than the lifetimes in days of this certificate and the next";
        assert_eq!(
            refused(365, 1, None),
            format!("creationBufferDays: must be 1 to 364: {most}")
        );
        assert_eq!(
            refused(90, 1, Some(90)),
            format!("creationBufferDays: must be 1 to 89: {most}")
        );
        assert_eq!(
            refused(10, 11, None),
            "activationBufferDays: must be at most creationBufferDays, which is 10"
        );
        assert!(refused(1, 1, Some(1)).contains("make a key pair with a longer one"));
    }

    #[test]
    fn a_certificate_of_sha_1_needs_another_signature_algorithm_said() {
        let old = RotatedFrom {
            signature_algorithm: "SHA1withRSA".into(),
            ..from()
        };
        let said = check(&settings(), &old).unwrap_err().join("; ");
        assert!(
            said.starts_with("signatureAlgorithm: is required"),
            "{said}"
        );
        let named = RotationSettings {
            signature_algorithm: Some("SHA256withRSA".into()),
            ..settings()
        };
        assert!(check(&named, &old).is_ok());
    }
}
