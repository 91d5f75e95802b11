"""`fo1 doctor` on machines that lack something, without touching this one."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import huggingface_hub
import pytest
import typer
from huggingface_hub import constants
from typer.testing import CliRunner

from vlm_fo1._extras import NEWEST_TRANSFORMERS
from vlm_fo1.cli import doctor as module
from vlm_fo1.cli import machine as machine_module
from vlm_fo1.cli import packages
from vlm_fo1.cli.doctor import doctor
from vlm_fo1.cli.fitting import RELEASED
from vlm_fo1.cli.memory import Memory
from vlm_fo1.cli.packages import Check

Usage = namedtuple("Usage", "total used free")
NO_GPU = {"gpus": [], "mps": False, "threads": 4}
H200 = {"name": "NVIDIA H200", "free": 140e9, "total": 150e9, "bfloat16": True}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 64 GB and no GPU on which all is fine; the returned dicts change it."""
    versions: dict[str, str | None] = {"torchvision": None, "flash-attn": None}
    probes: dict[str, tuple[bool, str]] = {
        machine_module._DEVICES_PROBE: (True, json.dumps(NO_GPU))
    }
    real_version = importlib.metadata.version

    def version(name):
        found = versions.get(name, "")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found or real_version(name)

    def probe(code):
        return probes.get(code, (True, ""))

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(packages, "run_probe", probe)
    monkeypatch.setattr(machine_module, "run_probe", probe)
    has(monkeypatch, free_gb=60, total_gb=64)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 50e9))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "made" / "yet"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return versions, probes


def has(monkeypatch, *, free_gb, total_gb, machine_gb=None):
    machine_gb = machine_gb or total_gb
    memory = Memory(total_gb=float(total_gb), free_gb=float(free_gb), machine_gb=float(machine_gb))
    monkeypatch.setattr(machine_module, "read_memory", lambda: memory)


def with_gpu(probes, gpu):
    said = json.dumps({**NO_GPU, "gpus": [gpu]})
    probes[machine_module._DEVICES_PROBE] = (True, said)


def check(name: str) -> Check:
    (found,) = [check for check in doctor().checks if check.name == name]
    return found


def fit_of(name: str = RELEASED):
    (found,) = [found for found in doctor().fits if found.model == name]
    return found


def run(*arguments: str):
    app = typer.Typer()
    app.command()(module.command)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_inference_can_run_where_the_requirements_are_met(machine):
    report = doctor()
    assert report.can_run
    names = [check.name for check in report.checks]
    assert {"Python", "torch", "transformers", "accelerate", "pillow", "torchvision"} <= set(names)
    assert {"bundled model", "Hub cache", "disk", "flash-attn", "bitsandbytes"} <= set(names)
    assert {"RAM", "GPU", "Hub token", "extra supervision"} <= set(names)


def test_every_failed_check_names_one_command_and_every_passed_one_none(machine, monkeypatch):
    versions, _ = machine
    versions.update(dict.fromkeys(["torch", "supervision", "bitsandbytes"]))
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    for found in doctor().checks:
        assert bool(found.remedy) is not found.ok, found
        assert "\n" not in found.remedy


def test_a_missing_torch_fails_with_the_command_that_adds_it(machine):
    versions, _ = machine
    versions["torch"] = None
    found = check("torch")
    assert (found.ok, found.required) == (False, True)
    assert found.detail == "not installed"
    assert found.remedy.startswith("pip install 'torch>=")


@pytest.mark.parametrize("version", ["4.57.1", "6.0.0", "6.1.0.dev0"])
def test_a_transformers_out_of_range_fails_with_both_numbers(machine, version):
    versions, _ = machine
    versions["transformers"] = version
    found = check("transformers")
    assert not found.ok
    assert version in found.detail
    assert "<6" in found.detail
    assert not doctor().can_run


def test_a_local_build_of_torch_is_in_range(machine):
    versions, _ = machine
    versions["torch"] = "2.13.0+cpu"
    assert check("torch").ok


def test_a_transformers_that_cannot_be_imported_fails_with_its_own_words(machine):
    _, probes = machine
    probes[packages._TRANSFORMERS_PROBE] = (False, "ImportError: no such symbol")
    found = check("transformers")
    assert not found.ok
    assert "no such symbol" in found.detail
    assert "--force-reinstall" in found.remedy


