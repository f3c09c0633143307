"""A listening test: what is published says nothing, a person can answer it, and the statistics find preferences."""

import csv
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.helpers import NEEDS_BROWSER, error_line
from whisper_gpt.jobs import cli

ITEMS = ["anna's", "bert", "<carl>"]


@pytest.fixture
def systems(tmp_path: Path) -> list[str]:
    """Folders of three systems with the same three items, and one item that only one of them has."""
    random = np.random.default_rng(0)
    for level, name in ((0.5, "loud"), (0.05, "quiet"), (0.2, "other")):
        (tmp_path / name).mkdir()
        for item in ITEMS + ["alone"] * (name == "loud"):
            soundfile.write(tmp_path / name / f"{item}.wav", level * random.uniform(-1, 1, 12_000), 24_000)
    return [str(tmp_path / name) for name in ("loud", "quiet", "other")]


@pytest.fixture
def made(systems: list[str], tmp_path: Path) -> Path:
    """A test of the three systems."""
    assert cli.main(["listen", *systems, "--out", str(tmp_path / "test"), "--pairs-each=5"]) == 0
    return tmp_path / "test"


def test_published_folder_does_not_say_whose_clip_is_whose(made: Path) -> None:
    page = (made / "page" / "index.html").read_text()
    assert not any(word in page for word in ("loud", "quiet", *ITEMS))
    files = sorted(path.name for path in (made / "page" / "audio").iterdir())
    key = json.loads((made / "key.json").read_text())
    assert files == sorted(f"{code}.wav" for code in key["clips"]) and len(files) == 9
    levels = [np.sqrt(np.mean(np.square(soundfile.read(made / "page" / "audio" / file)[0]))) for file in files]
    assert max(levels) < 1.01 * min(levels)  # a louder clip would be preferred


def test_reference_and_refusals(systems: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "test")
    assert cli.main(["listen", *systems[:2], "--reference", systems[2], "--out", out]) == 0
    assert cli.main(["listen", *systems, "--out", out]) == 1
    assert "there is a test already" in error_line(capsys)
    (tmp_path / "other" / "bert.wav").write_bytes(b"damaged")
    assert cli.main(["listen", *systems, "--out", str(tmp_path / "x")]) == 1
    assert f"{tmp_path / 'other' / 'bert.wav'}: " in error_line(capsys)
    assert cli.main(["listen", systems[0], "--out", str(tmp_path / "x")]) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["listen", systems[0], str(tmp_path / "empty"), "--out", str(tmp_path / "x")]) == 1
    assert "no file name is in all of" in error_line(capsys)


def write_answers(made: Path, file: Path, session: str, prefers: str, share: float = 1.0) -> None:
    """Write the answers of a listener who prefers a system in the first `share` of all pairs, and else nothing."""
    key = json.loads((made / "key.json").read_text())
    page = (made / "page" / "index.html").read_text()
    content = json.loads(page.split("JSON.parse('")[1].split("');\n")[0])
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["test", "session", "listener", "first", "second", "answer", "seconds"])
        for i, pair in enumerate(content["pairs"]):
            playing = [key["clips"][code]["system"] for code in pair["clips"]]
            answer = "none"
            if prefers in playing and i < share * len(content["pairs"]):
                answer = "first" if playing[0] == prefers else "second"
            writer.writerow([content["id"], session, "Anna", *pair["clips"], answer, 1.0])


def score(made: Path, *files: Path, code: int = 0) -> None:
    assert cli.main(["listen", "score", str(made / "key.json"), *map(str, files), "--json"]) == code


def test_preference_is_found_with_its_interval(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{i}.csv" for i in range(8)]
    for i, file in enumerate(files):
        write_answers(made, file, f"session {i}", "quiet", share=0.5 + 0.05 * i)
    capsys.readouterr()
    score(made, *files)
    scores = json.loads(capsys.readouterr().out)
    found = {(p["system"], p["other"]): p for p in scores["preferences"]}
    assert found.keys() == {("loud", "other"), ("loud", "quiet"), ("other", "quiet")}
    assert found["loud", "other"]["share"] == 0.5 and found["loud", "other"]["ties"] == 24
    against = found["loud", "quiet"]
    assert against["over"] == "listeners" and against["share"] < 0.5
    assert against["interval"][1] < 0.5 and against["p"] < 0.05
    assert cli.main(["listen", "score", str(made / "key.json"), *map(str, files)]) == 0
    assert "8 listeners. The clip shown first" in capsys.readouterr().out
    score(made, *files[:5])
    assert {p["over"] for p in json.loads(capsys.readouterr().out)["preferences"]} == {"items"}


def test_repeated_answers_count_once(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    write_answers(made, file, "a", "loud")
    capsys.readouterr()
    score(made, file)
    once = json.loads(capsys.readouterr().out)
    (tmp_path / "excel.csv").write_text(file.read_text(), encoding="utf-8-sig")
    score(made, file, tmp_path / "excel.csv")
    twice = json.loads(capsys.readouterr().out)
    assert twice["repeated"] == 9 and twice["preferences"] == once["preferences"]


def test_edited_answers_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    write_answers(made, file, "a", "loud")
    good = file.read_text()
    for content, message in (
        (good.replace(",none,", ",third,"), "not an answer of this test"),
        (good.replace(good.splitlines()[1].split(",")[0], "0" * 16), "of another test than the key"),
        ("a,b\n1,2\n", "not the answers of a listening test"),
    ):
        file.write_text(content)
        score(made, file, code=1)
        assert message in error_line(capsys)
    file.write_bytes(b"\xff\xfe,\n")
    score(made, file, code=1)
    assert f"{file}: not a CSV file" in error_line(capsys)


@pytest.fixture
def served(made: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(made / "page"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.slow
@NEEDS_BROWSER
def test_a_person_answers_it_in_a_browser(
    served: str, browser: webdriver.Chrome, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    browser.get(served)
    browser.find_element(By.ID, "listener").send_keys("Zoë, 2nd")
    browser.find_element(By.ID, "begin").click()
    for number in range(5):
        wait = WebDriverWait(browser, 20)
        wait.until(lambda b, n=number: b.find_element(By.ID, "number").text == f"{n + 1} of 5")
        answer = browser.find_element(By.CSS_SELECTOR, f"[data-answer={'none' if number else 'first'}]")
        assert not answer.is_enabled()  # nothing was played yet
        for name in ("first", "second"):
            browser.execute_script(f"document.querySelector('#{name} audio').play()")
            wait.until(lambda b, n=name: b.execute_script(f"return document.querySelector('#{n} audio').ended"))
        wait.until(lambda b, button=answer: button.is_enabled())
        answer.click()
        if number == 2:
            browser.refresh()  # loses nothing
    link = browser.find_element(By.ID, "save")
    assert (link.get_attribute("download") or "").startswith("answers-Zo___2nd-")
    text = browser.execute_async_script(
        "const done = arguments[0]; fetch(document.getElementById('save').href).then(r => r.text()).then(done)"
    )
    (tmp_path / "answers.csv").write_text(text, encoding="utf-8")
    assert cli.main(["listen", "score", str(made / "key.json"), str(tmp_path / "answers.csv"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert sum(p["answers"] for p in scores["preferences"]) == 5
    assert sum(p["ties"] for p in scores["preferences"]) == 4
