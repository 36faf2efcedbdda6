//! What key files are encrypted under: keys that are derived from a password, at a cost that the file says and
//! that is limited here.

use pkcs8::pkcs5;
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use zeroize::Zeroizing;

use super::KeyFileError;

/// The work that a file may still ask for.
#[derive(Debug)]
pub(super) struct Work {
    iterations: u32,
}

impl Work {
    /// Gives a file what the largest one of an honest program needs: for its MAC, its certificates and its key.
    pub(super) const fn of_a_file() -> Self {
        Self {
            iterations: 3 * ITERATIONS_MAX,
        }
    }

    /// Takes what one derivation needs: its iterations, and what it takes to begin them.
    pub(super) fn take(&mut self, iterations: u32) -> Result<(), KeyFileError> {
        self.take_blocks(iterations, 1)
    }

    /// Takes what one derivation of a key of several blocks needs, each of which takes all the
    /// iterations (RFC 8018 section 5.2).
    pub(super) fn take_blocks(&mut self, iterations: u32, blocks: u32) -> Result<(), KeyFileError> {
        let needed = iterations.saturating_mul(blocks).max(ITERATIONS_MIN);
        match self.iterations.checked_sub(needed) {
            Some(left) if iterations <= ITERATIONS_MAX => {
                self.iterations = left;
                Ok(())
            }
            _ => Err(KeyFileError::file(format!(
                "asks for too much work to be opened: at most {ITERATIONS_MAX} iterations are done for one key; make it anew with `openssl pkcs8 -topk8` or `openssl pkcs12 -export`"
            ))),
        }
    }

    fn take_for(&mut self, kdf: &Kdf) -> Result<(), KeyFileError> {
        self.take(match kdf {
            Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count,
            Kdf::Scrypt(scrypt) => {
                let memory = 128_u64
                    .checked_mul(scrypt.cost_parameter)
                    .and_then(|bytes| bytes.checked_mul(scrypt.block_size.into()))
                    .and_then(|bytes| bytes.checked_mul(scrypt.parallelization.into()));
                match memory {
                    Some(..=SCRYPT_BYTES_MAX) => ITERATIONS_MAX,
                    _ => u32::MAX,
                }
            }
            _ => u32::MAX,
        })
    }
}

/// Decrypts by PBES2 (RFC 8018 section 6.2). None when it is one that is not read.
pub(super) fn decrypt_pbes2(
    parameters: &Parameters,
    data: &[u8],
    password: &str,
    work: &mut Work,
) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
    work.take_for(&parameters.kdf)?;
    match parameters.decrypt(password, data) {
        Ok(plain) => Ok(Some(Zeroizing::new(plain))),
        Err(pkcs5::Error::DecryptFailed) => Err(KeyFileError::password()),
        Err(_) => Ok(None),
    }
}

/// How often a file may have a password hashed for one key.
const ITERATIONS_MAX: u32 = 1_000_000;
/// What a derivation counts for at least. Each hashes password and salt anew, and a small file has room for many.
const ITERATIONS_MIN: u32 = 1_000;
/// How much memory scrypt may walk over: a second's work.
const SCRYPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_derivations_are_work_even_without_iterations() {
        let mut work = Work::of_a_file();
        let done = (0..10_000).take_while(|_| work.take(1).is_ok()).count();
        assert_eq!(done, 3_000);
    }

    #[test]
    fn the_largest_honest_file_is_opened() {
        let mut work = Work::of_a_file();
        for _ in 0..3 {
            work.take(ITERATIONS_MAX).unwrap();
        }
        assert!(work.take(1).is_err());
        assert!(Work::of_a_file().take(ITERATIONS_MAX + 1).is_err());
    }

    #[test]
    fn each_block_of_a_key_is_work() {
        for (iterations, blocks, derivations) in [
            (ITERATIONS_MAX, 1, 3),
            (ITERATIONS_MAX, 2, 1),
            (ITERATIONS_MAX, 3, 1),
            (ITERATIONS_MAX, 4, 0),
            (ITERATIONS_MAX / 4, 4, 3),
            (1, 4, 3000),
        ] {
            let mut work = Work::of_a_file();
            let done = (0..10_000).take_while(|_| work.take_blocks(iterations, blocks).is_ok());
            assert_eq!(done.count(), derivations, "{iterations} times {blocks}");
        }
    }
}
