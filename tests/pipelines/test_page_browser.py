"""The page in a real browser, from disk: that it works, plays, fits, and takes captions for text."""
from pathlib import Path

import pytest

from pipelines import page
from pipelines.write import DATASETS
from tests.pipelines import pages
from tests.pipelines.browser import NAMES, Browser, program

pytestmark = pytest.mark.skipif(program() is None, reason="NO BROWSER: the report's page goes untested; install one "
                                                          f"of {', '.join(NAMES)} (.ci/run does, where apt can)")
SHOWN = "[...document.querySelectorAll('.card')].map(card => card.dataset.dataset + ' ' + card.dataset.row)"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    out = pages.build(tmp_path_factory.mktemp("page") / "out")
    return Path(page.report(str(out)).url).as_uri()


@pytest.fixture(scope="module")
def window():
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(window, address) -> Browser:
    window.open(address)
    return window


def wanted(fits) -> set[str]:
    """Which cards should be there: `fits` is asked of the dataset, the split, the row and its clip."""
    return {f"{dataset} {row['id']}" for dataset in DATASETS for split, row in pages.rows(dataset)
            if fits(dataset, split, row, pages.clip(int(row["source_id"].removeprefix("clip-"))))}


def fill(browser: Browser, name: str, value: str, event: str = "input") -> None:
    browser.run(f"""(() => {{
        const field = document.querySelector('#filters [name={name}]');
        field.value = {value!r};
        field.dispatchEvent(new Event('{event}', {{bubbles: true}}));
    }})()""")


def shown(browser: Browser) -> set[str]:
    found = browser.run(SHOWN)
    assert len(set(found)) == len(found)
    return set(found)


def test_it_loads_from_disk_without_an_error_and_asks_for_nothing_else(browser, address):
    assert shown(browser) == wanted(lambda *_: True)
    browser.run("window.scrollTo(0, document.body.scrollHeight)")
    browser.wait("[...document.images].filter(image => image.naturalWidth === 640).length > 0")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("blob:")] == [address]
    assert browser.run("document.querySelector('#summary-table tbody tr').innerText").split() == [
        "MUCaps", "15", "12", "3", "0.01", "12", "9", "3"]
    assert browser.run("[...document.querySelectorAll('#lost-table tbody th')].map(one => one.textContent)") == [
        "network", "silent"]


def test_filters_filter(browser):
    browser.run("document.querySelector('#filters [data-value=muedit]').click()")
    assert shown(browser) == wanted(lambda dataset, *_: dataset == "muedit")
    assert browser.run("[...document.querySelectorAll('#filters [aria-pressed=true]')].map(one => one.dataset.value)"
                       ) == ["muedit"]
    fill(browser, "edit", "pitch", "change")
    assert shown(browser) == wanted(lambda dataset, split, row, clip: row.get("edit") == "pitch")
    fill(browser, "split", "eval", "change")
    assert shown(browser) == wanted(lambda dataset, split, row, clip: row.get("edit") == "pitch" and split == "eval")
    browser.run("document.querySelector('#filters [type=reset]').click()")
    assert shown(browser) == wanted(lambda *_: True)
    fill(browser, "key", "F# minor", "change")
    assert shown(browser) == wanted(lambda dataset, split, row, clip: clip["key"] == "F#")
    fill(browser, "key", "", "change")
    fill(browser, "low", "100")
    fill(browser, "high", "120")
    # Of MUEdit a target may fit as well: they are all at 200.
    assert shown(browser) == wanted(lambda dataset, split, row, clip: 100 <= clip["tempo"] <= 120)
    fill(browser, "low", "300")
    assert shown(browser) == set() and browser.run("document.querySelector('#count').textContent") == "No row fits."


def test_search_searches_captions_conversations_and_ids(browser):
    fill(browser, "text", "NUMBER 7.")
    assert shown(browser) == wanted(lambda dataset, split, row, clip: clip["id"] == "clip-07")
    fill(browser, "text", "became clip-03")
    assert shown(browser) == {"muedit clip-03@pair"}
    fill(browser, "text", "human of musicqa about clip-11")
    assert shown(browser) == {"musicqa clip-11"}
    fill(browser, "text", "onerror=alert(2)>")
    assert shown(browser) == wanted(lambda dataset, split, row, clip: clip["id"] == "clip-01")


def test_captions_stay_text(browser):
    fill(browser, "text", "clip-01")
    texts = browser.run("[...document.querySelectorAll('.card .side:first-child .caption, .card .side .caption')]"
                        ".map(one => one.textContent)")
    assert pages.HOSTILE in texts
    assert browser.run("document.querySelectorAll('#cards script, #cards b:not(.change b), #cards i:not(.share i), "
                       "#cards img:not([data-media])').length") == 0
    assert browser.run("document.querySelector('[data-dataset=musicqa]').textContent.includes('rock, <i>loud</i>')")
    assert browser.errors == []
    # And if a script did try, the page's policy would not run it.
    browser.run("document.body.append(Object.assign(document.createElement('img'), {src: 'x'}))")
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        browser.run("document.body.innerHTML = '<b>no</b>'")
    assert any("Content Security Policy" in error for error in browser.errors)


