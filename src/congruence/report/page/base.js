"use strict";
// What all parts of the page share: its content, elements, colours, the theme, and drawing what comes into view.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// An element; texts are set as texts, never as HTML.
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") element.className = value;
    else if (name === "on") for (const [kind, listener] of Object.entries(value)) element.addEventListener(kind, listener);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// Ten hues that are told apart on light and dark ground; of more classes, hues by the golden angle.
const TEN = [["#1f6fc5", "#6fb1ff"], ["#c2570c", "#ffa45c"], ["#2b7d34", "#74d07e"], ["#b4232b", "#ff8b8b"], ["#7d4fb3", "#c3a0f5"],
  ["#7a5547", "#cfa596"], ["#b83a92", "#f59ad8"], ["#5c6370", "#b4bbc7"], ["#7a7a10", "#d8d45e"], ["#0c7d8c", "#5fd3e3"]];
function hue(number, count) {
  if (number < 0 || number === null || number === undefined) return color("--soft");
  if (count <= TEN.length) return TEN[number % TEN.length][isDark() ? 1 : 0];
  return `hsl(${(number * 137.508) % 360} ${55 + 20 * (number % 2)}% ${isDark() ? 68 : 38}%)`;
}

// Figures are drawn when they come near the window, and anew when the theme changes.
const redraws = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting || !redraws.has(entry.target)) continue;
    watcher.unobserve(entry.target);
    const figure = redraws.get(entry.target);
    figure.seen = true;
    figure.draw();
  }
}, { rootMargin: "300px" });
function figure(element, draw) {
  const known = redraws.get(element);
  redraws.set(element, { draw, seen: Boolean(known && known.seen) });
  if (known && known.seen) draw();
  else watcher.observe(element);
}
function redrawAll() {
  for (const each of redraws.values()) if (each.seen) each.draw();
}

function plot(element, traces, layout = {}) {
  const axis = { gridcolor: color("--line"), linecolor: color("--soft"), zerolinecolor: color("--line"), automargin: true };
  const all = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 50, r: 12, t: 30, b: 42 },
    font: { color: color("--ink"), family: "system-ui, sans-serif", size: 12 }, hovermode: "closest",
    hoverlabel: { bgcolor: color("--paper"), bordercolor: color("--soft"), font: { color: color("--ink") } },
    ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  return Plotly.react(element, traces, all, { displaylogo: false, responsive: true, displayModeBar: false });
}
// Plotly reads a few tags of HTML in texts: none of ours are meant.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 24) => (String(text).length > most ? `${String(text).slice(0, most - 1)}…` : String(text));

// One of several, as buttons of which one is pressed.
function choice(title, options, chosen, pick) {
  const buttons = options.map(([value, label]) => make("button", {
    type: "button", "aria-pressed": String(value === chosen), "data-value": value,
    on: { click: () => { for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.value === String(value))); pick(value); } },
  }, label));
  return make("fieldset", {}, make("legend", {}, title), ...buttons);
}
function select(title, options, pick) {
  const list = make("select", { on: { change: () => pick(list.value) } }, ...options.map(([value, label]) => make("option", { value }, label)));
  return make("label", {}, `${title} `, list);
}
// A legend whose buttons show and hide what they name.
function legend(element, entries, changed) {
  const hidden = new Set(entries.filter((entry) => entry.hidden).map((entry) => entry.key));
  element.replaceChildren(...entries.map((entry) => {
    const swatch = make("span", { class: "swatch", "data-color": entry.key });
    const button = make("button", { type: "button", "aria-pressed": String(!hidden.has(entry.key)), on: { click: () => {
      if (!hidden.delete(entry.key)) hidden.add(entry.key);
      button.setAttribute("aria-pressed", String(!hidden.has(entry.key)));
      changed(hidden);
    } } }, swatch, entry.label);
    swatch.style.backgroundColor = entry.color();
    element.addEventListener("theme", () => { swatch.style.backgroundColor = entry.color(); });
    return button;
  }));
  return hidden;
}

const themeButton = byId("theme");
function showTheme() {
  themeButton.setAttribute("aria-pressed", String(isDark()));
  for (const each of document.querySelectorAll(".legend")) each.dispatchEvent(new Event("theme"));
  redrawAll();
}
try { const kept = localStorage.getItem("congruence-theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* no storage here */ }
themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("congruence-theme", document.documentElement.dataset.theme); } catch { /* no storage here */ }
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
themeButton.setAttribute("aria-pressed", String(isDark()));

// Samples

DATA.samples.forEach((samples, number) => {
  if (!samples.sprite) return;
  const bytes = Uint8Array.from(atob(samples.sprite), (letter) => letter.charCodeAt(0));
  samples.url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
  samples.shown = samples.columns * samples.columns;
  const sheet = make("style", {});
  document.head.append(sheet);
  sheet.sheet.insertRule(`.sheet-${number} { background-image: url("${samples.url}"); }`);
});
const className = (samples, number) => {
  if (number === null || number === undefined || number < 0) return "unknown";
  return number < samples.classes.length ? samples.classes[number] : String(number);
};
// A sample's file, or its number in the data; only the first have names.
const nameOf = (samples, sample) => samples.names[sample] ?? "a sample";
const labelOf = (samples, sample) => (samples.labels ? samples.labels[sample] : -1);
// The picture or the text of a sample, null where there is none; `kind` is "same" or "other", as its class is.
function picture(view, sample, side, kind = "") {
  const samples = DATA.samples[view.samples];
  const name = className(samples, labelOf(samples, sample));
  const told = `${nameOf(samples, sample)}, label ${name}`;
  if (samples.texts && sample < samples.texts.length) {
    return make("span", { class: `text ${kind}`, title: told }, side > 64 ? samples.texts[sample] : short(samples.texts[sample], 80));
  }
  if (!samples.sprite || sample >= Math.min(samples.count, 2000)) return null;
  const thumb = make("span", { class: `thumb sheet-${view.samples} ${kind}`, role: "img", "aria-label": told, title: told });
  const columns = samples.columns;
  Object.assign(thumb.style, {
    width: `${side + 4}px`, height: `${side + 4}px`, backgroundSize: `${columns * side}px auto`,
    backgroundPosition: `-${(sample % columns) * side}px -${Math.floor(sample / columns) * side}px`,
    backgroundOrigin: "content-box", backgroundClip: "content-box",
  });
  return thumb;
}
// The view that is chosen; parts ask to be told of another.
const viewListeners = [];
let currentView = DATA.views[0];
function showView(number) {
  currentView = DATA.views[number];
  for (const listener of viewListeners) listener(currentView);
}
