"""A model that is spread over ranks and made whole again; here over one rank, on several in test_fsdp.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.distributed import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from leyden.backbone.lora import add_adapter
from leyden.backbone.sharding import Sharded, shard
from leyden.backbone.tiny import tiny_model
from leyden.settings.errors import ModelError
from leyden.settings.model_groups import Lora


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def lora(**changes: object) -> Lora:
    base = {
        "r": 2, "alpha": 4, "dropout": 0.0, "use_dora": False, "use_rslora": False, "target_modules": None,
        "unfreeze_layers": [],
    }  # fmt: skip
    return Lora.model_validate({**base, **changes})


def test_the_whole_is_a_plain_model_with_the_weights_of_now(mesh: DeviceMesh) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    ids = torch.arange(6)[None]
    sharded = Sharded(model)
    shard(model, mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        expected = model(ids).logits
        whole = sharded.whole()
        assert type(whole) is type(tiny_model("llama"))
        assert not any(isinstance(p, DTensor) for p in whole.parameters())
        torch.testing.assert_close(whole(ids).logits, expected, rtol=0, atol=0)
    assert whole.lm_head.weight is whole.model.embed_tokens.weight


def test_an_adapter_stays_what_is_trained(mesh: DeviceMesh) -> None:
    model = add_adapter(tiny_model("llama"), lora(unfreeze_layers=["lm_head"]), "tiny")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    sharded = Sharded(model)
    shard(model, mesh)
    whole = sharded.whole()
    assert type(whole) is not type(model)
    assert {name for name, p in whole.named_parameters() if p.requires_grad} == trained
    assert whole.training == model.training


def test_layers_that_train_weights_of_two_types_are_refused(mesh: DeviceMesh) -> None:
    model = add_adapter(tiny_model("llama").bfloat16(), lora(unfreeze_layers=["input_layernorm"]), "tiny")
    with pytest.raises(ModelError, match=r"LlamaDecoderLayer trains some of torch.bfloat16 and some of torch.float32"):
        shard(model, mesh)
