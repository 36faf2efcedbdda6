-- Each generation has its own key: another provider, another algorithm, another origin than its predecessor.
ALTER TABLE generations ADD COLUMN provider INTEGER NOT NULL DEFAULT 0;         -- 1 LOCAL, 2 HSM
ALTER TABLE generations ADD COLUMN origin INTEGER NOT NULL DEFAULT 1;           -- 1 generated, 2 imported, 3 linked
ALTER TABLE generations ADD COLUMN key_algorithm INTEGER NOT NULL DEFAULT 0;    -- 1 RSA, 2 EC, 3 ED25519
ALTER TABLE generations ADD COLUMN state INTEGER NOT NULL DEFAULT 1;            -- 1 current, 2 pending, 3 previous, 4 retired
ALTER TABLE generations ADD COLUMN activate_time INTEGER;                       -- microseconds since 1970

UPDATE generations SET (provider, origin, key_algorithm, activate_time) =
    (SELECT provider, origin, key_algorithm, create_time FROM key_pairs WHERE sequence = generations.key_pair);

-- Whatever else happens, a key pair has one key that will be next, as by key_pairs.generation it has one that signs.
CREATE UNIQUE INDEX generations_pending ON generations (key_pair) WHERE state = 2;

ALTER TABLE key_pairs ADD COLUMN rotation TEXT;                                 -- JSON object; NULL when it does not rotate
ALTER TABLE key_pairs ADD COLUMN last_generation INTEGER NOT NULL DEFAULT 1;    -- highest number ever
ALTER TABLE key_pairs ADD COLUMN others INTEGER NOT NULL DEFAULT 0;             -- how many pending and previous ones
ALTER TABLE key_pairs ADD COLUMN due INTEGER;                                   -- next step, seconds since 1970
ALTER TABLE key_pairs ADD COLUMN warned INTEGER NOT NULL DEFAULT 100000;        -- days left at the last warning; -1 expired

CREATE INDEX key_pairs_by_due ON key_pairs (due) WHERE due IS NOT NULL;

-- What expired before there were warnings is not news.
UPDATE key_pairs SET warned = -1 WHERE not_after < unixepoch();

-- What happened, for those who watch. What a key pair was after it is what the key pair is, for as long as that has
-- the revision; before it changes or goes, that is written here.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,                      -- microseconds since 1970
    kind INTEGER NOT NULL,
    key_pair_id TEXT,                           -- NULL for an event of a provider
    provider INTEGER,                           -- of an event of a provider
    revision INTEGER,                           -- of the key pair after it; NULL after its deletion
    key_pair TEXT                               -- JSON: what the key pair was after it, when it is not that any more
) STRICT;

CREATE INDEX events_of_now ON events (key_pair_id) WHERE revision IS NOT NULL AND key_pair IS NULL;
