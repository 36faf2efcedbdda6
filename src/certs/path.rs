//! The path from a certificate to its root through a set of others, which is a graph: of one CA
//! there may be several certificates, of which one is expired, or signed by another CA.
//!
//! The search goes up level by level, from the certificate to all its issuers, to all of theirs,
//! and so on, and ends at the first level with a root. A certificate is reached again only with
//! fewer CAs below it, so the work is bounded by the square of the number of certificates, and each
//! signature is verified once. A search that follows each path to its end would take exponential
//! time in a set made for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use der::Encode;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::dates;
use super::names::CanonicalName;
use super::read::{self, Parsed, dn};
use super::signature::{self, SignatureCheck};
use crate::domain::{Certificate, CertificateValidity, END_OF_TIME, PublicKey, Refusal, Validity};

/// A certificate that may stand on a path, read once.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) certificate: Certificate,
    pub(super) parsed: Parsed,
    /// The key, when it is of a kind that keypaird keeps.
    pub(super) public_key: Option<PublicKey>,
    pub(super) validity: Option<Validity>,
    subject: CanonicalName,
    issuer: CanonicalName,
    key_id: Option<Vec<u8>>,
    issuer_key_id: Option<Vec<u8>>,
}

impl Candidate {
    pub(super) fn read(certificate: Certificate) -> Result<Self, Refusal> {
        let parsed = read::parse(&certificate)?;
        let (key_id, issuer_key_id) = read::key_identifiers(&parsed);
        let tbs = parsed.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().ok();
        Ok(Self {
            public_key: spki.and_then(|spki| PublicKey::from_spki_der(&spki).ok()),
            validity: dates::validity(certificate.der()),
            subject: CanonicalName::of(tbs.subject()),
            issuer: CanonicalName::of(tbs.issuer()),
            certificate,
            parsed,
            key_id,
            issuer_key_id,
        })
    }

    /// Returns the subject, to be shown.
    pub(super) fn shown(&self) -> String {
        dn(self.parsed.tbs_certificate().subject())
    }

    pub(super) fn status(&self, now: OffsetDateTime) -> Option<CertificateValidity> {
        self.validity.map(|validity| validity.at(now))
    }

    /// Tells whether it names itself as its issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Tells whether it names another as its issuer.
    fn names(&self, other: &Self) -> bool {
        !other.subject.is_empty() && self.issuer == other.subject
    }

    /// Tells whether the two name different keys as the one that signed it.
    fn names_another_key_than(&self, other: &Self) -> bool {
        match (&self.issuer_key_id, &other.key_id) {
            (Some(named), Some(own)) => named != own,
            _ => false,
        }
    }

    /// Tells whether the two have to do with each other: one issued the other, or they are of one
    /// CA or one key.
    fn is_related_to(&self, other: &Self) -> bool {
        let same_key = self.public_key.is_some() && self.public_key == other.public_key;
        same_key || self.subject == other.subject || self.names(other) || other.names(self)
    }
}

/// A path, as places in the set: the issuer of the certificate first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) issuers: Vec<usize>,
    /// Whether it ends at a root.
    pub(super) is_complete: bool,
}

/// A set of certificates, in an order of its own.
#[derive(Debug)]
pub(super) struct Graph {
    candidates: Vec<Candidate>,
    checked: HashMap<(usize, usize), SignatureCheck>,
    /// How many signatures may still be verified. One of P-521, the slowest, takes about a
    /// millisecond.
    checks_left: u32,
}

/// How far a path has come.
#[derive(Clone, Copy, Debug)]
struct Step {
    place: usize,
    /// How many CAs stand between it and the first certificate that do not issue themselves: these
    /// count for `pathLenConstraint` (RFC 5280 section 4.2.1.9).
    below: usize,
    /// When the first of its issuers expires.
    until: OffsetDateTime,
    /// The step before, by its place in the list of all.
    before: Option<usize>,
    depth: usize,
    /// Why it leads nowhere, although an issuer is named there.
    blocked: Option<Blocked>,
}

