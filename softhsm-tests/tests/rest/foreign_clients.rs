//! Clients of others: what makes them of `/openapi.json`, and the programs of `clients/examples`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http::send;
use softhsm_tests::tools::{grpcurl, run, shell, succeeded, tools};

/// Returns the description, also written to a file in the folder.
fn description(daemon: &Daemon, folder: &Path) -> Value {
    let answer = send(daemon, "GET", "/openapi.json", &[], b"");
    assert_eq!(answer.header("content-type"), "application/json");
    fs::write(folder.join("openapi.json"), &answer.body).unwrap();
    answer.json()
}

fn python(name: &str) -> PathBuf {
    fs::canonicalize(tools())
        .unwrap()
        .join("venv/bin")
        .join(name)
}

/// Returns a file beside this one, or below the root of the repository.
fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::canonicalize(path).unwrap().display().to_string()
}

/// Returns the operations with their paths and methods.
fn operations(description: &Value) -> Vec<(String, &Value)> {
    let paths = description["paths"].as_object().unwrap();
    let of_path = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
    });
    of_path.collect()
}

#[test]
fn the_description_passes_a_strict_validator_and_says_what_readers_need() {
    let daemon = Home::local().start();
    let folder = tempfile::tempdir().unwrap();
    let description = description(&daemon, folder.path());
    let path = folder.path().join("openapi.json");
    let said = run(
        python("openapi-spec-validator"),
        ["--subschema-errors", "all", path.to_str().unwrap()],
    );
    assert!(said.contains("OK"), "{said}");

    assert_eq!(description["servers"][0]["url"], "/");
    assert_eq!(description["info"].get("license"), None);
    assert!(description["info"]["description"].as_str().unwrap().len() > 20);
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&description) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{name}: {parameter}");
            assert!(parameter.get("example").is_some(), "{name}: {parameter}");
        }
        let with_body = operation.get("requestBody");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let said = response["description"].as_str().unwrap();
            assert!(!said.is_empty(), "{name} {status}");
            let Some(content) = response["content"].as_object() else {
                assert!(["204", "304"].contains(&&**status), "{name} {status}");
                continue;
            };
            for (content_type, media) in content {
                let is_file = content_type.starts_with("application/x-")
                    || content_type == "application/pkcs10";
                let schema = resolved(&description, &media["schema"]);
                let has_example = media.get("example").is_some()
                    || schema.get("example").is_some()
                    || schema.get("examples").is_some();
                assert!(has_example || is_file, "{name} {status}: no example");
                if is_file {
                    let form = (&schema["type"], &schema["format"]);
                    assert_eq!(form, (&json!("string"), &json!("binary")), "{name}");
                }
            }
        }
        // An error that cannot happen is not there.
        let errors = &operation["responses"];
        let can = |status: &str| errors.get(status).is_some();
        assert!(
            can("400") && can("403") && can("500") && can("503"),
            "{name}"
        );
        assert_eq!(can("413") && can("415"), with_body.is_some(), "{name}");
        assert_eq!(can("413") || can("415"), with_body.is_some(), "{name}");
        assert!(
            can("404") == name.contains("{id}") || name.ends_with("jwks.json"),
            "{name}"
        );
        if let Some(body) = with_body {
            assert!(body["description"].is_string(), "{name}");
            let schema = resolved(&description, &body["content"]["application/json"]["schema"]);
            assert!(
                schema.get("example").is_some(),
                "{name}: no example of a body"
            );
        }
    }
    for id in [
        "getKeyPair",
        "generateKeyPair",
        "deleteRotationSettings",
        "getKeyPairJwks",
    ] {
        assert!(ids.contains(id), "{id}: {ids:?}");
    }
    for (name, schema) in description["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "{name}");
        for (member, one) in schema["properties"].as_object().into_iter().flatten() {
            // One that may be null has its description within.
            let text = one.to_string();
            let is_described = text.contains("\"description\"") || text.contains("\"$ref\"");
            assert!(is_described, "{name}.{member}");
        }
    }
}

/// Follows a reference, also from a list to its members.
fn resolved<'a>(description: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => description
            .pointer(reference.trim_start_matches('#'))
            .unwrap(),
        None => schema,
    }
}

