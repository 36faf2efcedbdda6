//! What the tests are made with: tokens of SoftHSM2, daemons, clients, and other people's verifiers.
//!
//! Every test has a token directory, a store and a port of its own. What is missing on the machine fails
//! a test with a sentence on how to install it; nothing is skipped.

pub mod bare;
pub mod browser;
pub mod client;
pub mod conformance;
pub mod daemon;
pub mod faults;
pub mod frames;
pub mod fuzzing;
pub mod hoarding;
pub mod http;
pub mod http2_rules;
pub mod keypairctl;
pub mod load;
pub mod measure;
pub mod own_process;
pub mod shifted_clock;
pub mod token;
pub mod tools;
