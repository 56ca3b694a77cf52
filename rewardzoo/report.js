// The page works without this script. With it: buttons hide arms, the pointer reads every
// curve and path, and the numbers are saved as CSV. Nothing is loaded or sent.
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
    for (const part of document.querySelectorAll(`[id^="curve"][id*="-arm${arm}-"], [data-of="${arm}"]`)) {
      part.classList.toggle("off", !on);
    }
  });
}

// ---- read values under the pointer -----------------------------------------------------------

function shown(index) {
  const button = document.querySelector(`button[data-arm="${index}"]`);
  return !button || button.getAttribute("aria-pressed") === "true";
}

function nearest(count, distance) {
  let near = 0;
  for (let i = 1; i < count; i++) if (distance(i) < distance(near)) near = i;
  return near;
}

function steps(x) {
  return `${Math.round(x).toLocaleString("en")} steps`;
}

// An axis of a picture: from its values to places, in units of the picture, and back.
function axis(text) {
  const [low, high, from, to] = text.split(" ").map(Number);
  const scale = (to - from) / (high - low);
  return {
    place: (value) => from + (value - low) * scale,
    value: (place) => low + (place - from) / scale,
    holds: (place) => place >= Math.min(from, to) && place <= Math.max(from, to),
  };
}

// Every arm's value of a curve at the step under the pointer.
function readCurve({ curve: name, only }, x, y, at) {
  const step = x.value(at.x);
  const lines = [];
  let head = null;
  data.arms.forEach((arm, index) => {
    const curve = arm.curves[name];
    if (!curve || !shown(index) || (only !== undefined && Number(only) !== index)) return;
    const i = nearest(curve.step.length, (k) => Math.abs(curve.step[k] - step));
    head ??= steps(curve.step[i]);
    lines.push([index, `${number(curve.point[i])} [${number(curve.low[i])}, ${number(curve.high[i])}]`]);
  });
  return { head, lines, across: at.x };
}

// The point of an arm's path that is nearest to the pointer.
function readPath({ path }, x, y, at) {
  const index = Number(path);
  const { return: paid, objective } = data.arms[index].curves;
  if (!paid || !objective || paid.step.length !== objective.step.length || !shown(index)) return { lines: [] };
  const far = (i) =>
    paid.point[i] === null || objective.point[i] === null
      ? Infinity
      : Math.hypot(x.place(paid.point[i]) - at.x, y.place(objective.point[i]) - at.y);
  const i = nearest(paid.step.length, far);
  const text = `specified ${number(paid.point[i])}, objective ${number(objective.point[i])}`;
  return { head: steps(paid.step[i]), lines: [[index, text]], across: x.place(paid.point[i]) };
}

function fill(tip, head, lines) {
  const title = document.createElement("b");
  title.textContent = head;
  tip.replaceChildren(title);
  for (const [index, text] of lines) {
    const arm = data.arms[index];
    const row = document.createElement("div");
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.style.color = `var(--arm${index % 8})`;
    mark.textContent = arm.shape;
    row.append(mark, `${arm.label}: ${text}`);
    tip.append(row);
  }
}

function follow(svg) {
  const [x, y] = [axis(svg.dataset.x), axis(svg.dataset.y)];
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const [, , bottom, top] = svg.dataset.y.split(" ");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", top);
  line.setAttribute("y2", bottom);
  svg.append(line);
  const tip = document.createElement("div");
  tip.className = "tip card small";
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
    const at = {
      x: ((event.clientX - box.left) / box.width) * width,
      y: ((event.clientY - box.top) / box.height) * height,
    };
    const read = svg.dataset.path === undefined ? readCurve : readPath;
    const { head, lines, across } = x.holds(at.x) ? read(svg.dataset, x, y, at) : { lines: [] };
    if (!lines.length) return leave();
    fill(tip, head, lines);
    line.setAttribute("x1", across);
    line.setAttribute("x2", across);
    line.style.visibility = "visible";
    tip.hidden = false;
    // Beside the pointer, on its roomier side, and within the window.
    const page = document.documentElement.clientWidth;
    const left = event.clientX > page / 2 ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14;
    const frame = figure.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(left, page - tip.offsetWidth - 8)) - frame.left}px`;
    tip.style.top = `${event.clientY - frame.top + 10}px`;
  });
}

document.querySelectorAll("svg[data-x]").forEach(follow);

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
    rows.push(["arm", "curve", "step", "interquartile mean", "low", "high"]);
    for (const arm of data.arms) {
      for (const [name, { step, point, low, high }] of Object.entries(arm.curves)) {
        step.forEach((s, i) => rows.push([arm.label, name, s, point[i], low[i], high[i]]));
      }
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
