// What OpenAI's own client for Node gets from /v1/responses, as JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY name the service.
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { NotFoundError } from "openai";

const client = new OpenAI({ maxRetries: 0 });
const asked = { model: "baton-toy", input: "What is Python?", temperature: 0, max_output_tokens: 60 };

async function ended(response) {
  while (["queued", "in_progress"].includes(response.status)) {
    await sleep(50);
    response = await client.responses.retrieve(response.id);
  }
  return response;
}

async function read(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

const textOf = (events) =>
  events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");

const answer = await client.responses.create(asked);
const begun = await client.responses.create({ ...asked, background: true });
const polled = await ended(begun);
const events = await read(await client.responses.create({ ...asked, stream: true }));
const helped = await client.responses.stream(asked).finalResponse();

// A stream that is left in the middle, and taken up again.
const background = await client.responses.create({ ...asked, background: true, stream: true });
const seen = [];
for await (const event of background) {
  seen.push(event);
  if (event.type === "response.output_text.delta") break;
}
const id = seen[0].response.id;
const last = seen.at(-1).sequence_number;
seen.push(...(await read(await client.responses.retrieve(id, { stream: true, starting_after: last }))));

const follow = await client.responses.create({ ...asked, input: "Thanks!", previous_response_id: answer.id });
const items = [];
for await (const item of client.responses.inputItems.list(follow.id, { order: "asc" })) items.push(item.type);

const endless = { input: "Tell me a story.", max_output_tokens: 1500, ignore_eos: true, background: true };
const long = await client.responses.create({ ...asked, ...endless });
await client.responses.cancel(long.id);
const cancelled = await ended(long);

await client.responses.delete(polled.id);
let gone = false;
try {
  await client.responses.retrieve(polled.id);
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error;
  gone = true;
}

console.log(
  JSON.stringify({
    text: answer.output_text,
    usage: [answer.usage.input_tokens, answer.usage.output_tokens],
    begun: begun.status,
    polled: [polled.status, polled.output_text],
    streamed: textOf(events),
    last: events.at(-1).type,
    numbers: events.map((event) => event.sequence_number),
    helped: helped.output_text,
    resumed: textOf(seen),
    resumed_numbers: seen.map((event) => event.sequence_number),
    follow: follow.status,
    items,
    cancelled: cancelled.status,
    gone,
  }),
);
