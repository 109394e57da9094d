// Cosine similarities of the same samples in both spaces, and how many axes each space uses.
if (DATA.views.length) {
  const area = byId("heat");
  const drawHeat = () => {
    const { heat } = currentView;
    for (const old of area.children) redraws.delete(old);
    if (!heat) { area.replaceChildren(); byId("heat-told").textContent = "Heat maps need labels, which the data does not have."; return; }
    const samples = DATA.samples[currentView.samples];
    const lowest = Math.min(...heat.teacher.flat(), ...heat.student.flat());
    const starts = [];
    heat.groups.reduce((start, [, count]) => { starts.push(start); return start + count; }, 0);
    const names = heat.groups.map(([number]) => className(samples, number));
    const owners = heat.groups.flatMap(([number, count]) => Array(count).fill(className(samples, number)));
    const middle = heat.groups.map(([, count], place) => starts[place] + (count - 1) / 2);
    const ticks = { tickvals: middle, ticktext: names.map((name) => plain(short(name, 12))), showgrid: false, zeroline: false };
    area.replaceChildren(...["teacher", "student"].map((side) => make("div", { class: "plot", "data-side": side, role: "img", "aria-label": `Cosine similarities of ${currentView[side]}` })));
    for (const element of area.children) {
      const { side } = element.dataset;
      figure(element, () => plot(element, [{
        type: "heatmap", z: heat[side].map((row) => row.map((value) => value / 100)), zmin: lowest / 100, zmax: 1, colorscale: "Viridis",
        text: heat.samples.map((one, row) => heat.samples.map((two, column) => `${plain(owners[row])} (${one}), ${plain(owners[column])} (${two})`)),
        hovertemplate: "%{text}<br>cosine %{z:.2f}<extra></extra>", colorbar: { thickness: 10, len: 0.9, outlinewidth: 0 },
      }], {
        title: { text: plain(short(currentView[side], 40)), font: { size: 13 } }, margin: { l: 60, r: 10, t: 34, b: 60 },
        xaxis: { ...ticks, tickangle: -45 }, yaxis: { ...ticks, autorange: "reversed", scaleanchor: "x", constrain: "domain" },
        shapes: starts.slice(1).flatMap((start) => [
          { type: "line", x0: start - 0.5, x1: start - 0.5, y0: -0.5, y1: heat.samples.length - 0.5, line: { color: "#ffffff", width: 1 } },
          { type: "line", y0: start - 0.5, y1: start - 0.5, x0: -0.5, x1: heat.samples.length - 0.5, line: { color: "#ffffff", width: 1 } },
        ]),
      }));
    }
    byId("heat-told").textContent = `Cosine similarity of ${heat.samples.length} samples, class after class${samples.classes.length > heat.groups.length ? `: the ${heat.groups.length} classes of ${samples.classes.length} whose neighbourhoods changed most (smallest φ)` : ""}. Blocks on the diagonal are within a class.`;
  };
  const spectra = byId("spectra");
  const drawSpectra = () => {
    plot(spectra, currentView.spectra.map(([name, shares], place) => {
      const there = shares.filter((share) => share > 0);
      return {
        x: there.map((_, axis) => axis + 1), y: there, name: plain(name), type: "scatter", mode: "lines+markers",
        line: { color: place ? color("--soft") : color("--accent"), dash: place ? "dot" : "solid" }, marker: { size: 5, symbol: place ? "diamond" : "circle" },
        hovertemplate: `${plain(name)}<br>axis %{x}: %{y:.2%}<extra></extra>`,
      };
    }), {
      xaxis: { title: { text: "axis" } }, yaxis: { type: "log", title: { text: "share of the variance" }, tickformat: ".2~%" },
      legend: { orientation: "h", y: 1.12 },
    });
  };
  const start = () => { drawHeat(); figure(spectra, drawSpectra); };
  viewListeners.push(start);
  start();
}
