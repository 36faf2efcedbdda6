//! What the token says it can do.

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::{MechanismInfo, MechanismType};
use cryptoki::slot::Slot;

use super::error::Failure;
use super::mechanism;
use crate::domain::{Hash, KeyAlgorithm, KeySpec, SignatureAlgorithm};
use crate::providers::Capabilities;

/// Asks the token (`C_GetMechanismList`, `C_GetMechanismInfo`) for each kind of key of ours: whether it
/// generates and signs with it, and keys of that size.
pub(super) fn ask(pkcs11: &Pkcs11, slot: Slot) -> Result<Capabilities, Failure> {
    let mechanisms = pkcs11.get_mechanism_list(slot)?;
    let info = |wanted: MechanismType| -> Option<MechanismInfo> {
        mechanisms.contains(&wanted).then_some(())?;
        pkcs11.get_mechanism_info(slot, wanted).ok()
    };
    let mut capabilities = Capabilities::all();
    for algorithm in KeyAlgorithm::ALL {
        let generates = info(mechanism::key_pair_generation(algorithm));
        let signs = info(mechanism::signature(algorithm));
        for spec in algorithm.specs() {
            if let Some(reason) = lacking(*spec, generates.as_ref(), signs.as_ref()) {
                capabilities.lacks(*spec, reason);
            }
        }
    }
    let pss = MechanismType::RSA_PKCS_PSS;
    if !info(pss).is_some_and(|info| info.sign()) {
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let algorithm = SignatureAlgorithm::RsaPss(hash);
            capabilities.lacks_signature(algorithm, format!("has no {pss} to sign"));
        }
    }
    Ok(capabilities)
}

/// Says why a kind of key cannot be done, if it cannot.
fn lacking(
    spec: KeySpec,
    generates: Option<&MechanismInfo>,
    signs: Option<&MechanismInfo>,
) -> Option<String> {
    let algorithm = spec.algorithm();
    let generation = mechanism::key_pair_generation(algorithm);
    let signature = mechanism::signature(algorithm);
    let Some(generates) = generates.filter(|info| info.generate_key_pair()) else {
        return Some(format!("has no {generation} to generate key pairs"));
    };
    let Some(signs) = signs.filter(|info| info.sign()) else {
        return Some(format!("has no {signature} to sign"));
    };
    // The one Edwards curve of ours is counted as 255 bits, 256 bits or 32 bytes by different tokens.
    if spec == KeySpec::Ed25519 {
        return None;
    }
    let bits = usize::try_from(spec.bits()).unwrap_or_default();
    for (info, name) in [(generates, generation), (signs, signature)] {
        let (min, max) = (info.min_key_size(), info.max_key_size());
        // Some tokens leave the range empty.
        if max != 0 && !(min..=max).contains(&bits) {
            return Some(format!("has {name} for {min} to {max} bits only"));
        }
    }
    None
}
