//! The conformance suite, for both providers.

use keypaird::providers::CryptoProvider;
use keypaird::providers::local::{KeyEncryptionKey, LocalProvider};
use keypaird::providers::pkcs11::{
    PinSource, Pkcs11Config, Pkcs11Provider, TokenSelector, VerifySignatures,
};
use softhsm_tests::conformance::{destroy, generate, sign};
use softhsm_tests::own_process::{self, TokenHere};
use softhsm_tests::token::{LABEL, module};

fn local() -> LocalProvider {
    let folder = tempfile::tempdir().unwrap();
    LocalProvider::new(KeyEncryptionKey::create(&folder.path().join("kek")).unwrap())
}

fn token(here: &TokenHere) -> Pkcs11Provider {
    let provider = Pkcs11Provider::new(Pkcs11Config {
        module: module().into(),
        token: TokenSelector::Label(LABEL.into()),
        pin: PinSource::File(here.pin_file.clone()),
        last_try: false,
        verify_signatures: VerifySignatures::Always,
    });
    provider.connect().unwrap();
    provider
}

/// Makes two tests of each sentence: one for the software provider, one for the token.
macro_rules! conformance {
    ($($room:ident :: $sentence:ident),* $(,)?) => {
        mod software {
            $(#[test]
            fn $sentence() {
                super::$room::$sentence(&super::local());
            })*
        }
        mod softhsm2 {
            $(#[test]
            fn $sentence() {
                let name = concat!("softhsm2::", stringify!($sentence));
                super::own_process::with_token(name, |here| {
                    super::$room::$sentence(&super::token(here));
                });
            })*
        }
    };
}

conformance!(
    generate::makes_every_kind_of_key,
    generate::claims_everything,
    sign::signs_what_openssl_verifies,
    sign::refuses_algorithms_of_other_keys,
    sign::tells_of_a_missing_key,
    destroy::destroying_nothing_is_no_error,
    destroy::destroys_one_key_and_no_other,
);
