"""How the page looks: one sheet for screens of any width, light and dark, and for paper."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--muted:#59636e;--rule:#d8dde3;--card:#f6f8fa;--link:#0860a8;
--series:#0072b2;--warn:#b34700}
@media screen and (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--muted:#9aa4af;--rule:#2f363e;
--card:#161b22;--link:#6cb6ff;--series:#4aa3dc;--warn:#ff9a57}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;overflow-wrap:break-word;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:74rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.3;margin:0;overflow-wrap:anywhere;display:inline}
a{color:var(--link)}
.quiet{color:var(--muted);font-size:.9rem}
.notes{padding-left:1.2rem;margin:.5rem 0}
.item{border-top:1px solid var(--rule);margin-top:2rem;padding-top:1.25rem}
details.item{margin-top:0;padding:.8rem 0}
details.item:first-of-type{margin-top:2rem}
details.item[open]{padding-bottom:2.5rem}
summary{cursor:pointer}
summary .quiet{display:block;margin-left:1.1rem}
.advice{list-style:none;padding:0;margin:1rem 0}
.advice li{border-left:4px solid var(--warn);background:var(--card);padding:.5rem .75rem;margin:.4rem 0;
border-radius:0 6px 6px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,10.5rem),1fr));gap:.75rem;margin:1.25rem 0}
.cards div{background:var(--card);border-radius:8px;padding:.7rem .9rem}
.cards dt{color:var(--muted);font-size:.85rem}
.cards dd{margin:0;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.cards small{display:block;font-size:.82rem;line-height:1.35;color:var(--muted)}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1rem;margin:1.25rem 0}
@media (min-width:66rem){.three{grid-template-columns:repeat(3,1fr);grid-auto-flow:dense}}
figure{margin:0;border:1px solid var(--rule);border-radius:8px;padding:.8rem .9rem .5rem;min-width:0}
figure.wide{grid-column:1/-1}
figcaption b{display:block}
figcaption{margin-bottom:.4rem;line-height:1.35}
figcaption span{color:var(--muted);font-size:.9rem}
.tables table{margin:0 0 .5rem}
svg{display:block;width:100%;height:auto;font-family:inherit}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg image{image-rendering:pixelated}
img{display:block;width:100%;height:auto;background:#fff;border-radius:4px}
.wide .scroll svg,.wide .scroll img{min-width:44rem}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.25rem 0 1rem}
caption{text-align:left;font-weight:600;font-size:1rem;padding:.3rem 0;white-space:nowrap}
.fold caption{display:none}
.tables{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:.75rem 2rem;
align-items:start;margin-top:1.75rem}
.tables>*{min-width:0;margin:0}
.tables>.wide,.tables>.fold{grid-column:1/-1}
th,td{padding:.32rem .6rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
tr>:last-child{padding-right:.2rem}
thead th{color:var(--muted);font-weight:600}
th[scope=row],thead th:first-child{text-align:left;position:sticky;left:0;background:var(--paper);
padding-left:0}
tbody th[scope=row]{font-weight:400;max-width:22rem;white-space:normal;overflow-wrap:break-word}
.overview tbody th[scope=row]{min-width:9rem;overflow-wrap:anywhere}
.fold{margin:.6rem 0}
.fold>summary{color:var(--link);padding:.25rem 0}
.meaning dt{font-weight:600;margin-top:.8rem}
.meaning dd{margin:.1rem 0 0;max-width:46rem}
code{font-size:.92em}
footer{border-top:1px solid var(--rule);margin-top:2.5rem;padding-top:1rem}
@media (max-width:40rem){main{padding-top:1rem}h1{font-size:1.4rem}.pictures{gap:.75rem}
figure{padding:.7rem .6rem .4rem}.cards{grid-template-columns:repeat(2,1fr);gap:.5rem}.cards div{padding:.55rem .7rem}
.cards dd{font-size:1.15rem}tbody th[scope=row]{font-weight:400;max-width:11rem}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}.scroll{overflow:visible}
figure,tr,.cards div,.advice li{break-inside:avoid}.pictures,.three{grid-template-columns:1fr 1fr}
.cards{grid-template-columns:repeat(4,1fr)}.wide .scroll svg,.wide .scroll img{min-width:0}a{color:inherit}
.cards div,.advice li{border:1px solid var(--rule)}th[scope=row],thead th:first-child{position:static}}
""".replace("\n", "")
