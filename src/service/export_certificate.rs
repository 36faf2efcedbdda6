//! Hands out certificates.

use super::{Service, ServiceError};

impl Service {
    /// Returns the certificate of a key pair in PEM, followed by those of its issuers where asked for.
    ///
    /// A self-signed certificate is its own chain, so there is nothing to add to it.
    pub async fn export_certificate(
        &self,
        id: &str,
        include_chain: bool,
    ) -> Result<String, ServiceError> {
        let current = self.get(id).await?.key_pair.current;
        Ok(match include_chain {
            true => current.chain_pem(),
            false => current.certificate.pem(),
        })
    }
}
