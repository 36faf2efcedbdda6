//! The best path through a set of certificates, compared with all the paths that there are.

use std::cmp::Reverse;
use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use proptest::prelude::*;
use proptest::sample::subsequence;
use time::OffsetDateTime;
use time::macros::datetime;

use super::hostile_tests::{common_name, extension, sequence, tlv};
use super::*;
use crate::domain::{Certificate, Curve, KeySpec, PublicKey};

const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);
const ECDSA_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const CA: &[u8] = b"\x30\x03\x01\x01\xff";

fn key(name: &str) -> &'static EcdsaKeyPair {
    static KEYS: OnceLock<Vec<(&str, EcdsaKeyPair)>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let new = |name| {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
            (name, pair.unwrap())
        };
        ["leaf", "inter", "root", "old", "stranger", "forger"]
            .map(new)
            .into()
    });
    &keys.iter().find(|(known, _)| *known == name).unwrap().1
}

fn public_key(name: &str) -> PublicKey {
    PublicKey::new(KeySpec::Ec(Curve::P256), key(name).public_key().as_ref())
}

/// A certificate of a test: whose, by whom, and what else counts.
#[derive(Clone, Debug, PartialEq)]
struct Member {
    subject: &'static str,
    issuer: &'static str,
    /// Whose key signs, when it is not the issuer's.
    signer: &'static str,
    /// The years in which it begins and ends.
    years: (u8, u8),
    is_ca: bool,
    path_len: Option<u8>,
    version: u8,
}

impl Member {
    const fn new(subject: &'static str, issuer: &'static str) -> Self {
        Self {
            subject,
            issuer,
            signer: issuer,
            years: (20, 40),
            is_ca: true,
            path_len: None,
            version: 3,
        }
    }

    const fn leaf(years: (u8, u8)) -> Self {
        Self {
            is_ca: false,
            years,
            ..Self::new("leaf", "inter")
        }
    }

    fn certificate(&self) -> Certificate {
        let time = |year: u8| tlv(0x17, format!("{year:02}0101000000Z").as_bytes());
        let constraints = match (self.is_ca, self.path_len) {
            (false, _) => sequence(&[]),
            (true, None) => CA.to_vec(),
            (true, Some(most)) => sequence(&[b"\x01\x01\xff", &[2, 1, most]]),
        };
        let extensions = tlv(0x30, &extension(b"\x55\x1d\x13", &constraints));
        let (version, extensions) = match self.version {
            1 => (Vec::new(), Vec::new()),
            _ => (b"\xa0\x03\x02\x01\x02".to_vec(), tlv(0xa3, &extensions)),
        };
        let tbs = sequence(&[
            &version,
            &[2, 1, 1],
            ECDSA_SHA256,
            &common_name(self.issuer),
            &sequence(&[&time(self.years.0), &time(self.years.1)]),
            &common_name(self.subject),
            &public_key(self.subject).spki_der(),
            &extensions,
        ]);
        let signature = key(self.signer).sign(&SystemRandom::new(), &tbs).unwrap();
        let signature = [&[0][..], signature.as_ref()].concat();
        Certificate::from_der(sequence(&[&tbs, ECDSA_SHA256, &tlv(0x03, &signature)]))
    }

    fn is_valid(&self) -> bool {
        self.years.0 <= 26 && self.years.1 > 26
    }
}

/// While a CA renews its root: the old and the new one, each signed by the other as well, with an
/// expired twin, an old and a renewed certificate of the key, and strangers.
fn cross_signed() -> Vec<(Member, Certificate)> {
    let members = [
        Member::leaf((25, 28)),
        Member::leaf((24, 27)),
        Member::new("inter", "root"),
        Member {
            years: (20, 25),
            ..Member::new("inter", "root")
        },
        Member {
            years: (20, 35),
            ..Member::new("inter", "old")
        },
        Member::new("root", "root"),
        Member::new("root", "old"),
        Member {
            version: 1,
            ..Member::new("old", "old")
        },
        Member::new("old", "root"),
        Member::new("stranger", "stranger"),
        Member {
            signer: "forger",
            ..Member::new("inter", "root")
        },
    ];
    let made = |member: Member| {
        let certificate = member.certificate();
        (member, certificate)
    };
    members.map(made).into()
}

/// Lists every path from a certificate to a root, by trying them all.
fn all_paths<'a>(
    set: &[&'a (Member, Certificate)],
    path: &mut Vec<&'a (Member, Certificate)>,
    found: &mut Vec<Vec<&'a (Member, Certificate)>>,
) {
    let (last, _) = path[path.len() - 1];
    if last.subject == last.issuer && last.signer == last.issuer {
        found.push(path.clone());
        return;
    }
    for next in set {
        let fits = next.0.subject == last.issuer
            && last.signer == last.issuer
            && (next.0.is_ca && next.0.is_valid())
            && (next.0.version == 3 || next.0.subject == next.0.issuer)
            && !path.contains(next);
        if fits {
            path.push(next);
            all_paths(set, path, found);
            path.pop();
        }
    }
}

