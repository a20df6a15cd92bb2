"""The one style sheet of all reports: light and dark by the reader's setting, phone to wide screen.

Text and its ground reach a contrast of 4.5 : 1 in both schemes; a test computes it.
"""

from __future__ import annotations

from typing import Final

LIGHT: Final = {
    "ground": "#f6f7f9",
    "card": "#ffffff",
    "raised": "#f0f2f5",
    "ink": "#171a21",
    "muted": "#565e6c",
    "line": "#dde1e7",
    "accent": "#2450d8",
    "good": "#0f7040",
    "good-ground": "#e3f4ea",
    "bad": "#b3261e",
    "bad-ground": "#fbe9e7",
    "warn": "#855700",
    "warn-ground": "#fdf1d6",
    "series-1": "#2450d8",
    "series-2": "#b3420a",
    "series-3": "#0f766e",
    "series-4": "#8a2a9b",
    "series-5": "#7a5a00",
    "series-6": "#a4144d",
}
DARK: Final = {
    "ground": "#0f1217",
    "card": "#171b22",
    "raised": "#1f242d",
    "ink": "#e8ebf0",
    "muted": "#a1a9b8",
    "line": "#2d3440",
    "accent": "#8fb0ff",
    "good": "#6fd69b",
    "good-ground": "#12301f",
    "bad": "#ff9d94",
    "bad-ground": "#3a1917",
    "warn": "#f2c14e",
    "warn-ground": "#33270a",
    "series-1": "#8fb0ff",
    "series-2": "#ffa167",
    "series-3": "#5fd3c6",
    "series-4": "#dd9bee",
    "series-5": "#e2c25b",
    "series-6": "#ff92b8",
}
NUM_SERIES_COLORS: Final = 6

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header.top{max-width:72rem;margin:0 auto;padding:0 1rem}
header.top{padding-top:2rem;padding-bottom:.5rem}
h1{font-size:1.65rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.015em;
overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:0 0 .2rem;letter-spacing:-.01em}
h3{font-size:.95rem;margin:1.2rem 0 .4rem}
p{margin:.3rem 0 .7rem}
a{color:var(--accent)}
.muted,.note,figcaption,.facts dt{color:var(--muted)}
.note,figcaption{font-size:.86rem}
section.card{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:1.15rem 1.25rem;margin:1rem 0;min-width:0}
nav.jump{display:flex;flex-wrap:wrap;gap:.3rem 1rem;font-size:.88rem;margin:.6rem 0 0}
nav.jump a{text-decoration:none}nav.jump a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;
margin:1rem 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:.75rem .95rem;
min-width:0}
.tile .label{font-size:.8rem;color:var(--muted)}
.tile .value{font-size:1.35rem;font-weight:650;letter-spacing:-.02em;line-height:1.3;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile .more{font-size:.8rem;color:var(--muted);font-variant-numeric:tabular-nums}
.pill{display:inline-block;border-radius:999px;padding:.05rem .6rem;font-size:.82rem;
font-weight:600;white-space:nowrap;background:var(--raised);color:var(--muted)}
.pill.good{background:var(--good-ground);color:var(--good)}
.pill.bad{background:var(--bad-ground);color:var(--bad)}
.pill.warn{background:var(--warn-ground);color:var(--warn)}
.good-text{color:var(--good)}.bad-text{color:var(--bad)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.38rem .6rem;text-align:left;border-bottom:1px solid var(--line);
vertical-align:top}
thead th{font-size:.8rem;font-weight:600;color:var(--muted);white-space:nowrap}
tbody th{font-weight:600;text-align:left}
.steps th,.steps td{white-space:nowrap;padding-left:.4rem;padding-right:.4rem}
td.number,th.number{text-align:right;white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
.scroll+.scroll{margin-top:.9rem}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.84em}
code{overflow-wrap:anywhere}
pre{overflow-x:auto;background:var(--raised);border-radius:10px;padding:.8rem .9rem;
font-size:.8rem;line-height:1.5;margin:.5rem 0}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--accent);font-size:.9rem}
figure{margin:0;min-width:0}
svg{display:block;max-width:100%}
svg text{font-family:inherit;fill:var(--ink)}
svg text.soft{fill:var(--muted)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(17.5rem,100%),1fr));
gap:1rem 1.2rem;margin:.4rem 0}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.86rem;margin:.3rem 0 .6rem;
padding:0;list-style:none}
.legend i{display:inline-block;width:.75rem;height:.75rem;border-radius:3px;margin-right:.35rem;
vertical-align:-.06rem}
.intervals{margin:.6rem 0 1rem}
.intervals .row{display:grid;grid-template-columns:8.5rem minmax(0,1fr);align-items:center}
.intervals .name{font-size:.88rem;font-weight:600;padding-right:.8rem;overflow-wrap:anywhere}
.intervals svg{overflow:visible}
.matrices{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(25rem,100%),1fr));
gap:1.1rem 1.6rem}
.matrices th,.matrices td{padding:.25rem .3rem}
.matrices .scroll{align-self:start}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(15.5rem,100%),1fr));
gap:.9rem}
.sample{border:1px solid var(--line);border-radius:12px;overflow:hidden;background:var(--ground);
min-width:0}
.sample img{display:block;width:100%;aspect-ratio:1;image-rendering:pixelated;object-fit:contain;
background:var(--raised)}
.sample .body{padding:.65rem .8rem .75rem;font-size:.9rem}
.sample .asked{font-weight:600;margin:0 0 .35rem;overflow-wrap:anywhere}
.sample ul{list-style:none;margin:.2rem 0 0;padding:0}
.sample li{display:flex;gap:.45rem;align-items:baseline;overflow-wrap:anywhere;min-width:0}
.sample li b{font-weight:650}.sample li .who{color:var(--muted);margin-left:auto;
font-size:.8rem;text-align:right}
.flow>*,.matrices>*,.charts>*,.tiles>*{min-width:0}
.flow{display:grid;gap:1.4rem;grid-template-columns:minmax(0,1fr)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1rem;margin:.4rem 0;
font-size:.9rem}
.facts dd{margin:0;overflow-wrap:anywhere}
p,li,footer,h2,h3,figcaption{overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.82rem;padding:0 0 2.5rem}
@media(min-width:60rem){.flow.wide{grid-template-columns:minmax(0,2fr) minmax(0,3fr);
align-items:start}}
@media(max-width:34rem){body{font-size:14.5px}section.card{padding:.95rem .9rem;border-radius:12px}
header.top{padding-top:1.3rem}h1{font-size:1.4rem}
.samples{grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,100%),1fr));gap:.6rem}
.sample .body{padding:.5rem .6rem .6rem;font-size:.86rem}
.intervals .row{grid-template-columns:minmax(0,1fr)}
.intervals .name{padding-top:.3rem}
.facts{grid-template-columns:minmax(0,1fr);gap:0}.facts dd{margin-bottom:.4rem}}
@media print{body{background:#fff}section.card,.tile{break-inside:avoid}}
"""


def style_sheet() -> str:
    """CSS of a report page."""
    light, dark = (_variables(colors) for colors in (LIGHT, DARK))
    series = "".join(
        f".fill-{n}{{fill:var(--series-{n});background:var(--series-{n})}}"
        f".line-{n}{{stroke:var(--series-{n});fill:none}}"
        for n in range(1, NUM_SERIES_COLORS + 1)
    )
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{_RULES}{series}"
    ).replace("\n", "")


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colors.items())
