//! Reads PKCS#12 files, in DER and in BER.
//!
//! By hand, element by element, for two reasons. A file says itself how much work it is to open, also in parts that are
//! encrypted, so that the work is counted over all of them. And old programs write BER, whose MAC is over the bytes as they
//! wrote them.

use der::Decode;
use pkcs8::pkcs5::pbes2::Parameters;
use zeroize::Zeroizing;

use super::check_password;
use super::legacy::{Cipher, Password, is_mac};
use super::pbmac1::{PBMAC1, Pbmac1};
use crate::domain::ber::{CONTEXT_0, Element, Elements, INTEGER, OBJECT_IDENTIFIER, SEQUENCE};
use crate::domain::{Certificate, PrivateKey};
use crate::keyfiles::encryption::{Work, decrypt_pbes2};
use crate::keyfiles::private_key::from_pkcs8;
use crate::keyfiles::{KeyFile, KeyFileError, one_key_of};

/// Reads a file, whose integrity is protected by the password (section 4, `macData`).
pub(in crate::keyfiles) fn read(file: &[u8], password: &str) -> Result<KeyFile, KeyFileError> {
    check_password(password)?;
    let password = &Password::new(password);
    let mut work = Work::of_a_file();
    let safe = authenticated_safe(file, password, &mut work)?;
    let mut bags = Bags::default();
    let mut parts = whole(&safe)?;
    while !parts.is_empty() {
        let contents = safe_contents(parts.next(), password, &mut work)?;
        bags.read(&contents)?;
    }
    // Before any is decrypted: of several, none is taken.
    one_key_of(bags.keys.len())?;
    let key = bags.keys.first().ok_or_else(undecodable)?;
    Ok(KeyFile {
        private_key: key.open(password, &mut work)?,
        certificates: bags.certificates,
    })
}

/// Returns what the MAC protects, if that is right.
fn authenticated_safe(
    file: &[u8],
    password: &Password<'_>,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let not_pkcs12 = || KeyFileError::damaged("it is not PKCS#12");
    let mut elements = Elements::of(file);
    let pfx = elements.take(SEQUENCE).filter(|_| elements.is_empty());
    let mut pfx = pfx.ok_or_else(not_pkcs12)?.parts();
    let version = pfx.take(INTEGER).and_then(Element::number);
    let content = pfx.take(SEQUENCE).filter(|_| version == Some(VERSION));
    let (kind, content) = content.and_then(content_of).ok_or_else(not_pkcs12)?;
    if kind != DATA {
        return Err(unsupported());
    }
    let safe = content.parts().take_octets().ok_or_else(not_pkcs12)?;
    if pfx.is_empty() {
        return Err(KeyFileError::file(
            "has no MAC, so that nobody can tell whether it was changed; make it anew with `openssl pkcs12 -export`".to_owned(),
        ));
    }
    let mac = pfx.take(SEQUENCE).and_then(MacData::of);
    let mac = mac.ok_or_else(not_pkcs12)?;
    match mac.is_right(&safe, password, work)? {
        true => Ok(Zeroizing::new(safe.into_owned())),
        false => Err(KeyFileError::password()),
    }
}

