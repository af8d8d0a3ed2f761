"""The bitmap font of the simulated screens: ASCII and Latin-1 in cells of 8 by 16 pixels.

The glyphs are "Fixed", 8 by 13 pixels, of X.Org's font-misc-misc (-Misc-Fixed-Medium-R-Normal--13-
120-75-75-C-80-ISO8859-1), padded to 16 rows. Its licence: "Public domain font. Share and enjoy."
"""

import base64
import zlib
from functools import cache
from typing import Final

WIDTH: Final = 8
HEIGHT: Final = 16

_CODES: Final = (*range(0x20, 0x7F), *range(0xA0, 0x100))
_UNKNOWN: Final = ord("?")
# Sixteen bytes per glyph, one per row; the highest bit is the leftmost pixel.
_GLYPHS: Final = zlib.decompress(
    base64.b85decode(
        "c-"
        "nndy^9k;6d#sF1_?48S1fYqa!e7d7O@CnkYyQ;B^(mMVIfx>L99elT#;fKjx8*#!d4byVVTmuKrH+#tSqc7#6LiMGdo{"
        "za`=*k{Pw+hAM?IK$RV+j2(y@Tjs-YZ@bNF1ST1MB$6F_Vy5f{F{z&=*RohkzIS=}gx*Vh#qcpd;)Bs+U&Rn4io_N?LI"
        ")G+X9YA+WSTlPh%W}%f`sT(m3f^eqg%hln<^r4!(KK0Jl(n*0!TFOcYlQQEa?GVvx$|Gu_2oL^pOpGV<FP)k!z+XS#yk"
        "O^&B4hTcHR4LfBJY$IE?05h*g=drCKv}#Bn^75*qNc)$>Iy;`>nWSiF^uG>@0BHF<x5r^)jn{(1|KN^l*Ye+DsH+*otY"
        "US|u?-"
        "T%YfkaYLa$aZ<PY^9U0EjfFA|7|}EecyZi>($~c=oigM&i@X6cgR0YtA)rSeq>MkFQWYZWv*jFJhA@1mr_orQ|58s55u"
        "sRfj?za>HRf0(x=9H_3?>vB&Yx8#$-"
        "5i`QOr!Ts}ZIxt0EoY<kEM+0&4pdMw}dWyEiy{AXD<KWl=#;j6$uIW5ahI~@3PDQC5?5>~&@4-"
        "B3v&Ogb?#1w$70FamMCgh_^>ILW*-0#o_jP=_T3&dYvh6*4Mk8VNVQJ1IKf6-"
        "KvaDEK$^d#`5ra8hP|0cyz{&mUl0=h23W&{KaN>_l(|2>$G6%3GjcwYN@*}!y}zzE&A`FYWj{}ChjJeyrCmlt8$K>jum"
        "-}-xSPjD_864h%LP2_QTczp#g3(kw&&DV6B%;d2Dv>$wXlUXjLh$r|FZ+9&}iVvwMIVK@k-"
        "~RJH=u=6&+M8R}N#~apt?Dg_mKURK6)<IoSE$SB)eBobPp_}9pBw|lHgCIlYTlMtaJd^o(6%Iz14IW8SK!+53-"
        "sR4yGQr$1bqG{o3IBXzS@;+coq02zh&*~9r|5Qc;)&5;z1a8Ey9n_G3Gp#FAyegcDvn&-"
        "@Dz%bYF}&2lka&2+G?>80;g=6I?R8Av%8^VK|Sllo*?R^&{-"
        "7m+wjc_0#a~Z6EaO5#2}nW32VZ7|tWC?Zr54?@XL67OT~2Eox^E?F*V<u!k_`2l8@U7_LCvLh}s)3-i2b-"
        "28?Fp!uFB7z`o|1%NQee8@lM1HC@#cEjs*U)avk_T&8kuMyVvW6Tp=Ci?;YC?Z_77`GVnVw$7*5AmV>P%^w9Xo8J@_&m"
        "Zq;S)1l;y<jq1bqIrJ+v=qg25ib)9Hac-WP6P+X@&9X5{|^VKq|S"
    )
)
_OFFSETS: Final = {code: i * HEIGHT for i, code in enumerate(_CODES)}


@cache
def glyph(code: int) -> bytes:
    """Return the rows of a character's glyph; an unknown character looks like `?`."""
    at = _OFFSETS.get(code, _OFFSETS[_UNKNOWN])
    return _GLYPHS[at : at + HEIGHT]


@cache
def rectangles(code: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return rectangles (x, y, width, height) that cover exactly the glyph's pixels."""
    found: list[tuple[int, int, int, int]] = []
    growing: dict[tuple[int, int], tuple[int, int]] = {}
    for y, pattern in enumerate((*glyph(code), 0)):
        runs = set(_runs(pattern))
        for run in [run for run in growing if run not in runs]:
            top, height = growing.pop(run)
            found.append((run[0], top, run[1], height))
        for run in runs:
            top, height = growing.get(run, (y, 0))
            growing[run] = (top, height + 1)
    return tuple(found)


def _runs(pattern: int) -> list[tuple[int, int]]:
    """Return start and length of each run of set bits in a row."""
    runs: list[tuple[int, int]] = []
    x = 0
    while x < WIDTH:
        start = x
        while x < WIDTH and pattern & (0x80 >> x):
            x += 1
        if x > start:
            runs.append((start, x - start))
        x += 1
    return runs
