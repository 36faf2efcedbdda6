//! Which path is taken through what CAs and their bundles give, judged by `openssl verify`.

use std::fs;
use std::path::Path;

use keypaird::proto::{
    CryptoProvider, ImportCsrResponseRequest, ImportCsrResponseResponse,
    ImportSigningKeyPairRequest, ImportSigningKeyPairResponse, ImportSigningKeyPairSettings,
    KeyPairRotationSettings, ListPublicKeysRequest, NewKeyPairSettings, SignRequest, VerifyRequest,
    sign_request, verify_request,
};
use softhsm_tests::client::{Client, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::http;
use softhsm_tests::tools::shell;
use tonic::Status;
use tonic_types::StatusExt;

use super::{CA, csr, read};

async fn import(
    client: &Client,
    id: &str,
    file_data: Vec<u8>,
) -> Result<ImportSigningKeyPairResponse, Status> {
    let request = ImportSigningKeyPairRequest {
        settings: Some(ImportSigningKeyPairSettings {
            id: Some(id.into()),
            file_data,
            ..ImportSigningKeyPairSettings::default()
        }),
    };
    let answer = client.key_pairs().import_signing_key_pair(request).await?;
    Ok(answer.into_inner())
}

async fn answer(
    client: &Client,
    id: &str,
    file_data: Vec<u8>,
) -> Result<ImportCsrResponseResponse, Status> {
    let request = ImportCsrResponseRequest {
        id: id.into(),
        file_data,
        etag: String::new(),
    };
    let answer = client.key_pairs().import_csr_response(request).await?;
    Ok(answer.into_inner())
}

/// Returns the first field that is refused, and why.
fn refusal(status: &Status) -> (String, String) {
    let details = status.get_error_details();
    let field = details.bad_request().unwrap().field_violations[0].clone();
    (field.field, field.description)
}

fn key_pair(algorithm: &str, size: i32) -> NewKeyPairSettings {
    NewKeyPairSettings {
        key_algorithm: algorithm.into(),
        key_size: Some(size),
        ..settings(CryptoProvider::Unspecified)
    }
}

/// Has OpenSSL verify the chain that a view shows, from its first certificate to the root in a
/// file.
fn openssl_verifies(folder: &Path, certificate_pem: &str, root: &str) {
    fs::write(folder.join("chain.pem"), certificate_pem).unwrap();
    let command = format!("openssl verify -CAfile {root} -untrusted chain.pem chain.pem");
    assert!(shell(folder, &command).contains("OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_of_a_ca_that_renews_its_root_is_taken_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(key_pair("EC", 256)).await.unwrap();
    fs::write(folder.join("x.csr"), csr(&client, &made.id).await).unwrap();
    shell(
        folder,
        &format!(
            r#"{CA}
            ca old; ca root; ca inter root; ca stranger; cp x.csr y.csr; issue y 10; issue x 30
            # The same keys and names, signed by the old root; and a twin that is expired.
            cross() {{ openssl req -new -key $1.key -subj "/O=CA/CN=$1" -out $1.csr
                printf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n' > ca.ext
                openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -days $3 -extfile ca.ext -out $4 2>/dev/null; }}
            cross root old 99 root-by-old.crt; cross inter root -1 expired.crt; cross inter old 50 inter-by-old.crt
            # A root of version 1, which has no extensions.
            openssl req -new -x509 -newkey rsa:2048 -nodes -keyout v1.key -out v1.crt -subj /O=CA/CN=v1 -days 99 \
                -config <(printf '[req]\ndistinguished_name=d\n[d]\n') -set_serial 1 2>/dev/null
            cp x.csr v.csr; issue v 30 v1; cat v.crt v1.crt > of-v1.pem; openssl x509 -in v1.crt -noout -text > v1.txt"#
        ),
    );
    let bundle = [
        "x.crt",
        "inter.crt",
        "root.crt",
        "root-by-old.crt",
        "old.crt",
        "expired.crt",
        "inter-by-old.crt",
        "y.crt",
        "stranger.crt",
    ];
    let expected: String = ["x.crt", "inter.crt", "root.crt"]
        .map(|file| String::from_utf8(read(folder, file)).unwrap())
        .concat();
    for turn in 0..bundle.len() {
        let mut files = bundle;
        files.rotate_left(turn);
        let file: Vec<_> = files.iter().flat_map(|file| read(folder, file)).collect();
        let taken = answer(&client, &made.id, file).await.unwrap();
        let view = taken.key_pair.unwrap();
        assert_eq!(view.certificate_pem, expected, "{files:?}");
        openssl_verifies(folder, &view.certificate_pem, "root.crt");
        let mut ignored: Vec<_> = taken
            .ignored_certificates
            .iter()
            .map(|one| format!("{}: {}", one.subject_dn, one.reason))
            .collect();
        ignored.sort();
        let other = "CN=Example, O=Acme, C=US: is another certificate of the same key";
        assert!(ignored.contains(&other.to_owned()), "{ignored:?}");
        for said in [
            "CN=inter, O=CA: is expired",
            "CN=inter, O=CA: is not needed on the path to the root",
            "CN=old, O=CA: is not needed on the path to the root",
            "CN=stranger, O=CA: has nothing to do with the certificate",
        ] {
            assert!(ignored.contains(&said.to_owned()), "{ignored:?}");
        }
        assert_eq!(ignored.len(), 6);
    }
    // Without the new root's own certificate, the path leads over the old one.
    let without: Vec<_> = ["root-by-old.crt", "x.crt", "old.crt", "inter.crt"]
        .iter()
        .flat_map(|file| read(folder, file))
        .collect();
    let view = answer(&client, &made.id, without).await.unwrap();
    let view = view.key_pair.unwrap();
    assert_eq!(view.certificate_pem.matches("BEGIN").count(), 4);
    openssl_verifies(folder, &view.certificate_pem, "old.crt");
    let view = answer(&client, &made.id, read(folder, "of-v1.pem")).await;
    let view = view.unwrap().key_pair.unwrap();
    assert_eq!(view.certificate_pem.matches("BEGIN").count(), 2);
    openssl_verifies(folder, &view.certificate_pem, "v1.crt");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_other_strings_and_pss_with_any_salt_are_links_as_openssl_says() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        r#"
        root() { openssl req -x509 -newkey rsa:2048 -nodes -keyout $1.key -out $1.crt -subj "$2" -days 99 -utf8 \
            -config <(printf "[req]\ndistinguished_name=d\nstring_mask=$3\n[d]\n") -sha256 ${@:4} \
            -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign 2>/dev/null; }
        leaf() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -out $1.csr \
            -subj /C=US/O=Acme/CN=$1 2>/dev/null
            openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -days 30 -out $1.crt ${@:3} 2>/dev/null
            cat $1.key $1.crt root.crt > $1.pem; openssl verify -CAfile root.crt $1.crt; }
        # The issuer's name in one kind of string, and the root's in another, with other letters and blanks.
        root utf8 '/O=Acme  Corp/CN=ROOT' utf8only
        openssl req -x509 -key utf8.key -out root.crt -subj '/O=acme corp/CN=Root' -days 99 \
            -config <(printf '[req]\ndistinguished_name=d\nstring_mask=default\n[d]\n') \
            -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign
        leaf names utf8
        p='-sigopt rsa_padding_mode:pss -sigopt'; s='rsa_pss_saltlen'
        cp root.crt names-root.crt; root root '/O=Acme/CN=PSS' default $p $s:0
        leaf salt-0 root $p $s:0; leaf salt-17 root $p $s:17; leaf salt-max root $p $s:max
        leaf salt-hash root $p $s:digest; leaf mask root $p $s:20 -sigopt rsa_mgf1_md:sha1
        leaf sha-512 root -sha512 $p $s:5 -sigopt rsa_mgf1_md:sha384
        # Self-signed, with an RSA key, and with one that is for RSASSA-PSS only.
        self() { openssl req -x509 $2 -nodes -keyout $1.key -out $1.crt -subj /C=US/O=Acme/CN=$1 -days 30 \
            $p $s:max -addext basicConstraints=critical,CA:false 2>/dev/null; cat $1.key $1.crt > $1.pem; }
        self self '-newkey rsa:2048'; self pss-only '-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048'"#,
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (name, algorithm) in [
        ("names", "SHA256withRSA"),
        ("salt-0", "SHA256withRSAandMGF1"),
        ("salt-17", "SHA256withRSAandMGF1"),
        ("salt-max", "SHA256withRSAandMGF1"),
        ("salt-hash", "SHA256withRSAandMGF1"),
        ("mask", "SHA256withRSAandMGF1"),
        ("sha-512", "SHA512withRSAandMGF1"),
    ] {
        let taken = import(&client, name, read(folder, &format!("{name}.pem"))).await;
        let taken = taken.unwrap_or_else(|status| panic!("{name}: {:?}", refusal(&status)));
        let view = taken.key_pair.unwrap();
        assert_eq!(view.certificate_pem.matches("BEGIN").count(), 2, "{name}");
        assert_eq!(view.signature_algorithm, algorithm, "{name}");
        assert_eq!(view.signing_algorithm, "SHA256withECDSA");
        let said = format!(
            "the certificate is signed with {algorithm}, and the key pair signs with SHA256withECDSA"
        );
        assert_eq!(taken.warnings, [said]);
    }
    // They certify themselves, and so keypaird can go on with that.
    for name in ["self", "pss-only"] {
        let view = import(&client, name, read(folder, &format!("{name}.pem"))).await;
        let view = view.unwrap().key_pair.unwrap();
        assert_eq!(view.signing_algorithm, "SHA256withRSAandMGF1", "{name}");
        client.signs(&view).await;
        let rotation = KeyPairRotationSettings {
            creation_buffer_days: 5,
            activation_buffer_days: 2,
            signature_algorithm: Some("SHA256withRSA".into()),
            ..KeyPairRotationSettings::default()
        };
        client.update_rotation(name, rotation).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_rsassa_pss_only_makes_and_verifies_no_other_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        r"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 99 2>/dev/null
        sign=; key() { openssl genpkey -algorithm rsa-pss -pkeyopt rsa_keygen_bits:2048 ${@:2} -out $1.key 2>/dev/null
            openssl req -new -key $1.key -out $1.csr -subj /CN=$1 $sign
            openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -days 30 -out $1.crt 2>/dev/null
            cat $1.key $1.crt > $1.pem; }
        o='-pkeyopt rsa_pss_keygen'
        key any; key sha-384 ${o}_md:sha384 ${o}_mgf1_md:sha384 ${o}_saltlen:48
        key short-salt ${o}_md:sha512 ${o}_mgf1_md:sha512 ${o}_saltlen:20
        key long-salt ${o}_md:sha256 ${o}_mgf1_md:sha256 ${o}_saltlen:48
        key other-mask ${o}_md:sha256 ${o}_mgf1_md:sha1 ${o}_saltlen:20
        sign=-sha1; key sha-1 ${o}_md:sha1 ${o}_mgf1_md:sha1 ${o}_saltlen:20",
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (name, default, others) in [
        ("any", "SHA256withRSAandMGF1", "SHA384withRSAandMGF1"),
        ("sha-384", "SHA384withRSAandMGF1", ""),
        ("short-salt", "SHA512withRSAandMGF1", ""),
    ] {
        let view = import(&client, name, read(folder, &format!("{name}.pem"))).await;
        let view = view.unwrap_or_else(|status| panic!("{name}: {:?}", refusal(&status)));
        let view = view.key_pair.unwrap();
        assert_eq!(view.signing_algorithm, default, "{name}");
        client.signs(&view).await;
        for algorithm in [
            "SHA256withRSA",
            "SHA256withRSAandMGF1",
            "SHA384withRSAandMGF1",
            "SHA512withRSAandMGF1",
        ] {
            let request = SignRequest {
                id: name.into(),
                input: Some(sign_request::Input::Message(b"message"[..].into())),
                signature_algorithm: algorithm.into(),
                ..SignRequest::default()
            };
            let allowed = name == "any" || [default, others].contains(&algorithm);
            match client.sign(request).await {
                Ok(_) => assert!(
                    allowed && algorithm != "SHA256withRSA",
                    "{name} {algorithm}"
                ),
                Err(status) => {
                    let (field, why) = refusal(&status);
                    assert_eq!(field, "signatureAlgorithm");
                    assert!(why.contains("restricts the key to RSASSA-PSS"), "{why}");
                    assert!(
                        !allowed || algorithm == "SHA256withRSA",
                        "{name} {algorithm}"
                    );
                }
            }
            let request = VerifyRequest {
                id: name.into(),
                input: Some(verify_request::Input::Message(b"message"[..].into())),
                signature: vec![1; 256],
                signature_algorithm: "SHA256withRSA".into(),
                ..VerifyRequest::default()
            };
            let refused = client.verify(request).await.unwrap_err();
            assert_eq!(refusal(&refused).0, "signatureAlgorithm");
        }
        // The next certificate restricts the key as this one does.
        fs::write(folder.join("x.csr"), csr(&client, name).await).unwrap();
        let said = shell(
            folder,
            &format!(
                "openssl req -in x.csr -noout -text -verify 2>&1; openssl req -in x.csr -noout -pubkey > x.pub
                 openssl x509 -in {name}.crt -noout -pubkey | cmp - x.pub && echo same key
                 openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 30 -out x.crt"
            ),
        );
        assert!(said.contains("verify OK"), "{said}");
        assert!(said.contains("Signature Algorithm: rsassaPss"), "{said}");
        assert!(said.contains("same key"), "{said}");
        answer(&client, name, read(folder, "x.crt")).await.unwrap();
    }
    for (name, sentence) in [
        ("long-salt", "a salt of at least 48 bytes"),
        ("other-mask", "MGF1 with SHA1"),
        ("sha-1", "RSASSA-PSS with SHA1"),
    ] {
        let refused = import(&client, name, read(folder, &format!("{name}.pem"))).await;
        let (field, why) = refusal(&refused.unwrap_err());
        assert_eq!(field, "fileData");
        assert!(why.contains(sentence), "{name}: {why}");
    }
    // How a key pair signs does not change by what a CA answers.
    let made = client.generate(key_pair("RSA", 2048)).await.unwrap();
    fs::write(folder.join("x.csr"), csr(&client, &made.id).await).unwrap();
    fs::write(folder.join("made.pub"), &made.public_key_pem).unwrap();
    shell(
        folder,
        "python3 - <<'END'
import base64
pem = open('made.pub').read().split('-----')[2]
der = base64.b64decode(pem)
# RSASSA-PSS without parameters in the place of rsaEncryption with NULL.
old = bytes.fromhex('300d06092a864886f70d0101010500'); new = bytes.fromhex('300b06092a864886f70d01010a')
at = der.index(old); body = new + der[at + len(old):]
out = bytes.fromhex('3082') + len(body).to_bytes(2, 'big') + body
print('-----BEGIN PUBLIC KEY-----', base64.b64encode(out).decode(), '-----END PUBLIC KEY-----', sep='\\n', file=open('pss.pub', 'w'))
END
         openssl x509 -new -subj /CN=x -force_pubkey pss.pub -CA ca.crt -CAkey ca.key -days 30 -out restricted.crt",
    );
    let refused = answer(&client, &made.id, read(folder, "restricted.crt")).await;
    let (field, why) = refusal(&refused.unwrap_err());
    assert_eq!(field, "fileData");
    assert!(
        why.contains("and the key pair signs with SHA256withRSA"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_little_time_or_another_use_is_taken_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(key_pair("EC", 384)).await.unwrap();
    assert_eq!(made.signing_algorithm, "SHA384withECDSA");
    assert_eq!(made.signature_algorithm, "SHA256withECDSA");
    fs::write(folder.join("x.csr"), csr(&client, &made.id).await).unwrap();
    shell(
        folder,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 9 2>/dev/null
         issue() { openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days $1 -extfile <(echo $2) -out $3 2>/dev/null; }
         issue 2 keyUsage=keyEncipherment short.crt; issue 3000 keyUsage=digitalSignature long.crt",
    );
    let taken = answer(&client, &made.id, read(folder, "short.crt")).await;
    let taken = taken.unwrap();
    let [usage, ends, signs] = &*taken.warnings else {
        panic!("{:?}", taken.warnings);
    };
    assert!(usage.contains("lacks digitalSignature"), "{usage}");
    assert!(ends.contains("before the one that it replaces"), "{ends}");
    assert_eq!(
        signs,
        "the certificate is signed with SHA256withRSA, and the key pair signs with SHA384withECDSA"
    );
    daemon.wait_for_log(usage);
    daemon.wait_for_log(ends);
    // The key signs as before, and JWKS says so.
    let view = taken.key_pair.unwrap();
    assert_eq!(view.signature_algorithm, "SHA256withRSA");
    assert_eq!(view.signing_algorithm, "SHA384withECDSA");
    let signed = client.sign(SignRequest {
        id: made.id.clone(),
        input: Some(sign_request::Input::Message(b"message"[..].into())),
        ..SignRequest::default()
    });
    assert_eq!(signed.await.unwrap().signature_algorithm, "SHA384withECDSA");
    let mut signing = client.signing();
    let keys = signing.list_public_keys(ListPublicKeysRequest::default());
    let keys = keys.await.unwrap().into_inner().public_keys;
    assert_eq!(keys[0].jwk.as_ref().unwrap().alg, "ES384");
    let taken = answer(&client, &made.id, read(folder, "long.crt")).await;
    assert_eq!(taken.unwrap().warnings, std::slice::from_ref(signs));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_known_by_its_numbers_in_whichever_form_a_certificate_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        r"
        form() { openssl req -x509 -key $1 -out $2.crt -subj /C=US/O=Acme/CN=$2 -days 30; cat key.pem $2.crt > $2.pem; }
        openssl ecparam -name secp384r1 -genkey -noout -out key.pem
        openssl ec -in key.pem -conv_form compressed -out compressed.key 2>/dev/null
        openssl ec -in key.pem -param_enc explicit -out explicit.key 2>/dev/null
        openssl ec -in key.pem -param_enc explicit -conv_form compressed -out both.key 2>/dev/null
        for form in compressed explicit both; do form $form.key $form; done",
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for form in ["compressed", "explicit", "both"] {
        let taken = import(&client, form, read(folder, &format!("{form}.pem"))).await;
        let taken = taken.unwrap_or_else(|status| panic!("{form}: {:?}", refusal(&status)));
        client.signs(&taken.key_pair.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_the_subject_of_the_certificate_byte_for_byte_over_rest_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        r#"
        made() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -out $1.crt \
            -subj "$2" -days 30 -utf8 ${@:4} -config <(printf "[req]\ndistinguished_name=d\nstring_mask=$3\n[d]\n") \
            2>/dev/null; cat $1.key $1.crt > $1.pem; }
        made two-ous '/C=US/O=Acme/OU=A/OU=B/CN=x' utf8only
        made directory '/DC=com/DC=example/CN=Users/CN=x' default
        made bmp '/C=US/O=Łódź/CN=x' MASK:0x800
        made several '/C=US/O=Acme/CN=x+UID=1+OU=y' default -multivalue-rdn
        made nameless / default -addext subjectAltName=critical,DNS:a.example"#,
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for name in ["two-ous", "directory", "bmp", "several", "nameless"] {
        let taken = import(&client, name, read(folder, &format!("{name}.pem"))).await;
        taken.unwrap_or_else(|status| panic!("{name}: {:?}", refusal(&status)));
        let path = format!("/keyPairs/signing/{name}/csr");
        let request = http::get(&daemon, &path);
        assert_eq!(request.status, 200, "{name}");
        fs::write(folder.join("x.csr"), request.body).unwrap();
        let said = shell(
            folder,
            &format!(
                "openssl req -in x.csr -noout -verify 2>&1
                 shown() {{ openssl $1 -in $2 -noout -subject -nameopt oid,sep_comma_plus,dump_all,dump_der; }}
                 diff <(shown req x.csr) <(shown x509 {name}.crt) && echo the same"
            ),
        );
        assert!(
            said.contains("verify OK") && said.contains("the same"),
            "{name}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_takes_pss_with_any_salt_or_with_the_one_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /C=US/O=A/CN=x -days 9 2>/dev/null
         cat key.pem cert.pem > both.pem; printf message > message
         for salt in 0 11 32 222; do
             openssl dgst -sha256 -sign key.pem -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:$salt -out $salt.sig message
         done",
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    import(&client, "x", read(folder, "both.pem"))
        .await
        .unwrap();
    let request = |salt: i32, pss_salt_length| VerifyRequest {
        id: "x".into(),
        input: Some(verify_request::Input::Message(b"message"[..].into())),
        signature: read(folder, &format!("{salt}.sig")),
        signature_algorithm: "SHA256withRSAandMGF1".into(),
        pss_salt_length,
        ..VerifyRequest::default()
    };
    for salt in [0, 11, 32, 222] {
        for (asked, valid) in [(None, true), (Some(salt), true), (Some(salt + 1), false)] {
            let answer = client.verify(request(salt, asked)).await.unwrap();
            assert_eq!(answer.valid, valid, "{salt} {asked:?}");
        }
        let changed = VerifyRequest {
            input: Some(verify_request::Input::Message(b"massage"[..].into())),
            ..request(salt, None)
        };
        assert!(!client.verify(changed).await.unwrap().valid);
    }
    let negative = client.verify(request(0, Some(-1))).await.unwrap_err();
    assert_eq!(refusal(&negative).0, "pssSaltLength");
    let other = VerifyRequest {
        signature_algorithm: "SHA256withRSA".into(),
        ..request(0, Some(32))
    };
    let (field, why) = refusal(&client.verify(other).await.unwrap_err());
    assert_eq!(field, "pssSaltLength");
    assert!(why.contains("RSASSA-PSS only"), "{why}");
}

/// Replaces bytes by others of the same length in a key file, and signs the certificate anew.
fn with_names(folder: &Path, name: &str, names: &[u8]) {
    let hex: Vec<_> = names.iter().map(|byte| format!("{byte:02X}")).collect();
    shell(
        folder,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.crt \
                -subj /C=US/O=Acme/CN=x -days 30 -addext subjectAltName=DER:{} 2>/dev/null; cat {name}.key {name}.crt > {name}.pem",
            hex.join(":")
        ),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_alternative_name_hides_no_other_and_is_shown_by_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    with_names(
        folder,
        "bad",
        b"\x30\x39\x82\x09a.example\x82\x03\xc3\xbca\x81\x02\xffb\x86\x02\xffc\x87\x05\x01\x02\x03\x04\x05\
          \x82\x03a\x0ab\x87\x04\xc0\x00\x02\x01\x88\x02\x2a\x03\x82\x09b.example",
    );
    // Kinds that keypaird does not write: a user principal name, and a registered identifier.
    with_names(
        folder,
        "other",
        b"\x30\x2a\x82\x09a.example\xa0\x19\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03\
          \xa0\x0b\x0c\x09me@a.test\x88\x02\x2a\x03",
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let view = import(&client, "bad", read(folder, "bad.pem")).await;
    assert_eq!(
        view.unwrap().key_pair.unwrap().subject_alternative_names,
        [
            "a.example",
            "DNS:#c3bc61",
            "email:#ff62",
            "URI:#ff63",
            "IP:#0102030405",
            "DNS:#610a62",
            "192.0.2.1",
            "RID:1.2.3",
            "b.example",
        ]
    );
    // A request cannot have what is damaged, and says which name that is.
    let refused = http::get(&daemon, "/keyPairs/signing/bad/csr");
    assert_eq!(refused.status, 422);
    let refused = refused.json()["validationErrors"][0].clone();
    assert_eq!(refused["fieldPath"], "subjectAlternativeNames");
    assert!(
        refused["message"].as_str().unwrap().contains("DNS:#c3bc61"),
        "{refused}"
    );

    import(&client, "other", read(folder, "other.pem"))
        .await
        .unwrap();
    fs::write(folder.join("x.csr"), csr(&client, "other").await).unwrap();
    let said = shell(folder, "openssl req -in x.csr -noout -text -verify 2>&1");
    for expected in [
        "DNS:a.example",
        "me@a.test",
        "Registered ID:1.2.3",
        "verify OK",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}
