//! The one door from tasks to providers: bounded queues, and threads of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Span;

use super::lane::{Crew, Job, Lane, SignJob, guarded};
use super::order::{SigningOrder, portions, sign_all};
use super::scheduling::interrupt_as_usual;
use super::{CryptoProvider, Finding, Operation, ProviderError, ProviderErrorKind};
use crate::domain::ProviderKind;

/// A provider with the threads that call it.
///
/// Work is queued in lanes, so that what takes long does not stand before what is quick. A full queue
/// answers at once. A job whose caller went away while it was queued is dropped unbegun. A panic in a job
/// becomes an error, and the thread lives on. The threads end when the handle is dropped.
#[derive(Debug)]
pub struct ProviderHandle {
    provider: Arc<dyn CryptoProvider>,
    sign: Crew,
    manage: Crew,
    sign_threads: usize,
    operation_timeout: Duration,
    /// Held by whoever makes or ends a connection.
    connecting: Arc<Mutex<()>>,
    /// All threads that sign are at calls that do not come back.
    stuck: AtomicBool,
    /// What came of signatures since it was last asked.
    signed: AtomicBool,
    failed: AtomicBool,
}

/// How many threads a provider gets, how much work may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    /// Threads that sign.
    pub sign_threads: usize,
    /// Threads that generate, destroy and look around. One for a token: modules are least reliable when
    /// objects are created side by side.
    pub manage_threads: usize,
    /// How many jobs may wait in each lane.
    pub queue_length: usize,
    /// How long a caller waits for one job.
    pub operation_timeout: Duration,
}

impl ProviderHandle {
    /// Starts the threads of a provider. Must be called in a Tokio runtime.
    pub fn start(provider: Arc<dyn CryptoProvider>, lanes: &Lanes) -> std::io::Result<Self> {
        let crew = |lane, count| Crew::start(Arc::clone(&provider), lane, count, lanes);
        Ok(Self {
            sign: crew(Lane::Sign, lanes.sign_threads)?,
            manage: crew(Lane::Manage, lanes.manage_threads)?,
            sign_threads: lanes.sign_threads,
            operation_timeout: lanes.operation_timeout,
            connecting: Arc::default(),
            stuck: AtomicBool::new(false),
            signed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            provider,
        })
    }

    /// Returns which provider it is.
    pub fn kind(&self) -> ProviderKind {
        self.provider.kind()
    }

    /// Returns the provider, for questions that it answers at once.
    pub fn provider(&self) -> &dyn CryptoProvider {
        &*self.provider
    }

    /// Makes a signature.
    pub async fn sign(&self, order: SigningOrder) -> Result<Vec<u8>, ProviderError> {
        if self.provider.signs_at_once(&order.key, &order.input) {
            // Counts as some work, so that a task that signs on and on lets others have their turn.
            tokio::task::coop::consume_budget().await;
            let signed = order.sign(&*self.provider);
            self.note(&signed);
            return signed;
        }
        let signed = self.queue_signatures(vec![order]).await;
        let signed = signed.and_then(|mut signed| {
            let one = signed.pop();
            one.unwrap_or_else(|| Err(self.lost(Operation::Sign)))
        });
        self.note(&signed);
        signed
    }

    /// Makes many signatures, in their order.
    ///
    /// They are queued a few at a time, as many as there are threads, so that others come in between.
    pub async fn sign_all(&self, orders: Vec<SigningOrder>) -> Vec<Result<Vec<u8>, ProviderError>> {
        let mut signed = Vec::with_capacity(orders.len());
        let portions = portions(orders).map(|portion| self.sign_portion(portion));
        let mut portions = stream::iter(portions).buffered(self.sign_threads);
        while let Some(portion) = portions.next().await {
            signed.extend(portion);
        }
        signed
    }

    /// Makes some signatures in one job.
    async fn sign_portion(&self, orders: Vec<SigningOrder>) -> Vec<Result<Vec<u8>, ProviderError>> {
        let at_once = |order: &SigningOrder| self.provider.signs_at_once(&order.key, &order.input);
        if orders.iter().all(at_once) {
            tokio::task::yield_now().await;
            let signed = sign_all(&*self.provider, &orders);
            self.note_all(&signed);
            return signed;
        }
        let count = orders.len();
        let signed = match self.queue_signatures(orders).await {
            Ok(signed) => signed,
            // What befell the job befell each of them.
            Err(failed) => (0..count)
                .map(|_| Err(self.error(Operation::Sign, failed.kind)))
                .collect(),
        };
        self.note_all(&signed);
        signed
    }

