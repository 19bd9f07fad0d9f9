"""What LangChain gets from /v1/embeddings, as JSON.

OPENAI_BASE_URL and OPENAI_API_KEY name the service; TEXTS is what to embed, as JSON. With its
default settings LangChain sends the ids of OpenAI's own tokenizer, here from litellm's copy.
"""

import json
import os
from pathlib import Path

import litellm
import tiktoken
from langchain_openai import OpenAIEmbeddings

FOLDER = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
os.environ["TIKTOKEN_CACHE_DIR"] = str(FOLDER)

texts = json.loads(os.environ["TEXTS"])
by_ids = OpenAIEmbeddings(model="my-embedder", max_retries=0)
by_texts = OpenAIEmbeddings(model="my-embedder", max_retries=0, check_embedding_ctx_length=False)
tokenizer = tiktoken.get_encoding("cl100k_base")
print(
    json.dumps(
        {
            "vectors": [
                by_texts.embed_documents(texts),
                [by_texts.embed_query(text) for text in texts],
            ],
            "of_ids": [
                by_ids.embed_documents(texts),
                [by_ids.embed_query(text) for text in texts],
            ],
            "ids": [tokenizer.encode(text) for text in texts],
        }
    )
)