/// Returns the best of all paths: of the newest certificate, the shortest, the one that is valid
/// longest.
fn best_path(set: &[&(Member, Certificate)]) -> Option<Vec<Certificate>> {
    let mut found = Vec::new();
    for leaf in set.iter().filter(|one| one.0.subject == "leaf") {
        all_paths(set, &mut vec![leaf], &mut found);
    }
    let best = found.into_iter().min_by_key(|path| {
        let until = path[1..].iter().map(|one| one.0.years.1).min();
        (Reverse(path[0].0.years), path.len(), Reverse(until))
    });
    best.map(|path| path.iter().map(|one| one.1.clone()).collect())
}

fn found_path(certificates: Vec<Certificate>) -> Result<Vec<Certificate>, String> {
    let given = certificates.len();
    let certified = certify(&public_key("leaf"), certificates, NOW);
    let certified = certified.map_err(|refusal| refusal.to_string())?;
    let kept = 1 + certified.chain.len();
    assert_eq!(kept + certified.ignored.len(), given);
    Ok([vec![certified.leaf.certificate], certified.chain].concat())
}

#[test]
fn of_every_subset_with_a_path_the_best_one_is_found_in_any_order() {
    let all = cross_signed();
    let (mut with_path, mut without) = (0, 0);
    for subset in 0..1_u32 << all.len() {
        let members = all.iter().enumerate();
        let members = members.filter(|(bit, _)| subset >> bit & 1 == 1);
        let set: Vec<_> = members.map(|(_, member)| member).collect();
        let Some(expected) = best_path(&set) else {
            without += 1;
            continue;
        };
        with_path += 1;
        let mut certificates: Vec<_> = set.iter().map(|member| member.1.clone()).collect();
        let turn = usize::try_from(subset).unwrap() % certificates.len();
        certificates.rotate_left(turn);
        assert_eq!(found_path(certificates.clone()).as_ref(), Ok(&expected));
        certificates.reverse();
        assert_eq!(found_path(certificates), Ok(expected));
    }
    assert!(with_path > 300 && without > 300, "{with_path} {without}");
}

proptest! {
    #[test]
    fn the_order_of_a_set_never_changes_its_path(
        set in subsequence(cross_signed(), 3..=11).prop_shuffle(),
    ) {
        let members: Vec<_> = set.iter().collect();
        if let Some(expected) = best_path(&members) {
            let certificates = set.iter().map(|member| member.1.clone()).collect();
            prop_assert_eq!(found_path(certificates), Ok(expected));
        }
    }
}

#[test]
fn what_is_wrong_with_a_set_is_said_in_a_sentence_of_its_own() {
    let leaf = || Member::leaf((25, 28));
    let inter = || Member::new("inter", "root");
    for (what, set, said) in [
        (
            "another name",
            vec![leaf(), Member::new("stranger", "stranger")],
            "\"CN=stranger\" is the certificate of somebody who does not belong to the chain",
        ),
        (
            "a gap",
            vec![leaf(), Member::new("root", "root")],
            "add what is missing between",
        ),
        (
            "another key",
            vec![
                Member {
                    signer: "forger",
                    ..leaf()
                },
                inter(),
            ],
            "\"CN=inter\" has the name of the issuer of \"CN=leaf\" but another key",
        ),
        (
            "an expired issuer",
            vec![
                leaf(),
                Member {
                    years: (20, 25),
                    ..inter()
                },
            ],
            "\"CN=inter\" expired at 2025-",
        ),
        (
            "an issuer of tomorrow",
            vec![
                leaf(),
                Member {
                    years: (30, 35),
                    ..inter()
                },
            ],
            "\"CN=inter\" is not valid before 2030-",
        ),
        (
            "no CA",
            vec![
                leaf(),
                Member {
                    is_ca: false,
                    ..inter()
                },
            ],
            "\"CN=inter\" may not issue certificates",
        ),
        (
            "a CA of version 1 that is no root",
            vec![
                leaf(),
                Member {
                    version: 1,
                    ..inter()
                },
            ],
            "\"CN=inter\" may not issue certificates",
        ),
        (
            "a path that is too long",
            vec![
                leaf(),
                inter(),
                Member {
                    path_len: Some(0),
                    ..Member::new("root", "root")
                },
            ],
            "\"CN=root\" has a pathLenConstraint that allows fewer CAs",
        ),
    ] {
        let certificates = set.iter().map(Member::certificate).collect();
        let refused = found_path(certificates).unwrap_err();
        assert!(refused.contains(said), "{what}: {refused}");
    }
}

