// What OpenAI's own client for Node gets from /v1/embeddings, as JSON.
// OPENAI_BASE_URL and OPENAI_API_KEY name the service; TEXTS is what to embed, as JSON.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const input = JSON.parse(process.env.TEXTS);
const vectors = (answer) => answer.data.map((each) => Array.from(each.embedding));
// By itself the client asks for base64 and unpacks it.
const packed = await client.embeddings.create({ model: "my-embedder", input });
const plain = await client.embeddings.create({ model: "my-embedder", input, encoding_format: "float" });
const one = await client.embeddings.create({ model: "my-embedder", input: input[0] });

console.log(
  JSON.stringify({
    vectors: [vectors(packed), vectors(plain), [...vectors(one), ...vectors(plain).slice(1)]],
    usage: packed.usage.prompt_tokens,
  }),
);
