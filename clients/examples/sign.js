// Generates a key pair, signs with it, verifies the signature, and deletes the key pair.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
//     node sign.js 127.0.0.1:9443
const crypto = require("node:crypto");
const path = require("node:path");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const files = ["keypaird/v1/key_pair_service.proto", "keypaird/v1/signing_service.proto"];
const proto = path.join(__dirname, "../../proto");
const definition = loader.loadSync(files, { includeDirs: [proto], enums: String });
const { keypaird } = grpc.loadPackageDefinition(definition);

// With TLS: grpc.credentials.createSsl(ca, key, certificate)
const credentials = grpc.credentials.createInsecure();
const pairs = new keypaird.v1.KeyPairService(process.argv[2], credentials);
const signer = new keypaird.v1.SigningService(process.argv[2], credentials);
const call = (client, method, request) => promisify(client[method]).call(client, request);

async function main() {
  const settings = {
    commonName: "Example", organization: "Acme", country: "US", validDays: 30,
    keyAlgorithm: "EC", labels: { "made-by": "sign.js" },
  };
  const { keyPair } = await call(pairs, "generateSigningKeyPair", { settings });
  const { id, publicKeyPem } = keyPair;
  const message = Buffer.from("to be signed");
  const { signature } = await call(signer, "sign", { id, message, encoding: "P1363" });
  const key = { key: publicKeyPem, dsaEncoding: "ieee-p1363" };
  console.log(crypto.verify("sha256", message, key, signature) ? "valid" : "not valid");
  const { privateKey } = await call(pairs, "deleteSigningKeyPair", { id });
  console.log("private key:", privateKey);
  await call(pairs, "getSigningKeyPair", { id }).catch((error) => console.log(error.details));
}

main().finally(() => [pairs, signer].forEach((client) => client.close()));
