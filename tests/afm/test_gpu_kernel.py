"""The kernel for GPUs: where there is none, interpreted, compiled, and left alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from afm.attention import attention_pool, plain_attention_pool
from afm.kernels import gpu
from tests.afm.pooling import pool_and_gradients, random_inputs

INTERPRETED = Path(__file__).with_name("interpreted_gpu_kernel.py")


def on_a_gpu(*inputs: Tensor) -> list[Tensor]:
    """Tensors without numbers, of a GPU that is not there."""
    with FakeTensorMode():
        return [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in inputs]


def test_under_the_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size, units", [(16, 16), (20, 130), (256, 16)])
def test_on_this_gpu(size: int, units: int) -> None:
    inputs = random_inputs(1, 1000, 7, size, units)
    inputs[3] /= 4
    grad = torch.ones(1000, size)
    expected = pool_and_gradients(plain_attention_pool, [t.double() for t in inputs], grad)
    on_gpu, grad = [t.cuda() for t in inputs], grad.cuda()
    assert gpu.serves(*on_gpu)
    first, second = (pool_and_gradients(attention_pool, on_gpu, grad) for _ in range(2))
    for one, other, e in zip(first, second, expected, strict=True):
        assert torch.equal(one, other)
        assert (one.cpu() - e).norm() <= 1e-4 * e.norm()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("size, units", [(16, 16), (64, 64), (128, 256), (256, 16)])
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_compiles_without_a_gpu(
    name: str, size: int, units: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for an A100 comes out, which spills next to nothing and has no atomics."""
    triton = pytest.importorskip("triton")
    pytest.importorskip("triton.backends.nvidia", reason="Triton is not built for NVIDIA's GPUs")
    if triton.knobs.runtime.interpret:
        pytest.skip("the interpreter compiles nothing")
    from afm.kernels import attention_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name).fn
    type_of_v = torch.float32 if dtype == "fp32" else torch.bfloat16
    constants = gpu._constants(torch.empty(0, 2, size, dtype=type_of_v), torch.empty(units, size))
    constants |= {"KEEP": True} if name == "forward" else {}
    config = kernels.fitting(kernels.CONFIGS, {}, **constants)[-1]
    constants |= config.kwargs
    given = {"v", "W", "b", "h", "bias", "grad"}
    signature = {
        arg: "constexpr" if arg in constants
        else "i32" if arg in ("B", "F")
        else f"*{dtype if arg in given else 'fp32'}"
        for arg in kernel.arg_names
    }  # fmt: skip
    aligned = {  # as torch allocates
        (n,): [["tt.divisibility", 16]]
        for n, arg in enumerate(kernel.arg_names)
        if signature[arg].startswith("*")
    }
    compiled = triton.compile(
        triton.compiler.ASTSource(kernel, signature, constants, aligned),
        target=triton.backends.compiler.GPUTarget("cuda", 80, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    ptx = compiled.asm["ptx"]
    assert f".entry {name}(" in ptx and compiled.asm["cubin"]
    assert not re.search(r"\b(atom|red)\.", ptx)
    assert compiled.metadata.shared <= 99 * 1024  # what the smallest GPUs of this line have
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    used = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", tmp_path / "kernel.cubin"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(re.search(r"STACK:(\d+)", used)[1]) <= (32 if size <= 128 else 512), used


@pytest.mark.parametrize("dtype", gpu.TYPES)
def test_gpus_get_the_kernel(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(gpu, "attention_pool", lambda *_: "the kernel")
    inputs = on_a_gpu(*(t.to(dtype) for t in random_inputs(1, 3, 4, 5, 6)))
    assert attention_pool(*inputs) == "the kernel"


def test_what_does_not_fit_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "available", lambda: True)
    v, W, b, h, bias = inputs = random_inputs(1, 3, 4, 5, 6)
    assert gpu.serves(*on_a_gpu(*inputs))
    assert not gpu.serves(*inputs)
    assert not gpu.serves(*on_a_gpu(*(t.double() for t in inputs)))
    assert not gpu.serves(*on_a_gpu(v.half(), W, b, h, bias))
    assert not gpu.serves(*on_a_gpu(v[:0], W, b, h, bias))
    assert not gpu.serves(*on_a_gpu(v, W, b[1:], h, bias))
    assert not gpu.serves(*on_a_gpu(v[:, :1], W, b, h, bias[:0]))
    assert not gpu.serves(*on_a_gpu(*random_inputs(1, 1, 2, 257, 1)))


def test_without_triton_plain_torch_is_used_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    gpu.available.cache_clear()
    inputs = on_a_gpu(*random_inputs(1, 3, 4, 5, 6))
    try:
        for _ in range(2):
            with inputs[0].fake_mode:
                pooled = attention_pool(*inputs)
            assert pooled.shape == (3, 5) and pooled.device.type == "cuda"
    finally:
        gpu.available.cache_clear()
    (record,) = caplog.records
    assert "goes without the fused attention kernel" in record.getMessage()
    assert "import of triton" in record.getMessage() and "\n" not in record.getMessage()


def test_cpus_do_without_triton() -> None:
    code = (
        "import sys, torch; from afm.attention import attention_pool;"
        "attention_pool(*(torch.ones(n) for n in ((2, 3, 4), (5, 4), 5, 5, 3)));"
        "sys.exit('triton' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
