"""The web page of a server: champion, traffic, latency and latest answers, updated every second.

The page loads nothing from other hosts. It displays received values as text, never as HTML.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

__all__ = ["PAGE", "PAGE_HEADERS"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 54rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.3rem } dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem }
dt { color: #666; font-size: .8rem } dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100%; font-size: .85rem }
td, th { text-align: left; padding: .2rem .6rem .2rem 0 }
svg { width: 100%; height: 80px; background: #f6f6f6 } polyline { fill: none; stroke: #2a6; stroke-width: 1.5 }
#fault { color: #b00 } input { font: inherit }
"""

_SCRIPT = """
const at = id => document.getElementById(id), rates = [];
let before = null, token = sessionStorage.getItem("token") || "";
const show = (id, value) => { at(id).textContent = value === null || value === undefined ? "-" : String(value) };
const ms = value => value === null ? "-" : (1000 * value).toFixed(2) + " ms";
at("enter").addEventListener("submit", event => {
  event.preventDefault(); token = at("token").value; sessionStorage.setItem("token", token); look();
});
async function look() {
  let told;
  try {
    const answer = await fetch("standing", token ? { headers: { Authorization: "Bearer " + token } } : {});
    at("enter").hidden = answer.status !== 401;
    if (!answer.ok) {
      show("fault", answer.status === 401 ? "This server wants a token." : "HTTP " + answer.status);
      return;
    }
    told = await answer.json();
  } catch (error) { show("fault", "The server does not answer."); return }
  const now = performance.now() / 1000, faults = [told.fault, told.feedback && told.feedback.fault].filter(Boolean);
  show("fault", faults.join("; ") || " ");
  show("directory", told.directory); show("version", told.champion.version); show("created", told.champion.created);
  show("swaps", told.swaps); show("requests", told.requests); show("refusals", told.refusals); show("rows", told.rows);
  show("p50", ms(told.seconds.p50)); show("p99", ms(told.seconds.p99));
  const labels = told.feedback || {};
  for (const name of ["accepted", "waiting", "repeated", "unknown", "dropped"]) show(name, labels[name]);
  if (before) { rates.push((told.requests - before[1]) / (now - before[0])); if (rates.length > 120) rates.shift() }
  before = [now, told.requests];
  const most = Math.max(1, ...rates);
  at("line").setAttribute("points", rates.map((rate, place) => place * 5 + "," + (78 - 76 * rate / most)).join(" "));
  show("rate", rates.length ? rates[rates.length - 1].toFixed(1) + " a second" : "-");
  at("recent").replaceChildren(...told.recent.map(one => {
    const row = document.createElement("tr");
    for (const text of [new Date(1000 * one.at).toLocaleTimeString(), one.version, JSON.stringify(one.answer)]) {
      row.appendChild(document.createElement("td")).textContent = String(text);
    }
    return row;
  }));
}
look(); setInterval(look, 1000);
"""

_NUMBERS = {
    "version": "champion",
    "created": "made",
    "swaps": "swaps",
    "rate": "traffic",
    "requests": "requests",
    "refusals": "refused requests",
    "rows": "rows",
    "p50": "latency, half under",
    "p99": "latency, 99% under",
    "accepted": "labels",
    "waiting": "without a label yet",
    "repeated": "labels received twice",
    "unknown": "labels of unknown ids",
    "dropped": "dropped without a label",
}

_LIST = "".join(f'<div><dt>{meaning}</dt><dd id="{name}">-</dd></div>' for name, meaning in _NUMBERS.items())

PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>incr serve</title><style>{_STYLE}</style></head><body>
<h1>incr serve <span id="directory"></span></h1><p id="fault"></p>
<form id="enter" hidden><label>Token <input id="token" type="password"></label> <button>Enter</button></form>
<dl>{_LIST}</dl>
<svg viewBox="0 0 600 80" preserveAspectRatio="none"><polyline id="line" points=""/></svg>
<table><thead><tr><th>time</th><th>version</th><th>answer</th></tr></thead><tbody id="recent"></tbody></table>
<script>{_SCRIPT}</script></body></html>
""".encode()
"""The whole page."""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


PAGE_HEADERS = (
    (
        b"content-security-policy",
        f"default-src 'none'; connect-src 'self'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
)
"""Headers that prevent a browser from running any other script in the page."""
