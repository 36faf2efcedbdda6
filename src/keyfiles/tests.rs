use super::*;
use crate::domain::ber::Elements;

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

/// Writes an element of DER.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut whole = match length {
        ..0x80 => vec![tag, u8::try_from(length).unwrap()],
        _ => [
            &[tag, 0x82][..],
            &u16::try_from(length).unwrap().to_be_bytes(),
        ]
        .concat(),
    };
    whole.extend(contents);
    whole
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &parts.concat())
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    match bytes.first() {
        None => der(2, &[0]),
        Some(0x80..) => der(2, &[&[0], bytes].concat()),
        Some(_) => der(2, bytes),
    }
}

/// A file with the key of a block, and a certificate that is not looked at.
fn file_of(label: &str, key: &[u8]) -> Vec<u8> {
    let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
    format!(
        "-----BEGIN {label}-----\n{body}\n-----END {label}-----\n-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    )
    .into_bytes()
}

fn read_key(label: &str, key: &[u8]) -> Result<PrivateKey, String> {
    read(&file_of(label, key), None, &SecretString::from(""))
        .map(|file| file.private_key)
        .map_err(|error| error.to_string())
}

/// Returns the numbers of an RSA key, from its modulus on, and what a file of it reads as.
fn rsa_key() -> (Vec<Vec<u8>>, PrivateKey) {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let key = read_key("PRIVATE KEY", pkcs8.as_ref()).unwrap();
    let mut info = Elements::of(pkcs8.as_ref()).next().unwrap().parts();
    info.next().unwrap();
    info.next().unwrap();
    let pkcs1 = info.next().unwrap().contents.to_vec();
    let mut parts = Elements::of(&pkcs1).next().unwrap().parts();
    parts.next().unwrap();
    let mut numbers = Vec::new();
    while let Some(number) = parts.next() {
        let zeros = number
            .contents
            .iter()
            .take_while(|byte| **byte == 0)
            .count();
        numbers.push(number.contents[zeros..].to_vec());
    }
    assert_eq!(numbers.len(), 8);
    (numbers, key)
}

fn pkcs1(version: u8, numbers: &[Vec<u8>]) -> Vec<u8> {
    let numbers = numbers.iter().map(|number| integer(number));
    sequence(
        &std::iter::once(integer(&[version]))
            .chain(numbers)
            .collect::<Vec<_>>(),
    )
}

/// Puts an `RSAPrivateKey` into a `PrivateKeyInfo`.
fn rsa_pkcs8(pkcs1: &[u8]) -> Vec<u8> {
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    sequence(&[integer(&[]), algorithm.to_vec(), der(4, pkcs1)])
}

#[test]
fn one_key_in_two_forms_is_one_and_two_keys_are_refused() {
    let (numbers, key) = rsa_key();
    let whole = pkcs1(0, &numbers);
    let both = [
        file_of("RSA PRIVATE KEY", &whole),
        file_of("PRIVATE KEY", &rsa_pkcs8(&whole)),
    ];
    let read_both = read(&both.concat(), None, &SecretString::from("")).unwrap();
    assert_eq!(read_both.private_key.pkcs8(), key.pkcs8(), "both forms");
    let other = file_of("PRIVATE KEY", rsa_key().1.pkcs8());
    let two = [both[0].clone(), other].concat();
    assert!(refused(&two, None).contains("2 private keys"));
}

#[test]
fn rsa_keys_are_read_as_others_wrote_them_or_refused_by_name() {
    let (numbers, key) = rsa_key();
    let without = |missing: &[usize]| {
        let mut numbers = numbers.clone();
        for index in missing {
            numbers[*index].clear();
        }
        numbers
    };
    for (what, file) in [
        ("whole", pkcs1(0, &numbers)),
        ("in PKCS#8", rsa_pkcs8(&pkcs1(0, &numbers))),
        ("no exponents and coefficient", pkcs1(0, &numbers[..5])),
        ("zeros in their places", pkcs1(0, &without(&[5, 6, 7]))),
        ("no coefficient", pkcs1(0, &without(&[7]))),
        ("no primes", pkcs1(0, &numbers[..3])),
        (
            "zeros from the primes on",
            pkcs1(0, &without(&[3, 4, 5, 6, 7])),
        ),
        (
            "no zero before large numbers",
            sequence(
                &[
                    vec![integer(&[])],
                    numbers.iter().map(|number| der(2, number)).collect(),
                ]
                .concat(),
            ),
        ),
    ] {
        let read = read_key("RSA PRIVATE KEY", &file).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(read.public_key(), key.public_key(), "{what}");
        assert_eq!(read.pkcs8(), key.pkcs8(), "{what}");
    }
    let exponent = |bytes: &[u8]| {
        let mut numbers = numbers.clone();
        numbers[1] = bytes.to_vec();
        pkcs1(0, &numbers)
    };
    let mut wrong = numbers.clone();
    wrong[2][40] ^= 1;
    let mut three = vec![integer(&[1])];
    three.extend(numbers.iter().map(|number| integer(number)));
    three.push(sequence(&[sequence(&[
        integer(&[3]),
        integer(&[5]),
        integer(&[7]),
    ])]));
    let short: Vec<_> = numbers
        .iter()
        .map(|number| number[..number.len().min(200)].to_vec())
        .collect();
    for (what, file, sentence) in [
        (
            "three primes",
            sequence(&three),
            "fileData: has an RSA key of more than two primes",
        ),
        (
            "a large exponent",
            exponent(&[1, 0, 0, 0, 0, 0, 0, 1]),
            "fileData: has an RSA key with a public exponent of 57 bits, and may have one of 33, such as 65537",
        ),
        (
            "an exponent of one",
            exponent(&[1]),
            "public exponent is even, or less than 3",
        ),
        (
            "an even exponent",
            exponent(&[4]),
            "public exponent is even, or less than 3",
        ),
        (
            "another size",
            pkcs1(0, &short),
            "has an RSA key of 1600 bits",
        ),
        (
            "another private exponent",
            pkcs1(0, &wrong),
            "do not belong together",
        ),
        (
            "another one without primes",
            pkcs1(0, &wrong[..3]),
            "do not belong together",
        ),
    ] {
        let said = read_key("RSA PRIVATE KEY", &file).unwrap_err();
        assert!(said.contains(sentence), "{what}: {said}");
    }
}

#[test]
fn ed25519_keys_are_read_as_others_wrote_them() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let seed = [7; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = pair.public_key().as_ref();
    let file = |version: u8, key: &[u8], behind: &[Vec<u8>]| {
        let algorithm = sequence(&[b"\x06\x03\x2b\x65\x70".to_vec()]);
        let parts = [integer(&[version]), algorithm, der(4, key)];
        sequence(&[&parts[..], behind].concat())
    };
    let doubled = der(4, &seed);
    let bits = [&[0], public].concat();
    let attributes = der(0xa0, &[]);
    for (what, file) in [
        ("RFC 8410", file(0, &doubled, &[])),
        (
            "with its public key, version 2",
            file(1, &doubled, &[der(0x81, &bits)]),
        ),
        (
            "with its public key, version 1",
            file(0, &doubled, &[der(0x81, &bits)]),
        ),
        (
            "as ring wrote it",
            file(1, &doubled, &[der(0xa1, &der(3, &bits))]),
        ),
        (
            "with attributes",
            file(1, &doubled, &[attributes, der(0x81, &bits)]),
        ),
        ("version 2 without a public key", file(1, &doubled, &[])),
        ("in one string", file(0, &seed, &[])),
        (
            "behind it the public key, in one string",
            file(0, &[&seed, public].concat(), &[]),
        ),
        (
            "behind it the public key",
            file(0, &der(4, &[&seed, public].concat()), &[]),
        ),
    ] {
        let read = read_key("PRIVATE KEY", &file).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(read.public_key().bits(), public, "{what}");
        let expected = pair.to_pkcs8v1().unwrap();
        assert_eq!(read.pkcs8(), expected.as_ref(), "{what}");
    }
    let other = [&[0][..], &[9; 32]].concat();
    for (file, sentence) in [
        (
            file(1, &doubled, &[der(0x81, &other)]),
            "do not belong together",
        ),
        (
            file(0, &[&seed[..], &[9; 32]].concat(), &[]),
            "do not belong together",
        ),
        (
            file(0, &der(4, &seed[1..]), &[]),
            "has an Ed25519 key of 33 bytes",
        ),
    ] {
        let said = read_key("PRIVATE KEY", &file).unwrap_err();
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn ec_keys_are_read_as_others_wrote_them() {
    use aws_lc_rs::encoding::AsBigEndian;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    let short = loop {
        // One in 256 has a number that begins with a zero, which some programs leave out.
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let number: aws_lc_rs::encoding::EcPrivateKeyBin<'_> =
            AsBigEndian::<aws_lc_rs::encoding::EcPrivateKeyBin<'_>>::as_be_bytes(
                &pair.private_key(),
            )
            .unwrap();
        if number.as_ref()[0] == 0 {
            break (pair, number.as_ref().to_vec());
        }
    };
    let (pair, number) = short;
    let point = pair.public_key().as_ref();
    let curve = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec();
    let compressed = [&[2 + point[64] % 2], &point[1..33]].concat();
    let stated = |point: &[u8]| der(0xa1, &der(3, &[&[0], point].concat()));
    let named = der(0xa0, &curve);
    let sec1 = |number: &[u8], behind: &[Vec<u8>]| {
        sequence(&[&[integer(&[1]), der(4, number)][..], behind].concat())
    };
    let pkcs8 = |key: &[u8]| {
        let algorithm = sequence(&[
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01".to_vec(),
            curve.clone(),
        ]);
        sequence(&[integer(&[]), algorithm, der(4, key)])
    };
    for (what, label, file) in [
        (
            "SEC 1",
            "EC PRIVATE KEY",
            sec1(&number, &[named.clone(), stated(point)]),
        ),
        (
            "under another label",
            "PRIVATE KEY",
            sec1(&number, std::slice::from_ref(&named)),
        ),
        (
            "a short number",
            "EC PRIVATE KEY",
            sec1(&number[1..], &[named.clone(), stated(point)]),
        ),
        (
            "a long number",
            "EC PRIVATE KEY",
            sec1(&[&[0], &number[..]].concat(), std::slice::from_ref(&named)),
        ),
        (
            "a compressed point",
            "EC PRIVATE KEY",
            sec1(&number, &[named.clone(), stated(&compressed)]),
        ),
        (
            "PKCS#8",
            "PRIVATE KEY",
            pkcs8(&sec1(&number, &[stated(point)])),
        ),
        (
            "PKCS#8 under another label",
            "EC PRIVATE KEY",
            pkcs8(&sec1(&number, &[])),
        ),
        (
            "PKCS#8 around a number alone",
            "PRIVATE KEY",
            pkcs8(&number),
        ),
    ] {
        let read = read_key(label, &file).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(read.public_key().bits(), point, "{what}");
    }
    let without = sec1(&number, &[stated(point)]);
    let said = read_key("EC PRIVATE KEY", &without).unwrap_err();
    assert!(said.contains("does not name its curve"), "{said}");
    let with = [
        file_of("EC PARAMETERS", &curve),
        file_of("EC PRIVATE KEY", &without),
    ]
    .concat();
    let password = SecretString::from("");
    assert_eq!(
        read(&with, None, &password)
            .unwrap()
            .private_key
            .public_key()
            .bits(),
        point
    );
    let mut other = point.to_vec();
    other[64] ^= 1;
    let said = read_key("EC PRIVATE KEY", &sec1(&number, &[named, stated(&other)])).unwrap_err();
    assert!(said.contains("do not belong together"), "{said}");
}

#[test]
fn the_same_key_twice_is_one_and_files_of_other_programs_are_named() {
    let (numbers, _) = rsa_key();
    let file = file_of("RSA PRIVATE KEY", &pkcs1(0, &numbers));
    let twice = [&file[..], &file].concat();
    assert!(read(&twice, None, &SecretString::from("")).is_ok());
    for (file, sentence) in [
        (&b"\xfe\xed\xfe\xed\0\0"[..], "Java keystore (JKS)"),
        (b"\xce\xce\xce\xce\0\0", "Java keystore (JCEKS)"),
        (b"PuTTY-User-Key-File-3: x", "key file of PuTTY"),
        (b"SQLite format 3\0", "pk12util"),
    ] {
        assert!(refused(file, None).contains(sentence));
    }
    let dsa = file_of("DSA PRIVATE KEY", &pkcs1(0, &numbers[..5]));
    assert!(refused(&dsa, None).contains("DSA"));
}
