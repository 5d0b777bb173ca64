"""The page that `rank --html` fills in at @title@ and @data@; it asks no network and writes text as text.

What is chosen is kept in the browser (localStorage) until it is downloaded.
"""

PAGE = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name=viewport content="width=device-width, initial-scale=1">
<title>Rank: @title@</title>
<style>
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d2126; --soft: #66707b; --line: #e3e1dc }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --soft: #97a1ab; --line: #30363c } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 900px; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { margin: 0; font-size: 1.4rem } p { margin: .3rem 0; color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .8rem 0 }
button { font: inherit; font-size: .85rem; padding: .15rem .7rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: var(--ink); cursor: pointer }
button[aria-pressed=true] { background: var(--ink); color: var(--paper) } button:disabled { opacity: .35 }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .6rem 1rem;
  margin: .6rem 0 } article.turn { background: none } article nav { margin: .2rem 0 0 }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: inherit }
</style>
<h1>@title@</h1>
<p>Give each answer a rank, 1 to the best; equally good ones share a number. The choices stay in this browser;
the download is the whole file with them. Keys: arrows for the one before and the next.</p>
<nav id=tools></nav>
<main id=shown></main>
<script type="application/json" id=data>@data@</script>
<script>
"use strict";
const {name, digest, rows} = JSON.parse(document.getElementById("data").textContent);
const key = "lmjax-rank " + digest;
// A browser may refuse to keep anything of a page from a file.
const storage = act => { try { return act(localStorage) } catch { return null } };
const kept = JSON.parse(storage(s => s.getItem(key)) || "{}");  // row: chosen number of each answer, or null
const chosen = rows.map((row, i) => kept[i] || row.ranks || row.answers.map(() => null));
const done = i => chosen[i].every(rank => rank !== null);
let at = Math.max(0, rows.findIndex((row, i) => !done(i)));

// Equal numbers are ties, and gaps do not matter: 1 2 2 4 and 1 5 5 9 say the same.
const ranks = numbers => numbers.map(own => 1 + numbers.filter(other => other < own).length);
const filled = () => rows.map((row, i) => JSON.stringify({...row, ranks: done(i) ? ranks(chosen[i]) : null}));

function element(parent, name, text = "", attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function button(parent, text, click, attributes = {}) {
  element(parent, "button", text, attributes).onclick = click;
}

function choose(answer, rank) {
  chosen[at][answer] = chosen[at][answer] === rank ? null : rank;
  kept[at] = chosen[at];
  storage(s => s.setItem(key, JSON.stringify(kept)));
  draw();
}

function go(step) {
  at = Math.min(rows.length - 1, Math.max(0, at + step));
  draw();
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([filled().map(line => line + "\\n").join("")]));
  link.download = name;
  link.click();
}

function draw() {
  const tools = document.getElementById("tools"), shown = document.getElementById("shown"), row = rows[at];
  tools.replaceChildren(); shown.replaceChildren();
  button(tools, "\\u2190 before", () => go(-1));
  button(tools, "next \\u2192", () => go(1));
  button(tools, "download " + name, download);
  const whole = rows.filter((_, i) => done(i)).length;
  const begun = rows.filter((_, i) => !done(i) && chosen[i].some(Boolean)).length;
  const half = begun ? `, ${begun} in part, whose ranks are not in the download` : "";
  element(tools, "span", `${at + 1} of ${rows.length}; ${whole} ranked${half}`);
  for (const turn of row.turns) {
    const box = element(shown, "article", "", {class: "turn"});
    element(box, "p", turn.role);
    element(box, "pre", turn.input ? turn.text + "\\n\\n" + turn.input : turn.text);
  }
  row.answers.forEach((answer, i) => {
    const box = element(shown, "article");
    element(box, "pre", answer || "(empty)");
    const nav = element(box, "nav");
    for (let rank = 1; rank <= row.answers.length; rank++)
      button(nav, rank, () => choose(i, rank), {"aria-pressed": chosen[at][i] === rank});
  });
}

document.onkeydown = event => {
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
};
draw();
</script>
"""
