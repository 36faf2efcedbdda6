//! The token and the software library by themselves, as the daemon uses them: what it is measured against.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use crate::measure::{Samples, cpu_time_of_this_thread};
use crate::token::{LABEL, MODULE, PIN};

/// The token that `SOFTHSM2_CONF` of this process points to, with a login.
#[derive(Debug)]
pub struct BareToken {
    pkcs11: Pkcs11,
    slot: Slot,
    /// A session of our own.
    pub session: Session,
}

impl BareToken {
    /// Loads the module and logs in.
    pub fn open() -> Self {
        let pkcs11 = Pkcs11::new(MODULE).unwrap();
        pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .unwrap();
        let slots = pkcs11.get_slots_with_token().unwrap();
        let slot = slots
            .into_iter()
            .find(|slot| {
                pkcs11
                    .get_token_info(*slot)
                    .is_ok_and(|token| token.label() == LABEL)
            })
            .unwrap();
        let session = pkcs11.open_rw_session(slot).unwrap();
        session
            .login(UserType::User, Some(&AuthPin::from(PIN)))
            .unwrap();
        Self {
            pkcs11,
            slot,
            session,
        }
    }

    /// Opens another session, which shares the login.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            pkcs11: self.pkcs11.clone(),
            slot: self.slot,
            session: self.pkcs11.open_rw_session(self.slot).unwrap(),
        }
    }

    /// Makes a key pair with the daemon's attributes (`C_GenerateKeyPair`), and times that.
    pub fn generate(&self, key: BareKey, times: &mut Samples) -> (ObjectHandle, ObjectHandle) {
        let id: [u8; 16] = rand::random();
        let named = || {
            vec![
                Attribute::Token(true),
                Attribute::Id(id.to_vec()),
                Attribute::Label(b"bare".to_vec()),
            ]
        };
        let mut public = named();
        public.extend([
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::Encrypt(false),
        ]);
        let mut private = named();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
        ]);
        let mechanism = match key {
            BareKey::P256 | BareKey::P384 => {
                public.push(Attribute::EcParams(match key {
                    BareKey::P256 => b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec(),
                    _ => b"\x06\x05\x2b\x81\x04\x00\x22".to_vec(),
                }));
                Mechanism::EccKeyPairGen
            }
            BareKey::Ed25519 => {
                public.push(Attribute::EcParams(b"\x13\x0cedwards25519".to_vec()));
                Mechanism::EccEdwardsKeyPairGen
            }
            BareKey::Rsa2048 | BareKey::Rsa4096 => {
                public.push(Attribute::ModulusBits(match key {
                    BareKey::Rsa2048 => 2048.into(),
                    _ => 4096.into(),
                }));
                public.push(Attribute::PublicExponent(vec![1, 0, 1]));
                Mechanism::RsaPkcsKeyPairGen
            }
        };
        times.time(|| {
            self.session
                .generate_key_pair(&mechanism, &public, &private)
                .unwrap()
        })
    }

    /// Signs on some threads for a while, each with a session of its own and the handle at hand.
    pub fn sign(
        &self,
        key: BareKey,
        handle: ObjectHandle,
        threads: usize,
        duration: Duration,
    ) -> Bare {
        let (pkcs11, slot) = (&self.pkcs11, self.slot);
        bare_loop(threads, duration, || {
            let session = pkcs11.open_rw_session(slot).unwrap();
            let (mechanism, input) = key.signing();
            move || {
                session.sign(&mechanism, handle, &input).unwrap();
            }
        })
    }
}

impl BareToken {
    /// Signs at a steady rate on some threads. The latency of a signature counts from when it was due.
    pub fn sign_paced(
        &self,
        key: BareKey,
        handle: ObjectHandle,
        threads: usize,
        rate: f64,
        duration: Duration,
    ) -> Bare {
        let (pkcs11, slot) = (&self.pkcs11, self.slot);
        let next = AtomicU32::new(0);
        on_threads(threads, |begun| {
            let session = pkcs11.open_rw_session(slot).unwrap();
            let (mechanism, input) = key.signing();
            let mut latencies = Samples::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = Duration::from_secs_f64(f64::from(number) / rate);
                if due > duration {
                    return latencies;
                }
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
                session.sign(&mechanism, handle, &input).unwrap();
                latencies.add(begun.elapsed().saturating_sub(due));
            }
        })
    }
}