    fn note_all(&self, signed: &[Result<Vec<u8>, ProviderError>]) {
        for one in signed {
            self.note(one);
        }
    }

    /// Notes what came of a signature, for those who ask whether the provider signs.
    fn note(&self, signed: &Result<Vec<u8>, ProviderError>) {
        let flag = match signed {
            Ok(_) => &self.signed,
            Err(failure) if failure.kind.accuses_device() => &self.failed,
            Err(_) => return,
        };
        // Looked at first, so that the processors share it while nothing changes.
        if !flag.load(Ordering::Relaxed) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Tells whether a signature was made since this was last asked.
    pub fn signed_lately(&self) -> bool {
        self.signed.swap(false, Ordering::Relaxed)
    }

    /// Tells whether a signature failed for which the device may be to blame, since this was last asked.
    pub fn failed_lately(&self) -> bool {
        self.failed.swap(false, Ordering::Relaxed)
    }

    /// Returns how long a caller waits for one job.
    pub fn operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    async fn queue_signatures(
        &self,
        orders: Vec<SigningOrder>,
    ) -> Result<Vec<Result<Vec<u8>, ProviderError>>, ProviderError> {
        let (reply, signed) = oneshot::channel();
        let job = Job::Sign(SignJob {
            orders,
            reply,
            span: Span::current(),
        });
        self.sign.enqueue(Operation::Sign, job)?;
        match tokio::time::timeout(self.operation_timeout, signed).await {
            Ok(signed) => signed.map_err(|_| self.lost(Operation::Sign)),
            Err(_) => Err(self.error(Operation::Sign, ProviderErrorKind::TimedOut)),
        }
    }

    /// Tells, from what is known, whether calls can succeed now.
    pub fn availability(&self) -> Result<(), ProviderError> {
        match self.stuck.load(Ordering::Acquire) {
            true => Err(self
                .error(Operation::Connect, ProviderErrorKind::Unavailable)
                .found(Some(Finding::ModuleHangs))),
            false => self.provider.availability(),
        }
    }

    /// Looks for threads whose calls do not come back, and puts others in their place. To be called now and then.
    pub fn look_for_lost_threads(&self) {
        // Where none is left that generates, signing goes on.
        self.manage.replace_lost_threads();
        let signs = self.sign.replace_lost_threads();
        self.stuck.store(!signs, Ordering::Release);
    }

    /// Waits for a while until the provider can be used, and tells whether it can.
    ///
    /// It is for whoever was in the middle of something when the provider was lost, since most losses last for less than
    /// a second. Who comes while it is lost is told at once.
    pub async fn recovers(&self) -> bool {
        let begun = tokio::time::Instant::now();
        while self.availability().is_err() {
            if begun.elapsed() > RECOVERY_MAX {
                return false;
            }
            tokio::time::sleep(RECOVERY_POLL).await;
        }
        true
    }

    /// Connects the provider, on a thread of its own: in a lane, it would wait behind calls that hang on the connection whose
    /// place it is to take.
    pub async fn connect(&self) -> Result<(), ProviderError> {
        let (reply, connected) = oneshot::channel();
        let (provider, kind) = (Arc::clone(&self.provider), self.kind());
        let connecting = Arc::clone(&self.connecting);
        let connect = move || {
            interrupt_as_usual();
            let _connecting = connecting.lock();
            if reply.is_closed() {
                return;
            }
            let done = guarded(kind, Operation::Connect, || provider.connect());
            // Who waited may have stopped.
            let _ = reply.send(done.unwrap_or_else(Err));
        };
        let started = thread::Builder::new()
            .name("connect".to_owned())
            .spawn(connect);
        started.map_err(|cause| {
            self.error(Operation::Connect, ProviderErrorKind::Unavailable)
                .because(cause)
        })?;
        let connected = connected.await;
        connected.unwrap_or_else(|_| Err(self.lost(Operation::Connect)))
    }

    /// Ends the connection, if there is one, when one that is being made is there. Blocks. To be called when nobody waits for
    /// [`ProviderHandle::connect`] any more: nothing is connected after it.
    pub fn disconnect(&self) {
        let _connecting = self.connecting.lock();
        self.provider.disconnect();
    }

    /// Runs a job and waits for its result, up to the operation timeout.
    ///
    /// After [`ProviderErrorKind::TimedOut`] the job still runs, and may have any outcome.
    pub async fn run<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let result = self.enqueue(lane, operation, job)?;
        match tokio::time::timeout(self.operation_timeout, result).await {
            Ok(done) => done.unwrap_or_else(|_| Err(self.lost(operation).into())),
            Err(_) => Err(self.error(operation, ProviderErrorKind::TimedOut).into()),
        }
    }

