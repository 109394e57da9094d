// The samples whose neighbours changed most, the classes, and the confusions.
if (DATA.views.length) {
  const FIRST = 6;
  let all = false;
  const samplesNow = () => DATA.samples[currentView.samples];
  const softOf = (title, rows) => rows && make("div", {}, make("b", {}, title), ...rows.map(([number, share]) => {
    const fill = make("i", {});
    fill.style.width = `${100 * share}%`;
    return make("div", { class: "bar" }, fill, make("span", {}, className(samplesNow(), number)), make("span", {}, `${(100 * share).toFixed(1)} %`));
  }));
  const near = (title, entry, side) => {
    const own = labelOf(samplesNow(), entry.sample);
    const parts = entry.neighbours[side].map((other) => {
      const label = labelOf(samplesNow(), other);
      const kind = own < 0 || label < 0 ? "" : own === label ? "same" : "other";
      return picture(currentView, other, 40, kind) || make("span", { class: `text ${kind}` }, `${className(samplesNow(), label)} (${nameOf(samplesNow(), other)})`);
    });
    return make("div", { class: "row" }, make("b", {}, title), ...parts);
  };
  const drawChanged = () => {
    const entries = currentView.changed;
    byId("changed-told").textContent = entries.length
      ? "By how many of the ten nearest neighbours teacher and student share. Solid frames: of the sample's own class; dashed: of another."
      : "No sample's neighbours changed.";
    byId("changed-list").replaceChildren(...entries.slice(0, all ? entries.length : FIRST).map((entry) => make("article", { class: "sample" },
      make("div", { class: "head" }, picture(currentView, entry.sample, 64),
        make("div", {}, make("b", {}, className(samplesNow(), labelOf(samplesNow(), entry.sample))), make("br"),
          nameOf(samplesNow(), entry.sample), make("br"), `shares ${Math.round(10 * entry.shared)} of 10, φ ${entry.phi.toFixed(2)}`)),
      near("nearest to the teacher", entry, "teacher"), near("nearest to the student", entry, "student"),
      make("div", { class: "soft" }, softOf("teacher says", entry.soft.teacher), softOf("student says", entry.soft.student)))));
    byId("changed-more").hidden = all || entries.length <= FIRST;
  };
  byId("changed-more").addEventListener("click", () => { all = true; drawChanged(); });
  const percent = (value) => (value === null ? ["–", undefined] : [(100 * value).toFixed(1), value]);
  const signed = (one, two) => (one === null || two === null ? ["–", undefined] : [`${one > two ? "+" : one < two ? "−" : ""}${Math.abs(100 * (one - two)).toFixed(1)}`, one - two]);
  const drawClasses = () => {
    const { classes, confusions } = currentView;
    const table = byId("classes-table");
    table.hidden = !classes;
    byId("classes-told").textContent = classes ? `Of the first ${Math.min(2000, samplesNow().count).toLocaleString("en")} samples. φ: perception coherence; rank agreement: Spearman's correlation of the distances to all other samples.` : "The data has no labels: nothing is told by class.";
    if (classes) {
      const rows = [...classes].sort((a, b) => (a.student_accuracy - a.teacher_accuracy) - (b.student_accuracy - b.teacher_accuracy) || a.phi - b.phi);
      table.replaceChildren(tableOf(
        ["class", "samples", "teacher (%)", "student (%)", "difference", "φ", "rank agreement"],
        rows.map((row) => [[String(row.class), String(row.class)], [String(row.samples), row.samples], percent(row.teacher_accuracy), percent(row.student_accuracy),
          signed(row.student_accuracy, row.teacher_accuracy), [row.phi.toFixed(3), row.phi], [row.rank_agreement.toFixed(3), row.rank_agreement]])));
    }
    const confused = byId("confusions-table");
    confused.hidden = !(confusions && confusions.length);
    confused.previousElementSibling.hidden = confused.hidden;
    if (!confused.hidden) {
      confused.replaceChildren(tableOf(
        ["label", "taken for", "by the student", "by the teacher", "difference"],
        confusions.map(([label, taken, student, teacher]) => [[className(samplesNow(), label), className(samplesNow(), label)], [className(samplesNow(), taken), className(samplesNow(), taken)],
          [String(student), student], [String(teacher), teacher], [`${student >= teacher ? "+" : "−"}${Math.abs(student - teacher)}`, student - teacher]])));
    }
  };
  const start = () => { all = false; drawChanged(); drawClasses(); };
  viewListeners.push(start);
  start();
}
