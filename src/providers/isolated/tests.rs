//! The provider with a process that is not what it should be.

use std::fs;
use std::io::stdin;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::wire::{Channel, Connected, Reply};
use super::*;
use crate::domain::{Generation, KeyPairId, PublicKey};
use crate::providers::pkcs11::{PinSource, TokenSelector, VerifySignatures};

/// The program of the tests itself, of which only [`as_a_process_that_cannot_count`] runs.
fn process_that_cannot_count() -> WorkerCommand {
    let test = "providers::isolated::tests::as_a_process_that_cannot_count";
    WorkerCommand {
        program: "/proc/self/exe".into(),
        arguments: ["--exact", test, "--nocapture"].map(Into::into).into(),
    }
}

/// The life of that process: it answers with two signatures where one is asked for, and with one too
/// few where more are.
#[test]
fn as_a_process_that_cannot_count() {
    // Processes of the module are called so; when all tests run, there is nothing to do.
    let called = fs::read("/proc/self/cmdline").unwrap();
    if !called.starts_with(b"keypaird\0") {
        return;
    }
    let control = stdin().as_fd().try_clone_to_owned().unwrap();
    let mut channel = Channel::new(UnixStream::from(control), None).unwrap();
    let _: Begin = channel.receive().unwrap();
    let connected = Connected {
        token: TokenIdentity {
            label: "x".to_owned(),
            serial_number: "1".to_owned(),
            model: "x".to_owned(),
            write_protected: false,
        },
        capabilities: Capabilities::all(),
    };
    channel.send(&Ok::<_, Fault>(connected)).unwrap();
    let control = channel.into_stream();
    let (_, stream) = worker::receive(&control).unwrap();
    let mut channel = Channel::new(UnixStream::from(stream.unwrap()), None).unwrap();
    while let Ok(Request::Sign(orders)) = channel.receive() {
        let count = match orders.len() {
            1 => 2,
            more => more - 1,
        };
        let signatures = (0..count).map(|_| Ok(ByteBuf::from(b"signature".to_vec())));
        let reply = Reply::<Signatures> {
            connected: true,
            result: Ok(signatures.collect()),
        };
        channel.send(&reply).unwrap();
    }
}

fn order() -> SigningOrder {
    let name = KeyName {
        id: KeyPairId::parse("x").unwrap(),
        generation: Generation::FIRST,
        key_ref: KeyRef::from_random([1; 16]),
    };
    let key = StoredKey {
        name,
        public_key: PublicKey::new(KeySpec::Ed25519, [7; 32]),
        sealed: None,
    };
    SigningOrder {
        key: Arc::new(key),
        algorithm: SignatureAlgorithm::Ed25519,
        input: SigningInput::Message(b"message"[..].into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_another_number_than_asked_for_go_to_no_caller_and_end_the_process() {
    let config = Pkcs11Config {
        module: "/nowhere".into(),
        token: TokenSelector::Label("x".to_owned()),
        verify_signatures: VerifySignatures::Always,
        last_try: false,
        pin: PinSource::Value("1234".to_owned().into()),
    };
    let patience = Duration::from_secs(60);
    let provider = IsolatedPkcs11Provider::new(config, process_that_cannot_count(), patience);
    let lost = |signed: &Result<Vec<u8>, ProviderError>| {
        let kind = signed.as_ref().map_err(|error| error.kind);
        kind == Err(ProviderErrorKind::Unavailable)
    };
    for count in [3, 1] {
        provider.connect().unwrap();
        let signed = provider.sign_all(vec![order(); count]).await;
        assert_eq!(signed.len(), count);
        assert!(signed.iter().all(lost), "{signed:?}");
        assert!(provider.availability().is_err());
    }
    // One by one too. To connect, the former process has to be gone.
    provider.connect().unwrap();
    let one = order();
    let signed = provider.sign(&one.key, one.algorithm, &one.input);
    assert!(lost(&signed), "{signed:?}");
    assert!(provider.availability().is_err());
    provider.disconnect();
}
