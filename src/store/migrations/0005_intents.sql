-- An intent says who recorded it, which request it answers, and how far it is.
--
-- What was to be destroyed before now counts as a creation that ended, or is doubtful: the first is
-- left only after a sweep, the second only when an operator says so.
ALTER TABLE intents RENAME COLUMN condemned TO state;           -- 0 creating, 1 aborted, 2 doubtful, 3 destroying
ALTER TABLE intents ADD COLUMN owner BLOB NOT NULL DEFAULT x''; -- incarnation, 16 bytes; empty before this step
ALTER TABLE intents ADD COLUMN request_id TEXT;                 -- of a creation that the caller named
ALTER TABLE intents ADD COLUMN linked_public_key BLOB;          -- of a linked key: SubjectPublicKeyInfo in DER

-- A key that was to be destroyed may have been linked: one with a CKA_ID of another length than
-- ours was for sure. Which public key it had is not known any more, and by its CKA_ID alone it must
-- not be destroyed. A key of a retired generation was not linked.
UPDATE intents SET state = 2
WHERE length(key_ref) <> 16
   OR (provider = 2 AND state = 1 AND NOT EXISTS (
       SELECT 1 FROM generations WHERE generations.key_ref = intents.key_ref AND generations.state = 4));

-- An id may be given away anew. Which key pair answered a request is NULL where it was answered
-- before this step.
ALTER TABLE requests ADD COLUMN key_pair INTEGER;               -- sequence of the key pair, also when it was deleted

-- A software key ends with its row, and needs no intent. These held their ids for ever.
DELETE FROM intents WHERE provider = 1;
DELETE FROM ids WHERE NOT EXISTS (SELECT 1 FROM key_pairs WHERE key_pairs.id = ids.id)
                  AND NOT EXISTS (SELECT 1 FROM intents WHERE intents.id = ids.id);
