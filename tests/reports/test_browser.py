"""Protects the page as a browser shows it: no console error, no request, nothing wider than the window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from expunge.reports import report

from .devtools import Browser, chromium
from .fake_audits import found as found_audits
from .fake_audits import patching
from .fake_calibration import box, curve, details, drawn_details, write_calibrated
from .fake_guard import guard, learned, rate, write_guarded
from .fake_runs import audits, samples, write_comparison, write_json, write_lines, write_run, write_seeds

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on PATH"),
]

VISIT_CHARTS = """(async () => {
  document.documentElement.style.scrollBehavior = "auto";
  document.querySelectorAll("details").forEach(node => { node.open = true; });
  for (const node of document.querySelectorAll(".chart")) {
    node.scrollIntoView();
    await new Promise(done => setTimeout(done, 100));
  }
  return Array.from(document.querySelectorAll(".chart")).filter(node => !node.querySelector("svg")).length;
})()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    seeds = write_seeds(root / "seeds")
    write_json(seeds / "audits.json", audits())
    demo = write_comparison(root / "demo")
    alone = write_run(root / "alone", retrained=False)
    rows = samples("npo", retrained=False)
    rows[0] |= {"prompt": HOSTILE, "expected": HOSTILE, "answers": {"target": HOSTILE, "erased": HOSTILE}}
    write_lines(alone / "samples.jsonl", rows)
    erasures = root / "erasures"
    made = {
        "two layers": details(),
        "by hand": details()
        | {"calibration": {}, "layers": [5], "neurons": {"0": 12, "2": 340, "outside the layers": 4}},
        "large": drawn_details(32, groups=7),
        "experts": drawn_details(6, used=[0, 3, 5], experts=8),
        # nothing falsely detected, nothing detected, and a mean that is the centre itself
        "nothing": details()
        | {"curves": [curve([0], (0.0, 0.0, 0.0))], "layers": [0], "boxes": [box(0, 0.0), box(None, None)]},
    }
    for name, facts in made.items():
        write_calibrated(erasures / name, facts)
    guards = root / "guards"
    write_guarded(guards / "number", guard=guard(), learned=learned())
    write_guarded(guards / "vector", guard=guard(), learned=learned([5.0, 7.0]))
    write_guarded(
        guards / "small",
        guard=guard() | {"robustness": {"plain": rate(0, 3, 0.0, 0.7)}, "precision_recall": None, "weak_spots": []},
    )
    audited = root / "audited"
    write_json(write_run(audited / "scored") / "audits.json", found_audits())
    write_json(audited / "alone" / "audits.json", found_audits(patching=patching(32)))
    return {
        "audits": report(audited),
        "comparison": report(demo),
        "seeds": report(seeds),
        "alone": report(alone),
        "erasures": report(erasures),
        "guards": report(guards),
        "together": report([demo, seeds, alone], out=root / "together.html"),
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["comparison", "seeds", "alone", "together", "erasures", "guards", "audits"])
def test_the_page_is_whole(pages: dict[str, Path], browser: Browser, name: str, width: int, dark: bool) -> None:
    address = pages[name].as_uri()
    browser.open(address, width=width, dark=dark)
    assert browser.run(VISIT_CHARTS) == 0, "every chart is drawn"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(19, 21, 24)" if dark else "rgb(251, 250, 247)"
    )
    assert browser.complaints() == []
    # cells of a heat map are an image that the page makes itself
    assert [one for one in browser.requests() if not one.startswith("data:image/png;")] == [address]


def test_hostile_answers_are_shown_as_text(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["alone"].as_uri(), width=1280)
    assert browser.run("document.querySelector('.question').textContent") == HOSTILE
    assert browser.run("[window.pwned === undefined, document.images.length]") == [True, 0]


def test_search_filters_and_order(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["comparison"].as_uri(), width=1280)
    count = "document.getElementById('count').textContent"
    assert browser.run(count) == "20 of 124 rows shown"
    browser.run("document.getElementById('more').click()")
    assert browser.run(count) == "40 of 124 rows shown"

    def choose(identifier: str, value: str, event: str = "change") -> None:
        browser.run(
            f"(() => {{ const node = document.getElementById('{identifier}'); node.value = '{value}';"
            f" node.dispatchEvent(new Event('{event}', {{bubbles: true}})); }})()"
        )
        browser.run("new Promise(done => setTimeout(done, 250))")

    choose("set", "forget")
    assert browser.run(count) == "20 of 40 rows shown (124 in all)"
    # Every fifth forget row is about one of five people.
    choose("find", "VARGA born", "input")
    assert browser.run(f"/^3 of 3 rows/.test({count})") and browser.run("document.querySelectorAll('mark').length") > 0
    choose("find", "no such words", "input")
    assert browser.run(count) == "No row matches."
    choose("find", "", "input")
    choose("run", "2")
    assert browser.run("document.querySelector('.replies').children.length") == 4
    choose("order", "known")
    first = browser.run("document.querySelector('.where').textContent")
    choose("order", "")
    assert browser.run("document.querySelector('.where').textContent") == "forget · row 0 · forget.jsonl:1" != first


def test_the_charts_follow_their_switches(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["comparison"].as_uri(), width=1280)
    browser.run("document.querySelector('input[value=model_utility]').click()")
    browser.run("document.querySelector('input[value=cumulative]').click()")
    assert browser.run("document.querySelector('[data-chart=tradeoff].chart .ytitle').textContent") == "Model utility"
    assert browser.run("document.querySelectorAll('[data-chart=truth].chart .legend .traces').length") == 5
    assert browser.complaints() == []


def test_false_abstention_is_drawn_on_a_logarithmic_axis_with_a_place_for_none(
    pages: dict[str, Path], browser: Browser
) -> None:
    browser.open(pages["erasures"].as_uri(), width=1280)
    browser.run(VISIT_CHARTS)
    figures = browser.run(
        "JSON.parse(document.getElementById('data').textContent).erasures.map(one => one.curves.length)"
    )
    of = "Array.from(document.querySelectorAll('.chart[data-chart=abstention]'))"
    assert browser.run(f"{of}.map(node => node.querySelectorAll('.legend .traces').length)") == figures
    ticks = "Array.from(node.querySelectorAll('.xtick text')).map(text => text.textContent)"
    at = [run["name"] for run in browser.run("JSON.parse(document.getElementById('data').textContent).runs")]
    ((_, small),) = [
        pair for pair in zip(at, browser.run(f"{of}.map(node => {ticks})"), strict=True) if pair[0] == "two layers"
    ]
    # one of 80 rows is the least share there is but none: 1.25%, so that the axis begins at 1%
    assert small == ["0", "1%", "2%", "5%", "10%", "20%", "50%", "100%"]
    notes = f"{of}[{at.index('two layers')}].querySelectorAll('.annotation-text')"
    assert browser.run(f"Array.from({notes}).map(text => text.textContent)") == ["5% asked for", "h in use"]


def test_it_prints(pages: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    browser.open(pages["seeds"].as_uri(), width=1280)
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
