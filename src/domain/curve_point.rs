//! Elliptic curves by their numbers: which curve explicit parameters describe, and points in short
//! form.
//!
//! All of it is public, so nothing here has to take the same time for all numbers.

use der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Any, Decode, Encode, Sequence};
use num_bigint::BigUint;

use super::Curve;

/// Returns the curve that explicit parameters describe, by their numbers and whatever form they are
/// written in.
///
/// # Source
/// `ECParameters` of RFC 3279 section 2.3.5; curves of FIPS 186-5.
pub(super) fn curve_of_parameters(parameters: &Any) -> Option<Curve> {
    let der = parameters.to_der().ok()?;
    let found = EcParameters::from_der(&der).ok()?;
    if found.field.kind != PRIME_FIELD {
        return None;
    }
    let number = |bytes: &[u8]| BigUint::from_bytes_be(bytes);
    Curve::ALL.into_iter().find(|curve| {
        let known = Numbers::of(*curve);
        let generator = point(*curve, found.base.as_bytes());
        number(found.field.prime.as_bytes()) == known.prime
            && number(found.curve.a.as_bytes()) == known.a()
            && number(found.curve.b.as_bytes()) == known.b
            && number(found.order.as_bytes()) == known.order
            && generator.is_some_and(|point| number(&point[1..]) == known.generator)
            && found
                .cofactor
                .is_none_or(|cofactor| number(cofactor.as_bytes()) == BigUint::from(1_u8))
    })
}

/// Returns a point of a curve in its long form, which begins with 4. None when it is on no such
/// curve, or written otherwise.
///
/// # Source
/// SEC 1 section 2.3.4; the hybrid form, 6 and 7, is that of X9.62.
pub(super) fn point(curve: Curve, octets: &[u8]) -> Option<Vec<u8>> {
    let (form, numbers) = octets.split_first()?;
    let len = curve.field_len();
    match (form, numbers.len() == len, numbers.len() == 2 * len) {
        (4, _, true) => Some(octets.to_vec()),
        (6 | 7, _, true) => {
            let is_odd = numbers.last()? & 1 == 1;
            (is_odd == (*form == 7)).then(|| [&[4], numbers].concat())
        }
        (2 | 3, true, _) => {
            let y = y_of(curve, numbers, *form == 3)?;
            Some([&[4], numbers, &y].concat())
        }
        _ => None,
    }
}

/// Computes y of y² = x³ - 3x + b. The primes are 3 modulo 4, so that a root is a power (FIPS 186-5
/// appendix B.4).
fn y_of(curve: Curve, x: &[u8], is_odd: bool) -> Option<Vec<u8>> {
    let Numbers { prime, b, .. } = &Numbers::of(curve);
    let x = BigUint::from_bytes_be(x);
    if x >= *prime {
        return None;
    }
    let a = Numbers::of(curve).a();
    let square = (x.modpow(&BigUint::from(3_u8), prime) + a * &x + b) % prime;
    let root = square.modpow(&((prime + 1_u8) >> 2), prime);
    if root.modpow(&BigUint::from(2_u8), prime) != square {
        return None;
    }
    let root = match root.bit(0) == is_odd {
        true => root,
        false => prime - root,
    };
    let digits = root.to_bytes_be();
    let zeros = curve.field_len().checked_sub(digits.len())?;
    Some([vec![0; zeros], digits].concat())
}

/// The numbers of a curve, of which a is always -3.
struct Numbers {
    prime: BigUint,
    b: BigUint,
    /// x and y, side by side.
    generator: BigUint,
    order: BigUint,
}

impl Numbers {
    fn of(curve: Curve) -> Self {
        let [prime, b, generator, order] = match curve {
            Curve::P256 => P_256,
            Curve::P384 => P_384,
            Curve::P521 => P_521,
        }
        .map(|digits| BigUint::parse_bytes(digits, 16).unwrap_or_default());
        Self {
            prime,
            b,
            generator,
            order,
        }
    }

    fn a(&self) -> BigUint {
        &self.prime - 3_u8
    }
}

#[derive(Sequence)]
struct EcParameters<'a> {
    version: u8,
    field: FieldId<'a>,
    curve: Coefficients<'a>,
    base: &'a OctetStringRef,
    order: UintRef<'a>,
    #[asn1(optional = "true")]
    cofactor: Option<UintRef<'a>>,
}

#[derive(Sequence)]
struct FieldId<'a> {
    kind: ObjectIdentifier,
    prime: UintRef<'a>,
}

#[derive(Sequence)]
struct Coefficients<'a> {
    a: &'a OctetStringRef,
    b: &'a OctetStringRef,
    #[asn1(optional = "true")]
    seed: Option<BitStringRef<'a>>,
}

/// RFC 3279 section 2.3.5.
const PRIME_FIELD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.1.1");
/// SP 800-186 section 3.2.1.3.
const P_256: [&[u8]; 4] = [
    b"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    b"5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
    b"6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
      4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
];
/// SP 800-186 section 3.2.1.4.
const P_384: [&[u8]; 4] = [
    b"fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe\
      ffffffff0000000000000000ffffffff",
    b"b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875a\
      c656398d8a2ed19d2a85c8edd3ec2aef",
    b"aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a38\
      5502f25dbf55296c3a545e3872760ab7\
      3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c0\
      0a60b1ce1d7e819d7a431d7c90ea0e5f",
    b"ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf\
      581a0db248b0a77aecec196accc52973",
];
/// SP 800-186 section 3.2.1.5.
const P_521: [&[u8]; 4] = [
    b"01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
      ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
      ffff",
    b"0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef1\
      09e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b50\
      3f00",
    b"00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d\
      3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5\
      bd66\
      011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e\
      662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd1\
      6650",
    b"01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
      fffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e9138\
      6409",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_found_again_from_its_short_and_its_hybrid_form() {
        for curve in Curve::ALL {
            let generator = Numbers::of(curve).generator.to_bytes_be();
            let zeros = 2 * curve.field_len() - generator.len();
            let numbers = [vec![0; zeros], generator].concat();
            let (x, y) = numbers.split_at(curve.field_len());
            let odd = y.last().unwrap() & 1;
            let long = [&[4], x, y].concat();
            let short = [&[2 + odd], x].concat();
            let hybrid = [&[6 + odd], x, y].concat();
            for form in [&long, &short, &hybrid] {
                assert_eq!(point(curve, form).as_ref(), Some(&long), "{curve:?}");
            }
            // The other root, the wrong parity, another length, an x beyond the prime.
            let other = point(curve, &[&[3 - odd], x].concat()).unwrap();
            assert_ne!(other, long);
            for wrong in [
                [&[7 - odd], x, y].concat(),
                [&[4], x].concat(),
                [&[2][..], &vec![0xff; x.len()]].concat(),
                [&[5], x, y].concat(),
                Vec::new(),
            ] {
                assert_eq!(point(curve, &wrong), None);
            }
        }
    }
}