#[test]
fn a_client_that_is_made_for_python_generates_gets_and_deletes_a_key_pair() {
    let daemon = Home::local().start();
    let folder = tempfile::tempdir().unwrap();
    description(&daemon, folder.path());
    // Files are bytes to the client, and it is not formatted for people.
    fs::write(
        folder.path().join("config.yml"),
        "project_name_override: keypaird-client\n\
         package_name_override: keypaird_client\n\
         post_hooks: []\n\
         content_type_overrides:\n\
         \x20 application/x-x509-ca-cert: application/octet-stream\n\
         \x20 application/x-pkcs12: application/octet-stream\n\
         \x20 application/x-pem-file: application/octet-stream\n\
         \x20 application/pkcs10: application/octet-stream\n\
         \x20 application/jwk-set+json: application/json\n",
    )
    .unwrap();
    let said = shell(
        folder.path(),
        &format!(
            "{} generate --path openapi.json --config config.yml --meta none \
             --output-path keypaird_client --fail-on-warning 2>&1",
            python("openapi-python-client").display()
        ),
    );
    assert!(!said.contains("Warning"), "{said}");
    let output = Command::new(python("python"))
        .arg(file("tests/rest/generated_client.py"))
        .arg(format!("http://{}", daemon.address()))
        .env("PYTHONPATH", folder.path())
        .output()
        .unwrap();
    assert_eq!(succeeded("python".as_ref(), &output), "done\n");
}

#[test]
fn a_client_that_is_made_for_typescript_passes_its_compiler_and_works() {
    let daemon = Home::local().start();
    let folder = tempfile::tempdir().unwrap();
    description(&daemon, folder.path());
    let said = shell(
        folder.path(),
        &format!(
            "ln -s {node} node_modules
             node_modules/.bin/openapi-typescript openapi.json --output keypaird.d.ts >/dev/null 2>&1
             cp {program} client.ts
             node_modules/.bin/tsc --strict --target es2022 --module nodenext --skipLibCheck \
                 --lib es2022,dom --exactOptionalPropertyTypes client.ts 2>&1
             node client.js http://{address}",
            node = fs::canonicalize(tools()).unwrap().join("node/node_modules").display(),
            program = file("tests/rest/generated_client.ts"),
            address = daemon.address(),
        ),
    );
    assert_eq!(said, "VALID CN=Typed, O=Acme, C=US 1 43 204\n");
}

#[test]
fn the_examples_in_python_node_and_shell_work_as_they_are_written() {
    let daemon = Home::local().start();
    let folder = fs::canonicalize(tools()).unwrap();
    let path = std::env::var("PATH").unwrap();
    let grpcurl = grpcurl().parent().unwrap().display().to_string();
    let gone = "there is no key pair";
    for (program, name, says) in [
        (
            python("python"),
            "sign.py",
            &["valid SHA256withECDSA\n", "KEY_PAIR_NOT_FOUND\n"][..],
        ),
        (
            "node".into(),
            "sign.js",
            &["valid\n", "private key: DESTROYED\n", gone][..],
        ),
        (
            "bash".into(),
            "sign.sh",
            &["Verified OK\n", "DESTROYED\n", gone][..],
        ),
    ] {
        let example = file(&format!("../clients/examples/{name}"));
        let lines = fs::read_to_string(&example).unwrap().lines().count();
        assert!(lines <= 45, "{name} has {lines} lines");
        let output = Command::new(&program)
            .arg(&example)
            .arg(daemon.address().to_string())
            .env("NODE_PATH", folder.join("node/node_modules"))
            .env("PATH", format!("{grpcurl}:{path}"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let said = succeeded(program.as_os_str(), &output);
        for part in says {
            assert!(said.contains(part), "{name}: {said}");
        }
    }
    let listed = daemon
        .grpcurl()
        .key_pairs("ListSigningKeyPairs", &json!({}));
    assert_eq!(listed.unwrap(), json!({}), "an example leaves a key pair");
}

#[test]
fn the_protos_stand_beside_those_of_googleapis() {
    let folder = tempfile::tempdir().unwrap();
    let said = shell(
        folder.path(),
        &format!(
            "here=$PWD
             cd {proto}
             {python} -m grpc_tools.protoc -I . --python_out=$here --grpc_python_out=$here \
                 $(find . -name '*.proto')
             cd $here
             {python} - <<'END'\n\
             from google.rpc import status_pb2 as theirs, error_details_pb2\n\
             import importlib.util\n\
             spec = importlib.util.spec_from_file_location('ours', 'google/rpc/status_pb2.py')\n\
             ours = importlib.util.module_from_spec(spec)\n\
             spec.loader.exec_module(ours)\n\
             from keypaird.v1 import signing_service_pb2 as signing\n\
             result = signing.BatchSignResult(error=theirs.Status(code=5, message='x'))\n\
             assert ours.Status.FromString(result.error.SerializeToString()).code == 5\n\
             for name in ['event_service', 'key_pair', 'key_pair_service', 'signing_service']:\n\
             \x20   options = importlib.import_module(f'keypaird.v1.{{name}}_pb2').DESCRIPTOR.GetOptions()\n\
             \x20   print(options.go_package, options.java_package, options.java_multiple_files, options.csharp_namespace)\n\
             END\n",
            python = python("python").display(),
            proto = file("../proto"),
        ),
    );
    let expected = "keypaird/v1;keypairdv1 keypaird.v1 True Keypaird.V1\n";
    assert_eq!(said, expected.repeat(4));
}
