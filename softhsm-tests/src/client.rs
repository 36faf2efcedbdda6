//! A gRPC client in Rust, for what needs many calls at once.

use std::time::Duration;

use keypaird::domain::SignatureAlgorithm;
use keypaird::proto::event_service_client::EventServiceClient;
use keypaird::proto::key_pair_service_client::KeyPairServiceClient;
use keypaird::proto::signing_service_client::SigningServiceClient;
use keypaird::proto::{
    BatchSignRequest, BatchSignResult, CryptoProvider, DeleteSigningKeyPairRequest,
    GenerateSigningKeyPairRequest, GetSigningKeyPairRequest, KeyPairEvent, KeyPairRotationSettings,
    KeyPairView, ListSigningKeyPairsRequest, ListSigningKeyPairsResponse, NewKeyPairSettings,
    RotateSigningKeyPairRequest, SignRequest, SignResponse, UpdateRotationSettingsRequest,
    VerifyRequest, VerifyResponse, WatchKeyPairsRequest, WatchKeyPairsResponse, sign_request,
};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::tools::OpensslVerifier;

/// A connection to a daemon. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to a daemon.
    pub async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(address.to_owned()).unwrap();
        Self {
            channel: endpoint.connect().await.unwrap(),
        }
    }

    /// Takes a connection that was made elsewhere.
    pub fn of(channel: Channel) -> Self {
        Self { channel }
    }

    /// Returns the connection, for calls of any kind.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Returns the generated client.
    pub fn key_pairs(&self) -> KeyPairServiceClient<Channel> {
        KeyPairServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
    }

    /// Generates a key pair.
    pub async fn generate(&self, settings: NewKeyPairSettings) -> Result<KeyPairView, Status> {
        self.generate_named(settings, "").await
    }

    /// Generates a key pair by a named request.
    pub async fn generate_named(
        &self,
        settings: NewKeyPairSettings,
        request_id: &str,
    ) -> Result<KeyPairView, Status> {
        let request = GenerateSigningKeyPairRequest {
            settings: Some(settings),
            request_id: request_id.to_owned(),
            validate_only: false,
        };
        let response = self.key_pairs().generate_signing_key_pair(request).await?;
        Ok(response.into_inner().key_pair.unwrap())
    }

    /// Gets a key pair.
    pub async fn get(&self, id: &str) -> Result<KeyPairView, Status> {
        let request = GetSigningKeyPairRequest { id: id.to_owned() };
        let response = self.key_pairs().get_signing_key_pair(request).await?;
        Ok(response.into_inner().key_pair.unwrap())
    }

    /// Lists one page of key pairs.
    pub async fn list(
        &self,
        request: ListSigningKeyPairsRequest,
    ) -> Result<ListSigningKeyPairsResponse, Status> {
        Ok(self
            .key_pairs()
            .list_signing_key_pairs(request)
            .await?
            .into_inner())
    }

    /// Lists all key pairs, page by page.
    pub async fn list_all(&self) -> Vec<KeyPairView> {
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListSigningKeyPairsRequest {
                page_size: 1000,
                page_token,
                ..ListSigningKeyPairsRequest::default()
            };
            let page = self.list(request).await.unwrap();
            all.extend(page.key_pairs);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }

    /// Deletes a key pair.
    pub async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteSigningKeyPairRequest {
            id: id.to_owned(),
            ..DeleteSigningKeyPairRequest::default()
        };
        self.key_pairs().delete_signing_key_pair(request).await?;
        Ok(())
    }

    /// Says when a key pair rotates.
    pub async fn update_rotation(
        &self,
        id: &str,
        settings: KeyPairRotationSettings,
    ) -> Result<KeyPairRotationSettings, Status> {
        let request = UpdateRotationSettingsRequest {
            id: id.to_owned(),
            rotation_settings: Some(settings),
            ..UpdateRotationSettingsRequest::default()
        };
        let answer = self.key_pairs().update_rotation_settings(request).await?;
        Ok(answer.into_inner().rotation_settings.unwrap())
    }

    /// Makes the next generation of a key pair.
    pub async fn rotate(&self, id: &str, activate: bool) -> Result<KeyPairView, Status> {
        let request = RotateSigningKeyPairRequest {
            id: id.to_owned(),
            activate,
            ..RotateSigningKeyPairRequest::default()
        };
        let answer = self.key_pairs().rotate_signing_key_pair(request).await?;
        Ok(answer.into_inner().key_pair.unwrap())
    }

    /// Watches what happens after a resume token, or from now on. The first answer has come.
    pub async fn watch(&self, id: &str, since: &str) -> Result<Watch, Status> {
        let request = WatchKeyPairsRequest {
            id: id.to_owned(),
            since: since.to_owned(),
        };
        let mut client = EventServiceClient::new(self.channel.clone());
        let mut responses = client.watch_key_pairs(request).await?.into_inner();
        let begun = responses.message().await?.unwrap();
        assert!(begun.event.is_none());
        Ok(Watch {
            responses,
            token: begun.resume_token,
        })
    }

    /// Returns the generated client of the signing service.
    pub fn signing(&self) -> SigningServiceClient<Channel> {
        SigningServiceClient::new(self.channel.clone()).max_decoding_message_size(64 * 1024 * 1024)
    }

    /// Makes a signature.
    pub async fn sign(&self, request: SignRequest) -> Result<SignResponse, Status> {
        Ok(self.signing().sign(request).await?.into_inner())
    }

    /// Panics unless a key pair signs what OpenSSL verifies with its public key.
    pub async fn signs(&self, view: &KeyPairView) {
        let signed = self.sign(SignRequest {
            id: view.id.clone(),
            input: Some(sign_request::Input::Message(b"message"[..].into())),
            ..SignRequest::default()
        });
        let signed = signed.await.unwrap();
        let algorithm = SignatureAlgorithm::parse(&signed.signature_algorithm).unwrap();
        OpensslVerifier::new(&view.public_key_pem).accepts(
            algorithm,
            b"message",
            &signed.signature,
        );
    }

    /// Makes many signatures.
    pub async fn sign_batch(
        &self,
        requests: Vec<SignRequest>,
    ) -> Result<Vec<BatchSignResult>, Status> {
        let request = BatchSignRequest { requests };
        Ok(self
            .signing()
            .batch_sign(request)
            .await?
            .into_inner()
            .results)
    }

    /// Checks a signature.
    pub async fn verify(&self, request: VerifyRequest) -> Result<VerifyResponse, Status> {
        Ok(self.signing().verify(request).await?.into_inner())
    }

    /// Asks for the health of a service.
    pub async fn serves(&self, service: &str) -> bool {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let response = HealthClient::new(self.channel.clone()).check(request).await;
        response.unwrap().into_inner().status() == ServingStatus::Serving
    }
}

