//! Key pairs that come in files, and leave in files, of the programs that others use.

#[path = "import/as_left.rs"]
mod as_left;

use std::fs;
use std::path::Path;
use std::time::Instant;

use keypaird::keyfiles;
use keypaird::proto::{
    CryptoProvider, ExportSigningKeyPairRequest, ImportSigningKeyPairRequest,
    ImportSigningKeyPairSettings, KeyFileFormat, KeyOrigin, KeyPairRotationSettings, KeyPairView,
    LinkSigningKeyPairRequest, NewKeyPairSettings, PlanRotationRequest, SignRequest, sign_request,
};
use secrecy::SecretString;
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::fuzzing;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const PROVIDERS: [CryptoProvider; 2] = [CryptoProvider::Local, CryptoProvider::Hsm];
const PASSWORD: &str = "correct horse";

/// Makes a key with a certificate, in `key.pem` and `cert.pem`.
const EC_KEY: &str = "
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem \\
        -subj '/C=CH/O=Acme, Inc./OU=A/OU=B/CN=Zürich' -utf8 -addext subjectAltName=DNS:a.example,IP:192.0.2.1 \\
        -days 30 2>/dev/null";

/// Makes a key with a certificate that has no end, in `key.pem` and `cert.pem`, and in DER.
const ENDLESS: &str = "
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out x.csr \\
        -subj '/C=CH/O=Acme/CN=Endless' 2>/dev/null
    touch index.txt; echo 01 > serial
    printf '[ca]\\ndefault_ca=c\\n[c]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=.\\ndefault_md=sha256\\npolicy=p\\n\\
[p]\\ncountryName=supplied\\norganizationName=supplied\\ncommonName=supplied\\n' > ca.cnf
    openssl ca -config ca.cnf -selfsign -batch -notext -in x.csr -keyfile key.pem -startdate 20200101000000Z \\
        -enddate 99991231235959Z -out cert.pem 2>/dev/null
    cat key.pem cert.pem > both.pem
    openssl pkey -in key.pem -outform DER -out key.der
    openssl x509 -in cert.pem -outform DER -out cert.der";

async fn import(
    client: &Client,
    settings: ImportSigningKeyPairSettings,
) -> Result<KeyPairView, Status> {
    let request = ImportSigningKeyPairRequest {
        settings: Some(settings),
    };
    let answer = client.key_pairs().import_signing_key_pair(request).await?;
    Ok(answer.into_inner().key_pair.unwrap())
}

fn file(path: &Path, provider: CryptoProvider) -> ImportSigningKeyPairSettings {
    ImportSigningKeyPairSettings {
        file_data: fs::read(path).unwrap(),
        password: PASSWORD.into(),
        crypto_provider: provider.into(),
        ..ImportSigningKeyPairSettings::default()
    }
}

