"""`fo1 doctor` on machines that lack something, without touching this one."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import typer
from typer.testing import CliRunner

from vlm_fo1.cli import doctor as module
from vlm_fo1.cli.doctor import Check, can_run, doctor

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine on which everything is fine; the returned dicts change it."""
    versions: dict[str, str | None] = {"torchvision": None, "flash-attn": None}
    probes: dict[str, tuple[bool, str]] = {}
    real_version = importlib.metadata.version

    def version(name):
        found = versions.get(name, "")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found or real_version(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(module, "_probe", lambda code: probes.get(code, (True, "")))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 50e9))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "made" / "yet"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return versions, probes


def check(name: str) -> Check:
    (found,) = [check for check in doctor() if check.name == name]
    return found


def run(*arguments: str):
    app = typer.Typer()
    app.command()(module.command)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_inference_can_run_where_the_requirements_are_met(machine):
    checks = doctor()
    assert can_run(checks)
    names = [check.name for check in checks]
    assert {"Python", "torch", "transformers", "accelerate", "pillow", "torchvision"} <= set(names)
    assert {"bundled model", "Hub cache", "disk", "flash-attn", "bitsandbytes"} <= set(names)
    assert "extra supervision" in names


def test_every_failed_check_names_one_command_and_every_passed_one_none(machine, monkeypatch):
    versions, _ = machine
    versions.update(dict.fromkeys(["torch", "supervision", "bitsandbytes"]))
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    for found in doctor():
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
    assert not can_run(doctor())


def test_a_local_build_of_torch_is_in_range(machine):
    versions, _ = machine
    versions["torch"] = "2.13.0+cpu"
    assert check("torch").ok


def test_a_transformers_that_cannot_be_imported_fails_with_its_own_words(machine):
    _, probes = machine
    probes[module._TRANSFORMERS_PROBE] = (False, "ImportError: no such symbol")
    found = check("transformers")
    assert not found.ok
    assert "no such symbol" in found.detail
    assert "--force-reinstall" in found.remedy


def test_a_broken_torchvision_is_to_be_removed(machine):
    versions, probes = machine
    versions["torchvision"] = "0.20.0"
    assert check("torchvision").ok
    probes[module._TORCHVISION_PROBE] = (False, "RuntimeError: operator nms does not exist")
    found = check("torchvision")
    assert (found.ok, found.required) == (False, True)
    assert found.remedy == "pip uninstall -y torchvision"
    assert not can_run(doctor())


def test_a_missing_extra_names_the_extra_and_stops_nothing(machine):
    versions, _ = machine
    versions["supervision"] = None
    found = check("extra supervision")
    assert not found.ok
    assert found.remedy == "pip install 'vlm-fo1[supervision]'"
    assert can_run(doctor())


def test_flash_attention_is_recommended_only_with_an_nvidia_driver(machine, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not check("flash-attn").remedy
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    assert "pip install flash-attn" in check("flash-attn").remedy


def test_a_full_disk_and_offline_flags_are_told_but_do_not_stop_inference(machine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1e9))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not check("disk").ok
    assert "HF_HUB_OFFLINE" in check("Hub cache").detail
    assert can_run(doctor())


def test_a_cache_that_cannot_be_written_is_told(machine, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
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
    assert not can_run(doctor())


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
    assert module._probe("print('one'); print('two')") == (True, "two")
    assert module._probe("pass") == (True, "")
    assert module._probe("import no_such_module")[0] is False
    assert "no_such_module" in module._probe("import no_such_module")[1]
    assert module._probe("raise SystemExit(3)") == (False, "exit code 3")


def test_a_probe_that_hangs_is_given_up(monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert module._probe("pass") == (False, "no answer within 120 s")


def test_the_device_probe_runs_on_this_machine():
    ok, said = module._probe(module._TORCH_PROBE)
    assert ok, said
    assert "dtype" in said
