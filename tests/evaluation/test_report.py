import csv
import html.parser
import math
import re

import numpy as np
import pytest

from monai_fusenet.evaluation import Example, format_totals, totals, typical_rows, write_report
from monai_fusenet.evaluation.figure import draw_confidence
from monai_fusenet.evaluation.levels import BASELINES, CLUSTERINGS, LEVELS, METRICS, OBJECT_METRICS, score_image

WITHOUT_OBJECTS = dict.fromkeys(OBJECT_METRICS, math.nan)


def row(method="ours", level="deployed", file="a.png", dice=0.5, **others):
    scores = dict.fromkeys(METRICS, dice) | WITHOUT_OBJECTS
    return {"file": file, "method": method, "level": level, **scores, "collapsed": 0.0} | others


@pytest.fixture
def rows():
    """Two methods and two baselines on five small images, scored for real."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(5):
        label = np.zeros((12, 17), int)
        label[3:9, 2 + number : 9 + number] = 1
        for method in ("ours", "theirs", *BASELINES[:2]):
            mask = label ^ (rng.random(label.shape) < 0.1)
            rows += [{"file": f"{number}.png", **r} for r in score_image(method, mask, mask + 1, label)]
    return rows


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, with every tag closed in order."""

    def __init__(self, text):
        super().__init__()
        self.text, self.links, self.tags, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_totals_by_hand():
    (total,) = totals(
        [row(file="a.png", dice=0.2, collapsed=1.0), row(file="b.png", dice=0.4), row(file="c.png", dice=0.9)]
    )
    assert (total["method"], total["level"], total["images"]) == ("ours", "deployed", 3)
    assert total["dice_mean"] == pytest.approx(0.5)
    assert total["dice_std"] == pytest.approx(math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2))
    assert (total["dice_worst"], total["dice_worst_file"]) == (0.2, "a.png")
    assert total["collapse_rate"] == pytest.approx(1 / 3)


@pytest.fixture
def seeded():
    """Two images with three seeds each; the means of the seeds are 0.5, 0.6 and 0.4."""
    dice = {("a.png", 0): 0.4, ("b.png", 0): 0.6, ("a.png", 7): 0.5, ("b.png", 7): 0.7}
    dice |= {("a.png", 9): 0.0, ("b.png", 9): 0.8}
    return [
        row("FuseNet", file=file, dice=value, seed=seed, seconds=1.0 + seed, peak_mib=500.0 + seed, clusters=4)
        | {"collapsed": float(value == 0)}
        for (file, seed), value in dice.items()
    ]


def test_totals_over_seeds_by_hand(seeded):
    (total,) = totals(seeded)
    assert (total["images"], total["seeds"]) == (2, 3)
    assert total["dice_mean"] == pytest.approx(0.5)
    # The images have 0.3 and 0.7 on average.
    assert total["dice_std"] == pytest.approx(math.sqrt(2 * 0.2**2))
    assert total["dice_seed_std"] == pytest.approx(0.1)
    assert (total["dice_worst_seed"], total["worst_seed"]) == (pytest.approx(0.4), 9)
    assert (total["dice_worst"], total["dice_worst_file"]) == (0.0, "a.png")
    assert total["collapse_rate"] == pytest.approx(1 / 6)
    assert total["seconds_mean"] == pytest.approx((1 + 8 + 10) / 3)
    assert total["peak_mib"] == 509


def test_an_image_that_failed_with_one_seed_counts_with_the_others(seeded):
    (total,) = totals(seeded[1:])
    assert (total["images"], total["seeds"]) == (2, 3)
    assert total["dice_mean"] == pytest.approx((0.25 + 0.7) / 2)


def test_totals_of_one_seed_have_no_spread_over_seeds(seeded):
    (total,) = totals(seeded[:2])
    assert math.isnan(total["dice_seed_std"])
    assert (total["seeds"], total["dice_worst_seed"], total["worst_seed"]) == (1, pytest.approx(0.5), 0)
    (total,) = totals([row()])
    assert total["worst_seed"] is None
    assert math.isnan(total["seconds_mean"])
    assert math.isnan(total["peak_mib"])


def test_summary_of_seeds_and_cost(seeded):
    title, line = format_totals([*seeded, row("2-means", file="a.png")]).split("\n\n")[1].splitlines()
    words = "summary seeds Dice ± images ± seeds worst seed collapsed clusters s/image peak MiB"
    assert title.split() == words.split()
    assert line.split() == [
        "FuseNet,",
        "deployed",
        "3",
        "0.500",
        "0.283",
        "0.100",
        "0.400",
        "(9)",
        "17%",
        "4.0",
        "6.3",
        "509",
    ]
    line = format_totals(seeded[:2]).splitlines()[-1]
    assert line.split() == ["FuseNet,", "deployed", "1", "0.500", "0.141", "-", "-", "0%", "4.0", "1.0", "500"]


