//! The process of the module, seen from the daemon.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::de::DeserializeOwned;
use tracing::{debug, error};

use super::wire::{AsyncChannel, Begin, Channel, Connected, Fault, Reply, Request, Signatures};
use crate::providers::{Lane, SigningOrder};
use crate::telemetry;

/// How the process is started.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    /// The program, which calls [`super::serve`].
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A process that has loaded the module and is logged in to the token.
///
/// It ends when this is dropped, and with the daemon, however that ends.
#[derive(Debug)]
pub(super) struct Process {
    connected: Connected,
    control: UnixStream,
    leash: Leash,
    /// Channels that nobody uses at the moment: for signatures, for other quick work, and for slow.
    signing: Mutex<Vec<AsyncChannel>>,
    quick: Mutex<Vec<Channel>>,
    slow: Mutex<Vec<Channel>>,
    /// How long a quick call may last.
    call_max: Duration,
}

impl Process {
    /// Starts the process and has it connect to the token.
    pub(super) fn start(
        command: &WorkerCommand,
        begin: &Begin,
        call_max: Duration,
    ) -> Result<Result<Self, Fault>, ProcessError> {
        let (control, leash) = spawn(command).map_err(ProcessError::Start)?;
        let mut channel = Channel::new(control, call_max)?;
        let greeting = channel.send(begin).and_then(|()| channel.receive());
        if !matches!(greeting, Ok(Ok(_))) {
            leash.end_at_once();
        }
        let greeting: Result<Connected, Fault> = greeting?;
        Ok(greeting.map(|connected| Self {
            connected,
            control: channel.into_stream(),
            leash,
            signing: Mutex::default(),
            quick: Mutex::default(),
            slow: Mutex::default(),
            call_max,
        }))
    }

    /// Returns which token it is connected to, and what that can do.
    pub(super) const fn connected(&self) -> &Connected {
        &self.connected
    }

    /// Tells whether it must not be used any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.leash.state.given_up.load(Ordering::Acquire)
    }

    /// Has the process do something, and waits for it.
    ///
    /// # Errors
    /// When the process is gone, or does not answer; then it is given up. Whether it did what it was asked is not known.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        request: &Request,
    ) -> Result<Result<T, Fault>, ProcessError> {
        self.judge(self.exchange(lane, request))
    }

    /// Has the process sign, with errors as those of [`Process::ask`]. There are as many signatures as
    /// orders, in their order.
    pub(super) async fn ask_to_sign(
        &self,
        orders: Vec<SigningOrder>,
    ) -> Result<Result<Signatures, Fault>, ProcessError> {
        let count = orders.len();
        let request = Request::Sign(orders);
        let exchanged = tokio::time::timeout(self.call_max, self.exchange_to_sign(&request)).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.judge(exchanged.and_then(|reply| counted(reply, count)))
    }

    /// Does the same as [`Process::ask_to_sign`], and blocks.
    pub(super) fn ask_to_sign_blocking(
        &self,
        orders: Vec<SigningOrder>,
    ) -> Result<Result<Signatures, Fault>, ProcessError> {
        let count = orders.len();
        let exchanged = self.exchange(Lane::Sign, &Request::Sign(orders));
        self.judge(exchanged.and_then(|reply| counted(reply, count)))
    }

    /// Sees what an exchange says of the process.
    fn judge<T>(&self, exchanged: io::Result<Reply<T>>) -> Result<Result<T, Fault>, ProcessError> {
        match exchanged.map_err(ProcessError::from) {
            Ok(reply) => {
                if !reply.connected {
                    self.leash.give_up();
                }
                Ok(reply.result)
            }
            Err(failure) => {
                if matches!(failure, ProcessError::OutOfTime) {
                    error!("the process of the PKCS#11 module is killed: {failure}");
                }
                self.leash.kill();
                Err(failure)
            }
        }
    }

    fn exchange<T: DeserializeOwned>(&self, lane: Lane, request: &Request) -> io::Result<Reply<T>> {
        let idle = match lane {
            Lane::Sign => &self.quick,
            Lane::Manage => &self.slow,
        };
        let known = idle.lock().pop();
        let mut channel = match known {
            Some(channel) => channel,
            None => Channel::new(self.open_socket(lane)?, lane.patience(self.call_max))?,
        };
        channel.send(request)?;
        let reply = channel.receive()?;
        idle.lock().push(channel);
        Ok(reply)
    }

    async fn exchange_to_sign<T: DeserializeOwned>(
        &self,
        request: &Request,
    ) -> io::Result<Reply<T>> {
        let known = self.signing.lock().pop();
        let mut channel = match known {
            Some(channel) => channel,
            None => AsyncChannel::new(self.open_socket(Lane::Sign)?)?,
        };
        channel.send(request).await?;
        let reply = channel.receive().await?;
        self.signing.lock().push(channel);
        Ok(reply)
    }

    /// Makes a pair of sockets, and hands the process one of them.
    fn open_socket(&self, lane: Lane) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let descriptors = [theirs.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let word = [Word::of(lane).byte()];
        let word = [IoSlice::new(&word)];
        rustix::net::sendmsg(&self.control, &word, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(ours)
    }

    /// Has the process leave the module properly, or ends it if that takes long, and tells whether it is gone: two of them
    /// never work on one token.
    pub(super) fn end(&self) -> bool {
        self.leash.give_up();
        let farewell = [Word::Farewell.byte()];
        let said = rustix::net::send(&self.control, &farewell, SendFlags::NOSIGNAL);
        (said.is_ok() && self.leash.state.ends_within(FAREWELL_MAX)) || self.leash.end_at_once()
    }
}

