// A client of the generated types: submits, sends a batch, waits, reads a result and tells an outcome.
//
//   node client.js BASE_URL

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./lameduck.js";

const [baseUrl] = process.argv.slice(2);
assert(baseUrl, "the service's address");
const client = createClient<paths>({ baseUrl });
const queue = "default";

async function ended(id: string) {
  const { data, error } = await client.GET("/v1/jobs/{id}", {
    params: { path: { id }, query: { wait: "30s" } },
  });
  assert(data, error?.detail);
  assert.equal(data.state, "completed");
  return data;
}

const submitted = await client.POST("/v1/queues/{queue}/jobs", {
  params: {
    path: { queue },
    query: { priority: 3, timeout: "5m" },
    header: { "Idempotency-Key": "typescript-1" },
  },
  body: "hello",
  bodySerializer: (body) => body,
  headers: { "Content-Type": "text/plain" },
});
assert(submitted.data, submitted.error?.detail);
assert.equal(submitted.data.repeated, false);
const job = await ended(submitted.data.id);
assert.equal(job.result, "hello");
const result = await client.GET("/v1/jobs/{id}/result", {
  params: { path: { id: job.id } },
  parseAs: "text",
});
assert.equal(result.data, "hello");

const batch = await client.POST("/v1/queues/{queue}/jobs:batch", {
  params: { path: { queue } },
  body: [{ payload: { width: 80 } }, { payload_text: "bye", payload: null, delay: "1ms" }],
});
assert(batch.data, batch.error?.detail);
assert.equal(batch.data.length, 2);
for (const answer of batch.data) {
  assert("id" in answer, JSON.stringify(answer));
  await ended(answer.id);
}

// The suite's endpoint defers a job with this payload, and gives its claim to whoever asks.
const long = await client.POST("/v1/queues/{queue}/jobs", {
  params: { path: { queue } },
  body: "defer",
  bodySerializer: (body) => body,
});
assert(long.data, long.error?.detail);
const claim = await (await fetch(`${process.env["CLAIMS"]}/${long.data.id}`)).text();
const tell = async (body: paths["/v1/jobs/{id}/outcome"]["post"]["requestBody"]["content"]["application/json"]) => {
  const { data, error } = await client.POST("/v1/jobs/{id}/outcome", {
    params: { path: { id: long.data.id }, header: { "Lameduck-Claim": claim } },
    body,
  });
  assert(data, error?.detail);
  return data.state;
};
assert.equal(await tell({ outcome: "working", within: "30m" }), "deferred");
assert.equal(await tell({ outcome: "completed", result: "42" }), "completed");
assert.equal((await ended(long.data.id)).result, "42");

const refused = await client.POST("/v1/queues/{queue}/jobs", { params: { path: { queue: "nobody" } }, body: "x" });
assert.equal(refused.error?.status, 404);
