// Targets while a small network learns: h, h^, and the loss of each layer.

import {find, Loop, number, on} from "gendae/controls.js";
import {moons, TargetNetwork} from "gendae/learning.js";
import {css, Plane} from "gendae/picture.js";
import {Random} from "gendae/random.js";

const EXTENT = 2;
const CELLS = 40;
const SIZES = [2, 12, 12];
/** How much larger displacements are drawn than they are. */
const SEEN = 10;

export function learn() {
  const plane = new Plane(find("learn-plane"), EXTENT);
  const loop = new Loop();
  let random, data, network, chosen, history;

  function reset() {
    loop.stop();
    random = new Random(number("learn-seed"));
    data = moons(80, random);
    network = TargetNetwork.random(SIZES, 2, random);
    chosen = 0;
    history = [];
    show();
    buttons();
  }

  function* updates() {
    while (true) {
      for (let i = 0; i < number("learn-speed"); i++) {
        history.push(network.learn(data.xs, data.ys, random, {rate: 0.01, sigma: 0.2}));
      }
      yield null;
    }
  }

  function toggle() {
    if (loop.runs) loop.stop();
    else loop.run(updates(), show);
    buttons();
  }

  function buttons() {
    find("learn-run").textContent = loop.runs ? "Stop learning" : "Learn";
  }

  function show() {
    regions();
    strips();
    curves();

    const wrong = data.xs.filter((x, n) => (network.predict(x)[1] > 0.5 ? 1 : 0) !== data.ys[n]);
    find("learn-status").textContent =
      `Update ${history.length}: ${wrong.length} of ${data.xs.length} points wrong.`;
  }

  function regions() {
    plane.clear();
    const cell = plane.size / CELLS;
    for (let i = 0; i < CELLS; i++) {
      for (let j = 0; j < CELLS; j++) {
        const at = (k) => ((2 * k + 1) / CELLS - 1) * EXTENT;
        const p = network.predict([at(i), -at(j)])[1];
        plane.context.fillStyle = css(p > 0.5 ? "accent" : "second", 0.45 * Math.abs(2 * p - 1));
        plane.context.fillRect(i * cell, j * cell, cell, cell);
      }
    }
    data.xs.forEach((x, n) => {
      plane.dot(x, data.ys[n] ? "accent" : "second", n === chosen ? 8 : 3.5);
    });
    plane.dot(data.xs[chosen], "paper", 4);
  }

  /** For the chosen example: h_l, and the target h^_l with its displacement enlarged. */
  function strips() {
    const {h, d} = network.targets(data.xs[chosen], data.ys[chosen]);
    const list = find("learn-strips");
    list.replaceChildren();

    for (let level = network.f.length; level > 0; level--) {
      const move = d[level - 1];
      const target = h[level].map((value, i) => value + SEEN * move[i]);
      for (const [name, values] of [[`ĥ${sub(level)}`, target], [`h${sub(level)}`, h[level]]]) {
        list.append(strip(name, values));
      }
    }
  }

  function strip(name, values) {
    const row = document.createElement("div");
    row.className = "strip";
    row.setAttribute("role", "img");
    row.setAttribute("aria-label", `${name}: ${[...values].map((v) => v.toFixed(2)).join(", ")}`);

    const title = document.createElement("span");
    title.textContent = name;
    row.append(title);
    for (const value of values) {
      const cell = document.createElement("i");
      const strength = Math.min(1, Math.abs(value));
      cell.style.background = css(value > 0 ? "accent" : "second", strength);
      row.append(cell);
    }
    return row;
  }

  function curves() {
    const canvas = find("learn-curves");
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (history.length === 0) return;

    const names = Object.keys(history[0]);
    const step = Math.max(1, Math.floor(history.length / 300));
    const shown = history.filter((_, i) => i % step === 0);
    names.forEach((name, k) => {
      context.strokeStyle = `hsl(${(360 * k) / names.length} 65% 50%)`;
      context.lineWidth = 2;
      context.beginPath();
      shown.forEach((losses, i) => {
        const u = (i / Math.max(1, shown.length - 1)) * canvas.width;
        const decades = Math.log10(Math.max(1e-4, losses[name])) + 4;
        context.lineTo(u, canvas.height * (1 - decades / 5));
      });
      context.stroke();
    });
    legend(names, history.at(-1));
  }

  function legend(names, losses) {
    const list = find("learn-losses");
    list.replaceChildren();
    names.forEach((name, k) => {
      const item = document.createElement("li");
      item.style.setProperty("--mark", `hsl(${(360 * k) / names.length} 65% 50%)`);
      const [map, level] = name.split("_");
      const title = level ? `${map}${sub(level)}` : "label";
      item.textContent = `${title} ${losses[name].toPrecision(2)}`;
      list.append(item);
    });
  }

  find("learn-plane").addEventListener("click", (event) => {
    const [x, y] = plane.point(event);
    const distances = data.xs.map((point) => Math.hypot(point[0] - x, point[1] - y));
    chosen = distances.indexOf(Math.min(...distances));
    show();
  });
  on("learn-next", "click", () => {
    chosen = (chosen + 1) % data.xs.length;
    show();
  });
  on("learn-run", "click", toggle);
  on("learn-reset", "click", reset);
  on("learn-seed", "change", reset);
  reset();
}

/** A number as a subscript. */
function sub(level) {
  return String.fromCodePoint(0x2080 + Number(level));
}