/// Returns the fields that are refused, and why.
fn refusals(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let fields = details.bad_request().unwrap().field_violations.clone();
    fields
        .into_iter()
        .map(|field| (field.field, field.description))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_openssl_keytool_gnutls_and_firefox_come_into_both_providers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        &format!(
            r#"{EC_KEY}
            p='pass:{PASSWORD}'; i='-inkey key.pem -in cert.pem'
            openssl pkcs12 -export $i -out openssl3.p12 -passout "$p"
            openssl pkcs12 -export $i -out legacy.p12 -passout "$p" -legacy
            openssl pkcs12 -export $i -out windows.p12 -passout "$p" -legacy -certpbe PBE-SHA1-3DES \
                -keypbe PBE-SHA1-3DES -macalg sha1 -CSP 'Microsoft Enhanced RSA and AES Cryptographic Provider'
            openssl pkcs12 -in openssl3.p12 -passin "$p" -passout "$p" -out bags.pem
            # With what some programs write between, in Latin-1.
            (printf 'friendlyName: M\xfcller\n'; cat key.pem cert.pem) > pkcs8.pem
            cat cert.pem key.pem | sed 's/$/\r/' > cert-first-crlf.pem
            (openssl pkcs8 -topk8 -in key.pem -passout "$p"; cat cert.pem) > encrypted.pem
            (openssl pkcs8 -topk8 -in key.pem -passout "$p" -scrypt -scrypt_N 1024; cat cert.pem) > scrypt.pem
            (openssl pkcs8 -topk8 -in key.pem -passout "$p" -v2 des3; cat cert.pem) > 3des.pem
            (openssl pkcs8 -topk8 -in key.pem -passout "$p" -v2prf hmacWithSHA1; cat cert.pem) > sha1.pem
            openssl pkcs12 -export $i -out 3des.p12 -passout "$p" -certpbe DES-EDE3-CBC -keypbe DES-EDE3-CBC
            openssl pkcs12 -export $i -out rc2.p12 -passout "$p" -legacy -certpbe PBE-SHA1-RC2-128 -keypbe PBE-SHA1-2DES
            (openssl ecparam -name prime256v1; openssl ec -in key.pem 2>/dev/null; cat cert.pem) > sec1.pem
            (openssl ec -in key.pem -no_public 2>/dev/null; cat cert.pem) > no-public.pem
            certtool --p8 --load-privkey key.pem --load-certificate cert.pem --to-p12 --outder \
                --p12-name name --password '{PASSWORD}' --outfile gnutls.p12 2>/dev/null
            keytool -importkeystore -srckeystore openssl3.p12 -srcstorepass '{PASSWORD}' -srcstoretype PKCS12 \
                -destkeystore keytool.p12 -deststorepass '{PASSWORD}' -deststoretype PKCS12 2>/dev/null
            # Firefox, which writes BER.
            mkdir nss; certutil -N -d nss --empty-password
            openssl pkcs12 -export $i -name alias -out named -passout "$p"; pk12util -i named -d nss -W '{PASSWORD}' > said
            firefox() {{ pk12util -d nss -W '{PASSWORD}' -n alias -o "$@" > said; head -c 2 "$1" | cmp - <(printf '\x30\x80'); }}
            firefox firefox.p12
            firefox old-firefox.p12 -c 'PKCS #12 V2 PBE With SHA-1 And 3KEY Triple DES-CBC' -C 'PKCS #12 V2 PBE With SHA-1 And 40 Bit RC2 CBC'
            rm -r key.pem named said nss"#
        ),
    );
    let fingerprint = shell(
        folder,
        "openssl x509 -in cert.pem -noout -fingerprint -sha256",
    );
    let fingerprint = fingerprint
        .trim()
        .split('=')
        .nth(1)
        .unwrap()
        .replace(':', "");
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| !path.ends_with("cert.pem"));
    assert_eq!(files.len(), 18);
    for path in &files {
        for provider in PROVIDERS {
            let imported = import(&client, file(path, provider)).await;
            let view = imported.unwrap_or_else(|status| panic!("{}: {status}", path.display()));
            assert_eq!(view.sha256_fingerprint, fingerprint);
            assert_eq!(view.key_origin(), KeyOrigin::Imported);
            assert_eq!(
                view.subject_dn,
                "CN=Zürich, OU=B, OU=A, O=\"Acme, Inc.\", C=CH"
            );
            assert_eq!(view.subject_alternative_names, ["a.example", "192.0.2.1"]);
            assert_eq!((&*view.key_algorithm, view.key_size), ("EC", 256));
            if provider == CryptoProvider::Hsm {
                let states = view.token_attributes.unwrap();
                assert!(states.sensitive);
                assert!(!states.always_sensitive && !states.never_extractable && !states.local);
            }
            client.signs(&view).await;
            assert_eq!(client.get(&view.id).await.unwrap(), view);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_comes_in_and_goes_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let token = Token::fresh();
    let daemon = Home::hybrid(&token)
        .env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true")
        .start();
    let client = daemon.client().await;
    for (name, options, traditional) in [
        ("rsa2048", "rsa:2048", "openssl rsa -traditional"),
        ("rsa3072", "rsa:3072", "openssl rsa -traditional"),
        ("rsa4096", "rsa:4096", "openssl rsa -traditional"),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384", "openssl ec"),
        ("p521", "ec -pkeyopt ec_paramgen_curve:P-521", "openssl ec"),
        ("ed25519", "ed25519", "openssl pkey"),
    ] {
        shell(
            folder,
            &format!(
                "openssl req -x509 -newkey {options} -nodes -keyout {name}.key -out {name}.crt -subj /CN={name} -days 9 2>/dev/null
                 openssl pkcs12 -export -inkey {name}.key -in {name}.crt -out {name}.p12 -passout 'pass:{PASSWORD}'
                 ({traditional} -in {name}.key 2>/dev/null; cat {name}.crt) > {name}.pem"
            ),
        );
        for provider in PROVIDERS {
            for ending in ["p12", "pem"] {
                let path = folder.join(format!("{name}.{ending}"));
                let view = import(&client, file(&path, provider)).await.unwrap();
                client.signs(&view).await;
                assert_eq!(view.exportable, provider == CryptoProvider::Local);
                if provider == CryptoProvider::Hsm || ending == "p12" {
                    continue;
                }
                for (format, out) in [
                    (KeyFileFormat::Pkcs12, "out.p12"),
                    (KeyFileFormat::Pem, "out.pem"),
                ] {
                    let exported = export(&client, &view.id, format, PASSWORD).await.unwrap();
                    fs::write(folder.join(out), exported).unwrap();
                }
                shell(
                    folder,
                    &format!(
                        r#"p='pass:{PASSWORD}'
                        for key in "$(openssl pkcs12 -in out.p12 -passin "$p" -nodes -nocerts)" "$(openssl pkey -in out.pem -passin "$p")"; do
                            diff <(openssl pkey -in {name}.key) <(echo "$key" | openssl pkey)
                        done
                        diff <(openssl x509 -in {name}.crt) <(openssl pkcs12 -in out.p12 -passin "$p" -nokeys | openssl x509)
                        diff <(openssl x509 -in {name}.crt) <(openssl x509 -in out.pem)
                        openssl pkcs12 -in out.p12 -passin "$p" -info -nodes 2>&1 | grep 'AES-256-CBC, Iteration 600000, PRF hmacWithSHA256' > grep.out
                        ! openssl pkcs12 -in out.p12 -passin pass:wrong -nodes 2>/dev/null
                        certtool --inder --infile out.p12 --p12-info --password '{PASSWORD}' 2>/dev/null | grep 'BEGIN .*PRIVATE KEY' > grep.out
                        # GnuTLS 3.7 reads no Ed25519 key in encrypted PEM, that of OpenSSL neither.
                        [ {name} = ed25519 ] || certtool --key-info --infile out.pem --password '{PASSWORD}' 2>/dev/null | grep 'Public Key Algorithm' > grep.out
                        keytool -list -keystore out.p12 -storepass '{PASSWORD}' | grep PrivateKeyEntry > grep.out"#
                    ),
                );
                // What goes out comes in again.
                let again = import(&client, file(&folder.join("out.pem"), CryptoProvider::Hsm));
                assert_eq!(
                    again.await.unwrap().sha256_fingerprint,
                    view.sha256_fingerprint
                );
            }
        }
    }
}

async fn export(
    client: &Client,
    id: &str,
    format: KeyFileFormat,
    password: &str,
) -> Result<Vec<u8>, Status> {
    let request = ExportSigningKeyPairRequest {
        id: id.into(),
        format: format.into(),
        password: password.into(),
    };
    let answer = client.key_pairs().export_signing_key_pair(request).await?;
    Ok(answer.into_inner().file_data)
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_refused_where_the_provider_or_the_operator_forbids_it() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        let made = client.generate(settings(provider)).await.unwrap();
        assert!(!made.exportable);
        let refused = export(&client, &made.id, KeyFileFormat::Pkcs12, PASSWORD)
            .await
            .unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::FailedPrecondition, "KEY_NOT_EXPORTABLE".into())
        );
    }
    drop(daemon);
    let daemon = Home::local()
        .env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true")
        .start();
    let client = daemon.client().await;
    let made = client.generate(NewKeyPairSettings {
        crypto_provider: 0,
        ..settings(CryptoProvider::Local)
    });
    let made = made.await.unwrap();
    assert!(made.exportable);
    for password in ["", "1234567"] {
        let refused = export(&client, &made.id, KeyFileFormat::Pem, password)
            .await
            .unwrap_err();
        assert_eq!(refusals(&refused)[0].0, "password");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_imported_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        &format!(
            r#"{EC_KEY}
            p='pass:{PASSWORD}'
            new() {{ openssl req -x509 -newkey $1 -nodes -keyout $2.key -out $2.crt -subj /CN=$2 -days 9 2>/dev/null; cat $2.key $2.crt > $2.pem; }}
            new rsa:1024 weak
            new 'ec -pkeyopt ec_paramgen_curve:secp256k1' koblitz
            new 'ec -pkeyopt ec_paramgen_curve:P-256' other
            new ed448 ed448
            cat key.pem other.crt > foreign.pem
            cat key.pem other.key cert.pem > two-keys.pem
            cat key.pem > no-certificate.pem
            cat cert.pem > no-key.pem
            cat key.pem cert.pem other.crt > stranger.pem
            (openssl ec -in key.pem -aes256 -passout "$p" 2>/dev/null; cat cert.pem) > old.pem
            (openssl pkcs8 -topk8 -in key.pem -passout "$p" -iter 5000000; cat cert.pem) > slow.pem
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out good.p12 -passout "$p"
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out slow.p12 -passout "$p" -iter 2000000 -nomac
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out no-mac.p12 -passout "$p" -nomac
            head -c 400 good.p12 > cut.p12
            # A PKCS#8 whose scalar is zero.
            openssl ecparam -name prime256v1 -outform DER -out params.der
            printf '\x30\x41\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01' > zero.der
            cat params.der >> zero.der
            printf '\x04\x27\x30\x25\x02\x01\x01\x04\x20' >> zero.der
            head -c 32 /dev/zero >> zero.der
            (echo '-----BEGIN PRIVATE KEY-----'; base64 zero.der; echo '-----END PRIVATE KEY-----'; cat cert.pem) > zero.pem"#
        ),
    );
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let objects = token.objects();
    let count = || walk(&objects);
    let before = count();
    for (name, reason_wanted, field, words) in [
        (
            "weak.pem",
            "VALIDATION_FAILED",
            "fileData",
            "RSA key of 1024 bits",
        ),
        (
            "koblitz.pem",
            "VALIDATION_FAILED",
            "fileData",
            "another curve",
        ),
        ("ed448.pem", "VALIDATION_FAILED", "fileData", "another kind"),
        (
            "foreign.pem",
            "VALIDATION_FAILED",
            "fileData",
            "no certificate of this key pair's public key",
        ),
        (
            "two-keys.pem",
            "VALIDATION_FAILED",
            "fileData",
            "2 private keys",
        ),
        (
            "no-certificate.pem",
            "VALIDATION_FAILED",
            "fileData",
            "no certificate",
        ),
        (
            "no-key.pem",
            "VALIDATION_FAILED",
            "fileData",
            "no private key",
        ),
        (
            "stranger.pem",
            "VALIDATION_FAILED",
            "fileData",
            "does not belong to the chain",
        ),
        (
            "old.pem",
            "VALIDATION_FAILED",
            "fileData",
            "openssl pkcs8 -topk8",
        ),
        ("slow.pem", "VALIDATION_FAILED", "fileData", "too much work"),
        ("slow.p12", "VALIDATION_FAILED", "fileData", "no MAC"),
        ("no-mac.p12", "VALIDATION_FAILED", "fileData", "no MAC"),
        ("cut.p12", "FILE_UNREADABLE", "fileData", "damaged"),
        (
            "zero.pem",
            "FILE_UNREADABLE",
            "fileData",
            "do not belong together",
        ),
    ] {
        for provider in PROVIDERS {
            let refused = import(&client, file(&folder.join(name), provider))
                .await
                .unwrap_err();
            assert_eq!(
                reason(&refused),
                (Code::InvalidArgument, reason_wanted.into()),
                "{name}"
            );
            let (found, sentence) = refusals(&refused).remove(0);
            assert_eq!(found, field, "{name}");
            assert!(sentence.contains(words), "{name}: {sentence}");
        }
    }
    let good = file(&folder.join("good.p12"), CryptoProvider::Hsm);
    for (password, reason_wanted) in [
        ("wrong".to_owned(), "FILE_UNREADABLE"),
        ("x".repeat(1025), "VALIDATION_FAILED"),
    ] {
        let refused = import(
            &client,
            ImportSigningKeyPairSettings {
                password,
                ..good.clone()
            },
        );
        let refused = refused.await.unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::InvalidArgument, reason_wanted.into())
        );
        assert_eq!(refusals(&refused)[0].0, "password");
    }
    let refused = import(
        &client,
        ImportSigningKeyPairSettings {
            format: KeyFileFormat::Pem.into(),
            ..good.clone()
        },
    );
    assert_eq!(refusals(&refused.await.unwrap_err())[0].0, "format");
    let refused = import(
        &client,
        ImportSigningKeyPairSettings {
            id: Some("A".into()),
            file_data: Vec::new(),
            ..good.clone()
        },
    );
    let fields: Vec<_> = refusals(&refused.await.unwrap_err())
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["id", "fileData"]);
    assert_eq!(count(), before, "something was left on the token");

    let named = ImportSigningKeyPairSettings {
        id: Some("a".into()),
        ..good
    };
    import(&client, named.clone()).await.unwrap();
    let refused = import(&client, named).await.unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::AlreadyExists, "KEY_PAIR_EXISTS".into())
    );
    client.delete("a").await.unwrap();
    assert_eq!(count(), before);
    assert!(!daemon.log().contains(PASSWORD));
}

