//! Hands out certificates.

use super::{Service, ServiceError};

impl Service {
    /// Returns the certificate of a key pair in PEM.
    ///
    /// A self-signed certificate is its own chain, so there is nothing to add to it.
    pub async fn export_certificate(&self, id: &str) -> Result<String, ServiceError> {
        let view = self.get(id).await?;
        Ok(view.key_pair.current.certificate.pem())
    }
}
