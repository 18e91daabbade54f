"""docs/models.md keeps up with the plug-ins: a section for each, its sources, its options, and configs that work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from service.contract.manifest import EntireSpace
from training.config import (
    ModelConfig,
    PipelineConfig,
    PluginConfig,
    PresentationConfig,
    check_plugins,
)
from training.plugins import load_plugin, plugin_names

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "models.md"
CHAPTERS = {
    "backbones": "Backbones",
    "interest": "Interest modules",
    "losses": "Losses",
    "optim": "Optimizers",
    "calibration": "Calibration",
}
PLUGINS = [(kind, name) for kind in CHAPTERS for name in plugin_names(f"training.{kind}")]
COUNTED = ("match", "popularity")
HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
SNIPPET = re.compile(r"^```yaml (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
LINK = re.compile(r"\]\(([^)]+)\)")
LEAST = {
    "workspace": "runs/x",
    "dataset": {"source": "complete_journey"},
    "embed": {"backbone": "mlp"},
    "models": {"x": {"backbone": "mlp"}},
}


@dataclass(frozen=True)
class Section:
    """What stands under a heading, and under which chapter's; of a chapter, what comes before its first section."""

    chapter: str
    title: str
    text: str


def sections() -> Iterator[Section]:
    """Yield all sections of the page."""
    page = re.sub(
        r"^```.*?^```$", lambda found: found[0].replace("\n#", "\n\t#"), PAGE.read_text(), flags=re.M | re.S
    )
    found = list(HEADING.finditer(page))
    chapter = ""
    for heading, after in zip(found, [*found[1:], None], strict=True):
        title = heading[2].strip("`")
        chapter = title if len(heading[1]) < 3 else chapter
        yield Section(chapter, title, page[heading.end() : after.start() if after else len(page)])


SECTIONS = {(section.chapter, section.title): section for section in sections()}
SNIPPETS = [
    pytest.param(kind, text, id=f"{section.title}-{number}")
    for section in SECTIONS.values()
    for number, (kind, text) in enumerate(SNIPPET.findall(section.text))
]


def section_of(kind: str, name: str) -> Section:
    chapter = CHAPTERS[kind]
    assert (chapter, name) in SECTIONS, f"{PAGE.name} has no section `{name}` under {chapter}"
    return SECTIONS[chapter, name]


def model_of(snippet: str) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load(snippet))


def plugins_in(model: ModelConfig, kind: str) -> list[PluginConfig]:
    return {
        "backbones": [model.backbone],
        "interest": list(model.interests),
        "losses": list(model.losses.values()),
        "optim": [model.fit.optimizer],
        "calibration": [model.calibration] if model.calibration else [],
    }[kind]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_method_has_a_section_with_a_config_that_uses_it(kind: str, name: str) -> None:
    snippets = [text for fence, text in SNIPPET.findall(section_of(kind, name).text) if fence == "model"]
    assert any(name in [p.name for p in plugins_in(model_of(text), kind)] for text in snippets)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_section_cites_what_the_methods_file_cites(kind: str, name: str) -> None:
    documented = load_plugin(f"training.{kind}", name).__doc__ or ""
    assert set(ARXIV.findall(documented)) <= set(ARXIV.findall(section_of(kind, name).text))


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_a_section_names_all_options_and_no_others(kind: str, name: str) -> None:
    text = section_of(kind, name).text
    listed = re.search(r"^- Options: (.*?)(?=^- |\Z)", text, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+)`", listed[1])) if listed else set()
    fields = load_plugin(f"training.{kind}", name).Options.model_fields
    assert set(fields) <= named
    values = {str(value) for field in fields.values() for value in _literals(field.annotation)}
    assert named - set(fields) <= values


def _literals(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [value for one in inner for value in (_literals(one) or ([one] if isinstance(one, str) else []))]


@pytest.mark.parametrize("name", COUNTED)
def test_what_is_counted_has_a_section(name: str) -> None:
    assert ("Counted features", name) in SECTIONS


@pytest.mark.parametrize(
    ("chapter", "choices"),
    [
        ("Tasks that need a click", get_args(EntireSpace)),
        ("Presentation", get_args(PresentationConfig.model_fields["mode"].annotation)),
    ],
)
def test_a_chapter_names_all_choices(chapter: str, choices: tuple[str, ...]) -> None:
    text = SECTIONS[chapter, chapter].text
    assert [choice for choice in choices if f"\n- `{choice}`" not in text] == []


def test_no_section_is_of_a_method_that_there_is_not() -> None:
    of_plugins = {(CHAPTERS[kind], name) for kind, name in PLUGINS}
    methods = {
        (s.chapter, s.title)
        for s in SECTIONS.values()
        if s.chapter in CHAPTERS.values() and s.title != s.chapter
    }
    assert methods - of_plugins == {("Backbones", "A model per domain")}


@pytest.mark.parametrize(("kind", "text"), SNIPPETS)
def test_a_config_of_the_page_is_one(kind: str, text: str) -> None:
    content = yaml.safe_load(text)
    if kind == "model":
        content = {"models": {"x": content}}
    assert kind in ("model", "pipeline")
    check_plugins(PipelineConfig.model_validate(LEAST | content))


def anchors_of(page: Path) -> set[str]:
    titles = [title for _, title in HEADING.findall(page.read_text())]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere() -> None:
    for link in LINK.findall(PAGE.read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            page = PAGE.parent / file if file else PAGE
            assert page.exists(), link
            assert not anchor or anchor in anchors_of(page), link
