//! Where a call comes from: what is shared fairly is shared among connections and peers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The origin of a call: its connection, and the peer at the other end of that.
///
/// The port puts it into the extensions of every request, so that each layer can bound what one
/// connection or one peer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The connection, by a number that no other connection of this process has.
    pub connection: u64,
    /// The peer, which may have several connections.
    pub peer: Peer,
}

/// A peer, as far as the port can tell one from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A client certificate of TLS, by the SHA-256 digest of its DER form.
    Certificate([u8; 32]),
    /// An address of IPv4, or a network of IPv6: see [`Peer::at`].
    Address(IpAddr),
    /// A user of this machine, at the Unix socket.
    User(u32),
    /// A client of the Unix socket whose user the system does not tell.
    Unknown,
}

impl Peer {
    /// Returns the peer at an address.
    ///
    /// A peer of IPv6 is a network with a prefix of 64 bits: a host may take any address in it.
    /// An IPv4 address that is mapped to IPv6 is the same peer as the IPv4 address.
    ///
    /// # Source
    /// RFC 4291, sections 2.5.1 and 2.5.5.2.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let prefix = address.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(prefix).into()
            }
        })
    }
}

/// The client at the other end of a connection, as the log names it.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Where it is.
    pub address: ClientAddress,
    /// The subject of its client certificate, shown as others are; none without one.
    pub certificate_subject: Option<String>,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, Default)]
pub enum ClientAddress {
    /// At an address of TCP.
    Tcp(SocketAddr),
    /// On this machine, a user by its number.
    User(u32),
    /// The system does not tell.
    #[default]
    Unknown,
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::User(number) => write!(f, "unix:uid={number}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_ipv4_address_or_an_ipv6_network() {
        let peer = |address: &str| Peer::at(address.parse().unwrap());
        assert_eq!(peer("192.0.2.1"), peer("::ffff:192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:0:0:2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
    }
}
