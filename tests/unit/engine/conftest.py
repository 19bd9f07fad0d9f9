"""Tiny random models, a trained tokenizer, and engines whose books are checked at teardown."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BambaConfig,
    BloomConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
    Zamba2Config,
)
from transformers.models.auto import AutoModelForCausalLM

from tests.unit.engine.drive import Drive
from tests.unit.engine.guided import Guided
from worker.engine.engine import Engine
from worker.engine.kernel_build import KernelsUnavailable
from worker.engine.kernels import Kernels
from worker.engine.kernels import load as load_kernels
from worker.engine.loader import LoadedModel, describe
from worker.engine.sequence import Request, SamplingParams

CONTEXT = 160
CORPUS = ["the quick brown fox jumps over the lazy dog " * 3, "grüße, 世界 and 🙂 emoji " * 3]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", model_max_length=CONTEXT
    )


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    # Far from flat, so that the best two tokens are seldom close to a tie.
    "initializer_range": 0.6,
}
_ALTERNATING = ["sliding_attention", "full_attention"]


def _without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in _SIZES.items() if name not in names}


# Of models with a state.
_STATE_SIZES: dict[str, Any] = {"hidden_size": 32, "initializer_range": 0.6}
_MAMBA_HEADS: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
}

_CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **ids: LlamaConfig(**_SIZES, **ids),
    "qwen2": lambda **ids: Qwen2Config(**_SIZES, **ids),
    "qwen3": lambda **ids: Qwen3Config(**_SIZES, **ids),
    "mistral": lambda **ids: MistralConfig(**_SIZES, sliding_window=8, **ids),
    "gemma2": lambda **ids: Gemma2Config(
        **_SIZES, sliding_window=8, query_pre_attn_scalar=8, attn_logit_softcapping=5.0, **ids
    ),
    "bloom": lambda **ids: BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5, **ids
    ),
    "gemma3": lambda **ids: Gemma3TextConfig(
        **_SIZES, sliding_window=8, query_pre_attn_scalar=8, layer_types=_ALTERNATING, **ids
    ),
    "gpt_oss": lambda **ids: GptOssConfig(
        **_SIZES,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        layer_types=_ALTERNATING,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        **ids,
    ),
    "phi3": lambda **ids: Phi3Config(**_without("head_dim"), sliding_window=8, **ids),
    "neox": lambda **ids: GPTNeoXConfig(**_without("head_dim", "num_key_value_heads"), **ids),
    "gpt2": lambda **ids: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.4, **ids
    ),
    "mamba": lambda **ids: MambaConfig(
        **_STATE_SIZES, state_size=8, num_hidden_layers=2, time_step_rank=4, **ids
    ),
    "mamba2": lambda **ids: Mamba2Config(
        **_STATE_SIZES,
        state_size=8,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=16,
        **ids,
    ),
    "jamba": lambda **ids: JambaConfig(
        **_without("head_dim"),
        num_experts=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        **ids,
    ),
    "bamba": lambda **ids: BambaConfig(
        **_without("head_dim"), **_MAMBA_HEADS, attn_layer_indices=[1], **ids
    ),
    "falcon_h1": lambda **ids: FalconH1Config(
        **_without("head_dim"), **_MAMBA_HEADS, mamba_d_ssm=64, **ids
    ),
    "recurrent_gemma": lambda **ids: RecurrentGemmaConfig(
        **_STATE_SIZES,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        lru_width=32,
        attention_window_size=8,
        **ids,
    ),
    "lfm2": lambda **ids: Lfm2Config(
        **_without("head_dim"),
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
        **ids,
    ),
    "qwen3_next": lambda **ids: Qwen3NextConfig(
        **_SIZES,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **ids,
    ),
    "rwkv": lambda **ids: RwkvConfig(
        hidden_size=32, num_hidden_layers=2, context_length=CONTEXT, **ids
    ),
    "zamba2": lambda **ids: Zamba2Config(
        **_without("head_dim", "num_key_value_heads"),
        layers_block_type=["mamba", "hybrid"],
        num_mem_blocks=1,
        adapter_rank=4,
        n_mamba_heads=8,
        mamba_headdim=8,
        mamba_d_state=8,
        mamba_ngroups=2,
        chunk_size=16,
        time_step_min=0.01,  # a forward over several tokens keeps to it, a step does not
        **ids,
    ),
}


# An engine changes the attention of its model; what it is compared with keeps transformers' own.
_UNTOUCHED: dict[int, Any] = {}


@pytest.fixture(scope="session")
def usual() -> Callable[[LoadedModel], Any]:
    """Return the same model with transformers' own attention."""
    return lambda loaded: _UNTOUCHED[id(loaded.model)]


