//! RSA keys as others wrote them: with all their numbers, or with those alone from which the rest
//! can be computed.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair, RsaKeyPair};
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, ConcatenatingMul, Gcd};
use der::Encode;
use der::asn1::OctetStringRef;
use pkcs8::PrivateKeyInfoRef;
use zeroize::Zeroizing;

use super::KeyFileError;
use super::private_key::{RSA_ENCRYPTION, not_a_key, wiped};
use crate::domain::ber::{Elements, INTEGER, SEQUENCE};
use crate::domain::{KeyAlgorithm, KeySpec, PrivateKey, PublicKey};

/// Reads an `RSAPrivateKey` (RFC 8017 appendix A.1.2). aws-lc checks that its numbers belong
/// together.
pub(super) fn from_pkcs1(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let numbers = Numbers::read(der).ok_or_else(|| KeyFileError::damaged("the private key"))?;
    if numbers.has_other_primes {
        return Err(KeyFileError::file(
            "has an RSA key of more than two primes, which neither tokens nor this program sign with; make a new key".to_owned(),
        ));
    }
    let bits = numbers.modulus().bit_width_vartime();
    let spec = i32::try_from(bits).ok();
    let spec = spec.and_then(|bits| KeyAlgorithm::Rsa.known_spec(bits));
    let spec = spec.ok_or_else(|| {
        KeyFileError::file(format!(
            "has an RSA key of {bits} bits, and must have one of 2048, 3072 or 4096"
        ))
    })?;
    numbers.refuse_exponent()?;
    if numbers.has_large_private_exponent() {
        return Err(KeyFileError::file(
            "has an RSA key whose private exponent is not less than its modulus; write the key anew, for example by openssl rsa -in FILE".to_owned(),
        ));
    }
    if spec.is_weak() {
        return weak(spec, der, &numbers).ok_or_else(not_a_key);
    }
    let pair = RsaKeyPair::from_der(der).ok();
    let pair = pair.or_else(|| numbers.complete()).ok_or_else(not_a_key)?;
    let public_key = PublicKey::new(spec, pair.public_key().as_ref());
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| not_a_key())?;
    Ok(PrivateKey::new(public_key, wiped(pkcs8.as_ref())))
}

/// Reads an RSA key that aws-lc does not take. Whether its numbers belong together is seen when it
/// signs.
fn weak(spec: KeySpec, der: &[u8], numbers: &Numbers<'_>) -> Option<PrivateKey> {
    let public_key = PublicKey::rsa(spec, numbers.number(N), numbers.number(E))?;
    let info = PrivateKeyInfoRef::new(
        pkcs8::AlgorithmIdentifierRef {
            oid: RSA_ENCRYPTION,
            parameters: Some(der::AnyRef::NULL),
        },
        OctetStringRef::new(der).ok()?,
    );
    let pkcs8 = Zeroizing::new(info.to_der().ok()?);
    Some(PrivateKey::new(public_key, pkcs8))
}

/// The numbers of a key, big-endian, in the order of the standard. Those that are not there are
/// empty.
struct Numbers<'a> {
    /// From the modulus on.
    numbers: Vec<&'a [u8]>,
    has_other_primes: bool,
}