/// One who watches.
#[derive(Debug)]
pub struct Watch {
    responses: Streaming<WatchKeyPairsResponse>,
    /// Where to go on.
    pub token: String,
}

impl Watch {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Result<KeyPairEvent, Status> {
        loop {
            let response = self.responses.message().await?.unwrap();
            self.token = response.resume_token;
            if let Some(event) = response.event {
                return Ok(event);
            }
        }
    }
}

/// Returns settings that nothing is wrong with, for the smallest and fastest key.
pub fn settings(provider: CryptoProvider) -> NewKeyPairSettings {
    NewKeyPairSettings {
        common_name: "Example".into(),
        organization: "Acme".into(),
        country: "US".into(),
        valid_days: 365,
        key_algorithm: "EC".into(),
        crypto_provider: provider.into(),
        ..NewKeyPairSettings::default()
    }
}

/// Returns what an error is told apart by: code and reason.
pub fn reason(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!(info.domain, "keypaird");
    (status.code(), info.reason.clone())
}

/// Returns the paths of all methods that a daemon serves: those that its reflection describes, and that itself.
pub fn every_method() -> Vec<String> {
    let mut methods: Vec<_> = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"))
        .into();
    let described = [
        keypaird::proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
    ];
    for set in described {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                let paths = service.method.iter().map(MethodDescriptorProto::name);
                methods.extend(paths.map(|method| format!("/{service_name}/{method}")));
            }
        }
    }
    methods
}

/// Calls any method with bytes as messages, and returns all that it answers.
pub async fn raw_stream(
    channel: Channel,
    method: &str,
    messages: Vec<Vec<u8>>,
    timeout: Duration,
) -> Result<Vec<Vec<u8>>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(method).unwrap();
    let mut request = tonic::Request::new(tokio_stream::iter(messages));
    request.set_timeout(timeout);
    let answers = grpc.streaming(request, path, bytes::BytesCodec).await?;
    let mut answers = answers.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

/// A stream of bytes as messages that stays open.
#[derive(Debug)]
pub struct OpenStream {
    answers: Streaming<Vec<u8>>,
    /// None where the request is one message.
    messages: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl OpenStream {
    /// Opens a stream. What a `Watch` asks for is one message; all others go on.
    pub async fn open(channel: Channel, method: &str, message: Vec<u8>) -> Result<Self, Status> {
        Self::open_until(channel, method, message, None).await
    }

    /// Opens a stream with a deadline.
    pub async fn open_until(
        channel: Channel,
        method: &str,
        message: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Self, Status> {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(method).unwrap();
        let (messages, rest) = mpsc::unbounded_channel();
        messages.send(message).unwrap();
        let mut request = tonic::Request::new(UnboundedReceiverStream::new(rest));
        if let Some(timeout) = timeout {
            // Only the daemon is to keep it.
            let timeout = format!("{}m", timeout.as_millis()).parse().unwrap();
            request.metadata_mut().insert("grpc-timeout", timeout);
        }
        let messages = (!method.contains("/Watch")).then_some(messages);
        let answers = grpc.streaming(request, path, bytes::BytesCodec).await?;
        Ok(Self {
            answers: answers.into_inner(),
            messages,
        })
    }

    /// Sends another message. It is no fault when the daemon reads no more.
    pub fn send(&self, message: Vec<u8>) {
        let _ = self.messages.as_ref().unwrap().send(message);
    }

    /// Waits for the next answer. There is none when the stream ended well.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        self.answers.message().await
    }
}

/// Calls a method with bytes that may be no message of its kind.
pub async fn raw_call(
    daemon: &crate::daemon::Daemon,
    method: &'static str,
    message: &[u8],
) -> Result<Vec<u8>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.address())).unwrap();
    let mut grpc = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let request = tonic::Request::new(message.to_vec());
    Ok(grpc
        .unary(request, path, bytes::BytesCodec)
        .await?
        .into_inner())
}

/// Sends and receives messages as bytes.
mod bytes {
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Default)]
    pub(super) struct BytesCodec;

    impl Codec for BytesCodec {
        type Encode = Vec<u8>;
        type Decode = Vec<u8>;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            Self
        }

        fn decoder(&mut self) -> Self {
            Self
        }
    }

    impl Encoder for BytesCodec {
        type Item = Vec<u8>;
        type Error = Status;

        fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            prost::bytes::BufMut::put_slice(buffer, &item);
            Ok(())
        }
    }

    impl Decoder for BytesCodec {
        type Item = Vec<u8>;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
            use prost::bytes::Buf;
            Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
        }
    }
}
