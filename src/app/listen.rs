//! The addresses where calls are answered: TCP with or without TLS, and a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::debug;

use super::StartError;
use super::front::Front;
use super::tls::Tls;
use crate::config::ServerConfig;

/// The open addresses.
#[derive(Debug)]
pub(super) struct Listeners {
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
    unix: Option<UnixSocket>,
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
    pub(super) async fn bind(config: &ServerConfig) -> Result<Self, StartError> {
        let failed = |address: String| move |source| StartError::Listen { address, source };
        let tls = config.tls.clone().map(Tls::load).transpose()?;
        let address = config.listen.to_string();
        let tcp = TcpListener::bind(config.listen)
            .await
            .map_err(failed(address.clone()))?;
        let unix = match &config.unix_socket {
            None => None,
            Some(path) => Some(
                UnixSocket::bind(path)
                    .await
                    .map_err(failed(path.display().to_string()))?,
            ),
        };
        Ok(Self {
            addresses: Addresses {
                tcp: tcp.local_addr().map_err(failed(address))?,
                unix: config.unix_socket.clone(),
            },
            tcp,
            tls: tls.map(Arc::new),
            unix,
        })
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Answers calls on all addresses until `stop`, and returns when the last call has ended.
    pub(super) async fn serve(
        self,
        server: Server,
        front: Front,
        stop: CancellationToken,
    ) -> Result<(), StartError> {
        let on_unix = {
            let (server, front, stop) = (server.clone(), front.clone(), stop.clone());
            async move {
                let Some(mut unix) = self.unix else {
                    return Ok(());
                };
                let Some(listener) = unix.listener.take() else {
                    return Ok(());
                };
                let incoming = UnixListenerStream::new(listener);
                server
                    .serve_with_incoming_shutdown(front, incoming, stop.cancelled_owned())
                    .await
            }
        };
        let on_tcp = async move {
            let stopped = stop.clone().cancelled_owned();
            match self.tls {
                None => {
                    let incoming = TcpIncoming::from(self.tcp).with_nodelay(Some(true));
                    server
                        .serve_with_incoming_shutdown(front, incoming, stopped)
                        .await
                }
                Some(tls) => {
                    let (shaken, incoming) = mpsc::channel(HANDSHAKES_READY_MAX);
                    let accepting = stop.run_until_cancelled(accept_tls(self.tcp, tls, shaken));
                    let serving = server.serve_with_incoming_shutdown(
                        front,
                        ReceiverStream::new(incoming),
                        stopped,
                    );
                    tokio::join!(accepting, serving).1
                }
            }
        };
        tokio::try_join!(on_tcp, on_unix).map_err(StartError::Server)?;
        Ok(())
    }
}

/// Accepts connections and shakes hands with each by itself, so that a slow client holds up nobody.
async fn accept_tls(
    listener: TcpListener,
    tls: Arc<Tls>,
    shaken: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let following = tls.follow_files();
    let accepting = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, shaken) = (tls.acceptor(), shaken.clone());
            tokio::spawn(async move {
                let shake = async {
                    stream.set_nodelay(true)?;
                    acceptor.accept(stream).await
                };
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake).await {
                    Ok(Ok(stream)) => {
                        // When nobody takes it, the daemon stops.
                        let _ = shaken.send(Ok(stream)).await;
                    }
                    Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                    Err(_) => debug!("a TLS handshake took too long"),
                }
            });
        }
    };
    tokio::join!(following, accepting);
}

/// A Unix socket, whose file goes when it does.
#[derive(Debug)]
struct UnixSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
}

impl UnixSocket {
    /// Makes the socket, for its owner and group only. What a daemon that is gone left there is replaced.
    async fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there",
            ));
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
                std::fs::remove_file(path)?;
            }
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a file that is no socket is there",
                ));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self {
            path: path.to_owned(),
            listener: Some(listener),
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Somebody may have removed it before us.
        let _ = std::fs::remove_file(&self.path);
    }
}

const HANDSHAKES_READY_MAX: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
