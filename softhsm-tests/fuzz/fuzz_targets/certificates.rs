//! Whatever comes as the answer of a CA, it is read or refused.

#![no_main]

use keypaird::certs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    for certificate in certs::read_certificates(file).unwrap_or_default() {
        let _ = certs::read(&certificate);
        let _ = certs::is_self_signed(&certificate);
        let _ = certs::subject_and_names(&certificate);
    }
});
