"""Simulated collision events on which the demonstration network is trained and judged.

Signal is a resonance decaying into two objects that each lose part of their momentum to invisible particles; background
is a pair of objects from a falling mass spectrum. Both share one decay and one detector, so only the physics tells them
apart. It is a toy: the units are real, the rates and shapes are invented.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEATURES: tuple[str, ...] = (
    "leading_pt",
    "subleading_pt",
    "delta_eta",
    "delta_phi",
    "invariant_mass",
    "missing_pt",
    "transverse_mass",
)
"""The columns of the features. Before standardising, momenta and masses are in GeV and delta_phi in radians.

Both differences are absolute; ``transverse_mass`` is that of the pair with the missing transverse momentum.
"""

# What generate() subtracts from each feature and then divides it by: mean and standard deviation of 400,000 events with
# equal parts signal and background, rounded. Fixed, so that a trained network sees the same scale whatever the sample.
CENTRE = np.array([59.2, 41.2, 1.07, 2.63, 114.0, 17.9, 20.7])
SPREAD = np.array([27.4, 22.3, 0.79, 0.64, 62.0, 14.6, 16.5])

RESONANCE_MASS = 125.0  # GeV
RESONANCE_WIDTH = 2.0  # GeV; full width at half maximum of the Breit-Wigner peak
RESONANCE_RECOIL = 45.0  # GeV; mean transverse momentum of the resonance
BACKGROUND_THRESHOLD = 40.0  # GeV; lowest pair mass
BACKGROUND_SLOPE = 80.0  # GeV; the pair mass spectrum falls by a factor e over this range
BACKGROUND_RECOIL = 25.0  # GeV; mean transverse momentum of the pair

MOMENTUM_RESOLUTION = 0.05  # relative, per object
MISSING_RESOLUTION = 8.0  # GeV, per transverse component
LEADING_PT_CUT = 30.0  # GeV
SUBLEADING_PT_CUT = 20.0  # GeV
ETA_CUT = 2.5


class _Objects(NamedTuple):
    """Massless objects, two per event: transverse momentum in GeV, pseudorapidity, azimuth in radians, each [n, 2]."""

    pt: Floats
    eta: Floats
    phi: Floats


class _Truth(NamedTuple):
    """An event before the detector: two decay products and the share of each one's momentum that is visible, [n, 2]."""

    products: _Objects
    visible_share: Floats


