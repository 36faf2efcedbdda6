//! What is signed, or was: a message or its digest, as `sign` and `verify` take it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::connect::Daemon;
use super::error::Failure;
use super::output::signing_algorithm;
use super::values::SIGNATURE_ALGORITHMS;
use super::{Context, progress};
use crate::proto::{GetSigningKeyPairRequest, KeyPairView, SignatureEncoding};

/// Options that say what is signed, and how.
#[derive(Debug, Args)]
pub(super) struct InputOptions {
    /// File with the message. Standard input when it is `-`, and when there is no --digest either. Of more
    /// than 1 MiB, the digest is made here and sent.
    #[arg(long, value_name = "FILE", conflicts_with = "digest")]
    message: Option<PathBuf>,
    /// Digest of the message in hexadecimal, as long as the hash of the signature algorithm.
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    digest: Option<Bytes>,
    /// Signature algorithm, such as SHA384withECDSA or SHA256withRSAandMGF1. The key pair's when left out.
    #[arg(long, value_name = "NAME", value_parser = SIGNATURE_ALGORITHMS, hide_possible_values = true)]
    signature_algorithm: Option<String>,
    /// Form of an ECDSA signature: `der` as in X.509 and in OpenSSL, `p1363` as in JWS. DER when left out.
    #[arg(long, ignore_case = true)]
    encoding: Option<Encoding>,
}

/// The form of an ECDSA signature.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Encoding {
    /// `Ecdsa-Sig-Value` in DER.
    Der,
    /// r and s side by side.
    #[value(name = "p1363")]
    P1363,
}

/// What a request carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    Message(Bytes),
    Digest(Bytes),
}

/// What has been read so far: all of it, or the beginning of what is too long to be sent.
pub(super) struct Beginning {
    input: Input,
    rest: Option<Box<dyn Read + Send>>,
}

impl InputOptions {
    /// Tells whether standard input is read.
    pub(super) fn is_standard_input(&self) -> bool {
        self.digest.is_none() && self.message.as_deref().is_none_or(is_dash)
    }

    /// Refuses to write the signature over the message.
    pub(super) fn refuse_same_file(&self, out: Option<&Path>) -> Result<(), Failure> {
        let (Some(message), Some(out)) = (&self.message, out) else {
            return Ok(());
        };
        let file = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file);
        let (Some(read), Some(written)) = (file(message), file(out)) else {
            return Ok(());
        };
        if (read.dev(), read.ino()) != (written.dev(), written.ino()) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "--out {} is the file of --message, which the signature would replace; name another file",
            out.display()
        )))
    }

    /// Reads as much as the daemon takes.
    pub(super) fn read(&self) -> Result<Beginning, Failure> {
        if let Some(digest) = &self.digest {
            return Ok(Beginning {
                input: Input::Digest(digest.clone()),
                rest: None,
            });
        }
        let read = match self.message.as_deref().filter(|path| !is_dash(path)) {
            None => begin(io::stdin()),
            Some(path) => File::open(path).and_then(begin),
        };
        read.map_err(|error| self.unreadable(&error))
    }

    /// Brings what was read into the form in which the daemon takes it, and returns it with the signature
    /// algorithm to use, which is empty for that of the key pair.
    ///
    /// A digest needs to know its algorithm: when none is named, the daemon is asked for that of the key pair.
    /// Ed25519 signs no digest. There, and for names that only the daemon can judge, the message is sent
    /// whole, and the daemon says what is wrong.
    pub(super) async fn complete(
        &self,
        beginning: Beginning,
        id: &str,
        daemon: &Daemon,
        context: &Context<'_>,
    ) -> Result<(Input, String), Failure> {
        let mut algorithm = self.signature_algorithm.clone().unwrap_or_default();
        let (Input::Message(message), Some(mut rest)) = (&beginning.input, beginning.rest) else {
            return Ok((beginning.input, algorithm));
        };
        if algorithm.is_empty() {
            let view = key_pair(id, daemon, context).await?;
            signing_algorithm(&view).clone_into(&mut algorithm);
        }
        let hash = Hash::of(&algorithm);
        let begun = message.clone();
        let work = tokio::task::spawn_blocking(move || match hash {
            Some(hash) => Ok(Input::Digest(hash.digest(&begun, rest)?.into())),
            None => {
                let mut message = begun.to_vec();
                rest.read_to_end(&mut message)?;
                Ok(Input::Message(message.into()))
            }
        });
        let done = progress::spin(context.output, "reading the message".to_owned(), work)
            .await
            .map_err(io::Error::from)
            .flatten();
        let input = done.map_err(|error| self.unreadable(&error))?;
        Ok((input, algorithm))
    }

    /// Returns the form of the signature, for a request.
    pub(super) fn encoding(&self) -> i32 {
        match self.encoding {
            None => SignatureEncoding::Unspecified,
            Some(Encoding::Der) => SignatureEncoding::Der,
            Some(Encoding::P1363) => SignatureEncoding::P1363,
        }
        .into()
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::Usage(match &self.message {
            Some(path) if !is_dash(path) => format!("--message {}: {error}", path.display()),
            _ => format!("standard input: {error}"),
        })
    }
}