def test_a_broken_torchvision_is_to_be_removed(machine):
    versions, probes = machine
    versions["torchvision"] = "0.20.0"
    assert check("torchvision").ok
    probes[packages._TORCHVISION_PROBE] = (False, "RuntimeError: operator nms does not exist")
    found = check("torchvision")
    assert (found.ok, found.required) == (False, True)
    assert found.remedy == "pip uninstall -y torchvision"
    assert not doctor().can_run


def test_transformers_is_not_blamed_for_a_broken_torchvision(machine):
    versions, probes = machine
    versions["torchvision"] = "0.20.0"
    probes[packages._TORCHVISION_PROBE] = (False, "RuntimeError: operator nms does not exist")
    probes[packages._TRANSFORMERS_PROBE] = (False, "ModuleNotFoundError: Could not import module")
    remedies = [check.remedy for check in doctor().checks if check.required and not check.ok]
    assert remedies == ["pip uninstall -y torchvision"]


def test_a_missing_extra_names_the_extra_and_stops_nothing(machine):
    versions, _ = machine
    versions["supervision"] = None
    found = check("extra supervision")
    assert not found.ok
    assert found.remedy == "pip install 'vlm-fo1[supervision]'"
    assert doctor().can_run


def test_flash_attention_is_recommended_only_with_an_nvidia_driver(machine, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not check("flash-attn").remedy
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    assert "pip install flash-attn" in check("flash-attn").remedy


def test_a_full_disk_and_offline_flags_are_told_but_do_not_stop_inference(machine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1e9))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not check("disk").ok
    assert "HF_HUB_OFFLINE" in check("Hub cache").detail
    assert doctor().can_run


def test_a_cache_that_cannot_be_written_is_told(machine, monkeypatch):
    monkeypatch.setattr(machine_module.os, "access", lambda path, mode: False)
    found = check("Hub cache")
    assert not found.ok
    assert "HF_HOME" in found.remedy


