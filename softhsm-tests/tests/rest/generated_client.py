"""Generates, gets and deletes a key pair with the client that openapi-python-client has made."""
import sys

from keypaird_client import Client
from keypaird_client.api.key_pairs import delete_key_pair, generate_key_pair, get_key_pair, list_key_pairs
from keypaird_client.models import ApiResult, NewKeyPairSettings, Status

client = Client(base_url=sys.argv[1])
settings = NewKeyPairSettings(
    common_name="Generated", organization="Acme", country="US", valid_days=30, key_algorithm="EC")
made = generate_key_pair.sync(client=client, body=settings)
assert made.subject_dn == "CN=Generated, O=Acme, C=US" and made.status == Status.VALID, made
got = get_key_pair.sync(made.id, client=client)
assert got == made, got
listed = list_key_pairs.sync(client=client, filter_="Generated", page=1, number_per_page=10)
assert [pair.id for pair in listed.items] == [made.id], listed
assert delete_key_pair.sync_detailed(made.id, client=client).status_code == 204
gone = get_key_pair.sync(made.id, client=client)
assert isinstance(gone, ApiResult) and gone.result_id == "resource_not_found", gone
settings.valid_days = 0
wrong = generate_key_pair.sync(client=client, body=settings)
assert [error.field_path for error in wrong.validation_errors] == ["validDays"], wrong
print("done")
