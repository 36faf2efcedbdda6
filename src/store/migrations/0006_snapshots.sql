-- What key pairs were after events: written with the event, never changed, and gone with the last
-- event of it.
CREATE TABLE snapshots (
    key_pair INTEGER NOT NULL,                  -- key_pairs.sequence, which is never given twice; of older stores a
                                                -- number below zero
    revision INTEGER NOT NULL,
    value TEXT NOT NULL,                        -- JSON: the key pair, with its generation if it has one only
    PRIMARY KEY (key_pair, revision)
) STRICT, WITHOUT ROWID;

-- What never changes of a generation, once for all snapshots of it.
CREATE TABLE snapshot_parts (
    part INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,                -- SHA-256 of the value
    value TEXT NOT NULL                         -- JSON
) STRICT;

-- The generations of a snapshot that has several.
CREATE TABLE snapshot_generations (
    key_pair INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    number INTEGER NOT NULL,
    state INTEGER NOT NULL,                     -- as in generations
    activate_time INTEGER,                      -- microseconds since 1970
    part INTEGER NOT NULL REFERENCES snapshot_parts (part),
    PRIMARY KEY (key_pair, revision, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX snapshot_generations_by_part ON snapshot_generations (part);

-- An event refers to its snapshot. The events of older stores are rewritten by
-- store::embedded::snapshots: until then they have a revision and no key_pair.
DROP INDEX events_of_now;
ALTER TABLE events RENAME COLUMN key_pair TO old_key_pair;  -- JSON of older stores
ALTER TABLE events ADD COLUMN key_pair INTEGER;             -- with revision: the snapshot

CREATE INDEX events_by_snapshot ON events (key_pair, revision) WHERE key_pair IS NOT NULL;
CREATE INDEX events_to_be_rewritten ON events (sequence) WHERE revision IS NOT NULL AND key_pair IS NULL;

CREATE TRIGGER events_forgotten AFTER DELETE ON events WHEN OLD.key_pair IS NOT NULL BEGIN
    DELETE FROM snapshots WHERE key_pair = OLD.key_pair AND revision = OLD.revision
        AND NOT EXISTS (SELECT 1 FROM events WHERE key_pair = OLD.key_pair AND revision = OLD.revision);
END;

CREATE TRIGGER snapshots_forgotten AFTER DELETE ON snapshots BEGIN
    DELETE FROM snapshot_generations WHERE key_pair = OLD.key_pair AND revision = OLD.revision;
END;

CREATE TRIGGER snapshot_generations_forgotten AFTER DELETE ON snapshot_generations BEGIN
    DELETE FROM snapshot_parts WHERE part = OLD.part
        AND NOT EXISTS (SELECT 1 FROM snapshot_generations WHERE part = OLD.part);
END;

-- What the last event of each provider says, also when that event is too old to be kept.
CREATE TABLE provider_states (
    provider INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL                       -- of the event
) STRICT;

INSERT INTO provider_states (provider, kind)
    SELECT provider, kind FROM events
    WHERE sequence IN (SELECT max(sequence) FROM events WHERE provider IS NOT NULL GROUP BY provider);
