//! A trial of a token by a key that lies on no token: made, signed with, and gone.

use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::{generate, mechanism, sign, template};
use crate::domain::{Curve, Generation, KeyPairId, KeyRef, KeySpec, RsaSize, SigningInput};
use crate::providers::{Capabilities, KeyName};

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rehearsal {
    /// The token made a key of this kind, and a signature that its public key verifies.
    Signed(KeySpec),
    /// The token makes no key for a session only. That says nothing of other keys.
    NotMade(String),
}

/// Makes a key for this session only (`CKA_TOKEN` false), signs with it, verifies the signature, and destroys it.
///
/// Such a key is seen by nobody but this process, and ends with it. But within this process it would be taken for a half-made one, so this is
/// for a process that does nothing else.
pub(super) fn rehearse(
    session: &Session,
    capabilities: &Capabilities,
) -> Result<Rehearsal, Failure> {
    let can = |spec: &KeySpec| capabilities.specs(spec.algorithm()).any(|one| one == *spec);
    let Some(spec) = KINDS.into_iter().find(can) else {
        let none = "it can do no kind of key that keypaird uses";
        return Ok(Rehearsal::NotMade(none.to_owned()));
    };
    let name = KeyName {
        id: KeyPairId::from_random([0; 16]),
        generation: Generation::FIRST,
        key_ref: KeyRef::from_random([0; 16]),
    };
    let made = session.generate_key_pair(
        &mechanism::generate(spec.algorithm()),
        &for_the_session(template::public_key(&name, spec)),
        &for_the_session(template::private_key(&name)),
    );
    let (public, private) = match made {
        Ok(made) => made,
        Err(cause) => return Ok(Rehearsal::NotMade(Failure::from(cause).to_string())),
    };
    let signed = sign_and_verify(session, public, private, spec);
    for handle in [public, private] {
        // It ends with the session in any case.
        let _ = session.destroy_object(handle);
    }
    signed.map(|()| Rehearsal::Signed(spec))
}

fn sign_and_verify(
    session: &Session,
    public: ObjectHandle,
    private: ObjectHandle,
    spec: KeySpec,
) -> Result<(), Failure> {
    let public_key = generate::read_public_key(session, public, spec)?;
    let algorithm = spec.algorithm().default_signature_algorithm();
    let input = SigningInput::Message(b"keypaird check-config"[..].into());
    let input = &*input.hashed(algorithm);
    let signature = sign::sign_with(session, private, spec, algorithm, input)?;
    let verified = public_key.verify(algorithm, input, &signature);
    verified.map_err(|_| Failure::WrongSignature)
}

fn for_the_session(mut template: Vec<Attribute>) -> Vec<Attribute> {
    template.retain(|attribute| !matches!(attribute, Attribute::Token(_)));
    template.push(Attribute::Token(false));
    template
}

/// The kinds of key to try, the quickest first.
const KINDS: [KeySpec; 3] = [
    KeySpec::Ec(Curve::P256),
    KeySpec::Ed25519,
    KeySpec::Rsa(RsaSize::Bits2048),
];
