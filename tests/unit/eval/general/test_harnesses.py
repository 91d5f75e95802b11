import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vlm_fo1 import FO1
from vlm_fo1.errors import MissingExtraError, PromptError
from vlm_fo1.eval.general import lmms, vlmevalkit
from vlm_fo1.eval.general.chat import chat, image_of


class Stub:
    """Notes what it is asked, and answers with markup."""

    def __init__(self, plain="It is a <b>cat</b>.\nQ: more"):
        self.plain, self.asked = plain, []

    def ask(self, image, text, boxes, **options):
        self.asked.append((image, text, boxes, options))
        return SimpleNamespace(plain=self.plain)


def test_images_stand_where_they_stood_among_the_words():
    stub = Stub()
    parts = ["Compare", image_of("a.png"), "with", image_of("b.png"), "and {} tell."]
    assert chat(stub, parts, max_new_tokens=7, system="Be brief.") == stub.plain
    ((image, text, boxes, options),) = stub.asked
    assert (image, boxes) == ("a.png", [])
    assert text == "Compare\n<image_0>\nwith\n<image_1>\nand { } tell."
    assert options == {"images": ["b.png"], "system": "Be brief.", "max_new_tokens": 7}


def test_an_answer_ends_where_the_harness_says():
    assert chat(Stub(), [image_of("a"), "x"], max_new_tokens=7, until=["\nQ:", ""]) == (
        "It is a <b>cat</b>."
    )


def test_a_question_without_an_image_is_refused():
    with pytest.raises(PromptError, match="no image"):
        chat(Stub(), ["Who?"], max_new_tokens=7)


def test_the_bundled_model_answers_a_plain_question_without_tags():
    fo1 = FO1.from_pretrained("tiny")
    photo = "src/vlm_fo1/assets/demo/photo.jpg"
    said = chat(fo1, [image_of(photo), "Is there an orange?"], max_new_tokens=6)
    assert "<region" not in said


def requests(*questions):
    """Requests of lmms-eval's chat form, with the documents that they are about."""
    messages = [
        [
            {"role": "system", "content": [{"type": "text", "text": "Short."}]},
            {"role": "user", "content": question},
        ]
        for question in questions
    ]
    rows = [
        SimpleNamespace(
            args=("context", lambda doc: doc, {"max_new_tokens": 9, "until": "\n"}, i, "t", "test")
        )
        for i in range(len(messages))
    ]
    return rows, {"t": {"test": messages}}


def test_lmms_evals_requests_are_answered_in_their_order_and_cached(caplog):
    good = [{"type": "image", "url": "a.png"}, {"type": "text", "text": "What?"}]
    rows, documents = requests(good, [{"type": "video", "url": "a.mp4"}], good)
    cached = []
    hook = SimpleNamespace(add_partial=lambda *args: cached.append(args))
    stub = Stub("A cat.\nmore")
    assert lmms.answer_all(stub, rows, documents, hook) == ["A cat.", "", "A cat."]
    assert "the question holds a video" in caplog.text
    assert [args[2] for args in cached] == ["A cat.", "", "A cat."]
    assert stub.asked[0][3]["system"] == "Short."


def test_a_question_whose_image_cannot_be_read_is_answered_with_nothing_and_the_others_go_on(
    caplog,
):
    def broken(_):
        raise OSError("truncated file")

    rows, documents = requests([{"type": "image", "url": "a.png"}, {"type": "text", "text": "?"}])
    bad = SimpleNamespace(args=("context", broken, {}, 0, "t", "test"))
    assert lmms.answer_all(Stub("A cat."), [bad, *rows], documents, None) == ["", "A cat."]
    assert "t 0: the question failed: OSError: truncated file" in caplog.text