    /// Runs a job and waits for its result, however long that takes.
    pub async fn run_to_end<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let result = self.enqueue(lane, operation, job)?.await;
        result.unwrap_or_else(|_| Err(self.lost(operation).into()))
    }

    fn enqueue<T, E>(
        &self,
        lane: Lane,
        operation: Operation,
        job: impl FnOnce(&dyn CryptoProvider) -> Result<T, E> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, E>>, ProviderError>
    where
        T: Send + 'static,
        E: From<ProviderError> + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        let span = Span::current();
        let work = move |provider: &dyn CryptoProvider| {
            if reply.is_closed() {
                return;
            }
            let _entered = span.entered();
            let done = guarded(provider.kind(), operation, || job(provider));
            // The caller may have left meanwhile; what the job did is its own business then.
            let _ = reply.send(done.unwrap_or_else(|panicked| Err(panicked.into())));
        };
        let crew = match lane {
            Lane::Sign => &self.sign,
            Lane::Manage => &self.manage,
        };
        crew.enqueue(operation, Job::Work(Box::new(work)))?;
        Ok(result)
    }

    fn error(&self, operation: Operation, kind: ProviderErrorKind) -> ProviderError {
        ProviderError::new(self.kind(), operation, kind)
    }

    /// Says that a thread ended, which it never does while the handle lives.
    fn lost(&self, operation: Operation) -> ProviderError {
        self.error(operation, ProviderErrorKind::Failed)
            .because("the job was lost with its thread")
    }
}

