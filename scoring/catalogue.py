"""The scorers that recipes can name.

A new one is one file in this folder and one entry here, or an entry point `tamis.scorers` of any installed package.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from ..connectors.errors import TamisError, one_line
from .classifier_scorer import Classifier
from .clusters_scorer import Clusters
from .column import Column
from .dsir_scorer import DSIR
from .embedding_scorer import Embedding
from .excess_loss_scorer import ExcessLoss
from .gradients_scorer import Gradients
from .head_gradients_scorer import HeadGradients
from .influence_scorer import Influence
from .judge_scorer import Judge
from .language_model_scorer import LanguageModel
from .language_scorer import Language
from .minhash_scorer import MinHash
from .ngram_model_scorer import NgramModelScorer
from .overlap_scorer import Overlap
from .scorer import Scorer, ScorerParameters
from .text_statistics_scorer import TextStatistics

ENTRY_POINTS = "tamis.scorers"


def catalogue(found: list[EntryPoint]) -> dict[str, type[Scorer]]:
    """Return all scorers by name. found: entry points, each a class derived from Scorer.

    Raises TamisError, naming the package, for one that cannot be imported, is no scorer, or has a name that is taken.
    """
    own = (
        Classifier,
        Clusters,
        Column,
        DSIR,
        Embedding,
        ExcessLoss,
        Gradients,
        HeadGradients,
        Influence,
        Judge,
        Language,
        LanguageModel,
        MinHash,
        NgramModelScorer,
        Overlap,
        TextStatistics,
    )
    scorers: dict[str, type[Scorer]] = {scorer.name: scorer for scorer in own}
    for point in found:
        where = f"scorer `{point.name}` ({point.value}) of {point.dist.name if point.dist else 'an installed package'}"
        try:
            scorer = point.load()
        except Exception as error:  # whatever foreign code raises
            raise TamisError(f"{where} cannot be imported: {one_line(error)}; mend or uninstall it") from error
        if not (isinstance(scorer, type) and issubclass(scorer, Scorer)):
            raise TamisError(f"{where} is no class derived from tamis.scoring.scorer.Scorer; mend or uninstall it")
        missing = [
            name for name in ("name", "version", "Parameters", "requires", "primary") if not hasattr(scorer, name)
        ]
        if missing or not issubclass(scorer.Parameters, ScorerParameters):
            lacks = f"lacks {', '.join(missing)}" if missing else "has Parameters that are no ScorerParameters"
            raise TamisError(f"{where} {lacks}; mend or uninstall it")
        if scorer.name in scorers:
            raise TamisError(f"{where} is called `{scorer.name}`, as another scorer; rename or uninstall it")
        scorers[scorer.name] = scorer
    return scorers


SCORERS = catalogue(sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name))