def fake(monkeypatch, name, **content):
    """A module of somebody else's, as far as ours look at it."""
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_lmms_eval_finds_the_model_by_its_entry_point_and_makes_it(monkeypatch):
    found = importlib.metadata.entry_points(group="lmms_eval.models")
    (point,) = [one for one in found if one.name == "vlm_fo1"]
    for name in ("lmms_eval", "lmms_eval.models", "lmms_eval.api"):
        fake(monkeypatch, name)
    fake(monkeypatch, "lmms_eval.models.registry_v2", ModelManifest=SimpleNamespace)
    manifest = point.load()()
    assert manifest.model_id == "vlm_fo1"
    module, _, name = manifest.chat_class_path.rpartition(".")
    assert (module, name) == (lmms.__name__, "LmmsFO1")

    class Base:
        cache_hook, task_dict = None, {}

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    fake(monkeypatch, "lmms_eval.api.model", lmms=Base)
    model = getattr(sys.modules[module], name)(model="tiny", batch_size="4", use_cache=None)
    assert isinstance(model, Base)
    assert (model.batch_size, model.is_simple, str(model.device)) == (4, False, "cpu")
    with pytest.raises(NotImplementedError, match="that generates"):
        model.loglikelihood([1])


def test_without_the_harnesses_their_modules_are_imported_and_say_what_is_missing(monkeypatch):
    for name in ("lmms_eval", "vlmeval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"vlm-fo1\[lmms\]"):
        lmms.manifest()
    with pytest.raises(MissingExtraError, match="VLMEvalKit is not installed: clone"):
        vlmevalkit.register("tiny")
    with pytest.raises(AttributeError):
        lmms.Other  # noqa: B018


def test_vlmevalkit_gets_the_model_in_its_table_and_runs_its_own_script(monkeypatch, tmp_path):
    class BaseModel:
        fo1: Any
        generate_inner: Any

    fake(monkeypatch, "vlmeval")
    vlm = fake(monkeypatch, "vlmeval.vlm")
    fake(monkeypatch, "vlmeval.vlm.base", BaseModel=BaseModel)
    config = fake(monkeypatch, "vlmeval.config", supported_VLM={})
    script = tmp_path / "run.py"
    script.write_text("import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(__name__)")
    monkeypatch.setattr(sys, "argv", [])
    vlmevalkit.main([str(script), str(tmp_path / "ran")])
    assert (tmp_path / "ran").read_text() == "__main__"
    model = config.supported_VLM["VLM-FO1"]()
    assert isinstance(model, BaseModel)
    assert isinstance(model, vlm.VLMFO1)
    model.fo1 = Stub("A dog.")
    message = [{"type": "image", "value": "a.png"}, {"type": "text", "value": "What?"}]
    assert model.generate_inner(message, dataset="MMStar") == "A dog."
    with pytest.raises(PromptError, match="holds a video"):
        model.generate_inner([{"type": "video", "value": "a.mp4"}, *message])
    with pytest.raises(SystemExit, match="VLMEvalKit"):
        vlmevalkit.main([])


def test_lmms_evals_own_registry_resolves_the_model():
    registry = pytest.importorskip(
        "lmms_eval.models.registry_v2", reason="lmms-eval is not installed: make test-lmms"
    )
    models = registry.ModelRegistryV2()
    models.load_entrypoint_manifests()
    assert models.get_manifest("vlm-fo1").model_id == "vlm_fo1"


TASK = """
task: fo1_two_questions
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function look.doc_to_visual
doc_to_text: !function look.doc_to_text
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8}
process_results: !function look.process_results
metric_list: [{metric: answered, aggregation: mean, higher_is_better: true}]
"""
LOOK = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def process_results(doc, results):
    return {"answered": float(bool(results[0]) and "<" not in results[0])}
"""


def test_lmms_eval_itself_asks_the_bundled_model_and_scores_its_answers(tmp_path):
    evaluator = pytest.importorskip(
        "lmms_eval.evaluator", reason="lmms-eval is not installed: make test-lmms"
    )
    tasks = pytest.importorskip("lmms_eval.tasks")
    photo = Path("src/vlm_fo1/assets/demo/photo.jpg").resolve()
    rows = [{"image": str(photo), "question": q, "answer": "yes"} for q in ("An orange?", "What?")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "look.py").write_text(LOOK)
    (tmp_path / "fo1_two_questions.yaml").write_text(TASK.replace("FOLDER", str(tmp_path)))
    found = evaluator.simple_evaluate(
        model="vlm_fo1", model_args="model=tiny,device=cpu", tasks=["fo1_two_questions"],
        batch_size=1, log_samples=True,
        task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
    )  # fmt: skip
    assert found["results"]["fo1_two_questions"]["answered,none"] == 1
    assert len(found["samples"]["fo1_two_questions"]) == 2
