"use strict";
// What the page can do beyond being read: without this script everything but the CSV files is still there.

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(text, act, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

// Whether another page shows this one with no rights of its own: it may not allow downloads, and doesn't say.
const isSandboxed = window.self !== window.top && window.origin === "null";

// A page in a sandboxed frame, such as MLflow's, may keep nothing: then each visit begins anew.
function remember(key, value) {
  try {
    localStorage.setItem(`mixup-bench ${key}`, value);
  } catch { /* not allowed */ }
}

function remembered(key) {
  try {
    return localStorage.getItem(`mixup-bench ${key}`);
  } catch {
    return null;
  }
}

// Dark and light

function setTheme(theme) {
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
}

function addThemeButton() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const toggle = button("Dark", () => {
    setTheme(isDark() ? "light" : "dark");
    remember("theme", document.documentElement.dataset.theme);
    show();
  });
  const show = () => toggle.setAttribute("aria-pressed", String(isDark()));
  system.addEventListener("change", show);
  show();
  document.querySelector("header").prepend(element("p", { class: "bar" }, toggle));
}

// Table of contents

function followContents() {
  const folding = document.querySelector(".contents details");
  const wide = matchMedia("(min-width: 86rem)");
  const fold = () => { folding.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const headings = [...document.querySelectorAll("h2[id]")].filter((heading) => links.has(heading.id));
  const mark = () => {
    const above = headings.filter((heading) => heading.getBoundingClientRect().top < innerHeight / 3);
    const current = (above[above.length - 1] ?? headings[0]).id;
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  const observer = new IntersectionObserver(mark, { rootMargin: "0px 0px -66% 0px" });
  for (const heading of headings) observer.observe(heading);
}

// In a sandboxed frame the address of the page is one that a browser follows no link to, not even within the page.
function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.hash.slice(1));
    if (!target) return;
    if (target.tagName === "DETAILS") target.open = true;
    if (!isSandboxed) return;
    event.preventDefault();
    target.scrollIntoView();
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
  });
}

// Tables

const plain = (text) => text.trim().replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1");

const SECONDS = { s: 1, min: 60, h: 3600 };

// What a cell is sorted by: "4.31 ± 0.40" by 4.31, "<0.001" below 0.001, "2 min 5 s" by 125; null where it is no number.
function valueOf(text) {
  const duration = [...text.matchAll(/([\d.]+) (h|min|s)\b/g)];
  if (duration.length && !text.replace(/([\d.]+) (h|min|s)\b/g, "").trim()) {
    return duration.reduce((sum, [, n, unit]) => sum + Number(n) * SECONDS[unit], 0);
  }
  const found = /^([<>[]?)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?![\w.])/i.exec(text);
  if (!found) return null;
  const value = Number(found[2]);
  const step = 1e-9 * Math.max(Math.abs(value), 1e-9);
  return found[1] === "<" ? value - step : found[1] === ">" ? value + step : value;
}

// Names by their parts, so that alpha=2 comes before alpha=16.
function compareNames(a, b) {
  const parts = (text) => text.toLowerCase().match(/\d+(?:\.\d+)?|\D+/g) ?? [];
  const [left, right] = [parts(a), parts(b)];
  for (let i = 0; i < Math.min(left.length, right.length); i += 1) {
    const difference = Number(left[i]) - Number(right[i]);
    const order = Number.isNaN(difference) ? left[i].localeCompare(right[i]) : difference;
    if (order) return order;
  }
  return left.length - right.length;
}

const isMissing = (text) => ["", "-", "\u2013"].includes(text);

// The order of the texts in `column` of these rows. What is missing comes last either way; equal rows keep their order.
function sorter(rows, column, direction) {
  const texts = new Map(rows.map((row) => [row, plain(row.cells[column]?.textContent ?? "")]));
  const there = [...texts.values()].filter((text) => !isMissing(text));
  const isNumeric = there.filter((text) => valueOf(text) !== null).length > there.length / 2;
  const isLast = (text) => isMissing(text) || (isNumeric && valueOf(text) === null);
  return (a, b) => {
    const [left, right] = [texts.get(a), texts.get(b)];
    if (isLast(left) || isLast(right)) return isLast(left) - isLast(right);
    return direction * (isNumeric ? valueOf(left) - valueOf(right) : compareNames(left, right));
  };
}

