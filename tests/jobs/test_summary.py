"""The table at the end of a run shows the manifest's figures, whatever the groups are called."""

from __future__ import annotations

from typing import Any

from tamis.jobs.summary import GROUPS_SHOWN, UNMET_SHOWN, summary


def manifest(*groups: tuple[str, int, int]) -> dict[str, Any]:
    read, kept = sum(group[1] for group in groups), sum(group[2] for group in groups)
    totals = {"read": read + 2, "kept": kept, "dropped": read - kept, "dead": 2}
    return {
        "groups": [
            {"group": name, "documents": documents, "kept": kept, "kept_tokens": 10 * kept}
            for name, documents, kept in groups
        ],
        "totals": {name: {"documents": count} for name, count in totals.items()},
        "similarity": {"relevance": {"kl_reduction": 0.12345, "kl_reduction_wiki": -1.0}},
    }


def test_figures_of_groups_and_totals() -> None:
    lines = summary(manifest(("small", 1000, 250), ("", 3000, 250))).splitlines()
    assert lines[0].split() == ["group", "documents", "read", "share", "documents", "kept", "share", "tokens", "kept"]
    assert lines[1].split() == ["(none)", "3,000", "75.0%", "250", "50.0%", "2,500"]
    assert lines[2].split() == ["small", "1,000", "25.0%", "250", "50.0%", "2,500"]
    assert lines[3] == "4,002 documents read: 500 kept, 3,500 dropped, 2 dead"
    assert lines[4:] == [
        "relevance: kl reduction +0.1235 nats per n-gram",
        "relevance: kl reduction wiki -1.0000 nats per n-gram",
    ]


def test_names_of_groups_are_text_and_no_markup() -> None:
    text = summary(manifest(("[/bold]", 2, 1), ("[red]", 2, 1), (":smile:", 2, 1)))
    assert all(name in text for name in ("[/bold]", "[red]", ":smile:"))
    assert "\x1b" not in text


def test_many_groups_are_cut_and_one_is_not_shown() -> None:
    text = summary(manifest(*((f"g{n:03}", n + 1, 0) for n in range(GROUPS_SHOWN + 7))))
    assert "g036" in text
    assert "g006" not in text
    assert "7 more in the manifest" in text
    assert "g000" not in summary(manifest(("g000", 5, 0)))
    far = manifest(("g000", 5, 0)) | {"groups": "groups.parquet"}
    assert summary(far).startswith("7 documents read: 0 kept")


def test_groups_that_do_not_reach_their_min_are_named() -> None:
    def group(name: str, unmet: str | None) -> dict[str, Any]:
        return {"group": name, "unmet": unmet}

    reason = f"400 documents wanted, 25 given: {'the group has only 25, ' * 10}which count 4 times"
    few = {"name": "top_a", "groups": [group("code", reason), group("web", None), group("\x1b[31mred", reason)]}
    many = {"name": "sample", "groups": [group(f"g{n}", "too small") for n in range(UNMET_SHOWN + 5)]}
    lines = summary(manifest(("code", 5, 3)) | {"steps": [few, {"name": "plain", "groups": None}, many]}).splitlines()
    assert f"top_a: code: {reason}" in lines  # on one line, however long
    assert f"top_a: \\x1b[31mred: {reason}" in lines
    assert not any("web" in line or "plain" in line for line in lines)
    assert lines[-2:] == [f"sample: g{UNMET_SHOWN - 1}: too small", "sample: … 5 more in the manifest"]
