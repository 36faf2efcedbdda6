//! Key files as editors, scripts and other programs leave them.

use keypaird::proto::{GenerateCsrRequest, ImportCsrResponseRequest};
use softhsm_tests::http::get;
use softhsm_tests::keypairctl::{json, succeeded};

use super::*;

/// Puts a MAC by PBMAC1 (RFC 9579) on a PKCS#12 file that has none: OpenSSL before 3.4 cannot.
const PBMAC1: &str = r#"
import hashlib, hmac, sys
def element(tag, *parts):
    body = b"".join(parts); n = len(body)
    digits = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([tag]) + (bytes([n]) if n < 128 else bytes([128 + len(digits)]) + digits) + body
def split(data):
    n, at = data[1], 2
    if n & 128: at, n = 2 + (n & 127), int.from_bytes(data[2:2 + (n & 127)], "big")
    return data[at:at + n], data[at + n:]
def algorithm(oid, *parameters): return element(0x30, element(6, bytes.fromhex(oid)), *parameters)
source, target, password, prf, mac = sys.argv[1:]
oids = {"sha1": "2a864886f70d0207", "sha256": "2a864886f70d0209", "sha384": "2a864886f70d020a", "sha512": "2a864886f70d020b"}
pfx, _ = split(open(source, "rb").read())
content, _ = split(split(pfx)[1])
safe, _ = split(split(split(content)[1])[0])
salt, key_len = b"saltsalt", hashlib.new(mac).digest_size
key = hashlib.pbkdf2_hmac(prf, password.encode(), salt, 2048, key_len)
prf_parameter = b"" if prf == "sha1" else algorithm(oids[prf], b"\5\0")
kdf = element(0x30, element(4, salt), element(2, b"\x08\x00"), element(2, bytes([key_len])), prf_parameter)
parameters = element(0x30, algorithm("2a864886f70d01050c", kdf), algorithm(oids[mac], b"\5\0"))
digest = element(4, hmac.digest(key, safe, mac))
data = element(0x30, element(0x30, algorithm("2a864886f70d01050e", parameters), digest), element(4, b"NOT USED"), element(2, b"\1"))
open(target, "wb").write(element(0x30, pfx, data))
"#;

async fn imported(client: &Client, name: &str, file_data: Vec<u8>, password: &str) -> KeyPairView {
    let settings = ImportSigningKeyPairSettings {
        file_data,
        password: password.into(),
        ..ImportSigningKeyPairSettings::default()
    };
    let imported = import(client, settings).await;
    let view = imported.unwrap_or_else(|status| panic!("{name}: {status}"));
    client.signs(&view).await;
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn pem_comes_in_whatever_became_of_it_on_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        &format!(
            r#"{EC_KEY}
            mkdir in; cat key.pem cert.pem > both.pem
            printf '\xef\xbb\xbf' | cat - both.pem > in/bom
            iconv -t UTF-16 both.pem > in/utf16
            iconv -t UTF-16BE both.pem > in/utf16be-without-mark
            (cat key.pem; iconv -t UTF-16 cert.pem) > in/ascii-and-utf16
            (printf '0 s:CN = M\xfcller\n'; cat both.pem) > in/latin1-that-begins-with-zero
            awk '{{ printf "%s\\n", $0 }}' both.pem > in/escaped
            tr -d '\n' < both.pem > in/one-line
            sed 's/^/    /; s/$/\r/' both.pem > in/indented-crlf
            tr -d '=' < both.pem > in/without-padding
            base64 both.pem > in/base64-of-pem
            (cat cert.pem key.pem; openssl dhparam -dsaparam 512 2>/dev/null; openssl ecparam -name prime256v1) > in/haproxy
            openssl req -new -key key.pem -subj /CN=x -out x.csr
            touch index.txt; printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ndefault_md=sha256\n' > ca.cnf
            openssl ca -config ca.cnf -gencrl -crldays 9 -keyfile key.pem -cert cert.pem -out x.crl 2>/dev/null
            (cat x.csr x.crl; openssl pkey -in key.pem -pubout; cat key.pem cert.pem) > in/request-list-and-public-key
            (openssl x509 -in cert.pem -trustout -addtrust serverAuth; cat key.pem) > in/trusted
            sed 's/CERTIFICATE-/X509 CERTIFICATE-/' both.pem > in/x509
            (openssl ec -in key.pem 2>/dev/null | sed 's/EC PRIVATE/PRIVATE/'; cat cert.pem) > in/sec1-under-another-label
            (sed 's/PRIVATE KEY/EC PRIVATE KEY/' key.pem; cat cert.pem) > in/pkcs8-under-another-label
            (cat key.pem; openssl crl2pkcs7 -nocrl -certfile cert.pem) > in/pkcs7"#
        ),
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let mut count = 0;
    for entry in fs::read_dir(folder.join("in")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        let view = imported(&client, &name, fs::read(&path).unwrap(), "").await;
        assert_eq!(view.subject_alternative_names, ["a.example", "192.0.2.1"]);
        count += 1;
    }
    assert_eq!(count, 17);
}

