"""A GPU that torch cannot use is not passed over in silence."""

import logging

import pytest
import torch

from chatpipe.models import unused_gpu
from chatpipe.models.devices import device

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine that has one, by its device files, on which this torch is of no use."""
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(unused_gpu, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    unused_gpu.warn_of_unused_gpu.cache_clear()
    yield tmp_path
    unused_gpu.warn_of_unused_gpu.cache_clear()


def test_the_sentence_has_torch_s_own_reason_and_both_ways_out(gpu):
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        torch.cuda.init()
    said = unused_gpu.unused_gpu()
    assert str(caught.value).partition(". ")[0] in said
    assert f"torch {torch.__version__}" in said and "CUDA_VISIBLE_DEVICES=" in said


def test_a_machine_without_one_and_a_hidden_one_say_nothing(gpu, monkeypatch):
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert unused_gpu.unused_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert unused_gpu.unused_gpu()
    (gpu / "nvidia0").unlink()
    assert unused_gpu.unused_gpu() is None


def test_a_process_says_it_once(gpu, caplog):
    with caplog.at_level(logging.WARNING):
        assert {device().type, device().type} == {"cpu"}
    assert [record.message for record in caplog.records].count(unused_gpu.unused_gpu()) == 1
