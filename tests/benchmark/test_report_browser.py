"""The report's page in a real browser: quiet, legible at both widths and in both schemes, sortable by keyboard."""

import json

import pytest
from made_points import KERNELS, TIMELINE, point, write, write_log

from benchmark.report import main
from benchmark.reports.drawing import DOTS, SMALL

# Of WCAG 2: the contrast of the text of an element with the background that it stands on.
CONTRAST = """
selector => {
  const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const back = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  return Math.min(...[...document.querySelectorAll(selector)].map(element => {
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(back(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
}
"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    points = [
        point(rate * size, batch_size=size, repeat=repeat, compile=compiled)
        for compiled, rate in ((False, 9.0), (True, 10.0))
        for size in (8, 64, 128)
        for repeat in range(2)
    ]
    points += [point(batch_size=256, status="out_of_memory"), point(batch_size=512, status="failed")]
    write(folder / "sweep", points)
    (folder / "sweep" / "kernels.json").write_text(json.dumps(KERNELS))
    (folder / "sweep" / "timeline.json").write_text(json.dumps(TIMELINE))
    write_log(folder / "run", [9.0, 8.0, 7.0])
    main([str(folder / "sweep"), str(folder / "run"), "--output_dir", str(folder / "out")])
    return folder / "out" / "report.html"


@pytest.fixture(params=((1280, "light"), (390, "dark")), ids=("wide and light", "narrow and dark"))
def page(browser, page_file, request):
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda asked: opened.asked.append(asked.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()


def test_it_is_quiet_and_asks_for_nothing(page, page_file):
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page_file.as_uri()]


def test_it_never_scrolls_sideways(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_text_stands_out_and_is_large_enough(page):
    for selector in ("h1", "h2", "h3", "p", "li", "td", "th button", "figcaption", "summary", ".tile strong"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    elements = "[...document.querySelectorAll('h1, h2, h3, p, li, td, th, figcaption')]"
    sizes = f"{elements}.map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(page.evaluate(sizes)) >= 12


def test_the_report_card_is_on_the_first_screen(page):
    top, bottom = page.evaluate("(e => [e.top, e.bottom])(document.querySelector('.card').getBoundingClientRect())")
    assert top < 200
    assert page.viewport_size["width"] < 1280 or bottom < page.viewport_size["height"]
    verdicts = page.locator(".tile strong[class]").all_inner_texts()
    assert verdicts == ["OK", "OK"]


def test_pictures_are_there_in_words_too_and_follow_the_scheme(page):
    pictures = page.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth, i.currentSrc === i.src])")
    assert len(pictures) >= 6
    light = page.evaluate("!matchMedia('(prefers-color-scheme: dark)').matches")
    for words, width, is_light in pictures:
        assert len(words) > 20
        assert width > 0
        assert is_light == light


def test_letters_in_pictures_are_legible(page):
    widths = page.evaluate("[...document.images].map(i => i.clientWidth / i.naturalWidth)")
    smallest = SMALL / 72 * DOTS  # pixels of the file
    assert min(widths) * smallest >= 9


def test_links_lead_to_the_sources(page):
    assert page.get_by_role("link").first.get_attribute("href").startswith("https://github.com/NVIDIA/")


def test_tables_sort_by_keyboard(page):
    heading = page.locator("th", has_text="sequences/s").first
    column = heading.evaluate("e => e.cellIndex")
    cells = f"[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[{column}].textContent)"
    assert heading.get_attribute("aria-sort") == "none"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    rising = page.evaluate(cells)
    assert rising == ["72.0", "80.0", "576.0", "640.0", "1,152.0", "1,280.0", "-", "-"]
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.evaluate(cells) == rising[::-1]
