"""Styles of music for the sample corpus, as tables: tempo, metre, drum patterns, bass, comping, tunes and sounds.

In each style bass, harmony and backbeat agree on what the beat is, so that its tempo has one answer.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Patterns are one bar long, one character a step, `division` steps a beat.

    Drums: X accent, x stroke, o ghost. Bass: r root, f fifth, o octave, t third, w walking. Comping: X and x chord,
    1 to 4 one chord tone. Leads: X and x a tone, - hold. A dot is a rest.
    """
    tempo: tuple[float, float]
    beats: int
    division: int
    kits: tuple[dict[str, str], ...]
    bass: tuple[str, ...]
    comp: tuple[str, ...]
    lead: tuple[str, ...]
    sounds: tuple[tuple[str, ...], ...]  # of bass, comp, lead, pad; an empty tuple = no such part
    weight: int
    level: tuple[float, float]  # RMS, dBFS
    swing: float = 0.0          # delay of odd steps, as a share of a step
    loose: float = 0.004        # s, deviation of the players' timing


_BASS, _SYNTH_BASS = ("electric bass", "upright bass"), ("synth bass",)
_KEYS = ("piano", "electric piano", "organ")
_LEADS = ("saw lead", "square lead", "flute", "clarinet", "vibraphone", "brass")
_PADS = ("strings", "pad")
_LEAD16 = ("X-x-X---x-x-X-..", "X---x-x-X-----x-", "..x-X-x-X---....", "X-----x-X-x-x---", "x-x-x-x-X-------")
_BACKBEAT = ({"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "X.o.x.o.X.o.x.o."},
             {"kick": "X.....x.X.......", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
             {"kick": "X.......X.......", "snare": "....X.......X..o", "ride": "X.o.X.o.X.o.X.o."},
             {"kick": "X..x....X.x.....", "rim": "....X.......X...", "shaker": "xoxoxoxoxoxoxoxo"})
STYLES = {
    "ballad": Style((60, 82), 4, 4, (*_BACKBEAT[:3], {
        "kick": "X.......X.....x.", "rim": "....X.......X...", "hat": "X.o.X.o.X.o.X.o."}),
        ("r.......r.....f.", "r...r...f...r...", "r.....f.r......."),
        ("1.2.3.2.1.2.3.2.", "X...x...X...x...", "X.2.3.2.X.2.3.2.", "1234321212343212"), _LEAD16,
        (_BASS, (*_KEYS, "acoustic guitar"), ("flute", "clarinet", "saw lead", "acoustic guitar"), _PADS), 7,
        (-24, -17)),
    "hip hop": Style((78, 100), 4, 4, (
        {"kick": "X..x....X.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.xx"},
        {"kick": "X.........X..x..", "clap": "....X.......X...", "hat": "X.o.X.o.X.o.X.oo"},
        {"kick": "X.x.....X..x....", "snare": "....X..o....X...", "shaker": "x.x.x.x.x.x.x.x."}),
        ("r..r....r.f.....", "r.......r.o....."), ("X.......x.......", "x...x...x...x...", "X..x....X..x...."), _LEAD16,
        (("synth bass", "electric bass"), ("electric piano", "piano", "vibraphone"), ("square lead", "flute"), _PADS),
        5, (-18, -12.5), swing=0.14),
    "funk": Style((92, 118), 4, 4, (
        {"kick": "X..x..x.X..x....", "snare": "....X..o.o..X..o", "hat": "XoxoXoxoXoxoXoxo"},
        {"kick": "X.x...x.X.......", "snare": "....X..o....X...", "hat": "X.x.X.x.X.x.X.xo"}),
        ("r.ro..r.f.r...o.", "r..r..o.r..f..r."), ("..x..x..X..x..x.", "x..x..X.x...x..x", "X.x.X.x.X.x.X.x."),
        _LEAD16, (("electric bass",), ("electric piano", "organ", "muted guitar"), ("brass", "saw lead"), ()), 4,
        (-19, -13)),
    "pop rock": Style((98, 148), 4, 4, _BACKBEAT[:3], ("r.r.r.r.r.r.r.r.", "r...r...r...f.r.", "r.....r.r.....f."),
        ("X...x.x.X...x.x.", "X.x.x.x.X.x.x.x.", "1.2.3.2.1.2.3.2.", "X...x...X...x..."), _LEAD16,
        (("electric bass",), (*_KEYS, "acoustic guitar"), _LEADS, _PADS), 8, (-18, -12.5)),
    "house": Style((115, 132), 4, 4, (
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open hat": "..x...x...x...x."},
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "o.X.o.X.o.X.o.X.",
         "shaker": "xoxoxoxoxoxoxoxo"}),
        ("r...r..rr...r...", "..r...r...r...o.", "r..r..r.r..r..r."),
        ("X...x...X...x...", "X..x..x.X..x..x.", "..X...X...X...X."), _LEAD16,
        (_SYNTH_BASS, ("piano", "electric piano", "organ", "saw lead"), ("square lead", "saw lead"), ("pad",)), 6,
        (-16, -12.5), loose=0.0),
    "trance": Style((128, 146), 4, 4, (
        {"kick": "X...X...X...X...", "open hat": "..X...X...X...X.", "clap": "....X.......X..."},
        {"kick": "X...X...X...X...", "hat": "xoXoxoXoxoXoxoXo", "snare": "....X.......X..."}),
        ("..rr..rr..rr..rr", "..r...r...r...r."), ("1.2.3.2.1.2.3.4.", "1232123212321232", "X...x...X...x..."), _LEAD16,
        (_SYNTH_BASS, ("saw lead", "square lead", "organ"), ("saw lead",), ("pad", "strings")), 4, (-16, -12.5),
        loose=0.0),
    "disco": Style((106, 126), 4, 4, (
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "open hat": "..x...x...x...x."},
        {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "X.xxX.xxX.xxX.xx"}),
        ("r.o.r.o.r.o.r.o.", "r..or.o.r..of.o."), ("X.xxX.xxX.xxX.xx", "x...X...x...X...", "X...X.x.X...X.x."), _LEAD16,
        (("electric bass",), ("electric piano", "muted guitar", "piano"), ("strings", "brass"), ("strings",)), 4,
        (-18, -13)),
    "fast rock": Style((148, 180), 4, 2, (
        {"kick": "X...X...", "snare": "..X...X.", "hat": "X.X.X.X."},
        {"kick": "X...Xx..", "snare": "..X...X.", "crash": "o.o.o.o.", "hat": "X.x.X.x."},
        {"kick": "X.X.X.X.", "snare": "..X...X.", "hat": "XxXxXxXx"},
        {"kick": "X.x.X.x.", "snare": "X.X.X.X.", "cowbell": "o.o.o.o."}),
        ("rrrrrrrr", "r.r.r.r.", "r.rrr.rf"), ("X.x.X.x.", "X.xxX.xx", "XxXxXxXx"),
        ("X-x-X---", "X---x-x-", "xxx-X-x-", "x-x-x-X-"),
        (("electric bass",), ("organ", "saw lead", "acoustic guitar", "piano"), ("saw lead", "brass"), ()), 6,
        (-16, -12.5)),
    "swing": Style((116, 178), 4, 3, (
        {"ride": "X..x.xX..x.x", "kick": "o..o..o..o..", "hat": "...x.....x.."},
        {"ride": "X..X.oX..X.o", "kick": "x.....x.....", "snare": "...x.o...x..", "hat": "...X.....X.."}),
        ("w..w..w..w..",), ("X....x......", "x..x..x..x..", ".....x.....x", "X....x...x.."),
        ("X-xX-xx-----", "x--X-xX-x...", "..xX--x-xX--", "X--x--X-xx--"),
        (("upright bass",), ("piano", "electric piano", "acoustic guitar"), ("clarinet", "vibraphone", "brass"), ()), 6,
        (-22, -15)),
    "waltz": Style((88, 140), 3, 2, (
        {"kick": "X.....", "rim": "..x.x."}, {"kick": "X.....", "snare": "..x.x.", "hat": "X.x.x."}, {}),
        ("r.....", "r...f."), ("..X.x.", "..x.x.", "X.x.x."), ("X-x-x-", "X---x-", "x-xxX-", "X-----"),
        (("upright bass",), ("accordion", "piano", "harp", "acoustic guitar"), ("accordion", "clarinet", "flute"),
         ("strings",)), 6, (-24, -16)),
    "march": Style((100, 126), 4, 4, (
        {"kick": "X.......X.......", "snare": "x...X...x...X.oo", "crash": "o..............."},
        {"kick": "X...x...X...x...", "snare": "x.ooX.o.x.ooX.o."}),
        ("r...f...r...f...",), ("X...X...X...X...", "x...X...x...X..."), ("X---x-x-X---X---", "X-x-X---X-x-X---"),
        (("upright bass", "electric bass"), ("brass", "accordion"), ("brass", "clarinet", "flute", "glockenspiel"), ()),
        4, (-20, -14)),
    "solo keys": Style((66, 126), 4, 2, ({},), ("r...r...", "r.f.r.f.", "r.o.r.o."),
        ("X.x.X.x.", "123.123.", "X2X2X2X2", "1.X.1.X."), ("X-x-X-x-", "X---x-x-", "x-xxX---", "X-X-X-x-"),
        (("piano",), ("piano", "electric piano"), ("piano",), ()), 4, (-27, -18), loose=0.007),
    "strummed": Style((80, 140), 4, 4, ({}, {"shaker": "X.o.x.o.X.o.x.o."}), ("r...r...r...r...",),
        ("X...X.x.X...X.x.", "X.x.X.x.X.x.X.x.", "X...X.xxX...X.xx"), _LEAD16,
        (("upright bass",), ("acoustic guitar", "banjo"), ("flute", "banjo", "clarinet"), ("strings",)), 4, (-24, -16),
        loose=0.006),
    "hymn": Style((66, 108), 4, 2, ({},), ("r.f.r.f.", "r.r.f.r."), ("X.X.X.X.",), ("X-X-X-X-", "X-x-X-xx"),
        (("organ",), ("organ", "strings", "brass"), ("organ", "clarinet"), ()), 3, (-25, -17), loose=0.006),
    "music box": Style((76, 126), 4, 2, ({},), ("r...r...", "r.......", "r.f.r.f."),
        ("X2321232", "X.3.X.3.", "X2X2X3X3"),
        ("X-x-X-x-", "X---X-x-", "x-xxX-X-"),
        (("harp", "marimba"), ("harp", "music box", "marimba"), ("music box", "glockenspiel", "vibraphone"), ()), 3,
        (-28, -19)),
    "percussion": Style((84, 140), 4, 4, (
        {"kick": "X.......X.......", "snare": "....X.......X...", "hat": "XoxoXoxoXoxoXoxo",
         "cowbell": "X...X...X...X..."},
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "shaker": "XoxoXoxoXoxoXoxo",
         "tom": "..x..x....x..x.."},
        {"low tom": "X.....x.X.......", "tom": "....X..x....X.x.", "rim": "X...x...X...x...",
         "shaker": "xoxoxoxoxoxoxoxo"}),
        (), (), (), ((), (), (), ()), 3, (-20, -13)),
}
# Each style as often as its weight: shuffled and dealt, it gives every few dozen clips their share of each.
DECK = tuple(name for name, style in STYLES.items() for _ in range(style.weight))
