#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| softhsm_tests::fuzzing::try_target("configuration", bytes));