const dataRows = (part) => [...part.rows].filter((row) => !row.querySelector(".group"));

// A click sorts up, the next one down, the third restores the order. Rows stay below the heading of their group.
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const original = new Map([...table.tBodies].map((part) => [part, dataRows(part)]));
  const all = [...original.values()].flat();
  heads.forEach((head, column) => {
    const sort = button("", () => {
      const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
      for (const each of heads) each.setAttribute("aria-sort", each === head ? next : "none");
      const compare = sorter(all, column, next === "ascending" ? 1 : -1);
      for (const [part, rows] of original) part.append(...(next === "none" ? rows : [...rows].sort(compare)));
    }, { title: table.tBodies.length > 1 ? "Sort within each group" : "Sort" });
    sort.append(...head.childNodes);
    head.append(sort);
    head.setAttribute("aria-sort", "none");
  });
}

function makeFilterable(table) {
  const rows = [...table.tBodies].flatMap(dataRows);
  const found = element("span", { role: "status" });
  const input = element("input", { type: "search" });
  const apply = () => {
    const words = plain(input.value).toLowerCase().split(/\s+/);
    for (const part of table.tBodies) {
      const heading = part.querySelector(".group")?.textContent ?? "";
      for (const row of dataRows(part)) {
        const text = plain(`${heading} ${[...row.cells].map((cell) => cell.textContent).join(" ")}`).toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      part.hidden = dataRows(part).every((row) => row.hidden);
    }
    found.textContent = input.value ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  };
  input.addEventListener("input", apply);
  const label = element("label", {}, "Filter rows ", input);
  table.closest(".scroll").before(element("div", { class: "filter" }, label, found));
}

function prepareTables() {
  for (const table of document.querySelectorAll(".scroll > table")) {
    const count = [...table.tBodies].flatMap(dataRows).length;
    if (table.tHead && count > 1) makeSortable(table);
    if (count > 8) makeFilterable(table);
  }
}

// Figures: what a mark says

const tip = element("div", { class: "tip", hidden: "", "aria-live": "polite" });
const ring = element("div", { class: "ring", hidden: "" });
const NEAR = 16; // pixels

function hideTip() {
  tip.hidden = true;
  ring.hidden = true;
}

function showTip(svg, mark) {
  const box = mark.getBoundingClientRect();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  (svg.closest("dialog") ?? document.body).append(ring, tip);
  tip.textContent = mark.dataset.label;
  tip.hidden = false;
  ring.hidden = false;
  Object.assign(ring.style, { left: `${x}px`, top: `${y}px` });
  const left = Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 4));
  const top = y - tip.offsetHeight - 12;
  Object.assign(tip.style, { left: `${left}px`, top: `${top > 4 ? top : y + 12}px` });
}

// The mark at or next to a point of the window; undefined where none is near.
function nearestMark(marks, x, y) {
  let [nearest, least] = [undefined, NEAR];
  for (const mark of marks) {
    const box = mark.getBoundingClientRect();
    const outside = Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
    const distance = outside + 1e-3 * Math.hypot((box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y);
    if (distance < least) [nearest, least] = [mark, distance];
  }
  return nearest;
}

function makeMarksSpeak(svg) {
  const marks = [...svg.querySelectorAll("[data-label]")];
  if (!marks.length) return;
  let [current, waiting] = [-1, false];
  svg.addEventListener("pointermove", (event) => {
    if (waiting) return; // at most once for each picture on the screen
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const mark = nearestMark(marks, event.clientX, event.clientY);
      if (mark) showTip(svg, mark);
      else hideTip();
    });
  });
  svg.addEventListener("pointerleave", () => requestAnimationFrame(hideTip));
  const card = svg.parentElement;
  card.addEventListener("blur", hideTip);
  card.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (!step || card.scrollWidth > card.clientWidth) return; // there the arrows scroll
    event.preventDefault();
    current = (current + step + marks.length) % marks.length;
    showTip(svg, marks[current]);
  });
}

