"""Moving pictures for the sample clips: shots of simple scenes that move in time with the beat.

A scene draws a field of palette indices; a palette turns it into YUV planes by table look-up, which costs a tenth of
colour arithmetic. Scenes, palettes, speeds and cuts vary so that pictures differ in colour, brightness, contrast and
motion, which captions and frame choice depend on.
"""
from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

WIDTH, HEIGHT, FPS = 320, 180, 12

_X = np.arange(WIDTH, dtype=np.float32)[None, :] - WIDTH / 2
_Y = np.arange(HEIGHT, dtype=np.float32)[:, None] - HEIGHT / 2
_RADIUS = np.hypot(_X, _Y)
_TURN = np.arctan2(_Y, _X) / (2 * np.pi)  # -0.5 .. 0.5
# A scene's state is in its closure: (seconds, beats) → (HEIGHT, WIDTH) uint8 palette indices.
Draw = Callable[[float, float], np.ndarray]


def frames(seconds: float, tempo: float, origin: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """YUV 4:2:0 frames, (HEIGHT * 3 / 2, WIDTH) uint8 each. Beat 0 is at `origin` s; cuts fall on beats."""
    beats_a_shot = float(rng.choice([4, 8, 8, 16, 1000]))
    names = list(SCENES)
    shot, draw, palette = None, None, None
    for index in range(round(seconds * FPS)):
        time = index / FPS
        beat = (time - origin) * tempo / 60
        if draw is None or int(beat // beats_a_shot) != shot:
            shot = int(beat // beats_a_shot)
            draw = SCENES[names[rng.integers(len(names))]](rng)
            palette = _palette(rng)
        field = draw(time, beat)
        luma, blue, red = palette
        small = field[::2, ::2]
        yield np.concatenate([luma[field].ravel(), blue[small].ravel(), red[small].ravel()]).reshape(-1, WIDTH)


def _palette(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three tables of 256 entries (BT.601, limited range) through two to four colours of one mood."""
    count = int(rng.integers(2, 5))
    mood = rng.random()
    hue, spread = rng.random(), rng.choice([0.05, 0.15, 0.5])
    hues = (hue + spread * rng.uniform(-1, 1, count)) % 1
    if mood < 0.12:    # black and white
        saturation, value = np.zeros(count), np.linspace(rng.uniform(0, 0.3), rng.uniform(0.6, 1), count)
    elif mood < 0.35:  # night
        saturation, value = rng.uniform(0.4, 1, count), np.linspace(0.02, rng.uniform(0.25, 0.55), count)
    elif mood < 0.6:   # pastel
        saturation, value = rng.uniform(0.1, 0.4, count), rng.uniform(0.7, 1, count)
    else:              # bold
        saturation, value = rng.uniform(0.6, 1, count), rng.uniform(0.15, 1, count)
    if rng.random() < 0.5:
        value = value[::-1]
    # HSV to RGB, all entries at once (Smith 1978 in closed form).
    sector = (np.array([5, 3, 1])[:, None] + hues * 6) % 6
    colours = value - value * saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1)
    place = np.linspace(0, count - 1, 256)
    red, green, blue = (np.interp(place, np.arange(count), channel) for channel in colours)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    tables = 16 + 219 * luma, 128 + 126 * (blue - luma), 128 + 160 * (red - luma)
    return tuple(np.clip(np.round(table), 16, 240).astype(np.uint8) for table in tables)


def _plasma(rng: np.random.Generator) -> Draw:
    across, down, out = rng.uniform(0.01, 0.05, 3).astype(np.float32)
    speed, drift = rng.uniform(0.3, 4, 2)

    def draw(time: float, beat: float) -> np.ndarray:
        wave = np.sin(_X * across + speed * time) + np.sin(_Y * down - drift * time)
        return (127.5 + 42 * (wave + np.sin(_RADIUS * out - np.float32(np.pi * beat)))).astype(np.uint8)
    return draw


def _rings(rng: np.random.Generator) -> Draw:
    width, speed = rng.uniform(1.5, 8), rng.choice([-1, 1]) * rng.uniform(0.25, 1)
    middle = _RADIUS if rng.random() < 0.5 else np.hypot(_X - rng.uniform(-120, 120), _Y - rng.uniform(-60, 60))
    scaled = middle * np.float32(width)

    def draw(time: float, beat: float) -> np.ndarray:
        return _fold(scaled - np.float32(256 * speed * beat))
    return draw


def _spokes(rng: np.random.Generator) -> Draw:
    count, speed, twist = int(rng.integers(2, 9)), rng.uniform(0.1, 0.6), rng.uniform(-1.5, 1.5)
    scaled = _TURN * np.float32(256 * count) + _RADIUS * np.float32(twist)
    hard = rng.random() < 0.5

    def draw(time: float, beat: float) -> np.ndarray:
        field = _fold(scaled + np.float32(256 * speed * beat))
        return np.where(field > 127, np.uint8(255), np.uint8(0)) if hard else field
    return draw


def _fold(values: np.ndarray) -> np.ndarray:
    """A triangle wave of period 256, 0 .. 255."""
    wrapped = values.astype(np.int32) & 255
    return np.minimum(2 * wrapped, 511 - 2 * wrapped).astype(np.uint8)


def _checker(rng: np.random.Generator) -> Draw:
    size = int(rng.integers(14, 60))
    right, up = rng.uniform(-60, 60, 2)
    columns, rows = np.arange(WIDTH)[None, :], np.arange(HEIGHT)[:, None]

    def draw(time: float, beat: float) -> np.ndarray:
        odd = ((columns + int(right * time)) // size + (rows + int(up * time)) // size) & 1
        return (odd * (130 + 125 * _pulse(beat)) + 15 * (1 - odd)).astype(np.uint8)
    return draw


def _balls(rng: np.random.Generator) -> Draw:
    count = int(rng.integers(1, 8))
    size, pace, phase = rng.uniform(10, 45, count), rng.uniform(0.1, 0.5, (2, count)), rng.random((2, count))
    sky = np.broadcast_to((20 + 80 * (_Y + HEIGHT / 2) / HEIGHT), (HEIGHT, WIDTH)).astype(np.uint8)
    shades = rng.integers(130, 256, count)

    def draw(time: float, beat: float) -> np.ndarray:
        field = sky.copy()
        for index in range(count):
            radius = size[index] * (0.8 + 0.35 * _pulse(beat))
            x = WIDTH * (0.5 + 0.4 * np.sin(2 * np.pi * (pace[0, index] * time + phase[0, index])))
            bounce = abs(np.sin(np.pi * (beat / 2 + phase[1, index])))
            y = HEIGHT * (0.85 - 0.65 * bounce)
            left, top = max(0, int(x - radius)), max(0, int(y - radius))
            box = field[top:int(y + radius) + 1, left:int(x + radius) + 1]
            rows, columns = np.ogrid[top:top + box.shape[0], left:left + box.shape[1]]
            box[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = shades[index]
        return field
    return draw


def _equaliser(rng: np.random.Generator) -> Draw:
    count = int(rng.integers(5, 25))
    heights, offsets = rng.uniform(0.2, 0.95, count), rng.choice([0, 0.25, 0.5, 0.75], count)
    column = np.minimum(np.arange(WIDTH) * count // WIDTH, count - 1)
    gap = (np.arange(WIDTH) * count % WIDTH) < WIDTH * 0.15
    level = np.arange(HEIGHT, 0, -1)[:, None] / HEIGHT
    shade = (90 + 165 * level).astype(np.uint8)

    def draw(time: float, beat: float) -> np.ndarray:
        now = heights * np.exp(-1.6 * ((beat + offsets) % 1))
        return np.where((level < now[column]) & ~gap, shade, np.uint8(10))
    return draw


def _hills(rng: np.random.Generator) -> Draw:
    layers = int(rng.integers(2, 5))
    pace = np.sort(rng.uniform(5, 160, layers))
    waves, phase = rng.uniform(0.008, 0.05, (layers, 2)), rng.uniform(0, 6, (layers, 2))
    sky = np.broadcast_to(150 + 80 * (_Y / HEIGHT), (HEIGHT, WIDTH)).astype(np.uint8)
    sun_x, sun_y, size = rng.uniform(-120, 120), rng.uniform(-60, -20), rng.uniform(12, 30)
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)

    def draw(time: float, beat: float) -> np.ndarray:
        field = sky.copy()
        field[np.hypot(_X - np.float32(sun_x), _Y - np.float32(sun_y)) < size * (1 + 0.3 * _pulse(beat))] = 255
        for layer in range(layers):
            x = columns + pace[layer] * time
            line = HEIGHT * (0.45 + 0.4 * layer / layers) + 14 * np.sin(waves[layer, 0] * x + phase[layer, 0]) + 7 * (
                np.sin(waves[layer, 1] * 2.3 * x + phase[layer, 1]))
            field[rows > line] = 120 - 110 * layer // layers
        return field
    return draw


def _stars(rng: np.random.Generator) -> Draw:
    count, speed = int(rng.integers(80, 400)), rng.uniform(0.1, 0.9)
    angle, start = rng.uniform(0, 2 * np.pi, count), rng.random(count)

    def draw(time: float, beat: float) -> np.ndarray:
        depth = (start + speed * time + 0.04 * _pulse(beat)) % 1
        x = (WIDTH / 2 + 190 * depth**2 * np.cos(angle)).astype(int)
        y = (HEIGHT / 2 + 190 * depth**2 * np.sin(angle)).astype(int)
        seen = (x >= 0) & (x < WIDTH - 2) & (y >= 0) & (y < HEIGHT - 2)
        x, y, light = x[seen], y[seen], (60 + 195 * depth[seen]).astype(np.uint8)
        field = np.zeros((HEIGHT, WIDTH), np.uint8)
        for right in (0, 1):
            for down in (0, 1):
                field[y + down, x + right] = light
        return field
    return draw


def _pendulum(rng: np.random.Generator) -> Draw:
    swing, thick, bob = rng.uniform(0.4, 1.0), rng.uniform(2, 7), rng.uniform(10, 28)
    back, front = (int(value) for value in rng.permutation([rng.integers(0, 60), rng.integers(150, 256)]))
    length = 135

    def draw(time: float, beat: float) -> np.ndarray:
        angle = swing * np.cos(np.pi * beat)  # one beat a side
        x, y = length * np.sin(angle), length * np.cos(angle)
        down = _Y + HEIGHT / 2
        across = np.abs(_X * np.float32(y) - down * np.float32(x)) / length
        along = (_X * np.float32(x) + down * np.float32(y)) / length
        shape = ((across < thick) & (along < length)) | (np.hypot(_X - np.float32(x), down - np.float32(y)) < bob)
        return np.where(shape, np.uint8(front), np.uint8(back))
    return draw


def _flashes(rng: np.random.Generator) -> Draw:
    order = rng.integers(0, 256, 16)
    dim = (_RADIUS * 0.25).astype(np.int32)

    def draw(time: float, beat: float) -> np.ndarray:
        return np.clip(order[int(beat // 1) % 16] - dim, 0, 255).astype(np.uint8)
    return draw


def _clouds(rng: np.random.Generator) -> Draw:
    """A blurred still under a slowly moving camera: almost no motion."""
    coarse = rng.random((int(rng.integers(6, 16)), int(rng.integers(8, 24))))
    still = ndimage.zoom(coarse, (1.5 * HEIGHT / coarse.shape[0], 1.5 * WIDTH / coarse.shape[1]), order=1)
    still = np.clip(still * 255, 0, 255).astype(np.uint8)
    reach = rng.uniform(0, 1, 2) * (np.array(still.shape) - (HEIGHT, WIDTH) - 2)

    def draw(time: float, beat: float) -> np.ndarray:
        top, left = (reach * (0.5 - 0.5 * np.cos(0.3 * time))).astype(int)
        return still[top:top + HEIGHT, left:left + WIDTH]
    return draw


def _pulse(beat: float) -> float:
    """1 on the beat, falling until the next."""
    return float(np.exp(-4 * (beat % 1)))


SCENES = {"plasma": _plasma, "rings": _rings, "spokes": _spokes, "checker": _checker, "balls": _balls,
          "equaliser": _equaliser, "hills": _hills, "stars": _stars, "pendulum": _pendulum, "flashes": _flashes,
          "clouds": _clouds}