/// Kinds of key that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareKey {
    /// EC, 256 bits.
    P256,
    /// EC, 384 bits.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 4096 bits.
    Rsa4096,
}

impl BareKey {
    /// Returns `keyAlgorithm` and `keySize`.
    pub fn settings(self) -> (&'static str, i32) {
        match self {
            Self::P256 => ("EC", 256),
            Self::P384 => ("EC", 384),
            Self::Ed25519 => ("ED25519", 255),
            Self::Rsa2048 => ("RSA", 2048),
            Self::Rsa4096 => ("RSA", 4096),
        }
    }

    /// Returns the mechanism, and what it is given when a digest of 32 bytes is signed.
    fn signing(self) -> (Mechanism<'static>, Vec<u8>) {
        match self {
            Self::P256 | Self::P384 => (Mechanism::Ecdsa, vec![7; 32]),
            Self::Ed25519 => (
                Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
                vec![7; 32],
            ),
            Self::Rsa2048 | Self::Rsa4096 => {
                let mut input =
                    b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
                        .to_vec();
                input.extend([7; 32]);
                (Mechanism::RsaPkcs, input)
            }
        }
    }

    /// Signs with aws-lc-rs on some threads for a while.
    pub fn sign_in_software(self, threads: usize, duration: Duration) -> Bare {
        use aws_lc_rs::digest::{self, Digest};
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature as sig;
        let random = aws_lc_rs::rand::SystemRandom::new();
        match self {
            Self::P256 | Self::P384 => {
                let (signing, hash) = match self {
                    Self::P256 => (&sig::ECDSA_P256_SHA256_ASN1_SIGNING, &digest::SHA256),
                    _ => (&sig::ECDSA_P384_SHA384_ASN1_SIGNING, &digest::SHA384),
                };
                let key = sig::EcdsaKeyPair::generate(signing).unwrap();
                let input = vec![7; hash.output_len()];
                bare_loop(threads, duration, || {
                    || {
                        let digest = Digest::import_less_safe(&input, hash).unwrap();
                        key.sign_digest(&digest).unwrap();
                    }
                })
            }
            Self::Ed25519 => {
                let key = sig::Ed25519KeyPair::generate().unwrap();
                bare_loop(threads, duration, || {
                    || {
                        let _ = key.sign(&[7; 32]);
                    }
                })
            }
            Self::Rsa2048 | Self::Rsa4096 => {
                let size = match self {
                    Self::Rsa2048 => KeySize::Rsa2048,
                    _ => KeySize::Rsa4096,
                };
                let key = sig::RsaKeyPair::generate(size).unwrap();
                bare_loop(threads, duration, || {
                    || {
                        let mut signature = vec![0; key.public_modulus_len()];
                        key.sign(&sig::RSA_PKCS1_SHA256, &random, &[7; 32], &mut signature)
                            .unwrap();
                    }
                })
            }
        }
    }
}

/// What a bare loop gave.
#[derive(Clone, Debug)]
pub struct Bare {
    /// Signatures in a second.
    pub rate: f64,
    /// Processor time of one signature.
    pub cpu: Duration,
    /// How long each signature took.
    pub latencies: Samples,
}

fn bare_loop<W: FnMut()>(
    threads: usize,
    duration: Duration,
    worker: impl Fn() -> W + Sync,
) -> Bare {
    let ready = Barrier::new(threads);
    on_threads(threads, |_| {
        let mut work = worker();
        let mut latencies = Samples::default();
        ready.wait();
        let begun = Instant::now();
        while begun.elapsed() < duration {
            latencies.time(&mut work);
        }
        latencies
    })
}

/// Runs work on some threads, each of which is told when they were started.
fn on_threads(threads: usize, work: impl Fn(Instant) -> Samples + Sync) -> Bare {
    let begun = Instant::now();
    let work = || (work(begun), cpu_time_of_this_thread());
    let (mut latencies, mut cpu) = (Samples::default(), Duration::ZERO);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (its_latencies, its_cpu) = worker.join().unwrap();
            latencies.extend(its_latencies);
            cpu += its_cpu;
        }
    });
    let took = begun.elapsed();
    let count = u32::try_from(latencies.len()).unwrap();
    Bare {
        rate: f64::from(count) / took.as_secs_f64(),
        cpu: cpu / count,
        latencies,
    }
}
