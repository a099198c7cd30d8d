"""Synthetic chest radiographs: drawn from formulas, not from patients, and of no clinical meaning.

An image is a projection. Thickness maps (cm) of soft tissue, lung and bone give the line integral `sum(mu * t)`. The
detector counts the quanta that pass, with scatter, blur and quantum noise. The display shows the inverted logarithm,
bone bright and lung dark. Pneumonia is a consolidation: ragged, soft-edged, patchy regions where tissue fills a part
of the lung's depth. Anatomy, exposure and noise come from random streams that do not depend on the label: one
`(seed, index)` with labels 0 and 1 is one patient without and with the lesion.
"""

import hashlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from pneumojax.data.source import Record, Source

# Share of the lung's depth that a lesion fills at its centre, 0 to 1, drawn uniformly from this range. It sets the
# difficulty: lower lesions vanish among the ribs, vessels and shadows of every image.
LESION_FILL = (0.3, 0.9)

# Split -> (images, positives). Val has enough of either class to choose a model by; test has another share of
# positives than train, as Kermany's set has.
PHANTOM_SPLITS = {"train": (300, 210), "val": (100, 50), "test": (400, 250)}
MIN_SIZE = 16  # px; below this a small lesion may fall between the pixels
MU_SOFT, MU_LUNG, MU_BONE = 0.20, 0.05, 0.50  # linear attenuation, 1/cm, near 60 keV
BLUR = 0.0045  # detector blur (standard deviation) as a share of the image's side
_MASK_LEVEL = 0.15  # the mask is where a lesion adds more than this share of its maximum
_LETTERS = np.array([[14, 9, 14, 10, 9], [8, 8, 8, 8, 15]])  # R and L, four bits a row


def open_phantom() -> Source:
    """Return the built-in data set. Its fingerprint is of the content of this file, which draws the images."""
    records = {
        f"{split}/{number:04d}": (split, label)
        for split in PHANTOM_SPLITS
        for number, (_, label) in enumerate(cases(split))
    }
    return Source(
        name="phantom",
        location="phantom",
        records=tuple(Record(id, label, id, split) for id, (split, label) in sorted(records.items())),
        fingerprint=hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        read=_draw,
        notice="Synthetic phantoms drawn from formulas, not radiographs of patients.",
    )


def _draw(record: Record, size: int) -> np.ndarray:
    """`Source.read`."""
    return draw(record.id, record.label or 0, size)[0]