def test_the_same_choice_is_named_where_it_chose():
    rows = [row(method, level) for method in ("ours", *BASELINES) for level in LEVELS]
    deployed, *others = format_totals(rows).split("\n\n")
    assert deployed.count("+ same choice") == 4
    assert all(f"{method} + same choice" in deployed for method in CLUSTERINGS)
    assert not any("same choice" in text for text in others)


def test_best_median_and_worst():
    rows = [row(file=f"{dice}.png", dice=dice) for dice in (0.5, 0.1, 0.9, 0.3)]
    rows += [row(level="oracle", dice=1.0), row("theirs", dice=0.0)]
    found = typical_rows(rows, "ours")
    assert [(place, found[place]["dice"]) for place in found] == [("best", 0.9), ("median", 0.3), ("worst", 0.1)]
    assert list(typical_rows(rows[:2], "ours")) == ["best", "worst"]
    assert list(typical_rows(rows[:1], "ours")) == ["best"]
    assert typical_rows(rows, "nobody") == {}


def test_totals_keep_levels_and_methods_apart_and_in_order():
    rows = [row(method, level) for level in reversed(LEVELS) for method in ("z", "a")]
    assert [(total["level"], total["method"]) for total in totals(rows)] == [
        (level, method) for level in LEVELS for method in ("z", "a")
    ]


def test_totals_of_missing_and_infinite_values():
    (total,) = totals([row(ari=math.nan, voi=math.nan, xor=1.0), row(ari=0.5, voi=math.nan, xor=math.inf)])
    assert total["ari_mean"] == 0.5
    assert math.isnan(total["ari_std"])
    assert math.isnan(total["voi_mean"])
    assert total["xor_mean"] == math.inf
    assert math.isnan(total["xor_std"])
    assert math.isnan(totals([row()])[0]["dice_std"])


def test_unknown_level_is_named():
    with pytest.raises(ValueError, match=r"^level must be one of deployed, partition, oracle, published, got 'best'$"):
        totals([row(level="best")])


def test_text_table():
    text = format_totals([row(file="a.png", dice=0.25), row(file="b.png", dice=0.75)])
    title, line = text.splitlines()
    assert title.split() == [
        "deployed", "images", "Dice", "worst", "IoU", "HD95", "surface", "HM", "XOR", "collapsed",
    ]  # fmt: skip
    assert line.split() == ["ours", "2", "0.500", "±0.354", "0.250", "0.500", "0.5", "0.500", "0.500", "0.500", "0%"]


def test_objects_have_columns_where_they_were_scored(tmp_path):
    rows = [row(file="a.png", ap50=0.25, ap75=0.125), row(file="b.png", ap50=0.75, ap75=0.0), row("2-means")]
    title, ours, theirs = format_totals(rows).splitlines()
    assert title.split()[-3:] == ["AP50", "AP75", "collapsed"]
    assert ours.split()[-3:] == ["0.500", "0.062", "0%"]
    assert theirs.split()[-3:] == ["-", "-", "0%"]
    page = write_report(rows, tmp_path / "with", ["Title"]).read_text(encoding="utf-8")
    assert page.count("<th>AP50</th><th>AP75</th>") == 1
    assert "<th>AP50</th>" not in write_report([row()], tmp_path / "without", ["Title"]).read_text(encoding="utf-8")


def test_text_table_fits_a_terminal():
    names = ["x" * 200, "short", *BASELINES]
    rows = [
        row(name, level, dice=0.123456, xor=123456.789, hd95=99999.0, clusters=128, collapsed=1.0, ap50=1.0)
        for name in names
        for level in LEVELS
    ]
    text = format_totals(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.split("\n\n")) == 4
    assert text.count("…") >= 4
    for block in text.split("\n\n"):
        assert len({len(line) for line in block.splitlines()}) == 1  # columns line up


def test_text_table_shows_what_is_missing():
    line = format_totals([row(xor=math.inf, iou=math.nan)]).splitlines()[1]
    assert line.split() == ["ours", "1", "0.500", "±-", "0.500", "-", "0.5", "0.500", "0.500", "inf", "0%"]


def test_files_of_a_report(rows, tmp_path):
    report = write_report(rows, tmp_path / "new" / "folder", ["Title", "a line"])
    assert report == tmp_path / "new" / "folder" / "report.html"
    assert sorted(path.name for path in report.parent.iterdir()) == ["report.html", "scores.csv", "totals.csv"]

    with open(report.with_name("scores.csv"), newline="") as file:
        scores = list(csv.DictReader(file))
    assert list(scores[0]) == ["file", "method", "seed", "level", *METRICS, "collapsed"]
    assert len(scores) == len(rows)
    for written, given in zip(scores, rows, strict=True):
        assert written["file"] == given["file"]
        assert float(written["hd95"]) == pytest.approx(given["hd95"], rel=1e-5)
        assert float(written["ari"]) == pytest.approx(given["ari"], rel=1e-5, nan_ok=True)

    with open(report.with_name("totals.csv"), newline="") as file:
        for written, given in zip(csv.DictReader(file), totals(rows), strict=True):
            assert written["method"] == given["method"]
            assert float(written["dice_mean"]) == pytest.approx(given["dice_mean"], rel=1e-5)


