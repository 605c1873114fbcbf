"""What is remembered between calls, and what is not."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from peft import LoraConfig
from segment_encoding import encode
from tiny import clip_tokenizer, t5_branch, text_encoder, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign.encoding import EncodingCache, TextParts
from longalign.encoding.cache import States, fingerprint

PROMPTS = ["A red cat sits. A dog runs near the house.", "A dog runs near the house. The sea is calm."]


def live_tensors() -> dict[int, torch.Tensor]:
    gc.collect()
    return {id(o): o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)}


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_nothing_stays_but_the_result(make: Any) -> None:
    """After a first call, which leaves pad* (on the CPU), a second leaves the result's own tensors and no other."""
    pipe = make()
    encode(pipe, PROMPTS, "blurred")
    before = live_tensors()
    conditioning = encode(pipe, PROMPTS, "blurred")
    new = [t for i, t in live_tensors().items() if i not in before]
    of_result = [t for t in vars(conditioning).values() if isinstance(t, torch.Tensor)]
    assert sorted(map(id, new)) == sorted(map(id, of_result))
    # Nor does a result hold more memory than it shows.
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in of_result)


def test_pad_star_dies_with_its_encoder() -> None:
    from longalign.encoding.towers import _PADS

    encoder = text_encoder()
    encode(TextParts("sd15", (clip_tokenizer(),), (encoder,)), "A cat.")
    assert encoder in _PADS
    n = len(_PADS)
    del encoder
    gc.collect()
    assert len(_PADS) == n - 1


def test_pad_star_follows_the_weights() -> None:
    """It is remembered, but an optimizer's step changes it like everything else."""
    encoder = text_encoder()
    parts = TextParts("sd15", (clip_tokenizer(),), (encoder,))
    before = encode(parts, "A cat.").embeds[0, -1]
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(torch.tensor([[49_406, 320, 49_407]]))[0].square().sum().backward()
    optimizer.step()
    after = encode(parts, "A cat.").embeds[0, -1]
    assert not torch.allclose(before, after)
    with torch.no_grad():
        ids = torch.tensor([[49_406, *[49_407] * 76]])
        expected = encoder(ids)[0][0, 2:].mean(0)
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-5)


class Calls:
    """Counts texts that go into an encoder."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.texts = 0
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.texts += len(args[0] if args else kwargs["input_ids"])


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl, tiny_sd3])
def test_cached_results_are_the_same_and_cost_nothing(make: Any) -> None:
    pipe, cache = make(), EncodingCache()
    encode(pipe, "")  # pad*
    first = encode(pipe, PROMPTS, cache=cache)
    calls = [Calls(module) for name, module in pipe.components.items() if name.startswith("text_encoder")]
    again = encode(pipe, PROMPTS, cache=cache)
    assert [c.texts for c in calls] == [0] * len(calls)
    assert torch.equal(first.embeds, again.embeds)
    assert first.pooled is None or torch.equal(first.pooled, again.pooled)
    encode(pipe, [PROMPTS[0], "A dog runs near the house. One is new."], cache=cache, pooled="first")
    # The new sentence, and for pooled vectors the first sentences; SD3's T5 reads the new prompt.
    assert calls[0].texts == (3 if make is tiny_sd3 else 1)


def test_a_cached_text_serves_only_what_it_has() -> None:
    """Without <eot> and pads first, then with them: 3 states of "A cat" do not answer for 77."""
    pipe, cache = tiny_sd15(), EncodingCache()
    encode(pipe, "A cat", cache=cache)
    with_pads = encode(pipe, "A cat", strategy="clip-cat:eot=keep,pad=keep", cache=cache)
    direct = encode(pipe, "A cat", strategy="clip-cat:eot=keep,pad=keep")
    torch.testing.assert_close(with_pads.embeds, direct.embeds, atol=1e-6, rtol=1e-5)


def test_t5_is_cached_by_its_padded_length() -> None:
    """T5 sees its pads, so the same prompt at another length is another encoding."""
    pipe, cache, branch = tiny_sd15(), EncodingCache(), t5_branch()
    encode(pipe, "A cat", strategy="t5-mlp", t5=branch, cache=cache)
    ours = encode(pipe, "A cat", strategy="t5-mlp", t5=branch, cache=cache, length=100)
    direct = encode(pipe, "A cat", strategy="t5-mlp", t5=branch, length=100)
    torch.testing.assert_close(ours.embeds, direct.embeds)


def test_one_cache_serves_several_models() -> None:
    cache = EncodingCache()
    for seed in (0, 1):
        parts = TextParts("sd15", (clip_tokenizer(),), (text_encoder(seed=seed),))
        ours = encode(parts, PROMPTS, cache=cache)
        torch.testing.assert_close(ours.embeds, encode(parts, PROMPTS).embeds, atol=1e-6, rtol=1e-5)


def states(n_tokens: int) -> States:
    return States(torch.zeros(n_tokens, 4))


def test_cache_forgets_the_longest_unused() -> None:
    """An entry of 10 states of width 4 in float32 has 160 bytes: two fit into 400, three do not."""
    cpu = torch.device("cpu")
    cache = EncodingCache(max_bytes=400)
    cache.put("a", states(10))
    cache.put("b", states(10))
    assert cache.get("a", 10, False, cpu) is not None
    cache.put("c", states(10))
    assert [key for key in "abc" if cache.get(key, 10, False, cpu)] == ["a", "c"]
    assert (cache.n_bytes, len(cache), cache.hits, cache.misses) == (320, 2, 3, 1)
    cache.put("c", states(5))
    assert cache.n_bytes == 240
    cache.put("d", states(1000))
    assert len(cache) == 0 and cache.n_bytes == 0  # larger than the cache
    cache.clear()


def test_cache_holds_no_larger_tensor() -> None:
    cache = EncodingCache()
    batch = torch.zeros(64, 77, 4)
    cache.put("a", States(batch[3, :5]))
    found = cache.get("a", 5, False, torch.device("cpu"))
    assert found is not None and found.tokens.untyped_storage().nbytes() == 5 * 4 * 4


def test_fingerprint_follows_weights_and_adapters() -> None:
    encoder = text_encoder()
    seen = [fingerprint(encoder)]
    assert fingerprint(text_encoder()) == seen[0] == fingerprint(encoder)
    with torch.no_grad():
        encoder.embeddings.token_embedding.weight[320] += 1  # one row, as textual inversion trains it
    seen.append(fingerprint(encoder))
    encoder.final_layer_norm.weight.data.mul_(1.01)  # as merging and EMA swaps do it
    seen.append(fingerprint(encoder))
    encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    seen.append(fingerprint(encoder))
    encoder.encoder.layers[0].self_attn.q_proj.set_scale("default", 0.5)
    seen.append(fingerprint(encoder))
    encoder.disable_adapters()
    seen.append(fingerprint(encoder))
    encoder.to(torch.bfloat16)
    seen.append(fingerprint(encoder))
    assert len(set(seen)) == len(seen)
