//! PKCS#12 (RFC 7292).

mod legacy;
mod pbmac1;
mod read;
mod write;

pub(super) use read::read;
pub use write::write_pkcs12;

use super::KeyFileError;
use crate::domain::Refusal;

/// A password of PKCS#12 is a `BMPString` (appendix B.1).
fn check_password(password: &str) -> Result<(), KeyFileError> {
    match password.chars().all(|c| u32::from(c) <= 0xffff) {
        true => Ok(()),
        false => Err(KeyFileError::Refused(
            "password",
            Refusal::new("must have no characters beyond U+FFFF, such as emoji, in PKCS#12"),
        )),
    }
}
