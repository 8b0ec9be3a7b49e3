// Draw half a digit and watch inference fill in the rest.

import {Board, half} from "gendae/board.js";
import {find, first, last, Loop, number, on, still} from "gendae/controls.js";
import {completion, draws, GENERATE, generation, likeliest} from "gendae/inference.js";
import {drawPixels} from "gendae/picture.js";
import {Random} from "gendae/random.js";

/** Step sizes chosen on validation images of MNIST. */
const MOVES = {delta: 0.3, alpha: 0.3};
/** Draws of the model at which missing pixels may start. */
const DRAWS = 300;
const AT_ONCE = 20;

export function fillIn(stack) {
  const loop = new Loop();
  const canvas = find("fill-result");
  const random = new Random(1);

  function show(x) {
    drawPixels(canvas, x, stack.shape);
  }

  function start() {
    if (!board.x.some((value, i) => value > 0 && board.mask[i])) {
      loop.stop();
      show(new Float32Array(stack.width));
      find("fill-status").textContent = "Draw on the open half.";
      return;
    }

    const steps = number("fill-steps");
    const begun = performance.now();
    const begin = likeliest(some, board.x, board.mask, stack.law);
    const options = {...MOVES, temperature: number("fill-noise"), random};
    const states = first(steps + 1, completion(stack, board.x, board.mask, begin, options));

    const ended = () => {
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      find("fill-status").textContent = `Filled in: ${steps} steps, ${seconds} seconds.`;
    };
    find("fill-status").textContent = "Inference moves the codes.";
    if (still) {
      show(last(states));
      ended();
    } else {
      loop.run(states, show, ended);
    }
  }

  const all = first(DRAWS, draws(stack, random));
  const some = [...first(AT_ONCE, all)];
  new Loop().run(all, (draw) => some.push(draw)); // the others while the page is shown

  const board = new Board(find("fill-board"), stack.shape, start);

  function giveHalf() {
    const name = document.querySelector("input[name=fill-half]:checked").value;
    board.mask = half(name, stack.shape);
    board.draw();
    start();
  }

  for (const radio of document.querySelectorAll("input[name=fill-half]")) {
    radio.addEventListener("change", giveHalf);
  }
  for (const name of ["fill-steps", "fill-noise"]) on(name, "change", start);
  on("fill-again", "click", start);
  on("fill-clear", "click", () => board.clear());
  on("fill-erase", "change", (event) => (board.erases = event.target.checked));
  on("fill-example", "click", () => {
    board.show(last(generation(stack, random, {...GENERATE, rounds: stack.rounds})));
  });

  find("fill-model").textContent = stack.name;
  giveHalf();
}
