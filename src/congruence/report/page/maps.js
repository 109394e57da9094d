// Embeddings of teacher and student in the plane, on canvases: pointing at a sample marks its twin.
if (DATA.views.length) {
  const canvases = { teacher: byId("maps-teacher").querySelector("canvas"), student: byId("maps-student").querySelector("canvas") };
  const card = byId("maps-card");
  const SIDES = ["teacher", "student"];
  let map = "pca";
  let mode = "beside";
  let hidden = new Set();
  let pointed = null;
  let box = { x: 0, y: 0, zoom: 1 };
  const names = () => ({ teacher: currentView.teacher, student: currentView.student });
  const samplesNow = () => DATA.samples[currentView.samples];
  const points = (side) => currentView.maps[map][side];
  const pointCount = () => points("teacher").length / 2;
  // Samples are coloured by their labels, where there are none by what the teacher says.
  const groupOf = (sample) => {
    const answers = currentView.answers.teacher;
    return samplesNow().labels ? labelOf(samplesNow(), sample) : answers ? answers[sample] : -1;
  };
  const isShown = (sample) => !hidden.has(groupOf(sample));

  const scaleOf = (canvas) => (Math.min(canvas.clientWidth, canvas.clientHeight) / 2.16) * box.zoom / 1000;
  const place = (side, sample, canvas) => { // from thousandths of the reach to pixels
    const [x, y] = [points(side)[2 * sample], points(side)[2 * sample + 1]];
    const scale = scaleOf(canvas);
    return [canvas.clientWidth / 2 + (x - box.x) * scale, canvas.clientHeight / 2 - (y - box.y) * scale];
  };
  const shape = (context, x, y, radius, side) => {
    context.beginPath();
    if (side === "student" && mode === "over") {
      context.moveTo(x, y - 1.25 * radius); context.lineTo(x + 1.1 * radius, y + 0.8 * radius); context.lineTo(x - 1.1 * radius, y + 0.8 * radius); context.closePath();
    } else context.arc(x, y, radius, 0, 2 * Math.PI);
  };
  function drawOn(canvas, sides) {
    const ratio = window.devicePixelRatio || 1;
    if (!canvas.clientWidth) return;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const samples = samplesNow();
    const count = pointCount();
    const radius = (count > 3000 ? 1.8 : count > 800 ? 2.5 : 3.5) * Math.min(2, Math.sqrt(box.zoom));
    const colors = new Map();
    const colorOf = (label) => { if (!colors.has(label)) colors.set(label, hue(label, samples.classes.length)); return colors.get(label); };
    if (sides.length > 1 && count <= 2000) {
      context.strokeStyle = color("--soft");
      context.globalAlpha = 0.25;
      context.beginPath();
      for (let sample = 0; sample < count; sample += 1) {
        if (!isShown(sample)) continue;
        context.moveTo(...place("teacher", sample, canvas));
        context.lineTo(...place("student", sample, canvas));
      }
      context.stroke();
    }
    context.globalAlpha = 0.75;
    for (const side of sides) {
      for (let sample = 0; sample < count; sample += 1) {
        if (!isShown(sample)) continue;
        context.fillStyle = colorOf(groupOf(sample));
        const [x, y] = place(side, sample, canvas);
        shape(context, x, y, radius, side);
        context.fill();
      }
    }
    context.globalAlpha = 1;
    if (pointed === null || pointed >= count) return;
    const ends = sides.map((side) => [side, ...place(side, pointed, canvas)]);
    context.strokeStyle = color("--ink");
    context.lineWidth = 2;
    if (ends.length > 1) { context.beginPath(); context.moveTo(ends[0][1], ends[0][2]); context.lineTo(ends[1][1], ends[1][2]); context.stroke(); }
    for (const [side, x, y] of ends) {
      shape(context, x, y, radius + 4, side);
      context.fillStyle = color("--paper"); context.fill(); context.stroke();
      shape(context, x, y, radius + 1, side);
      context.fillStyle = colorOf(groupOf(pointed)); context.fill();
    }
  }
  const draw = () => {
    const over = mode === "over";
    byId("maps-pair").classList.toggle("single", over);
    byId("maps-student").hidden = over;
    byId("maps-teacher").querySelector("figcaption").textContent = over ? `${names().teacher} ● and ${names().student} ▲, aligned` : names().teacher;
    byId("maps-student").querySelector("figcaption").textContent = names().student;
    drawOn(canvases.teacher, over ? SIDES : ["teacher"]);
    if (!over) drawOn(canvases.student, ["student"]);
  };
  const answer = (side, sample) => {
    const answers = currentView.answers[side];
    if (!answers) return "none: it knows other classes, or none";
    const right = answers[sample] === labelOf(samplesNow(), sample);
    return `${className(samplesNow(), answers[sample])}${labelOf(samplesNow(), sample) < 0 ? "" : right ? " ✓" : " ✗"}`;
  };
  function point(sample) {
    pointed = sample;
    document.body.dataset.pointed = sample === null ? "" : String(sample);
    draw();
    if (sample === null) return;
    const samples = samplesNow();
    const told = [["sample", nameOf(samples, sample)], ["label", className(samples, labelOf(samples, sample))], ["teacher says", answer("teacher", sample)], ["student says", answer("student", sample)]];
    if (sample < currentView.phi.length) told.push(["φ", currentView.phi[sample].toFixed(3)]);
    card.replaceChildren(...[picture(currentView, sample, 96), make("dl", {}, ...told.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text))))].filter(Boolean));
  }
  function nearest(canvas, event, sides) {
    const area = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - area.left, event.clientY - area.top];
    let [best, found] = [24 * 24, null];
    for (const side of sides) {
      for (let sample = 0; sample < pointCount(); sample += 1) {
        if (!isShown(sample)) continue;
        const [a, b] = place(side, sample, canvas);
        const distance = (a - x) ** 2 + (b - y) ** 2;
        if (distance < best) [best, found] = [distance, sample];
      }
    }
    return found;
  }
  for (const side of SIDES) {
    const canvas = canvases[side];
    let held = null;
    const sides = () => (mode === "over" ? SIDES : [side]);
    canvas.addEventListener("pointermove", (event) => {
      if (held) {
        const scale = scaleOf(canvas);
        box.x = held.box.x - (event.clientX - held.x) / scale;
        box.y = held.box.y + (event.clientY - held.y) / scale;
        draw();
        return;
      }
      const found = nearest(canvas, event, sides());
      if (found !== pointed && found !== null) point(found);
    });
    canvas.addEventListener("pointerdown", (event) => {
      const found = nearest(canvas, event, sides());
      if (found !== null) point(found);
      if (event.pointerType === "mouse" && box.zoom > 1) { held = { x: event.clientX, y: event.clientY, box: { ...box } }; canvas.setPointerCapture(event.pointerId); }
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { held = null; });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey) return; // a plain wheel scrolls the page
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const count = pointCount();
      let sample = pointed === null ? (step > 0 ? -1 : 0) : pointed;
      for (let tried = 0; tried < count; tried += 1) {
        sample = (sample + step + count) % count;
        if (isShown(sample)) { point(sample); return; }
      }
    });
  }
  const zoom = (factor) => {
    box.zoom = Math.min(40, Math.max(1, box.zoom * factor));
    if (box.zoom === 1) box = { x: 0, y: 0, zoom: 1 };
    else if (factor > 1 && pointed !== null && pointed < pointCount()) [box.x, box.y] = [points("teacher")[2 * pointed], points("teacher")[2 * pointed + 1]];
    draw();
  };
  function begin() {
    const samples = samplesNow();
    const controls = byId("maps-controls");
    const layouts = Object.keys(currentView.maps);
    if (!layouts.includes(map)) map = layouts[0];
    box = { x: 0, y: 0, zoom: 1 };
    const parts = [];
    if (DATA.views.length > 1) {
      const list = select("Student:", DATA.views.map((view, number) => [number, view.student]), (number) => showView(Number(number)));
      list.querySelector("select").value = String(DATA.views.indexOf(currentView));
      parts.push(list);
    }
    const titles = { pca: "PCA", tsne: "t-SNE" };
    parts.push(
      choice("Map", layouts.map((name) => [name, titles[name]]), map, (value) => { map = value; box = { x: 0, y: 0, zoom: 1 }; told(); draw(); }),
      choice("View", [["beside", "side by side"], ["over", "overlaid"]], mode, (value) => { mode = value; draw(); }),
      make("fieldset", {}, make("legend", {}, "Zoom"),
        make("button", { type: "button", "aria-label": "Zoom in on the sample pointed at", on: { click: () => zoom(1.6) } }, "+"),
        make("button", { type: "button", "aria-label": "Zoom out", on: { click: () => zoom(0.625) } }, "−")),
    );
    controls.replaceChildren(...parts);
    const counted = new Set(samples.labels || currentView.answers.teacher || []);
    const present = samples.classes.map((name, number) => ({ key: number, label: name, color: () => hue(number, samples.classes.length) })).filter((entry) => counted.has(entry.key));
    if (counted.has(-1)) present.push({ key: -1, label: "unknown", color: () => color("--soft") });
    hidden = legend(byId("maps-legend"), present.length <= 100 ? present : [], (now) => { hidden = now; draw(); });
    pointed = null;
    told();
  }
  const told = () => {
    const samples = samplesNow();
    const left = currentView.maps[map].left;
    const of = samples.of > pointCount() ? `${pointCount().toLocaleString("en")} of ${samples.of.toLocaleString("en")}` : `All ${samples.of.toLocaleString("en")}`;
    const colored = samples.labels ? "" : currentView.answers.teacher ? " Coloured by the teacher's answers, since there are no labels." : "";
    byId("maps-told").textContent = `${of} ${samples.part} samples, embeddings of length 1.${colored} The student's points are turned onto the teacher's (Procrustes); ${left.toFixed(3)} is left between them, of 0 (the same) to 1. With Ctrl the wheel zooms.`;
  };
  viewListeners.push(() => { begin(); figure(canvases.teacher, draw); });
  begin();
  figure(canvases.teacher, draw);
  new ResizeObserver(() => { if (redraws.get(canvases.teacher).seen) draw(); }).observe(byId("maps-pair"));
  window.placeOf = (side, sample) => place(side, sample, canvases[side]); // where a test finds a sample
}
