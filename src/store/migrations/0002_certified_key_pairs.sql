-- Certificates of the issuers, one behind the other: the certificate's own issuer first.
ALTER TABLE generations ADD COLUMN chain BLOB NOT NULL DEFAULT x'';

-- Keys whose certificate was replaced, and may not have been on the token yet.
CREATE TABLE unpublished (
    key_ref BLOB NOT NULL PRIMARY KEY REFERENCES generations (key_ref) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- A key pair may move to another provider.
CREATE TRIGGER key_pairs_counted_over AFTER UPDATE OF provider, key_algorithm ON key_pairs BEGIN
    UPDATE counts SET key_pairs = key_pairs - 1
        WHERE provider = OLD.provider AND key_algorithm = OLD.key_algorithm;
    INSERT INTO counts VALUES (NEW.provider, NEW.key_algorithm, 1)
        ON CONFLICT DO UPDATE SET key_pairs = key_pairs + 1;
END;
