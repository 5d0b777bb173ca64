"""The page that `attention` fills in at @title@ and @data@; it asks no network and writes text as text."""

PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Attention: @title@</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d2126; --soft: #66707b; --line: #e3e1dc }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --soft: #97a1ab; --line: #30363c } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { margin: 0; font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem }
p { margin: .3rem 0; color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; margin: .6rem 0 }
button { font: inherit; font-size: .85rem; padding: .1rem .6rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: var(--ink); cursor: pointer }
button[aria-pressed=true] { border-color: var(--ink); font-weight: 600 } button.off { opacity: .35 }
#lines { background: var(--card); border: 1px solid var(--line); border-radius: 10px; width: 100%; max-width: 720px }
#lines text { font-size: 14px; fill: var(--ink); cursor: pointer }
#lines path { fill: none; stroke-width: 2; pointer-events: none }
#maps { overflow-x: auto } #maps table { border-collapse: collapse } #maps th { font-weight: 400; font-size: .75rem;
  color: var(--soft); padding: 0 .4rem } #maps td { padding: 2px }
canvas { display: block; width: 84px; height: 84px; image-rendering: pixelated; background: var(--card);
  border: 1px solid var(--line); cursor: pointer } canvas.on { outline: 2px solid var(--ink) }
</style>
<h1>@title@</h1>
<p>Each line leads from a token to one that it looks at: the stronger, the larger the weight; a colour is a head.
Lines of less than twice an even share are left out. Point at a token to see all of its own, click to hold it.</p>
<nav id=views></nav><nav id=layers></nav><nav id=heads></nav>
<p id=said>&nbsp;</p>
<svg id=lines></svg>
<h2>All heads of all layers</h2>
<p>In each map a row is a token that looks. Click a map to see that head alone.</p>
<div id=maps></div>
<script type="application/json" id=data>@data@</script>
<script>
"use strict";
const views = JSON.parse(document.getElementById("data").textContent);
for (const v of views) v.bytes = Uint8Array.from(atob(v.weights), c => c.charCodeAt(0));
const ROW = 24, LEFT = 210, RIGHT = 510, WIDTH = 720;
let view, layer, shown, token = null, held = false;  // token: [side, number] that is pointed at

const place = (n, h, i, j) => ((n * view.heads + h) * view.queries.length + i) * view.keys.length + j;
const weight = (n, h, i, j) => view.bytes[place(n, h, i, j)] / 255;
const colour = h => `hsl(${Math.round(360 * h / view.heads)} 65% 48%)`;
const mean = (i, j) => [...shown].reduce((sum, h) => sum + weight(layer, h, i, j), 0) / Math.max(1, shown.size);

