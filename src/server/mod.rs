//! The port: who may connect, for how long, and what is kept for them. TLS, and HTTP/1.1 and 2, up to the transport that answers.

mod accounts;
mod connections;
mod dates;
mod error;
mod eviction;
mod front;
mod gate;
mod handshakes;
mod hosts;
mod lifetime;
mod listen;
mod messages;
mod progress;
mod serve;
mod tls;

pub use dates::prepare_thread;
pub use error::ServerError;
pub use front::Front;
pub use listen::{Addresses, Listeners, is_left_socket};
pub use tls::Tls;
