-- Certificates of the issuers, one behind the other: the certificate's own issuer first.
ALTER TABLE generations ADD COLUMN chain BLOB NOT NULL DEFAULT x'';
