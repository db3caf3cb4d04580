"""The methods that a recipe's steps can name."""

from .deduplicate import Deduplicate
from .q_tuning import QTuning
from .reference_split import ReferenceSplit
from .steps import Band, Bottom, Resample, Sample, Step, Threshold, Top
from .stratified import Stratified
from .vector_steps import Cover, InverseDensity, Moderate, Typicality

METHODS: tuple[type[Step], ...] = (
    Threshold,
    Top,
    Bottom,
    Band,
    Sample,
    Resample,
    QTuning,
    Deduplicate,
    ReferenceSplit,
    Stratified,
    Cover,
    Typicality,
    InverseDensity,
    Moderate,
)
