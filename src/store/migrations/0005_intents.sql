-- An intent says who recorded it, which request it answers, and how far it is.
--
-- What was to be destroyed before now counts as a creation that ended: that state is left only after a sweep.
ALTER TABLE intents RENAME COLUMN condemned TO state;           -- 0 creating, 1 aborted, 2 doubtful, 3 destroying
ALTER TABLE intents ADD COLUMN owner BLOB NOT NULL DEFAULT x''; -- incarnation, 16 bytes; empty before this step
ALTER TABLE intents ADD COLUMN request_id TEXT;                 -- of a creation that the caller named
ALTER TABLE intents ADD COLUMN linked_public_key BLOB;          -- of a linked key: SubjectPublicKeyInfo in DER

-- Only a linked key has a CKA_ID of another length than ours. Which public key it had is not known any more, and by its
-- CKA_ID alone it must not be destroyed.
UPDATE intents SET state = 2 WHERE length(key_ref) <> 16;

-- A software key ends with its row, and needs no intent. These held their ids for ever.
DELETE FROM intents WHERE provider = 1;
DELETE FROM ids WHERE NOT EXISTS (SELECT 1 FROM key_pairs WHERE key_pairs.id = ids.id)
                  AND NOT EXISTS (SELECT 1 FROM intents WHERE intents.id = ids.id);
