"""What a served page needs beside the look that all our pages share: links, navigation, forms, captions, a visible focus."""

from __future__ import annotations

from typing import Final

from grail_core.pages.style import STYLE

_SERVED: Final = """
@media screen and (prefers-color-scheme:light){:root{--good:#17694a;--bad:#b62f26}}
a{color:var(--accent);text-underline-offset:2px}
a:hover{text-decoration-thickness:2px}
a:focus-visible,input:focus-visible,button:focus-visible,summary:focus-visible,main:focus-visible{
outline:3px solid var(--accent);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-9999px;top:0}
.skip:focus{left:12px;top:12px;background:var(--card);color:var(--accent);padding:8px 14px;border-radius:8px;z-index:1}
.bar{border-bottom:1px solid var(--line);background:var(--card)}
.bar nav{max-width:1180px;margin:0 auto;padding:10px 28px;display:flex;flex-wrap:wrap;align-items:baseline;gap:4px 22px}
.bar strong{font-weight:680;letter-spacing:-.01em}
.bar ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0;padding:0}
.bar a{display:inline-block;padding:4px 0;color:var(--soft);text-decoration:none}
.bar a:hover{text-decoration:underline}
.bar a[aria-current]{color:var(--ink);font-weight:650;box-shadow:0 2px 0 var(--accent)}
main{padding-top:32px;padding-bottom:36px}
main:focus{outline:none}
h1{font-size:28px;margin:4px 0 10px}
h1 .mono{font-size:.72em;overflow-wrap:anywhere;font-weight:600}
header{margin-bottom:22px}
caption{text-align:left;font-size:14px;font-weight:650;color:var(--ink);padding:0 0 8px}
caption+tr th,th[scope=col]{vertical-align:bottom}
th a{color:var(--muted);text-decoration-style:dotted;white-space:nowrap}
th a:hover{text-decoration-style:solid}
th a[aria-current]{color:var(--ink)}
.card,.tiles+.grid2,.note-box+.grid2{margin-top:14px}
.foot{max-width:1180px;margin:0 auto;padding:0 28px 28px}
.foot p{margin:0}
details{margin-top:14px}
.grid2>.card{margin-top:0}
form.find{display:flex;flex-wrap:wrap;gap:8px;align-items:end;margin:22px 0 0}
form.find label{font-size:13px;color:var(--soft);display:grid;gap:3px;min-width:0;flex:0 1 26em}
input,button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--muted);border-radius:8px;
padding:6px 11px;min-width:0;width:100%}
button{width:auto;cursor:pointer;background:var(--track)}
.pager{display:flex;flex-wrap:wrap;gap:6px 16px;margin:14px 0 0;font-size:14px;color:var(--soft)}
.crumbs{font-size:13.5px;color:var(--muted);margin:0 0 6px}
.said{margin:6px 0;max-width:70em}
.cause{border-left:3px solid var(--accent);padding:2px 0 2px 14px;margin:14px 0}
.cause p{margin:2px 0;max-width:66em}
.cause .what{font-weight:600}
ul.plain{margin:6px 0;padding-left:1.2em;max-width:66em}
.note-box p{margin:0 0 4px}
.gap td{color:var(--muted)}
@media (max-width:1000px){caption{display:block}.rows{width:100%}.rows td.long{overflow-wrap:anywhere}
.rows td.keep{display:flex}}
@media (max-width:600px){.pairs td.nw{white-space:normal;width:38%}
.bar nav{padding:10px 16px}main{padding-top:22px}
.foot{padding:0 16px 22px}h1{font-size:23px}form.find label{flex:1 1 100%}}
@media print{.bar,.skip,form,.pager{display:none}}
"""

PAGE_STYLE: Final = STYLE + _SERVED