def test_sound_plays_one_at_a_time_and_can_be_moved_by_keys(browser):
    browser.run("document.querySelector('#filters [data-value=muedit]').click()")
    first, second = "document.querySelectorAll('audio')[0]", "document.querySelectorAll('audio')[1]"
    assert browser.run(f"{first}.src") == ""  # nothing is decoded before it is wanted
    browser.run("document.querySelectorAll('.play')[0].click()")
    browser.wait(f"{first}.currentTime > 0.2")
    assert browser.run(f"{first}.duration") == pytest.approx(pages.SECONDS, abs=0.15)
    assert browser.run("document.querySelectorAll('.play')[0].getAttribute('aria-label')").startswith("Pause clip-")
    assert browser.run("document.querySelector('.wave .gone').getAttribute('d').length") > 0
    browser.run("document.querySelectorAll('.play')[1].click()")
    browser.wait(f"{first}.paused && {second}.currentTime > 0.1")
    browser.run("document.querySelectorAll('.play')[1].click()")
    browser.wait(f"{second}.paused")
    browser.run("document.querySelectorAll('.wave input')[0].focus()")
    before = browser.wait(f"{first}.currentTime")
    for _ in range(3):
        browser.press("ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    browser.wait(f"{first}.currentTime > {before} + 0.2")
    assert " of 0:05" in browser.run("document.querySelectorAll('.wave input')[0].getAttribute('aria-valuetext')")
    assert browser.errors == []


def test_what_is_played_and_stopped_at_once_is_no_error(browser):
    # Before the film came near, and so before it was loaded.
    browser.run("document.querySelector('#filters [data-value=muvideo]').click(); "
                "for (const button of document.querySelectorAll('.play')) for (const _ of [1, 2, 3]) button.click()")
    browser.wait("[...document.querySelectorAll('audio')].at(-1).currentTime > 0.2")
    assert browser.run("[...document.querySelectorAll('audio')].filter(one => !one.paused).length") == 1
    browser.run("document.querySelectorAll('.card').forEach(one => one.scrollIntoView())")
    browser.wait("[...document.querySelectorAll('video')].at(-1).currentTime > 0.2")
    assert browser.errors == []


def test_a_film_runs_with_its_music(browser):
    browser.run("document.querySelector('#filters [data-value=muvideo]').click()")
    browser.run("document.querySelector('#rows').scrollIntoView()")
    browser.wait("document.querySelector('video').videoWidth")
    assert browser.run("[document.querySelector('video').videoWidth, document.querySelector('video').videoHeight, "
                       "document.querySelector('video').muted]") == [64, 48, True]
    browser.run("document.querySelector('.play').click()")
    browser.wait("document.querySelector('video').currentTime > 0.3 && "
                 "document.querySelector('audio').currentTime > 0.3")
    assert browser.errors == []


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_overflows(window, address, width):
    window.open(address, width)
    for dataset in DATASETS:
        window.run(f"document.querySelectorAll('[data-value={dataset}]').forEach(button => button.click()); "
                   "document.querySelectorAll('details').forEach(one => one.open = true)")
        assert window.run("document.documentElement.scrollWidth") == width
        assert window.run("""[...document.querySelectorAll('body *:not(.hidden, .hidden *, .skip)')]
            .filter(one => one.checkVisibility() && !one.closest('thead'))
            .map(one => [one, one.getBoundingClientRect()])
            .filter(([, place]) => place.right > innerWidth + 0.5 || place.left < -0.5)
            .map(([one]) => one.outerHTML.slice(0, 80))""") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_follow_the_system_and_the_button_and_can_be_read(window, address, theme):
    window.open(address, theme=theme)
    window.run("localStorage.removeItem('theme')")
    window.open(address, theme=theme)
    other = {"light": "dark", "dark": "light"}[theme]
    for now in (theme, other):
        assert window.run("document.querySelector('#theme').getAttribute('aria-pressed')") == str(now == "dark").lower()
        # Text against what it lies on, as WCAG counts it.
        paper, lead, fine, label, sheet = window.run("""(() => {
            const rgb = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
            return [rgb('body', 'backgroundColor'), rgb('.lead', 'color'), rgb('.fine', 'color'),
                    rgb('svg text', 'fill'), rgb('.card', 'backgroundColor')];
        })()""")
        assert (luminance(paper) < 0.1) == (now == "dark")
        for text, ground in ((lead, paper), (label, paper), (fine, sheet)):
            bright, dim = sorted((luminance(text), luminance(ground)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5
        window.run("document.querySelector('#theme').click()")
    assert window.errors == []
    window.run("localStorage.removeItem('theme')")


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_it_can_be_used_by_keyboard_and_every_control_has_a_name(browser):
    def focused(what: str):
        return browser.run(f"document.activeElement.{what}")
    tab = {"code": "Tab", "windowsVirtualKeyCode": 9}
    enter = {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    browser.press("Tab", **tab)
    assert focused("textContent") == "Skip to the rows" and focused("getBoundingClientRect().left") >= 0
    browser.press("Tab", **tab)
    assert focused("id") == "theme"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = focused("getAttribute('aria-pressed')")
    browser.press("Enter", **enter)
    assert focused("getAttribute('aria-pressed')") != before
    browser.press("Enter", **enter)
    browser.run("document.querySelector('.skip').focus()")
    browser.press("Enter", **enter)
    assert browser.wait("location.hash") == "#rows"
    browser.press("Tab", **tab)
    assert focused("dataset.value") == ""  # "All", the first of the filters
    browser.press("Tab", **tab)
    browser.press("Enter", **enter)
    assert shown(browser) == wanted(lambda dataset, *_: dataset == "mucaps")
    browser.ask("Accessibility.enable")
    controls = [node for node in browser.ask("Accessibility.getFullAXTree")["nodes"]
                if node.get("role", {}).get("value") in
                ("button", "link", "slider", "searchbox", "spinbutton", "combobox", "img")]
    roles = {node["role"]["value"] for node in controls}
    assert {"button", "link", "slider", "searchbox", "spinbutton", "combobox"} <= roles
    assert [node for node in controls if not node["name"]["value"].strip()] == []
