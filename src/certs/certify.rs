//! Finds the certificate of a key in a set, with those it stands on.

use std::cmp::Reverse;

use time::OffsetDateTime;

use super::file::refuse_too_much;
use super::path::{Candidate, Graph, Path};
use super::{read, signature};
use crate::domain::{
    Certificate, CertificateValidity, IssuedCertificate, PublicKey, Refusal, Validity,
};

/// The certificate of a key, and those it stands on.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub leaf: IssuedCertificate,
    /// Its issuers, from its own on.
    pub chain: Vec<Certificate>,
    /// What else was given, and is not kept.
    pub ignored: Vec<IgnoredCertificate>,
}

/// A certificate that was given with others, and is not on their path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredCertificate {
    /// Its subject, as it is shown.
    pub subject_dn: String,
    /// Its SHA-256 fingerprint: 64 upper-case hexadecimal digits.
    pub sha256_fingerprint: String,
    /// Why it is not kept: `is expired`.
    pub reason: &'static str,
}

/// Finds the certificate of a public key among others, and its path to a root. Every link of that
/// is checked: names, signature, that the issuer is a CA, and validity at a time. What is not on
/// the path is left out, and named.
///
/// Of several certificates of the key, it is one that is valid now, that a CA issued and that has a
/// path, the newest of these. The root may be left out. What has nothing to do with the certificate
/// is refused unless there is a path to a root, since something may be missing between. Takes up to
/// a tenth of a second, and so does not belong on a thread that has others waiting.
pub fn certify(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    find(public_key, certificates, now, Wanted::Valid)
}

/// Does the same, and takes one that is expired when there is no other. Its issuers must have been
/// valid at its end.
pub fn certify_even_expired(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    find(public_key, certificates, now, Wanted::EvenExpired)
}

/// Does what [`certify`] does, and takes none that its own key has signed.
pub fn certify_by_ca(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    find(public_key, certificates, now, Wanted::OfCa)
}

/// Which certificates of a key are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Those that are not expired.
    Valid,
    /// All.
    EvenExpired,
    /// Those that are not expired and of a CA.
    OfCa,
}

fn find(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
    wanted: Wanted,
) -> Result<Certified, Refusal> {
    refuse_too_much(&certificates)?;
    let candidates = certificates.into_iter().map(Candidate::read);
    let mut graph = Graph::new(candidates.collect::<Result<_, _>>()?);
    let own = own(&mut graph, public_key, now, wanted)?;
    let (mut found, mut refused) = (None, None);
    for leaf in own {
        match graph.path(leaf.place, leaf.judged_at(now)) {
            Ok(path) => {
                let better = found
                    .as_ref()
                    .is_none_or(|(known, known_path): &(Own, Path)| {
                        leaf.rank(&path) < known.rank(known_path)
                    });
                if better {
                    found = Some((leaf, path));
                }
            }
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match (found, refused) {
        (Some((leaf, path)), _) => complete(&graph, leaf, &path, now),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => Err(Refusal::new(
            "has no certificate of this key pair's public key",
        )),
    }
}

/// A certificate of the key.
#[derive(Clone, Copy, Debug)]
struct Own {
    place: usize,
    validity: Validity,
    status: CertificateValidity,
    is_self_signed: bool,
}

impl Own {
    /// Returns the time at which its issuers must be valid.
    fn judged_at(&self, now: OffsetDateTime) -> OffsetDateTime {
        match self.status {
            CertificateValidity::Expired => self.validity.not_after,
            _ => now,
        }
    }

    /// Returns what is the least for the best one.
    fn rank(&self, path: &Path) -> impl Ord + use<> {
        let status = match self.status {
            CertificateValidity::Valid => 0,
            CertificateValidity::NotYetValid => 1,
            CertificateValidity::Expired | CertificateValidity::Revoked => 2,
        };
        (
            status,
            self.is_self_signed,
            !path.is_complete,
            Reverse(self.validity.not_before),
            Reverse(self.validity.not_after),
            self.place,
        )
    }
}

/// Finds the certificates of the key that can be taken.
fn own(
    graph: &mut Graph,
    public_key: &PublicKey,
    now: OffsetDateTime,
    wanted: Wanted,
) -> Result<Vec<Own>, Refusal> {
    let of_key = |candidate: &Candidate| candidate.public_key.as_ref() == Some(public_key);
    let candidates = graph.candidates().iter().enumerate();
    let places = candidates.filter(|(_, candidate)| of_key(candidate));
    let places: Vec<_> = places.map(|(place, _)| place).collect();
    let (mut own, mut refused) = (Vec::new(), None);
    for place in places {
        let is_self_signed = graph.is_self_signed(place)? || {
            let candidate = &graph.candidates()[place];
            candidate.is_self_issued()
                && signature::is_own_with_sha_1(&candidate.certificate, &candidate.parsed)
        };
        let candidate = &graph.candidates()[place];
        let issued = read::read_parsed(&candidate.certificate, &candidate.parsed)?;
        let status = issued.validity.at(now);
        let is_expired = status == CertificateValidity::Expired;
        let sentence = match (is_self_signed, is_expired) {
            (true, _) if wanted == Wanted::OfCa => {
                "has a self-signed certificate; give the one that the CA issued"
            }
            (_, true) if wanted != Wanted::EvenExpired => "has a certificate that is expired",
            _ => {
                own.push(Own {
                    place,
                    validity: issued.validity,
                    status,
                    is_self_signed,
                });
                continue;
            }
        };
        refused = refused.or(Some(Refusal::new(sentence)));
    }
    match refused {
        Some(refusal) if own.is_empty() => Err(refusal),
        _ => Ok(own),
    }
}

/// Puts together what was found, and says what is left out.
fn complete(
    graph: &Graph,
    leaf: Own,
    path: &Path,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    let related = graph.related(leaf.place, path);
    let own = &graph.candidates()[leaf.place];
    let mut ignored = Vec::new();
    for (place, candidate) in graph.candidates().iter().enumerate() {
        if place == leaf.place || path.issuers.contains(&place) {
            continue;
        }
        let subject_dn = candidate.shown();
        let is_whole = path.is_complete && !path.issuers.is_empty();
        if !related[place] && !is_whole {
            return Err(Refusal::of(
                &subject_dn,
                "is the certificate of somebody who does not belong to the chain; leave it out, or add what is missing between",
            ));
        }
        let reason = match candidate.status(leaf.judged_at(now)) {
            _ if candidate.public_key == own.public_key => "is another certificate of the same key",
            None | Some(CertificateValidity::Expired) => "is expired",
            Some(CertificateValidity::NotYetValid) => "is not valid yet",
            _ if related[place] => "is not needed on the path to the root",
            _ => "has nothing to do with the certificate",
        };
        ignored.push(IgnoredCertificate {
            subject_dn,
            sha256_fingerprint: candidate.certificate.sha256_fingerprint(),
            reason,
        });
    }
    let issuers = path.issuers.iter();
    let chain = issuers.map(|place| graph.candidates()[*place].certificate.clone());
    Ok(Certified {
        leaf: read::read_parsed(&own.certificate, &own.parsed)?,
        chain: chain.collect(),
        ignored,
    })
}
