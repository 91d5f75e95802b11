"""The page in Debian's Chromium, driven end to end: `make test-page`.

Every test fails on an error in the browser's console and on any request that leaves the machine.
Screenshots go to outputs/page. Speed is only judged while the machine has time to spare.
"""

import gc
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers.page import serving

import vlm_fo1
from vlm_fo1.app.context import Context
from vlm_fo1.app.models import ModelPool
from vlm_fo1.app.page import serve_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vlm-fo1[app]'")

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = Path(__file__).parents[2] / "outputs" / "page"
DEMO = Path(vlm_fo1.__file__).parent / "assets" / "demo"
PHOTO = DEMO / "photo.jpg"
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a page that runs as users run it."""
    with serving(tmp_path_factory.mktemp("server"), "--upload-mb", "2") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make test-page installs Debian's")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page in a browser of its own; at the end nothing may have gone wrong in it."""
    faults, contexts = [], []

    def open_page(**options):
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()

        def on_console(message):
            if message.type == "error":
                faults.append(f"console: {message.text}")

        def on_request(request):
            if not request.url.startswith((url, "data:", "blob:")):
                faults.append(f"leaves the machine: {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("request", on_request)
        page.goto(url)
        page.wait_for_selector("#ask-go")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def idle():
    """Whether figures of speed mean anything here."""
    return os.getloadavg()[0] < 0.5 * (os.cpu_count() or 1)


def shot(page, name):
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def take_example(page, number=0):
    page.locator("#ask-examples button").nth(number).click()
    page.wait_for_function(
        "() => document.querySelector('#ask-image canvas')?.getBoundingClientRect().height > 100"
    )
    page.wait_for_timeout(500)


def shorten(page, tokens=32):
    """Short answers: the model's words are not what is tested."""
    page.get_by_role("button", name="More settings").click()
    field = page.get_by_label("number input for Longest answer, in tokens").first
    field.fill(str(tokens))
    field.press("Enter")


def ask(page):
    page.evaluate("document.querySelector('.fo1-result')?.setAttribute('data-old', '')")
    page.click("#ask-go")
    page.wait_for_selector(".fo1-result:not([data-old])")


def downloaded(page, button, path):
    with page.expect_download() as caught:
        page.click(button)
    caught.value.save_as(path)
    return path


def choose_task(page, title, prefix="ask"):
    page.click(f"#{prefix}-task input")
    page.get_by_role("option", name=title, exact=True).click()


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_the_page_loads_and_answers_an_example(visit, tmp_path):
    start = time.perf_counter()
    page = visit()
    load_s = time.perf_counter() - start
    page.wait_for_selector('.fo1-state[data-state="ready"]')
    shot(page, "01-loaded")
    take_example(page)
    shot(page, "02-example")
    start = time.perf_counter()
    ask(page)
    answer_s = time.perf_counter() - start
    page.wait_for_timeout(300)
    shot(page, "03-answered")
    (SHOTS / "seconds.json").write_text(json.dumps({"load": load_s, "first answer": answer_s}))
    if idle():
        assert load_s < 5
        assert answer_s < 3
    answer = json.loads(downloaded(page, "#ask-json", tmp_path / "a.json").read_text())
    with Image.open(PHOTO) as photo:
        assert answer["image"] == {"width": photo.width, "height": photo.height}
    assert answer["task"] == "detection"
    assert answer["labels"] == ["orange", "apple"]
    listed = page.locator(".fo1-list tr[data-regions]").count()
    chosen = {r["index"] for m in answer["mentions"] for r in m["regions"]}
    assert listed == len(chosen)
    coco = json.loads(downloaded(page, "#ask-coco", tmp_path / "c.json").read_text())
    assert len(coco) >= listed
    with Image.open(downloaded(page, "#ask-drawn", tmp_path / "d.jpg")) as drawn:
        assert drawn.size == (answer["image"]["width"], answer["image"]["height"])


def test_hovering_lights_the_same_region_everywhere(visit):
    page = visit()
    take_example(page)
    shorten(page)
    page.check("#ask-dim input")
    ask(page)
    page.locator(".fo1-list tr[data-regions='3']").hover()
    assert page.locator(".fo1-image rect.fo1-on").get_attribute("data-regions") == "3"
    shot(page, "04-hovered-list")
    page.mouse.move(0, 0)
    assert page.locator(".fo1-on").count() == 0
    smallest = page.locator(".fo1-image rect").last  # it lies on top where boxes overlap
    number = smallest.get_attribute("data-regions")
    smallest.hover()
    assert page.locator(".fo1-list tr.fo1-on").get_attribute("data-regions") == number
    marks = page.locator(".fo1-answer mark[data-regions]")
    if marks.count():  # what the model says is its own affair
        marks.first.hover()
        wanted = set((marks.first.get_attribute("data-regions") or "").split())
        lit = page.locator(".fo1-image rect.fo1-on").all()
        assert {rect.get_attribute("data-regions") for rect in lit} == wanted
        shot(page, "05-hovered-word")


def test_a_box_can_be_drawn_and_is_what_the_answer_is_about(visit, tmp_path):
    page = visit()
    take_example(page)
    page.click("#ask-clear")
    page.wait_for_timeout(1500)
    choose_task(page, "Describe the boxes briefly")
    shorten(page, 16)
    canvas = page.locator("#ask-image canvas")
    page.locator("#ask-image button").filter(has=page.locator("svg")).first.wait_for()
    create = page.locator("#ask-image button[aria-label='Create box']")
    if create.count():
        create.click()
    area = canvas.bounding_box()
    assert area is not None
    x, y = area["x"] + area["width"] * 0.4, area["y"] + area["height"] * 0.3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 50, steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)
    shot(page, "06-drawn")
    ask(page)
    answer = json.loads(downloaded(page, "#ask-json", tmp_path / "a.json").read_text())
    (box,) = answer["regions"]["xyxy"]
    assert box[2] - box[0] > 20
    assert box[3] - box[1] > 20
    assert answer["task"] == "brief_caption"


