// The page works without this script. With it: buttons hide arms, the pointer reads the objective's
// curves, and the numbers are saved as CSV. Nothing is loaded or sent.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

function number(x) {
  return x === null ? "n/a" : Number(x.toPrecision(4)).toString();
}

// ---- hide and show arms ----------------------------------------------------------------------

for (const button of document.querySelectorAll("button[data-arm]")) {
  button.disabled = false;
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const arm = button.dataset.arm;
    for (const part of document.querySelectorAll(`[id^="objective-arm${arm}-"], [data-of="${arm}"]`)) {
      part.classList.toggle("off", !on);
    }
  });
}

// ---- read values under the pointer -----------------------------------------------------------

const svg = document.querySelector("svg[data-axis]");
if (svg) {
  const [x0, x1, left, right] = svg.dataset.axis.split(" ").map(Number);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", 0);
  line.setAttribute("y2", height - 34);
  svg.append(line);
  const tip = document.createElement("div");
  tip.className = "tip card small";
  tip.hidden = true;
  const figure = svg.closest("figure");
  figure.append(tip);

  const leave = () => {
    tip.hidden = true;
    line.style.visibility = "hidden";
  };
  leave();
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    if (at < left || at > right) return leave();
    const step = x0 + ((at - left) / (right - left)) * (x1 - x0);
    const rows = [];
    let shown = null;
    data.arms.forEach((arm, index) => {
      const pressed = document.querySelector(`button[data-arm="${index}"]`);
      if (!arm.curve || (pressed && pressed.getAttribute("aria-pressed") !== "true")) return;
      const { step: steps, point, low, high } = arm.curve;
      let near = 0;
      steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(steps[near] - step)) near = i; });
      if (shown === null) shown = steps[near];
      rows.push([arm, `${number(point[near])} [${number(low[near])}, ${number(high[near])}]`, index]);
    });
    if (!rows.length) return leave();
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = `${Math.round(shown).toLocaleString("en")} steps`;
    tip.append(head);
    for (const [arm, text, index] of rows) {
      const row = document.createElement("div");
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.style.color = `var(--arm${index % 8})`;
      mark.textContent = arm.shape;
      row.append(mark, `${arm.label}: ${text}`);
      tip.append(row);
    }
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
    line.style.visibility = "visible";
    tip.hidden = false;
    const frame = figure.getBoundingClientRect();
    const x = event.clientX - frame.left;
    tip.style.left = `${x > frame.width / 2 ? x - tip.offsetWidth - 14 : x + 14}px`;
    tip.style.top = `${event.clientY - frame.top + 10}px`;
  });
}

// ---- save the numbers ------------------------------------------------------------------------

function field(x) {
  const text = x === null ? "" : String(x);
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function table(kind) {
  const rows = [];
  if (kind === "final") {
    rows.push(["arm", "seed", "measure", "value"]);
    for (const arm of data.arms) {
      for (const [name, values] of Object.entries(arm.final)) {
        values.forEach((value, i) => rows.push([arm.label, arm.seeds[i], name, value]));
      }
    }
  } else {
    rows.push(["arm", "step", "interquartile mean", "low", "high"]);
    for (const arm of data.arms.filter((arm) => arm.curve)) {
      const { step, point, low, high } = arm.curve;
      step.forEach((s, i) => rows.push([arm.label, s, point[i], low[i], high[i]]));
    }
  }
  return rows.map((row) => row.map(field).join(",") + "\n").join("");
}

for (const button of document.querySelectorAll("button[data-save]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table(button.dataset.save)], { type: "text/csv" }));
    link.download = `${data.name}-${button.dataset.save}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
