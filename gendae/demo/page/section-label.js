// A label to images of it, and an image to its label.

import {Board} from "gendae/board.js";
import {find, Loop, on} from "gendae/controls.js";
import {oneHot} from "gendae/joint.js";
import {drawBars, drawPixels} from "gendae/picture.js";
import {Random} from "gendae/random.js";

export function label(joint) {
  const loop = new Loop();
  const random = new Random(5);
  const canvas = find("label-image");
  const bars = find("label-bars");

  function read() {
    const p = joint.predict(board.x);
    drawBars(bars, p);
    const empty = !board.x.some((value) => value > 0);
    const best = p.indexOf(Math.max(...p));
    find("label-status").textContent = empty
      ? "Draw a digit, or choose one."
      : `Most probable: ${best}, ${(100 * p[best]).toFixed(1)} per cent.`;
  }

  function imagine(k) {
    const states = joint.images(oneHot(k, joint.classes), random, {rounds: 50});
    find("label-status").textContent = `An image of ${k}.`;
    let x = null;
    const show = (state) => {
      x = state;
      drawPixels(canvas, x, joint.shape);
    };
    loop.run(states, show, () => board.show(x));
  }

  for (let k = 0; k < joint.classes; k++) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = k;
    button.setAttribute("aria-label", `an image of ${k}`);
    button.addEventListener("click", () => imagine(k));
    item.append(button, document.createElement("output"));
    bars.append(item);
  }

  const board = new Board(find("label-board"), joint.shape, read);
  on("label-clear", "click", () => board.clear());
  drawPixels(canvas, new Float32Array(joint.shape[0] * joint.shape[1]), joint.shape);
  read();
}
