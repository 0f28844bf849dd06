"""Errors that count as lack of memory, the largest batch, and batches of one image."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_config

from autosam.data.dataset import largest_batch
from autosam.data.embedding_store import Layout
from autosam.data.loaders import EpochBatches, EpochSampler
from autosam.errors import TrainingError, is_out_of_memory
from autosam.models.build import build_segmenter
from autosam.models.losses import SegmentationLoss
from autosam.models.paper import min_max
from autosam.models.sam import SAMS, SamSpec
from autosam.models.sam.cost import record_bytes
from autosam.models.sam.meta import SegmentAnything, prompt_parts
from autosam.train import train
from autosam.training.auto_batch import fit_batch
from autosam.training.data import open_data
from autosam.utils.distributed import make_accelerator

SAID = [
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.1 GiB",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cusparse error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES, when calling `cusparseSpMM(...)`",
    "GET was unable to find an engine to execute this computation",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
    "HIP out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 5.05 GB, other allocations: 4.02 GB)",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory",
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried",
    "unable to mmap 4096 bytes from file </tmp/x>: Cannot allocate memory (12)",
    "OpenCV(4.10.0) error: (-4:Insufficient memory) Failed to allocate 4000000 bytes",
    "std::bad_alloc",
]
OTHERWISE = [
    "CUDA error: device-side assert triggered",
    "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "could not create a primitive descriptor for the matmul primitive. Run workload with",
]


@pytest.mark.parametrize("text", SAID)
def test_lack_of_memory(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


TORCH = {
    "libtorch_cpu.so": ["could not create a primitive\0", "could not execute a primitive\0"],
    "libc10.so": ["DefaultCPUAllocator: can't allocate memory"],
    "libc10_cuda.so": ["CUDA out of memory. Tried to allocate"],
    "libtorch_cuda.so": [
        "when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
}
"""What is written in torch's libraries, as far as they are here."""


@pytest.mark.parametrize("library", TORCH)
def test_torch_says_so(library: str) -> None:
    file = Path(torch.__file__).parent / "lib" / library
    if not file.is_file():
        pytest.skip(f"this torch has no {library}")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
        for text in TORCH[library]:
            assert held.find(text.encode()) >= 0, text


@pytest.mark.parametrize("text", OTHERWISE)
def test_other_errors(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("run", ["decoder-box", "decoder-points"])
def test_the_largest_batch_has_as_many_objects_as_any_image_may(
    run: str, tiny_file: Path, folders: Path
) -> None:
    config = tiny_config(tiny_file, f"--data.root={folders}", f"--run={run}", "--prompt.objects=5")
    segmenter = build_segmenter(config)
    batch = largest_batch(open_data(config, segmenter.input_spec).train, 3)
    assert batch.prompts is not None
    assert torch.bincount(batch.prompts.images).tolist() == [5, 5, 5]
    assert segmenter(batch).isfinite().all()


@pytest.mark.parametrize(
    ("most", "expected"), [(20, (16, 1)), (10, (8, 2)), (9, (4, 4)), (1, (1, 16))]
)
def test_auto_batch_leaves_room(
    most: int, expected: tuple[int, int], tiny_file: Path, folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A step with a quarter more images fits as well."""
    config = tiny_config(tiny_file, f"--data.root={folders}", "--run=head", "--train.batch_size=16")
    segmenter = build_segmenter(config)
    forward = SegmentationLoss.forward

    def limited(self: SegmentationLoss, logits: torch.Tensor, *args: Any) -> Any:
        if len(logits) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, logits, *args)

    monkeypatch.setattr(SegmentationLoss, "forward", limited)
    data = open_data(config, segmenter.input_spec).train
    found = fit_batch(config, segmenter, data, make_accelerator())
    assert (found.batch_size, found.accumulate) == expected


@pytest.mark.parametrize(
    ("images", "batch", "processes", "sizes"),
    [
        (5, 4, 1, [4]),
        (6, 4, 1, [4, 2]),
        (9, 4, 1, [4, 4]),
        (1, 4, 1, [1]),
        (3, 1, 1, [1, 1, 1]),
        (10, 4, 2, [4, 4]),
        (12, 4, 2, [4, 4, 2, 2]),
    ],
)
def test_no_batch_of_one_beside_larger_ones(
    images: int, batch: int, processes: int, sizes: list[int]
) -> None:
    batches = EpochBatches(EpochSampler(images, shuffle=True), batch, processes)
    assert [len(found) for found in batches] == sizes
    assert len(batches) == len(sizes)


def test_one_value_for_batchnorm_is_said(tiny_file: Path, folders: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_file, f"--data.root={folders}", "--train.batch_size=1",
                         "--model.input_size=32", f"--output={tmp_path / 'run'}")  # fmt: skip
    with pytest.raises(TrainingError, match=r"BatchNorm cannot learn from a single image"):
        train(config)


def test_stretched_logits_in_bfloat16_are_finite() -> None:
    logits = torch.tensor([[[[-3.0, 0.0], [1.0, 5.0]]]], dtype=torch.bfloat16, requires_grad=True)
    stretched = min_max(logits)
    stretched.sum().backward()
    assert stretched.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert torch.allclose(stretched.sigmoid(), (logits.float() + 3) / 8, atol=1e-5)


def test_the_cache_of_a_sam_of_ones_own() -> None:
    """width 32, a grid of 128 x 128, 2 bytes each."""

    def build(spec: SamSpec) -> SegmentAnything:
        parts = prompt_parts(spec, 32, 8, mlp_dim=64, num_heads=2)
        return SegmentAnything(spec, torch.nn.Identity(), *parts)

    spec = SamSpec("own", build, image_size=1024, architecture="two convolutions")
    assert record_bytes(spec) == 2 * 32 * 128 * 128
    assert record_bytes(SAMS["vit_b"]) == 2 * 256 * 64 * 64


@pytest.mark.parametrize("name", ["lite", "vit_b", "sam_hq_vit_b", "sam2.1-tiny", "mobile_sam"])
def test_the_cost_of_a_cache_is_that_of_its_records(name: str) -> None:
    with torch.device("meta"):
        sam = SAMS[name].build(SAMS[name])
    assert record_bytes(SAMS[name]) == Layout(sam.shapes, "bf16").size
