//! `keypaird.v1.KeyPairService`: takes a request, calls the use case, gives its answer.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::origin;
use super::convert::{diagnosis, key_file, key_pair as convert, rotation};
use super::status::answer;
use crate::proto::key_pair_service_server::KeyPairService;
use crate::proto::{
    DeleteRotationSettingsRequest, DeleteRotationSettingsResponse, DeleteSigningKeyPairRequest,
    DeleteSigningKeyPairResponse, DestroyDoubtfulKeyRequest, DestroyDoubtfulKeyResponse,
    DiagnoseRequest, DiagnoseResponse, ExportCertificateRequest, ExportCertificateResponse,
    ExportSigningKeyPairRequest, ExportSigningKeyPairResponse, GenerateCsrRequest,
    GenerateCsrResponse, GenerateSigningKeyPairRequest, GenerateSigningKeyPairResponse,
    GetRotationSettingsRequest, GetRotationSettingsResponse, GetSigningKeyPairRequest,
    GetSigningKeyPairResponse, GetVersionRequest, GetVersionResponse, ImportCsrResponseRequest,
    ImportCsrResponseResponse, ImportSigningKeyPairRequest, ImportSigningKeyPairResponse,
    LinkSigningKeyPairRequest, LinkSigningKeyPairResponse, ListCryptoProvidersRequest,
    ListCryptoProvidersResponse, ListDoubtfulKeysRequest, ListDoubtfulKeysResponse,
    ListKeyAlgorithmsRequest, ListKeyAlgorithmsResponse, ListSigningKeyPairsRequest,
    ListSigningKeyPairsResponse, MigrateSigningKeyPairRequest, MigrateSigningKeyPairResponse,
    PlanRotationRequest, PlanRotationResponse, RotateSigningKeyPairRequest,
    RotateSigningKeyPairResponse, UpdateLabelsRequest, UpdateLabelsResponse,
    UpdateRotationSettingsRequest, UpdateRotationSettingsResponse,
};
use crate::service::{self, DeleteRequest, GenerateOutcome, KeyFileFormat, Service};

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
        let origin = origin(&request);
        let work = async {
            let request = convert::list_request(request.into_inner(), origin)?;
            let page = self.service.list(request).await?;
            Ok(convert::list_response(page))
        };
        answer(work.await)
    }

    async fn delete_signing_key_pair(
        &self,
        request: Request<DeleteSigningKeyPairRequest>,
    ) -> Result<Response<DeleteSigningKeyPairResponse>, Status> {
        let request = request.into_inner();
        let deleted = self.service.delete(DeleteRequest {
            id: request.id,
            etag: request.etag,
            destroy_linked_key: request.destroy_linked_key,
        });
        let deleted = deleted.await;
        answer(deleted.map(|fate| DeleteSigningKeyPairResponse {
            private_key: convert::private_key_fate(fate).into(),
        }))
    }

    async fn update_labels(
        &self,
        request: Request<UpdateLabelsRequest>,
    ) -> Result<Response<UpdateLabelsResponse>, Status> {
        let request = request.into_inner();
        let updated = self.service.update_labels(service::UpdateLabelsRequest {
            id: request.id,
            labels: request.labels.into_iter().collect(),
            etag: request.etag,
        });
        answer(updated.await.map(|view| UpdateLabelsResponse {
            key_pair: Some(convert::key_pair_view(view)),
        }))
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

    async fn list_crypto_providers(
        &self,
        _request: Request<ListCryptoProvidersRequest>,
    ) -> Result<Response<ListCryptoProvidersResponse>, Status> {
        let providers = self.service.crypto_providers().await;
        answer(providers.map(|providers| {
            ListCryptoProvidersResponse {
                crypto_providers: providers
                    .into_iter()
                    .map(convert::crypto_provider_status)
                    .collect(),
            }
        }))
    }

    async fn get_version(
        &self,
        _request: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        Ok(Response::new(GetVersionResponse {
            version: crate::VERSION.to_owned(),
            revision: crate::REVISION.to_owned(),
            api: API.to_owned(),
        }))
    }

    async fn diagnose(
        &self,
        _request: Request<DiagnoseRequest>,
    ) -> Result<Response<DiagnoseResponse>, Status> {
        answer(self.service.diagnose().await.map(diagnosis::response))
    }

    async fn list_doubtful_keys(
        &self,
        _request: Request<ListDoubtfulKeysRequest>,
    ) -> Result<Response<ListDoubtfulKeysResponse>, Status> {
        let keys = self.service.doubtful_keys().await;
        answer(keys.map(|keys| ListDoubtfulKeysResponse {
            doubtful_keys: keys.iter().map(convert::doubtful_key).collect(),
        }))
    }

    async fn destroy_doubtful_key(
        &self,
        request: Request<DestroyDoubtfulKeyRequest>,
    ) -> Result<Response<DestroyDoubtfulKeyResponse>, Status> {
        let id = &request.get_ref().private_key_id;
        let destroyed = self.service.destroy_doubtful_key(id).await;
        answer(destroyed.map(|()| DestroyDoubtfulKeyResponse {}))
    }

    async fn export_certificate(
        &self,
        request: Request<ExportCertificateRequest>,
    ) -> Result<Response<ExportCertificateResponse>, Status> {
        let request = request.get_ref();
        let exported = self
            .service
            .export_certificate(&request.id, request.include_chain)
            .await;
        answer(exported.map(|certificate_pem| ExportCertificateResponse { certificate_pem }))
    }

    async fn link_signing_key_pair(
        &self,
        request: Request<LinkSigningKeyPairRequest>,
    ) -> Result<Response<LinkSigningKeyPairResponse>, Status> {
        let work = async {
            let request = key_file::link_request(request.into_inner())?;
            let linked = self.service.link(request).await?;
            Ok(LinkSigningKeyPairResponse {
                key_pair: Some(convert::key_pair_view(linked.view)),
                warnings: linked.notes.warnings,
                ignored_certificates: key_file::ignored(linked.notes.ignored),
            })
        };
        answer(work.await)
    }

    async fn import_signing_key_pair(
        &self,
        request: Request<ImportSigningKeyPairRequest>,
    ) -> Result<Response<ImportSigningKeyPairResponse>, Status> {
        let work = async {
            let request = key_file::import_request(request.into_inner())?;
            let imported = self.service.import(request).await?;
            Ok(ImportSigningKeyPairResponse {
                key_pair: Some(convert::key_pair_view(imported.view)),
                warnings: imported.notes.warnings,
                ignored_certificates: key_file::ignored(imported.notes.ignored),
            })
        };
        answer(work.await)
    }

    async fn export_signing_key_pair(
        &self,
        request: Request<ExportSigningKeyPairRequest>,
    ) -> Result<Response<ExportSigningKeyPairResponse>, Status> {
        let work = async {
            let request = request.into_inner();
            let format = key_file::format(request.format)?.unwrap_or(KeyFileFormat::Pkcs12);
            let password = request.password.into();
            let file = self.service.export(&request.id, format, password).await?;
            Ok(ExportSigningKeyPairResponse {
                file_data: file.to_vec(),
            })
        };
        answer(work.await)
    }

    async fn generate_csr(
        &self,
        request: Request<GenerateCsrRequest>,
    ) -> Result<Response<GenerateCsrResponse>, Status> {
        let request = key_file::csr_request(request.into_inner());
        let generated = self.service.generate_csr(request).await;
        answer(generated.map(|csr_pem| GenerateCsrResponse { csr_pem }))
    }

    async fn import_csr_response(
        &self,
        request: Request<ImportCsrResponseRequest>,
    ) -> Result<Response<ImportCsrResponseResponse>, Status> {
        let request = request.into_inner();
        let certified = self
            .service
            .import_csr_response(&request.id, request.file_data.into(), &request.etag)
            .await;
        answer(certified.map(|certified| ImportCsrResponseResponse {
            key_pair: Some(convert::key_pair_view(certified.view)),
            rotation_settings_ended: certified.rotation_ended,
            warnings: certified.notes.warnings,
            ignored_certificates: key_file::ignored(certified.notes.ignored),
        }))
    }

    async fn migrate_signing_key_pair(
        &self,
        request: Request<MigrateSigningKeyPairRequest>,
    ) -> Result<Response<MigrateSigningKeyPairResponse>, Status> {
        let work = async {
            let request = request.get_ref();
            let to = convert::provider("cryptoProvider", request.crypto_provider)?;
            let view = self.service.migrate(&request.id, to, &request.etag).await?;
            Ok(MigrateSigningKeyPairResponse {
                key_pair: Some(convert::key_pair_view(view)),
            })
        };
        answer(work.await)
    }

    async fn get_rotation_settings(
        &self,
        request: Request<GetRotationSettingsRequest>,
    ) -> Result<Response<GetRotationSettingsResponse>, Status> {
        let view = self.service.rotation(&request.get_ref().id).await;
        answer(view.map(|view| rotation::get_response(&view)))
    }

    async fn update_rotation_settings(
        &self,
        request: Request<UpdateRotationSettingsRequest>,
    ) -> Result<Response<UpdateRotationSettingsResponse>, Status> {
        let work = async {
            let request = rotation::update_request(request.into_inner())?;
            let view = self.service.update_rotation(request).await?;
            Ok(rotation::update_response(&view))
        };
        answer(work.await)
    }

    async fn delete_rotation_settings(
        &self,
        request: Request<DeleteRotationSettingsRequest>,
    ) -> Result<Response<DeleteRotationSettingsResponse>, Status> {
        let request = request.get_ref();
        let deleted = self.service.delete_rotation(&request.id, &request.etag);
        answer(deleted.await.map(|_| DeleteRotationSettingsResponse {}))
    }

    async fn plan_rotation(
        &self,
        request: Request<PlanRotationRequest>,
    ) -> Result<Response<PlanRotationResponse>, Status> {
        let work = async {
            let request = rotation::plan_request(request.into_inner())?;
            let steps = self.service.plan_rotation(request).await?;
            Ok(rotation::plan_response(steps))
        };
        answer(work.await)
    }

    async fn rotate_signing_key_pair(
        &self,
        request: Request<RotateSigningKeyPairRequest>,
    ) -> Result<Response<RotateSigningKeyPairResponse>, Status> {
        let request = rotation::rotate_request(request.into_inner());
        let view = self.service.rotate(request).await;
        answer(view.map(rotation::rotate_response))
    }
}

/// The package of the API.
const API: &str = "keypaird.v1";
