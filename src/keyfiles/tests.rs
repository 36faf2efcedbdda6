use super::*;

fn refused(file: &[u8], format: Option<KeyFileFormat>) -> String {
    let error = read(file, format, &SecretString::from("secret")).unwrap_err();
    error.to_string()
}

#[test]
fn what_is_no_key_file_is_refused_with_what_it_is() {
    for (file, sentence) in [
        (
            &b""[..],
            "fileData: is neither PKCS#12 nor PEM, or is damaged",
        ),
        (
            b"hello",
            "fileData: is neither PKCS#12 nor PEM, or is damaged",
        ),
        (b"\x30\x00", "fileData: is damaged: it is not PKCS#12"),
        (
            b"\x30\x82\xff\xff",
            "fileData: is damaged: it is not PKCS#12",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA",
            "fileData: is damaged: a block has no end",
        ),
        (
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
            "fileData: has no private key",
        ),
    ] {
        assert_eq!(refused(file, None), sentence);
    }
    assert_eq!(
        refused(b"-----BEGIN", Some(KeyFileFormat::Pkcs12)),
        "format: is PKCS12, and the file is PEM; leave it out to have it found out"
    );
    assert!(refused(&vec![0x30; FILE_LEN_MAX + 1], None).contains("may have 65536"));
}

#[test]
fn a_password_that_no_file_has_is_refused() {
    let refused = |len| {
        let password = SecretString::from("x".repeat(len));
        read(b"hello", None, &password).unwrap_err().to_string()
    };
    assert_eq!(refused(1025), "password: must have at most 1024 bytes");
    assert!(refused(1024).starts_with("fileData: "));
}

#[test]
fn a_new_password_has_a_length() {
    let check = |password: &str| check_new_password(&SecretString::from(password));
    assert!(check("").is_err());
    assert!(check("1234567").is_err());
    // Characters, not bytes.
    assert!(check("ääääääää").is_ok());
    assert!(check(&"x".repeat(1024)).is_ok());
    assert!(check(&"x".repeat(1025)).is_err());
}