impl<'a> Numbers<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut elements = Elements::of(der);
        let mut parts = elements.take(SEQUENCE)?.parts();
        let version = parts.take(INTEGER)?.number()?;
        let mut numbers = Vec::new();
        let mut has_other_primes = version == 1;
        while !parts.is_empty() {
            let part = parts.next()?;
            match part.tag {
                INTEGER if numbers.len() < COUNT => {
                    // Some programs leave out the zero that tells a large number from a negative
                    // one.
                    let zeros = part.contents.iter().take_while(|byte| **byte == 0).count();
                    numbers.push(&part.contents[zeros..]);
                }
                _ => has_other_primes = true,
            }
        }
        let is_whole = elements.is_empty() && numbers.len() > D && !numbers[N].is_empty();
        is_whole.then_some(Self {
            numbers,
            has_other_primes,
        })
    }

    fn number(&self, index: usize) -> &'a [u8] {
        self.numbers.get(index).copied().unwrap_or_default()
    }

    fn modulus(&self) -> BoxedUint {
        BoxedUint::from_be_slice_vartime(self.number(N))
    }

    /// Tells whether the private exponent is not less than the modulus, as RFC 8017 section 3.2 has
    /// it. Such a key is read, and then does not sign.
    fn has_large_private_exponent(&self) -> bool {
        let (d, n) = (self.number(D), self.number(N));
        (d.len(), d) >= (n.len(), n)
    }

    /// Refuses a public exponent that aws-lc takes for no key of its own.
    fn refuse_exponent(&self) -> Result<(), KeyFileError> {
        let exponent = self.number(E);
        let bits = BoxedUint::from_be_slice_vartime(exponent).bit_width_vartime();
        let is_odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
        match (bits, is_odd) {
            (2..=EXPONENT_BITS_MAX, true) => Ok(()),
            (..=EXPONENT_BITS_MAX, _) => Err(KeyFileError::file(
                "has an RSA key whose public exponent is even, or less than 3".to_owned(),
            )),
            (bits, _) => Err(KeyFileError::file(format!(
                "has an RSA key with a public exponent of {bits} bits, and may have one of {EXPONENT_BITS_MAX}, such as 65537"
            ))),
        }
    }

    /// Computes what is missing: the exponents and the coefficient of the Chinese remainder
    /// theorem, and the primes (RFC 8017 section 3.2).
    fn complete(&self) -> Option<RsaKeyPair> {
        let bits = u32::try_from(8 * self.number(N).len()).ok()?;
        let read = |bytes| BoxedUint::from_be_slice(bytes, bits).ok();
        let d = Zeroizing::new(read(self.number(D))?);
        let (p, q) = match (self.number(P), self.number(Q)) {
            (&[], _) | (_, &[]) => self.factor(&d, || self.random_base())?,
            (p, q) => (read(p)?, read(q)?),
        };
        let (p, q) = (Zeroizing::new(p), Zeroizing::new(q));
        let exponent = |prime: &BoxedUint| {
            let less_one = prime.wrapping_sub(BoxedUint::one());
            let exponent = d.rem(&Option::from(less_one.into_nz())?);
            Some(Zeroizing::new(exponent.to_be_bytes()))
        };
        let given_or = |index, computed: Option<Zeroizing<Box<[u8]>>>| match self.number(index) {
            &[] => computed,
            given => Some(Zeroizing::new(given.into())),
        };
        let coefficient = || {
            let inverse: Option<BoxedUint> = q.invert_odd_mod(&Option::from(p.to_odd())?).into();
            Some(Zeroizing::new(inverse?.to_be_bytes()))
        };
        RsaKeyPair::from_components(&KeyPairComponents {
            public_key: PublicKeyComponents {
                n: wiped(self.number(N)),
                e: wiped(self.number(E)),
            },
            d: Zeroizing::new(d.to_be_bytes()),
            p: Zeroizing::new(p.to_be_bytes()),
            q: Zeroizing::new(q.to_be_bytes()),
            dP: given_or(DP, exponent(&p))?,
            dQ: given_or(DQ, exponent(&q))?,
            qInv: given_or(Q_INVERSE, coefficient())?,
        })
        .ok()
    }

    /// Finds the primes by a root of one (NIST SP 800-56B revision 2, appendix C), the larger one
    /// first, as they stand in most files. `base` makes the numbers that are tried.
    ///
    /// Numbers that do not belong together cost one exponentiation, and a prime modulus two. Of all
    /// bases, half find the primes at least, whatever the modulus, but for a power of a prime.
    fn factor(
        &self,
        d: &BoxedUint,
        mut base: impl FnMut() -> Option<BoxedUint>,
    ) -> Option<(BoxedUint, BoxedUint)> {
        let modulus = self.modulus();
        let exponent = BoxedUint::from_be_slice_vartime(self.number(E));
        let product = Zeroizing::new(
            d.concatenating_mul(&exponent)
                .wrapping_sub(BoxedUint::one()),
        );
        // A power of a prime divides what its exponents are multiples of. It has no other roots of
        // one than one and minus one.
        let rest = Zeroizing::new(product.rem(&Option::from(modulus.to_nz())?));
        if modulus.gcd(&rest) != BoxedUint::one() {
            return None;
        }
        let halvings = product.trailing_zeros();
        let odd = Zeroizing::new(product.overflowing_shr_vartime(halvings)?);
        let params = BoxedMontyParams::new(Option::from(modulus.to_odd())?);
        let one = BoxedMontyForm::one(&params);
        let minus_one = one.neg();
        let mut is_known_composite = false;
        for _ in 0..BASES_MAX {
            let base = BoxedMontyForm::new(base()?, &params);
            let mut root = base.pow(&odd);
            let mut is_trivial = root == one || root == minus_one;
            for _ in 0..halvings {
                if is_trivial {
                    break;
                }
                let square = root.square();
                if square == one {
                    let less_one = root.sub(&one).retrieve();
                    let p = modulus.gcd(&less_one);
                    let q = modulus.wrapping_div(&Option::from(p.to_nz())?);
                    return Some(if p > q { (p, q) } else { (q, p) });
                }
                root = square;
                is_trivial = root == minus_one;
            }
            if !is_trivial {
                return None;
            }
            // A prime has no other roots either (Fermat's little theorem).
            if !is_known_composite && base.pow(&modulus.wrapping_sub(BoxedUint::one())) == one {
                return None;
            }
            is_known_composite = true;
        }
        None
    }

    /// Returns a random number. With fixed ones, an attacker could make a modulus that none of them
    /// factors.
    fn random_base(&self) -> Option<BoxedUint> {
        let modulus = self.modulus();
        let mut bytes = vec![0; self.number(N).len()];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        let number = BoxedUint::from_be_slice(&bytes, modulus.bits_precision()).ok()?;
        Some(number.rem(&Option::from(modulus.to_nz())?))
    }
}

