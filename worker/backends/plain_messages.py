"""A conversation as every server takes it: each message has a role and one text.

Not all take the lists of parts that OpenAI's API knows: Ollama's own API refuses them, and
templates of llama.cpp's server for Python add them to texts and fail.
"""

from __future__ import annotations

from common.chat_template import joined
from common.schemas import Message, Prompt
from common.tool_calls.system_text import as_texts


def plain_messages(prompt: Prompt) -> list[Message]:
    """The messages of a prompt; one that has none, and is not raw, is a message of the user's."""
    if prompt.messages is None:
        return [{"role": "user", "content": prompt.text or ""}]
    told = as_texts(prompt.messages, prompt.tools, takes_system=True)
    return [{**message, "content": _text_of(message)} for message in told]


def _text_of(message: Message) -> object:
    content = message.get("content")
    return joined(content) if isinstance(content, list) else content