impl Step {
    /// Tells whether the path may end here: the next issuer is missing, or stands above an issuer
    /// and is outside its validity. Roots need not be sent, so the path stands without it.
    const fn may_end(&self) -> bool {
        match self.blocked {
            None => true,
            Some(Blocked::Expired(_)) => self.depth > 0,
            Some(_) => false,
        }
    }
}

/// Why a certificate that bears an issuer's name is not taken, the weightiest reason last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blocked {
    /// Its key did not sign.
    OtherKey(usize),
    /// How it signed is not known.
    UnknownAlgorithm(usize),
    /// It is expired, or not valid yet.
    Expired(usize),
    /// It may not issue.
    NoCa(usize),
    /// Its `pathLenConstraint` allows fewer CAs below it.
    TooLong(usize),
}

impl Graph {
    /// Takes a set. Which path is found does not depend on the order in which it comes.
    pub(super) fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(|one, other| one.certificate.der().cmp(other.certificate.der()));
        candidates.dedup_by(|one, other| one.certificate == other.certificate);
        Self {
            candidates,
            checked: HashMap::new(),
            checks_left: SIGNATURE_CHECKS_MAX,
        }
    }

    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Tells whether a certificate is self-signed.
    pub(super) fn is_self_signed(&mut self, place: usize) -> Result<bool, Refusal> {
        let is_self_issued = self.candidates[place].is_self_issued();
        Ok(is_self_issued && self.check(place, place)? == SignatureCheck::Good)
    }

    /// Finds the path of a certificate whose issuers are valid at a time.
    ///
    /// Of several, it is one that ends at a root, the shortest of these, and of these the one whose
    /// issuers are valid longest. A path whose last issuer is not in the set, or is outside its
    /// validity, is taken too, but the issuer of the certificate itself must be valid. Key
    /// identifiers are believed at first, as OpenSSL does, and when that leads to no root they are
    /// not.
    ///
    /// # Errors
    /// When an issuer is in the set, and no issuer of that name is fit to be one; when more than
    /// [`SIGNATURE_CHECKS_MAX`] signatures would have to be verified.
    pub(super) fn path(&mut self, leaf: usize, now: OffsetDateTime) -> Result<Path, Refusal> {
        match self.search(leaf, now, true)? {
            Ok(path) if path.is_complete => Ok(path),
            strict => {
                let lenient = self.search(leaf, now, false);
                match (strict, lenient) {
                    (Ok(_), Ok(Ok(lenient))) if lenient.is_complete => Ok(lenient),
                    // Also when the signature checks did not suffice for the other search.
                    (Ok(strict), _) => Ok(strict),
                    (Err(_), lenient) => lenient?,
                }
            }
        }
    }

    /// Tells which of the certificates beside a path have to do with it, be it over others.
    pub(super) fn related(&self, leaf: usize, path: &Path) -> Vec<bool> {
        let mut related = vec![false; self.candidates.len()];
        let mut open: Vec<_> = path.issuers.iter().copied().chain([leaf]).collect();
        for place in &open {
            related[*place] = true;
        }
        while let Some(known) = open.pop() {
            for (place, candidate) in self.candidates.iter().enumerate() {
                if !related[place] && candidate.is_related_to(&self.candidates[known]) {
                    related[place] = true;
                    open.push(place);
                }
            }
        }
        related
    }

    /// Searches level by level. The inner result is the refusal of a set without any path.
    fn search(
        &mut self,
        leaf: usize,
        now: OffsetDateTime,
        believes_key_ids: bool,
    ) -> Result<Result<Path, Refusal>, Refusal> {
        let mut steps = vec![Step {
            place: leaf,
            below: 0,
            until: END_OF_TIME,
            before: None,
            depth: 0,
            blocked: None,
        }];
        if self.is_root(leaf)? {
            let path = Path {
                issuers: Vec::new(),
                is_complete: true,
            };
            return Ok(Ok(path));
        }
        // The fewest CAs below with which each was reached.
        let mut reached: HashMap<usize, usize> = HashMap::from([(leaf, 0)]);
        let (mut ends, mut level) = (Vec::new(), vec![0]);
        while !level.is_empty() {
            let mut next: BTreeMap<usize, Step> = BTreeMap::new();
            for index in level {
                let step = steps[index];
                let (issuers, blocked) = self.issuers(step, now, believes_key_ids)?;
                if issuers.is_empty() {
                    ends.push(index);
                    steps[index].blocked = blocked;
                }
                for place in issuers {
                    let is_self_issued = self.candidates[place].is_self_issued();
                    let found = Step {
                        place,
                        below: step.below + usize::from(!is_self_issued),
                        until: step.until.min(self.expiry(place)),
                        before: Some(index),
                        depth: step.depth + 1,
                        blocked: None,
                    };
                    if reached
                        .get(&place)
                        .is_some_and(|below| *below <= found.below)
                    {
                        continue;
                    }
                    let better = next.get(&place).is_none_or(|known| {
                        (found.below, Reverse(found.until)) < (known.below, Reverse(known.until))
                    });
                    if better {
                        next.insert(place, found);
                    }
                }
            }
            let mut roots = Vec::new();
            level = Vec::new();
            for (place, step) in next {
                reached.insert(place, step.below);
                level.push(steps.len());
                if self.is_root(place)? {
                    roots.push(steps.len());
                }
                steps.push(step);
            }
            if let Some(root) = roots
                .into_iter()
                .min_by_key(|index| Reverse(steps[*index].until))
            {
                return Ok(Ok(path_to(&steps, root, true)));
            }
        }
        Ok(self.longest(&steps, ends, now))
    }

    /// Chooses among paths that end without a root: one that lacks nothing but what is not in the
    /// set.
    fn longest(
        &self,
        steps: &[Step],
        mut ends: Vec<usize>,
        now: OffsetDateTime,
    ) -> Result<Path, Refusal> {
        ends.sort_by_key(|index| {
            let step = steps[*index];
            let blocked = (!step.may_end(), step.blocked);
            (blocked, Reverse(step.depth), Reverse(step.until))
        });
        let Some(end) = ends.first() else {
            // All ways lead in a circle, of CAs that have certified each other: each is known
            // already.
            let deepest = (0..steps.len()).min_by_key(|index| Reverse(steps[*index].depth));
            return Ok(path_to(steps, deepest.unwrap_or_default(), false));
        };
        match steps[*end].blocked {
            Some(blocked) if !steps[*end].may_end() => {
                Err(self.refusal(steps[*end].place, blocked, now))
            }
            _ => Ok(path_to(steps, *end, false)),
        }
    }

    fn refusal(&self, certificate: usize, blocked: Blocked, now: OffsetDateTime) -> Refusal {
        let certificate = &self.candidates[certificate];
        match blocked {
            Blocked::OtherKey(issuer) => Refusal::of(
                &self.candidates[issuer].shown(),
                format_args!(
                    "has the name of the issuer of {:?} but another key than the one that signed it, so it does not belong to the chain; give the issuer's certificate of the right key, or leave this one out",
                    certificate.shown()
                ),
            ),
            Blocked::UnknownAlgorithm(issuer) => Refusal::of(
                &certificate.shown(),
                format_args!(
                    "is signed with {}, which keypaird does not verify with the key of {:?}; give the certificate without those of its issuers",
                    read::signature_name(certificate.parsed.signature_algorithm()),
                    self.candidates[issuer].shown()
                ),
            ),
            Blocked::Expired(issuer) => {
                let issuer = &self.candidates[issuer];
                Refusal::of(&issuer.shown(), outside_validity(issuer.validity, now))
            }
            Blocked::NoCa(issuer) => Refusal::of(
                &self.candidates[issuer].shown(),
                "may not issue certificates (basicConstraints, keyUsage), and has issued one of the chain",
            ),
            Blocked::TooLong(issuer) => Refusal::of(
                &self.candidates[issuer].shown(),
                "has a pathLenConstraint that allows fewer CAs below it than the chain has",
            ),
        }
    }

    /// Returns the issuers of a certificate that are fit to be, or why those of that name are not.
    fn issuers(
        &mut self,
        step: Step,
        now: OffsetDateTime,
        believes_key_ids: bool,
    ) -> Result<(Vec<usize>, Option<Blocked>), Refusal> {
        let (mut issuers, mut blocked) = (Vec::new(), None);
        for place in 0..self.candidates.len() {
            let (certificate, issuer) = (&self.candidates[step.place], &self.candidates[place]);
            if place == step.place || !certificate.names(issuer) {
                continue;
            }
            if believes_key_ids && certificate.names_another_key_than(issuer) {
                blocked = blocked.max(Some(Blocked::OtherKey(place)));
                continue;
            }
            let why = match self.check(step.place, place)? {
                SignatureCheck::Wrong => Some(Blocked::OtherKey(place)),
                SignatureCheck::Unknown => Some(Blocked::UnknownAlgorithm(place)),
                SignatureCheck::Good => self.unfit(place, step.below, now),
            };
            match why {
                None => issuers.push(place),
                Some(_) => blocked = blocked.max(why),
            }
        }
        Ok((issuers, blocked))
    }

    fn unfit(&self, place: usize, below: usize, now: OffsetDateTime) -> Option<Blocked> {
        let issuer = &self.candidates[place];
        if !read::may_issue(&issuer.parsed, 0, issuer.is_self_issued()) {
            return Some(Blocked::NoCa(place));
        }
        if !read::may_issue(&issuer.parsed, below, issuer.is_self_issued()) {
            return Some(Blocked::TooLong(place));
        }
        let is_valid = issuer.status(now) == Some(CertificateValidity::Valid);
        (!is_valid).then_some(Blocked::Expired(place))
    }

    /// Tells whether a path ends at a certificate: it is self-signed, or cannot be told from one
    /// that is.
    fn is_root(&mut self, place: usize) -> Result<bool, Refusal> {
        let is_self_issued = self.candidates[place].is_self_issued();
        Ok(is_self_issued && self.check(place, place)? != SignatureCheck::Wrong)
    }

    /// Verifies the signature of a certificate with the key of another, once.
    fn check(&mut self, certificate: usize, issuer: usize) -> Result<SignatureCheck, Refusal> {
        if let Some(known) = self.checked.get(&(certificate, issuer)) {
            return Ok(*known);
        }
        self.checks_left = self.checks_left.checked_sub(1).ok_or_else(|| {
            Refusal::new(format!(
                "has so many certificates of one name that more than {SIGNATURE_CHECKS_MAX} signatures would have to be checked to order them; give only those of the chain"
            ))
        })?;
        let (one, by) = (&self.candidates[certificate], &self.candidates[issuer]);
        let found = signature::check(&one.certificate, &one.parsed, &by.parsed);
        self.checked.insert((certificate, issuer), found);
        Ok(found)
    }

    fn expiry(&self, place: usize) -> OffsetDateTime {
        let validity = self.candidates[place].validity;
        validity.map_or(OffsetDateTime::UNIX_EPOCH, |validity| validity.not_after)
    }
}

/// Says on which side of its validity a certificate is, with the date.
fn outside_validity(validity: Option<Validity>, now: OffsetDateTime) -> String {
    let shown = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    match validity {
        Some(validity) if validity.at(now) == CertificateValidity::NotYetValid => {
            format!("is not valid before {}", shown(validity.not_before))
        }
        Some(validity) => format!("expired at {}", shown(validity.not_after)),
        None => "has no validity that can be read".to_owned(),
    }
}

/// Follows the steps back to the first certificate, which is not part of what is returned.
fn path_to(steps: &[Step], end: usize, is_complete: bool) -> Path {
    let mut issuers = Vec::new();
    let mut step = steps.get(end);
    while let Some(found) = step {
        step = found.before.and_then(|before| steps.get(before));
        if step.is_some() {
            issuers.push(found.place);
        }
    }
    issuers.reverse();
    Path {
        issuers,
        is_complete,
    }
}

/// What a chain of 32 takes, whose certificates name the keys that signed them, and one of nine
/// that share a name and do not.
const SIGNATURE_CHECKS_MAX: u32 = 96;