// Figures: enlarged

const stage = element("div", { tabindex: "0" });
const dialog = element("dialog", { class: "enlarged" }, button("Close", () => dialog.close()), stage);
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

function enlarge(figure) {
  const card = figure.querySelector(".card");
  const svg = card.querySelector("svg");
  card.style.minHeight = `${card.offsetHeight}px`; // nothing below moves meanwhile
  for (const each of [dialog, stage]) each.setAttribute("aria-label", figure.querySelector("h3").textContent);
  dialog.addEventListener("close", () => {
    hideTip();
    document.body.append(ring, tip);
    card.append(svg);
    card.style.minHeight = "";
  }, { once: true });
  stage.append(svg);
  dialog.showModal();
}

// Figures: as files

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// As a file of its own, in its printed size and its own colours.
function svgFile(svg) {
  const copy = svg.cloneNode(true);
  const { width, height } = svg.viewBox.baseVal;
  copy.setAttribute("width", `${width}pt`);
  copy.setAttribute("height", `${height}pt`);
  return new XMLSerializer().serializeToString(copy);
}

async function pngFile(svg) {
  const { width, height } = svg.viewBox.baseVal; // points, 72 to an inch
  const scale = Math.min(300 / 72, 16000 / height);
  const canvas = element("canvas", { width: Math.round(scale * width), height: Math.round(scale * height) });
  const image = new Image(canvas.width, canvas.height);
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgFile(svg))}`;
  await image.decode();
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  // Not toBlob, which waits until the browser has nothing else to do: for seconds on a busy machine.
  return new Blob([decoded(canvas.toDataURL("image/png").split(",")[1])], { type: "image/png" });
}

const decoded = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

async function saveCsv(packed, name) {
  const bytes = decoded(packed);
  if (!("DecompressionStream" in window)) return save(new Blob([bytes], { type: "application/gzip" }), `${name}.gz`);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return save(new Blob([await new Response(stream).arrayBuffer()], { type: "text/csv" }), name);
}

function prepareFigure(figure) {
  const [svg, tools] = [figure.querySelector(".card svg"), figure.querySelector(".tools")];
  if (!svg) return;
  makeMarksSpeak(svg);
  const { name, csv } = tools.dataset;
  const said = element("span", { role: "status" });
  const offer = (kind, make) => button(kind.toUpperCase(), async () => {
    try {
      await make(`${name}.${kind}`);
      say(kind, isSandboxed);
    } catch {
      say(kind, true);
    }
  }, { "aria-label": `Save as ${kind.toUpperCase()}: ${figure.querySelector("h3").textContent}` });
  const say = (kind, hasDoubt) => {
    said.textContent = hasDoubt ? `If nothing was saved: the file is figures/${name}.${kind} beside the page.` : "";
    if (hasDoubt && kind === "svg") said.textContent = "If nothing was saved: open report.html by itself.";
  };
  tools.querySelector("a")?.addEventListener("click", () => say("pdf", isSandboxed));
  tools.prepend(button("Enlarge", () => enlarge(figure), {
    "aria-label": `Enlarge: ${figure.querySelector("h3").textContent}`,
  }));
  const others = [
    offer("png", async (file) => save(await pngFile(svg), file)),
    offer("svg", (file) => save(new Blob([svgFile(svg)], { type: "image/svg+xml" }), file)),
    ...(csv ? [offer("csv", (file) => saveCsv(csv, file))] : []),
  ];
  (tools.querySelector("a") ?? tools.firstChild).after(...others);
  tools.append(said);
}

// Printing

function unfoldForPrinting() {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const each of folded) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of folded) each.open = false; });
}

setTheme(remembered("theme"));
document.addEventListener("DOMContentLoaded", () => {
  addThemeButton();
  prepareTables();
  document.body.append(dialog, ring, tip);
  for (const figure of document.querySelectorAll("figure")) prepareFigure(figure);
  unfoldForPrinting();
  followContents();
  followLinks();
});
