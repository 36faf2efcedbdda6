//! Whatever file comes in to be imported, it is read or refused: no panic, no hang, no more memory than it deserves.

#![no_main]

use keypaird::keyfiles;
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

fuzz_target!(|file: &[u8]| {
    let _ = keyfiles::read(file, None, &SecretString::from("x"));
});