#[test]
fn a_file_cannot_ask_for_more_work_than_honest_ones_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        &format!(
            "{EC_KEY}
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out a.p12 -passout pass:x -iter 1000000 -keypbe NONE -nomaciter
            openssl asn1parse -inform DER -in a.p12 -strparse $(openssl asn1parse -inform DER -in a.p12 | awk -F: '/OCTET STRING/ {{print $1; exit}}') -out a.safe -noout
            for i in 1 2 3; do openssl pkcs8 -topk8 -in key.pem -passout pass:x -iter 1000000 >> many.pem; done
            cat cert.pem >> many.pem"
        ),
    );
    let read = |file: &[u8]| keyfiles::read(file, None, &SecretString::from("x"));
    let safe = fs::read(folder.join("a.safe")).unwrap();
    read(&fuzzing::with_mac(&safe)).unwrap();
    // The same parts, which are encrypted each for itself, several times.
    let parts = safe.strip_prefix(&safe[..4]).unwrap().repeat(4);
    let length = u16::try_from(parts.len()).unwrap().to_be_bytes();
    let several = [&b"\x30\x82"[..], &length, &parts].concat();
    let refused = read(&fuzzing::with_mac(&several)).unwrap_err().to_string();
    assert!(refused.contains("too much work"), "{refused}");
    // Of several encrypted keys, none is decrypted: whether they are the same is not known before.
    let begun = Instant::now();
    let many = fs::read(folder.join("many.pem")).unwrap();
    let refused = read(&many).unwrap_err().to_string();
    assert!(refused.contains("3 private keys"), "{refused}");
    println!("{:?}", begun.elapsed());
}

