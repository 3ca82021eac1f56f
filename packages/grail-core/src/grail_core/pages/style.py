"""The look of our pages: one style sheet, light and dark, wide, narrow and on paper; no external resource.

Localnet's report and a validator's page have it; what only one of them needs stands beside that one.
"""

from __future__ import annotations

_LIGHT = """color-scheme:light;--bg:#f6f5f1;--card:#fffefb;--ink:#1d1d1b;--soft:#45443f;--muted:#6a685f;--line:#e3e0d6;
--track:#ebe8de;
--accent:#2b63c9;--accent-wash:#e6edfa;--good:#1d7f54;--good-wash:#e1f1e8;--bad:#c2352b;--bad-wash:#fae4e1;--warn:#8a5c00;
--warn-wash:#f8ecd0;--m1:#2b63c9;--m2:#128277;--m3:#7650c8;--m4:#a86412;--m5:#5d6d7e;--m6:#b03a7a;--cheat:#c2352b;
--burn:#cfcbbe"""
_DARK = """color-scheme:dark;--bg:#131417;--card:#1b1d21;--ink:#ecebe6;--soft:#c6c4bc;--muted:#a3a198;
--line:#2c2f35;
--track:#2a2d33;--accent:#7aa5f5;--accent-wash:#1e2c47;--good:#5cc394;--good-wash:#173327;--bad:#f27c70;--bad-wash:#3f1f1d;
--warn:#dcae54;--warn-wash:#3a2e15;--m1:#7aa5f5;--m2:#4fbfb2;--m3:#ac8ef0;--m4:#dba053;--m5:#9aa9b8;--m6:#e287b5;
--cheat:#f27c70;
--burn:#4a4d54"""
_BASE = """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1180px;margin:0 auto;padding:44px 28px 72px}
header{margin-bottom:30px}
.eyebrow{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--muted);font-weight:600}
h1{font-size:34px;line-height:1.18;letter-spacing:-.018em;margin:8px 0 12px;font-weight:680;max-width:30em;text-wrap:balance}
.lede{font-size:17px;color:var(--soft);max-width:54em;margin:0}
h2{font-size:20px;letter-spacing:-.01em;margin:44px 0 4px;font-weight:650}
h2+p{margin:0 0 14px;color:var(--muted);max-width:62em}
h3{font-size:14px;margin:0 0 2px;font-weight:650}
p,td,pre,.v,.d,.eyebrow{overflow-wrap:anywhere}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
footer{margin-top:44px;color:var(--muted);font-size:13px}
"""
_CARDS = """
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:14px;margin-top:26px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:12px;min-width:0}
.tile{padding:16px 18px 15px}
.tile .k{font-size:12.5px;color:var(--muted)}
.tile .v{font-size:28px;font-weight:680;letter-spacing:-.025em;line-height:1.25;margin-top:3px;
font-variant-numeric:tabular-nums}
.tile .v small{display:inline-block;font-size:15px;font-weight:550;color:var(--muted);letter-spacing:0}
.tile .d{font-size:13px;color:var(--soft);margin-top:2px}
.tile.lead{grid-column:span 2;background:var(--accent-wash);border-color:transparent}
.tile.lead .v{font-size:38px;color:var(--accent)}
.grid2{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px}
.grid3{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:14px;margin-bottom:14px}
.card{padding:18px 20px 14px}
.card>.sub{font-size:13px;color:var(--muted);margin:0 0 10px}
.wide{grid-column:1/-1}
.grid2+.card,.grid3+.card,.card.wide+.card.wide{margin-top:14px}
.note-box{border-left:3px solid var(--warn);background:var(--warn-wash);border-radius:0 10px 10px 0;padding:11px 16px;
margin:20px 0 0;color:var(--ink)}
.note-box.alarm{border-left-color:var(--bad);background:var(--bad-wash);color:var(--bad)}
.empty{color:var(--muted);font-size:13.5px;margin:22px 0}
.badge{display:inline-block;border-radius:999px;padding:1px 9px;font-size:12px;font-weight:600;white-space:nowrap;
background:var(--track);color:var(--soft)}
.badge.accepted,.badge.yes{background:var(--good-wash);color:var(--good)}
.badge.failed,.badge.no{background:var(--bad-wash);color:var(--bad)}
.badge.inconclusive{background:var(--warn-wash);color:var(--warn)}
summary{cursor:pointer;font-size:13px;color:var(--soft)}
"""
_CHARTS = """
svg.chart{display:block;width:100%;height:auto;font-family:inherit;overflow:visible}
svg .grid{stroke:var(--line);stroke-width:1}
svg text{font-size:12px;fill:var(--muted)}
svg .tick{font-variant-numeric:tabular-nums;font-size:11.5px}
svg .axis{font-size:11.5px;fill:var(--soft)}
svg .name{fill:var(--soft);font-size:12.5px}
svg .note{font-size:11.5px}
svg .value{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round;
font-weight:650;font-size:12.5px;font-variant-numeric:tabular-nums}
svg .value.ink{fill:var(--ink);font-weight:550}
svg .value.note{font-weight:550;font-size:11.5px}
svg.bullet{vertical-align:-2px;max-width:100%}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0 4px;font-size:12.5px;color:var(--soft);padding:0;
list-style:none}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.only-middle,.only-narrow{display:none}
"""
_TABLES = """
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--muted);font-size:12px;padding:6px 12px 6px 0;border-bottom:1px solid var(--line);
white-space:nowrap}
td{padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right}
td.n,td.nw{white-space:nowrap}
td.long{min-width:18em}
.pairs td.nw{width:1%}
code,.mono{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{margin:10px 0 0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;
white-space:pre-wrap;font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.matrix td,.matrix th{text-align:center;vertical-align:middle;padding:3px;border:0}
.matrix th:first-child,.matrix td:first-child{text-align:left;padding-right:14px;white-space:nowrap;width:1%}
.matrix td.sum,.matrix th.sum{text-align:right;padding-left:14px;white-space:nowrap;width:1%}
.scroll+.scroll{margin-top:12px}
.cell{display:block;border-radius:7px;padding:6px 4px;font-size:12.5px;font-weight:600;min-width:54px;background:var(--track);
color:var(--muted);white-space:nowrap}
.cell.accepted{background:var(--good-wash);color:var(--good)}
.cell.failed{background:var(--bad-wash);color:var(--bad)}
.cell.inconclusive{background:var(--warn-wash);color:var(--warn)}
"""


