-- What a key signs with when a request names no algorithm. Until now it was the algorithm of the
-- certificate where the key can make it, and else the default of its kind; keys that are there
-- already go on with that.
ALTER TABLE generations ADD COLUMN signing_algorithm TEXT;

UPDATE generations SET signing_algorithm = CASE
    WHEN key_algorithm = 1 AND key_size <= 1024 THEN
        CASE WHEN signature_algorithm IN ('SHA256withRSA', 'SHA512withRSA') THEN signature_algorithm
             ELSE 'SHA256withRSA' END
    WHEN key_algorithm = 1 THEN
        CASE WHEN signature_algorithm IN ('SHA256withRSA', 'SHA384withRSA', 'SHA512withRSA', 'SHA256withRSAandMGF1',
                                          'SHA384withRSAandMGF1', 'SHA512withRSAandMGF1') THEN signature_algorithm
             ELSE 'SHA256withRSA' END
    WHEN key_algorithm = 2 THEN
        CASE WHEN signature_algorithm IN ('SHA256withECDSA', 'SHA384withECDSA', 'SHA512withECDSA')
                 THEN signature_algorithm
             ELSE 'SHA256withECDSA' END
    WHEN key_algorithm = 3 THEN 'Ed25519'
END;
