// What OpenAI's own client for Node gets from the service, as JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY name the service, REFUSING_BASE_URL one that is over its rate.
import OpenAI, { APIError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ maxRetries: 0 });
const stranger = new OpenAI({ maxRetries: 0, apiKey: "no-such-key" });
const refused = new OpenAI({ maxRetries: 0, baseURL: process.env.REFUSING_BASE_URL });
const chat = {
  model: "baton-toy",
  messages: [{ role: "user", content: "What is Python?" }],
  temperature: 0,
  max_completion_tokens: 60,
};
const Animal = z.object({ kind: z.enum(["dog", "cat", "bird"]), age: z.int() });
const pick = {
  type: "function",
  function: {
    name: "pick",
    parameters: {
      type: "object",
      properties: { kind: { enum: ["dog", "cat"] } },
      required: ["kind"],
      additionalProperties: false,
    },
  },
};

async function classOfTheError(client, changes) {
  try {
    await client.chat.completions.create({ ...chat, ...changes });
    return null;
  } catch (error) {
    if (error instanceof APIError) return [error.constructor.name, error.status];
    throw error;
  }
}

const counts = (usage) => [usage.prompt_tokens, usage.completion_tokens];

const answer = await client.chat.completions.create(chat);
const stream = await client.chat.completions.create({
  ...chat,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "";
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const parsed = await client.chat.completions.parse({
  ...chat,
  response_format: zodResponseFormat(Animal, "animal"),
});
const called = await client.chat.completions.create({
  ...chat,
  tools: [pick],
  tool_choice: { type: "function", function: { name: "pick" } },
});
const [call] = called.choices[0].message.tool_calls;
const completed = await client.completions.create({
  model: "baton-toy",
  prompt: "Once upon a time",
  max_tokens: 10,
  temperature: 0,
});
const models = [];
for await (const model of client.models.list()) models.push(model.id);

console.log(
  JSON.stringify({
    text: answer.choices[0].message.content,
    finish_reason: answer.choices[0].finish_reason,
    usage: counts(answer.usage),
    streamed,
    streamed_usage: counts(usage),
    parsed: parsed.choices[0].message.parsed,
    called: [call.function.name, JSON.parse(call.function.arguments)],
    completed: completed.choices[0].text,
    models,
    errors: [
      await classOfTheError(stranger),
      await classOfTheError(client, { model: "no-such-model" }),
      await classOfTheError(client, { temperature: 3 }),
      await classOfTheError(refused),
    ],
  }),
);
