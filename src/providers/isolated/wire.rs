//! What the daemon and the process of the module say to each other: one question, one answer.
//!
//! A message is in the form of `postcard`, after its length in four bytes, little-endian. Both ends are the same program.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

use crate::domain::{Certificate, KeyRef, KeySpec, ProviderKind, PublicKey};
use crate::providers::pkcs11::{TokenIdentity, TokenSelector, VerifySignatures};
use crate::providers::{
    Capabilities, Finding, KeyName, KeySearch, Operation, ProviderError, ProviderErrorKind,
    SigningOrder,
};

/// The first message: which token to connect to. It is answered by [`Connected`].
#[derive(Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) module: PathBuf,
    pub(super) token: TokenSelector,
    pub(super) verify_signatures: VerifySignatures,
    pub(super) last_try: bool,
    pub(super) pin: Zeroizing<String>,
}

/// A token that the process is logged in to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Connected {
    pub(super) token: TokenIdentity,
    pub(super) capabilities: Capabilities,
}

/// What the token is to do: the methods of the provider.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    Probe,
    Generate {
        name: KeyName,
        spec: KeySpec,
    },
    Import {
        name: KeyName,
        public_key: PublicKey,
        pkcs8: Zeroizing<Vec<u8>>,
    },
    Sign(Vec<SigningOrder>),
    Destroy(KeyRef),
    LookAtLinkedKey {
        key_ref: KeyRef,
        public_key: PublicKey,
    },
    DestroyLinkedKey {
        key_ref: KeyRef,
        public_key: PublicKey,
    },
    PublishCertificate {
        name: KeyName,
        certificate: Certificate,
    },
    ReplaceCertificate {
        name: KeyName,
        certificate: Certificate,
    },
    FindKeys(KeySearch),
    CertificatesOf(Vec<u8>),
    BeginInventory,
    ContinueInventory,
    SweepHalfMade,
    Rehearse,
}

/// The answer to a request.
#[derive(Serialize, Deserialize)]
pub(super) struct Reply<T> {
    /// Whether the token can still be used.
    pub(super) connected: bool,
    /// What became of the request.
    pub(super) result: Result<T, Fault>,
}

/// Signatures in the order of what they were asked for.
pub(super) type Signatures = Vec<Result<ByteBuf, Fault>>;

/// A [`ProviderError`] on its way.
#[derive(Serialize, Deserialize)]
pub(super) struct Fault {
    operation: Operation,
    kind: ProviderErrorKind,
    finding: Option<Finding>,
    /// The deeper causes, outermost first.
    cause: Option<String>,
}

impl From<ProviderError> for Fault {
    fn from(error: ProviderError) -> Self {
        Self {
            operation: error.operation,
            kind: error.kind,
            finding: error.finding.as_deref().cloned(),
            cause: error
                .source
                .as_deref()
                .map(|cause| crate::telemetry::chain(cause)),
        }
    }
}

impl From<Fault> for ProviderError {
    fn from(fault: Fault) -> Self {
        let error = Self::new(ProviderKind::Hsm, fault.operation, fault.kind).found(fault.finding);
        match fault.cause {
            Some(cause) => error.because(cause),
            None => error,
        }
    }
}

/// One end of a connection between the two, on which one waits by blocking a thread.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    buffers: Buffers,
}

impl Channel {
    /// Takes a socket, on which a message is waited for no longer than `patience`.
    pub(super) fn new(
        stream: UnixStream,
        patience: impl Into<Option<Duration>>,
    ) -> io::Result<Self> {
        stream.set_read_timeout(patience.into())?;
        Ok(Self {
            stream,
            buffers: Buffers::default(),
        })
    }

    /// Returns the socket, which stays the channel's.
    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Returns the socket.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let sent = self.stream.write_all(self.buffers.pack(message)?);
        self.buffers.wipe();
        sent
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the other end is gone.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            match self.stream.read(self.buffers.room()) {
                Ok(read) if self.buffers.took(read)? => return self.buffers.unpack(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The daemon's end of a connection, on which one waits without a thread.
#[derive(Debug)]
pub(super) struct AsyncChannel {
    stream: tokio::net::UnixStream,
    buffers: Buffers,
}

impl AsyncChannel {
    /// Takes a socket. Must be called in a Tokio runtime.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: stream.try_into()?,
            buffers: Buffers::default(),
        })
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let sent = self.stream.write_all(self.buffers.pack(message)?).await;
        self.buffers.wipe();
        sent
    }

    /// Waits for a message, with errors as those of [`Channel::receive`].
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            let read = self.stream.read(self.buffers.room()).await?;
            if self.buffers.took(read)? {
                return self.buffers.unpack();
            }
        }
    }
}

/// Messages as bytes, on their way out and in. What they had in them, a PIN or a key perhaps, is wiped.
#[derive(Debug)]
struct Buffers {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// How much of `incoming` is there.
    have: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            // With room for every key, so that no copy of one is left behind by growing.
            outgoing: Vec::with_capacity(ROOM),
            incoming: vec![0; ROOM],
            have: 0,
        }
    }
}

impl Buffers {
    /// Writes a message as it is sent.
    fn pack(&mut self, message: &impl Serialize) -> io::Result<&[u8]> {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        outgoing.clear();
        outgoing.extend_from_slice(&[0; HEADER_LEN]);
        self.outgoing = postcard::to_extend(message, outgoing).map_err(damaged)?;
        let len = u32::try_from(self.outgoing.len() - HEADER_LEN).map_err(damaged)?;
        self.outgoing[..HEADER_LEN].copy_from_slice(&len.to_le_bytes());
        Ok(&self.outgoing)
    }

    /// Forgets what was sent.
    fn wipe(&mut self) {
        self.outgoing.as_mut_slice().zeroize();
        self.outgoing.clear();
        self.outgoing.shrink_to(ROOM);
    }

    /// Returns where to put what comes in.
    fn room(&mut self) -> &mut [u8] {
        &mut self.incoming[self.have..]
    }

    /// Notes that so much came in, and tells whether the message is complete.
    fn took(&mut self, read: usize) -> io::Result<bool> {
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.have += read;
        let Some(len) = self.message_len()? else {
            return Ok(false);
        };
        if self.incoming.len() < len {
            self.incoming.resize(len, 0);
        }
        Ok(self.have >= len)
    }

    /// Returns how long the message is with its header, when that is known.
    fn message_len(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.incoming[..self.have].first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_le_bytes(*header)).map_err(damaged)?;
        if len > MESSAGE_LEN_MAX {
            return Err(damaged("a message is too long"));
        }
        Ok(Some(HEADER_LEN + len))
    }

    /// Reads the message that came in. Since each question waits for its answer, nothing comes after it.
    fn unpack<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let message = postcard::from_bytes(&self.incoming[HEADER_LEN..self.have]);
        self.incoming[..self.have].zeroize();
        self.incoming.truncate(ROOM);
        self.incoming.shrink_to_fit();
        self.have = 0;
        message.map_err(damaged)
    }
}

fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

const HEADER_LEN: usize = 4;
/// Room for all but the largest messages.
const ROOM: usize = 16 * 1024;
/// More than any message has: a signature's is little more than the message to be signed, which has 1 MiB at most.
const MESSAGE_LEN_MAX: usize = 64 * 1024 * 1024;
