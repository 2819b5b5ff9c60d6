"""Colours and shapes: of the lines, and of the page."""

from __future__ import annotations

from typing import Any

__all__ = ["DASHES", "EVENTS", "GRID", "OTHERS", "OURS", "QUIET", "STYLE", "TRIVIAL"]

# Okabe and Ito's colours, which colour-blind readers can distinguish. Dashes distinguish the lines in print.
OURS = "#0072B2"
OTHERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B")
DASHES: tuple[Any, ...] = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3)), (0, (8, 3)), "-")
QUIET, GRID = "#6b7785", "#e6eaee"
EVENTS = {"diverged": "#D55E00", "drift": "#CC79A7", "task": "#009E73", "review": "#c5ccd3"}
EVENTS |= {"held": "#E69F00", "promoted": OURS}

TRIVIAL = "#8a949e"
"""Colour of the lines of trivial predictions."""

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1f2933; -webkit-text-size-adjust: 100%;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 40px 24px; }
h1 { font-size: 30px; font-weight: 650; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 650; margin: 0; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 4px; }
p { color: #6b7785; margin: 2px 0 14px; }
header p { font-size: 16px; margin-bottom: 24px; }
section { background: #fff; border: 1px solid #e6eaee; border-radius: 12px; padding: 22px 26px; margin-bottom: 18px; }
svg { display: block; width: 100%; height: auto;
      font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.narrow { display: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 18px 22px; }
.card b { display: block; font-size: 24px; font-weight: 600; letter-spacing: -.02em; line-height: 1.25;
          font-variant-numeric: tabular-nums; }
.card.main b { color: #0072B2; }
.card span { display: block; }
.card small, small { color: #6b7785; font-size: 12.5px; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); gap: 22px 26px; }
.side > div { min-width: 0; }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; margin-top: 14px; }
.key { margin-top: 8px; color: #6b7785; font-size: 13px; }
.key span { margin-right: 18px; display: inline-block; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; font-size: 12.5px; color: #6b7785; border-bottom: 1px solid #d7dde3;
     vertical-align: bottom; }
td, th { padding: 7px 14px 7px 0; }
td { border-bottom: 1px solid #eef1f4; overflow-wrap: break-word; vertical-align: top; }
tr:last-child td { border-bottom: 0; } .n { text-align: right; padding-right: 26px; white-space: nowrap; }
.matrix { width: auto; } .matrix td, .matrix th { padding: 6px 12px; text-align: right; border: 0; }
.matrix th { font-weight: 500; }
.terms td:first-child { color: #6b7785; white-space: nowrap; width: 1%; }
.lines td { white-space: nowrap; }
.terms td { overflow-wrap: anywhere; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 5px; margin-right: 7px; }
.champion { font-style: normal; font-size: 12px; font-weight: 600; color: #0072B2; background: #e5f1f8;
            border-radius: 9px; padding: 2px 9px; margin-left: 6px; }
code { font-size: 12.5px; color: #44505c; }
footer { text-align: center; color: #9aa5b1; font-size: 13px; padding-top: 8px; }
@media (max-width: 640px) {
  main { padding: 22px 10px; } header { padding: 0 6px; } h1 { font-size: 24px; }
  section { padding: 16px 14px; }
  .wide { display: none; } .narrow { display: block; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(112px, 1fr)); gap: 14px; } .card b { font-size: 20px; }
  td, th { padding: 6px 12px 6px 0; } .n { padding-right: 12px; }
  .scroll td { min-width: 52px; }
}
"""