#[tokio::test(flavor = "multi_thread")]
async fn pkcs12_without_a_password_in_armour_or_with_pbmac1_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("pbmac1.py"), PBMAC1).unwrap();
    shell(
        folder,
        &format!(
            r#"{EC_KEY}
            mkdir none some; i='-inkey key.pem -in cert.pem'
            openssl pkcs12 -export $i -out none/openssl.p12 -passout pass:
            openssl pkcs12 -export $i -out none/legacy.p12 -passout pass: -legacy
            to_p12() {{ certtool --p8 --load-privkey key.pem --load-certificate cert.pem --to-p12 --p12-name name "$@" 2>/dev/null; }}
            to_p12 --outder --null-password --outfile none/null.p12
            to_p12 --outder --null-password --pkcs-cipher 3des-pkcs12 --outfile none/null-3des.p12
            to_p12 --password '{PASSWORD}' --outfile some/armoured.pem
            grep -q 'BEGIN PKCS12' some/armoured.pem
            openssl pkcs12 -export $i -out no-mac.p12 -passout 'pass:{PASSWORD}' -nomac
            base64 some/armoured.pem > some/base64
            mac() {{ python3 pbmac1.py no-mac.p12 "some/$1-$2.p12" '{PASSWORD}' $1 $2; }}
            mac sha256 sha256; mac sha256 sha512; mac sha512 sha384; mac sha1 sha256
            openssl pkcs12 -export $i -out wrong.p12 -passout 'pass:{PASSWORD}' -nomac
            python3 pbmac1.py no-mac.p12 wrong.p12 another sha256 sha256"#
        ),
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let mut count = 0;
    for (within, password) in [("none", ""), ("some", PASSWORD)] {
        for entry in fs::read_dir(folder.join(within)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.display().to_string();
            let file = fs::read(&path).unwrap();
            imported(&client, &name, file, password).await;
            count += 1;
        }
    }
    assert_eq!(count, 10);
    let wrong = file(&folder.join("wrong.p12"), CryptoProvider::Unspecified);
    let refused = import(&client, wrong).await.unwrap_err();
    assert_eq!(refusals(&refused)[0].0, "password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_from_before_1970_comes_in_with_its_dates() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(
        folder,
        &format!(
            "{ENDLESS}
            for dates in '19500101000000Z 20491231235959Z' '19491231235959Z 20500101000000Z' '690720201740Z 690724165035Z'; do
                set -- $dates; rm index.txt; touch index.txt
                openssl ca -config ca.cnf -selfsign -batch -notext -in x.csr -keyfile key.pem -startdate $1 -enddate $2 -out $1.crt 2>/dev/null
                cat key.pem $1.crt > $1.pem
            done"
        ),
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    for (name, from, status) in [
        ("19500101000000Z", -631_152_000, "VALID"),
        ("19491231235959Z", -631_152_001, "VALID"),
        ("690720201740Z", -14_182_940, "EXPIRED"),
    ] {
        let file = fs::read(folder.join(format!("{name}.pem"))).unwrap();
        let settings = ImportSigningKeyPairSettings {
            file_data: file,
            ..ImportSigningKeyPairSettings::default()
        };
        let view = import(&client, settings).await.unwrap();
        assert_eq!(view.valid_from.unwrap().seconds, from, "{name}");
        assert_eq!(view.status().as_str_name(), status, "{name}");
        assert_eq!(client.get(&view.id).await.unwrap(), view);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_ca_comes_in_whatever_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(settings(CryptoProvider::Unspecified)).await;
    let made = made.unwrap();
    let request = GenerateCsrRequest {
        id: made.id.clone(),
        ..GenerateCsrRequest::default()
    };
    let csr = client.key_pairs().generate_csr(request).await.unwrap();
    fs::write(folder.join("x.csr"), csr.into_inner().csr_pem).unwrap();
    shell(
        folder,
        r#"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 9 2>/dev/null
        openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -out x.crt 2>/dev/null
        mkdir in; cat x.crt ca.crt > both.pem
        iconv -t UTF-16 both.pem > in/utf16
        printf '\xef\xbb\xbf' | cat - both.pem > in/bom
        (printf '0 M\xfcller\n'; cat both.pem) > in/latin1-that-begins-with-zero
        awk '{ printf "%s\\r\\n", $0 }' both.pem > in/escaped
        tr -d '\n' < both.pem > in/one-line
        (cat both.pem; openssl dhparam -dsaparam 512 2>/dev/null; cat x.csr) > in/with-other-blocks
        (openssl x509 -in x.crt -trustout -addtrust serverAuth; cat ca.crt) > in/trusted
        grep -v -- ----- x.crt | tr -d '\n=' > in/bare
        openssl x509 -in x.crt -outform DER -out in/der
        openssl crl2pkcs7 -nocrl -certfile both.pem > in/pkcs7
        openssl crl2pkcs7 -nocrl -certfile both.pem | sed 's/PKCS7/CERTIFICATE/' > in/pkcs7-under-another-label
        openssl crl2pkcs7 -nocrl -certfile both.pem -outform DER | base64 -w0 > in/pkcs7-bare"#,
    );
    let mut count = 0;
    for entry in fs::read_dir(folder.join("in")).unwrap() {
        let path = entry.unwrap().path();
        let request = ImportCsrResponseRequest {
            id: made.id.clone(),
            file_data: fs::read(&path).unwrap(),
            etag: String::new(),
        };
        let answer = client.key_pairs().import_csr_response(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{}: {status}", path.display()));
        let view = answer.into_inner().key_pair.unwrap();
        assert_eq!(view.issuer_dn, "CN=ca", "{}", path.display());
        count += 1;
    }
    assert_eq!(count, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_certificate_steers_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // A DNS name with a line end and an escape sequence, and a URI that clears the screen.
    let names = [
        ("82", "a\nstatus   REVOKED\x1b[2J"),
        ("86", "urn:\x7f\x1b[31mred"),
    ];
    let names = names.map(|(tag, name)| {
        let digits: Vec<_> = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let digits = digits.concat();
        format!("{tag}{:02x}{digits}", name.len())
    });
    let names = names.concat();
    let length = names.len() / 2;
    shell(
        folder,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -utf8 -days 9 \\
                -subj $'/C=CH/O=Acme\\u2028\\u200b/CN=x\\u202egpj.exe\\u009b2J' -addext subjectAltName=DER:30{length:02x}{names} 2>/dev/null
            cat key.pem cert.pem > both.pem"
        ),
    );
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let settings = ImportSigningKeyPairSettings {
        id: Some("x".into()),
        file_data: fs::read(folder.join("both.pem")).unwrap(),
        ..ImportSigningKeyPairSettings::default()
    };
    let view = import(&client, settings).await.unwrap();
    assert_eq!(
        view.subject_alternative_names,
        [
            "DNS:#610a7374617475732020205245564f4b45441b5b324a",
            "URI:#75726e3a7f1b5b33316d726564"
        ]
    );
    let steers = |text: &str| {
        text.chars()
            .any(|c| c != '\n' && keypaird::domain::is_unprintable(c))
    };
    assert!(
        !steers(&format!("{}{}", view.subject_dn, view.issuer_dn)),
        "{view:?}"
    );
    tokio::task::block_in_place(|| {
        let answer = get(&daemon, "/keyPairs/signing/x").json();
        assert_eq!(answer["subjectDN"], *view.subject_dn);
        assert!(
            answer["subjectDN"].as_str().unwrap().contains("u{202e}"),
            "{answer}"
        );
        assert_eq!(
            answer["subjectAlternativeNames"][0],
            *view.subject_alternative_names[0]
        );
        for arguments in [
            &["get", "x"][..],
            &["list"],
            &["get", "x", "--output", "json"],
        ] {
            let shown = succeeded(&daemon, arguments);
            assert!(!steers(&shown), "{arguments:?}: {shown:?}");
            assert!(
                !shown
                    .lines()
                    .any(|line| line.starts_with("status   REVOKED")),
                "{shown}"
            );
        }
        assert_eq!(
            json(&daemon, &["get", "x", "--output", "json"])["keyPair"]["subjectDN"],
            *view.subject_dn
        );
    });
}
