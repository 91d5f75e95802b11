"""`import vlm_fo1` is light, and after it the Auto classes of transformers know our checkpoints.

What is imported first decides much here, so each case runs in a process of its own. All are forks
of one that has imported what is neither transformers nor ours, which takes most of the time.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.helpers.tokenizer import char_tokenizer

import vlm_fo1
from vlm_fo1 import _registration

RECORDED = Path(__file__).parents[1] / "data" / "fo1"
OURS = Path(vlm_fo1.__file__).parent / "assets" / "tiny"

HOSTS = "from transformers import Qwen2_5_VLConfig, Florence2Config, Florence2VisionConfig\n"
AUTO = "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor\n"
PROCESSOR = "processor = AutoProcessor.from_pretrained(folder)\n"
MODEL = "model = AutoModelForImageTextToText.from_pretrained(folder)\n"
CONFIG = "config = AutoConfig.from_pretrained(folder)\n"


def use(*steps):
    """Loads both folders, step by step, and prints what came."""
    lines = "".join(steps).splitlines()
    return "\n".join(
        [
            "import json",
            "seen = []",
            "for folder in sys.argv[1:]:",
            *(f"    {line}" for line in lines),
            "    seen.append([type(value).__name__ for value in (config, model, processor)])",
            "    seen[-1].append(processor.region_token_id == model.config.region_token_id)",
            "print(json.dumps(seen))",
        ]
    )


ORDERS = {
    "vlm_fo1, then configurations of hosts": "import vlm_fo1\n"
    + HOSTS
    + AUTO
    + use(PROCESSOR, MODEL, CONFIG),
    "transformers in full, then vlm_fo1": HOSTS
    + AUTO
    + "import vlm_fo1\n"
    + use(MODEL, CONFIG, PROCESSOR),
}
LIGHT_S = 0.1
"""Far below what any of the heavy packages takes; 0.02 s on an idle machine."""
KNOWN = ["FO1Config", "FO1ForConditionalGeneration", "FO1Processor", True]

FROM_A_CONFIGURATION = """
import json
from vlm_fo1 import FO1Config
from transformers import AutoModelForImageTextToText, Florence2VisionConfig, Qwen2_5_VLConfig
values = json.load(open(sys.argv[1] + "/config.json"))
host = Qwen2_5_VLConfig(**values["host_config"])
auxiliary = Florence2VisionConfig(**values["auxiliary_config"])
config = FO1Config(host_config=host, auxiliary_config=auxiliary)
print(type(AutoModelForImageTextToText.from_config(config)).__name__)
"""


IN_FORKS = """
import json, os, tempfile, traceback
import accelerate, scipy.optimize, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor
assert not {"transformers", "vlm_fo1"} & set(sys.modules)
told = {}
for name, code in json.load(sys.stdin).items():
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            try:
                exec(code, {"__name__": "__main__", "sys": sys})
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        said.seek(0)
        told[name] = [status, said.read()]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as the authors publish it: nothing in it speaks of this package."""
    folder = tmp_path_factory.mktemp("released")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(RECORDED / name, folder / name)
    char_tokenizer(with_feature=False).save_pretrained(folder)
    host = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(host))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["processor_class"] = "Qwen2_5_VLProcessor"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import sys\n" + code, *map(str, arguments)],
        **options,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(released):
    """The exit status of each case, and what it wrote."""
    codes = {**ORDERS, "a configuration": FROM_A_CONFIGURATION}
    done = python(IN_FORKS, OURS, released, input=json.dumps(codes))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_our_folders_and_released_ones(outcomes, order):
    status, said = outcomes[order]
    assert status == 0, said
    assert json.loads(said.splitlines()[-1]) == [KNOWN, KNOWN]


def test_a_configuration_made_by_hand_finds_its_model(outcomes):
    status, said = outcomes["a configuration"]
    assert status == 0, said
    assert said.splitlines()[-1] == "FO1ForConditionalGeneration"


def test_importing_the_package_imports_nothing_heavy_and_takes_no_time():
    code = (
        "import time\nstart = time.process_time()\nimport vlm_fo1\n"
        "spent_s = time.process_time() - start\ndir(vlm_fo1)\n"
        "print(spent_s, *[name for name in ('torch', 'transformers', 'numpy', 'PIL', 'typer') "
        "if name in sys.modules])"
    )
    quickest_s = float("inf")
    for _ in range(10):
        spent_s, *heavy = python(code).stdout.split()
        assert heavy == []
        quickest_s = min(quickest_s, float(spent_s))
        if quickest_s < LIGHT_S:
            return
        time.sleep(0.1)
    pytest.fail(f"import vlm_fo1 took {quickest_s:.3f} s at best, {LIGHT_S} s is the limit")


def test_every_public_name_is_there_and_an_unknown_one_is_refused():
    for name in vlm_fo1.__all__:
        assert getattr(vlm_fo1, name).__name__ == name
        assert name in dir(vlm_fo1)
    with pytest.raises(AttributeError, match="module 'vlm_fo1' has no attribute 'FO2'"):
        vlm_fo1.FO2  # noqa: B018


def test_other_models_are_left_to_transformers(tmp_path):
    from transformers import AutoConfig, AutoProcessor, BertConfig

    BertConfig(hidden_size=8, num_attention_heads=1).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is BertConfig
    assert type(AutoConfig.for_model("bert")) is BertConfig
    assert not isinstance(AutoProcessor.from_pretrained(tmp_path), vlm_fo1.FO1Processor)
    with pytest.raises((OSError, ValueError)):
        AutoProcessor.from_pretrained(pretrained_model_name_or_path=str(tmp_path / "none"))


def test_registering_again_changes_nothing():
    from transformers import AutoConfig, AutoProcessor

    before = [vars(AutoConfig)["from_pretrained"], vars(AutoProcessor)["from_pretrained"]]
    finders = len(sys.meta_path)
    _registration.register_on_use()
    _registration.register_now()
    after = [vars(AutoConfig)["from_pretrained"], vars(AutoProcessor)["from_pretrained"]]
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, True]
    assert len(sys.meta_path) == finders


def test_the_modules_we_wait_for_keep_their_own_loader():
    module = sys.modules["transformers.models.auto.configuration_auto"]
    assert module.__spec__ is not None
    assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert module.__loader__ is module.__spec__.loader