/// Counts the files below a folder.
fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                usize::from(path.extension().is_some_and(|e| e == "object"))
            }
        })
        .sum()
}

#[test]
fn a_file_damaged_at_any_byte_is_refused_or_the_same() {
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        &format!(
            r"{EC_KEY}
            openssl pkcs12 -export -inkey key.pem -in cert.pem -out a.p12 -passout pass:x -iter 1 -macalg sha256
            (openssl pkcs8 -topk8 -in key.pem -passout pass:x -iter 1; cat cert.pem) > a.pem
            (openssl ec -in key.pem 2>/dev/null; cat cert.pem) > b.pem"
        ),
    );
    let password = SecretString::from("x");
    let begun = Instant::now();
    for name in ["a.p12", "a.pem", "b.pem"] {
        let file = fs::read(folder.path().join(name)).unwrap();
        let key = keyfiles::read(&file, None, &password).unwrap().private_key;
        let check = |damaged: &[u8]| {
            if let Ok(read) = keyfiles::read(damaged, None, &password) {
                // A damaged key is another one, of which the certificate is not.
                assert!(read.private_key.public_key().spec() == key.public_key().spec());
            }
        };
        for index in 0..file.len() {
            let mut damaged = file.clone();
            for value in [damaged[index] ^ 1, damaged[index] ^ 0x80, 0, 0xff] {
                damaged[index] = value;
                check(&damaged);
            }
            check(&file[..index]);
        }
    }
    println!("{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_and_old_keys_come_into_the_token_where_that_is_permitted_and_rotate_into_better_ones()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        "for bits in 1024 2048; do
             openssl req -x509 -newkey rsa:$bits -nodes -sha1 -keyout $bits.key -out $bits.crt -days 300 \
                 -subj /C=US/O=Acme/CN=old-$bits -addext 'subjectAltName=DNS:a.example' 2>/dev/null
             cat $bits.key $bits.crt > $bits.pem
         done
         openssl pkcs12 -export -in 2048.pem -out 2048.p12 -passout pass:password
         keytool -importkeystore -srckeystore 2048.p12 -srcstorepass password -destkeystore old.jks \
             -deststorepass password -deststoretype JKS 2>/dev/null",
    );
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let refused = import(&client, file(&folder.join("1024.pem"), CryptoProvider::Hsm)).await;
    let said = refused.unwrap_err();
    assert!(
        said.message().contains("crypto.import_weak_keys"),
        "{said:?}"
    );
    let mut keystore = file(&folder.join("old.jks"), CryptoProvider::Hsm);
    keystore.password = "password".into();
    let said = import(&client, keystore).await.unwrap_err();
    assert!(
        said.message()
            .contains("convert it with `keytool -importkeystore"),
        "{said:?}"
    );
    drop(daemon);

    let daemon = Home::hybrid(&token)
        .with("crypto.import_weak_keys = true")
        .start();
    let client = daemon.client().await;
    let said = import(
        &client,
        file(&folder.join("1024.pem"), CryptoProvider::Local),
    )
    .await
    .unwrap_err();
    assert!(
        said.message().contains("import it into the HSM"),
        "{said:?}"
    );
    for (bits, missing) in [(1024, "keySize"), (2048, "signatureAlgorithm")] {
        let view = import(
            &client,
            file(&folder.join(format!("{bits}.pem")), CryptoProvider::Hsm),
        )
        .await
        .unwrap();
        assert_eq!(
            (view.key_size, &*view.signature_algorithm),
            (bits, "SHA1withRSA")
        );
        client.signs(&view).await;
        assert_eq!(client.get(&view.id).await.unwrap(), view);
        let sign = |algorithm: &str| {
            client.sign(SignRequest {
                id: view.id.clone(),
                input: Some(sign_request::Input::Message(b"message"[..].into())),
                signature_algorithm: algorithm.into(),
                ..SignRequest::default()
            })
        };
        sign("SHA512withRSA").await.unwrap();
        assert_eq!(sign("SHA384withRSA").await.is_err(), bits == 1024);
        // The next one is named, and no SHA-1 with it.
        let buffers = KeyPairRotationSettings {
            creation_buffer_days: 30,
            activation_buffer_days: 10,
            ..KeyPairRotationSettings::default()
        };
        let said = client
            .update_rotation(&view.id, buffers.clone())
            .await
            .unwrap_err();
        assert!(
            said.message().contains(&format!("{missing}: is required")),
            "{said:?}"
        );
        let complete = KeyPairRotationSettings {
            key_algorithm: Some("RSA".into()),
            key_size: Some(2048),
            signature_algorithm: Some("SHA256withRSA".into()),
            ..buffers
        };
        client.update_rotation(&view.id, complete).await.unwrap();
        let rotated = client.rotate(&view.id, true).await.unwrap();
        assert_eq!(rotated.subject_dn, view.subject_dn);
        assert_eq!(rotated.subject_alternative_names, ["a.example"]);
        assert_eq!(
            (rotated.key_size, &*rotated.signature_algorithm),
            (2048, "SHA256withRSA")
        );
        client.signs(&rotated).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_an_end_is_kept_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, ENDLESS);
    let token = Token::fresh();
    for (file, kind) in [("key.der", "privkey"), ("cert.der", "cert")] {
        let path = folder.join(file);
        let object = ["--write-object", path.to_str().unwrap(), "--type", kind];
        let name = ["--id", "0e", "--label", "endless"];
        let usage: &[&str] = match kind {
            "privkey" => &["--usage-sign"],
            _ => &[],
        };
        pkcs11_tool(&token, &[&object[..], &name, usage].concat());
    }
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let local = file(&folder.join("both.pem"), CryptoProvider::Local);
    let imported = import(&client, local).await.unwrap();
    let link = LinkSigningKeyPairRequest {
        private_key_id: "0e".into(),
        ..LinkSigningKeyPairRequest::default()
    };
    let linked = client.key_pairs().link_signing_key_pair(link).await;
    let linked = linked.unwrap().into_inner().key_pair.unwrap();
    for view in [imported, linked] {
        let expires = |view: &KeyPairView| view.expires.unwrap().to_string();
        assert_eq!(expires(&view), "9999-12-31T23:59:59Z");
        client.signs(&view).await;
        // Both ways: the endless one is the former one, and no longer signs.
        let rotated = client.rotate(&view.id, false).await.unwrap();
        assert!(rotated.pending.unwrap().activate_time.is_none());
        let rotated = client.rotate(&view.id, true).await.unwrap();
        assert_eq!(rotated.previous.as_ref().unwrap().expires, view.expires);
        client.signs(&rotated).await;
        // What is written goes on.
        let made = client
            .generate(settings(CryptoProvider::Local))
            .await
            .unwrap();
        client.delete(&made.id).await.unwrap();
    }
    assert_eq!(client.list_all().await.len(), 2);

    // Further than there are dates.
    let made = client.generate(NewKeyPairSettings {
        valid_days: 36_500,
        rotation_settings: Some(KeyPairRotationSettings {
            creation_buffer_days: 30,
            activation_buffer_days: 10,
            ..KeyPairRotationSettings::default()
        }),
        ..settings(CryptoProvider::Local)
    });
    let made = made.await.unwrap();
    let plan = PlanRotationRequest {
        id: made.id.clone(),
        steps: 1000,
        ..PlanRotationRequest::default()
    };
    let plan = client.key_pairs().plan_rotation(plan).await.unwrap();
    let plan = plan.into_inner().steps;
    let last = plan.last().unwrap().time.unwrap().to_string();
    assert!((200..1000).contains(&plan.len()), "{}", plan.len());
    assert!(last.starts_with("99"), "{last}");
    for service in ["", "keypaird.v1.KeyPairService", "rotation"] {
        assert!(client.serves(service).await, "{service}");
    }
}
