"""The look of the report: one style sheet, light and dark, no external resource."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fffefb;--ink:#1d1d1b;--soft:#45443f;--muted:#77756c;--line:#e3e0d6;
--track:#ebe8de;
--accent:#2b63c9;--accent-wash:#e6edfa;--good:#1d7f54;--good-wash:#e1f1e8;--bad:#c2352b;--bad-wash:#fae4e1;--warn:#9a6700;
--warn-wash:#f8ecd0;--m1:#2b63c9;--m2:#128277;--m3:#7650c8;--m4:#a86412;--m5:#5d6d7e;--m6:#b03a7a;--cheat:#c2352b;
--burn:#cfcbbe}
@media (prefers-color-scheme:dark){:root{--bg:#131417;--card:#1b1d21;--ink:#ecebe6;--soft:#c6c4bc;--muted:#918f86;
--line:#2c2f35;
--track:#2a2d33;--accent:#7aa5f5;--accent-wash:#1e2c47;--good:#5cc394;--good-wash:#173327;--bad:#f27c70;--bad-wash:#3f1f1d;
--warn:#dcae54;--warn-wash:#3a2e15;--m1:#7aa5f5;--m2:#4fbfb2;--m3:#ac8ef0;--m4:#dba053;--m5:#9aa9b8;--m6:#e287b5;
--cheat:#f27c70;
--burn:#4a4d54}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
Arial,sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1180px;margin:0 auto;padding:44px 28px 72px}
header{margin-bottom:30px}
.eyebrow{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--muted);font-weight:600}
h1{font-size:34px;line-height:1.18;letter-spacing:-.018em;margin:8px 0 12px;font-weight:680;max-width:30em;text-wrap:balance}
.lede{font-size:17px;color:var(--soft);max-width:54em;margin:0}
h2{font-size:20px;letter-spacing:-.01em;margin:44px 0 4px;font-weight:650}
h2+p{margin:0 0 14px;color:var(--muted);max-width:52em}
h3{font-size:14px;margin:0 0 2px;font-weight:650}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:14px;margin-top:26px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px 15px}
.tile .k{font-size:12.5px;color:var(--muted)}
.tile .v{white-space:nowrap;font-size:28px;font-weight:680;letter-spacing:-.025em;line-height:1.25;margin-top:3px;
font-variant-numeric:tabular-nums}
.tile .v small{font-size:15px;font-weight:550;color:var(--muted);letter-spacing:0}
.tile .d{font-size:13px;color:var(--soft);margin-top:2px}
.tile.lead{grid-column:span 2;background:var(--accent-wash);border-color:transparent}
.tile.lead .v{font-size:38px;color:var(--accent)}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.grid2{display:grid;grid-template-columns:1fr 1fr;gap:14px}
.grid3{display:grid;grid-template-columns:repeat(3,1fr);gap:14px;margin-bottom:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px 14px;min-width:0}
.card>.sub{font-size:13px;color:var(--muted);margin:0 0 10px}
.wide{grid-column:1/-1}
svg.chart{display:block;width:100%;height:auto;font-family:inherit;overflow:visible}
svg .grid{stroke:var(--line);stroke-width:1}
svg text{font-size:12px;fill:var(--muted)}
svg .tick{font-variant-numeric:tabular-nums;font-size:11.5px}
svg .name{fill:var(--soft);font-size:12.5px}
svg .note{font-size:11.5px}
svg .value{font-weight:650;font-size:12.5px;font-variant-numeric:tabular-nums}
svg .value.ink{fill:var(--ink);font-weight:550}
svg.bullet{vertical-align:-2px}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:8px 0 4px;font-size:12.5px;color:var(--soft);padding:0;
list-style:none}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
summary{cursor:pointer;font-size:13px;color:var(--soft)}
.grid3+.card,.card.wide+.card.wide{margin-top:14px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--muted);font-size:12px;padding:6px 12px 6px 0;
border-bottom:1px solid var(--line);
white-space:nowrap}
td{padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right}
td.nw{white-space:nowrap}
code,.mono{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
td.mono{overflow-wrap:anywhere}
pre{margin:10px 0 0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow-x:auto;
font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.badge{display:inline-block;border-radius:999px;padding:1px 9px;font-size:12px;font-weight:600;white-space:nowrap;
background:var(--track);color:var(--soft)}
.badge.accepted,.badge.yes{background:var(--good-wash);color:var(--good)}
.badge.failed,.badge.no{background:var(--bad-wash);color:var(--bad)}
.badge.inconclusive{background:var(--warn-wash);color:var(--warn)}
.matrix td,.matrix th{text-align:center;vertical-align:middle;padding:3px;border:0}
.matrix th:first-child,.matrix td:first-child{text-align:left;padding-right:14px;white-space:nowrap;width:1%}
.matrix td:last-child,.matrix th:last-child{text-align:right;padding-left:14px;white-space:nowrap;width:1%}
.cell{display:block;border-radius:7px;padding:6px 4px;font-size:12.5px;font-weight:600;min-width:54px;background:var(--track);
color:var(--muted)}
.cell.accepted{background:var(--good-wash);color:var(--good)}
.cell.failed{background:var(--bad-wash);color:var(--bad)}
.cell.inconclusive{background:var(--warn-wash);color:var(--warn)}
.note-box{border-left:3px solid var(--warn);background:var(--warn-wash);border-radius:0 10px 10px 0;padding:11px 16px;
margin:20px 0 0;
color:var(--ink)}
.note-box.alarm{border-left-color:var(--bad);background:var(--bad-wash);color:var(--bad)}
.empty{color:var(--muted);font-size:13.5px;margin:22px 0}
footer{margin-top:44px;color:var(--muted);font-size:13px}
@media (max-width:820px){.grid2,.grid3{grid-template-columns:1fr}
.tiles{grid-template-columns:1fr 1fr}main{padding:26px 16px 48px}h1{font-size:27px}.matrix{min-width:560px}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