def test_an_old_python_cannot_run(machine, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    found = check("Python")
    assert not found.ok
    assert "3.11 or newer" in found.detail


def test_a_package_run_from_its_source_alone_is_told_to_be_installed(machine, monkeypatch):
    def metadata(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    assert check("vlm-fo1").remedy == "pip install -e ."
    assert not doctor().can_run


def test_the_command_exits_with_zero_when_inference_can_run(machine):
    result = run()
    assert result.exit_code == 0, result.output
    assert "Inference can run." in result.output


def test_the_command_exits_with_one_and_prints_the_remedy_unbroken(machine):
    versions, _ = machine
    versions["transformers"] = None
    result = run()
    assert result.exit_code == 1
    assert "pip install 'transformers<6,>=5.17'" in result.output
    assert "Inference cannot run yet." in result.output


def test_the_json_form_says_the_same_to_a_program(machine):
    versions, _ = machine
    versions["torch"] = None
    result = run("--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert [c["name"] for c in told["checks"] if c["required"] and not c["ok"]] == ["torch"]


def test_a_probe_gives_the_last_line_of_what_was_printed_or_raised():
    assert packages.run_probe("print('one'); print('two')") == (True, "two")
    assert packages.run_probe("pass") == (True, "")
    assert packages.run_probe("import no_such_module")[0] is False
    assert "no_such_module" in packages.run_probe("import no_such_module")[1]
    assert packages.run_probe("raise SystemExit(3)") == (False, "exit code 3")


def test_a_probe_that_hangs_is_given_up(monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert packages.run_probe("pass") == (False, "no answer within 120 s")


def test_the_device_probe_runs_on_this_machine():
    ok, said = packages.run_probe(machine_module._DEVICES_PROBE)
    assert ok, said
    assert set(json.loads(said)) == {"gpus", "mps", "threads"}


@pytest.mark.parametrize(
    ("free_gb", "dtype"), [(100, "float32"), (26, "float32"), (25.9, "bfloat16"), (10, "bfloat16")]
)
def test_on_the_cpu_bfloat16_is_said_below_26_gb(machine, monkeypatch, free_gb, dtype):
    has(monkeypatch, free_gb=free_gb, total_gb=128)
    found = fit_of()
    assert (found.device, found.dtype, found.runs) == ("cpu", dtype, True)


def test_a_gpu_is_taken_before_the_cpu(machine):
    _, probes = machine
    with_gpu(probes, H200)
    found = fit_of()
    assert (found.device, found.dtype) == ("cuda:0", "bfloat16")
    assert "NVIDIA H200, 140.0 GB free of 150.0" in check("GPU").detail


def test_of_two_gpus_the_one_with_more_free_memory_is_taken(machine):
    _, probes = machine
    full = {**H200, "free": 5e9}
    said = json.dumps({**NO_GPU, "gpus": [full, H200]})
    probes[machine_module._DEVICES_PROBE] = (True, said)
    assert fit_of().device == "cuda:1"


def test_a_gpu_without_bfloat16_runs_float32_if_that_fits_else_the_cpu_does(machine):
    _, probes = machine
    with_gpu(probes, {**H200, "bfloat16": False})
    assert (fit_of().device, fit_of().dtype) == ("cuda:0", "float32")
    with_gpu(probes, {**H200, "bfloat16": False, "free": 15e9, "total": 16e9})
    assert (fit_of().device, fit_of().dtype) == ("cpu", "float32")


def test_an_nvidia_driver_that_torch_cannot_use_is_told(machine, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    found = check("GPU")
    assert not found.ok
    assert "this torch cannot use it" in found.detail
    assert found.remedy == "pip install --force-reinstall torch"


def test_where_the_released_model_does_not_fit_the_need_and_what_there_is_are_told(
    machine, monkeypatch
):
    has(monkeypatch, free_gb=6, total_gb=8)
    found = fit_of()
    assert (found.device, found.runs) == ("", False)
    assert found.problem == ("needs 10 GB of RAM or 11 GB on a GPU; cpu has 6.0 GB free of 8.0")
    result = run()
    assert result.exit_code == 0  # the bundled model runs
    assert "VLM-FO1 3B does not run here: needs 10 GB of RAM" in result.output
    assert "Inference can run, with the bundled model." in result.output
    assert run("--model", RELEASED).exit_code == 1
    assert run("--model", "omlab/VLM-FO1-3B-v01").exit_code == 1
    assert run("--model", "tiny").exit_code == 0


def test_memory_that_others_use_is_told_to_be_freed(machine, monkeypatch):
    has(monkeypatch, free_gb=6, total_gb=32)
    assert fit_of().problem.endswith("6.0 GB free of 32.0: close what uses the rest")


def test_where_nothing_fits_the_exit_code_is_one(machine, monkeypatch):
    has(monkeypatch, free_gb=0.3, total_gb=0.5)
    result = run()
    assert result.exit_code == 1
    assert "nothing" in result.output
    assert json.loads(run("--json").stdout)["ok"] is False


def test_the_limit_of_a_container_is_told_beside_what_the_machine_has(machine, monkeypatch):
    has(monkeypatch, free_gb=7, total_gb=8, machine_gb=64)
    assert check("RAM").detail == (
        "7.0 GB free of 8.0, the limit of this container; the machine has 64.0"
    )


def test_a_model_nobody_knows_is_refused_with_the_names_there_are(machine):
    result = run("--model", "nothing-of-this-name")
    assert result.exit_code == 2
    assert "facebook/sam3" in result.output


def test_weights_that_are_not_here_cannot_be_used_offline(machine, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fit_of().problem == "not downloaded, and HF_HUB_OFFLINE forbids to fetch it"
    assert run("--model", RELEASED).exit_code == 1
    assert run().exit_code == 0


def test_a_download_that_does_not_fit_the_disk_is_told(machine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 5e9))
    assert fit_of().problem == "needs 8.9 GB of disk for the download"


def test_gated_weights_need_a_token(machine, monkeypatch):
    assert "hf auth login" in fit_of("facebook/sam3").problem
    assert check("Hub token").remedy == "hf auth login"
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    assert fit_of("facebook/sam3").runs
    assert check("Hub token").ok


def test_a_token_is_never_printed_and_of_two_the_one_that_counts_is_named(
    machine, monkeypatch, tmp_path
):
    (tmp_path / "token").write_text("hf_other")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    assert check("Hub token").detail == (
        "HF_TOKEN, which goes before the one saved by hf auth login"
    )
    assert "hf_" not in run("--json").stdout


def test_the_output_is_short_and_ends_with_the_command_to_go_on_with(machine):
    result = run()
    lines = result.output.strip().splitlines()
    assert len(lines) < 30
    assert lines[-1].strip() == (
        "fo1 detect photo.jpg orange --boxes boxes.json "
        f"--model {RELEASED} --device cpu --dtype float32"
    )


def test_a_transformers_newer_than_any_that_was_tested_runs_and_is_said(machine):
    versions = machine[0]
    versions["transformers"] = "5.999.0"
    found = check("transformers")
    assert found.ok
    assert f"5.999.0 is newer than {NEWEST_TRANSFORMERS}" in found.detail
    assert f"pip install 'transformers<={NEWEST_TRANSFORMERS}'" in found.detail