@pytest.fixture(scope="session")
def compiled() -> Kernels | None:
    """The kernels, where they can be compiled; what asks for them is tested without them too."""
    try:
        return load_kernels()
    except KernelsUnavailable:
        return None


@pytest.fixture(scope="session")
def kernels(compiled: Kernels | None) -> Kernels:
    if compiled is None:
        pytest.skip("the kernels cannot be compiled here")
    return compiled


@pytest.fixture(scope="session")
def model_of(
    tokenizer: PreTrainedTokenizerFast, compiled: Kernels | None
) -> Callable[[str], LoadedModel]:
    """Build, once a session, the random model of a family."""
    built: dict[str, LoadedModel] = {}

    def build(family: str) -> LoadedModel:
        if family not in built:
            torch.manual_seed(11)
            config = _CONFIGS[family](
                vocab_size=len(tokenizer),
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            model = AutoModelForCausalLM.from_config(config).eval()
            built[family] = describe(model, tokenizer, "test")
            built[family].kernels = compiled
            _UNTOUCHED[id(model)] = copy.deepcopy(model)
        return built[family]

    return build


@pytest.fixture
def llama(model_of: Callable[[str], LoadedModel]) -> LoadedModel:
    return model_of("llama")


@dataclass
class Clock:
    """A clock that stands still until it is told otherwise."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_engine(clock: Clock) -> Iterator[Callable[..., Engine]]:
    """Build engines on the test's clock; their books are checked at the end."""
    engines: list[Engine] = []

    def make(loaded: LoadedModel, *, max_batch_size: int = 4, **extra: Any) -> Engine:
        engines.append(Engine(loaded, max_batch_size=max_batch_size, clock=clock, **extra))
        return engines[-1]

    yield make
    for engine in engines:
        engine.check_integrity()


@pytest.fixture
def drive(make_engine: Callable[..., Engine]) -> Callable[..., Drive]:
    """Build an engine and something that steps it."""
    return lambda loaded, **extra: Drive(make_engine(loaded, **extra))


@pytest.fixture
def ask(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Request]:
    """Build a request from a text or ids; sampling parameters may be mixed in."""
    in_request = {"priority", "time_limit_s", "used_s", "committed_ids", "choice"}

    def build(request_id: str, prompt: str | list[int], **extra: Any) -> Request:
        outer = {name: value for name, value in extra.items() if name in in_request}
        inner = {name: value for name, value in extra.items() if name not in in_request}
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        params = SamplingParams(**{"max_tokens": 12, "temperature": 0.0} | inner)
        return Request(request_id, tuple(ids), params, **outer)

    return build


@pytest.fixture
def generate(usual: Callable[[LoadedModel], Any]) -> Callable[..., list[int]]:
    """Return what transformers' own greedy `generate` adds to a prompt."""

    def run(loaded: LoadedModel, request: Request, **options: Any) -> list[int]:
        prompt = torch.tensor([request.prompt_ids])
        model: Any = usual(loaded)
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request.params.max_tokens,
            do_sample=False,
            **options,
        )
        return list(output[0, prompt.shape[1] :].tolist())

    return run


@pytest.fixture
def guided(make_engine: Callable[..., Engine]) -> Callable[..., Guided]:
    return lambda loaded, **extra: Guided(make_engine(loaded, **extra))


@pytest.fixture
def follow(ask: Callable[..., Request]) -> Callable[..., Request]:
    """Build a request with a grammar."""

    def build(request_id: str, grammar: str | None, **extra: Any) -> Request:
        request = ask(request_id, extra.pop("prompt", "the quick"), **{"max_tokens": 100} | extra)
        return Request(
            **{name: getattr(request, name) for name in request.__slots__} | {"grammar": grammar}
        )

    return build