/// `MacData`.
struct MacData<'a> {
    hash: &'a [u8],
    /// What PBMAC1 has beside its name.
    parameters: Option<Element<'a>>,
    digest: Vec<u8>,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> MacData<'a> {
    fn of(element: Element<'a>) -> Option<Self> {
        let mut parts = element.parts();
        let mut info = parts.take(SEQUENCE)?.parts();
        let mut algorithm = info.take(SEQUENCE)?.parts();
        Some(Self {
            hash: algorithm.take(OBJECT_IDENTIFIER)?.contents,
            parameters: algorithm.next(),
            digest: info.take_octets()?.into_owned(),
            salt: parts.take_octets()?.into_owned(),
            iterations: match parts.is_empty() {
                true => 1,
                false => parts.take(INTEGER)?.number()?,
            },
        })
    }

    /// Tells whether it is that of what it protects.
    fn is_right(
        &self,
        safe: &[u8],
        password: &Password<'_>,
        work: &mut Work,
    ) -> Result<bool, KeyFileError> {
        if self.hash == PBMAC1 {
            let pbmac1 = self.parameters.and_then(Pbmac1::read);
            let pbmac1 = pbmac1.ok_or_else(unsupported)?;
            pbmac1.take(work)?;
            return Ok(pbmac1.is_mac(&self.digest, safe, password.text));
        }
        for form in password.forms() {
            work.take(self.iterations)?;
            let (hash, salt) = (self.hash, &self.salt);
            let is_right = is_mac(hash, &self.digest, safe, form, salt, self.iterations);
            if is_right.ok_or_else(unsupported)? {
                password.prefer(form);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns the kind of a `ContentInfo`, and what is in it.
fn content_of(element: Element<'_>) -> Option<(&[u8], Element<'_>)> {
    let mut parts = element.parts();
    let kind = parts.take(OBJECT_IDENTIFIER)?.contents;
    Some((kind, parts.take(CONTEXT_0)?))
}

/// Returns the bags of a part, decrypted if need be (section 4.1).
fn safe_contents(
    part: Option<Element<'_>>,
    password: &Password<'_>,
    work: &mut Work,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let (kind, content) = part.and_then(content_of).ok_or_else(undecodable)?;
    match kind {
        DATA => {
            let bags = content.parts().take_octets().ok_or_else(undecodable)?;
            Ok(Zeroizing::new(bags.into_owned()))
        }
        ENCRYPTED_DATA => {
            let encrypted = Encrypted::of_content(content).ok_or_else(undecodable)?;
            encrypted.decrypt(password, work)
        }
        _ => Err(unsupported()),
    }
}

/// Bytes that are encrypted, and how.
struct Encrypted {
    /// The object identifier of the encryption.
    scheme: Vec<u8>,
    parameters: Vec<u8>,
    data: Zeroizing<Vec<u8>>,
}

impl Encrypted {
    /// Reads an `EncryptedData` (RFC 5652 section 8).
    fn of_content(content: Element<'_>) -> Option<Self> {
        let mut parts = content.parts().take(SEQUENCE)?.parts();
        parts.take(INTEGER)?;
        let mut info = parts.take(SEQUENCE)?.parts();
        info.take(OBJECT_IDENTIFIER)?;
        let algorithm = info.take(SEQUENCE)?;
        // A string of bytes whose tag is the 0 of the context, in one piece or in several.
        let data = info
            .next()
            .filter(|data| matches!(data.tag, 0x80 | CONTEXT_0))?;
        Self::by(algorithm, &data.octets()?)
    }

    /// Reads an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
    fn of_key(element: Element<'_>) -> Option<Self> {
        let mut parts = element.parts();
        let algorithm = parts.take(SEQUENCE)?;
        Self::by(algorithm, &parts.take_octets()?)
    }

    fn by(algorithm: Element<'_>, data: &[u8]) -> Option<Self> {
        let mut parts = algorithm.parts();
        Some(Self {
            scheme: parts.take(OBJECT_IDENTIFIER)?.contents.to_vec(),
            parameters: parts.next()?.whole.to_vec(),
            data: Zeroizing::new(data.to_vec()),
        })
    }

    fn decrypt(
        &self,
        password: &Password<'_>,
        work: &mut Work,
    ) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        if self.scheme == PBES2 {
            let parameters = Parameters::from_der(&self.parameters).map_err(|_| unsupported())?;
            let decrypted = decrypt_pbes2(&parameters, &self.data, password.text, work)?;
            return decrypted.ok_or_else(unsupported);
        }
        let cipher = Cipher::of(&self.scheme).ok_or_else(unsupported)?;
        let parameters = Elements::of(&self.parameters).take(SEQUENCE);
        let mut parameters = parameters.ok_or_else(undecodable)?.parts();
        let salt = parameters.take_octets().ok_or_else(undecodable)?;
        let iterations = parameters.take(INTEGER).and_then(Element::number);
        let iterations = iterations.ok_or_else(undecodable)?;
        for form in password.forms() {
            work.take(iterations)?;
            let decrypted = cipher.decrypt(&self.data, form, &salt, iterations);
            // Under another key the padding is right once in 256 times.
            if let Some(plain) = decrypted.filter(|plain| whole(plain).is_ok()) {
                return Ok(plain);
            }
        }
        Err(KeyFileError::password())
    }
}

/// What is in a file, its keys still closed.
#[derive(Default)]
struct Bags {
    keys: Vec<KeyBag>,
    certificates: Vec<Certificate>,
}

/// A private key.
enum KeyBag {
    Plain(Zeroizing<Vec<u8>>),
    Shrouded(Encrypted),
}

impl Bags {
    /// Reads a `SafeContents` (section 4.2). Bags of revocation lists and of other secrets are passed over.
    fn read(&mut self, contents: &[u8]) -> Result<(), KeyFileError> {
        let mut bags = whole(contents)?;
        while !bags.is_empty() {
            let bag = bags.take(SEQUENCE).and_then(content_of);
            let (kind, value) = bag.ok_or_else(undecodable)?;
            let value = value.parts().take(SEQUENCE);
            match kind.strip_prefix(BAG) {
                Some([1]) => {
                    let value = value.ok_or_else(undecodable)?;
                    let key = Zeroizing::new(value.whole.to_vec());
                    self.keys.push(KeyBag::Plain(key));
                }
                Some([2]) => {
                    let key = value.and_then(Encrypted::of_key);
                    let key = key.ok_or_else(undecodable)?;
                    self.keys.push(KeyBag::Shrouded(key));
                }
                Some([3]) => {
                    let (kind, value) = value.and_then(content_of).ok_or_else(undecodable)?;
                    if kind != X509_CERTIFICATE {
                        return Err(unsupported());
                    }
                    let der = value.parts().take_octets().ok_or_else(undecodable)?;
                    self.certificates.push(Certificate::from_der(&*der));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl KeyBag {
    fn open(&self, password: &Password<'_>, work: &mut Work) -> Result<PrivateKey, KeyFileError> {
        match self {
            Self::Plain(key) => from_pkcs8(key),
            Self::Shrouded(key) => from_pkcs8(&key.decrypt(password, work)?),
        }
    }
}

/// Reads the elements of the SEQUENCE that a string of bytes consists of.
fn whole(bytes: &[u8]) -> Result<Elements<'_>, KeyFileError> {
    let mut elements = Elements::of(bytes);
    let sequence = elements.take(SEQUENCE).filter(|_| elements.is_empty());
    Ok(sequence.ok_or_else(undecodable)?.parts())
}

fn undecodable() -> KeyFileError {
    KeyFileError::damaged("it cannot be decoded")
}

fn unsupported() -> KeyFileError {
    KeyFileError::file(
        "is encrypted or protected in a way that is not read; convert it with `openssl pkcs12 -legacy -in OLD -nodes | openssl pkcs12 -export -out NEW`".to_owned(),
    )
}

/// `v3`, the only one there is.
const VERSION: u32 = 3;
/// The object identifiers id-data and id-encryptedData (RFC 5652), in DER.
const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
const ENCRYPTED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06";
/// What the object identifiers of bags begin with.
const BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01";
const X509_CERTIFICATE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01";
/// RFC 8018 appendix A.4.
const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