/// Where the numbers are.
const N: usize = 0;
const E: usize = 1;
const D: usize = 2;
const P: usize = 3;
const Q: usize = 4;
const DP: usize = 5;
const DQ: usize = 6;
const Q_INVERSE: usize = 7;
const COUNT: usize = 8;
/// What aws-lc takes.
const EXPONENT_BITS_MAX: u32 = 33;
/// Half of all numbers find the primes: that none of so many does has a chance of one in four
/// thousand million.
const BASES_MAX: u32 = 32;

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    /// Writes a key without primes, whose private exponent is right for an order of the modulus.
    fn key(modulus: &BigUint, order: &BigUint) -> Vec<u8> {
        let e = BigUint::from(65_537_u32);
        let one = BigUint::from(1_u32);
        let fits = |factor: &u32| ((order * factor + &one) % &e) == BigUint::ZERO;
        let factor = (1..65_537).find(fits).unwrap();
        let d = (order * factor + &one) / &e;
        let integer = |number: &BigUint| {
            let bytes = [&[0][..], &number.to_bytes_be()].concat();
            der::asn1::UintRef::new(&bytes).unwrap().to_der().unwrap()
        };
        let numbers = [
            integer(&BigUint::ZERO),
            integer(modulus),
            integer(&e),
            integer(&d),
        ];
        let numbers = numbers.concat();
        let len = u16::try_from(numbers.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82], &len[..], &numbers].concat()
    }

    #[test]
    fn a_modulus_that_is_prime_or_a_power_of_one_is_not_tried_again_and_again() {
        let power_of_two = |bits: u32| BigUint::from(1_u32) << bits;
        // The largest primes of 2048 and of 1024 bits.
        let prime = power_of_two(2048) - 1557_u32;
        let half = power_of_two(1024) - 105_u32;
        let less_one = |prime: &BigUint| prime - 1_u32;
        for (what, modulus, order, bases_max) in [
            ("a prime", &prime, less_one(&prime), 1),
            ("a square", &(&half * &half), &half * less_one(&half), 0),
        ] {
            let file = key(modulus, &order);
            let numbers = Numbers::read(&file).unwrap();
            let d = BoxedUint::from_be_slice(numbers.number(D), 2048).unwrap();
            let mut bases = 0;
            let base = || {
                bases += 1;
                numbers.random_base()
            };
            assert!(numbers.factor(&d, base).is_none(), "{what}");
            assert!(bases <= bases_max, "{what}: {bases}");
            assert!(from_pkcs1(&file).is_err(), "{what}");
        }
    }
}
