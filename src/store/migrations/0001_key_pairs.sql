-- All ids there are: of key pairs, and of key pairs being made or destroyed. That an id is taken is this
-- table's word and nobody else's.
CREATE TABLE ids (
    id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- Key pairs, with what lists are filtered and ordered by, taken from the current generation.
CREATE TABLE key_pairs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of making
    id TEXT NOT NULL UNIQUE REFERENCES ids (id),
    provider INTEGER NOT NULL,                  -- 1 LOCAL, 2 HSM
    origin INTEGER NOT NULL,                    -- 1 generated
    labels TEXT NOT NULL,                       -- JSON object
    create_time INTEGER NOT NULL,               -- microseconds since 1970
    revision INTEGER NOT NULL,
    generation INTEGER NOT NULL,                -- number of the current one
    key_algorithm INTEGER NOT NULL,             -- 1 RSA, 2 EC, 3 ED25519
    subject_dn TEXT NOT NULL,
    not_before INTEGER NOT NULL,                -- seconds since 1970
    not_after INTEGER NOT NULL
) STRICT;

CREATE INDEX key_pairs_by_provider ON key_pairs (provider, sequence);
CREATE INDEX key_pairs_by_algorithm ON key_pairs (key_algorithm, sequence);
CREATE INDEX key_pairs_by_expiry ON key_pairs (not_after, sequence);
CREATE INDEX key_pairs_by_start ON key_pairs (not_before);
CREATE INDEX key_pairs_by_subject ON key_pairs (subject_dn, sequence);

-- The keys that key pairs have over time, with their certificates.
CREATE TABLE generations (
    key_ref BLOB NOT NULL PRIMARY KEY,          -- 16 bytes, CKA_ID on a token
    key_pair INTEGER NOT NULL REFERENCES key_pairs (sequence) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    key_size INTEGER NOT NULL,                  -- bits
    public_key BLOB NOT NULL,                   -- contents of the subjectPublicKey
    sealed_key BLOB,                            -- LOCAL: encrypted PKCS#8
    token_attributes INTEGER,                   -- HSM: 1 sensitive, 2 always sensitive, 4 never extractable, 8 local
    signature_algorithm TEXT NOT NULL,
    certificate BLOB NOT NULL,                  -- DER
    serial_number TEXT NOT NULL,                -- decimal
    subject_dn TEXT NOT NULL,
    issuer_dn TEXT NOT NULL,
    subject_alternative_names TEXT NOT NULL,    -- JSON array
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    UNIQUE (key_pair, number)
) STRICT;

-- Keys that exist in a provider, perhaps and perhaps in part, without belonging to a key pair: those being
-- made, and those that are condemned, because their making was broken off or their key pair was deleted.
CREATE TABLE intents (
    key_ref BLOB NOT NULL PRIMARY KEY,
    id TEXT NOT NULL REFERENCES ids (id),
    generation INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    condemned INTEGER NOT NULL                  -- 0 being made, 1 to be destroyed
) STRICT, WITHOUT ROWID;

-- Requests with a request_id, and what they made.
CREATE TABLE requests (
    request_id TEXT NOT NULL PRIMARY KEY,
    settings_digest BLOB NOT NULL,
    key_pair_id TEXT NOT NULL,
    made_at INTEGER NOT NULL                    -- seconds since 1970
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_age ON requests (made_at);

-- Single facts about the store itself.
CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- How many key pairs there are, so that a list need not count them.
CREATE TABLE counts (
    provider INTEGER NOT NULL,
    key_algorithm INTEGER NOT NULL,
    key_pairs INTEGER NOT NULL,
    PRIMARY KEY (provider, key_algorithm)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER key_pairs_counted_in AFTER INSERT ON key_pairs BEGIN
    INSERT INTO counts VALUES (NEW.provider, NEW.key_algorithm, 1)
        ON CONFLICT DO UPDATE SET key_pairs = key_pairs + 1;
END;

CREATE TRIGGER key_pairs_counted_out AFTER DELETE ON key_pairs BEGIN
    UPDATE counts SET key_pairs = key_pairs - 1
        WHERE provider = OLD.provider AND key_algorithm = OLD.key_algorithm;
END;
