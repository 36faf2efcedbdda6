#!/usr/bin/env python3
"""Generates a key pair, signs with it, verifies the signature, and deletes the key pair.

    pip install grpcio grpcio-tools googleapis-common-protos
    python sign.py 127.0.0.1:9443
"""
import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2  # googleapis' own

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "proto"))
key_pairs, key_pairs_rpc = grpc.protos_and_services("keypaird/v1/key_pair_service.proto")
signing, signing_rpc = grpc.protos_and_services("keypaird/v1/signing_service.proto")
settings = grpc.protos("keypaird/v1/key_pair.proto").NewKeyPairSettings(
    common_name="Example", organization="Acme", country="US", valid_days=30,
    key_algorithm="EC", labels={"made-by": "sign.py"})


def reasons(error):
    """Returns what a program can tell errors apart by."""
    metadata = dict(error.trailing_metadata())
    details = status_pb2.Status.FromString(metadata["grpc-status-details-bin"]).details
    info = error_details_pb2.ErrorInfo()
    return [info.reason for detail in details if detail.Unpack(info)]


# With TLS: grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate))
with grpc.insecure_channel(sys.argv[1]) as channel:
    pairs = key_pairs_rpc.KeyPairServiceStub(channel)
    signer = signing_rpc.SigningServiceStub(channel)
    made = pairs.GenerateSigningKeyPair(key_pairs.GenerateSigningKeyPairRequest(settings=settings))
    id, message = made.key_pair.id, b"to be signed"
    signed = signer.Sign(signing.SignRequest(id=id, message=message))
    verified = signer.Verify(
        signing.VerifyRequest(id=id, message=message, signature=signed.signature))
    print("valid" if verified.valid else "not valid", signed.signature_algorithm)
    pairs.DeleteSigningKeyPair(key_pairs.DeleteSigningKeyPairRequest(id=id))
    try:
        pairs.GetSigningKeyPair(key_pairs.GetSigningKeyPairRequest(id=id))
    except grpc.RpcError as error:
        print(*reasons(error))
