// What a program in TypeScript does with the types that openapi-typescript has made: it must pass
// the compiler, and what is wrong with it must not.
import createClient from "openapi-fetch";
import type { components, paths } from "./keypaird";

const client = createClient<paths>({ baseUrl: process.argv[2] });

async function main(): Promise<void> {
  const { data: made, error } = await client.POST("/pf-admin-api/v1/keyPairs/signing/generate", {
    body: { commonName: "Typed", organization: "Acme", country: "US", validDays: 30, keyAlgorithm: "EC" },
  });
  if (made === undefined) {
    throw new Error(error.message);
  }
  const status: "VALID" | "EXPIRED" | "NOT_YET_VALID" | "REVOKED" = made.status;
  const path = { id: made.id };
  const got = await client.GET("/pf-admin-api/v1/keyPairs/signing/{id}", { params: { path } });
  const view: components["schemas"]["KeyPairView"] | undefined = got.data;
  const listed = await client.GET("/pf-admin-api/v1/keyPairs/signing", {
    params: { query: { filter: "Typed", label: [] } },
  });
  const set = await client.GET("/pf-admin-api/v1/keyPairs/signing/{id}/jwks.json", { params: { path } });
  const kid: string | undefined = set.data?.keys[0]?.kid;
  const gone = await client.DELETE("/pf-admin-api/v1/keyPairs/signing/{id}", { params: { path } });
  console.log(status, view?.subjectDN, listed.data?.items.length, kid?.length, gone.response.status);
  // @ts-expect-error the common name is required
  const wrong: components["schemas"]["NewKeyPairSettings"] = { organization: "Acme", country: "US" };
  void wrong;
}

void main();