def test_further_keys_become_columns(tmp_path):
    report = write_report([row(seconds=1.5), row(file="b.png", note="x")], tmp_path, ["Title"])
    with open(report.with_name("scores.csv"), newline="") as file:
        scores = list(csv.DictReader(file))
    assert [(score["seconds"], score["note"]) for score in scores] == [("1.5", ""), ("", "x")]


def test_page_stands_alone_and_explains_every_level(rows, tmp_path):
    text = write_report(rows, tmp_path, ["Title", "a line"]).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert page.tags.count("table") == 4
    assert page.tags.count("img") == 1
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not re.search(r"@import|url\(", text)
    positions = [text.index(f"<h2>{level}</h2>") for level in LEVELS]
    assert positions == sorted(positions)
    for meaning in LEVELS.values():
        assert meaning in page.text
    for method in ("ours", *BASELINES[:2]):
        assert page.text.count(method) == 4


def test_pictures_and_summary_on_the_page(seeded, tmp_path):
    examples = [Example("best: <a>.png", b"one"), Example("worst: b.png", b"two")]
    text = write_report(seeded, tmp_path, ["Title"], examples=examples).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("table") == 2
    assert "0.400 (9)" in page.text
    assert page.links[1:] == ["data:image/jpeg;base64,b25l", "data:image/jpeg;base64,dHdv"]
    assert "best: <a>.png" in page.text


def test_names_are_escaped(tmp_path):
    evil = '<script>alert("1")</script> $x_ & co'
    rows = [row(evil, level, file='"><b>.png') for level in LEVELS]
    text = write_report(rows, tmp_path, [evil, evil]).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.text.count(evil) == 7  # title of window and page, a line, four tables


def test_file_name_that_is_no_utf8(tmp_path):
    text = write_report([row(file="caf\udce9.png")], tmp_path, ["caf\udce9"]).read_text(encoding="utf-8")
    assert "caf\\udce9" in text
    assert "caf\\udce9.png" in (tmp_path / "scores.csv").read_text(encoding="utf-8")


def test_equal_scores_write_equal_files(rows, tmp_path):
    for folder in ("a", "b"):
        write_report(rows, tmp_path / folder, ["Title"])
    for name in ("scores.csv", "totals.csv", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_report_without_deployed_scores(tmp_path):
    text = write_report([row(level="oracle")], tmp_path, []).read_text(encoding="utf-8")
    assert text.count("No scores at this level.") == 3
    assert "<img" not in text
    assert "<h1>Evaluation</h1>" in text


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match=r"^there are no scores to report: rows is empty$"):
        write_report([], tmp_path / "folder", ["Title"])
    nameless = row()
    del nameless["file"]
    with pytest.raises(ValueError, match=r"^every row must name its image under 'file', got only method, level, dice"):
        write_report([nameless], tmp_path / "folder", ["Title"])
    assert not (tmp_path / "folder").exists()


def sure_rows(count, told=lambda number: 0.5 + number / 20):
    return [row(file=f"{n}.png", dice=0.4 + n / 20, confidence=told(n)) for n in range(count)]


def picture_texts(svg):
    return re.findall(r"<!-- (.*?) -->", svg.decode())


def test_confidence_is_drawn_beside_the_dice_it_was_worth():
    texts = picture_texts(draw_confidence([*sure_rows(5), row("2-means", file="0.png")]))
    assert "rank correlation 1.00, mean difference 0.10" in texts
    assert {"confidence", "deployed Dice"} <= set(texts)
    texts = picture_texts(draw_confidence(sure_rows(6, told=lambda number: 0.9)))
    assert "mean difference 0.38" in texts  # of 0.9 and 0.4 to 0.65: 0.375; no rank is higher than another
    texts = picture_texts(draw_confidence(sure_rows(5, told=lambda number: 0.95 - number / 5)))
    assert any(text.startswith("rank correlation -1.00, ") for text in texts)


def test_a_few_images_say_nothing_of_confidence():
    assert draw_confidence(sure_rows(4)) is None
    assert draw_confidence([row(file=f"{n}.png") for n in range(9)]) is None
    assert draw_confidence([row(file=f"{n}.png", confidence=1.0) for n in range(9)]) is None  # accepted ones


def test_the_page_shows_confidence_where_it_is_known(tmp_path):
    for rows, shown in ((sure_rows(5), True), (sure_rows(4), False)):
        page = write_report(rows, tmp_path, ["Title"]).read_text("utf-8")
        assert ("Deployed Dice against confidence" in page) is shown
    assert "confidence" in (tmp_path / "scores.csv").read_text("utf-8").splitlines()[0].split(",")
