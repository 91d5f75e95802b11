"""How the command line ends when a package or the memory fails it."""

import warnings

import pytest
import torch
from PIL import Image

from vlm_fo1.cli import main as module


@pytest.fixture
def ends(monkeypatch, capsys):
    """The exit code and what stands on stderr when the commands raise an error."""

    def end(error: Exception) -> tuple[object, str]:
        def app() -> None:
            raise error

        monkeypatch.setattr(module, "app", app)
        with pytest.raises(SystemExit) as caught:
            module.main()
        return caught.value.code, capsys.readouterr().err

    return end


def test_a_package_that_cannot_be_imported_gives_its_first_cause_and_the_doctor(ends):
    error = ModuleNotFoundError("Could not import module 'PreTrainedModel'.")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    code, said = ends(error)
    assert code == 2
    assert said.splitlines() == [
        "error: operator torchvision::nms does not exist; a package is missing or broken: "
        "run `fo1 doctor`"
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_gives_one_line_with_remedies(ends, error):
    code, said = ends(error)
    assert code == 2
    (line,) = said.splitlines()
    assert "--dtype bfloat16" in line
    assert "fo1 doctor" in line


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def app() -> None:
        raise RuntimeError("the shapes differ")

    monkeypatch.setattr(module, "app", app)
    with pytest.raises(RuntimeError, match="the shapes differ"):
        module.main()


def test_an_image_of_too_many_pixels_is_refused_without_a_warning_before(monkeypatch, tmp_path):
    Image.new("1", (12, 10)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(module, "app", lambda: Image.open(tmp_path / "large.png").close())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module.main()
    assert not said
