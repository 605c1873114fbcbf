"""The adapter has the published names and shapes, the published arithmetic, and survives saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear

from longalign.encoding.adapter import TextAdapter


def test_parameters_are_the_published_ones() -> None:
    """GEGLU projects d → 2·4d (value and gate), the second Linear 4d → out:
    1024 → 8192, 4096 → 896; 896 → 7168, 3584 → 768."""
    shapes = {name: tuple(p.shape) for name, p in TextAdapter().state_dict().items()}
    assert shapes == {
        "norm1.weight": (1024,),
        "norm1.bias": (1024,),
        "ff1.net.0.proj.weight": (8192, 1024),
        "ff1.net.0.proj.bias": (8192,),
        "ff1.net.2.weight": (896, 4096),
        "ff1.net.2.bias": (896,),
        "norm2.weight": (896,),
        "norm2.bias": (896,),
        "ff2.net.0.proj.weight": (7168, 896),
        "ff2.net.0.proj.bias": (7168,),
        "ff2.net.2.weight": (768, 3584),
        "ff2.net.2.bias": (768,),
    }


def test_forward_is_two_blocks_without_residual() -> None:
    """x → FF(LN(x)) → FF(LN(x)) with FF(h) = W₂ (value · gelu(gate)) + b₂, written out."""
    torch.manual_seed(0)
    adapter = TextAdapter(6, 5, 4).eval()
    w = adapter.state_dict()
    x = torch.randn(2, 3, 6)

    def block(h: torch.Tensor, i: int) -> torch.Tensor:
        h = layer_norm(h, h.shape[-1:], w[f"norm{i}.weight"], w[f"norm{i}.bias"])
        value, gate = linear(h, w[f"ff{i}.net.0.proj.weight"], w[f"ff{i}.net.0.proj.bias"]).chunk(2, dim=-1)
        return linear(value * gelu(gate), w[f"ff{i}.net.2.weight"], w[f"ff{i}.net.2.bias"])

    torch.testing.assert_close(adapter(x), block(block(x, 1), 2))


def test_dropout_is_a_tenth_and_in_training_only() -> None:
    """Of many dropped values about one in ten is zero: 10,000 draws, standard deviation 0.003."""
    adapter = TextAdapter(6, 5, 4)
    dropout = adapter.ff1.net[1]
    torch.manual_seed(0)
    dropped = (dropout.train()(torch.ones(10_000)) == 0).float().mean()
    assert float(dropped) == pytest.approx(0.1, abs=0.015)
    x = torch.randn(1, 2, 6)
    assert torch.equal(adapter.eval()(x), adapter(x))


def test_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapter = TextAdapter(6, 5, 4)
    adapter.save_pretrained(tmp_path)
    again = TextAdapter.from_pretrained(tmp_path)
    assert (again.config.in_dim, again.config.int_dim, again.config.out_dim) == (6, 5, 4)
    x = torch.randn(1, 2, 6)
    assert torch.equal(again.eval()(x), adapter.eval()(x))


def test_loads_a_configuration_without_dropout(tmp_path: Path) -> None:
    """Published adapters have only the three widths in their configuration."""
    adapter = TextAdapter(6, 5, 4)
    adapter.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"_class_name": "TextAdapter", "in_dim": 6, "int_dim": 5, "out_dim": 4}'
    )
    assert TextAdapter.from_pretrained(tmp_path).config.dropout == 0.1
