// Points in the plane: where a reconstruction moves them, and a chain that starts at a click.

import {add} from "gendae/arrays.js";
import {find, Loop, number, on} from "gendae/controls.js";
import {moons} from "gendae/learning.js";
import {Plane} from "gendae/picture.js";
import {Random} from "gendae/random.js";

const EXTENT = 2.5;
const ARROWS = 25;

/** The training data's scale: moons of twice the size. */
function data(random) {
  return moons(300, random).xs.map(([x, y]) => [1.37 * x, 2 * y]);
}

export function toy(stack) {
  const plane = new Plane(find("toy"), EXTENT);
  const loop = new Loop();
  const random = new Random(3);
  const points = data(random);

  function field() {
    plane.clear();
    for (const point of points) plane.dot(point, "faint", 2);
    for (let i = 0; i < ARROWS; i++) {
      for (let j = 0; j < ARROWS; j++) {
        const at = (k) => ((2 * k + 1) / ARROWS - 1) * EXTENT;
        const x = Float32Array.of(at(i), at(j));
        const move = add(stack.reconstruct(x), x, -1);
        plane.arrow(x, add(x, move, 0.35), "line");
      }
    }
  }

  function* states(start) {
    let x = start;
    for (let step = 0; step < number("toy-steps"); step++) {
      yield x;
      x = stack.reconstruct(add(x, random.normals(2), number("toy-noise")));
    }
  }

  function begin(point) {
    field();
    let before = null;
    let count = 0;
    const show = (x) => {
      if (before !== null) plane.line([before, x], "accent", 0.4);
      plane.dot(x, "accent", count === 0 ? 6 : 3);
      before = x;
      count += 1;
      find("toy-status").textContent =
        `Step ${count - 1}: (${x[0].toFixed(2)}, ${x[1].toFixed(2)}).`;
    };
    loop.run(states(Float32Array.from(point)), show);
  }

  find("toy").addEventListener("click", (event) => begin(plane.point(event)));
  on("toy-begin", "click", () => begin([number("toy-x"), number("toy-y")]));
  field();
}
