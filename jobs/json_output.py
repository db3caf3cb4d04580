"""What `--json` prints on stdout, for programs."""

from __future__ import annotations

import inspect
import json
from typing import Any, get_args

from ..connectors.settings import Settings
from ..scoring.catalogue import SCORERS
from ..selectors.methods import METHODS
from ..selectors.weigh import WEIGHERS

OF_MANIFEST = ("totals", "reasons", "groups", "similarity", "weights", "warnings", "alerts", "timings")


def run_object(path: str, manifest: dict[str, Any], exit_code: int, meaning: str) -> str:
    """Return a run's end as a JSON object in one line.

    path: of the run; manifest: of which OF_MANIFEST is taken (above 1,000 groups, `groups` is the name of a file);
    meaning: of the exit code.
    """
    taken = {name: manifest.get(name) for name in OF_MANIFEST}
    return json.dumps({"path": path, "exit_code": exit_code, "meaning": meaning} | taken, allow_nan=False)


def parts_object() -> str:
    """Return scorers, methods and weighers as one JSON object; their keys are described by JSON Schema."""
    scorers = [
        {
            "name": name,
            "summary": _first_line(scorer),
            "requires": scorer.requires,
            "column": {
                "type": str(scorer.primary.type),
                "unit": scorer.primary.unit,
                "direction": scorer.primary.direction,
            },
            "schema": scorer.Parameters.model_json_schema(),
        }
        for name, scorer in sorted(SCORERS.items())
    ]
    methods, weighers = ([_by_method(model) for model in models] for models in (METHODS, WEIGHERS))
    return json.dumps({"scorers": scorers, "methods": methods, "weighers": weighers}, indent=1)


def _by_method(model: type[Settings]) -> dict[str, Any]:
    name = get_args(model.model_fields["method"].annotation)[0]
    return {"name": name, "summary": _first_line(model), "schema": model.model_json_schema()}


def _first_line(described: type) -> str:
    return (inspect.getdoc(described) or "").split("\n", 1)[0]
