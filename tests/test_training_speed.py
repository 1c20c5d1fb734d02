import json

import pytest
import torch

from benchmarks import profiling, timing, training_speed
from pretrain.config import Config

CPU = torch.device("cpu")
SMALL = Config(num_slots=2, image_size=32, width=4, batch_size=2, precision="fp32")


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(timing, "MATRIX_SIDE", {"cpu": 64})


def test_a_training_step_is_timed_with_its_flops():
    row = training_speed.train_row(SMALL, CPU, 0.05)
    assert row["per_second"] > 0
    assert row["gflop"] > 0
    assert row["mode"] == "eager"


def test_a_profile_names_what_a_step_does():
    engine = training_speed.build_engine(SMALL, CPU)
    kernels = {k.name: k for k in profiling.profile_calls(engine.step, CPU, calls=2)}
    # Forward passes of 5 + 5 gated layers, the logit, 4 + 5 in the components, and one of the grid.
    assert kernels["aten::convolution"].launches == 20
    assert kernels["aten::convolution"].ms > 0


@pytest.mark.parametrize(
    ("kernel", "family"),
    [
        ("sum_gradients", "normalisation and gate"),
        ("triton_red_fused_convolution_backward_3", "compiled"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "layout"),
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16", "convolution"),
        ("nvjet_tst_64x8_64x16", "matrix product"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdam>", "optimiser"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel", "other"),
    ],
)
def test_kernels_are_sorted_by_what_they_belong_to(kernel: str, family: str):
    assert profiling.family_of(kernel) == family


def test_the_command_prints_speed_and_profile_and_saves_both(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pretrain.config.Config", lambda **given: SMALL)
    argv = ["--slots", "2", "--batches", "2", "--image-sizes", "32", "--device", "cpu"]
    argv += ["--seconds", "0.05", "--profile"]
    training_speed.main([*argv, "--top", "3", "--results-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("genesis K=2 batch 2 32 px fp32 plain: ")
    row = json.loads(lines[-1])["rows"][0]
    assert row["families"]["convolution"] > 0
    assert row["fused"] is False
    assert (tmp_path / "training_speed.jsonl").exists()


def test_settings_of_the_compiler_are_applied_or_refused_in_one_line():
    from torch._inductor import config

    with config.patch(combo_kernels=False):
        training_speed.set_up_compiler(["combo_kernels=True"])
        assert config.combo_kernels is True
        for wrong in ("no_such_setting=1", "combo_kernels", "combo_kernels=yes"):
            with pytest.raises(ValueError, match="--inductor takes NAME=VALUE"):
                training_speed.set_up_compiler([wrong])