/// Refuses an answer with another number of signatures than were asked for. They belong to their
/// orders by position, often to several callers: each would get the signature of another. A process
/// that answers so is damaged, and is killed like one that does not speak our language.
fn counted(reply: Reply<Signatures>, count: usize) -> io::Result<Reply<Signatures>> {
    match &reply.result {
        Ok(signatures) if signatures.len() != count => {
            let answered = signatures.len();
            error!(
                asked = count,
                answered,
                "the process of the PKCS#11 module answered with the wrong number of signatures; it is killed"
            );
            let sentence = format!("{answered} signatures for {count} orders");
            Err(io::Error::new(io::ErrorKind::InvalidData, sentence))
        }
        _ => Ok(reply),
    }
}

/// Why the process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("start the process of the PKCS#11 module")]
    Start(#[source] io::Error),
    #[error("the process of the PKCS#11 module ended")]
    Ended,
    #[error("a call does not come back from the PKCS#11 module")]
    OutOfTime,
    #[error("talk to the process of the PKCS#11 module")]
    Talk(#[source] io::Error),
}

impl From<io::Error> for ProcessError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Ended,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::OutOfTime,
            _ => Self::Talk(error),
        }
    }
}

/// Starts the process, with one end of the returned socket as its standard input.
///
/// Its standard error joins the log, so that neither it nor the module, which may write there too,
/// waits for the reader of the log.
fn spawn(command: &WorkerCommand) -> io::Result<(UnixStream, Leash)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut process = Command::new(&command.program);
    process
        .arg0("keypaird")
        .args(&command.arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(telemetry::log_pipe()?.map_or_else(Stdio::inherit, Stdio::from))
        // What a terminal sends to the daemon is for the daemon alone.
        .process_group(0);
    Ok((ours, Leash::of(process.spawn()?)?))
}

/// What holds the process: it can be ended, and is waited for.
#[derive(Debug)]
struct Leash {
    pidfd: OwnedFd,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// It is not to be used any more.
    given_up: AtomicBool,
    ended: Mutex<bool>,
    told: Condvar,
}

impl Leash {
    fn of(child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        // Before it is waited for, so that it is this process and no later one.
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let state = Arc::new(State::default());
        thread::Builder::new()
            .name("hsm-process".to_owned())
            .spawn({
                let state = Arc::clone(&state);
                move || state.wait_for(child)
            })?;
        Ok(Self {
            pidfd: pidfd?,
            state,
        })
    }

    /// Has nobody use the process any more.
    fn give_up(&self) {
        self.state.given_up.store(true, Ordering::Release);
    }

    /// Ends the process at once.
    fn kill(&self) {
        self.give_up();
        if let Err(error) = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            debug!(%error, "the process of the PKCS#11 module has ended already");
        }
    }

    /// Ends the process at once, and tells whether it is gone.
    fn end_at_once(&self) -> bool {
        self.kill();
        let ended = self.state.ends_within(KILL_MAX);
        if !ended {
            error!("the process of the PKCS#11 module cannot be ended");
        }
        ended
    }
}

impl State {
    /// Waits for the end of the process: the life of a thread.
    fn wait_for(&self, mut child: Child) {
        let ended = child.wait();
        let expected = self.given_up.swap(true, Ordering::AcqRel);
        *self.ended.lock() = true;
        self.told.notify_all();
        match ended {
            // Its end shows to those who wait for an answer before it shows here.
            Ok(status) if !expected || is_crash(status) => {
                error!(%status, "the process of the PKCS#11 module ended by itself; another one is started");
            }
            Ok(_) => {}
            Err(error) => error!(%error, "the process of the PKCS#11 module cannot be waited for"),
        }
    }

    /// Waits for the end of the process, and tells whether it came.
    fn ends_within(&self, patience: Duration) -> bool {
        let mut ended = self.ended.lock();
        self.told
            .wait_while_for(&mut ended, |ended| !*ended, patience);
        *ended
    }
}

/// Tells whether a process died of something else than of us.
fn is_crash(status: ExitStatus) -> bool {
    let killed = Signal::KILL.as_raw();
    status.signal().is_some_and(|signal| signal != killed)
}

/// What is said over the control socket, after [`Begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Here comes a channel for quick work.
    Quick,
    /// Here comes a channel for slow work.
    Slow,
    /// Leave the module and end.
    Farewell,
}

impl Word {
    const fn of(lane: Lane) -> Self {
        match lane {
            Lane::Sign => Self::Quick,
            Lane::Manage => Self::Slow,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Quick => b'q',
            Self::Slow => b's',
            Self::Farewell => b'f',
        }
    }

    /// Reads what was said.
    pub(super) fn read(byte: u8) -> Option<Self> {
        [Self::Quick, Self::Slow, Self::Farewell]
            .into_iter()
            .find(|word| word.byte() == byte)
    }
}

/// How long the process may take to leave the module.
const FAREWELL_MAX: Duration = Duration::from_millis(300);
/// How long the system may take to end it.
const KILL_MAX: Duration = Duration::from_secs(5);