def render(seed: int, index: int, label: int, size: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Draw one synthetic radiograph and the mask of its lesion, from the arguments alone.

    The same `(seed, index)` is the same patient at every size, up to the pixel noise.

    Args:
      seed: data set, >= 0.
      index: image of the data set, >= 0.
      label: 0 for normal, 1 for pneumonia.
      size: side in pixels, >= `MIN_SIZE`.

    Returns:
      The image, (size, size) uint8, 0 black to 255 white, the patient's right on the image's left; and the
      lesion's mask, (size, size) bool, all False where the label is 0.

    Raises:
      ValueError: the label is neither 0 nor 1, the size is too small, or the seed or index is negative.
    """
    if label not in (0, 1):
        raise ValueError(f"label must be 0 (normal) or 1 (pneumonia), not {label!r}")
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, not {size}")
    streams = np.random.SeedSequence([seed, index]).spawn(4)
    anatomy, disease, detector, noise = (np.random.Generator(np.random.Philox(s)) for s in streams)
    u, v = _patient_grid(anatomy, size)
    integral, lung = _chest(anatomy, u, v)
    mask = np.zeros((size, size), bool)
    if label:
        filled = lung * _consolidation(disease, u, v)
        mask = filled > _MASK_LEVEL * filled.max()
        integral = integral + (MU_SOFT - MU_LUNG) * filled
    return _expose(detector, noise, integral), mask


def cases(split: str) -> tuple[tuple[int, int], ...]:
    """Return the images of one split as (index, label) for `render`; positives are spread evenly over the order.

    Args:
      split: a key of `PHANTOM_SPLITS`. No two splits share an index.
    """
    names = list(PHANTOM_SPLITS)
    first = sum(PHANTOM_SPLITS[other][0] for other in names[: names.index(split)])
    count, positives = PHANTOM_SPLITS[split]
    return tuple((first + i, (i + 1) * positives // count - i * positives // count) for i in range(count))


def _patient_grid(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return patient coordinates (u, v) of the pixels: midline u = 0, down v > 0, the frame about -1 to 1."""
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    (angle, du, dv), (zoom_u, zoom_v) = rng.normal(0, [0.05, 0.05, 0.06]), rng.uniform([0.88, 0.90], 1.02)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return zoom_u * u + du + 0.02 * rng.normal() * np.sin(2 * v), zoom_v * v + dv


def _chest(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the line integral of a chest without disease (no unit), and the depth of air-filled lung (cm)."""
    depth, hang = rng.uniform(11.5, 14.5), rng.uniform(0.3, 1.2)
    out, down = np.abs(u) - 0.76, v + 0.55  # from the shoulder joint, then along and across the upper arm
    limb, girth = out * np.cos(hang) + down * np.sin(hang), down * np.cos(hang) - out * np.sin(hang)
    body = depth * _body(rng, u, v, limb, girth)
    right, left = (_lung(rng, side * u, v, 0.04 * (side > 0)) for side in (-1, 1))
    lung = np.maximum(right[0], left[0]) * rng.uniform(0.60, 0.72) * depth
    lung *= 1 - rng.uniform(0.65, 0.85) * _heart(rng, u, v)
    lung *= 1 + rng.normal(0, 0.05) * np.clip(2 * u, -1, 1)  # a turned patient has one darker lung
    lung = np.minimum(lung, 0.85 * body)
    bone = _ribs(rng, u, v, np.where(u < 0, right[1], left[1])) + _skeleton(rng, u, v, limb, girth)
    air = rng.uniform(0.5, 1.2) * np.exp(-((u / 0.06) ** 2)) * _step(-0.35 - v, 0.08)  # trachea
    gas = _dome(u - rng.uniform(0.3, 0.5), v - rng.uniform(0.75, 0.95), *rng.uniform(0.1, 0.22, 2))
    air += rng.uniform(0, 4) * (rng.random() < 0.6) * gas * (v > left[2])
    soft = body - lung - air * (body > 4) + _overlying(rng, u, v) * (body > 0)
    soft += (1 - MU_LUNG / MU_SOFT) * lung * _vessels(rng, u, v)
    return MU_SOFT * soft + MU_LUNG * lung + (MU_BONE - MU_SOFT) * rng.uniform(0.8, 1.2) * bone, lung


def _body(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, limb: np.ndarray, girth: np.ndarray) -> np.ndarray:
    """Return the outline of trunk, neck, arms and jaw as a share of the trunk's depth, 0 to about 1."""
    half, slope = rng.uniform(0.80, 0.90) + rng.uniform(-0.02, 0.08) * v, rng.uniform(0.35, 0.5)
    trunk = np.clip(1 - np.abs(u / half) ** 3, 0, None) ** 0.5 * _step(v + 0.97 - slope * np.abs(u), 0.14)
    neck = 0.75 * np.clip(1 - (u / 0.28) ** 2, 0, None) ** 0.5 * (v < -0.4)
    arms = 0.5 * np.clip(1 - (girth / 0.21) ** 2 - (np.minimum(limb, 0) / 0.25) ** 2, 0, None) ** 0.5
    jaw = _dome(u - rng.normal(0, 0.04), v + rng.uniform(1.1, 1.3), 0.38, 0.28)
    return np.maximum.reduce([trunk * (1 + 0.12 * _step(v - 0.6, 0.2)), neck, arms, jaw])


def _lung(
    rng: np.random.Generator, d: np.ndarray, v: np.ndarray, drop: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one lung's depth profile (0 to 1), outer edge and diaphragm's height; d is lateral of the midline."""
    apex, wide, base = rng.normal(-0.72, 0.03), rng.uniform(0.62, 0.72), rng.normal(0.46, 0.06) + drop
    outer = wide * np.clip(1 - np.clip((0.30 - v) / (0.30 - apex), 0, None) ** 2, 1e-4, None) ** 0.5
    inner = rng.uniform(0.08, 0.13) + 0.05 * np.exp(-(((v + 0.05) / 0.2) ** 2))  # hilum
    half = np.maximum((outer - inner) / 2, 1e-3)
    across = np.clip(1 - (((d - inner - half) / half) ** 2) ** 2, 0, None) ** 0.5
    floor = base + rng.uniform(0.9, 1.8) * (d - rng.uniform(0.26, 0.36)) ** 2
    return across * np.clip((floor - v) / 0.10, 0, 1) ** 0.5 * np.minimum(half / 0.2, 1), outer, floor


def _heart(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return heart and great vessels as a share of the depth that they take from the lung, 0 to 1."""
    tilt, reach = rng.uniform(0.3, 0.8), rng.uniform(0.26, 0.38)
    a, b = u - rng.uniform(0.08, 0.16), v - rng.uniform(0.20, 0.30)
    long, short = a * np.cos(tilt) + b * np.sin(tilt), b * np.cos(tilt) - a * np.sin(tilt)
    heart = _dome(long, short, reach, reach * rng.uniform(0.75, 0.95))
    return np.maximum(heart, _dome(u - 0.05, v + 0.2, rng.uniform(0.12, 0.19), 0.42))


def _ribs(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Return the bone thickness (cm) of the ribs: shallow arcs behind, steep faint ones in front."""
    d = np.abs(u)
    gap, top = rng.uniform(0.135, 0.16), rng.uniform(-0.78, -0.70)
    bend, fall, cartilage = rng.uniform([0.30, 0.45, 0.28], [0.55, 0.65, 0.40])
    edge = np.clip(1 - (d / (outer + 0.05)) ** 2, 0, None)
    crowd = 1 / np.maximum(edge, 0.11) ** 0.5  # the wall is seen edge on
    cage = (edge > 0) * _step(d - 0.08, 0.03)
    jitter = rng.normal(0, 0.055, (2, 2, 10))

    def arcs(height: np.ndarray, half: float, jitter: np.ndarray) -> np.ndarray:
        row = np.clip(np.round(height / gap), 0, 9).astype(int)
        return _dome(height / gap - row - jitter[(u > 0).astype(int), row], 0, half, 1)

    back = arcs(v - bend * d**2 - top, 0.24, jitter[0])
    front = arcs(v + fall * (d - 0.65) - 0.15 - top, 0.26, jitter[1]) * _step(d - cartilage, 0.05)
    return cage * crowd * (rng.uniform(0.6, 1.0) * back + rng.uniform(0.2, 0.5) * front)


def _skeleton(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, limb: np.ndarray, girth: np.ndarray
) -> np.ndarray:
    """Return the bone thickness (cm) of vertebrae (thinner at the discs), clavicles, shoulder blades and arms."""
    phase = np.cos(2 * np.pi * (v / rng.uniform(0.11, 0.14) + rng.random()))
    spine = np.clip(1 - ((u / 0.10) ** 2) ** 2, 0, None) * (rng.uniform(0.8, 1.4) + 0.4 * phase)
    d = np.abs(u)
    line = v + 0.60 + rng.uniform(0.1, 0.35) * d - 0.05 * np.sin(7 * d) + rng.normal(0, 0.02) * np.sign(u)
    clavicle = 1.3 * np.clip(1 - (line / 0.035) ** 2, 0, None) ** 0.5 * (d > 0.07) * _step(0.72 - d, 0.04)
    blade = 0.5 * _dome(d - rng.uniform(0.66, 0.78), v + 0.42, 0.12, 0.28)
    arm = 1.5 * np.clip(1 - (girth / 0.065) ** 2 - (np.minimum(limb, 0) / 0.08) ** 2, 0, None) ** 0.5
    return spine + clavicle + blade + arm


def _vessels(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of the lung's depth in vessels (0 to about 0.4): thin branches, denser near the hilum."""
    thin, thick = _field(rng, len(u), 26) / 0.25, _field(rng, len(u), 14) / 0.15
    near = np.exp(-(((np.abs(u) - 0.18) / 0.28) ** 2) - ((v - 0.02) / 0.40) ** 2)
    branch = (np.exp(-(thin**2)) + 0.6 * np.exp(-(thick**2))) * (0.25 + near)
    return rng.uniform(0.05, 0.13) * branch + rng.uniform(0.03, 0.12) * near


def _overlying(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return soft tissue (cm) over the lungs of any patient: breasts, folds, build. As bright as a lesion."""
    breast = _dome(np.abs(u) - rng.uniform(0.36, 0.46), v - rng.uniform(0.1, 0.4), 0.36, 0.30)
    total = rng.uniform(0, 1.6) * (rng.random() < 0.5) * breast + 0.2 * _field(rng, len(u), 4)
    for _ in range(3):
        fold_u, fold_v, wide, high = rng.uniform([-0.6, -0.6, 0.25, 0.25], [0.6, 0.5, 0.6, 0.6])
        total += rng.uniform(0, 0.9) * np.exp(-(((u - fold_u) / wide) ** 2) - ((v - fold_v) / high) ** 2)
    return total


def draw(id: str, label: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the data set's image `id`, such as "test/0012", and its mask, as `render` does."""
    split, _, number = id.partition("/")
    return render(0, cases(split)[int(number)][0], label, size)


def _consolidation(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the share of the lung's depth that pneumonia fills, 0 to 1."""
    strength, spread = rng.uniform(*LESION_FILL), rng.uniform(0.18, 0.38)
    ragged = 0.28 * _field(rng, len(u), 14) + 0.14 * _field(rng, len(u), 26)
    patchy = np.clip(0.75 + 0.35 * _field(rng, len(u), 32), 0.1, 1.3)
    side, count = rng.choice([-1, 1]), rng.choice([1, 2, 3, 4], p=[0.45, 0.25, 0.2, 0.1])
    shape = np.zeros_like(u)
    for k in range(count):
        at_u, at_v = side * (-1) ** k * rng.uniform(0.24, 0.52), rng.uniform(-0.40, 0.38)
        wide, high = spread * rng.uniform(0.8, 1.4, 2) * (0.7 if k else 1)
        r = np.hypot((u - at_u) / wide, (v - at_v) / high)
        shape = np.maximum(shape, np.clip((1.35 - r + ragged * np.minimum(r, 1)) / 1.1, 0, 1))
    return np.minimum(strength * shape**2 * (3 - 2 * shape) * patchy, 1)


def _expose(rng: np.random.Generator, noise: np.random.Generator, integral: np.ndarray) -> np.ndarray:
    """Apply detector and display: line integral to grey levels, (size, size) uint8."""
    counts = 10 ** rng.uniform(3.6, 4.5)  # quanta a pixel in the open beam
    veil = rng.uniform(0.005, 0.025)  # scatter as a share of the open beam
    beam = ndimage.gaussian_filter(np.exp(-integral) + veil, BLUR * len(integral), truncate=3)
    # The normal limit of Poisson's law: its draws do not depend on the image, so neither does the stream.
    beam = np.maximum(beam + np.sqrt(beam / counts) * noise.standard_normal(beam.shape), 1e-4)
    low, high, gamma = rng.uniform(0.40, 0.65), rng.uniform(2.9, 3.3), rng.uniform(0.9, 1.15)
    grey = np.clip((-np.log(beam) - low) / (high - low), 0, 1) ** gamma * rng.uniform(0.85, 1.0)
    return np.round(255 * _frame(rng, grey)).astype(np.uint8)


def _frame(rng: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    """On some images, black out collimated edges, and print a side marker: R on the left or L on the right."""
    axis = (np.arange(len(grey)) + 0.5) / len(grey)
    blades = rng.uniform(0, 0.07, (2, 2)) * (rng.random((2, 2)) < 0.25)
    rows, columns = ((axis > near) & (axis < 1 - far) for near, far in blades)
    side, shown, level = rng.integers(2), rng.random() < 0.7, rng.uniform(0.75, 1.0)
    left, top, height = rng.uniform([0.02, 0.03, 0.035], [0.10, 0.45, 0.05])
    row, column = (np.floor((axis - at) / height * 5).astype(int) for at in (top, left + 0.84 * side))
    bits = np.where((row >= 0) & (row < 5), _LETTERS[side][np.clip(row, 0, 4)], 0)
    ink = (bits[:, None] >> np.clip(3 - column, 0, 3)) & 1 & ((column >= 0) & (column < 4))
    return np.maximum(grey * np.outer(rows, columns), level * shown * ink)


def _field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth noise, (size, size), about mean 0 and variance 1, with `cells` features across the frame."""
    at = (np.arange(size)[:, None] + 0.5) / size * cells + 1.5
    weight = np.exp(-2 * (at - np.arange(cells + 4)) ** 2)
    weight /= np.sqrt((weight**2).sum(1, keepdims=True))
    # einsum, not BLAS, whose threads cost more than these small products and whose sums vary by machine.
    rows = np.einsum("ik,kl->il", weight, rng.standard_normal((cells + 4, cells + 4)))
    return np.einsum("il,jl->ij", rows, weight)


def _dome(a: np.ndarray, b: np.ndarray | float, half_a: float, half_b: float) -> np.ndarray:
    """Return a projected ellipsoid: 1 at the centre, 0 from the rim on."""
    return np.clip(1 - (a / half_a) ** 2 - (b / half_b) ** 2, 0, None) ** 0.5


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """Return a smooth edge from 0 to 1 about distance 0."""
    return 1 / (1 + np.exp(-np.clip(4 * distance / width, -40, 40)))
