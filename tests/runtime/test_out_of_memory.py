"""What torch says of a GPU that is full becomes a sentence that names what to lower."""

import pytest
import torch

from chatpipe.errors import GPUMemoryError, error_from_name
from chatpipe.evaluation.score import Score
from chatpipe.generation.ask import Ask
from chatpipe.generation.ask_batch import AskBatch
from chatpipe.runtime import oom
from chatpipe.training.finetune import Finetune

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.58 GiB of "
    "which 1.06 GiB is free. Including non-PyTorch memory, this process has 13.52 GiB in use."
)


@pytest.mark.parametrize(
    ("step", "setting"),
    [
        (Finetune, "training.micro_batch_tokens"),
        (Score, "evaluation.batch_tokens"),
        (Ask, "generation.max_new_tokens"),
        (AskBatch, "generation.max_new_tokens"),
    ],
)
def test_the_error_names_the_settings_of_its_step(step, setting):
    request = step.model_construct()
    with pytest.raises(GPUMemoryError) as caught, oom.name_memory_errors(request):
        raise torch.OutOfMemoryError(SAID)
    said = str(caught.value)
    assert said.startswith(f"the {step.kind} step: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "1.06 GiB is free; lower" in said and setting in said and "Including" not in said
    assert isinstance(error_from_name("GPUMemoryError", said), GPUMemoryError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
    ],
)
def test_memory_that_cuda_s_libraries_lack_is_the_same_error(error):
    """They take theirs beside torch's allocator."""
    with (
        pytest.raises(GPUMemoryError, match=r"lower evaluation\.batch_tokens"),
        oom.name_memory_errors(Score.model_construct()),
    ):
        raise error


def test_other_errors_pass():
    named_so = oom.name_memory_errors(Score.model_construct())
    with pytest.raises(RuntimeError, match="size mismatch"), named_so:
        raise RuntimeError("size mismatch")