def _flowing(matrix: str) -> str:
    """A matrix whose rows flow: the name on a line of its own, below it a cell for each window, with the window above it."""
    return (
        f"{matrix},{matrix} tbody{{display:block}}{matrix} tr:first-child{{display:none}}"
        f"{matrix} tr{{display:flex;flex-wrap:wrap;padding:6px 0}}{matrix} td{{flex:none;padding:2px}}"
        f"{matrix} td:first-child{{flex:0 0 100%;width:auto;font-weight:600}}{matrix} td.sum{{width:auto;align-self:end}}"
        f"{matrix} td.sum:empty{{display:none}}"
        f"{matrix} td[data-label]::before{{content:attr(data-label);display:block;font-size:11.5px;color:var(--muted)}}"
    )


_STACKED = """
.rows,.rows tbody,.rows tr{display:block}
.rows tr:first-child{display:none}
.rows tr{padding:9px 0;border-bottom:1px solid var(--line)}
.rows tr:last-child{border-bottom:0}
.rows td{display:flex;justify-content:space-between;gap:14px;padding:1px 0;border:0;text-align:right}
.rows td::before{content:attr(data-label);color:var(--muted);flex:none;text-align:left;max-width:50%}
.rows td:first-child{font-weight:600;text-align:left}
.rows td:first-child::before,.rows td.long::before{content:none}
.rows td.long{display:block;min-width:0;text-align:left;color:var(--soft);padding-top:4px}
.rows td.nw,.rows td.n{white-space:normal}
.rows td:empty{display:none}
"""
_NARROW = f"""
main{{padding:26px 16px 48px}}h1{{font-size:25px}}.lede{{font-size:16px}}
.grid3{{grid-template-columns:minmax(0,1fr)}}
.tiles{{gap:10px}}.tile{{padding:12px 13px}}.tile .v{{font-size:20px}}.tile .v small{{font-size:13px}}
.tile.lead .v{{font-size:31px}}
.card{{padding:15px 14px 12px}}
.only-middle,.not-narrow{{display:none}}.only-narrow{{display:block}}
{_flowing(".matrix")}
"""
_PAPER = """
body{background:#fff;font-size:12px}
main{padding:0;max-width:none}
.card,.tile,tr,svg{break-inside:avoid}
h2,h3,h2+p{break-after:avoid}
.cell,.badge,.tile.lead,.note-box,.legend i{-webkit-print-color-adjust:exact;print-color-adjust:exact}
details::details-content{content-visibility:visible;block-size:auto}
summary{list-style:none}
"""

STYLE = (
    f":root{{{_LIGHT}}}@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"{_BASE}{_CARDS}{_CHARTS}{_TABLES}{_flowing('.matrix.many')}"
    "@media (max-width:1000px){.grid2{grid-template-columns:minmax(0,1fr)}"
    ".grid3,.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}.only-wide{display:none}.only-middle{display:block}"
    f"{_STACKED}}}"
    f"@media (max-width:600px){{{_NARROW}}}"
    f"@media print{{{_PAPER}}}"
)
