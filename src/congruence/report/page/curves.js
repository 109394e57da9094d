// Training curves: one small figure a term or number, all runs in each.
const RUNS = Object.keys(DATA.curves);
if (RUNS.length) {
  const TOLD = {
    losses: "Each term's loss before its weight, and the whole: the weighted sum.",
    "gradient shares": "How much of the pull at the student comes from each term: the norm of its gradient among the sum of all.",
    weights: "Weights that are balanced, as they were in that step.",
    rate: "The learning rate, and the norm of the gradient before it is clipped.",
    validation: "Measured on the validation samples after an epoch.",
    diagnostics: "Measured on held-out samples after an epoch.",
  };
  const ORDER = Object.keys(TOLD);
  const groups = [...new Set(RUNS.flatMap((run) => Object.keys(DATA.curves[run])))].sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));
  const area = byId("curves-plots");
  let group = groups[0];
  let log = false;
  const runColor = (number) => hue(number, RUNS.length);
  const FIRST = 6;
  let hidden = legend(byId("curves-legend"), RUNS.map((run, number) => ({
    key: run, label: run, color: () => runColor(number), hidden: number >= FIRST,
  })), (now) => { hidden = now; drawAll(); });
  const drawAll = () => {
    byId("curves-told").textContent = TOLD[group] || "";
    const names = [...new Set(RUNS.filter((run) => !hidden.has(run)).flatMap((run) => Object.keys(DATA.curves[run][group] || {})))];
    for (const old of area.children) redraws.delete(old);
    area.replaceChildren(...names.map((name) => make("div", { class: "small", "data-name": name })));
    [...area.children].forEach((element, place) => figure(element, () => {
      const name = names[place];
      const traces = RUNS.map((run, number) => [run, number]).filter(([run]) => !hidden.has(run) && (DATA.curves[run][group] || {})[name]).map(([run, number]) => {
        const points = DATA.curves[run][group][name];
        return {
          x: points.map((point) => point[0]), y: points.map((point) => point[1]), type: "scatter", name: plain(run), showlegend: false,
          mode: points.length > 1 ? "lines" : "markers", line: { color: runColor(number), width: 1.6 }, marker: { color: runColor(number) },
          hovertemplate: `${plain(run)}<br>step %{x}: %{y:.4g}<extra></extra>`,
        };
      });
      plot(element, traces, {
        title: { text: plain(short(name, 40)), font: { size: 13 } }, xaxis: { title: { text: "step" } },
        yaxis: { exponentformat: "power", type: log ? "log" : "linear", ...(group === "gradient shares" ? { range: [0, 1.02], type: "linear" } : {}) },
      });
    }));
  };
  byId("curves-controls").append(
    choice("Show", groups.map((each) => [each, each]), group, (value) => { group = value; drawAll(); }),
    choice("Scale", [["linear", "linear"], ["log", "log"]], "linear", (value) => { log = value === "log"; drawAll(); }),
  );
  figure(byId("curves-told"), drawAll);
}