/// A hash function of signature algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Returns the hash that the name of a signature algorithm begins with; none for Ed25519.
    pub(super) fn of(signature_algorithm: &str) -> Option<Self> {
        match signature_algorithm.split_once("with")?.0 {
            "SHA256" => Some(Self::Sha256),
            "SHA384" => Some(Self::Sha384),
            "SHA512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Returns the length of a digest in bytes.
    pub(super) const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, begun: &[u8], rest: impl Read) -> io::Result<Vec<u8>> {
        match self {
            Self::Sha256 => digest::<Sha256>(begun, rest),
            Self::Sha384 => digest::<Sha384>(begun, rest),
            Self::Sha512 => digest::<Sha512>(begun, rest),
        }
    }
}

/// Asks for a key pair.
pub(super) async fn key_pair(
    id: &str,
    daemon: &Daemon,
    context: &Context<'_>,
) -> Result<KeyPairView, Failure> {
    let request = GetSigningKeyPairRequest { id: id.to_owned() };
    let request = context.connection.request(request);
    let answer = daemon.key_pairs().get_signing_key_pair(request).await?;
    Ok(answer.into_inner().key_pair.unwrap_or_default())
}

/// Reads a whole file, or standard input. What is longer than the daemon takes is refused by it.
pub(super) fn read_whole(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut read = Vec::new();
    let done = match is_dash(path) {
        true => io::stdin().take(FILE_LEN_MAX).read_to_end(&mut read),
        false => File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut read)),
    };
    match done {
        Ok(_) => Ok(read),
        Err(error) => Err(Failure::Usage(format!("{}: {error}", path.display()))),
    }
}

/// Tells whether a path stands for standard input.
pub(super) fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn begin(mut from: impl Read + Send + 'static) -> io::Result<Beginning> {
    let mut message = Vec::new();
    from.by_ref()
        .take(MESSAGE_LEN_MAX + 1)
        .read_to_end(&mut message)?;
    let is_all = u64::try_from(message.len()).is_ok_and(|len| len <= MESSAGE_LEN_MAX);
    Ok(Beginning {
        input: Input::Message(message.into()),
        rest: (!is_all).then(|| -> Box<dyn Read + Send> { Box::new(from) }),
    })
}

fn digest<D: Digest>(begun: &[u8], mut rest: impl Read) -> io::Result<Vec<u8>> {
    let mut hasher = D::new();
    hasher.update(begun);
    let mut block = vec![0; BLOCK_LEN];
    loop {
        match rest.read(&mut block) {
            Ok(0) => return Ok(hasher.finalize().to_vec()),
            Ok(len) => hasher.update(&block[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse_hex(text: &str) -> Result<Bytes, String> {
    let digit = |digit: u8| {
        let value = char::from(digit).to_digit(16);
        value.and_then(|value| u8::try_from(value).ok())
    };
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes
        .map(Bytes::from)
        .ok_or_else(|| "must be hexadecimal, two digits for each byte".to_owned())
}

/// The longest message that the daemon takes.
const MESSAGE_LEN_MAX: u64 = 1024 * 1024;
/// Longer than any file with a key or certificates that the daemon takes.
const FILE_LEN_MAX: u64 = 1024 * 1024;
const BLOCK_LEN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_hexadecimal() {
        assert_eq!(parse_hex("00ffA0"), Ok(Bytes::from_static(b"\x00\xff\xa0")));
        assert_eq!(parse_hex(""), Ok(Bytes::new()));
        for bad in ["0", "0g", "+1", "ü", "0x00"] {
            assert!(parse_hex(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_hash_of_an_algorithm_is_in_its_name() {
        for (name, expected) in [
            ("SHA256withRSA", Some(Hash::Sha256)),
            ("SHA384withECDSA", Some(Hash::Sha384)),
            ("SHA512withRSAandMGF1", Some(Hash::Sha512)),
            ("SHA1withRSA", None),
            ("Ed25519", None),
            ("", None),
        ] {
            assert_eq!(Hash::of(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_too_long_to_be_sent_is_hashed_to_its_end() {
        let message: Vec<_> = (0..=250).cycle().take(3 * 1024 * 1024).collect();
        let cut = usize::try_from(MESSAGE_LEN_MAX).unwrap();
        let read = |len: usize| begin(io::Cursor::new(message[..len].to_vec())).unwrap();
        assert!(read(cut).rest.is_none());
        for len in [cut + 1, cut + 2, message.len()] {
            let beginning = read(len);
            let Input::Message(head) = beginning.input else {
                panic!("a digest")
            };
            for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
                let rest = &message[head.len()..len];
                let digest = hash.digest(&head, rest).unwrap();
                assert_eq!(digest.len(), hash.digest_len());
                let whole = hash.digest(&[], &message[..len]).unwrap();
                assert_eq!(digest, whole);
            }
            let mut rest = beginning.rest.unwrap();
            let unread = io::copy(&mut rest, &mut io::sink()).unwrap();
            assert_eq!(head.len() + usize::try_from(unread).unwrap(), len);
        }
        assert_eq!(
            Hash::Sha256.digest(b"a", &b"bc"[..]).unwrap(),
            Sha256::digest(b"abc").to_vec()
        );
    }
}
