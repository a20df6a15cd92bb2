from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
import torch
from torch import Tensor

from crucible_components.merging.reporting import MergeReport, TensorFigures, render_report

Gather = Callable[..., TensorFigures]
Render = Callable[..., str]
HOSTILE = '<script>alert("1")</script>&\'"'
VOID = {"br", "hr", "img", "meta"}
LAYER = "model.layers.{}.{}.weight"
NAMES = [LAYER.format(n, m) for n in range(3) for m in ("self_attn.q", "mlp.up", "input_layernorm")]
NAMES += ["model.embed_tokens.weight", "model.visual.blocks.0.attn.qkv.weight"]


class Page(HTMLParser):
    """Checks nesting while it reads; keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def shown(self) -> str:
        return " ".join(self.text)


def pictures(text: str) -> list[ET.Element]:
    return [ET.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]


def titles(text: str) -> list[str]:
    return [each.text or "" for svg in pictures(text) for each in svg.iter("title")]


@pytest.fixture
def render(gather: Gather, orthogonal: Callable[..., Tensor]) -> Render:
    """The page of a merge 3 : 1 of two sources, or of what is told."""

    def render(
        *,
        names: list[str] = NAMES,
        has_base: bool = True,
        sources: tuple[str, ...] = ("org/math", "org/code"),
        **fields: object,
    ) -> str:
        base_N, changes_KN = torch.ones(64), orthogonal(len(sources))
        weights_K = torch.tensor([0.75, *[0.25 / max(1, len(sources) - 1)] * (len(sources) - 1)])
        merged_N = weights_K @ (base_N + changes_KN) if len(sources) > 1 else base_N + changes_KN[0]
        origin_N = base_N if has_base else None
        figures = [
            gather(base_N + changes_KN, origin_N, merged_N, name=name, sources=sources)
            for name in names
        ]
        report: dict[str, object] = {
            "figures": figures,
            "method": "ties",
            "parameters": {"density": "0.6", "dtype": "bfloat16"},
            "sources": sources,
            "base": "org/base" if has_base else None,
            **fields,
        }
        return render_report(MergeReport(**report))  # type: ignore[arg-type]

    return render


def test_page_shows_recipe_figures_and_lists(render: Render) -> None:
    page = Page(render(notes=["w: copied, shape differs"], tokenizer_differences=["id 5 is <x>"]))
    for words in ("ties of 2 models; changes are relative to org/base.", "0.6", "bfloat16"):
        assert words in page.shown
    for words in ("75.0 %", "25.0 %", "12.500 %", "0.949", "0.316"):  # shares, change, cosines
        assert words in page.shown
    assert "w: copied, shape differs" in page.text
    assert "id 5 is <x>" in page.text
    assert "Nothing about the merge looks doubtful." in page.shown


def test_page_needs_nothing_else_and_its_links_lead_somewhere(render: Render) -> None:
    text = render()
    page = Page(text)
    assert {link[:1] for link in page.links} == {"#"}
    assert {link[1:] for link in page.links} == set(page.ids)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "default-src &#x27;none&#x27;" in text
    assert "prefers-color-scheme:dark" in text


def test_pictures_are_xml_whose_fields_tell_their_figures(render: Render) -> None:
    found = titles(render())
    for module in ("self_attn", "mlp", "norms"):
        for layer in range(3):
            assert f"model.layers.{layer}.{module}: 75.0 %" in found
            assert f"model.layers.{layer}.{module}: 25.0 %" in found
    assert "language embed: 75.0 %" in found
    assert "model.visual.blocks.0.self_attn: 25.0 %" in found
    assert any("over layer: org/math ends at 12.5, org/code ends at 12.5" in t for t in found)


def test_colour_follows_the_share(render: Render) -> None:
    found = {}
    for svg in pictures(render()):
        for group in svg.iter("g"):
            title, boxes = group.find("title"), group.findall("rect")
            if title is not None and boxes:
                key = (title.text or "").split(":")[0], boxes[-1].get("fill")
                found[key] = float(boxes[-1].get("fill-opacity") or 0)
    field = "model.layers.1.mlp"
    assert found[field, "var(--series-1)"] == pytest.approx(0.75, abs=1e-3)
    assert found[field, "var(--series-2)"] == pytest.approx(0.25, abs=1e-3)
    assert found[field, "var(--bad)"] == 1.0


def test_modules_are_folded_by_stack_and_layer(render: Render) -> None:
    page = Page(render())
    assert page.tags.count("details") == 3 + 5  # stacks and outside; 3 + 1 layers and outside
    assert "model.layers.2 · 192 parameters" in page.text
    assert page.tags.count("table") == 1 + 5
    heads = "module,parameters,share of 1,share of 2,change of 1,change of 2,merged change"
    at = page.text.index("module")
    assert page.text[at : at + 9] == [*heads.split(","), "mean cosine", "sign conflicts"]
    row = ["self_attn", "64", "75.0 %", "25.0 %", "12.500 %", "12.500 %", "9.882 %", "0.000"]
    at = page.text.index("64") - 1
    assert page.text[at : at + 8] == row


@pytest.mark.parametrize("where", ["names", "sources", "base", "method", "notes", "tokenizer"])
def test_hostile_text_stays_text(render: Render, where: str) -> None:
    text = render(
        **{
            "names": {"names": [f"{HOSTILE}.layers.0.{HOSTILE}.weight", *NAMES]},
            "sources": {"sources": (HOSTILE, "b")},
            "base": {"base": HOSTILE},
            "method": {"method": HOSTILE, "parameters": {HOSTILE: HOSTILE}},
            "notes": {"notes": [HOSTILE]},
            "tokenizer": {"tokenizer_differences": [HOSTILE]},
        }[where]
    )
    page = Page(text)
    assert "script" not in page.tags
    assert HOSTILE.lower() in page.shown.lower(), "the name is shown as it is"
    assert pictures(text), "pictures are still XML"


def test_page_without_base_tells_no_cosines(render: Render) -> None:
    text = render(has_base=False)
    page = Page(text)
    assert "there is no base" in page.shown
    assert "75.0 %" in page.shown
    for word in ("cosine with merged", "Sign conflicts", "Mean cosine"):
        assert word in Page(render()).shown
        assert word not in page.shown


@pytest.mark.parametrize(
    ("options", "num_sections"),
    [
        ({"names": []}, 8),  # no base is known of, so no sign conflicts
        ({"names": ["bias"]}, 9),
        ({"sources": ("only",)}, 9),
        ({"sources": tuple("abcdefgh")}, 9),
    ],
    ids=["no tensors", "no layers", "one source", "more sources than colours"],
)
def test_odd_merges_have_a_page(
    render: Render, options: dict[str, list[str]], num_sections: int
) -> None:
    text = render(**options)
    assert Page(text).tags.count("section") == num_sections
    assert len(pictures(text)) == text.count("<svg")


def test_what_is_not_finite_is_told(render: Render, gather: Gather) -> None:
    bad = gather(torch.full((2, 8), torch.nan), torch.ones(8), torch.ones(8), name=NAMES[0])
    text = render(figures=[TensorFigures(**{**vars(bad), "sources": ("org/math", "org/code")})])
    assert "NaN or infinity in model.layers.0.self_attn.q.weight." in Page(text).shown
    assert "model.layers.0.self_attn: not finite" in titles(text)
    assert not re.search(r"\bnan\b", text)


def test_unchanged_modules_are_outlined(render: Render, gather: Gather) -> None:
    base_N = torch.ones(8)
    kept = gather((base_N + 1).expand(2, -1), base_N, base_N, name=NAMES[0])
    text = render(figures=[kept], sources=("a", "b"))
    assert "model.layers.0.self_attn: unchanged" in titles(text)
    assert "The result equals the base" in Page(text).shown