function element(parent, name, attributes = {}, text = "") {
  const svg = parent.namespaceURI.endsWith("svg");
  const made = svg ? document.createElementNS(parent.namespaceURI, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function button(parent, text, on, click) {
  const made = element(parent, "button", {"aria-pressed": on}, text);
  made.onclick = () => { click(); draw(); };
  return made;
}

function choose(chosen) {
  view = chosen; layer = view.layers - 1; token = null; held = false;
  shown = new Set(Array(view.heads).keys());
  drawMaps();
}

function drawControls() {
  const [v, l, h] = ["views", "layers", "heads"].map(id => document.getElementById(id));
  for (const nav of [v, l, h]) nav.replaceChildren();
  if (views.length > 1) for (const other of views) button(v, other.name, other === view, () => choose(other));
  element(l, "span", {}, "layer");
  for (let n = 0; n < view.layers; n++) button(l, n + 1, n === layer, () => layer = n);
  element(h, "span", {}, "heads");
  button(h, "all", shown.size === view.heads, () => shown = new Set(Array(view.heads).keys()));
  button(h, "none", shown.size === 0, () => shown.clear());
  for (let n = 0; n < view.heads; n++) {
    const made = button(h, n + 1, shown.has(n), () => shown.has(n) ? shown.delete(n) : shown.add(n));
    made.style.color = colour(n);
    made.className = shown.has(n) ? "" : "off";
  }
}

function drawLines() {
  const svg = document.getElementById("lines"), sides = [view.queries, view.keys];
  const height = ROW * Math.max(...sides.map(side => side.length)) + 16, y = n => 8 + ROW * (n + 0.5);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  sides.forEach((tokens, side) => tokens.forEach((text, n) => {
    const other = token && token[0] !== side;
    const share = !token ? 0 : other ? (side ? mean(token[1], n) : mean(n, token[1])) : +(token[1] === n);
    const box = {x: side ? RIGHT : 0, y: y(n) - ROW / 2, width: LEFT, height: ROW, rx: 4};
    element(svg, "rect", {...box, fill: "currentColor", "fill-opacity": share * (other ? 0.5 : 0.12)});
    const label = element(svg, "text", {x: side ? RIGHT + 8 : LEFT - 8, y: y(n) + 5,
      "text-anchor": side ? "start" : "end"}, text);
    const same = token && token[0] === side && token[1] === n;
    label.onmouseenter = () => { if (!held && !same) { token = [side, n]; draw(); } };
    label.onclick = () => { held = !(held && same); token = [side, n]; draw(); };
  }));
  const faintest = token ? 0 : Math.max(0.03, 2 / view.keys.length);
  for (const h of shown) for (let i = 0; i < view.queries.length; i++) for (let j = 0; j < view.keys.length; j++) {
    const w = weight(layer, h, i, j), middle = (LEFT + RIGHT) / 2;
    if (w <= faintest || token && token[1] !== (token[0] ? j : i)) continue;
    const path = `M${LEFT} ${y(i)} C${middle} ${y(i)} ${middle} ${y(j)} ${RIGHT} ${y(j)}`;
    element(svg, "path", {d: path, stroke: colour(h), "stroke-opacity": w.toFixed(3)});
  }
  svg.onmouseleave = () => { if (!held && token) { token = null; draw(); } };
}

function drawWords() {
  const said = document.getElementById("said");
  if (!token) { said.textContent = "\\u00a0"; return; }
  const [side, n] = token, others = side ? view.queries : view.keys;
  const shares = others.map((text, m) => [text, side ? mean(m, n) : mean(n, m)]).sort((a, b) => b[1] - a[1]);
  const list = shares.slice(0, 5).map(([text, share]) => `${text} ${share.toFixed(2)}`).join(", ");
  const name = (side ? view.keys : view.queries)[n];
  said.textContent = `${name} ${side ? "is looked at by" : "looks at"}: ${list} (mean of the heads shown)`;
}

function drawMaps() {
  const table = document.createElement("table"), top = element(table, "tr");
  element(top, "th");
  for (let h = 0; h < view.heads; h++) element(top, "th", {}, `head ${h + 1}`);
  for (let n = 0; n < view.layers; n++) {
    const row = element(table, "tr");
    element(row, "th", {}, `layer ${n + 1}`);
    for (let h = 0; h < view.heads; h++) drawMap(element(row, "td"), n, h);
  }
  document.getElementById("maps").replaceChildren(table);
}

function drawMap(cell, n, h) {
  const L = view.queries.length, S = view.keys.length;
  const canvas = element(cell, "canvas", {width: S, height: L, title: `layer ${n + 1}, head ${h + 1}`});
  const pen = canvas.getContext("2d");
  pen.fillStyle = colour(h);
  for (let i = 0; i < L; i++) for (let j = 0; j < S; j++) {
    pen.globalAlpha = Math.sqrt(weight(n, h, i, j));  // small weights are seen too
    pen.fillRect(j, i, 1, 1);
  }
  canvas.dataset.place = `${n} ${h}`;
  canvas.onclick = () => { layer = n; shown = new Set([h]); draw(); };
}

function draw() {
  drawControls(); drawLines(); drawWords();
  for (const canvas of document.querySelectorAll("canvas")) {
    const [n, h] = canvas.dataset.place.split(" ").map(Number);
    canvas.className = n === layer && shown.has(h) ? "on" : "";
  }
}

choose(views[0]);
draw();
</script>
</html>
"""
