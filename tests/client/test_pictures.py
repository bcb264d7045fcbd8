"""Pictures: whatever things are called, they are documents that say so."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.client.pictures import Kpi, Link, agents, causal_chain, kpi_dashboard
from mlflow_platform.errors import BadInput

#: Names as people give them: anything that XML can hold.
NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=60)
SVG = "{http://www.w3.org/2000/svg}"


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True), st.floats(0, 1))
def test_a_chain_names_every_cause_from_left_to_right(names: list[str], weight: float) -> None:
    links = [Link(a, b, weight) for a, b in pairwise(names)]
    root = ElementTree.fromstring(causal_chain(links, title=names[0]))  # noqa: S314 - our own
    boxes = {g.find(f"{SVG}title").text: g.find(f"{SVG}rect") for g in root.iter(f"{SVG}g")}
    assert list(boxes) == names
    places = [float(box.get("x")) for box in boxes.values()]
    assert places == sorted(set(places))
    assert len(list(root.iter(f"{SVG}path"))) == len(links) + 1


def test_an_arrow_past_a_column_goes_through_no_box() -> None:
    links = [Link("a", "b"), Link("b", "c"), Link("a", "c", 1.0, "straight")]
    root = ElementTree.fromstring(causal_chain(links))  # noqa: S314 - our own
    lowest = max(float(b.get("y")) + float(b.get("height")) for b in root.iter(f"{SVG}rect") if b.get("y"))
    ways = [path.get("d") for path in root.iter(f"{SVG}path") if path.get("stroke-width")]
    assert [w.count("C") for w in ways] == [1, 1, 0]
    assert float(ways[2].split("V")[1].split("H")[0]) > lowest
    (label,) = [t for t in root.iter(f"{SVG}text") if t.text == "straight 1.00"]
    assert lowest < float(label.get("y")) < float(root.get("height"))


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8))
def test_agents_may_go_round_in_circles(pairs: list[tuple[str, str]]) -> None:
    links = [Link(a, b) for a, b in pairs]
    tiers = {name: i % 3 for i, name in enumerate(dict.fromkeys(n for pair in pairs for n in pair))}
    root = ElementTree.fromstring(agents(links, tiers))  # noqa: S314 - our own
    height = float(root.get("height"))
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("y"):
            assert float(rect.get("y")) + float(rect.get("height")) <= height


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(BadInput, match="circle"):
        causal_chain([Link("a", "b"), Link("b", "a")])
    with pytest.raises(BadInput, match="no links"):
        causal_chain([])
    with pytest.raises(BadInput, match="without a tier: b"):
        agents([Link("a", "b")], {"a": 1})
    with pytest.raises(BadInput, match="has the weight 2"):
        Link("a", "b", 2)
    with pytest.raises(BadInput, match="no KPIs"):
        kpi_dashboard([])


def test_a_dashboard_says_which_targets_are_met() -> None:
    page = kpi_dashboard(
        [
            Kpi("up <b>", [0.1, 0.9], target=0.8),
            Kpi("down", [5, 9], "ms", target=3, lower_is_better=True),
            Kpi("unknown", [1, math.nan], target=1),
            Kpi("untold", [12345.6]),
            Kpi("none", []),
        ]
    )
    assert "1 of 2 targets met" in page
    assert "up &lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count('class="missed"') == 1
    assert "12,346" in page
    assert "nan" not in page
