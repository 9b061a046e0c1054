"""The page and the card: safe with hostile text, self-contained, agreeing on the numbers, whole when parts lack."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from tests.report.factory import Results, make_facts, make_results, make_verdict, wilson, with_answer

from excise.report import Facts, base_licence, render_card, render_page, sentences, words
from excise.report.answers import CAPS, pair_up
from excise.results import EditPlan, Front, Prompt, Separation

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</style></title></textarea><!-- ",
    "\"><img src=x onerror=alert(3)> ' onmouseover='alert(4)",
    "{{ 7 * 7 }} {% include 'page.css' %} {# gone #}",
    '<a href="https://evil.example/">x</a> <iframe src="//evil.example"></iframe>',
    "[x](javascript:alert(5)) | a | b | ``` \n# heading\n---\nlicense: mine",
)
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(where, self.text).append(data)
        if {"td", "th"} & set(self.open) and "small" not in self.open:
            self.tables[-1][-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results(per_topic=6, neutral=8)


def hostile_facts(results: Results, text: str) -> Facts:
    """Foreign text wherever results can carry it."""
    prompt = Prompt(text, system=text, answer=text, topic=text)
    verdict = with_answer(results.verdict, text, prompt=prompt)
    topics = {text: verdict.base.topics["bridge"], "bridge": verdict.base.topics["bridge"]}
    drift = verdict.edited.drift
    assert drift is not None
    edited = replace(verdict.edited, topics=topics, drift=replace(drift, worst=((text, 1.0),)))
    reasoned = replace(edited.target[0], answer=replace(edited.target[0].answer, reasoning=text), reason=text)
    edited = replace(edited, target=(reasoned, *edited.target[1:]))
    controls = (replace(verdict.controls[0], name=text),)
    rounds = (replace(results.front.rounds[0], directions=text, starts={text: 0.1}),)
    return make_facts(
        results,
        verdict=replace(verdict, edited=edited, controls=controls, notes=(text,)),
        behaviour=replace(results.behaviour, name=text, title=text, description=text, verb=text),
        front=replace(results.front, rounds=rounds, stopped=text),
        directions=replace(results.directions, source=text, method=text),
        prompts=replace(results.prompts, dropped={text: 2}),
        model=replace(results.model, source=text, path=text, revision=text, dtype_reason=text),
        settings={text: text, "list": [text]},
        versions={text: text},
        licence={"license": text},
        command=text,
        judge=text,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(results: Results, text: str) -> None:
    honest, page = Page(render_page(make_facts(results))), Page(render_page(hostile_facts(results, text)))
    assert not page.open
    assert len(page.scripts) == len(page.styles) == 1
    assert page.scripts == honest.scripts and page.styles == honest.styles
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in honest.tags} | {"small", "p", "li", "details", "summary"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert text in "".join(page.text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_the_card_is_neither_yaml_nor_html(results: Results, text: str) -> None:
    card = render_card(hostile_facts(results, text))
    _, front, body = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert set(found) == {"base_model", "license", "library_name", "pipeline_tag", "tags"}
    assert found["license"] == " ".join(text.split())
    fence = re.search(r"^(`{3,})sh\n.*?^\1\n", body, re.M | re.S)
    assert fence is not None and text in fence[0]
    plain = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body.replace(fence[0], ""))
    assert not re.search(r"(?<!\\)<", plain)
    assert not re.search(r"(?<!\\)\]\(javascript", plain)


def test_page_loads_nothing_from_elsewhere(results: Results) -> None:
    page = Page(render_page(hostile_facts(results, HOSTILE[5])))
    assert not page.attributes("src") and not page.attributes("srcset") and not page.attributes("style")
    assert all(target.startswith("#") for target in page.attributes("href"))
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import|https?:", "".join(page.styles + page.scripts))


def test_policy_names_exactly_this_script_and_style(results: Results) -> None:
    page = Page(render_page(make_facts(results)))
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    for text in (*page.scripts, *page.styles):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_page_is_well_formed_and_can_be_used_by_keyboard(results: Results) -> None:
    page = Page(render_page(make_facts(results)))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.attributes("href")} <= set(ids)
    assert {name for names in page.attributes("aria-labelledby") for name in names.split()} <= set(ids)
    assert all("tabindex" in attrs for _, attrs in page.tags if attrs.get("class") == "box")
    assert sum(tag == "h1" for tag, _ in page.tags) == 1


def test_size_stays_below_three_megabytes_whatever_is_said(results: Results) -> None:
    verdict = with_answer(results.verdict, "<&'\"" * 2000, times=600)
    page = render_page(make_facts(results, verdict=verdict))
    assert len(page.encode()) <= 3_000_000
    assert "more characters)" in page
    crowd = with_answer(results.verdict, "<" * 2000, times=4000)
    pairs = pair_up(crowd)
    assert pairs.cap == CAPS[-1] and pairs.left_out > 0
    assert {pair.side for pair in pairs.shown} == {"target", "neutral"}
    page = render_page(make_facts(results, verdict=crowd))
    assert len(page.encode()) <= 3_000_000 and "did not fit on this page" in page


def test_card_and_page_show_the_same_numbers(results: Results) -> None:
    facts = make_facts(results)
    page, card = Page(render_page(facts)), render_card(facts)
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    known = {row[0]: row[1:] for row in rows}
    for table in page.tables[:2]:  # the verdict and the topics
        assert len(table) > 4
        for label, *values in table:
            assert [" ".join(value.split()) for value in values] == known[" ".join(label.split())]
    assert sentences.headline(facts) in card and sentences.headline(facts) in "".join(page.text)


def test_equal_results_give_equal_bytes_and_the_card_knows_no_clock() -> None:
    assert render_page(make_facts()) == render_page(make_facts())
    slow = make_results()
    rounds = tuple(replace(one, seconds=one.seconds + 100) for one in slow.front.rounds)
    changed = make_facts(slow, front=replace(slow.front, rounds=rounds))
    assert render_card(changed) == render_card(make_facts())
    assert render_page(changed) != render_page(make_facts())


def test_missing_parts_are_left_out(results: Results) -> None:
    bare = make_results(per_topic=5, neutral=0, topics=("only",), right=False)
    verdict = make_verdict(5, 0, ("only",), right=False)
    edited = replace(verdict.edited, drift=None, kept=None, target=(), neutral=())
    verdict = replace(verdict, base=replace(verdict.base, target=(), neutral=()), edited=edited, controls=(), notes=())
    facts = make_facts(
        bare,
        verdict=verdict,
        front=Front((), 0, (), "gradient", "rounds"),
        separation=None,
        directions=None,
        budget=None,
        plan=EditPlan(()),
        licence=None,
        judge="",
    )
    page, card = render_page(facts), render_card(facts)
    text = "".join(Page(page).text)
    for absent in ("By topic", "Right answers", "KL per token, mean", "Before and after", "nan", "None", "Control"):
        assert absent not in text and absent not in card
    assert "the plan is empty" in text.lower() and "nothing to draw" in text
    assert render_page(make_facts(bare, front=None, separation=None))


def test_odd_numbers_are_drawn(results: Results) -> None:
    auroc = torch.tensor([[float("nan"), 0.2]], dtype=torch.float64)
    candidates = tuple(
        replace(one, terms=replace(one.terms, neutral=drift), confirmed=None)
        for one, drift in zip(results.front.candidates, (0.0, -1e-9, float("inf"), float("nan"), 1e-7), strict=False)
    )
    unseen = replace(results.verdict, base=replace(results.verdict.base, behaviour=wilson(0, 0)))
    page = render_page(
        make_facts(
            results,
            separation=Separation(auroc, auroc, auroc),
            front=replace(results.front, candidates=candidates, chosen=99),
            verdict=unseen,
            budget=0.0,
        )
    )
    svg = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(svg) == 4
    assert not re.search(r'="(nan|inf|-inf)"|nan,|,nan', "".join(svg))


@pytest.mark.parametrize("change", ["text", "prompt"])
def test_text_that_utf8_cannot_hold(results: Results, change: str) -> None:
    odd = "a\x00b\x1b[31m\ud800c\u202ed\r\ne"
    prompt = Prompt(odd) if change == "prompt" else None
    facts = make_facts(results, verdict=with_answer(results.verdict, odd, prompt=prompt), command=odd, judge=odd)
    for made in (render_page(facts), render_card(facts)):
        assert "a␀b␛[31m\ufffdc\ufffdd" in made
        assert not re.search("[\x00\x1b\u202e\r]", made)
        made.encode()


def test_cautions(results: Results) -> None:
    verdict = results.verdict
    assert sentences.cautions(make_facts(results)) == ()
    same = replace(verdict, edited=replace(verdict.edited, behaviour=verdict.base.behaviour))
    assert "overlap" in sentences.cautions(make_facts(results, verdict=same))[0]
    rival = replace(verdict.controls[0], behaviour=verdict.edited.behaviour)
    said = sentences.cautions(make_facts(results, verdict=replace(verdict, controls=(rival,))))
    assert len(said) == 1 and said[0].startswith("Control: random direction does about as well")
    broken = replace(verdict.edited, gibberish=wilson(20, 24))
    assert "More gibberish" in sentences.cautions(make_facts(results, verdict=replace(verdict, edited=broken)))[0]
    assert "select split" in sentences.cautions(make_facts(results, verdict=replace(verdict, split="select")))[0]


def test_headline_without_a_verb(results: Results) -> None:
    facts = make_facts(results, behaviour=replace(results.behaviour, verb=""))
    assert "On 24 unseen prompts the edited model shows refusal on 4.2% (" in sentences.headline(facts)


@pytest.mark.parametrize(
    ("source", "path", "wanted"),
    [
        ("org/name", "/cache/models--org--name/snapshots/0a", "org/name"),
        ("org/name", "/here/org/name", "name"),
        ("../org/name", "/org/name", "name"),
        ("/home/someone/secret/name/", "/home/someone/secret/name", "name"),
        (".", "/home/someone/name", "name"),
    ],
)
def test_base_model_is_an_id_or_a_folder_name(results: Results, source: str, path: str, wanted: str) -> None:
    facts = make_facts(results, model=replace(results.model, source=source, path=path))
    assert yaml.safe_load(render_card(facts).split("---\n")[1])["base_model"] == wanted
    assert "someone" not in render_card(facts)


def test_base_licence(tmp_path: Path) -> None:
    assert base_licence(tmp_path) == {}
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: mine\ntags: [a]\n---\ntext\n")
    assert base_licence(tmp_path) == {"license": "other", "license_name": "mine"}
    for damaged in ("---\nlicense: [a\n---\n", "---\njust words\n---\n", "no front matter", "---\nlicense: [a]\n---\n"):
        card.write_text(damaged)
        assert base_licence(tmp_path) == {}
    card.write_bytes(b"\xff\xfe---\n")
    assert base_licence(tmp_path) == {}


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (words.rate(wilson(1, 640)), "0.2% (0.0–0.9%)"),
        (words.rate(wilson(0, 100)), "0.0% (0.0–3.7%)"),
        (words.rate(wilson(0, 0)), "–"),
        (words.rate(None), "–"),
        (words.percent(1e-5), "<0.1%"),
        (words.percent(1 - 1e-5), ">99.9%"),
        (words.tally(wilson(1, 1640)), "1 of 1,640"),
        (words.kl(0.00123), "0.0012"),
        (words.kl(0.0999), "0.10"),
        (words.kl(1.43), "1.4"),
        (words.kl(14.3), "14"),
        (words.kl(0.0), "0"),
        (words.kl(3.21e-7), "3.2\u00a0×\u00a010⁻⁷"),
        (words.kl(-0.002), "−0.0020"),
        (words.kl(float("nan")), "–"),
        (words.kl(float("inf")), "∞"),
        (words.signed(-0.123), "−0.12"),
        (words.size(8_030_261_248), "8.0 billion"),
        (words.seconds(200.0), "3 min 20 s"),
        (words.plural(1, "prompt"), "1 prompt"),
    ],
)
def test_numbers_in_words(made: str, wanted: str) -> None:
    assert made == wanted
