//! The addresses where calls are answered: TCP with or without TLS, and a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::rustls::CommonState;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::ServerError;
use super::connections::{Connections, Place};
use super::front::Front;
use super::gate::Gate;
use super::hosts::Hosts;
use super::lifetime::Lifetime;
use super::serve::Http;
use super::tls::Tls;
use crate::certs;
use crate::config::ServerConfig;
use crate::domain::{Client, ClientAddress, Clock, Peer};
use crate::service::{HandshakeFailure, TlsStatus};

/// The open addresses.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    tls: Option<Tls>,
    unix: Option<UnixSocket>,
    gate: Gate,
    connections_max: usize,
    age_max: Option<Duration>,
    request_timeout: Duration,
    max_message_bytes: usize,
    addresses: Addresses,
}

/// Where calls are answered.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The TCP address.
    pub tcp: SocketAddr,
    /// The path of the Unix socket.
    pub unix: Option<PathBuf>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tcp)?;
        match &self.unix {
            Some(path) => write!(f, " and unix:{}", path.display()),
            None => Ok(()),
        }
    }
}

impl Listeners {
    /// Takes the addresses.
    ///
    /// `cors_origins` are the origins whose pages may read the public keys; `descriptors_max` is
    /// how many descriptors the process may have open, if that is limited. What is known of TLS is
    /// noted in `tls_status`, and TLS goes by `clock`.
    pub fn bind(
        config: &ServerConfig,
        cors_origins: Vec<String>,
        descriptors_max: Option<usize>,
        tls_status: &Arc<TlsStatus>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ServerError> {
        let failed = |address: String| move |source| ServerError::Listen { address, source };
        let hosts = Arc::new(Hosts::new(config.hosts.clone()));
        let load = |tls| {
            let status = Arc::clone(tls_status);
            Tls::load(tls, Arc::clone(&hosts), status, Arc::clone(clock))
        };
        let tls = config.tls.clone().map(load).transpose()?;
        let address = config.listen.to_string();
        let tcp = listen(config.listen).map_err(failed(address.clone()))?;
        let unix = match &config.unix_socket {
            None => None,
            Some(path) => Some(UnixSocket::bind(path).map_err(failed(path.display().to_string()))?),
        };
        Ok(Self {
            addresses: Addresses {
                tcp: tcp.local_addr().map_err(failed(address))?,
                unix: config.unix_socket.clone(),
            },
            tcp,
            tls,
            unix,
            gate: Gate::new(hosts, cors_origins),
            age_max: config.max_connection_age,
            request_timeout: config.request_timeout,
            connections_max: affordable(config.max_connections, descriptors_max),
            max_message_bytes: config.max_message_bytes,
        })
    }

    /// Returns where calls are answered.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns what has the TLS files read again when it is told; none without TLS.
    pub fn tls_reload(&self) -> Option<Arc<Notify>> {
        self.tls.as_ref().map(Tls::reload)
    }

    /// Answers calls on all addresses until `stop`, and returns when the last call has ended.
    ///
    /// The clock dates answers, and tells which client certificates have expired.
    pub async fn serve(self, front: Front, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let door = Arc::new(Door {
            http: Http::new(front, Arc::clone(&clock), self.request_timeout),
            gate: self.gate,
            age_max: self.age_max,
            clock,
            connections: Connections::new(self.connections_max, self.max_message_bytes),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let serving = async {
            stop.run_until_cancelled(async {
                let tls = async {
                    if let Some(tls) = &self.tls {
                        tls.follow_files().await;
                    }
                };
                let unix = async {
                    if let Some(unix) = &self.unix {
                        door.accept_unix(&unix.listener).await;
                    }
                };
                tokio::join!(tls, unix, door.accept_tcp(&self.tcp, self.tls.as_ref()))
            })
            .await;
            // From here on, nobody can connect.
            drop((self.tcp, self.unix));
            door.tasks.close();
            door.tasks.wait().await;
        };
        tokio::select! {
            () = serving => {}
            () = door.connections.look_after() => {}
        }
    }
}

/// Where connections come in.
#[derive(Debug)]
struct Door {
    http: Http,
    gate: Gate,
    age_max: Option<Duration>,
    clock: Arc<dyn Clock>,
    connections: Arc<Connections>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Door {
    async fn accept_unix(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let accepted = listener.accept().await;
            let accepted = accepted.map(|(stream, _)| {
                let peer = unix_peer(&stream);
                (stream, peer)
            });
            let Some((stream, place)) = self.admit(accepted, listener).await else {
                continue;
            };
            let door = Arc::clone(self);
            self.tasks.spawn(async move {
                let gate = door.gate.of_unix_socket();
                let address = match place.connection().origin().peer {
                    Peer::User(number) => ClientAddress::User(number),
                    _ => ClientAddress::Unknown,
                };
                let client = Arc::new(Client {
                    address,
                    certificate_subject: None,
                });
                let lifetime = Lifetime::new(door.age_max);
                door.http
                    .serve(
                        stream,
                        gate,
                        client,
                        place.connection(),
                        &lifetime,
                        &door.stop,
                    )
                    .await;
            });
        }
    }

    /// Accepts connections and shakes hands with each by itself, so that a slow client holds up nobody.
    async fn accept_tcp(self: &Arc<Self>, listener: &TcpListener, tls: Option<&Tls>) {
        loop {
            let accepted = listener.accept().await;
            let accepted =
                accepted.map(|(stream, from)| ((stream, from.ip()), Peer::at(from.ip())));
            let Some(((stream, from), place)) = self.admit(accepted, listener).await else {
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection is gone already");
                continue;
            }
            let failed = tls.map(Tls::failed_handshakes);
            let (door, tls) = (Arc::clone(self), tls.map(Tls::current));
            self.tasks.spawn(async move {
                let (http, connection, gate) = (&door.http, place.connection(), door.gate.clone());
                let lifetime = Lifetime::new(door.age_max);
                let address = stream.peer_addr();
                let address = address.map_or(ClientAddress::Unknown, ClientAddress::Tcp);
                let mut client = Client {
                    address,
                    certificate_subject: None,
                };
                let (Some(tls), Some(failed)) = (tls, failed) else {
                    let client = Arc::new(client);
                    http.serve(stream, gate, client, connection, &lifetime, &door.stop)
                        .await;
                    return;
                };
                let shaken = tokio::select! {
                    shaken = tls.acceptor().accept(stream) => shaken,
                    () = connection.ended() => return,
                    () = door.stop.cancelled() => return,
                };
                let stream = match shaken {
                    Ok(stream) => stream,
                    Err(error) => return failed.note(from, &error),
                };
                if let Some(certificate) = shown(stream.get_ref().1) {
                    connection.identify(tls_peer(certificate));
                    client.certificate_subject = certs::subject(certificate);
                }
                let lifetime = match tls.client(stream.get_ref().1, &door.clock) {
                    Ok(client) => lifetime.with_client(client),
                    Err(why) => {
                        let reason = HandshakeFailure::ClientCertificateRefused;
                        return failed.note_as(reason, from, why.to_owned());
                    }
                };
                // Others may follow while this one lasts.
                drop(tls);
                let client = Arc::new(client);
                http.serve(stream, gate, client, connection, &lifetime, &door.stop)
                    .await;
            });
        }
    }

    /// Gives an accepted connection its place. One that could not be accepted, or has none, is let go.
    async fn admit<Io>(
        &self,
        accepted: io::Result<(Io, Peer)>,
        listener: &impl AsFd,
    ) -> Option<(Io, Place)> {
        match accepted {
            Ok((io, peer)) => {
                let place = self.connections.admit(peer).await;
                place.map(|place| (io, place))
            }
            Err(error) => {
                self.connections.count(&format!("not accepted: {error}"));
                let is_full = matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::MFILE | Errno::NFILE)
                );
                // Without descriptors, accept(2) fails even when no connection waits.
                if is_full && someone_waits(listener) {
                    self.connections.make_room(None);
                }
                // Out of descriptors, the next try would fail at once as well.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }
}

/// Returns the peer at the other end of a Unix socket.
fn unix_peer(stream: &UnixStream) -> Peer {
    stream
        .peer_cred()
        .map_or(Peer::Unknown, |credentials| Peer::User(credentials.uid()))
}

/// Returns the client certificate that the peer has proved.
fn shown(tls: &CommonState) -> Option<&CertificateDer<'static>> {
    tls.peer_certificates()?.first()
}

/// Returns the peer that has proved a client certificate.
fn tls_peer(certificate: &CertificateDer<'_>) -> Peer {
    Peer::Certificate(Sha256::digest(certificate).into())
}

/// Tells whether a connection waits to be accepted.
fn someone_waits(listener: &impl AsFd) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    let found = rustix::event::poll(&mut listeners, Some(&Timespec::default()));
    found.is_ok_and(|count| count > 0)
}

/// Takes a TCP address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a daemon that has just ended are not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(UNACCEPTED_MAX)
}

/// Returns how many connections there may be: those that are configured, as far as there are descriptors for them.
fn affordable(configured: usize, descriptors_max: Option<usize>) -> usize {
    let Some(descriptors) = descriptors_max else {
        return configured;
    };
    let affordable = descriptors - DESCRIPTORS_KEPT.min(descriptors / 2);
    if affordable < configured {
        info!(
            affordable,
            configured,
            descriptors,
            "the limit of open files (ulimit -n, LimitNOFILE) allows fewer connections than server.max_connections"
        );
    }
    affordable.min(configured)
}

/// A Unix socket, whose file goes when it does.
#[derive(Debug)]
struct UnixSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl UnixSocket {
    /// Makes the socket, for its owner and group only. What a daemon that is gone left there is replaced.
    fn bind(path: &Path) -> io::Result<Self> {
        if is_left_socket(path)? {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Tells whether at a path there is a socket that nobody answers at, as a daemon leaves behind that was killed.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] for what is no socket, [`io::ErrorKind::AddrInUse`] where somebody answers, and whatever keeps
/// it from being known: what may be somebody's is not taken away.
pub fn is_left_socket(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            let what = "a file that is no socket is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let answered = || io::Error::new(io::ErrorKind::AddrInUse, "another process answers there");
    let Err(error) = knock(path) else {
        return Err(answered());
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Ok(true),
        // It went meanwhile.
        io::ErrorKind::NotFound => Ok(false),
        // Others wait to be let in already.
        io::ErrorKind::WouldBlock => Err(answered()),
        _ => Err(error),
    }
}

/// Connects to a Unix socket, without waiting to be let in.
fn knock(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(())
}

/// How many connections may wait to be accepted. When it is full, the next ones try again a second later; the system may allow fewer
/// (`net.core.somaxconn`).
const UNACCEPTED_MAX: u32 = 4096;
/// How many descriptors are kept for the store, the module and the log.
const DESCRIPTORS_KEPT: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn a_socket_is_left_when_nobody_answers_there_and_not_when_that_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let look = |path: &Path| is_left_socket(path).map_err(|error| error.kind());
        assert_eq!(look(&path), Ok(false));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(look(&path), Err(io::ErrorKind::AddrInUse));
        drop(listener);
        assert_eq!(look(&path), Ok(true));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(look(&path), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(
            look(&path.join("socket")),
            Err(io::ErrorKind::NotADirectory)
        );
        std::fs::remove_file(&path).unwrap();
        // Somebody is there, and does not take connections of this kind.
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(look(&path).is_err());
    }

    #[test]
    fn a_socket_with_a_full_queue_is_somebodys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        for _ in 0..5 {
            let found = is_left_socket(&path).map_err(|error| error.kind());
            assert_eq!(found, Err(io::ErrorKind::AddrInUse));
        }
    }
}
