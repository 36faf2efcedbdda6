//! `keypaird backup` and `keypaird restore`.

use std::path::Path;

use super::StartError;
use super::system::SystemClock;
use crate::config::Config;
use crate::domain::Clock;
use crate::providers::KeyName;
use crate::providers::local::{KeyEncryptionKey, KeyEncryptionKeyError};
use crate::store::{self, BackupFile, Restored};

/// Copies the store of a configuration to a file, and returns how many key pairs the copy has. A
/// daemon may run meanwhile.
///
/// # Errors
/// When the store cannot be read, or the file cannot be made; when there is a file and not
/// `overwrite`; and, though the file is made, when a software key in it cannot be decrypted.
pub fn back_up(config: &Config, file: &Path, overwrite: bool) -> Result<u64, StartError> {
    let key_pairs = store::back_up(&config.store.path, file, overwrite)?;
    check_software_keys(config, &BackupFile::open(file)?)?;
    Ok(key_pairs)
}

/// Puts a backup in the place of the store of a configuration, which no daemon may use.
///
/// # Errors
/// When the file is no backup, or one of a later version; when the key encryption key of the
/// configuration is not the one that the backup was made with; when a daemon uses the store.
pub fn restore(config: &Config, file: &Path) -> Result<Restored, StartError> {
    let backup = BackupFile::open(file)?;
    check_software_keys(config, &backup)?;
    Ok(backup.restore(&config.store.path, SystemClock.now())?)
}

/// Decrypts each software key of a backup, if the configuration has any.
fn check_software_keys(config: &Config, backup: &BackupFile) -> Result<(), StartError> {
    let (Some(local), Some(check)) = (&config.crypto.local, &backup.key_encryption_check) else {
        return Ok(());
    };
    let path = &local.key_encryption_key_file;
    let key_encryption_key = KeyEncryptionKey::read(path)?;
    if !key_encryption_key.recognises(check) {
        return Err(KeyEncryptionKeyError::Wrong(path.clone()).into());
    }
    backup.check_software_keys(|id, generation, key_ref, sealed| {
        let name = KeyName {
            id: id.clone(),
            generation,
            key_ref,
        };
        key_encryption_key.opens(&name, sealed)
    })?;
    Ok(())
}
