//! `keypaird.v1.KeyPairService`: takes a request, calls the use case, gives its answer.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::key_pair as convert;
use super::status::answer;
use crate::proto::key_pair_service_server::KeyPairService;
use crate::proto::{
    DeleteSigningKeyPairRequest, DeleteSigningKeyPairResponse, ExportCertificateRequest,
    ExportCertificateResponse, GenerateSigningKeyPairRequest, GenerateSigningKeyPairResponse,
    GetSigningKeyPairRequest, GetSigningKeyPairResponse, ListKeyAlgorithmsRequest,
    ListKeyAlgorithmsResponse, ListSigningKeyPairsRequest, ListSigningKeyPairsResponse,
};
use crate::service::{GenerateOutcome, Service};

/// The service.
#[derive(Debug)]
pub(super) struct KeyPairGrpc {
    service: Arc<Service>,
}

impl KeyPairGrpc {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

#[tonic::async_trait]
impl KeyPairService for KeyPairGrpc {
    async fn generate_signing_key_pair(
        &self,
        request: Request<GenerateSigningKeyPairRequest>,
    ) -> Result<Response<GenerateSigningKeyPairResponse>, Status> {
        let work = async {
            let request = convert::generate_request(request.into_inner())?;
            let key_pair = match self.service.generate(request).await? {
                GenerateOutcome::Made(view) => convert::key_pair_view(*view),
                GenerateOutcome::WouldMake(preview) => convert::key_pair_preview(*preview),
            };
            Ok(GenerateSigningKeyPairResponse {
                key_pair: Some(key_pair),
            })
        };
        answer(work.await)
    }

    async fn get_signing_key_pair(
        &self,
        request: Request<GetSigningKeyPairRequest>,
    ) -> Result<Response<GetSigningKeyPairResponse>, Status> {
        let view = self.service.get(&request.get_ref().id).await;
        answer(view.map(|view| GetSigningKeyPairResponse {
            key_pair: Some(convert::key_pair_view(view)),
        }))
    }

    async fn list_signing_key_pairs(
        &self,
        request: Request<ListSigningKeyPairsRequest>,
    ) -> Result<Response<ListSigningKeyPairsResponse>, Status> {
        let work = async {
            let request = convert::list_request(request.into_inner())?;
            let page = self.service.list(request).await?;
            Ok(convert::list_response(page))
        };
        answer(work.await)
    }

    async fn delete_signing_key_pair(
        &self,
        request: Request<DeleteSigningKeyPairRequest>,
    ) -> Result<Response<DeleteSigningKeyPairResponse>, Status> {
        let request = request.get_ref();
        let deleted = self.service.delete(&request.id, &request.etag).await;
        answer(deleted.map(|()| DeleteSigningKeyPairResponse {}))
    }

    async fn list_key_algorithms(
        &self,
        request: Request<ListKeyAlgorithmsRequest>,
    ) -> Result<Response<ListKeyAlgorithmsResponse>, Status> {
        let algorithms = convert::provider("cryptoProvider", request.get_ref().crypto_provider)
            .and_then(|asked| self.service.key_algorithms(asked));
        answer(algorithms.map(|algorithms| ListKeyAlgorithmsResponse {
            key_algorithms: algorithms.iter().map(convert::key_algorithm).collect(),
        }))
    }

    async fn export_certificate(
        &self,
        request: Request<ExportCertificateRequest>,
    ) -> Result<Response<ExportCertificateResponse>, Status> {
        let exported = self.service.export_certificate(&request.get_ref().id).await;
        answer(exported.map(|certificate_pem| ExportCertificateResponse { certificate_pem }))
    }
}
