//! The manual: what a maintainer and an operator should know beyond the names of things.
//!
//! - [`architecture`]: the rooms, their direction, the route of a request, what is never where.
//! - [`signing`]: what is signed and how, what is promised, how public keys are published.
//! - [`key_files`]: import, export, certificates of a CA, keys already on the token, migration.
//! - [`rotation`]: the life of a generation, what happens when something is in the way, events.
//! - [`rest`]: the REST API, and where it differs from what clients may expect.
//! - [`conformance`]: the PingFederate resource, endpoint by endpoint and field by field, and ours.
//! - [`errors`]: what callers are told, case by case.
//! - [`faults`]: what callers get while the HSM misbehaves, and how it recovers.
//! - [`known_failures`]: what HSM services were complained of, and our answers, each with its test.
//! - [`connections`]: which requests are answered, what keeps web pages out, and when connections end.
//! - [`hostile_input`]: what becomes of those who mean harm, and what there is no room for.
//! - [`threat_model`]: what is defended against what, and what is not.
//! - [`adding_a_provider`]: how to add a provider, an operation, an error, an option.
//! - [`sizing`]: processor, memory, disk and token, for a number of key pairs and signatures.
//! - [`benchmarks`]: figures, and the commands that make them.

#![expect(
    clippy::doc_markdown,
    reason = "tables of names are not made clearer by more backticks"
)]

pub mod architecture {
    #![doc = include_str!("architecture.md")]
}

pub mod signing {
    #![doc = include_str!("signing.md")]
}

pub mod key_files {
    #![doc = include_str!("key_files.md")]
}

pub mod rotation {
    #![doc = include_str!("rotation.md")]
}

pub mod rest {
    #![doc = include_str!("rest.md")]
}

pub mod conformance {
    #![doc = include_str!("conformance.md")]
}

pub mod errors {
    #![doc = include_str!("errors.md")]
}

pub mod faults {
    #![doc = include_str!("faults.md")]
}

pub mod known_failures {
    #![doc = include_str!("known_failures.md")]
}

pub mod connections {
    #![doc = include_str!("connections.md")]
}

pub mod hostile_input {
    #![doc = include_str!("hostile_input.md")]
}

pub mod threat_model {
    #![doc = include_str!("threat_model.md")]
}

pub mod adding_a_provider {
    #![doc = include_str!("adding_a_provider.md")]
}

pub mod sizing {
    #![doc = include_str!("sizing.md")]
}

pub mod benchmarks {
    #![doc = include_str!("benchmarks.md")]
}
