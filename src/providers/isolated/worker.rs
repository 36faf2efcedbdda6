//! The process of the module, seen from inside.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Resource, Rlimit, Signal};
use secrecy::SecretString;
use serde::Serialize;
use serde_bytes::ByteBuf;
use tracing::{error, warn};

use super::process::Word;
use super::wire::{Begin, Channel, Connected, Fault, Reply, Request};
use crate::domain::PrivateKey;
use crate::providers::pkcs11::{PinSource, Pkcs11Config, Pkcs11Provider};
use crate::providers::{CryptoProvider, Lane, ProviderError, TokenObjects};

/// Connects to the token that the daemon names over `control`, and does what it says, until it or this process ends.
///
/// # Errors
/// When `control` is no socket of the daemon's.
pub fn serve(control: OwnedFd) -> io::Result<()> {
    // Not one of a process that knows a PIN.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    let mut channel = Channel::new(UnixStream::from(control), None)?;
    let begin: Begin = channel.receive()?;
    let provider = Pkcs11Provider::new(Pkcs11Config {
        module: begin.module,
        token: begin.token,
        verify_signatures: begin.verify_signatures,
        last_try: begin.last_try,
        pin: PinSource::Value(SecretString::from(begin.pin.as_str())),
    });
    drop(begin.pin);
    end_with_the_daemon(channel.stream())?;
    let connected = provider.log_in().map(|(token, capabilities)| Connected {
        token,
        capabilities,
    });
    let connected = connected.map_err(Fault::from);
    channel.send(&connected)?;
    if connected.is_err() {
        return Ok(());
    }
    let control = channel.into_stream();
    let provider = Arc::new(provider);
    loop {
        match receive(&control) {
            Ok((Word::Quick, Some(stream))) => start(&provider, Lane::Sign, stream)?,
            Ok((Word::Slow, Some(stream))) => start(&provider, Lane::Manage, stream)?,
            Ok((Word::Farewell, _)) => {
                provider.disconnect();
                return Ok(());
            }
            _ => end_at_once(),
        }
    }
}

/// Receives a word, and the socket that comes with it.
pub(super) fn receive(control: &UnixStream) -> io::Result<(Word, Option<OwnedFd>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            control,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let word = Word::read(byte[0]).filter(|_| received.bytes == 1);
    let word = word.ok_or(io::ErrorKind::UnexpectedEof)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((word, descriptor))
}

/// Has this process end when the daemon is gone, whatever its threads are at: a successor may be at the token already, and nothing
/// more must happen there.
fn end_with_the_daemon(control: &UnixStream) -> io::Result<()> {
    let control = control.try_clone()?;
    thread::Builder::new()
        .name("module-leash".to_owned())
        .spawn(move || {
            let mut gone = [PollFd::new(&control, PollFlags::RDHUP)];
            if rustix::io::retry_on_intr(|| poll(&mut gone, None)).is_ok() {
                end_at_once();
            }
        })?;
    Ok(())
}

/// Ends the process, whatever its other threads are at.
fn end_at_once() -> ! {
    let killed = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    unreachable!("a process can kill itself: {killed:?}")
}

/// Starts a thread that answers what comes over a socket.
fn start(provider: &Arc<Pkcs11Provider>, lane: Lane, stream: OwnedFd) -> io::Result<()> {
    let provider = Arc::clone(provider);
    let mut channel = Channel::new(UnixStream::from(stream), None)?;
    thread::Builder::new()
        .name(format!("module-{}", lane.name()))
        .spawn(move || {
            lane.yield_to_others();
            while let Ok(request) = channel.receive() {
                let done = catch_unwind(AssertUnwindSafe(|| {
                    answer(&provider, &mut channel, request)
                }));
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return warn!(%error, "an answer cannot be sent"),
                    Err(_) => return error!("a call of the PKCS#11 module panicked"),
                }
            }
        })?;
    Ok(())
}

/// Does what a request says, and answers it.
fn answer(provider: &Pkcs11Provider, channel: &mut Channel, request: Request) -> io::Result<()> {
    match request {
        Request::Probe => reply(provider, channel, provider.probe()),
        Request::Generate { name, spec } => {
            reply(provider, channel, provider.generate(&name, spec))
        }
        Request::Import {
            name,
            public_key,
            pkcs8,
        } => {
            let key = PrivateKey::new(public_key, pkcs8);
            reply(provider, channel, provider.import(&name, &key))
        }
        Request::Sign(orders) => {
            let signed: Vec<_> = orders
                .iter()
                .map(|order| match order.sign(provider) {
                    Ok(signature) => Ok(ByteBuf::from(signature)),
                    Err(error) => Err(Fault::from(error)),
                })
                .collect();
            reply(provider, channel, Ok(signed))
        }
        Request::Destroy(key_ref) => reply(provider, channel, provider.destroy(key_ref)),
        Request::LookAtLinkedKey {
            key_ref,
            public_key,
        } => {
            let found = provider.look_at_linked_key(key_ref, &public_key);
            reply(provider, channel, found)
        }
        Request::DestroyLinkedKey {
            key_ref,
            public_key,
        } => {
            let destroyed = provider.destroy_linked_key(key_ref, &public_key);
            reply(provider, channel, destroyed)
        }
        Request::PublishCertificate { name, certificate } => {
            let published = provider.publish_certificate(&name, &certificate);
            reply(provider, channel, published)
        }
        Request::ReplaceCertificate { name, certificate } => {
            let replaced = provider.replace_certificate(&name, &certificate);
            reply(provider, channel, replaced)
        }
        Request::FindKeys(search) => reply(provider, channel, provider.find_keys(&search)),
        Request::CertificatesOf(id) => reply(provider, channel, provider.certificates_of(&id)),
        Request::BeginInventory => reply(provider, channel, provider.begin_inventory()),
        Request::ContinueInventory => reply(provider, channel, provider.continue_inventory()),
        Request::SweepHalfMade => reply(provider, channel, provider.sweep_half_made()),
        Request::Rehearse => reply(provider, channel, provider.rehearse()),
    }
}

fn reply<T: Serialize>(
    provider: &Pkcs11Provider,
    channel: &mut Channel,
    result: Result<T, ProviderError>,
) -> io::Result<()> {
    channel.send(&Reply {
        connected: provider.availability().is_ok(),
        result: result.map_err(Fault::from),
    })
}
