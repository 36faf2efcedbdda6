//! The description of the API (`OpenAPI` 3.1), as far as it is not made from the handlers.

use utoipa::OpenApi;
use utoipa::openapi::{OpenApi as Document, Server};

use super::api_result::{ApiResult, ValidationError};

/// What the handlers do not say.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "keypaird",
        description = "Signing key pairs in a PKCS#11 token or in software: makes and shows them, rotates them, and takes and gives their certificates. Whatever else the daemon can do, such as to sign, it does over gRPC."
    ),
    tags(
        (name = "keyPairs", description = "Key pairs with their certificates"),
        (name = "publicKeys", description = "What signatures are verified with")
    ),
    components(schemas(ApiResult, ValidationError))
)]
struct Description;

/// Begins the description.
pub(super) fn begin() -> Document {
    let mut document = Description::openapi();
    // The package has none that could be named.
    document.info.license = None;
    let mut here = Server::new("/");
    here.description = Some("This daemon".to_owned());
    document.servers = Some(vec![here]);
    document
}
