"""What litellm gets from /v1/embeddings, as JSON.

OPENAI_BASE_URL and OPENAI_API_KEY name the service; TEXTS is what to embed, as JSON.
"""

import json
import os

import litellm

asked = {
    "model": "openai/my-embedder",
    "input": json.loads(os.environ["TEXTS"]),
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
}
answers = [
    litellm.embedding(**asked),
    litellm.embedding(**asked, encoding_format="float"),
]
print(
    json.dumps(
        {
            "vectors": [[each["embedding"] for each in answer.data] for answer in answers],
            "usage": answers[0].usage.prompt_tokens,
        }
    )
)