/// How long one waits for a provider that was just lost.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
const RECOVERY_POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::domain::{
        Curve, Generation, Hash, KeyPairId, KeyRef, KeySpec, PrivateKey, PublicKey,
        SignatureAlgorithm, SigningInput,
    };
    use crate::providers::{Capabilities, GeneratedKey, KeyName, StoredKey};

    /// Signs when it is let, and counts.
    #[derive(Debug)]
    struct Gated {
        gate: Mutex<mpsc::Receiver<()>>,
        signed: AtomicUsize,
        connected: AtomicUsize,
    }

    impl CryptoProvider for Gated {
        fn kind(&self) -> ProviderKind {
            ProviderKind::Hsm
        }

        fn availability(&self) -> Result<(), ProviderError> {
            Ok(())
        }

        fn connect(&self) -> Result<(), ProviderError> {
            self.connected.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn disconnect(&self) {}

        fn probe(&self) -> Result<(), ProviderError> {
            Ok(())
        }

        fn capabilities(&self) -> Result<Capabilities, ProviderError> {
            Ok(Capabilities::all())
        }

        fn generate(&self, _: &KeyName, _: KeySpec) -> Result<GeneratedKey, ProviderError> {
            unreachable!("nothing is generated here")
        }

        fn import(&self, _: &KeyName, _: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
            unreachable!("no key comes or goes here")
        }

        fn export(&self, _: &StoredKey) -> Result<PrivateKey, ProviderError> {
            unreachable!("no key comes or goes here")
        }

        fn sign(
            &self,
            _: &StoredKey,
            _: SignatureAlgorithm,
            _: &SigningInput,
        ) -> Result<Vec<u8>, ProviderError> {
            self.gate.lock().recv().unwrap();
            self.signed.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        }

        fn destroy(&self, _: KeyRef) -> Result<(), ProviderError> {
            Ok(())
        }
    }

    fn gated(queue_length: usize) -> (Arc<Gated>, ProviderHandle, mpsc::Sender<()>) {
        gated_for(queue_length, Duration::from_secs(20))
    }

    fn gated_for(
        queue_length: usize,
        operation_timeout: Duration,
    ) -> (Arc<Gated>, ProviderHandle, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        let provider = Arc::new(Gated {
            gate: Mutex::new(gate),
            signed: AtomicUsize::new(0),
            connected: AtomicUsize::new(0),
        });
        let lanes = Lanes {
            sign_threads: 1,
            manage_threads: 1,
            queue_length,
            operation_timeout,
        };
        let shared: Arc<dyn CryptoProvider> = provider.clone();
        let handle = ProviderHandle::start(shared, &lanes).unwrap();
        (provider, handle, open)
    }

    fn order(spec: KeySpec) -> SigningOrder {
        SigningOrder {
            key: Arc::new(StoredKey {
                name: KeyName {
                    id: KeyPairId::from_random([0; 16]),
                    generation: Generation::FIRST,
                    key_ref: KeyRef::from_random([0; 16]),
                },
                public_key: PublicKey::new(spec, *b"key"),
                sealed: None,
            }),
            algorithm: SignatureAlgorithm::Ecdsa(Hash::Sha256),
            input: SigningInput::Message(b"message"[..].into()),
        }
    }

    const P256: KeySpec = KeySpec::Ec(Curve::P256);

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_signed() {
        let (provider, handle, open) = gated(100);
        let patience = Duration::from_millis(20);
        for _ in 0..10 {
            // The first is begun and the others wait behind it, when their callers go away.
            assert!(
                tokio::time::timeout(patience, handle.sign(order(P256)))
                    .await
                    .is_err()
            );
        }
        (0..11).for_each(|_| open.send(()).unwrap());
        handle.sign(order(P256)).await.unwrap();
        assert_eq!(provider.signed.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn threads_whose_calls_do_not_come_back_are_replaced_up_to_a_limit() {
        let (provider, handle, open) = gated_for(100, Duration::from_millis(40));
        let patience = Duration::from_millis(20);
        let hang = || tokio::time::timeout(patience, handle.sign(order(P256)));
        let look = async || {
            tokio::time::sleep(Duration::from_millis(150)).await;
            handle.look_for_lost_threads();
            handle.availability().map_err(|error| error.kind)
        };
        // The second one hangs in the place of the first. There is no third.
        assert!(hang().await.is_err());
        assert_eq!(look().await, Ok(()));
        assert!(hang().await.is_err());
        assert_eq!(look().await, Err(ProviderErrorKind::Unavailable));
        (0..3).for_each(|_| open.send(()).unwrap());
        assert_eq!(look().await, Ok(()));
        handle.sign(order(P256)).await.unwrap();
        assert_eq!(provider.signed.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[expect(
        clippy::await_holding_lock,
        reason = "held in the place of a thread that connects"
    )]
    async fn nothing_is_connected_after_the_end_when_nobody_waits_for_it() {
        let (provider, handle, _open) = gated(1);
        let handle = Arc::new(handle);
        let patience = Duration::from_millis(20);
        let one_connects = handle.connecting.lock();
        // Who waits goes away before its turn.
        assert!(
            tokio::time::timeout(patience, handle.connect())
                .await
                .is_err()
        );
        drop(one_connects);
        let ending = Arc::clone(&handle);
        tokio::task::spawn_blocking(move || ending.disconnect())
            .await
            .unwrap();
        tokio::time::sleep(patience).await;
        assert_eq!(provider.connected.load(Ordering::SeqCst), 0);
        handle.connect().await.unwrap();
        assert_eq!(provider.connected.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_has_room_again_later() {
        let (_, handle, open) = gated(2);
        let handle = Arc::new(handle);
        let mut waiting = Vec::new();
        // One is with the thread, two are queued.
        for _ in 0..3 {
            let handle = Arc::clone(&handle);
            waiting.push(tokio::spawn(async move { handle.sign(order(P256)).await }));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let refused = handle.sign(order(P256)).await.unwrap_err();
        assert_eq!(refused.kind, ProviderErrorKind::Busy);
        (0..4).for_each(|_| open.send(()).unwrap());
        for call in waiting {
            call.await.unwrap().unwrap();
        }
        handle.sign(order(P256)).await.unwrap();
    }

    #[tokio::test]
    async fn many_signatures_leave_room_in_the_queue_and_come_in_their_order() {
        // No longer than the queue at any time, though there are more portions than places in it.
        let (provider, handle, open) = gated(1);
        let orders: Vec<_> = (0..100).map(|_| order(P256)).collect();
        for _ in &orders {
            open.send(()).unwrap();
        }
        let signed = handle.sign_all(orders).await;
        assert!(signed.iter().all(Result::is_ok));
        assert_eq!(provider.signed.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn portions_are_small_for_slow_keys() {
        let rsa = KeySpec::Rsa(crate::domain::RsaSize::Bits4096);
        let specs = [vec![P256; 20], vec![rsa; 2], vec![P256; 3]].concat();
        let lengths: Vec<_> = portions(specs.into_iter().map(order).collect())
            .map(|portion| portion.len())
            .collect();
        assert_eq!(lengths, [16, 4, 1, 1, 3]);
    }
}
