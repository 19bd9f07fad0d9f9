// A batch through OpenAI's own client for Node: upload, submit, wait, download. Prints its files, as JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY name the service.
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { NotFoundError, toFile } from "openai";

const ENDED = ["completed", "failed", "expired", "cancelled"];
const client = new OpenAI();
const line = (custom_id, changes) =>
  JSON.stringify({
    custom_id,
    method: "POST",
    url: "/v1/chat/completions",
    body: {
      model: "baton-toy",
      messages: [{ role: "user", content: "What is Python?" }],
      temperature: 0,
      max_tokens: 60,
      ...changes,
    },
  });
const lines = [line("one"), line("two", { max_tokens: 5 }), line("three", { temperature: 3 })];
const linesOf = async (id) =>
  (await (await client.files.content(id)).text()).trim().split("\n").map((text) => JSON.parse(text));

const input = await client.files.create({
  file: await toFile(Buffer.from(lines.join("\n")), "requests.jsonl"),
  purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: input.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
});
while (!ENDED.includes(batch.status)) {
  await sleep(100);
  batch = await client.batches.retrieve(batch.id);
}
const output = await linesOf(batch.output_file_id);
const errors = await linesOf(batch.error_file_id);
const listed = [];
for await (const other of client.batches.list()) listed.push(other.id);
const deleted = await client.files.delete(input.id);
let gone = false;
try {
  await client.files.retrieve(input.id);
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error;
  gone = true;
}

console.log(
  JSON.stringify({
    input: [input.filename, input.bytes],
    sent: lines.join("\n").length,
    status: batch.status,
    counts: batch.request_counts,
    listed: listed.includes(batch.id),
    output,
    errors,
    deleted: deleted.deleted && gone,
  }),
);
