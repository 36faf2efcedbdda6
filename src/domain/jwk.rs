//! Public keys as JSON Web Keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::Digest as _;

use super::{Curve, Hash, KeySpec, PublicKey, SignatureAlgorithm};

/// A public key as a JSON Web Key (RFC 7517), which serde writes as such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// What kind of key it is, with its numbers.
    #[serde(flatten)]
    pub key: JwkKey,
    /// What the key is for: `sig`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// The JWS algorithm that the key pair signs with by default, if JWS has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<&'static str>,
    /// SHA-256 thumbprint (RFC 7638), base64url without padding: 43 characters.
    pub kid: String,
}

/// The members of a JWK that make the key. Binary values are base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kty")]
pub enum JwkKey {
    /// RFC 7518 section 6.3.1.
    #[serde(rename = "RSA")]
    Rsa {
        /// The public exponent.
        e: String,
        /// The modulus.
        n: String,
    },
    /// RFC 7518 section 6.2.1.
    #[serde(rename = "EC")]
    Ec {
        /// `P-256`, `P-384` or `P-521`.
        crv: &'static str,
        /// The x coordinate, as long as the field.
        x: String,
        /// The y coordinate, as long as the field.
        y: String,
    },
    /// RFC 8037 section 2.
    #[serde(rename = "OKP")]
    Okp {
        /// `Ed25519`.
        crv: &'static str,
        /// The key, 32 bytes.
        x: String,
    },
}

impl Jwk {
    /// Writes a public key that signs with an algorithm. None when the key is not one of its kind.
    pub fn new(public_key: &PublicKey, algorithm: SignatureAlgorithm) -> Option<Self> {
        let key = JwkKey::new(public_key)?;
        Some(Self {
            kid: key.thumbprint(),
            key,
            usage: "sig",
            alg: alg(public_key.spec(), algorithm),
        })
    }
}

impl JwkKey {
    fn new(public_key: &PublicKey) -> Option<Self> {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Some(match public_key.spec() {
            KeySpec::Rsa(_) => {
                let (n, e) = public_key.rsa_numbers()?;
                Self::Rsa {
                    e: text(&e),
                    n: text(&n),
                }
            }
            KeySpec::Ec(curve) => {
                let (form, coordinates) = public_key.bits().split_first()?;
                let (x, y) = coordinates.split_at_checked(curve.field_len())?;
                (*form == UNCOMPRESSED && y.len() == x.len()).then(|| Self::Ec {
                    crv: match curve {
                        Curve::P256 => "P-256",
                        Curve::P384 => "P-384",
                        Curve::P521 => "P-521",
                    },
                    x: text(x),
                    y: text(y),
                })?
            }
            KeySpec::Ed25519 => Self::Okp {
                crv: "Ed25519",
                x: text(public_key.bits()),
            },
        })
    }

    /// RFC 7638 section 3: the hash of the required members, in the order of their names, without blanks.
    fn thumbprint(&self) -> String {
        let canonical = match self {
            Self::Rsa { e, n } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::Ec { crv, x, y } => {
                format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Self::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(canonical))
    }
}

/// RFC 7518 section 3.1 ties each curve to one hash; RFC 8037 section 3.1.
fn alg(spec: KeySpec, algorithm: SignatureAlgorithm) -> Option<&'static str> {
    Some(match (spec, algorithm) {
        (_, SignatureAlgorithm::RsaPkcs1(Hash::Sha256)) => "RS256",
        (_, SignatureAlgorithm::RsaPkcs1(Hash::Sha384)) => "RS384",
        (_, SignatureAlgorithm::RsaPkcs1(Hash::Sha512)) => "RS512",
        // With a salt as long as the hash (RFC 7518 section 3.5), which is what we make.
        (_, SignatureAlgorithm::RsaPss(Hash::Sha256)) => "PS256",
        (_, SignatureAlgorithm::RsaPss(Hash::Sha384)) => "PS384",
        (_, SignatureAlgorithm::RsaPss(Hash::Sha512)) => "PS512",
        (KeySpec::Ec(Curve::P256), SignatureAlgorithm::Ecdsa(Hash::Sha256)) => "ES256",
        (KeySpec::Ec(Curve::P384), SignatureAlgorithm::Ecdsa(Hash::Sha384)) => "ES384",
        (KeySpec::Ec(Curve::P521), SignatureAlgorithm::Ecdsa(Hash::Sha512)) => "ES512",
        (_, SignatureAlgorithm::Ed25519) => "EdDSA",
        _ => return None,
    })
}

/// SEC 1 section 2.3.3.
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RsaSize;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    #[test]
    fn thumbprints_are_those_of_the_rfcs() {
        // RFC 7638 section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let spec = KeySpec::Rsa(RsaSize::Bits2048);
        let key = PublicKey::rsa(spec, &bytes(n), &bytes("AQAB")).unwrap();
        let jwk = Jwk::new(&key, SignatureAlgorithm::RsaPkcs1(Hash::Sha256)).unwrap();
        assert_eq!(jwk.kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(jwk.alg, Some("RS256"));
        assert_eq!(
            jwk.key,
            JwkKey::Rsa {
                e: "AQAB".into(),
                n: n.into()
            }
        );

        // RFC 8037 appendix A.3.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let key = PublicKey::new(KeySpec::Ed25519, bytes(x));
        let jwk = Jwk::new(&key, SignatureAlgorithm::Ed25519).unwrap();
        assert_eq!(jwk.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(
            serde_json::to_string(&jwk).unwrap(),
            format!(
                r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","use":"sig","alg":"EdDSA","kid":"{}"}}"#,
                jwk.kid
            )
        );
    }

    #[test]
    fn what_is_no_point_is_no_key() {
        let spec = KeySpec::Ec(Curve::P256);
        for bad in [&[][..], &[4; 64], &[4; 66], &[3; 65]] {
            let key = PublicKey::new(spec, bad);
            assert_eq!(
                Jwk::new(&key, SignatureAlgorithm::Ecdsa(Hash::Sha256)),
                None
            );
        }
    }
}