def generate(events: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Simulates ``events`` collisions, each signal or background with equal probability.

    Returns the features, float32 [events, 7] in the order of ``FEATURES``, standardised to order 1, and the labels,
    uint8 [events], 1 for signal. The same arguments give the same events under the same numpy; a longer sample does not
    begin with a shorter one. Raises ValueError if ``events`` is below 1 or ``seed`` is negative.
    """
    if events < 1:
        raise ValueError(f"cannot generate {events} events: ask for at least 1")
    if seed < 0:
        raise ValueError(f"cannot seed the generator with {seed}: use an integer of at least 0")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size=events, dtype=np.uint8)
    features = np.empty((events, len(FEATURES)))
    for label, process in enumerate((_background, _signal)):
        chosen = labels == label
        features[chosen] = _accepted(process, int(np.count_nonzero(chosen)), rng)
    return ((features - CENTRE) / SPREAD).astype(np.float32), labels


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The probability that a random signal event scores above a random background event, a tie counting one half.

    ``scores`` is [n] or [n, 1], higher for more signal-like events, on any scale; ``labels`` is [n], 1 for signal and 0
    for background. Equals the Mann-Whitney U statistic over the number of pairs. Raises ValueError if the sizes differ,
    a score is NaN, a label is neither 0 nor 1, or either class is empty.
    """
    score = np.asarray(scores).reshape(-1)
    label = np.asarray(labels).reshape(-1)
    if score.size != label.size:
        raise ValueError(f"{score.size} scores cannot be compared with {label.size} labels: give one score per label")
    if np.isnan(score).any():
        raise ValueError("a NaN score has no rank: remove it first")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 1 for signal or 0 for background")
    signal = label == 1
    positives = int(np.count_nonzero(signal))
    negatives = label.size - positives
    if positives == 0 or negatives == 0:
        raise ValueError(f"{positives} signal and {negatives} background events have no ROC curve: give some of each")
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # tied scores share the mean of the ranks they span
    rank_sum = float(mean_rank[group][signal].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _signal(count: int, rng: np.random.Generator) -> _Truth:
    peak = RESONANCE_MASS + RESONANCE_WIDTH / 2 * rng.standard_cauchy(count)
    mass = np.clip(peak, RESONANCE_MASS / 2, RESONANCE_MASS * 2)  # a Cauchy tail reaches below zero
    recoil = rng.exponential(RESONANCE_RECOIL, count)
    cos_theta = rng.uniform(-1, 1, count)  # a spinless resonance decays evenly in all directions
    products = _decay(mass, recoil, cos_theta, rng)
    return _Truth(products, visible_share=rng.beta(4, 2, (count, 2)))


def _background(count: int, rng: np.random.Generator) -> _Truth:
    mass = BACKGROUND_THRESHOLD + rng.exponential(BACKGROUND_SLOPE, count)
    recoil = rng.exponential(BACKGROUND_RECOIL, count)
    cos_theta = np.tanh(rng.uniform(-2, 2, count))  # scattering prefers small angles to the beam
    products = _decay(mass, recoil, cos_theta, rng)
    return _Truth(products, visible_share=rng.beta(8, 1, (count, 2)))


def _decay(mass: Floats, recoil: Floats, cos_theta: Floats, rng: np.random.Generator) -> _Objects:
    """Two massless products, back to back where the pair is at rest, then boosted across the beam and along it.

    The boost across the beam is along x, since no feature depends on the event's orientation about the beam.
    """
    azimuth = rng.uniform(-np.pi, np.pi, mass.size)
    rapidity = rng.normal(0, 1, mass.size)
    sin_theta = np.sqrt(1 - cos_theta**2)
    direction = np.stack([sin_theta * np.cos(azimuth), sin_theta * np.sin(azimuth), cos_theta])
    x, y, z = direction[:, :, None] * (mass[:, None] / 2 * np.array([1, -1]))
    boosted_x = np.hypot(mass, recoil)[:, None] / mass[:, None] * x + recoil[:, None] / 2
    pt = np.hypot(boosted_x, y)
    return _Objects(pt=pt, eta=np.arcsinh(z / pt) + rapidity[:, None], phi=np.arctan2(y, boosted_x))


def _accepted(process: Callable[[int, np.random.Generator], _Truth], count: int, rng: np.random.Generator) -> Floats:
    """Features [count, 7], before standardising, of events that pass the cuts a trigger would make."""
    kept = np.empty((0, len(FEATURES)))
    while len(kept) < count:
        truth = process(2 * count, rng)
        kept = np.concatenate([kept, _measure(truth, rng)])
    return kept[:count]


def _measure(truth: _Truth, rng: np.random.Generator) -> Floats:
    """Smears each event as a detector would, drops those out of acceptance and computes the features of the others."""
    true_pt, eta, phi = truth.products
    resolution = np.exp(MOMENTUM_RESOLUTION * rng.normal(size=true_pt.shape))
    pt = true_pt * truth.visible_share * resolution
    invisible_pt = true_pt * (1 - truth.visible_share)
    missing_x = (invisible_pt * np.cos(phi)).sum(axis=1) + MISSING_RESOLUTION * rng.normal(size=len(pt))
    missing_y = (invisible_pt * np.sin(phi)).sum(axis=1) + MISSING_RESOLUTION * rng.normal(size=len(pt))

    leading, subleading = pt.max(axis=1), pt.min(axis=1)
    delta_eta = np.abs(eta[:, 0] - eta[:, 1])
    delta_phi = np.abs(phi[:, 0] - phi[:, 1])  # at most pi, since the boost in _decay lies between the products
    # cosh a - cos b, written without the cancellation that could turn a small mass squared negative
    invariant_mass = 2 * np.sqrt(leading * subleading * (np.sinh(delta_eta / 2) ** 2 + np.sin(delta_phi / 2) ** 2))
    pair_x, pair_y = (pt * np.cos(phi)).sum(axis=1), (pt * np.sin(phi)).sum(axis=1)
    missing_pt = np.hypot(missing_x, missing_y)
    angle = np.arctan2(missing_y, missing_x) - np.arctan2(pair_y, pair_x)
    transverse_mass = 2 * np.sqrt(np.hypot(pair_x, pair_y) * missing_pt) * np.abs(np.sin(angle / 2))

    columns = (leading, subleading, delta_eta, delta_phi, invariant_mass, missing_pt, transverse_mass)
    features: Floats = np.stack(columns, axis=1)
    central = np.abs(eta).max(axis=1) < ETA_CUT
    accepted: npt.NDArray[np.bool_] = (leading > LEADING_PT_CUT) & (subleading > SUBLEADING_PT_CUT) & central
    return features[accepted]
