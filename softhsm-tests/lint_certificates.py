"""Lints PEM certificates with pkilint's RFC 5280 rules. Ends with 1 if there is more than information."""

import sys

from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

validator = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(
        name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
    ),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)

failed = False
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        parsed = loader.RFC5280CertificateDocumentLoader().load_pem_document(
            file.read().decode("ascii"), path
        )
    for result in validator.validate(parsed.root):
        for finding in result.finding_descriptions:
            if finding.finding.severity > ValidationFindingSeverity.INFO:
                failed = True
                print(path, finding.finding, finding.message or "", file=sys.stderr)
sys.exit(failed)