#[test]
fn a_signature_of_an_unknown_algorithm_is_not_called_wrong() {
    let inter = Member::new("inter", "root").certificate();
    let leaf = Member::leaf((25, 28)).certificate();
    // ECDSA with SHA-224, which keypaird does not verify.
    let der = leaf.der().to_vec();
    let sha_224 = [&ECDSA_SHA256[..11], &[1]].concat();
    let places = der.windows(12).enumerate();
    let places: Vec<_> = places
        .filter(|(_, part)| part == &ECDSA_SHA256)
        .map(|(place, _)| place)
        .collect();
    let mut unknown = der;
    for place in places {
        unknown[place..place + 12].copy_from_slice(&sha_224);
    }
    let unknown = Certificate::from_der(unknown);
    let refused = found_path(vec![unknown.clone(), inter]).unwrap_err();
    assert!(
        refused.contains(
            "\"CN=leaf\" is signed with 1.2.840.10045.4.3.1, which keypaird does not verify"
        ),
        "{refused}"
    );
    // Alone it is taken, as whatever a CA says.
    assert!(found_path(vec![unknown]).is_ok());
}

#[test]
fn what_is_not_on_the_path_is_named_with_the_reason() {
    let all = cross_signed();
    let certificates = all.iter().map(|member| member.1.clone()).collect();
    let certified = certify_by_ca(&public_key("leaf"), certificates, NOW).unwrap();
    let mut said: Vec<_> = certified
        .ignored
        .iter()
        .map(|ignored| format!("{} {}", ignored.subject_dn, ignored.reason))
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            "CN=inter is expired",
            "CN=inter is not needed on the path to the root",
            "CN=inter is not needed on the path to the root",
            "CN=leaf is another certificate of the same key",
            "CN=old is not needed on the path to the root",
            "CN=old is not needed on the path to the root",
            "CN=root is not needed on the path to the root",
            "CN=stranger has nothing to do with the certificate",
        ]
    );
}

#[test]
fn of_several_certificates_of_a_key_the_one_that_is_of_use_now_is_taken() {
    let own = |years| Member {
        is_ca: false,
        years,
        ..Member::new("leaf", "leaf")
    };
    let (old, renewed) = (Member::leaf((24, 28)), Member::leaf((25, 29)));
    let (inter, root) = (Member::new("inter", "root"), Member::new("root", "root"));
    for (what, set, expected) in [
        ("the renewed one", vec![&old, &renewed, &inter, &root], 1),
        ("not the next one", vec![&Member::leaf((27, 40)), &old], 1),
        (
            "not the expired one",
            vec![&Member::leaf((24, 26)), &old],
            1,
        ),
        ("the CA's", vec![&own((25, 40)), &old], 1),
        (
            "the newer of its own",
            vec![&own((25, 40)), &own((24, 41))],
            0,
        ),
    ] {
        let certificates: Vec<_> = set.iter().map(|member| member.certificate()).collect();
        let found = certify(&public_key("leaf"), certificates.clone(), NOW).unwrap();
        assert_eq!(found.leaf.certificate, certificates[expected], "{what}");
    }
}

#[test]
fn a_path_ends_below_an_issuer_outside_its_validity_in_any_order() {
    let expired = |subject, issuer| Member {
        years: (20, 25),
        ..Member::new(subject, issuer)
    };
    let coming = Member {
        years: (30, 35),
        ..Member::new("root", "root")
    };
    let path = || [Member::leaf((25, 28)), Member::new("inter", "root")];
    for (what, above) in [
        ("an expired root", vec![expired("root", "root")]),
        ("a root of tomorrow", vec![coming]),
        (
            "expired twins, one cross-signed",
            vec![expired("root", "root"), expired("root", "old")],
        ),
        (
            "an expired cross-signed CA below a valid root",
            vec![expired("root", "old"), Member::new("old", "old")],
        ),
    ] {
        let path: Vec<_> = path().iter().map(Member::certificate).collect();
        let above = above.iter().map(Member::certificate);
        let mut set: Vec<_> = path.iter().cloned().chain(above).collect();
        for _ in 0..set.len() {
            set.rotate_left(1);
            assert_eq!(found_path(set.clone()).as_ref(), Ok(&path), "{what}");
            let reversed = set.iter().rev().cloned().collect();
            assert_eq!(found_path(reversed).as_ref(), Ok(&path), "{what}");
        }
    }
}

#[test]
fn a_valid_cross_signed_path_is_found_beside_an_expired_root_in_any_order() {
    let members = [
        Member::leaf((25, 28)),
        Member::new("inter", "root"),
        Member::new("root", "old"),
        Member::new("old", "old"),
        Member {
            years: (20, 25),
            ..Member::new("root", "root")
        },
    ];
    let mut set: Vec<_> = members.iter().map(Member::certificate).collect();
    let expected = set[..4].to_vec();
    for _ in 0..set.len() {
        set.rotate_left(1);
        assert_eq!(found_path(set.clone()).as_ref(), Ok(&expected));
        let reversed = set.iter().rev().cloned().collect();
        assert_eq!(found_path(reversed).as_ref(), Ok(&expected));
    }
}

#[test]
fn a_circle_of_cas_that_certify_each_other_ends() {
    let set = [
        Member::leaf((25, 28)),
        Member::new("inter", "root"),
        Member::new("root", "old"),
        Member::new("old", "root"),
    ];
    let certificates = set.iter().map(Member::certificate).collect();
    assert_eq!(found_path(certificates).unwrap().len(), 4);
}
