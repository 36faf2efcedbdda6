-- Labels by their key and value, so that a list of key pairs with a label need not read all labels.
-- Triggers keep them as they are in key_pairs.labels.
CREATE TABLE labels (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    key_pair INTEGER NOT NULL,                  -- key_pairs.sequence
    PRIMARY KEY (key, value, key_pair)
) STRICT, WITHOUT ROWID;

INSERT INTO labels (key, value, key_pair)
    SELECT label.key, label.value, key_pairs.sequence FROM key_pairs, json_each(key_pairs.labels) AS label;

CREATE TRIGGER labels_written AFTER INSERT ON key_pairs WHEN NEW.labels <> '{}' BEGIN
    INSERT INTO labels (key, value, key_pair)
        SELECT label.key, label.value, NEW.sequence FROM json_each(NEW.labels) AS label;
END;

CREATE TRIGGER labels_replaced AFTER UPDATE OF labels ON key_pairs WHEN NEW.labels <> OLD.labels BEGIN
    DELETE FROM labels WHERE (key, value, key_pair) IN
        (SELECT label.key, label.value, OLD.sequence FROM json_each(OLD.labels) AS label);
    INSERT INTO labels (key, value, key_pair)
        SELECT label.key, label.value, NEW.sequence FROM json_each(NEW.labels) AS label;
END;

CREATE TRIGGER labels_removed AFTER DELETE ON key_pairs WHEN OLD.labels <> '{}' BEGIN
    DELETE FROM labels WHERE (key, value, key_pair) IN
        (SELECT label.key, label.value, OLD.sequence FROM json_each(OLD.labels) AS label);
END;

-- The published generations of a key. Its last 32 bytes tell nearly all keys apart: RSA moduli end
-- there, and the other kinds have their coordinate there.
CREATE INDEX generations_by_key ON generations (substr(public_key, -32), key_pair) WHERE state < 4;

-- Generations that are published until their certificates expire.
CREATE INDEX generations_by_end ON generations (not_after) WHERE state IN (2, 3);
