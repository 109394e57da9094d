// Tables that are sorted by a click on a heading, or by Enter on it; the best number of a column is set off.
function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(table, headings, column));
    if (heading.dataset.best) markBest(table, column, heading.dataset.best);
  });
}
const valueOf = (row, column) => {
  const { value } = row.cells[column].dataset;
  if (value === undefined) return null;
  return column === 0 || Number.isNaN(Number(value)) ? value : Number(value);
};
function sortBy(table, headings, column) {
  const before = headings[column].getAttribute("aria-sort");
  const first = headings[column].dataset.best === "min" || column === 0 ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const now = before === first ? other : first;
  for (const heading of headings) heading.setAttribute("aria-sort", "none");
  headings[column].setAttribute("aria-sort", now);
  const sign = now === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, two) => {
    const [a, b] = [valueOf(one, column), valueOf(two, column)];
    if (a === null || b === null) return (a === null) - (b === null); // what has no number is last either way
    return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  });
  table.tBodies[0].append(...rows);
}
function markBest(table, column, which) {
  const cells = [...table.tBodies[0].rows].filter((row) => row.className !== "teacher").map((row) => row.cells[column]);
  const there = cells.filter((cell) => cell.dataset.value !== undefined);
  if (there.length < 2) return;
  const values = there.map((cell) => Number(cell.dataset.value));
  const best = which === "max" ? Math.max(...values) : Math.min(...values);
  if (values.every((value) => value === best)) return;
  for (const cell of there) if (Number(cell.dataset.value) === best) cell.classList.add("best");
}
// A table of columns by title and rows of [text, value] cells.
function tableOf(columns, rows) {
  const heads = columns.map((title) => make("th", { scope: "col", "aria-sort": "none" }, make("button", { type: "button" }, title)));
  const lines = rows.map((cells) => make("tr", {}, ...cells.map(([text, value], column) => (
    column === 0 ? make("th", { scope: "row", "data-value": value }, text) : make("td", { "data-value": value }, text)))));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
  sortable(table);
  return table;
}
document.querySelectorAll("table.sortable").forEach(sortable);

// Cost against quality
if (DATA.costs.length) {
  const area = byId("costs-plot");
  let chosen = DATA.costs[0];
  const pointColor = (point, number) => (point.kind === "teacher" ? color("--soft") : hue(number, chosen.points.length));
  const draw = () => {
    const traces = chosen.points.map((point, number) => ({
      x: [point.x], y: [point.y], name: plain(short(point.name, 32)), type: "scatter", mode: "markers", cliponaxis: false,
      error_y: { type: "data", array: [point.sd], visible: true, color: color("--soft"), thickness: 1 },
      hovertext: `${plain(point.name)}<br>${plain(chosen.y)} ${point.y.toFixed(2)}<br>${plain(chosen.x)} ${point.x.toLocaleString("en")}`, hoverinfo: "text",
      marker: { size: 11, symbol: point.kind === "teacher" ? "diamond" : "circle", color: pointColor(point, number) },
    }));
    const front = chosen.points.filter((point) => point.front).sort((a, b) => a.x - b.x);
    traces.unshift({
      x: front.map((point) => point.x), y: front.map((point) => point.y), type: "scatter", mode: "lines", hoverinfo: "skip",
      line: { color: color("--good"), width: 2, shape: "hv" }, name: "front", showlegend: false,
    });
    const xs = chosen.points.map((point) => point.x).filter((x) => x > 0);
    const log = Math.max(...xs) > 8 * Math.min(...xs) && xs.length === chosen.points.length;
    plot(area, traces, {
      xaxis: { title: { text: plain(chosen.x) + (log ? " (log)" : "") }, type: log ? "log" : "linear", range: spread(xs, log), dtick: log ? 1 : undefined },
      yaxis: { title: { text: plain(chosen.y) } }, showlegend: false,
    });
    byId("costs-legend").replaceChildren(...chosen.points.map((point, number) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.backgroundColor = pointColor(point, number);
      return make("span", {}, swatch, point.name);
    }));
  };
  const spread = (xs, log) => { // room at both ends, also where all students are of one size
    const values = log ? xs.map(Math.log10) : xs;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = high > low ? 0.18 * (high - low) : log ? 1 : 0.5 * Math.abs(high) || 1;
    return [low - room, high + room];
  };
  if (DATA.costs.length > 1) {
    byId("costs-controls").append(select("Cost:", DATA.costs.map((each, number) => [number, each.x]), (number) => { chosen = DATA.costs[number]; figure(area, draw); }));
  }
  figure(area, draw);
}
