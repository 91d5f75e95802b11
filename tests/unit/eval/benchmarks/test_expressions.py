import pytest
from tests.helpers.benchmark_cases.expressions import A, B, write_humanref, write_lines, write_rex
from tests.helpers.evaluation import answer_to, records_of, silent, truthful, write_image

from vlm_fo1.errors import EvaluationError, ItemError
from vlm_fo1.eval.benchmarks import load_benchmark
from vlm_fo1.images import image_size


def test_humanref_scores_targets_by_domain_and_number_and_rejection_apart(tmp_path):
    data = write_humanref(tmp_path)
    benchmark = load_benchmark("humanref")

    def says(item):
        if item.id == "3":
            return ItemError("broken")
        boxes = {"0": [A, B], "1": [A, B], "2": []}[item.id]
        return answer_to(item.request, image_size(item.image), {item.request.labels[0]: boxes})

    values = benchmark.judge(records_of(benchmark, data, says)).values
    # P 1/2, R 1, F 2/3, D 1/2 for the first; all 1 for the second
    assert values["df1"] == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert values["attribute df1"] == pytest.approx(100 / 3)
    assert values["position df1"] == values["2-5 targets df1"] == pytest.approx(100)
    assert values["1 targets recall"] == pytest.approx(100)
    assert values["rejection"] == pytest.approx(50)  # the failed one is no rejection


def test_a_separator_inside_an_expression_does_not_end_its_line(tmp_path):
    write_image(tmp_path / "a.jpg", boxes=[A])
    row = '{"image": "a.jpg", "expression": "the\u2028red\x85box", "boxes": [[0, 0, 10, 10]]}'
    (tmp_path / "rows.jsonl").write_text(f"{row}\r\n{row}\n", encoding="utf-8")
    items = list(load_benchmark("expressions").items(tmp_path))
    assert [item.request.labels for item in items] == [("the\u2028red\x85box",)] * 2


def test_humanrefs_candidates_are_offered_on_request_and_the_protocol_says_so(tmp_path):
    data = write_humanref(tmp_path)
    assert next(load_benchmark("humanref").items(data)).boxes is None
    benchmark = load_benchmark("humanref", ["boxes=true"])
    assert next(benchmark.items(data)).boxes == [A, B]
    assert "the file's candidates" in benchmark.judge(records_of(benchmark, data, silent)).notes[0]


def test_names_with_accents_are_found_in_either_form(tmp_path):
    data = write_humanref(tmp_path, image="caf\u0065\u0301.jpg")
    path = data / "annotations.jsonl"
    path.write_text(path.read_text().replace("cafe\\u0301", "caf\\u00e9"))
    assert next(load_benchmark("humanref").items(data)).image.is_file()


def test_any_lines_of_image_expression_and_boxes_are_a_benchmark(tmp_path):
    write_image(tmp_path / "images" / "a.png", boxes=[A])
    write_lines(
        tmp_path / "mine.jsonl",
        [
            {"image": "a.png", "expression": "the box", "boxes": [A]},
            {"image": "a.png", "expression": "the cat", "boxes": []},
        ],
    )
    benchmark = load_benchmark("expressions")
    truth = benchmark.judge(records_of(benchmark, tmp_path, truthful)).values
    assert truth["pr"] == truth["n_acc"] == pytest.approx(100)
    assert benchmark.judge(records_of(benchmark, tmp_path, silent)).values["t_acc"] == 0


def test_rows_of_rex_omni_are_judged_with_labels_and_without(tmp_path):
    data = write_rex(tmp_path)
    benchmark = load_benchmark("dense200", ["dataset=Dense200"])
    (item,) = benchmark.items(data)
    assert item.request.labels == ("cat", "dog")

    def mixed_up(item):
        return answer_to(item.request, image_size(item.image), {"cat": [B], "dog": [A]})

    values = benchmark.judge(records_of(benchmark, data, mixed_up)).values
    assert values["published f1_mean"] == pytest.approx(100)  # a dog called cat is found
    assert values["aware f1_mean"] == 0
    assert values["false positives per truth all"] == pytest.approx(100)


def test_expressions_of_rex_omnis_rows_are_asked_one_by_one(tmp_path):
    data = write_rex(tmp_path)
    benchmark = load_benchmark("rex-referring", ["dataset=Dense200"])
    items = list(benchmark.items(data))
    assert [item.request.labels for item in items] == [("cat",), ("dog",)]
    assert [item.truth["boxes"] for item in items] == [{"cat": [A]}, {"dog": [B]}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no lines"),
        ("{not json", "line 1 is no JSON"),
        ('{"image": "a.png"}', "line 1 has no 'expression', 'boxes'"),
        ('{"image": "a.png", "expression": "x", "boxes": [[1, 2, 3]]}', "are no boxes"),
        ('{"image": "a.png", "expression": "x", "boxes": [[9, 0, 1, 1]]}', "are no boxes"),
    ],
)
def test_lines_of_another_form_are_named(tmp_path, text, message):
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(EvaluationError, match=message):
        list(load_benchmark("expressions").items(tmp_path))


def test_a_folder_with_several_files_asks_which(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(EvaluationError, match=r"it has a.jsonl, b.jsonl\): name the file itself"):
        list(load_benchmark("expressions").items(tmp_path))
