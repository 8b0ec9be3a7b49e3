// Samples of the model, and a chain at any of its levels.

import {find, last, Loop, number, on} from "gendae/controls.js";
import {GENERATE, generation, levelChain} from "gendae/inference.js";
import {drawPixels} from "gendae/picture.js";
import {Random} from "gendae/random.js";

const COUNT = 20;

export function samples(stack) {
  const drawing = new Loop();
  const chain = new Loop();
  const grid = find("samples-grid");

  const canvases = Array.from({length: COUNT}, (_, i) => {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `sample ${i + 1}`);
    grid.append(canvas);
    return canvas;
  });

  function draw() {
    const random = new Random(number("samples-seed"));
    const options = {...GENERATE, rounds: number("samples-rounds")};

    function* all() {
      for (const canvas of canvases) {
        yield [canvas, last(generation(stack, random, options))];
      }
    }
    const show = ([canvas, x]) => drawPixels(canvas, x, stack.shape);
    const ended = () => (find("samples-status").textContent = `${COUNT} samples.`);
    drawing.run(all(), show, ended);
  }

  function toggle() {
    if (chain.runs) {
      chain.stop();
    } else {
      const random = new Random(number("samples-seed"));
      const noise = () => number("chain-noise");
      let count = 0;
      chain.run(levelChain(stack, number("chain-level"), random, noise), (x) => {
        drawPixels(find("chain"), x, stack.shape);
        count += 1;
        find("chain-count").textContent = `state ${count}`;
      });
    }
    find("chain-run").textContent = chain.runs ? "Stop the chain" : "Start the chain";
  }

  function restart() {
    if (!chain.runs) return;
    chain.stop();
    toggle();
  }

  const levels = find("chain-level");
  for (let level = 0; level <= stack.depth; level++) {
    const name = level === 0 ? "x" : `h_${level}`;
    levels.add(new Option(level === stack.depth ? `${name}: draws of the prior` : name, level));
  }
  levels.value = 1;

  const rounds = find("samples-rounds");
  rounds.max = Math.max(5, stack.rounds);
  rounds.value = stack.rounds;
  rounds.dispatchEvent(new Event("input"));

  on("samples-draw", "click", draw);
  on("samples-seed", "change", draw);
  on("samples-rounds", "change", draw);
  on("chain-run", "click", toggle);
  levels.addEventListener("change", restart);
  drawPixels(find("chain"), new Float32Array(stack.width), stack.shape);
  draw();
}