def drag(page, start, end):
    """Press the mouse there, move, and let go."""
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()
    page.wait_for_timeout(1000)


def on_screen(page, x, y):
    """Where a pixel of the image is on the page: in the middle, and never enlarged."""
    page.locator("#ask-image canvas").scroll_into_view_if_needed()
    area = page.locator("#ask-image canvas").bounding_box()
    with Image.open(PHOTO) as photo:
        scale = min(1, area["width"] / photo.width)
        left = area["x"] + (area["width"] - photo.width * scale) / 2
    return left + x * scale, area["y"] + y * scale


def numbers(page):
    """The boxes as the page writes them down."""
    return json.loads(page.locator("#ask-typed textarea").input_value())


def row(page, number):
    return page.locator(f".fo1-list tr[data-regions='{number}']").inner_text()


def test_a_box_is_moved_resized_drawn_and_deleted_by_hand_and_keeps_its_number(visit, tmp_path):
    page = visit()
    take_example(page)
    page.get_by_role("button", name="Boxes as numbers").click()
    page.wait_for_timeout(500)
    boxes = json.loads((DEMO / "boxes.json").read_text())
    given = numbers(page)
    assert given == [[round(side) for side in box] for box in boxes]
    shorten(page, 16)
    page.check("#ask-dim input")
    ask(page)
    before = row(page, 6)
    x1, y1, x2, y2 = given[6]
    middle = ((x1 + x2) // 2, (y1 + y2) // 2)
    drag(page, on_screen(page, *middle), on_screen(page, middle[0] + 30, middle[1] + 20))
    moved = numbers(page)
    assert moved[6] == pytest.approx([x1 + 30, y1 + 20, x2 + 30, y2 + 20], abs=2)
    assert moved[:6] + moved[7:] == given[:6] + given[7:]
    corner = (moved[6][0], moved[6][3])
    drag(page, on_screen(page, *corner), on_screen(page, corner[0] - 20, corner[1] + 15))
    shaped = numbers(page)[6]
    assert shaped[2] - shaped[0] == pytest.approx(x2 - x1 + 20, abs=2)
    ask(page)
    shot(page, "16-moved")
    assert f"at {shaped[0]}, {shaped[1]}" in row(page, 6) != before
    page.locator("#ask-image button[aria-label='Remove box']").click()
    page.wait_for_timeout(400)
    left = numbers(page)
    assert left == moved[:6] + given[7:]
    page.locator("#ask-image button[aria-label='Create box']").click()
    drag(page, on_screen(page, 20, 200), on_screen(page, 80, 260))
    drawn = numbers(page)
    assert drawn[:-1] == left
    assert drawn[-1] == pytest.approx([20, 200, 80, 260], abs=2)
    ask(page)
    shot(page, "17-deleted-and-drawn")
    answer = json.loads(downloaded(page, "#ask-json", tmp_path / "a.json").read_text())
    assert answer["regions"]["xyxy"] == drawn
    assert page.locator(".fo1-list tr[data-regions]").count() == len(given)
    page.locator("#ask-image .annotator-container").press("Delete")
    page.wait_for_timeout(400)
    assert numbers(page) == left


def test_a_stroke_of_the_brush_becomes_the_box_around_it(visit):
    page = visit()
    take_example(page)
    page.get_by_role("button", name="Boxes as numbers").click()
    page.wait_for_timeout(500)
    before = numbers(page)
    page.get_by_role("button", name="Boxes around what you mark by hand").click()
    page.click("#ask-take")
    page.wait_for_timeout(4000)
    area = page.locator("#ask-marks canvas").first.bounding_box()
    assert area is not None
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(x - 20, y - 20)
    page.mouse.down()
    for to in ((x + 20, y - 20), (x + 20, y + 20), (x - 20, y + 20), (x - 20, y - 20)):
        page.mouse.move(*to, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)
    shot(page, "12-strokes")
    page.click("#ask-around")
    page.wait_for_timeout(3000)
    shot(page, "13-boxes-around-strokes")
    *kept, drawn = numbers(page)
    assert kept == before
    x1, y1, x2, y2 = drawn
    assert 30 < x2 - x1 < 200
    assert 30 < y2 - y1 < 200
    assert abs((x1 + x2) / 2 - 160) < 10  # the middle of the image, 320 x 288 pixels
    assert abs((y1 + y2) / 2 - 144) < 10


def test_boxes_are_changed_with_the_keyboard(visit):
    page = visit()
    take_example(page, 1)
    page.get_by_role("button", name="Boxes as numbers").press("Enter")
    kept = numbers(page)[:2]
    page.locator("#ask-typed textarea").fill(json.dumps(kept))
    page.locator("#ask-type").press("Enter")
    page.wait_for_timeout(1500)
    assert numbers(page) == kept


def test_the_score_filter_works_on_boxes_put_on_the_image_too(visit):
    page = visit()
    take_example(page)
    page.click("#ask-propose")
    page.wait_for_timeout(2500)
    shorten(page)
    page.check("#ask-dim input")
    ask(page)
    rows = page.locator(".fo1-list tr[data-regions]")
    before = rows.count()
    assert page.locator(".fo1-list th", has_text="Score").count() == 1
    field = page.locator("#ask-score input[type=number]")
    field.fill("0.99")
    field.press("Enter")
    page.get_by_text("are hidden").wait_for()
    assert rows.count() < before


def test_the_score_filter_redraws_without_the_model(visit):
    page = visit()
    take_example(page)
    shorten(page)
    page.get_by_label("the proposer", exact=True).check()
    page.check("#ask-dim input")
    ask(page)
    rows = page.locator(".fo1-list tr[data-regions]")
    before, timing = rows.count(), page.locator(".fo1-timing").inner_text()
    field = page.locator("#ask-score input[type=number]")
    field.fill("0.99")
    field.press("Enter")
    page.wait_for_function(
        "before => document.querySelectorAll('.fo1-list tr[data-regions]').length < before",
        arg=before,
    )
    assert page.locator(".fo1-timing").inner_text() == timing
    shot(page, "07-filtered")


def upload_field_is_back(page, name):
    page.locator(f"#{name}").get_by_text("Click to Upload").wait_for()


def test_an_unreadable_upload_is_a_message_and_the_page_goes_on(visit, tmp_path):
    page = visit()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no image")
    large = tmp_path / "large.png"
    Image.effect_noise((1800, 1800), 90).save(large)
    assert large.stat().st_size > 2 * 2**20
    for path, said in ((broken, "broken.png cannot be used"), (large, "at most 2 MB")):
        page.set_input_files("#ask-image input[type=file]", path)
        page.get_by_text(said).first.wait_for()
        upload_field_is_back(page, "ask-image")
        page.wait_for_timeout(400)
        shot(page, f"08-{path.stem}-upload")
    page.set_input_files("#ask-image input[type=file]", PHOTO)
    page.locator("#ask-image canvas").wait_for()
    shorten(page)
    page.get_by_label("the proposer", exact=True).check()
    choose_task(page, "Count")
    page.locator("#ask-words textarea").fill("orange")
    ask(page)
    page.get_by_role("tab", name="SAM 3").click()
    page.set_input_files("#segment-image input[type=file]", broken)
    page.get_by_text("broken.png cannot be used").first.wait_for()
    upload_field_is_back(page, "segment-image")


def test_an_empty_question_is_said_plainly(visit):
    page = visit()
    page.click("#ask-go")
    page.wait_for_selector(".fo1-error")
    assert "no labels yet" in page.locator(".fo1-error").inner_text()
    shot(page, "09-empty-question")


def test_files_show_where_there_are_some(visit):
    page = visit()
    take_example(page)
    shorten(page)
    assert not page.locator("#ask-json").is_visible()
    ask(page)
    page.locator("#ask-json").wait_for()
    choose_task(page, "Count")
    page.click("#ask-go")  # without a word
    page.wait_for_selector(".fo1-error")
    page.locator("#ask-json").wait_for(state="hidden")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Gradio's own use of pandas
def test_questions_leave_no_components_behind(browser):
    server = serve_page(Context(pool=ModelPool(["tiny"])), port=None, wait=False)
    context = browser.new_context()

    def held():
        gc.collect()
        kinds = (gradio.DownloadButton, gradio.JSON, gradio.Row)
        return sum(type(item) in kinds for item in gc.get_objects())

    try:
        page = context.new_page()
        page.goto(server.local_url)
        take_example(page)
        shorten(page)
        counts = []
        for _ in range(6):
            ask(page)
            page.locator("#ask-json").wait_for()
            page.wait_for_timeout(300)
            counts.append(held())
    finally:
        context.close()
        server.close()
    assert counts[-1] == counts[2]


def test_two_visitors_get_the_answers_to_their_own_images(visit, tmp_path):
    sizes = [(320, 200), (200, 300)]
    pages = []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.png"
        with Image.open(PHOTO) as photo:
            photo.convert("RGB").resize(size).save(path)
        page = visit()
        page.set_input_files("#ask-image input[type=file]", path)
        page.wait_for_timeout(1500)
        shorten(page)
        choose_task(page, "Count")
        page.locator("#ask-words textarea").fill(("orange", "apple")[number])
        page.get_by_label("the proposer", exact=True).check()
        pages.append(page)
    for page in pages:
        page.click("#ask-go")
    for number, page in enumerate(pages):
        page.wait_for_selector(".fo1-result")
        path = downloaded(page, "#ask-json", tmp_path / f"{number}.json")
        answer = json.loads(path.read_text())
        assert (answer["image"]["width"], answer["image"]["height"]) == sizes[number]
        assert answer["labels"] == [("orange", "apple")[number]]


def test_a_long_batch_can_be_stopped_and_keeps_what_was_finished(visit, tmp_path):
    page = visit()
    files = []
    for number in range(30):
        files.append(tmp_path / f"{number:02}.jpg")
        shutil.copy(PHOTO, files[-1])
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#batch-files input[type=file]", files)
    page.locator("#batch-files a[download]").nth(29).wait_for()
    choose_task(page, "Count", "batch")
    page.locator("#batch-words textarea").fill("orange")
    page.click("#batch-go")
    page.wait_for_selector("#batch-table tbody tr")
    shot(page, "10-batch-running")
    page.click("#batch-stop")
    page.get_by_text("what was finished is kept").wait_for()
    shot(page, "11-batch-stopped")
    done = page.locator("#batch-table tbody tr").count()
    assert 1 <= done < 30
    path = downloaded(page, "#batch-json", tmp_path / "answers.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["file"] for record in records] == [f"{n:02}.jpg" for n in range(done)]
    coco = json.loads(downloaded(page, "#batch-coco", tmp_path / "coco.json").read_text())
    assert len(coco["images"]) == done


def test_a_phrase_is_segmented_in_its_own_tab(visit):
    page = visit()
    page.get_by_role("tab", name="SAM 3").click()
    page.set_input_files("#segment-image input[type=file]", PHOTO)
    page.locator("#segment-image img").first.wait_for()
    page.locator("#segment-phrase textarea").fill("orange")
    page.click("#segment-go")
    page.wait_for_selector("#segment-view .fo1-result")
    shot(page, "12-segment")


def test_frames_become_an_annotated_clip(visit, tmp_path):
    pytest.importorskip("av", reason="av is not installed: pip install 'vlm-fo1[video]'")
    page = visit()
    files = []
    with Image.open(PHOTO) as photo:
        for number in range(4):
            files.append(tmp_path / f"frame-{number}.png")
            photo.convert("RGB").resize((160, 120)).save(files[-1])
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("#video-source input[type=file]", files)
    page.locator("#video-source a[download]").nth(3).wait_for()
    page.locator("#video-phrase textarea").fill("orange")
    page.click("#video-go")
    page.get_by_text("4 frames,").wait_for()
    page.wait_for_selector("#video-clip video")
    shot(page, "13-video")


def test_the_page_fits_a_phone_and_the_dark(visit):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    take_example(page)
    shorten(page)
    ask(page)
    page.wait_for_timeout(500)
    shot(page, "14-phone-dark")
    assert overflow(page) <= 0
    for tab in ("SAM 3", "Video", "Batch"):
        found = page.get_by_role("tab", name=tab)
        if found.first.is_visible():
            found.first.click()
            page.wait_for_timeout(300)
            assert overflow(page) <= 0, tab


def test_the_keyboard_alone_is_enough(visit):
    page = visit()
    go_to(page, "#ask-examples")
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask-image canvas")
    page.wait_for_timeout(1000)
    go_to(page, "#ask-dim")
    page.keyboard.press("Space")
    page.evaluate("document.activeElement.blur()")
    go_to(page, "#ask-go")
    page.keyboard.press("Enter")
    page.wait_for_selector(".fo1-result")
    go_to(page, ".fo1-list tr[data-regions]")
    assert page.locator(".fo1-image rect.fo1-on").count() == 1
    shot(page, "15-keyboard")


def go_to(page, selector):
    """Press Tab until something in there has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("s => !!document.activeElement?.closest(s)", selector):
            return
    pytest.fail(f"Tab never reaches {selector}")
