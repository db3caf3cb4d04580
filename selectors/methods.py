"""The methods that a recipe's steps can name."""

from .reference_split import ReferenceSplit
from .steps import Band, Bottom, Resample, Sample, Step, Threshold, Top

METHODS: tuple[type[Step], ...] = (Threshold, Top, Bottom, Band, Sample, Resample, ReferenceSplit)
