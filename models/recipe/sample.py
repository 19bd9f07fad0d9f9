"""Show what the toy model writes: `python -m models.recipe.sample`.

Reads a finished model; trains nothing.
"""

import argparse
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PROMPTS = (
    "Once upon a time",
    "Hello, how are you?",
    "Explain machine learning in simple terms",
    "The little dog",
    "Write a Python function to reverse a string",
    "Tell me a story about a dragon named Bob",
    "What is Python?",
    "Write a haiku about programming",
)


def complete(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    *,
    max_tokens: int = 400,
    chat: bool = True,
    temperature: float = 0.0,
    top_p: float = 0.9,
) -> str:
    """Let the model write until it ends by itself.

    Args:
        model: The model, which this operation will not modify.
        tokenizer: Its tokenizer.
        prompt: A user's message, or the begin of a text.
        max_tokens: Most tokens to write.
        chat: Whether the prompt is a message and not the begin of a text.
        temperature: 0 for greedy.
        top_p: In (0, 1]; unused when greedy.

    Returns:
        What the model wrote, without special tokens, and `<cut>` when it did not end by itself.
    """
    text = prompt
    if chat:
        messages = [{"role": "user", "content": prompt}]
        text = str(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        )
    ids = torch.tensor([tokenizer.encode(text)])
    options = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    greedy = {"do_sample": False, "temperature": None, "top_p": None}
    with torch.no_grad():
        out: torch.Tensor = model.generate(  # type: ignore[misc, assignment]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            **(options if temperature else greedy),
        )
    written = out[0, ids.shape[1] :].tolist()
    end = "" if written[-1] in model.generation_config.eos_token_id else "<cut>"
    return f"{tokenizer.decode(written, skip_special_tokens=True)}{end}"


def main() -> None:
    """Parse the command line and print a sample for each prompt."""
    parser = argparse.ArgumentParser(description="Print samples of the toy model.")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "baton-toy")
    parser.add_argument("--raw", action="store_true", help="prompts begin a text")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    for prompt in args.prompts:
        answer = complete(model, tokenizer, prompt, chat=not args.raw, temperature=args.temperature)
        print(f"{prompt!r} ->\n  {answer}\n")


if __name__ == "__main__":
    main()
